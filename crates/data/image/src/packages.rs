//! The package cache: `.deb` files by hash, checked every time they are used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Progress;
use crate::apt::{self, Mirrors};
use crate::error::{Error, Result};
use crate::hash;
use crate::host_tools;
use crate::lock::{Lock, Package, Use};
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

/// Downloads what the cache lacks and returns what the mirror says it does not have. Any other failure is an error, its
/// reason told for each package.
pub(crate) fn download(
    lock: &Lock,
    mirrors: &Mirrors,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Package>> {
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
    let mut tool = Tool::new("/usr/lib/apt/apt-helper")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download-file"])
        .limit(Duration::from_secs(1800));
    for package in &missing {
        tool = tool
            .arg(url(mirrors, package))
            .arg(partial.path().join(package.cache_name()))
            .arg(format!("SHA256:{}", package.sha256));
    }
    let finished = tool.finish()?;
    let told = String::from_utf8_lossy(&finished.output);
    let (mut gone, mut broken) = (Vec::new(), Vec::new());
    for package in missing {
        if adopt(&partial.path().join(package.cache_name()), cache, package)? {
            continue;
        }
        match reason(&told, &url(mirrors, package)) {
            Some(reason) if is_not_found(reason) => gone.push(package.clone()),
            other => broken.push((package, other.unwrap_or(&finished.errors).to_owned())),
        }
    }
    let Some((first, _)) = broken.first() else { return Ok(gone) };
    let mirror = mirrors.base(first.archive).to_owned();
    for (package, reason) in &broken {
        progress(Progress::Notice(format!("{} {}: {reason}", package.name, package.version)));
    }
    Err(Error::Download { names: broken.into_iter().map(|(package, _)| package.name.clone()).collect(), mirror })
}

fn url(mirrors: &Mirrors, package: &Package) -> String {
    format!("{}/{}", mirrors.base(package.archive), encode_path(&package.filename))
}

/// What apt-helper says of a URL that it gave up on: `Err:3 URL`, and the reason indented on the next line.
fn reason<'a>(told: &'a str, url: &str) -> Option<&'a str> {
    let mut lines = told.lines();
    while let Some(line) = lines.next() {
        let failed = line.strip_prefix("Err:").and_then(|rest| rest.split_once(' '));
        if failed.is_some_and(|(_, failed)| failed.trim_end() == url) {
            return lines.next().and_then(|reason| reason.strip_prefix("  ")).map(str::trim);
        }
    }
    None
}

/// Whether a reason is the server's answer that there is no such file: `404  Not Found [IP: …]`.
fn is_not_found(reason: &str) -> bool {
    reason.split_whitespace().next() == Some("404")
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
