//! Reading, writing and identifying image folders.

use std::collections::BTreeMap;
use std::path::Path;

use lambda_types::ImageId;
use lambda_types::image::{FORMAT, ImageManifest, Verity, file};

use crate::error::{Error, Result};
use crate::hash;
use crate::measure;

/// Parameters that every image has, beside those of its root file system.
///
/// No `console=`: nothing is said on any console. `cryptomgr.notests` leaves out self tests that cost seconds without
/// hardware virtualisation.
///
/// The host can hand a guest more than what is measured, and an init system that listened would run it as root: systemd
/// imports credentials from QEMU's `fw_cfg` and from SMBIOS strings, and reads options from an EFI variable.
/// `systemd.import_credentials=no`, `module_blacklist=` and `efi=noruntime` (no EFI variables) close these doors.
const COMMON_PARAMETERS: &str = "quiet loglevel=0 panic=-1 8250.nr_uarts=0 net.ifnames=0 random.trust_cpu=on \
     cryptomgr.notests no_timer_check efi=noruntime module_blacklist=qemu_fw_cfg,dmi_sysfs \
     systemd.import_credentials=no systemd.show_status=0";

/// Every part that an image can have beside its manifest.
pub(crate) const PARTS: [&str; 7] =
    [file::KERNEL, file::INITRAMFS, file::ROOT, file::FIRMWARE, file::FIRMWARE_SNP, file::FIRMWARE_TDX, file::LOCK];

/// Those that an image has if it was built with them.
pub(crate) const OPTIONAL_FIRMWARE: [&str; 2] = [file::FIRMWARE_SNP, file::FIRMWARE_TDX];

/// Those that every image has.
pub(crate) const NEEDED: [&str; 4] = [file::KERNEL, file::INITRAMFS, file::ROOT, file::FIRMWARE];

/// The id of an image: the first 128 bits of the SHA-256 of its manifest's bytes.
#[must_use]
pub fn image_id(manifest: &[u8]) -> ImageId {
    let digest = hash::bytes(manifest);
    let mut bits = [0u8; 16];
    bits.copy_from_slice(&digest[..16]);
    ImageId::from_bits(u128::from_be_bytes(bits))
}

/// The kernel command line of an image with this root file system.
#[must_use]
pub fn command_line(verity: &Verity) -> String {
    format!(
        "{COMMON_PARAMETERS} lambda.root_hash={} lambda.root_salt={} lambda.root_size={}",
        verity.root_hash, verity.salt, verity.data_size
    )
}

/// Reads an image folder's manifest. Parts are not looked at: see [`crate::measure()`].
///
/// # Errors
/// When the manifest is missing or not valid.
pub fn load(dir: &Path) -> Result<(ImageId, ImageManifest)> {
    let path = dir.join(file::MANIFEST);
    let bytes = std::fs::read(&path).map_err(Error::io("reading", &path))?;
    let invalid = |reason: String| Error::Manifest { path: path.clone(), reason };
    let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(invalid(format!("format {} where {FORMAT} is known", manifest.format)));
    }
    Ok((image_id(&bytes), manifest))
}

/// What identifies an image beside its parts.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) verity: Verity,
}

/// Describes the parts in `dir`, computes what they measure to, and writes the manifest.
pub(crate) fn write(dir: &Path, identity: Identity) -> Result<ImageManifest> {
    let mut parts = BTreeMap::new();
    for name in PARTS {
        let path = dir.join(name);
        if NEEDED.contains(&name) || path.exists() {
            parts.insert(name.to_owned(), hash::file(&path)?);
        }
    }
    let command_line = command_line(&identity.verity);
    let expected = measure::expected(dir, &command_line, &parts)?;
    let Identity { name, version, verity } = identity;
    let manifest = ImageManifest { format: FORMAT, name, version, parts, verity, command_line, expected };
    let path = dir.join(file::MANIFEST);
    std::fs::write(&path, to_bytes(&manifest)?).map_err(Error::io("writing", &path))?;
    Ok(manifest)
}

/// Canonical bytes of a manifest.
pub(crate) fn to_bytes(manifest: &ImageManifest) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(manifest).map_err(|error| Error::Content(error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}
