//! Resolving an image's packages into a lock, with a configuration of our own.
//!
//! The host's sources, keys, pins and installed packages play no part: apt sees an empty machine and exactly the
//! suites below, whose signatures it must be able to check with Debian's archive keyring. Only the host's `Acquire`
//! settings (proxies, time-outs) are taken over.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::Progress;
use crate::error::{Error, Result};
use crate::host_tools;
use crate::lock::{Archive, FORMAT, Lock, Package, Use, days_from_civil};
use crate::tool::Tool;

/// Debian's archive keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Base URL of the main archive.
    pub debian: String,
    /// Base URL of the security archive.
    pub security: String,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self { debian: "http://deb.debian.org/debian".into(), security: "http://deb.debian.org/debian-security".into() }
    }
}

impl Mirrors {
    /// Base URL of an archive.
    #[must_use]
    pub fn base(&self, archive: Archive) -> &str {
        match archive {
            Archive::Debian => &self.debian,
            Archive::DebianSecurity => &self.security,
        }
    }
}

/// What a release is made of.
pub(crate) struct Release {
    pub(crate) name: &'static str,
    codename: &'static str,
    /// Beside everything essential.
    root: &'static [&'static str],
    initramfs: &'static [&'static str],
    firmware: &'static str,
    /// Meta package of the kernel, and the suite that it is taken from.
    kernel: (&'static str, &'static str),
}

/// Debian 12. Its own kernel is 6.1; the confidential-guest drivers need the one in backports.
pub(crate) const DEBIAN_12: Release = Release {
    name: "debian-12",
    codename: "bookworm",
    root: &[
        "apt",
        "ca-certificates",
        "debian-archive-keyring",
        "iproute2",
        "iputils-ping",
        "kmod",
        "less",
        "libpam-runtime",
        "openssh-server",
        "openssh-sftp-server",
        "procps",
        "sudo",
        "systemd",
        "systemd-sysv",
    ],
    initramfs: &["cryptsetup-bin", "e2fsprogs"],
    firmware: "ovmf",
    kernel: ("linux-image-cloud-amd64", "bookworm-backports"),
};

/// The release with this name.
pub(crate) fn release(name: &str) -> Result<&'static Release> {
    match name {
        "debian-12" => Ok(&DEBIAN_12),
        other => Err(Error::Lock(format!("no recipe for `{other}`; available: debian-12"))),
    }
}

/// A private apt: configuration, lists and cache in one folder.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path, release: &Release, mirrors: &Mirrors) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "etc"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(Error::io("creating", &path))?;
        }
        let mut sources = String::new();
        for (base, suite) in [
            (&mirrors.debian, release.codename.to_owned()),
            (&mirrors.debian, format!("{}-updates", release.codename)),
            (&mirrors.debian, format!("{}-backports", release.codename)),
            (&mirrors.security, format!("{}-security", release.codename)),
        ] {
            let _ = writeln!(sources, "deb [arch=amd64 signed-by={KEYRING}] {base} {suite} main");
        }
        write(&dir.join("etc/sources.list"), &sources)?;
        write(&dir.join("status"), "")?;
        let at = dir.display();
        let mut conf = format!(
            "Dir::Etc \"{at}/etc\";\nDir::Etc::main \"none\";\nDir::Etc::parts \"none\";\n\
             Dir::Etc::sourcelist \"sources.list\";\nDir::Etc::sourceparts \"none\";\n\
             Dir::Etc::preferences \"none\";\nDir::Etc::preferencesparts \"none\";\n\
             Dir::Etc::trusted \"none\";\nDir::Etc::trustedparts \"none\";\n\
             Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Install-Recommends \"false\";\nAPT::Install-Suggests \"false\";\nAPT::Sandbox::User \"root\";\n\
             APT::Get::AllowUnauthenticated \"false\";\nAcquire::AllowInsecureRepositories \"false\";\n\
             Acquire::AllowWeakRepositories \"false\";\nAcquire::Languages \"none\";\n\
             APT::Update::Error-Mode \"any\";\n",
        );
        let host = Tool::new("apt-config").args(["dump", "Acquire"]).run()?;
        for line in String::from_utf8_lossy(&host).lines() {
            let name = line.split(' ').next().unwrap_or_default();
            if ["Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-"]
                .iter()
                .any(|p| name.starts_with(p))
            {
                let _ = writeln!(conf, "{line}");
            }
        }
        write(&dir.join("apt.conf"), &conf)?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    fn tool(&self, program: &'static str) -> Tool {
        Tool::new(program).env("APT_CONFIG", self.dir.join("apt.conf"))
    }

    /// Names and versions that installing `wanted` on an empty machine takes, with the URL of each.
    fn resolve(&self, wanted: &[&str], suite: &str) -> Result<BTreeMap<(String, String), String>> {
        let printed = self
            .tool("apt-get")
            .args(["install", "-y", "-qq", "--print-uris", "-t", suite, "--"])
            .args(wanted)
            .run()?;
        let text = String::from_utf8_lossy(&printed);
        let mut found = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with('\'')) {
            let mut words = line.split(' ');
            let url = words.next().unwrap_or_default().trim_matches('\'').to_owned();
            let mut parts = words.next().unwrap_or_default().split('_');
            let (Some(name), Some(version)) = (parts.next(), parts.next()) else {
                return Err(Error::Content(format!("apt-get printed a line that is not a package: {line}")));
            };
            found.insert((name.to_owned(), version.replace("%3a", ":")), url);
        }
        if found.is_empty() {
            return Err(Error::Content(format!("apt-get resolved nothing for {}", wanted.join(" "))));
        }
        Ok(found)
    }

    /// Newest date of the signed package lists.
    fn date(&self) -> Result<u64> {
        let lists = self.dir.join("state/lists");
        let mut newest = None;
        for entry in std::fs::read_dir(&lists).map_err(Error::io("reading", &lists))? {
            let path = entry.map_err(Error::io("reading", &lists))?.path();
            if path.to_string_lossy().ends_with("Release") {
                let text = std::fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
                let date = text.lines().find_map(|line| line.strip_prefix("Date: ")).and_then(parse_date);
                newest = newest.max(date);
            }
        }
        newest.ok_or_else(|| Error::Content("the package lists carry no date".into()))
    }
}

/// Resolves a release against its mirrors.
///
/// # Errors
/// When a list cannot be fetched or its signature does not check, or a package is missing.
pub(crate) fn resolve(release: &Release, mirrors: &Mirrors, progress: &mut dyn FnMut(Progress)) -> Result<Lock> {
    progress(Progress::step("resolving packages against the mirror"));
    let work = tempfile::Builder::new()
        .prefix("lambda-apt-")
        .tempdir()
        .map_err(Error::io("creating a folder in", std::env::temp_dir()))?;
    let apt = Apt::new(work.path(), release, mirrors)?;
    apt.tool("apt-get").args(["update", "-qq"]).run()?;

    let mut uses: BTreeMap<(String, String), (String, Vec<Use>)> = BTreeMap::new();
    let mut root = vec!["?essential"];
    root.extend(release.root);
    for (what, wanted, suite) in [
        (Use::Root, root.as_slice(), release.codename),
        (Use::Initramfs, release.initramfs, release.codename),
        (Use::Firmware, &[release.firmware], release.codename),
        (Use::Kernel, &[release.kernel.0], release.kernel.1),
    ] {
        let keep = |name: &str| match what {
            Use::Root | Use::Initramfs => true,
            Use::Firmware => name == release.firmware,
            Use::Kernel => {
                name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            }
        };
        for (key, url) in apt.resolve(wanted, suite)?.into_iter().filter(|((name, _), _)| keep(name)) {
            uses.entry(key).or_insert_with(|| (url, Vec::new())).1.push(what);
        }
    }
    let lock = Lock {
        format: FORMAT,
        release: release.name.into(),
        date: apt.date()?,
        tools: host_tools::installed()?,
        packages: describe(&apt, mirrors, uses)?,
    };
    for package in &lock.packages {
        Lock::check_package(package)?;
    }
    Ok(lock)
}

/// Fills in what the signed package lists say about each package.
fn describe(
    apt: &Apt,
    mirrors: &Mirrors,
    uses: BTreeMap<(String, String), (String, Vec<Use>)>,
) -> Result<Vec<Package>> {
    let names = uses.keys().map(|(name, version)| format!("{name}={version}"));
    let shown = apt.tool("apt-cache").args(["show", "--"]).args(names).run()?;
    let text = String::from_utf8_lossy(&shown).into_owned();
    let mut stanzas: BTreeMap<(String, String), BTreeMap<&str, &str>> = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = stanza.lines().filter_map(|line| line.split_once(": ")).collect();
        if let (Some(name), Some(version)) = (fields.get("Package"), fields.get("Version")) {
            stanzas.entry(((*name).to_owned(), (*version).to_owned())).or_insert(fields);
        }
    }
    uses.into_iter()
        .map(|((name, version), (url, uses))| {
            let missing = || Error::Content(format!("the package lists do not fully describe {name} {version}"));
            let fields = stanzas.get(&(name.clone(), version.clone())).ok_or_else(missing)?;
            let field = |what: &str| fields.get(what).map(|value| (*value).to_owned()).ok_or_else(missing);
            let archive = [Archive::DebianSecurity, Archive::Debian]
                .into_iter()
                .find(|archive| url.starts_with(&format!("{}/", mirrors.base(*archive))))
                .ok_or_else(missing)?;
            Ok(Package {
                architecture: field("Architecture")?,
                archive,
                filename: field("Filename")?,
                size: field("Size")?.parse().map_err(|_| missing())?,
                sha256: field("SHA256")?,
                uses,
                version: version.clone(),
                name: name.clone(),
            })
        })
        .collect()
}

/// `Sat, 15 Nov 2026 10:23:45 UTC` in seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "+0000"] = words.as_slice() else { return None };
    let month = u64::try_from(MONTHS.iter().position(|name| name == month)?).ok()? + 1;
    let days = days_from_civil(year.parse().ok()?, month, day.parse().ok()?)?;
    let clock: Vec<u64> = time.split(':').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
    let [hour, minute, second] = clock.as_slice() else { return None };
    (*hour < 24 && *minute < 60 && *second < 61).then(|| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_dates_parse_and_garbage_does_not() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:10 UTC"), Some(10));
        assert_eq!(parse_date("Sat, 29 Feb 2020 12:34:56 UTC"), Some(1_582_979_696));
        for bad in ["", "Sat, 29 Feb 2020 12:34:56", "Sat, 29 Foo 2020 12:34:56 UTC", "Sat, 29 Feb 2020 24:00:00 UTC"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }
}
