//! A log for people: what it holds, what it replays to, and what is wrong with it.
//!
//! Everything that can be read is shown, also of a log that is cut short. SHA-1 is replayed here, to be read and compared
//! with registers that somebody gives; no verdict on a policy rests on it.

use std::collections::{BTreeMap, BTreeSet};

use lambda_tpm::alg;
use serde::Serialize;

use super::checks::{EVENTLOG, EVENTLOG_DIGESTS, EVENTLOG_EVENTS, EVENTLOG_REGISTERS, EVENTLOG_STRUCTURE};
use super::parse::scan;
use super::{Event, EventKind, EventLog, Format, Grounding, Machine};
use crate::checks::Recorder;
use crate::evidence::Registers;
use crate::verdict::Check;

/// Most problems that are listed.
const MAX_PROBLEMS: usize = 256;

/// A log and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// "TCG 1.2 (SHA-1)" or "crypto agile (Spec ID Event03)".
    pub format: &'static str,
    /// "pcr", or "mr" where register 0 is MRTD and 1 to 4 are RTMR0 to RTMR3.
    pub registers_are: &'static str,
    /// The banks of the header, by name.
    pub banks: Vec<String>,
    /// How many events there are; the header, and events that name no register, are not counted.
    pub event_count: usize,
    /// Bytes up to the end of the last event that names a register.
    pub log_bytes_used: usize,
    /// What every register that the log mentions holds when all events were measured, by bank.
    pub registers: Registers,
    /// What is wrong, in the order of the log.
    pub problems: Vec<Problem>,
    /// What is unusual, and is found in good logs too.
    pub notes: Vec<Problem>,
    /// The events.
    pub events: Vec<ReportedEvent>,
    /// Events that name no register (0xffffffff), as Windows adds: they measure nothing.
    pub unregistered: Vec<ReportedEvent>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedEvent {
    /// Where it stands in the file.
    pub offset: usize,
    /// Register that it extends.
    pub register: u32,
    /// What that register is called: "PCR 4", "MRTD", "RTMR0".
    pub register_name: String,
    /// The standard's name of its type, or its number.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its digests by bank.
    pub digests: BTreeMap<String, String>,
    /// Whether its digest is the hash of its data ("proven"), something else where its type forbids that
    /// ("contradicted"), or of something that the log does not hold ("described").
    pub grounding: &'static str,
    /// What its data says. Nothing vouches for it unless it is proven.
    pub summary: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What sort of thing.
    pub kind: ProblemKind,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// Which register.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register: Option<u32>,
    /// In words.
    pub detail: String,
}

/// Sorts of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// It cannot be read from here on.
    Unreadable,
    /// No event extends a register.
    NoEvents,
    /// A bank whose algorithm is not known here: it was not replayed.
    UnknownBank,
    /// A digest that its event's type defines is not the hash of the event's data.
    Contradicted,
    /// A register of 0 to 7 without the separator that closes what the firmware measures.
    SeparatorMissing,
    /// More than one separator in such a register.
    SeparatorRepeated,
    /// A separator that reports an error of the firmware.
    SeparatorError,
    /// The startup locality is given after the register was extended, or twice.
    LocalityMisplaced,
    /// An event of a TD that extends MRTD, or a register beyond RTMR3.
    NoSuchRegister,
    /// A register that was given does not follow from the log.
    RegisterDiffers,
}

impl LogReport {
    /// Reads a log, however damaged.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let scan = scan(bytes);
        let log = &scan.log;
        let (registered, unregistered): (Vec<&Event>, Vec<&Event>) =
            log.events.iter().partition(|event| event.pcr != u32::MAX);
        let used = unregistered.first().map_or(scan.used, |event| event.offset.min(scan.used));
        let mut problems = problems(log, &registered);
        if let Some(error) = &scan.error {
            problems.push(Problem {
                kind: ProblemKind::Unreadable,
                offset: Some(error.at),
                register: None,
                detail: error.to_string(),
            });
        }
        problems.sort_by_key(|problem| problem.offset.unwrap_or(usize::MAX));
        let problems = told(problems);
        Self {
            format: match log.format {
                Format::Tcg12 => "TCG 1.2 (SHA-1)",
                Format::CryptoAgile => "crypto agile (Spec ID Event03)",
            },
            registers_are: match log.machine {
                Machine::Tpm => "pcr",
                Machine::Td => "mr",
            },
            banks: log.banks.iter().map(|bank| bank_name(*bank)).collect(),
            event_count: registered.len(),
            log_bytes_used: used,
            registers: replayed(log),
            problems,
            notes: notes(log, &registered),
            events: registered.into_iter().map(|event| reported(log, event)).collect(),
            unregistered: unregistered.into_iter().map(|event| reported(log, event)).collect(),
        }
    }

    /// Adds a problem for every given register that the log mentions and does not give, in the banks that both have; and
    /// for a register of 0 to 7 that was extended without any event. Says how many were compared.
    pub fn compare(&mut self, given: &Registers) -> usize {
        let mut compared = 0usize;
        for (bank, values) in given {
            let Some(replayed) = self.registers.get(bank) else { continue };
            for (index, value) in values {
                let differs = match replayed.get(index) {
                    Some(own) => {
                        compared = compared.saturating_add(1);
                        !own.eq_ignore_ascii_case(value)
                    }
                    None => *index < 8 && value.bytes().any(|digit| digit != b'0'),
                };
                if differs {
                    let own = replayed.get(index).map_or("no event at all", String::as_str);
                    self.problems.push(Problem {
                        kind: ProblemKind::RegisterDiffers,
                        offset: None,
                        register: Some(u32::from(*index)),
                        detail: format!("register {index} of bank {bank} is {value}, but the log gives {own}"),
                    });
                }
            }
        }
        compared
    }

    /// The checks of [`EVENTLOG`]: that the log can be read and used, and, when registers are given, that it
    /// explains them.
    #[must_use]
    pub fn judge(&mut self, given: Option<&Registers>) -> Vec<Check> {
        let mut recorder = Recorder::default();
        self.judge_into(given, &mut recorder);
        recorder.finish(EVENTLOG)
    }

    pub(crate) fn judge_into(&mut self, given: Option<&Registers>, recorder: &mut Recorder) {
        let compared = given.map(|given| self.compare(given));
        let mut record = |info, kind: ProblemKind, pass: String| {
            let found = self.problems.iter().find(|problem| problem.kind == kind);
            recorder.record(info, found.map_or(Ok(pass), |problem| Err(problem.detail.clone())))
        };
        record(&EVENTLOG_STRUCTURE, ProblemKind::Unreadable, format!("a log in format {}", self.format));
        record(&EVENTLOG_EVENTS, ProblemKind::NoEvents, format!("{} events", self.event_count));
        record(
            &EVENTLOG_DIGESTS,
            ProblemKind::Contradicted,
            "every digest that its data determines is the hash of that data".into(),
        );
        match compared {
            Some(0) => {
                recorder.record(
                    &EVENTLOG_REGISTERS,
                    Err("no given register is in a bank and among the registers of the log".into()),
                );
            }
            Some(count) => {
                record(
                    &EVENTLOG_REGISTERS,
                    ProblemKind::RegisterDiffers,
                    format!("{count} given registers follow from the log"),
                );
            }
            None => recorder.not_applicable(&EVENTLOG_REGISTERS, "no registers were given to compare with"),
        }
    }
}

/// The first [`MAX_PROBLEMS`], and whatever lies behind them that is the first of its kind: what decides a check is never
/// among those left out.
fn told(problems: Vec<Problem>) -> Vec<Problem> {
    let mut kinds = BTreeSet::new();
    let mut told = Vec::new();
    for problem in problems {
        if kinds.insert(problem.kind) || told.len() < MAX_PROBLEMS {
            told.push(problem);
        }
    }
    told
}

/// Name of a bank's algorithm.
#[must_use]
pub fn bank_name(bank: u16) -> String {
    match bank {
        alg::SHA1 => "sha1".into(),
        alg::SHA256 => "sha256".into(),
        alg::SHA384 => "sha384".into(),
        alg::SHA512 => "sha512".into(),
        other => format!("{other:#06x}"),
    }
}

fn register_name(machine: Machine, register: u32) -> String {
    match (machine, register) {
        (_, u32::MAX) => "none".into(),
        (Machine::Td, 0) => "MRTD".into(),
        (Machine::Td, register) => format!("RTMR{}", register.saturating_sub(1)),
        (Machine::Tpm, register) => format!("PCR {register}"),
    }
}

fn replayed(log: &EventLog) -> Registers {
    log.banks
        .iter()
        .filter_map(|bank| {
            let registers = log.replay_for_reading(*bank)?;
            let named = registers
                .into_iter()
                .filter_map(|(index, value)| Some((u8::try_from(index).ok()?, hex::encode(value))));
            Some((bank_name(*bank), named.collect()))
        })
        .collect()
}

fn reported(log: &EventLog, event: &Event) -> ReportedEvent {
    let groundings = log.banks.iter().map(|bank| event.grounding(*bank));
    ReportedEvent {
        offset: event.offset,
        register: event.pcr,
        register_name: register_name(log.machine, event.pcr),
        kind: event.kind.to_string(),
        digests: event.digests.iter().map(|(bank, digest)| (bank_name(*bank), hex::encode(digest))).collect(),
        grounding: match (event.kind, worst(groundings)) {
            (EventKind::NO_ACTION, _) => "not-measured",
            (_, Some(Grounding::Proven)) => "proven",
            (_, Some(Grounding::Contradicted)) => "contradicted",
            (_, Some(Grounding::Described) | None) => "described",
        },
        summary: event.summary(),
    }
}

fn worst(groundings: impl Iterator<Item = Grounding>) -> Option<Grounding> {
    let rank = |grounding: &Grounding| match grounding {
        Grounding::Proven => 0u8,
        Grounding::Described => 1,
        Grounding::Contradicted => 2,
    };
    groundings.max_by_key(rank)
}

fn problems(log: &EventLog, events: &[&Event]) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |kind, offset: Option<usize>, register: Option<u32>, detail: String| {
        found.push(Problem { kind, offset, register, detail });
    };
    if !events.iter().any(|event| event.kind != EventKind::NO_ACTION) {
        add(ProblemKind::NoEvents, None, None, "no event extends a register".into());
    }
    for bank in log.banks.iter().filter(|bank| alg::digest_len(**bank).is_none()) {
        let detail = format!("bank {} is of an algorithm that is unknown here: it is not replayed", bank_name(*bank));
        add(ProblemKind::UnknownBank, None, None, detail);
    }
    for event in events.iter().filter(|event| event.kind != EventKind::NO_ACTION) {
        if log.machine == Machine::Td && !(1..=4).contains(&event.pcr) {
            let detail = format!("{} extends register {}, which is no RTMR", event.kind, event.pcr);
            add(ProblemKind::NoSuchRegister, Some(event.offset), Some(event.pcr), detail);
        }
        let known = log.banks.iter().filter(|bank| alg::digest_len(**bank).is_some());
        if worst(known.map(|bank| event.grounding(*bank))) == Some(Grounding::Contradicted) {
            let detail = format!(
                "{} at byte {} (register {}) carries a digest that is not the hash of its data",
                event.kind, event.offset, event.pcr
            );
            add(ProblemKind::Contradicted, Some(event.offset), Some(event.pcr), detail);
        }
    }
    found.extend(separators(log, events));
    found.extend(localities(events));
    found
}

/// Separators: in a TPM's log one for each of registers 0 to 7. A TD's registers stand for several PCRs each, so they may
/// have several or none.
fn separators(log: &EventLog, events: &[&Event]) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut closed = BTreeSet::new();
    for event in events.iter().filter(|event| event.kind == EventKind::SEPARATOR) {
        let mut add = |kind, detail| {
            found.push(Problem { kind, offset: Some(event.offset), register: Some(event.pcr), detail });
        };
        if matches!(event.data.as_slice(), [1, 0, 0, 0]) {
            let detail = format!("the separator of register {} reports an error of the firmware", event.pcr);
            add(ProblemKind::SeparatorError, detail);
        }
        if !closed.insert(event.pcr) && log.machine == Machine::Tpm && event.pcr < 8 {
            let detail = format!("register {} is closed by a second separator at byte {}", event.pcr, event.offset);
            add(ProblemKind::SeparatorRepeated, detail);
        }
    }
    if log.machine == Machine::Tpm {
        found.extend((0u32..8).filter(|register| !closed.contains(register)).map(|register| Problem {
            kind: ProblemKind::SeparatorMissing,
            offset: None,
            register: Some(register),
            detail: format!("register {register} is closed by no separator"),
        }));
    }
    found
}

/// Separators of a TD's registers: two where the firmware measured those of PCRs 1 and 7 into one, which looks the same as
/// one that somebody repeated. Only the quoted register tells.
fn notes(log: &EventLog, events: &[&Event]) -> Vec<Problem> {
    let mut closed = BTreeSet::new();
    let separators = events.iter().filter(|event| log.machine == Machine::Td && event.kind == EventKind::SEPARATOR);
    let repeated = separators.filter(|event| !closed.insert(event.pcr));
    let note = |event: &&&Event| Problem {
        kind: ProblemKind::SeparatorRepeated,
        offset: Some(event.offset),
        register: Some(event.pcr),
        detail: format!(
            "{} has another separator at byte {}: some firmware measures it so; compare with the quoted registers",
            register_name(log.machine, event.pcr),
            event.offset
        ),
    };
    repeated.take(MAX_PROBLEMS).map(|event| note(&event)).collect()
}

fn localities(events: &[&Event]) -> Vec<Problem> {
    let mut begun = false;
    let mut found = Vec::new();
    for event in events.iter().filter(|event| event.pcr == 0) {
        if super::replay::startup_locality(event).is_some() && begun {
            found.push(Problem {
                kind: ProblemKind::LocalityMisplaced,
                offset: Some(event.offset),
                register: Some(0),
                detail: format!("the startup locality at byte {} comes too late to count", event.offset),
            });
        }
        begun |= event.kind != EventKind::NO_ACTION || super::replay::startup_locality(event).is_some();
    }
    found
}
