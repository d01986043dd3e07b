//! `lambdad down`: stops the supervisor and what is left of its roles, lets guests shut down, then removes every guest, vTPM,
//! interface and rule of the data folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use crate::layout::Layout;
use crate::role::RoleName;
use crate::up::{ROLES_LOCK, lock};

/// How long the supervisor may take to end; its roles have a bound of their own.
const END: Duration = Duration::from_secs(45);

/// How long guests may take to shut down.
const GUESTS: Duration = Duration::from_secs(30);

/// How long the roles of a supervisor that was killed may take to end, and how long killed ones may take to go.
const ROLES: Duration = Duration::from_secs(15);

/// What to stop.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The data folder.
    #[arg(long)]
    data: PathBuf,
    /// Remove the data folder too: every volume, key and certificate in it.
    #[arg(long)]
    purge: bool,
    /// Do not wait for guests to shut down: a power cut for them. Implied by `--purge`.
    #[arg(long)]
    now: bool,
}

/// Stops everything. Succeeds only when nothing is left.
pub(crate) fn run(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.data)?;
    let node = layout.role(RoleName::Node);
    if layout.root().exists() {
        if layout.settings()?.is_none() && !layout.run("").exists() {
            bail!("{} is not a data folder", layout.root().display());
        }
        return stop_all(options, &layout, &node);
    }
    // Somebody removed the folder: its guests may still run.
    removed(lambda_node::teardown(&node).context("removing the guests")?)
}

fn stop_all(options: &Options, layout: &Layout, node: &Path) -> Result<()> {
    let _lock = stop_supervisor(layout)?;
    end_roles(&layout.run(ROLES_LOCK), ROLES)?;
    if !(options.now || options.purge) {
        match lambda_node::stop_guests(node, GUESTS) {
            Ok(cut) if cut.is_empty() => {}
            Ok(cut) => eprintln!("lambdad: power cut, after up to {} s, for {}", GUESTS.as_secs(), cut.join(", ")),
            // They end in any case.
            Err(error) => eprintln!("lambdad: guests could not be asked to shut down: {error:#}"),
        }
    }
    removed(lambda_node::teardown(node).context("removing the guests")?)?;
    if options.purge {
        std::fs::remove_dir_all(layout.root()).with_context(|| format!("cannot remove {}", layout.root().display()))?;
    }
    Ok(())
}

fn removed(left: Vec<String>) -> Result<()> {
    if !left.is_empty() {
        bail!("could not remove: {}", left.join(", "));
    }
    Ok(())
}

/// Waits until no role runs, and ends those that do not end themselves: the kernel has asked them to when their supervisor died.
fn end_roles(lock: &Path, bound: Duration) -> Result<()> {
    if !lock.exists() {
        return Ok(());
    }
    let lock = lock.canonicalize().with_context(|| lock.display().to_string())?;
    let file = std::fs::File::open(&lock).with_context(|| lock.display().to_string())?;
    let start = Instant::now();
    while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).with_context(|| lock.display().to_string());
        }
        if start.elapsed() > bound.saturating_mul(2) {
            bail!("roles survive SIGKILL: processes {:?}", holders(&lock)?);
        }
        if start.elapsed() > bound {
            for holder in holders(&lock)? {
                // It may have ended meanwhile.
                let _ = kill_process(holder, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Other processes that have a file open.
fn holders(file: &Path) -> Result<Vec<Pid>> {
    let own = rustix::process::getpid();
    let processes = std::fs::read_dir("/proc").context("/proc")?.filter_map(|entry| entry.ok());
    Ok(processes
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let mut open = std::fs::read_dir(process.path().join("fd")).ok()?.filter_map(|entry| entry.ok());
            let holds = open.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == file));
            (holds && pid != own).then_some(pid)
        })
        .collect())
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_role_that_does_not_end_is_found_by_the_lock_that_it_holds_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("roles.lock");
        std::fs::write(&lock, "").unwrap();
        let mut role = Command::new("flock").arg("--no-fork").arg(&lock).args(["sleep", "600"]).spawn().unwrap();
        let file = std::fs::File::open(&lock).unwrap();
        let start = Instant::now();
        while rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            rustix::fs::flock(&file, FlockOperation::Unlock).unwrap();
            assert!(start.elapsed() < ROLES, "flock takes no lock");
        }
        drop(file);
        end_roles(&lock, Duration::from_millis(400)).unwrap();
        assert_eq!(role.wait().unwrap().signal(), Some(9));
    }
}
