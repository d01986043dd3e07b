//! Packet captures of the host's loopback and of the node's network namespace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::customer::finish;
use crate::{Cloud, wait_for};

/// A running packet capture; ended on drop.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

/// A command that runs inside the network namespace at `netns`, or here.
#[must_use]
pub fn inside(netns: Option<&Path>, program: &str) -> Command {
    let mut command = match netns {
        Some(path) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", path.display())).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.stdin(Stdio::null());
    command
}

impl Capture {
    /// Captures on one interface, inside the network namespace at `netns` if given.
    ///
    /// # Panics
    /// When tcpdump does not listen within the bound.
    #[must_use]
    pub fn start(interface: &str, netns: Option<&Path>, file: PathBuf) -> Self {
        let mut command = inside(netns, "tcpdump");
        command.args(["-i", interface, "-s", "0", "-U", "-Z", "root", "-w"]).arg(&file);
        let log = file.with_extension("log");
        let stderr = std::fs::File::create(&log).expect("writable");
        command.stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("tcpdump starts");
        let capture = Self { child, file };
        wait_for("tcpdump to listen", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("listening on") { Ok(()) } else { Err(text) }
        });
        capture
    }

    /// Ends it, and returns the file.
    ///
    /// # Panics
    /// When tcpdump died before, or does not end with success: what it wrote cannot be trusted.
    #[must_use]
    pub fn stop(mut self) -> PathBuf {
        assert_eq!(self.child.try_wait().expect("own child"), None, "tcpdump still captures");
        Cloud::signal(i32::try_from(self.child.id()).expect("a pid"), "INT");
        let status = self.child.wait().expect("own child");
        assert!(status.success(), "tcpdump ends well: {status}");
        self.file.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Both fail harmlessly when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The packets of a capture, one a line, with interface, direction and addresses as numbers. The interfaces' names are those
/// of the namespace at `netns`.
///
/// # Panics
/// When tcpdump cannot read it.
#[must_use]
pub fn packets(netns: Option<&Path>, file: &Path) -> Vec<String> {
    let mut command = inside(netns, "tcpdump");
    command.args(["-nn", "-e", "-r"]).arg(file);
    finish(command, None, Duration::from_secs(60)).ok().lines().map(str::to_owned).collect()
}
