//! The volume's LUKS2 header: read once, parsed strictly, pinned by hash.
//!
//! The host can write to the device at any time, so nothing is decided from it twice: the whole header area is
//! copied into memory, [`Header::parse`] accepts exactly what this guest itself formats, and cryptsetup opens the
//! copy. A header that names another cipher (the null cipher above all) never reaches cryptsetup.

mod binary;
mod metadata;
#[cfg(test)]
pub(crate) mod tests;

use sha2::{Digest, Sha256};

/// Bytes of the header area at the start of a volume: two headers of 16 KiB and the key slots.
pub const HEADER_BYTES: usize = 1024 * 1024;

/// Bytes of one copy of the binary header and its JSON.
pub const METADATA_BYTES: usize = 16 * 1024;

/// Bytes of an encryption sector.
pub const SECTOR_BYTES: u32 = 4096;

/// The cipher of the data, as cryptsetup names it.
pub const CIPHER: &str = "aes-gcm-random";

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The header area is shorter than [`HEADER_BYTES`].
    #[error("the header area has {0} bytes, not {HEADER_BYTES}")]
    Truncated(usize),
    /// Both places where a header may stand hold only zeroes.
    #[error("the volume carries no header: both places for one hold only zeroes")]
    Blank,
    /// A field of the binary header is not what this guest writes.
    #[error("the {copy} binary header is refused: {field}")]
    Binary {
        /// `primary` or `secondary`.
        copy: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The two copies disagree.
    #[error("the two copies of the header disagree in {0}")]
    CopiesDiffer(&'static str),
    /// The JSON is malformed or has members that this guest never writes.
    #[error("the header's metadata is not the strict form: {0}")]
    Json(String),
    /// A member of the JSON has a value outside the strict set.
    #[error("the header's metadata is refused: {0}")]
    Metadata(&'static str),
}

/// A header that passed every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pin: [u8; 32],
}

impl Header {
    /// Parses a header area; accepts exactly what this guest formats.
    ///
    /// # Errors
    /// The first rule that the header breaks.
    pub fn parse(area: &[u8]) -> Result<Self, HeaderError> {
        if area.len() != HEADER_BYTES {
            return Err(HeaderError::Truncated(area.len()));
        }
        if is_blank(area) {
            return Err(HeaderError::Blank);
        }
        let json = binary::parse(area)?;
        metadata::check(json)?;
        Ok(Self { pin: pin(area) })
    }

    /// SHA-256 of the whole header area: what the sealed secrets pin.
    #[must_use]
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }
}

/// Whether neither header is there; key slots alone are what an interrupted first use may leave.
fn is_blank(area: &[u8]) -> bool {
    area.iter().take(2 * METADATA_BYTES).all(|byte| *byte == 0)
}

/// SHA-256 of a header area.
#[must_use]
pub fn pin(area: &[u8]) -> [u8; 32] {
    Sha256::digest(area).into()
}
