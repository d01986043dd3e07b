//! One path for every request: find the route, limit, authenticate, authorise, relay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use lambda_transport::client::CallError;
use lambda_transport::error::{REQUEST_ID, stamped};
use lambda_transport::{ApiError, PeerAddress, PeerClient, principal};
use lambda_types::api_key::{Principal, Scope};
use lambda_types::{Code, RequestId};

use crate::route::{Found, Kind, Route};
use crate::{Gateway, route, tunnel};

/// Request headers that reach the control plane. Everything else a client sends ends here.
const REQUEST_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::IF_MATCH, header::IF_NONE_MATCH, HeaderName::from_static("idempotency-key")];

/// Response headers that reach the client.
const RESPONSE_HEADERS: [HeaderName; 5] =
    [header::CONTENT_TYPE, header::ETAG, header::LOCATION, header::RETRY_AFTER, header::CACHE_CONTROL];

/// Name under which requests that match no route are counted.
const NO_ROUTE: &str = "none";

/// The public router.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .fallback(entry)
        .with_state(gateway.clone())
        .layer(axum::middleware::from_fn_with_state(gateway, limited))
        .layer(axum::middleware::map_response(secure))
}

/// Headers that belong on every response of an API that no browser page should embed.
async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the control plane answered lately. Whoever asks meanwhile shares the answer.
#[derive(Default)]
pub(crate) struct Health(tokio::sync::Mutex<Option<(Instant, Result<(), Code>)>>);

impl Health {
    /// How long an answer is shared.
    const KEEP: Duration = Duration::from_secs(1);

    /// Bound on the question.
    const ASK: Duration = Duration::from_secs(2);

    async fn of(&self, control: &PeerClient) -> Result<(), Code> {
        let mut known = self.0.lock().await;
        if let Some((at, answer)) = *known
            && at.elapsed() < Self::KEEP
        {
            return answer;
        }
        let asked = control.relay(http::Method::GET, "/healthz", HeaderMap::new(), Vec::new(), Self::ASK).await;
        let answer = match asked {
            Ok((StatusCode::OK, ..)) => Ok(()),
            Ok(_) => Err(Code::Unavailable),
            Err(error) => Err(control_failed(&error).code()),
        };
        *known = Some((Instant::now(), answer));
        answer
    }
}

/// 200 when the control plane answers, 503 or 504 otherwise.
async fn health(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.health.of(&gateway.control).await {
        Ok(()) => axum::Json(serde_json::json!({"status": "ok"})).into_response(),
        Err(Code::Timeout) => {
            ApiError::new(Code::Timeout, "the control plane did not answer in time; try again shortly").into_response()
        }
        Err(_) => unavailable("the control plane is not healthy; try again shortly").into_response(),
    }
}

/// Counts every request against its address, whatever it asks for.
async fn limited(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let from = request.extensions().get().map(|PeerAddress(from)| from.ip());
    let counted = match from {
        Some(from) => gateway.rates.address(from),
        None => Err(ApiError::internal(&"a request without a peer address")),
    };
    match (counted, RequestId::random()) {
        (Ok(()), _) => next.run(request).await,
        (Err(error), Ok(id)) => {
            gateway.metrics.answered(NO_ROUTE, request.method(), error.code().status(), Duration::ZERO);
            stamped(error.into_response(), id)
        }
        (Err(error), Err(_)) => error.into_response(),
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], gateway.metrics.text()).into_response()
}

async fn entry(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let start = Instant::now();
    let Ok(id) = RequestId::random() else {
        return ApiError::internal(&"no randomness for a request id").into_response();
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (label, result) = match route::find(&method, &path) {
        Found::Route(route) => (route.template, answer(&gateway, route, id, request).await),
        Found::OtherMethods(allowed) => (NO_ROUTE, Err(method_not_allowed(&allowed))),
        Found::Nothing => (NO_ROUTE, Err(lambda_transport::error::not_found().await)),
    };
    let response = stamped(result.unwrap_or_else(IntoResponse::into_response), id);
    let took = start.elapsed();
    gateway.metrics.answered(label, &method, response.status().as_u16(), took);
    tracing::info!(request = %id, route = label, status = response.status().as_u16(), ms = took.as_millis(), "answered");
    response
}

async fn answer(
    gateway: &Arc<Gateway>,
    route: &'static Route,
    id: RequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let principal = gateway.keys.authenticate(request.headers(), &gateway.control, id).await?;
    if !route.scopes.iter().any(|scope| principal.scopes.contains(scope)) {
        return Err(forbidden(route.scopes));
    }
    let limits = gateway.rates.key(principal.key)?;
    let mut response = match route.kind {
        Kind::Relay => relay(gateway, route, id, &principal, request).await?,
        Kind::Tunnel => tunnel::open(gateway, id, &principal, request).await?,
    };
    response.headers_mut().extend(limits);
    Ok(response)
}

async fn relay(
    gateway: &Gateway,
    route: &Route,
    id: RequestId,
    principal: &Principal,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut headers = principal_headers(principal, id);
    headers.extend(REQUEST_HEADERS.into_iter().filter_map(|name| {
        let value = parts.headers.get(&name)?.clone();
        Some((name, value))
    }));
    let body = read(body, route).await?;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let (status, from, body) = gateway
        .control
        .relay(parts.method, target, headers, body, route.timeout)
        .await
        .map_err(|error| control_failed(&error))?;
    let mut response = (status, body).into_response();
    *response.headers_mut() = RESPONSE_HEADERS
        .into_iter()
        .filter_map(|name| {
            let value = from.get(&name)?.clone();
            Some((name, value))
        })
        .collect();
    Ok(response)
}

/// Reads a body up to the route's limit, within the route's time.
async fn read(body: Body, route: &Route) -> Result<Vec<u8>, ApiError> {
    let whole = tokio::time::timeout(route.timeout, Limited::new(body, route.body_limit).collect());
    match whole.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("the body may take {} bytes; send less", route.body_limit);
            Err(ApiError::new(Code::TooLarge, detail))
        }
        Ok(Err(_)) => Err(ApiError::new(Code::InvalidRequest, "the body ended early; send it again")),
        Err(_) => Err(ApiError::new(Code::Timeout, "the body did not arrive in time; send it again")),
    }
}

/// Who asks, for the control plane: it believes these from a gateway alone.
pub(crate) fn principal_headers(principal: &Principal, id: RequestId) -> HeaderMap {
    let mut headers = request_id_header(id);
    principal::write(principal, &mut headers);
    headers
}

/// The header that carries a request's id.
pub(crate) fn request_id_header(id: RequestId) -> HeaderMap {
    HeaderValue::from_str(&id.to_string()).map(|value| (REQUEST_ID, value)).into_iter().collect()
}

/// What a client reads when the control plane cannot be used. The cause goes to the log.
pub(crate) fn control_failed(error: &CallError) -> ApiError {
    match error {
        CallError::Timeout { .. } => ApiError::new(
            Code::Timeout,
            "the control plane did not answer in time; try again with the same Idempotency-Key",
        ),
        CallError::Problem(_) | CallError::Status { .. } | CallError::Connection { .. } | CallError::Body { .. } => {
            tracing::warn!(%error, "the control plane cannot be used");
            unavailable("the control plane is not reachable; try again shortly, with the same Idempotency-Key")
        }
    }
}

fn unavailable(detail: &str) -> ApiError {
    ApiError::new(Code::Unavailable, detail).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

fn forbidden(scopes: &[Scope]) -> ApiError {
    let names = scopes.iter().map(|scope| format!("`{}`", scope.name())).collect::<Vec<_>>().join(" or ");
    ApiError::new(Code::Forbidden, format!("this API key lacks the scope {names}; use one that has it"))
}

fn method_not_allowed(allowed: &str) -> ApiError {
    let error = ApiError::new(Code::MethodNotAllowed, format!("this path takes {allowed}"));
    match HeaderValue::from_str(allowed) {
        Ok(value) => error.with_header(header::ALLOW, value),
        Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use lambda_transport::pki::Authority;
    use lambda_transport::{Identity, PeerIdentity, Protocol, Role, Roots, tls};
    use tower::ServiceExt as _;

    use super::*;

    fn gateway() -> Arc<Gateway> {
        let authority = Authority::generate("internal").unwrap();
        let issued = authority.issue_peer(&PeerIdentity::new(Role::Gateway, "main"), &[]).unwrap();
        let identity = || Identity::from_pem(&issued.chain_pem, &issued.key_pem).unwrap();
        let roots = Roots::from_pem(authority.certificate_pem()).unwrap();
        let tls = |protocol| tls::mutual_client_config(identity(), &roots, protocol).unwrap();
        // Nobody listens on this address.
        let nobody = "127.0.0.1:1".parse().unwrap();
        Arc::new(Gateway {
            control: PeerClient::new(Role::Control, nobody, &tls(Protocol::Http)).unwrap(),
            keys: crate::auth::Keys::default(),
            rates: crate::rate::Rates::default(),
            metrics: crate::metrics::Metrics::default(),
            tunnels: tunnel::Tunnels::new(tls(Protocol::Tunnel)),
            health: Health::default(),
        })
    }

    #[tokio::test]
    async fn every_path_counts_against_the_address() {
        let gateway = gateway();
        let router = router(gateway.clone());
        let from = PeerAddress("192.0.2.1:1000".parse().unwrap());
        let get = |path: &str| {
            let mut request = Request::get(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(from);
            router.clone().oneshot(request)
        };
        assert_eq!(get("/metrics").await.unwrap().status(), 200);
        for path in ["/metrics", "/healthz", "/v1/nothing", "/v1/instances"] {
            while gateway.rates.address(from.0.ip()).is_ok() {}
            let refused = get(path).await.unwrap();
            assert_eq!(refused.status(), 429, "{path}");
            assert!(refused.headers().contains_key(header::RETRY_AFTER) && refused.headers().contains_key(&REQUEST_ID));
        }
    }

    #[tokio::test]
    async fn health_is_asked_once_a_second() {
        let gateway = gateway();
        *gateway.health.0.lock().await = Some((Instant::now(), Ok(())));
        assert_eq!(gateway.health.of(&gateway.control).await, Ok(()), "shared");
        *gateway.health.0.lock().await = Instant::now().checked_sub(Health::KEEP).map(|at| (at, Ok(())));
        assert!(gateway.health.of(&gateway.control).await.is_err(), "asked again");
    }
}
