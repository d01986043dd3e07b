//! `./x demo`: the product from end to end on this machine, as its operator and its customer.

use std::fs::File;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::build::{self, Binaries, Profile};
use crate::run::{output, run as run_command, say, seconds, shown, succeeds};
use crate::{paths, setup};

/// How long the daemons may take to become healthy.
const HEALTHY: Duration = Duration::from_secs(120);

/// The instance's name.
const NAME: &str = "demo";

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Remove everything at the end, whether it succeeded or not. A demo that ran before goes on running.
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

/// What there is when the command starts: it removes nothing that it did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A data folder that no supervisor works in.
    Stopped,
    Running,
}

/// Runs the demo, or removes it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let data = options.data.clone().unwrap_or_else(paths::demo_data);
    let data = std::path::absolute(&data).context("the data folder's path")?;
    if options.down {
        return down(&options.remover()?, &data);
    }
    let before = Before::look(&data)?;
    if options.once && before == Before::Stopped {
        bail!(
            "{} holds a demo that does not run: `./x demo` goes on with it, `./x demo --down` removes it",
            data.display()
        );
    }
    setup::run(setup::Purpose::Run)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone()).context("cannot catch signals")?;
    }
    let (programs, guest) = options.built()?;
    let mut demo = Demo { programs, guest, data, times: Vec::new(), interrupted };
    let result = demo.play(options).and(demo.hand_over());
    demo.end(options, before, result)
}

/// Stops the cloud and removes its data folder.
fn down(programs: &Path, data: &Path) -> Result<()> {
    let existed = data.exists();
    // Also without the folder: its guests may still run. A second Ctrl-C must not stop it half-way.
    let mut lambdad = Command::new(programs.join("lambdad"));
    run_command(lambdad.args(["down", "--purge", "--data"]).arg(data).process_group(0).stdin(Stdio::null()))?;
    if existed {
        say(&format!("removed: the daemons, every guest, and {}", data.display()));
    } else {
        say(&format!("there is no {}, and nothing of it runs", data.display()));
    }
    Ok(())
}

impl Before {
    fn look(data: &Path) -> Result<Self> {
        match std::fs::read_dir(data) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::Nothing),
            Err(error) => Err(error).with_context(|| data.display().to_string()),
            Ok(_) if supervisor_runs(data) => Ok(Self::Running),
            Ok(mut entries) => Ok(if entries.next().is_some() { Self::Stopped } else { Self::Nothing }),
        }
    }
}

/// True when the process that the data folder names as its supervisor is one.
fn supervisor_runs(data: &Path) -> bool {
    let pid = std::fs::read_to_string(data.join("run/up.pid")).unwrap_or_default();
    let command = std::fs::read(Path::new("/proc").join(pid.trim()).join("cmdline")).unwrap_or_default();
    !pid.trim().is_empty() && command.split(|byte| *byte == 0).any(|word| word == data.as_os_str().as_encoded_bytes())
}

impl Options {
    fn programs(&self) -> Result<PathBuf> {
        self.bin_dir.clone().map_or_else(|| build::programs(Profile::Demo), Ok)
    }

    /// The programs that a removal needs: those of the last build do.
    fn remover(&self) -> Result<PathBuf> {
        let built = build::folder(Profile::Demo);
        if self.bin_dir.is_none() && built.join("lambdad").is_file() { Ok(built) } else { self.programs() }
    }

    /// The programs' folder, and the guest agent unless programs and image were given.
    fn built(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        let programs = self.programs()?;
        let given = self.bin_dir.is_some() && self.image.is_some();
        Ok((programs, if given { None } else { Some(build::guest()?) }))
    }
}

struct Demo {
    programs: PathBuf,
    guest: Option<PathBuf>,
    data: PathBuf,
    times: Vec<(String, Duration)>,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    fn play(&mut self, options: &Options) -> Result<()> {
        let image = self.step("guest image", |demo| demo.image(options))?;
        self.step("starting gateway, control plane and node", |demo| demo.start(&image))?;
        self.step("connecting as a customer, trusting the image", |demo| demo.connect(&image))?;
        self.step("creating the instance: request to ready", |demo| demo.create(&options.shape))?;
        for command in ["uname -a", "cat /etc/os-release"] {
            self.step(&format!("lambda ssh {NAME} -- {command}"), |demo| demo.ssh(command))?;
        }
        Ok(())
    }

    fn step<T>(&mut self, what: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.look_up()?;
        self.timed(what, work)
    }

    fn timed<T>(&mut self, what: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        say(&format!("==> {what}"));
        let result = work(self).with_context(|| what.to_owned());
        self.times.push((what.to_owned(), start.elapsed()));
        result
    }

    fn image(&self, options: &Options) -> Result<PathBuf> {
        match (&options.image, &self.guest) {
            (Some(image), _) => Ok(image.clone()),
            (None, Some(guest)) => {
                build::image(&Binaries { folder: self.programs.clone(), guest: guest.clone() }, false)
            }
            (None, None) => bail!("neither an image nor a guest to build one with"),
        }
    }

    /// Starts `lambdad up` so that it outlives this program, and waits until it is healthy.
    fn start(&self, image: &Path) -> Result<()> {
        let endpoint = self.data.join("run/endpoint.json");
        if endpoint.exists() && supervisor_runs(&self.data) {
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
            self.look_up()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// An error once somebody asked this program to end.
    fn look_up(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Runs to the end, or until this program is asked to end.
    fn attend(&self, command: &mut Command) -> Result<()> {
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
        loop {
            if let Some(status) = child.try_wait().context("waiting for a command")? {
                self.look_up()?;
                if !status.success() {
                    bail!("`{}` ended with {status}", shown(command));
                }
                return Ok(());
            }
            if let Err(interrupted) = self.look_up() {
                child.kill().context("ending a command")?;
                child.wait().context("waiting for a command")?;
                return Err(interrupted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self, image: &Path) -> Result<()> {
        self.install()?;
        if !self.ssh_key().exists() {
            let mut keygen = Command::new("ssh-keygen");
            output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f"]).arg(self.ssh_key()))?;
        }
        let bytes = std::fs::read(self.data.join("run/endpoint.json")).context("endpoint.json")?;
        let endpoint: serde_json::Value = serde_json::from_slice(&bytes).context("endpoint.json")?;
        let field = |name: &str| endpoint[name].as_str().with_context(|| format!("endpoint.json has no {name}"));
        let mut connect = self.lambda();
        connect.args(["connect", field("gateway")?, "--ca", field("ca")?, "--api-key-file", field("api_key_file")?]);
        self.attend(&mut connect)?;
        self.attend(self.lambda().args(["image", "trust"]).arg(image))
    }

    /// Puts the programs where the customer finds them, whoever that is: this program's build folder may be root's own.
    fn install(&self) -> Result<()> {
        let bin = self.bin();
        std::fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
        let lambda = self.programs.join("lambda");
        // Replaced, never written to: the one that is there may run.
        for program in self.guest.iter().chain([&lambda]) {
            let to = bin.join(program.file_name().context("a program without a name")?);
            let partial = to.with_extension("partial");
            let copied = std::fs::copy(program, &partial).and_then(|_| std::fs::rename(&partial, &to));
            copied.with_context(|| format!("copying {} to {}", program.display(), to.display()))?;
        }
        Ok(())
    }

    fn create(&self, shape: &str) -> Result<()> {
        if succeeds(self.lambda().args(["instance", "show", NAME])) {
            say(&format!("    the instance `{NAME}` exists: starting it if it is off"));
            if succeeds(self.lambda().args(["ssh", "--identity"]).arg(self.ssh_key()).args([NAME, "--", "true"])) {
                return Ok(());
            }
            return self.attend(self.lambda().args(["instance", "start", NAME]));
        }
        let mut create = self.lambda();
        create.args(["instance", "create", "--name", NAME, "--image", "debian-12", "--shape", shape]);
        // What is booked must be free: a small disk has to do.
        create.args(["--volume-gib", "4"]);
        create.arg("--ssh-key").arg(self.ssh_key().with_extension("pub"));
        self.attend(&mut create)
    }

    fn ssh(&self, command: &str) -> Result<()> {
        let mut ssh = self.lambda();
        self.attend(ssh.args(["ssh", "--identity"]).arg(self.ssh_key()).args([NAME, "--", command]))
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

    fn bin(&self) -> PathBuf {
        self.customer().join("bin")
    }

    /// Gives the customer's folder to the person who called sudo.
    fn hand_over(&self) -> Result<()> {
        let Some((uid, gid)) = caller() else { return Ok(()) };
        if !self.customer().exists() {
            return Ok(());
        }
        give(&self.customer(), uid, gid)
    }

    /// Removes what has to be removed, and says what is left.
    fn end(mut self, options: &Options, before: Before, result: Result<()>) -> Result<()> {
        let interrupted = self.interrupted.load(Ordering::Relaxed);
        if interrupted || options.once {
            let result = if interrupted { Err(anyhow!("interrupted")) } else { result };
            if before != Before::Nothing {
                self.print_times();
                say("the demo was here before: it goes on running; `./x demo --down` removes it");
                return result;
            }
            let removed = self.timed("removing everything", |demo| down(&demo.programs, &demo.data));
            self.print_times();
            return result.and(removed);
        }
        self.print_times();
        match &result {
            Ok(()) => self.print_next_steps(),
            Err(_) => {
                let logs = self.data.join("logs");
                say(&format!("the logs are in {}; `./x demo --down` removes everything", logs.display()));
            }
        }
        result
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
        let look = format!("ls {}/node/instances/*", self.data.display());
        println!(
            "\nThe cloud keeps running. To use it from this shell:

  export LAMBDA_CONFIG_DIR={config} KEY={key} PATH={bin}:$PATH
  lambda instance list
  lambda ssh --identity $KEY {NAME}
  lambda instance attest {NAME}        fresh evidence, judged on this machine
  lambda instance why {NAME}           what it waits for, if anything
  lambda instance restart {NAME}       goes through attestation again
  {look}    all the operator has: ciphertext

  README.md goes on from here. ./x demo --down removes all of it.",
            config = self.customer().join("config").display(),
            bin = self.bin().display(),
            key = self.ssh_key().display(),
            look = if caller().is_some() { format!("sudo sh -c '{look}'") } else { look },
        );
    }
}

/// Who called sudo, if this program runs under it: user and group.
fn caller() -> Option<(u32, u32)> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
    (uid != 0 && rustix::process::geteuid().is_root()).then_some((uid, gid))
}

/// Gives a folder and all in it to this user; links are not followed.
fn give(path: &Path, uid: u32, gid: u32) -> Result<()> {
    lchown(path, Some(uid), Some(gid)).with_context(|| format!("changing the owner of {}", path.display()))?;
    if path.symlink_metadata().with_context(|| path.display().to_string())?.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Before, supervisor_runs};

    #[test]
    fn a_folder_with_something_in_it_is_a_demo_that_was_here_before() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("demo");
        assert_eq!(Before::look(&data).unwrap(), Before::Nothing);
        std::fs::create_dir_all(&data).unwrap();
        assert_eq!(Before::look(&data).unwrap(), Before::Nothing, "an empty one");
        std::fs::create_dir(data.join("run")).unwrap();
        assert_eq!(Before::look(&data).unwrap(), Before::Stopped);
    }

    #[test]
    fn a_process_that_took_over_a_supervisors_number_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::write(folder.path().join("run/up.pid"), std::process::id().to_string()).unwrap();
        assert!(!supervisor_runs(folder.path()));
        let mut stands_in = std::process::Command::new("sleep");
        let mut stands_in =
            std::os::unix::process::CommandExt::arg0(&mut stands_in, folder.path()).arg("60").spawn().unwrap();
        std::fs::write(folder.path().join("run/up.pid"), stands_in.id().to_string()).unwrap();
        // The kernel shows a new process's arguments a moment after it started.
        let start = std::time::Instant::now();
        let runs = loop {
            let runs = supervisor_runs(folder.path());
            if runs || start.elapsed() > std::time::Duration::from_secs(10) {
                break runs;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        stands_in.kill().unwrap();
        stands_in.wait().unwrap();
        assert!(runs);
        assert!(!supervisor_runs(folder.path()), "it has ended");
    }
}
