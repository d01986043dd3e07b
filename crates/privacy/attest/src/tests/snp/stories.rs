//! What is accepted, and why.

use std::collections::BTreeMap;

use lambda_types::launch::host_data;
use lambda_types::shape::Shape;
use lambda_types::{BootId, ImageId, InstanceId};

use super::der::*;
use super::forge::*;
use super::scene::*;
use crate::policy::{HostDataRule, ImageReference, Reference, Rule};
use crate::snp::*;
use crate::*;

#[track_caller]
fn accepted(scene: &Scene) {
    assert_eq!(scene.failing(), [""; 0]);
}

fn outcome(scene: &Scene, id: &str) -> Outcome {
    scene.judge().1.iter().find(|check| check.id == id).unwrap().outcome
}

#[test]
fn reports_of_every_line_version_and_kind_of_key_are_accepted() {
    for scene in [Scene::good(), Scene::under_vlek(), Scene::on_turin(), Scene::on_milan()] {
        accepted(&scene);
    }
    for version in [3, 4] {
        let mut scene = Scene::on_milan();
        scene.report.put_u32(at::VERSION, version);
        scene.report.put(at::CPUID, &[0x19, 1, 1]);
        accepted(&scene);
    }
}

#[test]
fn processors_are_of_the_line_whose_root_certifies_them() {
    for (cpuid, line) in [
        ([0x19, 0x00], Some("Milan")),
        ([0x19, 0x0F], Some("Milan")),
        ([0x19, 0x10], Some("Genoa")),
        ([0x19, 0xA0], Some("Genoa")),
        ([0x19, 0x20], None),
        ([0x1A, 0x02], Some("Turin")),
        ([0x1A, 0x11], Some("Turin")),
        ([0x1A, 0x20], None),
        ([0x17, 0x31], None),
    ] {
        let mut scene = Scene::good();
        scene.report.put(at::CPUID, &cpuid);
        scene.given = Some(Vec::new());
        assert_eq!(scene.judge().0.product, line.unwrap_or("AMD SEV-SNP"), "{cpuid:x?}");
    }
}

#[test]
fn the_parts_of_a_tcb_lie_where_its_line_has_them() {
    let claims = |scene: Scene| scene.judge().0.claims;
    let milan = &claims(Scene::on_milan())["reported_tcb"];
    assert_eq!(*milan, serde_json::json!({"bl": 10, "tee": 1, "snp": 23, "ucode": 84, "raw": "0a01000000001754"}));
    let turin = &claims(Scene::on_turin())["reported_tcb"];
    assert_eq!(
        *turin,
        serde_json::json!({"fmc": 2, "bl": 10, "tee": 1, "snp": 23, "ucode": 84, "raw": "020a011700000054"})
    );
}

#[test]
fn a_hardware_id_may_be_wrapped_in_an_octet_string() {
    for mut scene in [Scene::good(), Scene::on_turin()] {
        let id = scene.leaf.extension(HW_ID);
        id.value = octet_string(&id.value);
        accepted(&scene);
    }
}

#[test]
fn certificates_come_in_any_order_and_from_either_side() {
    let mut scene = Scene::good();
    scene.given = Some(vec![scene.root.der(), scene.intermediate.der(), scene.leaf.der()]);
    accepted(&scene);
    scene.given = Some(vec![scene.leaf.der()]);
    scene.collateral = vec![scene.intermediate.der()];
    accepted(&scene);
    scene.given = Some(Vec::new());
    scene.collateral = vec![scene.intermediate.der(), scene.root.der(), scene.leaf.der()];
    accepted(&scene);
}

#[test]
fn the_certificate_for_the_reported_tcb_is_found_among_others() {
    let mut scene = Scene::good();
    let (mut older, mut other) = (scene.leaf.clone(), scene.leaf.clone());
    older.extension(&spl(8)).value = integer(80);
    other.extension(HW_ID).value = vec![0xC2; 64];
    let vlek = Scene::under_vlek().leaf.der();
    scene.given = Some(vec![older.der(), scene.intermediate.der()]);
    assert_eq!(scene.failing(), ["snp.leaf.tcb"]);
    scene.collateral = vec![vlek, other.der(), older.der(), scene.leaf.der()];
    accepted(&scene);
}

#[test]
fn of_two_intermediates_of_one_name_the_one_that_signed_counts() {
    let mut scene = Scene::good();
    let mut earlier = scene.intermediate.clone();
    (earlier.serial, earlier.spki) = (0x7777, Authority::Small.spki());
    scene.given = Some(vec![earlier.der(), scene.leaf.der(), scene.intermediate.der()]);
    accepted(&scene);
    scene.leaf.signer = Authority::Small;
    scene.given = Some(vec![earlier.der(), scene.leaf.der(), scene.intermediate.der()]);
    assert_eq!(scene.failing(), ["snp.chain.algorithms", "snp.crl.revoked"]);
}

#[test]
fn the_kind_of_key_is_not_read_from_a_name() {
    let mut scene = Scene::good();
    let mut vlek = Scene::under_vlek().leaf;
    vlek.subject = "SEV-VCEK".into();
    scene.leaf.subject = "sev".into();
    scene.given = Some(vec![vlek.der(), scene.leaf.der(), scene.intermediate.der()]);
    assert_eq!(scene.failing(), ["snp.chain.names"]);
}

#[test]
fn a_revocation_list_is_judged_when_there_is_one_and_needed_only_if_the_policy_says_so() {
    let mut scene = Scene::good();
    scene.policy.revocation = Some(Revocation::IfGiven);
    accepted(&scene);
    assert_eq!(outcome(&scene, "snp.crl.revoked"), Outcome::Pass);
    scene.crl.as_mut().unwrap().issuer = "ARK-Milan".into();
    accepted(&scene);
    for id in ["snp.crl.given", "snp.crl.signature", "snp.crl.dates", "snp.crl.revoked"] {
        assert_eq!(outcome(&scene, id), Outcome::NotApplicable, "{id}");
    }
}

#[test]
fn a_provisional_tcb_is_accepted_where_the_policy_says_so() {
    let mut scene = Scene::good();
    scene.report.put(at::CURRENT_TCB + 7, &[85]);
    scene.report.put(at::CURRENT_VERSION, &[41]);
    scene.policy.provisional_firmware = Some(true);
    accepted(&scene);
}

#[test]
fn a_named_migration_agent_is_accepted() {
    let mut scene = Scene::good();
    scene.report.flip_u64(at::POLICY, 1 << 18);
    scene.report.put(at::REPORT_ID_MA, &[0xA9; 32]);
    scene.policy.migration = Some(Migration::Agents(vec![Hex([0xA9; 32])]));
    accepted(&scene);
    scene.policy.migration = Some(Migration::Any);
    accepted(&scene);
}

#[test]
fn a_guest_without_id_block_is_accepted_where_the_policy_names_the_digest_of_zeros() {
    let mut scene = Scene::good();
    scene.report.put(at::ID_KEY_DIGEST, &[0; 48]);
    scene.report.put(at::AUTHOR_KEY_DIGEST, &[0; 48]);
    scene.report.put_u32(at::KEY_INFO, 0);
    scene.policy.id_key = Some(Rule::OneOf(vec![Hex([0; 48])]));
    scene.policy.author_key = Some(Rule::OneOf(vec![Hex([0; 48])]));
    accepted(&scene);
}

#[test]
fn an_image_is_recognised_by_its_measurement_in_every_shape_that_measures_alike() {
    let mut scene = Scene::good();
    let image = |bits, shapes: &[(Shape, u8)]| ImageReference {
        image: ImageId::from_bits(bits),
        name: "debian-12".into(),
        version: "1".into(),
        shapes: shapes.iter().map(|(shape, byte)| (*shape, Hex([*byte; 48]))).collect::<BTreeMap<_, _>>(),
    };
    let shapes = [(Shape::Nano, 0x3D), (Shape::Small, 0x3E)];
    scene.policy.measurement = Some(Reference::Images(vec![image(1, &shapes[..1]), image(2, &shapes)]));
    let matched = scene.judge().0.image.unwrap();
    assert_eq!((matched.image, matched.shapes), (ImageId::from_bits(2), vec![Shape::Small]));
    accepted(&scene);
    scene.policy.measurement = Some(Reference::Any);
    assert!(scene.judge().0.image.is_none());
    accepted(&scene);
}

#[test]
fn a_policy_for_a_measurement_says_all_that_has_to_be_said() {
    let mut scene = launched_as(InstanceId::from_bits(1));
    scene.policy = SnpPolicy::for_measurement(Reference::OneOf(vec![Hex([0x3E; 48])]));
    accepted(&scene);
    scene.policy.revocation = Some(Revocation::IfGiven);
    scene.leaf.extension(&spl(3)).value = integer(22);
    for offset in [at::CURRENT_TCB, at::REPORTED_TCB, at::COMMITTED_TCB, at::LAUNCH_TCB] {
        scene.report.put(offset + 6, &[22]);
    }
    assert_eq!(scene.failing(), ["snp.tcb.minimum", "snp.tcb.minimum-launch"]);
}

#[test]
fn claims_say_what_kind_of_key_signed_and_for_whom() {
    let vlek = Scene::under_vlek().judge().0.claims;
    assert_eq!((&vlek["signing_key"], &vlek["provider"]), (&"VLEK".into(), &PROVIDER.into()));
    let vcek = Scene::good().judge().0.claims;
    assert_eq!((&vcek["signing_key"], vcek.get("provider")), (&"VCEK".into(), None));
    assert_eq!(vcek["cpuid"], serde_json::json!({"family": 25, "model": 17, "stepping": 1}));
    assert_eq!(vcek["launch_mit_vector"], "0xb");
}

#[test]
fn a_line_is_refused_by_not_naming_it() {
    let mut scene = Scene::on_milan();
    scene.policy.lines = Some(vec![AmdLine::Genoa, AmdLine::Turin]);
    assert_eq!(scene.failing(), ["snp.product.allowed"]);
}

/// GUID, offset, length, of each entry; then what they hold.
fn table(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
    let mut head = Vec::new();
    let mut body = Vec::new();
    for (guid, content) in entries {
        let offset = 24 * (entries.len() + 1) + body.len();
        head.extend_from_slice(guid);
        head.extend(u32::try_from(offset).unwrap().to_le_bytes());
        head.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        body.extend_from_slice(content);
    }
    head.extend([0; 24]);
    head.extend(body);
    head
}

const VCEK_GUID: [u8; 16] = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
const ASK_GUID: [u8; 16] = *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82";

#[test]
fn a_certificate_table_gives_its_certificates_as_der() {
    let scene = Scene::good();
    let (leaf, ask) = (scene.leaf.der(), scene.intermediate.der());
    let pem = ::der::pem::encode_string("CERTIFICATE", ::der::pem::LineEnding::LF, &ask).unwrap();
    let padded = [leaf.as_slice(), &[0; 300]].concat();
    let bytes = table(&[(VCEK_GUID, &padded), ([9; 16], b"unknown"), (ASK_GUID, pem.as_bytes())]);
    let read: Vec<Vec<u8>> = certificates_of_table(&bytes).unwrap().into_iter().map(|binary| binary.0).collect();
    assert_eq!(read, [leaf, ask]);
    assert_eq!(certificates_of_table(&[0; 24]).unwrap(), []);
}

#[test]
fn a_certificate_table_that_does_not_fit_itself_is_refused() {
    let leaf = Scene::good().leaf.der();
    let good = table(&[(VCEK_GUID, &leaf)]);
    for length in 0..good.len() {
        certificates_of_table(&good[..length]).unwrap_err();
    }
    let mut far = good.clone();
    far[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut long = good.clone();
    long[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    let two = table(&[(VCEK_GUID, &[leaf.as_slice(), &leaf].concat())]);
    let many = table(&[(VCEK_GUID, leaf.as_slice()); 17]);
    let text = table(&[(VCEK_GUID, b"-----BEGIN CERTIFICATE-----\nnothing")]);
    let key = table(&[(VCEK_GUID, b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----")]);
    let huge = vec![0; 128 * 1024 + 1];
    for bad in [far, long, two, many, text, key, huge, good[..24].repeat(3)] {
        certificates_of_table(&bad).unwrap_err();
    }
}

/// A guest that was launched as this instance, under a policy that wants just the instance that is judged.
fn launched_as(instance: InstanceId) -> Scene {
    let mut scene = Scene::good();
    scene.report.put(at::HOST_DATA, &host_data(instance));
    scene.policy.host_data = Some(HostDataRule::Instance);
    scene.instance = Some(instance);
    scene
}

#[test]
fn host_data_of_another_instance_is_refused_by_that_check_alone() {
    let (ours, other) = (InstanceId::from_bits(0x0102), InstanceId::from_bits(0x0103));
    accepted(&launched_as(ours));
    let mut scene = launched_as(ours);
    scene.instance = Some(other);
    assert_eq!(scene.failing(), ["snp.host-data"]);
    let mut scene = launched_as(ours);
    scene.report.put(at::HOST_DATA, &[0; 32]);
    assert_eq!(scene.failing(), ["snp.host-data"]);
}

#[test]
fn where_nobody_says_which_instance_a_policy_that_wants_it_named_refuses_and_says_so() {
    let mut scene = launched_as(InstanceId::from_bits(1));
    scene.instance = None;
    let (_, checks) = scene.judge();
    assert_eq!(failing(&checks), ["snp.host-data"]);
    let check = checks.iter().find(|check| check.id == "snp.host-data").unwrap();
    assert!(check.detail.contains("nobody said which instance"), "{}", check.detail);
}

/// A record of this guest, and the policy that it is judged by.
fn recorded(scene: &mut Scene, instance: InstanceId) -> (Record, Policy) {
    let mut wire = vec![0, 0, 0, 11];
    wire.extend_from_slice(b"ssh-ed25519\0\0\0\x20");
    wire.extend_from_slice(&[7; 32]);
    let boot = BootId::from_bits(5);
    let binding = Binding { instance, boot, hpke_public: vec![9; 32].into(), ssh_host_key: wire.into() };
    scene.report.put(at::REPORT_DATA, &report_data(&[5; 32], &binding));
    let image = ImageId::from_bits(2);
    let shapes = BTreeMap::from([(Shape::Small, Hex([0x3E; 48]))]);
    let image = ImageReference { image, name: "d".into(), version: "1".into(), shapes };
    scene.policy.measurement = Some(Reference::Images(vec![image]));
    let policy = Policy {
        minimum_tier: Some(lambda_types::shape::Tier::Hardware),
        snp: Some(scene.policy.clone()),
        ..Policy::silent()
    };
    let record = Record {
        version: RECORD_VERSION,
        instance,
        boot,
        at: scene.now,
        challenge: Outstanding::for_tests([5; 32], [4; 32], Vec::new(), Vec::new()).spend(),
        previous: None,
        evidence: Evidence { version: EVIDENCE_VERSION, binding, report: Report::Snp(scene.evidence()) },
        collateral: scene.collateral(),
    };
    (record, policy)
}

#[test]
fn a_record_is_judged_by_the_instance_that_was_asked_and_by_the_one_that_the_judge_demands() {
    let (ours, other) = (InstanceId::from_bits(0x0102), InstanceId::from_bits(0x0103));
    let failed = |launched: InstanceId, asked: InstanceId, demanded: InstanceId| {
        let mut scene = launched_as(launched);
        let (record, policy) = recorded(&mut scene, asked);
        let verdict = record.judge(demanded, &policy, &scene.anchors(), scene.now).unwrap();
        verdict.failed().map(|check| check.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(failed(ours, ours, ours), [""; 0]);
    assert_eq!(
        failed(other, ours, ours),
        ["snp.host-data"],
        "a guest that was launched as another says that it is ours"
    );
    assert_eq!(failed(ours, ours, other), ["binding.instance", "snp.host-data"]);
}

#[test]
fn a_bare_report_is_judged_by_the_instance_that_the_judge_names() {
    let (ours, other) = (InstanceId::from_bits(0x0102), InstanceId::from_bits(0x0103));
    let mut scene = launched_as(ours);
    let (record, policy) = recorded(&mut scene, ours);
    let (anchors, asked) = (scene.anchors(), report_data(&[5; 32], &record.evidence.binding));
    let endorsements = Endorsements { anchors: &anchors, collateral: &record.collateral };
    let failed = |instance: Option<InstanceId>| {
        let verdict =
            judge(&record.evidence.report, Some(&asked), instance, &policy, &endorsements, scene.now).unwrap();
        verdict.failed().map(|check| check.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(failed(Some(ours)), [""; 0]);
    for instance in [Some(other), None] {
        assert_eq!(failed(instance), ["snp.host-data"], "{instance:?}");
    }
}

#[test]
fn what_amd_does_not_vouch_for_is_unanchored() {
    assert_eq!(Scene::good().judge().0.tier, Assurance::Hardware);
    let spoil: [fn(&mut Scene); 5] = [
        |scene| scene.intermediate.signer = Authority::Intermediate,
        |scene| scene.leaf.signer = Authority::Root,
        |scene| scene.after_signing = |report| report.put(at::MEASUREMENT, &[0]),
        |scene| scene.pinned_as = AmdLine::Milan,
        |scene| scene.given = Some(Vec::new()),
    ];
    for (index, spoil) in spoil.into_iter().enumerate() {
        let mut scene = Scene::good();
        spoil(&mut scene);
        let (appraised, checks) = scene.judge();
        assert!(!failing(&checks).is_empty());
        assert_eq!(appraised.tier, Assurance::Unanchored, "{index}");
    }
}

/// What was verified once is not verified again, and is of use to nothing else: not to another leaf, not after its dates,
/// not once it is revoked, and never for the report.
#[test]
fn a_signature_that_is_remembered_vouches_for_nothing_else() {
    let good = Scene::good();
    let anchors = good.anchors();
    let failed = |scene: &Scene| failing(&scene.judge_under(&scene.evidence(), &anchors).1);
    assert_eq!(failed(&good), [""; 0]);
    assert_eq!(failed(&good), [""; 0]);
    type Spoil = (fn(&mut Scene), &'static [&'static str]);
    let spoil: [Spoil; 6] = [
        (|scene| scene.leaf.signer = Authority::Root, &["snp.chain.leaf-signature"]),
        (|scene| scene.leaf.serial = 9, &[]),
        (|scene| scene.crl.as_mut().unwrap().signer = Authority::Intermediate, &["snp.crl.signature"]),
        (|scene| scene.crl.as_mut().unwrap().revoked = vec![2], &["snp.crl.revoked"]),
        (|scene| scene.now = UnixTime(1_767_225_600), &["snp.crl.dates"]),
        (
            |scene| scene.after_signing = |report| report.put(at::REPORT_ID, &[0x4E, 0]),
            &["snp.report.signature", "snp.report-id"],
        ),
    ];
    for (index, (spoil, expected)) in spoil.into_iter().enumerate() {
        let mut scene = Scene::good();
        spoil(&mut scene);
        assert_eq!(failed(&scene), expected, "{index}");
    }
    assert_eq!(failed(&good), [""; 0]);
}
