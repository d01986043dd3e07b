//! The agent that outlives the hand-over: a supervisor that holds the channel, and the worker that speaks over it.
//!
//! ```text
//!   lambda-guest (PID 1) ──spawn──▶ supervisor ──spawn, again when it dies──▶ worker
//!         └─exec─▶ /sbin/init            ▲──────── state after each change ──────┘
//! ```
//!
//! Both start after the step into the new root and depend on nothing of it. They hold no secret: what passes between
//! them has been on the channel before. Their names begin with `@`, by which systemd leaves them alone at shutdown.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lambda_types::Binary;
use lambda_types::guest::GuestPhase;
use lambda_types::session::{Challenge, Hello};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, ChannelError};
use crate::failure::Failure;
use crate::health::Health;
use crate::link::{Arrival, Link, Memory};
use crate::process;
use crate::session::{Attester, Outcome, Session};
use crate::tpm;
use crate::trust::RootOfTrust;
use crate::{kmsg, power, shutdown};

/// First argument of the supervisor.
pub const SUPERVISOR: &str = "agent";
/// First argument of the worker.
pub const WORKER: &str = "agent-worker";

const NAME: &str = "@lambda-guest";
const OWN_PROGRAM: &str = "/proc/self/exe";
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const SSH_INTERVAL: Duration = Duration::from_millis(100);
const SLOW_SSH_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at a ready guest's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// After this long without sshd, looking for it becomes rarer.
const SLOW_AFTER: Duration = Duration::from_secs(300);
const IDLE: Duration = Duration::from_secs(3600);
const SSH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 22);
/// A clean shutdown that takes longer is cut off.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(90);
const TPM_BOUND: Duration = Duration::from_secs(5);
const MOST_STATE_BYTES: u64 = 1024 * 1024;

/// What a worker needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    hello: Hello,
    last_read: u64,
    memory: Memory,
    pending: Binary,
}

/// Starts the supervisor, which takes over the channel.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(link: Link, session: &Session) -> std::io::Result<()> {
    let (channel, memory) = link.into_parts();
    let (port, pending) = channel.into_parts();
    let state =
        State { hello: session.hello().clone(), last_read: session.last_read(), memory, pending: pending.into() };
    // Not the initramfs' own file, whose memory would stay for as long as a process runs from it.
    let mut child =
        command(shutdown::PROGRAM, SUPERVISOR).stdin(Stdio::piped()).stdout(port).stderr(Stdio::null()).spawn()?;
    hand_over(&mut child, &serde_json::to_vec(&state)?)
}

fn command(program: &str, role: &str) -> Command {
    let mut command = Command::new(program);
    command.arg0(NAME).arg(role).env_clear().current_dir("/");
    command
}

fn hand_over(child: &mut Child, state: &[u8]) -> std::io::Result<()> {
    let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    stdin.write_all(state)
}

fn read_state() -> std::io::Result<Vec<u8>> {
    let mut state = Vec::new();
    std::io::stdin().take(MOST_STATE_BYTES).read_to_end(&mut state)?;
    Ok(state)
}

/// Runs as the supervisor: keeps a worker alive, and the state that it last told.
pub fn supervise() -> ! {
    let mut state = read_state().unwrap_or_default();
    loop {
        match run_worker(&state) {
            Ok(latest) => state = latest,
            Err(error) => kmsg::say(&format!("agent: {error}")),
        }
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Runs one worker to its end and returns the last state that it told.
fn run_worker(state: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut worker = command(OWN_PROGRAM, WORKER).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut latest = state.to_vec();
    let told = hand_over(&mut worker, state);
    if let Some(stderr) = worker.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line?;
            // A worker that dies while writing leaves half a line.
            if serde_json::from_slice::<State>(&line).is_ok() {
                latest = line;
            }
        }
    }
    worker.wait()?;
    told.map(|()| latest)
}

/// Runs as the worker, until the channel fails.
pub fn work() -> ! {
    let error = match start_worker() {
        Ok(mut worker) => worker.run(),
        Err(error) => error,
    };
    kmsg::say(&format!("agent: {error}"));
    std::process::exit(1)
}

fn start_worker() -> Result<Worker, ChannelError> {
    let state: State = serde_json::from_slice(&read_state()?).map_err(ChannelError::Malformed)?;
    let port = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let channel = Channel::over(port, state.pending.0);
    let health = Health::resumed(&state.memory.degraded);
    Ok(Worker {
        link: Link::resumed(channel, state.memory),
        session: Session::resumed(state.hello, state.last_read),
        started: Instant::now(),
        looked: Instant::now(),
        health,
    })
}

struct Worker {
    link: Link,
    session: Session,
    started: Instant,
    /// When something was last looked at without being asked.
    looked: Instant,
    health: Health,
}

impl Worker {
    fn run(&mut self) -> ChannelError {
        loop {
            if let Err(error) = self.step() {
                return error;
            }
        }
    }

    fn step(&mut self) -> Result<(), ChannelError> {
        match self.link.receive(self.looked + self.interval(), None)? {
            Some(Arrival::Broker { seq, body }) => {
                match self.session.handle(seq, &body, &mut SharedTrust) {
                    Ok(Outcome::Reply(message)) => self.link.say(&message)?,
                    Ok(Outcome::Ignored | Outcome::Acknowledged(_) | Outcome::Released(_)) => {}
                    Err(failure) => kmsg::say(&failure.to_string()),
                }
                self.tell_state()
            }
            Some(Arrival::Shutdown) => {
                self.link.enter(GuestPhase::Stopping)?;
                self.tell_state()?;
                shut_down();
                Ok(())
            }
            Some(Arrival::Start(_) | Arrival::Watched) => self.tell_state(),
            None => self.look(),
        }
    }

    /// Looks whether sshd is there for the first time, and from then on at the guest's health.
    fn look(&mut self) -> Result<(), ChannelError> {
        self.looked = Instant::now();
        let news = match self.link.memory().phase {
            GuestPhase::Starting if TcpStream::connect_timeout(&SSH, SSH_INTERVAL).is_ok() => {
                self.link.enter(GuestPhase::Ready)?;
                true
            }
            GuestPhase::Ready => self.link.diagnose(self.health.look())?,
            _ => false,
        };
        if news { self.tell_state() } else { Ok(()) }
    }

    fn interval(&self) -> Duration {
        match (self.link.memory().phase, self.started.elapsed() < SLOW_AFTER) {
            (GuestPhase::Starting, true) => SSH_INTERVAL,
            (GuestPhase::Starting, false) => SLOW_SSH_INTERVAL,
            (GuestPhase::Ready, _) => HEALTH_INTERVAL,
            _ => IDLE,
        }
    }

    /// Tells the supervisor where the next worker would have to go on.
    fn tell_state(&self) -> Result<(), ChannelError> {
        let state = State {
            hello: self.session.hello().clone(),
            last_read: self.session.last_read(),
            memory: self.link.memory().clone(),
            pending: Binary::default(),
        };
        let mut line = serde_json::to_vec(&state).map_err(ChannelError::Malformed)?;
        line.push(b'\n');
        std::io::stderr().write_all(&line)?;
        Ok(())
    }
}

/// Asks init to power off, and makes sure that it happens.
fn shut_down() {
    power::off_after(SHUTDOWN_BOUND);
    let (program, arguments): (&str, &[&str]) = if Path::new("/run/systemd/system").exists() {
        ("systemctl", &["--no-block", "poweroff"])
    } else {
        ("poweroff", &[])
    };
    if let Err(error) = process::run(program, arguments, b"", SHUTDOWN_BOUND) {
        kmsg::say(&error.to_string());
        power::off();
    }
}

/// The vTPM behind the kernel's resource manager, or the processor: opened for one answer only.
struct SharedTrust;

impl Attester for SharedTrust {
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure> {
        RootOfTrust::find(tpm::SHARED_DEVICE, TPM_BOUND)?.attest(hello, challenge)
    }
}
