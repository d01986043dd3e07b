//! Trust domains.

use lambda_types::InstanceId;
use serde_json::json;

use super::body::{Body, TdReport};
use super::document::Bytes;
use super::identity::masked_equal;
use super::ledger::Ledger;
use super::platform::{self, Established, described, platform_level};
use super::policy::TdxPolicy;
use super::rules::{allowed, silent};
use super::status::TcbStatus;
use super::tcb::{self, Statuses};
use super::tcb_info::{ModuleIdentity, isv_level};
use super::{checks, quote, rtmr};
use crate::appraise::{Appraised, Context};
use crate::checks::{CheckInfo, Recorder};
use crate::error::ParseError;
use crate::evidence::TdxEvidence;
use crate::hexbytes::Hex;
use crate::policy::{Matched, Rule};
use crate::verdict::{Assurance, Claims};

/// Bits of ATTRIBUTES (*Intel TDX Module ABI*, TD ATTRIBUTES).
mod attribute {
    pub(super) const DEBUG: u64 = 1;
    /// The untrusted group: any bit of it opens the TD to somebody.
    pub(super) const UNTRUSTED: u64 = 0xff;
    pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
    pub(super) const MIGRATABLE: u64 = 1 << 29;
    pub(super) const PKS: u64 = 1 << 30;
    pub(super) const KEY_LOCKER: u64 = 1 << 31;
    pub(super) const PERFMON: u64 = 1 << 63;
    /// Every bit that has a meaning, by name.
    pub(super) const NAMED: [(u64, &str); 12] = [
        (DEBUG, "debug"),
        (1 << 4, "hgs_plus_prof"),
        (1 << 5, "perf_prof"),
        (1 << 6, "pmt_prof"),
        (1 << 16, "icssd"),
        (1 << 27, "lass"),
        (SEPT_VE_DISABLE, "sept_ve_disable"),
        (MIGRATABLE, "migratable"),
        (PKS, "pks"),
        (KEY_LOCKER, "kl"),
        (1 << 62, "tpa"),
        (PERFMON, "perfmon"),
    ];
}

/// Bits of XFAM that every TD has: x87 and SSE.
const XFAM_ALWAYS: u64 = 0x3;

/// Bits of XFAM that a TD can have.
const XFAM_POSSIBLE: u64 = 0x0006_dbe7;

/// Whether the evidence has the structure of a TDX quote.
pub(crate) fn readable(evidence: &TdxEvidence) -> Result<(), ParseError> {
    let bytes = evidence.quote.as_slice();
    let signed = quote::signed(bytes)?;
    if let Body::Enclave(_) = signed.body {
        return Err(ParseError::at("quote header", 0, "a quote of an SGX enclave, not of a trust domain"));
    }
    quote::authentication(bytes, &signed).map(drop)
}

/// Judges a TDX quote and the event log beside it.
pub(crate) fn check(
    evidence: &TdxEvidence,
    policy: &TdxPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Appraised {
    let bytes = evidence.quote.as_slice();
    let mut claims = Claims::new();
    let mut ledger = Ledger::new(recorder);
    let signed = quote::signed(bytes);
    let (signed, report) = match &signed {
        Ok(signed) => match &signed.body {
            Body::Td(report) => (signed, report),
            Body::Enclave(_) => {
                let why = "a quote of an SGX enclave, not of a trust domain";
                ledger.record(&checks::QUOTE_STRUCTURE, Err(why.into()));
                return appraised(None, Claims::new(), None);
            }
        },
        Err(error) => {
            ledger.record(&checks::QUOTE_STRUCTURE, Err(error.to_string()));
            return appraised(None, Claims::new(), None);
        }
    };
    claim(signed, report, &mut claims);
    let authentication = match quote::authentication(bytes, signed) {
        Ok(authentication) => authentication,
        Err(error) => {
            ledger.record(&checks::QUOTE_STRUCTURE, Err(error.to_string()));
            claims.insert("tcb_status".into(), serde_json::Value::Null);
            return appraised(None, claims, None);
        }
    };
    ledger.record(&checks::QUOTE_STRUCTURE, Ok(format!("TDX quote, version {}", signed.header.version)));
    let mut established = platform::check(signed, &authentication, &platform::TDX, context, &mut ledger);
    let statuses = check_tcb(report, &mut established, &mut ledger);
    tcb::check_policy(&platform::TDX, &policy.platform, &established, statuses.merged, ledger.recorder());
    tcb::claim(&established, &statuses, &ledger, &mut claims);
    context.demand.check(&checks::QUOTE_REPORT_DATA, &report.report_data, recorder);
    check_attributes(report, policy, recorder);
    let image = check_measurements(report, policy, context.instance, recorder);
    rtmr::check(evidence.event_log.as_ref(), policy.event_log, &report.rtmrs, recorder);
    appraised(Some(&established), claims, image)
}

fn appraised(established: Option<&Established<'_>>, claims: Claims, image: Option<Matched>) -> Appraised {
    let fmspc = established.and_then(|established| established.platform.as_ref()).map(|it| hex::encode(it.fmspc));
    Appraised {
        product: fmspc.map_or_else(|| "Intel TDX".into(), |fmspc| format!("Intel TDX, FMSPC {fmspc}")),
        claims,
        tier: established.and_then(|established| established.tier).unwrap_or(Assurance::Unanchored),
        image,
        clock: None,
        checks: &checks::TDX,
    }
}

fn claim(signed: &quote::Signed<'_>, report: &TdReport, claims: &mut Claims) {
    let attributes = u64::from_le_bytes(report.td_attributes);
    let named = attribute::NAMED.iter().filter(|(bit, _)| attributes & bit != 0);
    let set: Vec<_> = named.map(|(_, name)| *name).collect();
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &report.rtmrs;
    let hex: [(&str, &[u8]); 17] = [
        ("measurement", &report.mrtd),
        ("mrtd", &report.mrtd),
        ("rtmr0", rtmr0),
        ("rtmr1", rtmr1),
        ("rtmr2", rtmr2),
        ("rtmr3", rtmr3),
        ("mrseam", &report.mrseam),
        ("mrsignerseam", &report.mrsignerseam),
        ("seam_attributes", &report.seam_attributes),
        ("mrconfigid", &report.mrconfigid),
        ("mrowner", &report.mrowner),
        ("mrownerconfig", &report.mrownerconfig),
        ("tee_tcb_svn", &report.tee_tcb_svn),
        ("policy", &report.td_attributes),
        ("xfam", &report.xfam),
        ("report_data", &report.report_data),
        ("quote_user_data", &signed.header.user_data),
    ];
    claims.extend(hex.into_iter().map(|(name, bytes)| (name.to_owned(), hex::encode(bytes).into())));
    claims.insert("td_attributes_set".into(), json!(set));
    claims.insert("debug".into(), (attributes & attribute::DEBUG != 0).into());
    claims.insert("quote_version".into(), signed.header.version.into());
    claims.insert("body".into(), if report.later.is_some() { "tdx15" } else { "tdx10" }.into());
    if let Some(later) = &report.later {
        claims.insert("tee_tcb_svn2".into(), hex::encode(later.tee_tcb_svn2).into());
        claims.insert("mrservicetd".into(), hex::encode(later.mrservicetd).into());
    }
}

/// Levels of platform and module, at launch and now, merged with the quoting enclave's to the worst.
fn check_tcb(report: &TdReport, established: &mut Established<'_>, ledger: &mut Ledger<'_>) -> Statuses {
    check_module_identity(report, established, ledger);
    let svns = [Some(&report.tee_tcb_svn), report.later.as_ref().map(|later| &later.tee_tcb_svn2)];
    let mut merged: Option<TcbStatus> = None;
    let mut statuses = Statuses::default();
    for svn in svns.into_iter().flatten() {
        let Some((platform, advisories)) = platform_level(established, Some(svn)) else {
            return Statuses::default();
        };
        ledger.recorder().record(&checks::TCB_LEVEL, level_found(platform));
        let (module, module_advisories) = check_module_level(svn, established, ledger);
        let mut here = module.map_or(platform, |module| platform.merge(module));
        if let Some(qe) = established.qe_status {
            here = here.merge(qe);
        }
        match merged {
            None => {
                statuses = Statuses { platform: Some(platform), module, merged: None };
                established.advisories.extend(advisories.into_iter().chain(module_advisories));
                merged = Some(here);
            }
            Some(launched) => merged = Some(launched.since_launch(here)),
        }
    }
    statuses.merged = merged.filter(|_| established.qe_status.is_some());
    statuses
}

/// Whether a level was found, in words.
pub(super) fn level_found(status: TcbStatus) -> Result<String, String> {
    match status {
        TcbStatus::NotFound => Err("the platform is below every level that Intel lists".into()),
        status => Ok(format!("the platform reaches a level: {status}")),
    }
}

/// Signer and attributes of the TDX module: of its version's identity, or of the base module for version 0.
fn check_module_identity(report: &TdReport, established: &Established<'_>, ledger: &mut Ledger<'_>) {
    let Some(info) = &established.tcb_info else { return };
    let [_, version, ..] = report.tee_tcb_svn;
    let parts = |identity: &ModuleIdentity<'_>| (identity.mrsigner, identity.attributes, identity.attributes_mask);
    let expected = match version {
        0 => info.tdx_module.as_ref().map(|module| (module.mrsigner, module.attributes, module.attributes_mask)),
        version => info.module(version).map(parts),
    };
    let Some((Bytes(signer), Bytes(attributes), Bytes(mask))) = expected else {
        let why = format!("Intel lists no TDX module of version {version}");
        ledger.recorder().record(&checks::MODULE_LEVEL, Err(why.clone()));
        ledger.record(&checks::MODULE_SIGNER, Err(why.clone()));
        ledger.record(&checks::MODULE_ATTRIBUTES, Err(why));
        return;
    };
    ledger.require(
        &checks::MODULE_SIGNER,
        report.mrsignerseam == signer,
        "the TDX module is signed by Intel",
        "the TDX module has another signer than Intel says",
    );
    let actual = u64::from_le_bytes(report.seam_attributes);
    let stray = actual & !u64::from_le_bytes(mask) != 0;
    ledger.require(
        &checks::MODULE_ATTRIBUTES,
        masked_equal(&report.seam_attributes, &attributes, &mask) && !stray,
        "the TDX module has the attributes that Intel says",
        "the TDX module has other attributes than Intel says: a debug module, perhaps",
    );
}

/// The TDX module's level; version 0 has none of its own.
fn check_module_level<'a>(
    svn: &[u8; 16],
    established: &Established<'a>,
    ledger: &mut Ledger<'_>,
) -> (Option<TcbStatus>, Vec<&'a str>) {
    let [isvsvn, version, ..] = *svn;
    if version == 0 {
        let why = "a TDX module of version 0 is judged with the platform's components";
        ledger.recorder().not_applicable(&checks::MODULE_LEVEL, why);
        return (None, Vec::new());
    }
    let levels = established.tcb_info.as_ref().and_then(|info| info.module(version)).map(|it| it.tcb_levels.as_slice());
    let level = levels.and_then(|levels| isv_level(levels, isvsvn.into()));
    let what = format!("the TDX module of version {version}");
    ledger.recorder().record(&checks::MODULE_LEVEL, described(&what, level, isvsvn.into()));
    let status = level.map_or(TcbStatus::NotFound, |level| level.status);
    (Some(status), level.map(|level| level.advisories.clone()).unwrap_or_default())
}

fn check_attributes(report: &TdReport, policy: &TdxPolicy, recorder: &mut Recorder) {
    let attributes = u64::from_le_bytes(report.td_attributes);
    recorder.require(
        &checks::TD_DEBUG,
        attributes & attribute::UNTRUSTED == 0,
        "no bit of the untrusted group is set",
        "the TD runs in debug or another untrusted mode: the host may read it",
    );
    let known = attribute::NAMED.iter().fold(attribute::UNTRUSTED, |known, (bit, _)| known | bit);
    let reserved = attributes & !known;
    recorder.require(
        &checks::TD_RESERVED,
        reserved == 0,
        "no reserved attribute is set",
        &format!("reserved attributes are set: {reserved:#x}"),
    );
    let bits: [(&'static CheckInfo, &str, Option<&Rule<bool>>, u64); 5] = [
        (&checks::TD_SEPT_VE, "tdx.sept_ve_disable", policy.sept_ve_disable.as_ref(), attribute::SEPT_VE_DISABLE),
        (&checks::TD_MIGRATABLE, "tdx.migratable", policy.migratable.as_ref(), attribute::MIGRATABLE),
        (&checks::TD_PKS, "tdx.pks", policy.pks.as_ref(), attribute::PKS),
        (&checks::TD_KEY_LOCKER, "tdx.key_locker", policy.key_locker.as_ref(), attribute::KEY_LOCKER),
        (&checks::TD_PERFMON, "tdx.perfmon", policy.perfmon.as_ref(), attribute::PERFMON),
    ];
    for (info, field, rule, bit) in bits {
        allowed(info, field, rule, &(attributes & bit != 0), recorder);
    }
    let xfam = u64::from_le_bytes(report.xfam);
    recorder.require(
        &checks::TD_XFAM_FIXED,
        xfam & XFAM_ALWAYS == XFAM_ALWAYS && xfam & !XFAM_POSSIBLE == 0,
        "the fixed bits are as they must be",
        &format!("{xfam:#x} lacks a bit that every TD has, or has one that none can have"),
    );
    allowed(&checks::TD_XFAM, "tdx.xfam", policy.xfam.as_ref(), &Hex(report.xfam), recorder);
}

fn check_measurements(
    report: &TdReport,
    policy: &TdxPolicy,
    instance: Option<InstanceId>,
    recorder: &mut Recorder,
) -> Option<Matched> {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = report.rtmrs.map(Hex);
    let found = match &policy.measurement {
        None => Err(silent("tdx.measurement")),
        Some(reference) => reference.find(|expected| {
            expected.mrtd == Hex(report.mrtd)
                && expected.rtmr0.allows(&rtmr0)
                && expected.rtmr1.allows(&rtmr1)
                && expected.rtmr2.allows(&rtmr2)
        }),
    };
    let image = found.as_ref().ok().cloned().flatten();
    recorder.record(&checks::TD_MEASUREMENT, found.map(|_| "the policy allows what was built and booted".into()));
    let mrseam = Hex(report.mrseam);
    let values: [(&'static CheckInfo, &str, Option<&Rule<Hex<48>>>, Hex<48>); 4] = [
        (&checks::MODULE_MRSEAM, "tdx.mrseam", policy.mrseam.as_ref(), mrseam),
        (&checks::TD_RTMR3, "tdx.rtmr3", policy.rtmr3.as_ref(), rtmr3),
        (&checks::TD_MROWNER, "tdx.mrowner", policy.mrowner.as_ref(), Hex(report.mrowner)),
        (&checks::TD_MROWNERCONFIG, "tdx.mrownerconfig", policy.mrownerconfig.as_ref(), Hex(report.mrownerconfig)),
    ];
    for (info, field, rule, value) in values {
        allowed(info, field, rule, &value, recorder);
    }
    let mrconfigid = policy.mrconfigid.as_ref().ok_or_else(|| silent("tdx.mrconfigid"));
    let named = mrconfigid.and_then(|rule| rule.judge(&Hex(report.mrconfigid), &report.mrconfigid, instance));
    recorder.record(&checks::TD_MRCONFIGID, named);
    match &report.later {
        Some(later) => {
            let bound = Hex(later.mrservicetd);
            allowed(&checks::TD_MRSERVICETD, "tdx.mrservicetd", policy.mrservicetd.as_ref(), &bound, recorder);
        }
        None => recorder.not_applicable(&checks::TD_MRSERVICETD, "a TD 1.0 report does not name service TDs"),
    }
    image
}
