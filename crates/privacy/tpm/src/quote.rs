//! TPMS_ATTEST of type quote (Part 2, TPMS_QUOTE_INFO).

use crate::Error;
use crate::pcr::PcrSelection;
use crate::wire::Reader;

/// TPM_GENERATED_VALUE: "\xffTCG". A restricted key signs nothing that starts with it unless the TPM made it.
pub const MAGIC: u32 = 0xff54_4347;

/// TPM_ST_ATTEST_QUOTE.
pub const TYPE_QUOTE: u16 = 0x8018;

/// Most bytes in an attestation structure; a quote with every optional field full stays below it.
pub const MAX_ATTEST_BYTES: usize = 1024;

/// The TPM's clock when it signed (Part 2, TPMS_CLOCK_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has been powered, over its life.
    pub clock: u64,
    /// TPM resets since it was manufactured.
    pub reset_count: u32,
    /// Restarts and resumes since the last reset.
    pub restart_count: u32,
    /// Whether no higher `clock` value was ever reported: cleared by a power loss without shutdown.
    pub safe: bool,
}

/// A parsed quote. Magic and type are kept, not assumed: judging them is the verifier's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Should be [`MAGIC`].
    pub magic: u32,
    /// Qualified name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// The verifier's qualifying data.
    pub extra_data: Vec<u8>,
    /// Clock and counters.
    pub clock: ClockInfo,
    /// Vendor's firmware version number.
    pub firmware_version: u64,
    /// What was quoted.
    pub selection: PcrSelection,
    /// Digest over the selected PCRs, in the signing scheme's hash.
    pub pcr_digest: Vec<u8>,
}

impl Quote {
    /// Parses a whole TPMS_ATTEST.
    ///
    /// # Errors
    /// When it is not a quote, or not exactly one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let what = "TPMS_ATTEST";
        let mut reader = Reader::new(what, bytes, MAX_ATTEST_BYTES)?;
        let magic = reader.u32()?;
        if reader.u16()? != TYPE_QUOTE {
            return Err(Error::Malformed { what, why: "it is not of type TPM_ST_ATTEST_QUOTE" });
        }
        let quote = Self {
            magic,
            qualified_signer: reader.sized(66)?.to_vec(),
            extra_data: reader.sized(66)?.to_vec(),
            clock: ClockInfo {
                clock: reader.u64()?,
                reset_count: reader.u32()?,
                restart_count: reader.u32()?,
                safe: match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Error::Malformed { what, why: "clockInfo.safe is neither YES nor NO" }),
                },
            },
            firmware_version: reader.u64()?,
            selection: PcrSelection::read(&mut reader)?,
            pcr_digest: reader.sized(64)?.to_vec(),
        };
        reader.finish()?;
        Ok(quote)
    }
}
