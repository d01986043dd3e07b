//! Installs what is missing. A second run only looks: one `dpkg-query` and a walk over the path.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::packages::{ALL, OLDEST_QEMU, Package, QEMU, Release, installed, qemu_version, release};
use crate::{paths, run};

const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/lambda-backports.sources";
const BACKPORTS: &str = "Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// A cargo tool and the version that is installed when none is on the path.
const TOOLS: &[(&str, &str)] = &[("cargo-nextest", "0.9.143"), ("cargo-deny", "0.20.2"), ("cargo-fuzz", "0.13.2")];

/// What the caller is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Build and run the product.
    Run,
    /// That, and the tests.
    Everything,
}

/// Installs the packages and tools that the purpose needs and the machine lacks.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    packages(purpose)?;
    if purpose == Purpose::Everything {
        tools()?;
    }
    Ok(())
}

fn packages(purpose: Purpose) -> Result<()> {
    let wanted: Vec<Package> =
        ALL.iter().copied().filter(|package| purpose == Purpose::Everything || !package.tests_only).collect();
    let names = |list: &[Package]| list.iter().map(|package| package.name).collect::<Vec<_>>().join(" ");
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let Some(release) = release(&os_release) else {
        bail!(
            "this is not Debian 12 or 13, so nothing is installed here; install these by hand (QEMU 9.1 or newer): {}",
            names(&wanted)
        );
    };
    let listing = run::output(Command::new("dpkg-query").args(["-W", "-f=${Package} ${db:Status-Status}\n"]))?;
    let present = installed(&listing);
    let old_qemu = present.contains(QEMU.0) && !recent_qemu();
    let is_missing = |package: &Package| !present.contains(package.name) || (old_qemu && package.name == QEMU.0);
    let missing: Vec<Package> = wanted.into_iter().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("installing needs root; missing packages: {}", names(&missing));
    }
    run::step(&format!("installing Debian packages: {}", names(&missing)), || install(release, &missing))?;
    if !recent_qemu() {
        let (major, minor) = OLDEST_QEMU;
        bail!("the {} on the path is older than {major}.{minor}, or does not start; remove it or update it", QEMU.1);
    }
    Ok(())
}

/// True when the QEMU on the path is new enough.
fn recent_qemu() -> bool {
    let said = run::output(Command::new(QEMU.1).arg("--version")).unwrap_or_default();
    qemu_version(&said).is_some_and(|version| version >= OLDEST_QEMU)
}

fn install(release: Release, missing: &[Package]) -> Result<()> {
    let from_backports: Vec<&str> = missing
        .iter()
        .filter(|package| package.backported && release == Release::Bookworm)
        .map(|package| package.name)
        .collect();
    if !from_backports.is_empty() && !backports_enabled() {
        run::say(&format!("    adding bookworm-backports as {BACKPORTS_FILE}"));
        std::fs::write(BACKPORTS_FILE, BACKPORTS).context(BACKPORTS_FILE)?;
    }
    run::run(Command::new("apt-get").args(["update", "-q"]))?;
    let plain: Vec<&str> =
        missing.iter().map(|package| package.name).filter(|name| !from_backports.contains(name)).collect();
    if !plain.is_empty() {
        run::run(apt_install().args(&plain))?;
    }
    if !from_backports.is_empty() {
        run::run(apt_install().args(["-t", "bookworm-backports"]).args(&from_backports))?;
    }
    Ok(())
}

fn apt_install() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn backports_enabled() -> bool {
    let listed = run::output(Command::new("apt-cache").arg("policy")).unwrap_or_default();
    listed.contains("bookworm-backports")
}

fn tools() -> Result<()> {
    let root = paths::tools();
    for (tool, version) in TOOLS {
        if tool_command(tool).is_some() {
            continue;
        }
        run::step(&format!("installing {tool} {version} into {} (once; some minutes)", root.display()), || {
            let mut cargo = run::cargo(Path::new("/"));
            cargo.args(["install", "--locked", "--version", version, "--root"]).arg(&root).arg(tool);
            run::run(cargo.env("CARGO_TARGET_DIR", paths::cache().join("target-tools")))
        })?;
        let built = paths::cache().join("target-tools");
        std::fs::remove_dir_all(&built).with_context(|| format!("cannot remove {}", built.display()))?;
    }
    Ok(())
}

/// A cargo tool from the path or from the cache.
pub(crate) fn tool_command(tool: &str) -> Option<Command> {
    let cached = paths::tools().join("bin").join(tool);
    if cached.is_file() {
        return Some(Command::new(cached));
    }
    run::on_path(tool).then(|| Command::new(tool))
}
