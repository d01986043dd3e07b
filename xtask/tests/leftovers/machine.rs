//! A machine in namespaces of its own, whose state can be told and compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SETUP: &str = include_str!("machine.sh");
const STATE: &str = include_str!("state.sh");

/// Processes, links, tables, sockets, mounts, files, namespaces and cgroups, one a line.
pub(crate) type State = BTreeSet<String>;

/// Ends with its value, and every process in it.
pub(crate) struct Machine {
    unshare: Child,
    init: u32,
    /// Control groups that a process of this machine was seen in: their hierarchies are shared with the rest of the host.
    cgroups: BTreeSet<PathBuf>,
}

impl Machine {
    /// Starts one, with these folders at `/mnt/1` and so on.
    pub(crate) fn start(folders: &[&Path]) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--net",
            "--ipc",
            "--pid",
            "--mount",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            SETUP,
        ]);
        let unshare = unshare.arg("init").args(folders).stdin(Stdio::null()).spawn().expect("util-linux is installed");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let mut machine = Self { unshare, init: 0, cgroups: BTreeSet::new() };
        machine.wait("its first process", || {
            let said = std::fs::read_to_string(&children).unwrap_or_default();
            said.trim().parse().map_err(|_| format!("children: {said:?}"))
        });
        machine.init = std::fs::read_to_string(&children).unwrap().trim().parse().unwrap();
        let ready = format!("/proc/{}/root/mnt/home/ready", machine.init);
        machine.wait("its folders", || std::fs::metadata(&ready).map(|_| 0).map_err(|error| error.to_string()));
        machine
    }

    fn wait(&mut self, what: &str, look: impl Fn() -> Result<u32, String>) {
        let start = Instant::now();
        while let Err(seen) = look() {
            if let Some(status) = self.unshare.try_wait().unwrap() {
                panic!("the machine ended with {status} before {what}");
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no {what}; last seen: {seen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command on this machine.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", "--ipc", "--pid", "--mount", "--"]).arg(program);
        command.env("HOME", "/mnt/home").env_remove("XDG_CACHE_HOME").env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a shell script here.
    pub(crate) fn shell(&self, script: &str) -> String {
        said(self.command("bash").args(["-c", script]))
    }

    /// What is here.
    pub(crate) fn state(&mut self) -> State {
        let text = self.shell(STATE);
        let mut state = State::new();
        for line in text.lines() {
            match line.strip_prefix("incgroup /") {
                Some(path) => self.cgroups.extend(folders_of(path)),
                None => drop(state.insert(line.to_owned())),
            }
        }
        let left = self.cgroups.iter().filter(|folder| folder.is_dir());
        state.extend(left.map(|folder| format!("cgroup {}", folder.display())));
        state
    }

    /// What is here and was not before.
    pub(crate) fn new_since(&mut self, before: &State) -> Vec<String> {
        self.state().difference(before).cloned().collect()
    }

    /// Waits until the machine is as it was; a process that was told to end may take a moment. Gives what is left.
    pub(crate) fn settle(&mut self, before: &State) -> Vec<String> {
        let start = Instant::now();
        loop {
            let left = self.new_since(before);
            if left.is_empty() || start.elapsed() > Duration::from_secs(10) {
                return left;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Where a control group's folder can be, and its parents as far as they are ours: version 1 has one tree for each controller.
fn folders_of(path: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let trees = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).chain([top.to_path_buf()]);
    let ours = |folder: &&Path| folder.to_string_lossy().contains("/lambda-");
    trees
        .flat_map(|tree| tree.join(path).ancestors().take_while(ours).map(Path::to_path_buf).collect::<Vec<_>>())
        .collect()
}

/// Runs it; a failure shows what it said.
pub(crate) fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}:\n{stdout}{stderr}");
    stdout.into_owned()
}
