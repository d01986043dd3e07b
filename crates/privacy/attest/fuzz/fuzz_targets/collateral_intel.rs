//! TCB info and QE identity, beside a quote that is whole but signed by nobody. The first byte says which document is bent.
#![no_main]

use lambda_attest::{Collateral, Given, IntelCollateral, Report, SgxEvidence};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut intel = IntelCollateral::default();
    match which % 3 {
        0 => intel.tcb_info = text.into(),
        1 => intel.qe_identity = text.into(),
        _ => intel.pck_certificate_chain = Some(text.into()),
    }
    let collateral = Collateral { intel: vec![intel], ..Collateral::none() };
    let report = Report::Sgx(SgxEvidence { quote: include_bytes!("../seeds/quote_sgx/unsigned.bin").to_vec().into() });
    lambda_attest_fuzz::judge(&report, &Given::default(), &collateral);
});
