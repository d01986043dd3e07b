//! A configuration folder of its own, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use lambda_sdk::config::{ApiKey, Config, Folder, Platform};
use lambda_sdk::{Keyring, files};
use tempfile::TempDir;

/// What one run of the program left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) struct Bench {
    dir: TempDir,
}

/// A file beside these tests.
pub(crate) fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).display().to_string()
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        Self { dir }
    }

    /// With a configuration as a connect leaves it; the cloud is at a port that nobody serves.
    pub(crate) fn connected(&self) -> Self {
        let bench = Self::new();
        let folder = Folder::at(bench.folder());
        let ca = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
        let platform = Platform::new("local".into(), ca.clone()).unwrap();
        Keyring::load_or_create(&folder).unwrap();
        ApiKey::parse(&format!("lam_{}", "a".repeat(36))).unwrap().save(&folder).unwrap();
        Config::new("https://127.0.0.1:1".into(), ca, platform).save(&folder).unwrap();
        bench
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        files::write(Path::new(&path), bytes).unwrap();
        path
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, "UNUSED", "")
    }

    pub(crate) fn run_with(&self, args: &[&str], variable: &str, value: &str) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_lambda"))
            .args(args)
            .env_clear()
            .env("LAMBDA_CONFIG_DIR", self.folder())
            .env(variable, value)
            .output()
            .unwrap();
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
