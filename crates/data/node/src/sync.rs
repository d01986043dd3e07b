//! The conversation with the control plane: one long-poll outstanding, and a report at once when something changes.
//!
//! While the control plane cannot be reached, guests run on and the stored desired set stays in force.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lambda_transport::{PeerClient, Shutdown};
use lambda_types::NodeId;
use lambda_types::node::{Acceleration, NodeOffer, OfferedImage, SyncRequest, SyncResponse};
use lambda_types::shape::{GIB, LaunchProfile};
use tokio::sync::watch;

use crate::Capacity;
use crate::node::Node;
use crate::reconciler::Reconciler;

const PATH: &str = "/node/v1/sync";

/// Length of a long-poll.
const WAIT_SECONDS: u32 = 25;

/// Beyond the long-poll, for the network and a busy control plane.
const SLACK: Duration = Duration::from_secs(10);

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How often folders are looked through for new images.
const IMAGE_SCAN: Duration = Duration::from_secs(30);

pub(crate) struct Sync {
    pub(crate) node: Arc<Node>,
    pub(crate) id: NodeId,
    pub(crate) client: PeerClient,
    pub(crate) capacity: Capacity,
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
        NodeOffer {
            vcpus: self.capacity.vcpus,
            memory_mib: self.capacity.memory_mib,
            disk_gib: self.capacity.disk_gib,
            profiles: vec![LaunchProfile::Tpm],
            images: self.images.borrow().clone(),
            acceleration: self.node.acceleration.borrow().unwrap_or(Acceleration::Tcg),
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
            Some(Ok(response)) => match reconciler.apply(response) {
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
/// the free space of the data folder's disk less a twentieth.
pub(crate) fn host_capacity(data_dir: &std::path::Path) -> std::io::Result<Capacity> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal"))?;
    let disk = rustix::fs::statvfs(data_dir)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(Capacity {
        vcpus: u32::try_from(processors).unwrap_or(u32::MAX).saturating_mul(2),
        memory_mib: (total_kib / 1024).saturating_sub(1024),
        disk_gib: (free - free / 20) / GIB,
    })
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
        let capacity = host_capacity(std::path::Path::new("/")).unwrap();
        assert!(capacity.vcpus >= 2 && capacity.memory_mib > 0);
    }
}
