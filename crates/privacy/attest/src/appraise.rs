//! One report against one policy, whoever made the report.

use lambda_types::InstanceId;

use crate::anchors::Anchors;
use crate::cca;
use crate::checks::{self, CheckInfo, Recorder};
use crate::collateral::Collateral;
use crate::dcap;
use crate::error::ParseError;
use crate::eventlog;
use crate::evidence::Report;
use crate::policy::{Matched, Policy};
use crate::psa;
use crate::snp;
use crate::time::UnixTime;
use crate::tpm;
use crate::tpm_quote;
use crate::verdict::{Assurance, Claims, tier_statement};
use crate::verify::TpmClock;

/// What vendors vouch with: their pinned roots, and what they published.
pub struct Endorsements<'a> {
    /// Pinned.
    pub anchors: &'a Anchors,
    /// Foreign, and judged.
    pub collateral: &'a Collateral,
}

/// What the report's user data has to be.
#[derive(Clone, Copy)]
pub(crate) enum Demand<'a> {
    /// Just this.
    ReportData(&'a [u8]),
    /// Just this, or this and zeros up to the length of the field.
    Nonce(&'a [u8]),
    /// The caller did not say: refused.
    Unsaid,
    /// Nothing was asked. An inspection; nothing can be released on it.
    Nothing,
}

impl Demand<'_> {
    /// Compares the report's user data, length and all.
    pub(crate) fn check(self, info: &'static CheckInfo, actual: &[u8], recorder: &mut Recorder) {
        match self {
            Self::ReportData(expected) => Self::compare(info, expected, actual, recorder),
            Self::Nonce(nonce) => {
                let zeros = actual.len().saturating_sub(nonce.len());
                let padded: Vec<u8> = nonce.iter().copied().chain(std::iter::repeat_n(0, zeros)).collect();
                Self::compare(info, &padded, actual, recorder);
            }
            Self::Unsaid => {
                recorder.record(info, Err("nobody said which report data to expect, so any is refused".into()));
            }
            Self::Nothing => recorder.not_applicable(info, "an inspection expects nothing of the report data"),
        }
    }

    fn compare(info: &'static CheckInfo, expected: &[u8], actual: &[u8], recorder: &mut Recorder) {
        recorder.require(
            info,
            bool::from(subtle::ConstantTimeEq::ct_eq(expected, actual)),
            "the report covers just what was asked",
            "the report covers other data than was asked: a replay, or another question's answer",
        );
    }
}

/// What lies beside evidence that is only inspected. A verdict for a release never looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The nonce or challenge, when the evidence answered one.
    pub nonce: Option<Vec<u8>>,
    /// Public keys, SubjectPublicKeyInfo DER.
    pub keys: Vec<Vec<u8>>,
    /// Roots, DER.
    pub roots: Vec<Vec<u8>>,
    /// There is no report or quote at all: the certificates are looked at by themselves.
    pub certificates_only: bool,
}

/// What a report is judged against, beside the policy.
pub(crate) struct Context<'a> {
    pub(crate) demand: Demand<'a>,
    pub(crate) endorsements: &'a Endorsements<'a>,
    /// Present only in an inspection.
    pub(crate) given: Option<&'a Given>,
    /// The instance that is being judged, where that is known.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) now: UnixTime,
}

impl Context<'_> {
    /// What a token says about the form of its measurements, of which an inspection expects nothing.
    pub(crate) fn expect_of_measurements(
        &self,
        info: &'static CheckInfo,
        result: Result<String, String>,
        recorder: &mut Recorder,
    ) {
        match (result, self.given) {
            (Err(why), Some(_)) => {
                recorder.not_applicable(info, &format!("an inspection expects nothing of measurements: {why}"));
            }
            (result, _) => {
                recorder.record(info, result);
            }
        }
    }
}

/// What came of it.
pub(crate) struct Appraised {
    pub(crate) product: String,
    pub(crate) claims: Claims,
    pub(crate) tier: Assurance,
    /// The image, when the policy names images and the report measures to one.
    pub(crate) image: Option<Matched>,
    /// Counters to be kept, when there is a TPM.
    pub(crate) clock: Option<TpmClock>,
    /// Every check of this kind of evidence, in order.
    pub(crate) checks: &'static [&'static CheckInfo],
}

/// Whether a report has the structure of its kind.
pub(crate) fn readable(report: &Report) -> Result<(), ParseError> {
    match report {
        Report::Tpm(_) => {
            Err(ParseError::whole("tpm", "a measured boot answers a challenge: judge its record instead"))
        }
        Report::TpmQuote(evidence) => tpm_quote::readable(evidence),
        Report::Cca(evidence) => cca::readable(evidence),
        Report::Psa(evidence) => psa::readable(evidence),
        Report::Tdx(evidence) => dcap::tdx::readable(evidence),
        Report::Sgx(evidence) => dcap::sgx::readable(evidence),
        Report::Snp(evidence) => snp::readable(evidence),
        Report::Eventlog(_) => Ok(()),
    }
}

/// Judges a report of any kind but a measured boot under a TPM, which answers a challenge of its own.
pub(crate) fn appraise(report: &Report, policy: &Policy, context: &Context<'_>, recorder: &mut Recorder) -> Appraised {
    match report {
        Report::Tpm(_) => Appraised {
            product: tpm::PRODUCT.into(),
            claims: Claims::new(),
            tier: Assurance::Platform,
            image: None,
            clock: None,
            checks: checks::TPM_BOOT,
        },
        Report::TpmQuote(evidence) => tpm_quote::check(evidence, context, recorder),
        Report::Eventlog(evidence) => eventlog::check(evidence, context, recorder),
        Report::Cca(evidence) => {
            let policy = section("cca", policy.cca.as_ref(), &cca::SILENT, context, recorder);
            cca::check(evidence, policy, context, recorder)
        }
        Report::Psa(evidence) => {
            let policy = section("psa", policy.psa.as_ref(), &psa::SILENT, context, recorder);
            psa::check(evidence, policy, context, recorder)
        }
        Report::Snp(evidence) => {
            let policy = section("snp", policy.snp.as_ref(), &snp::SILENT, context, recorder);
            snp::check(evidence, policy, context, recorder)
        }
        Report::Tdx(evidence) => {
            let policy = section("tdx", policy.tdx.as_ref(), &dcap::SILENT_TDX, context, recorder);
            dcap::tdx::check(evidence, policy, context, recorder)
        }
        Report::Sgx(evidence) => {
            let policy = section("sgx", policy.sgx.as_ref(), &dcap::SILENT_SGX, context, recorder);
            dcap::sgx::check(evidence, policy, context, recorder)
        }
    }
}

/// Records that the policy has a section for this kind of evidence, and gives it, or one that expects nothing and so
/// refuses everything.
pub(crate) fn section<'a, P>(
    tee: &str,
    section: Option<&'a P>,
    silent: &'a P,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> &'a P {
    if context.given.is_none() {
        recorder.record(
            &checks::POLICY_TEE,
            match section {
                Some(_) => Ok(format!("the policy says how to judge {tee} evidence")),
                None => Err(format!("the policy says nothing about {tee} evidence, so it is refused: add `{tee}`")),
            },
        );
    }
    section.unwrap_or(silent)
}

/// The root of trust is as strong as the policy demands.
pub(crate) fn check_tier(tier: Assurance, policy: &Policy, recorder: &mut Recorder) {
    recorder.record(
        &checks::POLICY_TIER,
        match policy.minimum_tier {
            Some(minimum) if tier.reaches(minimum) => {
                Ok(format!("the policy demands {minimum} or better. {}", tier_statement(tier)))
            }
            Some(minimum) => Err(format!("tier {tier}, but the policy demands {minimum}")),
            None => Err("the policy does not say which tier is good enough: add `minimum_tier`".into()),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Outcome;

    fn outcome(demand: Demand<'_>, actual: &[u8]) -> Outcome {
        let mut recorder = Recorder::default();
        demand.check(&tpm_quote::checks::TPM_QUOTE_NONCE, actual, &mut recorder);
        recorder.finish(&[&tpm_quote::checks::TPM_QUOTE_NONCE]).remove(0).outcome
    }

    #[test]
    fn a_nonce_fills_the_field_from_the_left_and_report_data_is_the_field() {
        for (nonce, actual, expected) in [
            (&[1, 2][..], &[1, 2, 0, 0][..], Outcome::Pass),
            (&[1, 2, 0, 0], &[1, 2, 0, 0], Outcome::Pass),
            (&[1, 2], &[1, 2, 0, 3], Outcome::Fail),
            (&[1, 2], &[1, 0, 0, 0], Outcome::Fail),
            (&[1, 2, 0, 0, 0], &[1, 2, 0, 0], Outcome::Fail),
            (&[], &[1], Outcome::Fail),
        ] {
            assert_eq!(outcome(Demand::Nonce(nonce), actual), expected, "{nonce:?} in {actual:?}");
        }
        assert_eq!(outcome(Demand::ReportData(&[1, 2]), &[1, 2, 0, 0]), Outcome::Fail);
        assert_eq!(outcome(Demand::Nothing, &[1]), Outcome::NotApplicable);
    }
}
