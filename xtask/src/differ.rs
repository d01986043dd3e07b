//! `./x test attest --differ`: Lambda's verifier and others judge the same changed evidence, and each kind of disagreement must
//! have an argument (`docs/attestation.md`).

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, say, shown};
use crate::{fixtures, paths};

/// A workspace of its own, so that no program of the product links the other verifiers.
const MANIFEST: &str = "crates/privacy/attest/yardstick/Cargo.toml";

/// Kinds of evidence that another verifier judges too.
const KINDS: [&str; 4] = ["cca", "sgx", "snp", "tdx"];

/// Looks at every `thin`th change. Without evidence of real machines there is nothing to change, which is said.
///
/// # Errors
/// When the verifiers disagree in a way that nobody argued for; the whole comparison is printed then.
pub(crate) fn run(thin: usize) -> Result<()> {
    let absent = fixtures::absent(&KINDS);
    if !absent.is_empty() {
        let folder = fixtures::folder();
        say(&format!("    NOT CHECKED: other verifiers ({} not in {})", absent.join(", "), folder.display()));
        return Ok(());
    }
    let mut command = program("differ", &["--thin", &thin.to_string()]);
    let compared = command.stdin(Stdio::null()).output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&compared.stdout);
    if !compared.status.success() {
        say(&format!("{said}{}", String::from_utf8_lossy(&compared.stderr)));
        bail!("`{}` ended with {}: see NOT ARGUED above", shown(&command), compared.status);
    }
    for line in [said.lines().next(), said.lines().last()].into_iter().flatten() {
        say(&format!("    {line}"));
    }
    Ok(())
}

/// A program of that workspace.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = cargo(&paths::repository());
    command.args(["run", "--quiet", "--release", "--locked", "--manifest-path", MANIFEST, "--bin", name, "--"]);
    command.args(arguments).env("CARGO_TARGET_DIR", paths::cache().join("yardstick"));
    command
}
