//! TPMS_ATTEST and TPMT_SIGNATURE; the first two bytes say where one ends. What begins as a paravisor's report is one.
#![no_main]

use lambda_attest::{Collateral, Given, ParavisorEvidence, Report, TpmQuoteEvidence};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let evidence = if data.starts_with(b"HCLA") {
        let paravisor = ParavisorEvidence { report: data.to_vec().into(), ..Default::default() };
        TpmQuoteEvidence { certificates: vec![Vec::new().into()], paravisor: Some(paravisor), ..Default::default() }
    } else {
        let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
        let (attest, signature) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        TpmQuoteEvidence { attest: attest.to_vec().into(), signature: signature.to_vec().into(), ..Default::default() }
    };
    lambda_attest_fuzz::judge(&Report::TpmQuote(evidence), &Given::default(), &Collateral::none());
});
