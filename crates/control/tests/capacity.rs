//! Capacity is given out once, whatever happens at the same time.
#![allow(missing_docs)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::{Cloud, Customer, Node, find, offer};
use lambda_types::InstanceId;
use lambda_types::instance::{ConditionKind, InstanceState, Phase};
use sqlx::Row as _;

async fn until_placed(customer: &Customer, id: InstanceId) {
    let mut last = None;
    for _ in 0..200 {
        let shown = customer.show(id).await;
        if shown.node.is_some() {
            return;
        }
        last = Some(shown.state);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} was not placed within 10 s; last seen {last:?}");
}

async fn stop(customer: &Customer, node: &mut Node, id: InstanceId) {
    customer.power(id, "stop").await;
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creations_cannot_oversell_a_node() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(4, 4096, 100);
    node.sync(0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for bits in 1..=24 {
        let customer = customer.clone();
        tasks.spawn(async move { customer.create(InstanceId::from_bits(bits)).await });
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
            assert!(instance.conditions[0].until_ms.is_some());
        }
    }
    assert_eq!(placed, 4);
    let answer = node.sync(0).await;
    let addresses: HashSet<_> = answer.desired.iter().map(|it| it.network.address).collect();
    let macs: HashSet<_> = answer.desired.iter().map(|it| it.network.mac.clone()).collect();
    assert_eq!((answer.desired.len(), addresses.len(), macs.len()), (4, 4, 4));
}

#[tokio::test]
async fn the_database_itself_refuses_to_oversell() {
    let cloud = Cloud::start().await;
    let mut node = cloud.node(1);
    node.offer = offer(4, 4096, 10);
    node.sync(0).await;
    let database = cloud.database().await;
    for column in ["vcpus_used = 5", "memory_used_mib = 4097", "disk_used_gib = 11", "vcpus_used = -1"] {
        let sql = sqlx::AssertSqlSafe(format!("UPDATE nodes SET {column}"));
        let error = sqlx::query(sql).execute(&database).await.unwrap_err();
        assert!(error.as_database_error().is_some_and(|error| error.is_check_violation()), "{column}: {error}");
    }
}

#[tokio::test]
async fn a_waiting_instance_is_placed_when_another_goes() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(1, 512, 10);
    node.sync(0).await;
    let (first, second) = (InstanceId::from_bits(1), InstanceId::from_bits(2));
    customer.create(first).await;
    assert_eq!(customer.create(second).await.instance().node, None);
    customer.delete(first).await;
    let desired = find(&node.sync(30).await, first);
    node.report(&desired, Phase::Gone).await;
    until_placed(&customer, second).await;
}

#[tokio::test]
async fn a_waiting_instance_is_placed_when_a_node_appears() {
    let cloud = Cloud::start().await;
    let customer = cloud.customer();
    let id = InstanceId::from_bits(1);
    assert_eq!(customer.create(id).await.instance().state, InstanceState::Scheduling);
    cloud.node(1).sync(0).await;
    until_placed(&customer, id).await;
}

#[tokio::test]
async fn an_unplaced_instance_can_be_stopped_started_and_deleted() {
    let cloud = Cloud::start().await;
    let customer = cloud.customer();
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    assert_eq!(customer.power(id, "stop").await.instance().state, InstanceState::Stopped);
    assert_eq!(customer.power(id, "start").await.instance().state, InstanceState::Scheduling);
    assert_eq!(customer.delete(id).await.status, 202);
    assert_eq!(customer.get(&format!("/v1/instances/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_stopped_instance_gives_compute_back_and_keeps_its_disk() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(1, 512, 2);
    node.sync(0).await;
    let (first, second) = (InstanceId::from_bits(1), InstanceId::from_bits(2));
    customer.create(first).await;
    let desired = find(&node.sync(30).await, first);
    node.report(&desired, Phase::Ready).await;
    stop(&customer, &mut node, first).await;
    assert!(customer.create(second).await.instance().node.is_some());
    let refused = customer.power(first, "start").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "capacity-exhausted"));
    assert_eq!(customer.show(first).await.state, InstanceState::Stopped, "a refused start changes nothing");
    assert_eq!(customer.create(InstanceId::from_bits(3)).await.instance().node, None, "the disk is full");
    stop(&customer, &mut node, second).await;
    assert_eq!(customer.power(first, "start").await.status, 202);
}

#[tokio::test]
async fn compute_is_not_given_back_before_the_node_confirms_the_stop() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(1, 512, 10);
    node.sync(0).await;
    let first = InstanceId::from_bits(1);
    customer.create(first).await;
    let running = find(&node.sync(30).await, first);
    node.report(&running, Phase::Ready).await;
    customer.power(first, "stop").await;
    assert_eq!(customer.create(InstanceId::from_bits(2)).await.instance().node, None);
    node.report(&running, Phase::Stopped).await;
    let row = sqlx::query("SELECT vcpus_used FROM nodes").fetch_one(&cloud.database().await).await.unwrap();
    assert_eq!(row.get::<i64, _>(0), 1, "a report that does not know of the stop frees nothing");
}

#[tokio::test]
async fn a_shrinking_offer_keeps_what_runs_and_takes_nothing_new() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    customer.create(InstanceId::from_bits(1)).await;
    customer.create(InstanceId::from_bits(2)).await;
    node.offer = offer(1, 512, 1);
    assert_eq!(node.sync(0).await.desired.len(), 2);
    assert_eq!(customer.create(InstanceId::from_bits(3)).await.instance().node, None);
}

#[tokio::test]
async fn a_project_cannot_have_more_instances_than_its_quota() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    for bits in 0..64 {
        assert_eq!(customer.create(InstanceId::from_bits(bits)).await.status, 202);
    }
    let refused = customer.create(InstanceId::from_bits(64)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "conflict"));
    assert!(refused.body["detail"].as_str().unwrap().contains("quota is 64"), "{}", refused.body);
    assert_eq!(cloud.other_tenant().await.create(InstanceId::from_bits(65)).await.status, 202);
}

#[tokio::test]
async fn a_node_that_never_comes_back_is_forgotten_with_its_instances() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    customer.delete(id).await;
    let store = cloud.folder.path().join("store.sqlite");
    let early = lambda_control::forget_node(&store, node.id).await.unwrap_err();
    assert!(early.to_string().contains("heard from"), "{early:#}");
    assert_eq!(customer.show(id).await.state, InstanceState::Deleting);
    let database = cloud.database().await;
    sqlx::query("UPDATE nodes SET last_seen_ms = last_seen_ms - 600000").execute(&database).await.unwrap();
    assert_eq!(lambda_control::forget_node(&store, node.id).await.unwrap(), 1);
    assert_eq!(customer.get(&format!("/v1/instances/{id}")).await.status, 404);
    assert!(lambda_control::forget_node(&store, node.id).await.is_err(), "there is none");
    assert!(node.sync(0).await.desired.is_empty(), "it may come back as a new one");
    assert_eq!(customer.create(InstanceId::from_bits(2)).await.instance().node, Some(node.id));
}
