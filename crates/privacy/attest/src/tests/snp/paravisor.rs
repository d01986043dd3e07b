//! A vTPM whose paravisor vouches for its key, with an SEV-SNP report made here.

use lambda_types::Binary;
use rsa::traits::PublicKeyParts as _;
use sha2::{Digest as _, Sha256};

use super::forge::*;
use super::scene::*;
use crate::appraise::{Context, Demand, Endorsements, Given};
use crate::checks::Recorder;
use crate::evidence::{ParavisorEvidence, TpmQuoteEvidence};
use crate::pki::PublicKey;
use crate::tpm_quote::checks::TPM_QUOTE;
use crate::{IntelCollateral, Outcome};

/// A paravisor's report, and what judges it; tests spoil one thing at a time.
struct Hcl {
    scene: Scene,
    key: Vec<u8>,
    kind: u32,
    hash: u32,
    runtime_data: Vec<u8>,
    /// The runtime data that the hardware's report covers, when it is not that one.
    covered: Option<Vec<u8>>,
    after: Vec<u8>,
    signature: [u8; 4],
    with_certificates: bool,
    quote: Option<Vec<u8>>,
    intel: bool,
}

fn base64url(bytes: &[u8]) -> String {
    let text = serde_json::to_value(Binary(bytes.to_vec())).unwrap();
    text.as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn runtime_data(key: &[u8], name: &str) -> Vec<u8> {
    let Some(PublicKey::Rsa(key)) = PublicKey::from_spki(key) else { panic!("not an RSA key") };
    let (n, e) = (base64url(&key.n().as_ref().to_be_bytes()), base64url(&key.e().to_be_bytes()));
    let own = serde_json::json!({"kid": name, "kty": "RSA", "n": n, "e": e});
    let data = serde_json::json!({"keys": [own, {"kid": "HCLEkPub", "kty": "RSA"}], "user-data": "00"});
    data.to_string().into_bytes()
}

fn hcl() -> Hcl {
    let key = Authority::Small.spki();
    Hcl {
        scene: Scene::good(),
        runtime_data: runtime_data(&key, "HCLAkPub"),
        key,
        kind: 2,
        hash: 1,
        covered: None,
        after: vec![0; 64],
        signature: *b"HCLA",
        with_certificates: true,
        quote: None,
        intel: false,
    }
}

impl Hcl {
    fn report(&self) -> Vec<u8> {
        let mut scene = Scene { report: self.scene.report.clone(), ..Scene::good() };
        let covered = Sha256::digest(self.covered.as_ref().unwrap_or(&self.runtime_data));
        scene.report.put(at::REPORT_DATA, &[&covered[..], &[0; 32]].concat());
        let mut hardware = scene.evidence().report.0;
        if self.kind == 4 {
            hardware[128..160].copy_from_slice(&covered);
            hardware[160..192].fill(0);
        }
        let numbers = [0, 1, self.kind, self.hash, u32::try_from(self.runtime_data.len()).unwrap()];
        let numbers = numbers.map(u32::to_le_bytes).concat();
        [&self.signature[..], &[0; 28], &hardware, &numbers, &self.runtime_data, &self.after].concat()
    }

    fn judge(&self, report: Vec<u8>) -> Vec<(String, Outcome)> {
        let certificates = [self.scene.leaf.der(), self.scene.intermediate.der()].map(Binary);
        let evidence = TpmQuoteEvidence {
            ak: Some(Binary(self.key.clone())),
            paravisor: Some(ParavisorEvidence {
                report: Binary(report),
                certificates: if self.with_certificates { certificates.to_vec() } else { Vec::new() },
                quote: self.quote.clone().map(Binary),
            }),
            ..TpmQuoteEvidence::default()
        };
        let mut collateral = crate::Collateral::none();
        if self.with_certificates {
            collateral = self.scene.collateral();
        }
        if self.intel {
            collateral.intel = vec![IntelCollateral::default()];
        }
        let anchors = self.scene.anchors();
        let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
        let given = Given::default();
        let context = Context {
            demand: Demand::Nothing,
            endorsements: &endorsements,
            given: Some(&given),
            instance: None,
            now: NOON,
        };
        let mut recorder = Recorder::default();
        let _ = crate::tpm_quote::check(&evidence, &context, &mut recorder);
        let checks =
            recorder.finish(TPM_QUOTE).into_iter().filter(|check| check.id.starts_with("tpm-quote.paravisor."));
        checks.map(|check| (check.id, check.outcome)).collect()
    }

    fn fails(&self, expected: &[&str]) {
        let judged = self.judge(self.report()).into_iter();
        let failed: Vec<String> = judged.filter(|(_, outcome)| *outcome == Outcome::Fail).map(|(id, _)| id).collect();
        let expected: Vec<String> = expected.iter().map(|id| format!("tpm-quote.{id}")).collect();
        assert_eq!(failed, expected);
    }
}

const ALL: [&str; 4] = ["paravisor.structure", "paravisor.key", "paravisor.binding", "paravisor.hardware"];

#[test]
fn a_paravisor_on_authentic_hardware_vouches_for_the_key() {
    hcl().fails(&[]);
    assert!(hcl().judge(hcl().report()).iter().all(|(_, outcome)| *outcome == Outcome::Pass));
}

#[test]
fn what_is_no_paravisors_report_fails_everything() {
    Hcl { signature: *b"HCLB", ..hcl() }.fails(&ALL);
    Hcl { kind: 1, ..hcl() }.fails(&ALL);
    Hcl { after: vec![0, 1], ..hcl() }.fails(&ALL);
    let good = hcl();
    let report = good.report();
    let whole = report.len() - good.after.len();
    for length in (0..whole).step_by(7).chain([whole - 1]) {
        let judged = good.judge(report[..length].to_vec());
        assert!(judged.iter().all(|(_, outcome)| *outcome == Outcome::Fail), "{length}");
    }
}

#[test]
fn another_key_than_the_quotes_is_not_vouched_for() {
    Hcl { key: Authority::Root.spki(), ..hcl() }.fails(&["paravisor.key"]);
    Hcl { key: p384_spki(&report_key(7)), ..hcl() }.fails(&["paravisor.key"]);
    Hcl { runtime_data: runtime_data(&hcl().key, "HCLEkPub"), ..hcl() }.fails(&["paravisor.key"]);
    Hcl { runtime_data: b"{}".to_vec(), ..hcl() }.fails(&["paravisor.key"]);
}

#[test]
fn runtime_data_that_the_hardware_does_not_cover_vouches_for_nothing() {
    Hcl { covered: Some(b"{}".to_vec()), ..hcl() }.fails(&["paravisor.binding"]);
    Hcl { hash: 2, ..hcl() }.fails(&["paravisor.binding"]);
    Hcl { hash: 9, ..hcl() }.fails(&["paravisor.binding"]);
}

#[test]
fn a_report_of_hardware_that_the_default_appraisal_refuses_vouches_for_nothing() {
    let mut debug = hcl();
    debug.scene.report.put_u64(at::POLICY, 0x000B_0000);
    debug.fails(&["paravisor.hardware"]);
    let mut foreign = hcl();
    foreign.scene.intermediate.signer = Authority::Intermediate;
    foreign.fails(&["paravisor.hardware"]);
}

#[test]
fn every_byte_of_the_hardwares_report_and_the_runtime_data_decides() {
    let good = hcl();
    let report = good.report();
    // The report's own header, and the size and version of the runtime data, are nobody's word.
    let signed = (32..32 + 0x2a0).step_by(5).chain(1236..report.len() - good.after.len());
    for position in signed {
        let mut bent = report.clone();
        bent[position] ^= 1 << (position % 7);
        assert!(good.judge(bent).iter().any(|(_, outcome)| *outcome == Outcome::Fail), "byte {position}");
    }
}

#[test]
fn without_what_judges_the_hardware_only_the_binding_is_judged() {
    for hcl in [Hcl { with_certificates: false, ..hcl() }, Hcl { kind: 4, ..hcl() }] {
        hcl.fails(&[]);
        let last = hcl.judge(hcl.report()).pop().unwrap();
        assert_eq!(last, ("tpm-quote.paravisor.hardware".to_owned(), Outcome::NotApplicable));
    }
    let mut quote = vec![0; 700];
    Hcl { kind: 4, quote: Some(quote.clone()), ..hcl() }.fails(&["paravisor.binding"]);
    quote[568..600].copy_from_slice(&Sha256::digest(&hcl().runtime_data));
    Hcl { kind: 4, quote: Some(quote.clone()), ..hcl() }.fails(&[]);
    Hcl { kind: 4, quote: Some(quote), intel: true, ..hcl() }.fails(&["paravisor.hardware"]);
}
