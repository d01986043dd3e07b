//! What every handler shares, and how a POST becomes exactly one change.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lambda_transport::{ApiError, Shutdown};
use lambda_types::api_key::Principal;
use lambda_types::instance::CreateInstance;
use lambda_types::mailbox::PostMessage;
use lambda_types::{ApiKeyId, Code, InstanceId, Problem, RequestId};
use serde::Serialize;

use crate::audit::{Actor, Cause};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::instances::{self, PowerAction};
use crate::mailboxes;
use crate::pace::Pace;
use crate::store::idempotency::Remembered;
use crate::store::instance::InstanceRow;
use crate::store::{Refusal, Store, Write, json, node};
use crate::view;

/// The control plane.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) clock: Clock,
    pub(crate) region: String,
    pub(crate) platform_ca: String,
    pub(crate) shutdown: Shutdown,
    pub(crate) pace: Pace,
    running: Mutex<HashSet<(ApiKeyId, String)>>,
}

/// A POST, parsed and authenticated.
pub(crate) struct Posted {
    pub(crate) principal: Principal,
    pub(crate) request: Option<RequestId>,
    /// The idempotency key.
    pub(crate) name: String,
    /// SHA-256 of method, path and body, hex.
    pub(crate) fingerprint: String,
    pub(crate) command: Command,
}

/// What can be posted.
pub(crate) enum Command {
    Create(Box<CreateInstance>),
    Power(InstanceId, PowerAction),
    Message(InstanceId, Box<PostMessage>),
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) changed: bool,
}

/// Holds an idempotency key while its request runs.
struct Running<'a> {
    app: &'a App,
    key: (ApiKeyId, String),
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.app.running().remove(&self.key);
    }
}

impl App {
    pub(crate) fn new(store: Store, hub: Arc<Hub>, clock: Clock, region: String, platform_ca: String) -> Self {
        let shutdown = Shutdown::new();
        let (pace, running) = (Pace::default(), Mutex::default());
        Self { store, hub, clock, region, platform_ca, shutdown, pace, running }
    }

    fn running(&self) -> MutexGuard<'_, HashSet<(ApiKeyId, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, key: ApiKeyId, name: &str) -> Option<Running<'_>> {
        let key = (key, name.to_owned());
        let first = self.running().insert(key.clone());
        // Lazily: a `Running` that is made and dropped would give up another request's claim.
        first.then(|| Running { app: self, key })
    }

    /// Runs a command once for its idempotency key. The change, its audit entry and the remembered answer commit
    /// together; a refusal is remembered too, a failure of ours is not, so that trying again is worth something.
    pub(crate) async fn post(&self, posted: Posted) -> Result<Answer, ApiError> {
        let Posted { principal, request, name, fingerprint, command } = posted;
        let Some(_running) = self.claim(principal.key, &name) else {
            let detail = "a request with this idempotency key is running; wait for it, then repeat";
            return Err(ApiError::new(Code::IdempotencyInProgress, detail));
        };
        let cause = cause(&principal, request);
        let mut write = self.store.write(cause).await?;
        if let Some(remembered) = write.remembered(principal.key, &name).await? {
            return replay(remembered, &fingerprint);
        }
        write.mark().await?;
        match self.execute(&mut write, &principal, command).await {
            Ok(answer) => {
                let kept = Remembered { fingerprint, status: answer.status, body: answer.body.clone() };
                write.remember(principal.key, &name, &kept).await?;
                if answer.changed {
                    write.commit().await?
                } else {
                    write.commit_bookkeeping().await?
                }
                Ok(answer)
            }
            Err(Refusal::Api(error)) if error.problem().status < 500 => {
                write.undo().await?;
                let kept = Remembered { fingerprint, status: error.problem().status, body: json(error.problem())? };
                write.remember(principal.key, &name, &kept).await?;
                write.commit_bookkeeping().await?;
                Err(error)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn execute(&self, write: &mut Write, principal: &Principal, command: Command) -> Result<Answer, Refusal> {
        match command {
            Command::Create(wanted) => {
                let row = instances::create(write, &self.hub, principal, &wanted).await?;
                self.answer(write, &row, true).await
            }
            Command::Power(id, action) => {
                let (row, changed) = instances::power(write, &self.hub, principal, id, action).await?;
                self.answer(write, &row, changed).await
            }
            Command::Message(id, message) => {
                let mailbox = mailboxes::post(write, principal, id, &message).await?;
                Ok(Answer { status: 200, body: json(&mailbox)?, changed: true })
            }
        }
    }

    async fn answer(&self, write: &mut Write, row: &InstanceRow, changed: bool) -> Result<Answer, Refusal> {
        let seen = match row.node {
            Some(id) => node::find(write.connection(), id).await?.map(|node| self.seen_ms(&node)),
            None => None,
        };
        let instance = view::instance(row, seen, write.at_ms);
        Ok(Answer { status: 202, body: json(&instance)?, changed })
    }

    /// When a node was last heard from.
    pub(crate) fn seen_ms(&self, node: &node::NodeRow) -> u64 {
        self.hub.last_seen_ms(node.id, node.last_seen_ms, self.clock.now_ms())
    }
}

/// Who changes something, for the audit log.
pub(crate) fn cause(principal: &Principal, request: Option<RequestId>) -> Cause {
    Cause { actor: Actor::Key { key: principal.key, project: principal.project }, request }
}

fn replay(remembered: Remembered, fingerprint: &str) -> Result<Answer, ApiError> {
    if remembered.fingerprint != fingerprint {
        let detail = "this idempotency key was used for another request in the last 24 hours; make a new key";
        return Err(ApiError::new(Code::IdempotencyMismatch, detail));
    }
    if remembered.status < 400 {
        return Ok(Answer { status: remembered.status, body: remembered.body, changed: false });
    }
    match serde_json::from_str::<Problem>(&remembered.body) {
        Ok(problem) => Err(problem.into()),
        Err(error) => Err(ApiError::internal(&error)),
    }
}

/// A page of something.
#[derive(Debug, Serialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
}
