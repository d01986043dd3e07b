//! The package cache: `.deb` files by hash, checked every time they are used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Progress;
use crate::apt::{self, Mirrors};
use crate::error::{Error, Result};
use crate::hash;
use crate::host_tools;
use crate::lock::{Archive, Lock, Package, Use};
use crate::tool::Tool;

/// Locked packages, all of them present and checked.
pub(crate) struct Packages {
    pub(crate) lock: Lock,
    cache: PathBuf,
}

impl Packages {
    /// Makes every package of the lock present. Where the mirror no longer has a locked version, says which, resolves
    /// anew and goes on with the new lock; where this host has other tools than the lock names, says which, and locks these.
    pub(crate) fn fetch(
        lock: Lock,
        mirrors: &Mirrors,
        cache: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        std::fs::create_dir_all(cache).map_err(Error::io("creating", cache))?;
        let lock = host_tools::record(lock, progress)?;
        let gone = download(&lock, mirrors, cache, progress)?;
        if gone.is_empty() {
            return Ok(Self { lock, cache: cache.to_path_buf() });
        }
        progress(Progress::Notice(format!(
            "the mirror no longer has {}: locking what it has now",
            gone.iter().map(|package| format!("{} {}", package.name, package.version)).collect::<Vec<_>>().join(", ")
        )));
        let lock = apt::resolve(apt::release(&lock.release)?, mirrors, progress)?;
        let gone = download(&lock, mirrors, cache, progress)?;
        if gone.is_empty() {
            return Ok(Self { lock, cache: cache.to_path_buf() });
        }
        let names = gone.into_iter().map(|package| package.name).collect();
        Err(Error::Download { names, mirror: mirrors.debian.clone() })
    }

    /// The `.deb` of a package.
    pub(crate) fn file(&self, package: &Package) -> PathBuf {
        self.cache.join(package.cache_name())
    }

    /// Unpacks every package of one use into `into`, without running any script.
    pub(crate) fn unpack(&self, what: Use, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into).map_err(Error::io("creating", into))?;
        for package in self.lock.used_for(what) {
            Tool::new("dpkg-deb").arg("-x").arg(self.file(package)).arg(into).run()?;
        }
        Ok(())
    }
}

/// Where packages are cached unless told otherwise.
#[must_use]
pub fn default_cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    base.unwrap_or_else(home).join("lambda/packages")
}

/// Downloads what the cache lacks and returns what could not be had.
fn download(lock: &Lock, mirrors: &Mirrors, cache: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Package>> {
    let missing: Vec<&Package> = lock.packages.iter().filter(|package| !present(cache, package)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let size: u64 = missing.iter().map(|package| package.size).sum();
    progress(Progress::Step(format!("downloading {} packages, {} MB", missing.len(), size / 1_000_000)));
    let partial = tempfile::Builder::new()
        .prefix("partial-")
        .tempdir_in(cache)
        .map_err(Error::io("creating a folder in", cache))?;
    let fetch = |packages: &[&Package]| {
        let mut tool = Tool::new("/usr/lib/apt/apt-helper")
            .args(["-o", "APT::Sandbox::User=root", "download-file"])
            .limit(Duration::from_secs(1800));
        for package in packages {
            let base = mirrors.base(package.archive);
            tool = tool
                .arg(format!("{base}/{}", encode_path(&package.filename)))
                .arg(partial.path().join(package.cache_name()))
                .arg(format!("SHA256:{}", package.sha256));
        }
        tool.finish()
    };
    let first = fetch(&missing)?;
    let took = |package: &Package| adopt(&partial.path().join(package.cache_name()), cache, package);
    let mut left = Vec::new();
    for package in missing {
        if !took(package)? {
            left.push(package);
        }
    }
    if !left.is_empty() && !first.errors.contains("404") {
        let names = left.iter().map(|package| package.name.clone()).collect();
        progress(Progress::Notice(format!("apt-helper: {}", first.errors)));
        return Err(Error::Download { names, mirror: mirrors.base(Archive::Debian).to_owned() });
    }
    Ok(left.into_iter().cloned().collect())
}

/// Moves a complete download into the cache.
fn adopt(partial: &Path, cache: &Path, package: &Package) -> Result<bool> {
    if !partial.exists() || hash::file(partial)?.sha256 != package.sha256 {
        return Ok(false);
    }
    let target = cache.join(package.cache_name());
    std::fs::rename(partial, &target).map_err(Error::io("moving a package to", &target))?;
    Ok(true)
}

fn present(cache: &Path, package: &Package) -> bool {
    let path = cache.join(package.cache_name());
    hash::file(&path).is_ok_and(|found| found.sha256 == package.sha256)
}

/// Percent-encodes what Debian's pool paths may contain beyond plain characters.
fn encode_path(path: &str) -> String {
    path.replace('%', "%25").replace('+', "%2b").replace('~', "%7e").replace(':', "%3a")
}
