//! What there is to choose from: `/v1/images`, `/v1/shapes`, `/v1/platform`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_transport::ApiError;
use lambda_types::api_key::Scope;
use lambda_types::instance::Page;
use lambda_types::node::OfferedImage;
use lambda_types::shape::Shape;
use serde::Serialize;

use super::Caller;
use crate::app::App;
use crate::store::{StoreError, node};

#[derive(Serialize)]
struct ShapeView {
    name: Shape,
    vcpus: u32,
    memory_mib: u64,
}

#[derive(Serialize)]
struct Platform<'a> {
    platform_ca: &'a str,
    region: &'a str,
}

/// Every image that any node has, each once.
pub(super) async fn image_list(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let mut tx = app.store.read().await?;
    let nodes = node::all(&mut tx).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let images: BTreeMap<_, OfferedImage> =
        nodes.into_iter().flat_map(|node| node.images).map(|image| (image.id, image)).collect();
    Ok(axum::Json(Page { items: images.into_values().collect(), next_cursor: None }).into_response())
}

pub(super) async fn shape_list(caller: Caller) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let view = |shape: Shape| ShapeView { name: shape, vcpus: shape.vcpus(), memory_mib: shape.memory_mib() };
    Ok(axum::Json(Page { items: Shape::ALL.map(view).into(), next_cursor: None }).into_response())
}

pub(super) async fn platform_view(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    Ok(axum::Json(Platform { platform_ca: &app.platform_ca, region: &app.region }).into_response())
}
