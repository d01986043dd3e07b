//! Real evidence in a folder outside the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lambda_attest::UnixTime;
use serde_json::Value;

/// A moment for evidence that is not valid at any.
const SOME_TIME: &str = "2025-06-25T00:00:00Z";

/// One piece of evidence, with what is known about it.
pub struct Fixture {
    /// `tdx/v4-…`.
    pub name: String,
    /// Whether its manifest calls it good.
    pub valid: bool,
    /// When to judge it.
    pub now: UnixTime,
    folder: PathBuf,
}

/// Where the evidence is: `LAMBDA_FIXTURES`, or `shared/fixtures` beside the repository.
///
/// # Errors
/// When there is no such folder.
pub fn root() -> Result<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../../shared/fixtures");
    let root = std::env::var_os("LAMBDA_FIXTURES").map_or_else(beside, PathBuf::from);
    std::fs::canonicalize(&root).with_context(|| {
        format!("no fixtures in {}: set LAMBDA_FIXTURES to the folder that holds them", root.display())
    })
}

/// All of one kind that have this file, in order of name.
///
/// # Errors
/// When they cannot be read.
pub fn of(tee: &str, file: &str) -> Result<Vec<Fixture>> {
    let root = root()?.join(tee);
    let mut fixtures = Vec::new();
    for entry in std::fs::read_dir(&root).with_context(|| root.display().to_string())? {
        let folder = entry?.path();
        if !folder.join(file).exists() {
            continue;
        }
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json"))?)?;
        let expected = &manifest["expected"];
        fixtures.push(Fixture {
            name: format!("{tee}/{}", folder.file_name().unwrap_or_default().to_string_lossy()),
            valid: expected["verdict"] == "valid",
            now: expected["time_for_validity"].as_str().unwrap_or(SOME_TIME).parse()?,
            folder,
        });
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(fixtures)
}

impl Fixture {
    /// Whether it has this file.
    pub fn has(&self, file: &str) -> bool {
        self.folder.join(file).exists()
    }

    /// A file of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(file);
        std::fs::read(&path).with_context(|| path.display().to_string())
    }

    /// A text file of it.
    ///
    /// # Errors
    /// When it cannot be read, or is no text.
    pub fn text(&self, file: &str) -> Result<String> {
        Ok(String::from_utf8(self.read(file)?)?)
    }
}
