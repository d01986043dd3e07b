//! A policy that leaves a line out is never wider for it.

use serde_json::Value;

use super::scene::*;
use crate::dcap::{SgxPolicy, TdxPolicy, checks};

/// Which check fails when a line is left out.
fn check_of(tee: &str, line: &str) -> Vec<String> {
    let id = match (tee, line) {
        (_, "statuses") => "dcap.tcb.status",
        (_, "minimum_evaluation_number") => {
            return vec!["dcap.tcb-info.evaluation".into(), "dcap.qe-identity.evaluation".into()];
        }
        (_, "dynamic_platform") => "dcap.platform.dynamic",
        (_, "cached_keys") => "dcap.platform.cached-keys",
        (_, "fmspc") => "dcap.platform.fmspc",
        (_, "ppid") => "dcap.platform.ppid",
        (_, "smt") => "dcap.platform.smt",
        ("tdx", "mrseam") => "tdx.module.mrseam",
        ("tdx", "sept_ve_disable") => "tdx.attributes.sept-ve-disable",
        ("tdx", "migratable") => "tdx.attributes.migratable",
        ("tdx", "pks") => "tdx.attributes.pks",
        ("tdx", "key_locker") => "tdx.attributes.key-locker",
        ("tdx", "perfmon") => "tdx.attributes.perfmon",
        ("tdx", "xfam") => "tdx.xfam.allowed",
        ("tdx", "event_log") => "tdx.log.present",
        ("sgx", "flags") => "sgx.attributes.allowed",
        ("sgx", "minimum_isvsvn") => "sgx.isvsvn",
        ("sgx", "minimum_configsvn") => "sgx.configsvn",
        (tee, line) => return vec![format!("{tee}.{line}")],
    };
    vec![id.into()]
}

/// Every policy that has one line less, and the line.
fn shortened(policy: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (line, value) in policy.as_object().unwrap() {
        if line == "platform" {
            for (inner, shorter) in shortened(value) {
                let mut policy = policy.clone();
                policy["platform"] = shorter;
                all.push((inner, policy));
            }
            continue;
        }
        let mut shorter = policy.clone();
        shorter.as_object_mut().unwrap().remove(line);
        all.push((line.clone(), shorter));
    }
    all
}

#[test]
fn a_line_left_out_of_a_tdx_policy_fails_its_check() {
    let mut scene = Scene::tdx();
    let policy = serde_json::to_value(scene.tdx_policy().clone()).unwrap();
    let policies = shortened(&policy);
    assert_eq!(policies.len(), 21);
    for (line, policy) in policies {
        *scene.tdx_policy() = serde_json::from_value(policy).unwrap();
        assert_eq!(scene.failed(), check_of("tdx", &line), "{line}");
    }
}

#[test]
fn a_line_left_out_of_an_sgx_policy_fails_its_check() {
    let mut scene = Scene::sgx();
    let policy = serde_json::to_value(scene.sgx_policy().clone()).unwrap();
    let policies = shortened(&policy);
    assert_eq!(policies.len(), 19);
    for (line, policy) in policies {
        *scene.sgx_policy() = serde_json::from_value(policy).unwrap();
        assert_eq!(scene.failed(), check_of("sgx", &line), "{line}");
    }
}

#[test]
fn a_policy_that_says_nothing_refuses() {
    let mut scene = Scene::tdx();
    *scene.tdx_policy() = TdxPolicy::default();
    assert_eq!(scene.failed().len(), 22);
    let mut scene = Scene::sgx();
    *scene.sgx_policy() = SgxPolicy::default();
    assert_eq!(scene.failed().len(), 20);
}

#[test]
fn an_unknown_line_is_refused() {
    for tee in ["tdx", "sgx"] {
        let text = r#"{"mrtdd":"any"}"#;
        let refused = match tee {
            "tdx" => serde_json::from_str::<TdxPolicy>(text).is_err(),
            _ => serde_json::from_str::<SgxPolicy>(text).is_err(),
        };
        assert!(refused, "{tee}");
    }
    assert_eq!(checks::DCAP.iter().filter(|info| !info.id.starts_with("dcap.")).count(), 0);
}
