//! DCAP quotes: version 3 (SGX enclaves), versions 4 and 5 (trust domains and SGX enclaves).
//!
//! Layouts are those of *Intel SGX ECDSA QuoteLib Reference*, Quote Format, and *Intel TDX DCAP Quoting Library API*, A.3
//! and A.4. All numbers are little-endian.

use super::body::{Body, ENCLAVE_REPORT_BYTES, EnclaveReport, TD_10_BYTES, TD_15_BYTES, TdReport};
use super::reader::Reader;
use crate::error::ParseError;

/// Most bytes in a quote.
pub(super) const MAX_QUOTE_BYTES: usize = 64 * 1024;

/// Which technology wrote a quote, as its header says.
pub(super) const TEE_SGX: u32 = 0;
pub(super) const TEE_TDX: u32 = 0x81;

/// ECDSA over P-256 with SHA-256.
pub(super) const KEY_ECDSA_P256: u16 = 2;

/// A whole PCK certificate chain in PEM.
pub(super) const CERTIFICATION_PCK_CHAIN: u16 = 5;

/// A QE report with its own certification data.
const CERTIFICATION_QE_REPORT: u16 = 6;

/// 939a7233-f79c-4ca9-940a-0db3957f0607: Intel's quoting enclaves.
pub(super) const INTEL_QE_VENDOR: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";

/// The first 48 bytes.
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) key_type: u16,
    pub(super) tee: u32,
    pub(super) qe_vendor: [u8; 16],
    pub(super) user_data: [u8; 20],
}

/// What stands before the signature, as far as it could be read.
pub(super) struct Signed<'a> {
    pub(super) header: Header,
    pub(super) body: Body,
    /// The bytes that the attestation key signed.
    pub(super) bytes: &'a [u8],
}

/// What stands after the signed part.
pub(super) struct Authentication<'a> {
    /// By the attestation key, over the signed part: R and S.
    pub(super) signature: [u8; 64],
    /// X and Y of the attestation key.
    pub(super) attestation_key: [u8; 64],
    pub(super) qe_report_bytes: &'a [u8],
    pub(super) qe_report: EnclaveReport,
    /// By the PCK, over the QE report.
    pub(super) qe_report_signature: [u8; 64],
    pub(super) qe_authentication: &'a [u8],
    pub(super) certification_type: u16,
    pub(super) certification: &'a [u8],
}

/// Reads header and body.
pub(super) fn signed(bytes: &[u8]) -> Result<Signed<'_>, ParseError> {
    if bytes.len() > MAX_QUOTE_BYTES {
        return Err(ParseError::at("quote", MAX_QUOTE_BYTES, format!("a quote has at most {MAX_QUOTE_BYTES} bytes")));
    }
    let mut reader = Reader::new(bytes, "quote header");
    let header = header(&mut reader)?;
    let body = match (header.version, header.tee) {
        (3 | 4, TEE_SGX) => Body::Enclave(enclave_report(&mut reader)?),
        (4, TEE_TDX) => Body::Td(td_report(&mut reader, TD_10_BYTES)?),
        (5, TEE_SGX | TEE_TDX) => described_report(&mut reader, header.tee)?,
        (version, tee) => {
            let reason = format!(
                "version {version} for TEE type {tee:#x}; read are 3 to 5 for SGX (0x0), 4 and 5 for TDX (0x81)"
            );
            return Err(ParseError::at("quote header", 0, reason));
        }
    };
    Ok(Signed { header, body, bytes: reader.taken() })
}

fn header(reader: &mut Reader<'_>) -> Result<Header, ParseError> {
    let (version, key_type, tee) = (reader.u16()?, reader.u16()?, reader.u32()?);
    // QE SVN and PCE SVN, repeated in signed form in QE report and PCK certificate.
    reader.take(4)?;
    Ok(Header { version, key_type, tee, qe_vendor: reader.array()?, user_data: reader.array()? })
}

fn enclave_report(reader: &mut Reader<'_>) -> Result<EnclaveReport, ParseError> {
    reader.now("enclave report");
    let bytes = reader.take(ENCLAVE_REPORT_BYTES)?;
    EnclaveReport::parse(bytes)
}

fn td_report(reader: &mut Reader<'_>, size: usize) -> Result<TdReport, ParseError> {
    reader.now("TD report");
    let bytes = reader.take(size)?;
    TdReport::parse(bytes)
}

/// A body of version 5 says what it is: type, size and the header's TEE must agree.
fn described_report(reader: &mut Reader<'_>, tee: u32) -> Result<Body, ParseError> {
    reader.now("quote body");
    let at = reader.at();
    let (kind, size) = (reader.u16()?, reader.u32()?);
    let expected = match (kind, tee) {
        (1, TEE_SGX) => ENCLAVE_REPORT_BYTES,
        (2, TEE_TDX) => TD_10_BYTES,
        (3, TEE_TDX) => TD_15_BYTES,
        _ => {
            let reason = format!("type {kind} for TEE type {tee:#x}; read are 1 (SGX), 2 (TD 1.0) and 3 (TD 1.5)");
            return Err(ParseError::at("quote body", at, reason));
        }
    };
    if usize::try_from(size) != Ok(expected) {
        let reason = format!("a body of type {kind} has {expected} bytes, this one says {size}");
        return Err(ParseError::at("quote body", at, reason));
    }
    Ok(match tee {
        TEE_SGX => Body::Enclave(enclave_report(reader)?),
        _ => Body::Td(td_report(reader, expected)?),
    })
}

/// Reads what follows the signed part, to the end. A rest of zeros is the unused end of the caller's buffer; anything
/// else there is refused.
pub(super) fn authentication<'a>(bytes: &'a [u8], signed: &Signed<'_>) -> Result<Authentication<'a>, ParseError> {
    let mut reader = Reader::new(bytes, "quote signature data");
    reader.take(signed.bytes.len())?;
    let mut inner = reader.sized()?;
    if reader.rest().iter().any(|byte| *byte != 0) {
        return Err(ParseError::at("quote", reader.at(), "bytes follow the signature data"));
    }
    let (signature, attestation_key) = (inner.array()?, inner.array()?);
    let mut qe = if signed.header.version == 3 { inner } else { qe_report_data(&mut inner)? };
    let qe_report_bytes = qe.take(ENCLAVE_REPORT_BYTES)?;
    let qe_report = EnclaveReport::parse(qe_report_bytes)?;
    let qe_report_signature = qe.array()?;
    let length = usize::from(qe.u16()?);
    let qe_authentication = qe.take(length)?;
    let certification_type = qe.u16()?;
    let mut certification = qe.sized()?;
    certification.now("certification data");
    let data = certification.take(certification.rest().len())?;
    qe.end()?;
    Ok(Authentication {
        signature,
        attestation_key,
        qe_report_bytes,
        qe_report,
        qe_report_signature,
        qe_authentication,
        certification_type,
        certification: data,
    })
}

/// From version 4 the QE report lies within certification data of type 6.
fn qe_report_data<'a>(inner: &mut Reader<'a>) -> Result<Reader<'a>, ParseError> {
    let at = inner.at();
    let kind = inner.u16()?;
    if kind != CERTIFICATION_QE_REPORT {
        let reason = format!("certification data of type {kind} where type 6, a QE report, is expected");
        return Err(ParseError::at("quote signature data", at, reason));
    }
    let nested = inner.sized()?;
    inner.end()?;
    Ok(nested)
}
