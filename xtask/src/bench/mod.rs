//! `./x bench`: measures on this machine, in one run, and prints a table. It asserts nothing: a time that fails on a busy
//! machine proves nothing, a table that is compared does.

mod attest;
mod boot;
mod cloud;
mod memory;
mod share;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::run::say;
use crate::setup;

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Create → first SSH command, against bare QEMU.
    Boot,
    /// The control plane's share of a creation.
    Share,
    /// Memory of the daemons.
    Memory,
    /// The verifier of evidence, beside other verifiers.
    Attest,
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this; all when left out.
    part: Option<Part>,
    /// Boots of each kind; the median counts.
    #[arg(long, default_value_t = 3)]
    boots: usize,
    /// Creations against a stub of QEMU.
    #[arg(long, default_value_t = 100)]
    creations: usize,
    /// Verifications of each piece of evidence by each verifier.
    #[arg(long, default_value_t = 300)]
    verifications: usize,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    measured: String,
    target: String,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, measured: impl Into<String>, target: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), target: target.into() }
    }
}

/// Measures everything and prints it. What cannot be measured is said, and the rest goes on.
pub(crate) fn run(options: &Options) -> Result<()> {
    let parts: Vec<Part> =
        Part::value_variants().iter().copied().filter(|part| options.part.is_none_or(|only| only == *part)).collect();
    // The verifier needs no cloud.
    let cloud = if parts.iter().any(|part| *part != Part::Attest) {
        setup::run(setup::Purpose::Everything)?;
        let binaries = build::binaries(Profile::Demo)?;
        let image = build::image(&binaries, false)?;
        Some((binaries, image))
    } else {
        None
    };
    let mut rows = Vec::new();
    let mut failed = 0;
    for part in parts {
        say(&format!("==> measuring: {part:?}"));
        let measured = match (part, &cloud) {
            (Part::Boot, Some((binaries, image))) => boot::measure(binaries, image, options.boots),
            (Part::Share, Some((binaries, image))) => share::measure(binaries, image, options.creations),
            (Part::Memory, Some((binaries, image))) => memory::measure(binaries, image),
            (Part::Attest, _) => attest::measure(options.verifications),
            (Part::Boot | Part::Share | Part::Memory, None) => {
                anyhow::bail!("{part:?} needs the programs and the image")
            }
        };
        match measured {
            Ok(more) => rows.extend(more),
            Err(error) => {
                failed += 1;
                rows.push(Row::new(format!("{part:?}"), format!("not measured: {error:#}"), ""));
            }
        }
    }
    print(&rows);
    if failed == 0 { Ok(()) } else { anyhow::bail!("{failed} could not be measured") }
}

fn print(rows: &[Row]) {
    let width = |of: fn(&Row) -> &str, title: &str| {
        rows.iter().map(|row| of(row).len()).chain([title.len()]).max().unwrap_or(0)
    };
    let (what, measured) = (width(|row| &row.what, "what"), width(|row| &row.measured, "measured"));
    println!(
        "| {:what$} | {:measured$} | target |\n|{:-<w$}|{:-<m$}|---|",
        "what",
        "measured",
        "",
        "",
        w = what + 2,
        m = measured + 2
    );
    for row in rows {
        println!("| {:what$} | {:measured$} | {} |", row.what, row.measured, row.target);
    }
}

/// The value below which this share of the sorted values lies (nearest rank).
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 99), Some(99));
        assert_eq!(percentile(&values, 50), Some(50));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 99), None);
    }
}
