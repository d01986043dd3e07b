//! The mailbox: a guest, a broker, and the order of what they say.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Cloud, Customer, Node, find, message};
use lambda_types::instance::{ConditionKind, Phase};
use lambda_types::mailbox::{MAX_BODY_BYTES, ReadMailbox};
use lambda_types::node::DesiredInstance;
use lambda_types::{Binary, BootId, InstanceId};
use serde_json::json;

struct Scene {
    cloud: Cloud,
    customer: Customer,
    node: Node,
    id: InstanceId,
    desired: DesiredInstance,
}

async fn scene() -> Scene {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    node.sync(0).await;
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    Scene { cloud, customer, node, id, desired }
}

impl Scene {
    async fn guest_says(&mut self, boot: u128, seq: u64) {
        self.node.see(&self.desired, Phase::Attesting, Some(message(boot, seq)));
        self.node.sync(0).await;
    }

    async fn read(&self, query: &str) -> ReadMailbox {
        let reply = self.customer.get(&format!("/v1/instances/{}/mailbox?{query}", self.id)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_value(reply.body).unwrap()
    }
}

#[tokio::test]
async fn a_guest_and_its_broker_take_turns() {
    let mut scene = scene().await;
    assert_eq!(scene.read("").await.guest, None);
    scene.guest_says(9, 1).await;
    let boot = BootId::from_bits(9);
    assert_eq!(scene.read("").await.guest, Some(message(9, 1)));
    let unanswered = scene.customer.get("/v1/mailboxes").await;
    assert_eq!(unanswered.body, json!({"items": [{"instance": scene.id, "boot": boot, "seq": 1}]}));
    let waits = scene.customer.show(scene.id).await.conditions[0].kind;
    assert_eq!(waits, ConditionKind::AwaitingBroker);

    let answered = scene.customer.answer(scene.id, boot, 1).await;
    assert_eq!((answered.status.as_u16(), answered.body["broker_seq"].as_u64()), (200, Some(1)));
    let delivered = find(&scene.node.sync(30).await, scene.id);
    assert_eq!(delivered.broker.as_ref().map(|it| (it.boot, it.seq)), Some((boot, 1)));
    assert!(delivered.generation > scene.desired.generation);
    assert_eq!(scene.customer.get("/v1/mailboxes").await.body["items"], json!([]));
    assert_eq!(scene.read(&format!("boot={boot}&after=1")).await.guest, None);

    scene.desired = delivered;
    scene.guest_says(9, 2).await;
    assert_eq!(scene.read(&format!("boot={boot}&after=1")).await.guest, Some(message(9, 2)));
}

#[tokio::test]
async fn an_answer_to_something_else_is_a_conflict() {
    let mut scene = scene().await;
    let boot = BootId::from_bits(9);
    assert_eq!(scene.customer.answer(scene.id, boot, 0).await.code(), "conflict", "nothing was said");
    scene.guest_says(9, 1).await;
    scene.guest_says(9, 2).await;
    for (boot, answers) in [(boot, 1), (boot, 3), (BootId::from_bits(8), 2)] {
        assert_eq!(scene.customer.answer(scene.id, boot, answers).await.code(), "conflict", "{boot} {answers}");
    }
    assert_eq!(scene.customer.answer(scene.id, boot, 2).await.status, 200);
}

#[tokio::test]
async fn a_new_boot_starts_both_registers_anew() {
    let mut scene = scene().await;
    scene.guest_says(9, 5).await;
    scene.customer.answer(scene.id, BootId::from_bits(9), 5).await;
    scene.node.sync(30).await;
    scene.guest_says(10, 1).await;
    let read = scene.read(&format!("boot={}&after=5", BootId::from_bits(9))).await;
    assert_eq!((read.guest, read.broker_seq, read.broker_answers), (Some(message(10, 1)), 0, 0));
    let told = find(&scene.node.sync(0).await, scene.id);
    assert_eq!(told.broker, None, "the former boot's answer is not handed to the new one");
}

#[tokio::test]
async fn a_restart_silences_the_former_boot() {
    let mut scene = scene().await;
    scene.guest_says(9, 1).await;
    scene.customer.power(scene.id, "restart").await;
    assert_eq!(scene.read("").await.guest, None);
    scene.guest_says(9, 2).await;
    assert_eq!(scene.read("").await.guest, None, "a late report of the old epoch is not stored");
    scene.desired = find(&scene.node.sync(0).await, scene.id);
    scene.guest_says(10, 1).await;
    assert_eq!(scene.read("").await.guest, Some(message(10, 1)));
}

#[tokio::test]
async fn older_and_oversized_guest_messages_are_not_stored() {
    let mut scene = scene().await;
    scene.guest_says(9, 3).await;
    scene.guest_says(9, 2).await;
    assert_eq!(scene.read("").await.guest.unwrap().seq, 3);
    let mut large = message(9, 4);
    large.body = Binary(vec![0; MAX_BODY_BYTES + 1]);
    scene.node.see(&scene.desired, Phase::Attesting, Some(large));
    scene.node.sync(0).await;
    assert_eq!(scene.read("").await.guest.unwrap().seq, 3);
}

#[tokio::test]
async fn the_largest_message_passes_both_ways() {
    let mut scene = scene().await;
    let mut large = message(9, 1);
    large.body = Binary(vec![7; MAX_BODY_BYTES]);
    scene.node.see(&scene.desired, Phase::Attesting, Some(large.clone()));
    scene.node.sync(0).await;
    assert_eq!(scene.read("").await.guest, Some(large.clone()));
    let body = json!({"boot": large.boot, "answers": 1, "body": large.body});
    let path = format!("/v1/instances/{}/mailbox", scene.id);
    assert_eq!(scene.customer.post_once(&path, &body).await.status, 200);
    assert_eq!(find(&scene.node.sync(30).await, scene.id).broker.unwrap().body, large.body);
    let body = json!({"boot": large.boot, "answers": 1, "body": Binary(vec![7; MAX_BODY_BYTES + 1])});
    assert_eq!(scene.customer.post_once(&path, &body).await.code(), "invalid-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_brokers_are_numbered_and_only_answer_what_was_said() {
    let mut scene = scene().await;
    scene.guest_says(9, 1).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (customer, id) = (scene.customer.clone(), scene.id);
        tasks.spawn(async move { customer.answer(id, BootId::from_bits(9), 1).await });
    }
    let mut numbers: Vec<u64> = Vec::new();
    while let Some(reply) = tasks.join_next().await {
        numbers.push(reply.unwrap().body["broker_seq"].as_u64().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn long_polls_wake_for_news_and_end_at_their_bound() {
    let mut scene = scene().await;
    let (customer, id) = (scene.customer.clone(), scene.id);
    let reading = tokio::spawn(async move { customer.get(&format!("/v1/instances/{id}/mailbox?wait=30")).await });
    let customer = scene.customer.clone();
    let listing = tokio::spawn(async move { customer.get("/v1/mailboxes?wait=30").await });
    scene.guest_says(9, 1).await;
    let bound = Duration::from_secs(5);
    let read = tokio::time::timeout(bound, reading).await.unwrap().unwrap();
    assert_eq!(read.body["guest"]["seq"], 1);
    let listed = tokio::time::timeout(bound, listing).await.unwrap().unwrap();
    assert_eq!(listed.body["items"][0]["seq"], 1);
    let begun = Instant::now();
    assert_eq!(scene.read("after=1&wait=1").await.guest, None);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    scene.cloud.stop().await;
}

#[tokio::test]
async fn a_guest_that_is_ready_waits_for_no_broker() {
    let mut scene = scene().await;
    scene.guest_says(9, 1).await;
    scene.customer.answer(scene.id, BootId::from_bits(9), 1).await;
    let desired = find(&scene.node.sync(0).await, scene.id);
    scene.node.see(&desired, Phase::Ready, Some(message(9, 2)));
    scene.node.sync(0).await;
    assert_eq!(scene.read("").await.guest, Some(message(9, 2)), "who asked it reads the answer");
    assert_eq!(scene.customer.get("/v1/mailboxes").await.body["items"], json!([]));
}
