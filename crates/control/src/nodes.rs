//! The node protocol: store what a node observes, answer with what it should have.
//!
//! Level-triggered: every report is complete, so a lost one costs nothing and a repeated one changes nothing. A report
//! that is older than what is stored (by epoch, or by the generation acted on) is ignored. A row is removed only when
//! the node itself says that nothing remains: silence proves nothing.
//!
//! What a guest can move by itself (its phase, its message) is written at the pace of [`crate::pace`] and has no audit
//! entry. An answer carries a broker's message until the node has handed it over, and no more than
//! [`BROKER_BYTES`] of them: nobody's messages can make it too large for the node.

use std::collections::HashMap;
use std::time::Duration;

use lambda_transport::ApiError;
use lambda_types::guest::Degradation;
use lambda_types::instance::{Phase, Power};
use lambda_types::mailbox::Message;
use lambda_types::node::{MAX_WAIT_SECONDS, ObservedInstance, SyncRequest, SyncResponse};
use lambda_types::{Code, InstanceId, NodeId};
use sqlx::AnyConnection;
use tokio::time::Instant;

use crate::app::App;
use crate::audit::{Actor, Cause, Event};
use crate::hub::Notice;
use crate::store::instance::{self, Degraded, InstanceRow, Observed};
use crate::store::node::NodeRow;
use crate::store::{StoreError, Write, mailbox, node};
use crate::{mailboxes, place, view};

/// How often a node's silence-breaking is written down when nothing else changes.
const SEEN_STORED_EVERY_MS: u64 = 20_000;

/// Broker messages in one answer, bytes of their bodies; the next answers carry the rest in turn.
const BROKER_BYTES: usize = 4 * 1024 * 1024;

/// How soon the rest follows when nothing else changes.
const REST_AFTER: Duration = Duration::from_millis(500);

/// Most phase entries that are kept of one boot.
const MAX_PHASES: usize = 32;

/// Answers one sync.
pub(crate) async fn sync(app: &App, id: NodeId, request: SyncRequest) -> Result<SyncResponse, ApiError> {
    check(id, &request)?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(request.wait_seconds.min(MAX_WAIT_SECONDS)));
    let rest_at = deadline.min(Instant::now() + REST_AFTER);
    let _polling = app.hub.polling(id, app.clock.now_ms());
    observe(app, id, &request).await?;
    let wake = app.hub.node(id);
    loop {
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let Answer { response, cursor, rest } = desired(app, id, &request).await?;
        let until = if rest { rest_at } else { deadline };
        if response.generation > request.generation || Instant::now() >= until || app.shutdown.is_cancelled() {
            app.hub.set_broker_cursor(id, cursor);
            return Ok(response);
        }
        tokio::select! {
            () = &mut woken => {}
            () = tokio::time::sleep_until(until) => {}
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

/// The desired set with its generation.
struct Answer {
    response: SyncResponse,
    /// Whose broker message was the last to fit, when some did not.
    cursor: Option<InstanceId>,
    /// Broker messages were left out of this answer or of the one before.
    rest: bool,
}

/// What the node should have, from one consistent state.
async fn desired(app: &App, id: NodeId, request: &SyncRequest) -> Result<Answer, StoreError> {
    let mut tx = app.store.read().await?;
    let generation = node::find(&mut tx, id).await?.map_or(0, |node| node.generation);
    let rows = instance::on_node(&mut tx, id).await?;
    let mut pending = mailbox::broker_messages(&mut tx, id).await?;
    tx.commit().await?;
    pending.retain(|(instance, message)| !handed_over(request, *instance, message));
    let former = app.hub.broker_cursor(id);
    let (mut brokers, last, more) = fitting(pending, former, BROKER_BYTES);
    let rest = more || (former.is_some() && last.is_some());
    let desired = rows.iter().filter_map(|row| view::desired(row, brokers.remove(&row.id))).collect();
    Ok(Answer { response: SyncResponse { generation, desired }, cursor: last.filter(|_| more), rest })
}

fn handed_over(request: &SyncRequest, instance: InstanceId, message: &Message) -> bool {
    let handed = |seen: &&ObservedInstance| seen.boot == Some(message.boot) && seen.broker_seq >= message.seq;
    request.observed.iter().find(|seen| seen.id == instance).is_some_and(|seen| handed(&seen))
}

/// The messages that go into one answer: in the order of ids, beginning after the one that ended the answer before.
fn fitting(
    mut pending: Vec<(InstanceId, Message)>,
    after: Option<InstanceId>,
    most: usize,
) -> (HashMap<InstanceId, Message>, Option<InstanceId>, bool) {
    pending.sort_unstable_by_key(|(id, _)| (after.is_some_and(|after| *id <= after), *id));
    let (all, mut bytes) = (pending.len(), 0usize);
    let fits = |(_, message): &(InstanceId, Message)| {
        bytes = bytes.saturating_add(message.body.as_slice().len());
        bytes <= most
    };
    let chosen: Vec<_> = pending.into_iter().take_while(fits).collect();
    let (last, more) = (chosen.last().map(|(id, _)| *id), chosen.len() < all);
    (chosen.into_iter().collect(), last, more)
}

/// Stores a report, if it says anything new.
async fn observe(app: &App, id: NodeId, request: &SyncRequest) -> Result<(), StoreError> {
    let mut tx = app.store.read().await?;
    let stored = node::find(&mut tx, id).await?;
    let rows = by_id(&mut tx, id).await?;
    tx.commit().await?;
    let now_ms = app.clock.now_ms();
    let paced = |seen: &&ObservedInstance| match news(&rows, seen) {
        News::Nothing => false,
        News::Urgent => true,
        News::Progress => app.pace.take(seen.id, now_ms),
    };
    let accepted: Vec<&ObservedInstance> = request.observed.iter().filter(paced).collect();
    let node_news = stored.as_ref().is_none_or(|node| node_is_news(app, node, request));
    if !node_news && accepted.is_empty() {
        return Ok(());
    }
    let mut write = app.store.write(Cause::of(Actor::Node { node: id })).await?;
    let mut changed = observe_node(&mut write, id, request).await?;
    // Read again under the write lock: a customer may have changed something since.
    let mut rows = by_id(write.connection(), id).await?;
    for seen in accepted {
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

/// What a report is worth.
enum News {
    Nothing,
    /// The guest got on; may wait for its pace.
    Progress,
    /// Something to do for us, which no guest can repeat at will.
    Urgent,
}

fn news(rows: &HashMap<InstanceId, InstanceRow>, seen: &ObservedInstance) -> News {
    let Some(row) = rows.get(&seen.id) else {
        tracing::warn!(instance = %seen.id, phase = ?seen.phase, "a node reports an instance that is not known here");
        return News::Nothing;
    };
    let message = seen.guest.as_ref().is_some_and(|message| mailboxes::is_news(row, seen.epoch, message));
    let current = is_current(row, seen);
    if current && (is_ahead(row, seen) || is_over(row, seen)) {
        News::Urgent
    } else if message || (current && row.observed != merged(row, seen, row.observed.since_ms)) {
        News::Progress
    } else {
        News::Nothing
    }
}

/// The node acted on what the store does not know: it was restored from an older time.
fn is_ahead(row: &InstanceRow, seen: &ObservedInstance) -> bool {
    seen.generation > row.generation || seen.epoch > row.epoch
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
        degraded: degraded(row, seen, now_ms),
    }
}

/// What is wrong, each thing with the time of its first report in this boot.
fn degraded(row: &InstanceRow, seen: &ObservedInstance, now_ms: u64) -> Vec<Degraded> {
    let known = if row.observed.boot == seen.boot { row.observed.degraded.as_slice() } else { &[] };
    let told = |reason: &Degradation| seen.degraded.contains(reason);
    let with_time = |reason: Degradation| {
        let since_ms = known.iter().find(|known| known.reason == reason).map_or(now_ms, |known| known.since_ms);
        Degraded { reason, since_ms }
    };
    Degradation::ALL.into_iter().filter(told).map(with_time).collect()
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
    let current = is_current(row, seen);
    if current && is_ahead(row, seen) {
        catch_up(write, row, seen).await?;
        changed = true;
    }
    if let Some(message) = seen.guest.as_ref().filter(|message| mailboxes::is_news(row, seen.epoch, message)) {
        mailboxes::receive(write, row, message).await?;
    }
    if !current {
        return Ok(changed);
    }
    let observed = merged(row, seen, write.at_ms);
    if row.observed != observed {
        write.set_observed(row.id, &observed).await?;
        row.observed = observed;
        // The phase decides whether its guest counts as waiting for a broker.
        write.notify(Notice::Mailboxes(row.project));
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

/// Takes up the generation and the epoch of a node that is ahead of a restored store: what runs there is what is
/// wanted, and the next start counts on from it.
async fn catch_up(write: &mut Write, row: &mut InstanceRow, seen: &ObservedInstance) -> Result<(), StoreError> {
    let (ours, held) = (row.epoch, seen.epoch);
    tracing::warn!(instance = %row.id, ours, held, "the node is ahead of the store; stepping past it");
    if seen.epoch > row.epoch {
        row.epoch = seen.epoch;
        write.set_epoch(row.id, row.epoch).await?;
    }
    write.advance_generation(row.id, seen.generation.saturating_add(1)).await?;
    if let Some(node) = row.node {
        write.touch_node(node).await?;
    }
    let (instance, generation, epoch) = (row.id, seen.generation, row.epoch);
    write.audit(&Event::InstanceAdopted { instance, generation, epoch }).await
}

#[cfg(test)]
mod tests {
    use lambda_types::{Binary, BootId};

    use super::*;

    #[test]
    fn what_does_not_fit_into_an_answer_comes_in_turn() {
        let pending = || -> Vec<(InstanceId, Message)> {
            let message = || Message { boot: BootId::from_bits(1), seq: 1, body: Binary(vec![0; 10]) };
            [1, 2, 3].map(|bits| (InstanceId::from_bits(bits), message())).into()
        };
        let mut cursor = None;
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (chosen, last, more) = fitting(pending(), cursor, 25);
            assert!(chosen.len() == 2 && more);
            cursor = last;
            seen.extend(chosen.into_keys());
        }
        for bits in [1, 2, 3] {
            let id = InstanceId::from_bits(bits);
            assert_eq!(seen.iter().filter(|it| **it == id).count(), 2, "{id}");
        }
        let (chosen, _, more) = fitting(pending(), cursor, 30);
        assert!(chosen.len() == 3 && !more);
    }
}
