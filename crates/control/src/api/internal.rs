//! What only our own processes ask.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use lambda_transport::{ApiError, PeerIdentity, Role};
use lambda_types::api_key::Scope;
use lambda_types::instance::{Phase, Power};
use lambda_types::{Code, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::{Caller, Json, path_id};
use crate::app::App;
use crate::conditions::effective_phase;
use crate::hub::is_fresh;
use crate::instances;
use crate::store::{StoreError, instance, node};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authenticate {
    sha256: String,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    nodes: usize,
}

#[derive(Serialize)]
struct Route {
    node: NodeId,
    tunnel: SocketAddr,
}

/// Answers only if the store does; counts the nodes that were heard from lately.
pub(super) async fn health(State(app): State<Arc<App>>, peer: PeerIdentity) -> Result<Response, ApiError> {
    if peer.role == Role::Node {
        peer.require(Role::Gateway)?;
    }
    let mut tx = app.store.read().await?;
    let nodes = node::all(&mut tx).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let now_ms = app.clock.now_ms();
    let nodes = nodes.iter().filter(|node| is_fresh(app.seen_ms(node), now_ms)).count();
    Ok(axum::Json(Health { status: "ok", nodes }).into_response())
}

pub(super) async fn authenticate(
    State(app): State<Arc<App>>,
    peer: PeerIdentity,
    body: Json<Authenticate>,
) -> Result<Response, ApiError> {
    peer.require(Role::Gateway)?;
    let mut sha256 = [0u8; 32];
    hex::decode_to_slice(&body.value.sha256, &mut sha256)
        .map_err(|_| ApiError::new(Code::InvalidRequest, "sha256 must be 64 hex digits"))?;
    match app.store.authenticate(&sha256).await? {
        Some(principal) => Ok(axum::Json(principal).into_response()),
        None => Err(ApiError::new(Code::Unauthenticated, "the API key is not known; check it, or make a new one")),
    }
}

/// Where the tunnel to an instance goes.
pub(super) async fn route(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Connect)?;
    let id: InstanceId = path_id(&id)?;
    let mut tx = app.store.read().await?;
    let row = instance::find(&mut tx, caller.principal.project, id).await?;
    let Some(row) = row else { return Err(instances::not_found().into()) };
    let node = match row.node {
        Some(node) => node::find(&mut tx, node).await?,
        None => None,
    };
    tx.commit().await.map_err(StoreError::from)?;
    let up = matches!(effective_phase(&row), Some(Phase::Starting | Phase::Ready | Phase::Stopping));
    match node {
        Some(node) if up && row.power != Power::Deleted => {
            Ok(axum::Json(Route { node: node.id, tunnel: node.tunnel }).into_response())
        }
        _ => Err(ApiError::new(Code::Conflict, "the instance takes no connections now; see its state")),
    }
}
