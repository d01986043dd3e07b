//! Importing a foreign root file system: any that has an init and sshd, with a kernel that has modules for it.
//!
//! The archive is untrusted: every entry is looked at before the first one is unpacked, and what is looked up
//! afterwards is resolved inside the unpacked tree, whatever its links say.

use std::path::{Path, PathBuf};

use lambda_types::image::{ImageManifest, file};

use crate::Progress;
use crate::apt::Mirrors;
use crate::build::{Staging, read_guest, write};
use crate::error::{Error, Result};
use crate::lock::{Lock, Use};
use crate::manifest::{self, Identity};
use crate::packages::{Packages, default_cache};
use crate::profile_firmware::ProfileFirmware;
use crate::tree::Tree;
use crate::{archive, initramfs, measure, modules, root};

/// What the guest starts: a program, or links that lead to one inside the tree.
const INIT: &str = "sbin/init";

/// Where an SSH server may be.
const SSH_SERVERS: [&str; 3] = ["usr/sbin/sshd", "sbin/sshd", "usr/local/sbin/sshd"];

/// Bytes of a kernel's version text that are looked at.
const VERSION_BYTES: usize = 128;

/// Why an import was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The archive has no `/sbin/init`.
    #[error(
        "the root file system has no init: the guest starts /sbin/init, which is missing or leads nowhere; install \
         systemd-sysv, or link /sbin/init to the init system"
    )]
    NoInit,
    /// The archive has no SSH server.
    #[error("the root file system has no sshd (looked for /usr/sbin/sshd): install openssh-server in it")]
    NoSshServer,
    /// There are no modules for the kernel.
    #[error(
        "there are no modules for kernel {version}: the root file system has no /lib/modules/{version}; give them with --modules"
    )]
    NoModules {
        /// The kernel's version.
        version: String,
    },
    /// The kernel cannot be started by the firmware.
    #[error("the kernel is not usable: {0}; give a bzImage with CONFIG_EFI_STUB, such as a distribution's vmlinuz")]
    Kernel(&'static str),
    /// The archive ends early.
    #[error("the archive `{}` is truncated: {reason}", path.display())]
    Truncated {
        /// The archive.
        path: PathBuf,
        /// Where.
        reason: String,
    },
    /// The archive is not a tar archive, or compressed in an unknown way.
    #[error("`{}` is not a tar archive (plain, .gz or .xz): {reason}", path.display())]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The archive holds an entry that would be unpacked elsewhere.
    #[error("the archive holds an unsafe entry `{0}`: absolute paths and `..` are not accepted")]
    UnsafePath(String),
}

/// What to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Name in the catalogue.
    pub name: String,
    /// Version in the catalogue.
    pub version: String,
    /// Archive of the root file system: tar, plain or compressed with gzip or xz.
    pub rootfs: PathBuf,
    /// The kernel, a bzImage with EFI stub.
    pub kernel: PathBuf,
    /// Modules: a folder or an archive with `lib/modules/<version>`, or that folder itself. Those of the root file
    /// system otherwise.
    pub modules: Option<PathBuf>,
    /// Firmware; Debian's otherwise.
    pub firmware: Option<PathBuf>,
    /// The static `lambda-guest` program that becomes `/init`.
    pub guest_binary: PathBuf,
    /// The image folder; made, or its files replaced.
    pub out: PathBuf,
}

/// Makes an image folder from a root file system and a kernel.
///
/// Programs of the initramfs, and the firmware unless given, come from the packages of the shipped lock.
///
/// # Errors
/// [`Error::Import`] with the reason when the input is not fit; otherwise as [`crate::build()`].
pub fn import(options: &ImportOptions, progress: &mut dyn FnMut(Progress)) -> Result<ImageManifest> {
    let guest = read_guest(&options.guest_binary)?;
    let kernel = std::fs::read(&options.kernel).map_err(Error::io("reading", &options.kernel))?;
    let version = kernel_version(&kernel)?;
    progress(Progress::step("reading the root file system"));
    archive::check(&options.rootfs)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let staging = Staging::new(&options.out)?;
    let (work, target) = staging.folders()?;
    let root = work.join("root");
    archive::unpack(&options.rootfs, &root)?;
    let tree = Tree::open(&root)?;
    if !tree.is_file(INIT) {
        return Err(Refusal::NoInit.into());
    }
    if !SSH_SERVERS.iter().any(|path| tree.is_file(path)) {
        return Err(Refusal::NoSshServer.into());
    }
    let modules = find_modules(options.modules.as_deref(), &version, &root, &work)?;
    let modules = modules::select(&modules)?;

    let mut lock = Lock::shipped("debian-12")?;
    let unwanted = |what: &Use| *what != Use::Initramfs && (*what != Use::Firmware || options.firmware.is_some());
    for package in &mut lock.packages {
        package.uses.retain(|what| !unwanted(what));
    }
    lock.packages.retain(|package| !package.uses.is_empty());
    let packages = Packages::fetch(lock, &Mirrors::default(), &default_cache(), progress)?;
    match &options.firmware {
        Some(path) => write(&target.join(file::FIRMWARE), &std::fs::read(path).map_err(Error::io("reading", path))?)?,
        None => crate::build::firmware(&packages, &work, &target)?,
    }
    ProfileFirmware::installed(progress).copy(&target)?;
    write(&target.join(file::KERNEL), &kernel)?;
    write(&target.join(file::LOCK), &packages.lock.to_bytes()?)?;
    progress(Progress::step("building the initramfs"));
    let tools = work.join("tools");
    packages.unpack(Use::Initramfs, &tools)?;
    write(&target.join(file::INITRAMFS), &initramfs::build(guest, modules, &tools)?)?;

    root::adopt(&tree)?;
    let verity = root::pack(&root, &target.join(file::ROOT), packages.lock.date, progress)?;
    progress(Progress::step("computing the launch measurements"));
    let identity = Identity { name: options.name.clone(), version: options.version.clone(), verity };
    let manifest = manifest::write(&target, identity)?;
    staging.publish(&target)?;
    Ok(manifest)
}

/// The version that a kernel says it has: the first word of the text that its setup header points to.
fn kernel_version(kernel: &[u8]) -> Result<String> {
    match measure::check_kernel(kernel) {
        Ok(()) => {}
        Err(measure::MeasureError::Kernel(reason)) => return Err(Refusal::Kernel(reason).into()),
        Err(other) => return Err(other.into()),
    }
    let pointer = kernel.get(0x20e..0x210).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    let start = pointer.map_or(0, |offset| usize::from(offset) + 0x200);
    let text = kernel.get(start..).unwrap_or_default();
    let text = &text[..text.len().min(VERSION_BYTES)];
    let word = text.split(|byte| *byte == b' ' || *byte == 0).next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._~".contains(byte);
    match std::str::from_utf8(word) {
        Ok(version)
            if pointer != Some(0)
                && !version.is_empty()
                && version != "."
                && version != ".."
                && word.iter().all(plain) =>
        {
            Ok(version.to_owned())
        }
        _ => Err(Refusal::Kernel("it does not say its version").into()),
    }
}

/// The folder `lib/modules/<version>`.
fn find_modules(given: Option<&Path>, version: &str, root: &Path, work: &Path) -> Result<PathBuf> {
    let unpacked = work.join("modules");
    let source = match given {
        None => root,
        Some(path) if path.is_dir() => path,
        Some(path) => {
            archive::check(path)?;
            archive::unpack(path, &unpacked)?;
            &unpacked
        }
    };
    let mut candidates =
        vec![format!("usr/lib/modules/{version}"), format!("lib/modules/{version}"), version.to_owned()];
    if given.is_some() && source.file_name().is_some_and(|name| name == version) {
        candidates.push(".".into());
    }
    let tree = Tree::open(source)?;
    candidates
        .iter()
        .find_map(|path| tree.folder(path))
        .filter(|folder| folder.join("modules.builtin").is_file() && folder.join("kernel").is_dir())
        .ok_or_else(|| Refusal::NoModules { version: version.to_owned() }.into())
}
