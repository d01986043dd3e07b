//! Builds the programs, the static guest agent, and the guest image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{paths, run};

pub(crate) const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// How the programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As the tests are, so that both share their dependencies.
    Dev,
    /// Optimised, without the link-time optimisation of a release: half the wait for a first run.
    Demo,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Demo => "demo",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Demo => "demo",
        }
    }
}

/// What was built.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    /// Folder with `lambda` and `lambdad`.
    pub(crate) folder: PathBuf,
    /// The static `lambda-guest`.
    pub(crate) guest: PathBuf,
}

impl Binaries {
    /// The customer's program.
    pub(crate) fn lambda(&self) -> PathBuf {
        self.folder.join("lambda")
    }

    /// The operator's program.
    pub(crate) fn lambdad(&self) -> PathBuf {
        self.folder.join("lambdad")
    }
}

/// Builds everything that runs.
pub(crate) fn binaries(profile: Profile) -> Result<Binaries> {
    Ok(Binaries { folder: programs(profile)?, guest: guest()? })
}

/// Builds `lambda` and `lambdad`; gives their folder.
pub(crate) fn programs(profile: Profile) -> Result<PathBuf> {
    run::step(&format!("building lambda and lambdad ({})", profile.name()), || {
        let mut cargo = run::cargo(&paths::repository());
        run::run(cargo.args(["build", "--locked", "--profile", profile.name(), "-p", "lambda-cli", "-p", "lambdad"]))
    })?;
    Ok(folder(profile))
}

/// Where the programs are once they are built.
pub(crate) fn folder(profile: Profile) -> PathBuf {
    paths::target().join(profile.folder())
}

/// Builds `lambda-guest`: static, because it runs before there is a root file system, and with no path of this machine in it,
/// because it is measured.
pub(crate) fn guest() -> Result<PathBuf> {
    let folder = paths::target().join("guest");
    run::step("building lambda-guest (static)", || {
        let mut cargo = run::cargo(&paths::repository());
        cargo.args(["build", "--locked", "--release", "-p", "lambda-guest", "--target", GUEST_TARGET]);
        run::run(cargo.env("RUSTFLAGS", guest_flags()).env("CARGO_TARGET_DIR", &folder))
    })?;
    Ok(folder.join(GUEST_TARGET).join("release/lambda-guest"))
}

/// What makes the guest program static and its paths those of no machine.
pub(crate) fn guest_flags() -> String {
    let mut flags = String::from("-C target-feature=+crt-static -C relocation-model=static");
    for (from, to) in [(paths::repository(), "/lambda"), (cargo_home(), "/cargo")] {
        flags.push_str(&format!(" --remap-path-prefix={}={to}", from.display()));
    }
    flags
}

fn cargo_home() -> PathBuf {
    let default = || std::env::home_dir().unwrap_or_else(|| PathBuf::from("/root")).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from)
}

/// The guest image's folder, built when the cache has none for this guest, this lock file and this image builder.
pub(crate) fn image(binaries: &Binaries, force: bool) -> Result<PathBuf> {
    let mut material = std::fs::read(&binaries.guest).context("the guest binary")?;
    let mut sources = Vec::new();
    files_below(&paths::repository().join("crates/data/image"), &mut sources)?;
    sources.sort();
    for source in sources {
        material.extend(std::fs::read(&source).with_context(|| source.display().to_string())?);
    }
    let folder = paths::cache().join("images").join(format!("debian-12-{:016x}", paths::fnv1a(&material)));
    if folder.join("image.json").exists() && !force {
        // Measuring takes a second; a cached image that this program does not agree with would fail every test on it.
        if run::succeeds(Command::new(binaries.lambda()).args(["image", "measure"]).arg(&folder)) {
            run::say(&format!("    the guest image is in {}", folder.display()));
            return Ok(folder);
        }
        run::say("    the cached guest image does not measure as it should: building it again");
    }
    run::step("building the guest image debian-12 (once)", || {
        let parent = paths::cache().join("images");
        std::fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
        let partial = folder.with_extension("partial");
        remove(&partial)?;
        let mut lambda = Command::new(binaries.lambda());
        lambda.args(["image", "build", "debian-12", "--guest"]).arg(&binaries.guest).arg("--out").arg(&partial);
        run::run(&mut lambda)?;
        remove(&folder)?;
        std::fs::rename(&partial, &folder).context("moving the image into place")
    })?;
    Ok(folder)
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Removes a folder that may not be there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
