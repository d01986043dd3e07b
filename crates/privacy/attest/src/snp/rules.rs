//! What the report says against what the policy says, field by field.

use lambda_types::InstanceId;

use super::checks;
use super::policy::{FirmwareFloor, FlagRule, GuestPolicyRule, Mask, Migration, PlatformRule, SnpPolicy};
use super::report::{FirmwareVersion, GuestPolicy, PlatformInfo, SnpReport};
use super::tcb::{TcbFloors, TcbVersion};
use crate::anchors::AmdLine;
use crate::checks::{CheckInfo, Recorder};
use crate::hexbytes::Hex;
use crate::policy::{Matched, Rule};

/// A policy that says nothing of `field`.
pub(super) fn silent(field: &str) -> String {
    format!("the policy does not say what is good enough: add `snp.{field}`")
}

/// The value is one that the policy allows.
pub(super) fn check_rule<T: PartialEq + std::fmt::Display>(
    info: &'static CheckInfo,
    field: &str,
    rule: Option<&Rule<T>>,
    value: &T,
    recorder: &mut Recorder,
) {
    recorder.record(
        info,
        match rule {
            None => Err(silent(field)),
            Some(Rule::Any) => Ok("the policy allows any".into()),
            Some(rule) if rule.allows(value) => Ok(format!("{value} is allowed")),
            Some(_) => Err(format!("{value} is not one that the policy allows")),
        },
    );
}

fn check_flag(info: &'static CheckInfo, field: &str, rule: Option<FlagRule>, set: bool, recorder: &mut Recorder) {
    let is = if set { "set" } else { "clear" };
    recorder.record(
        info,
        match rule {
            None => Err(silent(field)),
            Some(FlagRule::Any) => Ok(format!("it is {is}, and the policy allows both")),
            Some(FlagRule::Set) if set => Ok("it is set".into()),
            Some(FlagRule::Clear) if !set => Ok("it is clear".into()),
            Some(FlagRule::Set | FlagRule::Clear) => Err(format!("it is {is}, and the policy wants the opposite")),
        },
    );
}

/// The guest's own policy, which the firmware enforces from launch on.
pub(super) fn check_guest_policy(report: &SnpReport<'_>, policy: &SnpPolicy, recorder: &mut Recorder) {
    let guest = report.policy;
    recorder.require(
        &checks::POLICY_FORM,
        guest.is_well_formed(),
        "reserved bits are as they must be",
        "a reserved bit of the guest's policy is not what it must be",
    );
    recorder.require(
        &checks::POLICY_DEBUG,
        !guest.has(GuestPolicy::DEBUG),
        "the guest cannot be debugged",
        "the host may debug the guest: it can read and write its memory",
    );
    check_migration(report, policy.migration.as_ref(), recorder);
    let rule = policy.guest_policy.unwrap_or_default();
    check_abi(report, &rule, recorder);
    let GuestPolicyRule {
        minimum_abi: _,
        smt,
        single_socket,
        cxl,
        mem_aes_256_xts,
        rapl_disabled,
        ciphertext_hiding,
        page_swap_disabled,
    } = rule;
    let flags = [
        (&checks::POLICY_SMT, "guest_policy.smt", smt, GuestPolicy::SMT),
        (&checks::POLICY_SINGLE_SOCKET, "guest_policy.single_socket", single_socket, GuestPolicy::SINGLE_SOCKET),
        (&checks::POLICY_CXL, "guest_policy.cxl", cxl, GuestPolicy::CXL),
        (&checks::POLICY_XTS, "guest_policy.mem_aes_256_xts", mem_aes_256_xts, GuestPolicy::MEM_AES_256_XTS),
        (&checks::POLICY_RAPL, "guest_policy.rapl_disabled", rapl_disabled, GuestPolicy::RAPL_DIS),
        (
            &checks::POLICY_CIPHERTEXT,
            "guest_policy.ciphertext_hiding",
            ciphertext_hiding,
            GuestPolicy::CIPHERTEXT_HIDING,
        ),
        (
            &checks::POLICY_PAGE_SWAP,
            "guest_policy.page_swap_disabled",
            page_swap_disabled,
            GuestPolicy::PAGE_SWAP_DISABLE,
        ),
    ];
    for (info, field, rule, bit) in flags {
        check_flag(info, field, rule, guest.has(bit), recorder);
    }
}

/// MIGRATE_MA and REPORT_ID_MA. Without a migration agent the firmware reports an id of ones.
fn check_migration(report: &SnpReport<'_>, rule: Option<&Migration>, recorder: &mut Recorder) {
    let may_migrate = report.policy.has(GuestPolicy::MIGRATE_MA);
    let agent = report.report_id_ma;
    let has_agent = !agent.is_zero() && agent != Hex([0xFF; 32]);
    let bit = match rule {
        None => Err(silent("migration")),
        Some(Migration::Forbidden) if may_migrate => {
            Err("a migration agent may move the guest, and the policy forbids that".to_owned())
        }
        Some(_) if may_migrate => Ok("the policy admits migration agents".to_owned()),
        Some(_) => Ok("no migration agent may move the guest".to_owned()),
    };
    recorder.record(&checks::POLICY_MIGRATION, bit);
    let id = match rule {
        None => Err(silent("migration")),
        Some(Migration::Any) => Ok("the policy allows any migration agent".to_owned()),
        Some(_) if !may_migrate && has_agent => {
            Err("the guest has a migration agent though its policy admits none".to_owned())
        }
        Some(Migration::Agents(allowed)) if may_migrate && !allowed.contains(&agent) => {
            Err(format!("the migration agent {agent} is not one that the policy allows"))
        }
        Some(Migration::Forbidden) if has_agent => Err(format!("the guest has the migration agent {agent}")),
        Some(_) => Ok("the migration agent is none, or one that the policy allows".to_owned()),
    };
    recorder.record(&checks::REPORT_ID_MA, id);
}

fn check_abi(report: &SnpReport<'_>, rule: &GuestPolicyRule, recorder: &mut Recorder) {
    let (major, minor) = report.policy.abi();
    let has = (report.current_version.major, report.current_version.minor);
    recorder.record(
        &checks::POLICY_ABI,
        match rule.minimum_abi {
            None => Err(silent("guest_policy.minimum_abi")),
            Some(least) if (major, minor) < least => {
                Err(format!("the guest insists on ABI {major}.{minor}, less than {}.{}", least.0, least.1))
            }
            Some(_) if has < (major, minor) => {
                Err(format!("the guest insists on ABI {major}.{minor}, but the firmware is {}", report.current_version))
            }
            Some(_) => {
                Ok(format!("the guest insists on ABI {major}.{minor}, the firmware is {}", report.current_version))
            }
        },
    );
}

/// PLATFORM_INFO.
pub(super) fn check_platform(report: &SnpReport<'_>, policy: &SnpPolicy, recorder: &mut Recorder) {
    let PlatformRule { smt, tsme, ecc, rapl_disabled, ciphertext_hiding, alias_check_complete, tio, unknown } =
        policy.platform.unwrap_or_default();
    let flags = [
        (&checks::PLATFORM_SMT, "platform.smt", smt, PlatformInfo::SMT),
        (&checks::PLATFORM_TSME, "platform.tsme", tsme, PlatformInfo::TSME),
        (&checks::PLATFORM_ECC, "platform.ecc", ecc, PlatformInfo::ECC),
        (&checks::PLATFORM_RAPL, "platform.rapl_disabled", rapl_disabled, PlatformInfo::RAPL_DIS),
        (
            &checks::PLATFORM_CIPHERTEXT,
            "platform.ciphertext_hiding",
            ciphertext_hiding,
            PlatformInfo::CIPHERTEXT_HIDING,
        ),
        (
            &checks::PLATFORM_ALIAS,
            "platform.alias_check_complete",
            alias_check_complete,
            PlatformInfo::ALIAS_CHECK_COMPLETE,
        ),
        (&checks::PLATFORM_TIO, "platform.tio", tio, PlatformInfo::TIO),
        (&checks::PLATFORM_UNKNOWN, "platform.unknown", unknown, PlatformInfo::UNKNOWN),
    ];
    for (info, field, rule, bit) in flags {
        check_flag(info, field, rule, report.platform.has(bit), recorder);
    }
}

/// The order of the TCB versions among each other, and the policy's floors.
pub(super) fn check_tcb(report: &SnpReport<'_>, line: Option<AmdLine>, policy: &SnpPolicy, recorder: &mut Recorder) {
    let versions = [report.current_tcb, report.committed_tcb, report.reported_tcb, report.launch_tcb];
    recorder.require(
        &checks::TCB_FORM,
        line.is_some() && versions.iter().all(|version| version.is_well_formed(line)),
        "unused bytes are zero",
        "a TCB version uses bytes that have no meaning for this product line, or the line is not known",
    );
    let [current, committed, reported, launch] = versions.map(|version: TcbVersion| version.parts(line));
    let ahead = current.reaches(&committed, "the current TCB", "the committed one").and_then(|()| {
        if report.committed_version <= report.current_version {
            return Ok(());
        }
        Err(format!("firmware {} is committed, but {} runs", report.committed_version, report.current_version))
    });
    recorder.record(&checks::TCB_COMMITTED, ahead.map(|()| format!("committed {committed}, current {current}")));
    recorder.record(
        &checks::TCB_REPORTED,
        current.reaches(&reported, "the current TCB", "the reported one").map(|()| format!("reported {reported}")),
    );
    let settled = current == committed && report.current_version == report.committed_version;
    recorder.record(
        &checks::TCB_PROVISIONAL,
        match policy.provisional_firmware {
            None => Err(silent("provisional_firmware")),
            Some(_) if settled => Ok("the current firmware is committed".into()),
            Some(true) => Ok("the current firmware is provisional, which the policy allows".into()),
            Some(false) => Err("the host can still take the current firmware back to the committed one".into()),
        },
    );
    let floor = |floors: &Option<TcbFloors>, field: &str, parts: &super::TcbParts, what: &str| {
        let floors = floors.as_ref().ok_or_else(|| silent(field))?;
        let line = line.ok_or_else(|| "the product line is not known, so no floor applies".to_owned())?;
        let floor = floors.get(&line).ok_or_else(|| silent(&format!("{field}.{}", line.name().to_lowercase())))?;
        parts.reaches(floor, what, "the policy's floor").map(|()| format!("{what}, {parts}, reaches {floor}"))
    };
    recorder.record(&checks::TCB_MINIMUM, floor(&policy.minimum_tcb, "minimum_tcb", &reported, "the reported TCB"));
    recorder.record(
        &checks::TCB_MINIMUM_LAUNCH,
        floor(&policy.minimum_launch_tcb, "minimum_launch_tcb", &launch, "the TCB at launch"),
    );
    check_firmware(report, policy.minimum_firmware, recorder);
}

fn check_firmware(report: &SnpReport<'_>, floor: Option<FirmwareFloor>, recorder: &mut Recorder) {
    let older = report.current_version.min(report.committed_version);
    recorder.record(
        &checks::FIRMWARE_MINIMUM,
        match floor.map(|FirmwareFloor { major, minor, build }| FirmwareVersion { major, minor, build }) {
            None => Err(silent("minimum_firmware")),
            Some(least) if older < least => Err(format!("the firmware is {older}, older than {least}")),
            Some(least) => Ok(format!("the firmware is {older}, at least {least}")),
        },
    );
}

/// The mitigation vectors, which reports have since version 5.
pub(super) fn check_mitigations(report: &SnpReport<'_>, policy: &SnpPolicy, recorder: &mut Recorder) {
    let rule = policy.mitigations;
    let launch = report.mitigations.map(|vectors| vectors.launch);
    let current = report.mitigations.map(|vectors| vectors.current);
    let pairs = [
        (&checks::MITIGATIONS_LAUNCH, rule.map(|rule| rule.launch), launch),
        (&checks::MITIGATIONS_CURRENT, rule.map(|rule| rule.current), current),
    ];
    for (info, needed, applied) in pairs {
        let result = match (needed, applied) {
            (None, _) => Err(silent("mitigations")),
            (Some(Mask(0)), None) => {
                recorder.not_applicable(info, "the report has no mitigation vectors, and the policy demands none");
                continue;
            }
            (Some(_), None) => Err(format!(
                "the policy demands mitigations, and a report of version {} has no vectors",
                report.version
            )),
            (Some(Mask(needed)), Some(applied)) if applied & needed == needed => {
                Ok(format!("{applied:#x} covers {needed:#x}"))
            }
            (Some(Mask(needed)), Some(applied)) => Err(format!("{applied:#x} lacks bits of {needed:#x}")),
        };
        recorder.record(info, result);
    }
}

/// Who is running: privilege level, measurement, host data, ID block, this very guest.
pub(super) fn check_identity(
    report: &SnpReport<'_>,
    policy: &SnpPolicy,
    instance: Option<InstanceId>,
    recorder: &mut Recorder,
) -> Option<Matched> {
    recorder.record(
        &checks::VMPL,
        match &policy.vmpl {
            None => Err(silent("vmpl")),
            Some(levels) if report.vmpl <= 3 && levels.contains(&report.vmpl) => Ok(format!("VMPL {}", report.vmpl)),
            Some(_) => Err(format!("the report was asked for at VMPL {}, which the policy does not name", report.vmpl)),
        },
    );
    let found = policy.measurement.as_ref().map(|reference| reference.find(|value| *value == report.measurement));
    let measured = report.measurement;
    let (result, matched) = match found {
        None => (Err(silent("measurement")), None),
        Some(Ok(Some(matched))) => (Ok(format!("{measured} is image {}", matched.image)), Some(matched)),
        Some(Ok(None)) => (Ok(format!("{measured} is allowed, without being an image that is known")), None),
        Some(Err(why)) => (Err(format!("{measured} was launched: {why}")), None),
    };
    recorder.record(&checks::MEASUREMENT, result);
    let host_data = policy.host_data.as_ref().ok_or_else(|| silent("host_data"));
    let named = host_data.and_then(|rule| rule.judge(&report.host_data, &report.host_data.0, instance));
    recorder.record(&checks::HOST_DATA, named);
    check_rule(&checks::FAMILY_ID, "family_id", policy.family_id.as_ref(), &report.family_id, recorder);
    check_rule(&checks::IMAGE_ID, "image_id", policy.image_id.as_ref(), &report.image_id, recorder);
    recorder.record(
        &checks::GUEST_SVN,
        match policy.minimum_guest_svn {
            None => Err(silent("minimum_guest_svn")),
            Some(least) if report.guest_svn < least => {
                Err(format!("the guest's security version is {}, less than {least}", report.guest_svn))
            }
            Some(least) => Ok(format!("the guest's security version is {}, at least {least}", report.guest_svn)),
        },
    );
    check_rule(&checks::ID_KEY, "id_key", policy.id_key.as_ref(), &report.id_key_digest, recorder);
    if report.key_info.author_key() == report.author_key_digest.is_zero() {
        let why = "the report's AUTHOR_KEY_EN and AUTHOR_KEY_DIGEST contradict each other";
        recorder.record(&checks::AUTHOR_KEY, Err(why.into()));
    } else {
        check_rule(&checks::AUTHOR_KEY, "author_key", policy.author_key.as_ref(), &report.author_key_digest, recorder);
    }
    check_rule(&checks::REPORT_ID, "report_id", policy.report_id.as_ref(), &report.report_id, recorder);
    matched
}
