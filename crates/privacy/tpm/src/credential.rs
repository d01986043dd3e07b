//! TPM2_MakeCredential in software (Part 1, Credential Protection): a secret that only the TPM holding both keys can open.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::kdf::{hmac_sha256, kdfa, kdfe};
use crate::public::{Public, PublicKeyArea, Symmetric};
use crate::wire::Writer;
use crate::{Error, alg};

/// Most bytes of secret: the digest length of an EK with SHA-256 names.
pub const MAX_SECRET_BYTES: usize = 32;

/// What TPM2_ActivateCredential takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT, with its length.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET, with its length.
    pub secret: Vec<u8>,
}

/// Encrypts `secret` to the endorsement key `ek`, bound to the object whose name is `name`.
///
/// `entropy` is fresh randomness for the ephemeral key; it must never be used twice.
///
/// # Errors
/// When `ek` is not an ECC P-256 storage key with AES-128-CFB and SHA-256 names, or the secret is too long.
pub fn make_credential(ek: &Public, name: &[u8], secret: &[u8], entropy: &[u8; 32]) -> Result<Credential, Error> {
    let what = "endorsement key";
    if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
        return Err(Error::TooLong { what: "credential", limit: MAX_SECRET_BYTES });
    }
    if ek.name_alg != alg::SHA256 {
        return Err(Error::Unsupported { what, algorithm: ek.name_alg });
    }
    let PublicKeyArea::EccP256 { symmetric: Symmetric::AesCfb { bits: 128 }, x: ek_x, .. } = &ek.key else {
        return Err(Error::Malformed { what, why: "it is not an ECC P-256 storage key with AES-128-CFB" });
    };
    let point = ek.p256_sec1().ok_or(Error::Malformed { what, why: "its point is not on P-256" })?;
    let ek_key =
        PublicKey::from_sec1_bytes(&point).map_err(|_| Error::Malformed { what, why: "its point is not on P-256" })?;

    let ephemeral = ephemeral_key(entropy)?;
    let (x, y) = coordinates(&ephemeral.public_key())?;
    let shared = p256::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), ek_key.as_affine());
    let seed = kdfe::<32>(shared.raw_secret_bytes(), "IDENTITY", &x, ek_x);

    let mut identity = Zeroizing::new(Writer::new().sized("credential", secret)?.done());
    cfb_encrypt(&kdfa::<16>(&*seed, "STORAGE", name, &[]), &mut identity);
    let mac_key = kdfa::<32>(&*seed, "INTEGRITY", &[], &[]);
    let mac = hmac_sha256(&*mac_key, &[&identity, name]);

    let object = Writer::new().sized("credential", &*mac)?.raw(&identity).done();
    let point = Writer::new().sized("credential", &x)?.sized("credential", &y)?.done();
    Ok(Credential {
        blob: Writer::new().sized("credential", &object)?.done(),
        secret: Writer::new().sized("credential", &point)?.done(),
    })
}

/// A uniform private key from 32 random bytes. A candidate is out of range once in 2^32; four in a row never happens.
fn ephemeral_key(entropy: &[u8; 32]) -> Result<SecretKey, Error> {
    (0u8..4)
        .find_map(|attempt| {
            let mut hash = Sha256::new();
            hash.update(b"lambda-ephemeral-v1");
            hash.update([attempt]);
            hash.update(entropy);
            let candidate: Zeroizing<[u8; 32]> = Zeroizing::new(hash.finalize().into());
            SecretKey::from_slice(&*candidate).ok()
        })
        .ok_or(Error::Malformed { what: "entropy", why: "it yields no private key" })
}

fn coordinates(key: &PublicKey) -> Result<([u8; 32], [u8; 32]), Error> {
    let malformed = Error::Malformed { what: "ephemeral key", why: "it has no affine coordinates" };
    let point = key.to_sec1_point(false);
    let x = point.x().ok_or_else(|| malformed.clone())?;
    let y = point.y().ok_or(malformed)?;
    Ok(((*x).into(), (*y).into()))
}

/// AES-128-CFB with a zero IV: the key is used once.
fn cfb_encrypt(key: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut feedback = Zeroizing::new([0u8; 16]);
    for chunk in data.chunks_mut(16) {
        let mut block = (*feedback).into();
        cipher.encrypt_block(&mut block);
        for ((byte, pad), next) in chunk.iter_mut().zip(block).zip(feedback.iter_mut()) {
            *byte ^= pad;
            *next = *byte;
        }
    }
}
