//! Arm PSA attestation token (RFC 9783): one COSE_Sign1 by the initial attestation key of a device's root of trust.
//!
//! Two generations are read: RFC 9783 with its forerunner PSA 2.0.0, whose claims have registered numbers, and
//! PSA_IOT_PROFILE_1, which numbers its own. It speaks of what the device booted; it does not hide any memory from anyone.

pub mod checks;
#[cfg(test)]
mod tests;
mod token;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::appraise::{Appraised, Context};
use crate::checks::Recorder;
use crate::cose::{
    Endorsement, Lifecycle, SoftwareComponent, is_complete, is_known, lengths_agree, ruled, silent, trusted,
};
use crate::error::ParseError;
use crate::evidence::PsaEvidence;
use crate::policy::Rule;
use crate::verdict::{Assurance, Claims};
use checks::*;
use token::{Device, Token};

const PRODUCT: &str = "Arm PSA root of trust";

/// Expectations of Arm PSA evidence. What is left out fails its check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsaPolicy {
    /// Devices, with the initial attestation keys that their makers endorse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsements: Option<Vec<Endorsement>>,
    /// States of life that are good enough. A device that can be debugged never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Rule<Lifecycle>>,
    /// Callers that may ask for a token: negative in the non-secure world, positive in the secure one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Rule<i32>>,
    /// The device's software: each component has to be named, and each named role has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<Rule<SoftwareComponent>>,
    /// Certification references (EAN-13 and version).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certification: Option<Rule<String>>,
}

/// Expects nothing, and so refuses everything.
pub(crate) static SILENT: PsaPolicy =
    PsaPolicy { endorsements: None, lifecycle: None, client_id: None, software: None, certification: None };

impl PsaPolicy {
    /// What an inspection goes by.
    pub(crate) fn default_appraisal() -> Self {
        Self {
            endorsements: None,
            lifecycle: Some(Rule::OneOf(Lifecycle::INSPECTED.to_vec())),
            client_id: Some(Rule::Any),
            software: Some(Rule::Any),
            certification: Some(Rule::Any),
        }
    }

    /// What is wrong with its own values.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.endorsements.iter().flatten().find_map(Endorsement::fault)
    }
}

/// Whether bytes look like a PSA token rather than a CCA one: a COSE_Sign1 (CBOR tag 18) and not a collection.
#[must_use]
pub fn is_psa_token(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0xd2)
}

/// Whether the token has its structure.
pub(crate) fn readable(evidence: &PsaEvidence) -> Result<(), ParseError> {
    token::read(evidence.token.as_slice()).map(drop)
}

/// Judges a token.
pub(crate) fn check(
    evidence: &PsaEvidence,
    policy: &PsaPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Appraised {
    let mut appraised = Appraised {
        product: PRODUCT.into(),
        claims: Claims::new(),
        tier: Assurance::Unanchored,
        image: None,
        clock: None,
        checks: PSA,
    };
    let token = match token::read(evidence.token.as_slice()) {
        Ok(token) => token,
        Err(error) => {
            recorder.record(&PSA_STRUCTURE, Err(error.to_string()));
            return appraised;
        }
    };
    recorder.record(&PSA_STRUCTURE, Ok("one COSE_Sign1 in strict CBOR".into()));
    let device = Device::read(&token.claims);
    device.claim(&mut appraised.claims);
    appraised.claims.insert("alg".into(), json!(token.signed.algorithm.to_string()));
    appraised.tier = check_key(&token, &device, policy, context, recorder);
    check_device(&device, policy, context, recorder);
    appraised
}

/// Key and signature; gives the tier.
fn check_key(
    token: &Token<'_>,
    device: &Device<'_>,
    policy: &PsaPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Assurance {
    let endorsements = policy.endorsements.as_deref();
    let trusted = trusted("psa", endorsements, &device.identity(), &token.signed, Assurance::Platform, context);
    let (key, tier) = match trusted {
        Ok(trusted) => {
            recorder.record(&PSA_ENDORSEMENT, Ok(trusted.why));
            (Some(trusted.key), trusted.tier)
        }
        Err(why) => {
            recorder.record(&PSA_ENDORSEMENT, Err(why));
            (None, Assurance::Unanchored)
        }
    };
    recorder.record(&PSA_ALGORITHM, token.signed.suits(key.as_ref()));
    if let Some(key) = key {
        recorder.require(
            &PSA_SIGNATURE,
            token.signed.is_signed_by(&key),
            "the device's initial attestation key signed the token",
            "the token is not signed by the device's initial attestation key",
        );
    }
    tier
}

fn check_device(device: &Device<'_>, policy: &PsaPolicy, context: &Context<'_>, recorder: &mut Recorder) {
    recorder.record(
        &PSA_PROFILE,
        match (device.generation, device.profile) {
            (Some(_), Some(name)) => Ok(format!("profile {name}")),
            (_, Some(name)) => Err(format!("profile `{name}` is not known")),
            (_, None) => Err("the token names no profile".into()),
        },
    );
    if device.generation.is_some() {
        let claims = device.faults.clone().map(|()| "every claim of the profile is there".into());
        recorder.record(&PSA_CLAIMS, claims);
    }
    if let Some(nonce) = device.nonce {
        context.demand.check(&PSA_NONCE, nonce, recorder);
    }
    if let Some(state) = device.state() {
        recorder.record(
            &PSA_DEBUG,
            if state.is_debug() {
                Err(format!("the device is in state {state}"))
            } else {
                Ok(format!("state {state}"))
            },
        );
        recorder.record(&PSA_LIFECYCLE, ruled("psa.lifecycle", policy.lifecycle.as_ref(), &state, "state"));
    }
    if let Some(client) = device.client_id {
        recorder.record(&PSA_CLIENT, ruled("psa.client_id", policy.client_id.as_ref(), &client, "caller"));
    }
    context.expect_of_measurements(&PSA_HASHES, lengths_agree(&device.software, None), recorder);
    recorder.record(&PSA_SOFTWARE, is_known("psa", policy.software.as_ref(), &device.software));
    recorder.record(&PSA_COMPLETE, is_complete("psa", policy.software.as_ref(), &device.software));
    let certification = match (&policy.certification, device.certification) {
        (None, _) => Err(silent("psa.certification")),
        (Some(Rule::OneOf(_)), None) => Err("the token names no certification".into()),
        (Some(Rule::Any), None) => Ok("the policy demands no certification".into()),
        (Some(rule), Some(reference)) => {
            ruled("psa.certification", Some(rule), &reference.to_owned(), "certification reference")
        }
    };
    recorder.record(&PSA_CERTIFICATION, certification);
}
