//! `/node/v1/sync`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_transport::{ApiError, PeerIdentity, Role};
use lambda_types::node::SyncRequest;
use lambda_types::{Code, NodeId};

use super::Json;
use crate::app::App;
use crate::nodes;

pub(super) async fn sync(
    State(app): State<Arc<App>>,
    peer: PeerIdentity,
    body: Json<SyncRequest>,
) -> Result<Response, ApiError> {
    peer.require(Role::Node)?;
    let node: NodeId = peer
        .name
        .parse()
        .map_err(|_| ApiError::new(Code::Forbidden, "the certificate's name is not a node id; enrol the node again"))?;
    let answer = nodes::sync(&app, node, body.value).await?;
    Ok(axum::Json(answer).into_response())
}
