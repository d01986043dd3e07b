//! PCR values of a correct boot, from the digests of what is measured.
//!
//! The events that do not depend on the image are constants of the firmware and of the device set that the node
//! gives to every guest (see the crate documentation).

use std::collections::BTreeMap;

use lambda_types::image::TpmExpected;
use sha2::{Digest as _, Sha256};

use crate::hash;

/// PCRs that a quote selects.
pub const SELECTION: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];

/// EFI_GLOBAL_VARIABLE as stored: little endian first three fields.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// EFI_IMAGE_SECURITY_DATABASE_GUID.
const SECURITY: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

/// Content of the `Boot0000` variable: the built-in UiApp, which edk2 registers before it boots the kernel.
const UI_APP_OPTION: &str = "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1\
                             0406140021aa2c4614760345836e8ab6f46623317fff0400";

type Digest = [u8; 32];

/// What differs between images and shapes.
pub(crate) struct Inputs {
    pub(crate) firmware_volumes: Vec<Digest>,
    pub(crate) kernel: Digest,
    pub(crate) initramfs: Digest,
    pub(crate) command_line: Digest,
}

/// The command line as the firmware hands it to the kernel, which measures it: with ` initrd=initrd` appended, UTF-16LE,
/// terminated.
pub(crate) fn command_line(text: &str) -> Vec<u8> {
    format!("{text} initrd=initrd\0").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// All PCRs and the digests that lead to them.
pub(crate) fn expected(inputs: Inputs) -> TpmExpected {
    let separator = hash::bytes(&[0; 4]);
    let mut firmware = vec![hash::bytes(&[0, 0])];
    firmware.extend(&inputs.firmware_volumes);
    firmware.push(separator);
    let variables: Vec<Digest> = [(GLOBAL, "SecureBoot", &[0u8][..]), (GLOBAL, "PK", &[]), (GLOBAL, "KEK", &[])]
        .into_iter()
        .chain([(SECURITY, "db", &[][..]), (SECURITY, "dbx", &[])])
        .map(|(vendor, name, data)| variable(vendor, name, data))
        .chain([separator])
        .collect();
    let boot_option = hex::decode(UI_APP_OPTION).map(|bytes| hash::bytes(&bytes)).unwrap_or_default();
    let events: BTreeMap<u8, Vec<Digest>> = BTreeMap::from([
        (0, firmware),
        (1, vec![hash::bytes(&[0, 0]), boot_option, separator]),
        (2, vec![separator]),
        (3, vec![separator]),
        (4, vec![inputs.kernel, hash::bytes(b"Calling EFI Application from Boot Option"), separator]),
        (
            5,
            vec![
                separator,
                hash::bytes(b"Exit Boot Services Invocation"),
                hash::bytes(b"Exit Boot Services Returned with Success"),
            ],
        ),
        (6, vec![separator]),
        (7, variables),
        (9, vec![inputs.command_line, inputs.initramfs]),
    ]);
    TpmExpected {
        pcrs: events.into_iter().map(|(index, events)| (index, hex::encode(replay(&events)))).collect(),
        firmware_volumes: inputs.firmware_volumes.iter().map(hex::encode).collect(),
        kernel: hex::encode(inputs.kernel),
        initramfs: hex::encode(inputs.initramfs),
        command_line: hex::encode(inputs.command_line),
    }
}

/// Digest of a UEFI_VARIABLE_DATA structure (TCG PC Client Platform Firmware Profile §10.4.1).
fn variable(vendor: [u8; 16], name: &str, data: &[u8]) -> Digest {
    let name: Vec<u16> = name.encode_utf16().collect();
    let mut bytes = vendor.to_vec();
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(data);
    hash::bytes(&bytes)
}

fn replay(events: &[Digest]) -> Digest {
    events.iter().fold([0; 32], |pcr, event| Sha256::new().chain_update(pcr).chain_update(event).finalize().into())
}
