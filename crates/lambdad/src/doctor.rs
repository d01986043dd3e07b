//! `lambdad doctor`: what this machine can do, and how to mend what it cannot.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::layout::Layout;

struct Finding {
    what: String,
    fix: Option<&'static str>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding { what: what.into(), fix: None }
}

fn bad(what: impl Into<String>, fix: &'static str) -> Finding {
    Finding { what: what.into(), fix: Some(fix) }
}

/// Prints the findings; an error when one must be mended.
pub(crate) fn run(data: Option<&Path>) -> Result<()> {
    let mut findings = vec![user(), qemu(), program("swtpm", "apt-get install swtpm"), cgroups()];
    findings.push(program("ip", "apt-get install iproute2"));
    findings.push(program("nft", "apt-get install nftables"));
    findings.extend(kernel());
    findings.push(acceleration());
    if let Some(data) = data {
        findings.push(folder(data));
    }
    let mut wrong = 0;
    for finding in &findings {
        match finding.fix {
            None => println!("ok    {}", finding.what),
            Some(fix) => {
                wrong += 1;
                println!("FAIL  {}\n      fix: {fix}", finding.what);
            }
        }
    }
    if wrong == 0 { Ok(()) } else { bail!("{wrong} to mend") }
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() { good("runs as root") } else { bad("does not run as root", "use sudo") }
}

fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn program(name: &str, fix: &'static str) -> Finding {
    match first_line(name, "--version") {
        Some(_) => good(format!("{name} is installed")),
        None => bad(format!("{name} is not installed"), fix),
    }
}

fn qemu() -> Finding {
    const FIX: &str = "apt-get install qemu-system-x86 (on Debian 12: -t bookworm-backports)";
    let Some(line) = first_line("qemu-system-x86_64", "--version") else {
        return bad("qemu-system-x86_64 is not installed", FIX);
    };
    match qemu_major(&line) {
        Some(major) if major >= 9 => good(line),
        _ => bad(format!("{line}: 9.1 or newer is needed"), FIX),
    }
}

fn qemu_major(line: &str) -> Option<u32> {
    line.strip_prefix("QEMU emulator version ")?.split('.').next()?.parse().ok()
}

fn cgroups() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        good("cgroup version 2")
    } else if root.join("memory").is_dir() {
        good("cgroup version 1: limits work, the unified hierarchy is preferred")
    } else {
        bad("no cgroup file system", "mount -t cgroup2 none /sys/fs/cgroup")
    }
}

fn kernel() -> Vec<Finding> {
    [
        ("/proc/self/ns/net", "network namespaces", "boot a kernel with CONFIG_NET_NS"),
        ("/dev/net/tun", "tap devices", "modprobe tun"),
    ]
    .into_iter()
    .map(|(path, what, fix)| if Path::new(path).exists() { good(what) } else { bad(format!("no {what}"), fix) })
    .collect()
}

/// The presence of `/dev/kvm` proves nothing: the node boots a probe guest when it starts, and says so in its log.
fn acceleration() -> Finding {
    if Path::new("/dev/kvm").exists() {
        good("/dev/kvm is there; the node tries it with a probe guest at its start")
    } else {
        good("no /dev/kvm: guests run in software emulation (slow); enable virtualisation in the firmware for KVM")
    }
}

fn folder(data: &Path) -> Finding {
    let settings = Layout::new(data).and_then(|layout| layout.settings());
    match settings {
        Ok(Some(settings)) => {
            good(format!("{}: {}, API at https://{}", data.display(), settings.node, settings.gateway))
        }
        Ok(None) => bad(format!("{} is not a data folder", data.display()), "lambdad init --data DIR"),
        Err(error) => bad(format!("{error:#}"), "restore settings.json from a backup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read() {
        assert_eq!(qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some(10));
        assert_eq!(qemu_major("something else"), None);
    }
}
