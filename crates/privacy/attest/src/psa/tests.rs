use std::sync::LazyLock;

use super::checks::PSA;
use super::{PsaPolicy, SILENT};
use crate::anchors::Anchors;
use crate::appraise::{Context, Demand, Endorsements, Given};
use crate::checks::Recorder;
use crate::collateral::Collateral;
use crate::cose::testing::{Item, Key, bytes, component, set, sign, text};
use crate::cose::{Endorsement, HexString, Lifecycle, SoftwareComponent};
use crate::evidence::PsaEvidence;
use crate::policy::Rule;
use crate::time::UnixTime;
use crate::verdict::{Assurance, Outcome};

const IMPLEMENTATION: [u8; 32] = [0x11; 32];
const NONCE: [u8; 64] = [0x88; 64];
const SIGNER: [u8; 32] = [0x55; 32];
const MEASURED: [(&str, [u8; 32]); 2] = [("SPE", [0x66; 32]), ("NSPE", [0x77; 32])];
const CERTIFICATION: &str = "0604565272829-10010";

fn instance() -> Vec<u8> {
    [&[1], &[0x22; 32][..]].concat()
}

fn hexed(value: impl AsRef<[u8]>) -> HexString {
    HexString(value.as_ref().to_vec())
}

/// Everything that a token is made of, good as it stands.
struct Scene {
    key: Key,
    header: Vec<(i64, Item)>,
    claims: Vec<(i64, Item)>,
    policy: PsaPolicy,
    demand: Vec<u8>,
}

fn scene() -> Scene {
    let key = Key::p256(1);
    let software = |(kind, measurement): &(&str, [u8; 32])| component(kind, measurement, &SIGNER, "1.6.0");
    let claims = vec![
        (265, text("tag:psacertified.org,2023:psa#tfm")),
        (10, bytes(NONCE)),
        (2394, Item::Int(-3002)),
        (2395, Item::Int(0x3000)),
        (2396, bytes(IMPLEMENTATION)),
        (256, bytes(instance())),
        (2397, bytes([0xa0; 32])),
        (2398, text(CERTIFICATION)),
        (2399, Item::Array(MEASURED.iter().map(software).collect())),
        (2400, text("www.trustedfirmware.org")),
    ];
    let allowed = |(kind, measurement): &(&str, [u8; 32])| SoftwareComponent {
        kind: (*kind).into(),
        measurement: hexed(measurement),
        signer_id: hexed(SIGNER),
        version: None,
    };
    let policy = PsaPolicy {
        endorsements: Some(vec![Endorsement {
            implementation_id: hexed(IMPLEMENTATION),
            instance_id: hexed(instance()),
            public_key: key.pem(),
        }]),
        lifecycle: Some(Rule::OneOf(vec![Lifecycle::Secured])),
        client_id: Some(Rule::OneOf(vec![-3002])),
        software: Some(Rule::OneOf(MEASURED.iter().map(allowed).collect())),
        certification: Some(Rule::OneOf(vec![CERTIFICATION.into()])),
    };
    Scene { header: vec![(1, Item::Int(key.algorithm()))], key, claims, policy, demand: NONCE.to_vec() }
}

/// The same device in the older numbering.
fn legacy() -> Scene {
    let mut scene = scene();
    let numbers = [
        (265, -75000),
        (2394, -75001),
        (2395, -75002),
        (2396, -75003),
        (2397, -75004),
        (2398, -75005),
        (2399, -75006),
        (10, -75008),
        (256, -75009),
        (2400, -75010),
    ];
    for (label, _) in &mut scene.claims {
        *label = numbers.iter().find(|(from, _)| from == label).unwrap().1;
    }
    set(&mut scene.claims, -75000, Some(text("PSA_IOT_PROFILE_1")));
    scene
}

impl Scene {
    fn token(&self) -> Vec<u8> {
        sign(&self.header, &[], &self.claims, &self.key)
    }

    fn judge(&self, token: Vec<u8>, given: Option<&Given>) -> (Vec<String>, Assurance) {
        static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| Anchors::vendor().unwrap());
        let endorsements = Endorsements { anchors: &ANCHORS, collateral: &Collateral::none() };
        let demand =
            given.map_or(Demand::ReportData(&self.demand), |given| crate::inspect::demand(crate::Tee::Psa, given));
        let context = Context { demand, endorsements: &endorsements, given, instance: None, now: UnixTime(0) };
        let mut recorder = Recorder::default();
        let evidence = PsaEvidence { token: token.into() };
        let appraised = super::check(&evidence, &self.policy, &context, &mut recorder);
        let failed = recorder.finish(PSA).into_iter().filter(|check| check.outcome == Outcome::Fail);
        (failed.map(|check| check.id).collect(), appraised.tier)
    }

    fn fails(&self, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|id| format!("psa.{id}")).collect();
        assert_eq!(self.judge(self.token(), None).0, expected);
    }
}

fn with(key: i64, value: Option<Item>) -> Scene {
    let mut scene = scene();
    set(&mut scene.claims, key, value);
    scene
}

#[test]
fn a_good_token_is_accepted_and_hides_no_memory() {
    assert_eq!(scene().judge(scene().token(), None), (vec![], Assurance::Platform));
    legacy().fails(&[]);
}

#[test]
fn another_curve_is_fine_when_the_key_is_of_it() {
    let mut large = scene();
    large.key = Key::p384(3);
    large.header = vec![(1, Item::Int(-35))];
    large.policy.endorsements.as_mut().unwrap()[0].public_key = large.key.pem();
    large.fails(&[]);
}

#[test]
fn what_is_not_one_strict_message_fails_everything() {
    let all: Vec<String> = PSA.iter().map(|info| info.id.to_owned()).collect();
    assert_eq!(all[0], "psa.token.structure");
    let good = scene();
    let token = good.token();
    for bad in [[&token[..], &[0]].concat(), token[1..].to_vec(), Vec::new()] {
        assert_eq!(good.judge(bad, None).0, all);
    }
}

#[test]
fn a_profile_has_to_be_known() {
    with(265, Some(text("http://arm.com/psa/9.9.9"))).fails(&["profile", "claims"]);
    let mut mixed = legacy();
    set(&mut mixed.claims, -75000, Some(text("http://arm.com/psa/2.0.0")));
    mixed.fails(&["profile", "claims"]);
}

#[test]
fn a_token_of_two_generations_is_refused() {
    let mut both = legacy();
    set(&mut both.claims, 265, Some(text("http://arm.com/psa/2.0.0")));
    both.fails(&["claims"]);
}

#[test]
fn a_claim_of_another_type_or_size_is_refused() {
    with(2397, Some(bytes([1; 33]))).fails(&["claims"]);
    with(2400, Some(Item::Int(1))).fails(&["claims"]);
    with(10, Some(bytes([1; 31]))).fails(&["claims", "nonce"]);
    with(2399, None).fails(&["claims", "software-complete"]);
    let mut contradiction = legacy();
    set(&mut contradiction.claims, -75007, Some(Item::Int(1)));
    contradiction.fails(&["claims"]);
}

#[test]
fn a_device_without_measurements_cannot_have_the_software_that_is_named() {
    let mut none = legacy();
    set(&mut none.claims, -75006, None);
    set(&mut none.claims, -75007, Some(Item::Int(1)));
    none.fails(&["software-complete"]);
}

#[test]
fn a_critical_header_is_not_passed_over() {
    let mut critical = scene();
    critical.header.push((2, Item::Array(vec![Item::Int(3)])));
    critical.header.push((3, Item::Int(50)));
    critical.fails(&["algorithm"]);
    let mut other = scene();
    other.header = vec![(1, Item::Int(-35))];
    other.fails(&["algorithm", "signature"]);
}

#[test]
fn a_device_that_the_policy_does_not_endorse_is_refused() {
    let mut other = scene();
    other.policy.endorsements.as_mut().unwrap()[0].instance_id = hexed([1; 33]);
    other.fails(&["endorsement", "signature"]);
}

#[test]
fn a_token_by_another_key_is_refused() {
    let mut other = scene();
    other.key = Key::p256(2);
    other.fails(&["signature"]);
}

#[test]
fn another_nonce_is_refused() {
    let mut other = scene();
    other.demand = vec![0x89; 64];
    other.fails(&["nonce"]);
    let mut shorter = scene();
    shorter.demand.truncate(32);
    shorter.fails(&["nonce"]);
}

#[test]
fn a_debugged_device_is_refused_whatever_the_policy_says() {
    for state in [0x4000, 0x5000] {
        let mut debug = with(2395, Some(Item::Int(state)));
        debug.policy.lifecycle = Some(Rule::Any);
        debug.fails(&["debug"]);
    }
}

#[test]
fn a_state_of_life_that_the_policy_does_not_allow_is_refused() {
    for state in [0x0000, 0x1000, 0x2000, 0x6000, 0x7000] {
        with(2395, Some(Item::Int(state))).fails(&["lifecycle"]);
    }
}

#[test]
fn a_caller_that_the_policy_does_not_allow_is_refused() {
    with(2394, Some(Item::Int(3002))).fails(&["client-id"]);
    with(2394, Some(Item::Int(0))).fails(&["claims", "client-id"]);
}

#[test]
fn a_measurement_without_the_length_of_its_hash_is_refused() {
    let mut wrong = scene();
    let odd = Item::Map(vec![
        (Item::Int(1), text("SPE")),
        (Item::Int(2), bytes([0x66; 32])),
        (Item::Int(5), bytes(SIGNER)),
        (Item::Int(6), text("SHA512")),
    ]);
    let rest = component("NSPE", &MEASURED[1].1, &SIGNER, "1.6.0");
    set(&mut wrong.claims, 2399, Some(Item::Array(vec![odd, rest])));
    wrong.fails(&["hash-algorithms"]);
}

#[test]
fn software_that_the_policy_does_not_name_is_refused() {
    let good = component("SPE", &MEASURED[0].1, &SIGNER, "1.6.0");
    let changed = component("NSPE", &[0x78; 32], &SIGNER, "1.6.0");
    with(2399, Some(Item::Array(vec![good, changed]))).fails(&["software"]);
}

#[test]
fn software_that_the_policy_names_must_have_been_measured_once() {
    let alone = component("SPE", &MEASURED[0].1, &SIGNER, "1.6.0");
    with(2399, Some(Item::Array(vec![alone.clone()]))).fails(&["software-complete"]);
}

#[test]
fn another_certification_is_refused() {
    with(2398, Some(text("0000000000000-00000"))).fails(&["certification"]);
    with(2398, None).fails(&["certification"]);
}

#[test]
fn a_policy_that_says_nothing_allows_nothing() {
    let mut silent = scene();
    silent.policy = SILENT.clone();
    silent.fails(&[
        "endorsement",
        "signature",
        "lifecycle",
        "client-id",
        "software",
        "software-complete",
        "certification",
    ]);
}

#[test]
fn the_bare_key_of_an_inspection_anchors_nothing() {
    let mut inspected = scene();
    inspected.policy = PsaPolicy::default_appraisal();
    let given = Given { keys: vec![inspected.key.spki()], ..Given::default() };
    assert_eq!(inspected.judge(inspected.token(), Some(&given)), (vec![], Assurance::Unanchored));
}

#[test]
fn a_nonce_that_is_given_to_an_inspection_has_to_be_the_tokens() {
    let mut inspected = scene();
    inspected.policy = PsaPolicy::default_appraisal();
    let judge = |nonce: &[u8]| {
        let keys = vec![inspected.key.spki()];
        let given = Given { nonce: Some(nonce.to_vec()), keys, ..Given::default() };
        inspected.judge(inspected.token(), Some(&given)).0
    };
    assert_eq!(judge(&NONCE), [""; 0]);
    assert_eq!(judge(&[0x89; 64]), ["psa.nonce"]);
    assert_eq!(judge(&NONCE[..NONCE.len() - 1]), ["psa.nonce"]);
}

#[test]
fn every_byte_of_a_token_decides() {
    let good = scene();
    let token = good.token();
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
fn every_check_has_a_negative_here() {
    for info in PSA {
        let id = info.id.strip_prefix("psa.").unwrap();
        assert!(include_str!("tests.rs").contains(&format!("{id}\"")), "{id}");
    }
}
