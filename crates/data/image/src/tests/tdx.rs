//! TDX registers: recomputed by other means, held against a real trust domain's log, and what is refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::firmware::{self, Synthetic, TDX_METADATA};
use crate::measure::tdx::{self, Digest};

/// SHA-384 by coreutils.
fn sha384sum(bytes: &[u8]) -> String {
    let mut child = Command::new("sha384sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..96].to_owned()
}

/// What the TDX module hashes when a stretch of memory is added: a page is added and then, if it is measured, extended in
/// steps of 256 bytes.
fn added(transcript: &mut Vec<u8>, address: u64, size: u64, contents: Option<&[u8]>) {
    for page in 0..size / 4096 {
        let at = address + page * 4096;
        transcript.extend(b"MEM.PAGE.ADD\0\0\0\0");
        transcript.extend(at.to_le_bytes());
        transcript.extend([0; 104]);
        for chunk in 0..contents.map_or(0, |_| 16) {
            transcript.extend(b"MR.EXTEND\0\0\0\0\0\0\0");
            transcript.extend((at + chunk * 256).to_le_bytes());
            transcript.extend([0; 104]);
            let from = (page * 4096 + chunk * 256) as usize;
            transcript.extend(&contents.unwrap()[from..from + 256]);
        }
    }
}

#[test]
fn mrtd_is_the_hash_of_what_is_added_in_the_order_of_the_metadata() {
    let image = Synthetic::complete().build();
    let mut transcript = Vec::new();
    added(&mut transcript, 0xfffe_4000, 0x1c000, Some(&image[0x4000..]));
    added(&mut transcript, 0xfffe_0000, 0x4000, None);
    added(&mut transcript, 0x81_0000, 0x10000, None);
    added(&mut transcript, 0x80_9000, 0x2000, None);
    assert_eq!(hex::encode(tdx::mrtd(&image).unwrap()), sha384sum(&transcript));
}

#[test]
fn mrtd_of_a_real_firmware_is_the_hash_of_its_volume_and_memory() {
    // OVMF.fd of Debian 12, its metadata read with a hex editor.
    let image = firmware::debian_12();
    let mut transcript = Vec::new();
    added(&mut transcript, 0xffe2_0000, 0x1e_0000, Some(&image[0x2_0000..]));
    added(&mut transcript, 0xffe0_0000, 0x2_0000, None);
    for (address, size) in [(0x81_0000, 0x10000), (0x80_b000, 0x2000), (0x80_9000, 0x2000), (0x80_0000, 0x6000)] {
        added(&mut transcript, address, size, None);
    }
    assert_eq!(hex::encode(tdx::mrtd(&image).unwrap()), sha384sum(&transcript));
}

#[test]
fn a_firmware_that_boots_without_measuring_is_refused() {
    let refused = tdx::check_measures_boot(&firmware::debian_12()).unwrap_err().to_string();
    assert!(refused.contains("profile tdx") && refused.contains("CC_MEASUREMENT_ENABLE"), "{refused}");
    let good = Synthetic::complete();
    assert!(tdx::check_measures_boot(&good.build()).is_ok());
    for (bad, named) in [
        (Synthetic { measures: false, ..good.clone() }, "CC_MEASUREMENT_ENABLE"),
        (Synthetic { named_kernel: false, ..good }, "older than edk2-stable202502"),
    ] {
        let refused = tdx::check_measures_boot(&bad.build()).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
}

#[test]
fn registers_are_extended_event_by_event() {
    let extend = |register: &[u8], event: &str| {
        let bytes = [register, &hex::decode(event).unwrap()].concat();
        hex::decode(sha384sum(&bytes)).unwrap()
    };
    let (kernel, command_line, initramfs) = ([1; 48], [2; 48], [3; 48]);
    let mut one = extend(&[0; 48], &hex::encode(kernel));
    one = extend(&one, &sha384sum(b"Calling EFI Application from Boot Option"));
    one = extend(&one, &sha384sum(&[0, 0, 0, 0]));
    one = extend(&one, &sha384sum(b"Exit Boot Services Invocation"));
    one = extend(&one, &sha384sum(b"Exit Boot Services Returned with Success"));
    assert_eq!(tdx::rtmr1(&kernel).to_vec(), one);
    let two = extend(&extend(&[0; 48], &hex::encode(command_line)), &hex::encode(initramfs));
    assert_eq!(tdx::rtmr2(&command_line, &initramfs).to_vec(), two);
}

#[test]
fn what_a_firmware_lacks_is_named() {
    let good = Synthetic::complete();
    let sections = good.tdx.clone().unwrap();
    let instead = |index: usize, field: usize, value: u64| {
        let mut sections = sections.clone();
        sections[index][field] = value;
        Synthetic { tdx: Some(sections), ..good.clone() }
    };
    let with = |more: &[[u64; 6]]| Synthetic { tdx: Some([&sections[..], more].concat()), ..good.clone() };
    let scratch = [0, 0, 0x90_0000, 0x1000, 3, 0];
    let cases = [
        (Synthetic { tdx: None, ..good.clone() }, "no TDX metadata"),
        (Synthetic { tdx: Some(sections[..1].to_vec()), ..good.clone() }, "1 sections; 2 to 64"),
        (Synthetic { tdx: Some(sections[..3].to_vec()), ..good.clone() }, "0 sections for the hand-off block"),
        (with(&[sections[3]]), "2 sections for the hand-off block"),
        (with(&[scratch; 61]), "65 sections; 2 to 64"),
        (instead(0, 1, 0), "section 0 is a firmware volume without contents"),
        (instead(0, 1, 0x1b000), "section 0 has another size"),
        (instead(0, 0, 0x5000), "section 0 lies outside"),
        (instead(0, 2, 0xffff_0001), "section 0 is not 1 to 16384 whole pages"),
        (instead(2, 3, 0), "section 2 is not 1 to"),
        (instead(2, 3, 0x10800), "section 2 is not 1 to"),
        (instead(2, 3, 0x400_1000), "section 2 is not 1 to"),
        (instead(2, 2, u64::MAX - 0xfff), "section 2 ends beyond"),
        (instead(2, 1, 4096), "section 2 is memory without contents"),
        (instead(2, 5, 1), "section 2 is memory without contents"),
        (instead(1, 5, 2), "section 1 has unknown attributes 0x2"),
        (instead(2, 4, 4), "section 2 is of type 4"),
    ];
    for (synthetic, named) in cases {
        let refused = tdx::mrtd(&synthetic.build()).unwrap_err().to_string();
        assert!(refused.contains(named), "{named}: {refused}");
    }
    assert!(tdx::mrtd(&with(&[scratch; 60]).build()).is_ok(), "64 sections are accepted");
}

#[test]
fn no_altered_byte_of_the_metadata_gives_the_same_mrtd() {
    let image = Synthetic::complete().build();
    let good = tdx::mrtd(&image);
    assert!(good.is_ok());
    for at in TDX_METADATA..TDX_METADATA + 16 + 4 * 32 {
        let mut image = image.clone();
        image[at] ^= 0x41;
        assert_ne!(tdx::mrtd(&image), good, "byte {at:#x}");
    }
}

/// Register, type, digest and data of an event in a CC event log.
type Event = (u32, u32, Digest, Vec<u8>);

/// The events of a crypto-agile log with SHA-384 digests only.
fn events(log: &[u8]) -> Vec<Event> {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
    let mut at = 32 + number(28) as usize;
    let mut events = Vec::new();
    while at + 12 < log.len() && number(at) != u32::MAX && (number(at), number(at + 4)) != (0, 0) {
        assert_eq!((number(at + 8), u16::from_le_bytes([log[at + 12], log[at + 13]])), (1, 0x0c), "SHA-384 only");
        let size = number(at + 62) as usize;
        let digest = log[at + 14..at + 62].try_into().unwrap();
        events.push((number(at), number(at + 4), digest, log[at + 66..at + 66 + size].to_vec()));
        at += 66 + size;
    }
    events
}

fn fixtures() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    if !root.is_dir() {
        eprintln!("NOT CHECKED: logs of real trust domains (no {}; set LAMBDA_FIXTURES)", root.display());
        return None;
    }
    Some(root)
}

#[test]
fn registers_of_a_real_trust_domain_follow_from_its_log_and_hold_the_events_that_are_taken_for_constant() {
    let Some(root) = fixtures() else { return };
    let folder = root.join("tdx/v4-gcp-cos113-ccel");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let events = events(&std::fs::read(folder.join("ccel_data.bin")).unwrap());
    for (register, name) in [(1, "rtmr0"), (2, "rtmr1"), (3, "rtmr2")] {
        let digests: Vec<Digest> =
            events.iter().filter(|event| event.0 == register && event.1 != 3).map(|event| event.2).collect();
        assert_eq!(hex::encode(tdx::replay(&digests)), manifest["expected"][name].as_str().unwrap(), "{name}");
    }
    let one: Vec<&Event> = events.iter().filter(|event| event.0 == 2).collect();
    let actions: Vec<&[u8]> = one.iter().filter(|event| event.1 == 0x8000_0007).map(|event| &event.3[..]).collect();
    let expected: [&[u8]; 3] = [
        b"Calling EFI Application from Boot Option",
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    ];
    assert_eq!(actions, expected);
    let separators: Vec<usize> = (0..one.len()).filter(|index| one[*index].1 == 4).collect();
    assert_eq!((separators, &one[1].3[..]), (vec![1], &[0; 4][..]), "one separator, right after the first action");
    for event in one.iter().filter(|event| [4, 0x8000_0007].contains(&event.1)) {
        assert_eq!(hex::encode(event.2), sha384sum(&event.3), "the digest is of the data");
    }
}

#[test]
fn a_real_kernel_measures_its_command_line_and_then_its_initramfs_into_rtmr_2() {
    let Some(root) = fixtures() else { return };
    let events = events(&std::fs::read(root.join("eventlog/ccel-grub/event_log.bin")).unwrap());
    let tagged: Vec<String> = events
        .iter()
        .filter(|event| event.0 == 3 && event.1 == 6)
        .map(|event| String::from_utf8_lossy(&event.3[8..]).trim_end_matches('\0').to_owned())
        .collect();
    assert_eq!(tagged, ["LOADED_IMAGE::LoadOptions", "Linux initrd"]);
}
