//! Firmware that a test puts together: an OVMF image with the metadata that it is told to have.

/// What an image has.
#[derive(Clone)]
pub(crate) struct Synthetic {
    pub(crate) reset_block: Option<u32>,
    pub(crate) hash_table: Option<u32>,
    /// Address, size and type.
    pub(crate) sev: Option<Vec<[u32; 3]>>,
    /// Offset, size in the file, address, size, type and attributes.
    pub(crate) tdx: Option<Vec<[u64; 6]>>,
    /// Whether the driver that extends the RTMRs is in it.
    pub(crate) measures: bool,
    /// Whether it looks for a kernel as it is in the file.
    pub(crate) named_kernel: bool,
}

/// Bytes of a synthetic image.
pub(crate) const SIZE: usize = 0x20000;

/// Where its metadata lies.
pub(crate) const SEV_METADATA: usize = 0x18000;
pub(crate) const TDX_METADATA: usize = 0x19000;
const VOLUMES: usize = 0x1000;

impl Synthetic {
    /// One with every kind of section.
    pub(crate) fn complete() -> Self {
        Self {
            reset_block: Some(0x0080_b004),
            hash_table: Some(0x0081_0c00),
            sev: Some(vec![
                [0x80_0000, 0x9000, 1],
                [0x80_a000, 0x3000, 1],
                [0x80_d000, 0x1000, 2],
                [0x80_e000, 0x1000, 3],
                [0x80_f000, 0x1000, 4],
                [0x81_1000, 0xf000, 1],
                [0x81_0000, 0x1000, 0x10],
            ]),
            tdx: Some(vec![
                [0x4000, 0x1c000, 0xffff_e000 - 0x1a000, 0x1c000, 0, 1],
                [0, 0x4000, 0xfffe_0000, 0x4000, 1, 0],
                [0, 0, 0x81_0000, 0x10000, 3, 0],
                [0, 0, 0x80_9000, 0x2000, 2, 0],
            ]),
            measures: true,
            named_kernel: true,
        }
    }

    /// The image.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut image: Vec<u8> = (0..SIZE).map(|at| (at.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
        let volumes = compressed(self.measures, self.named_kernel);
        image[VOLUMES..VOLUMES + volumes.len()].copy_from_slice(&volumes);
        let mut table = Vec::new();
        if let Some(sections) = &self.sev {
            let mut bytes = b"ASEV".to_vec();
            for number in [16 + 12 * sections.len() as u32, 1, sections.len() as u32] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(sections.iter().flatten().flat_map(|number| number.to_le_bytes()));
            image[SEV_METADATA..SEV_METADATA + bytes.len()].copy_from_slice(&bytes);
            entry(&mut table, (SIZE - SEV_METADATA) as u32, "666588dc4a989847a75e5585a7bf67cc");
        }
        if let Some(sections) = &self.tdx {
            let mut bytes = b"TDVF".to_vec();
            for number in [16 + 32 * sections.len() as u32, 1, sections.len() as u32] {
                bytes.extend(number.to_le_bytes());
            }
            for [offset, raw, address, size, kind, attributes] in sections {
                bytes.extend([*offset as u32, *raw as u32].iter().flat_map(|number| number.to_le_bytes()));
                bytes.extend([address, size].iter().flat_map(|number| number.to_le_bytes()));
                bytes.extend([*kind as u32, *attributes as u32].iter().flat_map(|number| number.to_le_bytes()));
            }
            image[TDX_METADATA..TDX_METADATA + bytes.len()].copy_from_slice(&bytes);
            entry(&mut table, (SIZE - TDX_METADATA) as u32, "35657ae44a989847865e4685a7bf8ec2");
        }
        if let Some(address) = self.hash_table {
            entry(&mut table, address, "1f3755723b3a044b927b1da6efa8d454");
        }
        if let Some(address) = self.reset_block {
            entry(&mut table, address, "de71f7007e1acb4f890e68c77e2fb44e");
        }
        table.extend((table.len() as u16 + 18).to_le_bytes());
        table.extend(hex::decode("de82b596b21ff745baeaa366c55a082d").unwrap());
        let end = SIZE - 32;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }
}

fn entry(table: &mut Vec<u8>, number: u32, guid: &str) {
    table.extend(number.to_le_bytes());
    table.extend(22u16.to_le_bytes());
    table.extend(hex::decode(guid).unwrap());
}

/// A compressed section with what tells that a firmware measures what it boots, or without.
fn compressed(measures: bool, named_kernel: bool) -> Vec<u8> {
    let mut content = vec![0x17; 100];
    if measures {
        content.extend(hex::decode("1e2262f007c6c244b0b4c3886331d351").unwrap());
    }
    if named_kernel {
        content.extend(b"\0etc/boot/\0");
    }
    let options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut packed = Vec::new();
    let mut encoder = liblzma::read::XzEncoder::new_stream(content.as_slice(), stream);
    std::io::Read::read_to_end(&mut encoder, &mut packed).unwrap();
    let mut section = ((packed.len() + 24) as u32).to_le_bytes().to_vec();
    section[3] = 2;
    section.extend(hex::decode("98584eee143959429d6edc7bd79403cf").unwrap());
    section.extend([24, 0, 1, 0]);
    section.extend(packed);
    section
}
