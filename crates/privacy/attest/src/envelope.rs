//! Signed documents: a DSSE envelope (Dead Simple Signing Envelope, protocol version 1) with Ed25519 signatures.
//!
//! What is signed is the document's bytes together with its type, so a signed policy can never pass for signed collateral.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use lambda_types::Binary;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Type of a policy document.
pub const POLICY_TYPE: &str = "application/vnd.lambda.attestation-policy+json";

/// Type of a collateral document.
pub const COLLATERAL_TYPE: &str = "application/vnd.lambda.attestation-collateral+json";

/// Most signatures in an envelope.
pub const MAX_SIGNATURES: usize = 8;

/// A document with signatures over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Envelope {
    /// What the document is.
    pub payload_type: String,
    /// The document, byte for byte.
    pub payload: Binary,
    /// At least one, at most [`MAX_SIGNATURES`].
    pub signatures: Vec<EnvelopeSignature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// [`key_id`] of the key: a hint, nothing is trusted for it.
    pub keyid: String,
    /// Ed25519, 64 bytes (RFC 8032 §5.1).
    pub sig: Binary,
}

/// Why an envelope is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the JSON of an envelope; the text names the line and column.
    #[error("the signed document cannot be read: {0}")]
    Json(String),
    /// A document of another type.
    #[error("this is a signed `{found}`, not a signed `{wanted}`")]
    Type {
        /// What it says it is.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// No trusted key signed it.
    #[error("none of its {0} signatures is by a trusted key")]
    Untrusted(usize),
    /// Too many signatures to look at.
    #[error("it carries more than {MAX_SIGNATURES} signatures")]
    TooMany,
}

/// How people name a key: the first 16 bytes of the SHA-256 of the 32 bytes of Ed25519 public key, lower-case hex.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    hex::encode(Sha256::digest(key.as_bytes()).iter().take(16).copied().collect::<Vec<u8>>())
}

impl Envelope {
    /// Signs a document.
    #[must_use]
    pub fn sign(payload_type: &'static str, payload: Vec<u8>, key: &SigningKey) -> Self {
        let signature = key.sign(&pre_authentication(payload_type, &payload));
        let signature =
            EnvelopeSignature { keyid: key_id(&key.verifying_key()), sig: signature.to_bytes().to_vec().into() };
        Self { payload_type: payload_type.into(), payload: payload.into(), signatures: vec![signature] }
    }

    /// Reads an envelope, without trusting it.
    ///
    /// # Errors
    /// When it is not one, or carries too many signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| EnvelopeError::Json(error.to_string()))?;
        if envelope.signatures.len() > MAX_SIGNATURES { Err(EnvelopeError::TooMany) } else { Ok(envelope) }
    }

    /// The document, when one of these keys signed it as one of this type; with the key that did.
    ///
    /// # Errors
    /// When it is of another type, or none of the keys signed it.
    pub fn open<'a, 'k>(
        &'a self,
        payload_type: &'static str,
        trusted: &'k [VerifyingKey],
    ) -> Result<(&'a [u8], &'k VerifyingKey), EnvelopeError> {
        if self.payload_type != payload_type {
            return Err(EnvelopeError::Type { found: self.payload_type.clone(), wanted: payload_type });
        }
        let message = pre_authentication(payload_type, self.payload.as_slice());
        let signed_by = |key: &&VerifyingKey| {
            self.signatures.iter().any(|signature| {
                Signature::from_slice(signature.sig.as_slice())
                    .is_ok_and(|signature| key.verify_strict(&message, &signature).is_ok())
            })
        };
        let key = trusted.iter().find(signed_by).ok_or(EnvelopeError::Untrusted(self.signatures.len()))?;
        Ok((self.payload.as_slice(), key))
    }

    /// The envelope as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and byte strings with string keys: there is nothing here that JSON cannot express.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// PAE of DSSE: `DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`, lengths in decimal.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn what_is_signed_is_opened_by_who_trusts_the_key() {
        let envelope = Envelope::sign(POLICY_TYPE, b"{}".to_vec(), &key(1));
        let read = Envelope::parse(&envelope.to_json()).unwrap();
        let trusted = [key(2).verifying_key(), key(1).verifying_key()];
        assert_eq!(read.open(POLICY_TYPE, &trusted), Ok((&b"{}"[..], &trusted[1])));
    }

    #[test]
    fn another_key_type_or_document_is_refused() {
        let good = Envelope::sign(POLICY_TYPE, b"{}".to_vec(), &key(1));
        let trusted = [key(1).verifying_key()];
        assert_eq!(good.open(POLICY_TYPE, &[key(2).verifying_key()]), Err(EnvelopeError::Untrusted(1)));
        assert_eq!(good.open(POLICY_TYPE, &[]), Err(EnvelopeError::Untrusted(1)));
        let wanted = COLLATERAL_TYPE;
        assert_eq!(good.open(wanted, &trusted), Err(EnvelopeError::Type { found: POLICY_TYPE.into(), wanted }));
        let renamed = Envelope { payload_type: COLLATERAL_TYPE.into(), ..good.clone() };
        assert_eq!(renamed.open(COLLATERAL_TYPE, &trusted), Err(EnvelopeError::Untrusted(1)));
        let changed = Envelope { payload: b"{ }".to_vec().into(), ..good.clone() };
        assert_eq!(changed.open(POLICY_TYPE, &trusted), Err(EnvelopeError::Untrusted(1)));
        let many = Envelope { signatures: vec![good.signatures[0].clone(); MAX_SIGNATURES + 1], ..good };
        assert_eq!(Envelope::parse(&many.to_json()), Err(EnvelopeError::TooMany));
    }

    #[test]
    fn the_signed_bytes_are_those_of_the_protocol() {
        // The example of the DSSE specification.
        assert_eq!(
            pre_authentication("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
