//! The supervisor with real roles, as root, on ports that the kernel picks.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const BOUND: Duration = Duration::from_secs(40);

/// Waits for `probe` to give something; the panic says what it saw last.
fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > BOUND => panic!("waited {BOUND:?} for {what}; last seen: {seen}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

struct Region {
    folder: TempDir,
    up: Child,
}

impl Region {
    fn start() -> Self {
        let folder = tempfile::Builder::new().permissions(passable()).tempdir_in("/tmp").unwrap();
        let up = spawn_up(&folder.path().join("d"), &folder.path().join("up.log"));
        let region = Self { folder, up };
        region.endpoint();
        region
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    fn endpoint(&self) -> Value {
        let log = self.folder.path().join("up.log");
        wait_for("endpoint.json", || {
            let bytes = std::fs::read(self.data().join("run/endpoint.json"))
                .map_err(|_| std::fs::read_to_string(&log).unwrap_or_default())?;
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())
        })
    }

    fn pid(&self, role: &str) -> u64 {
        self.endpoint()["pids"][role].as_u64().unwrap_or_else(|| panic!("no pid of {role}"))
    }

    fn down(&self, more: &[&str]) -> Output {
        lambdad(&["down", "--data"]).arg(self.data()).args(more).output().unwrap()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let output = self.down(&[]);
        let _ = self.up.wait();
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn passable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o711)
}

fn lambdad(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lambdad"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn spawn_up(data: &Path, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    let mut up = lambdad(&["up", "--data"]);
    up.arg(data).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn signal(pid: u64, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// A process that runs: neither gone nor waiting to be collected.
fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn status_field(pid: u64, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap();
    line.to_owned()
}

#[test]
fn a_killed_role_comes_back_at_the_same_address() {
    let region = Region::start();
    let before = region.endpoint();
    for role in ["gateway", "control", "node"] {
        let old = region.pid(role);
        signal(old, "KILL");
        wait_for("a new process", || match region.endpoint()["pids"][role].as_u64() {
            Some(pid) if pid != old && runs(pid) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    assert_eq!(region.endpoint()["gateway"], before["gateway"]);
}

#[test]
fn only_the_node_has_privileges_and_it_cannot_gain_more() {
    let region = Region::start();
    for role in ["gateway", "control"] {
        let pid = region.pid(role);
        assert!(!status_field(pid, "Uid").split('\t').any(|uid| uid == "0"), "{role} runs as root");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status_field(pid, set), 16).unwrap(), 0, "{role}: {set}");
        }
        assert_eq!(status_field(pid, "NoNewPrivs"), "1");
        assert_eq!(status_field(pid, "Groups").trim(), "", "{role} kept supplementary groups");
    }
    let documented = lambda_node::CAPABILITIES.bits();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let held = u64::from_str_radix(&status_field(region.pid("node"), set), 16).unwrap();
        assert_eq!(held, documented, "node: {set}");
    }
}

#[test]
fn roles_end_with_a_killed_supervisor_and_a_second_start_works() {
    let mut region = Region::start();
    let pids = ["gateway", "control", "node"].map(|role| region.pid(role));
    let gateway = region.endpoint()["gateway"].clone();
    region.up.kill().unwrap();
    region.up.wait().unwrap();
    wait_for("the roles to end", || {
        let left: Vec<_> = pids.into_iter().filter(|pid| runs(*pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    std::fs::remove_file(region.data().join("run/endpoint.json")).unwrap();
    region.up = spawn_up(&region.data(), &region.folder.path().join("up.log"));
    assert_eq!(region.endpoint()["gateway"], gateway, "customers know the address: it stays");
}

#[test]
fn a_second_up_on_the_same_folder_is_refused() {
    let region = Region::start();
    let output = lambdad(&["up", "--data"]).arg(region.data()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("already runs"));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::Builder::new().permissions(passable()).tempdir_in("/tmp").unwrap();
    let output = lambdad(&["up", "--listen", &address, "--data"]).arg(folder.path().join("d")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn keys_are_made_while_the_region_runs_and_their_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let region = Region::start();
    let file = region.folder.path().join("second.key");
    let create = || {
        let mut command = lambdad(&["api-key", "create", "--project", "new", "--data"]);
        command.arg(region.data()).arg("--out").arg(&file).output().unwrap()
    };
    let made = create();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for key in [&file, &region.data().join("customer/api.key")] {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(key).unwrap().starts_with("lam_"));
    }
    assert_ne!(std::fs::read(&file).unwrap(), std::fs::read(region.data().join("customer/api.key")).unwrap());
    assert!(!create().status.success(), "a key file is never overwritten");
}

#[test]
fn a_key_has_the_scopes_that_were_asked_for_and_can_be_revoked() {
    let region = Region::start();
    let key =
        |arguments: &[&str]| lambdad(&["api-key"]).args(arguments).arg("--data").arg(region.data()).output().unwrap();
    let out = region.folder.path().join("broker.key");
    let scoped = ["create", "--project", "new", "--scope", "read", "--scope", "broker", "--out", out.to_str().unwrap()];
    let made = key(&scoped);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let id = String::from_utf8(made.stdout).unwrap().split(' ').next().unwrap().to_owned();
    let line = || {
        let listed = String::from_utf8(key(&["list"]).stdout).unwrap();
        assert_eq!(listed.lines().count(), 2, "{listed}");
        listed.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("{id} in {listed}")).to_owned()
    };
    assert!(line().ends_with("active  read, broker"), "{}", line());
    assert!(key(&["revoke", &id]).status.success());
    assert!(line().ends_with("revoked  read, broker"), "{}", line());
    assert!(!key(&["revoke", "key_00000000000000000000000001"]).status.success(), "there is none");
    let settings = std::fs::read_to_string(region.data().join("settings.json")).unwrap();
    let node = settings.split('"').find(|word| word.starts_with("node_")).unwrap().to_owned();
    let forget = lambdad(&["forget-node", &node, "--data"]).arg(region.data()).output().unwrap();
    let said = String::from_utf8_lossy(&forget.stderr).into_owned();
    assert!(!forget.status.success() && said.contains("heard from"), "{said}");
    assert!(!key(&["create", "--project", "new", "--scope", "root", "--out", "/nowhere"]).status.success());
}

#[test]
fn down_ends_everything_and_purge_removes_the_folder() {
    let mut region = Region::start();
    let pids = ["gateway", "control", "node"].map(|role| region.pid(role));
    let output = region.down(&["--purge"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    region.up.wait().unwrap();
    assert!(pids.into_iter().all(|pid| !runs(pid)));
    assert!(!region.data().exists());
}
