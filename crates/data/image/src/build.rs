//! Building an image from Debian packages.

use std::path::{Path, PathBuf};

use lambda_types::image::{ImageManifest, file};

use crate::Progress;
use crate::apt::{self, Mirrors};
use crate::cpio;
use crate::error::{Error, Result};
use crate::initramfs;
use crate::lock::{Lock, Use};
use crate::manifest::{self, Identity, OPTIONAL_FIRMWARE, PARTS};
use crate::modules;
use crate::packages::{Packages, default_cache};
use crate::profile_firmware::{ProfileFirmware, link_parts};
use crate::root;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Name of the release, for example `debian-12`.
    pub release: String,
    /// The image folder; made, or its files replaced.
    pub out: PathBuf,
    /// The static `lambda-guest` program that becomes `/init`.
    pub guest_binary: PathBuf,
    /// A lock file to build from; the one that ships with this crate otherwise.
    pub lock: Option<PathBuf>,
    /// Ignore the lock and resolve what the mirror has.
    pub relock: bool,
    /// Where packages are cached.
    pub cache: PathBuf,
    /// Where packages come from.
    pub mirrors: Mirrors,
    /// Firmware of the hardware profiles; what this host has installed otherwise.
    pub profile_firmware: Option<ProfileFirmware>,
}

impl BuildOptions {
    /// The usual options.
    #[must_use]
    pub fn new(release: impl Into<String>, out: impl Into<PathBuf>, guest_binary: impl Into<PathBuf>) -> Self {
        Self {
            release: release.into(),
            out: out.into(),
            guest_binary: guest_binary.into(),
            lock: None,
            relock: false,
            cache: default_cache(),
            mirrors: Mirrors::default(),
            profile_firmware: None,
        }
    }
}

/// Builds an image folder.
///
/// Needs root, and `mmdebstrap`, `erofs-utils`, `dpkg` and `apt` on the host. Every file is written under a temporary
/// name first, so a build that fails leaves an existing image as it was.
///
/// # Errors
/// When a package cannot be had, a host program is missing or fails, or the result cannot be measured.
pub fn build(options: &BuildOptions, progress: &mut dyn FnMut(Progress)) -> Result<ImageManifest> {
    let release = apt::release(&options.release)?;
    let lock = match &options.lock {
        _ if options.relock => apt::resolve(release, &options.mirrors, progress)?,
        Some(path) => Lock::parse(&std::fs::read(path).map_err(Error::io("reading", path))?)?,
        None => Lock::shipped(&options.release)?,
    };
    if lock.release != options.release {
        return Err(Error::Lock(format!("it is for `{}`, not `{}`", lock.release, options.release)));
    }
    let guest = read_guest(&options.guest_binary)?;
    let packages = Packages::fetch(lock, &options.mirrors, &options.cache, progress)?;

    let staging = Staging::new(&options.out)?;
    let (work, target) = staging.folders()?;
    let root = work.join("root");
    root::install(&packages, &root, &work, progress)?;
    let kernel = Kernel::unpack(&packages, &work)?;
    root::add_modules(&root, &kernel.modules, &kernel.version)?;
    let verity = root::pack(&root, &target.join(file::ROOT), packages.lock.date, progress)?;

    progress(Progress::step("building the initramfs"));
    boot_parts(&packages, &kernel, guest, &work, &target)?;
    let profiles = options.profile_firmware.clone().unwrap_or_else(|| ProfileFirmware::installed(progress));
    profiles.copy(&target)?;
    write(&target.join(file::LOCK), &packages.lock.to_bytes()?)?;
    progress(Progress::step("computing the launch measurements"));
    let identity = Identity { name: packages.lock.release.clone(), version: packages.lock.version(), verity };
    let manifest = manifest::write(&target, identity)?;
    staging.publish(&target)?;
    Ok(manifest)
}

/// Replaces the guest program of an image: rewrites `initramfs` and `image.json`, and keeps the other parts.
///
/// # Errors
/// When the image cannot be read, its initramfs was not made by this crate, or the guest program is not static.
pub fn replace_guest(dir: &Path, guest_binary: &Path) -> Result<ImageManifest> {
    let (_, old) = manifest::load(dir)?;
    let guest = read_guest(guest_binary)?;
    let path = dir.join(file::INITRAMFS);
    let mut archive = cpio::Archive::parse(&std::fs::read(&path).map_err(Error::io("reading", &path))?)?;
    archive.file(initramfs::INIT, true, guest);
    let staging = Staging::new(dir)?;
    let (_, target) = staging.folders()?;
    write(&target.join(file::INITRAMFS), &archive.to_bytes()?)?;
    link_parts(dir, &target, PARTS.into_iter().filter(|name| *name != file::INITRAMFS && old.part(name).is_some()))?;
    let identity = Identity { name: old.name, version: old.version, verity: old.verity };
    let manifest = manifest::write(&target, identity)?;
    staging.publish(&target)?;
    Ok(manifest)
}

/// The kernel package, unpacked.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

impl Kernel {
    fn unpack(packages: &Packages, work: &Path) -> Result<Self> {
        let name = &packages.lock.only(Use::Kernel)?.name;
        let version = name
            .strip_prefix("linux-image-")
            .ok_or_else(|| Error::Lock("its kernel package is not a linux-image".into()))?
            .to_owned();
        let dir = work.join("kernel");
        packages.unpack(Use::Kernel, &dir)?;
        let modules = ["usr/lib/modules", "lib/modules"]
            .iter()
            .map(|folder| dir.join(folder).join(&version))
            .find(|folder| folder.is_dir())
            .ok_or_else(|| Error::Content(format!("the kernel package has no modules for {version}")))?;
        Ok(Self { image: dir.join(format!("boot/vmlinuz-{version}")), modules, version })
    }
}

/// Kernel, firmware and initramfs.
fn boot_parts(packages: &Packages, kernel: &Kernel, guest: Vec<u8>, work: &Path, target: &Path) -> Result<()> {
    copy(&kernel.image, &target.join(file::KERNEL))?;
    let modules = modules::select(&kernel.modules)?;
    firmware(packages, work, target)?;
    let tools = work.join("tools");
    packages.unpack(Use::Initramfs, &tools)?;
    write(&target.join(file::INITRAMFS), &initramfs::build(guest, modules, &tools)?)
}

/// Takes the firmware out of its package.
pub(crate) fn firmware(packages: &Packages, work: &Path, target: &Path) -> Result<()> {
    packages.lock.only(Use::Firmware)?;
    let dir = work.join("firmware");
    packages.unpack(Use::Firmware, &dir)?;
    copy(&dir.join("usr/share/OVMF/OVMF_CODE_4M.fd"), &target.join(file::FIRMWARE))
}

/// Reads the guest program and refuses one that could not run alone.
pub(crate) fn read_guest(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io("reading the guest program", path))?;
    match crate::elf::needs(&bytes) {
        Some(needs) if needs.interpreter.is_none() && needs.libraries.is_empty() => Ok(bytes),
        _ => Err(Error::Content(format!("`{}` is not a static ELF program", path.display()))),
    }
}

/// A folder beside the image folder; removed at the end, whatever happens.
pub(crate) struct Staging {
    dir: tempfile::TempDir,
    out: PathBuf,
}

impl Staging {
    pub(crate) fn new(out: &Path) -> Result<Self> {
        std::fs::create_dir_all(out).map_err(Error::io("creating", out))?;
        let dir = tempfile::Builder::new()
            .prefix(".building-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(out)
            .map_err(Error::io("creating a folder in", out))?;
        Ok(Self { dir, out: out.to_path_buf() })
    }

    /// A folder to work in and one to put the parts in.
    pub(crate) fn folders(&self) -> Result<(PathBuf, PathBuf)> {
        let make = |name: &str| -> Result<PathBuf> {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(&path).map_err(Error::io("creating", &path))?;
            Ok(path)
        };
        Ok((make("work")?, make("image")?))
    }

    /// Moves the parts to the image folder, the manifest last. Firmware that the image has no more goes away.
    pub(crate) fn publish(self, from: &Path) -> Result<()> {
        for name in PARTS.into_iter().chain([file::MANIFEST]) {
            let (source, target) = (from.join(name), self.out.join(name));
            if source.exists() {
                std::fs::rename(&source, &target).map_err(Error::io("moving a part to", &target))?;
            } else if OPTIONAL_FIRMWARE.contains(&name) && target.exists() {
                std::fs::remove_file(&target).map_err(Error::io("removing", &target))?;
            }
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(Error::io("reading", from))?;
    write(to, &bytes)
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(Error::io("writing", path))
}
