//! COSE_Sign1 (RFC 9052 §4.2) with ECDSA (RFC 9053 §2.1). The algorithm stands in the protected header, where the
//! signature covers it, and has to be the one of the key's curve.

use coset::{CborSerializable as _, CoseSign1, TaggedCborSerializable as _};
use p256::ecdsa::signature::Verifier as _;

use super::cbor::{Value, parse};
use crate::error::ParseError;
use crate::pki::PublicKey;

/// CBOR tag of COSE_Sign1.
const TAG_SIGN1: u64 = 18;

/// Header label "alg".
const ALG: i128 = 1;
/// Header label "crit".
const CRIT: i128 = 2;

/// Signature algorithms, by their COSE number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// ECDSA P-256 with SHA-256.
    Es256,
    /// ECDSA P-384 with SHA-384.
    Es384,
    /// Another number.
    Other(i128),
    /// No number in the protected header.
    Absent,
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Es256 => f.write_str("ES256"),
            Self::Es384 => f.write_str("ES384"),
            Self::Other(-36) => f.write_str("ES512"),
            Self::Other(number) => write!(f, "COSE algorithm {number}"),
            Self::Absent => f.write_str("none"),
        }
    }
}

/// A signed message.
pub(crate) struct Sign1<'a> {
    message: CoseSign1,
    pub(crate) algorithm: Algorithm,
    /// What keeps the headers from being understood.
    headers: Result<(), &'static str>,
    /// The claims, still encoded.
    pub(crate) payload: &'a [u8],
    /// Where the payload stands in the file.
    pub(crate) payload_at: usize,
}

impl<'a> Sign1<'a> {
    /// Reads a tagged COSE_Sign1 with its payload inside.
    pub(crate) fn parse(what: &'static str, bytes: &'a [u8], base: usize) -> Result<Self, ParseError> {
        let Value::Tag(TAG_SIGN1, inner) = parse(what, bytes, base)? else {
            return Err(ParseError::at(what, base, "it is not a COSE_Sign1 (CBOR tag 18)"));
        };
        let Some([Value::Bytes(protected), unprotected @ Value::Map(_), Value::Bytes(payload), Value::Bytes(_)]) =
            inner.as_array()
        else {
            return Err(ParseError::at(what, base, "it is not headers, payload and signature"));
        };
        let protected_at = base.saturating_add(offset_in(bytes, protected));
        let protected = match protected.is_empty() {
            true => Value::Map(Vec::new()),
            false => parse("COSE protected header", protected, protected_at)?,
        };
        if protected.as_map().is_none() {
            return Err(ParseError::at("COSE protected header", protected_at, "it is not a map"));
        }
        let message =
            CoseSign1::from_tagged_slice(bytes).map_err(|error| ParseError::at(what, base, error.to_string()))?;
        Ok(Self {
            message,
            algorithm: match protected.get(ALG) {
                Some(Value::Int(-7)) => Algorithm::Es256,
                Some(Value::Int(-35)) => Algorithm::Es384,
                Some(Value::Int(number)) => Algorithm::Other(*number),
                Some(_) | None => Algorithm::Absent,
            },
            headers: understood(&protected, unprotected),
            payload,
            payload_at: base.saturating_add(offset_in(bytes, payload)),
        })
    }

    /// Whether headers and algorithm are such as this key can have signed.
    pub(crate) fn suits(&self, key: Option<&PublicKey>) -> Result<String, String> {
        self.headers?;
        match (self.algorithm, key) {
            (Algorithm::Es256, None | Some(PublicKey::P256(_)))
            | (Algorithm::Es384, None | Some(PublicKey::P384(_))) => {
                Ok(format!("signed with {}, which the signature covers", self.algorithm))
            }
            (Algorithm::Es256 | Algorithm::Es384, Some(_)) => {
                Err(format!("the token says {}, which is not of the key's curve", self.algorithm))
            }
            (Algorithm::Other(_) | Algorithm::Absent, _) => {
                Err(format!("the protected header names {}, not ES256 or ES384", self.algorithm))
            }
        }
    }

    /// Whether the key signed it.
    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.message
            .verify_signature(&[], |signature, message| match (self.algorithm, key) {
                (Algorithm::Es256, PublicKey::P256(key)) => {
                    let signature = p256::ecdsa::Signature::from_slice(signature).map_err(drop)?;
                    key.verify(message, &signature).map_err(drop)
                }
                (Algorithm::Es384, PublicKey::P384(key)) => {
                    let signature = p384::ecdsa::Signature::from_slice(signature).map_err(drop)?;
                    key.verify(message, &signature).map_err(drop)
                }
                _ => Err(()),
            })
            .is_ok()
    }
}

/// No header that must be understood and is not, none in both places, no algorithm where the signature does not cover it.
fn understood(protected: &Value<'_>, unprotected: &Value<'_>) -> Result<(), &'static str> {
    let (inside, outside) = (protected.as_map().unwrap_or_default(), unprotected.as_map().unwrap_or_default());
    if protected.get(CRIT).is_some() {
        return Err("a header is marked critical and is not understood");
    }
    if unprotected.get(ALG).is_some() || unprotected.get(CRIT).is_some() {
        return Err("a header that decides about the signature is not covered by it");
    }
    if outside.iter().any(|(label, _)| inside.iter().any(|(known, _)| known == label)) {
        return Err("a header stands both inside and outside of what is signed");
    }
    Ok(())
}

/// Where a part of `whole` begins in it.
fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

/// An EC2 key: an uncompressed point, or a COSE_Key (RFC 9053 §7.1.1) with curve and coordinates.
pub(crate) fn ecdsa_key(bytes: &[u8]) -> Result<PublicKey, String> {
    let off_curve = || "the point is not on its curve".to_owned();
    if bytes.first() == Some(&4) {
        return match bytes.len() {
            65 => p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).map(PublicKey::P256).map_err(|_| off_curve()),
            97 => p384::ecdsa::VerifyingKey::from_sec1_bytes(bytes).map(PublicKey::P384).map_err(|_| off_curve()),
            len => Err(format!("a point of {len} bytes is of no curve that is understood")),
        };
    }
    let value = parse("COSE_Key", bytes, 0).map_err(|error| error.to_string())?;
    coset::CoseKey::from_slice(bytes).map_err(|error| format!("it is not a COSE_Key: {error}"))?;
    let number = |label| value.get(label).and_then(Value::as_int);
    let coordinate = |label| value.get(label).and_then(Value::as_bytes);
    let (Some(x), Some(y)) = (coordinate(-2), coordinate(-3)) else {
        return Err("the COSE_Key lacks a coordinate".into());
    };
    let point = [&[4], x, y].concat();
    match (number(1), number(-1), x.len(), y.len()) {
        (Some(2), Some(1), 32, 32) => {
            p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).map(PublicKey::P256).map_err(|_| off_curve())
        }
        (Some(2), Some(2), 48, 48) => {
            p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).map(PublicKey::P384).map_err(|_| off_curve())
        }
        _ => Err("the COSE_Key is not an EC2 key on P-256 or P-384".into()),
    }
}
