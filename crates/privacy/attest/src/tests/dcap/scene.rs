//! One platform, one quote, one collateral, one policy: accepted as they are, and then changed by a negative.

use std::collections::BTreeMap;

use lambda_types::{Binary, ImageId, InstanceId};

use super::forge::{CertificateSpec, CrlSpec, PlatformSpec, raw_signature};
pub(super) use super::good::*;
use super::quotes::{Enclave, LogEvent, QuoteSpec, Td, event_log, replayed};
use crate::appraise::{Appraised, Context, Demand};
use crate::checks::Recorder;
use crate::dcap::{DcapPolicy, LogRule, SgxPolicy, TcbStatus, TdxPolicy, TdxReference, sgx, tdx};
use crate::policy::{HostDataRule, ImageReference, Reference, Rule};
use crate::verdict::{Check, Outcome};
use crate::{Anchors, Collateral, Endorsements, Given, Hex, IntelCollateral, SgxEvidence, TdxEvidence, UnixTime};

/// Dates of the documents.
const ISSUED: &str = "2026-05-15T00:00:00Z";
const NEXT: &str = "2026-06-15T00:00:00Z";

/// What runs.
#[derive(Clone)]
pub(super) enum Guest {
    Td(Box<Td>, Box<TdxPolicy>),
    Enclave(Box<Enclave>, Box<SgxPolicy>),
}

/// Text that is replaced once.
pub(super) type Edit = (&'static str, &'static str);

#[derive(Clone)]
pub(super) struct Scene {
    pub(super) guest: Guest,
    pub(super) quote: QuoteSpec,
    /// Changes to the finished quote: what is no longer signed.
    pub(super) tamper: fn(&mut Vec<u8>),
    pub(super) platform: PlatformSpec,
    pub(super) pinned: CertificateSpec,
    pub(super) root: CertificateSpec,
    pub(super) pck_ca: CertificateSpec,
    pub(super) pck: CertificateSpec,
    pub(super) signer: CertificateSpec,
    /// Where the QE identity has a signer of its own.
    pub(super) identity_signer: Option<CertificateSpec>,
    pub(super) chain: fn(String) -> String,
    pub(super) signer_chain: fn(String) -> String,
    pub(super) pck_crl: CrlSpec,
    pub(super) root_crl: CrlSpec,
    pub(super) tcb_info: String,
    pub(super) identity: String,
    pub(super) tcb_info_after: Edit,
    pub(super) identity_after: Edit,
    pub(super) signs_documents: u8,
    pub(super) events: Option<Vec<LogEvent>>,
    pub(super) collateral: fn(Collateral) -> Collateral,
    pub(super) asked: [u8; 64],
    pub(super) now: &'static str,
    pub(super) given: Option<Given>,
    pub(super) instance: Option<InstanceId>,
}

fn td() -> Td {
    Td {
        svn: [4, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
        mrseam: [0x33; 48],
        mrsignerseam: [0; 48],
        seam_attributes: 0,
        attributes: 1 << 28,
        xfam: 0xe7,
        mrtd: [0x44; 48],
        mrconfigid: [0x45; 48],
        mrowner: [0x46; 48],
        mrownerconfig: [0x47; 48],
        rtmrs: replayed(&events()),
        report_data: [0x5a; 64],
        later: Some(([4, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], [0; 48])),
    }
}

/// A separator in each RTMR but the last, and something that the log only describes.
pub(super) fn events() -> Vec<LogEvent> {
    let separator = |register| (register, 4, vec![0; 4], vec![0; 4]);
    vec![
        (1, 0x8000_000a, b"firmware".to_vec(), b"its name".to_vec()),
        separator(1),
        separator(2),
        separator(3),
        (4, 0xd, b"run time".to_vec(), b"a note".to_vec()),
    ]
}

fn platform_policy() -> DcapPolicy {
    DcapPolicy {
        statuses: Some(vec![TcbStatus::UpToDate]),
        minimum_evaluation_number: Some(17),
        fmspc: Some(one(Hex([0xb0, 0xc0, 0x6f, 0, 0, 0]))),
        ppid: Some(one(Hex([0x66; 16]))),
        smt: Some(one(false)),
        dynamic_platform: Some(one(false)),
        cached_keys: Some(one(false)),
    }
}

pub(super) fn one<T>(value: T) -> Rule<T> {
    Rule::OneOf(vec![value])
}

pub(super) fn image() -> ImageId {
    ImageId::from_bits(7)
}

fn tdx_policy(td: &Td) -> TdxPolicy {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = td.rtmrs.map(Hex);
    let reference = TdxReference { mrtd: Hex(td.mrtd), rtmr0: one(rtmr0), rtmr1: one(rtmr1), rtmr2: one(rtmr2) };
    let shapes = BTreeMap::from([("small".parse().unwrap(), reference)]);
    TdxPolicy {
        platform: platform_policy(),
        mrseam: Some(one(Hex(td.mrseam))),
        sept_ve_disable: Some(one(true)),
        migratable: Some(one(false)),
        pks: Some(one(false)),
        key_locker: Some(one(false)),
        perfmon: Some(one(false)),
        xfam: Some(one(Hex(td.xfam.to_le_bytes()))),
        measurement: Some(Reference::Images(vec![ImageReference {
            image: image(),
            name: "test".into(),
            version: "1".into(),
            shapes,
        }])),
        rtmr3: Some(one(rtmr3)),
        mrconfigid: Some(HostDataRule::OneOf(vec![Hex(td.mrconfigid)])),
        mrowner: Some(one(Hex(td.mrowner))),
        mrownerconfig: Some(one(Hex(td.mrownerconfig))),
        mrservicetd: Some(one(Hex([0; 48]))),
        event_log: Some(LogRule::Required),
    }
}

fn sgx_policy(enclave: &Enclave) -> SgxPolicy {
    SgxPolicy {
        platform: platform_policy(),
        flags: Some(one(Hex(enclave.flags.to_le_bytes()))),
        xfrm: Some(one(Hex(enclave.xfrm.to_le_bytes()))),
        miscselect: Some(one(Hex(enclave.miscselect))),
        cpusvn: Some(one(Hex(enclave.cpusvn))),
        mrenclave: Some(one(Hex(enclave.mrenclave))),
        mrsigner: Some(one(Hex(enclave.mrsigner))),
        isvprodid: Some(one(enclave.product)),
        minimum_isvsvn: Some(7),
        configid: Some(one(Hex([0; 64]))),
        minimum_configsvn: Some(0),
        isvextprodid: Some(one(Hex([0; 16]))),
        isvfamilyid: Some(one(Hex([0; 16]))),
    }
}

impl Scene {
    /// A trust domain, quote version 5, TD 1.5.
    pub(super) fn tdx() -> Self {
        let td = td();
        let policy = tdx_policy(&td);
        let scene = Self::around(Guest::Td(Box::new(td), Box::new(policy)), 5, 0x81);
        Self { events: Some(events()), ..scene }
    }

    /// A trust domain, quote version 4, TD 1.0.
    pub(super) fn tdx_10() -> Self {
        let mut scene = Self::tdx();
        scene.quote.version = 4;
        scene.td().later = None;
        scene
    }

    /// An enclave, quote version 3.
    pub(super) fn sgx() -> Self {
        let enclave = enclave();
        let policy = sgx_policy(&enclave);
        Self::around(Guest::Enclave(Box::new(enclave), Box::new(policy)), 3, 0)
    }

    fn around(guest: Guest, version: u16, tee: u32) -> Self {
        let is_tdx = matches!(guest, Guest::Td(..));
        let root = CertificateSpec::authority(ROOT, ROOT, ROOT_KEY, ROOT_KEY);
        Self {
            guest,
            quote: quote(version, tee),
            tamper: |_| {},
            platform: platform(),
            pinned: root.clone(),
            root,
            pck_ca: CertificateSpec {
                path_length: Some(0),
                ..CertificateSpec::authority(PCK_CA, ROOT, CA_KEY, ROOT_KEY)
            },
            pck: CertificateSpec::leaf(PCK, PCK_CA, PCK_KEY, CA_KEY),
            signer: CertificateSpec::leaf(SIGNER, ROOT, SIGNER_KEY, ROOT_KEY),
            identity_signer: None,
            chain: |chain| chain,
            signer_chain: |chain| chain,
            pck_crl: CrlSpec::of(PCK_CA, CA_KEY),
            root_crl: CrlSpec::of(ROOT, ROOT_KEY),
            tcb_info: tcb_info(is_tdx, ISSUED, NEXT),
            identity: identity(is_tdx, ISSUED, NEXT),
            tcb_info_after: ("", ""),
            identity_after: ("", ""),
            signs_documents: SIGNER_KEY,
            events: None,
            collateral: |collateral| collateral,
            asked: [0x5a; 64],
            now: "2026-06-01T00:00:00Z",
            given: None,
            instance: None,
        }
    }

    pub(super) fn td(&mut self) -> &mut Td {
        match &mut self.guest {
            Guest::Td(td, _) => td,
            Guest::Enclave(..) => panic!("not a trust domain"),
        }
    }

    pub(super) fn enclave(&mut self) -> &mut Enclave {
        match &mut self.guest {
            Guest::Enclave(enclave, _) => enclave,
            Guest::Td(..) => panic!("not an enclave"),
        }
    }

    pub(super) fn tdx_policy(&mut self) -> &mut TdxPolicy {
        match &mut self.guest {
            Guest::Td(_, policy) => policy,
            Guest::Enclave(..) => panic!("not a trust domain"),
        }
    }

    pub(super) fn sgx_policy(&mut self) -> &mut SgxPolicy {
        match &mut self.guest {
            Guest::Enclave(_, policy) => policy,
            Guest::Td(..) => panic!("not an enclave"),
        }
    }

    pub(super) fn platform_policy(&mut self) -> &mut DcapPolicy {
        match &mut self.guest {
            Guest::Td(_, policy) => &mut policy.platform,
            Guest::Enclave(_, policy) => &mut policy.platform,
        }
    }

    /// Replaces text in the TCB info before it is signed. It must be there.
    pub(super) fn edit_tcb_info(&mut self, from: &str, to: &str) {
        assert!(self.tcb_info.contains(from), "{from}");
        self.tcb_info = self.tcb_info.replacen(from, to, 1);
    }

    /// Replaces text in the QE identity before it is signed. It must be there.
    pub(super) fn edit_identity(&mut self, from: &str, to: &str) {
        assert!(self.identity.contains(from), "{from}");
        self.identity = self.identity.replacen(from, to, 1);
    }

    pub(super) fn quote_bytes(&self) -> Vec<u8> {
        let body = match &self.guest {
            Guest::Td(td, _) => td.bytes(),
            Guest::Enclave(enclave, _) => enclave.bytes(),
        };
        let mut pck = self.pck.clone();
        if pck.extensions.is_empty() {
            pck.extensions.push(self.platform.extension());
        }
        let chain = (self.chain)([pck.pem(), self.pck_ca.pem(), self.root.pem()].concat());
        let mut bytes = self.quote.bytes(&body, &chain);
        (self.tamper)(&mut bytes);
        bytes
    }

    pub(super) fn log(&self) -> Option<Vec<u8>> {
        self.events.as_deref().map(event_log)
    }

    pub(super) fn made_collateral(&self) -> Collateral {
        let signed = |name: &str, body: &str, (from, to): Edit| {
            let signature = hex::encode(raw_signature(self.signs_documents, body.as_bytes()));
            assert!(from.is_empty() || body.contains(from), "{from}");
            let body = if from.is_empty() { body.to_owned() } else { body.replacen(from, to, 1) };
            format!(r#"{{"{name}":{body},"signature":"{signature}"}}"#)
        };
        let chain = |signer: &CertificateSpec| (self.signer_chain)([signer.pem(), self.root.pem()].concat());
        let intel = IntelCollateral {
            tcb_info: signed("tcbInfo", &self.tcb_info, self.tcb_info_after),
            tcb_info_issuer_chain: chain(&self.signer),
            qe_identity: signed("enclaveIdentity", &self.identity, self.identity_after),
            qe_identity_issuer_chain: chain(self.identity_signer.as_ref().unwrap_or(&self.signer)),
            pck_crl: self.pck_crl.der().into(),
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: self.root_crl.der().into(),
            pck_certificate_chain: None,
        };
        (self.collateral)(Collateral { intel: vec![intel], ..Collateral::none() })
    }

    pub(super) fn anchors(&self) -> Anchors {
        Anchors::simulated(Vec::new(), vec![crate::pki::ParsedCertificate::from_der(&self.pinned.der()).unwrap()])
    }

    pub(super) fn judge(&self) -> (Appraised, Vec<Check>) {
        self.judge_quote(self.quote_bytes(), self.log(), &self.anchors(), &self.made_collateral())
    }

    pub(super) fn judge_quote(
        &self,
        quote: Vec<u8>,
        log: Option<Vec<u8>>,
        anchors: &Anchors,
        collateral: &Collateral,
    ) -> (Appraised, Vec<Check>) {
        let endorsements = Endorsements { anchors, collateral };
        let now: UnixTime = self.now.parse().unwrap();
        let demand = Demand::ReportData(&self.asked);
        let context =
            Context { demand, endorsements: &endorsements, given: self.given.as_ref(), instance: self.instance, now };
        let mut recorder = Recorder::default();
        let quote = Binary::from(quote);
        let appraised = match &self.guest {
            Guest::Td(_, policy) => {
                let evidence = TdxEvidence { quote, event_log: log.map(Binary::from) };
                tdx::check(&evidence, policy, &context, &mut recorder)
            }
            Guest::Enclave(_, policy) => sgx::check(&SgxEvidence { quote }, policy, &context, &mut recorder),
        };
        let checks = recorder.finish(appraised.checks);
        (appraised, checks)
    }

    pub(super) fn failed(&self) -> Vec<String> {
        failed(&self.judge().1)
    }
}

/// Ids of the checks that failed, in order.
pub(super) fn failed(checks: &[Check]) -> Vec<String> {
    checks.iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id.clone()).collect()
}
