//! Tokens of version 2: `tag:arm.com,2024:cca_platform#2.0.0` with `tag:arm.com,2024:realm#2.0.0`.

use super::*;

fn version_2() -> Scene {
    let mut scene = scene();
    set(&mut scene.platform, 265, Some(text("tag:arm.com,2024:cca_platform#2.0.0")));
    set(&mut scene.platform, 2394, Some(Item::Int(1)));
    set(&mut scene.realm, 265, Some(text("tag:arm.com,2024:realm#2.0.0")));
    set(&mut scene.realm, 256, Some(bytes(instance())));
    set(&mut scene.realm, 44243, Some(text("private")));
    scene
}

/// Its collection, in which each token stands beside its content format.
fn wrapped(scene: &Scene, format: i64) -> Vec<u8> {
    let platform = sign(&scene.platform_header, &[], &scene.platform, &scene.platform_key);
    let realm = sign(&scene.realm_header, &[], &scene.realm, &scene.realm_key);
    let entry = |token: Vec<u8>| Item::Array(vec![Item::Int(format), bytes(token)]);
    encode(&Item::Tag(907, Box::new(map([(44234, entry(platform)), (44241, entry(realm))]))))
}

#[test]
fn a_token_of_version_2_is_accepted_in_either_collection() {
    let scene = version_2();
    assert_eq!(scene.judge(scene.token(), None), (vec![], Assurance::Hardware));
    assert_eq!(scene.judge(wrapped(&scene, 263), None), (vec![], Assurance::Hardware));
}

#[test]
fn a_collection_of_another_content_format_or_of_bare_tokens_under_its_tag_fails_everything() {
    let scene = version_2();
    let platform = sign(&scene.platform_header, &[], &scene.platform, &scene.platform_key);
    let bare = encode(&Item::Tag(907, Box::new(map([(44234, bytes(&platform)), (44241, bytes(&platform))]))));
    for token in [wrapped(&scene, 60), bare] {
        assert_eq!(scene.judge(token, None).0.len(), CCA.len());
    }
}

#[test]
fn versions_are_not_mixed() {
    let mut mixed = version_2();
    set(&mut mixed.realm, 265, Some(text("tag:arm.com,2023:realm#1.0.0")));
    mixed.fails(&["token.profiles"]);
}

#[test]
fn a_token_of_version_2_names_its_client_and_how_its_memory_is_encrypted() {
    let mut other = version_2();
    set(&mut other.platform, 2394, Some(Item::Int(2)));
    other.fails(&["platform.claims"]);
    let mut silent = version_2();
    set(&mut silent.platform, 2394, None);
    silent.fails(&["platform.claims"]);
    let mut unknown = version_2();
    set(&mut unknown.realm, 44243, Some(text("none")));
    unknown.fails(&["realm.claims", "realm.memory-encryption"]);
    let mut nothing = version_2();
    set(&mut nothing.realm, 44243, None);
    nothing.fails(&["realm.claims", "realm.memory-encryption"]);
}

#[test]
fn a_realm_that_shares_the_key_of_its_memory_is_refused_and_only_inspected() {
    let mut shared = version_2();
    set(&mut shared.realm, 44243, Some(text("shared")));
    shared.fails(&["realm.memory-encryption"]);
    shared.policy = CcaPolicy::default_appraisal();
    let given = Given { keys: vec![shared.platform_key.spki()], ..Given::default() };
    assert_eq!(shared.judge(shared.token(), Some(&given)), (vec![], Assurance::Unanchored));
}

#[test]
fn what_the_platform_adds_to_its_configuration_is_refused_by_a_policy_that_names_configurations() {
    let device = map([(2, bytes([1; 32])), (5, text("spdm-1.2.0"))]);
    for (key, claim) in [
        (2403, bytes([1])),
        (2404, Item::Array(vec![device])),
        (2405, Item::Array(vec![map([(1, text("DM"))])])),
        (2406, bytes([1])),
    ] {
        let mut more = version_2();
        set(&mut more.platform, key, Some(claim));
        more.fails(&["platform.configuration"]);
        more.policy.configuration = Some(Rule::Any);
        more.fails(&[]);
        set(&mut more.platform, key, Some(bytes([])));
        more.fails(&["platform.claims"]);
    }
}

#[test]
fn an_inspection_expects_nothing_of_the_length_of_measurements() {
    let mut long = version_2();
    long.event_log = None;
    set(&mut long.realm, 44238, Some(bytes([0x43; 64])));
    set(&mut long.platform, 2402, Some(text("sha-512")));
    let inspected = |scene: &mut Scene| {
        scene.policy = CcaPolicy::default_appraisal();
        let given = Given { keys: vec![scene.platform_key.spki()], ..Given::default() };
        scene.judge(scene.token(), Some(&given)).0
    };
    long.policy.event_log = Some(EventLogRule::Optional);
    long.fails(&["platform.hash-algorithms", "realm.hash-algorithm", "realm.initial-measurement"]);
    assert_eq!(inspected(&mut long), [""; 0]);
}
