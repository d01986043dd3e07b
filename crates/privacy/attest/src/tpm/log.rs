//! The event log: that it explains the quoted PCRs, and what it says was measured.

use lambda_tpm::{LAMBDA_PCRS, alg};

use super::Pcrs;
use crate::checks::{self, Recorder};
use crate::eventlog::{Event, EventKind, EventLog, Format, Grounding};

/// What the Linux EFI stub calls the command line that it measures.
const LOAD_OPTIONS: &str = "LOADED_IMAGE::LoadOptions";
/// What the Linux EFI stub calls the initramfs that it measures.
const INITRD: &str = "Linux initrd";

/// EV_SEPARATOR data of success.
const SEPARATOR: [u8; 4] = [0; 4];

/// Digests of the parts that the log names, SHA-256.
pub(super) struct Measured {
    pub(super) firmware: Vec<Vec<u8>>,
    pub(super) kernels: Vec<Vec<u8>>,
    pub(super) command_lines: Vec<Vec<u8>>,
    pub(super) initramfs: Vec<Vec<u8>>,
}

/// Checks the log and reads what it measured.
pub(super) fn check(bytes: &[u8], pcrs: Option<&Pcrs>, recorder: &mut Recorder) -> Option<Measured> {
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => {
            recorder.record(&checks::LOG_STRUCTURE, Err(error.to_string()));
            return None;
        }
    };
    let usable = log.format == Format::CryptoAgile && log.banks.contains(&alg::SHA256);
    recorder.require(
        &checks::LOG_STRUCTURE,
        usable,
        "a crypto-agile event log with a SHA-256 bank",
        "the event log has no SHA-256 bank",
    );
    if !usable {
        return None;
    }
    check_replay(&log, pcrs, recorder);
    check_digests(&log, recorder);
    check_separators(&log, recorder);
    check_events(&log, recorder);
    Some(measured(&log))
}

fn check_replay(log: &EventLog, pcrs: Option<&Pcrs>, recorder: &mut Recorder) {
    let Some(pcrs) = pcrs else { return };
    let registers = log.replay(alg::SHA256).unwrap_or_default();
    let unexplained: Vec<String> = LAMBDA_PCRS
        .iter()
        .filter(|index| {
            let replayed = registers.get(&u32::from(**index)).map(Vec::as_slice);
            replayed.is_none() || replayed != pcrs.get(index).map(<[u8; 32]>::as_slice)
        })
        .map(u8::to_string)
        .collect();
    recorder.record(
        &checks::LOG_REPLAY,
        if unexplained.is_empty() {
            Ok(format!("{} events replay to the quoted PCRs", log.events.len()))
        } else {
            Err(format!("the event log does not explain PCR {}", unexplained.join(", ")))
        },
    );
}

fn check_digests(log: &EventLog, recorder: &mut Recorder) {
    let wrong = log
        .events
        .iter()
        .find(|event| event.kind != EventKind::NO_ACTION && event.grounding(alg::SHA256) == Grounding::Contradicted);
    recorder.record(
        &checks::LOG_DIGESTS,
        match wrong {
            None => Ok("every digest that its data determines is the hash of that data".into()),
            Some(event) => Err(format!(
                "the {} at byte {} (PCR {}) carries a digest that is not the hash of its data",
                event.kind, event.offset, event.pcr
            )),
        },
    );
}

fn check_separators(log: &EventLog, recorder: &mut Recorder) {
    let wrong = (0u32..8).find(|pcr| {
        let mut separators = log.events.iter().filter(|event| event.kind == EventKind::SEPARATOR && event.pcr == *pcr);
        !matches!((separators.next(), separators.next()), (Some(only), None) if only.data == SEPARATOR)
    });
    recorder.record(
        &checks::LOG_SEPARATORS,
        match wrong {
            None => Ok("PCRs 0-7 are each closed by one separator".into()),
            Some(pcr) => Err(format!("PCR {pcr} is not closed by exactly one separator of success")),
        },
    );
}

fn check_events(log: &EventLog, recorder: &mut Recorder) {
    let unexpected = log.events.iter().find(|event| !belongs(event));
    recorder.record(
        &checks::LOG_EVENTS,
        match unexpected {
            None => Ok("every event is one that a direct kernel boot produces".into()),
            Some(event) => Err(format!(
                "the {} at byte {} (PCR {}) does not belong to a direct kernel boot",
                event.kind, event.offset, event.pcr
            )),
        },
    );
}

/// Whether an event of this kind belongs to this register in a direct kernel boot without secure boot, option ROMs or
/// boot loader.
fn belongs(event: &Event) -> bool {
    match (event.pcr, event.kind) {
        (
            0,
            EventKind::S_CRTM_VERSION | EventKind::EFI_PLATFORM_FIRMWARE_BLOB | EventKind::EFI_PLATFORM_FIRMWARE_BLOB2,
        )
        | (
            1,
            EventKind::EFI_VARIABLE_BOOT
            | EventKind::EFI_VARIABLE_BOOT2
            | EventKind::EFI_HANDOFF_TABLES
            | EventKind::EFI_HANDOFF_TABLES2
            | EventKind::PLATFORM_CONFIG_FLAGS,
        )
        | (4, EventKind::EFI_BOOT_SERVICES_APPLICATION | EventKind::EFI_ACTION)
        | (5, EventKind::EFI_ACTION)
        | (7, EventKind::EFI_VARIABLE_DRIVER_CONFIG)
        | (0..=7, EventKind::SEPARATOR) => true,
        (9, EventKind::EVENT_TAG) => matches!(event.tag_text(), Some(LOAD_OPTIONS | INITRD)),
        _ => false,
    }
}

fn measured(log: &EventLog) -> Measured {
    let digests = |wanted: &dyn Fn(&Event) -> bool| -> Vec<Vec<u8>> {
        log.events
            .iter()
            .filter(|event| wanted(event))
            .filter_map(|event| event.digests.get(&alg::SHA256).cloned())
            .collect()
    };
    let firmware = [EventKind::EFI_PLATFORM_FIRMWARE_BLOB, EventKind::EFI_PLATFORM_FIRMWARE_BLOB2];
    let started = [
        EventKind::EFI_BOOT_SERVICES_APPLICATION,
        EventKind::EFI_BOOT_SERVICES_DRIVER,
        EventKind::EFI_RUNTIME_SERVICES_DRIVER,
    ];
    let tagged = |event: &Event, text: &str| event.pcr == 9 && event.tag_text() == Some(text);
    Measured {
        firmware: digests(&|event| event.pcr == 0 && firmware.contains(&event.kind)),
        kernels: digests(&|event| event.pcr == 4 && started.contains(&event.kind)),
        command_lines: digests(&|event| tagged(event, LOAD_OPTIONS)),
        initramfs: digests(&|event| tagged(event, INITRD)),
    }
}
