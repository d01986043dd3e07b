//! Quotes and certificates of real TPMs in a folder outside the repository (`LAMBDA_FIXTURES`, else `../shared/fixtures`
//! beside the repository): each is judged as its manifest says, and claims what its manifest says.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lambda_attest::{
    Anchors, Collateral, Endorsements, Given, Inspection, Outcome, ParavisorEvidence, ParseError, Report,
    TpmQuoteEvidence, UnixTime, inspect,
};
use serde_json::Value;

/// Keys of `expected` that are about the verdict, or that a TPM has nothing like.
const NOT_CLAIMS: [&str; 7] = ["verdict", "why", "crypto_valid", "policy", "tcb_status", "time_for_validity", "debug"];

fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(root.join("tpm")) else {
        eprintln!("NOT CHECKED: quotes of real TPMs (no {}; set LAMBDA_FIXTURES)", root.display());
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 18, "only {} quotes", folders.len());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn expected(folder: &Path) -> serde_json::Map<String, Value> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    manifest["expected"].as_object().unwrap().clone()
}

fn evidence(folder: &Path) -> (TpmQuoteEvidence, Given) {
    let file = |name: &str| std::fs::read(folder.join(name)).ok();
    let pem = |name: &str| {
        let (_, document) = der::Document::from_pem(std::str::from_utf8(&file(name)?).unwrap()).unwrap();
        Some(document.into_vec())
    };
    let certificates = ["ak_cert.der", "ak_intermediate.der", "leaf.der", "intermediate1.der"];
    let evidence = TpmQuoteEvidence {
        attest: file("quote.msg").unwrap_or_default().into(),
        signature: file("quote.sig").unwrap_or_default().into(),
        pcrs: file("pcrs.json").map(|json| serde_json::from_slice(&json).unwrap()).unwrap_or_default(),
        event_log: file("event_log.bin").map(Into::into),
        ak: pem("ak_pub.pem").map(Into::into),
        certificates: certificates.iter().filter_map(|name| file(name)).map(Into::into).collect(),
        paravisor: file("hcl_report.bin").map(|report| ParavisorEvidence {
            report: report.into(),
            certificates: ["vcek.der", "ask.der"].iter().filter_map(|name| file(name)).map(Into::into).collect(),
            quote: file("td_quote.bin").map(Into::into),
        }),
    };
    let roots = ["ak_root.der", "root.der"].iter().filter_map(|name| file(name)).collect();
    let certificates_only = !folder.join("quote.msg").exists();
    (evidence, Given { nonce: file("nonce.bin"), roots, certificates_only, ..Given::default() })
}

fn at(folder: &Path) -> UnixTime {
    let text = expected(folder)["time_for_validity"].as_str().unwrap_or("2025-06-01T00:00:00Z").to_owned();
    text.parse().unwrap()
}

fn judge(evidence: TpmQuoteEvidence, given: &Given, now: UnixTime) -> Result<Inspection, ParseError> {
    static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| Anchors::vendor().unwrap());
    let endorsements = Endorsements { anchors: &ANCHORS, collateral: &Collateral::none() };
    inspect(&Report::TpmQuote(evidence), given, &endorsements, now)
}

fn failed(inspection: &Inspection) -> Vec<&str> {
    let failed = inspection.checks.iter().filter(|check| check.outcome == Outcome::Fail);
    failed.map(|check| check.id.as_str()).collect()
}

#[test]
fn every_quote_is_judged_and_claims_as_its_manifest_says() {
    for folder in folders() {
        let (name, expected) = (name(&folder), expected(&folder));
        let (evidence, given) = evidence(&folder);
        let tier = if given.roots.is_empty() { "unanchored" } else { "platform" };
        let inspection = judge(evidence, &given, at(&folder)).unwrap();
        assert_eq!(inspection.accepted(), expected["verdict"] == "valid", "{name}: {:#?}", inspection.checks);
        assert_eq!(inspection.tier.to_string(), tier, "{name}");
        for (key, value) in expected.iter().filter(|(key, _)| !NOT_CLAIMS.contains(&key.as_str())) {
            assert_eq!(inspection.claims.get(key).unwrap_or(&Value::Null), value, "{name}: {key}");
        }
    }
}

#[test]
fn the_bad_quotes_fail_just_the_checks_that_they_should() {
    for (name, expected) in [
        ("neg-event-log-digest-bit", vec!["tpm-quote.log.replay", "tpm-quote.log.digests"]),
        ("neg-nonce", vec!["tpm-quote.nonce"]),
        ("neg-other-ak", vec!["tpm-quote.signature"]),
        ("neg-pcr4-zeroed", vec!["tpm-quote.pcr-digest"]),
        ("neg-physical-lenovo-pcr0", vec!["tpm-quote.log.replay"]),
        ("neg-quote-bit", vec!["tpm-quote.signature", "tpm-quote.pcr-digest"]),
        ("neg-signature-bit", vec!["tpm-quote.signature"]),
    ] {
        let Some(folder) = folders().into_iter().find(|folder| folder.ends_with(name)) else { return };
        let (evidence, given) = evidence(&folder);
        assert_eq!(failed(&judge(evidence, &given, at(&folder)).unwrap()), expected, "{name}");
    }
}

#[test]
fn certificates_are_judged_at_the_time_that_is_given() {
    for folder in folders().into_iter().filter(|folder| folder.join("root.der").exists()) {
        for year in ["1999", "2300"] {
            let (evidence, given) = evidence(&folder);
            let then = format!("{year}-01-01T00:00:00Z").parse().unwrap();
            assert_eq!(failed(&judge(evidence, &given, then).unwrap()), ["tpm-quote.chain.dates"]);
        }
    }
}

#[test]
fn no_bent_or_cut_quote_is_accepted() {
    for folder in folders().into_iter().filter(|folder| folder.join("quote.msg").exists()) {
        if name(&folder).starts_with("neg-") {
            continue;
        }
        let (evidence, given) = evidence(&folder);
        let now = at(&folder);
        let accepted = |evidence: TpmQuoteEvidence| judge(evidence, &given, now).is_ok_and(|it| it.accepted());
        assert!(accepted(evidence.clone()), "{}", name(&folder));
        for byte in 0..evidence.attest.0.len() {
            let mut bent = evidence.clone();
            bent.attest.0[byte] ^= 1 << (byte % 8);
            assert!(!accepted(bent), "{}: byte {byte}", name(&folder));
        }
        for byte in 0..evidence.signature.0.len() {
            let mut bent = evidence.clone();
            bent.signature.0[byte] ^= 1 << (byte % 8);
            assert!(!accepted(bent), "{}: byte {byte} of the signature", name(&folder));
        }
        for length in 0..evidence.attest.0.len() {
            let mut cut = evidence.clone();
            cut.attest.0.truncate(length);
            assert!(!accepted(cut), "{}: {length} bytes", name(&folder));
        }
    }
}

#[test]
fn no_bent_certificate_is_accepted() {
    for folder in folders().into_iter().filter(|folder| folder.join("leaf.der").exists()) {
        let (evidence, given) = evidence(&folder);
        let now = at(&folder);
        for byte in 0..evidence.certificates[0].0.len() {
            let mut bent = evidence.clone();
            bent.certificates[0].0[byte] ^= 1 << (byte % 8);
            assert!(!judge(bent, &given, now).is_ok_and(|it| it.accepted()), "{}: byte {byte}", name(&folder));
        }
    }
}
