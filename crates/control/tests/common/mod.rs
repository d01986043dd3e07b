//! A real control plane on a real SQLite file behind real mutual TLS, and the peers that talk to it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lambda_control::{ControlConfig, NewKey};
use lambda_transport::pki::Authority;
use lambda_transport::{Identity, PeerClient, PeerIdentity, Protocol, Role, Roots, Shutdown, principal, tls};
use lambda_types::api_key::{Principal, Scope};
use lambda_types::instance::{Failure, Instance, Phase, PhaseTime};
use lambda_types::mailbox::Message;
use lambda_types::node::{
    Acceleration, DesiredInstance, NodeOffer, ObservedInstance, OfferedImage, SyncRequest, SyncResponse,
};
use lambda_types::shape::LaunchProfile;
use lambda_types::{Binary, BootId, ImageId, InstanceId, NodeId, RequestId};
use serde_json::{Value, json};

pub const IMAGE: u128 = 7;
const CALL: Duration = Duration::from_secs(40);

pub struct Cloud {
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    pub authority: Authority,
    pub shutdown: Shutdown,
    pub running: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    pub key: NewKey,
}

pub fn write_pki(folder: &Path) -> Authority {
    let authority = Authority::generate("internal").unwrap();
    authority.save(&folder.join("ca")).unwrap();
    let control = PeerIdentity::new(Role::Control, "main");
    authority.issue_peer(&control, &[]).unwrap().save(&folder.join("identity")).unwrap();
    authority
}

pub fn config(folder: &Path, listener: TcpListener) -> ControlConfig {
    ControlConfig {
        listener,
        database: folder.join("store.sqlite"),
        identity: folder.join("identity"),
        internal_ca: folder.join("ca/cert.pem"),
        platform_ca: folder.join("ca/cert.pem"),
        region: "test".into(),
    }
}

impl Cloud {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = write_pki(folder.path());
        let database = folder.path().join("store.sqlite");
        let key = lambda_control::create_api_key(&database, None, &Scope::ALL).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let running = Some(tokio::spawn(lambda_control::run(config(folder.path(), listener), shutdown.clone())));
        Self { folder, address, authority, shutdown, running, key }
    }

    /// Stops the control plane and starts another on the same store and address.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.shutdown = Shutdown::new();
        let listener = TcpListener::bind(self.address).unwrap();
        let config = config(self.folder.path(), listener);
        self.running = Some(tokio::spawn(lambda_control::run(config, self.shutdown.clone())));
    }

    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap();
        }
    }

    pub fn peer(&self, role: Role, name: &str) -> PeerClient {
        peer(&self.authority, self.address, role, name)
    }

    pub fn customer(&self) -> Customer {
        self.customer_of(&self.key, &Scope::ALL)
    }

    pub fn customer_of(&self, key: &NewKey, scopes: &[Scope]) -> Customer {
        let principal = Principal { key: key.id, project: key.project, scopes: scopes.to_vec() };
        Customer { client: self.peer(Role::Gateway, "main"), principal }
    }

    pub async fn other_tenant(&self) -> Customer {
        let database = self.folder.path().join("store.sqlite");
        let key = lambda_control::create_api_key(&database, None, &Scope::ALL).await.unwrap();
        self.customer_of(&key, &Scope::ALL)
    }

    pub fn node(&self, bits: u128) -> Node {
        let id = NodeId::from_bits(bits);
        let client = self.peer(Role::Node, &id.to_string());
        Node { client, id, offer: offer(8, 8192, 100), generation: 0, observed: Vec::new() }
    }

    pub async fn database(&self) -> sqlx::SqlitePool {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.folder.path().join("store.sqlite"));
        sqlx::SqlitePool::connect_with(options).await.unwrap()
    }
}

pub fn peer(authority: &Authority, address: SocketAddr, role: Role, name: &str) -> PeerClient {
    let issued = authority.issue_peer(&PeerIdentity::new(role, name), &[]).unwrap();
    let identity = Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap();
    let roots = Roots::from_pem(authority.certificate_pem()).unwrap();
    let tls = tls::mutual_client_config(identity, &roots, Protocol::Http).unwrap();
    PeerClient::new(Role::Control, address, &tls).unwrap()
}

pub fn offer(vcpus: u32, memory_mib: u64, disk_gib: u64) -> NodeOffer {
    NodeOffer {
        vcpus,
        memory_mib,
        disk_gib,
        profiles: vec![LaunchProfile::Tpm],
        tees: Vec::new(),
        images: vec![OfferedImage { id: ImageId::from_bits(IMAGE), name: "debian-12".into(), version: "1".into() }],
        acceleration: Acceleration::Tcg,
        tunnel: "127.0.0.1:9".parse().unwrap(),
    }
}

/// The gateway, speaking for one customer.
#[derive(Clone)]
pub struct Customer {
    pub client: PeerClient,
    pub principal: Principal,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("(no code)")
    }

    pub fn instance(&self) -> Instance {
        serde_json::from_value(self.body.clone()).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub fn create_body(id: InstanceId) -> Value {
    json!({"id": id, "shape": "nano", "image": ImageId::from_bits(IMAGE), "volume_gib": 1,
           "secrets": "c2VjcmV0cw==", "metadata": "bWV0YWRhdGE="})
}

impl Customer {
    pub async fn call(&self, method: Method, path: &str, extra: &[(&'static str, &str)], body: &Value) -> Reply {
        let mut headers = HeaderMap::new();
        principal::write(&self.principal, &mut headers);
        let id = RequestId::random().unwrap().to_string();
        headers.insert("lambda-request-id", HeaderValue::from_str(&id).unwrap());
        for (name, value) in extra {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let (status, headers, body) = self.client.relay(method, path, headers, body, CALL).await.unwrap();
        Reply { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], &Value::Null).await
    }

    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.call(Method::POST, path, &[("idempotency-key", &format!("\"{key}\""))], body).await
    }

    /// POST under a fresh idempotency key.
    pub async fn post_once(&self, path: &str, body: &Value) -> Reply {
        self.post(path, &RequestId::random().unwrap().to_string(), body).await
    }

    pub async fn create(&self, id: InstanceId) -> Reply {
        self.post_once("/v1/instances", &create_body(id)).await
    }

    pub async fn power(&self, id: InstanceId, action: &str) -> Reply {
        self.post_once(&format!("/v1/instances/{id}/{action}"), &Value::Null).await
    }

    pub async fn delete(&self, id: InstanceId) -> Reply {
        self.call(Method::DELETE, &format!("/v1/instances/{id}"), &[], &Value::Null).await
    }

    pub async fn patch(&self, id: InstanceId, if_match: Option<&str>, body: &Value) -> Reply {
        let extra: Vec<(&'static str, &str)> = if_match.map(|tag| ("if-match", tag)).into_iter().collect();
        self.call(Method::PATCH, &format!("/v1/instances/{id}"), &extra, body).await
    }

    pub async fn show(&self, id: InstanceId) -> Instance {
        let reply = self.get(&format!("/v1/instances/{id}")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.instance()
    }

    pub async fn answer(&self, id: InstanceId, boot: BootId, answers: u64) -> Reply {
        let body = json!({"boot": boot, "answers": answers, "body": "YW5zd2Vy"});
        self.post_once(&format!("/v1/instances/{id}/mailbox"), &body).await
    }
}

/// A node agent that does what it is told, on paper.
pub struct Node {
    pub client: PeerClient,
    pub id: NodeId,
    pub offer: NodeOffer,
    pub generation: u64,
    pub observed: Vec<ObservedInstance>,
}

impl Node {
    pub fn request(&self, wait_seconds: u32) -> SyncRequest {
        SyncRequest {
            node: self.id,
            generation: self.generation,
            observed: self.observed.clone(),
            offer: self.offer.clone(),
            wait_seconds,
        }
    }

    pub async fn sync(&mut self, wait_seconds: u32) -> SyncResponse {
        let answer: SyncResponse =
            self.client.post("/node/v1/sync", &self.request(wait_seconds), HeaderMap::new(), CALL).await.unwrap();
        assert!(answer.generation >= self.generation, "generation went back to {}", answer.generation);
        self.generation = answer.generation;
        answer
    }

    /// Reports a phase for a desired instance and tells the control plane.
    pub async fn report(&mut self, desired: &DesiredInstance, phase: Phase) -> SyncResponse {
        self.see(desired, phase, None);
        self.sync(0).await
    }

    pub fn see(&mut self, desired: &DesiredInstance, phase: Phase, guest: Option<Message>) {
        self.observed.retain(|seen| seen.id != desired.id);
        self.observed.push(ObservedInstance {
            id: desired.id,
            generation: desired.generation,
            epoch: desired.epoch,
            phase,
            failure: (phase == Phase::Failed).then_some(Failure::QemuExit),
            boot: guest.as_ref().map(|message| message.boot),
            phases: vec![PhaseTime { phase, at_ms: 1 }],
            guest,
            broker_seq: 0,
            degraded: Vec::new(),
        });
    }

    pub fn forget(&mut self, id: InstanceId) {
        self.observed.retain(|seen| seen.id != id);
    }
}

pub fn message(boot: u128, seq: u64) -> Message {
    Message { boot: BootId::from_bits(boot), seq, body: Binary(vec![1, 2, 3]) }
}

pub fn find(answer: &SyncResponse, id: InstanceId) -> DesiredInstance {
    answer.desired.iter().find(|it| it.id == id).unwrap_or_else(|| panic!("{id} is not desired")).clone()
}
