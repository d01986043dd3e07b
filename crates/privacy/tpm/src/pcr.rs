//! PCR selections (Part 2, TPMS_PCR_SELECTION and TPML_PCR_SELECTION).

use crate::Error;
use crate::alg;
use crate::wire::{Reader, Writer};

/// The PCRs that Lambda's evidence quotes, from the SHA-256 bank: firmware, boot path, and what the kernel's loader
/// measured (command line and initramfs).
pub const LAMBDA_PCRS: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];

/// PCRs of a PC Client TPM.
const PCR_COUNT: u8 = 24;

/// Most octets of a register map (TPM 2.0 Part 2, PCR_SELECT_MAX): 32 registers.
const MAX_SELECT: u8 = 4;

/// Most banks in one selection.
const MAX_BANKS: u32 = 16;

/// A TPML_PCR_SELECTION: banks in the order they stand, each with its PCRs in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    banks: Vec<Bank>,
}

/// One TPMS_PCR_SELECTION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bank {
    /// TPM_ALG_ID of the bank.
    pub hash: u16,
    /// Indices, ascending.
    pub pcrs: Vec<u8>,
}

impl PcrSelection {
    /// What Lambda quotes: [`LAMBDA_PCRS`] of the SHA-256 bank.
    #[must_use]
    pub fn lambda() -> Self {
        Self { banks: vec![Bank { hash: alg::SHA256, pcrs: LAMBDA_PCRS.to_vec() }] }
    }

    /// PCRs of the SHA-256 bank.
    ///
    /// # Errors
    /// When an index is beyond 23.
    pub fn sha256(pcrs: &[u8]) -> Result<Self, Error> {
        Self::new(vec![Bank { hash: alg::SHA256, pcrs: pcrs.to_vec() }])
    }

    pub(crate) fn new(mut banks: Vec<Bank>) -> Result<Self, Error> {
        for bank in &mut banks {
            bank.pcrs.sort_unstable();
            bank.pcrs.dedup();
            if bank.pcrs.iter().any(|index| *index >= PCR_COUNT) {
                return Err(Error::Malformed { what: "PCR selection", why: "a PCR index is beyond 23" });
            }
        }
        Ok(Self { banks })
    }

    /// The banks, in order.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// Whether this is exactly [`Self::lambda`]: one SHA-256 bank with those PCRs and no others.
    #[must_use]
    pub fn is_lambda(&self) -> bool {
        *self == Self::lambda()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let what = "PCR selection";
        let count = reader.u32()?;
        if count > MAX_BANKS {
            return Err(Error::Malformed { what, why: "more than 16 banks" });
        }
        let mut banks = Vec::new();
        for _ in 0..count {
            let hash = reader.u16()?;
            let size = reader.u8()?;
            if size > MAX_SELECT {
                return Err(Error::Malformed { what, why: "more than 32 registers" });
            }
            let mut pcrs = Vec::new();
            for (byte_index, byte) in (0..MAX_SELECT).zip(reader.take(usize::from(size))?) {
                for bit in 0u8..8 {
                    if byte.checked_shr(u32::from(bit)).unwrap_or(0) & 1 == 1 {
                        pcrs.push(byte_index.saturating_mul(8).saturating_add(bit));
                    }
                }
            }
            banks.push(Bank { hash, pcrs });
        }
        Self::new(banks)
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        let count = u32::try_from(self.banks.len()).unwrap_or(0);
        self.banks.iter().fold(writer.u32(count), |writer, bank| {
            let mut map = [0u8; 3];
            for index in &bank.pcrs {
                if let Some(byte) = map.get_mut(usize::from(index / 8)) {
                    *byte |= 1u8.checked_shl(u32::from(index % 8)).unwrap_or(0);
                }
            }
            writer.u16(bank.hash).u8(3).raw(&map)
        })
    }
}
