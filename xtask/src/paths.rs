//! Where things are: the clone, and the cache outside it that holds everything built or downloaded.

use std::path::{Path, PathBuf};

/// The root of the clone that cargo runs this program for: clones share one build folder, so that the program may have been
/// compiled for another one.
pub(crate) fn repository() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = Path::new(&manifest);
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// `$XDG_CACHE_HOME/lambda`, by default `~/.cache/lambda`.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| home().join(".cache"));
    base.join("lambda")
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

/// Cargo's build folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache().join("target"), PathBuf::from)
}

/// Cargo tools that this program installed.
pub(crate) fn tools() -> PathBuf {
    cache().join("tools")
}

/// The demo's data folder: one for this clone under `/var/lib`. A folder inside the clone would not do: the daemons' own users must reach it, and they may not enter `/root` or a home.
pub(crate) fn demo_data() -> PathBuf {
    let name = fnv1a(repository().as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/var/lib/lambda-demo-{:08x}", name as u32))
}

/// FNV-1a, for short names and cache keys that nobody attacks.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
