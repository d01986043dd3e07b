//! The initial state of a virtual processor, as KVM hands it to the SNP firmware: a VM save area page (AMD64 Architecture
//! Programmer's Manual volume 2, table B-4) with the reset state of QEMU's x86 processors.

/// Bytes of the page.
pub(crate) const SIZE: usize = 4096;

/// Where the boot processor starts.
pub(crate) const RESET_VECTOR: u32 = 0xffff_fff0;

/// Offsets of segments: selector, attributes, limit and base.
mod segment {
    pub(super) const ES: usize = 0x00;
    pub(super) const CS: usize = 0x10;
    pub(super) const SS: usize = 0x20;
    pub(super) const DS: usize = 0x30;
    pub(super) const FS: usize = 0x40;
    pub(super) const GS: usize = 0x50;
    pub(super) const GDTR: usize = 0x60;
    pub(super) const LDTR: usize = 0x70;
    pub(super) const IDTR: usize = 0x80;
    pub(super) const TR: usize = 0x90;
}

/// Offsets of registers.
mod register {
    pub(super) const EFER: usize = 0xd0;
    pub(super) const CR4: usize = 0x148;
    pub(super) const CR0: usize = 0x158;
    pub(super) const DR7: usize = 0x160;
    pub(super) const DR6: usize = 0x168;
    pub(super) const RFLAGS: usize = 0x170;
    pub(super) const RIP: usize = 0x178;
    pub(super) const G_PAT: usize = 0x268;
    pub(super) const RDX: usize = 0x310;
    pub(super) const SEV_FEATURES: usize = 0x3b0;
    pub(super) const XCR0: usize = 0x3e8;
    pub(super) const MXCSR: usize = 0x408;
    pub(super) const X87_FCW: usize = 0x410;
}

/// The page of a processor that starts at `entry`.
pub(crate) fn page(entry: u32, signature: u32, features: u64) -> [u8; SIZE] {
    let mut page = [0; SIZE];
    let data = 0x93;
    for (at, selector, attributes, base) in [
        (segment::ES, 0, data, 0),
        (segment::CS, 0xf000, 0x9b, u64::from(entry & 0xffff_0000)),
        (segment::SS, 0, data, 0),
        (segment::DS, 0, data, 0),
        (segment::FS, 0, data, 0),
        (segment::GS, 0, data, 0),
        (segment::GDTR, 0, 0, 0),
        (segment::LDTR, 0, 0x82, 0),
        (segment::IDTR, 0, 0, 0),
        (segment::TR, 0, 0x8b, 0),
    ] {
        put(&mut page, at, &u16::to_le_bytes(selector));
        put(&mut page, at + 2, &u16::to_le_bytes(attributes));
        put(&mut page, at + 4, &0xffff_u32.to_le_bytes());
        put(&mut page, at + 8, &u64::to_le_bytes(base));
    }
    for (at, value) in [
        (register::EFER, 0x1000), // SVME
        (register::CR4, 0x40),
        (register::CR0, 0x10),
        (register::DR7, 0x400),
        (register::DR6, 0xffff_0ff0),
        (register::RFLAGS, 2),
        (register::RIP, u64::from(entry & 0xffff)),
        (register::G_PAT, 0x0007_0406_0007_0406),
        (register::RDX, u64::from(signature)),
        (register::SEV_FEATURES, features),
        (register::XCR0, 1),
    ] {
        put(&mut page, at, &u64::to_le_bytes(value));
    }
    put(&mut page, register::MXCSR, &0x1f80_u32.to_le_bytes());
    put(&mut page, register::X87_FCW, &0x37f_u16.to_le_bytes());
    page
}

fn put(page: &mut [u8; SIZE], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}
