//! Kernel modules, loaded in the order that the image's `/modules/order` gives.

use std::fs::File;
use std::path::Path;

use lambda_types::guest::FailureReason;
use rustix::io::Errno;

use crate::failure::{Because, Failure};

/// Where the image keeps its modules.
pub const FOLDER: &str = "/modules";

/// Loads every module that `order` in `folder` names; one that is there already is fine.
///
/// # Errors
/// [`FailureReason::KernelModule`], naming the module.
pub fn load_all(folder: &Path) -> Result<(), Failure> {
    let reason = FailureReason::KernelModule;
    let order = std::fs::read_to_string(folder.join("order")).because(reason, "module order")?;
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let file = File::open(folder.join(name)).because(reason, name)?;
        match rustix::system::finit_module(&file, c"", 0) {
            // A driver for a device that this machine has not got: whoever needs the device says that it is missing.
            Ok(()) | Err(Errno::EXIST | Errno::NODEV) => {}
            Err(error) => return Err(error).because(reason, name),
        }
    }
    Ok(())
}
