//! What a report says, for people and programs.

use serde_json::{Value, json};

use super::chain::Leaf;
use super::leaf::Owner;
use super::policy::SigningKey;
use super::report::{GuestPolicy, PlatformInfo, SnpReport};
use super::tcb::TcbVersion;
use crate::anchors::AmdLine;
use crate::verdict::Claims;

/// Every field, under the names that AMD's tables have for them.
pub(super) fn claims(
    report: &SnpReport<'_>,
    line: Option<AmdLine>,
    signer: Option<SigningKey>,
    leaf: Option<&Leaf>,
) -> Claims {
    let mut claims = Claims::new();
    for fields in [guest(report), platform(report), firmware(report, line)] {
        if let Value::Object(fields) = fields {
            claims.extend(fields);
        }
    }
    claims.insert("signing_key".into(), json!(signer.map(SigningKey::name)));
    if let Some(facts) = leaf.and_then(|leaf| leaf.facts.as_ref().ok()) {
        claims.insert("product_name".into(), json!(facts.product_name));
        if let Owner::Provider(provider) = &facts.owner {
            claims.insert("provider".into(), json!(provider));
        }
    }
    claims
}

fn guest(report: &SnpReport<'_>) -> Value {
    json!({
        "report_version": report.version,
        "measurement": report.measurement,
        "report_data": hex::encode(report.report_data),
        "host_data": report.host_data,
        "policy": format!("{:#x}", report.policy.0),
        "policy_bits": policy_bits(report.policy),
        "page_swap_disabled": report.policy.has(GuestPolicy::PAGE_SWAP_DISABLE),
        "debug": report.policy.has(GuestPolicy::DEBUG),
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "family_id": report.family_id,
        "image_id": report.image_id,
        "id_key_digest": report.id_key_digest,
        "author_key_en": report.key_info.author_key(),
        "author_key_digest": report.author_key_digest,
        "report_id": report.report_id,
        "report_id_ma": report.report_id_ma,
    })
}

fn platform(report: &SnpReport<'_>) -> Value {
    let mut fields = json!({
        "platform_info": format!("{:#x}", report.platform.0),
        "platform_bits": platform_bits(report.platform),
        "mask_chip_key": report.key_info.mask_chip_key(),
        "chip_id": report.chip_id,
    });
    if let (Some(cpuid), Some(fields)) = (report.cpuid, fields.as_object_mut()) {
        let value = json!({"family": cpuid.family, "model": cpuid.model, "stepping": cpuid.stepping});
        fields.insert("cpuid".into(), value);
    }
    fields
}

fn firmware(report: &SnpReport<'_>, line: Option<AmdLine>) -> Value {
    let tcb = |version: TcbVersion| {
        let mut parts = version.parts(line).claim();
        parts.insert("raw".into(), json!(version.hex()));
        parts
    };
    let mut fields = json!({
        "tcb": {"components": report.reported_tcb.parts(line).claim(), "status": null},
        "tcb_status": null,
        "reported_tcb": tcb(report.reported_tcb),
        "current_tcb": tcb(report.current_tcb),
        "current_tcb_raw": report.current_tcb.hex(),
        "committed_tcb": tcb(report.committed_tcb),
        "launch_tcb": tcb(report.launch_tcb),
        "current_version": report.current_version.to_string(),
        "committed_version": report.committed_version.to_string(),
    });
    if let (Some(vectors), Some(fields)) = (report.mitigations, fields.as_object_mut()) {
        fields.insert("launch_mit_vector".into(), json!(format!("{:#x}", vectors.launch)));
        fields.insert("current_mit_vector".into(), json!(format!("{:#x}", vectors.current)));
    }
    fields
}

fn policy_bits(policy: GuestPolicy) -> Value {
    let (abi_major, abi_minor) = policy.abi();
    json!({
        "abi_minor": abi_minor,
        "abi_major": abi_major,
        "smt_allowed": policy.has(GuestPolicy::SMT),
        "migrate_ma": policy.has(GuestPolicy::MIGRATE_MA),
        "debug": policy.has(GuestPolicy::DEBUG),
        "single_socket": policy.has(GuestPolicy::SINGLE_SOCKET),
        "cxl_allowed": policy.has(GuestPolicy::CXL),
        "mem_aes_256_xts": policy.has(GuestPolicy::MEM_AES_256_XTS),
        "rapl_dis": policy.has(GuestPolicy::RAPL_DIS),
        "ciphertext_hiding": policy.has(GuestPolicy::CIPHERTEXT_HIDING),
    })
}

fn platform_bits(platform: PlatformInfo) -> Value {
    json!({
        "smt": platform.has(PlatformInfo::SMT),
        "tsme": platform.has(PlatformInfo::TSME),
        "ecc": platform.has(PlatformInfo::ECC),
        "rapl_dis": platform.has(PlatformInfo::RAPL_DIS),
        "ciphertext_hiding": platform.has(PlatformInfo::CIPHERTEXT_HIDING),
        "alias_check_complete": platform.has(PlatformInfo::ALIAS_CHECK_COMPLETE),
        "tio": platform.has(PlatformInfo::TIO),
    })
}
