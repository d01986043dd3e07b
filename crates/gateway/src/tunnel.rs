//! The blind tunnel: an HTTP/1.1 upgrade towards the client, a mutual-TLS connection towards the node, bytes between.
//!
//! The gateway learns which instance and port, when, and how many bytes. SSH ends inside the guest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use lambda_transport::client::CallError;
use lambda_transport::{ApiError, ConnectionGuard, PeerIdentity, Role};
use lambda_types::api_key::Principal;
use lambda_types::node::{TunnelReply, TunnelRequest};
use lambda_types::{ApiKeyId, Code, InstanceId, NodeId, RequestId};
use rustls::ClientConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Gateway, api};

/// Value of the `Upgrade` header.
const PROTOCOL: &str = "lambda-tunnel";

/// Tunnels that one API key may hold.
const MOST_PER_KEY: usize = 64;

/// Bound on reaching the node, and on the node reaching the guest.
const CONNECT: Duration = Duration::from_secs(15);

/// A tunnel in which nothing moves for this long is closed.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Longest reply line of a node.
const REPLY_BYTES: u64 = 256;

/// What tunnels share.
pub(crate) struct Tunnels {
    tls: TlsConnector,
    open: Arc<Mutex<HashMap<ApiKeyId, usize>>>,
}

/// Where the control plane says an instance is.
#[derive(serde::Deserialize)]
struct Route {
    node: NodeId,
    tunnel: SocketAddr,
}

/// Counts a tunnel against its key for as long as it lives.
struct Slot {
    key: ApiKeyId,
    open: Arc<Mutex<HashMap<ApiKeyId, usize>>>,
}

impl Tunnels {
    /// Connects to nodes with this configuration.
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(tls), open: Arc::default() }
    }

    fn take(&self, key: ApiKeyId) -> Result<Slot, ApiError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_insert(0);
        if *count >= MOST_PER_KEY {
            let detail = format!("this API key holds {MOST_PER_KEY} tunnels; close one first");
            return Err(ApiError::new(Code::RateLimited, detail));
        }
        *count += 1;
        Ok(Slot { key, open: self.open.clone() })
    }

    /// Connects to the node and has it connect to the guest.
    async fn dial(&self, route: &Route, request: &TunnelRequest) -> Result<BufReader<TlsStream<TcpStream>>, ApiError> {
        let dialed = tokio::time::timeout(CONNECT, self.handshake(route, request)).await;
        match dialed {
            Ok(Ok((TunnelReply::Ok, stream))) => Ok(stream),
            Ok(Ok((TunnelReply::NotHere, _))) => Err(not_running()),
            Ok(Ok((TunnelReply::Unreachable, _))) => {
                let detail =
                    format!("nothing answers on port {} of the instance; check that it is ready", request.port);
                Err(ApiError::new(Code::Unavailable, detail))
            }
            Ok(Err(error)) => {
                tracing::warn!(node = %route.node, %error, "cannot tunnel to the node");
                Err(ApiError::new(Code::Unavailable, "the instance's node is not reachable; try again shortly"))
            }
            Err(_) => {
                Err(ApiError::new(Code::Timeout, "the instance's node did not answer in time; try again shortly"))
            }
        }
    }

    async fn handshake(
        &self,
        route: &Route,
        request: &TunnelRequest,
    ) -> std::io::Result<(TunnelReply, BufReader<TlsStream<TcpStream>>)> {
        let tcp = TcpStream::connect(route.tunnel).await?;
        tcp.set_nodelay(true)?;
        let name = Role::Node.name().try_into().map_err(std::io::Error::other)?;
        let mut stream = self.tls.connect(name, tcp).await?;
        let peer = PeerIdentity::from_connection(stream.get_ref().1).map_err(std::io::Error::other)?;
        if peer != PeerIdentity::new(Role::Node, route.node.to_string()) {
            return Err(std::io::Error::other(format!("expected {}, found {peer}", route.node)));
        }
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.flush().await?;
        let mut stream = BufReader::new(stream);
        let mut reply = Vec::new();
        let _ = (&mut stream).take(REPLY_BYTES).read_until(b'\n', &mut reply).await?;
        Ok((serde_json::from_slice(&reply)?, stream))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

/// Answers `GET /v1/instances/{id}/tunnel?port=…` with 101 once the guest is connected.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    id: RequestId,
    principal: &Principal,
    mut request: Request,
) -> Result<Response, ApiError> {
    wants_upgrade(request.headers())?;
    let target = target(request.uri())?;
    let slot = gateway.tunnels.take(principal.key)?;
    let route = route(gateway, &target, principal, id).await?;
    let node = gateway.tunnels.dial(&route, &target).await?;
    let guard = request.extensions().get::<ConnectionGuard>().cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    let gateway = gateway.clone();
    tokio::spawn(async move {
        let held = (slot, guard);
        match upgrade.await {
            Ok(client) => {
                gateway.metrics.tunnels().inc();
                let ended = pipe(TokioIo::new(client), node, IDLE).await;
                gateway.metrics.tunnels().dec();
                tracing::debug!(request = %id, ?ended, "tunnel closed");
            }
            Err(error) => tracing::debug!(request = %id, %error, "the client did not upgrade"),
        }
        drop(held);
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// Asks where the instance runs; 404 for what the principal may not know.
async fn route(
    gateway: &Gateway,
    target: &TunnelRequest,
    principal: &Principal,
    id: RequestId,
) -> Result<Route, ApiError> {
    let path = format!("/internal/v1/instances/{}/route", target.instance);
    match gateway.control.get(&path, api::principal_headers(principal, id), CONNECT).await {
        Ok(route) => Ok(route),
        Err(CallError::Problem(problem)) => Err(ApiError::from(*problem)),
        Err(error) => Err(api::control_failed(&error)),
    }
}

fn not_running() -> ApiError {
    ApiError::new(Code::Conflict, "the instance does not run; start it first")
}

fn wants_upgrade(headers: &HeaderMap) -> Result<(), ApiError> {
    let says = |name, want: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        value.is_some_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(want)))
    };
    if says(header::CONNECTION, "upgrade") && says(header::UPGRADE, PROTOCOL) {
        Ok(())
    } else {
        let detail = format!("a tunnel is an HTTP/1.1 upgrade: send `Connection: Upgrade` and `Upgrade: {PROTOCOL}`");
        Err(ApiError::new(Code::InvalidRequest, detail))
    }
}

/// The instance and port that a tunnel's URI names; the port defaults to 22.
fn target(uri: &http::Uri) -> Result<TunnelRequest, ApiError> {
    let bad =
        || ApiError::new(Code::InvalidRequest, "use /v1/instances/INSTANCE/tunnel?port=PORT, PORT from 1 to 65535");
    let instance: InstanceId = uri
        .path()
        .split('/')
        .nth(3)
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| ApiError::new(Code::NotFound, "there is no such resource; check the path and the id"))?;
    let port = match uri.query() {
        None | Some("") => 22,
        Some(query) => {
            query.strip_prefix("port=").and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or_else(bad)?
        }
    };
    Ok(TunnelRequest { instance, port })
}

/// Copies both ways until both ends are done, one fails, or nothing moves for `idle`.
async fn pipe<A, B>(client: A, node: B, idle: Duration) -> std::io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = AtomicU64::new(0);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_node, to_node) = tokio::io::split(node);
    let both =
        async { tokio::try_join!(copy(from_client, to_node, &moved), copy(from_node, to_client, &moved)).map(|_| ()) };
    let watch = async {
        let mut last = 0;
        loop {
            tokio::time::sleep(idle).await;
            let total = moved.load(Ordering::Relaxed);
            if total == last {
                return;
            }
            last = total;
        }
    };
    tokio::select! {
        ended = both => ended,
        () = watch => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let Some(bytes) = buffer.get(..count) else { return Err(std::io::ErrorKind::InvalidData.into()) };
        to.write_all(bytes).await?;
        to.flush().await?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed_strictly() {
        let id = InstanceId::from_bits(7);
        let at = |query: &str| target(&format!("/v1/instances/{id}/tunnel{query}").parse().unwrap());
        assert_eq!(at("").unwrap(), TunnelRequest { instance: id, port: 22 });
        assert_eq!(at("?port=8080").unwrap().port, 8080);
        for bad in ["?port=0", "?port=65536", "?port=22&x=1", "?host=10.0.0.1", "?port=-1"] {
            assert_eq!(at(bad).unwrap_err().code(), Code::InvalidRequest, "{bad}");
        }
        assert_eq!(target(&"/v1/instances/nope/tunnel".parse().unwrap()).unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_half_close_is_passed_on() {
        let (client, gateway_client) = tokio::io::duplex(64);
        let (node, gateway_node) = tokio::io::duplex(64);
        let piped = tokio::spawn(pipe(gateway_client, gateway_node, IDLE));
        let (mut client, mut node) = (client, node);
        client.write_all(b"to node").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        node.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to node");
        node.write_all(b"back").await.unwrap();
        node.shutdown().await.unwrap();
        text.clear();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "back");
        piped.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_is_closed() {
        let (_client, gateway_client) = tokio::io::duplex(64);
        let (_node, gateway_node) = tokio::io::duplex(64);
        let error = pipe(gateway_client, gateway_node, IDLE).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
