//! `lambdad api-key` and `lambdad forget-node`. The store belongs to the control plane's user, who could have put anything into its folder: it is
//! opened by a child that becomes that user first. A new key comes back through a pipe.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use lambda_types::api_key::Scope;
use lambda_types::{ApiKeyId, NodeId, ProjectId};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use crate::layout::{Layout, create_exclusively};
use crate::privileges;
use crate::role::RoleName;

/// How long the store may take.
const BOUND: Duration = Duration::from_secs(60);

/// More than any answer of the child has.
const MAX_ANSWER: u64 = 4096;

/// A key to make.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    /// `new`, or the id of a project.
    #[arg(long)]
    project: String,
    /// What it may do: `read`, `write`, `broker`, `connect`; repeat for several. All four when left out.
    ///
    /// An unattended key broker needs `read` and `broker`.
    #[arg(long = "scope", value_parser = scope)]
    scopes: Vec<Scope>,
    /// File for the key; must not exist.
    #[arg(long)]
    out: PathBuf,
}

/// Which keys there are.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
}

/// A key to end.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Its id, `key_…`.
    key: ApiKeyId,
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
}

/// A node that never comes back.
#[derive(Debug, Args)]
pub(crate) struct ForgetNode {
    /// Its id, `node_…`.
    node: NodeId,
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
}

/// The child's part.
#[derive(Debug, Args)]
pub(crate) struct InStore {
    #[arg(long)]
    data: PathBuf,
    #[command(subcommand)]
    task: Task,
}

/// What the child does.
#[derive(Debug, Subcommand)]
enum Task {
    /// Make a key and write it to standard output.
    Create {
        #[arg(long)]
        project: String,
        #[arg(long = "scope", value_parser = scope)]
        scopes: Vec<Scope>,
    },
    /// Print all keys.
    List,
    /// End a key.
    Revoke { key: ApiKeyId },
    /// Remove a node and its instances.
    ForgetNode { node: NodeId },
}

fn scope(name: &str) -> Result<Scope, String> {
    let known = Scope::ALL.into_iter().find(|scope| scope.name() == name);
    known.ok_or_else(|| format!("a scope is one of {}", names(&Scope::ALL)))
}

fn names(scopes: &[Scope]) -> String {
    scopes.iter().copied().map(Scope::name).collect::<Vec<_>>().join(", ")
}

/// What the child answers.
pub(crate) struct Made {
    id: ApiKeyId,
    project: ProjectId,
    /// What the customer presents.
    pub(crate) text: Zeroizing<String>,
}

/// Makes a key for a new or an existing project. The file is made first: a key that could not be kept is never made.
pub(crate) fn create(options: &Create) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    project(&options.project)?;
    let mut file = create_exclusively(&options.out)
        .with_context(|| format!("cannot make {}; a key never overwrites a file", options.out.display()))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let scopes = if options.scopes.is_empty() { &Scope::ALL } else { options.scopes.as_slice() };
    let made = match runtime.block_on(make(&layout, &options.project, scopes)) {
        Ok(made) => made,
        Err(error) => {
            std::fs::remove_file(&options.out).with_context(|| options.out.display().to_string())?;
            return Err(error);
        }
    };
    file.write_all(made.text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("key {} of {} was made and cannot be written", made.id, made.project))?;
    println!("{} of {}", made.id, made.project);
    Ok(())
}

/// Has a child make the key.
pub(crate) async fn make(layout: &Layout, project: &str, scopes: &[Scope]) -> Result<Made> {
    let mut command = child(layout)?;
    command.args(["create", "--project", project]);
    for scope in scopes {
        command.args(["--scope", scope.name()]);
    }
    command.stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the program that opens the store")?;
    let pipe = child.stdout.take().context("standard output is a pipe")?;
    let mut answer = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_ANSWER)?));
    let work = async {
        pipe.take(MAX_ANSWER).read_to_end(&mut answer).await.context("the store's answer")?;
        child.wait().await.context("waiting for the program that opens the store")
    };
    let status = tokio::time::timeout(BOUND, work)
        .await
        .with_context(|| format!("the store did not answer within {} s", BOUND.as_secs()))??;
    if !status.success() {
        bail!("no key was made");
    }
    parse(&answer).context("the store's answer is damaged")
}

/// The program again, as the child that opens the store.
fn child(layout: &Layout) -> Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(std::env::current_exe().context("this program's own path")?);
    command.arg("store-key").arg("--data").arg(layout.root());
    command.env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    Ok(command)
}

/// Prints every key of the store: never its text, which the store has not.
pub(crate) fn list(options: &List) -> Result<()> {
    print(&Layout::new(&options.data)?, &["list"])
}

/// Ends a key. Gateways believe what they cached for at most 5 s more.
pub(crate) fn revoke(options: &Revoke) -> Result<()> {
    print(&Layout::new(&options.data)?, &["revoke", &options.key.to_string()])
}

/// Removes a node and its instances from the store.
pub(crate) fn forget_node(options: &ForgetNode) -> Result<()> {
    print(&Layout::new(&options.data)?, &["forget-node", &options.node.to_string()])
}

/// Lets a child that opens the store print.
fn print(layout: &Layout, task: &[&str]) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let status = runtime.block_on(async {
        let mut child = child(layout)?.args(task).spawn().context("cannot start the program that opens the store")?;
        let waiting = tokio::time::timeout(BOUND, child.wait()).await;
        waiting
            .with_context(|| format!("the store did not answer within {} s", BOUND.as_secs()))?
            .context("waiting for the program that opens the store")
    })?;
    if !status.success() {
        bail!("the store refused; the reason is above");
    }
    Ok(())
}

/// Id, project and text, with a space between.
fn parse(answer: &[u8]) -> Option<Made> {
    let mut words = std::str::from_utf8(answer).ok()?.split(' ');
    let made = Made {
        id: words.next()?.parse().ok()?,
        project: words.next()?.parse().ok()?,
        text: Zeroizing::new(words.next().filter(|text| !text.is_empty())?.to_owned()),
    };
    words.next().is_none().then_some(made)
}

fn project(text: &str) -> Result<Option<ProjectId>> {
    match text {
        "new" => Ok(None),
        id => Ok(Some(id.parse().context("--project takes `new` or a project id")?)),
    }
}

/// The child: becomes the control plane's user, then opens the store.
pub(crate) fn in_store(options: &InStore) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    privileges::become_user(RoleName::Control.uid().context("control has a user of its own")?)?;
    privileges::bind_to_supervisor(None)?;
    if !layout.store().exists() {
        bail!("{} has no store yet; run `lambdad up` on it first", layout.root().display());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let store = layout.store();
    let mut out = std::io::stdout();
    match &options.task {
        Task::Create { project: of, scopes } => {
            let key = runtime.block_on(lambda_control::create_api_key(&store, project(of)?, scopes))?;
            let answer = Zeroizing::new(format!("{} {} {}", key.id, key.project, key.text.as_str()));
            out.write_all(answer.as_bytes()).context("handing the key over")
        }
        Task::List => {
            for key in runtime.block_on(lambda_control::list_api_keys(&store))? {
                let state = if key.revoked_ms.is_some() { "revoked" } else { "active" };
                writeln!(out, "{}  {}  {state}  {}", key.id, key.project, names(&key.scopes)).context("printing")?;
            }
            Ok(())
        }
        Task::ForgetNode { node } => {
            let instances = runtime.block_on(lambda_control::forget_node(&store, *node))?;
            writeln!(out, "{node} is forgotten, and {instances} instances of it").context("printing")
        }
        Task::Revoke { key } => {
            let key = runtime.block_on(lambda_control::revoke_api_key(&store, *key))?;
            writeln!(out, "{} of {} is revoked", key.id, key.project).context("printing")
        }
    }
}
