//! CBOR of CCA tokens.
#![no_main]

use lambda_attest::{Collateral, CcaEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lambda_attest_fuzz::judge(&Report::Cca(CcaEvidence { token: data.to_vec().into(), event_log: None }), &Given::default(), &Collateral::none());
});
