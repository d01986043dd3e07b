//! Keeps the roles running. Each is a child process in a group of its own; one that ends is started again, later each time
//! it does not last. When the supervisor dies, however it dies, the kernel ends the roles with it; guests go on.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lambda_transport::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::layout::Layout;
use crate::logs::{Log, MAX_BYTES, tail};
use crate::role::RoleName;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A role that ran this long has started well; its next end is met without delay.
const LASTED: Duration = Duration::from_secs(30);

/// How long a role may take to end cleanly.
const END: Duration = Duration::from_secs(15);

/// Ends in a row, none of which lasted, after which a first start is given up.
const HOPELESS: u32 = 4;

/// Ends in a row, none of which lasted, of which a supervisor that has been healthy says the log's end, and again each as many.
const ALARMING: u32 = 10;

/// How long a finished role's last words are waited for. Its standard error may stay open in a program that it started.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What the keepers know together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Process ids of the running roles, by name.
    pub(crate) pids: BTreeMap<&'static str, u32>,
    /// All roles have answered at least once.
    pub(crate) healthy: bool,
}

/// Arguments that a role gets beside the data folder.
pub(crate) type MoreArguments = Vec<std::ffi::OsString>;

/// One role's keeper.
pub(crate) struct Keeper {
    pub(crate) role: RoleName,
    pub(crate) layout: Layout,
    pub(crate) more: MoreArguments,
    /// Handed to each life of the role as its standard input.
    pub(crate) listener: TcpListener,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) shutdown: Shutdown,
}

impl Keeper {
    /// Runs the role until shutdown. An error only when it never lasts: its log's end is in the message.
    pub(crate) async fn keep(self) -> Result<()> {
        let mut log = Log::open(&self.layout.log(self.role), MAX_BYTES)?;
        let mut short_lives = 0u32;
        loop {
            let started = Instant::now();
            let ended = self.live(&mut log).await?;
            if self.shutdown.is_cancelled() {
                return Ok(());
            }
            short_lives = if started.elapsed() >= LASTED { 0 } else { short_lives.saturating_add(1) };
            eprintln!("lambdad: {} {ended}", self.role.name());
            let words = || tail(&self.layout.log(self.role));
            match verdict(short_lives, self.status.borrow().healthy) {
                Verdict::Again => {}
                Verdict::Alarm => eprintln!(
                    "lambdad: {} ended {short_lives} times within {} s of its start; the end of its log:\n  {}",
                    self.role.name(),
                    LASTED.as_secs(),
                    words()
                ),
                Verdict::GiveUp => bail!("{} does not start; the end of its log:\n  {}", self.role.name(), words()),
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << short_lives.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// One life of the role.
    async fn live(&self, log: &mut Log) -> Result<String> {
        let mut child = self.spawn()?;
        let pid = child.id().unwrap_or_default();
        let name = self.role.name();
        self.status.send_modify(|status| {
            status.pids.insert(name, pid);
        });
        let words = log.copy(child.stderr.take().context("standard error is a pipe")?);
        let ended = async {
            tokio::select! {
                status = child.wait() => Ok(format!("ended: {}", status.context("waiting for a role")?)),
                () = self.shutdown.cancelled() => end(&mut child, name).await,
            }
        };
        tokio::pin!(words, ended);
        let ended = tokio::select! {
            ended = &mut ended => {
                let _ = tokio::time::timeout(LAST_WORDS, words).await;
                ended
            }
            () = &mut words => ended.await,
        };
        self.status.send_modify(|status| {
            status.pids.remove(name);
        });
        ended
    }

    fn spawn(&self) -> Result<Child> {
        let program = std::env::current_exe().context("this program's own path")?;
        let mut command = Command::new(program);
        command.arg(self.role.name()).arg("--data").arg(self.layout.root()).args(&self.more);
        command.arg("--supervised-by").arg(std::process::id().to_string());
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(level) = std::env::var_os("LAMBDA_LOG") {
            command.env("LAMBDA_LOG", level);
        }
        let listener = self.listener.try_clone().context("a listener")?;
        command
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        command.spawn().with_context(|| format!("cannot start {}", self.role.name()))
    }
}

/// What a role's end is met with.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Again,
    Alarm,
    GiveUp,
}

fn verdict(short_lives: u32, healthy: bool) -> Verdict {
    match short_lives {
        HOPELESS.. if !healthy => Verdict::GiveUp,
        1.. if short_lives.is_multiple_of(ALARMING) => Verdict::Alarm,
        _ => Verdict::Again,
    }
}

async fn end(child: &mut Child, name: &str) -> Result<String> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        // It may have ended meanwhile: then there is nobody to signal, and the wait below returns at once.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(END, child.wait()).await {
        Ok(status) => Ok(format!("stopped: {}", status.context("waiting for a role")?)),
        Err(_) => {
            eprintln!("lambdad: {name} did not stop within {} s; killed", END.as_secs());
            child.kill().await.context("cannot kill a role")?;
            Ok("killed".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_never_lasts_ends_a_first_start_and_is_reported_after_that() {
        assert_eq!(verdict(3, false), Verdict::Again);
        assert_eq!(verdict(4, false), Verdict::GiveUp);
        assert_eq!((0..=20).filter(|lives| verdict(*lives, true) == Verdict::Alarm).collect::<Vec<_>>(), [10, 20]);
        assert!((0..=40).all(|lives| verdict(lives, true) != Verdict::GiveUp));
    }
}
