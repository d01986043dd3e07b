//! `lambdad api-key create`. The store belongs to the control plane's user, who could have put anything into its folder: it is
//! opened by a child that becomes that user first, and hands the key back through a pipe.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lambda_types::api_key::Scope;
use lambda_types::{ApiKeyId, ProjectId};
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
    /// File for the key; must not exist.
    #[arg(long)]
    out: PathBuf,
}

/// The child's part.
#[derive(Debug, Args)]
pub(crate) struct InStore {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    project: String,
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
    let made = match runtime.block_on(make(&layout, &options.project)) {
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
pub(crate) async fn make(layout: &Layout, project: &str) -> Result<Made> {
    let mut command = tokio::process::Command::new(std::env::current_exe().context("this program's own path")?);
    command.arg("store-key").arg("--data").arg(layout.root()).args(["--project", project]);
    command.env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
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
    let project = project(&options.project)?;
    privileges::become_user(RoleName::Control.uid().context("control has a user of its own")?)?;
    privileges::bind_to_supervisor(None)?;
    if !layout.store().exists() {
        bail!("{} has no store yet; run `lambdad up` on it first", layout.root().display());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let key = runtime.block_on(lambda_control::create_api_key(&layout.store(), project, &Scope::ALL))?;
    let answer = Zeroizing::new(format!("{} {} {}", key.id, key.project, key.text.as_str()));
    std::io::stdout().write_all(answer.as_bytes()).context("handing the key over")
}
