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
//! A verdict is accepted only when every check of [`checks`] for its kind was made and none failed. A check that was not
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

mod anchors;
mod appraise;
pub mod cca;
pub mod challenge;
pub mod checks;
mod collateral;
pub mod cose;
pub mod dcap;
pub mod envelope;
mod error;
pub mod eventlog;
mod evidence;
mod facts;
mod hexbytes;
mod inspect;
#[cfg(feature = "mutation")]
mod mutation;
pub mod pki;
mod policy;
pub mod psa;
mod record;
pub mod snp;
#[cfg(test)]
mod tests;
mod time;
mod tpm;
pub mod tpm_quote;
mod verdict;
mod verify;

pub use anchors::{AmdAnchor, AmdLine, Anchors};
pub use appraise::{Endorsements, Given};
pub use challenge::{Outstanding, SpentChallenge};
pub use collateral::{
    AmdCollateral, COLLATERAL_VERSION, Collateral, CollateralError, IntelCollateral, MAX_COLLATERAL_BYTES,
};
pub use error::ParseError;
pub use evidence::{
    Binding, CcaEvidence, EVIDENCE_VERSION, EventlogEvidence, Evidence, EvidenceError, MAX_EVIDENCE_BYTES,
    ParavisorEvidence, PcrValue, PsaEvidence, Registers, Report, SgxEvidence, SnpEvidence, TdxEvidence, TpmEvidence,
    TpmQuoteEvidence, activation_proof, report_data,
};
pub use hexbytes::Hex;
pub use inspect::{Inspection, inspect, inspect_evidence};
pub use policy::{
    AllowedImage, FirmwareRule, HostDataRule, ImageReference, MAX_POLICY_BYTES, Matched, POLICY_VERSION, Policy,
    PolicyError, Reference, Rule, TpmPolicy,
};
pub use record::{MAX_RECORD_BYTES, RECORD_VERSION, Record, RecordError};
pub use time::{TimeError, UnixTime};
pub use verdict::{Assurance, Check, Claims, Decision, Outcome, Tee, Verdict};
pub use verify::{Attested, Expectation, Judgement, TpmClock, judge, verify};
