//! What is in order: a platform, its quoting enclave, and what its vendor publishes about them.

use super::forge::PlatformSpec;
use super::quotes::{Enclave, INTEL_VENDOR, QuoteSpec};

pub(super) const ROOT: &str = "Test SGX Root CA";
pub(super) const PCK_CA: &str = "Intel SGX PCK Platform CA";
pub(super) const PCK: &str = "Intel SGX PCK Certificate";
pub(super) const SIGNER: &str = "Intel SGX TCB Signing";

pub(super) const ROOT_KEY: u8 = 1;
pub(super) const CA_KEY: u8 = 2;
pub(super) const PCK_KEY: u8 = 3;
pub(super) const SIGNER_KEY: u8 = 4;
pub(super) const ATTESTATION_KEY: u8 = 5;
pub(super) const STRANGER_KEY: u8 = 9;

fn components(svn: u8) -> String {
    let one = format!(r#"{{"svn":{svn},"category":"BIOS","type":"test"}}"#);
    format!("[{}]", vec![one; 16].join(","))
}

fn level(svn: u8, pcesvn: u8, status: &str, is_tdx: bool) -> String {
    let tdx = if is_tdx { format!(r#","tdxtcbcomponents":{}"#, components(svn)) } else { String::new() };
    let sgx = components(svn);
    format!(
        r#"{{"tcb":{{"sgxtcbcomponents":{sgx},"pcesvn":{pcesvn}{tdx}}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"{status}","advisoryIDs":["INTEL-SA-{svn:05}"]}}"#
    )
}

/// TCB info that calls the platform up to date, not signed.
pub(super) fn tcb_info(is_tdx: bool, issued: &str, next: &str) -> String {
    let id = if is_tdx { "TDX" } else { "SGX" };
    let zeros = "0".repeat(96);
    let module = format!(r#""mrsigner":"{zeros}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#);
    let isv = r#""tcbLevels":[{"tcb":{"isvsvn":4},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"UpToDate"},{"tcb":{"isvsvn":2},"tcbDate":"2025-01-01T00:00:00Z","tcbStatus":"OutOfDate"}]"#;
    let modules = if is_tdx {
        format!(r#""tdxModule":{{{module}}},"tdxModuleIdentities":[{{"id":"TDX_01",{module},{isv}}}],"#)
    } else {
        String::new()
    };
    let levels = [level(5, 11, "UpToDate", is_tdx), level(2, 5, "OutOfDate", is_tdx)].join(",");
    format!(
        r#"{{"id":"{id}","version":3,"issueDate":"{issued}","nextUpdate":"{next}","fmspc":"B0C06F000000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,{modules}"tcbLevels":[{levels}]}}"#
    )
}

/// Identity of the quoting enclave, not signed.
pub(super) fn identity(is_tdx: bool, issued: &str, next: &str) -> String {
    let id = if is_tdx { "TD_QE" } else { "QE" };
    let signer = "77".repeat(32);
    format!(
        r#"{{"id":"{id}","version":2,"issueDate":"{issued}","nextUpdate":"{next}","tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{signer}","isvprodid":2,"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":2}},"tcbDate":"2025-01-01T00:00:00Z","tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-00002"]}}]}}"#
    )
}

pub(super) fn enclave() -> Enclave {
    Enclave {
        cpusvn: [5; 16],
        miscselect: [0; 4],
        ext_product: [0; 16],
        flags: 0x5,
        xfrm: 0xe7,
        mrenclave: [0x11; 32],
        mrsigner: [0x22; 32],
        config_id: [0; 64],
        product: 3,
        svn: 7,
        config_svn: 0,
        family: [0; 16],
        report_data: [0x5a; 64],
        reserved: 0,
    }
}

/// A quote of the good platform, by its quoting enclave.
pub(super) fn quote(version: u16, tee: u32) -> QuoteSpec {
    let qe = Enclave { mrsigner: [0x77; 32], product: 2, svn: 4, flags: 0x15, report_data: [0; 64], ..enclave() };
    QuoteSpec {
        version,
        key_type: 2,
        tee,
        vendor: INTEL_VENDOR,
        body_type: None,
        attestation_key: ATTESTATION_KEY,
        signed_by: ATTESTATION_KEY,
        qe,
        authentication: (0..32).collect(),
        carried: None,
        padding: 0,
        qe_signed_by: PCK_KEY,
        certification_type: 5,
        trailing: Vec::new(),
    }
}

/// What the platform's certificate says of it.
pub(super) fn platform() -> PlatformSpec {
    PlatformSpec {
        ppid: [0x66; 16],
        components: [5; 16],
        cpusvn: [5; 16],
        pcesvn: 11,
        pce_id: [0; 2],
        fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
        smt: Some(false),
        dynamic: Some(false),
        cached_keys: Some(false),
        left_out: None,
        twice: None,
    }
}
