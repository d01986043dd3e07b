//! How the gateway tells the control plane for whom a request speaks: headers that only a gateway's certificate
//! makes believable, and that the gateway removes from what clients send.

use http::{HeaderMap, HeaderName, HeaderValue};
use lambda_types::api_key::{Principal, Scope};

/// The project, `proj_…`.
pub const PROJECT: HeaderName = HeaderName::from_static("lambda-project");

/// The scopes, comma separated.
pub const SCOPES: HeaderName = HeaderName::from_static("lambda-scopes");

/// The API key's id, `key_…`.
pub const KEY: HeaderName = HeaderName::from_static("lambda-key");

/// Scopes as one comma-separated text.
#[must_use]
pub fn scopes_text(scopes: &[Scope]) -> String {
    scopes.iter().copied().map(Scope::name).collect::<Vec<_>>().join(",")
}

/// The scopes in a comma-separated text; `None` when any name is unknown.
#[must_use]
pub fn parse_scopes(text: &str) -> Option<Vec<Scope>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|name| Scope::ALL.into_iter().find(|scope| scope.name() == name)).collect()
}

/// Replaces the three principal headers in `headers`, and no other: [`strip`] what a client sent first.
pub fn write(principal: &Principal, headers: &mut HeaderMap) {
    let values = [
        (PROJECT, principal.project.to_string()),
        (SCOPES, scopes_text(&principal.scopes)),
        (KEY, principal.key.to_string()),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// The principal in `headers`; `None` when any of the three headers is missing, repeated or malformed.
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<Principal> {
    let one = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        if values.next().is_some() { None } else { Some(value) }
    };
    Some(Principal {
        key: one(&KEY)?.parse().ok()?,
        project: one(&PROJECT)?.parse().ok()?,
        scopes: parse_scopes(one(&SCOPES)?)?,
    })
}

/// Removes every header that only our own processes may set: `lambda-*`, `x-forwarded-*`, `forwarded`, `x-real-ip`.
pub fn strip(headers: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("lambda-")
                || name.starts_with("x-forwarded-")
                || name == "forwarded"
                || name == "x-real-ip"
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use lambda_types::{ApiKeyId, ProjectId};

    use super::*;

    fn principal() -> Principal {
        Principal {
            key: ApiKeyId::from_bits(1),
            project: ProjectId::from_bits(2),
            scopes: vec![Scope::Read, Scope::Broker],
        }
    }

    #[test]
    fn principal_round_trips_and_replaces_what_a_client_sent() {
        let mut headers = HeaderMap::new();
        headers.append(PROJECT, HeaderValue::from_static("proj_00000000000000000000000009"));
        headers.append(PROJECT, HeaderValue::from_static("proj_00000000000000000000000008"));
        headers.insert(crate::error::REQUEST_ID, HeaderValue::from_static("kept"));
        write(&principal(), &mut headers);
        assert_eq!(read(&headers), Some(principal()));
        assert_eq!(headers[crate::error::REQUEST_ID], "kept");
    }

    #[test]
    fn repeated_unknown_or_missing_headers_name_nobody() {
        let mut headers = HeaderMap::new();
        write(&principal(), &mut headers);
        let mut repeated = headers.clone();
        repeated.append(PROJECT, HeaderValue::from_static("proj_00000000000000000000000009"));
        assert_eq!(read(&repeated), None);
        let mut unknown = headers.clone();
        unknown.insert(SCOPES, HeaderValue::from_static("read,root"));
        assert_eq!(read(&unknown), None);
        headers.remove(KEY);
        assert_eq!(read(&headers), None);
    }

    #[test]
    fn forwarding_headers_of_clients_are_removed() {
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-for", "x-forwarded-client-cert", "forwarded", "x-real-ip", "lambda-scopes"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        headers.insert("accept", HeaderValue::from_static("*/*"));
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
