//! A node on this machine: certificates, an image, a control plane, and the agent as a child process.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use lambda_node::{Capacity, NodeConfig};
use lambda_transport::{Identity, Limits, PeerIdentity, Protocol, Role, Roots, Shutdown, pki, tls};
use lambda_types::guest::GuestNetwork;
use lambda_types::image::{Expected, ImageManifest, Part, Verity, file};
use lambda_types::instance::{Phase, Power};
use lambda_types::mailbox::Message;
use lambda_types::node::{Acceleration, DesiredInstance, ObservedInstance, SyncRequest, SyncResponse};
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{Binary, BootId, ImageId, InstanceId, NodeId, VolumeId};
use sha2::{Digest as _, Sha256};

/// Set for the child that is the agent.
const AGENT: &str = "LAMBDA_TEST_AGENT";

/// How many vTPMs the agent keeps ready.
const POOL: &str = "LAMBDA_TEST_POOL";

pub(crate) const NODE: NodeId = NodeId::from_bits(7);

/// The boot that the stub guest claims.
pub(crate) const BOOT: BootId = BootId::from_bits(1);

/// Longest wait for a condition, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Control {
    response: Mutex<Option<SyncResponse>>,
    latest: Mutex<Option<SyncRequest>>,
    changed: tokio::sync::Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sync(State(control): State<Arc<Control>>, Json(request): Json<SyncRequest>) -> Json<SyncResponse> {
    let wait = Duration::from_secs(request.wait_seconds.into());
    let held = request.generation;
    *lock(&control.latest) = Some(request);
    let newer = async {
        loop {
            let changed = control.changed.notified();
            if lock(&control.response).as_ref().is_some_and(|response| response.generation > held) {
                return;
            }
            changed.await;
        }
    };
    let _ = tokio::time::timeout(wait, newer).await;
    let response = lock(&control.response).clone();
    Json(response.unwrap_or(SyncResponse { generation: 0, desired: Vec::new() }))
}

pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    control: Arc<Control>,
    control_address: SocketAddr,
    shutdown: Shutdown,
    agent: Option<Child>,
    pub(crate) internal: pki::Authority,
    pub(crate) qemu: PathBuf,
    pub(crate) swtpm: PathBuf,
    pub(crate) nft: PathBuf,
    /// vTPMs that the agent keeps ready.
    pub(crate) pool: usize,
}

impl Bench {
    /// A running control plane, no agent yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["node", "control", "identity", "node-ca", "images"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let internal = pki::Authority::generate("internal").unwrap();
        std::fs::write(path("internal-ca.pem"), internal.certificate_pem()).unwrap();
        internal
            .issue_peer(&PeerIdentity::new(Role::Node, NODE.to_string()), &[])
            .unwrap()
            .save(&path("identity"))
            .unwrap();
        internal.issue_peer(&PeerIdentity::new(Role::Control, "test"), &[]).unwrap().save(&path("control")).unwrap();
        let platform = pki::Authority::generate("platform").unwrap();
        platform.issue_authority("node").unwrap().save(&path("node-ca")).unwrap();

        let qemu = path("stub-qemu");
        std::fs::write(&qemu, include_bytes!("stub_qemu.py")).unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (control, shutdown) = (Arc::new(Control::default()), Shutdown::new());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control_address = listener.local_addr().unwrap();
        let identity = Identity::load(&path("control")).unwrap();
        let config = tls::mutual_server_config(identity, &roots(&internal), Protocol::Http).unwrap();
        let router = Router::new().route("/node/v1/sync", post(sync)).with_state(control.clone());
        listener.set_nonblocking(true).unwrap();
        let stop = shutdown.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            lambda_transport::serve(listener, config, router, Limits::internal(), stop).await;
        });
        let (swtpm, nft) = ("/usr/bin/swtpm".into(), "/usr/sbin/nft".into());
        Self { folder, runtime, control, control_address, shutdown, agent: None, internal, qemu, swtpm, nft, pool: 2 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn node_dir(&self) -> PathBuf {
        self.path("node")
    }

    pub(crate) fn instance_dir(&self, id: InstanceId) -> PathBuf {
        self.node_dir().join("instances").join(id.to_string())
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Starts the agent: this test binary again, running [`agent_process`] with the capabilities that it
    /// names and no other.
    pub(crate) fn start_agent(&mut self) {
        let settings = [
            self.folder.path().display().to_string(),
            self.control_address.to_string(),
            self.qemu.display().to_string(),
            self.swtpm.display().to_string(),
            self.nft.display().to_string(),
        ];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let child = Command::new("setpriv")
            .args(["--inh-caps=-all", &format!("--bounding-set={}", capabilities())])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "harness::agent_process", "--ignored", "--nocapture"])
            .env(AGENT, settings.join("\n"))
            .env(POOL, self.pool.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    /// `kill -9`.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    pub(crate) fn desire(&self, generation: u64, desired: Vec<DesiredInstance>) {
        *lock(&self.control.response) = Some(SyncResponse { generation, desired });
        self.control.changed.notify_waiters();
    }

    pub(crate) fn latest(&self) -> Option<SyncRequest> {
        lock(&self.control.latest).clone()
    }

    pub(crate) fn observed(&self, id: InstanceId) -> Option<ObservedInstance> {
        self.latest()?.observed.into_iter().find(|observed| observed.id == id)
    }

    /// Waits until the agent reports what satisfies `wanted`.
    pub(crate) fn await_observed(
        &self,
        id: InstanceId,
        what: &str,
        wanted: impl Fn(&ObservedInstance) -> bool,
    ) -> ObservedInstance {
        self.wait_for(what, || self.observed(id).filter(&wanted), || format!("{:?}", self.observed(id)))
    }

    pub(crate) fn await_phase(&self, id: InstanceId, phase: Phase) -> ObservedInstance {
        self.await_observed(id, &format!("{phase:?}"), |observed| observed.phase == phase)
    }

    pub(crate) fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>, seen: impl Fn() -> String) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = check() {
                return found;
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
                panic!("no {what} within {PATIENCE:?}; last seen: {}\nagent's log:\n{log}", seen());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the agent wrote down of an instance.
    pub(crate) fn record(&self, id: InstanceId) -> serde_json::Value {
        let bytes = std::fs::read(self.instance_dir(id).join("state.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn pid(&self, id: InstanceId, process: &str) -> i32 {
        let record = self.record(id);
        i32::try_from(record[process]["pid"].as_i64().unwrap()).unwrap()
    }

    /// Processes that run and work in this folder or below it.
    pub(crate) fn processes_in(&self, folder: &Path) -> Vec<i32> {
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let within =
            |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|working| working.starts_with(folder));
        pids.filter(|pid| within(pid) && alive(*pid)).collect()
    }

    /// Makes an image whose guest is played by the stub in this mode.
    pub(crate) fn image(&self, mode: &str) -> ImageId {
        write_image(&self.path("images").join(mode), mode)
    }

    /// Offers an image from elsewhere.
    pub(crate) fn link_image(&self, source: &Path) -> ImageId {
        std::os::unix::fs::symlink(source, self.path("images/linked")).unwrap();
        image_id(&std::fs::read(source.join(file::MANIFEST)).unwrap())
    }

    /// Runs a program inside the node's namespace.
    pub(crate) fn inside(&self, script: &str) -> String {
        let net = format!("--net={}", self.node_dir().join("netns").display());
        let output = Command::new("nsenter").args([&net, "/bin/sh", "-c", script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.kill_agent();
        let left = lambda_node::teardown(&self.node_dir());
        if !std::thread::panicking() {
            assert_eq!(left.unwrap(), Vec::<String>::new());
        }
    }
}

pub(crate) fn roots(authority: &pki::Authority) -> Roots {
    Roots::from_pem(authority.certificate_pem()).unwrap()
}

fn write_image(folder: &Path, mode: &str) -> ImageId {
    std::fs::create_dir_all(folder).unwrap();
    let mut parts = std::collections::BTreeMap::new();
    for name in [file::KERNEL, file::INITRAMFS, file::ROOT, file::FIRMWARE] {
        std::fs::write(folder.join(name), name).unwrap();
        let sha256 = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        parts.insert(name.to_owned(), Part { size: name.len() as u64, sha256 });
    }
    let manifest = ImageManifest {
        format: 1,
        name: mode.into(),
        version: "1".into(),
        parts,
        verity: Verity { root_hash: String::new(), salt: String::new(), data_size: 0 },
        command_line: format!("{mode} quiet"),
        expected: Expected::default(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(folder.join(file::MANIFEST), &bytes).unwrap();
    image_id(&bytes)
}

fn image_id(manifest: &[u8]) -> ImageId {
    let bits = Sha256::digest(manifest).iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
    ImageId::from_bits(bits)
}

/// A running instance in segment 10.77.0.4·n.
pub(crate) fn instance(number: u8, image: ImageId, power: Power, epoch: u64) -> DesiredInstance {
    DesiredInstance {
        id: InstanceId::from_bits(number.into()),
        generation: epoch,
        power,
        epoch,
        shape: Shape::Nano,
        image,
        profile: LaunchProfile::Tpm,
        launch: None,
        volume: VolumeId::from_bits(number.into()),
        volume_gib: 1,
        network: GuestNetwork {
            mac: format!("02:00:00:00:00:{number:02x}"),
            address: [10, 77, 0, number * 4 + 2].into(),
            prefix: 30,
            gateway: [10, 77, 0, number * 4 + 1].into(),
        },
        broker: None,
    }
}

pub(crate) fn broker(seq: u64) -> Option<Message> {
    Some(Message { boot: BOOT, seq, body: Binary(b"challenge".to_vec()) })
}

/// What setpriv takes: no capability but those that the agent says it needs.
fn capabilities() -> String {
    let wanted = lambda_node::CAPABILITIES.iter_names().map(|(name, _)| format!(",+{}", name.to_lowercase()));
    format!("-all{}", wanted.collect::<String>())
}

/// Whether a process runs; a zombie that nobody reaps does not.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Not a test: the agent's process.
#[test]
#[ignore = "run by the other tests as the agent's process"]
fn agent_process() {
    let Ok(settings) = std::env::var(AGENT) else { return };
    let settings: Vec<&str> = settings.split('\n').collect();
    let [folder, control, qemu, swtpm, nft] = settings[..] else { panic!("settings") };
    let folder = Path::new(folder);
    tracing_subscriber::fmt().with_env_filter("lambda_node=debug").with_ansi(false).with_writer(std::io::stderr).init();
    let config = NodeConfig {
        node: NODE,
        data_dir: folder.join("node"),
        control: control.parse().unwrap(),
        identity: folder.join("identity"),
        internal_ca: folder.join("internal-ca.pem"),
        node_ca: folder.join("node-ca"),
        images: vec![folder.join("images")],
        qemu: qemu.into(),
        swtpm: swtpm.into(),
        nft: nft.into(),
        uid_base: lambda_node::DEFAULT_UID_BASE,
        capacity: Some(Capacity { vcpus: 100, memory_mib: 65536, disk_gib: 100 }),
        acceleration: Some(Acceleration::Tcg),
        vtpm_pool: std::env::var(POOL).map_or(2, |size| size.parse().unwrap()),
        tunnel: TcpListener::bind("127.0.0.1:0").unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(lambda_node::run(config, Shutdown::new())).unwrap();
}
