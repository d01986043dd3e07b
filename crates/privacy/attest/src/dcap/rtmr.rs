//! The event log of a trust domain against its run-time measurement registers.

use lambda_tpm::alg;
use lambda_types::Binary;

use super::checks;
use super::policy::LogRule;
use super::rules::silent;
use crate::checks::Recorder;
use crate::eventlog::{EventKind, EventLog, Format, Grounding};

/// Registers of a CC event log: 0 is MRTD, which nothing extends; 1 to 4 are RTMR0 to RTMR3.
const RTMR_REGISTERS: std::ops::RangeInclusive<u32> = 1..=4;

/// Judges the log, when there is one.
pub(super) fn check(log: Option<&Binary>, rule: Option<LogRule>, rtmrs: &[[u8; 48]; 4], recorder: &mut Recorder) {
    recorder.record(
        &checks::TD_LOG_PRESENT,
        match (rule, log) {
            (None, _) => Err(silent("tdx.event_log")),
            (Some(LogRule::Required), None) => Err("the policy demands the event log, and there is none".into()),
            (Some(_), Some(_)) => Ok("the event log is there".into()),
            (Some(LogRule::Optional), None) => Ok("the policy does not demand the event log".into()),
        },
    );
    let Some(log) = log else {
        for info in [&checks::TD_LOG_STRUCTURE, &checks::TD_LOG_REPLAY, &checks::TD_LOG_DIGESTS] {
            recorder.not_applicable(info, "there is no event log");
        }
        return;
    };
    let structure = EventLog::parse(log.as_slice()).map_err(|error| error.to_string()).and_then(of_a_td);
    let log = match structure {
        Ok(log) => log,
        Err(why) => {
            recorder.record(&checks::TD_LOG_STRUCTURE, Err(why));
            return;
        }
    };
    recorder.record(&checks::TD_LOG_STRUCTURE, Ok(format!("{} events", log.events.len())));
    recorder.record(&checks::TD_LOG_REPLAY, replay(&log, rtmrs));
    let contradicted = log
        .events
        .iter()
        .find(|event| event.kind != EventKind::NO_ACTION && event.grounding(alg::SHA384) == Grounding::Contradicted);
    recorder.record(
        &checks::TD_LOG_DIGESTS,
        match contradicted {
            None => Ok("every digest that an event's type defines is the hash of its data".into()),
            Some(event) => Err(format!("byte {}: the digest of {} is not that of its data", event.offset, event.kind)),
        },
    );
}

fn of_a_td(log: EventLog) -> Result<EventLog, String> {
    if log.format != Format::CryptoAgile || !log.banks.contains(&alg::SHA384) {
        return Err("the log has no SHA-384 bank".into());
    }
    let stray =
        log.events.iter().find(|event| event.kind != EventKind::NO_ACTION && !RTMR_REGISTERS.contains(&event.pcr));
    match stray {
        None => Ok(log),
        Some(event) => Err(format!("byte {}: an event extends register {}, which is no RTMR", event.offset, event.pcr)),
    }
}

/// Registers that no event extends keep their zeros.
fn replay(log: &EventLog, rtmrs: &[[u8; 48]; 4]) -> Result<String, String> {
    let registers = log.replay(alg::SHA384).ok_or("the log cannot be replayed")?;
    for ((number, quoted), register) in rtmrs.iter().enumerate().zip(RTMR_REGISTERS) {
        let zeros = [0; 48];
        let replayed = registers.get(&register).map_or(zeros.as_slice(), Vec::as_slice);
        if replayed != quoted {
            return Err(format!("RTMR{number} does not follow from the log"));
        }
    }
    Ok("the log replays to all four registers".into())
}
