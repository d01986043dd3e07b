//! The two binary headers (LUKS2 On-Disk Format 1.1.1, chapter 2), each followed by its JSON area.

use sha2::{Digest, Sha256};

use super::{HeaderError, METADATA_BYTES};

const BINARY_BYTES: usize = 4096;
const VERSION: u16 = 2;
const CHECKSUM: std::ops::Range<usize> = 448..512;
const CHECKSUM_ALGORITHM: &[u8] = b"sha256";

/// Checks both copies and returns the JSON text that they share.
pub(super) fn parse(area: &[u8]) -> Result<&[u8], HeaderError> {
    let primary = Copy::check("primary", b"LUKS\xba\xbe", area, 0)?;
    let secondary = Copy::check("secondary", b"SKUL\xba\xbe", area, METADATA_BYTES)?;
    if primary.sequence != secondary.sequence {
        return Err(HeaderError::CopiesDiffer("sequence id"));
    }
    if primary.uuid != secondary.uuid {
        return Err(HeaderError::CopiesDiffer("uuid"));
    }
    if primary.json != secondary.json {
        return Err(HeaderError::CopiesDiffer("metadata"));
    }
    json_text(primary.json)
}

struct Copy<'a> {
    sequence: u64,
    uuid: &'a [u8],
    json: &'a [u8],
}

impl<'a> Copy<'a> {
    fn check(name: &'static str, magic: &[u8; 6], area: &'a [u8], offset: usize) -> Result<Self, HeaderError> {
        let refuse = |field| HeaderError::Binary { copy: name, field };
        let copy = area.get(offset..offset + METADATA_BYTES).ok_or(HeaderError::Truncated(area.len()))?;
        if &copy[0..6] != magic {
            return Err(refuse("magic"));
        }
        if copy[6..8] != VERSION.to_be_bytes() {
            return Err(refuse("version"));
        }
        if number(&copy[8..16]) != METADATA_BYTES as u64 {
            return Err(refuse("header size"));
        }
        if !is_padded(&copy[72..104], CHECKSUM_ALGORITHM) {
            return Err(refuse("checksum algorithm"));
        }
        if !checksum_matches(copy) {
            return Err(refuse("checksum"));
        }
        if number(&copy[256..264]) != offset as u64 {
            return Err(refuse("header offset"));
        }
        let zero: [(&str, &[u8]); 4] = [
            ("label", &copy[24..72]),
            ("subsystem", &copy[208..256]),
            ("padding", &copy[264..448]),
            ("padding", &copy[512..BINARY_BYTES]),
        ];
        for (field, bytes) in zero {
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(HeaderError::Binary { copy: name, field });
            }
        }
        Ok(Self { sequence: number(&copy[16..24]), uuid: &copy[168..208], json: &copy[BINARY_BYTES..] })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn is_padded(field: &[u8], text: &[u8]) -> bool {
    field.strip_prefix(text).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

fn checksum_matches(copy: &[u8]) -> bool {
    let mut hash = Sha256::new();
    hash.update(&copy[..CHECKSUM.start]);
    hash.update([0u8; CHECKSUM.end - CHECKSUM.start]);
    hash.update(&copy[CHECKSUM.end..]);
    is_padded(&copy[CHECKSUM], &hash.finalize())
}

/// The text up to the first NUL; everything behind must be zero, so that no second document can hide there.
fn json_text(area: &[u8]) -> Result<&[u8], HeaderError> {
    let end = area.iter().position(|byte| *byte == 0).ok_or(HeaderError::Metadata("the JSON area has no end"))?;
    let (text, rest) = area.split_at(end);
    if rest.iter().any(|byte| *byte != 0) {
        return Err(HeaderError::Metadata("bytes follow the JSON"));
    }
    Ok(text)
}
