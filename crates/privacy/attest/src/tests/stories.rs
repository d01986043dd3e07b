//! What is accepted, what a verdict says, and what documents look like.

use lambda_types::session::{Hello, PROTOCOL};
use lambda_types::shape::Shape;
use lambda_types::{BootId, ImageId};

use super::scene::*;
use super::tpm_checks;
use crate::challenge::{ChallengeError, issue};
use crate::*;

#[test]
fn a_guest_about_which_everything_is_right_is_accepted() {
    let scene = Scene::good();
    let Judgement { verdict, attested } = scene.judge();
    assert_eq!(verdict.failed().collect::<Vec<_>>(), Vec::<&Check>::new());
    let attested = attested.unwrap();
    assert_eq!((attested.image, attested.shapes), (ImageId::from_bits(3), vec![Shape::Nano]));
    assert_eq!(attested.policy_hash, scene.policy.hash());
    assert_eq!(attested.nonce, [5; 32]);
    assert_eq!(attested.hpke_public, [8; 32]);
    assert_eq!(attested.clock.unwrap().reset_count, 7);
    assert_eq!(verdict.claims["platform_ca"], pki::fingerprint(scene.platform.pem().as_bytes()).unwrap());
}

#[test]
fn a_later_boot_and_a_second_look_at_the_same_boot_are_accepted() {
    let mut scene = Scene::good();
    scene.previous = Some(scene.previous_clock());
    assert_eq!(scene.failed(), Vec::<String>::new());
    scene.previous = Some(TpmClock { boot: scene.boot, reset_count: scene.reset_count, ..scene.previous_clock() });
    assert_eq!(scene.failed(), Vec::<String>::new());
}

#[test]
fn a_boot_after_a_power_loss_may_have_lost_clock_but_not_resets() {
    let mut scene = Scene::good();
    scene.safe = 0;
    scene.previous = Some(TpmClock { clock: scene.clock + 1, ..scene.previous_clock() });
    assert_eq!(scene.failed(), Vec::<String>::new());
    scene.previous = Some(TpmClock { reset_count: scene.reset_count, ..scene.previous_clock() });
    assert_eq!(scene.failed(), ["tpm.clock.monotonic"]);
}

#[test]
fn the_reference_that_fits_is_found_among_several() {
    let mut scene = Scene::good();
    let mut other = scene.tpm_policy().images[0].clone();
    other.image = ImageId::from_bits(44);
    for expected in other.shapes.values_mut() {
        expected.kernel = "11".repeat(32);
        expected.pcrs.insert(4, "22".repeat(32));
    }
    scene.tpm_policy().images.insert(0, other);
    assert_eq!(scene.judge().attested.unwrap().image, ImageId::from_bits(3));
}

#[test]
fn shapes_that_measure_alike_are_all_named() {
    let mut scene = Scene::good();
    let shapes = &mut scene.tpm_policy().images[0].shapes;
    let nano = shapes[&Shape::Nano].clone();
    let mut other = nano.clone();
    other.pcrs.insert(4, "22".repeat(32));
    shapes.extend([(Shape::Micro, nano), (Shape::Large, other)]);
    assert_eq!(scene.judge().attested.unwrap().shapes, [Shape::Nano, Shape::Micro]);
}

#[test]
fn a_changed_initramfs_is_named_as_what_differs() {
    let mut scene = Scene::good();
    scene.events[16].digest = sha256(b"other initramfs");
    assert_eq!(scene.failed(), ["tpm.measured.initramfs", "tpm.pcr.loader"]);
    let judged = scene.judge();
    let detail = &judged.verdict.failed().next().unwrap().detail;
    assert!(detail.contains("the initramfs is not that of debian-12 2026.11.23"), "{detail}");
    assert!(detail.contains(&hex::encode(sha256(b"other initramfs"))), "{detail}");
}

#[test]
fn a_verdict_lists_every_check_in_order_and_names_its_tier_plainly() {
    let verdict = Scene::good().judge().verdict;
    let ids: Vec<&str> = verdict.checks.iter().map(|check| check.id.as_str()).collect();
    assert_eq!(ids, tpm_checks().iter().map(|info| info.id).collect::<Vec<_>>());
    assert_eq!(verdict.tier, Assurance::Platform);
    assert!(verdict.tier_statement().contains("NOT hidden from the host"));
    let json = serde_json::to_string(&verdict).unwrap();
    assert!(json.starts_with(r#"{"verdict":"accepted","tier":"platform","tee":"tpm","product":"#), "{json}");
    assert!(json.contains(r#"{"id":"policy.tee","outcome":"pass","detail":"#), "{json}");
    assert!(json.contains(r#""outcome":"not-applicable""#), "{json}");
    assert!(json.contains("memory is NOT hidden from the host"), "{json}");
    assert!(!json.to_lowercase().contains("confidential"));
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
}

#[test]
fn evidence_survives_its_document_and_unknown_fields_are_refused() {
    let evidence = Scene::good().evidence();
    let document = evidence.to_json();
    assert!(document.len() < MAX_EVIDENCE_BYTES);
    assert_eq!(Evidence::from_json(&document).unwrap(), evidence);
    let text = String::from_utf8(document).unwrap();
    for (from, to) in [
        (r#"{"version":1"#, r#"{"extra":0,"version":1"#),
        (r#""binding":{"#, r#""binding":{"extra":0,"#),
        (r#""tee":"tpm""#, r#""tee":"tpm","extra":0"#),
        (r#""tee":"tpm""#, r#""tee":"snp""#),
        (r#""version":1"#, r#""version":2"#),
        (r#""index":0"#, r#""index":256"#),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Evidence::from_json(text.replacen(from, to, 1).as_bytes()).is_err(), "{to} was read");
    }
}

#[test]
fn a_policy_survives_its_document_and_hashes_to_the_same() {
    let policy = Scene::good().policy;
    let again = Policy::parse(&policy.to_json()).unwrap();
    assert_eq!(again, policy);
    assert_eq!(again.hash(), policy.hash());
    let pretty = serde_json::to_vec_pretty(&policy).unwrap();
    assert_eq!(Policy::parse(&pretty).unwrap().hash(), policy.hash());
    let text = String::from_utf8(policy.to_json()).unwrap();
    for (from, to) in [
        (r#"{"version":1"#, r#"{"version":2"#),
        (r#""tpm":{"#, r#""tpm":{"extra":0,"#),
        (r#""minimum_tier":"platform""#, r#""minimum_tier":"none""#),
        ("BEGIN CERTIFICATE", "BEGIN CERTIFICATX"),
        (r#""kernel":""#, r#""kernel":"0"#),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Policy::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to} was read");
    }
}

#[test]
fn a_policy_made_from_an_image_accepts_that_image() {
    let mut scene = Scene::good();
    let expected = serde_json::to_value(scene.reference()).unwrap();
    let manifest = serde_json::json!({
        "format": 1, "name": "debian-12", "version": "1", "parts": {},
        "verity": {"root_hash": "", "salt": "", "data_size": 0},
        "command_line": "", "expected": {"tpm": {"nano": expected}},
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    scene.policy = Policy::for_image(&manifest, &scene.platform.pem()).unwrap();
    let attested = scene.judge().attested.unwrap();
    assert_eq!(attested.image.to_bytes(), sha256(&manifest)[..16]);
}

fn inspected(scene: &Scene) -> Inspection {
    let endorsements = Endorsements { anchors: &Anchors::vendor().unwrap(), collateral: &Collateral::none() };
    inspect_evidence(&scene.evidence(), &endorsements, scene.now).unwrap()
}

#[test]
fn an_inspection_shows_claims_and_says_that_it_is_no_verdict() {
    let scene = Scene::good();
    let inspection = inspected(&scene);
    assert!(inspection.note.contains("not a verdict"));
    assert_eq!(inspection.claims["reset_count"], 7);
    assert!(inspection.checks.iter().all(|check| check.outcome == Outcome::Pass), "{:?}", inspection.checks);
    let mut bent = Scene::good();
    bent.ak_key = random_key();
    let failed: Vec<_> = inspected(&bent).checks.into_iter().filter(|check| check.outcome == Outcome::Fail).collect();
    assert_eq!(failed.iter().map(|check| check.id.as_str()).collect::<Vec<_>>(), ["tpm.quote.signature"]);
}

fn hello(scene: &Scene) -> Hello {
    Hello {
        protocol: PROTOCOL,
        instance: scene.instance,
        boot: scene.boot,
        hpke_public: scene.binding.hpke_public.clone(),
        ssh_host_key: scene.binding.ssh_host_key.clone(),
        tpm: Some(scene.identity()),
    }
}

#[test]
fn no_credential_is_made_for_a_tpm_that_nobody_vouches_for() {
    let mut scene = Scene::good();
    let entropy = std::array::from_fn(|index| u8::try_from(index).unwrap());
    let (challenge, outstanding) = issue(&hello(&scene), &scene.policy, NOON, &entropy).unwrap();
    assert_eq!(challenge.nonce.as_slice(), &entropy[..32]);
    assert_eq!(outstanding.nonce().as_slice(), &entropy[..32]);
    assert!(challenge.credential.is_some());

    scene.platform = authority("Lambda platform CA", rcgen::BasicConstraints::Unconstrained);
    let refused = issue(&hello(&scene), &scene.policy, NOON, &entropy).err().unwrap();
    assert_eq!(refused.failed_checks(), ["tpm.ek.chain.anchor", "tpm.ek.chain.signatures"]);
    assert!(refused.to_string().contains("vouched for by somebody else"), "{refused}");
}

#[test]
fn a_guest_of_another_protocol_or_without_a_tpm_is_not_challenged() {
    let scene = Scene::good();
    let mut hello = hello(&scene);
    hello.protocol = 2;
    assert!(matches!(issue(&hello, &scene.policy, NOON, &[0; 96]), Err(ChallengeError::Protocol(2))));
    hello.protocol = PROTOCOL;
    hello.tpm = None;
    assert!(matches!(issue(&hello, &scene.policy, NOON, &[0; 96]), Err(ChallengeError::NoTpm)));
}

#[test]
fn report_data_separates_every_field() {
    let scene = Scene::good();
    let reference = report_data(&[5; 32], &scene.binding);
    let mut variants = vec![report_data(&[5; 31], &scene.binding), report_data(&[], &scene.binding)];
    let mut change = |change: fn(&mut Binding)| {
        let mut binding = scene.binding.clone();
        change(&mut binding);
        variants.push(report_data(&[5; 32], &binding));
    };
    change(|binding| binding.instance = lambda_types::InstanceId::from_bits(6));
    change(|binding| binding.boot = BootId::from_bits(6));
    change(|binding| binding.hpke_public.0[31] ^= 1);
    change(|binding| binding.ssh_host_key.0[0] ^= 1);
    variants.push(reference);
    let distinct: std::collections::BTreeSet<_> = variants.iter().collect();
    assert_eq!(distinct.len(), variants.len());
}
