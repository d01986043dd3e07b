//! `lambda attest` over a record that was made with a software TPM (`tests/data`).

use serde_json::Value;

use crate::bench::{Bench, Run, data};

/// When the record was made; its certificates are valid then.
const THEN: &str = "2027-01-15T08:00:00Z";

fn verify(bench: &Bench, record: &str, more: &[&str]) -> Run {
    let policy = data("policy.json");
    bench.run(&[&["attest", "verify", record, "--policy", &policy, "--at", THEN][..], more].concat())
}

fn changed(bench: &Bench, change: impl FnOnce(&mut Value)) -> String {
    let mut record: Value = serde_json::from_slice(&std::fs::read(data("record.json")).unwrap()).unwrap();
    change(&mut record);
    bench.file("changed.json", &serde_json::to_vec(&record).unwrap())
}

#[test]
fn a_record_is_judged_again_without_the_cloud_and_checks_that_do_not_apply_are_counted_apart() {
    let bench = Bench::new();
    let run = verify(&bench, &data("record.json"), &[]);
    assert_eq!(run.code, 0, "{run:?}");
    let json: Value = serde_json::from_str(&verify(&bench, &data("record.json"), &["-o", "json"]).out).unwrap();
    assert_eq!(json["verdict"], "accepted");
    assert_eq!(json["record"]["recorded_at"], THEN);
    let checks = json["checks"].as_array().unwrap();
    let count = |outcome: &str| checks.iter().filter(|check| check["outcome"] == outcome).count();
    let (passed, aside) = (count("pass"), count("not-applicable"));
    assert!(passed > 0 && aside > 0 && passed + aside == checks.len());
    assert!(run.out.contains(&format!("{passed} checks passed, {aside} not applicable")), "{}", run.out);
    assert!(run.out.contains("recorded at 2027-01-15T08:00:00Z"), "{}", run.out);
}

#[test]
fn a_record_that_does_not_hold_is_rejected_with_3_and_the_failed_check() {
    let bench = Bench::new();
    let nonce = changed(&bench, |record| record["challenge"]["nonce"] = record["challenge"]["secret"].clone());
    let run = verify(&bench, &nonce, &[]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.out.contains("tpm.quote.report-data"), "{}", run.out);
    let run = verify(&bench, &data("record.json"), &["--instance", "inst_00000000000000000000000006"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.out.contains("binding.instance"), "{}", run.out);
    let narrow = bench.file("narrow.json", br#"{"version":1}"#);
    let run = bench.run(&["attest", "verify", &data("record.json"), "--policy", &narrow]);
    assert_eq!(run.code, 3, "{run:?}");
    let expired = bench.run(&[
        "attest",
        "verify",
        &data("record.json"),
        "--policy",
        &data("policy.json"),
        "--at",
        "1974-01-01T00:00:00Z",
    ]);
    assert_eq!(expired.code, 3, "valid only later: {expired:?}");
}

#[test]
fn what_is_no_record_ends_with_2_and_the_field_is_named() {
    let bench = Bench::new();
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 6] = [
        ("challenge.nonce", |record| record["challenge"]["nonce"] = 5.into()),
        ("challenge.secret", |record| record["challenge"]["secret"] = "AAAA".into()),
        ("instance", |record| record["instance"] = "web".into()),
        ("evidence", |record| record["evidence"]["binding"] = Value::Null),
        ("previous", |record| record["previous"] = "x".into()),
        ("surprise", |record| record["surprise"] = 1.into()),
    ];
    for (field, change) in changes {
        let run = verify(&bench, &changed(&bench, change), &[]);
        assert_eq!(run.code, 2, "{field}: {run:?}");
        assert!(run.err.contains(field), "{field}: {run:?}");
    }
    for bytes in [&b""[..], b"[]", b"\x7fELF"] {
        assert_eq!(verify(&bench, &bench.file("no.json", bytes), &[]).code, 2);
    }
    assert_eq!(verify(&bench, &bench.path("none"), &[]).code, 2);
}

#[test]
fn a_record_and_its_evidence_alone_can_be_inspected_in_every_format() {
    let bench = Bench::new();
    let alone = changed(&bench, |record| *record = record["evidence"].take());
    for path in [data("record.json"), alone] {
        let table = bench.run(&["attest", "inspect", &path]);
        assert_eq!(table.code, 0, "{table:?}");
        assert!(table.out.contains("nothing can be released on it"), "{}", table.out);
        let json: Value = serde_json::from_str(&bench.run(&["attest", "inspect", &path, "-o", "json"]).out).unwrap();
        let yaml: Value = serde_saphyr::from_str(&bench.run(&["attest", "inspect", &path, "-o", "yaml"]).out).unwrap();
        assert_eq!(json, yaml);
        assert_eq!(json["tee"], "tpm");
    }
    let run = bench.run(&["attest", "inspect", &data("policy.json")]);
    assert_eq!(run.code, 2, "{run:?}");
}
