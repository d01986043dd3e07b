//! What can go wrong while an image is built, imported, read or measured.

use std::path::{Path, PathBuf};

/// Failure of an image operation. The message names what was being done and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{doing} `{}`: {source}", path.display())]
    Io {
        /// What was being done, for example `reading`.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program that the builder needs is not installed.
    #[error("`{program}` is not installed; on Debian: apt-get install {package}")]
    ToolMissing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    #[error("`{program}` failed ({status}); its last words: {output}")]
    Tool {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// End of its error output.
        output: String,
    },
    /// Building a root file system needs privileges.
    #[error(
        "building a root file system needs root: file owners and modes are part of what is measured; run with sudo"
    )]
    NotRoot,
    /// The lock file does not parse.
    #[error("the package lock is not valid: {0}")]
    Lock(String),
    /// Packages could not be downloaded.
    #[error("could not download {}; check the network and the mirror `{mirror}`", names.join(", "))]
    Download {
        /// Which packages.
        names: Vec<String>,
        /// Base URL of the mirror that was asked.
        mirror: String,
    },
    /// A file does not have the hash that the lock demands.
    #[error("`{}` has SHA-256 {found} where {expected} is demanded; delete it and try again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Demanded.
        expected: String,
        /// Found.
        found: String,
    },
    /// A package, kernel, archive or firmware does not hold what is needed.
    #[error("{0}")]
    Content(String),
    /// `image.json` does not parse or is of another format version.
    #[error("`{}` is not a valid image manifest: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An import was refused.
    #[error("import refused: {0}")]
    Import(#[from] crate::import::Refusal),
    /// The launch measurement could not be computed.
    #[error("computing the launch measurement: {0}")]
    Measure(#[from] crate::measure::MeasureError),
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
