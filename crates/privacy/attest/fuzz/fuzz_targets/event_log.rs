//! TCG 1.2, crypto-agile and CCEL logs.
#![no_main]

use lambda_attest::{Collateral, EventlogEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let report = Report::Eventlog(EventlogEvidence { event_log: data.to_vec().into(), registers: None });
    lambda_attest_fuzz::judge(&report, &Given::default(), &Collateral::none());
});
