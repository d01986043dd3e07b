//! `./x test attest --mutate`: each check of the verifier is made to pass, one at a time, and a test must notice.
//!
//! The verifier is built once with its feature `mutation`, which reads the check's id from the environment. A check that
//! could be removed without a test failing is listed, and the command fails.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::paths;
use crate::run::{cargo, output, say, seconds};

/// Where every check is listed; a test of the verifier keeps the page and the code equal.
const PAGE: &str = "docs/attestation-checks.md";

/// Tests with this in their name are tried first: they name the checks that fail.
const FIRST: &str = "negative";

/// Runs it.
///
/// # Errors
/// When the tests do not pass as they are, or do not notice that a check is gone.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let ids = ids(&std::fs::read_to_string(paths::repository().join(PAGE)).context(PAGE)?)?;
    let tests = build()?;
    if !passes(&tests, None, None)? {
        bail!("the verifier's tests fail as they are");
    }
    say(&format!("    {} checks, each disabled in turn", ids.len()));
    let mut unnoticed = Vec::new();
    for id in &ids {
        let survives = passes(&tests, Some(id), Some(FIRST))? && passes(&tests, Some(id), None)?;
        if survives {
            say(&format!("    NOT NOTICED: {id}"));
            unnoticed.push(id.as_str());
        }
    }
    if !unnoticed.is_empty() {
        bail!("no test notices that these checks are gone: {}", unnoticed.join(", "));
    }
    say(&format!("==> {} checks disabled one at a time, each noticed, in {}", ids.len(), seconds(start.elapsed())));
    Ok(())
}

/// The ids in the page's tables.
fn ids(page: &str) -> Result<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let ids: Vec<String> = rows.map(|(id, _)| id.to_owned()).collect();
    if ids.is_empty() { bail!("{PAGE} lists no checks") } else { Ok(ids) }
}

/// Builds the verifier's tests with the feature, and gives the programs.
fn build() -> Result<Vec<PathBuf>> {
    let mut command = cargo(&paths::repository());
    command.args(["test", "--locked", "-p", "lambda-attest", "--features", "mutation", "--no-run"]);
    let text = output(command.args(["--message-format", "json"]))?;
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"] == true;
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    let programs: Vec<PathBuf> = text.lines().filter_map(program).collect();
    if programs.is_empty() { bail!("cargo built no tests of the verifier") } else { Ok(programs) }
}

/// Whether every test program passes with this check disabled.
fn passes(programs: &[PathBuf], disabled: Option<&str>, filter: Option<&str>) -> Result<bool> {
    for program in programs {
        if !program_passes(program, disabled, filter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn program_passes(program: &Path, disabled: Option<&str>, filter: Option<&str>) -> Result<bool> {
    let mut command = std::process::Command::new(program);
    command.current_dir(paths::repository().join("crates/privacy/attest"));
    command.env_remove("LAMBDA_DISABLED_CHECK").args(filter).stdin(Stdio::null());
    if let Some(id) = disabled {
        command.env("LAMBDA_DISABLED_CHECK", id);
    }
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.with_context(|| format!("cannot run {}", program.display()))?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_of_the_page() {
        let page = "# T\n\n| id | what | standard |\n|---|---|---|\n| `a.b` | Holds. | §1 |\n| `c.d-e` | Too. | §2 |\n";
        assert_eq!(ids(page).unwrap(), ["a.b", "c.d-e"]);
        ids("# nothing").unwrap_err();
    }
}
