//! Killed in the middle, or out of disk: what was acknowledged is there, and the books balance.
#![allow(missing_docs)]

mod common;
#[path = "crash/operations.rs"]
mod operations;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Cloud, Customer, config, create_body, find, peer, write_pki};
use lambda_transport::{Role, Shutdown, principal};
use lambda_types::InstanceId;
use lambda_types::api_key::{Principal, Scope};
use lambda_types::instance::Phase;
use sqlx::Row as _;

const FOLDER: &str = "LAMBDA_TEST_CONTROL_FOLDER";

/// Not a test: the control plane process that the tests of this file kill.
#[tokio::test]
#[ignore = "run by the tests of this file, which kill it"]
async fn control_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    lambda_transport::pki::write_file(&folder.join("address"), address.as_bytes(), 0o600).unwrap();
    lambda_control::run(config(&folder, listener), Shutdown::new()).await.unwrap();
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        self.0.wait().unwrap();
    }
}

async fn spawn(folder: &std::path::Path) -> (Process, std::net::SocketAddr) {
    let file = folder.join("address");
    let _absent = std::fs::remove_file(&file);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_process", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    for _ in 0..400 {
        if let Ok(text) = std::fs::read_to_string(&file) {
            return (process, text.parse().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the control plane wrote no address within 10 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let authority = write_pki(folder.path());
    let database = folder.path().join("store.sqlite");
    let mut acknowledged: Vec<(Principal, InstanceId)> = Vec::new();
    for round in 0u128..4 {
        // A project each, so that no quota refuses.
        let key = lambda_control::create_api_key(&database, None, &Scope::ALL).await.unwrap();
        let principal = Principal { key: key.id, project: key.project, scopes: Scope::ALL.to_vec() };
        let (process, address) = spawn(folder.path()).await;
        let client = peer(&authority, address, Role::Gateway, "main");
        let customer = Customer { client, principal: principal.clone() };
        let mut node = cloud_node(&authority, address);
        node.sync(0).await;
        let mut tasks = tokio::task::JoinSet::new();
        for bits in 0..40 {
            let customer = customer.clone();
            let id = InstanceId::from_bits(1 + round * 1000 + bits);
            tasks.spawn(async move { (id, try_create(&customer, id).await) });
        }
        let mut seen = 0;
        while let Some(done) = tasks.join_next().await {
            let (id, accepted) = done.unwrap();
            if accepted {
                acknowledged.push((principal.clone(), id));
                seen += 1;
            }
            if seen == 10 {
                break;
            }
        }
        drop(process);
        while let Some(done) = tasks.join_next().await {
            let (id, accepted) = done.unwrap();
            if accepted {
                acknowledged.push((principal.clone(), id));
            }
        }
    }
    assert!(acknowledged.len() >= 40);
    let (_process, address) = spawn(folder.path()).await;
    let client = peer(&authority, address, Role::Gateway, "main");
    for (principal, id) in acknowledged {
        Customer { client: client.clone(), principal }.show(id).await;
    }
    books_balance(&database).await;
}

fn cloud_node(authority: &lambda_transport::pki::Authority, address: std::net::SocketAddr) -> common::Node {
    let id = lambda_types::NodeId::from_bits(1);
    let client = peer(authority, address, Role::Node, &id.to_string());
    common::Node { client, id, offer: common::offer(20, 1 << 20, 1000), generation: 0, observed: Vec::new() }
}

async fn try_create(customer: &Customer, id: InstanceId) -> bool {
    let mut headers = http::HeaderMap::new();
    principal::write(&customer.principal, &mut headers);
    headers.insert("idempotency-key", format!("\"{id}\"").parse().unwrap());
    let body = serde_json::to_vec(&create_body(id)).unwrap();
    let answer =
        customer.client.relay(http::Method::POST, "/v1/instances", headers, body, Duration::from_secs(10)).await;
    matches!(answer, Ok((status, _, _)) if status == 202)
}

/// The sums hold; every instance has its audit entry and its remembered answer.
async fn books_balance(database: &std::path::Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sums_hold(&pool).await;
    let one = async |sql: &'static str| -> i64 { sqlx::query(sql).fetch_one(&pool).await.unwrap().get(0) };
    let created = one("SELECT COUNT(*) FROM audit WHERE event LIKE '%\"instance-created\"%'").await;
    assert_eq!(created, one("SELECT COUNT(*) FROM instances").await);
    assert_eq!(created, one("SELECT COUNT(*) FROM idempotency").await);
}

/// What each node has given out is the sum of what its instances hold (all of them nano), no audit entry is missing, no node
/// was ahead of the store, and the file and its constraints are whole.
async fn sums_hold(pool: &sqlx::SqlitePool) {
    let one = async |sql: &'static str| -> i64 { sqlx::query(sql).fetch_one(pool).await.unwrap().get(0) };
    let held = one("SELECT COUNT(*) FROM instances WHERE compute_held = 1").await;
    assert_eq!(one("SELECT COALESCE(SUM(vcpus_used), 0) FROM nodes").await, held);
    assert_eq!(one("SELECT COALESCE(SUM(memory_used_mib), 0) FROM nodes").await, held * 512);
    assert_eq!(
        one("SELECT COALESCE(SUM(disk_used_gib), 0) FROM nodes").await,
        one("SELECT COALESCE(SUM(volume_gib), 0) FROM instances WHERE node IS NOT NULL").await
    );
    assert_eq!(one("SELECT COUNT(*) FROM audit").await, one("SELECT MAX(seq) FROM audit").await);
    assert_eq!(one("SELECT COUNT(*) FROM audit WHERE event LIKE '%-adopted\"%'").await, 0);
    let row = sqlx::query("PRAGMA integrity_check").fetch_one(pool).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "ok");
    assert!(sqlx::query("PRAGMA foreign_key_check").fetch_all(pool).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restarted_control_plane_goes_on_where_it_was() {
    let mut cloud = Cloud::start().await;
    let mut node = cloud.node(1);
    node.sync(0).await;
    let id = InstanceId::from_bits(1);
    let body = create_body(id);
    let first = cloud.customer().post("/v1/instances", "k1", &body).await;
    let desired = find(&node.sync(30).await, id);
    node.report(&desired, Phase::Ready).await;
    let before = node.generation;
    cloud.restart().await;
    let (customer, mut fresh) = (cloud.customer(), cloud.node(1));
    (fresh.generation, fresh.observed) = (before, node.observed.clone());
    assert_eq!(customer.post("/v1/instances", "k1", &body).await.body, first.body);
    assert!(customer.show(id).await.conditions.is_empty());
    assert_eq!(fresh.sync(0).await.generation, before);
    customer.power(id, "restart").await;
    assert_eq!(find(&fresh.sync(30).await, id).epoch, 2);
}

/// A disk of its own, of which the test says how much is free.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
        disk
    }

    fn mount(&self, arguments: &[&str]) {
        assert!(Command::new("mount").args(arguments).arg(self.0.path()).status().unwrap().success(), "{arguments:?}");
    }

    /// Leaves no page free.
    fn fill(&self) {
        let output = Command::new("df").args(["-B4096", "--output=used"]).arg(self.0.path()).output().unwrap();
        let pages =
            String::from_utf8(output.stdout).unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap();
        self.mount(&["-o", &format!("remount,size={}", pages * 4096)]);
    }

    fn free(&self) {
        self.mount(&["-o", "remount,size=64m"]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status().is_ok_and(|it| it.success());
        assert!(unmounted || std::thread::panicking(), "{} stays mounted", self.0.path().display());
    }
}

/// Creates until there is no room any more; gives what was acknowledged and what was not. The log may have some room left that it
/// uses again.
async fn create_until_full(customer: &Customer, first: u128) -> (Vec<InstanceId>, InstanceId) {
    let mut acknowledged = Vec::new();
    for bits in first..first + 40 {
        let id = InstanceId::from_bits(bits);
        let reply = customer.post("/v1/instances", &id.to_string(), &create_body(id)).await;
        if reply.status == 202 {
            acknowledged.push(id);
            continue;
        }
        assert_eq!((reply.status.as_u16(), reply.code()), (503, "unavailable"), "{}", reply.body);
        assert!(reply.body["detail"].as_str().unwrap().contains("disk is full"), "{}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        return (acknowledged, id);
    }
    panic!("the disk is full and {} instances were created", acknowledged.len());
}

#[tokio::test]
async fn a_full_disk_is_said_loses_nothing_and_what_was_refused_works_when_there_is_room() {
    let disk = Disk::new();
    let folder = tempfile::tempdir_in(disk.0.path()).unwrap();
    let authority = write_pki(folder.path());
    let database = folder.path().join("store.sqlite");
    let key = lambda_control::create_api_key(&database, None, &Scope::ALL).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let running = Some(tokio::spawn(lambda_control::run(config(folder.path(), listener), shutdown.clone())));
    let mut cloud = Cloud { folder, address, authority, shutdown, running, key };
    let mut node = cloud_node(&cloud.authority, address);
    node.sync(0).await;
    let mut kept = vec![InstanceId::from_bits(1)];
    assert_eq!(cloud.customer().create(kept[0]).await.status, 202);

    disk.fill();
    let (acknowledged, refused) = create_until_full(&cloud.customer(), 100).await;
    kept.extend(acknowledged);
    // Another process on the full disk: it reads, refuses what has no room, and goes on.
    cloud.restart().await;
    let customer = cloud.customer();
    let (acknowledged, later) = create_until_full(&customer, 200).await;
    kept.extend(acknowledged);
    for id in &kept {
        customer.show(*id).await;
    }
    for id in [refused, later] {
        assert_eq!(customer.get(&format!("/v1/instances/{id}")).await.status, 404);
    }

    disk.free();
    for id in [refused, later] {
        let reply = customer.post("/v1/instances", &id.to_string(), &create_body(id)).await;
        assert_eq!(reply.status, 202, "the same request as before: {}", reply.body);
        customer.show(id).await;
    }
    cloud.stop().await;
    books_balance(&database).await;
}
