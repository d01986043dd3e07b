//! DCAP quotes of SGX.
#![no_main]

use lambda_attest::{Collateral, SgxEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lambda_attest_fuzz::judge(&Report::Sgx(SgxEvidence { quote: data.to_vec().into() }), &Given::default(), &Collateral::none());
});
