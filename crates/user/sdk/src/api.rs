//! The API client: typed calls of `/v1`.
//!
//! A call is one logical operation: it gets one idempotency key, and is repeated with that key until it is answered, the
//! bound passes, or the answer is one that repeating cannot change. A lost reply therefore never creates anything twice.

mod calls;
mod retry;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use lambda_types::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{ApiKey, Config};
use crate::{Error, tls};

pub use calls::{PlatformReply, Shapes, Waiting};
use retry::{Backoff, Verdict};

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Bound of one attempt that does not long-poll.
const ATTEMPT: Duration = Duration::from_secs(20);

/// The API client of one customer. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: String,
    ca: String,
    authorization: HeaderValue,
    patience: Duration,
}

/// One call.
struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    headers: HeaderMap,
    attempt: Duration,
}

/// An answer: its body and the ETag without quotes.
struct Answer {
    body: Vec<u8>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, headers: HeaderMap::new(), attempt: ATTEMPT }
    }

    fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST with a fresh idempotency key.
    fn post(path: impl Into<String>) -> Result<Self, Error> {
        Self::new(Method::POST, path).idempotent()
    }

    fn idempotent(mut self) -> Result<Self, Error> {
        let key = format!("\"{}\"", hex::encode(crate::files::random::<16>()?));
        let value = HeaderValue::from_str(&key).map_err(|error| Error::Protocol(error.to_string()))?;
        self.headers.insert("idempotency-key", value);
        Ok(self)
    }

    fn json<T: Serialize>(mut self, body: &T) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(|error| Error::Protocol(error.to_string()))?);
        Ok(self)
    }

    fn if_match(mut self, etag: &str) -> Result<Self, Error> {
        let value = HeaderValue::from_str(&format!("\"{etag}\""))
            .map_err(|_| Error::Protocol("the ETag is not a header value".into()))?;
        self.headers.insert(header::IF_MATCH, value);
        Ok(self)
    }

    /// A long-poll: one attempt may take this much longer.
    fn waits(mut self, wait: Duration) -> Self {
        self.attempt = ATTEMPT.saturating_add(wait);
        self
    }
}

impl Client {
    /// For a stored configuration.
    ///
    /// # Errors
    /// When the endpoint or the CA is not usable.
    pub fn new(config: &Config, key: &ApiKey) -> Result<Self, Error> {
        Self::with(&config.endpoint, &config.ca, key)
    }

    /// For an endpoint that is not stored yet.
    ///
    /// # Errors
    /// When the endpoint or the CA is not usable.
    pub fn with(endpoint: &str, ca: &str, key: &ApiKey) -> Result<Self, Error> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let authority = endpoint.strip_prefix("https://").unwrap_or_default();
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err(Error::Usage(format!("`{endpoint}` is not an endpoint: expected https://HOST[:PORT]")));
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| Error::Usage("the API key holds characters that no key has".into()))?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(ca, &[b"h2", b"http/1.1"])?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("lambda/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Tls(chain(&error)))?;
        Ok(Self { http, endpoint, ca: ca.to_owned(), authorization, patience: Duration::from_secs(60) })
    }

    /// For how long a call is repeated while the API is away. Default: one minute.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// `https://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let answer = self.repeat(&call).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| Error::Protocol(format!("{} {}: {error}", call.method, call.path)))
    }

    async fn call_unit(&self, call: Call) -> Result<(), Error> {
        self.repeat(&call).await.map(|_| ())
    }

    /// Repeats the call until an answer stands.
    async fn repeat(&self, call: &Call) -> Result<Answer, Error> {
        let mut backoff = Backoff::new(self.patience);
        loop {
            let outcome = self.attempt(call).await;
            match retry::judge(&outcome) {
                Verdict::Stands => return outcome.map_err(|failure| failure.into_error(self, backoff.elapsed())),
                Verdict::Repeat { not_before } => {
                    if let Err(failure) = &outcome {
                        tracing::debug!(method = %call.method, path = %call.path, last = %failure.summary(), "repeating");
                    }
                    if !backoff.pause(not_before).await {
                        return outcome.map_err(|failure| failure.into_error(self, backoff.elapsed()));
                    }
                }
            }
        }
    }

    async fn attempt(&self, call: &Call) -> Result<Answer, Failure> {
        let url = format!("{}{}", self.endpoint, call.path);
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .timeout(call.attempt)
            .headers(call.headers.clone())
            .header(header::AUTHORIZATION, self.authorization.clone());
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = request.send().await.map_err(|error| Failure::Connection(chain(&error)))?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::Connection(chain(&error)))? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
                return Err(Failure::Unexpected(status, "the answer is too large".into()));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Answer { body });
        }
        Err(problem(status, &body, retry_after))
    }
}

/// Why one attempt did not succeed.
enum Failure {
    Connection(String),
    Problem(Box<Problem>, Option<Duration>),
    Unexpected(StatusCode, String),
}

impl Failure {
    fn summary(&self) -> String {
        match self {
            Self::Connection(text) => text.clone(),
            Self::Problem(problem, _) => problem.title.clone(),
            Self::Unexpected(status, text) => format!("{status}: {text}"),
        }
    }

    fn into_error(self, client: &Client, tried: Duration) -> Error {
        match self {
            Self::Connection(last) => Error::Unreachable { endpoint: client.endpoint.clone(), tried, last },
            Self::Problem(problem, _) => Error::Api(problem),
            Self::Unexpected(status, text) => Error::Protocol(format!("{status}: {text}")),
        }
    }
}

fn problem(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => Failure::Problem(Box::new(problem), retry_after),
        Err(_) if matches!(status.as_u16(), 429 | 502..=504) => {
            let code = if status.as_u16() == 429 { Code::RateLimited } else { Code::Unavailable };
            Failure::Problem(Box::new(Problem::new(code, format!("the API answered {status}"))), retry_after)
        }
        Err(_) => Failure::Unexpected(status, "no problem document in the answer; is this the right endpoint?".into()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// An error with everything beneath it: a connection error alone says nothing.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
