//! The most heap that judging one piece of evidence holds at a time, Lambda's verifier and others. `--rows` prints
//! tab-separated lines for another program.

#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use lambda_attest::Anchors;
use lambda_attest_yardstick::fixtures;
use lambda_attest_yardstick::intel::{self, Backend, Quote};
use lambda_attest_yardstick::sev_snp::{self, Snp};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Most bytes at a time beyond those held before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let result = work();
    (result, HEAP.peak_usage().saturating_sub(before))
}

fn main() -> Result<()> {
    let rows = std::env::args().any(|argument| argument == "--rows");
    let mut worst = Vec::new();
    for tee in ["tdx", "sgx", "snp"] {
        let file = if tee == "snp" { "report.bin" } else { "quote.bin" };
        let (mut most_ours, mut most_theirs) = (0, 0);
        for fixture in fixtures::of(tee, file)?.into_iter().filter(|fixture| fixture.valid) {
            let (ours, theirs) = if tee == "snp" { of_snp(&fixture) } else { of_intel(&fixture) }
                .with_context(|| fixture.name.clone())?;
            if !rows {
                println!("{}: Lambda {} KiB, yardstick {} KiB", fixture.name, kib(ours), kib(theirs));
            }
            most_ours = most_ours.max(ours);
            most_theirs = most_theirs.max(theirs);
        }
        worst.push((tee, most_ours, most_theirs));
    }
    for (tee, ours, theirs) in worst {
        let (ours, theirs) = (kib(ours), kib(theirs));
        println!("{tee}: heap at a time, most of any\tLambda {ours} KiB, yardstick {theirs} KiB\t");
    }
    Ok(())
}

fn of_intel(fixture: &fixtures::Fixture) -> Result<(usize, usize)> {
    let quote = Quote::of(fixture)?;
    let (report, collateral, foreign) = (quote.report(), quote.endorsed(), quote.foreign_collateral()?);
    // The first time, tables are made that stay.
    intel::judge(&report, &collateral, &Anchors::vendor()?, quote.now)?;
    let anchors = Anchors::vendor()?;
    let (inspection, ours) = peak(|| intel::judge(&report, &collateral, &anchors, quote.now));
    ensure!(inspection?.accepted(), "Lambda refuses it");
    // A refusal for the sake of attributes comes at the end, after everything was read.
    let (_, theirs) = peak(|| intel::verify(&quote.quote, &foreign, quote.now, Backend::Ring));
    Ok((ours, theirs))
}

fn of_snp(fixture: &fixtures::Fixture) -> Result<(usize, usize)> {
    let snp = Snp::of(fixture)?;
    let (report, collateral) = (snp.evidence(), snp.endorsed());
    sev_snp::judge(&report, &collateral, &Anchors::vendor()?, snp.now)?;
    let anchors = Anchors::vendor()?;
    let (inspection, ours) = peak(|| sev_snp::judge(&report, &collateral, &anchors, snp.now));
    ensure!(inspection?.accepted(), "Lambda refuses it");
    let (verified, theirs) = peak(|| snp.verify());
    verified?;
    Ok((ours, theirs))
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}
