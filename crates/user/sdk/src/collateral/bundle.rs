//! Collateral in one file, for a machine that cannot fetch: signed by who fetched it.

use std::path::Path;

use ed25519_dalek::VerifyingKey;
use lambda_attest::envelope::{COLLATERAL_TYPE, Envelope};
use lambda_attest::{Collateral, MAX_COLLATERAL_BYTES};

use crate::policies::keys::PolicyKey;
use crate::{Error, policies};

/// A file of collateral.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What it holds.
    pub collateral: Collateral,
    /// Ids of the keys that it says signed it; empty for a plain document.
    pub signers: Vec<String>,
    /// Id of the key whose signature holds; `None` when no key was given to check it with.
    pub verified: Option<String>,
}

/// The signed file.
#[must_use]
pub fn seal(collateral: &Collateral, key: &PolicyKey) -> Vec<u8> {
    key.sign(COLLATERAL_TYPE, collateral.to_json())
}

/// Reads a plain document, or a signed one. With keys, one of them must have signed it.
///
/// # Errors
/// When it cannot be read, is not collateral, or none of the keys signed it.
pub fn load_file(path: &Path, keys: &[VerifyingKey]) -> Result<Opened, Error> {
    let shown = path.display();
    let bytes = policies::read_document(path, 2 * MAX_COLLATERAL_BYTES)?;
    let parse = |bytes: &[u8]| {
        Collateral::parse(bytes).map_err(|error| Error::Usage(format!("{shown} is not collateral: {error}")))
    };
    if !policies::is_envelope(&bytes) {
        let collateral = parse(&bytes)?;
        if !keys.is_empty() {
            return Err(Error::NotTrusted(format!(
                "{shown} is not signed, and a key was given that must have signed it"
            )));
        }
        return Ok(Opened { collateral, signers: Vec::new(), verified: None });
    }
    let envelope =
        Envelope::parse(&bytes).map_err(|error| Error::Usage(format!("{shown} is not a signed bundle: {error}")))?;
    let signers = envelope.signatures.iter().map(|signature| signature.keyid.clone()).collect();
    if keys.is_empty() {
        if envelope.payload_type != COLLATERAL_TYPE {
            return Err(Error::Usage(format!("{shown} is a signed `{}`, not collateral", envelope.payload_type)));
        }
        return Ok(Opened { collateral: parse(envelope.payload.as_slice())?, signers, verified: None });
    }
    let (payload, key) =
        envelope.open(COLLATERAL_TYPE, keys).map_err(|error| Error::NotTrusted(format!("{shown}: {error}")))?;
    Ok(Opened { collateral: parse(payload)?, signers, verified: Some(lambda_attest::envelope::key_id(key)) })
}
