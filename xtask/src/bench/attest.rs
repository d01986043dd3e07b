//! Lambda's verifier beside other verifiers, over evidence of real hardware. A program of its own, which links them: the
//! product's lock file knows none of them.

use anyhow::{Context as _, Result};

use super::Row;
use crate::{paths, run};

const MANIFEST: &str = "crates/privacy/attest/yardstick/Cargo.toml";

/// Times, and the memory of one verification.
pub(crate) fn measure(rounds: usize) -> Result<Vec<Row>> {
    let mut rows = parse(&yardstick("bench", &["--rounds", &rounds.to_string()])?)?;
    rows.extend(parse(&yardstick("memory", &[])?)?);
    Ok(rows)
}

fn yardstick(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = run::cargo(&paths::repository());
    command
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
            MANIFEST,
            "--bin",
            program,
            "--",
            "--rows",
        ])
        .args(arguments)
        .env("CARGO_TARGET_DIR", paths::cache().join("yardstick"));
    run::output(&mut command)
}

/// What, measured and target, between tabs.
fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = text.lines().map(|line| {
        let mut fields = line.split('\t');
        let row = (fields.next(), fields.next(), fields.next());
        let (Some(what), Some(measured), Some(target)) = row else {
            return Err(anyhow::anyhow!("not a row: {line}"));
        };
        Ok(Row::new(what, measured, target))
    });
    rows.collect::<Result<_>>().context("the yardstick printed something else than rows")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rows_have_three_fields() {
        let rows = parse("snp\tp50 1 ms\t≤ 1.5 ms\nheap\t40 KiB\t\n").unwrap();
        assert_eq!((rows.len(), rows[0].measured.as_str(), rows[1].target.as_str()), (2, "p50 1 ms", ""));
        parse("snp\tp50 1 ms").unwrap_err();
    }
}
