//! `./x demo`: the product from end to end on this machine, as its operator and its customer.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::{self, Binaries, Profile};
use crate::run::{output, run as run_command, say, seconds, succeeds};
use crate::{paths, setup};

/// How long the daemons may take to become healthy.
const HEALTHY: Duration = Duration::from_secs(120);

/// The instance's name.
const NAME: &str = "demo";

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Remove everything at the end, whether it succeeded or not.
    #[arg(long, conflicts_with = "down")]
    once: bool,
    /// Remove a demo that runs, with its data folder.
    #[arg(long)]
    down: bool,
    /// Size of the instance.
    #[arg(long, default_value = "small")]
    shape: String,
    /// The data folder; one for this clone under /var/lib when absent.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder with built `lambda` and `lambdad`; built when absent.
    #[arg(long, value_name = "FOLDER")]
    bin_dir: Option<PathBuf>,
    /// The guest image's folder; built when absent.
    #[arg(long, value_name = "FOLDER")]
    image: Option<PathBuf>,
}

/// Runs the demo, or removes it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let data = options.data.clone().unwrap_or_else(paths::demo_data);
    let data = std::path::absolute(&data).context("the data folder's path")?;
    if options.down {
        return down(&options.programs()?, &data);
    }
    setup::run(setup::Purpose::Run)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).context("cannot catch signals")?;
    }
    let mut demo = Demo { programs: options.programs()?, data, times: Vec::new(), interrupted };
    let result = demo.play(options);
    if demo.interrupted.load(Ordering::Relaxed) {
        say("==> interrupted: removing the demo");
        down(&demo.programs, &demo.data)?;
        bail!("interrupted");
    }
    if options.once {
        let removed = demo.timed("removing everything", |demo| down(&demo.programs, &demo.data));
        demo.print_times();
        return result.and(removed);
    }
    demo.print_times();
    match &result {
        Ok(()) => demo.print_next_steps(),
        Err(_) => {
            say(&format!("the logs are in {}; `./x demo --down` removes everything", demo.data.join("logs").display()))
        }
    }
    result
}

/// Stops the cloud and removes its data folder.
fn down(programs: &Path, data: &Path) -> Result<()> {
    let existed = data.exists();
    // Also without the folder: its guests may still run.
    run_command(Command::new(programs.join("lambdad")).args(["down", "--purge", "--data"]).arg(data))?;
    if existed {
        say(&format!("removed: the daemons, every guest, and {}", data.display()));
    } else {
        say(&format!("there is no {}, and nothing of it runs", data.display()));
    }
    Ok(())
}

impl Options {
    fn programs(&self) -> Result<PathBuf> {
        self.bin_dir.clone().map_or_else(|| build::programs(Profile::Demo), Ok)
    }

    fn image(&self, programs: &Path) -> Result<PathBuf> {
        let built = || build::image(&Binaries { folder: programs.to_path_buf(), guest: build::guest()? }, false);
        self.image.clone().map_or_else(built, Ok)
    }
}

struct Demo {
    programs: PathBuf,
    data: PathBuf,
    times: Vec<(String, Duration)>,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    fn play(&mut self, options: &Options) -> Result<()> {
        let image = self.timed("guest image", |demo| options.image(&demo.programs))?;
        self.timed("starting gateway, control plane and node", |demo| demo.start(&image))?;
        self.timed("connecting as a customer, trusting the image", |demo| demo.connect(&image))?;
        self.timed("creating the instance: request to ready", |demo| demo.create(&options.shape))?;
        for command in ["uname -a", "cat /etc/os-release"] {
            self.timed(&format!("lambda ssh {NAME} -- {command}"), |demo| demo.ssh(command))?;
        }
        Ok(())
    }

    fn timed<T>(&mut self, what: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        say(&format!("==> {what}"));
        if self.interrupted.load(Ordering::Relaxed) && !what.starts_with("removing") {
            bail!("interrupted");
        }
        let result = work(self).with_context(|| what.to_owned());
        self.times.push((what.to_owned(), start.elapsed()));
        result
    }

    /// Starts `lambdad up` so that it outlives this program, and waits until it is healthy.
    fn start(&self, image: &Path) -> Result<()> {
        let endpoint = self.data.join("run/endpoint.json");
        if endpoint.exists() && self.supervisor_runs() {
            say("    it runs already");
            return Ok(());
        }
        let _ = std::fs::remove_file(&endpoint);
        let logs = self.data.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let log_path = logs.join("up.log");
        let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let mut up = Command::new(self.programs.join("lambdad"));
        up.args(["up", "--data"]).arg(&self.data).arg("--images").arg(image).current_dir("/").process_group(0);
        up.stdin(Stdio::null()).stdout(log.try_clone().context("the log")?).stderr(log);
        let mut child = up.spawn().context("cannot start lambdad")?;
        let start = Instant::now();
        while !endpoint.exists() {
            let said = || std::fs::read_to_string(&log_path).unwrap_or_default();
            if let Some(status) = child.try_wait().context("waiting for lambdad")? {
                bail!("`lambdad up` ended with {status}:\n{}", said().trim_end());
            }
            if start.elapsed() > HEALTHY {
                bail!("`lambdad up` is not healthy after {}; it said:\n{}", seconds(HEALTHY), said().trim_end());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn supervisor_runs(&self) -> bool {
        let pid = std::fs::read_to_string(self.data.join("run/up.pid")).unwrap_or_default();
        !pid.is_empty() && Path::new("/proc").join(pid.trim()).exists()
    }

    fn connect(&self, image: &Path) -> Result<()> {
        let customer = self.customer();
        std::fs::create_dir_all(&customer).with_context(|| customer.display().to_string())?;
        if !self.ssh_key().exists() {
            let mut keygen = Command::new("ssh-keygen");
            output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f"]).arg(self.ssh_key()))?;
        }
        let bytes = std::fs::read(self.data.join("run/endpoint.json")).context("endpoint.json")?;
        let endpoint: serde_json::Value = serde_json::from_slice(&bytes).context("endpoint.json")?;
        let field = |name: &str| endpoint[name].as_str().with_context(|| format!("endpoint.json has no {name}"));
        let mut connect = self.lambda();
        connect.args(["connect", field("gateway")?, "--ca", field("ca")?, "--api-key-file", field("api_key_file")?]);
        run_command(&mut connect)?;
        run_command(self.lambda().args(["image", "trust"]).arg(image))
    }

    fn create(&self, shape: &str) -> Result<()> {
        if succeeds(self.lambda().args(["instance", "show", NAME])) {
            say(&format!("    the instance `{NAME}` exists: starting it if it is off"));
            if succeeds(self.lambda().args(["ssh", "--identity"]).arg(self.ssh_key()).args([NAME, "--", "true"])) {
                return Ok(());
            }
            return run_command(self.lambda().args(["instance", "start", NAME]));
        }
        let mut create = self.lambda();
        create.args(["instance", "create", "--name", NAME, "--image", "debian-12", "--shape", shape]);
        create.arg("--ssh-key").arg(self.ssh_key().with_extension("pub"));
        run_command(&mut create)
    }

    fn ssh(&self, command: &str) -> Result<()> {
        let mut ssh = self.lambda();
        run_command(ssh.args(["ssh", "--identity"]).arg(self.ssh_key()).args([NAME, "--", command]))
    }

    fn lambda(&self) -> Command {
        let mut command = Command::new(self.programs.join("lambda"));
        command.env("LAMBDA_CONFIG_DIR", self.customer().join("config")).stdin(Stdio::null());
        command
    }

    /// What a customer would have on a machine of its own; here it lies in the data folder so that removing that removes all.
    fn customer(&self) -> PathBuf {
        self.data.join("demo-customer")
    }

    fn ssh_key(&self) -> PathBuf {
        self.customer().join("id_ed25519")
    }

    fn print_times(&self) {
        let width = self.times.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        say("\n    step and time");
        for (what, time) in &self.times {
            say(&format!("    {what:width$}  {:>9}", seconds(*time)));
        }
    }

    fn print_next_steps(&self) {
        println!(
            "\nThe cloud keeps running. To use it from this shell:

  export LAMBDA_CONFIG_DIR={config} PATH={bin}:$PATH
  lambda instance list
  lambda ssh --identity {key} {NAME}
  lambda instance attest {NAME}      fresh evidence, judged on this machine
  lambda instance why {NAME}         what it waits for, if anything
  lambda instance restart {NAME}     goes through attestation again
  ls {data}/node/instances/*         all the operator has: ciphertext

  ./x demo --down                    removes all of it",
            config = self.customer().join("config").display(),
            bin = self.programs.display(),
            key = self.ssh_key().display(),
            data = self.data.display(),
        );
    }
}
