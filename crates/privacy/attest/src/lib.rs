//! Evidence, policy and verdict: how a customer's own program judges what booted, before it hands over a key.
//!
//! Pure: no I/O, no clock (the time is an argument), no randomness (entropy is an argument), no panics. Everything that
//! enters is foreign and bounded.
//!
//! ```text
//!   Evidence ─┐
//!   Expectation (challenge, instance, boot, what was seen before) ─┼─▶ verify ─▶ Judgement { Verdict, Option<Attested> }
//!   Policy ───┤
//!   UnixTime ─┘
//! ```
//!
//! A verdict is accepted only when every check of [`checks::TPM`] was made and none failed. A check that was not
//! reached, and one that the policy says nothing about, is a failed check with an explanation: leaving a line out of a
//! policy never widens it. [`Attested`] has no other constructor than an accepted verdict, so code that needs one cannot
//! run on evidence that nobody judged.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod challenge;
pub mod checks;
pub mod eventlog;
mod evidence;
mod inspect;
pub mod pki;
mod policy;
mod record;
#[cfg(test)]
mod tests;
mod time;
mod tpm;
mod verdict;
mod verify;

pub use challenge::{Outstanding, SpentChallenge};
pub use evidence::{
    Binding, EVIDENCE_VERSION, Evidence, EvidenceError, MAX_EVIDENCE_BYTES, PcrValue, Report, TpmEvidence,
    activation_proof, report_data,
};
pub use inspect::{Inspection, inspect};
pub use policy::{AllowedImage, FirmwareRule, MAX_POLICY_BYTES, POLICY_VERSION, Policy, PolicyError, TpmPolicy};
pub use record::{MAX_RECORD_BYTES, RECORD_VERSION, Record, RecordError};
pub use time::{TimeError, UnixTime};
pub use verdict::{Check, Claims, Decision, Outcome, Tee, Verdict};
pub use verify::{Attested, Expectation, Judgement, TpmClock, verify};
