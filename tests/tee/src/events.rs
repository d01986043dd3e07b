//! What the firmware and the kernel of a trust domain measure at run time, and the log of it.

use lambda_types::image::TdxExpected;
use sha2::{Digest as _, Sha384};

use crate::Outcome;

/// Types of events (TCG PC Client Platform Firmware Profile).
const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const EVENT_TAG: u32 = 6;
const APPLICATION: u32 = 0x8000_0003;
const ACTION: u32 = 0x8000_0007;
const HANDOFF_TABLES: u32 = 0x8000_000b;

/// TPM_ALG_SHA384.
const SHA384: u16 = 0x0c;

/// An event: register as the log counts them (1 is RTMR 0), type, digest and data.
struct Event(u32, u32, [u8; 48], Vec<u8>);

fn said(register: u32, kind: u32, data: &[u8]) -> Event {
    Event(register, kind, Sha384::digest(data).into(), data.to_vec())
}

fn described(register: u32, kind: u32, digest: &str, data: &[u8]) -> Outcome<Event> {
    let digest = hex::decode(digest).map_err(|_| "no hex")?.try_into().map_err(|_| "a digest of another length")?;
    Ok(Event(register, kind, digest, data.to_vec()))
}

/// TCG_PCClientTaggedEvent.
fn tagged(id: u32, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 1).expect("a short text");
    [&id.to_le_bytes()[..], &length.to_le_bytes(), text.as_bytes(), &[0]].concat()
}

/// A boot without surprises: RTMR 1 and 2 become what `lambda image measure` says.
fn boot(expected: &TdxExpected) -> Outcome<Vec<Event>> {
    Ok(vec![
        said(1, HANDOFF_TABLES, b"memory map and tables of a simulated machine"),
        said(1, SEPARATOR, &[0; 4]),
        described(2, APPLICATION, &expected.kernel, b"the kernel's load event")?,
        said(2, ACTION, b"Calling EFI Application from Boot Option"),
        said(2, SEPARATOR, &[0; 4]),
        described(3, EVENT_TAG, &expected.command_line, &tagged(0x8f3b_22ed, "LOADED_IMAGE::LoadOptions"))?,
        described(3, EVENT_TAG, &expected.initramfs, &tagged(0x8f3b_22ec, "Linux initrd"))?,
        said(2, ACTION, b"Exit Boot Services Invocation"),
        said(2, ACTION, b"Exit Boot Services Returned with Success"),
    ])
}

/// RTMR 0 to 3 after the boot, and its log (CCEL).
pub(crate) fn of_boot(expected: &TdxExpected) -> Outcome<([[u8; 48]; 4], Vec<u8>)> {
    let mut registers = [[0; 48]; 4];
    let mut log = header();
    for Event(register, kind, digest, data) in boot(expected)? {
        let target = &mut registers[register as usize - 1];
        *target = Sha384::new().chain_update(*target).chain_update(digest).finalize().into();
        for number in [register, kind, 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend(SHA384.to_le_bytes());
        log.extend(digest);
        log.extend(u32::try_from(data.len())?.to_le_bytes());
        log.extend(data);
    }
    for (register, expected) in [(1, &expected.rtmr1), (2, &expected.rtmr2)] {
        if hex::encode(registers[register]) != *expected {
            return Err(format!("the events do not lead to RTMR {register} as the image library computes it").into());
        }
    }
    Ok((registers, log))
}

/// The event that says which digests follow.
fn header() -> Vec<u8> {
    let specification = [
        &b"Spec ID Event03\0"[..],
        &0u32.to_le_bytes(),
        &[0, 2, 0, 2],
        &1u32.to_le_bytes(),
        &SHA384.to_le_bytes(),
        &48u16.to_le_bytes(),
        &[0],
    ]
    .concat();
    let length = u32::try_from(specification.len()).expect("33 bytes");
    [&1u32.to_le_bytes()[..], &NO_ACTION.to_le_bytes(), &[0; 20], &length.to_le_bytes(), &specification].concat()
}
