//! The token and its claims, in either generation.

use serde_json::json;

use crate::cose::{Component, Fields, Identity, Lifecycle, Sign1, Value, components, label, listed, parse};
use crate::error::ParseError;
use crate::verdict::Claims;

/// Profiles whose claims have registered numbers.
const REGISTERED: [&str; 2] = ["http://arm.com/psa/2.0.0", "tag:psacertified.org,2023:psa#tfm"];
/// The profile that numbers its own claims.
const LEGACY: &str = "PSA_IOT_PROFILE_1";

const LEGACY_PROFILE: i128 = -75000;

/// Which numbers the claims have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    Registered,
    Legacy,
}

/// Numbers of the claims.
struct Labels {
    profile: i128,
    client_id: i128,
    lifecycle: i128,
    implementation_id: i128,
    boot_seed: i128,
    certification: i128,
    software: i128,
    /// Says that there is no software measurement.
    no_software: Option<i128>,
    nonce: i128,
    instance_id: i128,
    verification_service: i128,
}

const REGISTERED_LABELS: Labels = Labels {
    profile: label::PROFILE,
    client_id: label::CLIENT_ID,
    lifecycle: label::LIFECYCLE,
    implementation_id: label::IMPLEMENTATION_ID,
    boot_seed: label::BOOT_SEED,
    certification: label::CERTIFICATION,
    software: label::SOFTWARE,
    no_software: None,
    nonce: label::NONCE,
    instance_id: label::UEID,
    verification_service: label::VERIFICATION_SERVICE,
};

const LEGACY_LABELS: Labels = Labels {
    profile: LEGACY_PROFILE,
    client_id: -75001,
    lifecycle: -75002,
    implementation_id: -75003,
    boot_seed: -75004,
    certification: -75005,
    software: -75006,
    no_software: Some(-75007),
    nonce: -75008,
    instance_id: -75009,
    verification_service: -75010,
};

/// A token and its claims still to be read.
pub(super) struct Token<'a> {
    pub(super) signed: Sign1<'a>,
    pub(super) claims: Value<'a>,
}

/// Reads the token down to the claims.
pub(super) fn read(bytes: &[u8]) -> Result<Token<'_>, ParseError> {
    let signed = Sign1::parse("PSA token", bytes, 0)?;
    let claims = parse("PSA claims", signed.payload, signed.payload_at)?;
    match claims.as_map() {
        Some(_) => Ok(Token { signed, claims }),
        None => Err(ParseError::at("PSA claims", signed.payload_at, "they are not a map")),
    }
}

/// What the device claims.
pub(super) struct Device<'a> {
    pub(super) profile: Option<&'a str>,
    pub(super) generation: Option<Generation>,
    pub(super) nonce: Option<&'a [u8]>,
    pub(super) client_id: Option<i32>,
    pub(super) lifecycle: Option<u16>,
    pub(super) implementation_id: Option<&'a [u8]>,
    pub(super) instance_id: Option<&'a [u8]>,
    boot_seed: Option<&'a [u8]>,
    pub(super) certification: Option<&'a str>,
    verification_service: Option<&'a str>,
    pub(super) software: Vec<Component<'a>>,
    pub(super) faults: Result<(), String>,
}

impl<'a> Device<'a> {
    pub(super) fn read(claims: &Value<'a>) -> Self {
        let legacy = claims.get(LEGACY_PROFILE).is_some();
        let labels = if legacy { LEGACY_LABELS } else { REGISTERED_LABELS };
        let mut fields = Fields::new(claims);
        if legacy && fields.has(label::PROFILE) {
            fields.faults.push("the token names profiles of two generations".into());
        }
        let profile = fields.text(labels.profile, "the profile");
        let generation = match profile {
            Some(LEGACY) if legacy => Some(Generation::Legacy),
            Some(name) if !legacy && REGISTERED.contains(&name) => Some(Generation::Registered),
            Some(_) | None => None,
        };
        let nonce = fields.bytes(labels.nonce, "the nonce", &[32, 48, 64]);
        let client_id = fields.required(labels.client_id, "the client id", |value| {
            value.as_int().and_then(|number| i32::try_from(number).ok()).filter(|number| *number != 0)
        });
        let lifecycle = fields.required(labels.lifecycle, "the life cycle", |value| {
            value.as_int().and_then(|number| u16::try_from(number).ok())
        });
        let implementation_id = fields.bytes(labels.implementation_id, "the implementation id", &[32]);
        let instance_id = fields.required(labels.instance_id, "the instance id", |value| {
            value.as_bytes().filter(|id| id.len() == 33 && id.first() == Some(&1))
        });
        let boot_seed = fields.optional(labels.boot_seed, "the boot seed", |value| {
            value.as_bytes().filter(|seed| (8..=32).contains(&seed.len()))
        });
        let certification = fields.optional(labels.certification, "the certification reference", Value::as_text);
        let verification_service =
            fields.optional(labels.verification_service, "the verification service", Value::as_text);
        let software = read_software(&mut fields, &labels);
        Self {
            profile,
            generation,
            nonce,
            client_id,
            lifecycle,
            implementation_id,
            instance_id,
            boot_seed,
            certification,
            verification_service,
            software,
            faults: fields.result(),
        }
    }

    pub(super) fn identity(&self) -> Identity<'a> {
        Identity { implementation: self.implementation_id, instance: self.instance_id }
    }

    pub(super) fn state(&self) -> Option<Lifecycle> {
        self.lifecycle.map(Lifecycle::of)
    }

    pub(super) fn claim(&self, claims: &mut Claims) {
        let measurement = json!(self.software.first().map(|component| hex::encode(component.measurement)));
        let nonce = json!(self.nonce.map(hex::encode));
        let named = [
            ("profile", json!(self.profile)),
            ("report_data", nonce.clone()),
            ("nonce", nonce),
            ("measurement", measurement),
            ("client_id", json!(self.client_id)),
            ("lifecycle", json!(self.lifecycle)),
            ("lifecycle_state", json!(self.state())),
            ("debug", json!(self.state().is_some_and(Lifecycle::is_debug))),
            ("implementation_id", json!(self.implementation_id.map(hex::encode))),
            ("instance_id", json!(self.instance_id.map(hex::encode))),
            ("chip_id", json!(self.instance_id.map(hex::encode))),
            ("boot_seed", json!(self.boot_seed.map(hex::encode))),
            ("certification_reference", json!(self.certification)),
            ("verification_service", json!(self.verification_service)),
            ("sw_components", listed(&self.software)),
        ];
        claims.extend(named.map(|(name, value)| (name.to_owned(), value)));
    }
}

/// The components, or in the older generation the word that there are none.
fn read_software<'a>(fields: &mut Fields<'_, 'a>, labels: &Labels) -> Vec<Component<'a>> {
    let none = labels.no_software.filter(|label| fields.has(*label));
    if let Some(label) = none {
        let one = fields.optional(label, "the word that no software is measured", |value| {
            value.as_int().filter(|number| *number == 1)
        });
        if one.is_some() && fields.has(labels.software) {
            fields.faults.push("software is measured, and said not to be".into());
        }
        if !fields.has(labels.software) {
            return Vec::new();
        }
    }
    let mut faults = Vec::new();
    let list = fields.required(labels.software, "the software components", Some);
    let software = list.map(|list| components(list, &mut faults)).unwrap_or_default();
    fields.faults.extend(faults);
    software
}
