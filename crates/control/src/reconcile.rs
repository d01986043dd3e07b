//! The reconciler: places what waits for room, gives up on what waited too long, forgets expired answers, and keeps
//! the store's log short.
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
    forget(app).await?;
    app.pace.forget_full(app.clock.now_ms());
    app.store.checkpoint().await
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
    let now_ms = app.clock.now_ms();
    if !app.store.has_expired_answers(now_ms).await? && !app.store.has_expired_audit(now_ms).await? {
        return Ok(());
    }
    let mut write = app.store.write(Cause::of(Actor::Reconciler)).await?;
    write.forget_expired().await?;
    write.forget_expired_audit().await?;
    write.commit_bookkeeping().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use lambda_types::api_key::{Principal, Scope};
    use lambda_types::instance::{CreateInstance, Instance, InstanceState};
    use lambda_types::shape::{LaunchProfile, Shape};
    use lambda_types::{ImageId, InstanceId, Sealed};

    use super::*;
    use crate::app::{Answer, Command, Posted};
    use crate::clock::Clock;
    use crate::hub::Hub;
    use crate::instances::PowerAction;
    use crate::store::Store;
    use crate::store::idempotency::KEPT_MS;

    struct Scene {
        app: App,
        now: Arc<AtomicU64>,
        principal: Principal,
        folder: tempfile::TempDir,
    }

    async fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let (hub, now) = (Arc::new(Hub::default()), Arc::new(AtomicU64::new(1_000_000_000)));
        let clock = Clock::Manual(now.clone());
        let store = Store::open(&folder.path().join("store.sqlite"), hub.clone(), clock.clone()).await.unwrap();
        let mut write = store.write(Cause::of(Actor::Operator)).await.unwrap();
        let project = write.create_project().await.unwrap();
        let key = write.create_api_key(project, &Scope::ALL).await.unwrap();
        write.commit().await.unwrap();
        let principal = Principal { key: key.id, project, scopes: Scope::ALL.to_vec() };
        Scene { app: App::new(store, hub, clock, "test".into(), String::new()), now, principal, folder }
    }

    impl Scene {
        async fn post(&self, name: &str, fingerprint: &str, command: Command) -> Answer {
            let (principal, name, fingerprint) = (self.principal.clone(), name.into(), fingerprint.into());
            self.app.post(Posted { principal, request: None, name, fingerprint, command }).await.unwrap()
        }

        async fn create(&self, bits: u128) -> Answer {
            let wanted = CreateInstance {
                id: InstanceId::from_bits(bits),
                shape: Shape::Nano,
                image: ImageId::from_bits(7),
                profile: LaunchProfile::Tpm,
                launch: None,
                volume_gib: 1,
                secrets: Sealed::from_bytes(vec![1]),
                metadata: Sealed::from_bytes(vec![1]),
            };
            self.post("create", "one", Command::Create(Box::new(wanted))).await
        }

        async fn state(&self, bits: u128) -> InstanceState {
            let mut tx = self.app.store.read().await.unwrap();
            let row = instance::find(&mut tx, self.principal.project, InstanceId::from_bits(bits)).await.unwrap();
            crate::view::instance(&row.unwrap(), None, self.app.clock.now_ms()).state
        }

        fn pass_time(&self, ms: u64) {
            self.now.fetch_add(ms, Ordering::AcqRel);
        }
    }

    #[tokio::test]
    async fn an_instance_without_a_place_gives_up_at_its_bound_and_can_be_tried_again() {
        let scene = scene().await;
        scene.create(1).await;
        scene.pass_time(CAPACITY_WAIT_MS - 1);
        pass(&scene.app).await.unwrap();
        assert_eq!(scene.state(1).await, InstanceState::Scheduling);
        scene.pass_time(1);
        pass(&scene.app).await.unwrap();
        assert_eq!(scene.state(1).await, InstanceState::Failed);
        scene.post("start", "two", Command::Power(InstanceId::from_bits(1), PowerAction::Start)).await;
        assert_eq!(scene.state(1).await, InstanceState::Scheduling);
    }

    #[tokio::test]
    async fn an_answer_is_remembered_for_a_day_and_then_forgotten() {
        let scene = scene().await;
        let first = scene.create(1).await;
        scene.pass_time(KEPT_MS);
        pass(&scene.app).await.unwrap();
        assert_eq!(scene.create(1).await.body, first.body);
        scene.pass_time(1);
        pass(&scene.app).await.unwrap();
        assert!(!scene.app.store.has_expired_answers(scene.app.clock.now_ms()).await.unwrap());
        let second = scene.create(2).await;
        let instance: Instance = serde_json::from_str(&second.body).unwrap();
        assert_eq!(instance.id, InstanceId::from_bits(2));
    }

    #[tokio::test]
    async fn a_pass_lets_the_log_start_over() {
        let scene = scene().await;
        let log = scene.folder.path().join("store.sqlite-wal");
        let mut largest = 0;
        for _ in 0..4 {
            for _ in 0..200 {
                let mut write = scene.app.store.write(Cause::of(Actor::Operator)).await.unwrap();
                write.create_project().await.unwrap();
                write.commit().await.unwrap();
            }
            pass(&scene.app).await.unwrap();
            let size = std::fs::metadata(&log).unwrap().len();
            largest = if largest == 0 { size } else { largest };
            assert!(size <= largest + largest / 2, "the log grew from {largest} to {size} bytes");
        }
    }

    #[tokio::test]
    async fn a_change_without_an_audit_entry_is_not_committed() {
        let scene = scene().await;
        let mut write = scene.app.store.write(Cause::of(Actor::Operator)).await.unwrap();
        write.set_failure(InstanceId::from_bits(1), Failure::Capacity).await.unwrap();
        assert!(matches!(write.commit().await, Err(StoreError::Unaudited)));
    }
}
