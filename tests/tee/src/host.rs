//! In QEMU's place: answers what a node asks of a capable host's QEMU, and starts guests.

use std::io::{BufRead as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::arguments::Arguments;
use crate::{Outcome, Setup, launch, processor};

/// The real one.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// What QMP says.
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 10, "minor": 1, "micro": 0}}, "capabilities": []}}"#;
const CAPABILITIES: &str =
    r#"{"return": {"cbitpos": 51, "reduced-phys-bits": 1, "pdh": "", "cert-chain": "", "cpu0-id": ""}}"#;

/// Does what QEMU is asked for.
pub(crate) fn run(given: &[String]) -> Outcome<()> {
    let has = |flag: &str, value: &str| given.windows(2).any(|pair| pair[0] == flag && pair[1] == value);
    if has("-object", "help") {
        println!("List of user creatable objects:\n  sev-snp-guest\n  tdx-guest");
        return Ok(());
    }
    if has("-machine", "none") && has("-qmp", "stdio") {
        return answer_questions();
    }
    let setup = Setup::read()?;
    let mut arguments = Arguments::new(given);
    let Some(guest) = launch::launch(&mut arguments, &setup.operator)? else {
        return Err(Command::new(QEMU).args(given).exec().into());
    };
    let port = processor::start(setup.vendor, guest)?;
    rustix::io::fcntl_setfd(&port, rustix::io::FdFlags::empty())?;
    Err(Command::new(QEMU).args(arguments.emulated(port.as_raw_fd())).exec().into())
}

/// A monitor of a machine that runs nothing.
fn answer_questions() -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{GREETING}")?;
    for line in std::io::stdin().lock().lines() {
        let asked: serde_json::Value = serde_json::from_str(&line?)?;
        let answer = if asked["execute"] == "query-sev-capabilities" { CAPABILITIES } else { r#"{"return": {}}"# };
        writeln!(out, "{answer}")?;
        if asked["execute"] == "quit" {
            break;
        }
    }
    Ok(())
}
