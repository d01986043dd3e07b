//! Revocation lists of AMD, beside a report that is none of theirs.
#![no_main]

use lambda_attest::{AmdCollateral, Collateral, Given, Report, SnpEvidence};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let amd = AmdCollateral { certificates: Vec::new(), crls: vec![data.to_vec().into()] };
    let collateral = Collateral { amd: Some(amd), ..Collateral::none() };
    let report = Report::Snp(SnpEvidence { report: vec![0; 1184].into(), certificates: vec![data.to_vec().into()] });
    lambda_attest_fuzz::judge(&report, &Given::default(), &collateral);
});
