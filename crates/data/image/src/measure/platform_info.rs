//! PlatformPei's platform information (edk2-stable202211, `EFI_HOB_PLATFORM_INFO` without its HOB header, packed) as
//! it stands in memory when the firmware measures itself.
//!
//! It follows from the machine that QEMU presents: q35, no system management mode, 40 physical address bits, no
//! 64-bit memory beyond 32 GiB.

/// Bytes of the block, including two flags that PlatformPei keeps behind it.
pub(crate) const SIZE: usize = 116;

/// Host bridge of q35.
const Q35_HOST_BRIDGE: u16 = 0x29c0;

/// Physical address bits that the node gives every guest's processor.
const ADDRESS_BITS: u8 = 40;

/// Most memory for which the addresses below hold: above it the 64-bit window moves.
const MOST_MEMORY_MIB: u64 = 28 * 1024;

/// The block for a machine.
pub(crate) fn block(vcpus: u32, memory_mib: u64) -> Vec<u8> {
    debug_assert!(memory_mib <= MOST_MEMORY_MIB);
    // Suspend-to-RAM keeps half a mebibyte and a stack for each processor at the top of low memory.
    let s3_size = 0x80000 + vcpus * 0x8000;
    let s3_base = super::kernel::low_memory(memory_mib).min(0x8000_0000) as u32 - s3_size;
    let window = 1u64 << (ADDRESS_BITS - 3);
    let mut out = Vec::with_capacity(SIZE);
    out.extend(Q35_HOST_BRIDGE.to_le_bytes());
    out.extend(0u64.to_le_bytes()); // confidential guest attributes
    out.push(0); // SEV-ES
    out.extend(0u32.to_le_bytes()); // boot mode: full configuration
    out.push(1); // S3 supported
    out.push(0); // SMM required
    out.push(0); // SMRAM at default SMBASE
    out.extend(0u16.to_le_bytes()); // TSEG MiB
    out.extend(0x10_0000_0000u64.to_le_bytes()); // first address beyond the default 64-bit window
    out.push(ADDRESS_BITS);
    out.extend(0x8000_0000u32.to_le_bytes()); // start of uncached memory below 4 GiB
    out.extend(0u32.to_le_bytes()); // its size, unused on q35
    out.push(0); // non-executable stack
    out.extend(0u64.to_le_bytes()); // TDX shared bit
    out.extend(((1u64 << ADDRESS_BITS) - window).to_le_bytes()); // 64-bit window
    out.extend(window.to_le_bytes());
    out.extend(0xc000_0000u32.to_le_bytes()); // 32-bit window
    out.extend(0x3c00_0000u32.to_le_bytes());
    out.extend(0x6000u64.to_le_bytes()); // I/O window
    out.extend(0xa000u64.to_le_bytes());
    out.extend(0u64.to_le_bytes()); // emulated variable store
    out.extend(vcpus.to_le_bytes()); // processors present
    out.extend(vcpus.to_le_bytes()); // processors possible
    out.extend(64u32.to_le_bytes()); // default number of processors
    out.extend(s3_base.to_le_bytes());
    out.extend(s3_size.to_le_bytes());
    out.extend([1, 1]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_what_the_firmware_has_in_memory() {
        // Read from a paused guest's memory, 512 MiB and one processor.
        let seen = "c02900000000000000000000000000010000000000000000100000002800000080000000000000000000000000000000\
                    0000e00000000000000020000000000000c00000003c006000000000000000a00000000000000000000000000000010000\
                    0001000000400000000080f71f008008000101";
        assert_eq!(hex::encode(block(1, 512)), seen);
        assert_eq!(block(4, 8192).len(), SIZE);
    }
}
