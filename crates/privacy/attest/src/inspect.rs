use serde::Serialize;

use crate::appraise::{Appraised, Context, Demand, Endorsements, Given, appraise, readable};
use crate::checks::{self, CheckInfo, Recorder};
use crate::error::ParseError;
use crate::evidence::{Evidence, Report, SnpEvidence, TpmQuoteEvidence};
use crate::policy::Policy;
use crate::time::UnixTime;
use crate::tpm;
use crate::verdict::{Assurance, Check, Claims, Decision, Tee, Verdict};

/// Whether evidence is authentic and what it says, under the default appraisal: everything cryptographic and every date
/// holds, it is not of a debug guest, and the vendor calls its TCB good enough. Not a verdict that anything can be
/// released on: nothing is expected of the measurement or of the report data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// How the default appraisal came out.
    pub verdict: Decision,
    /// What it rests on.
    pub tier: Assurance,
    /// Kind of root of trust.
    pub tee: Tee,
    /// What it is, in words.
    pub product: String,
    /// What the evidence says.
    pub claims: Claims,
    /// Every check of the default appraisal.
    pub checks: Vec<Check>,
    /// What this is not.
    pub note: &'static str,
}

const NOTE: &str = "An inspection, not a verdict: nothing was expected of the measurement, nor of the report data beyond a \
                    nonce that was given, and nothing can be released on it.";

impl Inspection {
    pub(crate) fn of(verdict: Verdict) -> Self {
        let Verdict { verdict, tier, tee, product, claims, checks } = verdict;
        Self { verdict, tier, tee, product, claims, checks, note: NOTE }
    }

    /// Whether the default appraisal accepts it.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.verdict == Decision::Accepted
    }
}

/// The checks of a measured boot that need nothing but the evidence.
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

/// Inspects a guest's evidence. What its binding says is claimed, and not compared with anything.
///
/// # Errors
/// When its report is not one at all; names the byte or field.
pub fn inspect_evidence(
    evidence: &Evidence,
    endorsements: &Endorsements<'_>,
    now: UnixTime,
) -> Result<Inspection, ParseError> {
    let Report::Tpm(report) = &evidence.report else {
        return inspect(&evidence.report, &Given::default(), endorsements, now);
    };
    let mut recorder = Recorder::default();
    let claims = tpm::check_self_consistency(report, &evidence.binding, &mut recorder);
    let checks = recorder.finish(&SELF_CONSISTENCY);
    let product = tpm::PRODUCT.into();
    Ok(Inspection::of(Verdict::new(Tee::Tpm, Assurance::Unanchored, product, claims, checks)))
}

/// Inspects a bare report. `given` is what lies beside it and no vendor vouches for.
///
/// # Errors
/// When the report is not one at all; names the byte or field.
pub fn inspect(
    report: &Report,
    given: &Given,
    endorsements: &Endorsements<'_>,
    now: UnixTime,
) -> Result<Inspection, ParseError> {
    if given.certificates_only {
        certificates_alone(report)?;
    } else {
        readable(report)?;
    }
    let mut recorder = Recorder::default();
    let context =
        Context { demand: demand(report.tee(), given), endorsements, given: Some(given), instance: None, now };
    let policy = Policy::default_appraisal();
    let Appraised { product, claims, tier, checks, .. } = appraise(report, &policy, &context, &mut recorder);
    Ok(Inspection::of(Verdict::new(report.tee(), tier, product, claims, recorder.finish(checks))))
}

/// What was asked, if anybody says so. A TPM takes a nonce as it is; elsewhere it fills a field of fixed length.
pub(crate) fn demand(tee: Tee, given: &Given) -> Demand<'_> {
    match (&given.nonce, tee) {
        (None, _) => Demand::Nothing,
        (Some(nonce), Tee::Tpm) => Demand::ReportData(nonce),
        (Some(nonce), _) => Demand::Nonce(nonce),
    }
}

/// Nothing but certificates: what else there is would be judged by nobody.
fn certificates_alone(report: &Report) -> Result<(), ParseError> {
    let alone = match report {
        Report::Snp(SnpEvidence { report, certificates }) => report.0.is_empty() && !certificates.is_empty(),
        Report::TpmQuote(quote) => {
            let TpmQuoteEvidence { attest, signature, pcrs, event_log, certificates, .. } = quote;
            let empty = attest.0.is_empty() && signature.0.is_empty() && pcrs.is_empty() && event_log.is_none();
            empty && !certificates.is_empty()
        }
        _ => false,
    };
    if alone { Ok(()) } else { Err(ParseError::whole("evidence", "there are more than certificates, or none at all")) }
}
