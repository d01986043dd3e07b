//! Times Lambda's verifier beside other verifiers, in turns, in one process. `--rows` prints tab-separated lines for
//! another program; `--rounds N` sets how often each runs.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lambda_attest::{Anchors, Inspection, ParseError};
use lambda_attest_yardstick::intel::{self, Backend, Quote};
use lambda_attest_yardstick::race::{Contender, Times, race};
use lambda_attest_yardstick::sev_snp::{self, Snp};
use lambda_attest_yardstick::{fixtures, fixtures::Fixture};

const FIRST: &str = "Lambda, first sight";
const AGAIN: &str = "Lambda, vendor's signatures seen before";

/// What is compared: our first sight with the yardstick.
struct Line {
    what: String,
    names: Vec<&'static str>,
    times: Vec<Times>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rows = arguments.iter().any(|argument| argument == "--rows");
    let rounds = match arguments.iter().position(|argument| argument == "--rounds") {
        Some(at) => arguments.get(at + 1).context("--rounds needs a number")?.parse()?,
        None => 300,
    };
    ensure!(rounds > 0, "--rounds needs a number above zero");
    let mut lines = Vec::new();
    for tee in ["tdx", "sgx"] {
        for fixture in fixtures::of(tee, "quote.bin")?.into_iter().filter(|fixture| fixture.valid) {
            lines.extend(race_intel(&fixture, rounds).with_context(|| fixture.name.clone())?);
        }
    }
    for fixture in fixtures::of("snp", "report.bin")?.into_iter().filter(|fixture| fixture.valid) {
        lines.push(race_snp(&fixture, rounds).with_context(|| fixture.name.clone())?);
    }
    if rows {
        print_rows(&lines)
    } else {
        print_table(&lines, rounds)
    }
    Ok(())
}

fn race_intel(fixture: &Fixture, rounds: usize) -> Result<Option<Line>> {
    let quote = Quote::of(fixture)?;
    if !quote.theirs().accepted() {
        eprintln!("left out: {}: dcap-qvl refuses it: {:?}", fixture.name, quote.theirs());
        return Ok(None);
    }
    let (report, collateral, foreign) = (quote.report(), quote.endorsed(), quote.foreign_collateral()?);
    let again = Anchors::vendor()?;
    let theirs = |backend| {
        let start = Instant::now();
        black_box(intel::verify(black_box(&quote.quote), black_box(&foreign), quote.now, backend))?;
        Ok(start.elapsed())
    };
    let mut contenders = [
        Contender::new(FIRST, || {
            ours(&Anchors::vendor()?, |fresh| intel::judge(&report, &collateral, fresh, quote.now))
        }),
        Contender::new(AGAIN, || ours(&again, |known| intel::judge(&report, &collateral, known, quote.now))),
        Contender::new("dcap-qvl, ring", || theirs(Backend::Ring)),
        Contender::new("dcap-qvl, RustCrypto", || theirs(Backend::RustCrypto)),
    ];
    finish(fixture, &mut contenders, rounds).map(Some)
}

fn race_snp(fixture: &Fixture, rounds: usize) -> Result<Line> {
    let snp = Snp::of(fixture)?;
    let (report, collateral) = (snp.evidence(), snp.endorsed());
    let again = Anchors::vendor()?;
    let mut contenders = [
        Contender::new(FIRST, || {
            ours(&Anchors::vendor()?, |fresh| sev_snp::judge(&report, &collateral, fresh, snp.now))
        }),
        Contender::new(AGAIN, || ours(&again, |known| sev_snp::judge(&report, &collateral, known, snp.now))),
        Contender::new("sev, crypto_nossl", || {
            let start = Instant::now();
            black_box(&snp).verify()?;
            Ok(start.elapsed())
        }),
    ];
    finish(fixture, &mut contenders, rounds)
}

/// Times the judging alone: a process pins the vendors' roots once.
fn ours(anchors: &Anchors, judge: impl FnOnce(&Anchors) -> Result<Inspection, ParseError>) -> Result<Duration> {
    let start = Instant::now();
    let inspection = black_box(judge(black_box(anchors))?);
    let took = start.elapsed();
    ensure!(inspection.accepted(), "Lambda refuses it");
    Ok(took)
}

fn finish(fixture: &Fixture, contenders: &mut [Contender<'_>], rounds: usize) -> Result<Line> {
    let times = race(contenders, rounds)?;
    Ok(Line { what: fixture.name.clone(), names: contenders.iter().map(|contender| contender.name).collect(), times })
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

fn over(ours: &Times, theirs: &Times) -> f64 {
    ours.median.as_secs_f64() / theirs.median.as_secs_f64()
}

fn print_table(lines: &[Line], rounds: usize) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{rounds} rounds in turns; median / p99 in ms; load {}", load.trim_end());
    println!("| evidence | verifier | median | p99 | {FIRST}, over it | {AGAIN}, over it |\n|---|---|---|---|---|---|");
    for line in lines {
        for (name, times) in line.names.iter().zip(&line.times) {
            let (first, again) = (over(&line.times[0], times), over(&line.times[1], times));
            let (median, p99) = (ms(times.median), ms(times.p99));
            println!("| {} | {name} | {median} | {p99} | {first:.2} × | {again:.2} × |", line.what);
        }
    }
}

/// One line for each yardstick of each kind of evidence, the worst of its pieces; and the slowest.
fn print_rows(lines: &[Line]) {
    for (tee, target) in [("tdx", "≤ 1.0 ×"), ("sgx", ""), ("snp", "≤ 1.0 ×")] {
        let of: Vec<&Line> = lines.iter().filter(|line| line.what.starts_with(tee)).collect();
        let Some(first) = of.first() else { continue };
        for (index, state) in [FIRST, AGAIN].into_iter().enumerate() {
            let median = of.iter().map(|line| line.times[index].median).max().unwrap_or_default();
            let p99 = of.iter().map(|line| line.times[index].p99).max().unwrap_or_default();
            let limit = if tee == "snp" { "p99 ≤ 1.5 ms" } else { "" };
            println!("{tee}: {state}, slowest of {}\tp50 {} ms, p99 {} ms\t{limit}", of.len(), ms(median), ms(p99));
            for yardstick in 2..first.names.len() {
                let worst = of.iter().map(|line| over(&line.times[index], &line.times[yardstick]));
                let best = worst.clone().fold(f64::INFINITY, f64::min);
                let worst = worst.fold(0.0, f64::max);
                println!("… over {}\t{best:.2} to {worst:.2} ×\t{target}", first.names[yardstick]);
            }
        }
    }
}
