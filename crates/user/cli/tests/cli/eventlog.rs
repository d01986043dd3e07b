//! `lambda attest eventlog` over a log that these tests write.

use serde_json::{Value, json};

use crate::bench::Bench;

/// SHA-1 of four zero bytes: what a separator of success measures.
const SEPARATOR: &str = "9069ca78e7450a285173431b3e52c5c25299e473";

/// A TCG 1.2 log with one separator for each of the registers 0 to 7.
fn log() -> Vec<u8> {
    let digest = hex(SEPARATOR);
    (0u32..8)
        .flat_map(|register| {
            [&register.to_le_bytes()[..], &4u32.to_le_bytes(), &digest, &4u32.to_le_bytes(), &[0; 4]].concat()
        })
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn a_log_without_a_problem_ends_with_0_and_shows_events_and_registers() {
    let bench = Bench::new();
    let path = bench.file("log.bin", &log());
    let run = bench.run(&["attest", "eventlog", &path, "-o", "json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&json["event_count"], &json["problems"]), (&json!(8), &json!([])));
    // SHA-1 of a zero register and the separator's digest, as every TPM without other events gives it.
    assert_eq!(json["registers"]["sha1"]["0"], "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236");
    let table = bench.run(&["attest", "eventlog", &path]);
    assert!(table.out.contains("EV_SEPARATOR") && table.out.contains("nothing is wrong"), "{}", table.out);
}

#[test]
fn a_log_that_does_not_explain_the_registers_or_is_cut_ends_with_3_and_the_place() {
    let bench = Bench::new();
    let path = bench.file("log.bin", &log());
    let other = bench.file("pcrs.json", json!({"sha1": {"0": "00".repeat(20)}}).to_string().as_bytes());
    let run = bench.run(&["attest", "eventlog", &path, "--registers", &other]);
    assert!(run.code == 3 && run.out.contains("register 0 of bank sha1"), "{run:?}");
    let same = json!({"sha1": {"0": "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236"}});
    let same = bench.file("same.json", same.to_string().as_bytes());
    assert_eq!(bench.run(&["attest", "eventlog", &path, "--registers", &same]).code, 0);
    let cut = bench.file("cut.bin", &log()[..100]);
    let run = bench.run(&["attest", "eventlog", &cut, "-o", "json"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.out.contains("unreadable") && run.err.contains("problem"), "{run:?}");
}

#[test]
fn what_is_no_log_ends_with_2_and_names_the_byte() {
    let bench = Bench::new();
    for bytes in [&b""[..], b"{}", &[0xff; 64]] {
        let run = bench.run(&["attest", "eventlog", &bench.file("no.bin", bytes)]);
        assert!(run.code == 2 && run.err.contains("byte") && run.out.is_empty(), "{run:?}");
    }
    assert_eq!(bench.run(&["attest", "eventlog", &bench.path("none")]).code, 2);
}
