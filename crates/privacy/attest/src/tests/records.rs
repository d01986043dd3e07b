//! Recorded evidence: judged again it comes out as it did, and no part of the record can be exchanged.

use lambda_types::InstanceId;

use super::scene::*;
use crate::*;

fn record(scene: &Scene) -> Record {
    Record {
        version: RECORD_VERSION,
        instance: scene.instance,
        boot: scene.boot,
        at: scene.now,
        challenge: scene.challenge().spend(),
        previous: scene.previous.clone(),
        evidence: scene.evidence(),
        collateral: Collateral::none(),
    }
}

fn failed(record: &Record, scene: &Scene) -> Vec<String> {
    let verdict = record.judge(record.instance, &scene.policy, &Anchors::vendor().unwrap(), scene.now).unwrap();
    verdict.failed().map(|check| check.id.clone()).collect()
}

#[test]
fn a_record_that_was_written_and_read_gives_the_same_verdict() {
    let scene = Scene::good();
    let record = record(&scene);
    let read: Record = serde_json::from_slice(&serde_json::to_vec_pretty(&record).unwrap()).unwrap();
    assert_eq!(read, record);
    let verdict = read.judge(scene.instance, &scene.policy, &Anchors::vendor().unwrap(), scene.now).unwrap();
    assert!(verdict.accepted());
    assert_eq!(verdict, scene.judge_evidence(&record.evidence).verdict);
}

#[test]
fn every_part_of_the_question_takes_part_in_the_answer() {
    let scene = Scene::good();
    let good = record(&scene);
    let other = Outstanding::for_tests([6; 32], [4; 32], scene.ek.encode().unwrap(), scene.ak.encode().unwrap());
    let nonce = Record { challenge: other.spend(), ..good.clone() };
    assert!(failed(&nonce, &scene).contains(&"tpm.quote.report-data".to_owned()));
    let other = Outstanding::for_tests([5; 32], [9; 32], scene.ek.encode().unwrap(), scene.ak.encode().unwrap());
    let secret = Record { challenge: other.spend(), ..good.clone() };
    assert_eq!(failed(&secret, &scene).len(), 1, "{:?}", failed(&secret, &scene));
    let later = TpmClock { reset_count: scene.reset_count + 1, ..scene.previous_clock() };
    assert!(!failed(&Record { previous: Some(later), ..good.clone() }, &scene).is_empty());
    let verdict = good.judge(InstanceId::from_bits(99), &scene.policy, &Anchors::vendor().unwrap(), scene.now).unwrap();
    assert_eq!(verdict.failed().map(|check| check.id.as_str()).collect::<Vec<_>>(), ["binding.instance"]);
    let long_ago = good.judge(scene.instance, &scene.policy, &Anchors::vendor().unwrap(), UnixTime(0)).unwrap();
    assert!(!long_ago.accepted(), "the certificates were not valid then");
}

#[test]
fn a_record_that_cannot_be_judged_names_the_field() {
    let scene = Scene::good();
    let good = serde_json::to_value(record(&scene)).unwrap();
    let judged = |value: serde_json::Value| {
        let record: Record = serde_json::from_value(value).unwrap();
        record.judge(scene.instance, &scene.policy, &Anchors::vendor().unwrap(), scene.now).unwrap_err().to_string()
    };
    for field in ["nonce", "secret"] {
        let mut bad = good.clone();
        bad["challenge"][field] = "AAAA".into();
        assert!(judged(bad).starts_with(&format!("challenge.{field}:")));
    }
    let mut bad = good.clone();
    bad["version"] = 2.into();
    assert!(judged(bad).starts_with("version:"));
    let mut bad = good;
    bad["evidence"]["version"] = 2.into();
    assert!(judged(bad).starts_with("evidence.version:"));
}
