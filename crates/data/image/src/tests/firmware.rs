//! Firmware to measure: a real one, and what a test puts together.

use crate::lock::{Lock, Use};
use crate::packages::{Packages, default_cache};

pub(crate) use super::synthetic::{SEV_METADATA, SIZE, Synthetic, TDX_METADATA};

/// `usr/share/ovmf/OVMF.fd` of the locked firmware package: a whole image, with metadata for SNP and TDX, without kernel
/// hashes and without the measuring driver.
pub(crate) fn debian_12() -> Vec<u8> {
    let mut lock = Lock::shipped("debian-12").unwrap();
    lock.packages.retain(|package| package.uses.contains(&Use::Firmware));
    let packages = Packages::fetch(lock, &crate::Mirrors::default(), &default_cache(), &mut |_| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    packages.unpack(Use::Firmware, dir.path()).unwrap();
    std::fs::read(dir.path().join("usr/share/ovmf/OVMF.fd")).unwrap()
}
