//! Bytes of the forms that tools write.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use lambda_attest::Registers;
use lambda_attest::pki::ParsedCertificate;
use lambda_attest::snp::certificates_of_table;
use lambda_types::Binary;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;

use crate::Error;

/// Most bytes of one file.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The bytes of a file, if they are not too many.
///
/// # Errors
/// When it cannot be read or is too long.
pub fn bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::Usage(format!("{} is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Usage(format!("{} is longer than {MAX_FILE_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).take(4096).any(|window| window == b"-----BEGIN ")
}

fn unusable(name: &str, why: impl std::fmt::Display) -> Error {
    Error::Usage(format!("{name} cannot be read: {why}"))
}

/// DER certificates of a PEM file, or of one DER file as it is.
///
/// # Errors
/// When it is PEM without a certificate.
pub fn der_certificates(name: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    if !is_pem(bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(bytes)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(name, error))?;
    if certificates.is_empty() { Err(unusable(name, "there is no CERTIFICATE in it")) } else { Ok(certificates) }
}

/// Whether a certificate names itself as its issuer. Nothing is trusted for it.
pub(super) fn issued_itself(der: &[u8]) -> bool {
    ParsedCertificate::from_der(der).is_ok_and(|certificate| certificate.is_self_issued())
}

/// A revocation list, PEM or DER.
pub(super) fn der_crl(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if !is_pem(&bytes) {
        return Ok(bytes);
    }
    CertificateRevocationListDer::from_pem_slice(&bytes)
        .map(|crl| crl.as_ref().to_vec())
        .map_err(|error| unusable(name, error))
}

/// SubjectPublicKeyInfo of a public key in PEM or DER, or of an elliptic-curve JWK.
///
/// # Errors
/// When it is neither.
pub fn der_public_key(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    if is_pem(bytes) {
        let key = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|error| unusable(name, error))?;
        return Ok(key.as_ref().to_vec());
    }
    if bytes.first() == Some(&b'{') {
        return jwk(name, bytes);
    }
    Ok(bytes.to_vec())
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

/// RFC 7518 §6.2, as RFC 5480 writes it.
fn jwk(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    const P256: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
    const P384: &[u8] =
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";
    let key: Jwk = serde_json::from_slice(bytes).map_err(|error| unusable(name, error))?;
    let (prefix, length) = match (key.kty.as_str(), key.crv.as_str()) {
        ("EC", "P-256") => (P256, 32),
        ("EC", "P-384") => (P384, 48),
        _ => return Err(unusable(name, "expected an EC key on P-256 or P-384")),
    };
    let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == length);
    match (coordinate(&key.x), coordinate(&key.y)) {
        (Some(x), Some(y)) => Ok([prefix, &x, &y].concat()),
        _ => Err(unusable(name, format!("x and y are not {length} bytes each"))),
    }
}

/// Registers by bank and index.
pub(super) fn registers(name: &str, bytes: &[u8]) -> Result<Registers, Error> {
    serde_json::from_slice(bytes).map_err(|error| unusable(name, error))
}

pub(super) fn text(name: &str, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        unusable(name, format!("byte {at} is not UTF-8"))
    })
}

/// Evidence that tools wrote as text, hex or base64, as its bytes; anything else as it is. No evidence is text by itself.
pub(super) fn decoded(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return bytes;
    }
    let text: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii_graphic).collect();
    let digits = text.strip_prefix(b"0x").unwrap_or(&text);
    let base64 = || [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].iter().find_map(|it| it.decode(&text).ok());
    hex::decode(digits).ok().or_else(base64).filter(|decoded| !decoded.is_empty()).unwrap_or(bytes)
}

/// Bytes of an attestation report of AMD's firmware.
const SNP_REPORT: usize = 1184;

/// The report within what was read for it: the answer of the Linux driver (status, size, 24 reserved bytes, then a buffer
/// of 4000 bytes), a paravisor's report that begins with `HCLA` and 28 more bytes, or a buffer whose rest is zeros.
pub(super) fn snp_report(bytes: Vec<u8>) -> Vec<u8> {
    const HEADER: usize = 32;
    let of_driver = |header: &[u8]| {
        let size = u32::try_from(SNP_REPORT).unwrap_or_default().to_le_bytes();
        header.get(..4) == Some(&[0; 4]) && header.get(4..8) == Some(&size) && header.iter().skip(8).all(|it| *it == 0)
    };
    let is_unused = |rest: Option<&[u8]>| rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    let within = match bytes.split_at_checked(HEADER) {
        Some((header, rest)) if header.starts_with(b"HCLA") => rest.get(..SNP_REPORT),
        Some((header, rest)) if of_driver(header) && is_unused(rest.get(SNP_REPORT..)) => rest.get(..SNP_REPORT),
        _ if is_unused(bytes.get(SNP_REPORT..)) => bytes.get(..SNP_REPORT),
        _ => None,
    };
    within.map(<[u8]>::to_vec).unwrap_or(bytes)
}

/// What Linux's configfs-tsm gave.
pub(super) struct Tsm {
    pub(super) report: Vec<u8>,
    pub(super) certificates: Vec<Binary>,
}

/// A CBOR map of `outblob` and `auxblob`; `None` when it is not a CBOR map, as no report is: a report begins with its
/// version, 2 to 5.
pub(super) fn tsm(name: &str, bytes: &[u8]) -> Result<Option<Tsm>, Error> {
    if !matches!(bytes.first(), Some(0xa1..=0xb7)) {
        return Ok(None);
    }
    let map: ciborium::Value =
        ciborium::from_reader(bytes).map_err(|error: ciborium::de::Error<_>| unusable(name, error.to_string()))?;
    let field = |wanted: &str| {
        let entries = map.as_map().map(Vec::as_slice).unwrap_or_default();
        entries.iter().find(|(key, _)| key.as_text() == Some(wanted)).and_then(|(_, value)| value.as_bytes().cloned())
    };
    let report = field("outblob").ok_or_else(|| unusable(name, "outblob: there is no such byte string"))?;
    let certificates = match field("auxblob") {
        Some(table) if !table.is_empty() => {
            certificates_of_table(&table).map_err(|error| unusable(name, format!("auxblob: {error}")))?
        }
        _ => Vec::new(),
    };
    Ok(Some(Tsm { report, certificates }))
}
