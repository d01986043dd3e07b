//! The JSON metadata, exactly in the form that this guest writes: one key slot, one segment, one digest, no tokens.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{CIPHER, HEADER_BYTES, HeaderError, METADATA_BYTES, SECTOR_BYTES};

/// Where key slots begin: behind the two headers.
const KEYSLOTS_OFFSET: u64 = 2 * METADATA_BYTES as u64;
const JSON_BYTES: u64 = METADATA_BYTES as u64 - 4096;
const VOLUME_KEY_BYTES: u32 = 32;
const SALT_BYTES: usize = 32;
const STRIPES: u32 = 4000;
/// A host must not be able to stall the boot by an iteration count.
const MOST_ITERATIONS: u32 = 10_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    keyslots: Only<Keyslot>,
    tokens: Nothing,
    segments: Only<Segment>,
    digests: Only<Digest>,
    config: Config,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keyslot {
    r#type: String,
    key_size: u32,
    af: AntiForensic,
    area: Area,
    kdf: Kdf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AntiForensic {
    r#type: String,
    stripes: u32,
    hash: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    r#type: String,
    offset: Decimal,
    size: Decimal,
    encryption: String,
    key_size: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    r#type: String,
    hash: String,
    iterations: u32,
    salt: lambda_types::Binary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Segment {
    r#type: String,
    offset: Decimal,
    size: String,
    iv_tweak: Decimal,
    encryption: String,
    sector_size: u32,
    integrity: Integrity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Integrity {
    r#type: String,
    journal_encryption: String,
    journal_integrity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Digest {
    r#type: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: lambda_types::Binary,
    digest: lambda_types::Binary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    json_size: Decimal,
    keyslots_size: Decimal,
}

/// Checks the metadata against the strict form.
pub(super) fn check(json: &[u8]) -> Result<(), HeaderError> {
    let Metadata { keyslots, tokens: Nothing, segments, digests, config } =
        serde_json::from_slice(json).map_err(|error| HeaderError::Json(error.to_string()))?;
    check_keyslot(&keyslots.0)?;
    check_segment(&segments.0)?;
    check_digest(&digests.0)?;
    let Config { json_size, keyslots_size } = config;
    rule(json_size.0 == JSON_BYTES, "config: size of the JSON area")?;
    rule(
        KEYSLOTS_OFFSET + keyslots_size.0.min(u64::from(u32::MAX)) <= HEADER_BYTES as u64,
        "config: size of the key slots area",
    )
}

fn rule(holds: bool, what: &'static str) -> Result<(), HeaderError> {
    if holds { Ok(()) } else { Err(HeaderError::Metadata(what)) }
}

fn check_keyslot(keyslot: &Keyslot) -> Result<(), HeaderError> {
    let Keyslot { r#type, key_size, af, area, kdf } = keyslot;
    rule(r#type == "luks2", "key slot: type")?;
    rule(*key_size == VOLUME_KEY_BYTES, "key slot: key size")?;
    let AntiForensic { r#type, stripes, hash } = af;
    rule(r#type == "luks1" && *stripes == STRIPES && hash == "sha256", "key slot: anti-forensic splitter")?;
    let Area { r#type, offset, size, encryption, key_size } = area;
    rule(r#type == "raw", "key slot: area type")?;
    rule(encryption == "aes-xts-plain64" && *key_size == 64, "key slot: area encryption")?;
    let end = offset.0.checked_add(size.0);
    rule(
        offset.0 >= KEYSLOTS_OFFSET
            && offset.0.is_multiple_of(4096)
            && size.0 >= u64::from(VOLUME_KEY_BYTES) * u64::from(STRIPES)
            && end.is_some_and(|end| end <= HEADER_BYTES as u64),
        "key slot: area lies outside the key slots",
    )?;
    let Kdf { r#type, hash, iterations, salt } = kdf;
    rule(r#type == "pbkdf2" && hash == "sha256" && iterations_are_sane(*iterations), "key slot: key derivation")?;
    rule(salt.0.len() == SALT_BYTES, "key slot: salt")
}

fn check_segment(segment: &Segment) -> Result<(), HeaderError> {
    let Segment { r#type, offset, size, iv_tweak, encryption, sector_size, integrity } = segment;
    rule(r#type == "crypt", "segment: type")?;
    rule(offset.0 == HEADER_BYTES as u64, "segment: offset")?;
    rule(size == "dynamic", "segment: size")?;
    rule(iv_tweak.0 == 0, "segment: IV tweak")?;
    rule(encryption == CIPHER, "segment: cipher")?;
    rule(*sector_size == SECTOR_BYTES, "segment: sector size")?;
    let Integrity { r#type, journal_encryption, journal_integrity } = integrity;
    rule(r#type == "aead", "segment: integrity type")?;
    rule(journal_encryption == "none" && journal_integrity == "none", "segment: integrity journal")
}

fn check_digest(digest: &Digest) -> Result<(), HeaderError> {
    let Digest { r#type, keyslots, segments, hash, iterations, salt, digest } = digest;
    rule(r#type == "pbkdf2" && hash == "sha256" && iterations_are_sane(*iterations), "digest: type")?;
    rule(keyslots == &["0"] && segments == &["0"], "digest: what it covers")?;
    rule(salt.0.len() == SALT_BYTES && digest.0.len() == 32, "digest: sizes")
}

fn iterations_are_sane(iterations: u32) -> bool {
    (1000..=MOST_ITERATIONS).contains(&iterations)
}

/// A map with the one key `0`; a repeated key is refused, so that no two parsers can pick different values.
struct Only<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Only<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyVisitor<T> {
            type Value = Only<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the single member \"0\"")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Only<T>, A::Error> {
                let (key, value) =
                    map.next_entry::<String, T>()?.ok_or_else(|| A::Error::custom("expected the member \"0\""))?;
                if key != "0" || map.next_key::<String>()?.is_some() {
                    return Err(A::Error::custom("expected the single member \"0\""));
                }
                Ok(Only(value))
            }
        }
        deserializer.deserialize_map(OnlyVisitor(PhantomData))
    }
}

/// An empty object.
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NothingVisitor;
        impl<'de> Visitor<'de> for NothingVisitor {
            type Value = Nothing;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an empty object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Nothing, A::Error> {
                match map.next_key::<String>()? {
                    None => Ok(Nothing),
                    Some(_) => Err(A::Error::custom("expected no tokens")),
                }
            }
        }
        deserializer.deserialize_map(NothingVisitor)
    }
}

/// LUKS2 writes 64-bit numbers as decimal strings.
struct Decimal(u64);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        match text.parse() {
            Ok(value) if plain => Ok(Self(value)),
            _ => Err(D::Error::custom("expected a decimal number in a string")),
        }
    }
}
