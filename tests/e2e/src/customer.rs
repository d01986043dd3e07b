//! A customer: a configuration folder of its own and the real `lambda` program.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Cloud, wait_for};

/// What a finished program said.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output, for a program that must have succeeded.
    ///
    /// # Panics
    /// When it did not; with both streams.
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Both streams, for a program that must have succeeded: results go to one, progress to the other.
    ///
    /// # Panics
    /// When it did not; with both streams.
    #[must_use]
    pub fn succeeded(self) -> String {
        let all = self.all();
        let _ = self.ok();
        all
    }

    /// Both streams.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A customer of a cloud.
#[derive(Debug)]
pub struct Customer {
    /// Its configuration folder: master key, keyring, policies, pins.
    pub config: PathBuf,
    /// Its SSH key; the public half is beside it with `.pub`.
    pub ssh_key: PathBuf,
    pub(crate) lambda: PathBuf,
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

impl Customer {
    /// A command of the CLI, not started.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.lambda);
        command.args(args).env("LAMBDA_CONFIG_DIR", &self.config).env("NO_COLOR", "1").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the CLI to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        finish(self.command(args), None, crate::BOOT)
    }

    /// Creates an instance in the foreground: until ready, or until the CLI gives up.
    pub fn create(&self, name: &str, more: &[&str]) -> Output {
        let key = format!("{}.pub", self.ssh_key.display());
        let mut args = vec!["instance", "create", "--name", name, "--image", "debian-12", "--ssh-key", &key];
        for (flag, default) in [("--shape", "nano"), ("--volume-gib", "2")] {
            if !more.contains(&flag) {
                args.extend([flag, default]);
            }
        }
        args.extend(more);
        self.run(args)
    }

    /// Starts an unattended broker under a policy of the suite's image; it ends when it is dropped.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn broker(&self, cloud: &Cloud) -> Broker {
        let policy = cloud.scratch().join("policy.json").display().to_string();
        let _ = self
            .run(["attest", "policy", "new", "--from", &cloud.image().display().to_string(), "--out", &policy])
            .ok();
        Broker(self.command(["broker", "run", "--policy", &policy]).spawn().expect("the broker starts"))
    }

    /// Runs a shell command in an instance over SSH.
    pub fn ssh(&self, name: &str, script: &str) -> Output {
        let key = self.ssh_key.display().to_string();
        self.run(["ssh", "--identity", &key, name, "--", script])
    }

    /// Runs a shell command in an instance with something on its standard input.
    pub fn ssh_with_input(&self, name: &str, script: &str, input: &[u8]) -> Output {
        let key = self.ssh_key.display().to_string();
        finish(self.command(["ssh", "--identity", &key, name, "--", script]), Some(input), crate::BOOT)
    }

    /// The instance as JSON.
    pub fn show(&self, name: &str) -> serde_json::Value {
        let text = self.run(["instance", "show", name, "-o", "json"]).ok();
        serde_json::from_str(&text).expect("show prints JSON")
    }

    /// The instance's id.
    pub fn id(&self, name: &str) -> String {
        self.show(name)["id"].as_str().expect("an id").to_owned()
    }
}

/// An unattended broker that runs.
#[derive(Debug)]
pub struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        // Ended already is ended too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the command, feeds it, and collects both streams; kills it when the bound passes.
///
/// # Panics
/// When it cannot be started or outlives the bound.
pub fn finish(mut command: Command, input: Option<&[u8]>, bound: Duration) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let shown = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(bytes).expect("the program reads its input");
    }
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let code = wait_child(&mut child, &shown, bound);
    Output { code, stdout: stdout.join().expect("reader"), stderr: stderr.join().expect("reader") }
}

fn drain(mut stream: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_child(child: &mut Child, shown: &str, bound: Duration) -> i32 {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(&format!("the end of {shown}"), bound, || match child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            Ok(None) => Err("still running".into()),
            Err(error) => Err(error.to_string()),
        })
    }));
    result.unwrap_or_else(|panic| {
        let _ = child.kill();
        let _ = child.wait();
        std::panic::resume_unwind(panic)
    })
}

/// A fresh ed25519 key pair; returns the private key's path.
///
/// # Panics
/// When ssh-keygen fails.
#[must_use]
pub fn ssh_keygen(folder: &Path, comment: &str) -> PathBuf {
    let path = folder.join("id_ed25519");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(&path).stdin(Stdio::null());
    let _ = finish(command, None, Duration::from_secs(30)).ok();
    path
}
