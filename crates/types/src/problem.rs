//! Errors that cross the API: problem+json (RFC 9457) with a stable `code`.

use serde::{Deserialize, Serialize};

use crate::RequestId;

/// Media type of a problem body.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Stable error codes. A client decides on these, never on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request cannot be parsed or a field is out of range. 400.
    InvalidRequest,
    /// No API key, or not a valid one. 401.
    Unauthenticated,
    /// The key lacks the scope. 403.
    Forbidden,
    /// No such resource for this caller. 404.
    NotFound,
    /// The path exists, not with this method. 405.
    MethodNotAllowed,
    /// The resource is in a state that refuses this. 409.
    Conflict,
    /// A request with this idempotency key is still running. 409.
    IdempotencyInProgress,
    /// If-Match does not name the current version. 412.
    VersionMismatch,
    /// The body is too large. 413.
    TooLarge,
    /// The idempotency key was used with another request. 422.
    IdempotencyMismatch,
    /// An update without If-Match. 428.
    VersionRequired,
    /// Too many requests. 429.
    RateLimited,
    /// Header section too large. 431.
    HeadersTooLarge,
    /// No node has room for this shape. 503.
    CapacityExhausted,
    /// A part of the service is not reachable. 503.
    Unavailable,
    /// The request took too long. 504.
    Timeout,
    /// A defect. 500.
    Internal,
}

impl Code {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::IdempotencyInProgress => 409,
            Self::VersionMismatch => 412,
            Self::TooLarge => 413,
            Self::IdempotencyMismatch => 422,
            Self::VersionRequired => 428,
            Self::RateLimited => 429,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::CapacityExhausted | Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The short, fixed title.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is not valid",
            Self::Unauthenticated => "An API key is required",
            Self::Forbidden => "The API key lacks the scope",
            Self::NotFound => "There is no such resource",
            Self::MethodNotAllowed => "The path has no such method",
            Self::Conflict => "The resource's state refuses this",
            Self::IdempotencyInProgress => "A request with this idempotency key is running",
            Self::VersionMismatch => "The resource has changed",
            Self::TooLarge => "The request body is too large",
            Self::IdempotencyMismatch => "The idempotency key was used for another request",
            Self::VersionRequired => "If-Match is required",
            Self::RateLimited => "Too many requests",
            Self::HeadersTooLarge => "The request headers are too large",
            Self::CapacityExhausted => "No node has room",
            Self::Unavailable => "A part of the service is not reachable",
            Self::Timeout => "The request took too long",
            Self::Internal => "Internal error",
        }
    }
}

/// A problem body. `detail` says what to do; it never quotes a secret or a sealed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Always `about:blank`: the code is the identity.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`Code::title`].
    pub title: String,
    /// [`Code::status`].
    pub status: u16,
    /// Stable code.
    pub code: Code,
    /// What is wrong here and what to do.
    pub detail: String,
    /// The request, for support.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

impl Problem {
    /// A problem with this code and detail.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: code.title().into(),
            status: code.status(),
            code,
            detail: detail.into(),
            request_id: None,
        }
    }
}
