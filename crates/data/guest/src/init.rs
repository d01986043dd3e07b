//! From the kernel's first process to the customer's init system.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lambda_crypto::{InstanceSecrets, ReleaseKey};
use lambda_types::BootId;
use lambda_types::guest::{Degradation, FailureReason, GuestPhase, Start};

use crate::agent;
use crate::channel::Channel;
use crate::cmdline::RootParameters;
use crate::failure::{Because, Failure};
use crate::link::{Arrival, Link};
use crate::personality::Personality;
use crate::session::{Outcome, Session, SshHostKey};
use crate::tpm;
use crate::trust::RootOfTrust;
use crate::volume::{self, Expectation, Volume};
use crate::{kmsg, modules, mounts, network, power, root, shutdown};

/// How long a guest waits for its release, and for the acknowledgement of a new header pin: 15 minutes, which is long
/// enough for a person to approve and for a broker to restart, and short enough that a forgotten guest frees its memory.
pub const RELEASE_BOUND: Duration = Duration::from_secs(15 * 60);

/// How long a device that must be there may take to appear.
const DEVICE_BOUND: Duration = Duration::from_secs(30);

/// How long the last words may take to leave.
const LAST_WORDS_BOUND: Duration = Duration::from_secs(5);

/// A second link over the same port, for the last words of a thread that panics.
static PANIC_LINK: Mutex<Option<Link>> = Mutex::new(None);

/// Runs as PID 1. Ends in the init system or in a power-off.
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        let failure = Failure::new(FailureReason::Internal, format!("panic at {:?}", panic.location()));
        give_up(&failure, PANIC_LINK.try_lock().ok().and_then(|mut link| link.take()));
    }));
    let channel = mounts::mount_kernel_file_systems()
        .and_then(|()| Channel::open(DEVICE_BOUND).because(FailureReason::Channel, "guest channel"))
        .and_then(|channel| {
            let boot = BootId::random().because(FailureReason::Channel, "randomness")?;
            keep_for_panic(&channel, boot)?;
            Ok(Link::new(channel, boot))
        });
    let mut link = match channel {
        Ok(link) => Some(link),
        Err(failure) => give_up(&failure, None),
    };
    match boot(&mut link) {
        Ok(never) => match never {},
        Err(failure) => give_up(&failure, link),
    }
}

fn keep_for_panic(channel: &Channel, boot: BootId) -> Result<(), Failure> {
    let port = channel.as_fd().try_clone_to_owned().because(FailureReason::Channel, "guest channel")?;
    if let Ok(mut link) = PANIC_LINK.lock() {
        *link = Some(Link::new(Channel::over(File::from(port), Vec::new()), boot));
    }
    Ok(())
}

/// Tells the node why, and powers off. The port is made to block, so that the words have left before the power goes.
fn give_up(failure: &Failure, link: Option<Link>) -> ! {
    kmsg::say(&failure.to_string());
    power::off_after(LAST_WORDS_BOUND);
    if let Some(mut link) = link {
        rustix::io::ioctl_fionbio(link.channel_mut(), false).ok();
        if let Err(error) = link.fail(failure.reason) {
            kmsg::say(&error.to_string());
        }
    }
    power::off()
}

fn lost() -> Failure {
    Failure::new(FailureReason::Channel, "the channel was handed over before")
}

fn boot(slot: &mut Option<Link>) -> Result<Infallible, Failure> {
    let link = slot.as_mut().ok_or_else(lost)?;
    let attester = std::thread::spawn(find_root_of_trust);
    let mut machine = Background::spawn(prepare_machine);
    let deadline = Instant::now() + RELEASE_BOUND;
    let ssh_host_key = SshHostKey::generate()?;
    let release_key = ReleaseKey::generate().because(FailureReason::Channel, "release key")?;
    let start = wait_for_start(link, &mut machine, deadline)?;
    let mut attester = joined(attester, FailureReason::Tpm)?;
    let identity = attester.identity(start.ek_chain.clone())?;
    let boot = link.memory().boot;
    let mut session = Session::new(start.instance, boot, release_key, ssh_host_key.public.clone(), identity);
    let hello = lambda_types::session::FromGuest::Hello(session.hello().clone());
    link.say(&hello).because(FailureReason::Channel, "hello")?;
    let secrets = wait_for_release(link, &mut machine, &mut session, &mut attester, deadline)?;

    kmsg::silence_console().because(FailureReason::RootAssembly, "printk")?;
    link.enter(GuestPhase::Unlocking).because(FailureReason::Channel, "report")?;
    kmsg::say("released");
    let volume = machine.join()?;
    let network =
        std::thread::spawn(move || network::configure(&start.network).because(FailureReason::Network, "network"));
    let mounted = volume.mount(secrets.volume_key.expose(), expectation(&secrets)?, Path::new(root::VOLUME))?;
    if !mounted.fits {
        link.diagnose(vec![Degradation::VolumeNotGrown]).because(FailureReason::Channel, "health")?;
    }
    if let Some(pin) = mounted.pin {
        let report = session.report(pin)?;
        link.say(&report).because(FailureReason::Channel, "report")?;
        wait_for_acknowledgement(link, &mut session, &mut attester, pin)?;
    }
    kmsg::say("volume mounted");
    root::mount_overlay()?;
    shutdown::install()?;
    joined(network, FailureReason::Network)?;
    attester.close()?;
    link.enter(GuestPhase::Starting).because(FailureReason::Channel, "report")?;
    root::switch()?;
    write_personality(&secrets, &ssh_host_key)?;
    drop((secrets, ssh_host_key));
    agent::spawn(slot.take().ok_or_else(lost)?, &session).because(FailureReason::RootAssembly, "agent")?;
    Err(Command::new("/sbin/init").exec()).because(FailureReason::RootAssembly, "/sbin/init")
}

fn find_root_of_trust() -> Result<RootOfTrust, Failure> {
    RootOfTrust::find(tpm::DEVICE, DEVICE_BOUND)
}

/// Everything that needs no secret, done while the evidence is on its way.
fn prepare_machine() -> Result<Volume, Failure> {
    modules::load_all(Path::new(modules::FOLDER))?;
    mounts::mount_configfs()?;
    kmsg::say("modules loaded");
    root::mount_lower(&RootParameters::of_this_boot()?, DEVICE_BOUND)?;
    kmsg::say("root file system mapped");
    Volume::read(volume::find_disk(volume::VOLUME_SERIAL, FailureReason::VolumeIntegrity, DEVICE_BOUND)?)
}

fn joined<T>(thread: JoinHandle<Result<T, Failure>>, reason: FailureReason) -> Result<T, Failure> {
    thread.join().unwrap_or_else(|_| Err(Failure::new(reason, "a thread panicked")))
}

/// Work beside the session, which ends the session's waits when it ends.
struct Background<T> {
    thread: Option<JoinHandle<Result<T, Failure>>>,
    result: Option<T>,
    done: UnixStream,
}

impl<T: Send + 'static> Background<T> {
    fn spawn(work: fn() -> Result<T, Failure>) -> Self {
        // Without a pair the waits end by themselves a little later.
        let (done, at_end) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => give_up(&Failure::new(FailureReason::Channel, error.to_string()), None),
        };
        let thread = std::thread::spawn(move || {
            let result = work();
            drop(at_end);
            result
        });
        Self { thread: Some(thread), result: None, done }
    }

    fn receive(&mut self, link: &mut Link, deadline: Instant) -> Result<Option<Arrival>, Failure> {
        loop {
            let wake = self.thread.is_some().then(|| self.done.as_fd());
            if let Some(arrival) = link.receive(deadline, wake).because(FailureReason::Channel, "receive")? {
                return Ok(Some(arrival));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            if let Some(thread) = self.thread.take() {
                self.result = Some(joined(thread, FailureReason::KernelModule)?);
            }
        }
    }

    fn join(mut self) -> Result<T, Failure> {
        match (self.result.take(), self.thread.take()) {
            (Some(result), _) => Ok(result),
            (None, Some(thread)) => joined(thread, FailureReason::KernelModule),
            (None, None) => Err(Failure::new(FailureReason::KernelModule, "the machine was prepared twice")),
        }
    }
}

fn wait_for_start(link: &mut Link, machine: &mut Background<Volume>, deadline: Instant) -> Result<Start, Failure> {
    loop {
        match machine.receive(link, deadline)? {
            Some(Arrival::Start(start)) => return Ok(start),
            Some(Arrival::Shutdown) => power::off(),
            Some(Arrival::Broker { .. } | Arrival::Watched) => {}
            None => return Err(Failure::new(FailureReason::ReleaseTimeout, "the node never started the session")),
        }
    }
}

fn wait_for_release(
    link: &mut Link,
    machine: &mut Background<Volume>,
    session: &mut Session,
    attester: &mut RootOfTrust,
    deadline: Instant,
) -> Result<Box<InstanceSecrets>, Failure> {
    loop {
        match machine.receive(link, deadline)? {
            Some(Arrival::Broker { seq, body }) => match session.handle(seq, &body, attester)? {
                Outcome::Released(secrets) => return Ok(secrets),
                Outcome::Reply(message) => link.say(&message).because(FailureReason::Channel, "reply")?,
                Outcome::Ignored | Outcome::Acknowledged(_) => {}
            },
            Some(Arrival::Start(_) | Arrival::Watched) => {}
            Some(Arrival::Shutdown) => power::off(),
            None => {
                let seen = format!("no release within {RELEASE_BOUND:?}; last broker message: {}", session.last_read());
                return Err(Failure::new(FailureReason::ReleaseTimeout, seen));
            }
        }
    }
}

/// Until the pin is stored, the next boot would still be told to initialise: nothing of the customer's is written yet.
fn wait_for_acknowledgement(
    link: &mut Link,
    session: &mut Session,
    attester: &mut RootOfTrust,
    pin: [u8; 32],
) -> Result<(), Failure> {
    let deadline = Instant::now() + RELEASE_BOUND;
    loop {
        match link.receive(deadline, None).because(FailureReason::Channel, "receive")? {
            Some(Arrival::Broker { seq, body }) => match session.handle(seq, &body, attester)? {
                Outcome::Acknowledged(stored) if stored == pin => return Ok(()),
                Outcome::Reply(message) => link.say(&message).because(FailureReason::Channel, "reply")?,
                Outcome::Acknowledged(_) | Outcome::Ignored | Outcome::Released(_) => {}
            },
            Some(Arrival::Start(_) | Arrival::Watched) => {}
            Some(Arrival::Shutdown) => power::off(),
            None => {
                return Err(Failure::new(
                    FailureReason::PinUnacknowledged,
                    "the broker did not acknowledge the header pin",
                ));
            }
        }
    }
}

fn expectation(secrets: &InstanceSecrets) -> Result<Expectation, Failure> {
    match (secrets.initialise, secrets.header_pin) {
        (true, None) => Ok(Expectation::Initialise),
        (false, Some(pin)) => Ok(Expectation::Pinned(pin)),
        _ => Err(Failure::new(
            FailureReason::ReleaseInvalid,
            "the secrets must either pin a header or allow to initialise",
        )),
    }
}

fn write_personality(secrets: &InstanceSecrets, ssh_host_key: &SshHostKey) -> Result<(), Failure> {
    let reason = FailureReason::RootAssembly;
    rustix::system::sethostname(secrets.hostname.as_bytes()).because(reason, "host name")?;
    Personality {
        hostname: &secrets.hostname,
        authorized_keys: &secrets.authorized_keys,
        environment: &secrets.environment,
        user_data: secrets.user_data.as_deref().map(Vec::as_slice),
        ssh_host_key: &ssh_host_key.private,
    }
    .write(Path::new("/"))
    .because(reason, "personality")
}
