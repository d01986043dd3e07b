//! The Debian root file system: installed from locked packages only, made fit for a measured read-only image, and
//! packed as erofs with a dm-verity hash tree.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lambda_types::image::Verity;

use crate::error::{Error, Result};
use crate::lock::Use;
use crate::packages::Packages;
use crate::tool::Tool;
use crate::tree::Tree;
use crate::verity;
use crate::{Progress, hash};

/// UUID of the erofs file system: all images have the same, content is told apart by the root hash.
const EROFS_UUID: &str = "6c616d62-6461-4c61-8d62-646100000001";

/// Suite name of the archive that holds the locked packages.
const SUITE: &str = "bookworm";

/// The one user, id 1000.
const USER: &str = "lambda";

/// Units that would cost boot time or do nothing in a guest whose network, clock and disks others look after.
const MASKED: [&str; 39] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "getty@.service",
    "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-initctl.socket",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-journald-audit.socket",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-repart.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// What packages leave behind that is a log, a cache, or differs between two installations.
const REMOVED: [&str; 16] = [
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "etc/.pwd.lock",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
    "var/lib/dbus/machine-id",
    "usr/lib/udev/hwdb.bin",
];

/// Folders whose content goes and which stay.
const EMPTIED: [&str; 8] =
    ["run", "tmp", "var/tmp", "var/log", "var/cache/apt", "var/cache/debconf", "var/lib/apt/lists", "dev"];

const SSHD_CONFIG: &str = "\
# The host key is made by the guest at each boot and covered by its attestation evidence.
HostKey /run/lambda/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
PrintMotd no
UseDNS no
";

/// The packaged unit checks the configuration in a process of its own first; sshd checks it again when it starts.
const SSH_UNIT: &str = "\
[Service]
ExecStartPre=
RuntimeDirectory=sshd
";

const SUDOERS: &str = "lambda ALL=(ALL:ALL) NOPASSWD: ALL\n";

const SOURCES: &str = "\
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
";

/// Installs the root packages into `root`, which must not exist.
pub(crate) fn install(packages: &Packages, root: &Path, work: &Path, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let repository = repository(packages, work)?;
    progress(Progress::step("installing the root file system"));
    let names: Vec<&str> = packages.lock.used_for(Use::Root).map(|package| package.name.as_str()).collect();
    Tool::new("mmdebstrap")
        .env("SOURCE_DATE_EPOCH", packages.lock.date.to_string())
        .args(["--quiet", "--mode=root", "--variant=essential", "--format=directory", "--architectures=amd64"])
        .arg(format!("--include={}", names.join(",")))
        .args(["--aptopt=Apt::Install-Recommends \"false\"", "--dpkgopt=force-unsafe-io"])
        .arg(SUITE)
        .arg(root)
        .arg(format!("deb [trusted=yes] copy://{} ./", repository.display()))
        .limit(Duration::from_secs(1200))
        .run()?;
    customise(root)
}

/// Gives the root file system the kernel's modules, so that a running guest can load more than its boot needed.
pub(crate) fn add_modules(root: &Path, modules: &Path, version: &str) -> Result<()> {
    let target = root.join("usr/lib/modules");
    std::fs::create_dir_all(&target).map_err(Error::io("creating", &target))?;
    Tool::new("cp").args(["-r", "--preserve=mode", "--"]).arg(modules).arg(&target).run()?;
    Tool::new("depmod").arg("-b").arg(root).arg(version).run()?;
    Ok(())
}

/// A package archive that holds the locked root packages and nothing else.
fn repository(packages: &Packages, work: &Path) -> Result<std::path::PathBuf> {
    let dir = work.join("repository");
    std::fs::create_dir_all(&dir).map_err(Error::io("creating", &dir))?;
    let mut index = String::new();
    for package in packages.lock.used_for(Use::Root) {
        let source = packages.file(package);
        let name = package.cache_name();
        let target = dir.join(&name);
        std::fs::hard_link(&source, &target)
            .or_else(|_| std::fs::copy(&source, &target).map(|_| ()))
            .map_err(Error::io("copying a package to", &target))?;
        let control = Tool::new("dpkg-deb").arg("-f").arg(&source).run()?;
        index.push_str(String::from_utf8_lossy(&control).trim_end());
        let _ = write!(index, "\nFilename: ./{name}\nSize: {}\nSHA256: {}\n\n", package.size, package.sha256);
    }
    write(&dir, "Packages", 0o644, &index)?;
    // mmdebstrap selects essential packages by the suite that they are in.
    let release = format!(
        "Suite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nSHA256:\n {} {} Packages\n",
        hex::encode(hash::bytes(index.as_bytes())),
        index.len()
    );
    write(&dir, "Release", 0o644, &release)?;
    Ok(dir)
}

/// Turns an installation into an image: one user, sshd's settings, no identity, no logs, no caches, nothing that waits.
fn customise(root: &Path) -> Result<()> {
    add_user(root)?;
    write(root, "etc/ssh/sshd_config.d/10-lambda.conf", 0o644, SSHD_CONFIG)?;
    write(root, "etc/systemd/system/ssh.service.d/10-lambda.conf", 0o644, SSH_UNIT)?;
    write(root, "etc/apt/sources.list", 0o644, SOURCES)?;
    write(root, "etc/sudoers.d/lambda", 0o440, SUDOERS)?;
    write(root, "etc/hostname", 0o644, "lambda\n")?;
    write(root, "etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")?;
    write(root, "etc/resolv.conf", 0o644, "")?;
    write(root, "etc/machine-id", 0o444, "")?;
    write(root, "etc/fstab", 0o644, "")?;
    write(root, "etc/systemd/system.conf.d/10-lambda.conf", 0o644, "[Manager]\nShowStatus=no\n")?;
    write(
        root,
        "etc/systemd/journald.conf.d/10-lambda.conf",
        0o644,
        "[Journal]\nStorage=volatile\nForwardToConsole=no\nReadKMsg=no\nAudit=no\n",
    )?;
    for unit in MASKED {
        symlink(root, &format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    symlink(root, "etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target")?;
    remove_keys(&root.join("etc/ssh"))?;
    for path in REMOVED {
        remove(&root.join(path))?;
    }
    for path in EMPTIED {
        let folder = root.join(path);
        if folder.is_dir() {
            for entry in std::fs::read_dir(&folder).map_err(Error::io("reading", &folder))? {
                remove(&entry.map_err(Error::io("reading", &folder))?.path())?;
            }
        }
    }
    Ok(())
}

/// Makes an imported root file system fit: what the guest relies on is there, and nothing in it is an identity.
pub(crate) fn adopt(tree: &Tree) -> Result<()> {
    for folder in ["proc", "sys", "dev", "run", "tmp"] {
        if tree.folder(folder).is_none() {
            let path = tree.entry(folder)?;
            std::fs::create_dir(&path).map_err(Error::io("creating", &path))?;
        }
    }
    let replace = |path: &str, mode: u32, text: &str| {
        let path = tree.entry(path)?;
        write(Path::new("/"), &path.to_string_lossy(), mode, text)
    };
    replace("etc/machine-id", 0o444, "")?;
    replace("etc/fstab", 0o644, "")?;
    let sshd = tree.text("etc/ssh/sshd_config").unwrap_or_default();
    // sshd takes the first value of each setting, so these win over what follows.
    replace("etc/ssh/sshd_config", 0o644, &format!("{SSHD_CONFIG}{}", without_host_keys(&sshd)))?;
    if let Some(folder) = tree.folder("etc/ssh") {
        remove_keys(&folder)?;
    }
    if tree.folder("etc/sudoers.d").is_some() {
        replace("etc/sudoers.d/lambda", 0o440, SUDOERS)?;
    }
    let passwd = tree.text("etc/passwd").unwrap_or_default();
    if passwd.lines().any(|line| line.starts_with(&format!("{USER}:"))) {
        return Ok(());
    }
    let shell = if tree.is_file("bin/bash") { "/bin/bash" } else { "/bin/sh" };
    for (file, mode, line) in [
        ("etc/passwd", 0o644, format!("{USER}:x:1000:1000:{USER}:/home/{USER}:{shell}")),
        ("etc/group", 0o644, format!("{USER}:x:1000:")),
        ("etc/shadow", 0o600, format!("{USER}:*::0:99999:7:::")),
    ] {
        let text = tree.text(file).unwrap_or_default();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        replace(file, mode, &format!("{text}{end}{line}\n"))?;
    }
    let home = tree.entry(&format!("home/{USER}"))?;
    make_home(&home)
}

/// An sshd configuration without its own host keys: an image has no identity.
fn without_host_keys(config: &str) -> String {
    let is_host_key = |line: &&str| line.trim_start().to_ascii_lowercase().starts_with("hostkey");
    config.lines().filter(|line| !is_host_key(line)).map(|line| format!("{line}\n")).collect()
}

fn add_user(root: &Path) -> Result<()> {
    for (file, mode, line) in [
        ("etc/passwd", 0o644, format!("{USER}:x:1000:1000:{USER}:/home/{USER}:/bin/bash")),
        ("etc/group", 0o644, format!("{USER}:x:1000:")),
        ("etc/shadow", 0o640, format!("{USER}:*::0:99999:7:::")),
        ("etc/gshadow", 0o640, format!("{USER}:!::")),
    ] {
        let path = root.join(file);
        let mut text = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        if file == "etc/shadow" {
            text = undate(&text);
        }
        let _ = writeln!(text, "{line}");
        // Rewritten in place: owner and group stay as packaged.
        std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(Error::io("changing", &path))?;
    }
    let home = root.join("home").join(USER);
    make_home(&home)?;
    for name in [".bashrc", ".profile", ".bash_logout"] {
        let source = root.join("etc/skel").join(name);
        let target = home.join(name);
        std::fs::copy(&source, &target).map_err(Error::io("copying", &source))?;
        own(&target)?;
    }
    Ok(())
}

/// The user's home folder, closed to others, with a folder for authorized keys.
fn make_home(home: &Path) -> Result<()> {
    for (path, mode) in [(home.to_path_buf(), 0o750), (home.join(".ssh"), 0o700)] {
        std::fs::create_dir_all(&path).map_err(Error::io("creating", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(Error::io("changing", &path))?;
        own(&path)?;
    }
    Ok(())
}

fn own(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(1000), Some(1000)).map_err(Error::io("changing", path))
}

/// Removes the date of each last password change: packages write the day of installation. (Not 0, which would demand
/// a change at the next login.)
fn undate(shadow: &str) -> String {
    let mut out = String::new();
    for line in shadow.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(date) = fields.get_mut(2) {
            *date = "";
        }
        let _ = writeln!(out, "{}", fields.join(":"));
    }
    out
}

/// Removes SSH host keys from a folder.
fn remove_keys(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("reading", folder))? {
        let path = entry.map_err(Error::io("reading", folder))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Packs `root` into `image` and appends the hash tree.
pub(crate) fn pack(root: &Path, image: &Path, date: u64, progress: &mut dyn FnMut(Progress)) -> Result<Verity> {
    progress(Progress::step("packing the root file system"));
    remove(image)?;
    Tool::new("mkfs.erofs")
        .args(["--quiet", "-zlz4hc,9", "-C16384", "-x1", "-U", EROFS_UUID])
        .arg(format!("-T{date}"))
        .arg(image)
        .arg(root)
        .run()?;
    let size = std::fs::metadata(image).map_err(Error::io("reading", image))?.len();
    let whole = size.next_multiple_of(verity::BLOCK as u64);
    std::fs::File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(whole))
        .map_err(Error::io("writing", image))?;
    progress(Progress::step("hashing the root file system"));
    // The salt makes trees of different images differ block by block; it need not be secret or random.
    let salt = hash::bytes(hash::file(image)?.sha256.as_bytes());
    verity::append(image, &salt)
}

fn write(root: &Path, path: &str, mode: u32, text: &str) -> Result<()> {
    let path = root.join(path);
    remove(&path)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
    }
    std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(Error::io("changing", &path))
}

fn symlink(root: &Path, path: &str, target: &str) -> Result<()> {
    let path = root.join(path);
    remove(&path)?;
    std::os::unix::fs::symlink(target, &path).map_err(Error::io("linking", &path))
}

/// Removes a file, link or folder that may not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
    result.map_err(Error::io("removing", path))
}
