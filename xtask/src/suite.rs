//! `./x test`: everything that must hold, in the order in which it is cheapest to fail.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _};

use crate::run::{cargo, output, run, say, seconds, step};
use crate::{build, differ, docs, fixtures, fuzz, layers, mutate, paths, setup, simulated};

/// The tests that boot no guest and build no image: not the end-to-end tests, not the guest's tests in QEMU, none with
/// `real_guest` in its name, and not the image builder's own builds and boots.
const QUICK: &str = "not (package(lambda-e2e) | (package(lambda-guest) & kind(test)) | test(real_guest) \
     | (package(lambda-image) & (test(byte_identical) | test(every_pcr_of_a_real_))))";

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this; the other checks are left out.
    filter: Option<String>,
    /// Leave out the tests that boot guests or build whole images, the fuzz targets, and the comparison with other verifiers.
    #[arg(long)]
    quick: bool,
    /// With the filter `attest`: make each of the verifier's checks pass, one at a time, and list those that no test notices.
    #[arg(long, requires = "filter")]
    mutate: bool,
    /// With the filter `attest`: compare the verifier with others over changed evidence of real machines, at every change.
    #[arg(long, requires = "filter")]
    differ: bool,
}

/// Runs it; an error when anything failed.
pub(crate) fn run_suite(options: &Options) -> Result<()> {
    let start = Instant::now();
    if options.mutate || options.differ {
        if options.filter.as_deref() != Some("attest") {
            bail!("only the verifier has these: ./x test attest --mutate, ./x test attest --differ");
        }
        setup::run(setup::Purpose::Everything)?;
        if options.differ {
            step("comparison with other verifiers, every change", || differ::run(1))?;
        }
        return if options.mutate { mutate::run() } else { Ok(()) };
    }
    setup::run(setup::Purpose::Everything)?;
    let whole = options.filter.is_none();
    if whole {
        checks()?;
    }
    tests(options)?;
    if whole && !options.quick {
        step("fuzz targets, a short run", fuzz::short)?;
        step("comparison with other verifiers, every tenth change", || differ::run(10))?;
    }
    if whole {
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
    step("the verifier without the standard library's extras", || {
        run(cargo(&repository).args(["check", "--locked", "-p", "lambda-attest", "--lib", "--no-default-features"]))
    })?;
    let programs = build::programs(build::Profile::Dev)?;
    step("pages", || docs::check(Some(&programs), &crate::Arguments::command()))
}

fn tests(options: &Options) -> Result<()> {
    let mut nextest = setup::tool_command("cargo-nextest").context("cargo-nextest is not installed")?;
    nextest.current_dir(paths::repository()).args(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]);
    if options.quick {
        nextest.args(["-E", QUICK]);
    } else {
        let binaries = build::binaries(build::Profile::Dev)?;
        let image = build::image(&binaries, false)?;
        nextest.env("LAMBDA_SIMULATED_DIR", simulated::build(&image)?);
        nextest.env("LAMBDA_BIN_DIR", &binaries.folder).env("LAMBDA_IMAGE_DIR", image);
    }
    nextest.env("LAMBDA_CACHE_DIR", paths::cache());
    nextest.args(&options.filter);
    for line in fixtures::left_out()? {
        say(&format!("    {line}"));
    }
    step("tests", || {
        let status = nextest.status().context("cannot start cargo-nextest")?;
        if !status.success() {
            bail!("tests failed ({status}); `./x test NAME` runs those whose name contains NAME");
        }
        Ok(())
    })
}

/// Advisories come from a database on GitHub. Where that cannot be reached they are not checked, and that is said: a machine
/// behind mirrors must still be able to run the suite. Any other failure to fetch them is a failure.
fn deny() -> Result<()> {
    let mut checks = vec!["bans", "licenses", "sources"];
    match output(cargo_deny()?.args(["fetch", "db"])) {
        Ok(_) => checks.push("advisories"),
        Err(error) if is_unreachable(&format!("{error:#}")) => {
            say(&format!("{error:#}"));
            say("    NOT CHECKED: advisories (the RustSec database on github.com cannot be reached from here)");
        }
        Err(error) => return Err(error),
    }
    run(cargo_deny()?.args(["--locked", "check", "--hide-inclusion-graph"]).args(checks))
}

/// True when git or an HTTP client says that it got no connection, or that a proxy refused it.
fn is_unreachable(said: &str) -> bool {
    const PHRASES: &[&str] = &[
        "could not resolve",
        "dns error",
        "failed to lookup address",
        "temporary failure in name resolution",
        "failed to connect",
        "couldn't connect",
        "tcp connect error",
        "connection refused",
        "connection reset",
        "network is unreachable",
        "no route to host",
        "timed out",
        "timeout was reached",
        "connect tunnel failed",
        "returned error: 403",
        "403 forbidden",
        "proxy",
    ];
    let said = said.to_lowercase();
    PHRASES.iter().any(|phrase| said.contains(phrase))
}

fn cargo_deny() -> Result<std::process::Command> {
    let mut deny = setup::tool_command("cargo-deny").context("cargo-deny is not installed")?;
    deny.current_dir(paths::repository());
    Ok(deny)
}

#[cfg(test)]
mod tests {
    use super::is_unreachable;

    #[test]
    fn a_database_that_cannot_be_reached_is_told_from_one_that_is_broken() {
        for said in [
            "fatal: unable to access 'https://github.com/RustSec/advisory-db/': Could not resolve host: github.com",
            "fatal: unable to access 'https://github.com/': Failed to connect to github.com port 443: Connection timed out",
            "fatal: unable to access 'https://github.com/': The requested URL returned error: 403",
            "fatal: unable to access 'https://github.com/': CONNECT tunnel failed, response 403",
        ] {
            assert!(is_unreachable(said), "{said}");
        }
        for said in [
            "failed to fetch advisory database: not a git repository",
            "fatal: Remote branch main not found in upstream origin",
            "error: No space left on device",
            "fatal: unable to access 'https://github.com/': server certificate verification failed",
        ] {
            assert!(!is_unreachable(said), "{said}");
        }
    }
}
