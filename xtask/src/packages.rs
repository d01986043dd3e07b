//! Which Debian packages each purpose needs, and why.

/// Which Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// 12: QEMU comes from backports.
    Bookworm,
    /// 13.
    Trixie,
}

/// A package and the file that shows it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// Taken from backports on Debian 12.
    pub(crate) backported: bool,
    /// Only the test suite needs it.
    pub(crate) tests_only: bool,
}

const fn package(name: &'static str) -> Package {
    Package { name, backported: false, tests_only: false }
}

/// Everything.
pub(crate) const ALL: &[Package] = &[
    // Building the Rust workspace; aws-lc and SQLite are C.
    package("build-essential"),
    package("pkg-config"),
    // The node: guests, vTPMs, segments.
    Package { backported: true, ..package("qemu-system-x86") },
    package("swtpm"),
    package("iproute2"),
    package("nftables"),
    // The image builder. Packages come from Debian's mirrors, checked against its archive keyring.
    package("mmdebstrap"),
    package("erofs-utils"),
    package("cryptsetup-bin"),
    package("cpio"),
    package("zstd"),
    package("xz-utils"),
    package("kmod"),
    package("debian-archive-keyring"),
    // The customer's side.
    package("openssh-client"),
    // The pages that are checked are those that git knows.
    Package { tests_only: true, ..package("git") },
    // End-to-end tests: packet captures, core dumps, hostile stand-ins, signals.
    Package { tests_only: true, ..package("tcpdump") },
    Package { tests_only: true, ..package("gdb") },
    Package { tests_only: true, ..package("busybox-static") },
    Package { tests_only: true, ..package("python3") },
    Package { tests_only: true, ..package("curl") },
    Package { tests_only: true, ..package("procps") },
    // A file system is made as the guest makes it.
    Package { tests_only: true, ..package("e2fsprogs") },
    // Certificates are read by a second implementation; programs run in other namespaces and with fewer rights.
    Package { tests_only: true, ..package("openssl") },
    Package { tests_only: true, ..package("util-linux") },
    Package { tests_only: true, ..package("hostname") },
];

/// The package whose age counts, and its program.
pub(crate) const QEMU: (&str, &str) = ("qemu-system-x86", "qemu-system-x86_64");

/// The oldest QEMU that runs guests as the node asks.
pub(crate) const OLDEST_QEMU: (u32, u32) = (9, 1);

/// Major and minor in what `qemu-system-x86_64 --version` prints.
pub(crate) fn qemu_version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The release that an `/etc/os-release` names.
pub(crate) fn release(os_release: &str) -> Option<Release> {
    let field = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    match (field("ID")?.as_str(), field("VERSION_ID").as_deref()) {
        ("debian", Some("12")) => Some(Release::Bookworm),
        ("debian", Some("13")) => Some(Release::Trixie),
        _ => None,
    }
}

/// Names of the packages that `dpkg-query -W -f='${Package} ${db:Status-Status}\n'` lists as installed.
pub(crate) fn installed(listing: &str) -> std::collections::BTreeSet<&str> {
    listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12_and_13_are_known_and_others_are_not() {
        assert_eq!(release("ID=debian\nVERSION_ID=\"12\"\n"), Some(Release::Bookworm));
        assert_eq!(release("VERSION_ID=\"13\"\nID=debian\n"), Some(Release::Trixie));
        assert_eq!(release("ID=ubuntu\nVERSION_ID=\"24.04\"\n"), None);
        assert_eq!(release("ID=debian\n"), None);
    }

    #[test]
    fn debian_12s_own_qemu_is_too_old_and_its_backport_is_not() {
        let old = qemu_version("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u16)\n").unwrap();
        let backport = qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n").unwrap();
        assert!(old < OLDEST_QEMU && backport >= OLDEST_QEMU);
        assert_eq!(qemu_version("QEMU emulator version 9.1\n"), Some(OLDEST_QEMU));
        assert_eq!(qemu_version("not a QEMU"), None);
    }

    #[test]
    fn a_removed_package_that_left_its_configuration_is_not_installed() {
        let listing = "swtpm installed\ngdb config-files\n";
        assert_eq!(installed(listing).into_iter().collect::<Vec<_>>(), ["swtpm"]);
    }
}
