//! The daemons of one cloud, on loopback, in a folder of their own.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::customer::{finish, ssh_keygen};
use crate::disk::Disk;
use crate::{Customer, wait_for};

/// How to start a cloud.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Stands where the node agent expects QEMU.
    pub qemu: Option<PathBuf>,
    /// Stands where the node agent expects swtpm.
    pub swtpm: Option<PathBuf>,
    /// The data folder is a disk of its own, of this size in MiB.
    pub disk_mib: Option<u64>,
    /// Folder with other builds of `lambda` and `lambdad`.
    pub bin: Option<PathBuf>,
    /// Another image.
    pub image: Option<PathBuf>,
    /// Environment of its customers' programs.
    pub customers: Vec<(&'static str, PathBuf)>,
}

/// A running cloud; stopped and removed on drop.
#[derive(Debug)]
pub struct Cloud {
    folder: TempDir,
    options: Options,
    up: Option<Child>,
    bin: PathBuf,
    image: PathBuf,
    disk: Option<Disk>,
    before: BTreeSet<String>,
}

/// A file path from the environment.
///
/// # Panics
/// When it is not set: the message says which command sets it.
fn from_environment(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this through `./x test`")))
}

impl Cloud {
    /// Starts one with the defaults.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts one.
    ///
    /// # Panics
    /// When it does not become healthy.
    #[must_use]
    pub fn start_with(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("lt").tempdir_in("/tmp").expect("a temporary folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("own folder");
        let mut cloud = Self {
            folder,
            up: None,
            bin: options.bin.clone().unwrap_or_else(|| from_environment("LAMBDA_BIN_DIR")),
            image: options.image.clone().unwrap_or_else(|| from_environment("LAMBDA_IMAGE_DIR")),
            options,
            disk: None,
            before: host(),
        };
        cloud.disk = cloud.options.disk_mib.map(|mib| Disk::mount(cloud.data(), mib));
        cloud.up();
        cloud
    }

    /// The cloud's data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    /// The data folder's own disk.
    ///
    /// # Panics
    /// When the cloud was started without one.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("started with a disk")
    }

    /// A scratch folder beside it.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The image the suite runs on.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Starts the daemons (again) and waits until they are healthy.
    ///
    /// # Panics
    /// When they are not within the bound; the message carries the log's end.
    pub fn up(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("up.log")).expect("writable");
        let mut command = Command::new(self.bin.join("lambdad"));
        command.args(["up", "--data"]).arg(self.data()).args(["--listen", "127.0.0.1:0", "--images"]).arg(&self.image);
        for (flag, value) in [("--qemu", &self.options.qemu), ("--swtpm", &self.options.swtpm)] {
            if let Some(path) = value {
                command.arg(flag).arg(path);
            }
        }
        let endpoint = self.data().join("run/endpoint.json");
        let _ = std::fs::remove_file(&endpoint);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.up = Some(command.spawn().expect("lambdad starts"));
        let log = self.folder.path().join("up.log");
        wait_for("the daemons to be healthy", Duration::from_secs(90), || {
            if endpoint.exists() { Ok(()) } else { Err(std::fs::read_to_string(&log).unwrap_or_default()) }
        });
    }

    /// What `up` wrote about itself.
    ///
    /// # Panics
    /// When the cloud is not up.
    #[must_use]
    pub fn endpoint(&self) -> serde_json::Value {
        let bytes = std::fs::read(self.data().join("run/endpoint.json")).expect("the cloud is up");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// A customer with a project of its own, connected and trusting the suite's image.
    ///
    /// # Panics
    /// When any step fails.
    #[must_use]
    pub fn customer(&self, name: &str) -> Customer {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a new folder");
        let key = folder.join("api.key");
        let mut command = self.lambdad(["api-key", "create", "--project", "new", "--out"]);
        command.arg(&key).arg("--data").arg(self.data());
        let _ = finish(command, None, Duration::from_secs(30)).ok();
        let endpoint = self.endpoint();
        let customer = Customer {
            config: folder.join("config"),
            ssh_key: ssh_keygen(&folder, name),
            lambda: self.bin.join("lambda"),
            environment: self.options.customers.clone(),
        };
        let field = |field: &str| endpoint[field].as_str().expect("a text field").to_owned();
        let key = key.display().to_string();
        let _ = customer.run(["connect", &field("gateway"), "--ca", &field("ca"), "--api-key-file", &key]).ok();
        let _ = customer.run(["image", "trust", &self.image.display().to_string()]).ok();
        customer
    }

    /// A command of the daemon.
    pub fn lambdad<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = Command::new(self.bin.join("lambdad"));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Process id of a role: `gateway`, `control` or `node`.
    ///
    /// # Panics
    /// When the role is not there.
    #[must_use]
    pub fn pid(&self, role: &str) -> i32 {
        let pid = self.endpoint()["pids"][role].as_i64().expect("a pid");
        i32::try_from(pid).expect("a pid")
    }

    /// Sends a signal to a process.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(pid: i32, signal: &str) {
        let mut command = Command::new("kill");
        command.args([&format!("-{signal}"), &pid.to_string()]);
        let _ = finish(command, None, Duration::from_secs(5)).ok();
    }

    /// Runs a shell command in the node's network namespace; both streams.
    #[must_use]
    pub fn in_namespace(&self, script: &str) -> String {
        let namespace = format!("--net={}", self.data().join("node/netns").display());
        let mut command = Command::new("nsenter");
        command.args([&namespace, "/bin/sh", "-c", script]).stdin(Stdio::null());
        finish(command, None, Duration::from_secs(10)).all()
    }

    /// `kill -9` of a role; returns when another process of it was started, and a node agent has spoken to the control plane.
    ///
    /// # Panics
    /// When none is within a minute.
    pub fn kill(&self, role: &str) {
        let old = self.pid(role);
        Self::signal(old, "KILL");
        let agent = self.data().join("node/ready");
        wait_for(&format!("another {role}"), Duration::from_secs(60), || {
            let now = self.endpoint()["pids"][role].as_i64().filter(|pid| *pid != i64::from(old));
            let now = now.ok_or("none was started")?;
            let told = std::fs::read_to_string(&agent).unwrap_or_default();
            let exchanged = role != "node" || told == now.to_string();
            if exchanged { Ok(()) } else { Err(format!("the agent is {now}, ready is {told}")) }
        });
    }

    /// `kill -9` of the supervisor, with which its roles end; then starts it again.
    ///
    /// # Panics
    /// When the roles survive it or another one does not become healthy.
    pub fn kill_supervisor(&mut self) {
        self.kill_supervisor_and(&[]);
    }

    /// `kill -9` of these roles and at once of the supervisor, with which the others end; then starts it again.
    ///
    /// # Panics
    /// When the roles survive it or another one does not become healthy.
    pub fn kill_supervisor_and(&mut self, killed: &[&str]) {
        let roles = ["gateway", "control", "node"].map(|role| self.pid(role));
        for role in killed {
            Self::signal(self.pid(role), "KILL");
        }
        let mut up = self.up.take().expect("it runs");
        up.kill().expect("it can be killed");
        up.wait().expect("it ends");
        wait_for("the roles to end with their supervisor", Duration::from_secs(10), || {
            let left: Vec<i32> = roles.into_iter().filter(|pid| crate::node::runs(*pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        self.up();
    }

    /// Stops `up` with SIGTERM and waits; guests stay.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        if let Some(mut up) = self.up.take() {
            Self::signal(i32::try_from(up.id()).expect("a pid"), "TERM");
            wait_for("lambdad up to end", Duration::from_secs(60), || {
                up.try_wait().ok().flatten().map(|_| ()).ok_or_else(|| "running".into())
            });
        }
    }

    /// Tears everything down and checks that nothing is left on the host.
    ///
    /// # Panics
    /// When something is.
    pub fn down(&mut self) {
        self.stop();
        let mut command = self.lambdad(["down", "--now", "--data"]);
        command.arg(self.data());
        let _ = finish(command, None, Duration::from_secs(90)).ok();
        self.disk = None;
        assert_eq!(self.left_behind(), Vec::<String>::new(), "left behind after down");
        wait_for("the host to be as before the cloud", Duration::from_secs(10), || {
            let new: Vec<String> = host().difference(&self.before).cloned().collect();
            if new.is_empty() { Ok(()) } else { Err(new.join("; ")) }
        });
    }

    /// Processes that name this cloud's folder or work in it, mounts inside it, and its cgroups.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let mark = self.data().display().to_string();
        let mut left: Vec<String> = processes()
            .into_iter()
            .filter(|(_, command)| command.contains(&mark))
            .map(|(pid, command)| format!("process {pid}: {command}"))
            .collect();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(cgroups(&self.data().join("node")));
        left.extend(mounts.lines().filter(|line| line.contains(&mark)).map(|line| format!("mount {line}")));
        left
    }
}

/// Every process with its command line and working folder: a guest's QEMU gets its files as descriptors, and only works in
/// its instance's folder.
#[must_use]
pub fn processes() -> Vec<(i32, String)> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            Some((pid, format!("{} in {}", String::from_utf8_lossy(&line).replace('\0', " "), folder.display())))
        })
        .collect()
}

/// What a cloud could leave in the host's own namespaces: network links, firewall tables, and abstract sockets.
fn host() -> BTreeSet<String> {
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        finish(command, None, Duration::from_secs(10)).ok()
    };
    let links = run("ip", &["-o", "link"]);
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)).map(|name| format!("link {name}"));
    let tables = run("nft", &["list", "tables"]);
    let tables = tables.lines().map(|line| format!("nft {line}"));
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the kernel lists its sockets");
    let names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7));
    let abstracts = names.filter(|name| name.starts_with("@lambda")).map(|name| format!("socket {name}"));
    links.chain(tables).chain(abstracts).collect()
}

/// cgroups of the node agent that works in this folder, in every hierarchy.
fn cgroups(node: &Path) -> Vec<String> {
    let digest: String = Sha256::digest(node.as_os_str().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("lambda-{}", &digest[..16]);
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = hierarchies.chain([top.to_path_buf()]).map(|folder| folder.join(&name));
    folders.filter(|folder| folder.exists()).map(|folder| folder.display().to_string()).collect()
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default();
            eprintln!("---- lambdad up\n{log}");
            if let Some(mut up) = self.up.take() {
                let pid = rustix::process::Pid::from_child(&up);
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                let _ = up.wait();
            }
            let mut command = self.lambdad(["down", "--now", "--data"]);
            let _ = command.arg(self.data()).status();
            self.disk = None;
        } else {
            self.down();
        }
    }
}

/// Waits until the node holds no instance folder; returns how many remain when the bound passes.
#[must_use]
pub fn volumes_left(cloud: &Cloud) -> usize {
    let folder = cloud.data().join("node/instances");
    wait_for("the node's instance folders to go", Duration::from_secs(60), || {
        let left = std::fs::read_dir(&folder).map(|entries| entries.flatten().count()).unwrap_or(0);
        if left == 0 { Ok(0) } else { Err(format!("{left} folders")) }
    })
}
