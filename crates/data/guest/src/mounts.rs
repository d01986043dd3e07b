//! The kernel's own file systems, before and after the hand-over.

use std::path::Path;

use lambda_types::guest::FailureReason;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::failure::{Because, Failure};

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts `/proc`, `/sys`, securityfs, `/dev` and `/run`.
///
/// # Errors
/// [`FailureReason::KernelModule`]: a kernel without them is not the measured one.
pub fn mount_kernel_file_systems() -> Result<(), Failure> {
    let devices = MountFlags::NOSUID;
    for (source, target, kind, flags, options) in [
        ("proc", "/proc", "proc", NO_PROGRAMS, c""),
        ("sysfs", "/sys", "sysfs", NO_PROGRAMS, c""),
        ("securityfs", "/sys/kernel/security", "securityfs", NO_PROGRAMS, c""),
        ("devtmpfs", "/dev", "devtmpfs", devices, c"mode=0755"),
        ("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755"),
    ] {
        if !Path::new(target).is_dir() {
            std::fs::create_dir_all(target).because(FailureReason::KernelModule, target)?;
        }
        mount(source, target, kind, flags, options).because(FailureReason::KernelModule, target)?;
    }
    Ok(())
}

/// Mounts configfs where the kernel has it: confidential processors give their reports through it.
///
/// # Errors
/// [`FailureReason::Tee`].
pub fn mount_configfs() -> Result<(), Failure> {
    const TARGET: &str = "/sys/kernel/config";
    if !Path::new(TARGET).is_dir() {
        return Ok(());
    }
    mount("configfs", TARGET, "configfs", NO_PROGRAMS, c"").because(FailureReason::Tee, TARGET)
}

/// Moves what [`mount_kernel_file_systems`] mounted into the new root.
///
/// # Errors
/// [`FailureReason::RootAssembly`].
pub fn move_kernel_file_systems(new_root: &Path) -> Result<(), Failure> {
    for name in ["proc", "sys", "dev", "run"] {
        let target = new_root.join(name);
        if !target.is_dir() {
            std::fs::create_dir(&target).because(FailureReason::RootAssembly, name)?;
        }
        mount_move(format!("/{name}"), &target).because(FailureReason::RootAssembly, name)?;
    }
    Ok(())
}
