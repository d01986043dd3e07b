//! Arm CCA and PSA tokens in a folder outside the repository (`LAMBDA_FIXTURES`, else `../shared/fixtures` beside the
//! repository): each is judged as its manifest says, and claims what its manifest says.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lambda_attest::psa::is_psa_token;
use lambda_attest::{
    Anchors, CcaEvidence, Collateral, Endorsements, Given, Inspection, Outcome, ParseError, PsaEvidence, Report,
    UnixTime, inspect,
};
use serde_json::Value;

/// Keys of `expected` that are about the verdict, or that tokens have nothing like.
const NOT_CLAIMS: [&str; 6] = ["verdict", "why", "crypto_valid", "policy", "tcb_status", "time_for_validity"];

fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(root.join("cca")) else {
        eprintln!("NOT CHECKED: real Arm tokens (no {}; set LAMBDA_FIXTURES)", root.display());
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 8, "only {} tokens", folders.len());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn token(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("token.cbor")).unwrap()
}

fn judge(folder: &Path, token: &[u8]) -> Result<Inspection, ParseError> {
    let has_iak = folder.join("iak_pub.pem").exists();
    let key = folder.join(if has_iak { "iak_pub.pem" } else { "cpak_pub.pem" });
    let (_, spki) = der::Document::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let given = Given { keys: vec![spki.as_bytes().to_vec()], ..Given::default() };
    let report = if has_iak {
        Report::Psa(PsaEvidence { token: token.to_vec().into() })
    } else {
        Report::Cca(CcaEvidence { token: token.to_vec().into(), event_log: None })
    };
    static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| Anchors::vendor().unwrap());
    let endorsements = Endorsements { anchors: &ANCHORS, collateral: &Collateral::none() };
    inspect(&report, &given, &endorsements, UnixTime(1_750_000_000))
}

fn failed(inspection: &Inspection) -> Vec<&str> {
    let failed = inspection.checks.iter().filter(|check| check.outcome == Outcome::Fail);
    failed.map(|check| check.id.as_str()).collect()
}

#[test]
fn every_token_is_judged_and_claims_as_its_manifest_says() {
    for folder in folders() {
        let name = name(&folder);
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let expected = manifest["expected"].as_object().unwrap();
        let inspection = judge(&folder, &token(&folder)).unwrap();
        assert_eq!(is_psa_token(&token(&folder)), folder.join("iak_pub.pem").exists(), "{name}");
        assert_eq!(inspection.accepted(), expected["verdict"] == "valid", "{name}: {:?}", failed(&inspection));
        assert_eq!(inspection.tier.to_string(), "unanchored");
        for (key, value) in expected.iter().filter(|(key, _)| !NOT_CLAIMS.contains(&key.as_str())) {
            assert_eq!(inspection.claims.get(key), Some(value), "{name}: {key}");
        }
    }
}

#[test]
fn the_bad_tokens_fail_just_the_checks_that_they_should() {
    for (name, expected) in [
        ("neg-platform-signature-bit", vec!["cca.platform.signature"]),
        ("neg-realm-signature-bit", vec!["cca.realm.signature"]),
        ("neg-realm-not-bound", vec!["cca.realm.binding"]),
        ("neg-psa-payload-bit", vec!["psa.signature"]),
    ] {
        let Some(folder) = folders().into_iter().find(|folder| folder.ends_with(name)) else { return };
        assert_eq!(failed(&judge(&folder, &token(&folder)).unwrap()), expected, "{name}");
    }
}

/// Bends every byte and cuts at every length, in a process for each token.
fn nothing_bent_or_cut_is_accepted(of: &str) {
    let Some(folder) = folders().into_iter().find(|folder| folder.ends_with(of)) else { return };
    let token = token(&folder);
    let accepted = |bytes: &[u8]| judge(&folder, bytes).is_ok_and(|inspection| inspection.accepted());
    assert!(accepted(&token));
    for byte in 0..token.len() {
        let mut bent = token.clone();
        bent[byte] ^= 1 << (byte % 8);
        assert!(!accepted(&bent), "{of}: byte {byte}");
        assert!(!accepted(&token[..byte]), "{of}: {byte} bytes");
    }
}

#[test]
fn no_bent_or_cut_token_of_the_older_profile_is_accepted() {
    nothing_bent_or_cut_is_accepted("token-01");
}

#[test]
fn no_bent_or_cut_token_of_the_newer_profile_is_accepted() {
    nothing_bent_or_cut_is_accepted("token-draft-ffm-00");
}

#[test]
fn no_bent_or_cut_psa_token_is_accepted() {
    nothing_bent_or_cut_is_accepted("psa-tfm-2.0.0");
}

#[test]
fn no_bent_or_cut_psa_token_of_the_older_numbering_is_accepted() {
    nothing_bent_or_cut_is_accepted("psa-tfm-iot-1");
}
