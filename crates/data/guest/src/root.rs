//! The root file system: verity below, the encrypted volume on top, and the step into it.

use std::path::Path;
use std::time::Duration;

use lambda_types::guest::FailureReason;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};

use crate::cmdline::RootParameters;
use crate::failure::{Because, Failure};
use crate::{dm, mounts, volume};

/// Where the read-only root file system is mounted.
pub const LOWER: &str = "/lower";
/// Where the volume is mounted.
pub const VOLUME: &str = "/volume";
const NEW_ROOT: &str = "/newroot";
const VERITY_NAME: &str = "lambda-root";

/// Maps the root disk under dm-verity and mounts it. A root hash that does not match fails here: the superblock and
/// the root directory are read through the hash tree.
///
/// # Errors
/// [`FailureReason::RootIntegrity`].
pub fn mount_lower(parameters: &RootParameters, bound: Duration) -> Result<(), Failure> {
    let reason = FailureReason::RootIntegrity;
    let disk = volume::find_disk(volume::ROOT_SERIAL, reason, bound)?;
    let minor = dm::create_verity(VERITY_NAME, &disk.to_string_lossy(), parameters).because(reason, "dm-verity")?;
    let device = format!("/dev/dm-{minor}");
    std::fs::create_dir_all(LOWER).because(reason, LOWER)?;
    mount(&device, LOWER, "erofs", MountFlags::RDONLY, c"").because(reason, "mount the root file system")
}

/// Puts the volume's writable layer over the root file system, and leaves both to it alone: with the overlay the volume is
/// unmounted too ([`crate::shutdown`]).
///
/// # Errors
/// [`FailureReason::RootAssembly`].
pub fn mount_overlay() -> Result<(), Failure> {
    let reason = FailureReason::RootAssembly;
    for folder in [&format!("{VOLUME}/upper"), &format!("{VOLUME}/work"), NEW_ROOT] {
        std::fs::create_dir_all(folder).because(reason, folder)?;
    }
    let options = c"lowerdir=/lower,upperdir=/volume/upper,workdir=/volume/work";
    mount("lambda-root", NEW_ROOT, "overlay", MountFlags::empty(), options).because(reason, "overlay")?;
    [VOLUME, LOWER].into_iter().try_for_each(|layer| unmount(layer, UnmountFlags::empty()).because(reason, layer))
}

/// Makes the overlay the root of this process and of all that come after, and frees the initramfs.
///
/// # Errors
/// [`FailureReason::RootAssembly`].
pub fn switch() -> Result<(), Failure> {
    let reason = FailureReason::RootAssembly;
    mounts::move_kernel_file_systems(Path::new(NEW_ROOT))?;
    empty_initramfs(Path::new("/"));
    std::env::set_current_dir(NEW_ROOT).because(reason, "enter the new root")?;
    mount_move(".", "/").because(reason, "move the new root")?;
    rustix::process::chroot(".").because(reason, "chroot")?;
    std::env::set_current_dir("/").because(reason, "chdir")
}

/// Removes the initramfs's own files, which would keep their memory for ever. Mounted folders are not entered.
fn empty_initramfs(root: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(device) = root.metadata().map(|metadata| metadata.dev()) else { return };
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() && metadata.dev() == device => {
                empty_initramfs(&path);
                std::fs::remove_dir(&path).ok();
            }
            Ok(metadata) if !metadata.is_dir() => {
                std::fs::remove_file(&path).ok();
            }
            _ => {}
        }
    }
}
