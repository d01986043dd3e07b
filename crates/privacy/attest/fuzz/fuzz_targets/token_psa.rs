//! CBOR of PSA tokens.
#![no_main]

use lambda_attest::{Collateral, PsaEvidence, Given, Report};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lambda_attest_fuzz::judge(&Report::Psa(PsaEvidence { token: data.to_vec().into() }), &Given::default(), &Collateral::none());
});
