//! The public routes: what exists, who may call it, how long it may take and how much it may send.

use std::time::Duration;

use http::Method;
use lambda_types::api_key::Scope;

/// Bound on an ordinary call.
const CALL: Duration = Duration::from_secs(15);

/// Bound on a long-poll: 30 s at the control plane, and the way there and back.
const LONG_POLL: Duration = Duration::from_secs(35);

/// Largest ordinary request body, bytes.
const BODY: usize = 256 * 1024;

/// Largest mailbox message, bytes: a body in base64 and its frame.
const MAILBOX_BODY: usize = 2 * lambda_types::mailbox::MAX_BODY_BYTES;

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: Method,
    /// Path with `{}` for an id; also the metrics label.
    pub(crate) template: &'static str,
    /// A key needs one of these. The control plane narrows further what each may do.
    pub(crate) scopes: &'static [Scope],
    pub(crate) timeout: Duration,
    pub(crate) body_limit: usize,
    pub(crate) kind: Kind,
}

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Relayed to the control plane.
    Relay,
    /// Upgraded to a tunnel.
    Tunnel,
}

const fn route(method: Method, template: &'static str, scopes: &'static [Scope]) -> Route {
    custom(method, template, scopes, CALL, BODY, Kind::Relay)
}

const fn custom(
    method: Method,
    template: &'static str,
    scopes: &'static [Scope],
    timeout: Duration,
    body_limit: usize,
    kind: Kind,
) -> Route {
    Route { method, template, scopes, timeout, body_limit, kind }
}

/// Every route.
pub(crate) static ROUTES: &[Route] = &[
    route(Method::POST, "/v1/instances", &[Scope::Write]),
    route(Method::GET, "/v1/instances", &[Scope::Read]),
    route(Method::GET, "/v1/instances/{}", &[Scope::Read]),
    route(Method::PATCH, "/v1/instances/{}", &[Scope::Write, Scope::Broker]),
    route(Method::DELETE, "/v1/instances/{}", &[Scope::Write]),
    route(Method::POST, "/v1/instances/{}/start", &[Scope::Write]),
    route(Method::POST, "/v1/instances/{}/stop", &[Scope::Write]),
    route(Method::POST, "/v1/instances/{}/restart", &[Scope::Write]),
    custom(Method::GET, "/v1/instances/{}/mailbox", &[Scope::Broker], LONG_POLL, BODY, Kind::Relay),
    custom(Method::POST, "/v1/instances/{}/mailbox", &[Scope::Broker], CALL, MAILBOX_BODY, Kind::Relay),
    custom(Method::GET, "/v1/mailboxes", &[Scope::Broker], LONG_POLL, BODY, Kind::Relay),
    custom(Method::GET, "/v1/instances/{}/tunnel", &[Scope::Connect], CALL, BODY, Kind::Tunnel),
    route(Method::GET, "/v1/images", &[Scope::Read]),
    route(Method::GET, "/v1/shapes", &[Scope::Read]),
    route(Method::GET, "/v1/platform", &[Scope::Read]),
];

/// What a method and path lead to.
#[derive(Debug)]
pub(crate) enum Found {
    /// A route.
    Route(&'static Route),
    /// The path exists with these methods only.
    OtherMethods(String),
    /// No such path.
    Nothing,
}

/// Looks a request up.
pub(crate) fn find(method: &Method, path: &str) -> Found {
    let here: Vec<&Route> = ROUTES.iter().filter(|route| matches(route.template, path)).collect();
    match here.iter().find(|route| route.method == *method) {
        Some(route) => Found::Route(route),
        None if here.is_empty() => Found::Nothing,
        None => Found::OtherMethods(here.iter().map(|route| route.method.as_str()).collect::<Vec<_>>().join(", ")),
    }
}

/// True when the path has the template's form. An id is 1 to 64 characters of letters, digits and underscore: nothing that
/// could be read as another path by whoever parses it next.
fn matches(template: &str, path: &str) -> bool {
    let (mut want, mut have) = (template.split('/'), path.split('/'));
    loop {
        match (want.next(), have.next()) {
            (None, None) => return true,
            (Some("{}"), Some(id)) if is_id(id) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(method: Method, path: &str) -> Option<&'static str> {
        match find(&method, path) {
            Found::Route(route) => Some(route.template),
            Found::OtherMethods(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn ids_and_verbs_are_told_apart() {
        assert_eq!(template(Method::GET, "/v1/instances/inst_0"), Some("/v1/instances/{}"));
        assert_eq!(template(Method::POST, "/v1/instances/inst_0/stop"), Some("/v1/instances/{}/stop"));
        assert_eq!(template(Method::GET, "/v1/instances"), Some("/v1/instances"));
    }

    #[test]
    fn a_brokers_key_may_store_the_header_pin() {
        let Found::Route(patch) = find(&Method::PATCH, "/v1/instances/inst_0") else { panic!("no route") };
        assert_eq!(patch.scopes, [Scope::Write, Scope::Broker]);
        let Found::Route(delete) = find(&Method::DELETE, "/v1/instances/inst_0") else { panic!("no route") };
        assert_eq!(delete.scopes, [Scope::Write]);
    }

    #[test]
    fn paths_that_another_parser_might_read_differently_are_unknown() {
        for path in [
            "/v1/instances/",
            "/v1//instances",
            "/v1/instances/..",
            "/v1/instances/%2e%2e",
            "/v1/instances/a/b/c",
            "/internal/v1/authenticate",
            "/node/v1/sync",
        ] {
            assert!(matches!(find(&Method::GET, path), Found::Nothing), "{path}");
        }
    }

    #[test]
    fn a_known_path_names_its_methods() {
        assert!(matches!(find(&Method::PUT, "/v1/instances"), Found::OtherMethods(methods) if methods == "POST, GET"));
    }

    #[test]
    fn every_route_finds_itself() {
        for route in ROUTES {
            let path = route.template.replace("{}", "inst_0");
            assert!(matches!(find(&route.method, &path), Found::Route(found) if std::ptr::eq(found, route)), "{path}");
        }
    }
}
