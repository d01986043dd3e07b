//! The image that simulated guests boot: an ordinary one with another guest program, and firmware for both profiles.

use std::path::{Path, PathBuf};

use lambda_image::ProfileFirmware;

use crate::{Outcome, firmware};

/// First argument of the program when it makes an image.
pub(crate) const COMMAND: &str = "make-image";

/// `make-image FROM GUEST OUT`.
pub(crate) fn command(arguments: &[String]) -> Outcome<()> {
    let [from, guest, out] = arguments else { return Err("make-image FROM GUEST OUT".into()) };
    make(Path::new(from), Path::new(guest), Path::new(out))
}

/// Makes the image from one that is built: its parts are shared with it, but for the initramfs, whose `/init` is this
/// program. Where this host has no firmware for a profile, a synthetic one is measured.
///
/// # Errors
/// When a part cannot be read or written, or is not fit.
pub fn make(from: &Path, guest: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(out)?;
    for entry in std::fs::read_dir(from)? {
        let (path, target) = { entry.map(|it| (it.path(), out.join(it.file_name())))? };
        if path.is_file() {
            std::fs::hard_link(&path, &target).or_else(|_| std::fs::copy(&path, &target).map(drop))?;
        }
    }
    lambda_image::replace_guest(out, guest)?;
    let scratch: PathBuf = out.join("synthetic.fd");
    std::fs::write(&scratch, firmware::complete())?;
    let installed = ProfileFirmware::installed(&mut |_| {});
    let synthetic = || Some(scratch.clone());
    let both = ProfileFirmware { snp: installed.snp.or_else(synthetic), tdx: installed.tdx.or_else(synthetic) };
    lambda_image::set_profile_firmware(out, &both)?;
    std::fs::remove_file(scratch)?;
    Ok(())
}
