//! The kernel as the firmware measures it: the file with the setup header that QEMU has filled in, hashed the way
//! Authenticode does.
//!
//! QEMU writes the boot protocol's fields (Linux: `Documentation/arch/x86/boot.rst`) into the header before the
//! firmware reads it, so the measurement of the kernel depends on the size of the initramfs and, because the
//! initramfs' address is computed from it, on the size of memory.

use lambda_types::shape::MIB;
use sha2::digest::{Digest, Output};

use super::MeasureError;

/// Offsets in the setup header.
mod field {
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER_TYPE: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const RAMDISK_ADDRESS: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const HEAP_END: usize = 0x224;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const RAMDISK_MAX: usize = 0x22c;
    pub(super) const EXTENDED_FLAGS: usize = 0x236;
}

/// Oldest boot protocol that QEMU loads the modern way.
const OLDEST_PROTOCOL: u16 = 0x20c;

/// Where QEMU puts the command line, and the real-mode part of the kernel.
const COMMAND_LINE_ADDRESS: u32 = 0x20000;
const REAL_MODE_ADDRESS: u32 = 0x10000;

/// Memory below 4 GiB that q35 keeps free for ACPI tables when it places the initramfs.
const ACPI_DATA_SIZE: u64 = 0x28000;

/// Memory below 4 GiB on q35.
pub(crate) fn low_memory(memory_mib: u64) -> u64 {
    let bytes = memory_mib * MIB;
    if bytes >= 0xb000_0000 { 0x8000_0000 } else { bytes }
}

/// Whether this is a kernel that OVMF can start: a bzImage with an EFI stub.
pub(crate) fn check(kernel: &[u8]) -> Result<(), MeasureError> {
    let unusable = |reason: &'static str| Err(MeasureError::Kernel(reason));
    if kernel.get(field::MAGIC..field::MAGIC + 4) != Some(b"HdrS") {
        return unusable("it is not a Linux bzImage");
    }
    if u16_at(kernel, field::VERSION)? < OLDEST_PROTOCOL || kernel[field::LOAD_FLAGS] & 1 == 0 {
        return unusable("its boot protocol is older than 2.12");
    }
    if kernel.get(..2) != Some(b"MZ") {
        return unusable("it has no EFI stub");
    }
    Pe::parse(kernel).map(|_| ())
}

/// The kernel with its header as QEMU leaves it.
pub(crate) fn patched(kernel: &[u8], initramfs_size: u64, memory_mib: u64) -> Result<Vec<u8>, MeasureError> {
    check(kernel)?;
    let mut out = kernel.to_vec();
    let above_4g = u16_at(kernel, field::EXTENDED_FLAGS)? & 2 != 0;
    let declared = if above_4g { u64::from(u32::MAX) } else { u64::from(u32_at(kernel, field::RAMDISK_MAX)?) };
    let highest = declared.min(low_memory(memory_mib).saturating_sub(ACPI_DATA_SIZE + 1));
    let too_large = MeasureError::Kernel("the initramfs does not fit the memory of the smallest shape");
    let address = highest.checked_sub(initramfs_size).map(|address| address & !0xfff);
    let (Some(address), Ok(size)) = (address, u32::try_from(initramfs_size)) else { return Err(too_large) };
    let address = u32::try_from(address).map_err(|_| too_large)?;
    put(&mut out, field::COMMAND_LINE, &COMMAND_LINE_ADDRESS.to_le_bytes());
    put(&mut out, field::LOADER_TYPE, &[0xb0]);
    let flags = kernel[field::LOAD_FLAGS] | 0x80;
    put(&mut out, field::LOAD_FLAGS, &[flags]);
    let heap_end = (COMMAND_LINE_ADDRESS - REAL_MODE_ADDRESS - 0x200) as u16;
    put(&mut out, field::HEAP_END, &heap_end.to_le_bytes());
    put(&mut out, field::RAMDISK_ADDRESS, &address.to_le_bytes());
    put(&mut out, field::RAMDISK_SIZE, &size.to_le_bytes());
    Ok(out)
}

/// PE Authenticode digest as the firmware computes it.
pub(crate) fn authenticode<D: Digest>(image: &[u8]) -> Result<Output<D>, MeasureError> {
    let pe = Pe::parse(image)?;
    let mut hasher = D::new();
    let mut hash = |from: usize, to: usize| -> Result<(), MeasureError> {
        hasher.update(image.get(from..to).ok_or(MeasureError::Kernel("its PE headers point outside of the file"))?);
        Ok(())
    };
    hash(0, pe.checksum)?;
    hash(pe.checksum + 4, pe.certificates)?;
    hash(pe.certificates + 8, pe.headers_size)?;
    let mut hashed = pe.headers_size;
    for (start, size) in pe.sections {
        hash(start, start.saturating_add(size))?;
        hashed = hashed.saturating_add(size);
    }
    let end = image.len().saturating_sub(pe.certificates_size);
    if end > hashed {
        hash(hashed, end)?;
    }
    Ok(hasher.finalize())
}

/// What of a PE32+ file matters for its hash.
struct Pe {
    /// Offset of the checksum field.
    checksum: usize,
    /// Offset of the directory entry of the certificate table.
    certificates: usize,
    certificates_size: usize,
    headers_size: usize,
    /// Offset and size of each section with content, in file order.
    sections: Vec<(usize, usize)>,
}

impl Pe {
    fn parse(image: &[u8]) -> Result<Self, MeasureError> {
        let bad = MeasureError::Kernel("its EFI stub has no valid PE32+ header");
        let header = u32_at(image, 0x3c)? as usize;
        let optional = header.checked_add(24).ok_or(bad)?;
        let in_file = header.checked_add(4096).is_some_and(|end| end < image.len());
        if !in_file || image.get(header..header + 4) != Some(b"PE\0\0") || u16_at(image, optional)? != 0x20b {
            return Err(MeasureError::Kernel("its EFI stub has no valid PE32+ header"));
        }
        if u32_at(image, optional + 108)? < 5 {
            return Err(MeasureError::Kernel("its PE header has no certificate directory"));
        }
        let table = optional + usize::from(u16_at(image, header + 20)?);
        let mut sections = Vec::new();
        for index in 0..usize::from(u16_at(image, header + 6)?) {
            let entry = table + index * 40;
            let (size, start) = (u32_at(image, entry + 16)? as usize, u32_at(image, entry + 20)? as usize);
            if size != 0 {
                sections.push((start, size));
            }
        }
        sections.sort_unstable();
        let certificates = optional + 112 + 4 * 8;
        Ok(Self {
            checksum: optional + 64,
            certificates,
            certificates_size: u32_at(image, certificates + 4)? as usize,
            headers_size: u32_at(image, optional + 60)? as usize,
            sections,
        })
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, MeasureError> {
    let found = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    found.map(u16::from_le_bytes).ok_or(MeasureError::Kernel("it is truncated"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, MeasureError> {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    found.map(u32::from_le_bytes).ok_or(MeasureError::Kernel("it is truncated"))
}
