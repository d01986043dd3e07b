//! `lambda attest policy`.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::bench::{Bench, Run, data};

#[test]
fn a_policy_is_shown_with_its_tier_firmware_rule_platform_ca_images_and_hash() {
    let bench = Bench::new();
    let policy = data("policy.json");
    let run = bench.run(&["attest", "policy", "show", &policy]);
    assert_eq!(run.code, 0, "{run:?}");
    let json: serde_json::Value =
        serde_json::from_str(&bench.run(&["attest", "policy", "show", &policy, "-o", "json"]).out).unwrap();
    let ca = &json["platform_cas"][0];
    for text in [json["sha256"].as_str(), ca["sha256"].as_str(), ca["subject"].as_str()] {
        assert!(run.out.contains(text.unwrap()), "{text:?}:\n{}", run.out);
    }
    let pem = json["policy"]["tpm"]["platform_cas"][0].as_str().unwrap();
    assert_eq!(ca["sha256"], lambda_attest::pki::fingerprint(pem.as_bytes()).unwrap());
    assert!(
        run.out.contains("least tier      platform") && run.out.contains("TPM firmware    any version"),
        "{}",
        run.out
    );
}

#[test]
fn a_policy_that_leaves_something_out_is_shown_as_accepting_nothing() {
    let bench = Bench::new();
    let path =
        bench.file("policy.json", br#"{"version":1,"tpm":{"firmware_version":{"one-of":["0011223344556677"]}}}"#);
    let run = bench.run(&["attest", "policy", "show", &path]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("one of 0011223344556677"), "{}", run.out);
    assert_eq!(run.out.matches("nothing is accepted").count(), 2, "tier and CA:\n{}", run.out);
}

fn key(bench: &Bench, name: &str) -> (String, String) {
    let (private, public) = (bench.path(&format!("{name}.key")), bench.path(&format!("{name}.pub")));
    let run = bench.run(&["attest", "policy", "key", "new", &private]);
    assert_eq!(run.code, 0, "{run:?}");
    (private, public)
}

fn signed(bench: &Bench, key: &str) -> String {
    let signed = bench.path("signed.json");
    let run = bench.run(&["attest", "policy", "sign", &data("policy.json"), "--key", key, "--out", &signed]);
    assert_eq!(run.code, 0, "{run:?}");
    signed
}

fn check(bench: &Bench, policy: &str, more: &[&str]) -> Run {
    bench.run(&[&["attest", "policy", "check", policy][..], more].concat())
}

fn verify(bench: &Bench, policy: &str) -> Run {
    let record = data("record.json");
    bench.run(&["attest", "verify", &record, "--policy", policy, "--at", "2027-01-15T08:00:00Z"])
}

#[test]
fn a_key_is_for_its_owner_alone_never_overwritten_and_never_printed() {
    let bench = Bench::new();
    let (private, public) = key(&bench, "policy");
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(&private).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let again = bench.run(&["attest", "policy", "key", "new", &private]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(std::fs::read_to_string(&private).unwrap().contains(secret));
    let shown = [&private, &public].map(|path| bench.run(&["attest", "policy", "key", "show", path]));
    assert_eq!(shown[0].out, shown[1].out);
    for run in [&again, &shown[0]] {
        assert!(!run.out.contains(secret) && !run.err.contains(secret), "{run:?}");
    }
}

#[test]
fn a_signed_policy_judges_as_the_plain_one_does_and_its_check_says_who_signed_it() {
    let bench = Bench::new();
    let (private, public) = key(&bench, "policy");
    let (_, stranger) = key(&bench, "stranger");
    let signed = signed(&bench, &private);
    assert_eq!(verify(&bench, &signed).code, 0);
    let sha256 = |path: &str| {
        let shown = bench.run(&["attest", "policy", "show", path, "-o", "json"]);
        serde_json::from_str::<Value>(&shown.out).unwrap()["sha256"].clone()
    };
    assert_eq!(sha256(&signed), sha256(&data("policy.json")));
    let good = check(&bench, &signed, &["--key", &public]);
    assert_eq!(good.code, 0, "{good:?}");
    let bad = check(&bench, &signed, &["--key", &stranger, "-o", "json"]);
    assert_eq!(bad.code, 3, "{bad:?}");
    assert_eq!(serde_json::from_str::<Value>(&bad.out).unwrap()["signature_holds"], false);
    let plain = check(&bench, &data("policy.json"), &["--key", &public]);
    assert_eq!(plain.code, 3, "{plain:?}");
    assert_eq!(check(&bench, &data("policy.json"), &[]).code, 0, "complete, and nobody has to have signed it");
}

#[test]
fn a_changed_signed_policy_is_refused_and_one_of_another_kind_is_no_policy() {
    let bench = Bench::new();
    let (private, public) = key(&bench, "policy");
    let mut envelope: Value = serde_json::from_slice(&std::fs::read(signed(&bench, &private)).unwrap()).unwrap();
    let narrow = bench.file("narrow.json", br#"{"version":1,"minimum_tier":"hardware"}"#);
    let other = bench.path("other.json");
    let run = bench.run(&["attest", "policy", "sign", &narrow, "--key", &private, "--out", &other]);
    assert_eq!(run.code, 0, "{run:?}");
    let other: Value = serde_json::from_slice(&std::fs::read(other).unwrap()).unwrap();
    envelope["payload"] = other["payload"].clone();
    let changed = bench.file("changed.json", &serde_json::to_vec(&envelope).unwrap());
    assert_eq!(check(&bench, &changed, &["--key", &public]).code, 3);
    envelope["payloadType"] = "text/plain".into();
    let kind = bench.file("kind.json", &serde_json::to_vec(&envelope).unwrap());
    let run = check(&bench, &kind, &["--key", &public]);
    assert!(run.code == 2 && run.err.contains("text/plain"), "{run:?}");
}

#[test]
fn where_a_policy_key_is_pinned_only_what_it_signed_judges() {
    let bench = Bench::new();
    let (private, public) = key(&bench, "policy");
    let (stranger, _) = key(&bench, "stranger");
    let plain = verify(&bench, &data("policy.json"));
    assert!(plain.code == 0 && plain.err.contains("is not signed"), "{plain:?}");
    let by_stranger = signed(&bench, &stranger);
    let unchecked = verify(&bench, &by_stranger);
    assert!(unchecked.code == 0 && unchecked.err.contains("not checked"), "{unchecked:?}");
    assert_eq!(bench.run(&["attest", "policy", "key", "pin", &public]).code, 0);
    for policy in [&by_stranger, &data("policy.json")] {
        let run = verify(&bench, policy);
        assert!(run.code == 3 && run.out.is_empty(), "{run:?}");
        let broker = pinned_and_connected(&public).run(&["broker", "run", "--policy", policy]);
        assert_eq!(broker.code, 3, "{broker:?}");
    }
    let run = verify(&bench, &signed(&bench, &private));
    assert!(run.code == 0 && run.err.is_empty(), "{run:?}");
    assert_eq!(bench.run(&["attest", "policy", "key", "unpin"]).code, 0);
    assert_eq!(verify(&bench, &data("policy.json")).code, 0);
}

#[test]
fn what_a_policy_leaves_out_is_named_line_by_line() {
    let bench = Bench::new();
    let path = bench.file("policy.json", br#"{"version":1,"tpm":{"firmware_version":"any"}}"#);
    let run = check(&bench, &path, &["-o", "json"]);
    assert_eq!(run.code, 3, "{run:?}");
    let json: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(json["missing"], serde_json::json!(["minimum_tier", "tpm.platform_cas", "tpm.images"]));
    let unknown = bench.file("unknown.json", br#"{"version":1,"tpn":{}}"#);
    let run = check(&bench, &unknown, &[]);
    assert!(run.code == 2 && run.err.contains("tpn"), "{run:?}");
}

/// A connected machine with this policy key pinned.
fn pinned_and_connected(public: &str) -> Bench {
    let bench = Bench::new().connected();
    assert_eq!(bench.run(&["attest", "policy", "key", "pin", public]).code, 0);
    bench
}
