//! The two documents that Intel's Provisioning Certification Service signs: TCB info and enclave identity.
//!
//! The signature covers the text of the inner object as it was sent, so that text is sliced out of the response, never
//! written anew. A key that stands twice, an unknown field and an unknown status are errors: what is not understood is
//! not judged good.

use p256::ecdsa::Signature;
use p256::ecdsa::signature::Verifier as _;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::value::RawValue;

use super::status::TcbStatus;
use crate::facts::Facts;
use crate::pki::{ParsedCertificate, PublicKey};
use crate::time::UnixTime;

/// Most bytes in one document; Intel's largest have about 30 KiB.
pub(super) const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// A signed document: the text that is signed, and the signature.
pub(super) struct SignedText<'a> {
    pub(super) text: &'a str,
    /// R and S; `None` when the text is not 64 bytes of them.
    signature: Option<Signature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcbInfoResponse<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    body: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityResponse<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    body: &'a RawValue,
    signature: &'a str,
}

impl<'a> SignedText<'a> {
    pub(super) fn of_tcb_info(response: &'a str) -> Result<Self, String> {
        let TcbInfoResponse { body, signature } = parse(response)?;
        Ok(Self { text: body.get(), signature: raw_signature(signature) })
    }

    pub(super) fn of_identity(response: &'a str) -> Result<Self, String> {
        let IdentityResponse { body, signature } = parse(response)?;
        Ok(Self { text: body.get(), signature: raw_signature(signature) })
    }

    pub(super) fn signed_by(&self, signer: &ParsedCertificate, facts: &Facts) -> bool {
        let (Some(PublicKey::P256(key)), Some(signature)) = (signer.public_key(), &self.signature) else {
            return false;
        };
        let text = self.text.as_bytes();
        facts.holds(signer.spki(), &signature.to_bytes(), text, || key.verify(text, signature).is_ok())
    }
}

/// R and S as 128 hex digits.
fn raw_signature(text: &str) -> Option<Signature> {
    let mut bytes = [0; 64];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Signature::from_slice(&bytes).ok()
}

/// Reads JSON of a bounded size.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(format!("it is longer than {MAX_DOCUMENT_BYTES} bytes"));
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Exactly `N` bytes, in hex of either case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes<const N: usize>(pub(super) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| D::Error::custom(format_args!("expected {N} bytes in hex")))?;
        Ok(Self(bytes))
    }
}

/// RFC 3339, UTC.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixTime, D::Error> {
    <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A status of TCB info or QE identity.
pub(super) fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TcbStatus, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    TcbStatus::of_document(text)
        .ok_or_else(|| D::Error::custom(format_args!("`{text}` is not a TCB status that is known here")))
}

/// Between the two instants of a document.
pub(super) fn current(issued: UnixTime, next: UnixTime, now: UnixTime) -> Result<String, String> {
    if now < issued {
        Err(format!("it was issued at {issued}, which is later than now"))
    } else if now > next {
        Err(format!("it was good until {next}"))
    } else {
        Ok(format!("it is good from {issued} until {next}"))
    }
}
