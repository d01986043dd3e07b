//! Problems as HTTP responses.
//!
//! An [`ApiError`] leaves its [`Problem`] in the response's extensions too; [`stamp_request_id`] then writes the
//! request's id into the body, so that handlers need not carry it.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use lambda_types::{Code, Problem, RequestId, problem};

/// Carries the request's id: from the gateway to the control plane, and to the client in every response.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-request-id");

/// An error that a client may read.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    headers: HeaderMap,
}

impl ApiError {
    /// An error with this code; `detail` says what is wrong and what to do.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail)), headers: HeaderMap::new() }
    }

    /// A defect or an internal failure: the operator's text goes to the log, the client reads neither it nor its cause.
    #[must_use]
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "internal error");
        Self::new(Code::Internal, "an internal error occurred; try again, and report the request id if it stays")
    }

    /// Adds a response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.problem.code
    }

    /// The problem.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem.detail)
    }
}

impl std::error::Error for ApiError {}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self { problem: Box::new(problem), headers: HeaderMap::new() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = render(&self.problem);
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(ProblemBody(self.problem));
        response
    }
}

#[derive(Clone)]
struct ProblemBody(Box<Problem>);

fn render(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body).into_response()
}

/// Middleware: takes the request id from [`REQUEST_ID`] (set by whoever is trusted to set it) and writes it into
/// problem bodies and the response's header.
pub async fn stamp_request_id(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()?.parse::<RequestId>().ok());
    let response = next.run(request).await;
    match id {
        Some(id) => stamped(response, id),
        None => response,
    }
}

/// Writes a request id into a response: its header, and its body when that is a problem made by [`ApiError`].
#[must_use]
pub fn stamped(mut response: Response, id: RequestId) -> Response {
    if let Some(ProblemBody(mut problem)) = response.extensions_mut().remove::<ProblemBody>() {
        problem.request_id = Some(id);
        let (parts, _) = response.into_parts();
        let mut fresh = render(&problem);
        for (name, value) in &parts.headers {
            if name != header::CONTENT_LENGTH {
                fresh.headers_mut().insert(name, value.clone());
            }
        }
        response = fresh;
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Fallback of every router: an unknown path.
pub async fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such resource; check the path and the id")
}
