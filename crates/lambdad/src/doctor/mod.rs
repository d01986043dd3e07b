//! `lambdad doctor`: what this machine can do, and how to mend what it cannot.

mod probe;
mod profiles;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lambda_attest::Collateral;
use serde::Serialize;

use self::profiles::Profile;
use crate::layout::Layout;

/// The oldest QEMU that will do.
const QEMU: (u32, u32) = (9, 1);

/// Version 1 controllers that limit a guest, each with a file that only a working one has.
const CONTROLLERS: [(&str, &str); 3] =
    [("memory", "memory.limit_in_bytes"), ("pids", "pids.max"), ("cpu", "cpu.cfs_quota_us")];

/// Rules of every kind that the node writes, in a namespace that ends with the program.
const RULES: &str = "table inet probe {
  set s { typeof iifname . ether saddr . ip saddr; }
  chain a { type filter hook prerouting priority raw; policy drop; iifname . ether saddr . ip saddr @s accept; }
  chain b { type filter hook output priority filter; policy drop; ct state established,related accept; }
}
table arp probe {
  chain a { type filter hook input priority filter; policy drop; iifname . arp saddr ip { \"t\" . 10.0.0.1 } accept; }
}
";

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also look at this data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// What vendors published about their hardware, as a JSON document: probe guests of Intel hosts are judged with it.
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,
}

impl Options {
    fn collateral(&self) -> Result<Collateral> {
        let Some(path) = &self.collateral else { return Ok(Collateral::default()) };
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Collateral::parse(&bytes).with_context(|| path.display().to_string())
    }
}

#[derive(Serialize)]
struct Finding {
    ok: bool,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
}

fn good(what: impl Into<String>) -> Finding {
    Finding { ok: true, what: what.into(), fix: None }
}

fn bad(what: impl Into<String>, fix: &'static str) -> Finding {
    Finding { ok: false, what: what.into(), fix: Some(fix) }
}

/// Prints the findings; an error when one must be mended.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { data, json, .. } = options;
    let data = data.as_deref();
    let collateral = options.collateral()?;
    let mut findings = vec![user(), qemu(), program("swtpm", "apt-get install swtpm")];
    findings.push(program("nft", "apt-get install nftables"));
    findings.extend([cgroups(Path::new("/sys/fs/cgroup")), firewall(), tap()]);
    if let Some(data) = data {
        findings.push(folder(data));
    }
    let profiles = profiles::all(&images(data), &collateral);
    let wrong = findings.iter().filter(|finding| !finding.ok).count();
    if *json {
        let report = serde_json::json!({ "ok": wrong == 0, "findings": findings, "profiles": profiles });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for finding in &findings {
            println!("{}  {}", if finding.ok { "ok  " } else { "FAIL" }, finding.what);
            finding.fix.iter().for_each(|fix| println!("      fix: {fix}"));
        }
        profiles.iter().for_each(Profile::print);
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
    match qemu_version(&line) {
        Some(version) if version >= QEMU => good(line),
        Some(_) => bad(format!("{line}: {}.{} or newer is needed", QEMU.0, QEMU.1), FIX),
        None => bad(format!("qemu-system-x86_64 says `{line}`, which is no version"), FIX),
    }
}

/// Major and minor number.
fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("QEMU emulator version ")?.split([' ', '.', '(', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroups(mount: &Path) -> Finding {
    const FIX: &str = "mount -t cgroup2 none /sys/fs/cgroup, and boot a kernel with the memory, pids and cpu controllers \
                       (cgroup_enable=memory where it is off)";
    if let Ok(text) = std::fs::read_to_string(mount.join("cgroup.controllers")) {
        let offered: Vec<&str> = text.split_ascii_whitespace().collect();
        return match CONTROLLERS.iter().find(|(controller, _)| !offered.contains(controller)) {
            None => good("cgroup version 2 with memory, pids and cpu"),
            Some((controller, _)) => bad(format!("cgroup version 2 without the {controller} controller"), FIX),
        };
    }
    for (controller, file) in CONTROLLERS {
        if let Err(error) = try_group(&mount.join(controller), file) {
            return bad(format!("no working {controller} cgroup controller: {error}"), FIX);
        }
    }
    good("cgroup version 1 with memory, pids and cpu: limits work, the unified hierarchy is preferred")
}

/// Makes a group and removes it again.
fn try_group(controller: &Path, file: &str) -> std::io::Result<()> {
    let group = controller.join(format!("lambda-doctor-{}", std::process::id()));
    std::fs::create_dir(&group)?;
    let works = std::fs::read(group.join(file)).map(|_| ());
    std::fs::remove_dir(&group)?;
    works
}

/// Whether a program does its work in a network namespace of its own.
fn in_namespace(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("unshare");
    command.arg("--net").args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("unshare")?;
    // A program that ends without reading says why below.
    let _ = child.stdin.take().context("standard input is a pipe")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().next().unwrap_or("it says nothing"));
    }
    Ok(())
}

fn firewall() -> Finding {
    match in_namespace(&["nft", "-f", "-"], RULES) {
        Ok(()) => good("network namespaces, with inet and arp rules of nftables"),
        Err(error) => bad(
            format!("no rules of nftables in a network namespace: {error:#}"),
            "modprobe -a nf_tables nft_ct; boot a kernel with CONFIG_NET_NS, CONFIG_NF_TABLES_INET and CONFIG_NF_TABLES_ARP",
        ),
    }
}

/// Opening the device without a driver fails, whether the file is there or not.
fn tap() -> Finding {
    match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => good("tap devices"),
        Err(error) => bad(format!("no tap devices: /dev/net/tun: {error}"), "modprobe tun"),
    }
}

/// Folders with images whose kernel a probe guest can run.
fn images(data: Option<&Path>) -> Vec<PathBuf> {
    let settings = data.and_then(|data| Layout::new(data).and_then(|layout| layout.settings()).ok()?);
    settings.map(|settings| settings.images.into_iter().collect()).unwrap_or_default()
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
        assert_eq!(qemu_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some((10, 0)));
        assert_eq!(qemu_version("QEMU emulator version 9.1.0-rc1"), Some((9, 1)));
        assert_eq!(qemu_version("QEMU emulator version 9.1"), Some((9, 1)));
        for garbage in
            ["something else", "QEMU emulator version", "QEMU emulator version x.y", "QEMU emulator version 9"]
        {
            assert_eq!(qemu_version(garbage), None, "{garbage}");
        }
        let new_enough = |line| qemu_version(line).is_some_and(|version| version >= QEMU);
        assert!(!new_enough("QEMU emulator version 9.0.4"));
        assert!(!new_enough("QEMU emulator version 7.2.17"));
        assert!(new_enough("QEMU emulator version 9.1.0"));
        assert!(new_enough("QEMU emulator version 10.0.2"));
    }

    #[test]
    fn a_missing_cgroup_controller_is_named_with_a_fix() {
        let mount = tempfile::tempdir().unwrap();
        let file = mount.path().join("cgroup.controllers");
        std::fs::write(&file, "cpuset cpu io memory pids\n").unwrap();
        assert!(cgroups(mount.path()).ok);
        std::fs::write(&file, "cpuset cpu io pids\n").unwrap();
        let finding = cgroups(mount.path());
        assert!(finding.what.contains("memory") && finding.fix.is_some());
        std::fs::remove_file(&file).unwrap();
        assert!(cgroups(mount.path()).what.contains("no working memory"));
    }
}
