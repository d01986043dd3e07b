//! API keys: `lam_` + 30 base62 characters (178 bits) + 6 base62 characters of CRC-32.
//!
//! The checksum lets the gateway refuse a mistyped key before it asks anyone, and lets secret scanners match without
//! false positives. Only the SHA-256 of a key is stored.

use serde::{Deserialize, Serialize};

use crate::{ApiKeyId, ProjectId};

/// What every key starts with.
pub const PREFIX: &str = "lam_";

/// Length of a key in characters.
pub const LEN: usize = 40;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Read resources.
    Read,
    /// Create, change and delete resources.
    Write,
    /// Read and answer mailboxes: what an unattended key broker needs beside `read`.
    Broker,
    /// Open tunnels.
    Connect,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Broker, Self::Connect];

    /// The name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Broker => "broker",
            Self::Connect => "connect",
        }
    }
}

/// Who a request speaks for, once its key is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// The key.
    pub key: ApiKeyId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// Characters of random base62 between the prefix and the checksum.
const RANDOM_LEN: usize = 30;

/// Characters of base62 that hold a CRC-32.
const CHECKSUM_LEN: usize = 6;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text of a new key, from the operating system's random source. Shown once; only its SHA-256 is kept.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut key = String::with_capacity(LEN);
    key.push_str(PREFIX);
    while key.len() < PREFIX.len().saturating_add(RANDOM_LEN) {
        let mut byte = [0u8];
        getrandom::fill(&mut byte)?;
        // 248 is the largest multiple of 62 in a byte: larger values would favour the first symbols.
        if let [value @ ..248] = byte {
            key.push(symbol(u32::from(value)));
        }
    }
    let checksum = checksum_of(&key);
    key.push_str(&checksum);
    Ok(key)
}

/// True when the text has a key's form and its checksum holds. Says nothing about whether the key exists.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    if text.len() != LEN || !text.starts_with(PREFIX) || !text.is_ascii() {
        return false;
    }
    let Some((body, checksum)) = text.split_at_checked(LEN.saturating_sub(CHECKSUM_LEN)) else { return false };
    let random = body.strip_prefix(PREFIX).unwrap_or_default();
    random.bytes().all(|byte| BASE62.contains(&byte)) && checksum_of(body) == checksum
}

fn symbol(value: u32) -> char {
    let index = usize::try_from(value.checked_rem(62).unwrap_or(0)).unwrap_or(0);
    BASE62.get(index).copied().map_or('0', char::from)
}

/// CRC-32 (ISO 3309) of the text, as base62 padded to six characters, most significant first.
fn checksum_of(text: &str) -> String {
    let mut rest = crc32(text.as_bytes());
    let mut digits = ['0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = symbol(rest);
        rest = rest.checked_div(62).unwrap_or(0);
    }
    digits.iter().collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc.wrapping_shr(1) ^ 0xedb8_8320 } else { crc.wrapping_shr(1) };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_matches_the_standard_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn generated_keys_are_well_formed_and_differ() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert!(is_well_formed(&one) && is_well_formed(&two));
        assert_ne!(one, two);
    }

    #[test]
    fn a_changed_character_is_noticed_anywhere() {
        let key = generate().unwrap();
        for at in 0..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(&String::from_utf8(bytes).unwrap()), "character {at}");
        }
        assert!(!is_well_formed(&key[..39]) && !is_well_formed("") && !is_well_formed("lam_é"));
    }
}
