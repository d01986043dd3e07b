//! Bounded logs: a role's standard error goes through the supervisor into a file that is turned over once when it is full.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes in one file; there are two, the current one and `.1`.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A log file.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    bound: u64,
}

impl Log {
    /// Opens a log for appending.
    pub(crate) fn open(path: &Path, bound: u64) -> Result<Self> {
        let file = open(path).with_context(|| path.display().to_string())?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.into(), file, bytes, bound })
    }

    /// Appends; a failure to log is said on the supervisor's own standard error and does not stop a role.
    fn append(&mut self, text: &[u8]) {
        let turned = if self.bytes.saturating_add(text.len() as u64) > self.bound { self.turn_over() } else { Ok(()) };
        if let Err(error) = turned.and_then(|()| self.file.write_all(text)) {
            eprintln!("lambdad: cannot write {}: {error}", self.path.display());
        }
        self.bytes = self.bytes.saturating_add(text.len() as u64);
    }

    fn turn_over(&mut self) -> std::io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    /// Copies a stream until it ends.
    pub(crate) async fn copy(&mut self, mut stream: impl AsyncRead + Unpin) {
        let mut buffer = vec![0u8; 16 << 10];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => self.append(buffer.get(..read).unwrap_or_default()),
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_log_turns_over_and_two_files_bound_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("role.log");
        let mut log = Log::open(&path, 100).unwrap();
        for line in 0..50 {
            log.copy(format!("line {line:04}\n").as_bytes()).await;
        }
        let sizes = [&path, &folder.path().join("role.log.1")].map(|path| path.metadata().unwrap().len());
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        assert!(tail(&path).ends_with("line 0049"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
