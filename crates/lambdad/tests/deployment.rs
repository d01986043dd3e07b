//! The program on data folders of its own: what root does there, what it makes, and what it leaves behind.
#![allow(missing_docs)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONTROL: u32 = 61_002;
const PATIENCE: Duration = Duration::from_secs(90);

struct Place {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, children: Vec::new() }
    }

    fn data(&self, path: &str) -> PathBuf {
        self.folder.path().join("data").join(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lambdad"));
        let words: Vec<&str> = arguments.iter().flat_map(|argument| argument.split(' ')).collect();
        command.args(words).arg("--data").arg(self.data("")).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(&[arguments]).output().unwrap()
    }

    fn done(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        stderr(&output)
    }

    fn start(&mut self, arguments: &str) -> i32 {
        let log = std::fs::File::create(self.folder.path().join("stderr")).unwrap();
        let child = self.command(&[arguments]).stderr(log).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.children.push(child);
        pid
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// A store, made by the control plane itself.
    fn with_store() -> Self {
        let mut place = Self::new();
        place.done("init");
        place.start("control");
        let store = place.data("control/state/store.sqlite");
        until("a store", || store.exists() && std::fs::read(store.with_extension("sqlite-wal")).is_ok());
        place
    }

    fn end(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            child.wait().unwrap();
        }
        self.children.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end();
        let output = self.run("down --now");
        assert!(std::thread::panicking() || output.status.success(), "{}", stderr(&output));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn as_control(script: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", script])
        .uid(CONTROL)
        .gid(CONTROL)
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path, &std::fs::Metadata)) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        visit(&entry.path(), &metadata);
        if metadata.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}

fn names(certificate: &Path) -> String {
    let output = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(certificate).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_role_can_write_to_no_folder_that_root_works_in() {
    let place = Place::new();
    place.done("init");
    for role in ["gateway", "control"] {
        walk(&place.data(role), &mut |path, metadata| {
            if path != place.data("control/state") {
                assert_eq!((metadata.uid(), metadata.mode() & 0o022), (0, 0), "{}", path.display());
            }
        });
        assert_eq!(place.data(role).metadata().unwrap().uid(), 0);
    }
    let data = place.data("");
    let may = |script: &str| as_control(&format!("cd {}/control && {script}", data.display()));
    assert!(may("cat internal/key.pem platform-ca.pem internal-ca.pem && touch state/x"));
    for forbidden in [
        "mv internal elsewhere",
        "mv state elsewhere",
        "rm platform-ca.pem",
        "touch x",
        "touch internal/x",
        "echo x >>internal/cert.pem",
        "chmod 0777 .",
        "cat ../gateway/internal/key.pem",
        "cat ../pki/internal/key.pem",
    ] {
        assert!(!may(forbidden), "{forbidden}");
    }
}

#[test]
fn links_that_a_taken_over_control_plane_plants_lead_root_nowhere() {
    let mut place = Place::with_store();
    place.end();
    let victim = place.folder.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "root's").unwrap();
    std::fs::set_permissions(victim.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let state = place.data("control/state");
    for name in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm", "store.sqlite-journal"] {
        let _ = std::fs::remove_file(state.join(name));
        symlink(victim.join("file"), state.join(name)).unwrap();
    }
    symlink(&victim, state.join("folder")).unwrap();
    let output = place.run("api-key create --project new --out stolen.key");
    assert!(!output.status.success());
    assert!(!place.folder.path().join("stolen.key").exists());
    place.done("init");
    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "root's");
    walk(&victim, &mut |path, metadata| assert_eq!(metadata.uid(), 0, "{}", path.display()));
}

#[test]
fn a_key_goes_to_a_file_named_without_a_folder_and_never_over_another() {
    let place = Place::with_store();
    place.done("api-key create --project new --out k.key");
    let file = place.folder.path().join("k.key");
    let key = std::fs::read_to_string(&file).unwrap();
    assert_eq!((file.metadata().unwrap().mode() & 0o777, file.metadata().unwrap().uid()), (0o600, 0));
    assert!(key.len() > 20, "{}", key.len());
    let again = place.run("api-key create --project new --out k.key");
    assert!(!again.status.success() && stderr(&again).contains("never overwrites"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), key);
    let nobody = "api-key create --project proj_00000000000000000000000001 --out other.key";
    assert!(!place.run(nobody).status.success());
    assert!(!place.folder.path().join("other.key").exists());
    // What was made beside the store belongs to the control plane, which goes on with it.
    walk(&place.data("control/state"), &mut |path, metadata| assert_eq!(metadata.uid(), CONTROL, "{}", path.display()));
}

#[test]
fn another_address_or_name_and_a_certificate_that_ends_soon_are_issued_again() {
    let place = Place::new();
    place.done("init");
    let (public, internal) = (place.data("gateway/public/cert.pem"), place.data("gateway/internal/cert.pem"));
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (first, peer) = (read(&public), read(&internal));
    assert_eq!(place.done("init"), "");
    assert_eq!(read(&public), first);
    let said = place.done("init --listen 127.0.0.9:0 --name cloud.example");
    assert!(said.contains("gateway/public/cert.pem again: it did not name"), "{said}");
    let text = names(&public);
    assert!(text.contains("IP Address:127.0.0.9") && text.contains("DNS:cloud.example"), "{text}");
    assert_eq!(read(&internal), peer);
    assert!(!place.run("init --name no/name").status.success());

    let script = "openssl req -new -key gateway/internal/key.pem -subj /CN=x -addext subjectAltName=DNS:gateway -out r.pem && \
                  openssl x509 -req -in r.pem -days 89 -copy_extensions copy -CA pki/internal/cert.pem \
                  -CAkey pki/internal/key.pem -CAcreateserial -out short.pem && cp short.pem gateway/internal/cert.pem";
    let status = Command::new("/bin/sh").args(["-c", script]).current_dir(place.data("")).output().unwrap();
    assert!(status.status.success(), "{}", stderr(&status));
    let said = place.done("init");
    assert!(said.contains("gateway/internal/cert.pem again: it had 88 days left"), "{said}");
    assert_eq!(place.done("init"), "");
}

#[test]
fn a_wildcard_listener_has_every_address_of_the_machine_in_its_certificate() {
    let place = Place::new();
    place.done("init --listen 0.0.0.0:0");
    let text = names(&place.data("gateway/public/cert.pem"));
    let output = Command::new("hostname").arg("-I").output().unwrap();
    let addresses = String::from_utf8_lossy(&output.stdout).into_owned();
    for address in addresses.split_ascii_whitespace().filter(|address| address.contains('.')) {
        assert!(text.contains(&format!("IP Address:{address}")), "{address}: {text}");
    }
}

#[test]
fn a_role_that_never_starts_ends_the_first_start_with_the_end_of_its_log() {
    let place = Place::new();
    place.done("init");
    std::fs::write(place.data("node/instances"), "not a folder").unwrap();
    let output = place.run("up");
    std::fs::remove_file(place.data("node/instances")).unwrap();
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("node does not start") && said.contains("cannot read the instances"), "{said}");
}

/// Processes whose command line names the data folder.
fn processes(data: &Path) -> Vec<(i32, String)> {
    let data = data.display().to_string();
    let found = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
        (line.contains(data.trim_end_matches('/')) && line.contains("lambdad")).then_some((pid, line))
    });
    found.collect()
}

/// The cgroups that lambda has on this machine, in every hierarchy.
fn groups(node: &Path) -> Vec<PathBuf> {
    use std::fmt::Write as _;
    let digest =
        Command::new("/bin/sh").args(["-c", &format!("printf %s {} | sha256sum", node.display())]).output().unwrap();
    let mut name = String::from("lambda-");
    write!(name, "{}", String::from_utf8_lossy(&digest.stdout).get(..16).unwrap()).unwrap();
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).chain([root.into()]);
    hierarchies.map(|hierarchy| hierarchy.join(&name)).filter(|path| path.exists()).collect()
}

#[test]
fn down_leaves_nothing_of_a_supervisor_and_a_node_that_were_killed() {
    let mut place = Place::new();
    let supervisor = place.start("up");
    let endpoint = place.data("run/endpoint.json");
    let all = |text: &str| ["gateway", "control", "node"].iter().all(|role| text.contains(&format!("\"{role}\"")));
    until("healthy roles", || {
        let over = place.children[0].try_wait().unwrap().is_some();
        assert!(!over, "{}", place.said());
        std::fs::read_to_string(&endpoint).is_ok_and(|text| all(&text))
    });
    let node = place.data("node");
    assert!(!groups(&node).is_empty());
    let found = processes(&place.data(""));
    let agent = found.iter().find(|(_, line)| line.contains("lambdad node")).unwrap().0;
    let kill = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // The kernel may have ended the agent with its supervisor.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    };
    kill(supervisor);
    kill(agent);
    place.children[0].wait().unwrap();
    place.done("down");
    assert_eq!(processes(&place.data("")), []);
    assert_eq!(groups(&node), Vec::<PathBuf>::new());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*place.data("").to_string_lossy()), "{mounts}");
    place.done("down --purge");
    assert!(!place.data("").exists());
}

#[test]
fn doctor_prints_json_with_a_fix_for_each_fault() {
    let output = Command::new(env!("CARGO_BIN_EXE_lambdad")).args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() >= 7);
    assert!(findings.iter().all(|finding| finding["ok"] == true || finding["fix"].is_string()), "{report}");
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.success());
    let profiles = report["profiles"].as_array().unwrap();
    let names: Vec<&str> = profiles.iter().filter_map(|profile| profile["profile"].as_str()).collect();
    assert_eq!(names, ["tpm", "snp", "tdx", "sgx", "cca"]);
    assert_eq!(profiles[0]["possible"], true);
    let explained = |profile: &&serde_json::Value| profile["possible"] == true || profile["fix"].is_string();
    assert!(profiles.iter().all(|profile| explained(&profile)), "{report}");
    // This machine runs the other tests here.
    assert!(output.status.success(), "{report}");
}
