//! `lambdad down`: stops the supervisor, then removes every guest, vTPM, interface and rule of the data folder.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::layout::Layout;
use crate::role::RoleName;
use crate::up::lock;

/// How long the supervisor may take to end; its roles have a bound of their own.
const END: Duration = Duration::from_secs(45);

/// What to stop.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    /// Remove the data folder too: every volume, key and certificate in it.
    #[arg(long)]
    purge: bool,
}

/// Stops everything. Succeeds only when nothing is left.
pub(crate) fn run(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    if !layout.root().exists() {
        return Ok(());
    }
    if layout.settings()?.is_none() && !layout.run("").exists() {
        bail!("{} is not a data folder", layout.root().display());
    }
    let _lock = stop_supervisor(&layout)?;
    let left = lambda_node::teardown(&layout.role(RoleName::Node)).context("removing the guests")?;
    if !left.is_empty() {
        bail!("could not remove: {}", left.join(", "));
    }
    if options.purge {
        std::fs::remove_dir_all(layout.root()).with_context(|| format!("cannot remove {}", layout.root().display()))?;
    }
    Ok(())
}

/// Ends `lambdad up` if it runs, and takes its lock so that it cannot start meanwhile.
fn stop_supervisor(layout: &Layout) -> Result<std::fs::File> {
    let start = Instant::now();
    let mut asked = false;
    loop {
        if let Some(lock) = lock(layout)? {
            return Ok(lock);
        }
        if !asked {
            let text = std::fs::read_to_string(layout.run("up.pid")).unwrap_or_default();
            if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop `lambdad up`, process {text}"))?;
                asked = true;
            }
        }
        if start.elapsed() > END {
            bail!("`lambdad up` (process {:?}) still runs after {} s", layout.run("up.pid"), END.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
