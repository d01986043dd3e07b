//! What OVMF asks of an SNP launch: pages that must be validated before it runs (edk2:
//! `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`).

use super::{PAGE, PROFILE};
use crate::measure::MeasureError;
use crate::measure::ovmf::{Image, guid, u32_at};

/// dc886566-984a-4798-a75e-5585a7bf67cc: where the metadata is.
const METADATA: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, *b"\xa7\x5e\x55\x85\xa7\xbf\x67\xcc");

/// 7255371f-3a3b-4b04-927b-1da6efa8d454: where the firmware expects the hashes of kernel, initramfs and command line.
const HASH_TABLE: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, *b"\x92\x7b\x1d\xa6\xef\xa8\xd4\x54");

/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e: where all processors but the first start.
const RESET_BLOCK: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, *b"\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e");

const HEADER: usize = 16;
const DESCRIPTOR: usize = 12;

/// More than any firmware has.
const MOST_SECTIONS: u32 = 64;
const MOST_SECTION_BYTES: u32 = 64 << 20;

/// What a section is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Zeroed memory.
    Memory,
    /// The page in which the SNP firmware leaves the guest's secrets.
    Secrets,
    /// The page with the CPUID values that the SNP firmware vouches for.
    Cpuid,
    /// The page for hashes of kernel, initramfs and command line.
    KernelHashes,
}

/// Guest memory to be validated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section {
    pub(crate) address: u32,
    pub(crate) size: u32,
    pub(crate) kind: Kind,
}

/// The sections in the order in which they are added.
pub(crate) fn sections(image: &Image<'_>) -> Result<Vec<Section>, MeasureError> {
    let missing =
        || MeasureError::profile(PROFILE, "it has no SEV metadata (GUID dc886566-…): it cannot start under SNP");
    let damaged = |what: &str| MeasureError::profile(PROFILE, format!("its SEV metadata is damaged: {what}"));
    let metadata = image.pointed_to(METADATA).ok_or_else(missing)?;
    if metadata.get(..4) != Some(b"ASEV") {
        return Err(damaged("no signature ASEV where the table points"));
    }
    let field = |at: usize| u32_at(metadata, at).ok_or_else(|| damaged("truncated"));
    let (length, version, count) = (field(4)? as usize, field(8)?, field(12)?);
    if version != 1 {
        return Err(damaged(&format!("version {version} instead of 1")));
    }
    if count > MOST_SECTIONS {
        return Err(damaged(&format!("{count} sections; at most {MOST_SECTIONS} are accepted")));
    }
    if length != HEADER + count as usize * DESCRIPTOR {
        return Err(damaged("its length is not that of its sections"));
    }
    let section = |index: usize| {
        let at = HEADER + index * DESCRIPTOR;
        let (address, size) = (field(at)?, field(at + 4)?);
        let kind = match field(at + 8)? {
            // The page that an SVSM would use is plain memory without one.
            1 | 4 => Kind::Memory,
            2 => Kind::Secrets,
            3 => Kind::Cpuid,
            0x10 => Kind::KernelHashes,
            other => return Err(damaged(&format!("section {index} is of unknown type {other:#x}"))),
        };
        let whole = |number: u32| number.is_multiple_of(PAGE as u32);
        if size == 0 || size > MOST_SECTION_BYTES || !whole(size) || !whole(address) {
            return Err(damaged(&format!("section {index} is not 1 to 16384 whole pages")));
        }
        if address.checked_add(size).is_none() {
            return Err(damaged(&format!("section {index} ends beyond 4 GiB")));
        }
        if matches!(kind, Kind::Secrets | Kind::Cpuid) && size as usize != PAGE {
            return Err(damaged(&format!("section {index} must be one page")));
        }
        Ok(Section { address, size, kind })
    };
    (0..count as usize).map(section).collect()
}

/// Where all processors but the first start.
pub(crate) fn reset_block(image: &Image<'_>) -> Result<u32, MeasureError> {
    let missing = "it has no SEV-ES reset block (GUID 00f771de-…), which says where further processors start";
    let entry = image.number(RESET_BLOCK).filter(|entry| *entry != 0);
    entry.ok_or_else(|| MeasureError::profile(PROFILE, missing))
}

/// Where the firmware expects the hashes.
pub(crate) fn hash_table(image: &Image<'_>) -> Result<u32, MeasureError> {
    let missing = "it has no place for kernel hashes (GUID 7255371f-… is absent or zero), so nothing would hold the kernel \
                   to the measurement: take an AmdSev build of OVMF, such as Debian's ovmf-amdsev";
    let address = image.number(HASH_TABLE).filter(|address| *address != 0);
    address.ok_or_else(|| MeasureError::profile(PROFILE, missing))
}
