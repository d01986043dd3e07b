//! The CCA token: a collection (CBOR tag 399) of two COSE_Sign1, and the claims of each.

use serde_json::json;

use crate::cose::{
    Component, Fields, HashAlgorithm, Identity, Lifecycle, Sign1, Value, components, label, listed, parse,
};
use crate::error::ParseError;
use crate::verdict::Claims;

/// CBOR tag of the collection.
const TAG_COLLECTION: u64 = 399;
/// Its key for the platform's token.
const PLATFORM: i128 = 44234;
/// Its key for the realm's token.
const REALM: i128 = 44241;

/// Platform claims of the standard's own.
const PLATFORM_CONFIGURATION: i128 = 2401;
const PLATFORM_HASH: i128 = 2402;

/// Realm claims (Arm RMM, Realm claims).
const PERSONALIZATION: i128 = 44235;
const REALM_HASH: i128 = 44236;
const PUBLIC_KEY: i128 = 44237;
const INITIAL: i128 = 44238;
const EXTENSIBLE: i128 = 44239;
const PUBLIC_KEY_HASH: i128 = 44240;

/// Number of extensible measurements.
const EXTENSIBLE_COUNT: usize = 4;

const HASH_SIZES: [usize; 3] = [32, 48, 64];

/// Both tokens, and their claims still to be read.
pub(super) struct Token<'a> {
    pub(super) platform: Sign1<'a>,
    pub(super) platform_claims: Value<'a>,
    pub(super) realm: Sign1<'a>,
    pub(super) realm_claims: Value<'a>,
}

/// Reads the collection down to the claims.
pub(super) fn read(bytes: &[u8]) -> Result<Token<'_>, ParseError> {
    let what = "CCA token";
    let Value::Tag(TAG_COLLECTION, collection) = parse(what, bytes, 0)? else {
        return Err(ParseError::at(what, 0, "it is not a CBOR collection (tag 399)"));
    };
    let entries = collection.as_map().unwrap_or_default();
    let (Some(platform), Some(realm), 2) = (
        collection.get(PLATFORM).and_then(Value::as_bytes),
        collection.get(REALM).and_then(Value::as_bytes),
        entries.len(),
    ) else {
        return Err(ParseError::at(
            what,
            0,
            "it does not hold just a platform token (44234) and a realm token (44241)",
        ));
    };
    let offset = |part: &[u8]| (part.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    let platform = Sign1::parse("CCA platform token", platform, offset(platform))?;
    let realm = Sign1::parse("CCA realm token", realm, offset(realm))?;
    Ok(Token {
        platform_claims: claims_set("CCA platform claims", &platform)?,
        realm_claims: claims_set("CCA realm claims", &realm)?,
        platform,
        realm,
    })
}

/// The payload's claims set.
fn claims_set<'a>(what: &'static str, signed: &Sign1<'a>) -> Result<Value<'a>, ParseError> {
    let claims = parse(what, signed.payload, signed.payload_at)?;
    match claims.as_map() {
        Some(_) => Ok(claims),
        None => Err(ParseError::at(what, signed.payload_at, "they are not a map")),
    }
}

/// What the platform claims.
pub(super) struct Platform<'a> {
    pub(super) profile: Option<&'a str>,
    pub(super) challenge: Option<&'a [u8]>,
    pub(super) implementation_id: Option<&'a [u8]>,
    pub(super) instance_id: Option<&'a [u8]>,
    pub(super) configuration: Option<&'a [u8]>,
    pub(super) lifecycle: Option<u16>,
    pub(super) hash: Option<&'a str>,
    pub(super) software: Vec<Component<'a>>,
    pub(super) faults: Result<(), String>,
}

impl<'a> Platform<'a> {
    pub(super) fn read(claims: &Value<'a>) -> Self {
        let mut fields = Fields::new(claims);
        let profile = fields.text(label::PROFILE, "the profile");
        let challenge = fields.bytes(label::NONCE, "the challenge", &HASH_SIZES);
        let implementation_id = fields.bytes(label::IMPLEMENTATION_ID, "the implementation id", &[32]);
        let instance_id = fields.required(label::UEID, "the instance id", |value| {
            value.as_bytes().filter(|id| id.len() == 33 && id.first() == Some(&1))
        });
        let configuration = fields.required(PLATFORM_CONFIGURATION, "the configuration", Value::as_bytes);
        let lifecycle = fields.required(label::LIFECYCLE, "the life cycle", |value| {
            value.as_int().and_then(|number| u16::try_from(number).ok())
        });
        let hash = fields.text(PLATFORM_HASH, "the hash algorithm");
        fields.optional(label::VERIFICATION_SERVICE, "the verification service", Value::as_text);
        let mut faults = Vec::new();
        let list = fields.required(label::SOFTWARE, "the software components", Some);
        let software = list.map(|list| components(list, &mut faults)).unwrap_or_default();
        fields.faults.extend(faults);
        Self {
            profile,
            challenge,
            implementation_id,
            instance_id,
            configuration,
            lifecycle,
            hash,
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
        let mut put = |name: &str, value: serde_json::Value| claims.insert(format!("platform_{name}"), value);
        put("profile", json!(self.profile));
        put("challenge", json!(self.challenge.map(hex::encode)));
        put("implementation_id", json!(self.implementation_id.map(hex::encode)));
        put("instance_id", json!(self.instance_id.map(hex::encode)));
        put("config", json!(self.configuration.map(hex::encode)));
        put("lifecycle", json!(self.lifecycle));
        put("lifecycle_state", json!(self.state()));
        put("hash_algo", json!(self.hash));
        put("sw_components", listed(&self.software));
        claims.insert("debug".into(), json!(self.state().is_some_and(Lifecycle::is_debug)));
        claims.insert("chip_id".into(), json!(self.instance_id.map(hex::encode)));
    }
}

/// What the realm claims.
pub(super) struct Realm<'a> {
    pub(super) profile: Option<&'a str>,
    pub(super) challenge: Option<&'a [u8]>,
    pub(super) personalization: Option<&'a [u8]>,
    pub(super) hash: Option<&'a str>,
    pub(super) public_key: Option<&'a [u8]>,
    pub(super) public_key_hash: Option<&'a str>,
    pub(super) initial: Option<&'a [u8]>,
    pub(super) extensible: Option<Vec<&'a [u8]>>,
    pub(super) faults: Result<(), String>,
}

impl<'a> Realm<'a> {
    pub(super) fn read(claims: &Value<'a>) -> Self {
        let mut fields = Fields::new(claims);
        let profile = fields.optional(label::PROFILE, "the profile", Value::as_text);
        let challenge = fields.bytes(label::NONCE, "the challenge", &[64]);
        let personalization = fields.bytes(PERSONALIZATION, "the personalization value", &[64]);
        let hash = fields.text(REALM_HASH, "the hash algorithm");
        let public_key = fields.required(PUBLIC_KEY, "the public key", Value::as_bytes);
        let public_key_hash = fields.text(PUBLIC_KEY_HASH, "the public key's hash algorithm");
        let initial = fields.bytes(INITIAL, "the initial measurement", &HASH_SIZES);
        let extensible = fields.required(EXTENSIBLE, "the extensible measurements", |value| {
            let list: Option<Vec<&[u8]>> = value.as_array()?.iter().map(Value::as_bytes).collect();
            list.filter(|list| list.len() == EXTENSIBLE_COUNT && list.iter().all(|one| HASH_SIZES.contains(&one.len())))
        });
        Self {
            profile,
            challenge,
            personalization,
            hash,
            public_key,
            public_key_hash,
            initial,
            extensible,
            faults: fields.result(),
        }
    }

    /// The hash that makes the realm's measurements, when they have its length.
    pub(super) fn algorithm(&self) -> Result<HashAlgorithm, String> {
        let name = self.hash.ok_or("the token names no hash algorithm")?;
        let algorithm =
            HashAlgorithm::named(name).ok_or_else(|| format!("the token names `{name}`, which is not a SHA-2 hash"))?;
        let measurements = self.initial.iter().chain(self.extensible.iter().flatten());
        match measurements.map(|measurement| measurement.len()).find(|len| *len != algorithm.len()) {
            None => Ok(algorithm),
            Some(len) => Err(format!("a measurement has {len} bytes, but {name} gives {}", algorithm.len())),
        }
    }

    pub(super) fn claim(&self, claims: &mut Claims) {
        let extensible = self.extensible.as_ref().map(|list| list.iter().map(hex::encode).collect::<Vec<_>>());
        let initial = json!(self.initial.map(hex::encode));
        let challenge = json!(self.challenge.map(hex::encode));
        claims.insert("measurement".into(), initial.clone());
        claims.insert("report_data".into(), challenge.clone());
        let mut put = |name: &str, value: serde_json::Value| claims.insert(format!("realm_{name}"), value);
        put("initial_measurement", initial);
        put("extensible_measurements", json!(extensible));
        put("challenge", challenge);
        put("personalization_value", json!(self.personalization.map(hex::encode)));
        put("hash_algo", json!(self.hash));
        put("pubkey_hash_algo", json!(self.public_key_hash));
        put("pubkey", json!(self.public_key.map(hex::encode)));
        put("profile", json!(self.profile));
    }
}
