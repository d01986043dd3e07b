//! One cgroup an instance, under `lambda-<hash of the data folder>`: cgroup v2, or v1 with its controllers mounted
//! apart. The cgroup limits memory, processes and processor time, and is the record of which processes belong to an
//! instance.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// Where the kernel shows its cgroups.
const MOUNT: &str = "/sys/fs/cgroup";

/// v1 controllers in use.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Scheduling period of a processor quota, microseconds.
const PERIOD_US: u64 = 100_000;

/// What a cgroup may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) processes: u64,
    pub(crate) cpus: u32,
}

/// The parent cgroups of one node.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    unified: bool,
    roots: Vec<PathBuf>,
}

impl Cgroups {
    /// Makes the parent cgroups of the node with this data folder.
    ///
    /// # Errors
    /// When cgroups are not mounted or not writable.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let found = Self::locate(data_dir)?;
        if found.unified {
            enable(Path::new(MOUNT))?;
        }
        for root in &found.roots {
            create_folder(root)?;
            if found.unified {
                enable(root)?;
            }
        }
        Ok(found)
    }

    /// The parent cgroups, made or not.
    ///
    /// # Errors
    /// When no folder above the data folder exists.
    pub(crate) fn locate(data_dir: &Path) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let digest = Sha256::digest(canonical(data_dir)?.as_os_str().as_bytes());
        let name = format!("lambda-{}", hex::encode(digest.get(..8).unwrap_or_default()));
        let mount = Path::new(MOUNT);
        let unified = mount.join("cgroup.controllers").exists();
        let roots = if unified {
            vec![mount.join(name)]
        } else {
            CONTROLLERS.iter().map(|controller| mount.join(controller).join(&name)).collect()
        };
        Ok(Self { unified, roots })
    }

    /// Makes (or keeps) a cgroup and opens what a child writes to join it.
    ///
    /// # Errors
    /// When a limit is refused.
    pub(crate) fn create(&self, name: &str, limits: Limits) -> io::Result<Vec<OwnedFd>> {
        let quota = (u64::from(limits.cpus).saturating_add(1)).saturating_mul(PERIOD_US);
        let settings: Vec<(usize, &str, String)> = if self.unified {
            vec![
                (0, "memory.max", limits.memory_bytes.to_string()),
                (0, "pids.max", limits.processes.to_string()),
                (0, "cpu.max", format!("{quota} {PERIOD_US}")),
            ]
        } else {
            vec![
                (0, "memory.limit_in_bytes", limits.memory_bytes.to_string()),
                (1, "pids.max", limits.processes.to_string()),
                (2, "cpu.cfs_quota_us", quota.to_string()),
            ]
        };
        for root in &self.roots {
            create_folder(&root.join(name))?;
        }
        for (controller, file, value) in settings {
            let Some(root) = self.roots.get(controller) else { continue };
            let path = root.join(name).join(file);
            std::fs::write(&path, value).map_err(|error| explain("set", &path, &error))?;
        }
        self.roots.iter().map(|root| open_members(&root.join(name))).collect()
    }

    /// Process ids in a cgroup, in any of its controllers.
    pub(crate) fn members(&self, name: &str) -> Vec<i32> {
        let mut members: Vec<i32> = self
            .roots
            .iter()
            .filter_map(|root| std::fs::read_to_string(root.join(name).join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
            .collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Kills every process in a cgroup except `keep`, and waits until they are gone.
    ///
    /// # Errors
    /// When processes remain after `bound`.
    pub(crate) fn kill_members(&self, name: &str, keep: &[i32], bound: Duration) -> io::Result<()> {
        let deadline = Instant::now() + bound;
        loop {
            let strangers: Vec<i32> = self.members(name).into_iter().filter(|pid| !keep.contains(pid)).collect();
            if strangers.is_empty() {
                return Ok(());
            }
            for pid in &strangers {
                kill_in(self, name, *pid);
            }
            if Instant::now() > deadline {
                let text = format!("processes {strangers:?} in cgroup {name} survive SIGKILL");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills what is in a cgroup and removes it; none is fine.
    ///
    /// # Errors
    /// When it cannot be emptied or removed.
    pub(crate) fn remove(&self, name: &str, bound: Duration) -> io::Result<()> {
        self.kill_members(name, &[], bound)?;
        self.roots.iter().try_for_each(|root| remove_folder(&root.join(name), bound))
    }

    /// Names of the cgroups below.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .roots
            .iter()
            .filter_map(|root| std::fs::read_dir(root).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Removes the parents themselves.
    ///
    /// # Errors
    /// When a cgroup remains below.
    pub(crate) fn remove_roots(&self, bound: Duration) -> io::Result<()> {
        self.roots.iter().try_for_each(|root| remove_folder(root, bound))
    }
}

/// Kills a process if it is (still) in the cgroup: the pidfd is opened before membership is read again.
fn kill_in(cgroups: &Cgroups, name: &str, pid: i32) {
    let Some(raw) = rustix::process::Pid::from_raw(pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) else { return };
    if cgroups.members(name).contains(&pid) {
        match rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, pid, "cannot kill a leftover process"),
        }
        // A child of this agent would otherwise stay a zombie; someone else's answers ECHILD.
        let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
        if let Err(error) = rustix::process::waitid(id, options) {
            tracing::trace!(%error, pid, "not a child of this agent");
        }
    }
}

/// The path without links, also of a folder that was removed: what is left of it is found again.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(canonical(parent)?.join(name))
        }
        (found, ..) => found,
    }
}

fn explain(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation} {}: {error}", path.display()))
}

fn create_folder(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(explain("create cgroup", path, &error)),
        Ok(()) => Ok(()),
    }
}

fn enable(path: &Path) -> io::Result<()> {
    let file = path.join("cgroup.subtree_control");
    std::fs::write(&file, "+memory +pids +cpu").map_err(|error| explain("enable controllers in", &file, &error))
}

fn open_members(path: &Path) -> io::Result<OwnedFd> {
    let path = path.join("cgroup.procs");
    let file = std::fs::OpenOptions::new().write(true).open(&path).map_err(|error| explain("open", &path, &error))?;
    Ok(file.into())
}

/// The kernel answers EBUSY for a moment after the last member has gone.
fn remove_folder(path: &Path, bound: Duration) -> io::Result<()> {
    let deadline = Instant::now() + bound;
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(explain("remove cgroup", path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::host::process::{Process, Sandbox, spawn};

    const LIMITS: Limits = Limits { memory_bytes: 64 << 20, processes: 8, cpus: 1 };

    #[tokio::test]
    async fn a_child_is_in_its_cgroup_and_an_unrecorded_one_is_found_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::open(folder.path()).unwrap();
        let joins = cgroups.create("one", LIMITS).unwrap();
        let mut command = Command::new("/bin/sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let sandbox = Sandbox { uid: 412_346, groups: Vec::new(), cgroup: &joins, inherit: Vec::new() };
        let reference = spawn(command, &sandbox).unwrap();
        assert_eq!(cgroups.members("one"), [reference.pid]);
        assert_eq!(cgroups.names(), ["one"]);
        cgroups.kill_members("one", &[reference.pid], Duration::from_secs(5)).unwrap();
        assert!(Process::attach(reference).unwrap().is_some());
        cgroups.remove("one", Duration::from_secs(5)).unwrap();
        assert!(Process::attach(reference).unwrap().is_none());
        cgroups.remove("one", Duration::from_secs(5)).unwrap();
        cgroups.remove_roots(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_removed_folder_has_the_name_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data/node");
        std::fs::create_dir_all(&data).unwrap();
        let before = Cgroups::locate(&data).unwrap().roots;
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
        assert_eq!(Cgroups::locate(&data).unwrap().roots, before);
    }

    #[test]
    fn a_fork_bomb_meets_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::open(folder.path()).unwrap();
        let joins = cgroups.create("bomb", LIMITS).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 600 & done; wait"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let sandbox = Sandbox { uid: 412_347, groups: Vec::new(), cgroup: &joins, inherit: Vec::new() };
        spawn(command, &sandbox).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        // The shell gives up at the first fork that is refused.
        while cgroups.members("bomb").len() < 7 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!((7..=8).contains(&cgroups.members("bomb").len()));
        cgroups.remove("bomb", Duration::from_secs(5)).unwrap();
        cgroups.remove_roots(Duration::from_secs(5)).unwrap();
    }
}
