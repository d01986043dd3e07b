//! `./x fuzz`: each of the verifier's parsers is fed what nobody would write, for a while. `./x test` does so for a few seconds.
//!
//! The targets are a workspace of their own (`crates/privacy/attest/fuzz`), built by cargo-fuzz on the stable toolchain: the
//! code under them has no `unsafe`, so no sanitizer is needed, and overflow checks and assertions are on. Inputs are the few
//! in `seeds/`, where there is one a folder of real evidence (`LAMBDA_FIXTURES`, else `../shared/fixtures`), and what earlier
//! runs kept in the cache folder. An input that was found to fail stays there too and fails every later run until it is mended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::run::{output, run, say, step};
use crate::{fixtures, paths, setup};

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

/// Seconds for each target as a part of `./x test`.
const SHORT_S: u32 = 5;

/// What cargo-fuzz builds for.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this target.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs it.
///
/// # Errors
/// When cargo-fuzz is missing, a target does not build, or one found an input that panics, hangs or needs too much memory.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    setup::run(setup::Purpose::Everything)?;
    let wanted = |name: &str| options.target.as_deref().is_none_or(|target| target == name);
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("no such target; one of {}", names.join(", "));
    }
    step("building the fuzz targets", build)?;
    for (name, real) in chosen {
        step(&format!("fuzz {name}, {} s", options.seconds), || one(&cache(), name, real, options.seconds, run))?;
    }
    Ok(())
}

/// Every target for a few seconds. What a target prints is shown when it fails.
///
/// # Errors
/// As above; all targets are run first.
pub(crate) fn short() -> Result<()> {
    build()?;
    let mut found = Vec::new();
    for (name, real) in TARGETS {
        if let Err(error) = one(&cache(), name, real, SHORT_S, |command| output(command).map(drop)) {
            say(&format!("{error:#}"));
            found.push(name);
        }
    }
    if !found.is_empty() {
        bail!("these parsers failed on an input: {}", found.join(", "));
    }
    say(&format!("    {} parsers, {SHORT_S} s each, nothing found", TARGETS.len()));
    Ok(())
}

/// Runs one target with `how`; the error names the input that it found.
fn one(cache: &Path, name: &str, real: &[&str], seconds: u32, how: impl Fn(&mut Command) -> Result<()>) -> Result<()> {
    let (corpus, kept) = (cache.join("corpus").join(name), cache.join("artifacts").join(name));
    for folder in [&corpus, &kept] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let before = files(&kept)?;
    let program = target(cache).join(TRIPLE).join("release").join(name);
    let mut command = Command::new(&program);
    command.arg(format!("-artifact_prefix={}/", kept.display())).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={MAX_BYTES}")).args(BOUNDS).args(["-print_final_stats=1", "-verbosity=0"]);
    // New inputs are kept in the first folder.
    command.args([corpus, folder().join("seeds").join(name), kept.clone()]);
    command.args(real.iter().map(|kind| fixtures::folder().join(kind)).filter(|path| path.is_dir()));
    how(command.current_dir(cache).stdin(Stdio::null())).with_context(|| {
        let after = files(&kept).unwrap_or_default();
        let new: Vec<String> = after.difference(&before).map(|path| path.display().to_string()).collect();
        let which = if new.is_empty() { format!("one in {}", kept.display()) } else { new.join(", ") };
        format!("{name} fails on an input: {which}; `{} FILE` shows it again", program.display())
    })
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn build() -> Result<()> {
    let mut command = setup::tool_command("cargo-fuzz").context("cargo-fuzz is not installed: ./x setup")?;
    command.args(["fuzz", "build", "--fuzz-dir", ".", "--sanitizer", "none"]).current_dir(folder());
    run(command.env("CARGO_TARGET_DIR", target(&cache())))
}

fn folder() -> PathBuf {
    paths::repository().join("crates/privacy/attest/fuzz")
}

/// Everything that is built, found and kept.
fn cache() -> PathBuf {
    paths::cache().join("fuzz")
}

fn target(cache: &Path) -> PathBuf {
    cache.join("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_fails_a_parser_is_named_and_given_to_it_again() {
        use std::os::unix::fs::PermissionsExt as _;

        const STAND_IN: &str = "#!/bin/sh
echo \"$@\" >asked
for argument; do
    case $argument in -artifact_prefix=*) echo >\"${argument#*=}crash-1\" ;; esac
done
exit 77
";
        let cache = tempfile::tempdir().unwrap();
        let programs = target(cache.path()).join(TRIPLE).join("release");
        std::fs::create_dir_all(&programs).unwrap();
        std::fs::write(programs.join("crl"), STAND_IN).unwrap();
        std::fs::set_permissions(programs.join("crl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = one(cache.path(), "crl", &[], 1, |command| output(command).map(drop)).unwrap_err();
        let kept = cache.path().join("artifacts/crl");
        assert!(format!("{error:#}").contains(&kept.join("crash-1").display().to_string()), "{error:#}");
        let asked = std::fs::read_to_string(cache.path().join("asked")).unwrap();
        assert!(asked.split_whitespace().any(|word| Path::new(word) == kept), "{asked}");
    }

    #[test]
    fn every_target_of_the_fuzz_workspace_is_run_and_has_seeds() {
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let built: BTreeSet<&str> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
            .collect();
        let listed: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(built, listed);
        for name in listed {
            assert!(!files(&folder().join("seeds").join(name)).unwrap().is_empty(), "{name} has no seeds");
        }
    }
}
