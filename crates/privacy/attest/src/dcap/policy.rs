use serde::{Deserialize, Serialize};

use super::status::TcbStatus;
use crate::hexbytes::Hex;
use crate::policy::{HostDataRule, Reference, Rule};

/// Expectations of an Intel platform, whatever runs on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DcapPolicy {
    /// What Intel may say of platform, TDX module and quoting enclave, merged to the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<TcbStatus>>,
    /// The oldest evaluation that TCB info and QE identity may be of; 0 for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_evaluation_number: Option<u32>,
    /// Platform families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmspc: Option<Rule<Hex<6>>>,
    /// Processors, by the PPID in their certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppid: Option<Rule<Hex<16>>>,
    /// Simultaneous multithreading. A platform that does not say is judged as if it had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smt: Option<Rule<bool>>,
    /// Packages that can be added. A platform that does not say is judged as if it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_platform: Option<Rule<bool>>,
    /// Keys that Intel's service keeps. A platform that does not say is judged as if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_keys: Option<Rule<bool>>,
}

/// Expectations of a trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPolicy {
    /// Of the platform.
    #[serde(default)]
    pub platform: DcapPolicy,
    /// TDX modules, by MRSEAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrseam: Option<Rule<Hex<48>>>,
    /// SEPT_VE_DISABLE. Without it a host can inject exceptions into a TD by taking its pages away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sept_ve_disable: Option<Rule<bool>>,
    /// MIGRATABLE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migratable: Option<Rule<bool>>,
    /// PKS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pks: Option<Rule<bool>>,
    /// KL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_locker: Option<Rule<bool>>,
    /// PERFMON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perfmon: Option<Rule<bool>>,
    /// XFAM, as its bytes stand in the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xfam: Option<Rule<Hex<8>>>,
    /// What may be built and booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<Reference<TdxReference>>,
    /// What may be measured at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Rule<Hex<48>>>,
    /// MRCONFIGID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrconfigid: Option<HostDataRule<Hex<48>>>,
    /// MROWNER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrowner: Option<Rule<Hex<48>>>,
    /// MROWNERCONFIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrownerconfig: Option<Rule<Hex<48>>>,
    /// Bound service TDs; all zero where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrservicetd: Option<Rule<Hex<48>>>,
    /// Whether the event log has to come along. One that comes is judged in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<LogRule>,
}

/// Whether an event log has to come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogRule {
    /// Evidence without one is refused.
    Required,
    /// The registers' values are enough.
    Optional,
}

/// What an image measures to in a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReference {
    /// What the TD was built of.
    pub mrtd: Hex<48>,
    /// Firmware configuration.
    pub rtmr0: Rule<Hex<48>>,
    /// Boot loader and kernel.
    pub rtmr1: Rule<Hex<48>>,
    /// Command line and initramfs.
    pub rtmr2: Rule<Hex<48>>,
}

/// Expectations of an SGX enclave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxPolicy {
    /// Of the platform.
    #[serde(default)]
    pub platform: DcapPolicy,
    /// Flags of ATTRIBUTES, as their bytes stand in the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Rule<Hex<8>>>,
    /// XFRM of ATTRIBUTES, as its bytes stand in the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xfrm: Option<Rule<Hex<8>>>,
    /// MISCSELECT, as its bytes stand in the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miscselect: Option<Rule<Hex<4>>>,
    /// CPUSVN in the enclave's report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpusvn: Option<Rule<Hex<16>>>,
    /// Enclaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrenclave: Option<Rule<Hex<32>>>,
    /// Signers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrsigner: Option<Rule<Hex<32>>>,
    /// Product ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isvprodid: Option<Rule<u16>>,
    /// Least security version; 0 for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_isvsvn: Option<u16>,
    /// CONFIGID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configid: Option<Rule<Hex<64>>>,
    /// Least CONFIGSVN; 0 for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_configsvn: Option<u16>,
    /// Extended product ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isvextprodid: Option<Rule<Hex<16>>>,
    /// Product families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isvfamilyid: Option<Rule<Hex<16>>>,
}

impl DcapPolicy {
    fn default_appraisal() -> Self {
        Self {
            statuses: Some(vec![
                TcbStatus::UpToDate,
                TcbStatus::SWHardeningNeeded,
                TcbStatus::ConfigurationNeeded,
                TcbStatus::ConfigurationAndSWHardeningNeeded,
            ]),
            minimum_evaluation_number: Some(0),
            fmspc: Some(Rule::Any),
            ppid: Some(Rule::Any),
            smt: Some(Rule::Any),
            dynamic_platform: Some(Rule::Any),
            cached_keys: Some(Rule::Any),
        }
    }
}

impl TdxPolicy {
    /// What an inspection judges by: everything cryptographic, every date, no debugger, a TCB that is not out of date.
    pub(crate) fn default_appraisal() -> Self {
        Self {
            platform: DcapPolicy::default_appraisal(),
            mrseam: Some(Rule::Any),
            sept_ve_disable: Some(Rule::Any),
            migratable: Some(Rule::Any),
            pks: Some(Rule::Any),
            key_locker: Some(Rule::Any),
            perfmon: Some(Rule::Any),
            xfam: Some(Rule::Any),
            measurement: Some(Reference::Any),
            rtmr3: Some(Rule::Any),
            mrconfigid: Some(HostDataRule::Any),
            mrowner: Some(Rule::Any),
            mrownerconfig: Some(Rule::Any),
            mrservicetd: Some(Rule::Any),
            event_log: Some(LogRule::Optional),
        }
    }
}

impl SgxPolicy {
    /// What an inspection judges by: everything cryptographic, every date, no debugger, a TCB that is not out of date.
    pub(crate) fn default_appraisal() -> Self {
        Self {
            platform: DcapPolicy::default_appraisal(),
            flags: Some(Rule::Any),
            xfrm: Some(Rule::Any),
            miscselect: Some(Rule::Any),
            cpusvn: Some(Rule::Any),
            mrenclave: Some(Rule::Any),
            mrsigner: Some(Rule::Any),
            isvprodid: Some(Rule::Any),
            minimum_isvsvn: Some(0),
            configid: Some(Rule::Any),
            minimum_configsvn: Some(0),
            isvextprodid: Some(Rule::Any),
            isvfamilyid: Some(Rule::Any),
        }
    }
}

/// A policy that says nothing, and so refuses everything.
pub(crate) static SILENT_TDX: std::sync::LazyLock<TdxPolicy> = std::sync::LazyLock::new(TdxPolicy::default);

/// A policy that says nothing, and so refuses everything.
pub(crate) static SILENT_SGX: std::sync::LazyLock<SgxPolicy> = std::sync::LazyLock::new(SgxPolicy::default);
