use std::collections::BTreeMap;

use sha2::{Digest as _, Sha384};

use super::checks::EVENTLOG;
use super::{EventKind, LogReport, ProblemKind};
use crate::evidence::Registers;
use crate::verdict::Outcome;

/// A CC event log: header in register 1, SHA-384 only.
struct Log(Vec<u8>);

impl Log {
    fn new(header_register: u32) -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec.extend(1u32.to_le_bytes());
        spec.extend([0x0c, 0, 48, 0, 0]);
        let mut log = Self(Vec::new());
        log.0.extend(header_register.to_le_bytes());
        log.0.extend(EventKind::NO_ACTION.0.to_le_bytes());
        log.0.extend([0; 20]);
        log.sized(&spec);
        log
    }

    fn event(mut self, register: u32, kind: EventKind, data: &[u8], measured: &[u8]) -> Self {
        self.0.extend(register.to_le_bytes());
        self.0.extend(kind.0.to_le_bytes());
        self.0.extend(1u32.to_le_bytes());
        self.0.extend([0x0c, 0]);
        self.0.extend(Sha384::digest(measured));
        self.sized(data);
        self
    }

    fn sized(&mut self, data: &[u8]) {
        self.0.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.0.extend(data);
    }
}

fn td() -> Log {
    Log::new(1).event(1, EventKind::SEPARATOR, &[0; 4], &[0; 4]).event(
        2,
        EventKind::EFI_ACTION,
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Invocation",
    )
}

fn separators(mut log: Log, registers: std::ops::Range<u32>) -> Log {
    for register in registers {
        log = log.event(register, EventKind::SEPARATOR, &[0; 4], &[0; 4]);
    }
    log
}

fn given(log: &Log) -> Registers {
    LogReport::read(&log.0).registers
}

fn failed(log: &[u8], given: Option<&Registers>) -> Vec<String> {
    let checks = LogReport::read(log).judge(given);
    assert_eq!(checks.len(), EVENTLOG.len());
    checks.into_iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id).collect()
}

fn kinds(log: &Log) -> Vec<ProblemKind> {
    LogReport::read(&log.0).problems.into_iter().map(|problem| problem.kind).collect()
}

#[test]
fn a_good_log_fails_nothing_and_explains_its_registers() {
    let log = td();
    let own = given(&log);
    assert_eq!(failed(&log.0, Some(&own)), [""; 0]);
    assert_eq!(own["sha384"].keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(kinds(&log).is_empty());
}

#[test]
fn a_log_that_ends_within_an_event_cannot_be_read() {
    let log = td();
    let own = given(&log);
    let cut = &log.0[..log.0.len() - 1];
    assert_eq!(failed(cut, None), ["eventlog.structure"]);
    // The last event is lost, and with it register 2.
    assert_eq!(failed(cut, Some(&own)), ["eventlog.structure", "eventlog.registers"]);
    let report = LogReport::read(cut);
    assert_eq!(report.event_count, 1);
    assert_eq!(report.problems[0].kind, ProblemKind::Unreadable);
    assert!(report.problems[0].offset.is_some_and(|at| at > report.log_bytes_used));
}

#[test]
fn what_follows_the_last_event_is_unused_or_an_error() {
    let whole = td().0;
    for (fill, fine) in [(0u8, true), (0xff, true), (0x41, false)] {
        let mut padded = whole.clone();
        padded.extend([fill; 100]);
        assert_eq!(failed(&padded, None).is_empty(), fine, "{fill:#x}");
        assert_eq!(LogReport::read(&padded).log_bytes_used, whole.len());
    }
}

#[test]
fn a_log_that_measures_nothing_is_no_log() {
    assert_eq!(failed(&Log::new(1).0, None), ["eventlog.events"]);
    let only_notes = Log::new(1).event(1, EventKind::NO_ACTION, b"vendor", b"");
    assert_eq!(failed(&only_notes.0, None), ["eventlog.events"]);
    assert_eq!(failed(&[], None), ["eventlog.structure", "eventlog.events"]);
}

#[test]
fn an_event_whose_data_was_changed_is_contradicted() {
    let log = td().event(3, EventKind::EFI_ACTION, b"Calling EFI Application", b"Something else");
    assert_eq!(failed(&log.0, None), ["eventlog.digests"]);
    let event = LogReport::read(&log.0).events.pop().unwrap();
    assert_eq!(event.grounding, "contradicted");
    // What only describes what was measured cannot be contradicted.
    let described = td().event(3, EventKind::IPL, b"(hd0,gpt15)/boot/grub/grub.cfg", b"what is in that file");
    assert_eq!(failed(&described.0, None), [""; 0]);
    assert_eq!(LogReport::read(&described.0).events.pop().unwrap().grounding, "described");
}

#[test]
fn a_string_may_be_logged_with_the_terminator_that_was_not_measured_and_with_no_other_byte() {
    let log = |data: &[u8]| td().event(3, EventKind::EFI_ACTION, data, b"Calling EFI Application");
    assert_eq!(failed(&log(b"Calling EFI Application\0").0, None), [""; 0]);
    assert_eq!(failed(&log(b"Calling EFI Application\0\0").0, None), ["eventlog.digests"]);
    assert_eq!(failed(&log(b"Calling EFI Application ").0, None), ["eventlog.digests"]);
    let separator = td().event(3, EventKind::SEPARATOR, &[0; 5], &[0; 4]);
    assert_eq!(failed(&separator.0, None), ["eventlog.digests"]);
}

#[test]
fn what_grub_ran_is_what_it_measured() {
    for (logged, measured) in [
        (b"grub_cmd: insmod ext2\0".as_slice(), b"insmod ext2".as_slice()),
        (b"grub_cmd insmod ext2\0\x9f", b"insmod ext2\0"),
        (b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro"),
    ] {
        let log = td().event(3, EventKind::IPL, logged, measured);
        assert_eq!(failed(&log.0, None), [""; 0]);
        assert_eq!(LogReport::read(&log.0).events.pop().unwrap().grounding, "proven");
    }
    let lying = td().event(3, EventKind::IPL, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz init=/bin/sh");
    assert_eq!(failed(&lying.0, None), ["eventlog.digests"]);
}

#[test]
fn registers_that_do_not_follow_from_the_log_are_named() {
    let log = td();
    let mut other = given(&log);
    other.get_mut("sha384").unwrap().insert(2, "ab".repeat(48));
    assert_eq!(failed(&log.0, Some(&other)), ["eventlog.registers"]);
    let mut report = LogReport::read(&log.0);
    assert_eq!(report.compare(&other), 2);
    assert_eq!(report.problems.iter().map(|problem| problem.register).collect::<Vec<_>>(), [Some(2)]);
}

#[test]
fn a_register_that_was_extended_without_an_event_is_noticed() {
    let log = separators(Log::new(0), 0..7);
    let mut more = given(&log);
    more.get_mut("sha384").unwrap().insert(7, "ab".repeat(48));
    assert_eq!(failed(&log.0, Some(&more)), ["eventlog.registers"]);
    more.get_mut("sha384").unwrap().insert(7, "00".repeat(48));
    assert_eq!(failed(&log.0, Some(&more)), [""; 0]);
}

#[test]
fn registers_of_another_bank_explain_nothing() {
    let log = td();
    assert_eq!(failed(&log.0, Some(&Registers::new())), ["eventlog.registers"]);
    let other = BTreeMap::from([("sha256".to_owned(), BTreeMap::from([(1, "00".repeat(32))]))]);
    assert_eq!(failed(&log.0, Some(&other)), ["eventlog.registers"]);
}

#[test]
fn separators_that_are_missing_repeated_or_errors_are_named() {
    assert_eq!(kinds(&separators(Log::new(0), 0..8)), []);
    assert_eq!(kinds(&separators(Log::new(0), 0..7)), [ProblemKind::SeparatorMissing]);
    let twice = separators(separators(Log::new(0), 0..8), 3..4);
    assert_eq!(kinds(&twice), [ProblemKind::SeparatorRepeated]);
    let error = separators(Log::new(0), 1..8).event(0, EventKind::SEPARATOR, &[1, 0, 0, 0], &[1, 0, 0, 0]);
    assert_eq!(kinds(&error), [ProblemKind::SeparatorError]);
}

#[test]
fn what_decides_a_check_is_not_lost_behind_many_lesser_problems() {
    let mut log = separators(Log::new(0), 0..8);
    for _ in 0..300 {
        log = separators(log, 0..1);
    }
    let mut log = log.event(3, EventKind::SEPARATOR, &[0; 4], b"other");
    log.0.extend([7; 3]);
    assert_eq!(failed(&log.0, None), ["eventlog.structure", "eventlog.digests"]);
    let report = LogReport::read(&log.0);
    assert!(report.problems.len() < 300 && report.problems.iter().any(|it| it.kind == ProblemKind::Unreadable));
}

#[test]
fn another_separator_of_a_td_is_noted_and_no_problem() {
    let twice = td().event(1, EventKind::SEPARATOR, &[0; 4], &[0; 4]);
    assert!(kinds(&twice).is_empty());
    assert_eq!(LogReport::read(&twice.0).notes.len(), 1);
    assert!(LogReport::read(&td().0).notes.is_empty());
}

#[test]
fn a_td_has_four_registers_to_extend() {
    assert_eq!(kinds(&td().event(5, EventKind::IPL, b"x", b"x")), [ProblemKind::NoSuchRegister]);
    assert_eq!(kinds(&td().event(0, EventKind::IPL, b"x", b"x")), [ProblemKind::NoSuchRegister]);
}

#[test]
fn a_locality_counts_only_before_the_first_measurement() {
    let locality = |log: Log| log.event(0, EventKind::NO_ACTION, b"StartupLocality\0\x03", b"");
    let first = locality(Log::new(0)).event(0, EventKind::IPL, b"x", b"x");
    let late = locality(Log::new(0).event(0, EventKind::IPL, b"x", b"x"));
    assert!(!kinds(&first).contains(&ProblemKind::LocalityMisplaced));
    assert!(kinds(&late).contains(&ProblemKind::LocalityMisplaced));
    assert_ne!(given(&first), given(&late));
}

#[test]
fn every_bit_of_a_digest_decides_a_register() {
    let log = td();
    let own = given(&log);
    // The digest of the first event after the header: 65 bytes of header, then 14 of the event's head.
    for byte in 65 + 14..65 + 14 + 48 {
        let mut bent = log.0.clone();
        bent[byte] ^= 0x10;
        assert!(!failed(&bent, Some(&own)).is_empty(), "byte {byte}");
    }
    for length in 0..log.0.len() {
        assert!(!failed(&log.0[..length], Some(&own)).is_empty(), "{length} bytes");
    }
}

#[test]
fn every_check_has_a_negative_here() {
    for info in EVENTLOG {
        assert!(include_str!("tests.rs").contains(&format!("{}\"", info.id)), "{}", info.id);
    }
}
