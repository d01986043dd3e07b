//! One named negative for each way to be wrong. Each says exactly which checks fail, so that a check which is removed,
//! or which stops looking, is noticed.

use std::collections::BTreeSet;

use super::certificates::{CHAIN, LEAF, NO_INTERMEDIATE, REVOCATION};
use super::forge::*;
use super::scene::*;
use crate::policy::{Reference, Rule};
use crate::snp::*;
use crate::{AmdLine, Hex};

/// A name, the checks that fail, in order, and what is done to the good scene.
pub(super) type Case = (&'static str, &'static [&'static str], fn(&mut Scene));

/// A report that does not say what signed it.
const NO_SIGNER: &[&str] = &["snp.report.signing-key", "snp.chain.names", "snp.leaf.kind"];

fn floor(scene: &mut Scene) -> &mut TcbParts {
    scene.policy.minimum_tcb.as_mut().unwrap().values_mut().next().unwrap()
}

fn launch_floor(scene: &mut Scene) -> &mut TcbParts {
    scene.policy.minimum_launch_tcb.as_mut().unwrap().values_mut().next().unwrap()
}

fn guest_policy(scene: &mut Scene, bit: u32) {
    scene.report.flip_u64(at::POLICY, 1 << bit);
}

fn platform(scene: &mut Scene, bit: u32) {
    scene.report.flip_u64(at::PLATFORM_INFO, 1 << bit);
}

const REPORT: &[Case] = &[
    ("a version after the last that is known", &["snp.report.version"], |scene| {
        scene.report.put_u32(at::VERSION, 6);
    }),
    (
        "a version before the first, which had no processor and no mitigations in it",
        &["snp.report.version", "snp.report.reserved", "snp.mitigations.launch", "snp.mitigations.current"],
        |scene| scene.report.put_u32(at::VERSION, 1),
    ),
    (
        "a version 2 report with a processor in it",
        &["snp.report.reserved", "snp.mitigations.launch", "snp.mitigations.current"],
        |scene| {
            scene.report.put_u32(at::VERSION, 2);
        },
    ),
    ("a reserved byte after the key information", &["snp.report.reserved"], |scene| scene.report.put(0x4F, &[1])),
    ("a reserved bit of the key information", &["snp.report.reserved"], |scene| {
        scene.report.put_u32(at::KEY_INFO, 1 | 1 << 5)
    }),
    ("a reserved byte after the processor", &["snp.report.reserved"], |scene| scene.report.put(0x19F, &[1])),
    ("a reserved byte after the current version", &["snp.report.reserved"], |scene| scene.report.put(0x1EB, &[1])),
    ("a reserved byte after the committed version", &["snp.report.reserved"], |scene| scene.report.put(0x1EF, &[1])),
    ("a reserved byte before the signature", &["snp.report.reserved"], |scene| scene.report.put(0x29F, &[1])),
    ("another signature algorithm", &["snp.report.signature-algorithm"], |scene| {
        scene.report.put_u32(at::SIGNATURE_ALGORITHM, 2);
    }),
    ("an R of more than 48 bytes", &["snp.report.signature-form"], |scene| {
        scene.after_signing = |report| report.put(0x2A0 + 48, &[1])
    }),
    ("an S of more than 48 bytes", &["snp.report.signature-form"], |scene| {
        scene.after_signing = |report| report.put(0x2A0 + 143, &[1])
    }),
    ("something after the signature", &["snp.report.signature-form"], |scene| {
        scene.after_signing = |report| report.put(0x49F, &[1])
    }),
    ("a report that nothing signed", NO_SIGNER, |scene| scene.report.put_u32(at::KEY_INFO, 1 | 7 << 2)),
    ("a report under a reserved kind of key", NO_SIGNER, |scene| scene.report.put_u32(at::KEY_INFO, 1 | 2 << 2)),
    ("a report under a VCEK that the platform does not use", NO_SIGNER, |scene| {
        scene.report.put_u32(at::KEY_INFO, 1 | 1 << 1)
    }),
    ("a report that another key signed", &["snp.report.signature"], |scene| scene.report_key = Some(report_key(8))),
    ("a report altered after it was signed", &["snp.report.signature"], |scene| {
        scene.after_signing = |report| report.put(at::GUEST_SVN, &[8]);
    }),
    ("a signature of zeros", &["snp.report.signature"], |scene| {
        scene.after_signing = |report| report.put(0x2A0, &[0; 144])
    }),
    ("a report whose R is not below the order", &["snp.report.signature"], |scene| {
        scene.after_signing = |report| report.put(0x2A0, &[0xFF; 48]);
    }),
];

const TCB_CASES: &[Case] = &[
    ("a launch TCB with a byte that has no meaning", &["snp.tcb.form"], |scene| {
        scene.report.put(at::LAUNCH_TCB + 2, &[1])
    }),
    ("a current TCB with a byte that has no meaning on Turin", &["snp.tcb.form"], |scene| {
        *scene = Scene::on_turin();
        scene.report.put(at::CURRENT_TCB + 4, &[1]);
    }),
    ("a committed TCB ahead of the current one", &["snp.tcb.committed"], |scene| {
        scene.report.put(at::COMMITTED_TCB, &[11]);
        scene.policy.provisional_firmware = Some(true);
    }),
    ("a committed TCB ahead in one part and behind in a heavier one", &["snp.tcb.committed"], |scene| {
        scene.report.put(at::COMMITTED_TCB, &[11, 1, 0, 0, 0, 0, 23, 83]);
        scene.policy.provisional_firmware = Some(true);
    }),
    ("committed firmware newer than the one that runs", &["snp.tcb.committed"], |scene| {
        scene.report.put(at::COMMITTED_VERSION, &[41, 55, 1]);
        scene.policy.provisional_firmware = Some(true);
    }),
    ("a reported TCB ahead of the current one", &["snp.tcb.reported"], |scene| {
        for offset in [at::CURRENT_TCB, at::COMMITTED_TCB] {
            scene.report.put(offset + 7, &[83]);
        }
    }),
    ("a provisional TCB", &["snp.tcb.provisional"], |scene| scene.report.put(at::CURRENT_TCB + 7, &[85])),
    ("provisional firmware", &["snp.tcb.provisional"], |scene| scene.report.put(at::CURRENT_VERSION, &[41])),
    ("a boot loader below the floor", &["snp.tcb.minimum"], |scene| floor(scene).bl = 11),
    ("a tee below the floor", &["snp.tcb.minimum"], |scene| floor(scene).tee = 2),
    ("an SNP firmware below the floor, and all else far above it", &["snp.tcb.minimum"], |scene| {
        *floor(scene) = TcbParts { fmc: None, bl: 0, tee: 0, snp: 24, ucode: 0 };
    }),
    ("a microcode below the floor", &["snp.tcb.minimum"], |scene| floor(scene).ucode = 85),
    ("an FMC below the floor", &["snp.tcb.minimum"], |scene| {
        *scene = Scene::on_turin();
        floor(scene).fmc = Some(3);
    }),
    ("a line without a floor", &["snp.tcb.minimum"], |scene| {
        scene.policy.minimum_tcb = Some(TcbFloors::from([(AmdLine::Turin, PARTS)]));
    }),
    ("a launch under a TCB below the floor", &["snp.tcb.minimum-launch"], |scene| launch_floor(scene).snp = 24),
    ("a line without a floor for launches", &["snp.tcb.minimum-launch"], |scene| {
        scene.policy.minimum_launch_tcb = Some(TcbFloors::new());
    }),
    ("firmware older than the policy's", &["snp.firmware.minimum"], |scene| {
        scene.policy.minimum_firmware = Some(FirmwareFloor { major: 1, minor: 56, build: 0 });
    }),
    ("committed firmware older than the policy's", &["snp.firmware.minimum"], |scene| {
        scene.report.put(at::COMMITTED_VERSION, &[39, 55, 1]);
        scene.policy.provisional_firmware = Some(true);
    }),
    ("a launch without a mitigation that the policy demands", &["snp.mitigations.launch"], |scene| {
        scene.report.put_u64(at::LAUNCH_MITIGATIONS, 0b1001);
    }),
    ("a mitigation missing that the policy demands", &["snp.mitigations.current"], |scene| {
        scene.report.put_u64(at::CURRENT_MITIGATIONS, 0b0011);
    }),
    (
        "mitigations demanded of a report that cannot tell",
        &["snp.mitigations.launch", "snp.mitigations.current"],
        |scene| {
            *scene = Scene::on_milan();
            scene.policy.mitigations = Some(MitigationRule { launch: Mask(1), current: Mask(1) });
        },
    ),
];

const POLICY: &[Case] = &[
    ("a guest policy without the bit that is always one", &["snp.policy.form"], |scene| guest_policy(scene, 17)),
    ("a guest policy with an unknown bit", &["snp.policy.form"], |scene| guest_policy(scene, 26)),
    ("a guest policy with the last bit", &["snp.policy.form"], |scene| guest_policy(scene, 63)),
    ("a debug guest", &["snp.policy.debug"], |scene| guest_policy(scene, 19)),
    ("a guest that may be migrated", &["snp.policy.migration"], |scene| guest_policy(scene, 18)),
    ("a guest that may be migrated by another agent", &["snp.report-id-ma"], |scene| {
        guest_policy(scene, 18);
        scene.report.put(at::REPORT_ID_MA, &[0xA9; 32]);
        scene.policy.migration = Some(Migration::Agents(vec![Hex([0xAA; 32])]));
    }),
    ("a guest with a migration agent that its policy does not admit", &["snp.report-id-ma"], |scene| {
        scene.report.put(at::REPORT_ID_MA, &[0xA9; 32]);
        scene.policy.migration = Some(Migration::Agents(vec![Hex([0xA9; 32])]));
    }),
    ("a guest with a migration agent where none may be", &["snp.policy.migration", "snp.report-id-ma"], |scene| {
        guest_policy(scene, 18);
        scene.report.put(at::REPORT_ID_MA, &[0xA9; 32]);
    }),
    ("a guest that is content with an older ABI", &["snp.policy.abi"], |scene| scene.report.put(at::POLICY, &[50])),
    ("a guest that insists on a newer ABI than the firmware has", &["snp.policy.abi"], |scene| {
        scene.report.put(at::POLICY, &[56])
    }),
    ("a guest that does not allow SMT", &["snp.policy.smt"], |scene| guest_policy(scene, 16)),
    ("a guest that insists on one socket", &["snp.policy.single-socket"], |scene| guest_policy(scene, 20)),
    ("a guest that allows CXL", &["snp.policy.cxl"], |scene| guest_policy(scene, 21)),
    ("a guest content with a weaker memory encryption", &["snp.policy.memory-encryption"], |scene| {
        guest_policy(scene, 22)
    }),
    ("a guest that insists on RAPL being off", &["snp.policy.rapl"], |scene| guest_policy(scene, 23)),
    ("a guest content without ciphertext hiding", &["snp.policy.ciphertext-hiding"], |scene| guest_policy(scene, 24)),
    ("a guest that refuses page swapping", &["snp.policy.page-swap"], |scene| guest_policy(scene, 25)),
    ("a platform without SMT", &["snp.platform.smt"], |scene| platform(scene, 0)),
    ("a platform with TSME", &["snp.platform.tsme"], |scene| platform(scene, 1)),
    ("a platform without error correction", &["snp.platform.ecc"], |scene| platform(scene, 2)),
    ("a platform with RAPL off", &["snp.platform.rapl"], |scene| platform(scene, 3)),
    ("a platform without ciphertext hiding", &["snp.platform.ciphertext-hiding"], |scene| platform(scene, 4)),
    ("a platform that has not looked for aliases", &["snp.platform.alias-check"], |scene| platform(scene, 5)),
    ("a platform with trusted I/O", &["snp.platform.tio"], |scene| platform(scene, 7)),
    ("a platform with an unknown flag", &["snp.platform.unknown"], |scene| platform(scene, 6)),
    ("a platform with the last flag", &["snp.platform.unknown"], |scene| platform(scene, 63)),
];

const IDENTITY: &[Case] = &[
    ("a report for a lower privilege level", &["snp.vmpl"], |scene| scene.report.put_u32(at::VMPL, 1)),
    ("a report that the host asked for", &["snp.vmpl"], |scene| {
        scene.report.put_u32(at::VMPL, u32::MAX);
        scene.policy.vmpl = Some(vec![0, u32::MAX]);
    }),
    ("other report data", &["snp.report-data"], |scene| scene.demand = Some(vec![0xDB; 64])),
    ("report data of which only the beginning was asked", &["snp.report-data"], |scene| {
        scene.demand = Some(vec![0xDA; 63])
    }),
    ("no report data asked", &["snp.report-data"], |scene| scene.demand = Some(Vec::new())),
    ("report data that nobody asked about", &["snp.report-data"], |scene| scene.demand = None),
    ("another measurement", &["snp.measurement"], |scene| {
        scene.policy.measurement = Some(Reference::OneOf(vec![Hex([0x3F; 48])]));
    }),
    ("a policy that names no image", &["snp.measurement"], |scene| {
        scene.policy.measurement = Some(Reference::Images(Vec::new()))
    }),
    ("other host data", &["snp.host-data"], |scene| scene.report.put(at::HOST_DATA, &[0x41])),
    ("another family", &["snp.id-block.family-id"], |scene| scene.report.put(at::FAMILY_ID, &[0xFB])),
    ("another image id", &["snp.id-block.image-id"], |scene| scene.report.put(at::IMAGE_ID, &[0x1B])),
    ("an older guest", &["snp.id-block.guest-svn"], |scene| scene.report.put_u32(at::GUEST_SVN, 6)),
    ("another id key", &["snp.id-block.id-key"], |scene| scene.report.put(at::ID_KEY_DIGEST, &[0x1E])),
    ("no id block where one is needed", &["snp.id-block.id-key"], |scene| {
        scene.report.put(at::ID_KEY_DIGEST, &[0; 48])
    }),
    ("another author key", &["snp.id-block.author-key"], |scene| scene.report.put(at::AUTHOR_KEY_DIGEST, &[0xA8])),
    ("an author key that the report does not admit", &["snp.id-block.author-key"], |scene| {
        scene.report.put_u32(at::KEY_INFO, 0)
    }),
    ("an author key without a digest, in a policy that allows any", &["snp.id-block.author-key"], |scene| {
        scene.report.put(at::AUTHOR_KEY_DIGEST, &[0; 48]);
        scene.policy.author_key = Some(Rule::Any);
    }),
    ("another guest", &["snp.report-id"], |scene| scene.report.put(at::REPORT_ID, &[0x4F])),
];

fn every() -> impl Iterator<Item = &'static Case> {
    [REPORT, CHAIN, REVOCATION, LEAF, TCB_CASES, POLICY, IDENTITY].into_iter().flatten()
}

fn each_fails_exactly(cases: &[Case]) {
    assert_eq!(Scene::good().failing(), [""; 0]);
    let mut wrong = Vec::new();
    for (name, expected, spoil) in cases {
        let mut scene = Scene::good();
        spoil(&mut scene);
        let failed = scene.failing();
        if failed != *expected {
            wrong.push(format!("{name}:\n  expected {expected:?}\n  failed   {failed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn malformed_reports_fail_the_checks_that_they_are_named_after() {
    each_fails_exactly(REPORT);
}

#[test]
fn spoiled_chains_fail_the_checks_that_they_are_named_after() {
    each_fails_exactly(CHAIN);
}

#[test]
fn revocation_fails_the_checks_that_it_is_named_after() {
    each_fails_exactly(REVOCATION);
}

#[test]
fn foreign_leaves_fail_the_checks_that_they_are_named_after() {
    each_fails_exactly(LEAF);
}

#[test]
fn bad_firmware_fails_the_checks_that_it_is_named_after() {
    each_fails_exactly(TCB_CASES);
}

#[test]
fn guest_policies_and_platforms_fail_the_checks_that_they_are_named_after() {
    each_fails_exactly(POLICY);
}

#[test]
fn other_guests_fail_the_checks_that_they_are_named_after() {
    each_fails_exactly(IDENTITY);
}

#[test]
fn every_check_has_a_negative_of_few_checks_and_every_negative_a_name_of_its_own() {
    let names: BTreeSet<&str> = every().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), every().count());
    for info in checks::SNP {
        let least = every().filter(|(_, ids, _)| ids.contains(&info.id)).map(|(_, ids, _)| ids.len()).min();
        // A certificate that does not say what it is leaves its other checks without a subject.
        assert!(least.is_some_and(|count| count <= NO_INTERMEDIATE.len()), "{}: {least:?}", info.id);
    }
}
