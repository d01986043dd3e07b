//! A TPM's signature by a key of whatever kind its maker chose.

use lambda_tpm::{Signature, alg};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rsa::signature::Verifier as _;
use rsa::{pkcs1v15, pss};
use sha2::{Sha256, Sha384, Sha512};

use crate::pki::PublicKey;

/// The hash and the scheme, by name.
pub(super) fn names(signature: &Signature) -> (&'static str, &'static str) {
    let (scheme, hash) = match signature {
        Signature::EcdsaP256 { hash, .. } => ("ecdsa", *hash),
        Signature::Rsa { scheme: alg::RSAPSS, hash, .. } => ("rsapss", *hash),
        Signature::Rsa { hash, .. } => ("rsassa", *hash),
    };
    let hash = match hash {
        alg::SHA1 => "sha1",
        alg::SHA256 => "sha256",
        alg::SHA384 => "sha384",
        alg::SHA512 => "sha512",
        _ => "unknown",
    };
    (scheme, hash)
}

/// TPM_ALG_ID of the hash.
pub(super) fn hash_of(signature: &Signature) -> u16 {
    match signature {
        Signature::EcdsaP256 { hash, .. } | Signature::Rsa { hash, .. } => *hash,
    }
}

/// Digest in one of the hashes that prove something.
pub(super) fn digest(hash: u16, parts: &[&[u8]]) -> Option<Vec<u8>> {
    fn of<D: sha2::Digest>(parts: &[&[u8]]) -> Vec<u8> {
        let mut hash = D::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().to_vec()
    }
    match hash {
        alg::SHA256 => Some(of::<Sha256>(parts)),
        alg::SHA384 => Some(of::<Sha384>(parts)),
        alg::SHA512 => Some(of::<Sha512>(parts)),
        _ => None,
    }
}

/// Whether the key signed the message. SHA-1 is refused: a quote is a signature over data that others had a say in.
pub(super) fn is_signed(message: &[u8], signature: &Signature, key: &PublicKey) -> Result<(), String> {
    let fails = || "the attestation key did not sign this quote".to_owned();
    match (signature, key) {
        (Signature::EcdsaP256 { hash, r, s }, PublicKey::P256(key)) => {
            let digest = digest(*hash, &[message]).ok_or("the quote is signed over a hash that proves nothing")?;
            let signature = p256::ecdsa::Signature::from_scalars(*r, *s).map_err(|_| fails())?;
            key.verify_prehash(&digest, &signature).map_err(|_| fails())
        }
        (Signature::Rsa { scheme, hash, signature }, PublicKey::Rsa(key)) => match (*scheme, *hash) {
            (alg::RSASSA, alg::SHA256) => pkcs1::<Sha256>(message, signature, key),
            (alg::RSASSA, alg::SHA384) => pkcs1::<Sha384>(message, signature, key),
            (alg::RSASSA, alg::SHA512) => pkcs1::<Sha512>(message, signature, key),
            (alg::RSAPSS, alg::SHA256) => probabilistic::<Sha256>(message, signature, key),
            (alg::RSAPSS, alg::SHA384) => probabilistic::<Sha384>(message, signature, key),
            (alg::RSAPSS, alg::SHA512) => probabilistic::<Sha512>(message, signature, key),
            _ => return Err("the quote is signed over a hash that proves nothing".into()),
        }
        .then_some(())
        .ok_or_else(fails),
        _ => Err("the signature is of another kind than the attestation key".into()),
    }
}

fn pkcs1<D>(message: &[u8], signature: &[u8], key: &rsa::PublicKey) -> bool
where
    D: sha2::Digest,
    pkcs1v15::VerifyingKey<D>: rsa::signature::Verifier<pkcs1v15::Signature> + From<rsa::PublicKey>,
{
    pkcs1v15::Signature::try_from(signature)
        .is_ok_and(|signature| pkcs1v15::VerifyingKey::<D>::from(key.clone()).verify(message, &signature).is_ok())
}

/// TPMs salt with as many bytes as the hash has, or as many as fit.
fn probabilistic<D>(message: &[u8], signature: &[u8], key: &rsa::PublicKey) -> bool
where
    D: sha2::Digest,
    pss::VerifyingKey<D>: rsa::signature::Verifier<pss::Signature>,
{
    pss::Signature::try_from(signature).is_ok_and(|signature| {
        pss::VerifyingKey::<D>::new_with_auto_salt_len(key.clone()).verify(message, &signature).is_ok()
    })
}
