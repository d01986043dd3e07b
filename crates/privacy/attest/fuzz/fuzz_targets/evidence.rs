//! Evidence and collateral documents.
#![no_main]

use lambda_attest::{Collateral, Evidence, Given};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::from_json(data) {
        lambda_attest_fuzz::judge(&evidence.report, &Given::default(), &Collateral::none());
    }
    let _ = Collateral::parse(data);
});
