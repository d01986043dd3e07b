//! `./x bench`: measures on this machine, in one run, and prints a table. It asserts nothing: a time that fails on a busy
//! machine proves nothing, a table that is compared does.

mod attest;
mod boot;
mod cloud;
mod memory;
mod share;
mod table;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::run::say;
use crate::setup;

use table::Row;

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
    /// Boots of each kind, an odd number: the median is then one of them.
    #[arg(long, default_value_t = 3, value_parser = odd)]
    boots: usize,
    /// Creations against a stub of QEMU.
    #[arg(long, default_value_t = 100)]
    creations: usize,
    /// Verifications of each piece of evidence by each verifier.
    #[arg(long, default_value_t = 300)]
    verifications: usize,
}

fn odd(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number % 2 == 1 => Ok(number),
        Ok(_) => Err("an odd number".into()),
        Err(error) => Err(format!("{error}")),
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
                rows.push(Row::told(format!("{part:?}"), format!("not measured: {error:#}")));
            }
        }
    }
    print!("{}", table::shown(&rows));
    if failed == 0 { Ok(()) } else { anyhow::bail!("{failed} could not be measured") }
}

/// The value below which this share of the sorted values lies (nearest rank).
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::{odd, percentile};

    #[test]
    fn the_median_is_a_boot_that_was_made() {
        assert_eq!(odd("3"), Ok(3));
        assert_eq!(odd("1"), Ok(1));
        for refused in ["0", "2", "-1", "three", ""] {
            odd(refused).unwrap_err();
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 99), Some(99));
        assert_eq!(percentile(&values, 50), Some(50));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 99), None);
    }
}
