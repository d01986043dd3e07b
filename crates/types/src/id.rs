//! Opaque identifiers: a short prefix and 128 random bits in Crockford base32. No time inside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Crockford's alphabet: no I, L, O, U. Lower case here; parsing accepts lower case only, so that one id has one spelling.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters that 128 bits take in base32.
const ENCODED_LEN: usize = 26;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identifier: expected `{prefix}_` and {ENCODED_LEN} characters of Crockford base32")]
pub struct ParseIdError {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

fn encode(bits: u128) -> String {
    let mut out = String::with_capacity(ENCODED_LEN);
    for index in (0..ENCODED_LEN).rev() {
        let shift = u32::try_from(index).unwrap_or(0).saturating_mul(5);
        let digit = usize::try_from(bits.checked_shr(shift).unwrap_or(0) & 31).unwrap_or(0);
        out.push(ALPHABET.get(digit).copied().map_or('0', char::from));
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != ENCODED_LEN {
        return None;
    }
    text.bytes().enumerate().try_fold(0u128, |bits, (index, byte)| {
        let digit = ALPHABET.iter().position(|symbol| *symbol == byte)?;
        // 26 characters hold 130 bits: the first may only use its low three.
        if index == 0 && digit > 7 {
            return None;
        }
        Some(bits.checked_shl(5)? | u128::try_from(digit).ok()?)
    })
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// An identifier with exactly these bits.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// A fresh identifier from the operating system's random source.
            ///
            /// # Errors
            /// When the operating system gives no randomness.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0u8; 16];
                getrandom::fill(&mut bytes)?;
                Ok(Self(u128::from_be_bytes(bytes)))
            }

            /// The 128 bits, big endian: the form that enters signed and measured structures.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(|rest| rest.strip_prefix('_'))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// One instance, over all its boots.
    InstanceId = "inst";
    /// One boot of an instance; made by the guest, covered by its evidence.
    BootId = "boot";
    /// A tenant's project: the unit of ownership, keys and billing.
    ProjectId = "proj";
    /// A machine that runs instances.
    NodeId = "node";
    /// An isolated layer-2 segment.
    NetworkId = "net";
    /// A block device of ciphertext.
    VolumeId = "vol";
    /// A bootable image; the first 128 bits of the SHA-256 of its `image.json`, so an id names exact content.
    ImageId = "img";
    /// An API key's public part.
    ApiKeyId = "key";
    /// One request through the gateway.
    RequestId = "req";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_at_the_extremes() {
        for bits in [0, 1, u128::MAX, u128::MAX / 3] {
            let id = InstanceId::from_bits(bits);
            assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
        }
        assert_eq!(InstanceId::from_bits(0).to_string(), "inst_00000000000000000000000000");
    }

    #[test]
    fn other_prefixes_lengths_alphabets_and_overflow_are_refused() {
        let good = InstanceId::from_bits(5).to_string();
        for bad in [
            good.replace("inst", "vol"),
            good.replace('5', "u"),
            good.to_uppercase(),
            format!("{good}0"),
            "inst_8zzzzzzzzzzzzzzzzzzzzzzzzz".into(),
            "inst".into(),
            String::new(),
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_identifiers_differ() {
        assert_ne!(VolumeId::random().unwrap(), VolumeId::random().unwrap());
    }
}
