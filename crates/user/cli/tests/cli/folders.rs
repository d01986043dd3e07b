//! `lambda attest inspect|verify` over evidence as files: what these tests write, and real evidence in a folder outside the
//! repository where it is available (`LAMBDA_FIXTURES`, else `../shared/fixtures` beside the repository).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bench::{Bench, Run, data};

fn fixtures() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let mut found = Vec::new();
    for tee in ["snp", "tdx", "sgx", "cca", "tpm", "eventlog"] {
        match std::fs::read_dir(root.join(tee)) {
            Ok(entries) => found.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => {
                eprintln!("NOT CHECKED: real {tee} evidence (no {}; set LAMBDA_FIXTURES)", root.join(tee).display())
            }
        }
    }
    found.retain(|folder| folder.join("manifest.json").exists());
    found.sort();
    found
}

fn inspect(bench: &Bench, path: &Path, more: &[&str]) -> Run {
    bench.run(&[&["attest", "inspect", path.to_str().unwrap(), "-o", "json"][..], more].concat())
}

#[test]
fn real_evidence_is_judged_by_exit_code_and_json_as_its_manifest_says() {
    let bench = Bench::new();
    for folder in fixtures() {
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let expected = &manifest["expected"];
        let at = expected["time_for_validity"].as_str().unwrap_or("2026-11-01T00:00:00Z");
        let run = inspect(&bench, &folder, &["--at", at]);
        if expected["verdict"] == "valid" {
            assert_eq!(run.code, 0, "{}: {run:?}", folder.display());
        } else {
            assert!([2, 3].contains(&run.code), "{}: {run:?}", folder.display());
        }
        if run.code == 2 {
            assert!(run.out.is_empty() && !run.err.is_empty(), "{}: {run:?}", folder.display());
            continue;
        }
        let json: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(json["verdict"], if run.code == 0 { "accepted" } else { "rejected" }, "{}", folder.display());
        for field in ["tier", "tee", "product", "claims", "note"] {
            assert!(!json[field].is_null(), "{}: {field}", folder.display());
        }
        let checks = json["checks"].as_array().unwrap();
        let known = ["pass", "fail", "not-applicable"];
        assert!(!checks.is_empty(), "{}", folder.display());
        assert!(checks.iter().all(|check| check["outcome"].as_str().is_some_and(|outcome| known.contains(&outcome))));
    }
}

#[test]
fn what_a_manifest_expects_changes_nothing() {
    let bench = Bench::new();
    let Some(folder) = fixtures().into_iter().find(|folder| folder.ends_with("neg-milan-signature-bit")) else {
        return;
    };
    let copy = PathBuf::from(bench.path("copy"));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(copy.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
    }
    let path = copy.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let at = manifest["expected"]["time_for_validity"].as_str().unwrap().to_owned();
    let before = inspect(&bench, &copy, &["--at", &at]);
    manifest["expected"] = json!({"verdict": "valid", "crypto_valid": true});
    manifest["derived"] = false.into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let after = inspect(&bench, &copy, &["--at", &at]);
    assert_eq!((before.code, before.out), (3, after.out));
}

#[test]
fn raw_files_are_judged_as_their_folder_is() {
    let bench = Bench::new();
    let find = |name: &str| fixtures().into_iter().find(|folder| folder.ends_with(name));
    let (Some(snp), Some(tdx)) = (find("snp/milan-v3-dstack"), find("tdx/v4-uptodate-phala")) else { return };
    let text = |path: PathBuf| path.display().to_string();
    let same = |folder: &Path, at: &str, args: &[&str]| {
        let whole = inspect(&bench, folder, &["--at", at]);
        let run = bench.run(&[&["attest", "inspect", "-o", "json", "--at", at][..], args].concat());
        assert_eq!((run.code, run.out), (whole.code, whole.out), "{}: {}", folder.display(), run.err);
    };
    let (report, leaf, ask) = (text(snp.join("report.bin")), text(snp.join("vcek.der")), text(snp.join("ask.der")));
    let manifest = |folder: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
    };
    let at = |folder: &Path| manifest(folder)["expected"]["time_for_validity"].as_str().unwrap().to_owned();
    same(&snp, &at(&snp), &[&report, "--tee", "snp", "--chain", &leaf, "--chain", &ask]);
    let (quote, collateral) = (text(tdx.join("quote.bin")), text(tdx.clone()));
    same(&tdx, &at(&tdx), &[&quote, "--tee", "tdx", "--collateral", &collateral]);
}

#[test]
fn bytes_that_are_no_evidence_end_with_2_and_the_place_is_named() {
    let bench = Bench::new();
    let junk = bench.file("junk.bin", b"\x01\x02\x03");
    let untold = bench.run(&["attest", "inspect", &junk]);
    assert!(untold.code == 2 && untold.err.contains("--tee"), "{untold:?}");
    for tee in ["snp", "tdx", "sgx", "cca", "psa", "tpm"] {
        let inspected = bench.run(&["attest", "inspect", &junk, "--tee", tee]);
        let verified = bench.run(&["attest", "verify", &junk, "--tee", tee, "--policy", &data("policy.json")]);
        for run in [inspected, verified] {
            assert!(run.code == 2 && run.out.is_empty() && run.err.contains("junk.bin"), "{tee}: {run:?}");
        }
    }
    let options = bench.run(&["attest", "inspect", &junk, "--chain", &junk]);
    assert!(options.code == 2 && options.err.contains("--tee"), "{options:?}");
}

#[test]
fn a_policy_that_says_nothing_of_a_kind_of_evidence_refuses_it_and_so_does_an_unsaid_question() {
    let bench = Bench::new();
    let Some(folder) = fixtures().into_iter().find(|folder| folder.ends_with("snp/milan-v3-dstack")) else { return };
    let policy = data("policy.json");
    let run = bench.run(&["attest", "verify", folder.to_str().unwrap(), "--policy", &policy, "-o", "json"]);
    assert_eq!(run.code, 3, "{run:?}");
    let json: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(json["verdict"], "rejected");
    let failed = |id: &str| {
        json["checks"].as_array().unwrap().iter().any(|check| check["id"] == id && check["outcome"] == "fail")
    };
    assert!(failed("policy.tee") && failed("snp.report-data"), "{}", run.out);
    let record = data("record.json");
    let run = bench.run(&["attest", "verify", &record, "--policy", &policy, "--report-data", "00"]);
    assert!(run.code == 2 && run.err.contains("--report-data"), "{run:?}");
}
