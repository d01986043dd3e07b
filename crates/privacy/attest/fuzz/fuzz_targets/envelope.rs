//! Signed documents.
#![no_main]

use lambda_attest::envelope::{Envelope, POLICY_TYPE};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::parse(data) {
        assert!(envelope.open(POLICY_TYPE, &[]).is_err());
    }
});
