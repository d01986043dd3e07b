//! The conversation with the control plane: one long-poll outstanding, and a report at once when something changes.
//!
//! While the control plane cannot be reached, guests run on and the stored desired set stays in force.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lambda_transport::{PeerClient, Shutdown};
use lambda_types::NodeId;
use lambda_types::node::{Acceleration, NodeOffer, OfferedImage, SyncRequest, SyncResponse};
use lambda_types::shape::{GIB, LaunchProfile, Shape};
use tokio::sync::watch;

use crate::Capacity;
use crate::layout::{Layout, file};
use crate::node::Node;
use crate::qemu::arguments;
use crate::reconciler::Reconciler;

const PATH: &str = "/node/v1/sync";

/// Length of a long-poll.
const WAIT_SECONDS: u32 = 25;

/// Beyond the long-poll, for the network and a busy control plane.
const SLACK: Duration = Duration::from_secs(10);

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Unit of `st_blocks`.
const STAT_BLOCK: u64 = 512;

/// How often folders are looked through for new images.
const IMAGE_SCAN: Duration = Duration::from_secs(30);

pub(crate) struct Sync {
    pub(crate) node: Arc<Node>,
    pub(crate) id: NodeId,
    pub(crate) client: PeerClient,
    pub(crate) capacity: Capacity,
    /// The capacity is what the host has, with what QEMU needs beside its guest's memory in it.
    pub(crate) measured: bool,
    pub(crate) tunnel: SocketAddr,
    pub(crate) images: watch::Receiver<Vec<OfferedImage>>,
    /// Told once, after the first exchange.
    pub(crate) ready: Option<Box<dyn FnOnce() + Send>>,
}

impl Sync {
    /// Runs until shutdown.
    pub(crate) async fn run(mut self, mut reconciler: Reconciler, shutdown: Shutdown) {
        let mut failures = 0;
        let mut changes = self.node.board.changes();
        while !shutdown.is_cancelled() {
            changes.mark_unchanged();
            // Nothing may be held back by the long-poll: report first, then wait.
            let answer = self.exchange(self.request(&reconciler, 0), &shutdown).await;
            if !self.digest(answer, &mut reconciler, &mut failures, &shutdown).await {
                continue;
            }
            self.listen(&mut reconciler, &mut changes, &mut failures, &shutdown).await;
        }
    }

    /// Holds a long-poll until it answers or something changes here. A poll that a change cuts short costs nothing:
    /// both directions carry whole states.
    async fn listen(
        &mut self,
        reconciler: &mut Reconciler,
        changes: &mut watch::Receiver<u64>,
        failures: &mut u32,
        shutdown: &Shutdown,
    ) {
        let answer = {
            let poll = self.exchange(self.request(reconciler, WAIT_SECONDS), shutdown);
            tokio::select! {
                answer = poll => answer,
                _ = changes.changed() => return,
            }
        };
        self.digest(answer, reconciler, failures, shutdown).await;
    }

    fn request(&self, reconciler: &Reconciler, wait_seconds: u32) -> SyncRequest {
        SyncRequest {
            node: self.id,
            generation: reconciler.generation(),
            observed: self.node.board.all(),
            offer: self.offer(),
            wait_seconds,
        }
    }

    fn offer(&self) -> NodeOffer {
        let acceleration = self.node.acceleration.borrow().unwrap_or(Acceleration::Tcg);
        let tees = self.node.tees.capacities();
        let Capacity { vcpus, memory_mib, .. } = self.capacity;
        NodeOffer {
            vcpus,
            memory_mib: if self.measured { guest_memory_mib(memory_mib, vcpus, acceleration) } else { memory_mib },
            disk_gib: self.capacity.disk_gib,
            profiles: [LaunchProfile::Tpm].into_iter().chain(tees.iter().map(|tee| tee.profile)).collect(),
            tees,
            images: self.images.borrow().clone(),
            acceleration,
            tunnel: self.tunnel,
        }
    }

    async fn exchange(&self, request: SyncRequest, shutdown: &Shutdown) -> Option<Result<SyncResponse, String>> {
        let bound = Duration::from_secs(request.wait_seconds.into()) + SLACK;
        let call = self.client.post::<SyncRequest, SyncResponse>(PATH, &request, Default::default(), bound);
        tokio::select! {
            answer = call => Some(answer.map_err(|error| error.to_string())),
            () = shutdown.cancelled() => None,
        }
    }

    /// Acts on an answer; pauses after a failure. `false` when there was none.
    async fn digest(
        &mut self,
        answer: Option<Result<SyncResponse, String>>,
        reconciler: &mut Reconciler,
        failures: &mut u32,
        shutdown: &Shutdown,
    ) -> bool {
        let failure = match answer {
            None => return false,
            Some(Ok(response)) => match reconciler.apply(response).await {
                Ok(()) => None,
                Err(error) => Some(format!("cannot store the desired set: {error}")),
            },
            Some(Err(error)) => Some(error),
        };
        let Some(error) = failure else {
            *failures = 0;
            if let Some(ready) = self.ready.take() {
                ready();
            }
            return true;
        };
        let pause = backoff(*failures);
        if failures.is_multiple_of(20) {
            tracing::warn!(error, "no contact with the control plane; guests run on");
        }
        *failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
        false
    }
}

/// Doubles up to the longest, less up to a half at random, so that nodes do not come back all at once.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << failures.min(10)).min(longest);
    let mut byte = [0];
    // Without randomness the pause is merely not spread.
    let spread = if getrandom::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 0 };
    full.saturating_sub(full / 2 * spread / 255)
}

/// Looks for images again and again; announces a change.
pub(crate) async fn watch_images(node: Arc<Node>, found: watch::Sender<Vec<OfferedImage>>) {
    loop {
        tokio::time::sleep(IMAGE_SCAN).await;
        let scanning = node.clone();
        let Ok(images) = tokio::task::spawn_blocking(move || scanning.images.scan()).await else { return };
        let changed = found.send_if_modified(|held| {
            let changed = *held != images;
            *held = images;
            changed
        });
        if changed {
            node.board.announce();
        }
    }
}

/// Capacity of this host, where the configuration names none: twice its processors, its memory less a gibibyte, and
/// what volumes may take of the data folder's disk.
pub(crate) fn host_capacity(layout: &Layout) -> std::io::Result<Capacity> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))?;
    Ok(Capacity {
        vcpus: u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(2),
        memory_mib: (total_kib / 1024).saturating_sub(1024),
        disk_gib: volume_bytes(layout)? / GIB,
    })
}

/// What volumes may take: the free space and what they have taken, less a twentieth. A volume is booked at its full size
/// however much of it is written, so what it has taken must not be missing from the offer as well: the sum stays the same while
/// guests write and agents come and go.
fn volume_bytes(layout: &Layout) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let disk = rustix::fs::statvfs(layout.root())?;
    let mut bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    for entry in std::fs::read_dir(layout.instances())? {
        match std::fs::metadata(entry?.path().join(file::VOLUME)) {
            Ok(volume) => bytes = bytes.saturating_add(volume.blocks().saturating_mul(STAT_BLOCK)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes - bytes / 20)
}

/// Memory for guests, so that the cgroup limits of a full node fit into `available_mib`. The control plane books a guest's memory
/// alone, and any mix of shapes may come: the offer leaves room for as many QEMUs as there can be, which is one a processor
/// offered or, where memory ends first, one for each of the smallest guests.
fn guest_memory_mib(available_mib: u64, vcpus: u32, acceleration: Acceleration) -> u64 {
    let overhead = arguments::overhead_mib(acceleration);
    let smallest = Shape::ALL[0];
    let by_processors = available_mib.saturating_sub(overhead.saturating_mul((vcpus / smallest.vcpus()).into()));
    let by_memory =
        (available_mib / smallest.memory_mib().saturating_add(overhead)).saturating_mul(smallest.memory_mib());
    by_processors.max(by_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_within_their_bounds() {
        for failures in [0, 1, 5, 100, u32::MAX] {
            let pause = backoff(failures);
            assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1, "{failures}: {pause:?}");
        }
        assert!(backoff(10) >= BACKOFF.1 / 2);
    }

    #[test]
    fn the_host_offers_something() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        std::fs::create_dir(layout.instances()).unwrap();
        let capacity = host_capacity(&layout).unwrap();
        assert!(capacity.vcpus >= 2 && capacity.memory_mib > 0);
    }

    #[test]
    fn what_guests_have_written_to_their_volumes_is_still_offered() {
        let folder = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", rustix::mount::MountFlags::empty(), c"size=64m").unwrap();
        let layout = Layout::new(folder.path());
        let instance = layout.instance(lambda_types::InstanceId::from_bits(1));
        std::fs::create_dir_all(&instance).unwrap();
        let before = volume_bytes(&layout);
        std::fs::write(instance.join(file::VOLUME), vec![7; 16 << 20]).unwrap();
        let after = volume_bytes(&layout);
        rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        let (before, after) = (before.unwrap(), after.unwrap());
        assert!(before.abs_diff(after) < 1 << 16, "{before} and {after}");
    }

    #[test]
    fn the_limits_of_any_full_node_fit_into_its_memory() {
        for acceleration in [Acceleration::Kvm, Acceleration::Tcg] {
            for (available, vcpus) in [(15_000, 4), (15_000, 256), (600, 2), (1_000_000, 64), (2_048, 4)] {
                let offer = guest_memory_mib(available, vcpus, acceleration);
                assert!(offer * 4 >= available.saturating_sub(1100), "{offer} of {available} is too little");
                for shape in Shape::ALL {
                    let most = (offer / shape.memory_mib()).min(u64::from(vcpus / shape.vcpus()));
                    let used = most * (arguments::memory_limit(shape, acceleration) >> 20);
                    assert!(used <= available, "{most} of {shape} take {used} of {available} MiB");
                }
            }
        }
    }
}
