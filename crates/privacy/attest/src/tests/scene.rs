//! A model of a booted guest whose parts can be bent one at a time. Keys and certificates are real, the TPM is not:
//! its structures are written field by field, so that a test can write what no TPM would.

use lambda_tpm::quote::{MAGIC, TYPE_QUOTE};
use lambda_tpm::{Public, Signature, alg, public::PublicKeyArea};
use lambda_types::image::TpmExpected;
use lambda_types::session::TpmIdentity;
use lambda_types::shape::{Shape, Tier};
use lambda_types::{Binary, BootId, ImageId, InstanceId};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature as Ecdsa, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use sha2::{Digest as _, Sha256};

use crate::challenge::Outstanding;
use crate::eventlog::EventKind;
use crate::*;

pub(super) const NOON: UnixTime = UnixTime(1_800_000_000);
pub(super) const VERSION: u64 = 0x2019_1023_0016_3636;

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) pcr: u32,
    pub(super) kind: EventKind,
    pub(super) digest: [u8; 32],
    pub(super) data: Vec<u8>,
}

/// A certificate authority that can be described again before it signs.
pub(super) struct Authority {
    pub(super) params: CertificateParams,
    pub(super) key: KeyPair,
}

pub(super) struct Scene {
    pub(super) platform: Authority,
    pub(super) node: Authority,
    pub(super) ek_params: CertificateParams,
    /// Who the EK certificate says issued it, when that is not the node CA.
    pub(super) ek_issuer: Option<Authority>,
    pub(super) extra_certificates: Vec<Vec<u8>>,
    /// Stands in place of the EK certificate.
    pub(super) forge_leaf: Option<Vec<u8>>,
    /// Certificates that are sent.
    pub(super) cut_chain: Option<usize>,
    pub(super) ek: Public,
    pub(super) ak: Public,
    pub(super) ak_key: SigningKey,
    pub(super) binding: Binding,
    pub(super) events: Vec<Entry>,
    pub(super) magic: u32,
    pub(super) kind: u16,
    pub(super) signer: Option<Vec<u8>>,
    pub(super) extra_data: Option<Vec<u8>>,
    pub(super) selection: Vec<u8>,
    pub(super) pcr_digest: Option<Vec<u8>>,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) clock: u64,
    pub(super) safe: u8,
    pub(super) pcrs: Option<Vec<[u8; 32]>>,
    pub(super) log: Option<Vec<u8>>,
    pub(super) proof_secret: [u8; 32],
    pub(super) outstanding: Option<Outstanding>,
    pub(super) policy: Policy,
    pub(super) instance: InstanceId,
    pub(super) boot: BootId,
    pub(super) previous: Option<TpmClock>,
    pub(super) now: UnixTime,
}

struct Point([u8; 65]);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

pub(super) fn authority(name: &str, constraints: BasicConstraints) -> Authority {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Authority { params, key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap() }
}

pub(super) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    params
}

fn ek_params() -> CertificateParams {
    let mut params = params("vTPM");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params
}

impl Authority {
    pub(super) fn issue(&self, subject: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        subject.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().to_vec()
    }

    pub(super) fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }
}

pub(super) fn random_key() -> SigningKey {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return key;
        }
    }
}

pub(super) fn with_key(template: &Public, key: &SigningKey) -> Public {
    let point = key.verifying_key().to_sec1_point(false);
    let mut public = template.clone();
    if let PublicKeyArea::EccP256 { x, y, .. } = &mut public.key {
        *x = point.as_bytes()[1..33].try_into().unwrap();
        *y = point.as_bytes()[33..].try_into().unwrap();
    }
    public
}

pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}

/// An event whose digest is the hash of its data.
pub(super) fn hashed(pcr: u32, kind: EventKind, data: &[u8]) -> Entry {
    Entry { pcr, kind, digest: sha256(data), data: data.to_vec() }
}

/// An event that measures something which is not in the log.
pub(super) fn described(pcr: u32, kind: EventKind, what: &[u8], data: &[u8]) -> Entry {
    Entry { pcr, kind, digest: sha256(what), data: data.to_vec() }
}

pub(super) fn tag(text: &str) -> Vec<u8> {
    let size = u32::try_from(text.len() + 1).unwrap();
    [&[0xed, 0x22, 0x3b, 0x8f], &size.to_le_bytes()[..], text.as_bytes(), &[0]].concat()
}

pub(super) fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = |count: usize| u64::try_from(count).unwrap().to_le_bytes();
    [&[7; 16][..], &length(name.len()), &length(data.len()), &utf16, data].concat()
}

fn boot() -> Vec<Entry> {
    let boot_order = variable("BootOrder", &[0, 0]);
    let mut events = vec![
        hashed(0, EventKind::S_CRTM_VERSION, &[0, 0]),
        described(0, EventKind::EFI_PLATFORM_FIRMWARE_BLOB, b"PEI volume", &[1; 16]),
        described(0, EventKind::EFI_PLATFORM_FIRMWARE_BLOB, b"DXE volume", &[2; 16]),
        hashed(7, EventKind::EFI_VARIABLE_DRIVER_CONFIG, &variable("SecureBoot", &[0])),
        hashed(7, EventKind::SEPARATOR, &[0; 4]),
        described(4, EventKind::EFI_BOOT_SERVICES_APPLICATION, b"kernel", &[3; 40]),
        Entry { digest: sha256(&[0, 0]), ..hashed(1, EventKind::EFI_VARIABLE_BOOT, &boot_order) },
        hashed(4, EventKind::EFI_ACTION, b"Calling EFI Application from Boot Option"),
    ];
    events.extend((0..7).map(|pcr| hashed(pcr, EventKind::SEPARATOR, &[0; 4])));
    events.extend([
        described(9, EventKind::EVENT_TAG, b"command line", &tag("LOADED_IMAGE::LoadOptions")),
        described(9, EventKind::EVENT_TAG, b"initramfs", &tag("Linux initrd")),
        hashed(5, EventKind::EFI_ACTION, b"Exit Boot Services Invocation"),
    ]);
    events
}

pub(super) fn registers(events: &[Entry]) -> Vec<[u8; 32]> {
    lambda_tpm::LAMBDA_PCRS
        .iter()
        .map(|pcr| {
            events
                .iter()
                .filter(|event| event.pcr == u32::from(*pcr) && event.kind != EventKind::NO_ACTION)
                .fold([0; 32], |value, event| sha256(&[value, event.digest].concat()))
        })
        .collect()
}

pub(super) fn expected(events: &[Entry]) -> TpmExpected {
    let values = registers(events);
    TpmExpected {
        pcrs: lambda_tpm::LAMBDA_PCRS.iter().copied().zip(values.iter().map(hex::encode)).collect(),
        firmware_volumes: vec![hex::encode(sha256(b"PEI volume")), hex::encode(sha256(b"DXE volume"))],
        kernel: hex::encode(sha256(b"kernel")),
        initramfs: hex::encode(sha256(b"initramfs")),
        command_line: hex::encode(sha256(b"command line")),
    }
}

/// A crypto-agile log with one SHA-256 bank.
pub(super) fn encode_log(events: &[Entry]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend([1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = [&[0; 4][..], &3u32.to_le_bytes(), &[0; 20]].concat();
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for event in events {
        log.extend(event.pcr.to_le_bytes());
        log.extend(event.kind.0.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0b, 0]);
        log.extend(event.digest);
        log.extend(u32::try_from(event.data.len()).unwrap().to_le_bytes());
        log.extend(&event.data);
    }
    log
}

pub(super) fn ssh_key() -> Vec<u8> {
    [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", &[9; 32][..]].concat()
}

impl Scene {
    /// A guest about which everything is right.
    pub(super) fn good() -> Self {
        let platform = authority("Lambda platform CA", BasicConstraints::Unconstrained);
        let node = authority("Lambda node CA", BasicConstraints::Constrained(0));
        let (ak_key, ek_key) = (random_key(), random_key());
        let (instance, boot_id) = (InstanceId::from_bits(1), BootId::from_bits(2));
        let events = boot();
        let policy = Policy {
            minimum_tier: Some(Tier::Platform),
            tpm: Some(TpmPolicy {
                platform_cas: vec![platform.pem()],
                firmware_version: Some(FirmwareRule::OneOf(vec![format!("{VERSION:016x}")])),
                images: vec![AllowedImage {
                    image: ImageId::from_bits(3),
                    name: "debian-12".into(),
                    version: "2026.11.23".into(),
                    shapes: [(Shape::Nano, expected(&events))].into(),
                }],
            }),
            ..Policy::silent()
        };
        Self {
            platform,
            node,
            ek_params: ek_params(),
            ek_issuer: None,
            extra_certificates: Vec::new(),
            forge_leaf: None,
            cut_chain: None,
            ek: with_key(&Public::ek_template(), &ek_key),
            ak: with_key(&Public::ak_template(), &ak_key),
            ak_key,
            binding: Binding {
                instance,
                boot: boot_id,
                hpke_public: Binary(vec![8; 32]),
                ssh_host_key: ssh_key().into(),
            },
            events,
            magic: MAGIC,
            kind: TYPE_QUOTE,
            signer: None,
            extra_data: None,
            selection: selection(alg::SHA256, [0xff, 0x02, 0]),
            pcr_digest: None,
            reset_count: 7,
            restart_count: 0,
            clock: 5000,
            safe: 1,
            pcrs: None,
            log: None,
            proof_secret: [4; 32],
            outstanding: None,
            policy,
            instance,
            boot: boot_id,
            previous: None,
            now: NOON,
        }
    }

    pub(super) fn tpm_policy(&mut self) -> &mut TpmPolicy {
        self.policy.tpm.as_mut().unwrap()
    }

    pub(super) fn reference(&mut self) -> &mut TpmExpected {
        self.tpm_policy().images[0].shapes.get_mut(&Shape::Nano).unwrap()
    }

    /// Lets the policy expect the registers that the events give, so that no comparison of registers fails.
    pub(super) fn expect_these_registers(&mut self) {
        let pcrs = expected(&self.events).pcrs;
        self.reference().pcrs = pcrs;
    }

    pub(super) fn previous_clock(&self) -> TpmClock {
        TpmClock {
            ak_name: hex::encode(self.ak.name().unwrap()),
            boot: BootId::from_bits(77),
            reset_count: self.reset_count - 1,
            restart_count: 0,
            clock: self.clock - 1,
        }
    }

    pub(super) fn identity(&self) -> TpmIdentity {
        let mut chain = Vec::new();
        if let Some(point) = self.ek.p256_sec1() {
            chain.push(self.ek_issuer.as_ref().unwrap_or(&self.node).issue(&self.ek_params, &Point(point)));
        }
        chain.extend(self.extra_certificates.iter().cloned());
        chain.push(self.platform.issue(&self.node.params, &self.node.key));
        if let (Some(forged), Some(leaf)) = (&self.forge_leaf, chain.first_mut()) {
            leaf.clone_from(forged);
        }
        chain.truncate(self.cut_chain.unwrap_or(usize::MAX));
        TpmIdentity {
            ek_chain: chain.into_iter().map(Binary).collect(),
            ek_public: self.ek.encode().unwrap().into(),
            ak_public: self.ak.encode().unwrap().into(),
        }
    }

    pub(super) fn challenge(&self) -> Outstanding {
        Outstanding::for_tests([5; 32], [4; 32], self.ek.encode().unwrap(), self.ak.encode().unwrap())
    }

    fn attest(&self, pcrs: &[[u8; 32]]) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let signer = self.signer.clone().or_else(|| self.ak.qualified_name_under(0x4000_000b).ok());
        let extra = self.extra_data.clone().unwrap_or_else(|| report_data(&[5; 32], &self.binding).to_vec());
        let digest = self.pcr_digest.clone().unwrap_or_else(|| sha256(&pcrs.concat()).to_vec());
        [
            &self.magic.to_be_bytes()[..],
            &self.kind.to_be_bytes(),
            &sized(&signer.unwrap_or_default()),
            &sized(&extra),
            &self.clock.to_be_bytes(),
            &self.reset_count.to_be_bytes(),
            &self.restart_count.to_be_bytes(),
            &[self.safe],
            &VERSION.to_be_bytes(),
            &self.selection,
            &sized(&digest),
        ]
        .concat()
    }

    pub(super) fn evidence(&self) -> Evidence {
        let pcrs = self.pcrs.clone().unwrap_or_else(|| registers(&self.events));
        let attest = self.attest(&pcrs);
        let signed: Ecdsa = self.ak_key.sign(&attest);
        let (r, s) = signed.split_bytes();
        let signature = Signature::EcdsaP256 { hash: alg::SHA256, r: r.into(), s: s.into() };
        let wanted = report_data(&[5; 32], &self.binding);
        let report = TpmEvidence {
            identity: self.identity(),
            attest: attest.into(),
            signature: signature.encode().unwrap().into(),
            pcrs: lambda_tpm::LAMBDA_PCRS
                .iter()
                .zip(&pcrs)
                .map(|(index, value)| PcrValue { index: *index, sha256: hex::encode(value) })
                .collect(),
            event_log: self.log.clone().unwrap_or_else(|| encode_log(&self.events)).into(),
            activation_proof: activation_proof(&self.proof_secret, &wanted).to_vec().into(),
        };
        Evidence::tpm(self.binding.clone(), report)
    }

    pub(super) fn judge(&self) -> Judgement {
        self.judge_evidence(&self.evidence())
    }

    pub(super) fn judge_evidence(&self, evidence: &Evidence) -> Judgement {
        let challenge = self.challenge();
        let expected = Expectation {
            instance: self.instance,
            boot: self.boot,
            outstanding: self.outstanding.as_ref().unwrap_or(&challenge),
            previous: self.previous.as_ref(),
        };
        let endorsements = Endorsements { anchors: &Anchors::vendor().unwrap(), collateral: &Collateral::none() };
        verify(evidence, &expected, &self.policy, &endorsements, self.now)
    }

    /// Ids of the failed checks.
    pub(super) fn failed(&self) -> Vec<String> {
        let judgement = self.judge();
        assert_eq!(judgement.verdict.accepted(), judgement.attested.is_some());
        judgement.verdict.failed().map(|check| check.id.clone()).collect()
    }
}

/// TPML_PCR_SELECTION with one bank.
pub(super) fn selection(bank: u16, map: [u8; 3]) -> Vec<u8> {
    [&1u32.to_be_bytes()[..], &bank.to_be_bytes(), &[3], &map].concat()
}
