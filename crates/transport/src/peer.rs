//! Who is at the other end of a mutual-TLS connection.

use std::fmt;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use lambda_types::Code;
use rustls::pki_types::CertificateDer;

use crate::ApiError;

/// Longest name in an identity.
const MAX_NAME: usize = 64;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The public API gateway.
    Gateway,
    /// The control plane.
    Control,
    /// A node agent.
    Node,
}

impl Role {
    /// The role in URIs, and the DNS name its certificates carry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Control => "control",
            Self::Node => "node",
        }
    }
}

/// An authenticated internal peer: `lambda://role/name`. A request extension on mutual-TLS listeners; as an axum
/// extractor it refuses requests that came without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// What it is.
    pub role: Role,
    /// Which one; for a node its node id.
    pub name: String,
}

/// Why a certificate or URI names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The certificate cannot be parsed.
    #[error("the peer's certificate cannot be parsed")]
    Certificate,
    /// Not exactly one URI name.
    #[error("the peer's certificate must carry exactly one URI name, it carries {0}")]
    NotOneUri(usize),
    /// The URI is not `lambda://role/name`.
    #[error("the peer's URI name is not lambda://gateway|control|node/NAME")]
    Uri,
}

impl PeerIdentity {
    /// An identity.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, name: name.into() }
    }

    /// The identity that a (verified) certificate carries.
    ///
    /// # Errors
    /// When the certificate does not carry exactly one well-formed URI name.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| PeerError::Certificate)?;
        let uris: Vec<&str> = parsed.valid_uri_names().take(2).collect();
        match uris.as_slice() {
            [uri] => uri.parse(),
            other => Err(PeerError::NotOneUri(other.len())),
        }
    }

    /// The identity of the other end of a finished handshake.
    ///
    /// # Errors
    /// As [`Self::from_certificate`], and when the peer sent no certificate.
    pub fn from_connection(connection: &rustls::CommonState) -> Result<Self, PeerError> {
        let certificate = connection.peer_certificates().and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
        Self::from_certificate(certificate)
    }

    /// The URI name.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("lambda://{}/{}", self.role.name(), self.name)
    }

    /// Refuses every other role, with a reason that names neither.
    ///
    /// # Errors
    /// `forbidden` when the peer is something else.
    pub fn require(&self, role: Role) -> Result<(), ApiError> {
        if self.role == role {
            Ok(())
        } else {
            Err(ApiError::new(Code::Forbidden, "this peer may not call this interface"))
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

impl FromStr for PeerIdentity {
    type Err = PeerError;

    fn from_str(uri: &str) -> Result<Self, PeerError> {
        let (role, name) = uri.strip_prefix("lambda://").and_then(|rest| rest.split_once('/')).ok_or(PeerError::Uri)?;
        let role = match role {
            "gateway" => Role::Gateway,
            "control" => Role::Control,
            "node" => Role::Node,
            _ => return Err(PeerError::Uri),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            return Err(PeerError::Uri);
        }
        Ok(Self { role, name: name.into() })
    }
}

impl<S: Sync> FromRequestParts<S> for PeerIdentity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::new(Code::Unauthenticated, "this interface needs a client certificate"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trips() {
        let peer = PeerIdentity::new(Role::Node, "node_0abc");
        assert_eq!(peer.uri().parse::<PeerIdentity>().unwrap(), peer);
    }

    #[test]
    fn other_schemes_roles_and_names_are_refused() {
        for bad in [
            "https://node/x",
            "lambda://root/x",
            "lambda://node/",
            "lambda://node",
            "lambda://node/a/b",
            "lambda://node/a b",
            "LAMBDA://node/a",
            "",
        ] {
            assert_eq!(bad.parse::<PeerIdentity>(), Err(PeerError::Uri), "{bad}");
        }
        assert!(format!("lambda://node/{}", "a".repeat(65)).parse::<PeerIdentity>().is_err());
    }
}
