//! Arm CCA: a platform's token, signed with a key that its maker endorses, and a realm's token, signed with a key that the
//! platform's token vouches for.
//!
//! ```text
//!   endorsement (policy) ──▶ platform token ── challenge = hash(realm key) ──▶ realm token ── challenge = report data
//!                            life cycle, software, configuration              RIM, REM[0..3], personalization
//! ```
//!
//! The realm's token alone proves nothing, since anybody can make a key; the platform's alone does not speak of the realm.
//! Only the binding between them makes one statement of the two.

pub mod checks;
mod policy;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use policy::SILENT;
pub use policy::{CcaPolicy, EventLogRule};

use serde_json::json;

use crate::appraise::{Appraised, Context};
use crate::checks::Recorder;
use crate::cose::{
    HashAlgorithm, HexString, ecdsa_key, is_complete, is_known, lengths_agree, ruled, same_bytes, silent, trusted,
};
use crate::error::ParseError;
use crate::eventlog::{EventKind, EventLog, Grounding};
use crate::evidence::CcaEvidence;
use crate::policy::{Matched, Rule};
use crate::verdict::{Assurance, Claims};
use checks::*;
use token::{Platform, Realm, Token};

const PRODUCT: &str = "Arm CCA realm";

/// Profiles of platform and realm token that belong together.
const PROFILES: [(&str, Option<&str>); 3] = [
    ("http://arm.com/CCA-SSD/1.0.0", None),
    ("tag:arm.com,2023:cca_platform#1.0.0", Some("tag:arm.com,2023:realm#1.0.0")),
    (token::PLATFORM_2, Some(token::REALM_2)),
];

/// Whether the token has its structure.
pub(crate) fn readable(evidence: &CcaEvidence) -> Result<(), ParseError> {
    token::read(evidence.token.as_slice()).map(drop)
}

/// Judges a token.
pub(crate) fn check(
    evidence: &CcaEvidence,
    policy: &CcaPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Appraised {
    let mut appraised = Appraised {
        product: PRODUCT.into(),
        claims: Claims::new(),
        tier: Assurance::Unanchored,
        image: None,
        clock: None,
        checks: CCA,
    };
    let token = match token::read(evidence.token.as_slice()) {
        Ok(token) => token,
        Err(error) => {
            recorder.record(&CCA_STRUCTURE, Err(error.to_string()));
            return appraised;
        }
    };
    recorder.record(&CCA_STRUCTURE, Ok("a platform token and a realm token in strict CBOR".into()));
    let (platform, realm) = (Platform::read(&token.platform_claims), Realm::read(&token.realm_claims));
    platform.claim(&mut appraised.claims);
    realm.claim(&mut appraised.claims);
    appraised.claims.insert("platform_alg".into(), json!(token.platform.algorithm.to_string()));
    appraised.claims.insert("realm_alg".into(), json!(token.realm.algorithm.to_string()));
    recorder.record(&CCA_PROFILES, profiles(platform.profile, realm.profile));
    appraised.tier = check_platform_key(&token, &platform, policy, context, recorder);
    check_platform(&platform, policy, context, recorder);
    check_realm_key(&token, &platform, &realm, recorder);
    appraised.image = check_realm(&realm, policy, context, recorder);
    check_log(evidence, &realm, policy, recorder);
    appraised
}

fn profiles(platform: Option<&str>, realm: Option<&str>) -> Result<String, String> {
    match platform {
        Some(name) if PROFILES.contains(&(name, realm)) => Ok(format!("profile {name}")),
        Some(name) => {
            let realm = realm.map_or("none".to_owned(), |realm| format!("`{realm}`"));
            Err(format!("platform profile `{name}` with realm profile {realm} is not known"))
        }
        None => Err("the platform's token names no profile".into()),
    }
}

/// Key and signature of the platform's token; gives the tier.
fn check_platform_key(
    token: &Token<'_>,
    platform: &Platform<'_>,
    policy: &CcaPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Assurance {
    let endorsements = policy.endorsements.as_deref();
    let trusted = trusted("cca", endorsements, &platform.identity(), &token.platform, Assurance::Hardware, context);
    let (key, tier) = match trusted {
        Ok(trusted) => {
            recorder.record(&CCA_PLATFORM_ENDORSEMENT, Ok(trusted.why));
            (Some(trusted.key), trusted.tier)
        }
        Err(why) => {
            recorder.record(&CCA_PLATFORM_ENDORSEMENT, Err(why));
            (None, Assurance::Unanchored)
        }
    };
    recorder.record(&CCA_PLATFORM_ALGORITHM, token.platform.suits(key.as_ref()));
    if let Some(key) = key {
        recorder.require(
            &CCA_PLATFORM_SIGNATURE,
            token.platform.is_signed_by(&key),
            "the platform's key signed the platform's token",
            "the platform's token is not signed by the platform's key",
        );
    }
    tier
}

fn check_platform(platform: &Platform<'_>, policy: &CcaPolicy, context: &Context<'_>, recorder: &mut Recorder) {
    let claims = platform.faults.clone().map(|()| "every claim of the platform is there".into());
    recorder.record(&CCA_PLATFORM_CLAIMS, claims);
    if let Some(state) = platform.state() {
        recorder.record(
            &CCA_PLATFORM_DEBUG,
            if state.is_debug() {
                Err(format!("the platform is in state {state}"))
            } else {
                Ok(format!("state {state}"))
            },
        );
        recorder.record(&CCA_PLATFORM_LIFECYCLE, ruled("cca.lifecycle", policy.lifecycle.as_ref(), &state, "state"));
    }
    context.expect_of_measurements(&CCA_PLATFORM_HASHES, platform_hashes(platform), recorder);
    recorder.record(&CCA_PLATFORM_SOFTWARE, is_known("cca", policy.software.as_ref(), &platform.software));
    recorder.record(&CCA_PLATFORM_COMPLETE, is_complete("cca", policy.software.as_ref(), &platform.software));
    if let Some(configuration) = platform.configuration {
        let allowed = same_bytes("cca.configuration", policy.configuration.as_ref(), configuration, "configuration");
        recorder.record(&CCA_PLATFORM_CONFIGURATION, allowed.and_then(|why| nothing_further(platform, policy, why)));
    }
}

/// A policy that names configurations cannot name what version 2 adds to them.
fn nothing_further(platform: &Platform<'_>, policy: &CcaPolicy, why: String) -> Result<String, String> {
    match (&policy.configuration, platform.further.first()) {
        (Some(Rule::OneOf(_)), Some((name, _))) => {
            Err(format!("the platform also claims {name}, which a policy that names configurations does not allow"))
        }
        _ => Ok(why),
    }
}

fn platform_hashes(platform: &Platform<'_>) -> Result<String, String> {
    match platform.hash {
        Some(name) if HashAlgorithm::named(name).is_none() => {
            Err(format!("the platform's token names `{name}`, which is not a SHA-2 hash"))
        }
        hash => lengths_agree(&platform.software, hash),
    }
}

/// Key and signature of the realm's token, and that the platform's token vouches for the key.
fn check_realm_key(token: &Token<'_>, platform: &Platform<'_>, realm: &Realm<'_>, recorder: &mut Recorder) {
    let claims = realm.faults.clone().map(|()| "every claim of the realm is there".into());
    recorder.record(&CCA_REALM_CLAIMS, claims);
    let Some(encoded) = realm.public_key else { return };
    recorder.record(&CCA_REALM_BINDING, binding(platform.challenge, encoded, realm.public_key_hash));
    let key = match ecdsa_key(encoded) {
        Ok(key) => key,
        Err(why) => {
            recorder.record(&CCA_REALM_KEY, Err(format!("the realm's attestation key: {why}")));
            return;
        }
    };
    recorder.record(&CCA_REALM_KEY, Ok("the realm's attestation key is a point on its curve".into()));
    recorder.record(&CCA_REALM_ALGORITHM, token.realm.suits(Some(&key)));
    recorder.require(
        &CCA_REALM_SIGNATURE,
        token.realm.is_signed_by(&key),
        "the realm's attestation key signed the realm's token",
        "the realm's token is not signed by the realm's attestation key",
    );
}

fn binding(challenge: Option<&[u8]>, key: &[u8], hash: Option<&str>) -> Result<String, String> {
    let name = hash.ok_or("the realm's token does not name the hash of its key")?;
    let algorithm =
        HashAlgorithm::named(name).ok_or_else(|| format!("the realm's key is hashed with `{name}`, not with SHA-2"))?;
    if challenge == Some(algorithm.hash(key).as_slice()) {
        Ok(format!("the platform's challenge is the {name} of the realm's attestation key"))
    } else {
        Err("the platform's challenge is not the hash of the realm's attestation key: the two do not belong together"
            .into())
    }
}

/// What the realm measured, and for whom it answers; gives the image.
fn check_realm(
    realm: &Realm<'_>,
    policy: &CcaPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Option<Matched> {
    if let Some(challenge) = realm.challenge {
        context.demand.check(&CCA_REALM_CHALLENGE, challenge, recorder);
    }
    let hash = realm.algorithm().map(|_| "every measurement has the length of its hash".into());
    context.expect_of_measurements(&CCA_REALM_HASH, hash, recorder);
    check_memory(realm, context, recorder);
    if let Some(extensible) = &realm.extensible {
        let same = |allowed: &Vec<HexString>| allowed.iter().map(|one| one.0.as_slice()).eq(extensible.iter().copied());
        let result = match &policy.extensible_measurements {
            None => Err(silent("cca.extensible_measurements")),
            Some(Rule::Any) => Ok("the policy allows any extensible measurements".into()),
            Some(Rule::OneOf(allowed)) if allowed.iter().any(same) => Ok("the policy allows them".into()),
            Some(Rule::OneOf(_)) => Err("the policy does not allow these extensible measurements".into()),
        };
        recorder.record(&CCA_REALM_EXTENSIBLE, result);
    }
    if let Some(value) = realm.personalization {
        let rule = policy.personalization.as_ref().ok_or_else(|| silent("cca.personalization"));
        let named = rule.and_then(|rule| rule.judge(&HexString(value.to_vec()), value, context.instance));
        recorder.record(&CCA_REALM_PERSONALIZATION, named);
    }
    let initial = realm.initial?;
    match &policy.initial_measurement {
        None => {
            recorder.record(&CCA_REALM_INITIAL, Err(silent("cca.initial_measurement")));
            None
        }
        Some(reference) => match reference.find(|known| *known == *initial) {
            Ok(matched) => {
                recorder.record(&CCA_REALM_INITIAL, Ok("the policy allows the realm's initial measurement".into()));
                matched
            }
            Err(why) => {
                recorder.record(&CCA_REALM_INITIAL, Err(format!("{} is measured: {why}", hex::encode(initial))));
                None
            }
        },
    }
}

fn check_memory(realm: &Realm<'_>, context: &Context<'_>, recorder: &mut Recorder) {
    let info = &CCA_REALM_MEMORY;
    match realm.memory_encryption {
        None if realm.profile != Some(token::REALM_2) => {
            recorder.not_applicable(info, "the profile does not say how the realm's memory is encrypted");
        }
        None => {}
        Some("private") => {
            recorder.record(info, Ok("the realm's memory is encrypted with a key of its own".into()));
        }
        Some(_) if context.given.is_some() => {
            recorder.not_applicable(info, "the realm shares the key of its memory with others; a policy refuses that");
        }
        Some(_) => {
            recorder.record(info, Err("the realm shares the key of its memory with others".into()));
        }
    }
}

fn check_log(evidence: &CcaEvidence, realm: &Realm<'_>, policy: &CcaPolicy, recorder: &mut Recorder) {
    let Some(bytes) = &evidence.event_log else {
        match policy.event_log {
            None => {
                recorder.record(&CCA_LOG, Err(silent("cca.event_log")));
            }
            Some(EventLogRule::Required) => {
                recorder.record(&CCA_LOG, Err("the policy demands an event log, and there is none".into()));
            }
            Some(EventLogRule::Optional) => recorder.not_applicable(&CCA_LOG, "there is no event log"),
        }
        recorder.not_applicable(&CCA_LOG_DIGESTS, "there is no event log");
        return;
    };
    if policy.event_log.is_none() {
        recorder.record(&CCA_LOG, Err(silent("cca.event_log")));
    }
    let log = match EventLog::parse(bytes.as_slice()) {
        Ok(log) => log,
        Err(error) => {
            recorder.record(&CCA_LOG, Err(error.to_string()));
            return;
        }
    };
    let (Ok(algorithm), Some(extensible)) = (realm.algorithm(), &realm.extensible) else { return };
    recorder.record(&CCA_LOG, replays(&log, algorithm, extensible));
    let contradicted = |event: &&crate::eventlog::Event| {
        event.kind != EventKind::NO_ACTION && event.grounding(algorithm.bank()) == Grounding::Contradicted
    };
    recorder.record(
        &CCA_LOG_DIGESTS,
        match log.events.iter().find(contradicted) {
            None => Ok("every digest that its data determines is the hash of that data".into()),
            Some(event) => Err(format!(
                "the {} at byte {} carries a digest that is not the hash of its data",
                event.kind, event.offset
            )),
        },
    );
}

/// Registers 1 to 4 are REM[0] to REM[3]; one that no event extends is zero.
fn replays(log: &EventLog, algorithm: HashAlgorithm, extensible: &[&[u8]]) -> Result<String, String> {
    let registers =
        log.replay(algorithm.bank()).ok_or("the event log has no bank of the hash that the realm measures with")?;
    if let Some(other) = registers.keys().find(|index| !(1..=4).contains(*index) && **index != u32::MAX) {
        return Err(format!("the event log extends register {other}, which is no extensible measurement"));
    }
    let zero = vec![0; algorithm.len()];
    let differs = (1u32..).zip(extensible).find(|(index, value)| registers.get(index).unwrap_or(&zero) != *value);
    match differs {
        None => Ok(format!("{} events replay to the extensible measurements", log.events.len())),
        Some((index, _)) => {
            Err(format!("the event log does not explain extensible measurement {}", index.saturating_sub(1)))
        }
    }
}
