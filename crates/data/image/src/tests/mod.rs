//! Tests with real tools: packages from the mirror, mmdebstrap, QEMU with firmware and vTPM.

mod boot;
pub(crate) mod firmware;
mod import;
mod machine;
mod packages;
mod profiles;
mod reproducible;
mod snp;
mod synthetic;
mod tdx;

use std::path::{Path, PathBuf};

use crate::apt::Mirrors;
use crate::import::ImportOptions;
use crate::lock::{Lock, Use};
use crate::packages::{Packages, default_cache};
use crate::tool::Tool;

/// A scratch folder with what an import takes.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) options: ImportOptions,
}

impl Bench {
    /// A tiny root file system, Debian's kernel and modules, and a guest program that is no more than an ELF file
    /// unless `guest` says otherwise.
    pub(crate) fn new(guest: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel_package(dir.path());
        let version = kernel.1;
        let options = ImportOptions {
            name: "tiny".into(),
            version: "1".into(),
            rootfs: dir.path().join("root.tar"),
            kernel: kernel.0.join(format!("boot/vmlinuz-{version}")),
            modules: Some(kernel.0.join("lib/modules").join(&version)),
            firmware: None,
            guest_binary: guest.unwrap_or_else(|| static_program(dir.path(), "fn main() {}")),
            out: dir.path().join("image"),
        };
        tar(&options.rootfs, &[("sbin/init", b"init"), ("usr/sbin/sshd", b"sshd")]);
        Self { dir, options }
    }
}

/// Debian's kernel package, unpacked, and its version.
fn kernel_package(dir: &Path) -> (PathBuf, String) {
    let mut lock = Lock::shipped("debian-12").unwrap();
    lock.packages.retain(|package| package.uses.contains(&Use::Kernel));
    let packages = Packages::fetch(lock, &Mirrors::default(), &default_cache(), &mut |_| {}).unwrap();
    let version = packages.lock.only(Use::Kernel).unwrap().name.strip_prefix("linux-image-").unwrap().to_owned();
    let into = dir.join("kernel");
    packages.unpack(Use::Kernel, &into).unwrap();
    (into, version)
}

/// Compiles a static program.
pub(crate) fn static_program(dir: &Path, source: &str) -> PathBuf {
    let (input, output) = (dir.join("program.rs"), dir.join("program"));
    std::fs::write(&input, source).unwrap();
    Tool::new("rustc")
        .args(["--edition=2024", "-O", "-Cpanic=abort", "-Ctarget-feature=+crt-static", "-Crelocation-model=static"])
        .arg(&input)
        .arg("-o")
        .arg(&output)
        .run()
        .unwrap();
    output
}

/// Writes a tar archive of regular files.
pub(crate) fn tar(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = ::tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        // Written as bytes: the library itself refuses unsafe names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.finish().unwrap();
}
