//! The launch digest of an AMD SEV-SNP guest under QEMU.
//!
//! The SNP firmware keeps a running digest over what is put into the guest before it starts: for each page its contents'
//! hash, its type and its address (SEV Secure Nested Paging Firmware ABI Specification, SNP_LAUNCH_UPDATE, PAGE_INFO). QEMU
//! adds the firmware image, then the sections that the firmware's metadata names, in the metadata's order; KVM adds one
//! page with the initial registers of each processor.
//!
//! Memory size, devices and ACPI tables do not enter. Processor count, model and features do.

mod cpu;
mod hashes;
mod metadata;
mod vmsa;

use sha2::{Digest as _, Sha384};

use super::MeasureError;
use super::ovmf::Image;
use metadata::Kind;

pub use cpu::Cpu;
pub use hashes::Boot;

/// Name of the launch profile.
pub(crate) const PROFILE: &str = "snp";

/// Most processors of a guest.
pub const MOST_VCPUS: u32 = 512;

/// `SEV_FEATURES` with nothing but SNP: what QEMU asks for unless told otherwise.
pub const USUAL_FEATURES: u64 = 1;

/// Bytes in a page.
const PAGE: usize = 4096;

/// Bytes of PAGE_INFO.
const PAGE_INFO: u16 = 0x70;

/// Address under which register pages are entered: all ones, page-aligned, 52 bits.
const REGISTERS_ADDRESS: u64 = 0xffff_ffff_f000;

/// PAGE_TYPE of the ABI.
#[derive(Clone, Copy)]
enum PageType {
    Normal = 1,
    Registers = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// What is launched.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The firmware file, as given to QEMU with `-bios`.
    pub firmware: &'a [u8],
    /// Kernel, initramfs and command line with `kernel-hashes=on`; `None` for a guest whose firmware boots from a disk, and
    /// whose kernel is thus not measured.
    pub boot: Option<Boot<'a>>,
    /// Number of processors, 1 to [`MOST_VCPUS`].
    pub vcpus: u32,
    /// Their model.
    pub cpu: Cpu,
    /// `SEV_FEATURES`.
    pub features: u64,
}

/// The launch digest: `MEASUREMENT` in the attestation report.
///
/// # Errors
/// [`MeasureError::Firmware`] and [`MeasureError::Profile`] name what the firmware lacks; [`MeasureError::Vcpus`].
pub fn launch_digest(launch: &Launch<'_>) -> Result<[u8; 48], MeasureError> {
    firmware_digest(launch.firmware)?.launch(launch.boot.as_ref(), launch.vcpus, launch.cpu, launch.features)
}

/// A firmware whose pages were hashed: several guests can be measured from here.
pub(crate) struct Firmware<'a> {
    image: Image<'a>,
    digest: [u8; 48],
}

/// Hashes the firmware's pages.
pub(crate) fn firmware_digest(firmware: &[u8]) -> Result<Firmware<'_>, MeasureError> {
    let image = Image::parse(firmware)?;
    let start = (1u64 << 32) - firmware.len() as u64;
    let mut digest = Running([0; 48]);
    digest.pages(start, firmware);
    Ok(Firmware { image, digest: digest.0 })
}

impl Firmware<'_> {
    /// The digest of a guest with this firmware.
    pub(crate) fn launch(
        &self,
        boot: Option<&Boot<'_>>,
        vcpus: u32,
        cpu: Cpu,
        features: u64,
    ) -> Result<[u8; 48], MeasureError> {
        if !(1..=MOST_VCPUS).contains(&vcpus) {
            return Err(MeasureError::Vcpus { given: vcpus, most: MOST_VCPUS });
        }
        let sections = metadata::sections(&self.image)?;
        let entry = metadata::reset_block(&self.image)?;
        let hashes = boot.map(|boot| self.hashes(boot, &sections)).transpose()?;
        let mut digest = Running(self.digest);
        for section in &sections {
            let address = u64::from(section.address);
            match (section.kind, &hashes) {
                (Kind::Secrets, _) => digest.page(PageType::Secrets, address, [0; 48]),
                (Kind::Cpuid, _) => digest.page(PageType::Cpuid, address, [0; 48]),
                (Kind::KernelHashes, Some((at, table))) => {
                    let mut contents = vec![0; section.size as usize];
                    contents[*at..*at + table.len()].copy_from_slice(table);
                    digest.pages(address, &contents);
                }
                (Kind::Memory | Kind::KernelHashes, _) => digest.zeros(address, section.size),
            }
        }
        for index in 0..vcpus {
            let start = if index == 0 { vmsa::RESET_VECTOR } else { entry };
            let page = vmsa::page(start, cpu.signature(), features);
            digest.page(PageType::Registers, REGISTERS_ADDRESS, Sha384::digest(page).into());
        }
        Ok(digest.0)
    }

    /// The table of hashes and its place in the section that is meant for it.
    fn hashes(&self, boot: &Boot<'_>, sections: &[metadata::Section]) -> Result<(usize, Vec<u8>), MeasureError> {
        let address = metadata::hash_table(&self.image)?;
        let refused = |what: &str| Err(MeasureError::profile(PROFILE, what));
        let mut places = sections.iter().filter(|section| section.kind == Kind::KernelHashes);
        let (section, other) = (places.next(), places.next());
        let (Some(section), None) = (section, other) else {
            return refused("its SEV metadata has not exactly one section for kernel hashes (type 0x10)");
        };
        let table = hashes::table(boot);
        let at = address as usize & (PAGE - 1);
        if section.address as usize != address as usize - at || at + table.len() > PAGE {
            return refused("its kernel hash table does not lie in the first page of the section for it");
        }
        Ok((at, table))
    }
}

/// The digest so far.
struct Running([u8; 48]);

impl Running {
    /// Adds a page: its contents' hash, or zeros where the type's contents are not measured.
    fn page(&mut self, kind: PageType, address: u64, contents: [u8; 48]) {
        let next = Sha384::new()
            .chain_update(self.0)
            .chain_update(contents)
            .chain_update(PAGE_INFO.to_le_bytes())
            .chain_update([kind as u8, 0]) // not an initial migration image
            .chain_update([0; 4]) // permissions of VMPL 3 to 1, reserved
            .chain_update(address.to_le_bytes());
        self.0 = next.finalize().into();
    }

    fn pages(&mut self, address: u64, contents: &[u8]) {
        for (page, at) in contents.chunks(PAGE).zip((address..).step_by(PAGE)) {
            self.page(PageType::Normal, at, Sha384::digest(page).into());
        }
    }

    fn zeros(&mut self, address: u64, size: u32) {
        for at in (address..address + u64::from(size)).step_by(PAGE) {
            self.page(PageType::Zero, at, [0; 48]);
        }
    }
}
