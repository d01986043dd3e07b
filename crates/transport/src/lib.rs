//! What every network-facing process of Lambda shares: TLS 1.3 configurations, the identity of a mutual-TLS peer,
//! an HTTP accept loop with limits, a JSON client for internal calls, the internal certificate authorities, and
//! problem+json responses.
//!
//! Trust: an internal peer is *who its certificate's one URI name says*, `lambda://role/name`, under the internal
//! service CA. Host names only serve rustls' server-name check; no decision rests on them.

#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod peer;
pub mod pki;
pub mod principal;
pub mod server;
pub mod tls;

pub use client::PeerClient;
pub use error::ApiError;
pub use peer::{PeerIdentity, Role};
pub use server::{ConnectionGuard, Limits, PeerAddress, serve};
pub use tls::{Identity, Protocol, Roots};

/// Asks a role to stop: clone it, `cancel()` it once, await `cancelled()`.
pub use tokio_util::sync::CancellationToken as Shutdown;
