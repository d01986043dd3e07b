//! Lambda's verifier beside other verifiers, over evidence of real hardware. They are linked into a program of its own, and
//! into none of the product's.

use anyhow::{Context as _, Result};

use super::table::Row;
use crate::{differ, fixtures, run};

/// Kinds of evidence that are timed.
const KINDS: [&str; 3] = ["sgx", "snp", "tdx"];

/// Times, and the memory of one verification. Without evidence of real machines there is nothing to time, which is said.
pub(crate) fn measure(rounds: usize) -> Result<Vec<Row>> {
    let absent = fixtures::absent(&KINDS);
    if !absent.is_empty() {
        let why = format!("not measured: {} not in {}", absent.join(", "), fixtures::folder().display());
        return Ok(vec![Row::told("verifying evidence of real machines", &why)]);
    }
    let mut rows = parse(&yardstick("bench", &["--rounds", &rounds.to_string()])?)?;
    rows.extend(parse(&yardstick("memory", &[])?)?);
    Ok(rows)
}

fn yardstick(program: &str, arguments: &[&str]) -> Result<String> {
    run::output(differ::program(program, &["--rows"]).args(arguments))
}

/// What, measured and target, between tabs.
fn parse(text: &str) -> Result<Vec<Row>> {
    let rows = text.lines().map(|line| {
        let mut fields = line.split('\t');
        let row = (fields.next(), fields.next(), fields.next());
        let (Some(what), Some(measured), Some(target)) = row else {
            return Err(anyhow::anyhow!("not a row: {line}"));
        };
        Row::read(what, measured, target).with_context(|| format!("no number to hold against the target: {line}"))
    });
    rows.collect::<Result<_>>().context("the yardstick printed something else than rows")
}

#[cfg(test)]
mod tests {
    use super::{Row, parse};

    #[test]
    fn rows_have_three_fields() {
        let rows = parse("snp\tp50 1 ms\t≤ 1.5 ms\nheap\t40 KiB\t\n").unwrap();
        assert_eq!(rows, [Row::read("snp", "p50 1 ms", "≤ 1.5 ms").unwrap(), Row::told("heap", "40 KiB")]);
        parse("snp\tp50 1 ms").unwrap_err();
    }
}
