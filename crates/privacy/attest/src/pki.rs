//! X.509 chains from an endorsement key to a platform CA that the customer pinned.
//!
//! The root never comes from the evidence. A pinned CA is recognised by its name and key, every signature is verified
//! over the bytes as they came, and whatever RFC 5280 §6.1 asks of a path is a check of its own: dates, names, CA flags,
//! path lengths, key usages, unknown critical extensions. Only ECDSA P-256 with SHA-256 is spoken.

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::oid::AssociatedOid;
use der::{Decode, Document, Encode, Reader, SliceReader};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};
use x509_cert::certificate::{Certificate, Version};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::time::UnixTime;

/// Most certificates in a chain, the pinned root not counted.
pub const MAX_CHAIN: usize = 4;

/// Most bytes in one certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// tcg-kp-EKCertificate (TCG EK Credential Profile, Extended Key Usage).
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const PRIME256V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// Why bytes are not a usable certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Not DER, or not PEM with one CERTIFICATE.
    #[error("this is not a certificate: {0}")]
    Malformed(String),
    /// Longer than any certificate here.
    #[error("the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
}

/// A parsed certificate with the bytes that its issuer signed.
pub struct ParsedCertificate {
    certificate: Certificate,
    signed: Vec<u8>,
    spki: Vec<u8>,
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, lower-case hex: what people compare when they pin a platform CA.
///
/// # Errors
/// When the bytes are neither a DER certificate nor a PEM with exactly one.
pub fn fingerprint(pem_or_der: &[u8]) -> Result<String, PkiError> {
    ParsedCertificate::parse(pem_or_der).map(|certificate| certificate.fingerprint())
}

impl ParsedCertificate {
    /// Parses DER, or PEM with exactly one certificate.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub fn parse(bytes: &[u8]) -> Result<Self, PkiError> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.trim_start().starts_with("-----BEGIN") => Self::from_pem(text),
            _ => Self::from_der(bytes),
        }
    }

    /// Parses PEM with exactly one certificate.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        if pem.len() > MAX_CERTIFICATE_BYTES.saturating_mul(2) {
            return Err(PkiError::TooLong);
        }
        let (label, document) =
            Document::from_pem(pem.trim()).map_err(|error| PkiError::Malformed(error.to_string()))?;
        if label != "CERTIFICATE" {
            return Err(PkiError::Malformed(format!("the PEM label is `{label}`, not `CERTIFICATE`")));
        }
        Self::from_der(document.as_bytes())
    }

    /// Parses DER.
    ///
    /// # Errors
    /// When it is not exactly one X.509 certificate.
    pub fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > MAX_CERTIFICATE_BYTES {
            return Err(PkiError::TooLong);
        }
        let malformed = |error: der::Error| PkiError::Malformed(error.to_string());
        let certificate = Certificate::from_der(bytes).map_err(malformed)?;
        let signed = signed_part(bytes).map_err(malformed)?.to_vec();
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?;
        Ok(Self { certificate, signed, spki })
    }

    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.spki))
    }

    /// The subject, as RFC 4514 text.
    #[must_use]
    pub fn subject(&self) -> String {
        self.certificate.tbs_certificate().subject().to_string()
    }

    /// The public key as an uncompressed point, when it is P-256.
    #[must_use]
    pub fn p256_sec1(&self) -> Option<[u8; 65]> {
        let spki = self.certificate.tbs_certificate().subject_public_key_info();
        let curve = spki.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
        if spki.algorithm.oid != EC_PUBLIC_KEY || curve != PRIME256V1 {
            return None;
        }
        let point: [u8; 65] = spki.subject_public_key.as_bytes()?.try_into().ok()?;
        VerifyingKey::from_sec1_bytes(&point).ok()?;
        Some(point)
    }

    fn extension<T: for<'a> Decode<'a> + AssociatedOid>(&self) -> Result<Option<(bool, T)>, String> {
        let extensions = self.certificate.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
        let mut found = extensions.iter().filter(|extension| extension.extn_id == T::OID);
        let Some(first) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(format!("`{}` carries one extension twice", self.subject()));
        }
        let value = T::from_der(first.extn_value.as_bytes())
            .map_err(|_| format!("`{}` carries an extension that cannot be read", self.subject()))?;
        Ok(Some((first.critical, value)))
    }

    pub(crate) fn issued_by_name_of(&self, issuer: &Self) -> bool {
        let name = self.certificate.tbs_certificate().issuer();
        !name.is_empty() && name == issuer.certificate.tbs_certificate().subject()
    }

    /// Verifies the signature over the bytes as they came.
    pub(crate) fn signed_by(&self, issuer: &Self) -> bool {
        let (Some(point), Some(signature)) = (issuer.p256_sec1(), self.certificate.signature().as_bytes()) else {
            return false;
        };
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_sec1_bytes(&point), Signature::from_der(signature)) else {
            return false;
        };
        key.verify(&self.signed, &signature).is_ok()
    }

    /// Version 3, ECDSA with SHA-256 named twice alike, a P-256 key.
    pub(crate) fn algorithms(&self) -> Result<(), String> {
        let outer = self.certificate.signature_algorithm();
        let tbs = self.certificate.tbs_certificate();
        if tbs.version() != Version::V3 {
            return Err(format!("`{}` is not an X.509 version 3 certificate", self.subject()));
        }
        if outer != tbs.signature() || outer.oid != ECDSA_WITH_SHA256 || outer.parameters.is_some() {
            return Err(format!("`{}` is not signed with ECDSA and SHA-256", self.subject()));
        }
        self.p256_sec1().map(drop).ok_or_else(|| format!("`{}` does not hold a P-256 key", self.subject()))
    }

    pub(crate) fn valid_at(&self, now: UnixTime) -> Result<(), String> {
        let validity = self.certificate.tbs_certificate().validity();
        let seconds =
            |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
        let (from, until) = (seconds(validity.not_before), seconds(validity.not_after));
        if now.0 < from {
            return Err(format!("`{}` is not valid before {}", self.subject(), validity.not_before));
        }
        if now.0 > until {
            return Err(format!("`{}` was valid until {}", self.subject(), validity.not_after));
        }
        Ok(())
    }

    /// CA flag and path length for a certificate with `below` CA certificates between it and the leaf.
    pub(crate) fn is_authority(&self, below: usize) -> Result<(), String> {
        match self.extension::<BasicConstraints>()? {
            Some((true, BasicConstraints { ca: true, path_len_constraint })) => match path_len_constraint {
                Some(most) if usize::from(most) < below => {
                    Err(format!("`{}` allows {most} authorities below it, the chain has {below}", self.subject()))
                }
                Some(_) | None => Ok(()),
            },
            _ => Err(format!("`{}` is not marked as a certificate authority", self.subject())),
        }
    }

    pub(crate) fn is_leaf(&self) -> Result<(), String> {
        match self.extension::<BasicConstraints>()? {
            Some((_, BasicConstraints { ca: true, .. })) => {
                Err("the EK certificate is marked as a certificate authority".into())
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn may_sign_certificates(&self) -> Result<(), String> {
        match self.extension::<KeyUsage>()? {
            Some((_, usage)) if usage.key_cert_sign() => Ok(()),
            _ => Err(format!("the key usage of `{}` does not allow it to sign certificates", self.subject())),
        }
    }

    /// Key agreement and nothing that signs (TCG EK Credential Profile, Key Usage of a storage EK).
    pub(crate) fn is_for_key_agreement(&self) -> Result<(), String> {
        match self.extension::<KeyUsage>()? {
            Some((_, usage))
                if usage.key_agreement()
                    && !usage.key_cert_sign()
                    && !usage.crl_sign()
                    && !usage.digital_signature() =>
            {
                Ok(())
            }
            _ => Err("the EK certificate's key usage is not key agreement alone".into()),
        }
    }

    /// Absent, or with tcg-kp-EKCertificate.
    pub(crate) fn is_for_endorsement(&self) -> Result<(), String> {
        match self.extension::<ExtendedKeyUsage>()? {
            Some((_, ExtendedKeyUsage(usages))) if !usages.contains(&EK_CERTIFICATE) => {
                Err(format!("the EK certificate's extended key usage lacks tcg-kp-EKCertificate ({EK_CERTIFICATE})"))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn understands_critical_extensions(&self) -> Result<(), String> {
        let known = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID];
        let extensions = self.certificate.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
        match extensions.iter().find(|extension| extension.critical && !known.contains(&extension.extn_id)) {
            None => Ok(()),
            Some(unknown) => {
                Err(format!("`{}` carries the critical extension {}, unknown here", self.subject(), unknown.extn_id))
            }
        }
    }
}

/// The TBSCertificate's own bytes: verifying a re-encoding would verify something else.
fn signed_part(certificate: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(certificate)?;
    let signed = reader.sequence(|inner: &mut SliceReader<'_>| -> der::Result<&[u8]> {
        let signed = inner.tlv_bytes()?;
        let _algorithm: AnyRef<'_> = inner.decode()?;
        let _signature: BitStringRef<'_> = inner.decode()?;
        Ok(signed)
    })?;
    reader.finish()?;
    Ok(signed)
}
