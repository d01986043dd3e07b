//! What OVMF asks of a TDX launch: the sections of a TDVF (Intel TDX Virtual Firmware Design Guide §11).

use super::{PAGE, PROFILE};
use crate::measure::MeasureError;
use crate::measure::ovmf::{Image, guid, u32_at, u64_at};

/// e47a6535-984a-4798-865e-4685a7bf8ec2: where the metadata is.
const METADATA: [u8; 16] = guid(0xe47a_6535, 0x984a, 0x4798, *b"\x86\x5e\x46\x85\xa7\xbf\x8e\xc2");

const HEADER: usize = 16;
const SECTION: usize = 32;

/// More than any firmware has.
const MOST_SECTIONS: u32 = 64;
const MOST_SECTION_BYTES: u64 = 64 << 20;

/// Attribute: contents are measured, too.
const EXTEND: u32 = 1;

/// A stretch of guest memory that is there before the guest starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    pub(crate) address: u64,
    pub(crate) size: u64,
    /// Contents, where they are measured.
    pub(crate) extended: Option<&'a [u8]>,
}

/// The sections in the order in which QEMU adds them: the metadata's. What QEMU refuses is refused.
pub(crate) fn sections<'a>(image: &Image<'a>) -> Result<Vec<Section<'a>>, MeasureError> {
    let missing = "it has no TDX metadata (GUID e47a6535-…): it cannot start as a trust domain";
    let damaged = |what: &str| MeasureError::profile(PROFILE, format!("its TDX metadata is damaged: {what}"));
    let metadata = image.pointed_to(METADATA).ok_or_else(|| MeasureError::profile(PROFILE, missing))?;
    if metadata.get(..4) != Some(b"TDVF") {
        return Err(damaged("no signature TDVF where the table points"));
    }
    let number = |at: usize| u32_at(metadata, at).ok_or_else(|| damaged("truncated"));
    let (length, version, count) = (number(4)? as usize, number(8)?, number(12)?);
    if version != 1 {
        return Err(damaged(&format!("version {version} instead of 1")));
    }
    if !(2..=MOST_SECTIONS).contains(&count) {
        return Err(damaged(&format!("{count} sections; 2 to {MOST_SECTIONS} are accepted")));
    }
    if length != HEADER + count as usize * SECTION {
        return Err(damaged("its length is not that of its sections"));
    }
    let mut found = Vec::new();
    let mut hand_off_blocks = 0;
    for index in 0..count as usize {
        let entry = metadata.get(HEADER + index * SECTION..).ok_or_else(|| damaged("truncated"))?;
        let entry = Entry::read(entry).ok_or_else(|| damaged("truncated"))?;
        hand_off_blocks += u32::from(entry.kind == Entry::HAND_OFF_BLOCK);
        let section = entry.check(image.bytes());
        found.push(section.map_err(|what| damaged(&format!("section {index} {what}")))?);
    }
    if hand_off_blocks != 1 {
        return Err(damaged(&format!("{hand_off_blocks} sections for the hand-off block instead of 1")));
    }
    Ok(found)
}

/// A section as it is stored.
struct Entry {
    offset: u32,
    raw_size: u32,
    address: u64,
    size: u64,
    kind: u32,
    attributes: u32,
}

impl Entry {
    const BOOT_VOLUME: u32 = 0;
    const CONFIGURATION_VOLUME: u32 = 1;
    const HAND_OFF_BLOCK: u32 = 2;
    const SCRATCH: u32 = 3;

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            offset: u32_at(bytes, 0)?,
            raw_size: u32_at(bytes, 4)?,
            address: u64_at(bytes, 8)?,
            size: u64_at(bytes, 16)?,
            kind: u32_at(bytes, 24)?,
            attributes: u32_at(bytes, 28)?,
        })
    }

    fn check<'a>(&self, image: &'a [u8]) -> Result<Section<'a>, String> {
        let whole = |number: u64| number.is_multiple_of(PAGE);
        if self.size == 0 || self.size > MOST_SECTION_BYTES || !whole(self.size) || !whole(self.address) {
            return Err("is not 1 to 16384 whole pages".into());
        }
        if self.address.checked_add(self.size).is_none() {
            return Err("ends beyond the address space".into());
        }
        if self.attributes & !EXTEND != 0 {
            return Err(format!("has unknown attributes {:#x}", self.attributes));
        }
        let extended = self.attributes & EXTEND != 0;
        let contents = match self.kind {
            Self::BOOT_VOLUME | Self::CONFIGURATION_VOLUME if self.raw_size == 0 => {
                return Err("is a firmware volume without contents".into());
            }
            Self::BOOT_VOLUME | Self::CONFIGURATION_VOLUME if u64::from(self.raw_size) == self.size => {
                let end = self.offset.checked_add(self.raw_size).ok_or("lies outside of the file")?;
                Some(image.get(self.offset as usize..end as usize).ok_or("lies outside of the file")?)
            }
            Self::BOOT_VOLUME | Self::CONFIGURATION_VOLUME => {
                return Err("has another size in memory than in the file".into());
            }
            Self::HAND_OFF_BLOCK | Self::SCRATCH if self.raw_size != 0 || extended => {
                return Err("is memory without contents, yet has contents to measure".into());
            }
            Self::HAND_OFF_BLOCK | Self::SCRATCH => None,
            other => return Err(format!("is of type {other}, which QEMU does not take")),
        };
        Ok(Section { address: self.address, size: self.size, extended: contents.filter(|_| extended) })
    }
}
