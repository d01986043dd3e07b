//! `lambdad up`: from an empty folder to healthy roles, and its end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lambda_transport::Shutdown;
use lambda_transport::pki::write_file;
use lambda_types::ProjectId;
use lambda_types::api_key::Scope;
use rustix::fs::FlockOperation;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::health;
use crate::init::{Deployment, init};
use crate::layout::{Layout, Settings, give};
use crate::role::{Programs, RoleName, stop_on_signal};
use crate::supervisor::{Keeper, MoreArguments, Status};

/// How long the roles may take to become healthy at first.
const HEALTHY: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    /// Address of the public API; port 0 takes a free one. Kept from then on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Image folder to offer, or a folder of such; may be given more than once. Kept from then on.
    #[arg(long = "images", value_name = "DIR")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    programs: Programs,
}

/// A key to make.
#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    /// `new`, or the id of a project.
    #[arg(long)]
    project: String,
    /// File for the key; must not exist.
    #[arg(long)]
    out: PathBuf,
}

/// Runs all roles until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    layout.make()?;
    let _lock = lock(&layout)?.with_context(|| format!("`lambdad up` already runs on {}", layout.root().display()))?;
    let deployment = init(&layout, options.listen, &options.images)?;
    write_file(&layout.run("up.pid"), std::process::id().to_string().as_bytes(), 0o644)?;
    // One thread: the kernel ends a role when the *thread* that started it ends.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(supervise(&layout, deployment, &options.programs));
    for file in ["endpoint.json", "up.pid"] {
        let _ = std::fs::remove_file(layout.run(file));
    }
    result
}

/// Takes the folder's lock; `None` when another process holds it. Held until the file is dropped.
pub(crate) fn lock(layout: &Layout) -> Result<Option<File>> {
    let path = layout.run("up.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

async fn supervise(layout: &Layout, deployment: Deployment, programs: &Programs) -> Result<()> {
    let Deployment { settings, listeners } = deployment;
    let shutdown = Shutdown::new();
    stop_on_signal(shutdown.clone())?;
    let (status, mut seen) = watch::channel(Status::default());
    let mut keepers = JoinSet::new();
    for (role, listener) in listeners {
        let more = if role == RoleName::Node { node_arguments(programs) } else { MoreArguments::new() };
        let (layout, status, shutdown) = (layout.clone(), status.clone(), shutdown.clone());
        keepers.spawn(Keeper { role, layout, more, listener, status, shutdown }.keep());
    }
    let watched = async {
        ready(layout, &settings).await?;
        status.send_modify(|status| status.healthy = true);
        eprintln!("lambdad: healthy; the API is at https://{}", settings.gateway);
        loop {
            write_endpoint(layout, &settings, &seen.borrow_and_update())?;
            seen.changed().await.context("the roles' keepers are gone")?;
        }
    };
    let result = tokio::select! {
        result = watched => result,
        first = keepers.join_next() => flatten(first),
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    while let Some(ended) = keepers.join_next().await {
        if let Err(error) = flatten(Some(ended)) {
            eprintln!("lambdad: {error:#}");
        }
    }
    result
}

fn flatten(ended: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    ended.context("no role is kept")?.context("a role's keeper failed")?
}

fn node_arguments(programs: &Programs) -> MoreArguments {
    let mut more = MoreArguments::new();
    for (flag, value) in [("--qemu", &programs.qemu), ("--swtpm", &programs.swtpm)] {
        if let Some(path) = value {
            more.extend([flag.into(), path.as_os_str().to_owned()]);
        }
    }
    more
}

/// Waits until every role answers.
async fn ready(layout: &Layout, settings: &Settings) -> Result<()> {
    let start = Instant::now();
    loop {
        let problem = match health::probe(layout, settings).await {
            Ok(()) if lambda_node::is_ready(&layout.role(RoleName::Node)) => break,
            Ok(()) => anyhow::anyhow!("the node has not reached the control plane"),
            Err(problem) => problem,
        };
        if start.elapsed() > HEALTHY {
            bail!(
                "not healthy after {} s: {problem:#}; see {}",
                HEALTHY.as_secs(),
                layout.root().join("logs").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first_key(layout).await
}

/// The first project and its key, for the operator's first customer.
async fn first_key(layout: &Layout) -> Result<()> {
    let path = layout.customer("api.key");
    if path.exists() {
        return Ok(());
    }
    let key = lambda_control::create_api_key(&database(layout), None, &Scope::ALL).await?;
    settle_ownership(layout)?;
    Ok(write_file(&path, key.text.as_bytes(), 0o600)?)
}

/// SQLite's side files may have been made by this process, as root: control must be able to write them.
fn settle_ownership(layout: &Layout) -> Result<()> {
    RoleName::Control.uid().map_or(Ok(()), |uid| give(&layout.role(RoleName::Control), uid))
}

fn database(layout: &Layout) -> PathBuf {
    layout.role(RoleName::Control).join("store.sqlite")
}

/// Makes a key for a new or an existing project.
pub(crate) fn create_key(options: &CreateKey) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    if options.out.exists() {
        bail!("{} exists; a key is never overwritten", options.out.display());
    }
    let project: Option<ProjectId> = match options.project.as_str() {
        "new" => None,
        id => Some(id.parse().context("--project takes `new` or a project id")?),
    };
    let database = database(&layout);
    if !database.exists() {
        bail!("{} has no store yet; run `lambdad up` on it first", layout.root().display());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let key = runtime.block_on(lambda_control::create_api_key(&database, project, &Scope::ALL))?;
    settle_ownership(&layout)?;
    write_file(&options.out, key.text.as_bytes(), 0o600)?;
    println!("{} of {}", key.id, key.project);
    Ok(())
}

/// What other programs read to find this deployment.
fn write_endpoint(layout: &Layout, settings: &Settings, status: &Status) -> Result<()> {
    let endpoint = serde_json::json!({
        "gateway": format!("https://{}", settings.gateway),
        "ca": layout.customer("ca.pem"),
        "api_key_file": layout.customer("api.key"),
        "node": settings.node,
        "pids": status.pids,
    });
    Ok(write_file(&layout.run("endpoint.json"), &serde_json::to_vec_pretty(&endpoint)?, 0o644)?)
}
