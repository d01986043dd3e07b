//! A JSON client for internal calls: HTTP/2 over mutual TLS to one peer, every call bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use lambda_types::{Code, Problem, problem};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Role;

/// Longest time to connect and shake hands.
const CONNECT: Duration = Duration::from_secs(3);

/// Largest response body that is read.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// Why an internal call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer answered with a problem.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The peer answered something else.
    #[error("{peer} answered status {status} without a problem body")]
    Status {
        /// Who was called.
        peer: &'static str,
        /// Its answer.
        status: StatusCode,
    },
    /// No answer within the bound.
    #[error("{peer} at {address} did not answer within {seconds} s")]
    Timeout {
        /// Who was called.
        peer: &'static str,
        /// Where.
        address: SocketAddr,
        /// The bound.
        seconds: u64,
    },
    /// No connection, or it broke.
    #[error("cannot reach {peer} at {address}: {source}")]
    Connection {
        /// Who was called.
        peer: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: reqwest::Error,
    },
    /// The body is not what was expected.
    #[error("{peer} sent a body that cannot be understood: {reason}")]
    Body {
        /// Who was called.
        peer: &'static str,
        /// Why.
        reason: String,
    },
}

impl CallError {
    /// The problem code, when the peer answered one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Status { .. } | Self::Timeout { .. } | Self::Connection { .. } | Self::Body { .. } => None,
        }
    }
}

/// A client of one internal peer.
#[derive(Debug, Clone)]
pub struct PeerClient {
    http: reqwest::Client,
    peer: &'static str,
    address: SocketAddr,
}

impl PeerClient {
    /// A client of the `role` at `address`, with `tls` from [`crate::tls::mutual_client_config`] and
    /// [`crate::Protocol::Http`]. The peer must show a certificate with the role's DNS name.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub fn new(role: Role, address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .resolve(role.name(), address)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { http, peer: role.name(), address })
    }

    /// Where the peer listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When the peer does not answer 2xx with the expected body in time.
    pub async fn get<R: DeserializeOwned>(
        &self,
        path: &str,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let request = self.request(Method::GET, path).headers(headers);
        self.json(request, timeout).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let request = self.request(Method::POST, path).headers(headers).json(body);
        self.json(request, timeout).await
    }

    /// Sends any request and gives the answer's head and whole body: for relaying.
    ///
    /// # Errors
    /// When no complete answer arrives in time.
    pub async fn relay(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), CallError> {
        let request = self.request(method, path_and_query).headers(headers).body(body);
        self.exchange(request, timeout).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("https://{}:{}{path}", self.peer, self.address.port()))
    }

    async fn json<R: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let (status, headers, body) = self.exchange(request, timeout).await?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| CallError::Body { peer: self.peer, reason: error.to_string() });
        }
        let is_problem = headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes() == problem::CONTENT_TYPE.as_bytes());
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => Err(CallError::Problem(Box::new(problem))),
            _ => Err(CallError::Status { peer: self.peer, status }),
        }
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), CallError> {
        let whole = async {
            let mut response = request.send().await.map_err(|source| self.broken(source, timeout))?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|source| self.broken(source, timeout))? {
                if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                    let reason = format!("it is longer than {MAX_RESPONSE_BYTES} bytes");
                    return Err(CallError::Body { peer: self.peer, reason });
                }
                body.extend_from_slice(&chunk);
            }
            Ok((status, headers, body))
        };
        tokio::time::timeout(timeout, whole).await.unwrap_or_else(|_| Err(self.late(timeout)))
    }

    fn late(&self, timeout: Duration) -> CallError {
        CallError::Timeout { peer: self.peer, address: self.address, seconds: timeout.as_secs() }
    }

    fn broken(&self, source: reqwest::Error, timeout: Duration) -> CallError {
        if source.is_timeout() && !source.is_connect() {
            return self.late(timeout);
        }
        CallError::Connection { peer: self.peer, address: self.address, source: source.without_url() }
    }
}
