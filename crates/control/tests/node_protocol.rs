//! What a node may say, and when it is answered.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Cloud, find};
use http::HeaderMap;
use lambda_transport::Role;
use lambda_types::instance::{InstanceState, Phase};
use lambda_types::node::SyncResponse;
use lambda_types::{Code, InstanceId, NodeId};

const CALL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_node_speaks_only_for_itself() {
    let cloud = Cloud::start().await;
    let mut node = cloud.node(1);
    let request = node.request(0);
    let others = [
        cloud.peer(Role::Node, &NodeId::from_bits(2).to_string()),
        cloud.peer(Role::Node, "not-an-id"),
        cloud.peer(Role::Gateway, "main"),
    ];
    for other in others {
        let error = other.post::<_, SyncResponse>("/node/v1/sync", &request, HeaderMap::new(), CALL).await;
        assert_eq!(error.unwrap_err().code(), Some(Code::Forbidden));
    }
    node.sync(0).await;
}

#[tokio::test]
async fn a_held_poll_is_answered_by_a_creation() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let held = tokio::spawn(async move { node.sync(30).await });
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let answer = tokio::time::timeout(CALL, held).await.unwrap().unwrap();
    assert_eq!(find(&answer, id).epoch, 1);
}

#[tokio::test]
async fn generations_only_grow_and_a_repeated_report_changes_nothing() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let mut last = (0, 0);
    for action in ["restart", "stop", "start", "restart"] {
        let answer = node.sync(30).await;
        let next = (answer.generation, find(&answer, id).generation);
        assert!(next.0 > last.0 && next.1 > last.1, "{next:?} after {last:?}");
        last = next;
        customer.power(id, action).await;
    }
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    let before = node.generation;
    for _ in 0..3 {
        node.sync(0).await;
    }
    assert_eq!(node.generation, before);
}

#[tokio::test]
async fn a_late_report_of_an_older_epoch_is_ignored() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let first = find(&node.sync(30).await, id);
    customer.power(id, "restart").await;
    let second = find(&node.sync(30).await, id);
    node.report(&second, Phase::Booting).await;
    node.report(&first, Phase::Ready).await;
    assert_eq!(customer.show(id).await.state, InstanceState::Booting);
}

#[tokio::test]
async fn a_node_ahead_of_a_restored_store_is_caught_up_with() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.generation = 500;
    assert!(node.sync(0).await.generation > 500);
    customer.create(InstanceId::from_bits(1)).await;
    assert_eq!(node.sync(30).await.desired.len(), 1);
}

#[tokio::test]
async fn instances_that_are_not_known_are_left_alone() {
    let cloud = Cloud::start().await;
    let (customer, mut node, mut other) = (cloud.customer(), cloud.node(1), cloud.node(2));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    // Another node claims it: it is not placed there, so what it says does not count.
    other.see(&desired, Phase::Gone, None);
    assert!(other.sync(0).await.desired.is_empty());
    assert_eq!(customer.show(id).await.state, InstanceState::Ready);
}

#[tokio::test]
async fn health_counts_nodes_and_a_shutdown_answers_held_polls() {
    let mut cloud = Cloud::start().await;
    let mut node = cloud.node(1);
    let gateway = cloud.peer(Role::Gateway, "main");
    let count = async || {
        let health: serde_json::Value = gateway.get("/internal/v1/health", HeaderMap::new(), CALL).await.unwrap();
        health["nodes"].as_u64().unwrap()
    };
    assert_eq!(count().await, 0);
    node.sync(0).await;
    assert_eq!(count().await, 1);
    let held = tokio::spawn(async move { node.sync(30).await });
    while count().await != 1 {}
    let begun = Instant::now();
    cloud.stop().await;
    held.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "stopping took {:?}", begun.elapsed());
}
