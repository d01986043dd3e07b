//! Enclaves.

use serde_json::json;

use super::body::{Body, EnclaveReport, flag, halves, is_zero};
use super::ledger::Ledger;
use super::platform::{self, Established, platform_level};
use super::policy::SgxPolicy;
use super::rules::{allowed, at_least};
use super::tcb::{self, Statuses};
use super::tdx::level_found;
use super::{checks, quote};
use crate::appraise::{Appraised, Context};
use crate::checks::Recorder;
use crate::error::ParseError;
use crate::evidence::SgxEvidence;
use crate::hexbytes::Hex;
use crate::verdict::{Assurance, Claims};

/// Whether the evidence has the structure of an SGX quote.
pub(crate) fn readable(evidence: &SgxEvidence) -> Result<(), ParseError> {
    let bytes = evidence.quote.as_slice();
    let signed = quote::signed(bytes)?;
    if let Body::Td(_) = signed.body {
        return Err(ParseError::at("quote header", 0, "a quote of a trust domain, not of an SGX enclave"));
    }
    quote::authentication(bytes, &signed).map(drop)
}

/// Judges an SGX quote.
pub(crate) fn check(
    evidence: &SgxEvidence,
    policy: &SgxPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Appraised {
    let bytes = evidence.quote.as_slice();
    let mut claims = Claims::new();
    let mut ledger = Ledger::new(recorder);
    let signed = quote::signed(bytes);
    let (signed, report) = match &signed {
        Ok(signed) => match &signed.body {
            Body::Enclave(report) => (signed, report),
            Body::Td(_) => {
                let why = "a quote of a trust domain, not of an SGX enclave";
                ledger.record(&checks::QUOTE_STRUCTURE, Err(why.into()));
                return appraised(None, Claims::new());
            }
        },
        Err(error) => {
            ledger.record(&checks::QUOTE_STRUCTURE, Err(error.to_string()));
            return appraised(None, Claims::new());
        }
    };
    claim(signed, report, &mut claims);
    let authentication = match quote::authentication(bytes, signed) {
        Ok(authentication) => authentication,
        Err(error) => {
            ledger.record(&checks::QUOTE_STRUCTURE, Err(error.to_string()));
            claims.insert("tcb_status".into(), serde_json::Value::Null);
            return appraised(None, claims);
        }
    };
    ledger.record(&checks::QUOTE_STRUCTURE, Ok(format!("SGX quote, version {}", signed.header.version)));
    let mut established = platform::check(signed, &authentication, &platform::SGX, context, &mut ledger);
    let statuses = check_tcb(&mut established, &mut ledger);
    tcb::check_policy(&platform::SGX, &policy.platform, &established, statuses.merged, ledger.recorder());
    tcb::claim(&established, &statuses, &ledger, &mut claims);
    context.demand.check(&checks::QUOTE_REPORT_DATA, &report.report_data, recorder);
    check_attributes(report, policy, recorder);
    check_identity(report, policy, recorder);
    check_key_separation(report, policy, recorder);
    appraised(Some(&established), claims)
}

fn appraised(established: Option<&Established<'_>>, claims: Claims) -> Appraised {
    let fmspc = established.and_then(|established| established.platform.as_ref()).map(|it| hex::encode(it.fmspc));
    Appraised {
        product: fmspc.map_or_else(|| "Intel SGX".into(), |fmspc| format!("Intel SGX, FMSPC {fmspc}")),
        claims,
        tier: established.and_then(|established| established.tier).unwrap_or(Assurance::Unanchored),
        image: None,
        clock: None,
        checks: &checks::SGX,
    }
}

fn claim(signed: &quote::Signed<'_>, report: &EnclaveReport, claims: &mut Claims) {
    let hex: [(&str, &[u8]); 10] = [
        ("measurement", &report.mrenclave),
        ("mrenclave", &report.mrenclave),
        ("mrsigner", &report.mrsigner),
        ("policy", &report.attributes),
        ("miscselect", &report.miscselect),
        ("cpusvn", &report.cpu_svn),
        ("report_data", &report.report_data),
        ("configid", &report.config_id),
        ("isvextprodid", &report.isv_ext_prod_id),
        ("isvfamilyid", &report.isv_family_id),
    ];
    claims.extend(hex.into_iter().map(|(name, bytes)| (name.to_owned(), hex::encode(bytes).into())));
    claims.insert("isvprodid".into(), report.isv_prod_id.into());
    claims.insert("isvsvn".into(), report.isv_svn.into());
    claims.insert("configsvn".into(), report.config_svn.into());
    claims.insert("debug".into(), (report.flags() & flag::DEBUG != 0).into());
    claims.insert("quote_version".into(), signed.header.version.into());
    claims.insert("body".into(), json!("sgx"));
}

fn check_tcb(established: &mut Established<'_>, ledger: &mut Ledger<'_>) -> Statuses {
    let Some((platform, advisories)) = platform_level(established, None) else { return Statuses::default() };
    ledger.recorder().record(&checks::TCB_LEVEL, level_found(platform));
    established.advisories.extend(advisories);
    Statuses { platform: Some(platform), module: None, merged: established.qe_status.map(|qe| platform.merge(qe)) }
}

fn check_attributes(report: &EnclaveReport, policy: &SgxPolicy, recorder: &mut Recorder) {
    let flags = report.flags();
    recorder.require(
        &checks::ENCLAVE_DEBUG,
        flags & flag::DEBUG == 0,
        "the enclave is no debug enclave",
        "the enclave is a debug enclave: the host may read it",
    );
    recorder.require(
        &checks::ENCLAVE_INIT,
        flags & flag::INIT != 0,
        "the enclave was initialised",
        "the enclave was not initialised",
    );
    recorder.require(
        &checks::ENCLAVE_RESERVED,
        flags & !flag::DEFINED == 0 && report.reserved_is_zero,
        "what is reserved is zero",
        "a reserved attribute or byte of the report is set",
    );
    let (flag_bytes, _) = halves(&report.attributes);
    allowed(&checks::ENCLAVE_FLAGS, "sgx.flags", policy.flags.as_ref(), &Hex(flag_bytes), recorder);
    allowed(&checks::ENCLAVE_XFRM, "sgx.xfrm", policy.xfrm.as_ref(), &Hex(report.xfrm()), recorder);
    let miscselect = Hex(report.miscselect);
    allowed(&checks::ENCLAVE_MISCSELECT, "sgx.miscselect", policy.miscselect.as_ref(), &miscselect, recorder);
    allowed(&checks::ENCLAVE_CPUSVN, "sgx.cpusvn", policy.cpusvn.as_ref(), &Hex(report.cpu_svn), recorder);
}

fn check_identity(report: &EnclaveReport, policy: &SgxPolicy, recorder: &mut Recorder) {
    let mrenclave = Hex(report.mrenclave);
    allowed(&checks::ENCLAVE_MRENCLAVE, "sgx.mrenclave", policy.mrenclave.as_ref(), &mrenclave, recorder);
    allowed(&checks::ENCLAVE_MRSIGNER, "sgx.mrsigner", policy.mrsigner.as_ref(), &Hex(report.mrsigner), recorder);
    allowed(&checks::ENCLAVE_PRODUCT, "sgx.isvprodid", policy.isvprodid.as_ref(), &report.isv_prod_id, recorder);
    at_least(&checks::ENCLAVE_SVN, "sgx.minimum_isvsvn", policy.minimum_isvsvn, report.isv_svn, recorder);
}

/// Key separation and sharing (KSS): configuration and product fields that only enclaves with KSS have.
fn check_key_separation(report: &EnclaveReport, policy: &SgxPolicy, recorder: &mut Recorder) {
    let absent = is_zero(&report.config_id)
        && report.config_svn == 0
        && is_zero(&report.isv_ext_prod_id)
        && is_zero(&report.isv_family_id);
    recorder.require(
        &checks::ENCLAVE_KSS,
        report.flags() & flag::KSS != 0 || absent,
        "the fields of key separation are where they may be",
        "the enclave has no key separation, but fields of it are set",
    );
    let config_id = Hex(report.config_id);
    allowed(&checks::ENCLAVE_CONFIG_ID, "sgx.configid", policy.configid.as_ref(), &config_id, recorder);
    let minimum = policy.minimum_configsvn;
    at_least(&checks::ENCLAVE_CONFIG_SVN, "sgx.minimum_configsvn", minimum, report.config_svn, recorder);
    let product = Hex(report.isv_ext_prod_id);
    allowed(&checks::ENCLAVE_EXT_PRODUCT, "sgx.isvextprodid", policy.isvextprodid.as_ref(), &product, recorder);
    let family = Hex(report.isv_family_id);
    allowed(&checks::ENCLAVE_FAMILY, "sgx.isvfamilyid", policy.isvfamilyid.as_ref(), &family, recorder);
}
