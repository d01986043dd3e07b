use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Outcome, Vendor};

/// Name of the file beside the program.
const FILE: &str = "tee.json";

/// Kernel files of a host that can run both profiles, and how many guests of each.
const HOST: [(&str, &str); 4] = [
    ("sys/module/kvm_amd/parameters/sev_snp", "Y\n"),
    ("sys/module/kvm_intel/parameters/tdx", "Y\n"),
    ("sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\ntdx 31\n"),
    ("dev/sev", ""),
];

/// What a simulated host is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Who made its processor.
    pub vendor: Vendor,
    /// What its operator changes in a launch before the processor sees it.
    pub operator: Operator,
}

/// A dishonest operator's changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Text that is added to the kernel command line.
    pub command_line: Option<String>,
    /// Names another instance: HOST_DATA of an SNP guest, the start of MRCONFIGID of a trust domain.
    pub host_data: Option<Vec<u8>>,
    /// Lets the host debug the guest.
    pub debug: bool,
    /// Leaves the customer's ID block out.
    pub no_id_block: bool,
    /// Changes a number in the customer's ID block.
    pub changed_id_block: bool,
}

impl Operator {
    /// One who changes nothing.
    #[must_use]
    pub fn honest() -> Self {
        Self::default()
    }
}

impl Setup {
    /// Reads the file beside the running program.
    pub(crate) fn read() -> Outcome<Self> {
        let path = std::env::current_exe()?.with_file_name(FILE);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Takes effect from the next launch on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, program: &Path) {
        let path = program.with_file_name(FILE);
        std::fs::write(&path, serde_json::to_vec(self).expect("JSON")).expect("writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
    }
}

/// Puts the program and the kernel files of a capable host into a folder; gives the path to hand to a node as QEMU.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn install(program: &Path, folder: &Path, setup: &Setup) -> PathBuf {
    std::fs::create_dir_all(folder).expect("writable");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("own folder");
    for (name, content) in HOST {
        let path = folder.join("host").join(name);
        std::fs::create_dir_all(path.parent().expect("in a folder")).expect("writable");
        std::fs::write(path, content).expect("writable");
    }
    let qemu = folder.join("qemu-system-x86_64");
    std::fs::copy(program, &qemu).expect("the program is built and there is room for it");
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).expect("own file");
    setup.write(&qemu);
    qemu
}
