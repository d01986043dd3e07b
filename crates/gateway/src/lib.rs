//! The public API gateway: TLS 1.3, API keys, limits, and a relay to the control plane.
//!
//! It holds no tenant state and no key. What a client sends reaches the control plane only through lists of allowed
//! headers and routes, together with the principal that the gateway established; SSH bytes pass through a tunnel that it cannot read.
//!
//! ```text
//!   client ──TLS──▶ address limit ─▶ route? ─▶ API key ─▶ scope ─▶ key limit ─▶ relay to control (mutual TLS)
//!                       429          404/405     401        403       429        └▶ tunnel: node (mutual TLS), then bytes
//! ```
//!
//! A gateway that dies loses nothing but connections: idempotency, state and sessions live in the control plane.

#![forbid(unsafe_code)]

mod api;
mod auth;
mod metrics;
mod rate;
mod route;
mod tunnel;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use lambda_transport::{Identity, Limits, PeerClient, Protocol, Role, Roots, Shutdown, tls};
use tokio::net::TcpListener;

/// How to run a gateway.
#[derive(Debug)]
pub struct GatewayConfig {
    /// The public listener, bound by the caller: it keeps its port when the gateway is restarted.
    pub listener: std::net::TcpListener,
    /// Folder with `cert.pem` and `key.pem` of the public listener.
    pub public_identity: PathBuf,
    /// Folder with `cert.pem` and `key.pem` under the internal CA, naming `lambda://gateway/…`.
    pub internal_identity: PathBuf,
    /// The internal CA's certificate.
    pub internal_ca: PathBuf,
    /// The control plane.
    pub control: SocketAddr,
}

/// What every request shares.
pub(crate) struct Gateway {
    pub(crate) control: PeerClient,
    pub(crate) keys: auth::Keys,
    pub(crate) rates: rate::Rates,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) tunnels: tunnel::Tunnels,
    pub(crate) health: api::Health,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When a certificate cannot be loaded or the listener cannot be used.
pub async fn run(config: GatewayConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let roots = Roots::load(&config.internal_ca)?;
    let internal = || Identity::load(&config.internal_identity);
    let to_control = tls::mutual_client_config(internal()?, &roots, Protocol::Http)?;
    let to_nodes = tls::mutual_client_config(internal()?, &roots, Protocol::Tunnel)?;
    let gateway = Arc::new(Gateway {
        control: PeerClient::new(Role::Control, config.control, &to_control)?,
        keys: auth::Keys::default(),
        rates: rate::Rates::default(),
        metrics: metrics::Metrics::default(),
        tunnels: tunnel::Tunnels::new(to_nodes),
        health: api::Health::default(),
    });

    let server = tls::server_config(Identity::load(&config.public_identity)?)?;
    config.listener.set_nonblocking(true).context("cannot use the listener")?;
    let listener = TcpListener::from_std(config.listener).context("cannot use the listener")?;
    tracing::info!(address = %listener.local_addr()?, "gateway listening");

    let sweeper = tokio::spawn(sweep(gateway.clone(), shutdown.clone()));
    lambda_transport::serve(listener, server, api::router(gateway), Limits::public(), shutdown).await;
    sweeper.await?;
    Ok(())
}

/// Forgets limiter state and cached keys that no longer matter, so that memory does not grow with strangers.
async fn sweep(gateway: Arc<Gateway>, shutdown: Shutdown) {
    let mut every = tokio::time::interval(std::time::Duration::from_secs(60));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = every.tick() => {
                gateway.rates.forget_idle();
                gateway.keys.forget_expired();
            }
        }
    }
}
