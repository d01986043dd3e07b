//! The two key derivation functions of Part 1 (KDFa, KDFe), over SHA-256.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// KDFa: SP 800-108 counter mode with HMAC-SHA-256. `N` is at most 32, one block: no caller needs more.
#[must_use]
pub fn kdfa<const N: usize>(key: &[u8], label: &str, context_u: &[u8], context_v: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 32) };
    let bits = u32::try_from(N).unwrap_or(0).saturating_mul(8);
    let block =
        hmac_sha256(key, &[&1u32.to_be_bytes(), label.as_bytes(), &[0], context_u, context_v, &bits.to_be_bytes()]);
    first(&block)
}

/// KDFe: SP 800-56A concatenation KDF with SHA-256. `N` is at most 32.
#[must_use]
pub fn kdfe<const N: usize>(z: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 32) };
    let mut hash = Sha256::new();
    hash.update(1u32.to_be_bytes());
    hash.update(z);
    hash.update(label.as_bytes());
    hash.update([0]);
    hash.update(party_u);
    hash.update(party_v);
    first(&Zeroizing::new(hash.finalize().into()))
}

/// HMAC-SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut block = Zeroizing::new([0u8; 64]);
    if key.len() <= block.len() {
        for (slot, byte) in block.iter_mut().zip(key) {
            *slot = *byte;
        }
    } else {
        for (slot, byte) in block.iter_mut().zip(Sha256::digest(key)) {
            *slot = byte;
        }
    }
    // A key padded to the block size with zeros is the same HMAC key (RFC 2104), and its length cannot be wrong.
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn first<const N: usize>(block: &Zeroizing<[u8; 32]>) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0u8; N]);
    for (slot, byte) in out.iter_mut().zip(block.iter()) {
        *slot = *byte;
    }
    out
}
