//! The whole exchange against a real TPM 2.0 implementation: challenge, activation, quote, verdict.
//!
//! The TPM's registers are extended with a log that OVMF and Debian's kernel wrote in QEMU.

#[path = "../../tpm/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use common::{Socket, Swtpm};
use lambda_attest::eventlog::{EventKind, EventLog};
use lambda_attest::{
    AllowedImage, Anchors, Binding, Collateral, Endorsements, Evidence, Expectation, FirmwareRule, Judgement,
    Outstanding, PcrValue, Policy, TpmEvidence, TpmPolicy, UnixTime, activation_proof, challenge, report_data, verify,
};
use lambda_tpm::{LAMBDA_PCRS, PcrSelection, Tpm, Transport, alg};
use lambda_types::image::TpmExpected;
use lambda_types::session::{Challenge, Hello, PROTOCOL, TpmIdentity};
use lambda_types::shape::{Shape, Tier};
use lambda_types::{BootId, ImageId, InstanceId};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};

const LOG: &[u8] = include_bytes!("data/ovmf-direct-boot.bin");
const NOW: UnixTime = UnixTime(1_800_000_000);

struct Point([u8; 65]);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn params(name: &str, is_ca: IsCa, usage: KeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.key_usages = vec![usage];
    params
}

/// Platform CA as PEM, and the chain for this endorsement key.
fn certify(point: [u8; 65]) -> (String, Vec<Vec<u8>>) {
    let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (platform_key, node_key) = (key(), key());
    let ca = |name, constraints| params(name, IsCa::Ca(constraints), KeyUsagePurpose::KeyCertSign);
    let platform = ca("Platform CA", BasicConstraints::Unconstrained);
    let node = ca("Node CA", BasicConstraints::Constrained(0));
    let node_certificate = node.signed_by(&node_key, &Issuer::from_params(&platform, &platform_key)).unwrap();
    let leaf = params("vTPM", IsCa::ExplicitNoCa, KeyUsagePurpose::KeyAgreement)
        .signed_by(&Point(point), &Issuer::from_params(&node, &node_key))
        .unwrap();
    let chain = vec![leaf.der().to_vec(), node_certificate.der().to_vec()];
    (platform.self_signed(&platform_key).unwrap().pem(), chain)
}

/// TPM2_PCR_Extend, SHA-256.
fn extend(transport: &mut dyn Transport, pcr: u32, digest: &[u8]) {
    let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0];
    let digests = [&[0, 0, 0, 1, 0, 0x0b][..], digest].concat();
    let body = [&pcr.to_be_bytes()[..], &password, &digests].concat();
    let size = u32::try_from(body.len() + 10).unwrap().to_be_bytes();
    let command = [&[0x80, 2][..], &size, &[0, 0, 1, 0x82], &body].concat();
    let response = transport.transmit(&command).unwrap();
    assert_eq!(response[6..10], [0; 4], "TPM2_PCR_Extend was refused");
}

/// What this log measures to, read from the log itself: the test is about the exchange, not about the image.
fn expected() -> TpmExpected {
    let log = EventLog::parse(LOG).unwrap();
    let digests = |kind: EventKind, tag: Option<&str>| -> Vec<String> {
        let events = log.events.iter().filter(|event| event.kind == kind && (tag.is_none() || event.tag_text() == tag));
        events.map(|event| hex::encode(&event.digests[&alg::SHA256])).collect()
    };
    let registers = log.replay(alg::SHA256).unwrap();
    TpmExpected {
        pcrs: LAMBDA_PCRS.iter().map(|index| (*index, hex::encode(&registers[&u32::from(*index)]))).collect(),
        firmware_volumes: digests(EventKind::EFI_PLATFORM_FIRMWARE_BLOB, None),
        kernel: digests(EventKind::EFI_BOOT_SERVICES_APPLICATION, None).remove(0),
        initramfs: digests(EventKind::EVENT_TAG, Some("Linux initrd")).remove(0),
        command_line: digests(EventKind::EVENT_TAG, Some("LOADED_IMAGE::LoadOptions")).remove(0),
    }
}

fn policy(platform_ca: String) -> Policy {
    Policy {
        minimum_tier: Some(Tier::Platform),
        tpm: Some(TpmPolicy {
            platform_cas: vec![platform_ca],
            firmware_version: Some(FirmwareRule::Any),
            images: vec![AllowedImage {
                image: ImageId::from_bits(1),
                name: "probe".into(),
                version: "1".into(),
                shapes: BTreeMap::from([(Shape::Micro, expected())]),
            }],
        }),
        ..Policy::silent()
    }
}

/// A guest on a swtpm that has booted the log.
struct Guest {
    _swtpm: Swtpm,
    socket: Socket,
    ek: lambda_tpm::Key,
    ak: lambda_tpm::Key,
    hello: Hello,
    policy: Policy,
}

impl Guest {
    fn boot() -> Self {
        let mut swtpm = Swtpm::start();
        let mut tpm = swtpm.tpm();
        tpm.startup_clear().unwrap();
        tpm.allocate_sha256_only().unwrap();
        tpm.shutdown_clear().unwrap();
        drop(tpm);
        swtpm.power_on();
        let mut socket = swtpm.socket();
        Tpm::new(&mut socket).startup_clear().unwrap();
        for event in EventLog::parse(LOG).unwrap().events {
            extend(&mut socket, event.pcr, &event.digests[&alg::SHA256]);
        }
        let mut tpm = Tpm::new(&mut socket);
        let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
        let (platform_ca, chain) = certify(ek.public.p256_sec1().unwrap());
        let hello = Hello {
            protocol: PROTOCOL,
            instance: InstanceId::from_bits(5),
            boot: BootId::from_bits(6),
            hpke_public: vec![7; 32].into(),
            ssh_host_key: [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", &[9; 32][..]].concat().into(),
            tpm: Some(TpmIdentity {
                ek_chain: chain.into_iter().map(Into::into).collect(),
                ek_public: ek.public.encode().unwrap().into(),
                ak_public: ak.public.encode().unwrap().into(),
            }),
        };
        Self { _swtpm: swtpm, socket, ek, ak, hello, policy: policy(platform_ca) }
    }

    fn challenge(&self) -> (Challenge, Outstanding) {
        let mut entropy = [0; 96];
        getrandom::fill(&mut entropy).unwrap();
        challenge::issue(&self.hello, &self.policy, NOW, &entropy).unwrap()
    }

    fn evidence(&mut self, challenge: &Challenge) -> Evidence {
        let binding = Binding::from(&self.hello);
        let wanted = report_data(challenge.nonce.as_slice(), &binding);
        let credential = challenge.credential.as_ref().unwrap();
        let (blob, secret) = (credential.blob.as_slice(), credential.secret.as_slice());
        let mut tpm = Tpm::new(&mut self.socket);
        let activated = tpm.activate_credential(&self.ak, &self.ek, blob, secret).unwrap();
        let quoted = tpm.quote(&self.ak, &wanted, &PcrSelection::lambda()).unwrap();
        let pcrs = tpm.read_pcrs(&PcrSelection::lambda()).unwrap();
        Evidence::tpm(
            binding,
            TpmEvidence {
                identity: self.hello.tpm.clone().unwrap(),
                attest: quoted.attest.into(),
                signature: quoted.signature.into(),
                pcrs: pcrs.into_iter().map(|(index, value)| PcrValue { index, sha256: hex::encode(value) }).collect(),
                event_log: LOG.into(),
                activation_proof: activation_proof(&activated, &wanted).to_vec().into(),
            },
        )
    }

    fn judge(&self, evidence: &Evidence, outstanding: &Outstanding) -> Judgement {
        let expectation =
            Expectation { instance: self.hello.instance, boot: self.hello.boot, outstanding, previous: None };
        let endorsements = Endorsements { anchors: &Anchors::vendor().unwrap(), collateral: &Collateral::none() };
        verify(evidence, &expectation, &self.policy, &endorsements, NOW)
    }
}

fn failed(judgement: &Judgement) -> Vec<&str> {
    judgement.verdict.failed().map(|check| check.id.as_str()).collect()
}

#[test]
fn a_real_tpm_that_booted_the_image_is_accepted() {
    let mut guest = Guest::boot();
    let (challenge, outstanding) = guest.challenge();
    let evidence = guest.evidence(&challenge);
    let judgement = guest.judge(&Evidence::from_json(&evidence.to_json()).unwrap(), &outstanding);
    assert_eq!(judgement.verdict.failed().collect::<Vec<_>>(), Vec::<&lambda_attest::Check>::new());
    let attested = judgement.attested.unwrap();
    assert_eq!((attested.image, attested.shapes), (ImageId::from_bits(1), vec![Shape::Micro]));
    assert_eq!(attested.clock.unwrap().restart_count, 0);
}

#[test]
fn evidence_that_answered_another_challenge_is_refused() {
    let mut guest = Guest::boot();
    let (first, _) = guest.challenge();
    let (_, second) = guest.challenge();
    let replayed = guest.evidence(&first);
    assert_eq!(failed(&guest.judge(&replayed, &second)), ["tpm.ak.activation", "tpm.quote.report-data"]);
}

#[test]
fn evidence_of_another_machine_is_refused() {
    let (guest, mut other) = (Guest::boot(), Guest::boot());
    let (_, outstanding) = guest.challenge();
    let (for_other, _) = other.challenge();
    let theirs = other.evidence(&for_other);
    let judgement = guest.judge(&theirs, &outstanding);
    for id in ["tpm.ek.chain.anchor", "tpm.ek.chain.signatures", "tpm.ak.activation", "tpm.quote.report-data"] {
        assert!(failed(&judgement).contains(&id), "{:?}", failed(&judgement));
    }
}

#[test]
fn a_register_extended_after_the_log_is_refused_and_named() {
    let mut guest = Guest::boot();
    let (challenge, outstanding) = guest.challenge();
    extend(&mut guest.socket, 4, &[1; 32]);
    let evidence = guest.evidence(&challenge);
    assert_eq!(failed(&guest.judge(&evidence, &outstanding)), ["tpm.log.replay", "tpm.pcr.kernel"]);
}
