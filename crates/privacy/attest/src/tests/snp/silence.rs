//! What a policy leaves out is refused: each expectation, taken out of a policy that accepts, fails its checks.

use serde_json::Value;

use super::scene::*;
use crate::snp::SnpPolicy;

/// Each field of the policy, and what fails without it.
const FIELDS: &[(&str, &[&str])] = &[
    ("lines", &["snp.product.allowed"]),
    ("signing_keys", &["snp.leaf.kind"]),
    ("revocation", &["snp.crl.given", "snp.crl.signature", "snp.crl.dates", "snp.crl.revoked"]),
    ("chip_ids", &["snp.chip.allowed"]),
    ("masked_chip_id", &["snp.leaf.chip-id"]),
    ("providers", &["snp.leaf.provider"]),
    ("minimum_tcb", &["snp.tcb.minimum"]),
    ("minimum_launch_tcb", &["snp.tcb.minimum-launch"]),
    ("minimum_firmware", &["snp.firmware.minimum"]),
    ("provisional_firmware", &["snp.tcb.provisional"]),
    ("mitigations", &["snp.mitigations.launch", "snp.mitigations.current"]),
    (
        "guest_policy",
        &[
            "snp.policy.abi",
            "snp.policy.smt",
            "snp.policy.single-socket",
            "snp.policy.cxl",
            "snp.policy.memory-encryption",
            "snp.policy.rapl",
            "snp.policy.ciphertext-hiding",
            "snp.policy.page-swap",
        ],
    ),
    ("guest_policy.minimum_abi", &["snp.policy.abi"]),
    ("guest_policy.smt", &["snp.policy.smt"]),
    ("guest_policy.single_socket", &["snp.policy.single-socket"]),
    ("guest_policy.cxl", &["snp.policy.cxl"]),
    ("guest_policy.mem_aes_256_xts", &["snp.policy.memory-encryption"]),
    ("guest_policy.rapl_disabled", &["snp.policy.rapl"]),
    ("guest_policy.ciphertext_hiding", &["snp.policy.ciphertext-hiding"]),
    ("guest_policy.page_swap_disabled", &["snp.policy.page-swap"]),
    ("migration", &["snp.policy.migration", "snp.report-id-ma"]),
    (
        "platform",
        &[
            "snp.platform.smt",
            "snp.platform.tsme",
            "snp.platform.ecc",
            "snp.platform.rapl",
            "snp.platform.ciphertext-hiding",
            "snp.platform.alias-check",
            "snp.platform.tio",
            "snp.platform.unknown",
        ],
    ),
    ("platform.smt", &["snp.platform.smt"]),
    ("platform.tsme", &["snp.platform.tsme"]),
    ("platform.ecc", &["snp.platform.ecc"]),
    ("platform.rapl_disabled", &["snp.platform.rapl"]),
    ("platform.ciphertext_hiding", &["snp.platform.ciphertext-hiding"]),
    ("platform.alias_check_complete", &["snp.platform.alias-check"]),
    ("platform.tio", &["snp.platform.tio"]),
    ("platform.unknown", &["snp.platform.unknown"]),
    ("vmpl", &["snp.vmpl"]),
    ("measurement", &["snp.measurement"]),
    ("host_data", &["snp.host-data"]),
    ("family_id", &["snp.id-block.family-id"]),
    ("image_id", &["snp.id-block.image-id"]),
    ("minimum_guest_svn", &["snp.id-block.guest-svn"]),
    ("id_key", &["snp.id-block.id-key"]),
    ("author_key", &["snp.id-block.author-key"]),
    ("report_id", &["snp.report-id"]),
];

/// Fields of which a report under a VCEK has nothing to be judged by.
const OF_VLEKS: [&str; 2] = ["masked_chip_id", "providers"];

fn fields(policy: &Value) -> Vec<String> {
    let top = policy.as_object().unwrap();
    let nested = ["guest_policy", "platform"]
        .into_iter()
        .flat_map(|group| top[group].as_object().unwrap().keys().map(move |field| format!("{group}.{field}")));
    let mut all: Vec<String> = top.keys().cloned().chain(nested).collect();
    all.sort();
    all
}

fn without(policy: &Value, field: &str) -> SnpPolicy {
    let mut policy = policy.clone();
    let removed = match field.split_once('.') {
        Some((group, field)) => policy[group].as_object_mut().unwrap().remove(field),
        None => policy.as_object_mut().unwrap().remove(field),
    };
    assert!(removed.is_some(), "{field}");
    serde_json::from_value(policy).unwrap()
}

#[test]
fn every_expectation_that_is_left_out_fails_its_checks() {
    let full = serde_json::to_value(&Scene::good().policy).unwrap();
    let mut named: Vec<String> = FIELDS.iter().map(|(field, _)| (*field).to_owned()).collect();
    named.sort();
    assert_eq!(named, fields(&full), "the fields of the policy and of this test differ");
    for (field, expected) in FIELDS {
        let mut scene = if OF_VLEKS.contains(field) { Scene::under_vlek() } else { Scene::good() };
        scene.policy = without(&serde_json::to_value(&scene.policy).unwrap(), field);
        let (_, checks) = scene.judge();
        assert_eq!(failing(&checks), *expected, "{field}");
        let said = checks.iter().any(|check| check.detail.contains(&format!("`snp.{field}")));
        assert!(said, "no check of {field} says what to add");
    }
}

#[test]
fn a_silent_policy_accepts_nothing_that_it_could_decide() {
    let mut scene = Scene::good();
    scene.policy = SnpPolicy::default();
    let failed = scene.failing();
    // A VCEK belongs to no provider and its chip is never masked.
    let of_vleks = ["snp.leaf.chip-id", "snp.leaf.provider"];
    let decided = FIELDS.iter().flat_map(|(_, ids)| ids.iter()).filter(|id| !of_vleks.contains(id));
    let missing: Vec<_> = decided.filter(|id| !failed.iter().any(|failed| failed == *id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_policy_denies_what_it_does_not_know() {
    let full = serde_json::to_string(&Scene::good().policy).unwrap();
    let same: SnpPolicy = serde_json::from_str(&full).unwrap();
    assert_eq!(same, Scene::good().policy);
    for (from, to) in [
        ("\"vmpl\":", "\"vmpls\":[],\"vmpl\":"),
        ("\"smt\":\"set\"", "\"smt\":\"set\",\"sst\":\"set\""),
        ("\"smt\":\"set\"", "\"smt\":\"on\""),
        ("\"genoa\"", "\"naples\""),
        ("\"launch\":\"0x3\"", "\"launch\":\"3\""),
        ("\"launch\":\"0x3\"", "\"launch\":\"0x\""),
        ("\"launch\":\"0x3\"", "\"launch\":\"0x+3\""),
        ("\"1.55.40\"", "\"1.55\""),
        ("\"1.55.40\"", "\"1.55.256\""),
        ("\"1.55.40\"", "\"1.55.40.1\""),
        ("\"ucode\":84", "\"ucode\":84,\"fmv\":1"),
        (&"c1".repeat(64), &"c1".repeat(63)),
        (&"c1".repeat(64), &"C1".repeat(64)),
    ] {
        assert!(full.contains(from), "{from}");
        serde_json::from_str::<SnpPolicy>(&full.replacen(from, to, 1)).expect_err(to);
    }
}
