//! A platform, its guest and its customer, all in order; tests spoil one thing at a time.

use lambda_types::Binary;

use super::der::*;
use super::forge::*;
use crate::appraise::{Appraised, Context, Demand, Endorsements};
use crate::checks::Recorder;
use crate::evidence::SnpEvidence;
use crate::pki::ParsedCertificate;
use crate::policy::{Reference, Rule};
use crate::snp::*;
use crate::{AmdAnchor, AmdCollateral, AmdLine, Anchors, Check, Collateral, Hex, Outcome, UnixTime};

/// 2025-06-01T12:00:00Z.
pub(super) const NOON: UnixTime = UnixTime(1_748_779_200);

pub(super) const CHIP: [u8; 64] = [0xC1; 64];
pub(super) const PROVIDER: &str = "CN=cloud.example";
pub(super) const DATA: [u8; 64] = [0xDA; 64];

/// bl 10, tee 1, snp 23, ucode 84 in Genoa's layout.
pub(super) const TCB: [u8; 8] = [10, 1, 0, 0, 0, 0, 23, 84];
pub(super) const PARTS: TcbParts = TcbParts { fmc: None, bl: 10, tee: 1, snp: 23, ucode: 84 };

/// Offsets of the fields that tests change.
pub(super) mod at {
    pub(crate) const VERSION: usize = 0;
    pub(crate) const GUEST_SVN: usize = 4;
    pub(crate) const POLICY: usize = 8;
    pub(crate) const FAMILY_ID: usize = 0x10;
    pub(crate) const IMAGE_ID: usize = 0x20;
    pub(crate) const VMPL: usize = 0x30;
    pub(crate) const SIGNATURE_ALGORITHM: usize = 0x34;
    pub(crate) const CURRENT_TCB: usize = 0x38;
    pub(crate) const PLATFORM_INFO: usize = 0x40;
    pub(crate) const KEY_INFO: usize = 0x48;
    pub(crate) const REPORT_DATA: usize = 0x50;
    pub(crate) const MEASUREMENT: usize = 0x90;
    pub(crate) const HOST_DATA: usize = 0xC0;
    pub(crate) const ID_KEY_DIGEST: usize = 0xE0;
    pub(crate) const AUTHOR_KEY_DIGEST: usize = 0x110;
    pub(crate) const REPORT_ID: usize = 0x140;
    pub(crate) const REPORT_ID_MA: usize = 0x160;
    pub(crate) const REPORTED_TCB: usize = 0x180;
    pub(crate) const CPUID: usize = 0x188;
    pub(crate) const CHIP_ID: usize = 0x1A0;
    pub(crate) const COMMITTED_TCB: usize = 0x1E0;
    pub(crate) const CURRENT_VERSION: usize = 0x1E8;
    pub(crate) const COMMITTED_VERSION: usize = 0x1EC;
    pub(crate) const LAUNCH_TCB: usize = 0x1F0;
    pub(crate) const LAUNCH_MITIGATIONS: usize = 0x1F8;
    pub(crate) const CURRENT_MITIGATIONS: usize = 0x200;
}

/// Everything that goes into a verdict.
pub(super) struct Scene {
    pub(super) report: RawReport,
    /// Signs the report when it is judged; without it, the report stays as it is.
    pub(super) report_key: Option<p384::ecdsa::SigningKey>,
    /// Done to the report after it was signed.
    pub(super) after_signing: fn(&mut RawReport),
    pub(super) leaf: Certificate,
    pub(super) intermediate: Certificate,
    /// Pinned.
    pub(super) root: Certificate,
    pub(super) pinned_as: AmdLine,
    pub(super) crl: Option<Crl>,
    /// What comes with the report, when it is not leaf and intermediate.
    pub(super) given: Option<Vec<Vec<u8>>>,
    pub(super) collateral: Vec<Vec<u8>>,
    /// Other lists.
    pub(super) more_crls: Vec<Vec<u8>>,
    pub(super) policy: SnpPolicy,
    pub(super) demand: Option<Vec<u8>>,
    pub(super) now: UnixTime,
}

pub(super) fn spl(number: u8) -> String {
    format!("1.3.6.1.4.1.3704.1.3.{number}")
}

pub(super) const STRUCTURE_VERSION: &str = "1.3.6.1.4.1.3704.1.1";
pub(super) const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
pub(super) const HW_ID: &str = "1.3.6.1.4.1.3704.1.4";
pub(super) const CSP_ID: &str = "1.3.6.1.4.1.3704.1.5";

fn certificate(subject: &str, issuer: &str, serial: u64, spki: Vec<u8>, signer: Authority) -> Certificate {
    Certificate {
        version: 3,
        serial,
        issuer: issuer.into(),
        subject: subject.into(),
        from: "240101000000Z".into(),
        until: "340101000000Z".into(),
        spki,
        extensions: Vec::new(),
        signer,
        salt_bytes: 48,
        inner_salt_bytes: None,
    }
}

fn raw_report() -> RawReport {
    let mut report = RawReport(vec![0; 0x4A0]);
    report.put_u32(at::VERSION, 5);
    report.put_u32(at::GUEST_SVN, 7);
    // ABI 1.51, SMT, the bit that is always one, AES-256-XTS, ciphertext hiding.
    report.put_u64(at::POLICY, 0x0143_0000 | 1 << 8 | 51);
    report.put(at::FAMILY_ID, &[0xFA; 16]);
    report.put(at::IMAGE_ID, &[0x1A; 16]);
    report.put_u32(at::SIGNATURE_ALGORITHM, 1);
    report.put(at::CURRENT_TCB, &TCB);
    // SMT, ECC, ciphertext hiding, alias check.
    report.put_u64(at::PLATFORM_INFO, 0b11_0101);
    report.put_u32(at::KEY_INFO, 1);
    report.put(at::REPORT_DATA, &DATA);
    report.put(at::MEASUREMENT, &[0x3E; 48]);
    report.put(at::HOST_DATA, &[0x40; 32]);
    report.put(at::ID_KEY_DIGEST, &[0x1D; 48]);
    report.put(at::AUTHOR_KEY_DIGEST, &[0xA7; 48]);
    report.put(at::REPORT_ID, &[0x4E; 32]);
    report.put(at::REPORT_ID_MA, &[0xFF; 32]);
    report.put(at::REPORTED_TCB, &TCB);
    report.put(at::CPUID, &[0x19, 0x11, 1]);
    report.put(at::CHIP_ID, &CHIP);
    report.put(at::COMMITTED_TCB, &TCB);
    report.put(at::CURRENT_VERSION, &[40, 55, 1]);
    report.put(at::COMMITTED_VERSION, &[40, 55, 1]);
    report.put(at::LAUNCH_TCB, &TCB);
    report.put_u64(at::LAUNCH_MITIGATIONS, 0b1011);
    report.put_u64(at::CURRENT_MITIGATIONS, 0b1011);
    report
}

/// A policy that names just what the good scene has.
fn exact_policy() -> SnpPolicy {
    let floors = TcbFloors::from([(AmdLine::Genoa, PARTS)]);
    let (set, clear) = (Some(FlagRule::Set), Some(FlagRule::Clear));
    SnpPolicy {
        lines: Some(vec![AmdLine::Genoa]),
        signing_keys: Some(vec![SigningKey::Vcek]),
        revocation: Some(Revocation::Required),
        chip_ids: Some(Rule::OneOf(vec![Hex(CHIP)])),
        masked_chip_id: Some(false),
        providers: Some(Rule::OneOf(vec![PROVIDER.into()])),
        minimum_tcb: Some(floors.clone()),
        minimum_launch_tcb: Some(floors),
        minimum_firmware: Some(FirmwareFloor { major: 1, minor: 55, build: 40 }),
        provisional_firmware: Some(false),
        mitigations: Some(MitigationRule { launch: Mask(0b11), current: Mask(0b1001) }),
        guest_policy: Some(GuestPolicyRule {
            minimum_abi: Some((1, 51)),
            smt: set,
            single_socket: clear,
            cxl: clear,
            mem_aes_256_xts: set,
            rapl_disabled: clear,
            ciphertext_hiding: set,
            page_swap_disabled: clear,
        }),
        migration: Some(Migration::Forbidden),
        platform: Some(PlatformRule {
            smt: set,
            tsme: clear,
            ecc: set,
            rapl_disabled: clear,
            ciphertext_hiding: set,
            alias_check_complete: set,
            tio: clear,
            unknown: clear,
        }),
        vmpl: Some(vec![0]),
        measurement: Some(Reference::OneOf(vec![Hex([0x3E; 48])])),
        host_data: Some(Rule::OneOf(vec![Hex([0x40; 32])])),
        family_id: Some(Rule::OneOf(vec![Hex([0xFA; 16])])),
        image_id: Some(Rule::OneOf(vec![Hex([0x1A; 16])])),
        minimum_guest_svn: Some(7),
        id_key: Some(Rule::OneOf(vec![Hex([0x1D; 48])])),
        author_key: Some(Rule::OneOf(vec![Hex([0xA7; 48])])),
        report_id: Some(Rule::OneOf(vec![Hex([0x4E; 32])])),
    }
}

impl Scene {
    /// A version 5 report of a Genoa chip under a VCEK, a current revocation list, and a policy that names it all.
    pub(super) fn good() -> Self {
        let key = report_key(7);
        let mut root = certificate("ARK-Genoa", "ARK-Genoa", 1, Authority::Root.spki(), Authority::Root);
        root.extensions = vec![usage(true, true), ca(None)];
        let mut intermediate =
            certificate("SEV-Genoa", "ARK-Genoa", 2, Authority::Intermediate.spki(), Authority::Root);
        intermediate.extensions = vec![ca(Some(0)), usage(true, false)];
        let mut leaf = certificate("SEV-VCEK", "SEV-Genoa", 0, p384_spki(&key), Authority::Intermediate);
        leaf.extensions = vec![
            extension(STRUCTURE_VERSION, false, integer(0)),
            extension(PRODUCT_NAME, false, ia5("Genoa")),
            extension(&spl(1), false, integer(10)),
            extension(&spl(2), false, integer(1)),
            extension(&spl(4), false, integer(0)),
            extension(&spl(5), false, integer(0)),
            extension(&spl(6), false, integer(0)),
            extension(&spl(7), false, integer(0)),
            extension(&spl(3), false, integer(23)),
            extension(&spl(8), false, integer(84)),
            extension(HW_ID, false, CHIP.to_vec()),
        ];
        let crl = Crl {
            issuer: "ARK-Genoa".into(),
            from: "250501000000Z".into(),
            until: Some("250701000000Z".into()),
            revoked: vec![0x7777],
            extensions: Vec::new(),
            signer: Authority::Root,
        };
        Self {
            report: raw_report(),
            report_key: Some(key),
            after_signing: |_| (),
            leaf,
            intermediate,
            root,
            pinned_as: AmdLine::Genoa,
            crl: Some(crl),
            given: None,
            collateral: Vec::new(),
            more_crls: Vec::new(),
            policy: exact_policy(),
            demand: Some(DATA.to_vec()),
            now: NOON,
        }
    }

    /// The same under a provider's VLEK, with the chip masked.
    pub(super) fn under_vlek() -> Self {
        let mut scene = Self::good();
        scene.report.put_u32(at::KEY_INFO, 1 | 1 << 2);
        scene.report.put(at::CHIP_ID, &[0; 64]);
        scene.intermediate.subject = "SEV-VLEK-Genoa".into();
        scene.leaf.issuer = "SEV-VLEK-Genoa".into();
        scene.leaf.subject = "SEV-VLEK".into();
        scene.leaf.remove(HW_ID);
        scene.leaf.extensions.push(extension(CSP_ID, false, ia5(PROVIDER)));
        scene.policy.signing_keys = Some(vec![SigningKey::Vlek]);
        scene.policy.masked_chip_id = Some(true);
        scene.policy.chip_ids = Some(Rule::Any);
        scene
    }

    /// A version 5 report of a Turin chip: fmc 2, bl 10, tee 1, snp 23, ucode 84, and a chip id of 8 bytes.
    pub(super) fn on_turin() -> Self {
        let mut scene = Self::good();
        scene.rename("Turin", AmdLine::Turin);
        for offset in [at::CURRENT_TCB, at::REPORTED_TCB, at::COMMITTED_TCB, at::LAUNCH_TCB] {
            scene.report.put(offset, &[2, 10, 1, 23, 0, 0, 0, 84]);
        }
        let mut chip = [0; 64];
        chip[..8].copy_from_slice(&CHIP[..8]);
        scene.report.put(at::CHIP_ID, &chip);
        scene.report.put(at::CPUID, &[0x1A, 2, 1]);
        scene.leaf.extension(HW_ID).value = CHIP[..8].to_vec();
        scene.leaf.extension(STRUCTURE_VERSION).value = integer(1);
        scene.leaf.remove(&spl(4));
        scene.leaf.extensions.push(extension(&spl(9), false, integer(2)));
        let floors = TcbFloors::from([(AmdLine::Turin, TcbParts { fmc: Some(2), ..PARTS })]);
        scene.policy.minimum_tcb = Some(floors.clone());
        scene.policy.minimum_launch_tcb = Some(floors);
        scene.policy.chip_ids = Some(Rule::OneOf(vec![Hex(chip)]));
        scene
    }

    /// A version 2 report of a Milan chip, which names no processor and no mitigations.
    pub(super) fn on_milan() -> Self {
        let mut scene = Self::good();
        scene.rename("Milan", AmdLine::Milan);
        scene.leaf.extension(PRODUCT_NAME).value = ia5("Milan-B0");
        scene.report.put_u32(at::VERSION, 2);
        scene.report.put(at::CPUID, &[0; 3]);
        scene.report.put_u64(at::LAUNCH_MITIGATIONS, 0);
        scene.report.put_u64(at::CURRENT_MITIGATIONS, 0);
        scene.policy.mitigations = Some(MitigationRule { launch: Mask(0), current: Mask(0) });
        let floors = TcbFloors::from([(AmdLine::Milan, PARTS)]);
        scene.policy.minimum_tcb = Some(floors.clone());
        scene.policy.minimum_launch_tcb = Some(floors);
        scene
    }

    fn rename(&mut self, name: &str, line: AmdLine) {
        (self.root.subject, self.root.issuer) = (format!("ARK-{name}"), format!("ARK-{name}"));
        (self.intermediate.subject, self.intermediate.issuer) = (format!("SEV-{name}"), format!("ARK-{name}"));
        self.leaf.issuer = format!("SEV-{name}");
        self.leaf.extension(PRODUCT_NAME).value = ia5(name);
        self.crl.as_mut().unwrap().issuer = format!("ARK-{name}");
        self.pinned_as = line;
        self.policy.lines = Some(vec![line]);
    }

    pub(super) fn anchors(&self) -> Anchors {
        let ark = ParsedCertificate::from_der(&self.root.der()).unwrap();
        Anchors::simulated(vec![AmdAnchor { line: self.pinned_as, ark }], Vec::new())
    }

    pub(super) fn collateral(&self) -> Collateral {
        let binary = |list: &[Vec<u8>]| list.iter().cloned().map(Binary).collect::<Vec<_>>();
        let mut crls: Vec<Binary> = self.crl.iter().map(|crl| Binary(crl.der())).collect();
        crls.extend(binary(&self.more_crls));
        let amd = AmdCollateral { certificates: binary(&self.collateral), crls };
        Collateral { amd: Some(amd), ..Collateral::none() }
    }

    pub(super) fn evidence(&self) -> SnpEvidence {
        let mut report = self.report.clone();
        if let Some(key) = &self.report_key {
            report.sign(key);
        }
        (self.after_signing)(&mut report);
        let given = self.given.clone().unwrap_or_else(|| vec![self.leaf.der(), self.intermediate.der()]);
        SnpEvidence { report: Binary(report.0), certificates: given.into_iter().map(Binary).collect() }
    }

    pub(super) fn judge(&self) -> (Appraised, Vec<Check>) {
        self.judge_that(&self.evidence())
    }

    pub(super) fn judge_that(&self, evidence: &SnpEvidence) -> (Appraised, Vec<Check>) {
        let (anchors, collateral) = (self.anchors(), self.collateral());
        let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
        let demand = self.demand.as_deref().map_or(Demand::Unsaid, Demand::ReportData);
        let context = Context { demand, endorsements: &endorsements, given: None, now: self.now };
        let mut recorder = Recorder::default();
        let appraised = check(evidence, &self.policy, &context, &mut recorder);
        (appraised, recorder.finish(checks::SNP))
    }

    /// The ids of the checks that failed, in order.
    pub(super) fn failing(&self) -> Vec<String> {
        failing(&self.judge().1)
    }
}

pub(super) fn failing(checks: &[Check]) -> Vec<String> {
    checks.iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id.clone()).collect()
}
