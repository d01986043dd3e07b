//! TCG event logs: the TCG 1.2 format (SHA-1 only), the crypto-agile one, and the CC event log (CCEL) of a TD, which is a
//! crypto-agile log whose registers are measurement registers: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
//!
//! A log is a claim. What makes it true is that its digests replay to registers that a TPM signed; what makes an
//! event's *content* true is that its digest is the hash of that content, where the event type defines it so. Both are
//! computed here, neither is judged.
//!
//! References are to the *TCG PC Client Platform Firmware Profile* (PFP).

pub mod checks;
mod inspect;
mod kind;
mod parse;
mod replay;
mod report;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use crate::evidence::Registers;
pub(crate) use inspect::check;
pub use kind::{EventKind, Grounding};
pub use report::{LogReport, Problem, ProblemKind, ReportedEvent, bank_name};

/// Most bytes in a log.
pub const MAX_LOG_BYTES: usize = 1024 * 1024;

/// Most events in a log.
pub const MAX_EVENTS: usize = 8192;

/// A parsed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// Which of the two formats.
    pub format: Format,
    /// Whose registers the events extend.
    pub machine: Machine,
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

/// Whose registers a log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A TPM's PCRs.
    Tpm,
    /// A trust domain's measurement registers (UEFI, EFI_CC_EVENT): the header stands in register 1.
    Td,
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
