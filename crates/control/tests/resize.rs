//! A volume becomes larger: booked where it is, told to its node, and never smaller again.
#![allow(missing_docs)]

mod common;

use common::{Cloud, Customer, Reply, find, offer};
use lambda_types::InstanceId;
use lambda_types::api_key::Scope;
use lambda_types::instance::Phase;
use serde_json::json;

const ID: InstanceId = InstanceId::from_bits(1);

async fn resize(customer: &Customer, id: InstanceId, gib: u32) -> Reply {
    customer.patch(id, Some("*"), &json!({ "volume_gib": gib })).await
}

#[tokio::test]
async fn a_larger_volume_is_told_to_the_node_and_every_other_size_changes_nothing() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(4, 4096, 100);
    node.sync(0).await;
    customer.create(ID).await;
    let before = find(&node.sync(30).await, ID);
    let start = before.volume_gib;
    node.report(&before, Phase::Ready).await;

    let reply = resize(&customer, ID, start + 7).await;
    assert_eq!((reply.status.as_u16(), reply.instance().volume_gib), (200, start + 7), "{}", reply.body);
    assert!(!reply.instance().conditions.iter().any(|condition| condition.since_ms == 0), "{}", reply.body);
    let after = find(&node.sync(30).await, ID);
    assert_eq!((after.volume_gib, after.epoch, after.power), (start + 7, before.epoch, before.power));
    assert!(after.generation > before.generation);

    for (gib, code) in [(start, "invalid-request"), (0, "invalid-request"), (1025, "invalid-request")] {
        assert_eq!(resize(&customer, ID, gib).await.code(), code, "{gib} GiB");
    }
    assert_eq!(resize(&customer, ID, 101).await.code(), "capacity-exhausted");
    assert_eq!(resize(&customer, ID, start + 7).await.status, 200, "a repeated request is no error");
    let unchanged = find(&node.sync(0).await, ID);
    assert_eq!((unchanged.volume_gib, unchanged.generation), (after.volume_gib, after.generation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_enlargements_cannot_oversell_a_nodes_disk_and_deletion_gives_all_back() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(8, 8192, 60);
    node.sync(0).await;
    let ids = [1, 2, 3, 4].map(InstanceId::from_bits);
    let mut held = 0;
    for id in ids {
        held += customer.create(id).await.instance().volume_gib;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for id in ids {
        let customer = customer.clone();
        tasks.spawn(async move { resize(&customer, id, 20).await });
    }
    let each = 20 - held / 4;
    while let Some(reply) = tasks.join_next().await {
        let reply = reply.unwrap();
        if reply.status == 200 {
            held += each;
        } else {
            assert_eq!(reply.code(), "capacity-exhausted", "{}", reply.body);
        }
    }
    assert!(held <= 60 && held + each > 60, "{held} of 60 GiB, {each} at a time");

    for id in ids {
        customer.delete(id).await;
        let desired = find(&node.sync(30).await, id);
        node.report(&desired, Phase::Gone).await;
        node.forget(id);
    }
    let last = InstanceId::from_bits(5);
    customer.create(last).await;
    assert_eq!(resize(&customer, last, 60).await.status, 200, "nothing stays booked");
}

#[tokio::test]
async fn a_key_that_may_only_broker_cannot_enlarge_a_volume() {
    let cloud = Cloud::start().await;
    cloud.customer().create(ID).await;
    let broker = cloud.customer_of(&cloud.key, &[Scope::Broker]);
    assert_eq!(resize(&broker, ID, 20).await.code(), "forbidden");
    let both = json!({ "secrets": "bmV3", "volume_gib": 20 });
    assert_eq!(broker.patch(ID, Some("*"), &both).await.code(), "forbidden");
    assert_eq!(broker.patch(ID, Some("*"), &json!({ "secrets": "bmV3" })).await.status, 200);
}
