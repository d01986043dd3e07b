//! `./x test`: everything that must hold, in the order in which it is cheapest to fail.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _};

use crate::run::{cargo, output, run, say, seconds, step};
use crate::{build, docs, layers, paths, setup};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this; the other checks are left out.
    filter: Option<String>,
    /// Leave out the end-to-end tests, which boot guests.
    #[arg(long)]
    quick: bool,
}

/// Runs it; an error when anything failed.
pub(crate) fn run_suite(options: &Options) -> Result<()> {
    let start = Instant::now();
    setup::run(setup::Purpose::Everything)?;
    if options.filter.is_none() {
        checks()?;
    }
    tests(options)?;
    if options.filter.is_none() {
        step("dependency policy (cargo deny)", deny)?;
    }
    say(&format!("==> ./x test: everything passed in {}", seconds(start.elapsed())));
    Ok(())
}

fn checks() -> Result<()> {
    let repository = paths::repository();
    step("format", || run(cargo(&repository).args(["fmt", "--all", "--", "--check"])))?;
    step("layers and house rules", layers::check)?;
    step("lints", || {
        let mut clippy = cargo(&repository);
        run(clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    let programs = build::programs(build::Profile::Dev)?;
    step("pages", || docs::check(Some(&programs), &crate::Arguments::command()))
}

fn tests(options: &Options) -> Result<()> {
    let mut nextest = setup::tool_command("cargo-nextest").context("cargo-nextest is not installed")?;
    nextest.current_dir(paths::repository()).args(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]);
    if options.quick {
        nextest.args(["-E", "not package(lambda-e2e)"]);
    } else {
        let binaries = build::binaries(build::Profile::Dev)?;
        let image = build::image(&binaries, false)?;
        nextest.env("LAMBDA_BIN_DIR", &binaries.folder).env("LAMBDA_IMAGE_DIR", image);
    }
    nextest.env("LAMBDA_CACHE_DIR", paths::cache());
    nextest.args(&options.filter);
    step("tests", || {
        let status = nextest.status().context("cannot start cargo-nextest")?;
        if !status.success() {
            bail!("tests failed ({status}); `./x test NAME` runs those whose name contains NAME");
        }
        Ok(())
    })
}

/// Advisories come from a database on GitHub. Where that cannot be reached they are not checked, and that is said: a machine
/// behind mirrors must still be able to run the suite.
fn deny() -> Result<()> {
    let mut checks = vec!["bans", "licenses", "sources"];
    match output(cargo_deny()?.args(["fetch", "db"])) {
        Ok(_) => checks.push("advisories"),
        Err(_) => say("    NOT CHECKED: advisories (the RustSec database on github.com cannot be reached from here)"),
    }
    run(cargo_deny()?.args(["--locked", "check", "--hide-inclusion-graph"]).args(checks))
}

fn cargo_deny() -> Result<std::process::Command> {
    let mut deny = setup::tool_command("cargo-deny").context("cargo-deny is not installed")?;
    deny.current_dir(paths::repository());
    Ok(deny)
}
