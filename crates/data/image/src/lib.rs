//! Builds, imports, reads and measures guest images.

#![forbid(unsafe_code)]

mod apt;
mod build;
mod cpio;
mod elf;
mod error;
mod hash;
pub mod import;
mod initramfs;
pub mod lock;
mod manifest;
pub mod measure;
mod modules;
mod packages;
mod root;
mod tool;
mod verity;

pub use apt::Mirrors;
pub use build::{BuildOptions, build, replace_guest};
pub use error::{Error, Result};
pub use lock::Lock;
pub use manifest::{command_line, image_id, load};
pub use measure::{Difference, Report, measure};
pub use packages::default_cache;

/// What an operation is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Step(String),
    /// Something that the person should know.
    Notice(String),
}

impl Progress {
    fn step(text: &str) -> Self {
        Self::Step(text.to_owned())
    }
}
