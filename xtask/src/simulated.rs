//! The programs and the image of the tests with a simulated TEE. The ordinary programs stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::{self, GUEST_TARGET, Profile};
use crate::{paths, run};

/// Name of the program that stands where a node expects QEMU.
const QEMU: &str = "simulated-tee-qemu";

/// Builds them; gives the folder with `lambda`, `lambdad`, the program in QEMU's place, and `image`, which is the given one
/// with another guest program and firmware for the hardware profiles.
pub(crate) fn build(image: &Path) -> Result<PathBuf> {
    let folder = paths::target().join("simulated");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let believing = run::step("building what believes a simulated TEE", || {
        cargo(&["-p", "lambda-cli", "-p", "lambdad", "--features", "lambda-cli/simulated-tee,lambdad/simulated-tee"])?;
        ["lambda", "lambdad"].iter().try_for_each(|program| keep(program, &folder))
    });
    // Cargo has put them where the ordinary ones belong.
    let restored = build::programs(Profile::Dev);
    believing.and(restored)?;
    let guest = guest()?;
    run::step("making the image of a simulated TEE", || {
        cargo(&["-p", "lambda-simulated-tee"])?;
        keep(QEMU, &folder)?;
        let out = folder.join("image");
        build::remove(&out)?;
        run::run(Command::new(folder.join(QEMU)).arg("make-image").args([image, &guest, &out]))
    })?;
    Ok(folder)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run::run(run::cargo(&paths::repository()).args(["build", "--locked"]).args(arguments))
}

fn keep(program: &str, folder: &Path) -> Result<()> {
    let (from, to) = (paths::target().join("debug").join(program), folder.join(program));
    std::fs::copy(&from, &to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// The guest program, static like the ordinary one. A release build would refuse the feature; an unoptimised guest would
/// take long in software emulation.
fn guest() -> Result<PathBuf> {
    let folder = paths::target().join("guest");
    run::step("building lambda-guest for a simulated TEE", || {
        let mut cargo = run::cargo(&paths::repository());
        cargo.args(["build", "--locked", "-p", "lambda-guest", "--features", "simulated-tee"]);
        cargo.args(["--target", GUEST_TARGET]).env("CARGO_TARGET_DIR", &folder);
        cargo.env("RUSTFLAGS", build::guest_flags()).env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_STRIP", "symbols");
        run::run(&mut cargo)
    })?;
    Ok(folder.join(GUEST_TARGET).join("debug/lambda-guest"))
}
