//! TCG event logs: the TCG 1.2 format (SHA-1 only) and the crypto-agile one.
//!
//! A log is a claim. What makes it true is that its digests replay to registers that a TPM signed; what makes an
//! event's *content* true is that its digest is the hash of that content, where the event type defines it so. Both are
//! computed here, neither is judged.
//!
//! References are to the *TCG PC Client Platform Firmware Profile* (PFP).

mod kind;
mod parse;
mod replay;

use std::collections::BTreeMap;

pub use kind::{EventKind, Grounding};

/// Most bytes in a log.
pub const MAX_LOG_BYTES: usize = 1024 * 1024;

/// Most events in a log.
pub const MAX_EVENTS: usize = 8192;

/// A parsed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// Which of the two formats.
    pub format: Format,
    /// TPM_ALG_IDs of the digests that every event carries.
    pub banks: Vec<u16>,
    /// In the order in which they were measured; the header is not among them.
    pub events: Vec<Event>,
}

/// Format of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TCG_PCR_EVENT, SHA-1 only.
    Tcg12,
    /// TCG_PCR_EVENT2 after a "Spec ID Event03" header (PFP, EV_NO_ACTION Event Types).
    CryptoAgile,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands in the log's bytes.
    pub offset: usize,
    /// Register that was extended.
    pub pcr: u32,
    /// Event type.
    pub kind: EventKind,
    /// Digest for each bank, by TPM_ALG_ID.
    pub digests: BTreeMap<u16, Vec<u8>>,
    /// Event data.
    pub data: Vec<u8>,
}

/// Why bytes are not an event log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event log, byte {at}: {why}")]
pub struct EventLogError {
    /// Offset of the offending field.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}
