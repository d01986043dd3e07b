//! The platform against the policy, and what is said of its TCB.

use serde_json::json;

use super::checks;
use super::ledger::Ledger;
use super::platform::{Established, Technology};
use super::policy::DcapPolicy;
use super::rules::{allowed, at_least, silent};
use super::status::TcbStatus;
use crate::checks::{CheckInfo, Recorder};
use crate::hexbytes::Hex;
use crate::verdict::Claims;

/// Statuses of the parts, and the worst of them.
#[derive(Default)]
pub(super) struct Statuses {
    pub(super) platform: Option<TcbStatus>,
    pub(super) module: Option<TcbStatus>,
    pub(super) merged: Option<TcbStatus>,
}

/// Judges the platform by the policy.
pub(super) fn check_policy(
    technology: &Technology,
    policy: &DcapPolicy,
    established: &Established<'_>,
    merged: Option<TcbStatus>,
    recorder: &mut Recorder,
) {
    let field = |name: &str| format!("{}.platform.{name}", technology.name);
    let evaluations: [(&'static CheckInfo, Option<u32>); 2] = [
        (&checks::TCB_INFO_EVALUATION, established.tcb_info.as_ref().map(|info| info.tcb_evaluation_data_number)),
        (&checks::IDENTITY_EVALUATION, established.identity.as_ref().map(|it| it.tcb_evaluation_data_number)),
    ];
    for (info, number) in evaluations {
        if let Some(number) = number {
            let minimum = policy.minimum_evaluation_number;
            at_least(info, &field("minimum_evaluation_number"), minimum, number, recorder);
        }
    }
    if let Some(status) = merged {
        recorder.record(
            &checks::TCB_STATUS,
            match &policy.statuses {
                Some(statuses) if statuses.contains(&status) => Ok(format!("{status}, which the policy allows")),
                Some(_) => Err(format!("{status}, which the policy does not allow")),
                None => Err(silent(&field("statuses"))),
            },
        );
    }
    let Some(platform) = &established.platform else { return };
    allowed(&checks::PLATFORM_FMSPC, &field("fmspc"), policy.fmspc.as_ref(), &Hex(platform.fmspc), recorder);
    allowed(&checks::PLATFORM_PPID, &field("ppid"), policy.ppid.as_ref(), &Hex(platform.ppid), recorder);
    let flags = [
        (&checks::PLATFORM_SMT, "smt", &policy.smt, platform.smt),
        (&checks::PLATFORM_DYNAMIC, "dynamic_platform", &policy.dynamic_platform, platform.dynamic),
        (&checks::PLATFORM_CACHED_KEYS, "cached_keys", &policy.cached_keys, platform.cached_keys),
    ];
    for (info, name, rule, value) in flags {
        allowed(info, &field(name), rule.as_ref(), &value.unwrap_or(true), recorder);
    }
}

/// What is said of platform and TCB.
pub(super) fn claim(established: &Established<'_>, statuses: &Statuses, ledger: &Ledger<'_>, claims: &mut Claims) {
    // A status means something only for an authentic platform under authentic, current documents.
    let told = |status: Option<TcbStatus>| json!(status.filter(|_| ledger.authentic()).map(TcbStatus::name));
    let mut tcb = serde_json::Map::from_iter([("status".to_owned(), told(statuses.merged))]);
    if let Some(platform) = &established.platform {
        claims.insert("fmspc".into(), hex::encode(platform.fmspc).into());
        claims.insert("pceid".into(), hex::encode(platform.pce_id).into());
        claims.insert("pcesvn".into(), platform.pcesvn.into());
        claims.insert("cpusvn_components".into(), json!(platform.components));
        claims.insert("ppid".into(), hex::encode(platform.ppid).into());
        claims.insert("sgx_type".into(), platform.sgx_type.into());
        if let Some(instance) = platform.instance {
            claims.insert("platform_instance_id".into(), hex::encode(instance).into());
        }
        let flags = [
            ("smt_enabled", platform.smt),
            ("dynamic_platform", platform.dynamic),
            ("cached_keys", platform.cached_keys),
        ];
        claims.extend(flags.into_iter().filter_map(|(name, flag)| Some((name.to_owned(), flag?.into()))));
        tcb.insert("components".into(), json!(platform.components));
        tcb.insert("pcesvn".into(), platform.pcesvn.into());
    }
    claims.insert("tcb".into(), tcb.into());
    if let Some(pck_ca) = established.pck_ca {
        claims.insert("pck_ca".into(), pck_ca.into());
    }
    claims.insert("tcb_status".into(), told(statuses.merged));
    claims.insert("platform_tcb_status".into(), told(statuses.platform));
    claims.insert("tdx_module_tcb_status".into(), told(statuses.module));
    claims.insert("qe_tcb_status".into(), told(established.qe_status));
    if let Some(info) = &established.tcb_info {
        claims.insert("tcb_evaluation_data_number".into(), info.tcb_evaluation_data_number.into());
    }
    if ledger.authentic() {
        let mut advisories = established.advisories.clone();
        advisories.sort_unstable();
        advisories.dedup();
        claims.insert("advisory_ids".into(), json!(advisories));
    }
}
