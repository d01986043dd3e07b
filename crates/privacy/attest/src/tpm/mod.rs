//! Judging a TPM 2.0 quote over a measured direct kernel boot.
//!
//! The trust runs from the pinned platform CA over the EK certificate to the EK, over credential activation to the AK,
//! over the AK's signature to the quote, over the quote's digest to the PCR values, and over replay to the event log.
//! Each arrow is at least one check; none is taken from what the evidence says about itself.

mod identity;
mod log;
mod quote;
mod reference;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::appraise::Appraised;
use crate::checks::{self, Recorder};
use crate::evidence::{Binding, TpmEvidence, binding_claims};
use crate::policy::{Policy, digest};
use crate::time::UnixTime;
use crate::verdict::{Assurance, Claims};
use crate::verify::Expectation;

pub(crate) use identity::{Keys, check_identity};

/// What a verdict calls it.
pub(crate) const PRODUCT: &str = "TPM 2.0, provided by the operator's node";

/// Values of quoted PCRs, SHA-256 bank.
type Pcrs = BTreeMap<u8, [u8; 32]>;

/// What TPM evidence is judged against.
pub(crate) struct Context<'a> {
    pub(crate) binding: &'a Binding,
    pub(crate) expected: &'a Expectation<'a>,
    pub(crate) policy: &'a Policy,
    pub(crate) now: UnixTime,
}

/// Makes every TPM check.
pub(crate) fn check(report: &TpmEvidence, context: &Context<'_>, recorder: &mut Recorder) -> Appraised {
    let mut claims = Claims::new();
    let Context { binding, expected, policy, now } = context;

    let keys = check_identity(&report.identity, policy, *now, recorder);
    keys.claim(&mut claims);
    let pcrs = pcr_values(report);
    let quote = quote::check_authenticity(report, &keys, pcrs.as_ref(), recorder);
    quote::check_challenge(report, quote.as_ref(), binding, expected.outstanding, recorder);
    let clock = quote.as_ref().and_then(|quote| {
        quote::claim(quote, &mut claims);
        quote::check_clock(quote, &keys, binding.boot, expected.previous, recorder)
    });
    quote::check_firmware_version(quote.as_ref(), policy, recorder);

    let log = log::check(report.event_log.as_slice(), pcrs.as_ref(), recorder);
    claim_pcrs(pcrs.as_ref(), &mut claims);
    let matched = reference::check(policy, log.as_ref(), pcrs.as_ref(), recorder);
    if let Some(matched) = &matched {
        claims.insert("image".into(), json!(matched.image));
        claims.insert("shapes".into(), json!(matched.shapes));
    }
    claims.insert("release_policy".into(), json!(hex::encode(policy.hash())));

    Appraised {
        product: PRODUCT.into(),
        claims,
        tier: Assurance::Platform,
        // Counters that cannot be kept are no evidence to release on.
        image: matched.filter(|_| clock.is_some()),
        clock,
        checks: checks::TPM_BOOT,
    }
}

/// Makes the checks that need neither a policy nor a challenge.
pub(crate) fn check_self_consistency(report: &TpmEvidence, binding: &Binding, recorder: &mut Recorder) -> Claims {
    let mut claims = Claims::new();
    binding_claims(binding, &mut claims);
    let keys = identity::check_keys(&report.identity, recorder);
    keys.claim(&mut claims);
    let pcrs = pcr_values(report);
    let quote = quote::check_authenticity(report, &keys, pcrs.as_ref(), recorder);
    if let Some(quote) = &quote {
        quote::claim(quote, &mut claims);
    }
    log::check(report.event_log.as_slice(), pcrs.as_ref(), recorder);
    claim_pcrs(pcrs.as_ref(), &mut claims);
    claims
}

/// The PCR values, when each is a digest and no index stands twice.
fn pcr_values(report: &TpmEvidence) -> Option<Pcrs> {
    let mut pcrs = Pcrs::new();
    for value in report.pcrs.iter().take(32) {
        if pcrs.insert(value.index, digest(&value.sha256)?).is_some() {
            return None;
        }
    }
    (report.pcrs.len() == pcrs.len()).then_some(pcrs)
}

fn claim_pcrs(pcrs: Option<&Pcrs>, claims: &mut Claims) {
    let values: serde_json::Map<String, Value> =
        pcrs.into_iter().flatten().map(|(index, value)| (index.to_string(), json!(hex::encode(value)))).collect();
    claims.insert("pcrs".into(), Value::Object(values));
}
