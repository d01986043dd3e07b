//! The firmware volumes that OVMF measures into PCR 0.
//!
//! OVMF's flash file holds PEI and DXE volumes compressed together. It unpacks them to memory, runs the PEI modules
//! *in place*, and only then measures both volumes. One of those modules, PlatformPei, keeps its platform information
//! in a global variable, which lies inside the PEI volume: so the measured volume is the one in the file with that
//! block filled in.

use std::io::Read as _;
use std::path::Path;

use lambda_types::shape::Shape;

use super::MeasureError;
use super::{calibrate, platform_info};
use crate::hash;

/// EE4E5898-3914-4259-9D6E-DC7BD79403CF, as stored: a section compressed with LZMA.
const LZMA_SECTION: [u8; 16] =
    [0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf];

/// Section type of a firmware volume.
const FIRMWARE_VOLUME: u8 = 0x17;

/// More than any OVMF unpacks to.
const MOST_BYTES: u64 = 64 << 20;

/// A build whose platform information block is known.
struct Build {
    /// SHA-256 of the unpacked PEI volume.
    pei: &'static str,
    /// Where the block lies in it.
    offset: usize,
}

/// Known builds. The PEI volume identifies them, so that another variable store or DXE volume makes no difference.
const BUILDS: [Build; 1] = [
    // Debian 12: ovmf 2022.11-6+deb12u2, OVMF_CODE_4M.fd.
    Build { pei: "471281a7d197d12ac61a810e5150b9b5ddc47be78ef0c24af7a8192c81b3a808", offset: 0xe0d8 },
];

/// PEI and DXE volume, unpacked.
pub(crate) struct Volumes {
    pei: Vec<u8>,
    dxe: [u8; 32],
    offset: usize,
}

impl Volumes {
    /// Unpacks a firmware file. A build that is not known is run once in QEMU to find its platform information.
    pub(crate) fn read(path: &Path, firmware: &[u8]) -> Result<Self, MeasureError> {
        let unpacked = unpack(firmware)?;
        let mut volumes = sections(&unpacked).into_iter();
        let (Some(pei), Some(dxe), None) = (volumes.next(), volumes.next(), volumes.next()) else {
            return Err(MeasureError::Firmware("it does not hold exactly a PEI and a DXE volume"));
        };
        let found = hex::encode(hash::bytes(pei));
        let offset = match BUILDS.iter().find(|build| build.pei == found) {
            Some(build) => build.offset,
            None => calibrate::locate(path, pei)?,
        };
        let block = pei.get(offset..offset + platform_info::SIZE);
        if block.is_none_or(|block| block.iter().any(|byte| *byte != 0)) {
            return Err(MeasureError::Firmware("its platform information block is not empty"));
        }
        Ok(Self { pei: pei.to_vec(), dxe: hash::bytes(dxe), offset })
    }

    /// The measured digests for a shape, in order.
    pub(crate) fn digests(&self, shape: Shape) -> Vec<[u8; 32]> {
        let mut pei = self.pei.clone();
        let block = platform_info::block(shape.vcpus(), shape.memory_mib());
        pei[self.offset..self.offset + block.len()].copy_from_slice(&block);
        vec![hash::bytes(&pei), self.dxe]
    }
}

/// Finds and unpacks the compressed section.
pub(crate) fn unpack(firmware: &[u8]) -> Result<Vec<u8>, MeasureError> {
    let missing = MeasureError::Firmware("it has no LZMA section: not an OVMF code volume");
    let at = firmware.windows(LZMA_SECTION.len()).position(|window| window == LZMA_SECTION).ok_or(missing)?;
    let truncated = || MeasureError::Firmware("its LZMA section is truncated");
    let start = at.checked_sub(4).ok_or_else(truncated)?;
    let header = firmware.get(start..start + 24).ok_or_else(truncated)?;
    let size = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    let data = usize::from(u16::from_le_bytes([header[20], header[21]]));
    let packed = firmware.get(start + data..start + size).ok_or_else(truncated)?;
    let stream = liblzma::stream::Stream::new_lzma_decoder(MOST_BYTES).map_err(|_| truncated())?;
    let mut out = Vec::new();
    liblzma::read::XzDecoder::new_stream(packed, stream)
        .take(MOST_BYTES)
        .read_to_end(&mut out)
        .map_err(|_| MeasureError::Firmware("its LZMA section is damaged"))?;
    Ok(out)
}

/// Contents of the firmware volume sections.
fn sections(bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some([a, b, c, kind]) = bytes.get(at..at + 4) {
        let size = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let Some(section) = bytes.get(at + 4..at + size).filter(|_| size > 4) else { break };
        if *kind == FIRMWARE_VOLUME {
            found.push(section);
        }
        at = (at + size).next_multiple_of(4);
    }
    found
}

#[cfg(test)]
mod tests {
    use lambda_types::image::file;

    use super::*;
    use crate::tests::Bench;

    #[test]
    fn running_a_firmware_finds_the_block_where_it_is_known_to_be() {
        let bench = Bench::new(None);
        crate::import(&bench.options, &mut |_| {}).unwrap();
        let path = bench.options.out.join(file::FIRMWARE);
        let volumes = Volumes::read(&path, &std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(calibrate::locate(&path, &volumes.pei), Ok(volumes.offset));
    }
}
