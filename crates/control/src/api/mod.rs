//! HTTP: routes, who may call them, and how requests are read.

mod catalogue;
mod cursor;
mod instances;
mod internal;
mod mailboxes;
mod node;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::middleware;
use axum::routing::{get, post};
use http::request::Parts;
use lambda_transport::error::{REQUEST_ID, not_found, stamp_request_id};
use lambda_transport::{ApiError, PeerIdentity, Role, principal};
use lambda_types::api_key::{Principal, Scope};
use lambda_types::{Code, RequestId};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::app::App;

/// Largest body from the gateway: a mailbox message in base64.
const BODY_BYTES: usize = 512 * 1024;

/// Largest report of a node.
const REPORT_BYTES: usize = 64 * 1024 * 1024;

/// Longest idempotency key.
const MAX_KEY: usize = 128;

/// Every route.
pub(crate) fn router(app: Arc<App>) -> Router {
    let limited = Router::new()
        .route("/v1/instances", post(instances::instance_create).get(instances::instance_list))
        .route(
            "/v1/instances/{id}",
            get(instances::instance_view).patch(instances::instance_update).delete(instances::instance_delete),
        )
        .route("/v1/instances/{id}/start", post(instances::instance_start))
        .route("/v1/instances/{id}/stop", post(instances::instance_stop))
        .route("/v1/instances/{id}/restart", post(instances::instance_restart))
        .route("/v1/instances/{id}/mailbox", get(mailboxes::mailbox_view).post(mailboxes::mailbox_post))
        .route("/v1/mailboxes", get(mailboxes::mailbox_list))
        .route("/v1/images", get(catalogue::image_list))
        .route("/v1/shapes", get(catalogue::shape_list))
        .route("/v1/platform", get(catalogue::platform_view))
        .route("/healthz", get(internal::health))
        .route("/internal/v1/health", get(internal::health))
        .route("/internal/v1/authenticate", post(internal::authenticate))
        .route("/internal/v1/instances/{id}/route", get(internal::route))
        .layer(DefaultBodyLimit::max(BODY_BYTES));
    let nodes = Router::new().route("/node/v1/sync", post(node::sync)).layer(DefaultBodyLimit::max(REPORT_BYTES));
    limited
        .merge(nodes)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(stamp_request_id))
        .with_state(app)
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "this path does not take this method")
}

/// On whose behalf the gateway calls, and which of its requests this is.
pub(super) struct Caller {
    pub(super) principal: Principal,
    pub(super) request: Option<RequestId>,
}

impl Caller {
    /// Refuses a key without the scope.
    pub(super) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.principal.scopes.contains(&scope) {
            return Ok(());
        }
        let detail = format!("the API key lacks the scope `{}`", scope.name());
        Err(ApiError::new(Code::Forbidden, detail))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // The headers below are only as true as whoever sends them: nobody but a gateway may.
        PeerIdentity::from_request_parts(parts, state).await?.require(Role::Gateway)?;
        let request = parts.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()?.parse().ok());
        let principal = principal::read(&parts.headers)
            .ok_or_else(|| ApiError::new(Code::Unauthenticated, "the request names no principal"))?;
        Ok(Self { principal, request })
    }
}

/// A JSON body, parsed strictly, with its bytes.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = body(request, state).await?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body is not as expected: {error}")))?;
        Ok(Self { value, bytes })
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        http::StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(Code::TooLarge, "the body is too large"),
        _ => ApiError::new(Code::InvalidRequest, "the body could not be read"),
    })
}

/// An `Idempotency-Key`: an RFC 8941 string of 1 to 128 printable characters without `"` and `\`.
pub(super) struct IdempotencyKey(pub(super) String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let key = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(parse_key),
            _ => None,
        };
        key.map(Self).ok_or_else(|| {
            let detail =
                "send one Idempotency-Key header: a quoted string of at most 128 characters, a random UUID say";
            ApiError::new(Code::InvalidRequest, detail)
        })
    }
}

fn parse_key(header: &str) -> Option<String> {
    let key = header.trim().strip_prefix('"')?.strip_suffix('"')?;
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    ((1..=MAX_KEY).contains(&key.len()) && key.bytes().all(plain)).then(|| key.to_owned())
}

/// Names a request's content: method, path and body.
pub(super) fn fingerprint(path: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"POST\0");
    hash.update(path.as_bytes());
    hash.update(b"\0");
    hash.update(body);
    hex::encode(hash.finalize())
}

/// An id in a path; one that cannot be parsed names nothing.
pub(super) fn path_id<I: std::str::FromStr>(text: &str) -> Result<I, ApiError> {
    text.parse().map_err(|_| ApiError::new(Code::NotFound, "there is no such resource; check the id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_quoted_printable_and_bounded() {
        assert_eq!(parse_key("\"a-1\"").as_deref(), Some("a-1"));
        let long = format!("\"{}\"", "x".repeat(129));
        for bad in ["a-1", "\"\"", "\"", "\"a\\\"b\"", "\"a\u{7f}\"", long.as_str(), ""] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_separates_path_and_body() {
        assert_ne!(fingerprint("/a", b"b"), fingerprint("/ab", b""));
        assert_ne!(fingerprint("/a", b"1"), fingerprint("/a", b"2"));
    }
}
