//! One guest's launch measurement under a hardware profile, with a firmware file and a processor count of one's choice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lambda_types::image::file;
use lambda_types::shape::LaunchProfile;
use serde::Serialize;

use super::{Boot, MeasureError, Measured, part, snp, trust_domain};
use crate::error::{Error, Result};
use crate::{hash, manifest};

/// The part that is the firmware of a hardware profile.
///
/// # Errors
/// [`MeasureError::NotApplicable`], with the reason.
pub const fn firmware_part(profile: LaunchProfile) -> Measured<&'static str> {
    let reason = match profile {
        LaunchProfile::Snp => return Ok(file::FIRMWARE_SNP),
        LaunchProfile::Tdx => return Ok(file::FIRMWARE_TDX),
        LaunchProfile::Tpm => "its registers are in image.json for each shape, under expected.tpm",
        LaunchProfile::Sgx => {
            "the processor measures enclaves that the guest starts (MRENCLAVE, from the enclave's own build), not the guest; \
             how the guest booted is what expected.tpm says"
        }
        LaunchProfile::Cca => {
            "the realm's initial measurement follows from Arm firmware, an Arm kernel and where the monitor puts them, and \
             images are for x86-64"
        }
    };
    Err(MeasureError::NotApplicable { profile: profile.name(), reason })
}

/// How the guest is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchOptions {
    /// The profile.
    pub profile: LaunchProfile,
    /// The firmware file; the image's own otherwise.
    pub firmware: Option<PathBuf>,
    /// Number of processors; measured by `snp`.
    pub vcpus: u32,
    /// Processor model; measured by `snp`.
    pub cpu: snp::Cpu,
    /// `SEV_FEATURES`; measured by `snp`.
    pub features: u64,
}

impl LaunchOptions {
    /// The usual guest.
    #[must_use]
    pub const fn new(profile: LaunchProfile, vcpus: u32) -> Self {
        let (cpu, features) = (snp::Cpu::USUAL, snp::USUAL_FEATURES);
        Self { profile, firmware: None, vcpus, cpu, features }
    }
}

/// What a launch measures to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Launch {
    /// The profile.
    pub profile: LaunchProfile,
    /// SHA-256 of the firmware file.
    pub firmware_sha256: String,
    /// Registers that follow from the image, with the conditions that enter them: name to lower-case hex.
    pub registers: BTreeMap<&'static str, String>,
    /// Conditions under which the values hold.
    pub conditions: Vec<String>,
    /// Registers that do not follow from the image, and why.
    pub not_predicted: BTreeMap<&'static str, &'static str>,
}

/// Why RTMR 0 is not computed.
const RTMR0: &str = "it holds the memory map, the ACPI tables and the boot options that the node's QEMU makes: name in the \
                     policy what a boot that you checked against its event log has shown";

/// Why RTMR 3 is not computed.
const RTMR3: &str = "nothing extends it while the guest boots: 48 zero bytes until the guest's own software does";

/// Computes the launch measurement of the image in `dir`. Its parts are taken as they are: [`super::measure`] compares them
/// with the manifest.
///
/// # Errors
/// When a part or the firmware cannot be read, or the firmware cannot be launched so; says what it lacks.
pub fn launch(dir: &Path, options: &LaunchOptions) -> Result<Launch> {
    let own = firmware_part(options.profile)?;
    let firmware = match &options.firmware {
        Some(path) => std::fs::read(path).map_err(Error::io("reading", path))?,
        None if dir.join(own).exists() => part(dir, own)?,
        None => {
            let what = format!("the image has no {own}: give a firmware file");
            return Err(MeasureError::profile(options.profile.name(), what).into());
        }
    };
    let (_, manifest) = manifest::load(dir)?;
    let boot = Boot::read(dir, &manifest.command_line)?;
    let mut launch = Launch {
        profile: options.profile,
        firmware_sha256: hex::encode(hash::bytes(&firmware)),
        registers: BTreeMap::new(),
        conditions: Vec::new(),
        not_predicted: BTreeMap::new(),
    };
    match options.profile {
        LaunchProfile::Snp => launch.snp(&firmware, &boot, options)?,
        _ => launch.tdx(&firmware, &boot)?,
    }
    Ok(launch)
}

impl Launch {
    fn snp(&mut self, firmware: &[u8], boot: &Boot, options: &LaunchOptions) -> Measured<()> {
        let LaunchOptions { vcpus, cpu, features, .. } = *options;
        let boot = Some(boot.given());
        let digest = snp::launch_digest(&snp::Launch { firmware, boot, vcpus, cpu, features })?;
        self.registers.insert("measurement", hex::encode(digest));
        self.conditions = vec![
            format!("-smp {vcpus}, -cpu {}", cpu.name()),
            format!("SEV_FEATURES {features:#x}"),
            "kernel-hashes=on".to_owned(),
        ];
        Ok(())
    }

    fn tdx(&mut self, firmware: &[u8], boot: &Boot) -> Measured<()> {
        let expected = trust_domain(firmware, &boot.given())?;
        self.registers =
            BTreeMap::from([("mrtd", expected.mrtd), ("rtmr1", expected.rtmr1), ("rtmr2", expected.rtmr2)]);
        self.conditions = vec!["QEMU 10.1 and Linux 6.16, or newer".to_owned()];
        self.not_predicted = BTreeMap::from([("rtmr0", RTMR0), ("rtmr3", RTMR3)]);
        Ok(())
    }
}
