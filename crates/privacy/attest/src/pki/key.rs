//! Public keys and signatures: the few algorithms that hardware vendors and platform CAs use.

use der::asn1::{Any, ObjectIdentifier};
use der::{Decode as _, Encode as _};
use rsa::pkcs1::{RsaPssParams, TrailerField};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::signature::Verifier as _;
use rsa::signature::hazmat::PrehashVerifier as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{pkcs1v15, pss};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoRef};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const PRIME256V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_WITH_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const RSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_WITH_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Sizes of RSA modulus that are accepted, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;

/// A public key of a kind that is understood.
#[derive(Clone)]
pub(crate) enum PublicKey {
    /// NIST P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// NIST P-384.
    P384(p384::ecdsa::VerifyingKey),
    /// RSA with 2048 to 4096 bits.
    Rsa(rsa::PublicKey),
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo; `None` for other kinds and for points that are not on their curve.
    pub(crate) fn from_spki(der: &[u8]) -> Option<Self> {
        let info = SubjectPublicKeyInfoRef::from_der(der).ok()?;
        if info.algorithm.oid == RSA_ENCRYPTION {
            let key = rsa::PublicKey::from_public_key_der(der).ok()?;
            return RSA_BITS.contains(&key.n().bit_width()).then_some(Self::Rsa(key));
        }
        if info.algorithm.oid != EC_PUBLIC_KEY {
            return None;
        }
        let curve = info.algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()?;
        let point = info.subject_public_key.as_bytes()?;
        if point.first() != Some(&4) {
            return None;
        }
        match curve {
            PRIME256V1 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(Self::P256),
            SECP384R1 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(Self::P384),
            _ => None,
        }
    }
}

/// A signature algorithm of X.509, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignatureAlgorithm {
    /// ECDSA with SHA-256 (RFC 5758 §3.2), on whichever curve the issuer's key is.
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
    /// ECDSA with SHA-512.
    EcdsaSha512,
    /// RSASSA-PSS with SHA-384, MGF1 with SHA-384, a salt of 48 bytes (RFC 4055 §3.1).
    RsaPssSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 4055 §5).
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
}

impl SignatureAlgorithm {
    /// What an AlgorithmIdentifier names; `None` for others and for parameters that must not be there.
    pub(crate) fn named(identifier: &AlgorithmIdentifierOwned) -> Option<Self> {
        let parameters = identifier.parameters.as_ref();
        let absent_or_null = || parameters.is_none_or(|any| any.is_null());
        match identifier.oid {
            ECDSA_WITH_SHA256 => parameters.is_none().then_some(Self::EcdsaSha256),
            ECDSA_WITH_SHA384 => parameters.is_none().then_some(Self::EcdsaSha384),
            ECDSA_WITH_SHA512 => parameters.is_none().then_some(Self::EcdsaSha512),
            RSA_WITH_SHA256 => absent_or_null().then_some(Self::RsaPkcs1Sha256),
            RSA_WITH_SHA384 => absent_or_null().then_some(Self::RsaPkcs1Sha384),
            RSA_WITH_SHA512 => absent_or_null().then_some(Self::RsaPkcs1Sha512),
            RSASSA_PSS => is_pss_sha384(&parameters?.to_der().ok()?).then_some(Self::RsaPssSha384),
            _ => None,
        }
    }
}

fn is_pss_sha384(parameters: &[u8]) -> bool {
    RsaPssParams::<Any>::from_der(parameters).is_ok_and(|parameters| {
        parameters.hash.oid == SHA_384
            && parameters.mask_gen.oid == MGF1
            && parameters.mask_gen.parameters.is_some_and(|hash| hash.oid == SHA_384)
            && parameters.salt_len == 48
            && parameters.trailer_field == TrailerField::BC
    })
}

/// ECDSA over a message's hash; one longer than the curve's order is cut to its leftmost bits (FIPS 186-5 §6.4.2).
fn is_ecdsa(key: &PublicKey, hash: &[u8], signature: &[u8]) -> bool {
    match key {
        PublicKey::P256(key) => p256::ecdsa::Signature::from_der(signature)
            .is_ok_and(|signature| key.verify_prehash(hash, &signature).is_ok()),
        PublicKey::P384(key) => p384::ecdsa::Signature::from_der(signature)
            .is_ok_and(|signature| key.verify_prehash(hash, &signature).is_ok()),
        PublicKey::Rsa(_) => false,
    }
}

/// Whether the signature over the message is this key's. Key and algorithm must belong together.
pub(crate) fn verify(key: &PublicKey, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> bool {
    match (algorithm, key) {
        (SignatureAlgorithm::EcdsaSha256, key) => is_ecdsa(key, &Sha256::digest(message), signature),
        (SignatureAlgorithm::EcdsaSha384, key) => is_ecdsa(key, &Sha384::digest(message), signature),
        (SignatureAlgorithm::EcdsaSha512, key) => is_ecdsa(key, &Sha512::digest(message), signature),
        (SignatureAlgorithm::RsaPssSha384, PublicKey::Rsa(key)) => pss::Signature::try_from(signature)
            .is_ok_and(|signature| pss::VerifyingKey::<Sha384>::new(key.clone()).verify(message, &signature).is_ok()),
        (SignatureAlgorithm::RsaPkcs1Sha256, PublicKey::Rsa(key)) => pkcs1v15::Signature::try_from(signature)
            .is_ok_and(|it| pkcs1v15::VerifyingKey::<Sha256>::new(key.clone()).verify(message, &it).is_ok()),
        (SignatureAlgorithm::RsaPkcs1Sha384, PublicKey::Rsa(key)) => pkcs1v15::Signature::try_from(signature)
            .is_ok_and(|it| pkcs1v15::VerifyingKey::<Sha384>::new(key.clone()).verify(message, &it).is_ok()),
        (SignatureAlgorithm::RsaPkcs1Sha512, PublicKey::Rsa(key)) => pkcs1v15::Signature::try_from(signature)
            .is_ok_and(|it| pkcs1v15::VerifyingKey::<Sha512>::new(key.clone()).verify(message, &it).is_ok()),
        _ => false,
    }
}
