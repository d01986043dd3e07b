use der::asn1::ObjectIdentifier;
use der::oid::AssociatedOid;
use der::{Decode, Document, Encode};
use p256::ecdsa::VerifyingKey;
use sha2::{Digest as _, Sha256};
use x509_cert::certificate::{Certificate, Version};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use super::key::{PublicKey, SignatureAlgorithm, verify};
use super::{MAX_CERTIFICATE_BYTES, PkiError, seconds, signed_part};
use crate::facts::Facts;
use crate::time::UnixTime;

/// tcg-kp-EKCertificate (TCG EK Credential Profile, Extended Key Usage).
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

/// id-at-commonName (X.520).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A parsed certificate with the bytes that its issuer signed.
pub struct ParsedCertificate {
    certificate: Certificate,
    signed: Vec<u8>,
    spki: Vec<u8>,
    der: Vec<u8>,
    key: Option<PublicKey>,
    algorithm: Option<SignatureAlgorithm>,
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

    /// Parses PEM with at least one and at most `most` certificates, in their order.
    ///
    /// # Errors
    /// When it holds none, more, or anything else.
    pub fn chain_from_pem(pem: &str, most: usize) -> Result<Vec<Self>, PkiError> {
        const END: &str = "-----END CERTIFICATE-----";
        if pem.len() > MAX_CERTIFICATE_BYTES.saturating_mul(2).saturating_mul(most) {
            return Err(PkiError::TooLong);
        }
        // PCS answers and quotes end with a zero byte or blank lines.
        let text = pem.trim_end_matches(|c: char| c == '\0' || c.is_whitespace());
        let parts: Vec<&str> = text.split_inclusive(END).filter(|part| !part.trim().is_empty()).collect();
        if parts.is_empty() || parts.len() > most {
            let count = parts.len();
            return Err(PkiError::Malformed(format!("{count} certificates where one to {most} are expected")));
        }
        parts.into_iter().map(Self::from_pem).collect()
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
        let key = PublicKey::from_spki(&spki);
        let algorithm = SignatureAlgorithm::named(certificate.signature_algorithm());
        Ok(Self { certificate, signed, spki, der: bytes.to_vec(), key, algorithm })
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

    /// The bytes that were parsed.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The public key as an uncompressed point, when it is P-256.
    #[must_use]
    pub fn p256_sec1(&self) -> Option<[u8; 65]> {
        match &self.key {
            Some(PublicKey::P256(key)) => sec1(key),
            _ => None,
        }
    }

    /// SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The public key, when it is of a kind that is understood.
    pub(crate) fn public_key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }

    /// How its issuer signed it, when that is understood; the parameters are part of it.
    pub(crate) fn signature_algorithm(&self) -> Option<SignatureAlgorithm> {
        self.algorithm
    }

    /// The serial number, as DER has it.
    pub(crate) fn serial(&self) -> &[u8] {
        self.certificate.tbs_certificate().serial_number().as_bytes()
    }

    /// The subject's common name, when there is exactly one.
    pub(crate) fn common_name(&self) -> Option<String> {
        let mut names = self.certificate.tbs_certificate().subject().iter().filter(|name| name.oid == COMMON_NAME);
        let name = names.next().filter(|_| names.next().is_none())?;
        std::str::from_utf8(name.value.value()).ok().map(str::to_owned)
    }

    /// An extension's criticality and content, when it is there once.
    ///
    /// # Errors
    /// When it stands twice.
    pub(crate) fn extension_value(&self, oid: &ObjectIdentifier) -> Result<Option<(bool, &[u8])>, String> {
        let extensions = self.certificate.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
        let mut found = extensions.iter().filter(|extension| extension.extn_id == *oid);
        let first = found.next();
        if found.next().is_some() {
            return Err(format!("`{}` carries the extension {oid} twice", self.subject()));
        }
        Ok(first.map(|extension| (extension.critical, extension.extn_value.as_bytes())))
    }

    fn extension<T: for<'a> Decode<'a> + AssociatedOid>(&self) -> Result<Option<(bool, T)>, String> {
        let Some((critical, bytes)) = self.extension_value(&T::OID)? else { return Ok(None) };
        let value =
            T::from_der(bytes).map_err(|_| format!("`{}` carries an extension that cannot be read", self.subject()))?;
        Ok(Some((critical, value)))
    }

    pub(crate) fn issued_by_name_of(&self, issuer: &Self) -> bool {
        let name = self.certificate.tbs_certificate().issuer();
        !name.is_empty() && name == issuer.certificate.tbs_certificate().subject()
    }

    /// The issuer's name.
    pub(crate) fn issuer(&self) -> &x509_cert::name::Name {
        self.certificate.tbs_certificate().issuer()
    }

    /// The subject's name.
    pub(crate) fn subject_name(&self) -> &x509_cert::name::Name {
        self.certificate.tbs_certificate().subject()
    }

    /// Verifies the signature over the bytes as they came.
    pub(crate) fn signed_by(&self, issuer: &Self) -> bool {
        let (Some(key), Some(algorithm), Some(signature)) =
            (&issuer.key, self.algorithm, self.certificate.signature().as_bytes())
        else {
            return false;
        };
        verify(key, algorithm, &self.signed, signature)
    }

    /// As [`Self::signed_by`], computed once for the same bytes.
    pub(crate) fn known_signed_by(&self, issuer: &Self, facts: &Facts) -> bool {
        let signature = self.certificate.signature().as_bytes().unwrap_or_default();
        self.names_one_algorithm() && facts.holds(issuer.spki(), signature, &self.signed, || self.signed_by(issuer))
    }

    /// Tells the facts that this issuer signed it, where a test proves that.
    pub(crate) fn presume_signed_by(&self, issuer: &Self, facts: &Facts) {
        facts.presume(issuer.spki(), self.certificate.signature().as_bytes().unwrap_or_default(), &self.signed);
    }

    /// The algorithm and its parameters stand twice, and only one of them is within the signed part.
    pub(crate) fn names_one_algorithm(&self) -> bool {
        self.certificate.signature_algorithm() == self.certificate.tbs_certificate().signature()
    }

    /// X.509 version 3, and signed as it says itself inside what is signed.
    pub(crate) fn is_version_3(&self) -> Result<(), String> {
        let tbs = self.certificate.tbs_certificate();
        if tbs.version() != Version::V3 {
            return Err(format!("`{}` is not an X.509 version 3 certificate", self.subject()));
        }
        if !self.names_one_algorithm() {
            return Err(format!("`{}` names two different signature algorithms", self.subject()));
        }
        Ok(())
    }

    /// Version 3, ECDSA with SHA-256, a P-256 key.
    pub(crate) fn is_p256_throughout(&self) -> Result<(), String> {
        self.is_version_3()?;
        if self.algorithm != Some(SignatureAlgorithm::EcdsaSha256) {
            return Err(format!("`{}` is not signed with ECDSA and SHA-256", self.subject()));
        }
        self.p256_sec1().map(drop).ok_or_else(|| format!("`{}` does not hold a P-256 key", self.subject()))
    }

    /// Whether it names itself as its issuer, as a root does.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issued_by_name_of(self)
    }

    /// When it is valid, both instants included.
    #[must_use]
    pub fn validity(&self) -> (UnixTime, UnixTime) {
        let validity = self.certificate.tbs_certificate().validity();
        (UnixTime(super::seconds(validity.not_before)), UnixTime(super::seconds(validity.not_after)))
    }

    pub(crate) fn valid_at(&self, now: UnixTime) -> Result<(), String> {
        let validity = self.certificate.tbs_certificate().validity();
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

    pub(crate) fn may_sign_crls(&self) -> Result<(), String> {
        match self.extension::<KeyUsage>()? {
            Some((_, usage)) if usage.crl_sign() => Ok(()),
            _ => Err(format!("the key usage of `{}` does not allow it to sign revocation lists", self.subject())),
        }
    }

    /// The critical extensions' OIDs, in order.
    pub(crate) fn critical_extensions(&self) -> Vec<String> {
        let extensions = self.certificate.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
        let mut oids: Vec<_> = extensions.iter().filter(|it| it.critical).map(|it| it.extn_id).collect();
        oids.sort_unstable();
        oids.iter().map(ToString::to_string).collect()
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

/// The uncompressed point.
fn sec1(key: &VerifyingKey) -> Option<[u8; 65]> {
    key.to_sec1_point(false).as_bytes().try_into().ok()
}
