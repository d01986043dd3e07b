//! X.509 certificates and revocation lists.
//!
//! A root never comes from the evidence: it is pinned, by the policy or in [`crate::Anchors`], and recognised by its name
//! and key. Every signature is verified over the bytes as they came, and whatever RFC 5280 §6.1 asks of a path is a
//! check of its own: dates, names, CA flags, path lengths, key usages, unknown critical extensions.

mod certificate;
mod crl;
mod key;

use der::asn1::{AnyRef, BitStringRef};
use der::{Reader, SliceReader};

pub use certificate::ParsedCertificate;
pub(crate) use crl::ParsedCrl;
pub(crate) use key::{PublicKey, SignatureAlgorithm};

/// Most certificates in a chain, the pinned root not counted.
pub const MAX_CHAIN: usize = 4;

/// Most bytes in one certificate.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Most bytes in one revocation list.
pub const MAX_CRL_BYTES: usize = 1024 * 1024;

/// Why bytes are not a usable certificate or revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Not DER, or not PEM with one CERTIFICATE.
    #[error("this is not a certificate: {0}")]
    Malformed(String),
    /// Longer than any certificate here.
    #[error("the certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
    /// Not a revocation list of X.509.
    #[error("this is not a certificate revocation list: {0}")]
    MalformedCrl(String),
    /// Longer than any revocation list here.
    #[error("the certificate revocation list is longer than {MAX_CRL_BYTES} bytes")]
    CrlTooLong,
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, lower-case hex: what people compare when they pin a platform CA.
///
/// # Errors
/// When the bytes are neither a DER certificate nor a PEM with exactly one.
pub fn fingerprint(pem_or_der: &[u8]) -> Result<String, PkiError> {
    ParsedCertificate::parse(pem_or_der).map(|certificate| certificate.fingerprint())
}

/// When a revocation list was made, and when the next one is due. For a cache; nothing is verified.
///
/// # Errors
/// When the bytes are not one DER revocation list.
pub fn crl_updates(der: &[u8]) -> Result<(crate::UnixTime, Option<crate::UnixTime>), PkiError> {
    ParsedCrl::from_der(der).map(|list| list.updates())
}

/// Seconds since 1970; a certificate's time has no fraction.
fn seconds(time: x509_cert::time::Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

/// The first element of a signed structure, as it came: verifying a re-encoding would verify something else.
fn signed_part(structure: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(structure)?;
    let signed = reader.sequence(|inner: &mut SliceReader<'_>| -> der::Result<&[u8]> {
        let signed = inner.tlv_bytes()?;
        let _algorithm: AnyRef<'_> = inner.decode()?;
        let _signature: BitStringRef<'_> = inner.decode()?;
        Ok(signed)
    })?;
    reader.finish()?;
    Ok(signed)
}
