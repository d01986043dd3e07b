//! What a node may say, and when it is answered.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Cloud, find, message};
use http::HeaderMap;
use lambda_transport::Role;
use lambda_types::instance::{ConditionKind, InstanceState, Phase};
use lambda_types::mailbox::MAX_BODY_BYTES;
use lambda_types::node::SyncResponse;
use lambda_types::{Binary, BootId, Code, InstanceId, NodeId};

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

#[tokio::test]
async fn a_running_instance_of_a_restored_store_is_shown_as_it_runs() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let mut ahead = find(&node.sync(30).await, id);
    (ahead.epoch, ahead.generation) = (7, 50);
    node.report(&ahead, Phase::Ready).await;
    assert_eq!(customer.show(id).await.state, InstanceState::Ready);
    let desired = find(&node.sync(0).await, id);
    assert!(desired.epoch == 7 && desired.generation > 50, "{desired:?}");
    customer.power(id, "restart").await;
    assert_eq!(find(&node.sync(30).await, id).epoch, 8);
}

#[tokio::test]
async fn a_guest_that_powered_itself_off_stays_off_until_it_is_started() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    let before = customer.show(id).await.generation;
    assert_eq!(customer.power(id, "start").await.instance().generation, before, "it runs");
    node.report(&desired, Phase::Stopped).await;
    let off = customer.show(id).await;
    assert_eq!((off.state, off.conditions[0].kind), (InstanceState::Stopped, ConditionKind::PoweredOff));
    assert_eq!(node.sync(0).await.desired[0].epoch, 1, "nothing starts it by itself");
    customer.power(id, "start").await;
    assert_eq!(find(&node.sync(30).await, id).epoch, 2);
    assert_eq!(customer.show(id).await.state, InstanceState::Preparing);
}

#[tokio::test]
async fn a_broker_message_is_sent_until_the_node_has_handed_it_over() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    node.see(&desired, Phase::Attesting, Some(message(9, 1)));
    node.sync(0).await;
    customer.answer(id, BootId::from_bits(9), 1).await;
    for _ in 0..2 {
        assert_eq!(find(&node.sync(0).await, id).broker.map(|it| it.seq), Some(1));
    }
    node.observed[0].broker_seq = 1;
    assert_eq!(find(&node.sync(0).await, id).broker, None);
    customer.answer(id, BootId::from_bits(9), 1).await;
    assert_eq!(find(&node.sync(0).await, id).broker.map(|it| it.seq), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_messages_of_many_instances_come_in_turn() {
    const TENANTS: u128 = 2;
    const EACH: u128 = 64;
    let cloud = Cloud::start().await;
    let mut node = cloud.node(1);
    (node.offer.vcpus, node.offer.memory_mib, node.offer.disk_gib) = (1000, 1 << 20, 1000);
    node.sync(0).await;
    let body = Binary(vec![7; MAX_BODY_BYTES]);
    for tenant in 0..TENANTS {
        let customer = cloud.other_tenant().await;
        let ids = || (0..EACH).map(|bits| InstanceId::from_bits(tenant << 64 | bits));
        for id in ids() {
            assert_eq!(customer.create(id).await.status, 202);
        }
        let all = node.sync(0).await;
        for id in ids() {
            let mut said = message(9, 1);
            said.body = body.clone();
            node.see(&find(&all, id), Phase::Attesting, Some(said));
        }
        node.sync(0).await;
        let post = serde_json::json!({"boot": BootId::from_bits(9), "answers": 1, "body": body});
        for id in ids() {
            assert_eq!(customer.post_once(&format!("/v1/instances/{id}/mailbox"), &post).await.status, 200);
        }
    }
    let begun = Instant::now();
    let mut delivered = 0;
    while delivered < TENANTS * EACH {
        assert!(begun.elapsed() < Duration::from_secs(15), "{delivered} delivered");
        let mut bytes = 0;
        for desired in node.sync(30).await.desired {
            if let Some(broker) = desired.broker {
                delivered += 1;
                bytes += broker.body.as_slice().len();
                assert!(bytes <= 4 << 20, "{bytes} in one answer");
                let seen = node.observed.iter_mut().find(|seen| seen.id == desired.id).unwrap();
                seen.broker_seq = broker.seq;
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "the rest had to wait for {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_guest_that_talks_without_end_does_not_fill_the_store() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    let database = cloud.database().await;
    let audited =
        async || -> i64 { sqlx::query_scalar("SELECT COUNT(*) FROM audit").fetch_one(&database).await.unwrap() };
    let stored = async || customer.get(&format!("/v1/instances/{id}/mailbox")).await.body["guest"]["seq"].as_u64();
    let (before, begun, mut written) = (audited().await, std::time::Instant::now(), 0);
    for seq in 1..=150 {
        let phase = if seq % 2 == 0 { Phase::Attesting } else { Phase::Unlocking };
        node.see(&desired, phase, Some(message(9, seq)));
        node.sync(0).await;
        written += u64::from(stored().await == Some(seq));
    }
    // 64 at once, and one more every two seconds.
    let most = 65 + begun.elapsed().as_secs() / 2;
    assert!((64..=most).contains(&written), "{written} of 150 were written, at most {most} may be");
    assert!(written < 150, "no pace was seen: the machine is too slow for this test");
    assert_eq!(audited().await, before);
    tokio::time::timeout(Duration::from_secs(10), async {
        while customer.get(&format!("/v1/instances/{id}/mailbox")).await.body["guest"]["seq"] != 150 {
            node.sync(1).await;
        }
    })
    .await
    .expect("the latest is stored in the end");
}
