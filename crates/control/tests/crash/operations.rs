//! Killed in the middle of every operation, with a node that does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use lambda_transport::{PeerClient, Role, principal};
use lambda_types::InstanceId;
use lambda_types::api_key::{Principal, Scope};
use lambda_types::instance::{ConditionKind, Instance, InstanceState, Phase, Power};
use lambda_types::node::SyncResponse;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::sync::watch;

use super::{cloud_node, spawn, sums_hold};
use crate::common::{Customer, Node, create_body, peer, write_pki};

/// At least; and on until each operation was both accepted before a kill and interrupted by one, which only chance decides.
const ROUNDS: u128 = 6;
const MOST_ROUNDS: u128 = 24;
const CREATED_A_ROUND: u128 = 7;
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Create,
    Start,
    Stop,
    Restart,
    Resize,
    Delete,
}

/// One request, which may be sent again.
#[derive(Debug, Clone)]
struct Operation {
    id: InstanceId,
    act: Act,
    key: String,
    volume_gib: u32,
}

/// What an instance comes to when everything that was accepted is done.
#[derive(Debug, Clone, Copy)]
struct Expected {
    state: InstanceState,
    volume_gib: u32,
    epoch: i64,
}

/// Every instance there ever was; `None` is one that was deleted.
type Model = BTreeMap<InstanceId, Option<Expected>>;

/// These the node cannot boot.
fn fails(id: InstanceId) -> bool {
    (0..MOST_ROUNDS * CREATED_A_ROUND).step_by(5).any(|bits| InstanceId::from_bits(bits + 1) == id)
}

impl Operation {
    /// Sends it once; nothing when no answer came.
    async fn send(&self, customer: &Customer) -> Option<StatusCode> {
        let Self { id, act, key, volume_gib } = self;
        let path = format!("/v1/instances/{id}");
        let (method, path, body) = match act {
            Act::Create => (Method::POST, "/v1/instances".into(), create_body(*id)),
            Act::Start => (Method::POST, format!("{path}/start"), Value::Null),
            Act::Stop => (Method::POST, format!("{path}/stop"), Value::Null),
            Act::Restart => (Method::POST, format!("{path}/restart"), Value::Null),
            Act::Resize => (Method::PATCH, path, json!({ "volume_gib": volume_gib })),
            Act::Delete => (Method::DELETE, path, Value::Null),
        };
        let mut headers = HeaderMap::new();
        principal::write(&customer.principal, &mut headers);
        headers.insert("idempotency-key", format!("\"{key}\"").parse().unwrap());
        headers.insert("if-match", "*".parse().unwrap());
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let answer = customer.client.relay(method, path.as_str(), headers, body, Duration::from_secs(10)).await;
        answer.ok().map(|(status, _, _)| status)
    }

    /// Whether the answer says that it was taken on.
    fn taken(&self, status: StatusCode) -> bool {
        status == if self.act == Act::Resize { 200 } else { 202 }
    }

    /// Sends it once more, after an answer or without one: whether it is taken on, or a deletion is over already.
    async fn again(&self, customer: &Customer) -> bool {
        let status = self.send(customer).await.expect("the control plane runs");
        self.taken(status) || (self.act == Act::Delete && status == 404)
    }

    /// What it makes of what was there before.
    fn apply(&self, model: &mut Model) {
        let up = if fails(self.id) { InstanceState::Failed } else { InstanceState::Ready };
        let entry = model.entry(self.id).or_insert(Some(Expected { state: up, volume_gib: 1, epoch: 1 }));
        let Some(expected) = entry else { panic!("{self:?} of what was deleted") };
        match self.act {
            Act::Create => {}
            Act::Start | Act::Restart => (expected.state, expected.epoch) = (up, expected.epoch + 1),
            Act::Stop => expected.state = InstanceState::Stopped,
            Act::Resize => expected.volume_gib = self.volume_gib,
            Act::Delete => *entry = None,
        }
    }
}

/// A round's requests: something for each instance there is, in turn, and new ones.
fn burst(round: u128, model: &Model) -> Vec<Operation> {
    let mut burst = Vec::new();
    let turn = usize::try_from(round).unwrap();
    for (nth, (id, expected)) in model.iter().enumerate() {
        let Some(expected) = expected else { continue };
        let choice = match expected.state {
            InstanceState::Stopped => [Act::Start, Act::Resize, Act::Start, Act::Delete],
            InstanceState::Failed => [Act::Start, Act::Stop, Act::Resize, Act::Delete],
            _ => [Act::Stop, Act::Restart, Act::Resize, Act::Delete],
        };
        let act = choice[(nth + turn) % 4];
        burst.push(Operation { id: *id, act, key: format!("{round}-{id}"), volume_gib: expected.volume_gib + 2 });
    }
    for bits in 0..CREATED_A_ROUND {
        let id = InstanceId::from_bits(1 + round * CREATED_A_ROUND + bits);
        burst.push(Operation { id, act: Act::Create, key: format!("{round}-{id}"), volume_gib: 1 });
    }
    // Creations among the rest.
    burst.sort_by_key(|operation| operation.key.bytes().rev().collect::<Vec<_>>());
    burst
}

/// The node agent: reports at once, to whichever control plane process there is; what it holds outlives them.
async fn agent(mut node: Node, mut clients: watch::Receiver<PeerClient>) {
    loop {
        let client = clients.borrow_and_update().clone();
        let request = node.request(1);
        let sync = client.post::<_, SyncResponse>("/node/v1/sync", &request, HeaderMap::new(), Duration::from_secs(10));
        match sync.await {
            Ok(answer) => obey(&mut node, &answer),
            // It was killed: wait for the next one, or try again.
            Err(_) => {
                let _waited = tokio::time::timeout(Duration::from_millis(50), clients.changed()).await;
            }
        }
    }
}

fn obey(node: &mut Node, answer: &SyncResponse) {
    assert!(answer.generation >= node.generation, "the desired set went back from {}", node.generation);
    node.generation = answer.generation;
    for seen in &node.observed {
        let Some(desired) = answer.desired.iter().find(|desired| desired.id == seen.id) else {
            assert_eq!(seen.phase, Phase::Gone, "{} was forgotten", seen.id);
            continue;
        };
        assert!(desired.generation >= seen.generation && desired.epoch >= seen.epoch, "{} went back", seen.id);
    }
    node.observed.retain(|seen| answer.desired.iter().any(|desired| desired.id == seen.id));
    for desired in &answer.desired {
        let phase = match desired.power {
            Power::Running if fails(desired.id) => Phase::Failed,
            Power::Running => Phase::Ready,
            Power::Stopped => Phase::Stopped,
            Power::Deleted => Phase::Gone,
        };
        node.see(desired, phase, None);
    }
}

/// Waits until every instance is what it should be, with nothing awaited.
async fn settled(customer: &Customer, model: &Model, agent: &tokio::task::JoinHandle<()>) {
    let deadline = Instant::now() + SETTLED_WITHIN;
    for (id, expected) in model {
        loop {
            assert!(!agent.is_finished(), "the node agent gave up");
            let reply = customer.get(&format!("/v1/instances/{id}")).await;
            let done = match expected {
                None => reply.status == 404,
                Some(expected) => reply.status == 200 && is(&reply.instance(), *expected),
            };
            if done {
                break;
            }
            assert!(Instant::now() < deadline, "{id} should be {expected:?}, last seen: {}", reply.body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is(instance: &Instance, expected: Expected) -> bool {
    let kinds: Vec<ConditionKind> = instance.conditions.iter().map(|condition| condition.kind).collect();
    let told: &[ConditionKind] = if expected.state == InstanceState::Failed { &[ConditionKind::Failed] } else { &[] };
    (instance.state, instance.volume_gib, kinds.as_slice()) == (expected.state, expected.volume_gib, told)
}

/// Sends a burst, and kills the process when half of it is answered; gives the operations with their answers.
async fn killed_during(
    burst: Vec<Operation>,
    customer: &Customer,
    process: super::Process,
) -> Vec<(Operation, Option<StatusCode>)> {
    let half = burst.len() / 2;
    let mut tasks = tokio::task::JoinSet::new();
    for operation in burst {
        let customer = customer.clone();
        tasks.spawn(async move {
            let answer = operation.send(&customer).await;
            (operation, answer)
        });
    }
    let (mut done, mut process) = (Vec::new(), Some(process));
    while let Some(answered) = tasks.join_next().await {
        done.push(answered.unwrap());
        if done.len() == half {
            drop(process.take());
        }
    }
    assert!(process.is_none(), "{} requests, and it was never killed", done.len());
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_killed_during_any_operation_completes_all_that_it_accepted_and_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let authority = write_pki(folder.path());
    let database = folder.path().join("store.sqlite");
    let key = lambda_control::create_api_key(&database, None, &Scope::ALL).await.unwrap();
    let principal = Principal { key: key.id, project: key.project, scopes: Scope::ALL.to_vec() };
    let customer =
        |address| Customer { client: peer(&authority, address, Role::Gateway, "main"), principal: principal.clone() };

    let (mut process, mut address) = spawn(folder.path()).await;
    let mut node = cloud_node(&authority, address);
    node.offer = crate::common::offer(64, 1 << 20, 1000);
    node.sync(0).await;
    let (clients, receiver) = watch::channel(node.client.clone());
    let agent = tokio::spawn(agent(node, receiver));

    let (mut model, mut acts) = (Model::new(), BTreeMap::<Act, i64>::new());
    let (mut accepted, mut unanswered) = (BTreeSet::new(), BTreeSet::new());
    for round in 0.. {
        if round >= ROUNDS && (accepted.len(), unanswered.len()) == (6, 6) {
            break;
        }
        assert!(round < MOST_ROUNDS, "only {accepted:?} were accepted and {unanswered:?} interrupted");
        let done = killed_during(burst(round, &model), &customer(address), process).await;
        (process, address) = spawn(folder.path()).await;
        clients.send_replace(cloud_node(&authority, address).client);
        let customer = customer(address);
        for (operation, answer) in &done {
            operation.apply(&mut model);
            *acts.entry(operation.act).or_default() += 1;
            if let Some(status) = answer {
                assert!(operation.taken(*status), "{operation:?}: {status}");
                accepted.insert(operation.act);
            } else {
                unanswered.insert(operation.act);
                assert!(operation.again(&customer).await, "{operation:?}");
            }
        }
        settled(&customer, &model, &agent).await;
        assert_books(&database, &model, &acts).await;
        for (operation, _) in done.iter().filter(|(_, answer)| answer.is_some()) {
            assert!(operation.again(&customer).await, "{operation:?}");
        }
        settled(&customer, &model, &agent).await;
        assert_books(&database, &model, &acts).await;
    }
    agent.abort();
    drop(process);
}

/// The sums hold, each operation has left its audit entry once, and nothing was booked or booted that nobody wanted.
async fn assert_books(database: &Path, model: &Model, acts: &BTreeMap<Act, i64>) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sums_hold(&pool).await;
    for (event, act) in [
        ("instance-created", Act::Create),
        ("instance-started", Act::Start),
        ("instance-stopped", Act::Stop),
        ("instance-restarted", Act::Restart),
        ("instance-volume-grown", Act::Resize),
        ("instance-deletion-requested", Act::Delete),
        ("instance-removed", Act::Delete),
    ] {
        let sql = "SELECT COUNT(*) FROM audit WHERE event LIKE '%\"' || ? || '\"%'";
        let entries: i64 = sqlx::query(sql).bind(event).fetch_one(&pool).await.unwrap().get(0);
        assert_eq!(entries, acts.get(&act).copied().unwrap_or_default(), "{event}");
    }
    let rows = sqlx::query("SELECT id, epoch, volume_gib, compute_held FROM instances").fetch_all(&pool).await.unwrap();
    assert_eq!(rows.len(), model.values().flatten().count());
    for row in rows {
        let id: InstanceId = row.get::<String, _>("id").parse().unwrap();
        let Some(Some(expected)) = model.get(&id) else { panic!("{id} was not asked for, or deleted") };
        let held = i64::from(expected.state != InstanceState::Stopped);
        let found: (i64, i64, i64) = (row.get("epoch"), row.get("volume_gib"), row.get("compute_held"));
        assert_eq!(found, (expected.epoch, i64::from(expected.volume_gib), held), "{id}");
    }
    pool.close().await;
}
