//! The table of hashes through which QEMU (`kernel-hashes=on`) ties kernel, initramfs and command line to the launch
//! digest: the firmware compares what it is given with it.

use sha2::{Digest as _, Sha256};

use crate::measure::ovmf::guid;

/// 9438d606-4f22-4cc9-b479-a793d411fd21.
const TABLE: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, *b"\xb4\x79\xa7\x93\xd4\x11\xfd\x21");
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a.
const COMMAND_LINE: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, *b"\xaa\x78\xe7\x71\x4d\x36\xab\x2a");
/// 44baf731-3a2f-4bd7-9af1-41e29169781d.
const INITRAMFS: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, *b"\x9a\xf1\x41\xe2\x91\x69\x78\x1d");
/// 4de79437-abd2-427f-b835-d5b172d2045b.
const KERNEL: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, *b"\xb8\x35\xd5\xb1\x72\xd2\x04\x5b");

/// GUID, length and hash.
const ENTRY: u16 = 50;
const LENGTH: u16 = 18 + 3 * ENTRY;

/// Bytes of the table, padded to 16.
pub(crate) const SIZE: usize = 176;

/// What QEMU loads beside the firmware.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// The kernel file; QEMU leaves the header of an SNP guest's kernel as it is.
    pub kernel: &'a [u8],
    /// The initramfs file; empty for none.
    pub initramfs: &'a [u8],
    /// The command line exactly as given to QEMU.
    pub command_line: &'a str,
}

/// The padded table.
pub(crate) fn table(boot: &Boot<'_>) -> Vec<u8> {
    let command_line = Sha256::new().chain_update(boot.command_line).chain_update([0]).finalize();
    let mut table = Vec::with_capacity(SIZE);
    table.extend(TABLE);
    table.extend(LENGTH.to_le_bytes());
    for (name, hash) in [
        (COMMAND_LINE, command_line),
        (INITRAMFS, Sha256::digest(boot.initramfs)),
        (KERNEL, Sha256::digest(boot.kernel)),
    ] {
        table.extend(name);
        table.extend(ENTRY.to_le_bytes());
        table.extend(hash);
    }
    table.resize(SIZE, 0);
    table
}
