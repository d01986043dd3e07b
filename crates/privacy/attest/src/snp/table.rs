//! The certificate table that a host hands over with a report: `auxblob` of configfs-tsm, the tail of an extended guest
//! request (GHCB specification, SNP Extended Guest Request).
//!
//! ```text
//!   GUID (16) | offset (4, LE) | length (4, LE)    repeated, ended by 24 zero bytes, then the certificates
//! ```
//!
//! Nothing in it is trusted; entries of unknown kind are left out.

use der::{Document, Reader as _, SliceReader};
use lambda_types::Binary;

use crate::error::ParseError;

/// Most bytes in a table.
const MAX_TABLE_BYTES: usize = 128 * 1024;

/// Most entries.
const MAX_ENTRIES: usize = 16;

/// GUIDs of the entries that are certificates, with their bytes in the order in which they are written.
const VCEK: [u8; 16] = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
const VLEK: [u8; 16] = *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1";
const ASK: [u8; 16] = *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82";
const ARK: [u8; 16] = *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae";

/// The certificates of a table, DER, in its order. Some hosts put PEM into it; that is decoded.
///
/// # Errors
/// When the table or one of its entries does not fit its own lengths, or an entry is neither DER nor PEM.
pub fn certificates_of_table(table: &[u8]) -> Result<Vec<Binary>, ParseError> {
    const WHAT: &str = "the certificate table";
    if table.len() > MAX_TABLE_BYTES {
        return Err(ParseError::whole(WHAT, format!("it is longer than {MAX_TABLE_BYTES} bytes")));
    }
    let mut certificates = Vec::new();
    for (index, entry) in table.chunks(24).enumerate() {
        let at = index.saturating_mul(24);
        let Some((guid, rest)) = entry.split_first_chunk::<16>() else { break };
        let (Some((offset, rest)), true) = (rest.split_first_chunk::<4>(), rest.len() == 8) else { break };
        let length = rest.first_chunk::<4>().copied().unwrap_or_default();
        let (offset, length) = (bytes(*offset), bytes(length));
        if *guid == [0; 16] {
            return Ok(certificates);
        }
        if index >= MAX_ENTRIES {
            return Err(ParseError::at(WHAT, at, format!("it has more than {MAX_ENTRIES} entries")));
        }
        let content = table
            .get(offset..offset.saturating_add(length))
            .ok_or_else(|| ParseError::at(WHAT, at, "an entry reaches beyond the end"))?;
        if [VCEK, VLEK, ASK, ARK].contains(guid) {
            certificates.push(certificate(content).map_err(|reason| ParseError::at(WHAT, offset, reason))?);
        }
    }
    Err(ParseError::at(WHAT, table.len(), "it ends without the entry of zeros that closes it"))
}

fn bytes(little_endian: [u8; 4]) -> usize {
    usize::try_from(u32::from_le_bytes(little_endian)).unwrap_or(usize::MAX)
}

/// One certificate, DER. Zeros after it, with which some hosts pad, are cut.
fn certificate(content: &[u8]) -> Result<Binary, String> {
    if content.starts_with(b"-----BEGIN") {
        let text = std::str::from_utf8(content).map_err(|_| "a PEM certificate is not text".to_owned())?;
        let text = text.trim_end_matches('\0').trim();
        let (label, document) = Document::from_pem(text).map_err(|error| format!("a PEM certificate: {error}"))?;
        if label != "CERTIFICATE" {
            return Err(format!("the PEM label is `{label}`, not `CERTIFICATE`"));
        }
        return Ok(Binary(document.into_vec()));
    }
    let der = SliceReader::new(content).and_then(|mut reader| reader.tlv_bytes());
    let der = der.map_err(|error| format!("an entry is neither a DER nor a PEM certificate: {error}"))?;
    let padding = content.get(der.len()..).unwrap_or_default();
    if padding.iter().any(|byte| *byte != 0) {
        return Err("an entry holds more than one certificate".into());
    }
    Ok(Binary(der.to_vec()))
}
