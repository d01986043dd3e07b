//! TPMS_ATTEST and TPMT_SIGNATURE; the first two bytes say where one ends.
#![no_main]

use lambda_attest::{Collateral, Given, Report, TpmQuoteEvidence};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let (attest, signature) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    let evidence =
        TpmQuoteEvidence { attest: attest.to_vec().into(), signature: signature.to_vec().into(), ..Default::default() };
    lambda_attest_fuzz::judge(&Report::TpmQuote(evidence), &Given::default(), &Collateral::none());
});
