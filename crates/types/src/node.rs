//! The node protocol: `POST /node/v1/sync` over mutual TLS, a long-poll.
//!
//! Level-triggered. The node sends everything it observes and the last generation it has; the control plane answers
//! as soon as what is desired of the node is newer than that, or when the wait is over. Neither side sends events, so
//! a lost exchange costs nothing. A node refuses a desired set older than the one it holds.

use serde::{Deserialize, Serialize};

use crate::guest::{Degradation, GuestNetwork};
use crate::instance::{Failure, Phase, PhaseTime, Power};
use crate::launch::{SnpLaunch, TeeCapacity};
use crate::mailbox::Message;
use crate::shape::{LaunchProfile, Shape};
use crate::{BootId, ImageId, InstanceId, NodeId, VolumeId};

/// Longest long-poll, seconds.
pub const MAX_WAIT_SECONDS: u32 = 30;

/// Body of `POST /node/v1/sync`. The node's identity is its TLS certificate; `node` must match it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Who reports.
    pub node: NodeId,
    /// Generation of the desired set that the node has stored; 0 for none.
    pub generation: u64,
    /// Everything it observes.
    pub observed: Vec<ObservedInstance>,
    /// What the node offers.
    pub offer: NodeOffer,
    /// How long the control plane may hold the request, seconds, at most [`MAX_WAIT_SECONDS`]. 0 answers at once: used
    /// to report a change.
    pub wait_seconds: u32,
}

/// Answer: the whole desired set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncResponse {
    /// Of this desired set; grows with every change of any member, broker messages included.
    pub generation: u64,
    /// Everything the node should have. An instance the node has and this set has not must not be touched unless it
    /// is listed with [`Power::Deleted`]: a control plane that lost its memory must not kill guests.
    pub desired: Vec<DesiredInstance>,
}

/// What the node can take, and where its tunnel listener is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeOffer {
    /// Virtual processors that may be given out.
    pub vcpus: u32,
    /// Memory that may be given out, MiB.
    pub memory_mib: u64,
    /// Disk that may be given out, GiB.
    pub disk_gib: u64,
    /// Launch profiles.
    pub profiles: Vec<LaunchProfile>,
    /// How many guests of each profile whose hardware has keys for so many only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tees: Vec<TeeCapacity>,
    /// Images on the node.
    pub images: Vec<OfferedImage>,
    /// `kvm` or `tcg`, as probed.
    pub acceleration: Acceleration,
    /// Address of the tunnel listener (mutual TLS).
    pub tunnel: std::net::SocketAddr,
}

/// An image that a node has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferedImage {
    /// Identity.
    pub id: ImageId,
    /// Name in the catalogue.
    pub name: String,
    /// Version in the catalogue.
    pub version: String,
}

/// How guests execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// A probe guest really ran under KVM.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// One member of the desired set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredInstance {
    /// Identity.
    pub id: InstanceId,
    /// Of this instance; a node refuses an older one than it holds.
    pub generation: u64,
    /// What is wanted.
    pub power: Power,
    /// Counts wanted boots: grows with each start and restart. A running QEMU of an older epoch is stopped first.
    pub epoch: u64,
    /// Size.
    pub shape: Shape,
    /// Image.
    pub image: ImageId,
    /// Launch profile.
    pub profile: LaunchProfile,
    /// For profile `snp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<SnpLaunch>,
    /// The volume.
    pub volume: VolumeId,
    /// Its size, GiB.
    pub volume_gib: u32,
    /// Network of its one interface.
    pub network: GuestNetwork,
    /// The broker's latest message.
    pub broker: Option<Message>,
}

/// What a node observes of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedInstance {
    /// Identity.
    pub id: InstanceId,
    /// Generation that the node acts on.
    pub generation: u64,
    /// Epoch of the boot that this describes.
    pub epoch: u64,
    /// What is seen.
    pub phase: Phase,
    /// With [`Phase::Failed`].
    pub failure: Option<Failure>,
    /// The boot, once the guest has spoken.
    pub boot: Option<BootId>,
    /// When each phase of this epoch began.
    pub phases: Vec<PhaseTime>,
    /// The guest's latest message.
    pub guest: Option<Message>,
    /// `seq` of the broker message that was handed to the guest; 0 for none.
    pub broker_seq: u64,
    /// What the guest says is wrong with it; with [`Phase::Ready`] alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Degradation>,
}

/// First line on a tunnel connection (gateway to node, mutual TLS), JSON and a newline. The node answers with one
/// [`TunnelReply`] line; after `ok` the connection is a byte pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelRequest {
    /// To which instance.
    pub instance: InstanceId,
    /// To which TCP port in it.
    pub port: u16,
}

/// Answer to a [`TunnelRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelReply {
    /// Bytes follow.
    Ok,
    /// The node does not run it.
    NotHere,
    /// The guest refused or did not answer in time.
    Unreachable,
}
