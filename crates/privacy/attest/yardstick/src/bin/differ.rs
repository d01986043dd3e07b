//! Changes real evidence in thousands of places, asks Lambda's verifier and another one, and prints each kind of
//! disagreement once. Ends with 1 when there is one that nobody argued for. `--thin N` looks at every Nth change.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lambda_attest::{Anchors, UnixTime};
use lambda_attest_yardstick::argued;
use lambda_attest_yardstick::arm::Token;
use lambda_attest_yardstick::compare::{Change, Side, Tally};
use lambda_attest_yardstick::fixtures::{self, Fixture};
use lambda_attest_yardstick::intel::Quote;
use lambda_attest_yardstick::sev_snp::Snp;

/// Outside of what the report's own signature covers, every so manieth byte.
const STEP: usize = 13;

const YEAR: i64 = 365 * 24 * 3600;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let thin: usize = match arguments.iter().position(|argument| argument == "--thin") {
        Some(at) => arguments.get(at + 1).context("--thin needs a number")?.parse()?,
        None => 1,
    };
    // What a yardstick panics about is counted.
    std::panic::set_hook(Box::new(|_| {}));
    let anchors = Anchors::vendor()?;
    let mut tally = Tally::default();
    for tee in ["tdx", "sgx"] {
        for fixture in fixtures::of(tee, "quote.bin")?.iter().filter(|fixture| fixture.has("tcb_info.json")) {
            quotes(tee, fixture, thin, &anchors, &mut tally).with_context(|| fixture.name.clone())?;
        }
    }
    for fixture in fixtures::of("snp", "report.bin")? {
        reports(&fixture, thin, &anchors, &mut tally).with_context(|| fixture.name.clone())?;
    }
    for fixture in fixtures::of("cca", "cpak_pub.pem")? {
        tokens(&fixture, thin, &anchors, &mut tally).with_context(|| fixture.name.clone())?;
    }
    Ok(print(&tally))
}

fn quotes(tee: &'static str, fixture: &Fixture, thin: usize, anchors: &Anchors, tally: &mut Tally) -> Result<()> {
    let whole = Quote::of(fixture)?;
    let mut look = |what: &str, change: Change, quote: &Quote| {
        tally.note(tee, || format!("{}: {what}, {change:?}", fixture.name), &quote.ours(anchors), &quote.theirs());
    };
    look("as it is", Change::None, &whole);
    if !fixture.valid {
        return Ok(());
    }
    for (part, range) in whole.parts() {
        let step = if part == "certification data" { STEP } else { 1 };
        for change in Change::flips(range, step * thin) {
            look(part, change, &Quote { quote: change.of(&whole.quote), ..whole.clone() });
        }
    }
    for change in Change::cuts(whole.quote.len(), STEP * thin) {
        look("quote", change, &Quote { quote: change.of(&whole.quote), ..whole.clone() });
    }
    for seconds in [-5 * YEAR, -YEAR, -30 * 24 * 3600, 30 * 24 * 3600, YEAR, 30 * YEAR] {
        let now = UnixTime(whole.now.0 + seconds);
        look(&format!("{seconds} s later"), Change::None, &Quote { now, ..whole.clone() });
    }
    for change in Change::flips(0..whole.collateral.tcb_info.len(), STEP * thin) {
        let mut changed = whole.clone();
        let Ok(text) = String::from_utf8(change.of(changed.collateral.tcb_info.as_bytes())) else { continue };
        changed.collateral.tcb_info = text;
        look("TCB info", change, &changed);
    }
    for change in Change::flips(0..whole.collateral.qe_identity.len(), STEP * thin) {
        let mut changed = whole.clone();
        let Ok(text) = String::from_utf8(change.of(changed.collateral.qe_identity.as_bytes())) else { continue };
        changed.collateral.qe_identity = text;
        look("QE identity", change, &changed);
    }
    for change in Change::flips(0..whole.collateral.tcb_info_issuer_chain.len(), STEP * thin) {
        let mut changed = whole.clone();
        let Ok(text) = String::from_utf8(change.of(changed.collateral.tcb_info_issuer_chain.as_bytes())) else {
            continue;
        };
        changed.collateral.tcb_info_issuer_chain = text;
        look("TCB info's certificates", change, &changed);
    }
    for change in Change::flips(0..whole.collateral.pck_crl.as_slice().len(), STEP * thin) {
        let mut changed = whole.clone();
        changed.collateral.pck_crl = change.of(whole.collateral.pck_crl.as_slice()).into();
        look("PCK CRL", change, &changed);
    }
    for change in Change::flips(0..whole.collateral.root_ca_crl.as_slice().len(), thin) {
        let mut changed = whole.clone();
        changed.collateral.root_ca_crl = change.of(whole.collateral.root_ca_crl.as_slice()).into();
        look("root CRL", change, &changed);
    }
    Ok(())
}

fn reports(fixture: &Fixture, thin: usize, anchors: &Anchors, tally: &mut Tally) -> Result<()> {
    let whole = Snp::of(fixture)?;
    let mut look = |what: &str, change: Change, snp: &Snp| {
        tally.note("snp", || format!("{}: {what}, {change:?}", fixture.name), &snp.ours(anchors), &snp.theirs());
    };
    look("as it is", Change::None, &whole);
    if !fixture.valid {
        return Ok(());
    }
    for (part, range) in whole.parts() {
        for change in Change::flips(range, thin) {
            look(part, change, &Snp { report: change.of(&whole.report), ..whole.clone() });
        }
    }
    for change in Change::cuts(whole.report.len(), STEP * thin) {
        look("report", change, &Snp { report: change.of(&whole.report), ..whole.clone() });
    }
    let longer = [whole.report.as_slice(), &[0; 16]].concat();
    look("16 bytes more", Change::None, &Snp { report: longer, ..whole.clone() });
    for change in Change::flips(0..whole.leaf.len(), STEP * thin) {
        look("leaf", change, &Snp { leaf: change.of(&whole.leaf), ..whole.clone() });
    }
    for change in Change::flips(0..whole.intermediate.len(), STEP * thin) {
        look("intermediate", change, &Snp { intermediate: change.of(&whole.intermediate), ..whole.clone() });
    }
    for seconds in [-20 * YEAR, 30 * YEAR] {
        let now = UnixTime(whole.now.0 + seconds);
        look(&format!("{seconds} s later"), Change::None, &Snp { now, ..whole.clone() });
    }
    Ok(())
}

fn tokens(fixture: &Fixture, thin: usize, anchors: &Anchors, tally: &mut Tally) -> Result<()> {
    let whole = Token::of(fixture)?;
    let mut look = |what: &str, change: Change, token: &Token| {
        tally.note("cca", || format!("{}: {what}, {change:?}", fixture.name), &token.ours(anchors), &token.theirs());
    };
    look("as it is", Change::None, &whole);
    if !fixture.valid {
        return Ok(());
    }
    for change in Change::flips(0..whole.token.len(), thin).chain(Change::cuts(whole.token.len(), thin)) {
        look("token", change, &whole.with(change.of(&whole.token)));
    }
    Ok(())
}

fn print(tally: &Tally) -> ExitCode {
    println!("{} compared, both accepted {}", tally.compared, tally.both_accepted);
    let mut unargued = 0;
    for (class, seen) in &tally.classes {
        let argument = argued::argument(class);
        let verb = match class.side {
            Side::OursAccepts => "LAMBDA ACCEPTS what the yardstick refuses",
            Side::TheirsAccepts => "the yardstick accepts what Lambda refuses",
        };
        println!("\n{}: {verb}, {} times: {}", class.tee, seen.count, class.why);
        println!("  first: {}\n  last: {}", seen.example, seen.last);
        println!("  {}", argument.unwrap_or("NOT ARGUED"));
        unargued += usize::from(argument.is_none());
    }
    for (text, seen) in &tally.panics {
        println!("\nthe yardstick panics, {} times: {text}\n  first: {}", seen.count, seen.example);
    }
    println!("\n{} kinds of disagreement, {unargued} not argued", tally.classes.len());
    if unargued == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
