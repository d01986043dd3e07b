//! An event log as evidence by itself: for inspection only.

use serde_json::json;

use super::LogReport;
use super::checks::EVENTLOG;
use crate::appraise::{Appraised, Context};
use crate::checks::{POLICY_TEE, Recorder};
use crate::evidence::EventlogEvidence;
use crate::verdict::{Assurance, Claims};

const PRODUCT: &str = "firmware event log";

/// Judges a log, with the registers that were given for it.
pub(crate) fn check(evidence: &EventlogEvidence, context: &Context<'_>, recorder: &mut Recorder) -> Appraised {
    if context.given.is_none() {
        let why = "no policy accepts an event log by itself: nothing vouches for it";
        recorder.record(&POLICY_TEE, Err(why.into()));
    }
    let mut report = LogReport::read(evidence.event_log.as_slice());
    report.judge_into(evidence.registers.as_ref(), recorder);
    let named = [
        ("format", json!(report.format)),
        ("registers_are", json!(report.registers_are)),
        ("banks", json!(report.banks)),
        ("events", json!(report.event_count)),
        ("log_bytes_used", json!(report.log_bytes_used)),
        ("registers", json!(report.registers)),
        ("problems", json!(report.problems)),
        ("notes", json!(report.notes)),
    ];
    Appraised {
        product: PRODUCT.into(),
        claims: Claims::from(named.map(|(name, value)| (name.to_owned(), value))),
        tier: Assurance::Unanchored,
        image: None,
        clock: None,
        checks: EVENTLOG,
    }
}
