//! Runs host programs: bounded in time, with the end of their error output in the error.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};

/// Bytes of error output that an error quotes.
const QUOTED_BYTES: u64 = 1500;

/// Debian packages of the programs that the builder runs.
const PACKAGES: [(&str, &str); 8] = [
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("/usr/lib/apt/apt-helper", "apt"),
    ("dpkg-deb", "dpkg"),
    ("dpkg-query", "dpkg"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.erofs", "erofs-utils"),
    ("depmod", "kmod"),
];

/// One run of a program.
pub(crate) struct Tool {
    program: &'static str,
    command: Command,
    limit: Duration,
    input: Vec<u8>,
}

/// What a program left behind.
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output.
    pub(crate) output: Vec<u8>,
    /// End of standard error.
    pub(crate) errors: String,
}

impl Tool {
    pub(crate) fn new(program: &'static str) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        Self { program, command, limit: Duration::from_secs(600), input: Vec::new() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end; any exit status is fine.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let file = || tempfile::tempfile().map_err(Error::io("creating a temporary file in", std::env::temp_dir()));
        let (mut input, mut output, mut errors) = (file()?, file()?, file()?);
        let failed =
            |reason: String| Error::Tool { program: self.program.into(), status: reason, output: String::new() };
        let io = |error: std::io::Error| failed(error.to_string());
        input.write_all(&self.input).and_then(|()| input.rewind()).map_err(io)?;
        let clone = |file: &std::fs::File| file.try_clone().map(Stdio::from).map_err(io);
        self.command.stdin(clone(&input)?).stdout(clone(&output)?).stderr(clone(&errors)?);
        let mut child = self.command.spawn().map_err(|error| self.not_started(&error))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|error| io(error.into()))?;
        let limit = Timespec { tv_sec: i64::try_from(self.limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let ready = loop {
            match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(|error| io(error.into()))?,
            }
        };
        if ready == 0 {
            child.kill().map_err(io)?;
        }
        let status = child.wait().map_err(io)?;
        let errors = tail(&mut errors).map_err(io)?;
        if ready == 0 {
            let status = format!("stopped after {} s", self.limit.as_secs());
            return Err(Error::Tool { program: self.program.into(), status, output: errors });
        }
        let mut bytes = Vec::new();
        output.rewind().and_then(|()| output.read_to_end(&mut bytes)).map_err(io)?;
        Ok(Finished { status, output: bytes, errors })
    }

    /// Runs to the end and gives standard output; another exit status than 0 is an error.
    pub(crate) fn run(self) -> Result<Vec<u8>> {
        let program = self.program;
        let finished = self.finish()?;
        if finished.status.success() {
            return Ok(finished.output);
        }
        Err(Error::Tool { program: program.into(), status: finished.status.to_string(), output: finished.errors })
    }

    fn not_started(&self, error: &std::io::Error) -> Error {
        match PACKAGES.iter().find(|(program, _)| *program == self.program) {
            Some((program, package)) if error.kind() == std::io::ErrorKind::NotFound => {
                Error::ToolMissing { program: (*program).into(), package }
            }
            _ => Error::Tool { program: self.program.into(), status: error.to_string(), output: String::new() },
        }
    }
}

fn tail(file: &mut std::fs::File) -> std::io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(QUOTED_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
