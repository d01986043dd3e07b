//! The listener and the client against each other, and against OpenSSL.
#![allow(missing_docs)]

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderMap;
use lambda_transport::client::CallError;
use lambda_transport::pki::Authority;
use lambda_transport::{
    ApiError, Identity, Limits, PeerAddress, PeerClient, PeerIdentity, Protocol, Role, Roots, Shutdown, serve, tls,
};
use lambda_types::Code;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const BOUND: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

fn authority() -> Authority {
    Authority::generate("test").unwrap()
}

fn roots(authority: &Authority) -> Roots {
    Roots::from_pem(authority.certificate_pem()).unwrap()
}

fn identity(authority: &Authority, role: Role) -> Identity {
    let issued = authority.issue_peer(&PeerIdentity::new(role, "main"), &[]).unwrap();
    Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap()
}

fn routes() -> Router {
    Router::new()
        .route("/whoami", get(async |peer: PeerIdentity| peer.uri()))
        .route("/json", get(async |peer: PeerIdentity| Json(json!({ "peer": peer.uri() }))))
        .route("/address", get(async |axum::Extension(PeerAddress(address))| format!("{address}")))
        .route("/refuse", get(async || ApiError::new(Code::Conflict, "no")))
        .route("/echo", post(async |body: String| Json(body)))
        .route("/later", get(async || tokio::time::sleep(Duration::from_secs(1)).await))
        .route("/never", get(std::future::pending::<()>))
        .fallback(lambda_transport::error::not_found)
}

async fn start(tls: Arc<rustls::ServerConfig>, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(serve(listener, tls, routes(), limits, shutdown.clone()));
    Server { address, shutdown, running }
}

async fn public(authority: &Authority, limits: Limits) -> Server {
    let issued = authority.issue_server(&["localhost"], &[IpAddr::from([127, 0, 0, 1])]).unwrap();
    let identity = Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap();
    start(tls::server_config(identity).unwrap(), limits).await
}

async fn internal(authority: &Authority) -> Server {
    let tls = tls::mutual_server_config(identity(authority, Role::Control), &roots(authority), Protocol::Http).unwrap();
    start(tls, Limits::internal()).await
}

async fn dial(server: &Server, authority: &Authority) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = tls::client_config(&roots(authority), Protocol::Http1).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

/// Sends raw HTTP/1.1 and reads to the end of the connection, or to the bound.
async fn raw(server: &Server, authority: &Authority, request: &[u8]) -> String {
    let mut stream = dial(server, authority).await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _broken = tokio::time::timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("the server hung up");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_says() {
    let authority = authority();
    let server = internal(&authority).await;
    for role in [Role::Gateway, Role::Node] {
        let tls = tls::mutual_client_config(identity(&authority, role), &roots(&authority), Protocol::Http).unwrap();
        let client = PeerClient::new(Role::Control, server.address, &tls).unwrap();
        let body: Value = client.get("/json", HeaderMap::new(), BOUND).await.unwrap();
        assert_eq!(body["peer"], format!("lambda://{}/main", role.name()));
        let refused = client.get::<Value>("/refuse", HeaderMap::new(), BOUND).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::Conflict));
        let late = client.get::<Value>("/never", HeaderMap::new(), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(late, CallError::Timeout { .. }), "{late}");
    }
}

#[tokio::test]
async fn peers_under_another_authority_or_without_a_certificate_are_refused() {
    let (ours, theirs) = (authority(), authority());
    let server = internal(&ours).await;
    let stranger = tls::mutual_client_config(identity(&theirs, Role::Gateway), &roots(&ours), Protocol::Http).unwrap();
    let anonymous = tls::client_config(&roots(&ours), Protocol::Http).unwrap();
    let deceived = tls::mutual_client_config(identity(&ours, Role::Gateway), &roots(&theirs), Protocol::Http).unwrap();
    for tls in [stranger, anonymous, deceived] {
        let client = PeerClient::new(Role::Control, server.address, &tls).unwrap();
        let error = client.get::<Value>("/json", HeaderMap::new(), BOUND).await.unwrap_err();
        assert!(matches!(error, CallError::Connection { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_another_role_is_not_spoken_to() {
    let authority = authority();
    let server = internal(&authority).await;
    let tls =
        tls::mutual_client_config(identity(&authority, Role::Gateway), &roots(&authority), Protocol::Http).unwrap();
    let client = PeerClient::new(Role::Node, server.address, &tls).unwrap();
    let error = client.get::<Value>("/json", HeaderMap::new(), BOUND).await.unwrap_err();
    assert!(matches!(error, CallError::Connection { .. }), "{error}");
}

#[tokio::test]
async fn a_tunnel_connection_cannot_be_passed_off_as_http() {
    let authority = authority();
    let server = internal(&authority).await;
    let tls =
        tls::mutual_client_config(identity(&authority, Role::Gateway), &roots(&authority), Protocol::Tunnel).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("control").unwrap();
    assert!(TlsConnector::from(tls).connect(name, stream).await.is_err());
}

fn s_client(server: &Server, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &server.address.to_string(), "-brief"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(b"Q\n").unwrap();
    let output = child.wait_with_output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_gets_tls_1_3_with_chacha20_and_nothing_older() {
    let authority = authority();
    let server = public(&authority, Limits::public()).await;
    // Against the client's own order: AES first is what OpenSSL offers.
    let accepted = s_client(&server, &["-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"]);
    assert!(accepted.contains("TLSv1.3") && accepted.contains("TLS_CHACHA20_POLY1305_SHA256"), "{accepted}");
    let only_aes = s_client(&server, &["-ciphersuites", "TLS_AES_256_GCM_SHA384"]);
    assert!(only_aes.contains("TLS_AES_256_GCM_SHA384"), "{only_aes}");
    for version in ["-tls1_2", "-tls1_1"] {
        let refused = s_client(&server, &[version]);
        assert!(!refused.contains("CONNECTION ESTABLISHED"), "{version}: {refused}");
    }
}

#[tokio::test]
async fn too_large_header_sections_get_a_problem_or_a_hang_up() {
    let authority = authority();
    let server = public(&authority, Limits::public()).await;
    let with = |size: usize| {
        format!("GET /address HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", "a".repeat(size))
    };
    assert!(raw(&server, &authority, with(8_000).as_bytes()).await.starts_with("HTTP/1.1 200"));
    let answer = raw(&server, &authority, with(20_000).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("\"headers-too-large\""), "{answer}");
    let answer = raw(&server, &authority, with(200_000).as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let authority = authority();
    let server = public(&authority, Limits::public()).await;
    let smuggled = "GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n";
    for headers in [
        "content-length: 4\r\ncontent-length: 40",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: xchunked",
        "content-length: +4",
        "content-length : 4",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n0\r\n\r\n{smuggled}");
        let answer = raw(&server, &authority, request.as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{headers}: {answer}");
    }
}

#[tokio::test]
async fn slow_handshakes_slow_headers_and_idle_connections_are_closed() {
    let authority = authority();
    let short = Duration::from_millis(300);
    let limits = Limits { handshake: short, header_read: short, idle: short, ..Limits::public() };
    let server = public(&authority, limits).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut byte = [0u8; 1];
    let closed = tokio::time::timeout(BOUND, silent.read(&mut byte)).await.expect("the handshake was bounded");
    assert!(matches!(closed, Ok(0) | Err(_)));
    for opening in ["", "GET /address HTTP/1.1\r\nhost"] {
        raw(&server, &authority, opening.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_slow_header_section_is_ended_long_before_an_idle_connection() {
    let authority = authority();
    let limits = Limits { header_read: Duration::from_millis(300), idle: BOUND * 10, ..Limits::public() };
    let server = public(&authority, limits).await;
    let answer = raw(&server, &authority, b"GET /address HTTP/1.1\r\nhost").await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_long_answer_is_not_mistaken_for_a_slow_request() {
    let authority = authority();
    let short = Duration::from_millis(200);
    let server = public(&authority, Limits { header_read: short, idle: short, ..Limits::public() }).await;
    let answer = raw(&server, &authority, b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let authority = authority();
    let server = public(&authority, Limits { connections_per_address: 2, ..Limits::public() }).await;
    let first = dial(&server, &authority).await;
    let _second = dial(&server, &authority).await;
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let mut byte = [0u8; 1];
    let closed = tokio::time::timeout(BOUND, third.read(&mut byte)).await.expect("the third was closed");
    assert!(matches!(closed, Ok(0) | Err(_)));
    drop(first);
    let config = tls::client_config(&roots(&authority), Protocol::Http1).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let freed = async {
        loop {
            let stream = TcpStream::connect(server.address).await.unwrap();
            if TlsConnector::from(config.clone()).connect(name.clone(), stream).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(BOUND, freed).await.expect("a closed connection frees its slot");
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_drops_stuck_requests_after_the_drain() {
    let authority = authority();
    let server = public(&authority, Limits { drain: Duration::from_millis(500), ..Limits::public() }).await;
    let _idle = dial(&server, &authority).await;
    let mut stuck = dial(&server, &authority).await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    server.shutdown.cancel();
    tokio::time::timeout(BOUND, server.running).await.expect("the drain is bounded").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
