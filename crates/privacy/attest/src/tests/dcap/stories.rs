use lambda_types::InstanceId;
use lambda_types::launch::host_data;

use super::forge::CertificateSpec;
use super::scene::*;
use crate::Given;
use crate::dcap::{LogRule, TcbStatus};
use crate::policy::{HostDataRule, Reference, Rule};
use crate::verdict::Assurance;

fn accepted(scene: &Scene) {
    assert_eq!(scene.failed(), Vec::<String>::new());
}

#[test]
fn a_trust_domain_is_accepted_under_a_policy_that_pins_everything() {
    for scene in [Scene::tdx(), Scene::tdx_10()] {
        accepted(&scene);
        let (appraised, _) = scene.judge();
        assert_eq!(appraised.tier, Assurance::Hardware);
        assert_eq!(appraised.image.unwrap().image, image());
        assert_eq!(appraised.claims["tcb_status"], "UpToDate");
        assert_eq!(appraised.claims["tcb"]["components"][0], 5);
    }
}

#[test]
fn an_enclave_is_accepted_under_a_policy_that_pins_everything() {
    accepted(&Scene::sgx());
}

#[test]
fn a_measurement_without_an_image_names_none() {
    let mut scene = Scene::tdx();
    scene.tdx_policy().measurement = Some(Reference::Any);
    let (appraised, checks) = scene.judge();
    assert_eq!(failed(&checks), Vec::<String>::new());
    assert!(appraised.image.is_none());
}

#[test]
fn zeros_after_the_quote_are_the_end_of_a_buffer() {
    let mut scene = Scene::tdx();
    scene.quote.trailing = vec![0; 100];
    accepted(&scene);
}

#[test]
fn the_qe_identity_may_have_a_signer_of_its_own() {
    let mut scene = Scene::tdx();
    scene.identity_signer = Some(CertificateSpec { serial: 77, ..scene.signer.clone() });
    accepted(&scene);
}

#[test]
fn a_platform_with_several_collaterals_is_judged_by_its_own() {
    let mut scene = Scene::tdx();
    scene.collateral = |mut collateral| {
        let mut other = collateral.intel[0].clone();
        other.tcb_info = other.tcb_info.replace("B0C06F000000", "00806F050000");
        collateral.intel.insert(0, other);
        collateral
    };
    accepted(&scene);
}

#[test]
fn a_quote_without_its_chain_takes_it_from_the_collateral() {
    let mut scene = Scene::sgx();
    scene.quote.certification_type = 3;
    let carried = scene.quote_bytes();
    let mut collateral = scene.made_collateral();
    let text = String::from_utf8_lossy(&carried).into_owned();
    collateral.intel[0].pck_certificate_chain = Some(text[text.find("-----BEGIN").unwrap()..].to_owned());
    let (_, checks) = scene.judge_quote(carried, None, &scene.anchors(), &collateral);
    assert_eq!(failed(&checks), Vec::<String>::new());
}

#[test]
fn version_2_tcb_info_numbers_its_components() {
    let mut scene = Scene::sgx();
    let numbered: Vec<String> = (1..=16).map(|number| format!(r#""sgxtcbcomp{number:02}svn":5"#)).collect();
    let start = scene.tcb_info.find(r#""sgxtcbcomponents""#).unwrap();
    let end = scene.tcb_info[start..].find("],").unwrap() + start + 1;
    scene.tcb_info.replace_range(start..end, &numbered.join(","));
    scene.edit_tcb_info(r#""id":"SGX","version":3"#, r#""version":2"#);
    accepted(&scene);
}

/// From module version 1 on, the first two TDX components are the module's own.
#[test]
fn the_modules_own_components_are_not_the_platforms() {
    let mut scene = Scene::tdx_10();
    scene.td().svn[0] = 4;
    accepted(&scene);
    scene.td().svn[1] = 0;
    assert_eq!(scene.failed(), ["dcap.tcb.level", "dcap.tcb.status"], "version 0 is judged by all sixteen");
}

#[test]
fn a_td_that_outlived_an_update_should_be_launched_again() {
    let mut scene = Scene::tdx();
    scene.td().svn[0] = 2;
    assert_eq!(scene.failed(), ["dcap.tcb.status"]);
    assert_eq!(scene.judge().0.claims["tcb_status"], "TDRelaunchAdvised");
    scene.platform_policy().statuses = Some(vec![TcbStatus::TDRelaunchAdvised]);
    accepted(&scene);
    scene.td().later.as_mut().unwrap().0[0] = 2;
    assert_eq!(scene.judge().0.claims["tcb_status"], "OutOfDate");
}

#[test]
fn the_worst_of_platform_module_and_quoting_enclave_counts() {
    let mut scene = Scene::tdx();
    scene.quote.qe.svn = 2;
    assert_eq!(scene.judge().0.claims["tcb_status"], "OutOfDate");
    assert_eq!(scene.judge().0.claims["advisory_ids"], serde_json::json!(["INTEL-SA-00002", "INTEL-SA-00005"]));
    let mut scene = Scene::tdx();
    scene
        .edit_tcb_info(r#""tcbStatus":"UpToDate","advisoryIDs""#, r#""tcbStatus":"ConfigurationNeeded","advisoryIDs""#);
    scene.td().svn[0] = 2;
    scene.td().later.as_mut().unwrap().0[0] = 2;
    let (appraised, _) = scene.judge();
    assert_eq!(appraised.claims["platform_tcb_status"], "ConfigurationNeeded");
    assert_eq!(appraised.claims["tdx_module_tcb_status"], "OutOfDate");
    assert_eq!(appraised.claims["tcb_status"], "OutOfDateConfigurationNeeded");
}

#[test]
fn a_log_is_judged_even_where_it_is_not_demanded() {
    let mut scene = Scene::tdx();
    scene.tdx_policy().event_log = Some(LogRule::Optional);
    scene.events = None;
    accepted(&scene);
    scene.events = Some(Vec::new());
    assert_eq!(scene.failed(), ["tdx.log.replay"]);
}

#[test]
fn what_no_vendor_vouches_for_is_of_tier_platform_at_most() {
    let mut scene = Scene::tdx();
    let root = scene.root.der();
    scene.pinned = CertificateSpec::authority("Other Root", "Other Root", STRANGER_KEY, STRANGER_KEY);
    scene.given = Some(Given { roots: vec![root], ..Given::default() });
    let (appraised, checks) = scene.judge();
    assert_eq!(failed(&checks), Vec::<String>::new());
    assert_eq!(appraised.tier, Assurance::Platform);
}

#[test]
fn an_unauthentic_platform_has_no_tcb_status() {
    let mut scene = Scene::tdx();
    scene.quote.signed_by = STRANGER_KEY;
    let (appraised, _) = scene.judge();
    assert!(appraised.claims["tcb_status"].is_null());
    assert!(!appraised.claims.contains_key("advisory_ids"));
}

#[test]
fn key_separation_makes_its_fields_legitimate() {
    let mut scene = Scene::sgx();
    scene.enclave().flags |= 1 << 7;
    scene.enclave().config_id = [1; 64];
    scene.sgx_policy().flags = Some(Rule::Any);
    scene.sgx_policy().configid = Some(Rule::Any);
    accepted(&scene);
}

/// Signatures are remembered, judgements are not.
#[test]
fn what_was_accepted_once_is_judged_anew() {
    let mut scene = Scene::tdx();
    let (anchors, quote, log) = (scene.anchors(), scene.quote_bytes(), scene.log());
    let judge = |scene: &Scene| {
        let (_, checks) = scene.judge_quote(quote.clone(), log.clone(), &anchors, &scene.made_collateral());
        failed(&checks)
    };
    assert_eq!(judge(&scene), Vec::<String>::new());
    scene.now = "2026-07-01T00:00:00Z";
    let stale = ["dcap.crl.pck.dates", "dcap.crl.root.dates", "dcap.tcb-info.dates", "dcap.qe-identity.dates"];
    assert_eq!(judge(&scene), stale);
    scene.now = "2026-06-01T00:00:00Z";
    scene.pck_crl.revoked.push(u64::from(PCK_KEY));
    assert_eq!(judge(&scene), ["dcap.pck.revoked"]);
}

#[test]
fn mrconfigid_of_another_instance_is_refused_by_that_check_alone() {
    let (ours, other) = (InstanceId::from_bits(0x0102), InstanceId::from_bits(0x0103));
    let mut scene = Scene::tdx();
    scene.tdx_policy().mrconfigid = Some(HostDataRule::Instance);
    scene.instance = Some(ours);
    scene.td().mrconfigid = [0; 48];
    scene.td().mrconfigid[..32].copy_from_slice(&host_data(ours));
    accepted(&scene);
    scene.td().mrconfigid[47] = 1;
    assert_eq!(scene.failed(), ["tdx.mrconfigid"], "what is behind the id must be zero");
    scene.td().mrconfigid[47] = 0;
    scene.instance = Some(other);
    assert_eq!(scene.failed(), ["tdx.mrconfigid"]);
    scene.instance = None;
    assert_eq!(scene.failed(), ["tdx.mrconfigid"], "nobody said which instance");
}

#[test]
fn an_enclave_is_judged_in_quotes_of_version_4_and_5_too() {
    for version in [4, 5] {
        let mut scene = Scene::sgx();
        scene.quote.version = version;
        assert_eq!(scene.failed(), [""; 0], "version {version}");
        scene.quote.signed_by = STRANGER_KEY;
        assert_eq!(scene.failed(), ["dcap.quote.signature"], "version {version}");
    }
}

#[test]
fn a_body_of_version_5_is_of_the_technology_that_the_header_names() {
    for (mut scene, other) in [(Scene::sgx(), 2), (Scene::sgx(), 3), (Scene::tdx(), 1)] {
        scene.quote.version = 5;
        scene.quote.body_type = Some(other);
        assert_eq!(scene.failed().first().map(String::as_str), Some("dcap.quote.structure"), "type {other}");
    }
}
