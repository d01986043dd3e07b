//! Child programs of the initramfs: nothing in their environment, secrets over stdin only, a bound on every wait.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Most bytes of a child's complaint that are kept.
const MOST_COMPLAINT_BYTES: u64 = 2048;

/// Why a child program did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started or spoken to.
    #[error("{program} cannot run: {error}")]
    Start {
        /// Its path.
        program: String,
        /// What the kernel answered.
        error: std::io::Error,
    },
    /// It was still running at the bound and was killed.
    #[error("{program} was killed: still running after {bound:?}")]
    Timeout {
        /// Its path.
        program: String,
        /// The bound.
        bound: Duration,
    },
    /// It failed.
    #[error("{program} failed with {code:?}: {complaint}")]
    Failed {
        /// Its path.
        program: String,
        /// Exit code; absent when a signal ended it.
        code: Option<i32>,
        /// The start of what it wrote to stderr.
        complaint: String,
    },
}

impl ProcessError {
    /// The exit code, when it ran and failed.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { code, .. } => *code,
            Self::Start { .. } | Self::Timeout { .. } => None,
        }
    }
}

/// Runs a program to its end; `secret` is all it reads from stdin.
///
/// # Errors
/// When it cannot run, fails, or takes longer than `bound`.
pub fn run(program: &str, arguments: &[&str], secret: &[u8], bound: Duration) -> Result<(), ProcessError> {
    let start = |error| ProcessError::Start { program: program.to_owned(), error };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("DM_DISABLE_UDEV", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(secret) {
            // A program that ends without reading says why by its exit code.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                end(&mut child);
                return Err(start(error));
            }
            _ => {}
        }
    }
    if !wait(&child, bound).map_err(start)? {
        end(&mut child);
        return Err(ProcessError::Timeout { program: program.to_owned(), bound });
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(ProcessError::Failed { program: program.to_owned(), code: status.code(), complaint: complaint(&mut child) })
}

/// Whether the child ended within the bound.
fn wait(child: &Child, bound: Duration) -> std::io::Result<bool> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + bound;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

fn complaint(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MOST_COMPLAINT_BYTES).read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    #[test]
    fn the_secret_arrives_on_stdin_and_success_is_success() {
        run("/bin/sh", &["-c", "read line && test \"$line\" = secret"], b"secret\n", BOUND).unwrap();
    }

    #[test]
    fn a_failure_tells_its_code_and_complaint() {
        let error = run("/bin/sh", &["-c", "echo no >&2; exit 7"], b"", BOUND).unwrap_err();
        assert_eq!(error.code(), Some(7));
        assert!(error.to_string().contains("no"), "{error}");
    }

    #[test]
    fn a_program_past_its_bound_is_killed() {
        let error = run("/bin/sleep", &["60"], b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProcessError::Timeout { .. }));
    }

    #[test]
    fn the_environment_is_not_inherited() {
        run("/bin/sh", &["-c", "test -z \"$HOME$CARGO$USER\""], b"", BOUND).unwrap();
    }
}
