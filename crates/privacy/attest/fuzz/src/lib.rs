//! What the targets share: a report of any kind, judged both ways.

use std::sync::LazyLock;

use lambda_attest::pki::PkiError;
use lambda_attest::{Anchors, Collateral, Endorsements, Given, Policy, Report, UnixTime, inspect, judge as verdict};

/// 2026-01-01T00:00:00Z: within the dates of the seeds.
pub const NOW: UnixTime = UnixTime(1_767_225_600);

/// Inspects a report, and judges it under a policy that expects nothing and so must refuse it.
///
/// # Panics
/// When that policy accepts it.
pub fn judge(report: &Report, given: &Given, collateral: &Collateral) {
    static ANCHORS: LazyLock<Result<Anchors, PkiError>> = LazyLock::new(Anchors::vendor);
    let Ok(anchors) = ANCHORS.as_ref() else { return };
    let endorsements = Endorsements { anchors, collateral };
    let _ = inspect(report, given, &endorsements, NOW);
    let Ok(silent) = Policy::parse(br#"{"version":1}"#) else { return };
    if let Ok(verdict) = verdict(report, Some(&[0; 64]), None, &silent, &endorsements, NOW) {
        assert!(!verdict.accepted(), "a silent policy accepts");
    }
}
