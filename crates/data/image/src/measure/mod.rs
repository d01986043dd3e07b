//! Launch measurements, computed from an image's parts alone.

mod calibrate;
mod firmware;
mod kernel;
mod pcr;
mod platform_info;
mod report;

use std::collections::BTreeMap;
use std::path::Path;

use lambda_types::image::{TpmExpected, file};
use lambda_types::shape::Shape;

pub use pcr::SELECTION;
pub use report::{Difference, Report, differences, measure};

use crate::error::{Error, Result};
use crate::hash;

pub(crate) use kernel::check as check_kernel;

/// Why a measurement could not be computed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The firmware is not an OVMF code volume that can be unpacked.
    #[error("the firmware cannot be measured: {0}")]
    Firmware(&'static str),
    /// The firmware is a build that this version does not know, and running it did not tell enough.
    #[error("the firmware is not a known build, and running it in QEMU did not make it one: {0}")]
    Calibration(String),
    /// The kernel cannot be started by the firmware, or is damaged.
    #[error("the kernel is not usable: {0}")]
    Kernel(&'static str),
}

/// What a correct boot of the parts in `dir` measures to, for every shape.
pub(crate) fn expected(dir: &Path, command_line: &str) -> Result<BTreeMap<Shape, TpmExpected>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(Error::io("reading", &path))
    };
    let volumes = firmware::Volumes::read(&dir.join(file::FIRMWARE), &read(file::FIRMWARE)?)?;
    let kernel_file = read(file::KERNEL)?;
    let initramfs = read(file::INITRAMFS)?;
    let mut all = BTreeMap::new();
    for shape in Shape::ALL {
        let patched = kernel::patched(&kernel_file, initramfs.len() as u64, shape.memory_mib())?;
        let inputs = pcr::Inputs {
            firmware_volumes: volumes.digests(shape),
            kernel: kernel::authenticode(&patched)?,
            initramfs: hash::bytes(&initramfs),
            command_line: pcr::command_line(command_line),
        };
        all.insert(shape, pcr::expected(inputs));
    }
    Ok(all)
}
