//! The gateway in front of a real control plane, as strangers and customers meet it.
#![allow(missing_docs)]

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use lambda_control::{ControlConfig, NewKey};
use lambda_gateway::GatewayConfig;
use lambda_transport::pki::Authority;
use lambda_transport::{Identity, PeerClient, PeerIdentity, Protocol, Role, Roots, Shutdown, tls};
use lambda_types::api_key::Scope;
use lambda_types::instance::{Phase, PhaseTime};
use lambda_types::node::{
    Acceleration, NodeOffer, ObservedInstance, OfferedImage, SyncRequest, SyncResponse, TunnelReply, TunnelRequest,
};
use lambda_types::shape::LaunchProfile;
use lambda_types::{ImageId, InstanceId, NodeId};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const BOUND: Duration = Duration::from_secs(10);

struct Front {
    folder: tempfile::TempDir,
    internal: Authority,
    public: Authority,
    gateway: SocketAddr,
    control: SocketAddr,
    key: NewKey,
    shutdown: Shutdown,
    stop_control: Shutdown,
    web: reqwest::Client,
}

async fn front() -> Front {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (internal, public) = (Authority::generate("internal").unwrap(), Authority::generate("public").unwrap());
    internal.save(&path("ca")).unwrap();
    for role in [Role::Control, Role::Gateway] {
        internal.issue_peer(&PeerIdentity::new(role, "main"), &[]).unwrap().save(&path(role.name())).unwrap();
    }
    public.issue_server(&["localhost"], &[IpAddr::from([127, 0, 0, 1])]).unwrap().save(&path("public")).unwrap();
    let key = lambda_control::create_api_key(&path("store.sqlite"), None, &Scope::ALL).await.unwrap();
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (for_control, for_gateway) = (bind(), bind());
    let (control, gateway) = (for_control.local_addr().unwrap(), for_gateway.local_addr().unwrap());
    let shutdown = Shutdown::new();
    let stop_control = shutdown.child_token();
    let config = ControlConfig {
        listener: for_control,
        database: path("store.sqlite"),
        identity: path("control"),
        internal_ca: path("ca/cert.pem"),
        platform_ca: path("ca/cert.pem"),
        region: "test".into(),
    };
    tokio::spawn(lambda_control::run(config, stop_control.clone()));
    let config = GatewayConfig {
        listener: for_gateway,
        public_identity: path("public"),
        internal_identity: path("gateway"),
        internal_ca: path("ca/cert.pem"),
        control,
    };
    tokio::spawn(lambda_gateway::run(config, shutdown.clone()));
    let roots = Roots::from_pem(public.certificate_pem()).unwrap();
    let tls = tls::client_config(&roots, Protocol::Http).unwrap();
    let web = reqwest::Client::builder()
        .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(Duration::from_secs(40))
        .build()
        .unwrap();
    let front = Front { folder, internal, public, gateway, control, key, shutdown, stop_control, web };
    for _ in 0..200 {
        if front.send(Method::GET, "/healthz", &[], "").await.0 == 200 {
            return front;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the gateway was not healthy within 5 s");
}

impl Front {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, HeaderMap, Value) {
        let mut request = self.web.request(method, format!("https://{}{path}", self.gateway)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn as_key(&self, key: &str, method: Method, path: &str, body: &Value) -> (StatusCode, HeaderMap, Value) {
        let bearer = format!("Bearer {key}");
        let name = format!("\"{}\"", lambda_types::RequestId::random().unwrap());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[("authorization", &bearer), ("idempotency-key", &name)], body).await
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, HeaderMap, Value) {
        self.as_key(&self.key.text, method, path, body).await
    }

    async fn other_key(&self, scopes: &[Scope]) -> NewKey {
        lambda_control::create_api_key(&self.folder.path().join("store.sqlite"), None, scopes).await.unwrap()
    }

    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.dial(Protocol::Http1).await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _broken = tokio::time::timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("the gateway hung up");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn dial(&self, protocol: Protocol) -> tokio_rustls::client::TlsStream<TcpStream> {
        let roots = Roots::from_pem(self.public.certificate_pem()).unwrap();
        let config = tls::client_config(&roots, protocol).unwrap();
        let stream = TcpStream::connect(self.gateway).await.unwrap();
        TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    fn s_client(&self, arguments: &[&str]) -> String {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &self.gateway.to_string(), "-brief"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"Q\n").unwrap();
        let output = child.wait_with_output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn instance(id: InstanceId) -> Value {
    json!({"id": id, "shape": "nano", "image": ImageId::from_bits(7), "volume_gib": 1, "secrets": "eA==", "metadata": "eA=="})
}

fn assert_problem(answer: &(StatusCode, HeaderMap, Value), status: u16, code: &str) {
    assert_eq!((answer.0.as_u16(), answer.2["code"].as_str()), (status, Some(code)), "{}", answer.2);
    assert_eq!(answer.1["content-type"], "application/problem+json");
    assert_eq!(answer.1["lambda-request-id"].to_str().unwrap(), answer.2["request_id"].as_str().unwrap());
    assert_eq!(answer.1["x-content-type-options"], "nosniff");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_3_alone_and_chacha20_first() {
    let front = front().await;
    let said = front.s_client(&["-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"]);
    assert!(said.contains("TLSv1.3") && said.contains("TLS_CHACHA20_POLY1305_SHA256"), "{said}");
    let said = front.s_client(&["-tls1_2"]);
    assert!(!said.contains("CONNECTION ESTABLISHED"), "{said}");
}

#[tokio::test]
async fn keys_that_are_missing_malformed_unknown_or_misplaced_are_refused() {
    let front = front().await;
    let unknown = lambda_types::api_key::generate().unwrap();
    let mut broken = front.key.text.to_string();
    broken.pop();
    broken.push(if front.key.text.ends_with('x') { 'y' } else { 'x' });
    let cases = [
        vec![],
        vec![("authorization", format!("Bearer {broken}"))],
        vec![("authorization", format!("Bearer {unknown}"))],
        vec![("authorization", format!("Basic {}", *front.key.text))],
        vec![("authorization", front.key.text.to_string())],
        vec![("x-api-key", front.key.text.to_string())],
        vec![("authorization", format!("Bearer {}", *front.key.text)), ("authorization", format!("Bearer {unknown}"))],
    ];
    for case in cases {
        let headers: Vec<(&str, &str)> = case.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = front.send(Method::GET, "/v1/instances", &headers, "").await;
        assert_problem(&answer, 401, "unauthenticated");
        assert!(!answer.2.to_string().contains(front.key.text.as_str()));
    }
    assert_eq!(front.call(Method::GET, "/v1/instances", &Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_client_cannot_name_its_own_principal() {
    let front = front().await;
    let other = front.other_key(&[Scope::Read]).await;
    let id = InstanceId::from_bits(1);
    assert_eq!(front.call(Method::POST, "/v1/instances", &instance(id)).await.0, 202);
    let bearer = format!("Bearer {}", *other.text);
    let project = front.key.project.to_string();
    let key = front.key.id.to_string();
    let smuggled = [
        ("authorization", bearer.as_str()),
        ("lambda-project", project.as_str()),
        ("lambda-key", key.as_str()),
        ("lambda-scopes", "read,write,broker,connect"),
        ("lambda-request-id", "req_00000000000000000000000000"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let path = format!("/v1/instances/{id}");
    let answer = front.send(Method::GET, &path, &smuggled, "").await;
    assert_problem(&answer, 404, "not-found");
    assert_ne!(answer.2["request_id"], "req_00000000000000000000000000");
    assert_problem(&front.send(Method::DELETE, &path, &smuggled, "").await, 403, "forbidden");
    let (_, _, listed) = front.send(Method::GET, "/v1/instances", &smuggled, "").await;
    assert_eq!(listed["items"], json!([]));
    // Hidden behind Connection or in a trailer's place, they are as little believed.
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\nconnection: close, authorization\r\nLambda-Project: {project}\r\nlambda_project: {project}\r\n\r\n"
    );
    assert!(front.raw(request.as_bytes()).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn another_tenants_instance_is_not_found_on_every_route() {
    let front = front().await;
    let other = front.other_key(&Scope::ALL).await;
    let id = InstanceId::from_bits(1);
    front.call(Method::POST, "/v1/instances", &instance(id)).await;
    let post = json!({"boot": "boot_00000000000000000000000001", "answers": 0, "body": "eA=="});
    for (method, tail, body) in [
        (Method::GET, "", Value::Null),
        (Method::DELETE, "", Value::Null),
        (Method::POST, "/start", Value::Null),
        (Method::POST, "/stop", Value::Null),
        (Method::POST, "/restart", Value::Null),
        (Method::GET, "/mailbox", Value::Null),
        (Method::POST, "/mailbox", post),
    ] {
        let answer = front.as_key(&other.text, method.clone(), &format!("/v1/instances/{id}{tail}"), &body).await;
        assert_problem(&answer, 404, "not-found");
    }
    let upgrade = format!(
        "GET /v1/instances/{id}/tunnel?port=22 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nconnection: upgrade\r\nupgrade: lambda-tunnel\r\n\r\n",
        *other.text
    );
    let mut stream = front.dial(Protocol::Http1).await;
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut start = [0u8; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 404");
}

#[tokio::test]
async fn a_brokers_key_stores_sealed_secrets_and_nothing_else() {
    let front = front().await;
    let id = InstanceId::from_bits(1);
    assert_eq!(front.call(Method::POST, "/v1/instances", &instance(id)).await.0, 202);
    let database = front.folder.path().join("store.sqlite");
    let project = Some(front.key.project);
    let broker = lambda_control::create_api_key(&database, project, &[Scope::Read, Scope::Broker]).await.unwrap();
    let reader = lambda_control::create_api_key(&database, project, &[Scope::Read]).await.unwrap();
    let path = format!("/v1/instances/{id}");
    let patch = async |key: &str, body: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("if-match", "*")];
        front.send(Method::PATCH, &path, &headers, body.to_owned()).await
    };
    assert_eq!(patch(&broker.text, r#"{"secrets": "eQ=="}"#).await.0, 200);
    assert_problem(&patch(&broker.text, r#"{"metadata": "eQ=="}"#).await, 403, "forbidden");
    assert_problem(&patch(&reader.text, r#"{"secrets": "eQ=="}"#).await, 403, "forbidden");
    assert_problem(&front.as_key(&broker.text, Method::DELETE, &path, &Value::Null).await, 403, "forbidden");
}

#[tokio::test]
async fn a_revoked_key_is_refused_once_the_cache_forgets_it() {
    let front = front().await;
    let database = front.folder.path().join("store.sqlite");
    let key = lambda_control::create_api_key(&database, Some(front.key.project), &[Scope::Read]).await.unwrap();
    assert_eq!(front.as_key(&key.text, Method::GET, "/v1/shapes", &Value::Null).await.0, 200);
    let revoked = lambda_control::revoke_api_key(&database, key.id).await.unwrap();
    assert!(revoked.revoked_ms.is_some());
    let listed = lambda_control::list_api_keys(&database).await.unwrap();
    assert_eq!(listed.iter().filter(|it| it.revoked_ms.is_some()).map(|it| it.id).collect::<Vec<_>>(), [key.id]);
    assert_eq!(lambda_control::revoke_api_key(&database, key.id).await.unwrap(), revoked, "a second time is nothing");
    let refused = tokio::time::timeout(BOUND, async {
        while front.as_key(&key.text, Method::GET, "/v1/shapes", &Value::Null).await.0 != 401 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    refused.await.expect("the key was refused within 10 s");
    assert_eq!(front.call(Method::GET, "/v1/shapes", &Value::Null).await.0, 200, "the other key works on");
}

#[tokio::test]
async fn sizes_are_bounded_and_refusals_are_problems() {
    let front = front().await;
    let large = "x".repeat(300 * 1024);
    let bearer = format!("Bearer {}", *front.key.text);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "\"k\"")];
    assert_problem(&front.send(Method::POST, "/v1/instances", &headers, large.clone()).await, 413, "too-large");
    let path = "/v1/instances/inst_00000000000000000000000001/mailbox";
    assert_problem(&front.send(Method::POST, path, &headers, "x".repeat(100 * 1024)).await, 400, "invalid-request");
    assert_problem(&front.send(Method::POST, path, &headers, "x".repeat(200 * 1024)).await, 413, "too-large");
    let answer = front
        .raw(
            format!("GET /v1/instances HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", &large[..20_000])
                .as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("headers-too-large"), "{answer}");
    assert_problem(&front.call(Method::GET, "/v1/nothing", &Value::Null).await, 404, "not-found");
    assert_problem(&front.call(Method::PUT, "/v1/instances", &Value::Null).await, 405, "method-not-allowed");
    for path in [
        "/internal/v1/authenticate",
        "/node/v1/sync",
        "/v1/../internal/v1/health",
        "/v1//instances",
        "/v1/instances/%2e%2e/x",
    ] {
        assert_eq!(front.call(Method::GET, path, &Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn ambiguous_framing_does_not_reach_the_control_plane() {
    let front = front().await;
    for framing in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x",
        "content-length: 4\r\ncontent-length: 5",
        "transfer-encoding: xchunked",
    ] {
        let request = format!(
            "POST /v1/instances HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{framing}\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
            *front.key.text
        );
        let answer = front.raw(request.as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 2"), "{framing}: {answer}");
    }
}

#[tokio::test]
async fn requests_over_the_rate_are_told_when_to_come_back_and_metrics_name_no_tenant() {
    let front = front().await;
    let mut refused = None;
    for _ in 0..600 {
        let answer = front.call(Method::GET, "/v1/shapes", &Value::Null).await;
        if answer.0 == 429 {
            refused = Some(answer);
            break;
        }
        assert!(answer.1.contains_key("ratelimit"), "{:?}", answer.1);
    }
    if let Some(refused) = refused {
        assert_problem(&refused, 429, "rate-limited");
        assert!(refused.1.contains_key("retry-after"));
    }
    let (_, _, metrics) = front.send(Method::GET, "/metrics", &[], "").await;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("/v1/shapes"), "{metrics}");
    for secret in [front.key.text.to_string(), front.key.id.to_string(), front.key.project.to_string()] {
        assert!(!metrics.contains(&secret));
    }
}

#[tokio::test]
async fn long_polls_pass_and_a_dead_control_plane_is_a_problem() {
    let front = front().await;
    let answer = front.call(Method::GET, "/v1/mailboxes?wait=2", &Value::Null).await;
    assert_eq!((answer.0.as_u16(), &answer.2), (200, &json!({"items": []})));
    front.stop_control.cancel();
    let mut last = None;
    for _ in 0..200 {
        let answer = front.call(Method::GET, "/v1/shapes", &Value::Null).await;
        if answer.0 == 503 {
            assert_problem(&answer, 503, "unavailable");
            assert_eq!(front.send(Method::GET, "/healthz", &[], "").await.0, 503);
            return;
        }
        last = Some(answer.2);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no 503 within 10 s after the control plane stopped; last seen {last:?}");
}

struct FakeNode {
    client: PeerClient,
    id: NodeId,
    tunnel: SocketAddr,
}

/// A node whose tunnel echoes bytes back, and that only lets a gateway in.
async fn node(front: &Front) -> FakeNode {
    let id = NodeId::from_bits(1);
    let issued = front.internal.issue_peer(&PeerIdentity::new(Role::Node, id.to_string()), &[]).unwrap();
    let identity = || Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap();
    let roots = Roots::from_pem(front.internal.certificate_pem()).unwrap();
    let tls = tls::mutual_client_config(identity(), &roots, Protocol::Http).unwrap();
    let client = PeerClient::new(Role::Control, front.control, &tls).unwrap();
    let acceptor = TlsAcceptor::from(tls::mutual_server_config(identity(), &roots, Protocol::Tunnel).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tunnel = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                assert_eq!(PeerIdentity::from_connection(stream.get_ref().1).unwrap().role, Role::Gateway);
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let request: TunnelRequest = serde_json::from_str(&line).unwrap();
                let reply = if request.port == 22 { TunnelReply::Ok } else { TunnelReply::Unreachable };
                let text = format!("{}\n", serde_json::to_string(&reply).unwrap());
                stream.write_all(text.as_bytes()).await.unwrap();
                let (mut from, mut to) = tokio::io::split(stream);
                let _ended = tokio::io::copy(&mut from, &mut to).await;
                let _closed = to.shutdown().await;
            });
        }
    });
    FakeNode { client, id, tunnel }
}

impl FakeNode {
    async fn sync(&self, observed: Vec<ObservedInstance>) -> SyncResponse {
        let offer = NodeOffer {
            vcpus: 8,
            memory_mib: 8192,
            disk_gib: 100,
            profiles: vec![LaunchProfile::Tpm],
            tees: Vec::new(),
            images: vec![OfferedImage { id: ImageId::from_bits(7), name: "d".into(), version: "1".into() }],
            acceleration: Acceleration::Tcg,
            tunnel: self.tunnel,
        };
        let request = SyncRequest { node: self.id, generation: 0, observed, offer, wait_seconds: 0 };
        self.client.post("/node/v1/sync", &request, HeaderMap::new(), BOUND).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_bytes_both_ways_to_a_guest_that_is_up() {
    let front = front().await;
    let node = node(&front).await;
    node.sync(Vec::new()).await;
    let id = InstanceId::from_bits(1);
    front.call(Method::POST, "/v1/instances", &instance(id)).await;
    let desired = node.sync(Vec::new()).await.desired.remove(0);
    let ready = ObservedInstance {
        id,
        generation: desired.generation,
        epoch: desired.epoch,
        phase: Phase::Ready,
        failure: None,
        boot: None,
        phases: vec![PhaseTime { phase: Phase::Ready, at_ms: 1 }],
        guest: None,
        broker_seq: 0,
        degraded: Vec::new(),
    };
    let open = |port: u16, key: String| {
        let front = &front;
        async move {
            let mut stream = front.dial(Protocol::Http1).await;
            let request = format!(
                "GET /v1/instances/{id}/tunnel?port={port} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nconnection: Upgrade\r\nupgrade: lambda-tunnel\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reader = BufReader::new(stream);
            let mut status = String::new();
            reader.read_line(&mut status).await.unwrap();
            let mut line = status.clone();
            while !line.trim().is_empty() {
                line.clear();
                reader.read_line(&mut line).await.unwrap();
            }
            (status, reader)
        }
    };
    let text = || front.key.text.to_string();
    assert!(open(22, text()).await.0.starts_with("HTTP/1.1 409"), "not up yet");
    node.sync(vec![ready]).await;
    let (status, mut pipe) = open(22, text()).await;
    assert!(status.starts_with("HTTP/1.1 101"), "{status}");
    for round in 0..20u8 {
        let sent = vec![round; 70_000];
        pipe.get_mut().write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        tokio::time::timeout(BOUND, pipe.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, sent);
    }
    pipe.get_mut().shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ended = tokio::time::timeout(BOUND, pipe.read_to_end(&mut rest)).await.expect("the tunnel ended");
    let refused = open(23, text()).await.0;
    assert!(refused.starts_with("HTTP/1.1 5") || refused.starts_with("HTTP/1.1 4"), "{refused}");
    let reader = front.other_key(&[Scope::Read]).await;
    assert!(open(22, reader.text.to_string()).await.0.starts_with("HTTP/1.1 403"));
}
