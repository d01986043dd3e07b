//! Firmware of the hardware profiles: an image has what the host that builds it has installed, or what it is given.

use std::path::{Path, PathBuf};

use lambda_types::image::{ImageManifest, file};
use lambda_types::shape::LaunchProfile;

use crate::Progress;
use crate::build::Staging;
use crate::error::{Error, Result};
use crate::manifest::{self, Identity, OPTIONAL_FIRMWARE, PARTS};
use crate::measure::{MeasureError, firmware_part, snp, tdx};

/// Where distributions put firmware for `snp`: Debian (ovmf-amdsev) and Ubuntu, Fedora, openSUSE.
const SNP: [&str; 3] =
    ["/usr/share/ovmf/OVMF.amdsev.fd", "/usr/share/edk2/ovmf/OVMF.amdsev.fd", "/usr/share/qemu/ovmf-x86_64-sev.bin"];

/// Where distributions put firmware for `tdx` that boots a kernel which no secure boot key has signed: Ubuntu, Fedora,
/// Debian 13 (ovmf).
const TDX: [&str; 3] =
    ["/usr/share/ovmf/OVMF.inteltdx.fd", "/usr/share/edk2/ovmf/OVMF.inteltdx.fd", "/usr/share/ovmf/OVMF.fd"];

/// Firmware for the hardware profiles. A profile without any is left out of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileFirmware {
    /// For `snp`: an AmdSev build of OVMF.
    pub snp: Option<PathBuf>,
    /// For `tdx`: a build that extends the RTMRs.
    pub tdx: Option<PathBuf>,
}

impl ProfileFirmware {
    /// What this host has installed. `progress` is told which profiles have none, and why.
    pub fn installed(progress: &mut dyn FnMut(Progress)) -> Self {
        let mut find = |profile: LaunchProfile, places: &[&str], package: &str| {
            let mut refused = Vec::new();
            for place in places.iter().map(PathBuf::from).filter(|place| place.exists()) {
                match std::fs::read(&place)
                    .map_err(Error::io("reading", &place))
                    .and_then(|it| Ok(check(profile, &it)?))
                {
                    Ok(()) => return Some(place),
                    Err(error) => refused.push(format!("`{}`: {error}", place.display())),
                }
            }
            if refused.is_empty() {
                refused.push(format!("none of {} exists", places.join(", ")));
            }
            let (name, why) = (profile.name(), refused.join("; "));
            progress(Progress::Notice(format!(
                "the image gets no firmware for profile {name}, and no measurements for it: {why}; install {package} and \
                 build again"
            )));
            None
        };
        Self {
            snp: find(LaunchProfile::Snp, &SNP, "ovmf-amdsev (Debian 14, Ubuntu)"),
            tdx: find(LaunchProfile::Tdx, &TDX, "ovmf of Debian 13 or newer"),
        }
    }

    /// Copies what there is into an image folder.
    pub(crate) fn copy(&self, target: &Path) -> Result<()> {
        for (profile, name, path) in
            [(LaunchProfile::Snp, file::FIRMWARE_SNP, &self.snp), (LaunchProfile::Tdx, file::FIRMWARE_TDX, &self.tdx)]
        {
            let Some(path) = path else { continue };
            let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
            check(profile, &bytes)?;
            crate::build::write(&target.join(name), &bytes)?;
        }
        Ok(())
    }
}

/// Whether a firmware can start a guest under a profile and holds what it boots to its measurement.
fn check(profile: LaunchProfile, firmware: &[u8]) -> std::result::Result<(), MeasureError> {
    match profile {
        LaunchProfile::Snp => {
            let boot = Some(snp::Boot { kernel: &[], initramfs: &[], command_line: "" });
            let (cpu, features) = (snp::Cpu::USUAL, snp::USUAL_FEATURES);
            snp::launch_digest(&snp::Launch { firmware, boot, vcpus: 1, cpu, features }).map(|_| ())
        }
        LaunchProfile::Tdx => tdx::mrtd(firmware).and_then(|_| tdx::check_measures_boot(firmware)),
        other => firmware_part(other).map(|_| ()),
    }
}

/// Replaces the hardware profiles' firmware of an image: rewrites `image.json`, which changes the image's id, and keeps the
/// other parts.
///
/// # Errors
/// When the image or a firmware cannot be read, or a firmware is not fit for its profile.
pub fn set_profile_firmware(dir: &Path, firmware: &ProfileFirmware) -> Result<ImageManifest> {
    let (_, old) = manifest::load(dir)?;
    let staging = Staging::new(dir)?;
    let (_, target) = staging.folders()?;
    link_parts(dir, &target, PARTS.into_iter().filter(|name| !OPTIONAL_FIRMWARE.contains(name)))?;
    firmware.copy(&target)?;
    let identity = Identity { name: old.name, version: old.version, verity: old.verity };
    let manifest = manifest::write(&target, identity)?;
    staging.publish(&target)?;
    Ok(manifest)
}

/// Takes parts over from an image folder.
pub(crate) fn link_parts(dir: &Path, target: &Path, names: impl Iterator<Item = &'static str>) -> Result<()> {
    for name in names {
        let (from, to) = (dir.join(name), target.join(name));
        if from.exists() {
            std::fs::hard_link(&from, &to)
                .or_else(|_| std::fs::copy(&from, &to).map(|_| ()))
                .map_err(Error::io("copying", &from))?;
        }
    }
    Ok(())
}
