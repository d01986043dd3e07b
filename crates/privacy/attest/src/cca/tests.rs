mod version_2;

use std::sync::LazyLock;

use lambda_types::InstanceId;
use sha2::{Digest as _, Sha256};

use super::checks::CCA;
use super::{CcaPolicy, EventLogRule, SILENT};
use crate::anchors::Anchors;
use crate::appraise::{Context, Demand, Endorsements, Given};
use crate::checks::Recorder;
use crate::collateral::Collateral;
use crate::cose::testing::{Item, Key, bytes, component, encode, map, set, sign, text};
use crate::cose::{Endorsement, HexString, Lifecycle, SoftwareComponent};
use crate::eventlog::EventKind;
use crate::evidence::CcaEvidence;
use crate::policy::{HostDataRule, Reference, Rule};
use crate::time::UnixTime;
use crate::verdict::{Assurance, Outcome};

const IMPLEMENTATION: [u8; 32] = [0x11; 32];
const CONFIGURATION: [u8; 4] = [0xcf; 4];
const PERSONALIZATION: [u8; 64] = [0x33; 64];
const RIM: [u8; 32] = [0x44; 32];
const SIGNER: [u8; 32] = [0x55; 32];
const MEASURED: [(&str, [u8; 32]); 2] = [("BL", [0x66; 32]), ("RMM", [0x77; 32])];
const CHALLENGE: [u8; 64] = [0x88; 64];

fn instance() -> Vec<u8> {
    [&[1], &[0x22; 32][..]].concat()
}

fn hexed(value: impl AsRef<[u8]>) -> HexString {
    HexString(value.as_ref().to_vec())
}

/// A log of one event in register 1, and the value that it gives.
fn event_log(data: &[u8], measured: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = [1u32.to_le_bytes(), EventKind::NO_ACTION.0.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((spec.len() as u32).to_le_bytes());
    log.extend(spec);
    let digest: [u8; 32] = Sha256::digest(measured).into();
    log.extend([1u32.to_le_bytes(), EventKind::EFI_ACTION.0.to_le_bytes(), 1u32.to_le_bytes()].concat());
    log.extend([0x0b, 0]);
    log.extend(digest);
    log.extend((data.len() as u32).to_le_bytes());
    log.extend(data);
    (log, Sha256::digest([[0; 32], digest].concat()).into())
}

/// Everything that a token is made of, good as it stands.
struct Scene {
    platform_key: Key,
    realm_key: Key,
    platform_header: Vec<(i64, Item)>,
    realm_header: Vec<(i64, Item)>,
    unprotected: Vec<(i64, Item)>,
    platform: Vec<(i64, Item)>,
    realm: Vec<(i64, Item)>,
    policy: CcaPolicy,
    event_log: Option<Vec<u8>>,
    demand: Vec<u8>,
    instance: Option<InstanceId>,
}

fn scene() -> Scene {
    let (platform_key, realm_key) = (Key::p384(1), Key::p384(2));
    let (log, rem) = event_log(b"realm started", b"realm started");
    let rems = [rem, [0; 32], [0; 32], [0; 32]];
    let realm_public = realm_key.cose_key();
    let software = |(kind, measurement): &(&str, [u8; 32])| component(kind, measurement, &SIGNER, "1.0");
    let platform = vec![
        (265, text("tag:arm.com,2023:cca_platform#1.0.0")),
        (10, bytes(Sha256::digest(&realm_public))),
        (2396, bytes(IMPLEMENTATION)),
        (256, bytes(instance())),
        (2401, bytes(CONFIGURATION)),
        (2395, Item::Int(0x3003)),
        (2402, text("sha-256")),
        (2399, Item::Array(MEASURED.iter().map(software).collect())),
        (2400, text("https://verifier.example")),
    ];
    let realm = vec![
        (265, text("tag:arm.com,2023:realm#1.0.0")),
        (10, bytes(CHALLENGE)),
        (44235, bytes(PERSONALIZATION)),
        (44236, text("sha-256")),
        (44237, bytes(realm_public)),
        (44238, bytes(RIM)),
        (44239, Item::Array(rems.iter().map(bytes).collect())),
        (44240, text("sha-256")),
    ];
    let allowed = |(kind, measurement): &(&str, [u8; 32])| SoftwareComponent {
        kind: (*kind).into(),
        measurement: hexed(measurement),
        signer_id: hexed(SIGNER),
        version: Some("1.0".into()),
    };
    let policy = CcaPolicy {
        endorsements: Some(vec![Endorsement {
            implementation_id: hexed(IMPLEMENTATION),
            instance_id: hexed(instance()),
            public_key: platform_key.pem(),
        }]),
        lifecycle: Some(Rule::OneOf(vec![Lifecycle::Secured])),
        software: Some(Rule::OneOf(MEASURED.iter().map(allowed).collect())),
        configuration: Some(Rule::OneOf(vec![hexed(CONFIGURATION)])),
        initial_measurement: Some(Reference::OneOf(vec![hexed(RIM)])),
        extensible_measurements: Some(Rule::OneOf(vec![rems.iter().map(hexed).collect()])),
        personalization: Some(HostDataRule::OneOf(vec![hexed(PERSONALIZATION)])),
        event_log: Some(EventLogRule::Required),
    };
    Scene {
        platform_header: vec![(1, Item::Int(platform_key.algorithm()))],
        realm_header: vec![(1, Item::Int(realm_key.algorithm()))],
        unprotected: Vec::new(),
        platform_key,
        realm_key,
        platform,
        realm,
        policy,
        event_log: Some(log),
        demand: CHALLENGE.to_vec(),
        instance: None,
    }
}

impl Scene {
    fn token(&self) -> Vec<u8> {
        let platform = sign(&self.platform_header, &self.unprotected, &self.platform, &self.platform_key);
        let realm = sign(&self.realm_header, &[], &self.realm, &self.realm_key);
        encode(&Item::Tag(399, Box::new(map([(44234, bytes(platform)), (44241, bytes(realm))]))))
    }

    /// The realm's key, in either form, with the platform's word for it.
    fn with_realm_key(mut self, encoded: &[u8]) -> Self {
        set(&mut self.platform, 10, Some(bytes(Sha256::digest(encoded))));
        set(&mut self.realm, 44237, Some(bytes(encoded)));
        self
    }

    fn judge(&self, token: Vec<u8>, given: Option<&Given>) -> (Vec<String>, Assurance) {
        let evidence = CcaEvidence { token: token.into(), event_log: self.event_log.clone().map(Into::into) };
        static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| Anchors::vendor().unwrap());
        let endorsements = Endorsements { anchors: &ANCHORS, collateral: &Collateral::none() };
        let demand =
            given.map_or(Demand::ReportData(&self.demand), |given| crate::inspect::demand(crate::Tee::Cca, given));
        let context = Context { demand, endorsements: &endorsements, given, instance: self.instance, now: UnixTime(0) };
        let mut recorder = Recorder::default();
        let appraised = super::check(&evidence, &self.policy, &context, &mut recorder);
        let checks = recorder.finish(CCA);
        assert_eq!(checks.len(), CCA.len());
        let failed = checks.into_iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id);
        (failed.collect(), appraised.tier)
    }

    fn failed(&self) -> Vec<String> {
        self.judge(self.token(), None).0
    }

    fn fails(&self, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|id| format!("cca.{id}")).collect();
        assert_eq!(self.failed(), expected);
    }
}

#[test]
fn a_good_token_is_accepted_and_hides_memory() {
    assert_eq!(scene().judge(scene().token(), None), (vec![], Assurance::Hardware));
}

#[test]
fn the_realm_key_may_be_a_bare_point_or_on_another_curve() {
    let mut bare = scene();
    let point = bare.realm_key.point();
    bare = bare.with_realm_key(&point);
    bare.fails(&[]);
    let mut small = scene();
    small.realm_key = Key::p256(9);
    small.realm_header = vec![(1, Item::Int(-7))];
    let encoded = small.realm_key.cose_key();
    small.with_realm_key(&encoded).fails(&[]);
}

#[test]
fn the_older_profile_is_read() {
    let mut older = scene();
    set(&mut older.platform, 265, Some(text("http://arm.com/CCA-SSD/1.0.0")));
    set(&mut older.realm, 265, None);
    older.fails(&[]);
}

#[test]
fn claims_that_are_not_known_are_passed_over() {
    let mut more = scene();
    set(&mut more.realm, 44299, Some(text("new")));
    more.fails(&[]);
}

#[test]
fn what_is_not_one_strict_collection_fails_everything() {
    let all: Vec<String> = CCA.iter().map(|info| info.id.to_owned()).collect();
    assert_eq!(all[0], "cca.token.structure");
    let good = scene();
    let platform = sign(&good.platform_header, &[], &good.platform, &good.platform_key);
    let alone = encode(&Item::Tag(399, Box::new(map([(44234, bytes(&platform))]))));
    let more = map([(44234, bytes(&platform)), (44241, bytes(&platform)), (1, Item::Int(1))]);
    let untagged = encode(&map([(44234, bytes(&platform)), (44241, bytes(&platform))]));
    for token in [
        [good.token(), vec![0]].concat(),
        alone,
        encode(&Item::Tag(399, Box::new(more))),
        untagged,
        platform.clone(),
        Vec::new(),
    ] {
        assert_eq!(good.judge(token, None).0, all);
    }
}

#[test]
fn profiles_have_to_be_known_and_of_one_kind() {
    let mut mixed = scene();
    set(&mut mixed.realm, 265, None);
    mixed.fails(&["token.profiles"]);
    let mut unknown = scene();
    set(&mut unknown.platform, 265, Some(text("tag:arm.com,2099:cca_platform#9.0.0")));
    unknown.fails(&["token.profiles"]);
}

#[test]
fn a_platform_claim_of_another_type_is_refused() {
    let mut wrong = scene();
    set(&mut wrong.platform, 2400, Some(Item::Int(1)));
    wrong.fails(&["platform.claims"]);
    let mut missing = scene();
    set(&mut missing.platform, 2401, None);
    missing.fails(&["platform.claims", "platform.configuration"]);
    let mut instance = scene();
    set(&mut instance.platform, 256, Some(bytes([0x22; 33])));
    instance.fails(&["platform.claims", "platform.endorsement", "platform.signature"]);
}

#[test]
fn a_critical_header_of_the_platform_is_not_passed_over() {
    let mut critical = scene();
    critical.platform_header.push((2, Item::Array(vec![Item::Int(3)])));
    critical.platform_header.push((3, Item::Int(50)));
    critical.fails(&["platform.algorithm"]);
}

#[test]
fn the_algorithm_stands_where_the_signature_covers_it() {
    let mut outside = scene();
    outside.unprotected = std::mem::take(&mut outside.platform_header);
    outside.fails(&["platform.algorithm", "platform.signature"]);
    let mut both = scene();
    both.unprotected = vec![(1, Item::Int(-7))];
    // The reader of COSE itself refuses a label that stands twice.
    assert!(both.failed().contains(&"cca.platform.algorithm".to_owned()));
}

#[test]
fn an_algorithm_of_another_curve_is_refused() {
    let mut other = scene();
    other.platform_header = vec![(1, Item::Int(-7))];
    other.fails(&["platform.algorithm", "platform.signature"]);
    let mut unknown = scene();
    unknown.realm_header = vec![(1, Item::Int(-36))];
    unknown.fails(&["realm.algorithm", "realm.signature"]);
}

#[test]
fn a_platform_that_the_policy_does_not_endorse_is_refused() {
    let mut other = scene();
    other.policy.endorsements.as_mut().unwrap()[0].instance_id = hexed([1; 33]);
    other.fails(&["platform.endorsement", "platform.signature"]);
    let mut make = scene();
    make.policy.endorsements.as_mut().unwrap()[0].implementation_id = hexed([1; 32]);
    make.fails(&["platform.endorsement", "platform.signature"]);
    assert_eq!(make.judge(make.token(), None).1, Assurance::Unanchored);
}

#[test]
fn a_platform_token_by_another_key_is_refused() {
    let mut other = scene();
    other.platform_key = Key::p384(7);
    other.fails(&["platform.signature"]);
}

#[test]
fn a_debugged_platform_is_refused_whatever_the_policy_says() {
    for state in [0x4000, 0x5000] {
        let mut debug = scene();
        set(&mut debug.platform, 2395, Some(Item::Int(state)));
        debug.policy.lifecycle = Some(Rule::Any);
        debug.fails(&["platform.debug"]);
    }
}

#[test]
fn a_state_of_life_that_the_policy_does_not_allow_is_refused() {
    for state in [0x0000, 0x1000, 0x2000, 0x6000, 0x7000] {
        let mut other = scene();
        set(&mut other.platform, 2395, Some(Item::Int(state)));
        other.fails(&["platform.lifecycle"]);
    }
}

#[test]
fn a_hash_that_is_not_sha_2_is_refused() {
    let mut named = scene();
    set(&mut named.platform, 2402, Some(text("sha-1")));
    named.fails(&["platform.hash-algorithms"]);
    let mut length = scene();
    set(&mut length.platform, 2402, Some(text("sha-512")));
    length.fails(&["platform.hash-algorithms"]);
}

fn software(scene: &mut Scene, components: Vec<Item>) {
    set(&mut scene.platform, 2399, Some(Item::Array(components)));
}

#[test]
fn software_that_the_policy_does_not_name_is_refused() {
    let good = || MEASURED.iter().map(|(kind, value)| component(kind, value, &SIGNER, "1.0")).collect::<Vec<_>>();
    let changed = [
        component("RMM", &[0x78; 32], &SIGNER, "1.0"),
        component("RMM", &[0x77; 32], &[0x56; 32], "1.0"),
        component("RMM", &[0x77; 32], &SIGNER, "0.9"),
    ];
    for other in changed {
        let mut scene = scene();
        software(&mut scene, vec![good()[0].clone(), other]);
        scene.fails(&["platform.software"]);
    }
    let mut more = scene();
    software(&mut more, [good(), vec![component("EXTRA", &[0x79; 32], &SIGNER, "1.0")]].concat());
    more.fails(&["platform.software"]);
}

#[test]
fn software_that_the_policy_names_must_have_been_measured_once() {
    let good: Vec<Item> = MEASURED.iter().map(|(kind, value)| component(kind, value, &SIGNER, "1.0")).collect();
    let mut less = scene();
    software(&mut less, good[..1].to_vec());
    less.fails(&["platform.software-complete"]);
    let mut twice = scene();
    software(&mut twice, [&good[..], &good[..1]].concat());
    twice.fails(&["platform.software-complete"]);
    let mut none = scene();
    none.policy.software = Some(Rule::OneOf(Vec::new()));
    none.fails(&["platform.software", "platform.software-complete"]);
}

#[test]
fn another_configuration_is_refused() {
    let mut other = scene();
    set(&mut other.platform, 2401, Some(bytes([0xce; 4])));
    other.fails(&["platform.configuration"]);
}

#[test]
fn a_realm_claim_of_another_size_is_refused() {
    let mut wrong = scene();
    set(&mut wrong.realm, 44235, Some(bytes([0x33; 63])));
    wrong.fails(&["realm.claims", "realm.personalization"]);
    let mut fewer = scene();
    set(&mut fewer.realm, 44239, Some(Item::Array(vec![bytes([0; 32]); 3])));
    fewer.fails(&["realm.claims", "realm.extensible-measurements", "log.replay", "log.digests"]);
}

#[test]
fn a_realm_key_off_its_curve_is_refused() {
    let off = [&[4], &[1; 96][..]].concat();
    scene().with_realm_key(&off).fails(&["realm.key", "realm.algorithm", "realm.signature"]);
    let symmetric = encode(&map([(1, Item::Int(4)), (-1, bytes([1; 32]))]));
    scene().with_realm_key(&symmetric).fails(&["realm.key", "realm.algorithm", "realm.signature"]);
}

#[test]
fn a_critical_header_of_the_realm_is_not_passed_over() {
    let mut critical = scene();
    critical.realm_header.push((2, Item::Array(vec![Item::Int(3)])));
    critical.realm_header.push((3, Item::Int(50)));
    critical.fails(&["realm.algorithm"]);
}

#[test]
fn a_realm_token_by_another_key_is_refused() {
    let mut other = scene();
    other.realm_key = Key::p384(8);
    other.fails(&["realm.signature"]);
}

#[test]
fn a_realm_that_the_platform_does_not_vouch_for_is_refused() {
    let mut unbound = scene();
    set(&mut unbound.platform, 10, Some(bytes([0xaa; 32])));
    unbound.fails(&["realm.binding"]);
    let mut weak = scene();
    set(&mut weak.realm, 44240, Some(text("sha-1")));
    weak.fails(&["realm.binding"]);
    // A realm of the attacker's own, with a key of its own, beside a genuine platform token.
    let mut own = scene();
    own.realm_key = Key::p384(8);
    set(&mut own.realm, 44237, Some(bytes(own.realm_key.cose_key())));
    own.fails(&["realm.binding"]);
}

#[test]
fn another_challenge_is_refused() {
    let mut other = scene();
    other.demand = vec![0x89; 64];
    other.fails(&["realm.challenge"]);
}

#[test]
fn a_measurement_without_the_length_of_its_hash_is_refused() {
    let mut other = scene();
    set(&mut other.realm, 44236, Some(text("sha-512")));
    other.event_log = None;
    other.policy.event_log = Some(EventLogRule::Optional);
    other.fails(&["realm.hash-algorithm"]);
}

#[test]
fn another_initial_measurement_is_refused() {
    let mut other = scene();
    set(&mut other.realm, 44238, Some(bytes([0x45; 32])));
    other.fails(&["realm.initial-measurement"]);
}

#[test]
fn other_extensible_measurements_are_refused() {
    let mut other = scene();
    other.policy.extensible_measurements = Some(Rule::OneOf(vec![vec![hexed([1; 32]); 4]]));
    other.fails(&["realm.extensible-measurements"]);
}

#[test]
fn another_personalization_value_is_refused() {
    let mut other = scene();
    set(&mut other.realm, 44235, Some(bytes([0x34; 64])));
    other.fails(&["realm.personalization"]);
}

#[test]
fn a_personalization_value_of_another_instance_is_refused_by_that_check_alone() {
    let (ours, other) = (InstanceId::from_bits(0x0102), InstanceId::from_bits(0x0103));
    let mut value = [0; 64];
    value[..32].copy_from_slice(&lambda_types::launch::host_data(ours));
    let mut scene = scene();
    set(&mut scene.realm, 44235, Some(bytes(value)));
    scene.policy.personalization = Some(HostDataRule::Instance);
    scene.instance = Some(ours);
    assert_eq!(scene.failed(), [""; 0]);
    for instance in [Some(other), None] {
        scene.instance = instance;
        scene.fails(&["realm.personalization"]);
    }
}

#[test]
fn a_log_that_is_missing_or_of_another_realm_is_refused() {
    let mut missing = scene();
    missing.event_log = None;
    missing.fails(&["log.replay"]);
    let mut other = scene();
    other.event_log = Some(event_log(b"another", b"another").0);
    other.fails(&["log.replay"]);
    let mut cut = scene();
    cut.event_log.as_mut().unwrap().pop();
    cut.fails(&["log.replay", "log.digests"]);
}

#[test]
fn a_log_whose_words_are_not_what_was_measured_is_refused() {
    let mut lying = scene();
    lying.event_log = Some(event_log(b"something harmless", b"realm started").0);
    lying.fails(&["log.digests"]);
}

#[test]
fn a_policy_that_says_nothing_allows_nothing() {
    let mut silent = scene();
    silent.policy = SILENT.clone();
    silent.fails(&[
        "platform.endorsement",
        "platform.signature",
        "platform.lifecycle",
        "platform.software",
        "platform.software-complete",
        "platform.configuration",
        "realm.initial-measurement",
        "realm.extensible-measurements",
        "realm.personalization",
        "log.replay",
    ]);
}

#[test]
fn the_bare_key_of_an_inspection_anchors_nothing() {
    let mut inspected = scene();
    inspected.policy = CcaPolicy::default_appraisal();
    let given = Given { keys: vec![inspected.platform_key.spki()], ..Given::default() };
    assert_eq!(inspected.judge(inspected.token(), Some(&given)), (vec![], Assurance::Unanchored));
    let other = Given { keys: vec![Key::p384(7).spki()], ..Given::default() };
    assert_eq!(inspected.judge(inspected.token(), Some(&other)).0, ["cca.platform.signature"]);
    let none = Given::default();
    let failed = inspected.judge(inspected.token(), Some(&none)).0;
    assert_eq!(failed, ["cca.platform.endorsement", "cca.platform.signature"]);
}

#[test]
fn a_nonce_that_is_given_to_an_inspection_has_to_be_the_tokens() {
    let mut inspected = scene();
    inspected.policy = CcaPolicy::default_appraisal();
    let judge = |nonce: &[u8]| {
        let keys = vec![inspected.platform_key.spki()];
        let given = Given { nonce: Some(nonce.to_vec()), keys, ..Given::default() };
        inspected.judge(inspected.token(), Some(&given)).0
    };
    assert_eq!(judge(&CHALLENGE), [""; 0]);
    assert_eq!(judge(&[0x89; 64]), ["cca.realm.challenge"]);
    assert_eq!(judge(&CHALLENGE[..CHALLENGE.len() - 1]), ["cca.realm.challenge"]);
}

#[test]
fn every_byte_of_a_token_decides() {
    let mut good = scene();
    good.platform_key = Key::p256(1);
    good.platform_header = vec![(1, Item::Int(-7))];
    good.policy.endorsements.as_mut().unwrap()[0].public_key = good.platform_key.pem();
    good.realm_key = Key::p256(2);
    good.realm_header = vec![(1, Item::Int(-7))];
    let encoded = good.realm_key.cose_key();
    let good = good.with_realm_key(&encoded);
    let token = good.token();
    assert_eq!(good.judge(token.clone(), None).0, [""; 0]);
    for byte in 0..token.len() {
        let mut bent = token.clone();
        bent[byte] ^= 1 << (byte % 8);
        assert!(!good.judge(bent, None).0.is_empty(), "byte {byte}");
    }
    for length in 0..token.len() {
        assert!(!good.judge(token[..length].to_vec(), None).0.is_empty(), "{length} bytes");
    }
}

#[test]
fn a_policy_says_what_is_wrong_with_it() {
    let mut policy = scene().policy;
    assert_eq!(policy.fault(), None);
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<CcaPolicy>(&text).unwrap(), policy);
    assert!(serde_json::from_str::<CcaPolicy>(&text.replace("\"lifecycle\"", "\"life_cycle\"")).is_err());
    policy.endorsements.as_mut().unwrap()[0].public_key = "none".into();
    assert!(policy.fault().is_some());
}

#[test]
fn every_check_has_a_negative_here() {
    for info in CCA {
        let id = info.id.strip_prefix("cca.").unwrap();
        let negatives = [include_str!("tests.rs"), include_str!("tests/version_2.rs")];
        assert!(negatives.iter().any(|text| text.contains(&format!("{id}\""))), "{id}");
    }
}
