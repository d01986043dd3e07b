//! What a verifier said.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lambda_attest::{Inspection, Outcome as CheckOutcome, ParseError};

/// What a verifier said about one piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Good.
    Accepted,
    /// Not good, and why: the ids of failed checks, or the verifier's own words.
    Refused(String),
    /// The verifier did not get to an answer.
    Panicked(String),
}

impl Outcome {
    /// Whether it said yes.
    pub fn accepted(&self) -> bool {
        *self == Self::Accepted
    }

    /// Of Lambda's verifier.
    pub fn of_ours(inspection: Result<Inspection, ParseError>) -> Self {
        match inspection {
            Ok(inspection) if inspection.accepted() => Self::Accepted,
            Ok(inspection) => {
                let failed = inspection.checks.iter().filter(|check| check.outcome == CheckOutcome::Fail);
                Self::Refused(failed.map(|check| check.id.as_str()).collect::<Vec<_>>().join(" "))
            }
            Err(_) => Self::Refused("unreadable".into()),
        }
    }

    /// Of another verifier, whose panics are its own.
    pub fn of_theirs(verify: impl FnOnce() -> anyhow::Result<()>) -> Self {
        match catch_unwind(AssertUnwindSafe(verify)) {
            Ok(Ok(())) => Self::Accepted,
            Ok(Err(error)) => Self::Refused(format!("{error:#}")),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                Self::Panicked(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
            }
        }
    }
}
