//! A cloud of its own for one measurement, removed at the end.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::Binaries;
use crate::run::{output, say};

const HEALTHY: Duration = Duration::from_secs(120);
/// The node's probe has 8 s.
const DECIDED: Duration = Duration::from_secs(30);

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Acceleration {
    /// The processor.
    Kvm,
    /// QEMU.
    Tcg,
}

impl Acceleration {
    /// What the node gives QEMU for it.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,host-phys-bits=off"],
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"],
        }
    }

    /// Its name.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }
}

/// A running cloud with one customer.
pub(crate) struct Cloud<'a> {
    binaries: &'a Binaries,
    folder: PathBuf,
    up: Child,
}

impl<'a> Cloud<'a> {
    /// Starts one; `more` goes to `lambdad up`.
    pub(crate) fn start(binaries: &'a Binaries, image: &Path, more: &[&str]) -> Result<Self> {
        // The daemons' own users enter it, and it is removed by hand once the daemons are gone.
        let folder = tempfile::Builder::new()
            .prefix("lambda-bench-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in("/var/lib")
            .context("a folder in /var/lib")?
            .keep();
        let log = File::create(folder.join("up.log")).context("the log")?;
        let mut up = Command::new(binaries.lambdad());
        up.args(["up", "--data"]).arg(folder.join("data")).arg("--images").arg(image).args(more).current_dir("/");
        up.stdin(Stdio::null()).stdout(log.try_clone().context("the log")?).stderr(log);
        let cloud = Self { binaries, folder, up: up.spawn().context("cannot start lambdad")? };
        cloud.connect(image)?;
        Ok(cloud)
    }

    fn connect(&self, image: &Path) -> Result<()> {
        let start = Instant::now();
        let endpoint = loop {
            if let Ok(bytes) = std::fs::read(self.folder.join("data/run/endpoint.json")) {
                break serde_json::from_slice::<Value>(&bytes).context("endpoint.json")?;
            }
            if start.elapsed() > HEALTHY {
                let said = std::fs::read_to_string(self.folder.join("up.log")).unwrap_or_default();
                bail!("the daemons are not healthy; they said:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut keygen = Command::new("ssh-keygen");
        output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(self.ssh_key()))?;
        let field = |name: &str| endpoint[name].as_str().unwrap_or_default().to_owned();
        let connect = ["connect", &field("gateway"), "--ca", &field("ca"), "--api-key-file", &field("api_key_file")];
        output(self.lambda().args(connect))?;
        output(self.lambda().args(["image", "trust"]).arg(image))?;
        Ok(())
    }

    /// What the node decided, once it has.
    pub(crate) fn acceleration(&self) -> Result<Acceleration> {
        #[derive(serde::Deserialize)]
        struct Verdict {
            acceleration: Acceleration,
        }
        let path = self.folder.join("data/node/acceleration.json");
        let start = Instant::now();
        while !path.exists() {
            if start.elapsed() > DECIDED {
                bail!(
                    "the node did not decide between KVM and TCG within {} s: no {}",
                    DECIDED.as_secs(),
                    path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let verdict: Verdict = serde_json::from_slice(&std::fs::read(&path)?).context("acceleration.json")?;
        Ok(verdict.acceleration)
    }

    /// A command of the customer's program.
    pub(crate) fn lambda(&self) -> Command {
        let mut command = Command::new(self.binaries.lambda());
        command.env("LAMBDA_CONFIG_DIR", self.folder.join("config")).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Creates an instance; returns when the command does.
    pub(crate) fn create(&self, name: &str, shape: &str, more: &[&str]) -> Result<()> {
        let mut create = self.lambda();
        create.args([
            "instance",
            "create",
            "--name",
            name,
            "--image",
            "debian-12",
            "--shape",
            shape,
            "--volume-gib",
            "2",
        ]);
        create.arg("--ssh-key").arg(self.ssh_key().with_extension("pub")).args(more);
        output(&mut create).map(|_| ())
    }

    /// Runs a command in an instance.
    pub(crate) fn ssh(&self, name: &str, command: &str) -> Result<String> {
        output(self.lambda().args(["ssh", "--identity"]).arg(self.ssh_key()).args([name, "--", command]))
    }

    /// An instance as the API shows it.
    pub(crate) fn show(&self, name: &str) -> Result<Value> {
        let text = output(self.lambda().args(["instance", "show", name, "-o", "json"]))?;
        serde_json::from_str(&text).context("`lambda instance show` does not print JSON")
    }

    /// Process ids of the daemons.
    pub(crate) fn pids(&self) -> Result<Vec<(String, u64)>> {
        let bytes = std::fs::read(self.folder.join("data/run/endpoint.json")).context("endpoint.json")?;
        let endpoint: Value = serde_json::from_slice(&bytes).context("endpoint.json")?;
        let pids = endpoint["pids"].as_object().context("endpoint.json has no pids")?;
        Ok(pids.iter().filter_map(|(role, pid)| Some((role.clone(), pid.as_u64()?))).collect())
    }

    fn ssh_key(&self) -> PathBuf {
        self.folder.join("id_ed25519")
    }
}

impl Drop for Cloud<'_> {
    fn drop(&mut self) {
        let mut down = Command::new(self.binaries.lambdad());
        if let Err(error) = output(down.args(["down", "--purge", "--data"]).arg(self.folder.join("data"))) {
            say(&format!("    cannot remove the cloud of this measurement: {error:#}"));
            return;
        }
        let _ = self.up.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            say(&format!("    cannot remove {}: {error}", self.folder.display()));
        }
    }
}
