//! A platform, its guest and its customer, all in order; tests spoil one thing at a time.

use lambda_types::{Binary, InstanceId};

use super::der::*;
use super::forge::*;
pub(super) use super::good::*;
use crate::appraise::{Appraised, Context, Demand, Endorsements};
use crate::checks::Recorder;
use crate::evidence::SnpEvidence;
use crate::pki::ParsedCertificate;
use crate::policy::{HostDataRule, Reference, Rule};
use crate::snp::*;
use crate::{AmdAnchor, AmdCollateral, AmdLine, Anchors, Check, Collateral, Hex, Outcome, UnixTime};

/// 2025-06-01T12:00:00Z.
pub(super) const NOON: UnixTime = UnixTime(1_748_779_200);

pub(super) const PARTS: TcbParts = TcbParts { fmc: None, bl: 10, tee: 1, snp: 23, ucode: 84 };

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
    pub(super) instance: Option<InstanceId>,
    pub(super) now: UnixTime,
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
        host_data: Some(HostDataRule::OneOf(vec![Hex([0x40; 32])])),
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
        let [root, intermediate, leaf] = chain(p384_spki(&key));
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
            instance: None,
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
        self.judge_under(evidence, &self.anchors())
    }

    pub(super) fn judge_under(&self, evidence: &SnpEvidence, anchors: &Anchors) -> (Appraised, Vec<Check>) {
        let collateral = self.collateral();
        let endorsements = Endorsements { anchors, collateral: &collateral };
        let demand = self.demand.as_deref().map_or(Demand::Unsaid, Demand::ReportData);
        let context =
            Context { demand, endorsements: &endorsements, given: None, instance: self.instance, now: self.now };
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
