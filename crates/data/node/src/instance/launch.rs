//! From nothing to a running QEMU, and back to nothing.
//!
//! Disk, vTPM, tap and image are prepared at the same time; QEMU finds every socket already listening, so nothing is
//! waited for. Whatever fails, [`scrub`] removes what was made, except what stays with the instance: volume and vTPM.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lambda_types::InstanceId;
use lambda_types::image::file as part;
use lambda_types::instance::Failure;
use lambda_types::node::{Acceleration, DesiredInstance};
use lambda_types::shape::LaunchProfile;

use super::state::InstanceRecord;
use super::volume;
use crate::host::cgroup::Limits;
use crate::host::process::{ProcessRef, Sandbox, spawn};
use crate::images::{Image, ImageError};
use crate::layout::{file, listen};
use crate::network::firewall::{self, Guest};
use crate::network::{NetworkError, Segment, mac_text, tap};
use crate::node::Node;
use crate::qemu::arguments::{self, Machine, Parts};
use crate::qemu::launch::Launch;
use crate::qemu::probe;
use crate::vtpm::{self, Identity, VtpmError};

/// Processes and threads that QEMU and swtpm may have.
const MAX_PROCESSES: u64 = 256;

/// How long killed processes may take to go.
const GOING: Duration = Duration::from_secs(10);

/// Why an instance does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Vtpm(#[from] VtpmError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("its segment overlaps another instance's")]
    Overlap,
    #[error("volume: {0}")]
    Volume(io::Error),
    #[error("cgroup: {0}")]
    Cgroup(io::Error),
    #[error("its folder: {0}")]
    Folder(io::Error),
    #[error("cannot start {program}: {source}; install the package qemu-system-x86")]
    Qemu { program: PathBuf, source: io::Error },
    #[error("this host runs no guests of profile {0}; `lambdad doctor` says why")]
    Profile(LaunchProfile),
    #[error("a task of the agent ended early")]
    Task,
}

impl StartError {
    /// What the control plane is told.
    pub(crate) fn failure(&self) -> Failure {
        if is_disk_full(self) {
            return Failure::DiskFull;
        }
        match self {
            Self::Image(_) => Failure::Image,
            Self::Vtpm(_) => Failure::Vtpm,
            Self::Network(_) | Self::Overlap => Failure::Network,
            Self::Qemu { .. } => Failure::QemuStart,
            Self::Volume(_) | Self::Cgroup(_) | Self::Folder(_) | Self::Profile(_) | Self::Task => {
                Failure::HostResource
            }
        }
    }
}

fn is_disk_full(error: &StartError) -> bool {
    let full = |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if let StartError::Volume(error) | StartError::Folder(error) | StartError::Cgroup(error) = error {
        return full(error);
    }
    let mut source = error.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(full) {
            return true;
        }
        source = error.source();
    }
    false
}

/// What a launch leaves running.
pub(crate) struct Launched {
    pub(crate) qemu: ProcessRef,
    /// Only where the profile has a vTPM.
    pub(crate) swtpm: Option<ProcessRef>,
    pub(crate) identity: Identity,
}

/// Makes the instance's folder.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
}

/// Starts an instance whose folder and record exist.
///
/// # Errors
/// When any part cannot be made; the caller scrubs.
pub(crate) async fn launch(node: &Arc<Node>, desired: &DesiredInstance, slot: u32) -> Result<Launched, StartError> {
    let started = Instant::now();
    let folder = node.layout.instance(desired.id);
    let acceleration = acceleration(node, desired).await?;
    let how = how(node, desired)?;
    let segment = Segment::parse(&desired.network)?;
    if !node.guests.claim(desired.id, segment) {
        return Err(StartError::Overlap);
    }
    let cgroup = make_cgroup(node, desired, acceleration).map_err(StartError::Cgroup)?;
    // The vTPM's process is up by the time that the rules are in force. QEMU would find its socket listening anyway.
    let (image, (identity, swtpm), tap, ()) = tokio::try_join!(
        timed("image", open_image(node, desired, how.firmware_part())),
        timed("vtpm", start_vtpm(node, desired, &folder, slot, &cgroup)),
        timed("network", open_network(node, slot, segment)),
        timed("volume", make_volume(node, desired, &folder, slot)),
    )?;
    let order = QemuOrder {
        node: node.clone(),
        instance: desired.id,
        launch: how,
        folder,
        image,
        uid: node.qemu_uid(slot),
        tap,
        cgroup,
        acceleration,
        shape: desired.shape,
        mac: mac_text(segment.mac),
    };
    let qemu = timed("qemu", blocking(move || order.start())).await?;
    tracing::debug!(instance = %desired.id, elapsed_ms = started.elapsed().as_millis(), "QEMU started");
    Ok(Launched { qemu, swtpm, identity })
}

/// How the guest is launched, when this host can.
fn how(node: &Node, desired: &DesiredInstance) -> Result<Launch, StartError> {
    let profile = desired.profile;
    if profile != LaunchProfile::Tpm && !node.tees.can(profile) {
        return Err(StartError::Profile(profile));
    }
    match (profile, node.tees.snp()) {
        (LaunchProfile::Tpm, _) => Ok(Launch::Tpm),
        (LaunchProfile::Sgx, _) => Ok(Launch::Sgx),
        (LaunchProfile::Tdx, _) => Ok(Launch::Tdx),
        (LaunchProfile::Cca, _) => Ok(Launch::Cca),
        (LaunchProfile::Snp, Some(host)) => Ok(Launch::Snp(host, Box::new(desired.launch.clone().unwrap_or_default()))),
        (LaunchProfile::Snp, None) => Err(StartError::Profile(profile)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StartError::Task)?
}

async fn timed<T, E>(step: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let started = Instant::now();
    let result = work.await;
    tracing::debug!(step, elapsed_us = started.elapsed().as_micros(), ok = result.is_ok(), "start step");
    result
}

/// The probe's verdict. The first start after a boot of the host may have to wait for it; a node without images has
/// none, and the missing image is what is wrong then.
async fn acceleration(node: &Arc<Node>, desired: &DesiredInstance) -> Result<Acceleration, StartError> {
    let mut verdict = node.acceleration.clone();
    if let Some(known) = *verdict.borrow() {
        return Ok(known);
    }
    open_image(node, desired, part::FIRMWARE).await?;
    let known = tokio::time::timeout(probe::BOUND.saturating_mul(2), verdict.wait_for(Option::is_some)).await;
    Ok(known.ok().and_then(|found| *found.ok()?).unwrap_or(Acceleration::Tcg))
}

fn make_cgroup(node: &Node, desired: &DesiredInstance, acceleration: Acceleration) -> io::Result<Arc<Vec<OwnedFd>>> {
    let limits = Limits {
        memory_bytes: arguments::memory_limit(desired.shape, acceleration),
        processes: MAX_PROCESSES,
        cpus: desired.shape.vcpus(),
    };
    node.cgroups.create(&desired.id.to_string(), limits).map(Arc::new)
}

/// An image's files, open.
struct OpenImage {
    command_line: String,
    kernel: std::fs::File,
    initramfs: std::fs::File,
    root: std::fs::File,
    firmware: std::fs::File,
}

impl OpenImage {
    fn new(image: &Image, firmware: &str) -> Result<Self, ImageError> {
        Ok(Self {
            command_line: image.manifest.command_line.clone(),
            kernel: image.open(part::KERNEL)?,
            initramfs: image.open(part::INITRAMFS)?,
            root: image.open(part::ROOT)?,
            firmware: image.open(firmware)?,
        })
    }
}

async fn open_image(
    node: &Arc<Node>,
    desired: &DesiredInstance,
    firmware: &'static str,
) -> Result<OpenImage, StartError> {
    let (node, id) = (node.clone(), desired.image);
    blocking(move || Ok(OpenImage::new(&node.images.get(id)?, firmware)?)).await
}

async fn make_volume(node: &Node, desired: &DesiredInstance, folder: &Path, slot: u32) -> Result<(), StartError> {
    let (folder, gib, uid) = (folder.to_owned(), desired.volume_gib, node.qemu_uid(slot));
    blocking(move || volume::prepare(&folder, gib, uid).map_err(StartError::Volume)).await
}

/// Claims the segment of a guest that runs, and lets it in.
///
/// # Errors
/// When its record names no segment, another instance holds it, or the rules are refused.
pub(crate) async fn admit(node: &Arc<Node>, id: InstanceId, record: &InstanceRecord) -> Result<(), StartError> {
    let segment = Segment::parse(&record.network)?;
    if !node.guests.claim(id, segment) {
        return Err(StartError::Overlap);
    }
    let (nft, guest) = (node.nft.clone(), Guest { tap: tap::name(record.slot), segment });
    Ok(node.namespace.run(move || firewall::apply(&nft, &firewall::admit(&guest))).await??)
}

async fn open_network(node: &Node, slot: u32, segment: Segment) -> Result<OwnedFd, StartError> {
    let nft = node.nft.clone();
    let opening = move || {
        let guest = Guest { tap: tap::name(slot), segment };
        // The rules come first: there is no moment in which the tap is up and unguarded.
        firewall::apply(&nft, &firewall::admit(&guest))?;
        tap::create(&guest.tap, segment)
    };
    Ok(node.namespace.run(opening).await??)
}

/// A vTPM's state and its listening control socket, to which only QEMU's user may connect.
async fn prepare_vtpm(node: &Arc<Node>, folder: &Path, slot: u32) -> Result<(UnixListener, Identity), StartError> {
    let failed = |operation| {
        let folder = folder.to_owned();
        move |source| VtpmError::Files { operation, folder, source }
    };
    let identity = match Identity::load(folder).map_err(failed("read vtpm.json"))? {
        Some(identity) => identity,
        None => node.pool.adopt(folder).await?,
    };
    let qemu = node.qemu_uid(slot);
    vtpm::own_state(folder, node.swtpm_uid(slot))?;
    let listener = listen(folder, file::TPM_SOCKET, 0o600).map_err(failed("bind the control socket"))?;
    std::os::unix::fs::chown(folder.join(file::TPM_SOCKET), Some(qemu), Some(qemu))
        .map_err(failed("hand over the control socket"))?;
    Ok((listener, identity))
}

async fn start_vtpm(
    node: &Arc<Node>,
    desired: &DesiredInstance,
    folder: &Path,
    slot: u32,
    cgroup: &Arc<Vec<OwnedFd>>,
) -> Result<(Identity, Option<ProcessRef>), StartError> {
    if !desired.profile.has_vtpm() {
        return Ok((Identity::none(), None));
    }
    let (listener, identity) = prepare_vtpm(node, folder, slot).await?;
    let (node, folder, cgroup) = (node.clone(), folder.to_owned(), cgroup.clone());
    let starting = move || Ok(vtpm::start(&node.swtpm, &folder, &listener, node.swtpm_uid(slot), &cgroup)?);
    Ok((identity, Some(blocking(starting).await?)))
}

/// Everything that QEMU is started with.
struct QemuOrder {
    node: Arc<Node>,
    instance: InstanceId,
    launch: Launch,
    folder: PathBuf,
    image: OpenImage,
    uid: u32,
    tap: OwnedFd,
    cgroup: Arc<Vec<OwnedFd>>,
    acceleration: Acceleration,
    shape: lambda_types::shape::Shape,
    mac: String,
}

impl QemuOrder {
    fn start(&self) -> Result<ProcessRef, StartError> {
        let socket = |name| listen(&self.folder, name, 0o600).map_err(StartError::Folder);
        let (qmp, guest) = (socket(file::QMP_SOCKET)?, socket(file::GUEST_SOCKET)?);
        let log = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.folder.join(file::QEMU_LOG))
            .map_err(StartError::Folder)?;
        let mut command = Command::new(&self.node.qemu);
        command.args(arguments::instance(&self.machine(&qmp, &guest))).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let image = &self.image;
        let sandbox = Sandbox {
            uid: self.uid,
            groups: if self.acceleration == Acceleration::Kvm { kvm_group() } else { Vec::new() },
            cgroup: &self.cgroup,
            inherit: vec![
                qmp.as_fd(),
                guest.as_fd(),
                self.tap.as_fd(),
                image.kernel.as_fd(),
                image.initramfs.as_fd(),
                image.root.as_fd(),
                image.firmware.as_fd(),
            ],
        };
        let failed = |source| StartError::Qemu { program: self.node.qemu.clone(), source };
        spawn(command, &sandbox).map_err(failed)
    }

    fn machine<'a>(&'a self, qmp: &UnixListener, guest: &UnixListener) -> Machine<'a> {
        let image = &self.image;
        Machine {
            instance: self.instance,
            launch: &self.launch,
            acceleration: self.acceleration,
            shape: self.shape,
            command_line: &image.command_line,
            mac: &self.mac,
            parts: Parts {
                kernel: image.kernel.as_raw_fd(),
                initramfs: image.initramfs.as_raw_fd(),
                root: image.root.as_raw_fd(),
                firmware: image.firmware.as_raw_fd(),
            },
            qmp: qmp.as_raw_fd(),
            guest: guest.as_raw_fd(),
            tap: self.tap.as_raw_fd(),
        }
    }
}

/// The group that may open `/dev/kvm`.
fn kvm_group() -> Vec<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/dev/kvm").map(|device| vec![device.gid()]).unwrap_or_default()
}

/// Ends every process of an instance and removes what only a running one needs. Safe to repeat.
///
/// # Errors
/// When something cannot be removed; the caller tries again later.
pub(crate) async fn scrub(node: &Arc<Node>, id: InstanceId, slot: u32, segment: Option<Segment>) -> io::Result<()> {
    let killing = {
        let node = node.clone();
        move || {
            node.cgroups.remove(&id.to_string(), GOING)?;
            let folder = node.layout.instance(id);
            [file::QMP_SOCKET, file::GUEST_SOCKET, file::TPM_SOCKET]
                .iter()
                .try_for_each(|name| remove_file(&folder.join(name)))
        }
    };
    tokio::task::spawn_blocking(killing).await.map_err(io::Error::other)??;
    if let Some(segment) = segment {
        let nft = node.nft.clone();
        let guest = Guest { tap: tap::name(slot), segment };
        let applied = node.namespace.run(move || firewall::apply(&nft, &firewall::remove(&guest))).await;
        applied.map_err(io::Error::other)?.map_err(io::Error::other)?;
    }
    node.guests.release(id);
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes an instance's folder, volume included. A crash in between leaves a folder that the next agent removes.
pub(crate) fn remove_folder(node: &Node, id: InstanceId) -> io::Result<()> {
    let (folder, trash) = (node.layout.instance(id), node.layout.trash(id));
    match std::fs::rename(&folder, &trash) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match std::fs::remove_dir_all(&trash) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The last line that QEMU wrote to its log: why it did not start. It holds options and host paths, nothing of a guest.
pub(crate) fn last_words(folder: &Path) -> String {
    let text = std::fs::read(folder.join(file::QEMU_LOG)).unwrap_or_default();
    let tail = text.get(text.len().saturating_sub(2048)..).unwrap_or_default();
    let tail = String::from_utf8_lossy(tail);
    tail.lines().last().unwrap_or("QEMU wrote nothing").to_owned()
}
