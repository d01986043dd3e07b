//! ATTESTATION_REPORT.
#![no_main]

use lambda_attest::{Collateral, SnpEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lambda_attest_fuzz::judge(&Report::Snp(SnpEvidence { report: data.to_vec().into(), certificates: Vec::new() }), &Given::default(), &Collateral::none());
});
