//! `/v1/instances/{id}/mailbox` and `/v1/mailboxes`: long-polls that read, register, and read again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::Uri;
use lambda_transport::ApiError;
use lambda_types::api_key::Scope;
use lambda_types::mailbox::{PostMessage, ReadMailbox};
use lambda_types::{BootId, InstanceId, ProjectId};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Caller, IdempotencyKey, Json, fingerprint, path_id};
use crate::app::{App, Command, Items, Posted};
use crate::instances;
use crate::store::{StoreError, instance, mailbox};

/// Longest long-poll, seconds; more is read as this.
const MAX_WAIT_SECONDS: u64 = 30;

#[derive(Debug, Deserialize)]
pub(super) struct Read {
    boot: Option<BootId>,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u64,
}

fn deadline(wait: u64) -> Instant {
    Instant::now() + Duration::from_secs(wait.min(MAX_WAIT_SECONDS))
}

pub(super) async fn mailbox_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(read): Query<Read>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Broker)?;
    let id = path_id(&id)?;
    let project = caller.principal.project;
    let (wake, deadline) = (app.hub.mailboxes(project), deadline(read.wait));
    loop {
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let found = look(&app, project, id, &read).await?;
        if found.guest.is_some() || Instant::now() >= deadline || app.shutdown.is_cancelled() {
            return Ok(axum::Json(found).into_response());
        }
        tokio::select! {
            () = &mut woken => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}

async fn look(app: &App, project: ProjectId, id: InstanceId, read: &Read) -> Result<ReadMailbox, ApiError> {
    let mut tx = app.store.read().await?;
    let row = instance::find(&mut tx, project, id).await?;
    let Some(row) = row else { return Err(instances::not_found().into()) };
    let state = row.mailbox;
    let same_boot = read.boot.is_none() || read.boot == state.boot;
    let newer = state.guest_seq > 0 && (!same_boot || state.guest_seq > read.after);
    let guest = if newer { mailbox::guest_message(&mut tx, id).await? } else { None };
    tx.commit().await.map_err(StoreError::from)?;
    Ok(ReadMailbox { guest, broker_seq: state.broker_seq, broker_answers: state.broker_answers })
}

pub(super) async fn mailbox_post(
    State(app): State<Arc<App>>,
    caller: Caller,
    IdempotencyKey(name): IdempotencyKey,
    uri: Uri,
    Path(id): Path<String>,
    body: Json<PostMessage>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Broker)?;
    let fingerprint = fingerprint(uri.path(), &body.bytes);
    let command = Command::Message(path_id(&id)?, Box::new(body.value));
    let Caller { principal, request } = caller;
    app.post(Posted { principal, request, name, fingerprint, command }).await.map(super::instances::answered)
}

pub(super) async fn mailbox_list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(Wait { wait }): Query<Wait>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Broker)?;
    let project = caller.principal.project;
    let (wake, deadline) = (app.hub.mailboxes(project), deadline(wait));
    loop {
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let mut tx = app.store.read().await?;
        let items = mailbox::unanswered(&mut tx, project).await?;
        tx.commit().await.map_err(StoreError::from)?;
        if !items.is_empty() || Instant::now() >= deadline || app.shutdown.is_cancelled() {
            return Ok(axum::Json(Items { items }).into_response());
        }
        tokio::select! {
            () = &mut woken => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}
