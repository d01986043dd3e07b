//! What is seen of the node from outside, as root: its records and the processes of its instances.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::cloud::processes;
use crate::{Cloud, wait_for};

/// An instance on the node of a cloud.
#[derive(Debug, Clone)]
pub struct Instance {
    folder: PathBuf,
    /// Its id.
    pub id: String,
}

impl Instance {
    /// The instance with this id.
    #[must_use]
    pub fn new(cloud: &Cloud, id: String) -> Self {
        Self { folder: cloud.data().join("node/instances").join(&id), id }
    }

    /// What the node wrote down of it; null as long as there is nothing.
    #[must_use]
    pub fn record(&self) -> serde_json::Value {
        let bytes = std::fs::read(self.folder.join("state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Pid of its `qemu` or `swtpm`, as the node wrote it down.
    ///
    /// # Panics
    /// When there is none within a minute.
    #[must_use]
    pub fn pid(&self, process: &str) -> i32 {
        wait_for(&format!("a pid of {process}"), Duration::from_secs(60), || {
            let record = self.record();
            record[process]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| record.to_string())
        })
    }

    /// Waits until the node has it in this phase.
    ///
    /// # Panics
    /// When it is not there within the bound of a boot, or went past it.
    pub fn await_phase(&self, phase: &str) {
        wait_for(&format!("phase {phase}"), crate::BOOT, || {
            let record = self.record();
            let now = record["phase"].as_str().unwrap_or_default();
            let past = now != phase && record["phases"].to_string().contains(&format!("\"{phase}\""));
            assert!(!past && now != "failed", "waiting for {phase}: {record}");
            if now == phase { Ok(()) } else { Err(record.to_string()) }
        });
    }

    /// Waits until its QEMU has answered the agent.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn await_answer(&self) {
        wait_for("QEMU's answer", Duration::from_secs(60), || {
            let record = self.record();
            if record["qemu_answered"] == true { Ok(()) } else { Err(record.to_string()) }
        });
    }

    /// Pids of its processes that run.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let within = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.folder);
        processes().into_iter().map(|(pid, _)| pid).filter(|pid| within(pid) && runs(*pid)).collect()
    }

    /// What only a running instance has in its folder: sockets and unfinished files.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let transient = |entry: &std::fs::DirEntry| {
            let socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            socket || entry.path().extension().is_some_and(|extension| extension == "tmp")
        };
        entries.filter(transient).map(|entry| entry.path().display().to_string()).collect()
    }

    /// Its tap and the rules that name it, inside the node's network namespace.
    #[must_use]
    pub fn network(&self, cloud: &Cloud) -> Vec<String> {
        let tap = format!("lam{}", self.record()["slot"]);
        let named = |line: &&str| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == tap);
        cloud.in_namespace("ip -o link; nft list ruleset").lines().filter(named).map(str::to_owned).collect()
    }
}

/// Whether a process runs: neither gone nor waiting to be collected.
#[must_use]
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Pids of this cloud's instances' processes whose program is named `what…`. Their command lines name no folder: they work
/// in their instance's.
#[must_use]
pub fn pids(cloud: &Cloud, what: &str) -> Vec<i32> {
    let instances = cloud.data().join("node/instances");
    let named = |line: &str| {
        let program = line.split(' ').next().unwrap_or_default();
        program.rsplit('/').next().is_some_and(|name| name.starts_with(what))
    };
    let within = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&instances));
    let found = processes().into_iter().filter(|(pid, line)| named(line) && within(*pid));
    found.map(|(pid, _)| pid).collect()
}

/// A process that is stopped until this is dropped.
#[derive(Debug)]
pub struct Paused(i32);

impl Paused {
    /// SIGSTOP; returns when the kernel says that it has stopped.
    ///
    /// # Panics
    /// When it does not stop.
    #[must_use]
    pub fn new(pid: i32) -> Self {
        Cloud::signal(pid, "STOP");
        wait_for(&format!("{pid} to stop"), Duration::from_secs(10), || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let stopped = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
            if stopped { Ok(()) } else { Err(stat) }
        });
        Self(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // One that was killed meanwhile is not there any more.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        }
    }
}
