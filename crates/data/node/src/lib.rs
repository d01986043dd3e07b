//! The node agent: turns the control plane's desired set into running guests, and holds no key.
//!
//! It owns everything below its data folder (see `layout`), the node's network namespace and its cgroups. Guests outlive
//! it: an agent that is killed and started again finds every QEMU by its record, keeps it, and removes what nothing
//! explains. It never reads what it relays: mailbox bodies, blocks and tunnel bytes appear in no log.
//!
//! # Privileges
//! It runs as user 0 with [`CAPABILITIES`] alone. QEMU and swtpm run as numeric users of their own, one pair an
//! instance, from [`NodeConfig::uid_base`] up, without any capability, in an empty network namespace, a cgroup and a
//! session of their own, QEMU under its seccomp filter.

mod channel;
mod host;
mod images;
mod instance;
mod layout;
mod network;
mod node;
mod qemu;
mod reconciler;
mod sync;
mod teardown;
mod tunnel;
mod vtpm;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lambda_transport::{Identity, PeerClient, Protocol, Role, Roots, Shutdown, pki, tls};
use lambda_types::NodeId;
use lambda_types::node::Acceleration;
use lambda_types::shape::Shape;
use rustix::thread::CapabilitySet;
use tokio::sync::watch;

use crate::host::cgroup::{Cgroups, Limits};
use crate::images::Images;
use crate::layout::Layout;
use crate::network::namespace::Namespace;
use crate::node::{Board, Guests, Node, Slots, workshop_uid};
use crate::qemu::probe;
use crate::reconciler::{Reconciler, WORKSHOP, adopt, load_records, recover};
use crate::vtpm::manufacture::Workshop;
use crate::vtpm::pool::Pool;

pub use host::tee::{Lack, Support, Tees};
pub use instance::transition;
pub use qemu::probe::KvmProbe;
pub use qemu::probe_guest::ProbeGuest;
pub use teardown::{stop_guests, teardown};

/// What the agent needs to do its work, and why:
///
/// - `SYS_ADMIN`: make and enter network namespaces, mount the node's one.
/// - `NET_ADMIN`: taps, addresses and nftables inside it.
/// - `SETUID`, `SETGID`: start QEMU and swtpm as users of their own.
/// - `CHOWN`, `FOWNER`, `DAC_OVERRIDE`: give volumes and vTPM state to those users, and manage them afterwards.
/// - `KILL`: end processes of those users.
pub const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::KILL);

/// A good [`NodeConfig::uid_base`]: above what Debian gives to people, containers and systemd's dynamic users.
pub const DEFAULT_UID_BASE: u32 = 1_610_000_000;

/// A good [`NodeConfig::vtpm_pool`]; what is kept ready is never more than the instances that the node can hold.
pub const DEFAULT_VTPM_POOL: usize = 128;

/// How long a stop may take. Guests are not part of it.
const STOP: Duration = Duration::from_secs(5);

/// How long an earlier agent's last children may hold the folder's lock.
const LOCK: Duration = Duration::from_secs(5);

/// What a node offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Virtual processors that may be given out.
    pub vcpus: u32,
    /// Memory that may be given out, MiB.
    pub memory_mib: u64,
    /// Disk that may be given out, GiB.
    pub disk_gib: u64,
}

/// How a node agent is set up.
#[derive(Debug)]
pub struct NodeConfig {
    /// Who it is; its certificate must say the same.
    pub node: NodeId,
    /// Its data folder, mode 0711.
    pub data_dir: PathBuf,
    /// Where the control plane listens.
    pub control: SocketAddr,
    /// Folder with `cert.pem` and `key.pem` of `lambda://node/<id>`.
    pub identity: PathBuf,
    /// PEM of the internal service CA.
    pub internal_ca: PathBuf,
    /// Folder with `cert.pem` and `key.pem` of the node CA.
    pub node_ca: PathBuf,
    /// Folders with images, or of images.
    pub images: Vec<PathBuf>,
    /// The QEMU program, absolute.
    pub qemu: PathBuf,
    /// The swtpm program, absolute.
    pub swtpm: PathBuf,
    /// The nft program, absolute.
    pub nft: PathBuf,
    /// First of the numeric users for instances; two each.
    pub uid_base: u32,
    /// What it offers; nothing for what the host has.
    pub capacity: Option<Capacity>,
    /// How guests execute; nothing to probe.
    pub acceleration: Option<Acceleration>,
    /// Most vTPMs that are kept ready, each some 10 KiB on disk.
    pub vtpm_pool: usize,
    /// The tunnel listener. Its local address is what the control plane is told.
    pub tunnel: TcpListener,
}

/// Runs the agent until `shutdown`. Guests keep running.
///
/// # Errors
/// When the host lacks what it needs, or another agent holds the folder.
pub async fn run(config: NodeConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    host::process::seal_inherited_descriptors().context("cannot seal inherited descriptors")?;
    let layout = Layout::new(&config.data_dir);
    let _lock = lock(&layout)?;
    clear_ready(&layout)?;
    let found = load_records(&layout).context("cannot read the instances")?;
    let (verdict, acceleration) = watch::channel(config.acceleration);
    let capacity = match config.capacity {
        Some(capacity) => capacity,
        None => sync::host_capacity(&layout).context("cannot tell this host's capacity")?,
    };
    let node = Arc::new(build(&config, layout, capacity, acceleration)?);
    let known = recover(&node, found).context("cannot read the stored desired set")?;
    adopt(&node, &known).await.context("cannot take up what an earlier agent left")?;
    let scanning = node.clone();
    let images = tokio::task::spawn_blocking(move || scanning.images.scan()).await?;
    let (found, images) = watch::channel(images);
    let reconciler = Reconciler::start(node.clone(), known)?;

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(decide_acceleration(node.clone(), verdict, images.clone()));
    tasks.spawn(sync::watch_images(node.clone(), found));
    let listener = tunnel_listener(&config)?;
    let address = listener.local_addr()?;
    tasks.spawn(tunnel::serve(node.clone(), listener, tunnel_acceptor(&config)?, shutdown.clone()));
    let sync = sync::Sync {
        client: control_client(&config)?,
        capacity,
        measured: config.capacity.is_none(),
        id: config.node,
        tunnel: address,
        images,
        ready: Some(mark_ready(node.layout.clone())),
        node,
    };
    sync.run(reconciler, shutdown).await;
    tasks.abort_all();
    let stopped = tokio::time::timeout(STOP, async { while tasks.join_next().await.is_some() {} }).await;
    stopped.context("the agent's tasks did not stop in time")
}

/// Takes the folder. A child that an agent forked just before it was killed holds the lock until it executes its program:
/// waiting for it means that no process can appear later of which nobody knows.
fn lock(layout: &Layout) -> anyhow::Result<std::fs::File> {
    let path = layout.lock();
    let file = std::fs::File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = std::time::Instant::now() + LOCK;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                let text = format!("another node agent uses {}; stop it first", layout.root().display());
                return Err(error).context(text);
            }
        }
    }
}

fn build(
    config: &NodeConfig,
    layout: Layout,
    capacity: Capacity,
    acceleration: watch::Receiver<Option<Acceleration>>,
) -> anyhow::Result<Node> {
    let cgroups = Cgroups::open(layout.root()).context("cgroups are needed (v2, or v1 with memory, pids and cpu)")?;
    cgroups.kill_members(WORKSHOP, &[], STOP).context("leftover vTPM manufacture")?;
    let limits = Limits { memory_bytes: 256 << 20, processes: 64, cpus: 2 };
    let workshop = Workshop {
        swtpm: config.swtpm.clone(),
        authority: Arc::new(pki::Authority::load(&config.node_ca).context("cannot load the node CA")?),
        uid: workshop_uid(config.uid_base),
        cgroup: Arc::new(cgroups.create(WORKSHOP, limits).context("cannot make a cgroup")?),
    };
    Ok(Node {
        namespace: Namespace::open(&layout.netns())?,
        pool: Pool::open(&layout.pool(), workshop, pool_size(config.vtpm_pool, capacity))
            .context("cannot open the vTPM pool")?,
        layout,
        images: Images::new(config.images.clone()),
        cgroups,
        qemu: config.qemu.clone(),
        swtpm: config.swtpm.clone(),
        nft: config.nft.clone(),
        uid_base: config.uid_base,
        acceleration,
        tees: Tees::detect(&config.qemu),
        board: Board::new(),
        guests: Guests::default(),
        slots: Slots::default(),
    })
}

/// One vTPM for each of the smallest instances that fit, up to what is configured.
fn pool_size(most: usize, capacity: Capacity) -> usize {
    let smallest = Shape::ALL[0];
    let fit = u64::from(capacity.vcpus / smallest.vcpus()).min(capacity.memory_mib / smallest.memory_mib());
    most.min(usize::try_from(fit).unwrap_or(usize::MAX))
}

/// Probes as soon as there is a kernel to probe with, unless the verdict is known.
async fn decide_acceleration(
    node: Arc<Node>,
    verdict: watch::Sender<Option<Acceleration>>,
    mut images: watch::Receiver<Vec<lambda_types::node::OfferedImage>>,
) {
    if verdict.borrow().is_some() {
        return;
    }
    let cache = node.layout.acceleration();
    if let Some(known) = probe::cached(&cache, &node.qemu) {
        verdict.send_replace(Some(known));
        return node.board.announce();
    }
    let kernel = loop {
        if let Some(kernel) = node.images.any_kernel() {
            break kernel;
        }
        if images.changed().await.is_err() {
            return;
        }
    };
    verdict.send_replace(Some(probe::probe(&cache, &node.qemu, &kernel).await));
    node.board.announce();
}

fn tunnel_listener(config: &NodeConfig) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = config.tunnel.try_clone().context("the tunnel listener")?;
    listener.set_nonblocking(true).context("the tunnel listener")?;
    tokio::net::TcpListener::from_std(listener).context("the tunnel listener")
}

fn tunnel_acceptor(config: &NodeConfig) -> anyhow::Result<tokio_rustls::TlsAcceptor> {
    let (identity, roots) = (Identity::load(&config.identity)?, Roots::load(&config.internal_ca)?);
    Ok(tls::mutual_server_config(identity, &roots, Protocol::Tunnel)?.into())
}

fn control_client(config: &NodeConfig) -> anyhow::Result<PeerClient> {
    let (identity, roots) = (Identity::load(&config.identity)?, Roots::load(&config.internal_ca)?);
    let tls = tls::mutual_client_config(identity, &roots, Protocol::Http)?;
    Ok(PeerClient::new(Role::Control, config.control, &tls)?)
}

fn ready_file(data_dir: &Path) -> PathBuf {
    data_dir.join("ready")
}

fn clear_ready(layout: &Layout) -> anyhow::Result<()> {
    match std::fs::remove_file(ready_file(layout.root())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the ready file")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn mark_ready(layout: Layout) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let pid = std::process::id().to_string();
        if let Err(error) = std::fs::write(ready_file(layout.root()), pid) {
            tracing::warn!(%error, "cannot write the ready file");
        }
    })
}

/// Whether the agent of this data folder runs and has exchanged states with the control plane since it started.
#[must_use]
pub fn is_ready(data_dir: &Path) -> bool {
    let pid = std::fs::read_to_string(ready_file(data_dir)).ok();
    pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}
