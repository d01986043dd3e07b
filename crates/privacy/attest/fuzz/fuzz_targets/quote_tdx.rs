//! DCAP quotes of TDX.
#![no_main]

use lambda_attest::{Collateral, TdxEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lambda_attest_fuzz::judge(&Report::Tdx(TdxEvidence { quote: data.to_vec().into(), event_log: None }), &Given::default(), &Collateral::none());
});
