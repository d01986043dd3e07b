//! The table at the end of an OVMF image, through which the firmware tells the machine monitor how it wants to be launched.
//!
//! It lies 32 bytes before the end and is read backwards: each entry is data, the entry's length (16 bits) and a GUID.
//! The first entry from the end names the table and its whole length.

use super::MeasureError;

/// 96b582de-1fb2-45f7-baea-a366c55a082d: the table itself.
const FOOTER: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, *b"\xba\xea\xa3\x66\xc5\x5a\x08\x2d");

/// Bytes between the table and the end of the image: the reset vector.
const AFTER_TABLE: usize = 32;

/// Length and GUID of an entry.
const ENTRY_HEADER: usize = 18;

/// QEMU loads firmware in units of 64 KiB.
const UNIT: usize = 64 << 10;

/// More than any OVMF has.
const MOST_BYTES: usize = 16 << 20;

/// A GUID as UEFI stores it: the first three fields little endian.
pub(crate) const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// A firmware image with its table.
pub(crate) struct Image<'a> {
    bytes: &'a [u8],
    entries: Vec<([u8; 16], &'a [u8])>,
}

impl<'a> Image<'a> {
    /// Reads the table.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, MeasureError> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(UNIT) || bytes.len() > MOST_BYTES {
            return Err(MeasureError::Firmware("its size is not a multiple of 64 KiB, or is above 16 MiB"));
        }
        let missing = MeasureError::Firmware("it has no GUIDed table before its reset vector: not an OVMF image");
        let (before, _) = bytes.split_at(bytes.len() - AFTER_TABLE);
        let (rest, length) = match last_entry(before) {
            Some((rest, length, FOOTER)) => (rest, length),
            _ => return Err(missing),
        };
        let damaged = || MeasureError::Firmware("its GUIDed table is damaged");
        let length = length.checked_sub(ENTRY_HEADER).ok_or_else(damaged)?;
        let start = rest.len().checked_sub(length).ok_or_else(damaged)?;
        let mut table = &rest[start..];
        let mut entries = Vec::new();
        while !table.is_empty() {
            let (rest, length, name) = last_entry(table).ok_or_else(damaged)?;
            let length = length.checked_sub(ENTRY_HEADER).ok_or_else(damaged)?;
            let start = rest.len().checked_sub(length).ok_or_else(damaged)?;
            entries.push((name, &rest[start..]));
            table = &rest[..start];
        }
        Ok(Self { bytes, entries })
    }

    /// The whole image.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The little-endian number at the start of an entry.
    pub(crate) fn number(&self, name: [u8; 16]) -> Option<u32> {
        let (_, data) = self.entries.iter().find(|(found, _)| *found == name)?;
        u32_at(data, 0)
    }

    /// The part of the image that begins as many bytes before its end as the entry says.
    pub(crate) fn pointed_to(&self, name: [u8; 16]) -> Option<&'a [u8]> {
        let start = self.bytes.len().checked_sub(self.number(name)? as usize)?;
        self.bytes.get(start..)
    }
}

/// Splits the last entry off: what is before its header, its length with header, its GUID.
fn last_entry(bytes: &[u8]) -> Option<(&[u8], usize, [u8; 16])> {
    let (rest, header) = bytes.split_last_chunk::<ENTRY_HEADER>()?;
    let (length, name) = header.split_first_chunk::<2>()?;
    Some((rest, usize::from(u16::from_le_bytes(*length)), name.try_into().ok()?))
}

/// The little-endian number at an offset.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// The little-endian number at an offset.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
