//! `./x fuzz`: each of the verifier's parsers is fed what nobody would write, for a while.
//!
//! The targets are a workspace of their own (`crates/privacy/attest/fuzz`), built by cargo-fuzz on the stable toolchain: the
//! code under them has no `unsafe`, so no sanitizer is needed, and overflow checks and assertions are on. Seeds are the few in
//! `seeds/` and, where there is one, a folder of real evidence (`LAMBDA_FIXTURES`, else `../shared/fixtures`).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run::{run, say, step};
use crate::{paths, setup};

/// Most bytes of one input: a quote with its chain is some 8 KiB.
const MAX_BYTES: u32 = 32 * 1024;

/// Most seconds for one input, and most MiB of memory.
const BOUNDS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=1024"];

/// Targets, each with the folders of real evidence that it can start from.
const TARGETS: [(&str, &[&str]); 13] = [
    ("report_snp", &["snp"]),
    ("quote_tdx", &["tdx"]),
    ("quote_sgx", &["sgx"]),
    ("token_cca", &["cca"]),
    ("token_psa", &["cca"]),
    ("quote_tpm", &[]),
    ("event_log", &["eventlog"]),
    ("certificate", &["snp/amd-roots"]),
    ("crl", &["snp/amd-roots"]),
    ("collateral_intel", &[]),
    ("policy", &[]),
    ("evidence", &[]),
    ("envelope", &[]),
];

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this target.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs it; an error when a target found something, whose input is then in `artifacts/`.
///
/// # Errors
/// When cargo-fuzz is missing, a target does not build, or one found an input that panics.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    let wanted = |name: &str| options.target.as_deref().is_none_or(|target| target == name);
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("no such target; one of {}", names.join(", "));
    }
    step("fuzz targets", || run(cargo_fuzz()?.args(["build", "--fuzz-dir", ".", "--sanitizer", "none"])))?;
    for (name, real) in chosen {
        step(&format!("fuzz {name}, {} s", options.seconds), || one(name, real, options.seconds))?;
    }
    Ok(())
}

fn one(name: &str, real: &[&str], seconds: u32) -> Result<()> {
    let (folder, corpus) = (folder(), paths::cache().join("fuzz/corpus").join(name));
    std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let evidence = std::env::var_os("LAMBDA_FIXTURES")
        .map_or_else(|| paths::repository().join("../shared/fixtures"), PathBuf::from);
    let mut command = cargo_fuzz()?;
    command
        .args(["run", "--fuzz-dir", ".", "--sanitizer", "none", name])
        .arg(corpus)
        .arg(folder.join("seeds").join(name));
    command.args(real.iter().map(|kind| evidence.join(kind)).filter(|path| path.is_dir()));
    command.arg("--").args([format!("-max_total_time={seconds}"), format!("-max_len={MAX_BYTES}")]).args(BOUNDS);
    run(command.args(["-print_final_stats=1", "-verbosity=0"]))
}

fn folder() -> PathBuf {
    paths::repository().join("crates/privacy/attest/fuzz")
}

fn cargo_fuzz() -> Result<Command> {
    let mut command = setup::tool_command("cargo-fuzz").context("cargo install cargo-fuzz --locked")?;
    command.arg("fuzz").current_dir(folder()).env("CARGO_TARGET_DIR", paths::cache().join("fuzz/target"));
    say("    (targets and corpus are in the cache folder)");
    Ok(command)
}
