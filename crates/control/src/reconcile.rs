//! The reconciler: places what waits for room, gives up on what waited too long, forgets expired answers.
//!
//! Each pass takes no input but the store and the time, so it may run at any moment, twice, or not at all for a while.

use std::sync::Arc;
use std::time::Duration;

use lambda_types::instance::Failure;

use crate::app::App;
use crate::audit::{Actor, Cause, Event};
use crate::conditions::CAPACITY_WAIT_MS;
use crate::place;
use crate::store::{StoreError, instance};

/// Longest time between passes.
const EVERY: Duration = Duration::from_secs(5);

/// Most instances that one pass looks at.
const BATCH: u32 = 256;

/// Runs passes until shutdown.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        if let Err(error) = pass(&app).await {
            tracing::error!(%error, "reconciling failed; it is tried again");
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = app.hub.capacity().notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// One pass.
pub(crate) async fn pass(app: &App) -> Result<(), StoreError> {
    let mut tx = app.store.read().await?;
    let waiting = !instance::unplaced(&mut tx, 1).await?.is_empty();
    tx.commit().await?;
    if waiting {
        place_waiting(app).await?;
    }
    forget(app).await
}

async fn place_waiting(app: &App) -> Result<(), StoreError> {
    let mut write = app.store.write(Cause::of(Actor::Reconciler)).await?;
    let mut changed = false;
    for mut row in instance::unplaced(write.connection(), BATCH).await? {
        let candidates = place::candidates(&mut write, &app.hub).await?;
        if place::place(&mut write, &candidates, &mut row).await?.is_ok() {
            changed = true;
        } else if write.at_ms >= row.changed_ms.saturating_add(CAPACITY_WAIT_MS) {
            let failure = Failure::Capacity;
            write.set_failure(row.id, failure).await?;
            write.audit(&Event::InstanceGaveUp { instance: row.id, failure }).await?;
            changed = true;
        }
    }
    if changed { write.commit().await } else { write.commit_bookkeeping().await }
}

async fn forget(app: &App) -> Result<(), StoreError> {
    if !app.store.has_expired_answers(app.clock.now_ms()).await? {
        return Ok(());
    }
    let mut write = app.store.write(Cause::of(Actor::Reconciler)).await?;
    write.forget_expired().await?;
    write.commit_bookkeeping().await
}
