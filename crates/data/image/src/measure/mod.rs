//! Launch measurements, computed from an image's parts alone.

mod calibrate;
mod firmware;
mod kernel;
mod launch;
mod ovmf;
mod pcr;
mod platform_info;
mod report;
pub mod snp;
pub mod tdx;

use std::collections::BTreeMap;
use std::path::Path;

use lambda_types::image::{Expected, Part, SnpExpected, TdxExpected, TpmExpected, file};
use lambda_types::shape::Shape;
use sha2::{Sha256, Sha384};

pub use launch::{Launch, LaunchOptions, firmware_part, launch};
pub use pcr::SELECTION;
pub use report::{Difference, Report, differences, measure};

use crate::error::{Error, Result};
use crate::hash;

pub(crate) use kernel::check as check_kernel;

/// Why a measurement could not be computed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The firmware is not an OVMF code volume that can be unpacked.
    #[error("the firmware cannot be measured: {0}")]
    Firmware(&'static str),
    /// The firmware is a build that this version does not know, and running it did not tell enough.
    #[error("the firmware is not a known build, and running it in QEMU did not make it one: {0}")]
    Calibration(String),
    /// The kernel cannot be started by the firmware, or is damaged.
    #[error("the kernel is not usable: {0}")]
    Kernel(&'static str),
    /// The firmware cannot be launched under a hardware profile.
    #[error("the firmware is not usable for profile {profile}: {reason}")]
    Profile {
        /// The profile.
        profile: &'static str,
        /// What it lacks.
        reason: String,
    },
    /// There is nothing to compute for a profile.
    #[error("profile {profile} has no launch digest that an image determines: {reason}")]
    NotApplicable {
        /// The profile.
        profile: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A processor count that no guest has.
    #[error("{given} processors; a guest has 1 to {most}")]
    Vcpus {
        /// Asked for.
        given: u32,
        /// Allowed.
        most: u32,
    },
}

/// Shorthand.
type Measured<T> = std::result::Result<T, MeasureError>;

impl MeasureError {
    fn profile(profile: &'static str, reason: impl Into<String>) -> Self {
        Self::Profile { profile, reason: reason.into() }
    }
}

/// What every profile boots.
struct Boot {
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    command_line: String,
}

impl Boot {
    fn read(dir: &Path, command_line: &str) -> Result<Self> {
        let command_line = command_line.to_owned();
        Ok(Self { kernel: part(dir, file::KERNEL)?, initramfs: part(dir, file::INITRAMFS)?, command_line })
    }

    fn given(&self) -> snp::Boot<'_> {
        snp::Boot { kernel: &self.kernel, initramfs: &self.initramfs, command_line: &self.command_line }
    }
}

fn part(dir: &Path, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    std::fs::read(&path).map_err(Error::io("reading", &path))
}

/// What a correct boot of these parts of `dir` measures to, for every shape, under every profile that there is firmware for.
pub(crate) fn expected(dir: &Path, command_line: &str, parts: &BTreeMap<String, Part>) -> Result<Expected> {
    let boot = Boot::read(dir, command_line)?;
    let of = |name: &str| parts.contains_key(name).then(|| part(dir, name)).transpose();
    let mut all = Expected { tpm: tpm(dir, &boot)?, ..Expected::default() };
    if let Some(firmware) = of(file::FIRMWARE_SNP)? {
        all.snp = snp_expected(&firmware, &boot)?;
    }
    if let Some(firmware) = of(file::FIRMWARE_TDX)? {
        let every = trust_domain(&firmware, &boot.given())?;
        all.tdx = Shape::ALL.into_iter().map(|shape| (shape, every.clone())).collect();
    }
    Ok(all)
}

fn tpm(dir: &Path, boot: &Boot) -> Result<BTreeMap<Shape, TpmExpected>> {
    let volumes = firmware::Volumes::read(&dir.join(file::FIRMWARE), &part(dir, file::FIRMWARE)?)?;
    let initramfs = hash::bytes(&boot.initramfs);
    let mut all = BTreeMap::new();
    for shape in Shape::ALL {
        let patched = kernel::patched(&boot.kernel, boot.initramfs.len() as u64, shape.memory_mib())?;
        let inputs = pcr::Inputs {
            firmware_volumes: volumes.digests(shape),
            kernel: kernel::authenticode::<Sha256>(&patched)?.into(),
            initramfs,
            command_line: hash::bytes(&pcr::command_line(&boot.command_line)),
        };
        all.insert(shape, pcr::expected(inputs));
    }
    Ok(all)
}

fn snp_expected(firmware: &[u8], boot: &Boot) -> Measured<BTreeMap<Shape, SnpExpected>> {
    let firmware = snp::firmware_digest(firmware)?;
    let boot = boot.given();
    let (cpu, features) = (snp::Cpu::USUAL, snp::USUAL_FEATURES);
    let one = |shape: Shape| {
        let measurement = hex::encode(firmware.launch(Some(&boot), shape.vcpus(), cpu, features)?);
        Ok((shape, SnpExpected { measurement, cpu: cpu.name().to_owned(), features }))
    };
    Shape::ALL.into_iter().map(one).collect()
}

/// What a trust domain with this firmware measures to when it boots these bytes.
///
/// # Errors
/// [`MeasureError::Firmware`], [`MeasureError::Profile`] and [`MeasureError::Kernel`] name what is lacking.
pub fn trust_domain(firmware: &[u8], boot: &snp::Boot<'_>) -> Measured<TdxExpected> {
    tdx::check_measures_boot(firmware)?;
    check_kernel(boot.kernel)?;
    let kernel = kernel::authenticode::<Sha384>(boot.kernel)?.into();
    let initramfs = tdx::sha384(boot.initramfs);
    let command_line = tdx::sha384(&pcr::command_line(boot.command_line));
    Ok(TdxExpected {
        mrtd: hex::encode(tdx::mrtd(firmware)?),
        rtmr1: hex::encode(tdx::rtmr1(&kernel)),
        rtmr2: hex::encode(tdx::rtmr2(&command_line, &initramfs)),
        kernel: hex::encode(kernel),
        initramfs: hex::encode(initramfs),
        command_line: hex::encode(command_line),
    })
}
