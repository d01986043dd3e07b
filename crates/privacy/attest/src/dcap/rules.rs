//! Values against the policy: what it leaves out is refused.

use std::fmt::Display;

use crate::checks::{CheckInfo, Recorder};
use crate::policy::Rule;

/// A value that must be one that the policy lists.
pub(super) fn allowed<T: PartialEq + Display>(
    info: &'static CheckInfo,
    field: &str,
    rule: Option<&Rule<T>>,
    value: &T,
    recorder: &mut Recorder,
) {
    recorder.record(
        info,
        match rule {
            Some(Rule::Any) => Ok("the policy allows any".into()),
            Some(rule) if rule.allows(value) => Ok("it is one that the policy allows".into()),
            Some(Rule::OneOf(values)) => Err(format!("{value} is none of the {} that the policy allows", values.len())),
            None => Err(silent(field)),
        },
    );
}

/// A number that must not be below the policy's.
pub(super) fn at_least<T: PartialOrd + Display>(
    info: &'static CheckInfo,
    field: &str,
    minimum: Option<T>,
    value: T,
    recorder: &mut Recorder,
) {
    recorder.record(
        info,
        match minimum {
            Some(minimum) if value >= minimum => Ok(format!("{value}; the policy demands {minimum} or more")),
            Some(minimum) => Err(format!("{value}, but the policy demands {minimum} or more")),
            None => Err(silent(field)),
        },
    );
}

/// Why a policy that is silent refuses.
pub(super) fn silent(field: &str) -> String {
    format!("the policy does not say what is good enough: add `{field}`")
}
