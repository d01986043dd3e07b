//! The node protocol: store what a node observes, answer with what it should have.
//!
//! Level-triggered: every report is complete, so a lost one costs nothing and a repeated one changes nothing. A report
//! that is older than what is stored (by epoch, or by the generation acted on) is ignored. A row is removed only when
//! the node itself says that nothing remains: silence proves nothing.

use std::collections::HashMap;
use std::time::Duration;

use lambda_transport::ApiError;
use lambda_types::instance::{Phase, Power};
use lambda_types::mailbox::Message;
use lambda_types::node::{MAX_WAIT_SECONDS, ObservedInstance, SyncRequest, SyncResponse};
use lambda_types::{Code, InstanceId, NodeId};
use sqlx::AnyConnection;
use tokio::time::Instant;

use crate::app::App;
use crate::audit::{Actor, Cause, Event};
use crate::hub::Notice;
use crate::store::instance::{self, InstanceRow, Observed};
use crate::store::node::NodeRow;
use crate::store::{StoreError, Write, mailbox, node};
use crate::{mailboxes, place, view};

/// How often a node's silence-breaking is written down when nothing else changes.
const SEEN_STORED_EVERY_MS: u64 = 20_000;

/// Most phase entries that are kept of one boot.
const MAX_PHASES: usize = 32;

/// Answers one sync.
pub(crate) async fn sync(app: &App, id: NodeId, request: SyncRequest) -> Result<SyncResponse, ApiError> {
    check(id, &request)?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(request.wait_seconds.min(MAX_WAIT_SECONDS)));
    let _polling = app.hub.polling(id, app.clock.now_ms());
    observe(app, id, &request).await?;
    let wake = app.hub.node(id);
    loop {
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let answer = desired(app, id).await?;
        if answer.generation > request.generation || Instant::now() >= deadline || app.shutdown.is_cancelled() {
            return Ok(answer);
        }
        tokio::select! {
            () = &mut woken => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}

fn check(id: NodeId, request: &SyncRequest) -> Result<(), ApiError> {
    if request.node != id {
        return Err(ApiError::new(Code::Forbidden, "a node may only speak for itself"));
    }
    let offer = &request.offer;
    if offer.images.len() > 1000 || offer.memory_mib > 1 << 40 || offer.disk_gib > 1 << 40 {
        return Err(ApiError::new(Code::InvalidRequest, "the offer is out of range"));
    }
    Ok(())
}

/// The desired set with its generation, from one consistent state.
async fn desired(app: &App, id: NodeId) -> Result<SyncResponse, StoreError> {
    let mut tx = app.store.read().await?;
    let generation = node::find(&mut tx, id).await?.map_or(0, |node| node.generation);
    let rows = instance::on_node(&mut tx, id).await?;
    let mut brokers: HashMap<InstanceId, Message> = mailbox::broker_messages(&mut tx, id).await?.into_iter().collect();
    tx.commit().await?;
    let desired = rows.iter().filter_map(|row| view::desired(row, brokers.remove(&row.id))).collect();
    Ok(SyncResponse { generation, desired })
}

/// Stores a report, if it says anything new.
async fn observe(app: &App, id: NodeId, request: &SyncRequest) -> Result<(), StoreError> {
    let mut tx = app.store.read().await?;
    let stored = node::find(&mut tx, id).await?;
    let rows = by_id(&mut tx, id).await?;
    tx.commit().await?;
    let news = match &stored {
        None => true,
        Some(node) => node_is_news(app, node, request) || request.observed.iter().any(|seen| is_news(&rows, seen)),
    };
    if !news {
        return Ok(());
    }
    let mut write = app.store.write(Cause::of(Actor::Node { node: id })).await?;
    let mut changed = observe_node(&mut write, id, request).await?;
    // Read again under the write lock: a customer may have changed something since.
    let mut rows = by_id(write.connection(), id).await?;
    for seen in &request.observed {
        if let Some(row) = rows.get_mut(&seen.id) {
            changed |= observe_instance(&mut write, row, seen).await?;
        }
    }
    if changed { write.commit().await } else { write.commit_bookkeeping().await }
}

async fn by_id(connection: &mut AnyConnection, id: NodeId) -> Result<HashMap<InstanceId, InstanceRow>, StoreError> {
    Ok(instance::on_node(connection, id).await?.into_iter().map(|row| (row.id, row)).collect())
}

fn node_is_news(app: &App, node: &NodeRow, request: &SyncRequest) -> bool {
    let silent_ms = app.clock.now_ms().saturating_sub(node.last_seen_ms);
    node.differs_from(&request.offer) || request.generation > node.generation || silent_ms > SEEN_STORED_EVERY_MS
}

fn is_news(rows: &HashMap<InstanceId, InstanceRow>, seen: &ObservedInstance) -> bool {
    let Some(row) = rows.get(&seen.id) else {
        tracing::warn!(instance = %seen.id, phase = ?seen.phase, "a node reports an instance that is not known here");
        return false;
    };
    let message = seen.guest.as_ref().is_some_and(|message| mailboxes::is_news(row, seen.epoch, message));
    message
        || (is_current(row, seen) && (row.observed != merged(row, seen, row.observed.since_ms) || is_over(row, seen)))
}

/// A report that is not older than the stored one.
fn is_current(row: &InstanceRow, seen: &ObservedInstance) -> bool {
    seen.epoch >= row.observed.epoch && seen.generation >= row.observed.generation
}

/// Something remains to be done about a report: free compute, or remove the row.
fn is_over(row: &InstanceRow, seen: &ObservedInstance) -> bool {
    let acted = seen.generation >= row.power_generation;
    let off = matches!(seen.phase, Phase::Stopped | Phase::Failed | Phase::Gone);
    let gone = row.power == Power::Deleted && seen.phase == Phase::Gone;
    acted && (gone || (row.power == Power::Stopped && off && row.compute_held))
}

fn merged(row: &InstanceRow, seen: &ObservedInstance, now_ms: u64) -> Observed {
    let same = row.observed.phase == Some(seen.phase) && row.observed.epoch == seen.epoch;
    Observed {
        generation: seen.generation,
        epoch: seen.epoch,
        phase: Some(seen.phase),
        failure: seen.failure,
        boot: seen.boot,
        phases: seen.phases.iter().copied().take(MAX_PHASES).collect(),
        since_ms: if same { row.observed.since_ms } else { now_ms },
    }
}

async fn observe_node(write: &mut Write, id: NodeId, request: &SyncRequest) -> Result<bool, StoreError> {
    let Some(stored) = node::find(write.connection(), id).await? else {
        write.insert_node(id, &request.offer).await?;
        write.audit(&Event::NodeRegistered { node: id }).await?;
        write.notify(Notice::Capacity);
        adopt(write, id, 1, request.generation).await?;
        return Ok(true);
    };
    write.set_offer(id, &request.offer).await?;
    let mut changed = false;
    if stored.differs_from(&request.offer) {
        write.audit(&Event::NodeOfferChanged { node: id }).await?;
        write.notify(Notice::Capacity);
        changed = true;
    }
    Ok(adopt(write, id, stored.generation, request.generation).await? || changed)
}

/// A node that holds a newer set than ours outlived our memory (a restored store): step past it, or it would refuse
/// everything we say. It touches nothing that we do not list.
async fn adopt(write: &mut Write, id: NodeId, ours: u64, held: u64) -> Result<bool, StoreError> {
    if held <= ours {
        return Ok(false);
    }
    tracing::warn!(node = %id, ours, held, "the node holds a newer desired set than the store; stepping past it");
    write.adopt_generation(id, held).await?;
    write.audit(&Event::NodeGenerationAdopted { node: id, generation: held }).await?;
    Ok(true)
}

async fn observe_instance(
    write: &mut Write,
    row: &mut InstanceRow,
    seen: &ObservedInstance,
) -> Result<bool, StoreError> {
    let mut changed = false;
    if let Some(message) = seen.guest.as_ref().filter(|message| mailboxes::is_news(row, seen.epoch, message)) {
        mailboxes::receive(write, row, message).await?;
        changed = true;
    }
    if !is_current(row, seen) {
        return Ok(changed);
    }
    if seen.generation > row.generation {
        write.advance_generation(row.id, seen.generation.saturating_add(1)).await?;
        if let Some(node) = row.node {
            write.touch_node(node).await?;
        }
    }
    let observed = merged(row, seen, write.at_ms);
    if row.observed != observed {
        let progress = (row.observed.phase, row.observed.epoch) != (observed.phase, observed.epoch);
        write.set_observed(row.id, &observed).await?;
        row.observed = observed;
        if progress {
            let (instance, epoch, phase, failure) = (row.id, seen.epoch, seen.phase, seen.failure);
            write.audit(&Event::InstanceObserved { instance, epoch, phase, failure }).await?;
            changed = true;
        }
    }
    if is_over(row, seen) {
        if row.power == Power::Deleted {
            place::remove(write, row).await?;
        } else {
            place::release_compute(write, row).await?;
        }
        changed = true;
    }
    Ok(changed)
}
