//! The last program of a guest: leaves the volume as if it had never been open, then ends the machine.
//!
//! The root file system lies on the volume, so the init system can only write it out, not let go of it. systemd therefore
//! makes `/run/initramfs` its root at the very end and executes `shutdown` there, if there is one ([`install`]), as PID 1:
//!
//! ```text
//!   kill what is left ─▶ unmount all below /oldroot ─▶ remove the mappings ─▶ power off | reboot | halt
//!                        (the overlay goes, and with it   (dm-crypt wipes its key,
//!                         ext4, cleanly)                   dm-integrity writes its journal)
//! ```
//!
//! What cannot be undone within [`BOUND`] is left to the journals, as after a power cut.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lambda_types::guest::FailureReason;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::RebootCommand;

use crate::failure::{Because, Failure};
use crate::{dm, kmsg, power, volume};

/// Where systemd looks for the program.
pub const PROGRAM: &str = "/run/initramfs/shutdown";
/// As what systemd executes it, in the new root.
pub const NAME: &str = "/shutdown";

/// Where systemd leaves the root file system.
const OLD_ROOT: &str = "/oldroot";
/// Longest that everything may take.
const BOUND: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(20);

/// Puts this program where systemd looks for it.
///
/// # Errors
/// [`FailureReason::RootAssembly`].
pub fn install() -> Result<(), Failure> {
    let reason = FailureReason::RootAssembly;
    let program = Path::new(PROGRAM);
    std::fs::create_dir_all(program.parent().unwrap_or(program)).because(reason, PROGRAM)?;
    std::fs::copy("/proc/self/exe", program).because(reason, PROGRAM)?;
    Ok(())
}

/// Runs as PID 1 in systemd's place; `verb` is what systemd was asked for.
pub fn run(verb: &str) -> ! {
    let end = ending(verb);
    // Whatever hangs below, the machine ends.
    power::end_after(BOUND + BOUND, end);
    let deadline = Instant::now() + BOUND;
    if let Err(left) = until(deadline, || let_go(Path::new(OLD_ROOT))) {
        kmsg::say(&format!("shutdown: still mounted: {left:?}"));
    }
    for mapping in volume::mappings() {
        if let Err(error) = until(deadline, || dm::remove(&mapping)) {
            kmsg::say(&format!("shutdown: {mapping} stays: {error}"));
        }
    }
    power::end(end)
}

fn ending(verb: &str) -> RebootCommand {
    match verb {
        "reboot" | "kexec" => RebootCommand::Restart,
        "halt" => RebootCommand::Halt,
        _ => RebootCommand::PowerOff,
    }
}

/// Repeats `attempt` until it succeeds or the deadline is there; processes that were killed take a moment to let go.
fn until<E>(deadline: Instant, attempt: impl Fn() -> Result<(), E>) -> Result<(), E> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// One round: kills everything else, and unmounts what it can. What remains mounted is the error.
fn let_go(old_root: &Path) -> Result<(), Vec<PathBuf>> {
    kill_others();
    let mounted = mounted_below(&mount_table(), old_root);
    for target in mounted.iter().rev() {
        unmount(target, UnmountFlags::empty()).ok();
    }
    let left = mounted_below(&mount_table(), old_root);
    if left.is_empty() { Ok(()) } else { Err(left) }
}

fn kill_others() {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| *pid != 1).filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL).ok();
    }
}

fn mount_table() -> Vec<u8> {
    std::fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// Mount points at or below `root`, in the order of the table: what lies on another comes later.
fn mounted_below(table: &[u8], root: &Path) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    let targets = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape);
    targets.filter(|target| target.starts_with(root)).collect()
}

/// Spaces and the like stand in the table as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
21 1 0:20 / / rw - tmpfs tmpfs rw
22 21 0:30 / /oldroot rw - overlay lambda-root rw
23 22 0:5 / /oldroot/proc rw - proc proc rw
24 22 0:31 / /oldroot/mnt/a\\040b rw - tmpfs tmpfs rw
25 21 0:32 / /oldroot-not rw - tmpfs tmpfs rw
26 21 0:6 / /dev rw - devtmpfs devtmpfs rw
";

    #[test]
    fn only_the_old_root_and_what_is_in_it_is_unmounted() {
        let found = mounted_below(TABLE, Path::new("/oldroot"));
        assert_eq!(found, ["/oldroot", "/oldroot/proc", "/oldroot/mnt/a b"].map(PathBuf::from));
        assert!(mounted_below(b"", Path::new("/oldroot")).is_empty());
        assert!(mounted_below(b"short line\n", Path::new("/oldroot")).is_empty());
    }

    #[test]
    fn escapes_that_are_none_stay_as_they_are() {
        for (field, path) in [("a\\040b\\134", "a b\\"), ("a\\", "a\\"), ("\\99x", "\\99x"), ("\\777", "\\777")] {
            assert_eq!(unescape(field.as_bytes()), Path::new(path));
        }
    }

    #[test]
    fn the_machine_ends_as_it_was_asked_to() {
        assert_eq!(ending("poweroff"), RebootCommand::PowerOff);
        assert_eq!(ending("reboot"), RebootCommand::Restart);
        assert_eq!(ending("halt"), RebootCommand::Halt);
        assert_eq!(ending(""), RebootCommand::PowerOff);
    }

    #[test]
    fn an_attempt_is_repeated_until_it_succeeds_or_time_is_up() {
        let tries = std::cell::Cell::new(0);
        let third = || {
            tries.set(tries.get() + 1);
            if tries.get() == 3 { Ok(()) } else { Err(tries.get()) }
        };
        assert_eq!(until(Instant::now() + Duration::from_secs(60), third), Ok(()));
        assert_eq!(until(Instant::now(), || Err::<(), _>("busy")), Err("busy"));
    }
}
