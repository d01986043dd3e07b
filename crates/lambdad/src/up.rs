//! `lambdad up`: from an empty folder to healthy roles, and its end.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lambda_transport::Shutdown;
use lambda_transport::pki::write_file;
use rustix::fs::FlockOperation;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::health;
use crate::init::{Choices, Deployment, init};
use crate::key;
use crate::layout::{Layout, Settings};
use crate::role::{Programs, RoleName, stop_on_signal};
use crate::supervisor::{Keeper, MoreArguments, Status};

/// How long the roles may take to become healthy at first.
const HEALTHY: Duration = Duration::from_secs(60);

/// How long the roles of a supervisor that was killed may take to end.
const EARLIER: Duration = Duration::from_secs(20);

/// Pause before a file that could not be written, on a full disk say, is written again.
const AGAIN: Duration = Duration::from_secs(5);

/// File in `run/` that the supervisor and its roles hold locked.
pub(crate) const ROLES_LOCK: &str = "roles.lock";

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    programs: Programs,
}

/// Runs all roles until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    layout.make()?;
    let _lock = lock(&layout)?.with_context(|| format!("`lambdad up` already runs on {}", layout.root().display()))?;
    let _roles = roles_lock(&layout)?;
    let deployment = init(&layout, &options.choices)?;
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

/// Held by the supervisor and, by inheritance, by every role: free when the last of them has ended.
fn roles_lock(layout: &Layout) -> Result<File> {
    let path = layout.run(ROLES_LOCK);
    let shown = || path.display().to_string();
    std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(shown)?;
    // Roles of users of their own cannot write it through what they inherit.
    let file = File::open(&path).with_context(shown)?;
    let start = Instant::now();
    while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK || start.elapsed() > EARLIER {
            return Err(error).with_context(|| {
                format!("roles of an earlier `lambdad up` still run ({}); run `lambdad down`", path.display())
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).with_context(shown)?;
    Ok(file)
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
            let written = write_endpoint(layout, &settings, &seen.borrow_and_update());
            let again = async {
                match &written {
                    Ok(()) => std::future::pending().await,
                    Err(error) => eprintln!("lambdad: {error:#}; the roles run on, and it is tried again"),
                }
                tokio::time::sleep(AGAIN).await;
            };
            tokio::select! {
                changed = seen.changed() => changed.context("the roles' keepers are gone")?,
                () = again => {}
            }
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
    let key = key::make(layout, "new", &lambda_types::api_key::Scope::ALL).await?;
    Ok(write_file(&path, key.text.as_bytes(), 0o600)?)
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
