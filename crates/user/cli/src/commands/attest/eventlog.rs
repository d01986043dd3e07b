//! `lambda attest eventlog`: what a firmware event log says, and what is wrong with it.

use lambda_attest::Check;
use lambda_attest::eventlog::{LogReport, ProblemKind, Registers};
use lambda_sdk::presented;
use serde::Serialize;

use super::checks;
use crate::args::{EventlogArgs, Format};
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show, table};

/// A log, with the checks that were made of it.
#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    report: LogReport,
    checks: Vec<Check>,
}

impl Show for View {
    fn text(&self) -> String {
        let Self { report, checks: made } = self;
        let events = report.events.iter().map(|event| {
            [
                event.offset.to_string(),
                event.register.to_string(),
                event.kind.clone(),
                event.grounding.to_owned(),
                event.summary.clone(),
            ]
        });
        let registers = report.registers.iter().flat_map(|(bank, values)| {
            values
                .iter()
                .map(move |(index, value)| [bank.clone(), format!("{}{index}", report.registers_are), value.clone()])
        });
        let mut text = format!(
            "{}, {} events, banks {}\n\n{}\n\n{}\n\n{}\n",
            report.format,
            report.event_count,
            report.banks.join(", "),
            table(["BYTE", "REGISTER", "TYPE", "DIGEST", "EVENT"], events),
            table(["BANK", "REGISTER", "VALUE"], registers),
            checks(made),
        );
        match report.problems.as_slice() {
            [] => text.push_str("\nnothing is wrong with it"),
            problems => {
                for problem in problems {
                    text.push_str(&format!("\nproblem: {}", problem.detail));
                }
            }
        }
        text
    }
}

/// `lambda attest eventlog`.
pub(crate) fn eventlog(format: Format, args: &EventlogArgs) -> Result<(), Failure> {
    let bytes = presented::bounded(&args.log)?;
    let registers: Option<Registers> = match &args.registers {
        Some(path) => Some(serde_json::from_slice(&presented::bounded(path)?).map_err(|error| {
            Failure::usage(format!("{} is not register values by bank and index: {error}", path.display()))
        })?),
        None => None,
    };
    let mut report = LogReport::read(&bytes);
    let checks = report.judge(registers.as_ref());
    let unreadable = report.problems.iter().find(|problem| problem.kind == ProblemKind::Unreadable);
    if let (0, Some(problem)) = (report.event_count, unreadable) {
        return Err(Failure::usage(format!("{}: {}", args.log.display(), problem.detail)));
    }
    let view = View { report, checks };
    output::print(format, &view)?;
    match view.report.problems.len() {
        0 => Ok(()),
        count => Err(Failure::new(REFUSED, format!("the log has {count} problems"))),
    }
}
