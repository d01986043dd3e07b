//! One named negative for each way to be wrong. Each says exactly which checks fail, so that a check which is removed,
//! or which stops looking, is noticed.

use std::collections::BTreeSet;

use lambda_tpm::public::{PublicKeyArea, Scheme, Symmetric};
use lambda_tpm::{Attributes, alg};
use lambda_types::shape::Tier;
use lambda_types::{BootId, InstanceId};
use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::scene::*;
use super::tpm_checks;
use crate::eventlog::EventKind;
use crate::*;

type Case = (&'static str, &'static [&'static str], fn(&mut Scene));

/// What is not reached without a readable log.
const NO_LOG: &[&str] = &[
    "tpm.log.structure",
    "tpm.log.replay",
    "tpm.log.digests",
    "tpm.log.separators",
    "tpm.log.events",
    "tpm.measured.firmware",
    "tpm.measured.kernel",
    "tpm.measured.command-line",
    "tpm.measured.initramfs",
];

/// What is not reached without a readable quote.
const NO_QUOTE: &[&str] = &[
    "tpm.quote.structure",
    "tpm.quote.magic",
    "tpm.quote.signature",
    "tpm.quote.signer",
    "tpm.quote.report-data",
    "tpm.quote.selection",
    "tpm.quote.pcr-digest",
    "tpm.clock.restart",
    "tpm.clock.same-tpm",
    "tpm.clock.monotonic",
    "tpm.firmware-version",
];

/// What is not reached without a path to check.
const NO_PATH: &[&str] = &[
    "tpm.ek.chain.algorithms",
    "tpm.ek.chain.anchor",
    "tpm.ek.chain.names",
    "tpm.ek.chain.signatures",
    "tpm.ek.chain.dates",
    "tpm.ek.chain.authorities",
    "tpm.ek.chain.key-usage",
    "tpm.ek.chain.purpose",
    "tpm.ek.chain.critical-extensions",
];

/// What is not reached without a certificate.
const NO_CHAIN: &[&str] = &[
    "tpm.ek.chain.structure",
    "tpm.ek.chain.algorithms",
    "tpm.ek.chain.anchor",
    "tpm.ek.chain.names",
    "tpm.ek.chain.signatures",
    "tpm.ek.chain.dates",
    "tpm.ek.chain.authorities",
    "tpm.ek.chain.key-usage",
    "tpm.ek.chain.purpose",
    "tpm.ek.chain.critical-extensions",
    "tpm.ek.certified",
];

/// What is not compared without reference values.
const NO_REFERENCE: &[&str] = &[
    "policy.reference",
    "tpm.measured.firmware",
    "tpm.measured.kernel",
    "tpm.measured.command-line",
    "tpm.measured.initramfs",
    "tpm.pcr.firmware",
    "tpm.pcr.configuration",
    "tpm.pcr.option-roms",
    "tpm.pcr.option-rom-configuration",
    "tpm.pcr.kernel",
    "tpm.pcr.boot-configuration",
    "tpm.pcr.platform",
    "tpm.pcr.secure-boot",
    "tpm.pcr.loader",
];

/// Replaces what one event measured, and lets the policy expect the resulting registers.
fn measure(scene: &mut Scene, position: usize, what: &[u8]) {
    scene.events[position].digest = sha256(what);
    scene.expect_these_registers();
}

fn expect_pcr(scene: &mut Scene, index: u8) {
    scene.reference().pcrs.insert(index, "00".repeat(32));
}

fn clear(scene: &mut Scene, attribute: Attributes) {
    scene.ak.attributes.0 &= !attribute.0;
}

const CASES: &[Case] = &[
    ("a policy that is silent about TPMs", &[], |scene| scene.policy.tpm = None),
    ("a policy that is silent about tiers", &["policy.tier"], |scene| scene.policy.minimum_tier = None),
    ("a policy that demands hardware", &["policy.tier"], |scene| scene.policy.minimum_tier = Some(Tier::Hardware)),
    ("a policy that allows no image", NO_REFERENCE, |scene| scene.tpm_policy().images.clear()),
    ("a policy whose image has no shapes", NO_REFERENCE, |scene| scene.tpm_policy().images[0].shapes.clear()),
    ("a reference without one of the registers", NO_REFERENCE, |scene| {
        scene.reference().pcrs.remove(&2);
    }),
    ("a reference with a digest in capitals", NO_REFERENCE, |scene| {
        let kernel = scene.reference().kernel.to_uppercase();
        scene.reference().kernel = kernel;
    }),
    ("evidence of another instance", &["binding.instance"], |scene| scene.instance = InstanceId::from_bits(9)),
    ("evidence of another boot", &["binding.boot"], |scene| scene.boot = BootId::from_bits(9)),
    ("an HPKE key that is too short", &["binding.hpke-public"], |scene| {
        scene.binding.hpke_public.0.pop();
    }),
    ("an all-zero HPKE key", &["binding.hpke-public"], |scene| scene.binding.hpke_public = vec![0; 32].into()),
    ("an SSH host key of another type", &["binding.ssh-host-key"], |scene| {
        scene.binding.ssh_host_key = b"\0\0\0\x07ssh-rsa".to_vec().into();
    }),
    ("an SSH host key with a byte too many", &["binding.ssh-host-key"], |scene| {
        scene.binding.ssh_host_key.0.push(0);
    }),
    ("an EK that may be duplicated", &["tpm.ek.template"], |scene| {
        scene.ek.attributes.0 &= !Attributes::FIXED_TPM.0;
    }),
    ("an EK that may sign", &["tpm.ek.template"], |scene| {
        scene.ek.attributes = scene.ek.attributes.and(Attributes::SIGN);
    }),
    ("an EK without its policy", &["tpm.ek.template"], |scene| scene.ek.auth_policy.clear()),
    ("an EK with a key of another machine", &["tpm.ek.certified"], |scene| {
        let genuine = scene.identity().ek_chain[0].0.clone();
        scene.ek = with_key(&scene.ek, &random_key());
        scene.outstanding = Some(scene.challenge());
        scene.forge_leaf = Some(genuine);
    }),
    ("no certificate at all", NO_CHAIN, |scene| scene.cut_chain = Some(0)),
    ("more certificates than a chain may have", NO_CHAIN, |scene| {
        scene.extra_certificates = vec![scene.platform.issue(&scene.node.params, &scene.node.key); 3];
    }),
    ("a certificate that is not one", NO_CHAIN, |scene| scene.forge_leaf = Some(b"certificate".to_vec())),
    ("a certificate with a byte after it", NO_CHAIN, |scene| {
        let mut leaf = scene.identity().ek_chain[0].0.clone();
        leaf.push(0);
        scene.forge_leaf = Some(leaf);
    }),
    ("a node CA on another curve", &["tpm.ek.chain.algorithms"], |scene| {
        scene.node.key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    }),
    ("a policy that pins no CA", NO_PATH, |scene| scene.tpm_policy().platform_cas.clear()),
    (
        "a platform CA of the same name that is not the pinned one",
        &["tpm.ek.chain.anchor", "tpm.ek.chain.signatures"],
        |scene| scene.platform = authority("Lambda platform CA", BasicConstraints::Unconstrained),
    ),
    (
        "a chain from another region",
        &["tpm.ek.chain.anchor", "tpm.ek.chain.names", "tpm.ek.chain.signatures"],
        |scene| scene.platform = authority("Another platform CA", BasicConstraints::Unconstrained),
    ),
    (
        "a node CA that vouches for itself",
        &["tpm.ek.chain.anchor", "tpm.ek.chain.names", "tpm.ek.chain.signatures"],
        |scene| {
            scene.platform = Authority {
                params: scene.node.params.clone(),
                key: KeyPair::from_pem(&scene.node.key.serialize_pem()).unwrap(),
            };
        },
    ),
    ("an EK certificate that names another issuer", &["tpm.ek.chain.names"], |scene| {
        scene.ek_issuer = Some(Authority {
            params: params("Another node CA"),
            key: KeyPair::from_pem(&scene.node.key.serialize_pem()).unwrap(),
        });
    }),
    ("an EK certificate signed by another key of the node CA's name", &["tpm.ek.chain.signatures"], |scene| {
        scene.ek_issuer = Some(authority("Lambda node CA", BasicConstraints::Constrained(0)));
    }),
    ("an EK certificate that has run out", &["tpm.ek.chain.dates"], |scene| {
        scene.ek_params.not_after = date_time_ymd(2026, 6, 1);
    }),
    ("a node CA that is not valid yet", &["tpm.ek.chain.dates"], |scene| {
        scene.node.params.not_before = date_time_ymd(2035, 6, 1);
    }),
    ("a pinned CA that has run out", &["tpm.ek.chain.dates"], |scene| {
        scene.platform.params.not_after = date_time_ymd(2026, 6, 1);
        let pem = scene.platform.pem();
        scene.tpm_policy().platform_cas = vec![pem];
    }),
    ("a node certificate that is no CA", &["tpm.ek.chain.authorities"], |scene| {
        scene.node.params.is_ca = IsCa::ExplicitNoCa;
    }),
    ("a node certificate that does not say whether it is a CA", &["tpm.ek.chain.authorities"], |scene| {
        scene.node.params.is_ca = IsCa::NoCa;
    }),
    ("an EK certificate that is a CA", &["tpm.ek.chain.authorities"], |scene| {
        scene.ek_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("an authority below a node CA that allows none", &["tpm.ek.chain.authorities"], |scene| {
        let below = authority("Lambda lower CA", BasicConstraints::Constrained(0));
        scene.extra_certificates = vec![scene.node.issue(&below.params, &below.key)];
        scene.ek_issuer = Some(below);
    }),
    ("a node CA that may not sign certificates", &["tpm.ek.chain.key-usage"], |scene| {
        scene.node.params.key_usages = vec![KeyUsagePurpose::CrlSign];
    }),
    ("an EK certificate that may sign", &["tpm.ek.chain.key-usage"], |scene| {
        scene.ek_params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    }),
    ("an EK certificate without a key usage", &["tpm.ek.chain.key-usage"], |scene| {
        scene.ek_params.key_usages.clear();
    }),
    ("an EK certificate for TLS servers", &["tpm.ek.chain.purpose"], |scene| {
        scene.ek_params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }),
    ("an unknown critical extension", &["tpm.ek.chain.critical-extensions"], |scene| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        scene.ek_params.custom_extensions = vec![extension];
    }),
    ("an AK that may leave its TPM", &["tpm.ak.attributes"], |scene| clear(scene, Attributes::FIXED_TPM)),
    ("an AK that may leave its parent", &["tpm.ak.attributes"], |scene| clear(scene, Attributes::FIXED_PARENT)),
    ("an AK that was imported", &["tpm.ak.attributes"], |scene| clear(scene, Attributes::SENSITIVE_DATA_ORIGIN)),
    ("an AK that signs anything", &["tpm.ak.attributes"], |scene| clear(scene, Attributes::RESTRICTED)),
    ("an AK that does not sign", &["tpm.ak.attributes"], |scene| clear(scene, Attributes::SIGN)),
    ("an AK that decrypts", &["tpm.ak.attributes"], |scene| {
        scene.ak.attributes = scene.ak.attributes.and(Attributes::DECRYPT);
    }),
    ("an AK with another hash in its scheme", &["tpm.ak.algorithm"], |scene| {
        if let PublicKeyArea::EccP256 { scheme, .. } = &mut scene.ak.key {
            *scheme = Scheme::Signing { scheme: alg::ECDSA, hash: alg::SHA384 };
        }
    }),
    ("an AK without a scheme of its own", &["tpm.ak.algorithm"], |scene| {
        if let PublicKeyArea::EccP256 { scheme, .. } = &mut scene.ak.key {
            *scheme = Scheme::None;
        }
    }),
    ("an RSA AK", &["tpm.ak.algorithm", "tpm.quote.signature"], |scene| {
        scene.ak.key = PublicKeyArea::Rsa {
            symmetric: Symmetric::None,
            scheme: Scheme::Signing { scheme: alg::RSASSA, hash: alg::SHA256 },
            bits: 2048,
            exponent: 0,
            modulus: vec![0xff; 256],
        };
    }),
    ("a proof made without the credential's secret", &["tpm.ak.activation"], |scene| scene.proof_secret = [6; 32]),
    ("a credential that was made for another AK", &["tpm.ak.activation"], |scene| {
        scene.outstanding = Some(Scene::good().challenge());
    }),
    ("an attestation of another type", NO_QUOTE, |scene| scene.kind = 0x8017),
    ("a clock flag that is neither yes nor no", NO_QUOTE, |scene| scene.safe = 2),
    ("a structure that no TPM made", &["tpm.quote.magic"], |scene| scene.magic = 0xff54_4348),
    ("a quote signed by another key", &["tpm.quote.signature"], |scene| scene.ak_key = random_key()),
    ("a quote that names another signer", &["tpm.quote.signer"], |scene| scene.signer = Some(vec![0; 34])),
    ("a quote by the AK's name instead of its qualified name", &["tpm.quote.signer"], |scene| {
        scene.signer = scene.ak.name().ok();
    }),
    ("a quote for another nonce", &["tpm.quote.report-data"], |scene| {
        scene.extra_data = Some(report_data(&[6; 32], &scene.binding).to_vec());
    }),
    ("a quote that covers only the first half of the report data", &["tpm.quote.report-data"], |scene| {
        scene.extra_data = Some(report_data(&[5; 32], &scene.binding)[..32].to_vec());
    }),
    ("a quote without qualifying data", &["tpm.quote.report-data"], |scene| scene.extra_data = Some(Vec::new())),
    ("a quote over no registers", &["tpm.quote.selection", "tpm.quote.pcr-digest"], |scene| {
        scene.selection = 0u32.to_be_bytes().to_vec();
        scene.pcr_digest = Some(sha256(b"").to_vec());
    }),
    ("a quote over fewer registers", &["tpm.quote.selection"], |scene| {
        scene.selection = selection(alg::SHA256, [0xff, 0, 0]);
    }),
    ("a quote over more registers", &["tpm.quote.selection"], |scene| {
        scene.selection = selection(alg::SHA256, [0xff, 0x06, 0]);
    }),
    ("a quote over the SHA-1 bank", &["tpm.quote.selection"], |scene| {
        scene.selection = selection(alg::SHA1, [0xff, 0x02, 0]);
    }),
    ("a quote over two banks", &["tpm.quote.selection"], |scene| {
        let one = selection(alg::SHA256, [0xff, 0x02, 0]);
        scene.selection = [&2u32.to_be_bytes()[..], &one[4..], &one[4..]].concat();
    }),
    ("registers that are not the quoted ones", &["tpm.quote.pcr-digest"], |scene| {
        scene.pcr_digest = Some(vec![0; 32]);
    }),
    ("a TPM that was resumed", &["tpm.clock.restart"], |scene| scene.restart_count = 1),
    ("another TPM than before", &["tpm.clock.same-tpm"], |scene| {
        scene.previous = Some(TpmClock { ak_name: "000b".into(), ..scene.previous_clock() });
    }),
    ("a new boot without a reset", &["tpm.clock.monotonic"], |scene| {
        scene.previous = Some(TpmClock { reset_count: scene.reset_count, ..scene.previous_clock() });
    }),
    ("a reset counter that went back", &["tpm.clock.monotonic"], |scene| {
        scene.previous = Some(TpmClock { reset_count: scene.reset_count + 1, ..scene.previous_clock() });
    }),
    ("a reset within one boot", &["tpm.clock.monotonic"], |scene| {
        scene.previous = Some(TpmClock { boot: scene.boot, ..scene.previous_clock() });
    }),
    ("a clock that went back within one boot", &["tpm.clock.monotonic"], |scene| {
        scene.previous = Some(TpmClock {
            boot: scene.boot,
            reset_count: scene.reset_count,
            clock: scene.clock + 1,
            ..scene.previous_clock()
        });
    }),
    ("a safe clock that went back", &["tpm.clock.monotonic"], |scene| {
        scene.previous = Some(TpmClock { clock: scene.clock + 1, ..scene.previous_clock() });
    }),
    ("a policy that is silent about TPM firmware", &["tpm.firmware-version"], |scene| {
        scene.tpm_policy().firmware_version = None;
    }),
    ("a TPM firmware that is not allowed", &["tpm.firmware-version"], |scene| {
        scene.tpm_policy().firmware_version = Some(FirmwareRule::OneOf(vec!["0".repeat(16)]));
    }),
    ("no event log", NO_LOG, |scene| scene.log = Some(Vec::new())),
    ("an event log that is cut short", NO_LOG, |scene| {
        let mut log = encode_log(&scene.events);
        log.pop();
        scene.log = Some(log);
    }),
    ("a SHA-1 event log", NO_LOG, |scene| scene.log = Some([&[0; 4][..], &[4, 0, 0, 0], &[0; 24]].concat())),
    ("an event log without one of its events", &["tpm.log.replay"], |scene| {
        let mut events = scene.events.clone();
        events.remove(6);
        scene.log = Some(encode_log(&events));
    }),
    ("an event log in another order", &["tpm.log.replay"], |scene| {
        let mut events = scene.events.clone();
        events.swap(0, 1);
        scene.log = Some(encode_log(&events));
    }),
    ("an event whose data was changed", &["tpm.log.digests"], |scene| scene.events[3].data.push(1)),
    ("a register with two separators", &["tpm.log.separators"], |scene| {
        scene.events.push(hashed(2, EventKind::SEPARATOR, &[0; 4]));
        scene.expect_these_registers();
    }),
    ("a separator of failure", &["tpm.log.separators"], |scene| {
        scene.events[9] = hashed(1, EventKind::SEPARATOR, &[1, 0, 0, 0]);
        scene.expect_these_registers();
    }),
    ("an option ROM", &["tpm.log.events"], |scene| {
        scene.events.push(described(2, EventKind::EFI_BOOT_SERVICES_DRIVER, b"rom", &[]));
        scene.expect_these_registers();
    }),
    ("an event in a register that is not quoted", &["tpm.log.events"], |scene| {
        scene.events.push(described(8, EventKind::IPL, b"grub", &[]));
    }),
    ("an unmeasured event that starts the TPM in another locality", &["tpm.log.events"], |scene| {
        scene.events.push(hashed(0, EventKind::NO_ACTION, b"StartupLocality\0\x03"));
    }),
    ("another firmware", &["tpm.measured.firmware"], |scene| measure(scene, 2, b"other DXE")),
    ("a firmware volume too few", &["tpm.measured.firmware"], |scene| {
        scene.events.remove(2);
        scene.expect_these_registers();
    }),
    ("another kernel", &["tpm.measured.kernel"], |scene| measure(scene, 5, b"other kernel")),
    ("a second program beside the kernel", &["tpm.measured.kernel"], |scene| {
        scene.events.push(described(4, EventKind::EFI_BOOT_SERVICES_APPLICATION, b"shell", &[]));
        scene.expect_these_registers();
    }),
    ("another command line", &["tpm.measured.command-line"], |scene| measure(scene, 15, b"init=/bin/sh")),
    ("another initramfs", &["tpm.measured.initramfs"], |scene| measure(scene, 16, b"other initramfs")),
    ("a second initramfs", &["tpm.measured.initramfs"], |scene| {
        scene.events.push(described(9, EventKind::EVENT_TAG, b"more", &tag("Linux initrd")));
        scene.expect_these_registers();
    }),
    ("another value of PCR 0", &["tpm.pcr.firmware"], |scene| expect_pcr(scene, 0)),
    ("another value of PCR 1", &["tpm.pcr.configuration"], |scene| expect_pcr(scene, 1)),
    ("another value of PCR 2", &["tpm.pcr.option-roms"], |scene| expect_pcr(scene, 2)),
    ("another value of PCR 3", &["tpm.pcr.option-rom-configuration"], |scene| expect_pcr(scene, 3)),
    ("another value of PCR 4", &["tpm.pcr.kernel"], |scene| expect_pcr(scene, 4)),
    ("another value of PCR 5", &["tpm.pcr.boot-configuration"], |scene| expect_pcr(scene, 5)),
    ("another value of PCR 6", &["tpm.pcr.platform"], |scene| expect_pcr(scene, 6)),
    ("another value of PCR 7", &["tpm.pcr.secure-boot"], |scene| expect_pcr(scene, 7)),
    ("another value of PCR 9", &["tpm.pcr.loader"], |scene| expect_pcr(scene, 9)),
];

#[test]
fn every_way_to_be_wrong_fails_exactly_its_own_checks() {
    let mut wrong = Vec::new();
    for (name, expected, bend) in CASES.iter().filter(|(_, expected, _)| !expected.is_empty()) {
        let mut scene = Scene::good();
        bend(&mut scene);
        let failed: BTreeSet<_> = scene.failed().into_iter().collect();
        let expected: BTreeSet<_> = expected.iter().map(|id| (*id).to_owned()).collect();
        if failed != expected {
            wrong.push(format!("{name}:\n   failed {failed:?}\n   not    {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_policy_without_a_tpm_section_refuses_tpm_evidence_altogether() {
    let mut scene = Scene::good();
    scene.policy.tpm = None;
    let failed = scene.failed();
    assert!(failed.contains(&"policy.tee".to_owned()));
    for id in NO_PATH.iter().chain(NO_REFERENCE).chain(&["tpm.firmware-version"]) {
        assert!(failed.contains(&(*id).to_owned()), "{id} was passed by a policy that says nothing");
    }
}

#[test]
fn every_check_has_a_negative() {
    let covered: BTreeSet<&str> =
        CASES.iter().flat_map(|(_, ids, _)| ids.iter().copied()).chain(["policy.tee"]).collect();
    let known: BTreeSet<&str> = tpm_checks().iter().map(|info| info.id).collect();
    assert_eq!(covered, known);
}

#[test]
fn nearly_every_check_alone_decides_some_case() {
    let alone: BTreeSet<&str> =
        CASES.iter().filter(|(_, ids, _)| ids.len() == 1).flat_map(|(_, ids, _)| ids.iter().copied()).collect();
    let never_alone: Vec<&str> = tpm_checks().iter().map(|info| info.id).filter(|id| !alone.contains(id)).collect();
    // What cannot fail alone: its failure is that others cannot be made, or it guards a signature that fails with it.
    assert_eq!(
        never_alone,
        [
            "policy.tee",
            "policy.reference",
            "tpm.ek.chain.structure",
            "tpm.ek.chain.anchor",
            "tpm.quote.structure",
            "tpm.log.structure",
        ]
    );
}

#[test]
fn an_extended_key_usage_may_be_absent() {
    let mut scene = Scene::good();
    scene.ek_params.extended_key_usages.clear();
    assert_eq!(scene.failed(), Vec::<String>::new());
}
