//! `/v1/instances`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use lambda_transport::ApiError;
use lambda_types::api_key::Scope;
use lambda_types::instance::{CreateInstance, Instance, Page, UpdateInstance};
use lambda_types::{Code, InstanceId, NodeId};
use serde::Deserialize;
use sqlx::AnyConnection;

use super::cursor::{Cursor, limit};
use super::{Caller, IdempotencyKey, Json, fingerprint, path_id};
use crate::app::{Answer, App, Command, Posted, cause};
use crate::instances::{self, IfMatch, PowerAction};
use crate::store::{StoreError, instance, node};
use crate::view;

const LISTING: &str = "instances";

/// A page stops growing at this many bytes of sealed values; a short page is a page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Rows that are read at once.
const CHUNK: u32 = 50;

pub(super) fn answered(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    (status, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response()
}

fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response {
    (status, axum::Json(value)).into_response()
}

fn with_etag(status: StatusCode, instance: &Instance) -> Response {
    let mut response = json(status, instance);
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", instance.etag)) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

pub(super) async fn instance_create(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(name): IdempotencyKey,
    uri: Uri,
    body: Json<CreateInstance>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Write)?;
    let fingerprint = fingerprint(uri.path(), &body.bytes);
    let command = Command::Create(Box::new(body.value));
    let Caller { principal, request } = caller;
    app.post(Posted { principal, request, name, fingerprint, command }).await.map(answered)
}

pub(super) async fn instance_start(
    state: State<Arc<App>>,
    caller: Caller,
    key: IdempotencyKey,
    uri: Uri,
    path: Path<String>,
) -> Result<Response, ApiError> {
    power(state, caller, key, uri, path, PowerAction::Start).await
}

pub(super) async fn instance_stop(
    state: State<Arc<App>>,
    caller: Caller,
    key: IdempotencyKey,
    uri: Uri,
    path: Path<String>,
) -> Result<Response, ApiError> {
    power(state, caller, key, uri, path, PowerAction::Stop).await
}

pub(super) async fn instance_restart(
    state: State<Arc<App>>,
    caller: Caller,
    key: IdempotencyKey,
    uri: Uri,
    path: Path<String>,
) -> Result<Response, ApiError> {
    power(state, caller, key, uri, path, PowerAction::Restart).await
}

async fn power(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(name): IdempotencyKey,
    uri: Uri,
    Path(id): Path<String>,
    action: PowerAction,
) -> Result<Response, ApiError> {
    caller.require(Scope::Write)?;
    let command = Command::Power(path_id(&id)?, action);
    let fingerprint = fingerprint(uri.path(), b"");
    let Caller { principal, request } = caller;
    app.post(Posted { principal, request, name, fingerprint, command }).await.map(answered)
}

pub(super) async fn instance_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let id: InstanceId = path_id(&id)?;
    let mut tx = app.store.read().await?;
    let row = instance::find(&mut tx, caller.principal.project, id).await?;
    let Some(row) = row else { return Err(instances::not_found().into()) };
    let seen = nodes_seen(&app, &mut tx).await?;
    tx.commit().await.map_err(StoreError::from)?;
    let seen = row.node.and_then(|node| seen.get(&node).copied());
    Ok(with_etag(StatusCode::OK, &view::instance(&row, seen, app.clock.now_ms())))
}

/// Query of a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    cursor: Option<String>,
    limit: Option<String>,
}

pub(super) async fn instance_list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(listing): Query<Listing>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let project = caller.principal.project;
    let limit = limit(listing.limit.as_deref())?;
    // An empty cursor is the first page, so that a client may always send the parameter.
    let start = match listing.cursor.as_deref() {
        None | Some("") => None,
        Some(text) => Some(Cursor::decode(text, LISTING, project)?),
    };
    let (mut at_ms, mut id) = start.map_or((0, String::new()), |cursor| (cursor.at_ms, cursor.id));
    let mut tx = app.store.read().await?;
    let seen = nodes_seen(&app, &mut tx).await?;
    let now_ms = app.clock.now_ms();
    let (mut items, mut bytes) = (Vec::new(), 0);
    let more = 'page: loop {
        let rows = instance::list(&mut tx, project, (at_ms, &id), CHUNK).await?;
        let last_chunk = rows.len() < CHUNK as usize;
        for row in rows {
            if items.len() >= limit as usize || bytes >= PAGE_BYTES {
                break 'page true;
            }
            bytes += row.secrets.as_bytes().len() + row.metadata.as_bytes().len();
            (at_ms, id) = (row.created_ms, row.id.to_string());
            items.push(view::instance(&row, row.node.and_then(|node| seen.get(&node).copied()), now_ms));
        }
        if last_chunk {
            break false;
        }
    };
    tx.commit().await.map_err(StoreError::from)?;
    let next_cursor = more.then(|| Cursor::new(LISTING, project, at_ms, id).encode());
    Ok(json(StatusCode::OK, &Page { items, next_cursor }))
}

async fn nodes_seen(app: &App, connection: &mut AnyConnection) -> Result<HashMap<NodeId, u64>, StoreError> {
    Ok(node::all(connection).await?.iter().map(|node| (node.id, app.seen_ms(node))).collect())
}

pub(super) async fn instance_update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Json<UpdateInstance>,
) -> Result<Response, ApiError> {
    // A broker keeps the header pin in the sealed secrets, so it may replace those, and nothing else.
    let UpdateInstance { secrets, metadata, volume_gib } = &body.value;
    let only_secrets = secrets.is_some() && metadata.is_none() && volume_gib.is_none();
    if !(only_secrets && caller.require(Scope::Broker).is_ok()) {
        caller.require(Scope::Write)?;
    }
    let if_match = headers.get(header::IF_MATCH).ok_or_else(|| {
        ApiError::new(Code::VersionRequired, "send If-Match with the instance's ETag, so that no update is lost")
    })?;
    let if_match = IfMatch::parse(if_match.to_str().unwrap_or_default());
    let mut write = app.store.write(cause(&caller.principal, caller.request)).await?;
    let row = instances::update(&mut write, &caller.principal, path_id(&id)?, &if_match, body.value).await?;
    let seen = nodes_seen(&app, write.connection()).await?;
    let seen = row.node.and_then(|node| seen.get(&node).copied());
    let shown = view::instance(&row, seen, write.at_ms);
    write.commit().await?;
    Ok(with_etag(StatusCode::OK, &shown))
}

pub(super) async fn instance_delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Write)?;
    let mut write = app.store.write(cause(&caller.principal, caller.request)).await?;
    let (row, changed) = instances::delete(&mut write, &caller.principal, path_id(&id)?).await?;
    let seen = nodes_seen(&app, write.connection()).await?;
    let seen = row.node.and_then(|node| seen.get(&node).copied());
    let shown = view::instance(&row, seen, write.at_ms);
    if changed {
        write.commit().await?
    } else {
        write.commit_bookkeeping().await?
    }
    Ok(json(StatusCode::ACCEPTED, &shown))
}
