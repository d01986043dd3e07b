//! The lock: every package that goes into an image, by version and hash, and the host's tools that made it, by version.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Version of the format.
pub const FORMAT: u32 = 2;

/// The lock that ships with this crate.
const DEBIAN_12: &str = include_str!("../locks/debian-12.lock");

/// Every package of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the image, for example `debian-12`.
    pub release: String,
    /// Newest date of the signed package lists that the lock was made from, seconds since 1970. Every time stamp in
    /// the image is this one.
    pub date: u64,
    /// The host's packages that the image's bytes depend on, sorted by name.
    pub tools: Vec<HostTool>,
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
}

/// A package of the machine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTool {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture.
    pub architecture: String,
    /// Which archive serves it.
    pub archive: Archive,
    /// Path below the archive's base URL.
    pub filename: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// What it is used for.
    pub uses: Vec<Use>,
}

/// A Debian archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    /// `deb.debian.org/debian`.
    Debian,
    /// `deb.debian.org/debian-security`.
    DebianSecurity,
}

/// What a package is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// Installed in the root file system.
    Root,
    /// Programs and libraries of the initramfs are taken from it.
    Initramfs,
    /// Kernel and modules.
    Kernel,
    /// Firmware.
    Firmware,
}

/// What every format of a lock begins with.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl HostTool {
    /// Shown to people, so nothing that a terminal would interpret.
    fn is_plain(&self) -> bool {
        [&self.name, &self.version]
            .iter()
            .all(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}

impl Lock {
    /// The lock that ships with this crate for a release.
    ///
    /// # Errors
    /// When there is none, with the names there are.
    pub fn shipped(release: &str) -> Result<Self> {
        match release {
            "debian-12" => Self::parse(DEBIAN_12.as_bytes()),
            other => Err(Error::Lock(format!("no lock ships for `{other}`; available: debian-12"))),
        }
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// When it does not parse, is of another format, or names something unsafe.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid = |error: serde_json::Error| Error::Lock(error.to_string());
        // Before the rest: other formats have other fields.
        let Head { format } = serde_json::from_slice(bytes).map_err(invalid)?;
        if format != FORMAT {
            return Err(Error::Lock(format!("format {format} where {FORMAT} is known")));
        }
        let lock: Self = serde_json::from_slice(bytes).map_err(invalid)?;
        if !lock.tools.iter().all(HostTool::is_plain) {
            return Err(Error::Lock("a host tool has an unusable name or version".into()));
        }
        for package in &lock.packages {
            Self::check_package(package)?;
        }
        Ok(lock)
    }

    /// Refuses names, hashes and paths that are not what Debian's look like: they become file names and arguments.
    pub(crate) fn check_package(package: &Package) -> Result<()> {
        package.check()
    }

    /// The canonical text.
    ///
    /// # Errors
    /// Never in practice; serialisation errors are passed on.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::Lock(error.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The packages for one use.
    pub fn used_for(&self, what: Use) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(move |package| package.uses.contains(&what))
    }

    /// The one package for a use.
    pub(crate) fn only(&self, what: Use) -> Result<&Package> {
        let mut found = self.used_for(what);
        match (found.next(), found.next()) {
            (Some(package), None) => Ok(package),
            _ => Err(Error::Lock(format!("it must name exactly one package for {what:?}"))),
        }
    }

    /// The date as `2026.11.23`.
    #[must_use]
    pub fn version(&self) -> String {
        let (year, month, day) = civil_from_days(self.date / 86_400);
        format!("{year:04}.{month:02}.{day:02}")
    }
}

impl Package {
    /// Name of the package's file in the cache: names are not unique over time, hashes are.
    pub(crate) fn cache_name(&self) -> String {
        format!("{}_{}.deb", self.name, self.sha256)
    }

    fn check(&self) -> Result<()> {
        let name_ok = !self.name.is_empty()
            && self
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
        let hash_ok = self.sha256.len() == 64 && self.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let path_ok = self.filename.starts_with("pool/")
            && !self.filename.split('/').any(|part| part.is_empty() || part == "..")
            && self.filename.bytes().all(|byte| byte.is_ascii_graphic() && !b"'\"\\?#".contains(&byte));
        if name_ok && hash_ok && path_ok {
            return Ok(());
        }
        Err(Error::Lock(format!("package `{}` has an unusable name, hash or path", self.name.escape_default())))
    }
}

/// Proleptic Gregorian date of a day number since 1970-01-01.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a proleptic Gregorian date.
pub(crate) fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let month_index = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}
