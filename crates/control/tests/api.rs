//! Idempotency, pagination, versions, tenants.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;

use common::{Cloud, create_body, find};
use http::{HeaderMap, Method};
use lambda_transport::{Role, principal};
use lambda_types::InstanceId;
use lambda_types::api_key::Scope;
use lambda_types::instance::Phase;
use serde_json::{Value, json};

#[tokio::test]
async fn a_repeated_creation_gives_the_stored_answer_and_one_instance() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    let first = customer.post("/v1/instances", "k1", &create_body(id)).await;
    customer.power(id, "stop").await;
    let again = customer.post("/v1/instances", "k1", &create_body(id)).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(customer.get("/v1/instances").await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_request_of_one_api_key() {
    let cloud = Cloud::start().await;
    let (customer, other) = (cloud.customer(), cloud.other_tenant().await);
    customer.post("/v1/instances", "k1", &create_body(InstanceId::from_bits(1))).await;
    let reused = customer.post("/v1/instances", "k1", &create_body(InstanceId::from_bits(2))).await;
    assert_eq!((reused.status.as_u16(), reused.code()), (422, "idempotency-mismatch"));
    let elsewhere = customer.post("/v1/instances/inst_00000000000000000000000001/stop", "k1", &Value::Null).await;
    assert_eq!(elsewhere.code(), "idempotency-mismatch");
    let theirs = other.post("/v1/instances", "k1", &create_body(InstanceId::from_bits(3))).await;
    assert_eq!(theirs.status, 202, "another caller's keys are other keys");
}

#[tokio::test]
async fn a_refusal_is_remembered_with_a_new_request_id() {
    let cloud = Cloud::start().await;
    let customer = cloud.customer();
    let id = InstanceId::from_bits(1);
    let path = format!("/v1/instances/{id}/stop");
    let refused = customer.post(&path, "k1", &Value::Null).await;
    assert_eq!(refused.code(), "not-found");
    customer.create(id).await;
    let again = customer.post(&path, "k1", &Value::Null).await;
    assert_eq!(again.code(), "not-found");
    assert_eq!(again.body["detail"], refused.body["detail"]);
    assert_ne!(again.body["request_id"], refused.body["request_id"]);
    assert_eq!(customer.power(id, "stop").await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_repetitions_create_once() {
    let cloud = Cloud::start().await;
    let customer = cloud.customer();
    let body = create_body(InstanceId::from_bits(1));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (customer, body) = (customer.clone(), body.clone());
        tasks.spawn(async move { customer.post("/v1/instances", "k1", &body).await });
    }
    let mut bodies = BTreeSet::new();
    while let Some(reply) = tasks.join_next().await {
        let reply = reply.unwrap();
        match reply.status.as_u16() {
            202 => drop(bodies.insert(reply.body.to_string())),
            409 => assert_eq!(reply.code(), "idempotency-in-progress"),
            other => panic!("{other}: {}", reply.body),
        }
    }
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn pages_cover_everything_once_and_cursors_cannot_be_moved() {
    let cloud = Cloud::start().await;
    let (customer, other) = (cloud.customer(), cloud.other_tenant().await);
    for bits in 1..=57 {
        assert_eq!(customer.create(InstanceId::from_bits(bits)).await.status, 202);
    }
    let first = customer.get("/v1/instances").await;
    assert_eq!(first.body["items"].as_array().unwrap().len(), 50);
    let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = customer.get(&format!("/v1/instances?limit=10&cursor={cursor}")).await;
        for item in page.body["items"].as_array().unwrap() {
            assert!(seen.insert(item["id"].as_str().unwrap().to_owned()), "listed twice");
        }
        match page.body.get("next_cursor") {
            Some(next) => cursor = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 57);
    let all = customer.get("/v1/instances?limit=100000").await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 57);
    assert!(all.body.get("next_cursor").is_none());
    let stolen = first.body["next_cursor"].as_str().unwrap();
    assert_eq!(other.get(&format!("/v1/instances?cursor={stolen}")).await.code(), "invalid-request");
    for bad in ["limit=-1", "limit=x", "cursor=zzz"] {
        assert_eq!(customer.get(&format!("/v1/instances?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn updates_need_the_version_that_was_read() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let read = customer.get(&format!("/v1/instances/{id}")).await;
    let etag = read.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", read.instance().etag));
    let body = json!({"metadata": "bmV3"});
    assert_eq!(customer.patch(id, None, &body).await.code(), "version-required");
    assert_eq!(customer.patch(id, Some("\"999\""), &body).await.code(), "version-mismatch");
    assert_eq!(customer.patch(id, Some(&format!("W/{etag}")), &body).await.code(), "version-mismatch");
    assert_eq!(customer.patch(id, Some(&etag), &json!({})).await.code(), "invalid-request");
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    let updated = customer.patch(id, Some(&etag), &body).await;
    assert_eq!(updated.status, 200, "progress on the node takes no version: {}", updated.body);
    assert_eq!(updated.body["metadata"], "bmV3");
    assert_ne!(updated.headers["etag"].to_str().unwrap(), etag);
    assert_eq!(customer.patch(id, Some(&etag), &body).await.code(), "version-mismatch");
}

#[tokio::test]
async fn another_tenants_instance_does_not_exist() {
    let cloud = Cloud::start().await;
    let (customer, other, mut node) = (cloud.customer(), cloud.other_tenant().await, cloud.node(1));
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    customer.create(id).await;
    let path = format!("/v1/instances/{id}");
    for (method, tail, body) in [
        (Method::GET, "", Value::Null),
        (Method::DELETE, "", Value::Null),
        (Method::PATCH, "", json!({"metadata": "bmV3"})),
        (Method::POST, "/stop", Value::Null),
        (Method::GET, "/mailbox", Value::Null),
        (Method::POST, "/mailbox", json!({"boot": "boot_00000000000000000000000001", "answers": 0, "body": "eA=="})),
    ] {
        let headers = [("idempotency-key", "\"k\""), ("if-match", "*")];
        let reply = other.call(method.clone(), &format!("{path}{tail}"), &headers, &body).await;
        // One idempotency key for several requests would be another refusal: only POST /stop and POST /mailbox use it.
        let expected = if tail == "/mailbox" && method == Method::POST { 422 } else { 404 };
        assert_eq!(reply.status.as_u16(), expected, "{method} {tail}: {}", reply.body);
    }
    assert_eq!(other.get(&format!("/internal/v1/instances/{id}/route")).await.status, 404);
    assert_eq!(other.get("/v1/instances").await.body["items"], json!([]));
    assert_eq!(customer.show(id).await.id, id);
}

#[tokio::test]
async fn a_key_without_the_scope_is_refused() {
    let cloud = Cloud::start().await;
    let all = cloud.customer();
    let id = InstanceId::from_bits(1);
    all.create(id).await;
    let path = format!("/v1/instances/{id}");
    let matrix: [(Scope, &[(&str, &str)]); 4] = [
        (Scope::Read, &[("GET", ""), ("GET", "LIST")]),
        (Scope::Write, &[("POST", "/stop"), ("PATCH", "meta"), ("PATCH", "secrets")]),
        (Scope::Broker, &[("GET", "/mailbox"), ("PATCH", "secrets")]),
        (Scope::Connect, &[("GET", "ROUTE")]),
    ];
    let calls = [
        ("GET", ""),
        ("GET", "LIST"),
        ("POST", "/stop"),
        ("PATCH", "meta"),
        ("PATCH", "secrets"),
        ("GET", "/mailbox"),
        ("GET", "ROUTE"),
    ];
    for (scope, allowed) in matrix {
        let customer = cloud.customer_of(&cloud.key, &[scope]);
        for (method, what) in calls {
            let reply = match (method, what) {
                ("PATCH", "meta") => customer.patch(id, Some("*"), &json!({"metadata": "bmV3"})).await,
                ("PATCH", _) => customer.patch(id, Some("*"), &json!({"secrets": "bmV3"})).await,
                (_, "LIST") => customer.get("/v1/instances").await,
                (_, "ROUTE") => customer.get(&format!("/internal/v1/instances/{id}/route")).await,
                ("POST", tail) => customer.post_once(&format!("{path}{tail}"), &Value::Null).await,
                (_, tail) => customer.get(&format!("{path}{tail}")).await,
            };
            let forbidden = reply.code() == "forbidden";
            assert_eq!(forbidden, !allowed.contains(&(method, what)), "{scope:?} {method} {what}: {}", reply.body);
        }
    }
}

#[tokio::test]
async fn only_a_gateway_may_name_a_principal() {
    let cloud = Cloud::start().await;
    let customer = cloud.customer();
    let mut headers = HeaderMap::new();
    principal::write(&customer.principal, &mut headers);
    let node_id = cloud.node(1).id.to_string();
    for (role, name) in [(Role::Node, node_id.as_str()), (Role::Control, "main")] {
        let peer = cloud.peer(role, name);
        let timeout = std::time::Duration::from_secs(5);
        let (status, _, _) =
            peer.relay(Method::GET, "/v1/instances", headers.clone(), Vec::new(), timeout).await.unwrap();
        assert_eq!(status, 403, "{role:?}");
        let authenticate = json!({"sha256": "00".repeat(32)});
        let error = peer.post::<_, Value>("/internal/v1/authenticate", &authenticate, HeaderMap::new(), timeout);
        assert_eq!(error.await.unwrap_err().code(), Some(lambda_types::Code::Forbidden), "{role:?}");
    }
    let anonymous = cloud.peer(Role::Gateway, "main");
    let error = anonymous.get::<Value>("/v1/instances", HeaderMap::new(), std::time::Duration::from_secs(5)).await;
    assert_eq!(error.unwrap_err().code(), Some(lambda_types::Code::Unauthenticated));
}

#[tokio::test]
async fn keys_are_found_by_their_hash_and_never_stored_in_the_clear() {
    use sha2::{Digest as _, Sha256};
    let cloud = Cloud::start().await;
    let gateway = cloud.peer(Role::Gateway, "main");
    let timeout = std::time::Duration::from_secs(5);
    let ask = |hash: String| {
        let gateway = gateway.clone();
        async move {
            gateway
                .post::<_, Value>("/internal/v1/authenticate", &json!({ "sha256": hash }), HeaderMap::new(), timeout)
                .await
        }
    };
    let hash = hex::encode(Sha256::digest(cloud.key.text.as_bytes()));
    let found = ask(hash.clone()).await.unwrap();
    assert_eq!(found["project"], json!(cloud.key.project));
    assert_eq!(found["scopes"], json!(["read", "write", "broker", "connect"]));
    let unknown = ask("00".repeat(32)).await.unwrap_err();
    assert_eq!(unknown.code(), Some(lambda_types::Code::Unauthenticated));
    assert_eq!(ask("xyz".into()).await.unwrap_err().code(), Some(lambda_types::Code::InvalidRequest));
    for file in std::fs::read_dir(cloud.folder.path()).unwrap() {
        let path = file.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let holds = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!holds(&cloud.key.text), "{} holds the key", path.display());
    }
}
