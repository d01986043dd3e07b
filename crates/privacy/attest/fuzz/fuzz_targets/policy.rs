//! Policy documents: what can be read is written and read again unchanged.
#![no_main]

use lambda_attest::Policy;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(policy) = Policy::parse(data) {
        let again = Policy::parse(&policy.to_json()).expect("what was written can be read");
        assert_eq!(policy, again);
    }
});
