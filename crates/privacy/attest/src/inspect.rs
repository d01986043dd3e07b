use lambda_types::shape::Tier;
use serde::Serialize;

use crate::checks::{self, CheckInfo, Recorder};
use crate::evidence::{Evidence, Report};
use crate::tpm;
use crate::verdict::{Check, Claims, Tee};

/// What evidence says of itself. Not a verdict: no policy, no challenge and no pinned CA took part, and nothing can be
/// released on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Says just that.
    pub note: &'static str,
    /// The tier that such evidence can reach.
    pub tier: Tier,
    /// Kind of root of trust.
    pub tee: Tee,
    /// What it is, in words.
    pub product: &'static str,
    /// What the evidence says.
    pub claims: Claims,
    /// The checks that need nothing but the evidence.
    pub checks: Vec<Check>,
}

/// The checks that need nothing but the evidence.
static SELF_CONSISTENCY: [&CheckInfo; 13] = [
    &checks::EK_PUBLIC,
    &checks::AK_ATTRIBUTES,
    &checks::AK_ALGORITHM,
    &checks::QUOTE_STRUCTURE,
    &checks::QUOTE_MAGIC,
    &checks::QUOTE_SIGNATURE,
    &checks::QUOTE_SIGNER,
    &checks::QUOTE_SELECTION,
    &checks::QUOTE_PCR_DIGEST,
    &checks::LOG_STRUCTURE,
    &checks::LOG_REPLAY,
    &checks::LOG_DIGESTS,
    &checks::LOG_SEPARATORS,
];

/// Reads evidence without judging it.
#[must_use]
pub fn inspect(evidence: &Evidence) -> Inspection {
    let mut recorder = Recorder::default();
    match &evidence.report {
        Report::Tpm(report) => {
            let claims = tpm::check_self_consistency(report, &evidence.binding, &mut recorder);
            Inspection {
                note: "An inspection, not a verdict: whether this machine is trusted, what it booted and whether it \
                       answers a challenge were not checked. Nothing can be released on it.",
                tier: Tee::Tpm.tier(),
                tee: Tee::Tpm,
                product: tpm::PRODUCT,
                claims,
                checks: recorder.finish(&SELF_CONSISTENCY),
            }
        }
    }
}
