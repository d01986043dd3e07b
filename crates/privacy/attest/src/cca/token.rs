//! The CCA token: a collection of two COSE_Sign1, and the claims of each.
//!
//! ```text
//!   399({44234: platform, 44241: realm})                         Arm RMM, Attestation token format
//!   907({44234: [263, platform], 44241: [263, realm]})           draft-ffm-rats-cca-token: each with its content format
//! ```

use serde_json::json;

use crate::cose::{
    Component, Fields, HashAlgorithm, Identity, Lifecycle, Sign1, Value, components, label, listed, parse,
};
use crate::error::ParseError;
use crate::verdict::Claims;

/// CBOR tag of the collection, and of one whose entries say their content format.
const TAG_COLLECTION: u64 = 399;
const TAG_WRAPPED: u64 = 907;
/// CoAP content format of a signed token (application/eat+cwt).
const CONTENT_FORMAT: i128 = 263;
/// Its key for the platform's token.
const PLATFORM: i128 = 44234;
/// Its key for the realm's token.
const REALM: i128 = 44241;

/// Platform claims of the standard's own.
const PLATFORM_CONFIGURATION: i128 = 2401;
const PLATFORM_HASH: i128 = 2402;
const CLIENT_ID: i128 = 2394;
const MANUFACTURING_CONFIGURATION: i128 = 2403;
const EXTENSION_DEVICES: i128 = 2404;
const BOOT_KEYS: i128 = 2405;
const PEER_SIGNERS: i128 = 2406;

/// Realm claims (Arm RMM, Realm claims).
const PERSONALIZATION: i128 = 44235;
const REALM_HASH: i128 = 44236;
const PUBLIC_KEY: i128 = 44237;
const INITIAL: i128 = 44238;
const EXTENSIBLE: i128 = 44239;
const PUBLIC_KEY_HASH: i128 = 44240;
const MEMORY_ENCRYPTION: i128 = 44243;

/// Profiles of version 2, which have more claims.
pub(super) const PLATFORM_2: &str = "tag:arm.com,2024:cca_platform#2.0.0";
pub(super) const REALM_2: &str = "tag:arm.com,2024:realm#2.0.0";

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
    let (is_wrapped, collection) = match parse(what, bytes, 0)? {
        Value::Tag(TAG_COLLECTION, collection) => (false, collection),
        Value::Tag(TAG_WRAPPED, collection) => (true, collection),
        _ => return Err(ParseError::at(what, 0, "it is not a CBOR collection (tag 399 or 907)")),
    };
    let entries = collection.as_map().unwrap_or_default();
    let token = |key| {
        let entry = collection.get(key)?;
        match (is_wrapped, entry.as_array()) {
            (false, _) => entry.as_bytes(),
            (true, Some([Value::Int(CONTENT_FORMAT), token])) => token.as_bytes(),
            (true, _) => None,
        }
    };
    let (Some(platform), Some(realm), 2) = (token(PLATFORM), token(REALM), entries.len()) else {
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
    /// Claims of version 2 beside the configuration, as they are shown.
    pub(super) further: Vec<(&'static str, serde_json::Value)>,
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
        let further = if profile == Some(PLATFORM_2) { further(&mut fields) } else { Vec::new() };
        Self {
            profile,
            challenge,
            implementation_id,
            instance_id,
            configuration,
            lifecycle,
            hash,
            software,
            further,
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
        for (name, value) in &self.further {
            put(name, value.clone());
        }
        claims.insert("debug".into(), json!(self.state().is_some_and(Lifecycle::is_debug)));
        claims.insert("chip_id".into(), json!(self.instance_id.map(hex::encode)));
    }
}

/// What version 2 adds to the platform's claims. The client has to be the realm's attestation service.
fn further(fields: &mut Fields<'_, '_>) -> Vec<(&'static str, serde_json::Value)> {
    fields.required(CLIENT_ID, "the client id", |value| value.as_int().filter(|client| *client == 1));
    let bytes =
        |value: &Value<'_>| value.as_bytes().filter(|bytes| !bytes.is_empty()).map(|bytes| json!(hex::encode(bytes)));
    let list = |value: &Value<'_>| {
        let items = value.as_array().filter(|items| !items.is_empty())?;
        items.iter().all(|item| item.as_map().is_some()).then(|| shown(value))
    };
    let found = [
        (
            "manufacturing_config",
            fields.optional(MANUFACTURING_CONFIGURATION, "the manufacturing configuration", bytes),
        ),
        ("extension", fields.optional(EXTENSION_DEVICES, "the extension devices", list)),
        ("tbb_rotpk", fields.optional(BOOT_KEYS, "the boot root keys", list)),
        ("peer_signers", fields.optional(PEER_SIGNERS, "the peer signers", bytes)),
    ];
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// An item of a claim that is shown and not interpreted.
fn shown(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Int(number) => i64::try_from(*number).map_or_else(|_| json!(number.to_string()), |number| json!(number)),
        Value::Bytes(bytes) => json!(hex::encode(bytes)),
        Value::Text(text) => json!(text),
        Value::Array(items) => serde_json::Value::Array(items.iter().map(shown).collect()),
        Value::Map(entries) => {
            let name = |key: &Value<'_>| match shown(key) {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            serde_json::Value::Object(entries.iter().map(|(key, value)| (name(key), shown(value))).collect())
        }
        Value::Tag(_, inner) => shown(inner),
        Value::Simple(20) => json!(false),
        Value::Simple(21) => json!(true),
        Value::Simple(_) => serde_json::Value::Null,
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
    instance_id: Option<&'a [u8]>,
    /// Version 2: whether the key of its memory is its own ("private") or others' too ("shared").
    pub(super) memory_encryption: Option<&'a str>,
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
        let (mut instance_id, mut memory_encryption) = (None, None);
        if profile == Some(REALM_2) {
            instance_id = fields.optional(label::UEID, "the instance id", |value| {
                value.as_bytes().filter(|id| id.len() == 33 && id.first() == Some(&1))
            });
            memory_encryption = fields.required(MEMORY_ENCRYPTION, "the memory encryption policy", |value| {
                value.as_text().filter(|policy| ["private", "shared"].contains(policy))
            });
        }
        Self {
            profile,
            challenge,
            personalization,
            hash,
            public_key,
            public_key_hash,
            initial,
            extensible,
            instance_id,
            memory_encryption,
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
        if self.profile == Some(REALM_2) {
            put("instance_id", json!(self.instance_id.map(hex::encode)));
            put("mec_policy", json!(self.memory_encryption));
        }
    }
}
