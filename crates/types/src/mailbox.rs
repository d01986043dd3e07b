//! The mailbox between a guest and its customer's key broker.
//!
//! Each direction of each boot is a *register*: it holds the latest message, not a queue. Relays (node, control
//! plane, gateway) copy it forward until the other side has it, so a relay that dies loses nothing, and a message
//! that arrives twice is recognised by its sequence number.

use serde::{Deserialize, Serialize};

use crate::{Binary, BootId};

/// Most bytes in one message body. An event log and its quote take about 16 KiB, a release with the most user data 45 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The latest message in one direction of one boot. The body is opaque to every relay
/// (see [`crate::session`] for what its two ends put there).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The boot this message belongs to; a new boot starts both registers anew.
    pub boot: BootId,
    /// Grows by at least one with every message in this direction of this boot; starts at 1.
    pub seq: u64,
    /// What the far end reads.
    pub body: Binary,
}

/// What `POST /v1/instances/{id}/mailbox` takes: the broker's next message. The control plane numbers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostMessage {
    /// The boot it is for; refused with `conflict` when the instance has since booted again.
    pub boot: BootId,
    /// The guest's `seq` that the broker has read; refused with `conflict` when the guest has since said more.
    pub answers: u64,
    /// What the guest reads.
    pub body: Binary,
}

/// What `GET /v1/instances/{id}/mailbox?boot=…&after=SEQ&wait=SECONDS` gives: the guest's register, when it is newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadMailbox {
    /// The guest's latest message, absent when there is none newer than asked for.
    pub guest: Option<Message>,
    /// Sequence number of the broker's latest message in this boot; 0 when there is none.
    pub broker_seq: u64,
    /// The guest's `seq` which that broker message answered; 0 when there is none.
    pub broker_answers: u64,
}
