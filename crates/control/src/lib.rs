//! The control plane: who may do what, which instance runs where, and what each node should have.
//!
//! It holds ids, states, sizes, addresses and *sealed* values it cannot open. Desired state is in the store, observed
//! state comes from the nodes, and the state that a customer sees is computed from both, never stored.
//!
//! Killed at any point it loses nothing that it acknowledged: every change commits in one transaction together with
//! its audit entry and the remembered answer; wake-ups are lost, and whoever waits reads the store again.

#![forbid(unsafe_code)]

mod api;
mod app;
mod audit;
mod clock;
mod conditions;
mod hub;
mod instances;
mod mailboxes;
mod nodes;
mod pace;
mod place;
mod reconcile;
mod schedule;
mod store;
#[cfg(test)]
mod testing;
mod view;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use lambda_transport::{Identity, Limits, Protocol, Roots, Shutdown, tls};
use lambda_types::api_key::Scope;
use lambda_types::{ApiKeyId, NodeId, ProjectId};

use crate::app::App;
use crate::audit::{Actor, Cause};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::store::Store;

pub use crate::store::project::{ApiKey, NewKey};

/// How to run a control plane.
#[derive(Debug)]
pub struct ControlConfig {
    /// A bound listener.
    pub listener: TcpListener,
    /// The SQLite file; made if absent.
    pub database: PathBuf,
    /// Folder with `cert.pem` and `key.pem` under the internal CA, naming `lambda://control/…`.
    pub identity: PathBuf,
    /// The internal CA's certificate.
    pub internal_ca: PathBuf,
    /// The region's platform CA certificate, which customers pin.
    pub platform_ca: PathBuf,
    /// The region's name.
    pub region: String,
}

/// Runs the control plane until `shutdown`.
///
/// # Errors
/// When certificates, store or listener are unusable; the error says which and what to do.
pub async fn run(config: ControlConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let ControlConfig { listener, database, identity, internal_ca, platform_ca, region } = config;
    let roots = Roots::load(&internal_ca)?;
    let tls = tls::mutual_server_config(Identity::load(&identity)?, &roots, Protocol::Http)?;
    let platform_ca = std::fs::read_to_string(&platform_ca)
        .with_context(|| format!("cannot read the platform CA's certificate {}", platform_ca.display()))?;
    let hub = Arc::new(Hub::default());
    let store = open(&database, hub.clone()).await?;
    let app = Arc::new(App::new(store.clone(), hub, Clock::System, region, platform_ca));
    listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot use the listener")?;
    tracing::info!(address = ?listener.local_addr().ok(), "control plane listening");
    let reconciler = tokio::spawn(reconcile::run(app.clone()));
    let stop_app = {
        let (app, shutdown) = (app.clone(), shutdown.clone());
        tokio::spawn(async move {
            shutdown.cancelled().await;
            app.shutdown.cancel();
        })
    };
    lambda_transport::serve(listener, tls, api::router(app), Limits::internal(), shutdown).await;
    stop_app.await.context("the shutdown task failed")?;
    reconciler.await.context("the reconciler failed")?;
    store.close().await;
    Ok(())
}

/// Makes an API key in a project, or in a new one. Works while the control plane runs.
///
/// # Errors
/// When the store cannot be opened or written, or there is no such project.
pub async fn create_api_key(database: &Path, project: Option<ProjectId>, scopes: &[Scope]) -> anyhow::Result<NewKey> {
    let store = open(database, Arc::new(Hub::default())).await?;
    let mut write = store.write(Cause::of(Actor::Operator)).await?;
    let project_id = match project {
        Some(project) => project,
        None => write.create_project().await?,
    };
    let key = write.create_api_key(project_id, scopes).await.map_err(|error| match error {
        store::StoreError::Database(cause) if store::is_constraint(&cause) => {
            anyhow::anyhow!("there is no project {project_id}; leave it out to make a new one")
        }
        error => error.into(),
    })?;
    write.commit().await?;
    store.close().await;
    Ok(key)
}

/// Every API key, revoked ones too, oldest first. Works while the control plane runs.
///
/// # Errors
/// When the store cannot be opened or read.
pub async fn list_api_keys(database: &Path) -> anyhow::Result<Vec<ApiKey>> {
    let store = open(database, Arc::new(Hub::default())).await?;
    let keys = store.api_keys().await?;
    store.close().await;
    Ok(keys)
}

/// Ends an API key. Works while the control plane runs; gateways use what they cached for at most 5 s more. Revoking
/// a revoked key changes nothing.
///
/// # Errors
/// When the store cannot be opened or written, or there is no such key.
pub async fn revoke_api_key(database: &Path, id: ApiKeyId) -> anyhow::Result<ApiKey> {
    let store = open(database, Arc::new(Hub::default())).await?;
    let mut write = store.write(Cause::of(Actor::Operator)).await?;
    let key = write.revoke_api_key(id).await?;
    write.commit_bookkeeping().await?;
    store.close().await;
    key.with_context(|| format!("there is no API key {id}; list them to see which there are"))
}

/// How long a node must have been silent before it can be forgotten.
const FORGET_AFTER_MS: u64 = 10 * 60 * 1000;

/// Removes a node that never comes back, and every instance on it: only the node could have said that nothing remains.
/// Gives the number of instances. Works while the control plane runs.
///
/// # Errors
/// When the store cannot be opened or written, there is no such node, or it was heard from in the last ten minutes.
pub async fn forget_node(database: &Path, id: NodeId) -> anyhow::Result<usize> {
    let store = open(database, Arc::new(Hub::default())).await?;
    let mut write = store.write(Cause::of(Actor::Operator)).await?;
    let node = store::node::find(write.connection(), id).await?.with_context(|| format!("there is no node {id}"))?;
    let silent_ms = write.at_ms.saturating_sub(node.last_seen_ms);
    if silent_ms < FORGET_AFTER_MS {
        anyhow::bail!(
            "node {id} was heard from {} s ago; only one that is silent for 600 s is forgotten",
            silent_ms / 1000
        );
    }
    let rows = store::instance::on_node(write.connection(), id).await?;
    for row in &rows {
        place::remove(&mut write, row).await?;
    }
    write.delete_node(id).await?;
    write.audit(&audit::Event::NodeForgotten { node: id }).await?;
    write.commit().await?;
    store.close().await;
    Ok(rows.len())
}

async fn open(database: &Path, hub: Arc<Hub>) -> anyhow::Result<Store> {
    Store::open(database, hub, Clock::System)
        .await
        .with_context(|| format!("cannot open the control plane's store {}", database.display()))
}
