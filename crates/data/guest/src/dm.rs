//! Device mapper by the kernel's own ioctls (`linux/dm-ioctl.h`), no process and no udev: dm-verity without a superblock, and
//! the removal of a mapping.
//!
//! Every parameter of dm-verity comes from the measured command line. A verity superblock would be the host's to choose.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::cmdline::RootParameters;

const BUFFER_BYTES: usize = 4096;
const HEADER_BYTES: usize = 312;
const SPEC_BYTES: usize = 40;
const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
const READ_ONLY: u32 = 1;

const CREATE: u8 = 3;
const REMOVE: u8 = 4;
const RESUME: u8 = 6;
const LOAD: u8 = 9;

/// Maps `device` (data and hash tree) read-only under `name`; returns the minor number of `/dev/dm-N`.
///
/// # Errors
/// What the kernel answers.
pub fn create_verity(name: &str, device: &str, root: &RootParameters) -> std::io::Result<u32> {
    let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
    let created = Command::new(CREATE, name, READ_ONLY)?.run(&control)?;
    let sectors = root.data_bytes / SECTOR_BYTES;
    Command::new(LOAD, name, READ_ONLY)?.with_target(sectors, "verity", &verity_table(device, root))?.run(&control)?;
    Command::new(RESUME, name, READ_ONLY)?.run(&control)?;
    Ok(created)
}

/// Removes a mapping that nothing uses; whatever key it held is wiped.
///
/// # Errors
/// What the kernel answers.
pub fn remove(name: &str) -> std::io::Result<()> {
    let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
    Command::new(REMOVE, name, 0)?.run(&control)?;
    Ok(())
}

fn verity_table(device: &str, root: &RootParameters) -> String {
    let blocks = root.data_bytes / BLOCK_BYTES;
    let salt = if root.salt.is_empty() { "-" } else { &root.salt };
    format!("1 {device} {device} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {blocks} sha256 {} {salt}", root.hash)
}

/// One `struct dm_ioctl` and what follows it.
struct Command {
    number: u8,
    buffer: Box<[u8; BUFFER_BYTES]>,
}

impl Command {
    fn new(number: u8, name: &str, flags: u32) -> Result<Self> {
        let mut buffer = Box::new([0u8; BUFFER_BYTES]);
        for (index, part) in [4u32, 0, 0, BUFFER_BYTES as u32, HEADER_BYTES as u32].into_iter().enumerate() {
            buffer[index * 4..index * 4 + 4].copy_from_slice(&part.to_ne_bytes());
        }
        buffer[28..32].copy_from_slice(&flags.to_ne_bytes());
        if name.len() >= 128 {
            return Err(Errno::NAMETOOLONG);
        }
        buffer[48..48 + name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { number, buffer })
    }

    fn with_target(mut self, sectors: u64, kind: &str, table: &str) -> Result<Self> {
        self.buffer[20..24].copy_from_slice(&1u32.to_ne_bytes());
        let spec = HEADER_BYTES;
        self.buffer[spec + 8..spec + 16].copy_from_slice(&sectors.to_ne_bytes());
        self.buffer[spec + 24..spec + 24 + kind.len()].copy_from_slice(kind.as_bytes());
        let start = spec + SPEC_BYTES;
        if start + table.len() >= BUFFER_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        self.buffer[start..start + table.len()].copy_from_slice(table.as_bytes());
        Ok(self)
    }

    /// Runs the command and returns the device's minor number.
    fn run(self, control: impl AsFd) -> Result<u32> {
        // SAFETY: the opcode and the buffer match `struct dm_ioctl`: it states its own size (`data_size`), and the
        // kernel reads and writes no more than that.
        unsafe { rustix::ioctl::ioctl(control, self) }
    }
}

// SAFETY: `opcode` is `_IOWR(0xfd, number, struct dm_ioctl)`; the pointer is to a live buffer of `data_size` bytes.
unsafe impl Ioctl for Command {
    type Output = u32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::from_components(rustix::ioctl::Direction::ReadWrite, 0xfd, self.number, HEADER_BYTES)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, buffer: *mut c_void) -> Result<Self::Output> {
        // SAFETY: `as_ptr` gave this pointer, to BUFFER_BYTES initialised bytes.
        let header = unsafe { &*buffer.cast::<[u8; BUFFER_BYTES]>() };
        let device = u64::from_ne_bytes(header[40..48].try_into().map_err(|_| Errno::INVAL)?);
        // The kernel's `huge_encode_dev`: 8 low bits of the minor, 12 of the major, the minor's rest.
        Ok((device & 0xff | device >> 12 & 0xf_ff00) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_every_parameter_from_the_command_line() {
        let root = RootParameters { hash: "ab".repeat(32), salt: String::new(), data_bytes: 8192 };
        assert_eq!(
            verity_table("/dev/vda", &root),
            format!("1 /dev/vda /dev/vda 4096 4096 2 2 sha256 {} -", "ab".repeat(32))
        );
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused() {
        let command = Command::new(LOAD, "root", 0).unwrap();
        assert!(matches!(command.with_target(1, "verity", &"x".repeat(4000)), Err(Errno::NAMETOOLONG)));
    }
}
