//! Launch profiles, as far as they show without a cloud: policies for them, and the keys that those pin.

use std::os::unix::fs::PermissionsExt as _;

use lambda_types::InstanceId;
use serde_json::{Value, json};

use crate::bench::Bench;

/// An image with values for the confidential profiles.
fn image(bench: &Bench) -> String {
    let hex = |digit: &str| digit.repeat(96);
    let manifest = json!({
        "format": 1, "name": "debian-12", "version": "1", "parts": {},
        "verity": {"root_hash": "", "salt": "", "data_size": 0}, "command_line": "",
        "expected": {
            "tpm": {},
            "snp": {"small": {"measurement": hex("a"), "cpu": "EPYC-v4", "features": 1}},
            "tdx": {"small": {"mrtd": hex("b"), "rtmr1": hex("c"), "rtmr2": hex("d"),
                "kernel": hex("0"), "initramfs": hex("0"), "command_line": hex("0")}}
        }
    });
    bench.file("image.json", manifest.to_string().as_bytes())
}

fn made(bench: &Bench, profiles: &[&str]) -> Value {
    let image = image(bench);
    let profiles: Vec<&str> = profiles.iter().flat_map(|profile| ["--profile", *profile]).collect();
    let run = bench.run(&[&["attest", "policy", "new", "--from", &image][..], &profiles].concat());
    assert_eq!(run.code, 0, "{run:?}");
    serde_json::from_str(&run.out).unwrap()
}

fn shown(bench: &Bench) -> Value {
    let run = bench.run(&["key", "show", "-o", "json"]);
    assert_eq!(run.code, 0, "{run:?}");
    serde_json::from_str(&run.out).unwrap()
}

#[test]
fn a_policy_for_snp_pins_the_keys_that_key_show_names_and_they_are_never_printed() {
    let bench = Bench::new();
    assert_eq!(shown(&bench), json!({"snp_id_key": null, "snp_author_key": null}));
    assert!(bench.run(&["key", "show"]).out.contains("no keys"));
    let policy = made(&bench, &["snp"]);
    let keys = shown(&bench);
    assert_eq!(policy["snp"]["id_key"]["one-of"], json!([keys["snp_id_key"]]));
    assert_eq!(policy["snp"]["author_key"]["one-of"], json!([keys["snp_author_key"]]));
    assert_eq!(made(&bench, &["snp"]), policy, "the keys stay");
    let run = bench.run(&["key", "show"]);
    for file in ["snp-id.key", "snp-author.key"] {
        let path = bench.folder().join(file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        let secret = std::fs::read_to_string(&path).unwrap();
        let secret = secret.lines().nth(1).unwrap();
        assert!(!run.out.contains(secret) && !run.err.contains(secret), "{file} was printed");
    }
}

#[test]
fn policies_for_hardware_want_the_instance_named_and_leave_nothing_out() {
    let bench = Bench::new();
    let policy = made(&bench, &[]);
    assert_eq!(policy["minimum_tier"], "hardware");
    assert_eq!((&policy["snp"]["host_data"], &policy["tdx"]["mrconfigid"]), (&json!("instance"), &json!("instance")));
    let path = bench.file("policy.json", policy.to_string().as_bytes());
    let run = bench.run(&["attest", "policy", "check", &path]);
    assert_eq!(run.code, 0, "{run:?}");
    let tdx = made(&Bench::new(), &["tdx"]);
    assert!(tdx.get("snp").is_none() && tdx.get("tpm").is_none(), "{tdx}");
}

#[test]
fn a_profile_that_the_image_has_no_values_for_ends_with_2_and_what_to_do() {
    let bench = Bench::new();
    let image = image(&bench);
    let bare = json!({
        "format": 1, "name": "d", "version": "1", "parts": {},
        "verity": {"root_hash": "", "salt": "", "data_size": 0}, "command_line": "", "expected": {"tpm": {}}
    });
    let bare = bench.file("bare.json", bare.to_string().as_bytes());
    for (from, profile, reason) in [
        (&bare, "snp", "lambda image build"),
        (&bare, "tdx", "lambda image build"),
        (&image, "cca", "initial_measurement"),
        (&image, "sgx", "image.json"),
        (&image, "sev", "tpm, snp, tdx, sgx, cca"),
    ] {
        let run = bench.run(&["attest", "policy", "new", "--from", from, "--profile", profile]);
        assert!(run.code == 2 && run.err.contains(reason) && run.out.is_empty(), "{profile}: {run:?}");
    }
    assert_eq!(std::fs::read_dir(bench.folder()).unwrap().count(), 0, "a refusal made a key");
}

#[test]
fn a_bare_report_is_judged_for_the_instance_that_is_named() {
    let bench = Bench::new();
    let report = bench.file("report.bin", &[0; 1184]);
    let policy = bench.file("policy.json", made(&bench, &["snp"]).to_string().as_bytes());
    let detail = |more: &[&str]| {
        let args = ["attest", "verify", &report, "--tee", "snp", "--policy", &policy, "-o", "json"];
        let run = bench.run(&[&args[..], more].concat());
        assert_eq!(run.code, 3, "{run:?}");
        let verdict: Value = serde_json::from_str(&run.out).unwrap();
        let checks = verdict["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["id"] == "snp.host-data").unwrap();
        assert_eq!(check["outcome"], "fail");
        check["detail"].as_str().unwrap().to_owned()
    };
    let id = InstanceId::from_bits(7).to_string();
    assert!(detail(&[]).contains("nobody said which instance"));
    assert!(detail(&["--instance", &id]).contains(&id));
}
