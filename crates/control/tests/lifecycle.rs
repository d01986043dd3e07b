//! One instance from creation to removal, as the gateway and a node see it.
#![allow(missing_docs)]

mod common;

use common::{Cloud, create_body, find};
use lambda_types::InstanceId;
use lambda_types::instance::{ConditionKind, InstanceState, Phase, Power};
use serde_json::{Value, json};

fn kinds(instance: &lambda_types::instance::Instance) -> Vec<ConditionKind> {
    instance.conditions.iter().map(|condition| condition.kind).collect()
}

#[tokio::test]
async fn an_instance_lives_and_goes() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    assert!(node.sync(0).await.desired.is_empty());

    let created = customer.create(id).await;
    assert_eq!(created.status, 202, "{}", created.body);
    assert_eq!(created.instance().node, Some(node.id));

    let desired = find(&node.sync(30).await, id);
    assert_eq!((desired.power, desired.epoch), (Power::Running, 1));
    assert_eq!(desired.network.address.to_string(), "10.64.0.2");
    for (phase, state) in [
        (Phase::Preparing, InstanceState::Preparing),
        (Phase::Booting, InstanceState::Booting),
        (Phase::Attesting, InstanceState::Attesting),
        (Phase::Ready, InstanceState::Ready),
    ] {
        node.report(&desired, phase).await;
        assert_eq!(customer.show(id).await.state, state);
    }
    assert!(customer.show(id).await.conditions.is_empty());

    assert_eq!(customer.power(id, "restart").await.status, 202);
    let desired = find(&node.sync(30).await, id);
    assert_eq!(desired.epoch, 2);
    assert_eq!(customer.show(id).await.state, InstanceState::Preparing);
    node.report(&desired, Phase::Ready).await;

    assert_eq!(customer.power(id, "stop").await.status, 202);
    let stopping = customer.show(id).await;
    assert_eq!((stopping.state, kinds(&stopping)), (InstanceState::Stopping, vec![ConditionKind::AwaitingNode]));
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Stopped).await;
    assert_eq!(customer.show(id).await.state, InstanceState::Stopped);

    assert_eq!(customer.power(id, "start").await.status, 202);
    let desired = find(&node.sync(30).await, id);
    assert_eq!((desired.power, desired.epoch), (Power::Running, 3));
    node.report(&desired, Phase::Ready).await;

    assert_eq!(customer.delete(id).await.status, 202);
    assert_eq!(customer.show(id).await.state, InstanceState::Deleting);
    assert_eq!(customer.power(id, "start").await.code(), "conflict");
    let desired = find(&node.sync(30).await, id);
    assert_eq!(desired.power, Power::Deleted);
    let after = node.report(&desired, Phase::Gone).await;
    assert!(after.desired.is_empty());
    assert_eq!(customer.get(&format!("/v1/instances/{id}")).await.status, 404);
}

#[tokio::test]
async fn only_the_node_can_say_that_a_deleted_instance_is_gone() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    node.sync(0).await;
    customer.create(id).await;
    let former = find(&node.sync(30).await, id);
    customer.delete(id).await;
    let desired = find(&node.sync(30).await, id);
    node.forget(id);
    assert_eq!(find(&node.sync(0).await, id).power, Power::Deleted, "silence is no proof");
    node.report(&former, Phase::Gone).await;
    assert_eq!(customer.show(id).await.state, InstanceState::Deleting, "an answer to an older generation is none");
    node.report(&desired, Phase::Gone).await;
    assert_eq!(customer.get(&format!("/v1/instances/{id}")).await.status, 404);
}

#[tokio::test]
async fn repeated_power_requests_change_nothing() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    node.sync(0).await;
    let created = customer.create(id).await.instance();
    let again = customer.power(id, "start").await;
    assert_eq!((again.status.as_u16(), again.instance().generation), (202, created.generation));
    customer.power(id, "stop").await;
    let stopped = customer.show(id).await;
    assert_eq!(customer.power(id, "stop").await.instance().generation, stopped.generation);
    assert_eq!(customer.power(id, "restart").await.code(), "conflict");
}

#[tokio::test]
async fn a_failed_instance_says_why_and_can_be_started_again() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    node.sync(0).await;
    customer.create(id).await;
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Failed).await;
    let failed = customer.show(id).await;
    assert_eq!((failed.state, kinds(&failed)), (InstanceState::Failed, vec![ConditionKind::Failed]));
    customer.power(id, "start").await;
    assert_eq!(find(&node.sync(30).await, id).epoch, 2);
    assert_eq!(customer.show(id).await.state, InstanceState::Preparing);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_a_reason() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    let with = |name: &str, value: Value| {
        let mut body = create_body(id);
        body[name] = value;
        body
    };
    for (body, hint) in [
        (with("volume_gib", json!(0)), "volume_gib"),
        (with("volume_gib", json!(1025)), "volume_gib"),
        (with("secrets", json!("")), "secrets"),
        (with("metadata", json!("A".repeat(128 * 1024))), "metadata"),
        (with("name", json!("web")), "name"),
        (with("shape", json!("huge")), "huge"),
        (with("image", json!("img_00000000000000000000000009")), "image"),
    ] {
        let reply = customer.post_once("/v1/instances", &body).await;
        assert_eq!((reply.status.as_u16(), reply.code()), (400, "invalid-request"), "{}", reply.body);
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains(hint), "{detail}");
        assert!(reply.body["request_id"].as_str().is_some());
    }
    let listed = customer.get("/v1/instances").await;
    assert_eq!(listed.body["items"], json!([]), "a refused creation leaves nothing");
    let missing = customer.call(http::Method::POST, "/v1/instances", &[], &create_body(id)).await;
    assert_eq!(missing.code(), "invalid-request");
    assert_eq!(customer.get("/v1/nothing").await.code(), "not-found");
    assert_eq!(customer.call(http::Method::PUT, "/v1/instances", &[], &Value::Null).await.code(), "method-not-allowed");
    customer.create(id).await;
    assert_eq!(customer.create(id).await.code(), "conflict");
}

#[tokio::test]
async fn the_catalogue_shows_images_shapes_and_the_platform() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    cloud.node(2).sync(0).await;
    let images = customer.get("/v1/images").await;
    assert_eq!(images.body["items"].as_array().unwrap().len(), 1, "two nodes, one image");
    assert_eq!(images.body["items"][0]["name"], "debian-12");
    assert_eq!(
        customer.get("/v1/shapes").await.body["items"][0],
        json!({"name": "nano", "vcpus": 1, "memory_mib": 512})
    );
    let platform = customer.get("/v1/platform").await;
    assert_eq!(platform.body["region"], "test");
    assert!(platform.body["platform_ca"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

#[tokio::test]
async fn a_tunnel_is_routed_only_to_a_guest_that_is_up() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    let id = InstanceId::from_bits(1);
    node.sync(0).await;
    customer.create(id).await;
    let path = format!("/internal/v1/instances/{id}/route");
    assert_eq!(customer.get(&path).await.code(), "conflict");
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    assert_eq!(customer.get(&path).await.body, json!({"node": node.id, "tunnel": "127.0.0.1:9"}));
}
