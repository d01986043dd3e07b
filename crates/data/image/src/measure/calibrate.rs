//! Finding the platform information block of a firmware build that is not known.
//!
//! The block's content follows from the machine ([`super::platform_info`]); only its place in the PEI volume changes
//! from build to build. Running the firmware for a moment and looking for the block in the unpacked volume in guest
//! memory gives the place, provided that nothing else in the volume has changed: otherwise the firmware measures
//! something that this crate does not understand, and is refused.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lambda_types::shape::Shape;

use super::MeasureError;
use super::platform_info;

/// Where OVMF unpacks its PEI volume.
const PEI_ADDRESS: u64 = 0x82_0000;

/// How long a firmware may take to fill in the block.
const LIMIT: Duration = Duration::from_secs(60);

/// Kills the emulator, whatever happens.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the firmware in QEMU and gives the offset of the block in its PEI volume.
pub(crate) fn locate(firmware: &Path, pei: &[u8]) -> Result<usize, MeasureError> {
    let failed = |what: &str| MeasureError::Calibration(what.to_owned());
    let shape = Shape::Nano;
    let block = platform_info::block(shape.vcpus(), shape.memory_mib());
    let work = tempfile::tempdir().map_err(|error| failed(&error.to_string()))?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(&error.to_string()))?;
    let child = Command::new("qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-sandbox",
            "on",
            "-machine",
            "q35,smm=off,accel=tcg",
        ])
        .args(["-cpu", "max,phys-bits=40", "-smp", &shape.vcpus().to_string(), "-m", &shape.memory_mib().to_string()])
        .arg("-drive")
        .arg(format!(
            "if=pflash,format=raw,unit=0,readonly=on,file={}",
            firmware.display().to_string().replace(',', ",,")
        ))
        .args(["-chardev", "socket,id=qmp,fd=0", "-mon", "chardev=qmp,mode=control"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&format!("qemu-system-x86_64 did not start: {error}")))?;
    let _emulator = Emulator(child);
    let mut monitor = Monitor::connect(ours)?;
    let dump = work.path().join("pei");
    let start = Instant::now();
    loop {
        monitor.command("stop", serde_json::json!({}))?;
        let request = serde_json::json!({ "val": PEI_ADDRESS, "size": pei.len(), "filename": dump });
        monitor.command("pmemsave", request)?;
        let seen = std::fs::read(&dump).map_err(|error| failed(&error.to_string()))?;
        if let Some(offset) = offset(pei, &seen, &block) {
            return Ok(offset);
        }
        if start.elapsed() > LIMIT {
            let changed = pei.iter().zip(&seen).filter(|(one, other)| one != other).count();
            return Err(failed(&format!(
                "after {} s the PEI volume in memory differs in {changed} bytes from the file, \
                 and the difference is not the expected block",
                LIMIT.as_secs()
            )));
        }
        monitor.command("cont", serde_json::json!({}))?;
        monitor.wait_a_moment()?;
    }
}

/// Where `seen` differs from `pei` by exactly `block` on zeros.
fn offset(pei: &[u8], seen: &[u8], block: &[u8]) -> Option<usize> {
    let offset = pei.iter().zip(seen).position(|(one, other)| one != other)?;
    let mut filled = pei.to_vec();
    let place = filled.get_mut(offset..offset + block.len())?;
    if place.iter().any(|byte| *byte != 0) {
        return None;
    }
    place.copy_from_slice(block);
    (filled == seen).then_some(offset)
}

/// A QMP connection.
struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(stream: UnixStream) -> Result<Self, MeasureError> {
        stream.set_read_timeout(Some(LIMIT)).map_err(|error| lost(&error))?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.line()?;
        monitor.command("qmp_capabilities", serde_json::json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<serde_json::Value, MeasureError> {
        let mut line = String::new();
        self.reader.read_line(&mut line).map_err(|error| lost(&error))?;
        serde_json::from_str(&line).map_err(|error| lost(&error))
    }

    fn command(&mut self, name: &str, arguments: serde_json::Value) -> Result<(), MeasureError> {
        let mut text = serde_json::json!({ "execute": name, "arguments": arguments }).to_string();
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes()).map_err(|error| lost(&error))?;
        loop {
            let reply = self.line()?;
            if reply.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = reply.get("error") {
                return Err(MeasureError::Calibration(format!("QEMU refused {name}: {error}")));
            }
        }
    }

    /// Lets the guest run: QEMU announces nothing when memory changes, so this looks again after a tenth of a second.
    fn wait_a_moment(&mut self) -> Result<(), MeasureError> {
        let stream = self.reader.get_ref();
        let mut poll = [rustix::event::PollFd::new(stream, rustix::event::PollFlags::HUP)];
        let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match rustix::event::poll(&mut poll, Some(&moment)) {
            Ok(0) => Ok(()),
            _ => Err(MeasureError::Calibration("QEMU ended early".into())),
        }
    }
}

fn lost(error: &dyn std::fmt::Display) -> MeasureError {
    MeasureError::Calibration(format!("the connection to QEMU broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_on_zeros_counts() {
        let pei = [1, 1, 0, 0, 0, 0, 1];
        let block = [5, 0, 6];
        assert_eq!(offset(&pei, &[1, 1, 5, 0, 6, 0, 1], &block), Some(2));
        assert_eq!(offset(&pei, &[1, 1, 5, 0, 6, 9, 1], &block), None, "something else changed too");
        assert_eq!(offset(&pei, &[5, 0, 6, 0, 0, 0, 1], &block), None, "it overwrites content");
        assert_eq!(offset(&pei, &pei, &block), None, "not there yet");
    }
}
