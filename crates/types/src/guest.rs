//! Frames on the guest channel (virtio-serial port [`CHANNEL_NAME`]) between the node agent and `lambda-guest`.
//!
//! A frame is a 4-byte big-endian length and that many bytes of JSON, at most [`MAX_FRAME_BYTES`]. Neither side
//! trusts the other: what matters to the customer is inside mailbox bodies, bound to evidence or sealed.
//!
//! ```text
//!   node ── Start ──────────────────────────▶ guest    on connect, and again after an agent restart
//!   node ◀─ Report(phase) ─────────────────── guest    every phase change, and in answer to Start
//!   node ◀─ ToBroker(seq, body) ───────────── guest    latest message; sent again in answer to Start
//!   node ── FromBroker(seq, body) ──────────▶ guest
//!   node ── WatchHealth ────────────────────▶ guest    after Start: from here on, what is wrong is told
//!   node ◀─ Health(what is wrong) ─────────── guest    in answer, and at every change
//!   node ── Shutdown ───────────────────────▶ guest    clean power-off
//! ```
//!
//! A guest skips a frame that it does not know, and a node does not: a guest says nothing that was not asked for.

use serde::{Deserialize, Serialize};

use crate::{Binary, BootId, InstanceId};

/// Name of the virtio-serial port.
pub const CHANNEL_NAME: &str = "lambda.guest";

/// Most bytes in one frame.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// What the node tells the guest about itself; untrusted, and bound into the evidence by the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The id that the guest binds into its evidence; a broker refuses evidence for an id it did not ask about.
    pub instance: InstanceId,
    /// EK certificate of the vTPM and the node CA that issued it, DER, leaf first.
    pub ek_chain: Vec<Binary>,
    /// How to configure the network interface.
    pub network: GuestNetwork,
}

/// Address configuration of the guest's one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNetwork {
    /// MAC address of the interface, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// The guest's IPv4 address.
    pub address: std::net::Ipv4Addr,
    /// Prefix length of the link.
    pub prefix: u8,
    /// The node's end of the link.
    pub gateway: std::net::Ipv4Addr,
}

/// Node to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToGuest {
    /// First frame after every connect.
    Start(Start),
    /// The broker's latest message for this boot.
    FromBroker {
        /// See [`crate::mailbox::Message::seq`].
        seq: u64,
        /// Opaque here.
        body: Binary,
    },
    /// Tell what is wrong, now and at every change. Follows every [`ToGuest::Start`].
    WatchHealth,
    /// Power off cleanly.
    Shutdown,
}

/// Guest to node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromGuest {
    /// Where the guest is.
    Report {
        /// This boot.
        boot: BootId,
        /// What it is doing.
        phase: GuestPhase,
        /// Why it gives up; only with [`GuestPhase::Failed`].
        reason: Option<FailureReason>,
    },
    /// The guest's latest message to its broker.
    ToBroker {
        /// This boot.
        boot: BootId,
        /// See [`crate::mailbox::Message::seq`].
        seq: u64,
        /// Opaque here.
        body: Binary,
    },
    /// What is wrong in a guest that is ready; the whole list, each time. Only after [`ToGuest::WatchHealth`].
    Health {
        /// This boot.
        boot: BootId,
        /// Sorted, each once; empty when nothing is wrong.
        degraded: Vec<Degradation>,
    },
}

/// What may be wrong in a guest that runs on. Closed, and nothing of the tenant's in it: the operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Degradation {
    /// Nothing listens on port 22. Ends when something does.
    SshUnreachable,
    /// A block of the volume did not authenticate: its reader got an error. Lasts until the next boot.
    VolumeIntegrity,
    /// The disk below the volume refused to read or write: what was to be written may be lost. Lasts until the next boot.
    VolumeIo,
    /// The volume is longer than its file system, which could not grow. Lasts until the next boot.
    VolumeNotGrown,
}

impl Degradation {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::SshUnreachable, Self::VolumeIntegrity, Self::VolumeIo, Self::VolumeNotGrown];

    /// The stable code, as in JSON.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::SshUnreachable => "ssh-unreachable",
            Self::VolumeIntegrity => "volume-integrity",
            Self::VolumeIo => "volume-io",
            Self::VolumeNotGrown => "volume-not-grown",
        }
    }
}

/// What a guest is doing, in order. The operator sees this: it is on the leakage list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestPhase {
    /// Modules loaded, channel open; evidence is being exchanged and the release is awaited.
    Attesting,
    /// A release arrived and opened; the volume is being unlocked or initialised.
    Unlocking,
    /// The root file system is assembled and the init system is starting.
    Starting,
    /// sshd accepts connections.
    Ready,
    /// A clean shutdown is under way.
    Stopping,
    /// The guest gave up and powers off.
    Failed,
}

/// Why a guest gave up. Codes are stable; they name no secret and quote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureReason {
    /// A kernel module could not be loaded.
    KernelModule,
    /// The guest channel is missing or broke.
    Channel,
    /// The vTPM did not answer or refused a command.
    Tpm,
    /// The confidential processor gave no report.
    Tee,
    /// No release arrived within the guest's bound.
    ReleaseTimeout,
    /// The customer's broker refused the evidence.
    ReleaseRefused,
    /// A release did not open: wrong key, wrong context, replayed or re-ordered.
    ReleaseInvalid,
    /// The root file system's dm-verity root hash does not match the measured command line.
    RootIntegrity,
    /// The volume carries no LUKS2 header where one was expected.
    VolumeHeaderMissing,
    /// The volume's header is not the pinned one.
    VolumeHeaderMismatch,
    /// The volume's header uses a cipher, integrity mode, sector size or feature outside the strict set.
    VolumeHeaderRejected,
    /// The volume key does not open the volume.
    VolumeKey,
    /// The volume is smaller than its header says, or reads fail authentication.
    VolumeIntegrity,
    /// Initialising the volume failed.
    VolumeInitialise,
    /// The broker did not acknowledge the new header pin.
    PinUnacknowledged,
    /// The overlay or the hand-over to init failed.
    RootAssembly,
    /// The network could not be configured.
    Network,
    /// The guest program itself broke: a mistake in it.
    Internal,
}

impl FailureReason {
    /// The stable code, as in JSON.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::KernelModule => "kernel-module",
            Self::Channel => "channel",
            Self::Tpm => "tpm",
            Self::Tee => "tee",
            Self::ReleaseTimeout => "release-timeout",
            Self::ReleaseRefused => "release-refused",
            Self::ReleaseInvalid => "release-invalid",
            Self::RootIntegrity => "root-integrity",
            Self::VolumeHeaderMissing => "volume-header-missing",
            Self::VolumeHeaderMismatch => "volume-header-mismatch",
            Self::VolumeHeaderRejected => "volume-header-rejected",
            Self::VolumeKey => "volume-key",
            Self::VolumeIntegrity => "volume-integrity",
            Self::VolumeInitialise => "volume-initialise",
            Self::PinUnacknowledged => "pin-unacknowledged",
            Self::RootAssembly => "root-assembly",
            Self::Network => "network",
            Self::Internal => "internal",
        }
    }
}
