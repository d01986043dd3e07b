//! AES-256-GCM with a random nonce, and the building of associated data.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

use crate::Error;

/// Bytes of a GCM nonce.
const NONCE: usize = 12;

/// Associated data: each field prefixed by its length, so that no two lists of fields give the same bytes.
pub(crate) fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        // No field comes near 4 GiB; a saturated length would still be unambiguous with the bytes that follow it.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// Nonce and ciphertext. A key makes far fewer than the 2^32 messages at which random nonces become unsafe.
pub(crate) fn seal(key: &[u8; 32], plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, Error> {
    let mut nonce = [0u8; NONCE];
    getrandom::fill(&mut nonce)?;
    let ciphertext = Aes256Gcm::new(key.into())
        .encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad })
        .map_err(|_| Error::Invalid("the plaintext is too long"))?;
    let mut out = nonce.to_vec();
    out.extend_from_slice(&ciphertext);
    Ok(out)
}

/// The plaintext of [`seal`].
pub(crate) fn open(key: &[u8; 32], sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (nonce, ciphertext) =
        sealed.split_first_chunk::<NONCE>().ok_or(Error::Malformed("sealed value is too short"))?;
    Aes256Gcm::new(key.into())
        .decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad })
        .map(Zeroizing::new)
        .map_err(|_| Error::NotAuthentic)
}
