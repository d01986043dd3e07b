//! Confidential profiles: what a processor has keys for is given out once, and a launch that the host could read is refused.
#![allow(missing_docs)]

mod common;

use common::{Cloud, create_body, find, offer};
use lambda_types::InstanceId;
use lambda_types::instance::{ConditionKind, InstanceState, Phase};
use lambda_types::launch::TeeCapacity;
use lambda_types::shape::LaunchProfile;
use serde_json::{Value, json};
use sqlx::Row as _;

fn snp(bits: u128) -> Value {
    let mut body = create_body(InstanceId::from_bits(bits));
    body["profile"] = json!("snp");
    body
}

fn offer_snp(node: &mut common::Node, slots: u32) {
    node.offer = offer(64, 65_536, 1000);
    node.offer.profiles.push(LaunchProfile::Snp);
    node.offer.tees = vec![TeeCapacity { profile: LaunchProfile::Snp, slots }];
}

async fn used(cloud: &Cloud) -> (i64, i64) {
    let row = sqlx::query("SELECT slots, used FROM node_slots").fetch_one(&cloud.database().await).await.unwrap();
    (row.get("slots"), row.get("used"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creations_cannot_oversell_a_processors_keys() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    offer_snp(&mut node, 3);
    node.sync(0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for bits in 1..=12 {
        let customer = customer.clone();
        tasks.spawn(async move { customer.post_once("/v1/instances", &snp(bits)).await });
    }
    let mut placed = 0;
    while let Some(reply) = tasks.join_next().await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 202, "{}", reply.body);
        let instance = reply.instance();
        placed += usize::from(instance.node.is_some());
        if instance.node.is_none() {
            assert_eq!(instance.state, InstanceState::Scheduling);
            assert_eq!(instance.conditions[0].kind, ConditionKind::AwaitingCapacity);
        }
    }
    assert_eq!((placed, used(&cloud).await), (3, (3, 3)));
    let oversell = "UPDATE node_slots SET used = used + 1";
    sqlx::query(oversell).execute(&cloud.database().await).await.unwrap_err();
    // A measured boot needs no key of the processor's.
    assert!(customer.create(InstanceId::from_bits(99)).await.instance().node.is_some());
}

#[tokio::test]
async fn a_stopped_instance_gives_its_key_back_and_a_smaller_offer_takes_none_away() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    offer_snp(&mut node, 2);
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    assert_eq!(customer.post_once("/v1/instances", &snp(1)).await.status, 202);
    assert_eq!(customer.post_once("/v1/instances", &snp(2)).await.status, 202);
    offer_snp(&mut node, 1);
    node.sync(0).await;
    assert_eq!(used(&cloud).await, (2, 2));
    customer.power(id, "stop").await;
    let desired = find(&node.sync(30).await, id);
    assert_eq!(desired.profile, LaunchProfile::Snp);
    node.report(&desired, Phase::Stopped).await;
    node.sync(0).await;
    assert_eq!(used(&cloud).await, (1, 1));
}

#[tokio::test]
async fn launch_data_reaches_the_node_and_what_the_host_could_read_is_refused() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    offer_snp(&mut node, 4);
    node.sync(0).await;
    for (launch, profile, said) in [
        (json!({"policy": 0xb_0000}), "snp", "debugging"),
        (json!({"policy": 0x1_0000}), "snp", "bit 17"),
        (json!({"policy": 0x3_0000, "id_block": "AAAA"}), "snp", "together"),
        (json!({"policy": 0x3_0000}), "tpm", "`snp` only"),
    ] {
        let mut body = snp(9);
        body["launch"] = launch;
        body["profile"] = json!(profile);
        let reply = customer.post_once("/v1/instances", &body).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid-request"), "{}", reply.body);
        assert!(reply.body["detail"].as_str().unwrap().contains(said), "{}", reply.body);
    }
    let mut body = snp(1);
    body["launch"] = json!({"policy": 0x3_0001});
    assert_eq!(customer.post_once("/v1/instances", &body).await.status, 202);
    let desired = find(&node.sync(0).await, InstanceId::from_bits(1));
    assert_eq!(desired.launch.unwrap().policy, 0x3_0001);
}

#[tokio::test]
async fn no_node_with_the_profile_is_what_an_instance_waits_for() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(4, 4096, 100);
    node.sync(0).await;
    let reply = customer.post_once("/v1/instances", &snp(1)).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    let waiting = &reply.instance().conditions[0];
    assert_eq!(waiting.kind, ConditionKind::AwaitingCapacity);
    assert!(waiting.message.contains("profile"), "{}", waiting.message);
}
