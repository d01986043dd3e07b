//! The host's own programs whose version an image's bytes depend on: what installs the root file system, packs it, compresses
//! it and lists its modules. They cannot be fetched by the lock, so that it can only say which they were.

use crate::Progress;
use crate::error::Result;
use crate::lock::{HostTool, Lock};
use crate::tool::Tool;

/// Their Debian packages, sorted.
const PACKAGES: [&str; 6] = ["apt", "dpkg", "erofs-utils", "kmod", "liblz4-1", "mmdebstrap"];

/// Stands for the version of a program that no package of the host holds.
const UNPACKAGED: &str = "unpackaged";

/// What this host has.
///
/// # Errors
/// When dpkg cannot be asked.
pub(crate) fn installed() -> Result<Vec<HostTool>> {
    let format = "-f=${db:Status-Status} ${Package} ${Version}\\n";
    // It ends with 1 when it does not know one of them.
    let asked = Tool::new("dpkg-query").args(["-W", format, "--"]).args(PACKAGES).finish()?;
    let listing = String::from_utf8_lossy(&asked.output).into_owned();
    Ok(PACKAGES.iter().map(|name| HostTool { name: (*name).to_owned(), version: version(&listing, name) }).collect())
}

fn version(listing: &str, name: &str) -> String {
    let found = listing.lines().find_map(|line| line.strip_prefix("installed ")?.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or(UNPACKAGED).to_owned()
}

/// Makes the lock name what this host has; says so where it named something else.
pub(crate) fn record(mut lock: Lock, progress: &mut dyn FnMut(Progress)) -> Result<Lock> {
    let here = installed()?;
    let other = differences(&lock.tools, &here);
    if !other.is_empty() {
        progress(Progress::Notice(format!(
            "this host's tools are not those of the lock, so the image may differ from the lock's: {}; locking what is here",
            other.join(", ")
        )));
    }
    lock.tools = here;
    Ok(lock)
}

/// A phrase for each tool that is not the locked one. Of an unpackaged one nobody knows whether it is.
fn differences(locked: &[HostTool], here: &[HostTool]) -> Vec<String> {
    let of =
        |tools: &[HostTool], name: &str| tools.iter().find(|tool| tool.name == name).map(|tool| tool.version.clone());
    let differs =
        |tool: &&HostTool| tool.version == UNPACKAGED || of(locked, &tool.name).as_ref() != Some(&tool.version);
    let told = |tool: &HostTool| {
        let locked = of(locked, &tool.name).unwrap_or_else(|| "no version".into());
        format!("{} {} (locked: {locked})", tool.name, tool.version)
    };
    here.iter().filter(differs).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(list: &[(&str, &str)]) -> Vec<HostTool> {
        list.iter().map(|(name, version)| HostTool { name: (*name).into(), version: (*version).into() }).collect()
    }

    #[test]
    fn the_host_that_runs_this_has_every_tool_from_a_package() {
        let here = installed().unwrap();
        assert_eq!(here.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), PACKAGES);
        assert!(here.iter().all(|tool| tool.version != UNPACKAGED), "{here:?}");
    }

    #[test]
    fn only_an_installed_package_of_exactly_that_name_counts() {
        let listing = "config-files kmod 29-1\ninstalled kmod-udeb 30-1\ninstalled dpkg 1.21.22\n";
        assert_eq!(version(listing, "kmod"), UNPACKAGED);
        assert_eq!(version(listing, "dpkg"), "1.21.22");
    }

    #[test]
    fn a_tool_of_another_version_than_locked_is_named_with_both_and_recorded() {
        let mut lock = Lock::shipped("debian-12").unwrap();
        lock.tools = installed().unwrap();
        let packer = lock.tools.iter_mut().find(|tool| tool.name == "erofs-utils").unwrap();
        let present = std::mem::replace(&mut packer.version, "0.9-1".into());
        let mut notices = Vec::new();
        let mut listen = |event: Progress| {
            if let Progress::Notice(text) = event {
                notices.push(text);
            }
        };
        let recorded = record(lock.clone(), &mut listen).unwrap();
        assert_eq!(recorded.tools, installed().unwrap());
        assert_eq!(recorded.packages, lock.packages, "the packages stay locked");
        assert_eq!(record(recorded.clone(), &mut listen).unwrap(), recorded);
        assert_eq!(notices.len(), 1, "the same tools are not worth a word: {notices:?}");
        assert!(notices[0].contains(&format!("erofs-utils {present} (locked: 0.9-1)")), "{notices:?}");
        assert!(!notices[0].contains("mmdebstrap"), "{notices:?}");
    }

    #[test]
    fn a_tool_that_the_lock_does_not_name_or_no_package_holds_differs() {
        let here = tools(&[("dpkg", "1"), ("kmod", UNPACKAGED)]);
        assert_eq!(differences(&here, &here), ["kmod unpackaged (locked: unpackaged)"]);
        assert_eq!(differences(&tools(&[("kmod", "2")]), &here[..1]), ["dpkg 1 (locked: no version)"]);
    }
}
