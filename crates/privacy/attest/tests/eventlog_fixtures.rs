//! Event logs of real machines, in a folder outside the repository (`LAMBDA_FIXTURES`, else `../shared/fixtures` beside
//! the repository): each is read as its manifest says, and what is wrong with the bad ones is named.

use std::path::{Path, PathBuf};

use lambda_attest::eventlog::{LogReport, ProblemKind};
use lambda_attest::{Outcome, Registers};
use serde_json::Value;

fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(root.join("eventlog")) else {
        eprintln!("NOT CHECKED: event logs of real machines (no {}; set LAMBDA_FIXTURES)", root.display());
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 10, "only {} event logs", folders.len());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn report(folder: &Path) -> LogReport {
    LogReport::read(&std::fs::read(folder.join("event_log.bin")).unwrap())
}

fn registers(folder: &Path, file: &str) -> Option<Registers> {
    let bytes = std::fs::read(folder.join(file)).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn every_log_is_reported_as_its_manifest_says() {
    for folder in folders() {
        let name = name(&folder);
        let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let expected = &manifest["expected"];
        let mut report = report(&folder);
        if expected.get("parse_error").is_none() {
            assert_eq!(report.event_count, expected["events"].as_u64().unwrap() as usize, "{name}");
            assert_eq!(report.events.len(), report.event_count, "{name}");
            assert_eq!(report.log_bytes_used, expected["log_bytes_used"].as_u64().unwrap() as usize, "{name}");
            assert_eq!(report.format, expected["format"], "{name}");
            assert_eq!(serde_json::json!(report.banks), expected["banks"], "{name}");
            assert_eq!(Some(&report.registers), registers(&folder, "replay.json").as_ref(), "{name}");
        }
        let given = registers(&folder, "pcrs.json");
        let failed: Vec<_> = report
            .judge(given.as_ref())
            .into_iter()
            .filter(|check| check.outcome == Outcome::Fail)
            .map(|check| format!("{}: {}", check.id, check.detail))
            .collect();
        assert_eq!(failed.is_empty(), expected["verdict"] == "valid", "{name}: {failed:#?}");
    }
}

#[test]
fn what_is_wrong_with_the_bad_logs_is_named() {
    let wrong = |name: &str| {
        let folder = folders().into_iter().find(|folder| folder.ends_with(name))?;
        let mut report = report(&folder);
        if let Some(given) = registers(&folder, "pcrs.json") {
            report.compare(&given);
        }
        Some(report.problems.iter().map(|problem| (problem.kind, problem.offset, problem.register)).collect::<Vec<_>>())
    };
    let Some(cut) = wrong("neg-cut-in-event") else { return };
    assert!(cut.contains(&(ProblemKind::Unreadable, Some(19_989), None)), "{cut:?}");
    let differing = |name| -> Vec<_> {
        let of_kind = |found: &&(ProblemKind, Option<usize>, Option<u32>)| found.0 == ProblemKind::RegisterDiffers;
        wrong(name).unwrap().iter().filter(of_kind).map(|found| found.2.unwrap()).collect()
    };
    assert_eq!(differing("neg-ccel-duplicate-separator"), [1, 2]);
    assert_eq!(differing("neg-ebs-missing"), [5]);
    let folder = folders().into_iter().find(|folder| folder.ends_with("neg-ccel-duplicate-separator")).unwrap();
    let noted: Vec<_> = report(&folder).notes.iter().map(|note| (note.kind, note.offset)).collect();
    assert_eq!(noted, [(ProblemKind::SeparatorRepeated, Some(9484))]);
    let short = wrong("neg-short-no-action").unwrap();
    assert!(short.iter().any(|found| found.0 == ProblemKind::NoEvents), "{short:?}");
}

#[test]
fn the_registers_of_a_td_are_called_what_they_are() {
    for folder in folders() {
        let report = report(&folder);
        let of_a_td = name(&folder).contains("ccel");
        assert_eq!(report.registers_are, if of_a_td { "mr" } else { "pcr" }, "{}", name(&folder));
        for event in &report.events {
            let is_rtmr = event.register_name == format!("RTMR{}", event.register.wrapping_sub(1));
            assert_eq!(is_rtmr, of_a_td, "{}: {}", name(&folder), event.register_name);
        }
    }
}

#[test]
fn no_event_of_a_real_machine_is_contradicted_by_its_data() {
    let mut proven = 0;
    for folder in folders() {
        for event in &report(&folder).events {
            assert_ne!(event.grounding, "contradicted", "{}: {event:#?}", name(&folder));
            assert!(event.summary.chars().count() <= 160, "{}", event.summary);
            proven += usize::from(event.grounding == "proven");
        }
    }
    eprintln!("{proven} digests recomputed");
}

#[test]
fn every_truncation_is_read_as_far_as_it_goes() {
    for folder in folders() {
        let bytes = std::fs::read(folder.join("event_log.bin")).unwrap();
        let whole = LogReport::read(&bytes);
        let step = (bytes.len() / 300).max(1);
        for length in (0..whole.log_bytes_used).step_by(step) {
            let cut = LogReport::read(&bytes[..length]);
            assert!(cut.event_count <= whole.event_count);
            assert!(cut.log_bytes_used <= length);
            assert_eq!(cut.events[..], whole.events[..cut.event_count], "{} cut to {length}", name(&folder));
        }
    }
}

#[test]
fn nothing_is_wrong_with_the_good_logs() {
    for folder in folders().into_iter().filter(|folder| !name(folder).starts_with("neg-")) {
        let mut report = report(&folder);
        if let Some(given) = registers(&folder, "pcrs.json") {
            report.compare(&given);
        }
        assert!(report.problems.is_empty(), "{}: {:#?}", name(&folder), report.problems);
    }
}
