//! Processes that outlive the agent: how they are confined, found again, and ended.
//!
//! A process is remembered by pid *and* start time, so that a reused pid is never mistaken for it, and signalled
//! through a pidfd opened before the start time is compared, so that it cannot be replaced between check and kill.
//! A child joins its cgroup before it executes anything: whatever runs there and is in nobody's record is an orphan
//! of an agent that died between starting it and writing it down.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use rustix::thread::{Gid, Uid, UnshareFlags};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// Names one process for all time (until the host boots again, which ends it anyway).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessRef {
    pub(crate) pid: i32,
    /// Clock ticks since the host's boot.
    started: u64,
}

impl ProcessRef {
    /// Whether the process runs; one that cannot be looked at counts as running.
    pub(crate) fn lives(&self) -> bool {
        Self::of(self.pid).map_or(true, |found| found == Some(*self))
    }

    /// The process that has this pid; nothing for a zombie.
    pub(crate) fn of(pid: i32) -> io::Result<Option<Self>> {
        let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(parse_stat(&stat).map(|started| Self { pid, started }))
    }
}

/// Start time from `/proc/<pid>/stat`; nothing for a zombie. The command name may contain anything, so fields count
/// from the last parenthesis.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process that was alive when this was made.
pub(crate) struct Process {
    reference: ProcessRef,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a remembered process; nothing when it has ended.
    pub(crate) fn attach(reference: ProcessRef) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(reference.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if ProcessRef::of(reference.pid)? != Some(reference) {
            return Ok(None);
        }
        // SAFETY: the descriptor is owned by the AsyncFd for as long as it is registered, and nothing closes it earlier.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE)? };
        Ok(Some(Self { reference, pidfd }))
    }

    pub(crate) fn reference(&self) -> ProcessRef {
        self.reference
    }

    /// Completes when the process has ended, and reaps it if it is ours.
    pub(crate) async fn exited(&self) {
        // The pidfd stays readable for ever once the process has ended; an error means that it cannot be watched.
        if self.pidfd.readable().await.is_err() {
            tracing::warn!(pid = self.reference.pid, "cannot watch a process any more");
        }
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED) {
            // ECHILD: started by an earlier agent; its parent reaps it.
            Ok(_) | Err(rustix::io::Errno::CHILD) => {}
            Err(error) => tracing::debug!(%error, pid = self.reference.pid, "cannot reap a process"),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, pid = self.reference.pid, "cannot kill a process"),
        }
    }

    /// SIGKILL, and waits until it has ended.
    ///
    /// # Errors
    /// When it has not within `bound`: it hangs in the kernel.
    pub(crate) async fn kill_and_wait(&self, bound: Duration) -> io::Result<()> {
        self.kill();
        tokio::time::timeout(bound, self.exited()).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {} did not end within {} s of SIGKILL", self.reference.pid, bound.as_secs()),
            )
        })
    }
}

/// How a child is confined. It keeps nothing of the agent's: no capability, environment, descriptor, session,
/// network, and no way to gain privileges.
pub(crate) struct Sandbox<'a> {
    /// Its user and group, unknown to the host's user database.
    pub(crate) uid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
    /// `cgroup.procs` of every cgroup it joins.
    pub(crate) cgroup: &'a [OwnedFd],
    /// Descriptors it keeps beside its standard streams.
    pub(crate) inherit: Vec<BorrowedFd<'a>>,
}

/// Most descriptors a child may open.
const MAX_FILES: u64 = 1024;

/// Starts a confined process. The command's program must be absolute, its standard streams set.
///
/// # Errors
/// When any step of the confinement or the execution fails; then nothing runs.
pub(crate) fn spawn(mut command: Command, sandbox: &Sandbox<'_>) -> io::Result<ProcessRef> {
    command.env_clear();
    let joins: Vec<RawFd> = sandbox.cgroup.iter().map(|fd| fd.as_raw_fd()).collect();
    let keep: Vec<RawFd> = sandbox.inherit.iter().map(|fd| fd.as_raw_fd()).collect();
    let groups: Vec<Gid> = sandbox.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(sandbox.uid), Gid::from_raw(sandbox.uid));
    // SAFETY: between fork and exec the closure makes system calls only, on memory allocated before the fork, so it
    // cannot meet a lock that another thread of the parent held.
    unsafe {
        command.pre_exec(move || confine(&joins, &keep, &groups, uid, gid));
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    ProcessRef::of(pid)?.ok_or_else(|| io::Error::other("the process ended at once"))
}

/// Runs in the child. Cgroup membership comes first: it is what makes an unrecorded child findable.
fn confine(joins: &[RawFd], keep: &[RawFd], groups: &[Gid], uid: Uid, gid: Gid) -> io::Result<()> {
    for join in joins {
        // SAFETY: the parent holds these descriptors open across the fork.
        let join = unsafe { BorrowedFd::borrow_raw(*join) };
        rustix::io::write(join, b"0")?;
    }
    rustix::process::setsid()?;
    // SAFETY: the child has one thread, and neither flag affects memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC)? };
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, MAX_FILES)] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    for keep in keep {
        // SAFETY: as above.
        let keep = unsafe { BorrowedFd::borrow_raw(*keep) };
        rustix::io::fcntl_setfd(keep, rustix::io::FdFlags::empty())?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Waits up to `grace` for a child of this process to end by itself, then kills it; reaps it. Blocks.
pub(crate) fn end_child(child: ProcessRef, grace: Duration) -> io::Result<()> {
    let pid = Pid::from_raw(child.pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let mut events = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let grace = rustix::event::Timespec::try_from(grace).map_err(io::Error::other)?;
    if rustix::event::poll(&mut events, Some(&grace))? == 0 {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    Ok(())
}

/// Marks every descriptor that the agent itself was started with as close-on-exec, standard streams aside.
pub(crate) fn seal_inherited_descriptors() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(fd) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|fd| *fd > 2) else {
            continue;
        };
        // SAFETY: only the close-on-exec flag is touched; a descriptor closed meanwhile answers EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::io::fcntl_getfd(fd)
            .and_then(|flags| rustix::io::fcntl_setfd(fd, flags | rustix::io::FdFlags::CLOEXEC))
        {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn start(script: &str) -> ProcessRef {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let sandbox = Sandbox { uid: 412_345, groups: Vec::new(), cgroup: &[], inherit: Vec::new() };
        spawn(command, &sandbox).unwrap()
    }

    #[test]
    fn start_time_is_read_past_a_hostile_command_name() {
        let stat = "7 (a) b ) R) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(stat), Some(777));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[tokio::test]
    async fn a_child_has_no_privileges_network_environment_or_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let out = std::fs::File::create(&path).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat /proc/self/status /proc/net/dev /proc/self/limits; env; ls /proc/self/fd; exec 2>&1"]);
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        let sandbox = Sandbox { uid: 412_345, groups: Vec::new(), cgroup: &[], inherit: Vec::new() };
        let process = spawn(command, &sandbox).unwrap();
        if let Some(process) = Process::attach(process).unwrap() {
            tokio::time::timeout(Duration::from_secs(10), process.exited()).await.unwrap();
        }
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
        assert!(text.contains("CapPrm:\t0000000000000000"), "{text}");
        assert!(text.contains("Uid:\t412345\t412345\t412345\t412345"), "{text}");
        assert!(text.contains("Groups:\t \n"), "{text}");
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("Max core file size") && line.contains(" 0 ")), "{text}");
        assert!(!text.contains("HOME="), "{text}");
        let interfaces =
            text.lines().filter(|line| line.contains(": ") && line.trim_start().starts_with("lo:")).count();
        assert_eq!(interfaces, 1, "{text}");
        assert!(!text.contains("eth0"), "{text}");
    }

    #[tokio::test]
    async fn a_killed_process_is_seen_to_end_and_its_reference_is_dead_afterwards() {
        let reference = start("while :; do sleep 1; done");
        let process = Process::attach(reference).unwrap().unwrap();
        process.kill_and_wait(Duration::from_secs(10)).await.unwrap();
        assert!(Process::attach(reference).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_reused_pid_is_not_mistaken_for_the_process() {
        let own = ProcessRef::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        let other = ProcessRef { started: own.started.wrapping_sub(1), ..own };
        assert!(Process::attach(own).unwrap().is_some());
        assert!(Process::attach(other).unwrap().is_none());
    }

    #[test]
    fn a_missing_program_is_an_error_and_not_a_process() {
        let mut command = Command::new("/nonexistent/program");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let sandbox = Sandbox { uid: 412_345, groups: Vec::new(), cgroup: &[], inherit: Vec::new() };
        assert_eq!(spawn(command, &sandbox).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
