//! Instances as the API shows them, and the pure function that computes the state a user sees.

use serde::{Deserialize, Serialize};

use crate::guest::{FailureReason, GuestPhase};
use crate::launch::SnpLaunch;
use crate::sealed::{InstanceSecretsKind, MetadataKind, Sealed};
use crate::shape::{LaunchProfile, Shape};
use crate::{BootId, ImageId, InstanceId, NodeId, VolumeId};

/// Smallest and largest volume, GiB.
pub const VOLUME_GIB: std::ops::RangeInclusive<u32> = 1..=1024;

/// Body of `POST /v1/instances`. Answered with 202 and an [`Instance`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateInstance {
    /// Chosen by the customer, so that sealed values can name it as associated data before anything is sent.
    pub id: InstanceId,
    /// Size.
    pub shape: Shape,
    /// Image.
    pub image: ImageId,
    /// Launch profile.
    #[serde(default)]
    pub profile: LaunchProfile,
    /// For profile `snp`: guest policy and ID block. The node makes the default where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<SnpLaunch>,
    /// Size of the encrypted volume, GiB ([`VOLUME_GIB`]).
    pub volume_gib: u32,
    /// Opaque to everyone but the customer.
    pub secrets: Sealed<InstanceSecretsKind>,
    /// Opaque to everyone but the customer.
    pub metadata: Sealed<MetadataKind>,
}

/// Body of `PATCH /v1/instances/{id}` (needs If-Match): replaces sealed values, or enlarges the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct UpdateInstance {
    /// New sealed secrets.
    pub secrets: Option<Sealed<InstanceSecretsKind>>,
    /// New sealed metadata.
    pub metadata: Option<Sealed<MetadataKind>>,
    /// New size of the volume, GiB ([`VOLUME_GIB`]); never smaller than it is. The guest takes it up at its next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_gib: Option<u32>,
}

/// An instance. `GET /v1/instances/{id}` carries its `etag` in the ETag header too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Identity.
    pub id: InstanceId,
    /// Version of the record, for If-Match: `"<number>"` without quotes.
    pub etag: String,
    /// Grows with each change of what is desired.
    pub generation: u64,
    /// Size.
    pub shape: Shape,
    /// Image.
    pub image: ImageId,
    /// Launch profile.
    pub profile: LaunchProfile,
    /// The volume.
    pub volume: VolumeId,
    /// Its size, GiB.
    pub volume_gib: u32,
    /// Where it runs.
    pub node: Option<NodeId>,
    /// The boot under way.
    pub boot: Option<BootId>,
    /// What the user asked for.
    pub desired: Power,
    /// Computed from desired and observed state.
    pub state: InstanceState,
    /// Why it is not where it should be: what is awaited, since when, until when.
    pub conditions: Vec<Condition>,
    /// When each phase of the current boot began, in order.
    pub phases: Vec<PhaseTime>,
    /// When it was created, milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// Sealed secrets.
    pub secrets: Sealed<InstanceSecretsKind>,
    /// Sealed metadata.
    pub metadata: Sealed<MetadataKind>,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// At most the page size.
    pub items: Vec<T>,
    /// Opaque; pass as `cursor` for the next page. Absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What is wanted of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Run.
    Running,
    /// Be off and hold no key.
    Stopped,
    /// Be gone, volume included.
    Deleted,
}

/// What a node observes of an instance; ordered as a creation passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Disk, vTPM and network are being made.
    Preparing,
    /// QEMU runs; the guest has not spoken.
    Booting,
    /// See [`GuestPhase::Attesting`].
    Attesting,
    /// See [`GuestPhase::Unlocking`].
    Unlocking,
    /// See [`GuestPhase::Starting`].
    Starting,
    /// See [`GuestPhase::Ready`].
    Ready,
    /// A clean shutdown was asked for.
    Stopping,
    /// No process; the volume remains.
    Stopped,
    /// The node could not start it, the guest gave up, or QEMU ended unasked.
    Failed,
    /// Nothing remains on the node.
    Gone,
}

impl Phase {
    /// Longest that the node lets this phase last, milliseconds; `None` for one that may last for ever. A phase that
    /// takes longer fails with [`Failure::Timeout`], or, on the way down, is ended.
    #[must_use]
    pub const fn bound_ms(self) -> Option<u64> {
        match self {
            // Firmware, kernel and module loading, in software emulation on a busy machine.
            Self::Preparing | Self::Booting => Some(180_000),
            // The guest gives up after 15 minutes and says so; this catches one that does not.
            Self::Attesting => Some(16 * 60_000),
            Self::Unlocking | Self::Starting => Some(300_000),
            // systemd gives a service 90 s to stop.
            Self::Stopping => Some(100_000),
            Self::Failed => Some(30_000),
            Self::Ready | Self::Stopped | Self::Gone => None,
        }
    }
}

impl From<GuestPhase> for Phase {
    fn from(phase: GuestPhase) -> Self {
        match phase {
            GuestPhase::Attesting => Self::Attesting,
            GuestPhase::Unlocking => Self::Unlocking,
            GuestPhase::Starting => Self::Starting,
            GuestPhase::Ready => Self::Ready,
            GuestPhase::Stopping => Self::Stopping,
            GuestPhase::Failed => Self::Failed,
        }
    }
}

/// The state that a user sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// No node chosen yet.
    Scheduling,
    /// A node was chosen and prepares it.
    Preparing,
    /// QEMU runs.
    Booting,
    /// Evidence is exchanged; waits for the customer's broker.
    Attesting,
    /// The volume is being unlocked.
    Unlocking,
    /// The init system starts.
    Starting,
    /// SSH answers.
    Ready,
    /// Going down.
    Stopping,
    /// Off.
    Stopped,
    /// Gave up; `why` tells.
    Failed,
    /// Being removed.
    Deleting,
}

impl std::fmt::Display for InstanceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scheduling => "scheduling",
            Self::Preparing => "preparing",
            Self::Booting => "booting",
            Self::Attesting => "attesting",
            Self::Unlocking => "unlocking",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        })
    }
}

/// Why an instance failed. Closed; nothing free-form that could carry tenant data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The guest gave up before or after release.
    Guest(FailureReason),
    /// QEMU is not installed or did not start.
    QemuStart,
    /// The vTPM process did not start or ended.
    Vtpm,
    /// The node's disk is full.
    DiskFull,
    /// The tap, the segment or its rules could not be made.
    Network,
    /// The image is not on the node or a part's hash differs.
    Image,
    /// QEMU ended without being asked.
    QemuExit,
    /// The cgroup or another host resource could not be made.
    HostResource,
    /// A phase took longer than its bound.
    Timeout(Phase),
    /// No node has room.
    Capacity,
}

impl Failure {
    /// The stable code, as in JSON; of [`Failure::Guest`] the guest's reason.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Guest(reason) => reason.code(),
            Self::QemuStart => "qemu-start",
            Self::Vtpm => "vtpm",
            Self::DiskFull => "disk-full",
            Self::Network => "network",
            Self::Image => "image",
            Self::QemuExit => "qemu-exit",
            Self::HostResource => "host-resource",
            Self::Timeout(_) => "timeout",
            Self::Capacity => "capacity",
        }
    }
}

/// Something an instance waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is awaited or wrong.
    pub kind: ConditionKind,
    /// A sentence for a person.
    pub message: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When the wait gives up, if it is bounded by a clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// Kinds of condition; stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKind {
    /// No node has capacity for the shape.
    AwaitingCapacity,
    /// The node has not confirmed the newest generation.
    AwaitingNode,
    /// The node has not been heard from.
    NodeUnreachable,
    /// The guest boots.
    AwaitingGuest,
    /// The guest sent evidence or a hello, and no broker has answered.
    AwaitingBroker,
    /// The broker answered; the guest works.
    AwaitingUnlock,
    /// The guest is starting its services.
    AwaitingServices,
    /// A clean shutdown is under way.
    AwaitingShutdown,
    /// It failed.
    Failed,
    /// The guest powered itself off; it stays off until it is started.
    PoweredOff,
    /// It runs, and something it needs is lost.
    Degraded,
}

/// When a phase began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// Milliseconds since 1970-01-01 UTC, the node's clock.
    pub at_ms: u64,
}

/// The state that a user sees: a pure function of what is desired and what was last observed.
///
/// `placed` is false until a node was chosen. `observed` is `None` until the node reports, and is ignored by the
/// caller when it belongs to an older restart. So `Stopped` of a wanted boot means that the guest powered itself off,
/// and it stays off.
#[must_use]
pub fn state(desired: Power, placed: bool, observed: Option<Phase>) -> InstanceState {
    match (desired, observed) {
        (Power::Deleted, _) => InstanceState::Deleting,
        (Power::Running, None | Some(Phase::Gone)) if !placed => InstanceState::Scheduling,
        (Power::Running, None | Some(Phase::Gone | Phase::Preparing)) => InstanceState::Preparing,
        (Power::Running, Some(Phase::Booting)) => InstanceState::Booting,
        (Power::Running, Some(Phase::Attesting)) => InstanceState::Attesting,
        (Power::Running, Some(Phase::Unlocking)) => InstanceState::Unlocking,
        (Power::Running, Some(Phase::Starting)) => InstanceState::Starting,
        (Power::Running, Some(Phase::Ready)) => InstanceState::Ready,
        (Power::Running, Some(Phase::Stopping)) => InstanceState::Stopping,
        (Power::Running | Power::Stopped, Some(Phase::Failed)) => InstanceState::Failed,
        (Power::Running, Some(Phase::Stopped)) => InstanceState::Stopped,
        (Power::Stopped, None | Some(Phase::Stopped | Phase::Gone)) => InstanceState::Stopped,
        (Power::Stopped, Some(_)) => InstanceState::Stopping,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unplaced_instance_is_scheduling() {
        assert_eq!(state(Power::Running, false, None), InstanceState::Scheduling);
        assert_eq!(state(Power::Running, true, None), InstanceState::Preparing);
    }

    #[test]
    fn stop_of_a_ready_instance_shows_stopping_until_the_node_says_stopped() {
        assert_eq!(state(Power::Stopped, true, Some(Phase::Ready)), InstanceState::Stopping);
        assert_eq!(state(Power::Stopped, true, Some(Phase::Stopped)), InstanceState::Stopped);
    }

    #[test]
    fn a_guest_that_powered_itself_off_is_stopped() {
        assert_eq!(state(Power::Running, true, Some(Phase::Stopped)), InstanceState::Stopped);
    }

    #[test]
    fn a_failures_code_is_its_name_in_json() {
        let all = [Failure::QemuStart, Failure::Vtpm, Failure::DiskFull, Failure::Network, Failure::Image];
        for failure in all.into_iter().chain([Failure::QemuExit, Failure::HostResource, Failure::Capacity]) {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.code());
        }
        let (guest, late) = (Failure::Guest(FailureReason::VolumeKey), Failure::Timeout(Phase::Booting));
        assert_eq!(serde_json::to_value(guest).unwrap()["guest"], guest.code());
        assert_eq!(serde_json::to_value(late).unwrap()[late.code()], "booting");
    }

    #[test]
    fn a_degradations_code_is_its_name_in_json() {
        for degradation in crate::guest::Degradation::ALL {
            assert_eq!(serde_json::to_value(degradation).unwrap(), degradation.code());
        }
    }

    #[test]
    fn deletion_wins_over_every_observation() {
        for phase in [None, Some(Phase::Ready), Some(Phase::Failed), Some(Phase::Gone)] {
            assert_eq!(state(Power::Deleted, true, phase), InstanceState::Deleting);
        }
    }
}
