//! What TDX measures of a guest that QEMU boots directly: MRTD, and RTMR 1 and 2.
//!
//! MRTD is made by the TDX module while KVM adds the firmware's sections page by page (Intel TDX Module Base Architecture
//! Specification, "Measurement of initial TD contents"; Linux 6.16 or newer as host). The firmware extends the others like
//! the PCRs of a TPM: RTMR 1 takes what PCR 2 to 6 take, RTMR 2 what PCR 8 to 15 take (UEFI 2.10 §38.4.1).
//!
//! Of RTMR 0 nothing is said here: its events hold the memory map that QEMU hands over, the ACPI tables that QEMU makes and
//! boot options, which follow from QEMU's version and the devices of the guest.

mod metadata;

use sha2::{Digest as _, Sha384};

use super::MeasureError;
use super::firmware::unpack;
use super::ovmf::{Image, guid};

/// Name of the launch profile.
pub(crate) const PROFILE: &str = "tdx";

/// Bytes in a page, and in one extension of the measurement.
const PAGE: u64 = 4096;
const CHUNK: usize = 256;

/// F062221E-C607-44C2-B0B4-C3886331D351: edk2's driver `TdTcg2Dxe`, which extends the RTMRs.
const MEASURING_DRIVER: [u8; 16] = guid(0xf062_221e, 0xc607, 0x44c2, *b"\xb0\xb4\xc3\x88\x63\x31\xd3\x51");

/// Where QEMU 10.0 and newer put the kernel as it is in the file, and where firmware looks for it first.
const KERNEL_FILES: &[u8] = b"\0etc/boot/\0";

/// A SHA-384 digest, or a register.
pub type Digest = [u8; 48];

/// MRTD of a guest with this firmware file, as given to QEMU with `-bios`.
///
/// # Errors
/// [`MeasureError::Firmware`] and [`MeasureError::Profile`] name what the firmware lacks.
pub fn mrtd(firmware: &[u8]) -> Result<Digest, MeasureError> {
    let image = Image::parse(firmware)?;
    let mut hasher = Sha384::new();
    for section in metadata::sections(&image)? {
        for offset in (0..section.size).step_by(PAGE as usize) {
            hasher.update(operation(b"MEM.PAGE.ADD", section.address + offset));
            let Some(contents) = section.extended else { continue };
            let page = &contents[offset as usize..offset as usize + PAGE as usize];
            for (chunk, at) in page.chunks(CHUNK).zip((section.address + offset..).step_by(CHUNK)) {
                hasher.update(operation(b"MR.EXTEND", at));
                hasher.update(chunk);
            }
        }
    }
    Ok(hasher.finalize().into())
}

/// What the TDX module hashes for one operation: its name and the guest physical address.
fn operation(name: &[u8], address: u64) -> [u8; 128] {
    let mut block = [0; 128];
    block[..name.len()].copy_from_slice(name);
    block[16..24].copy_from_slice(&address.to_le_bytes());
    block
}

/// Whether the firmware extends the RTMRs at all (edk2 builds without `CC_MEASUREMENT_ENABLE` start a kernel and tell nobody),
/// and takes the kernel as it is in the file (edk2-stable202502 or newer; older ones take it with a setup header that depends
/// on QEMU's version and on the memory size, and some put the separator into another register).
///
/// # Errors
/// When it does not, or cannot be unpacked.
pub fn check_measures_boot(firmware: &[u8]) -> Result<(), MeasureError> {
    let unpacked = unpack(firmware)?;
    let has = |needle: &[u8]| unpacked.windows(needle.len()).any(|window| window == needle);
    let refused = |what: &str| {
        let what = format!("{what}; take Debian 13's /usr/share/ovmf/OVMF.fd, for example");
        Err(MeasureError::profile(PROFILE, what))
    };
    if !has(&MEASURING_DRIVER) {
        return refused(
            "it does not measure what it boots: the driver TdTcg2Dxe is not in it (edk2 option CC_MEASUREMENT_ENABLE)",
        );
    }
    if !has(KERNEL_FILES) {
        return refused(
            "it is older than edk2-stable202502: it does not take the kernel as it is from fw_cfg's etc/boot/",
        );
    }
    Ok(())
}

/// RTMR 1 when Linux has left the boot services, from the Authenticode digest of the kernel file.
#[must_use]
pub fn rtmr1(kernel: &Digest) -> Digest {
    let constants: [&[u8]; 4] = [
        b"Calling EFI Application from Boot Option",
        &[0; 4], // separator
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    ];
    let events: Vec<Digest> = [*kernel].into_iter().chain(constants.map(sha384)).collect();
    replay(&events)
}

/// RTMR 2 when Linux has left the boot services: its EFI stub measures the command line and the initramfs.
#[must_use]
pub fn rtmr2(command_line: &Digest, initramfs: &Digest) -> Digest {
    replay(&[*command_line, *initramfs])
}

/// The register after these events.
#[must_use]
pub fn replay(events: &[Digest]) -> Digest {
    let extend =
        |register: Digest, event: &Digest| Sha384::new().chain_update(register).chain_update(event).finalize().into();
    events.iter().fold([0; 48], extend)
}

pub(crate) fn sha384(bytes: &[u8]) -> Digest {
    Sha384::digest(bytes).into()
}
