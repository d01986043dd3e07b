//! Reports of real chips, judged under AMD's own roots, wherever the folder with them is at hand (`LAMBDA_FIXTURES`, else
//! `../shared/fixtures` beside the repository).

use std::path::{Path, PathBuf};

use lambda_types::Binary;
use serde_json::Value;

use super::scene::failing;
use crate::appraise::{Appraised, Context, Demand, Endorsements};
use crate::checks::Recorder;
use crate::evidence::SnpEvidence;
use crate::snp::*;
use crate::{AmdCollateral, Anchors, Check, Collateral, Given, Inspection, Report, UnixTime, inspect};

/// A folder with a report.
pub(super) struct Fixture {
    pub(super) name: String,
    pub(super) manifest: Value,
    pub(super) evidence: SnpEvidence,
    pub(super) collateral: Collateral,
    folder: PathBuf,
}

impl Fixture {
    fn read(folder: &Path) -> Option<Self> {
        let file = |name: &str| std::fs::read(folder.join(name)).ok();
        let manifest: Value = serde_json::from_slice(&file("manifest.json")?).unwrap();
        let report = Binary(file("report.bin")?);
        let names = manifest["files"].as_object().unwrap().keys();
        let of_kind = |crl: bool| {
            let der = names.clone().filter(|name| name.ends_with(".der") && name.starts_with("crl") == crl);
            der.map(|name| Binary(file(name).unwrap())).collect::<Vec<_>>()
        };
        let amd = AmdCollateral { certificates: Vec::new(), crls: of_kind(true) };
        Some(Self {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            evidence: SnpEvidence { report, certificates: of_kind(false) },
            collateral: Collateral { amd: Some(amd), ..Collateral::none() },
            manifest,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn is_good(&self) -> bool {
        self.manifest["expected"]["verdict"] == "valid"
    }

    /// Under the default appraisal, at the instant that the manifest names.
    pub(super) fn judge(&self, evidence: &SnpEvidence, anchors: &Anchors) -> (Appraised, Vec<Check>) {
        let now: UnixTime = self.manifest["expected"]["time_for_validity"].as_str().unwrap().parse().unwrap();
        let endorsements = Endorsements { anchors, collateral: &self.collateral };
        let context =
            Context { demand: Demand::Nothing, endorsements: &endorsements, given: None, instance: None, now };
        let mut recorder = Recorder::default();
        let appraised = check(evidence, &SnpPolicy::default_appraisal(), &context, &mut recorder);
        (appraised, recorder.finish(checks::SNP))
    }
}

fn root() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/fixtures");
    std::env::var_os("LAMBDA_FIXTURES").map_or_else(beside, PathBuf::from).join("snp")
}

/// Every folder with a report; none, said aloud, when they are not at hand.
pub(super) fn fixtures() -> Vec<Fixture> {
    let root = root();
    let Ok(entries) = std::fs::read_dir(&root) else {
        eprintln!("NOT CHECKED: real SEV-SNP reports (no {}; set LAMBDA_FIXTURES)", root.display());
        return Vec::new();
    };
    let mut found: Vec<_> = entries.filter_map(|entry| Fixture::read(&entry.unwrap().path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!found.is_empty(), "{} holds no report", root.display());
    found
}

#[test]
fn real_reports_are_judged_as_they_are_known_to_be() {
    let anchors = Anchors::vendor().unwrap();
    for fixture in fixtures() {
        let failed = failing(&fixture.judge(&fixture.evidence, &anchors).1);
        assert_eq!(failed.is_empty(), fixture.is_good(), "{}: {failed:?}", fixture.name);
        // A debug guest on a real platform fails for being one and for nothing else.
        let authentic = failed.iter().all(|id| id == "snp.policy.debug");
        assert_eq!(authentic, fixture.manifest["expected"]["crypto_valid"] == true, "{}: {failed:?}", fixture.name);
    }
}

#[test]
fn real_bad_reports_fail_where_they_are_bad() {
    let anchors = Anchors::vendor().unwrap();
    for fixture in fixtures().into_iter().filter(|fixture| !fixture.is_good()) {
        let id = match fixture.name.as_str() {
            "milan-v2-debug-gcp" => "snp.policy.debug",
            "neg-genoa-other-chip-vcek" => "snp.leaf.chip-id",
            "neg-genoa-revoked-ask" => "snp.crl.revoked",
            "neg-milan-crl-expired" => "snp.crl.dates",
            "neg-milan-measurement-bit" | "neg-milan-signature-bit" => "snp.report.signature",
            "neg-milan-truncated" => "snp.report.version",
            "neg-milan-under-genoa-root" => "snp.chain.leaf-signature",
            "neg-milan-vcek-forged-legacy" | "neg-milan-vcek-forged-new" => "snp.chain.leaf-signature",
            "neg-vlek-expired" => "snp.chain.dates",
            _ => continue,
        };
        let failed = failing(&fixture.judge(&fixture.evidence, &anchors).1);
        assert!(failed.iter().any(|failed| failed == id), "{}: {failed:?}", fixture.name);
        assert_eq!(readable(&fixture.evidence).is_err(), fixture.name == "neg-milan-truncated");
    }
}

#[test]
fn real_reports_claim_what_they_are_known_to_claim() {
    let anchors = Anchors::vendor().unwrap();
    let about_the_verdict = ["verdict", "why", "crypto_valid", "time_for_validity"];
    for fixture in fixtures() {
        let (appraised, _) = fixture.judge(&fixture.evidence, &anchors);
        if readable(&fixture.evidence).is_err() {
            assert!(appraised.claims.is_empty());
            continue;
        }
        for (name, expected) in fixture.manifest["expected"].as_object().unwrap() {
            if !about_the_verdict.contains(&name.as_str()) {
                assert_eq!(appraised.claims.get(name), Some(expected), "{}: {name}", fixture.name);
            }
        }
        assert_eq!(appraised.claims["report_version"], fixture.manifest["report_version"], "{}", fixture.name);
        if fixture.is_good() {
            assert_eq!(appraised.product, fixture.manifest["product"].as_str().unwrap(), "{}", fixture.name);
        }
    }
}

/// AMD's intermediates and lists without a report, as an inspection finds them in a folder.
struct Roots {
    evidence: SnpEvidence,
    collateral: Collateral,
    now: UnixTime,
}

impl Roots {
    fn read() -> Option<Self> {
        let folder = root().join("amd-roots");
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).ok()?).unwrap();
        let names = manifest["files"].as_object().unwrap().keys().filter(|name| name.ends_with(".der"));
        let of_kind = |crl: bool| {
            let some = names.clone().filter(|name| name.starts_with("crl") == crl);
            some.map(|name| Binary(std::fs::read(folder.join(name)).unwrap())).collect::<Vec<_>>()
        };
        let amd = AmdCollateral { certificates: Vec::new(), crls: of_kind(true) };
        Some(Self {
            evidence: SnpEvidence { report: Binary(Vec::new()), certificates: of_kind(false) },
            collateral: Collateral { amd: Some(amd), ..Collateral::none() },
            now: manifest["expected"]["time_for_validity"].as_str().unwrap().parse().unwrap(),
        })
    }

    fn inspect(&self) -> Inspection {
        let anchors = Anchors::vendor().unwrap();
        let endorsements = Endorsements { anchors: &anchors, collateral: &self.collateral };
        let alone = Given { certificates_only: true, ..Given::default() };
        inspect(&Report::Snp(self.evidence.clone()), &alone, &endorsements, self.now).unwrap()
    }
}

#[test]
fn real_intermediates_and_lists_are_under_the_pinned_roots() {
    let Some(mut roots) = Roots::read() else { return };
    let inspection = roots.inspect();
    assert_eq!(failing(&inspection.checks), [""; 0]);
    let certificates = inspection.claims["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 7);
    let revoked: Vec<_> = certificates.iter().filter(|it| it["revoked_by_given_list"] == true).collect();
    assert_eq!(revoked.len(), 1, "{revoked:?}");
    assert_eq!(revoked[0]["serial"], "020001");

    roots.now = UnixTime(0);
    assert_eq!(failing(&roots.inspect().checks), ["snp.chain.dates"]);
}

#[test]
fn intermediates_and_lists_of_nobody_are_not_taken_for_real_ones() {
    let Some(mut roots) = Roots::read() else { return };
    let scene = super::scene::Scene::good();
    roots.evidence.certificates.push(Binary(scene.intermediate.der()));
    roots.collateral.amd.as_mut().unwrap().crls.push(Binary(scene.crl.as_ref().unwrap().der()));
    // The names are AMD's no more than the keys are: a made-up name has one part, AMD's six.
    assert_eq!(failing(&roots.inspect().checks), ["snp.chain.ark-pinned", "snp.crl.signature"]);
    roots.evidence.certificates.push(Binary(scene.leaf.der()));
    assert!(failing(&roots.inspect().checks).contains(&"snp.chain.structure".to_owned()));
}

#[test]
fn certificates_alone_are_no_evidence() {
    let scene = super::scene::Scene::good();
    let evidence = SnpEvidence { report: Binary(Vec::new()), certificates: vec![Binary(scene.intermediate.der())] };
    let (_, checks) = scene.judge_that(&evidence);
    assert_eq!(failing(&checks).len(), checks.len());
    let nothing = SnpEvidence { report: Binary(Vec::new()), certificates: Vec::new() };
    readable(&nothing).unwrap_err();
}

#[test]
fn a_real_certificate_table_gives_the_certificates_of_its_report() {
    for mut fixture in fixtures() {
        let Ok(cbor) = std::fs::read(fixture.folder.join("tsm-report.cbor")) else { continue };
        let value: ciborium::Value = ciborium::from_reader(cbor.as_slice()).unwrap();
        let entry = |name: &str| {
            let entries = value.as_map().unwrap().iter();
            let mut found = entries.filter(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value);
            found.next().unwrap().as_bytes().unwrap().clone()
        };
        assert_eq!(entry("outblob"), fixture.evidence.report.0);
        fixture.evidence.certificates = certificates_of_table(&entry("auxblob")).unwrap();
        assert_eq!(fixture.evidence.certificates.len(), 3);
        let failed = failing(&fixture.judge(&fixture.evidence, &Anchors::vendor().unwrap()).1);
        assert_eq!(failed, [""; 0], "{}", fixture.name);
    }
}
