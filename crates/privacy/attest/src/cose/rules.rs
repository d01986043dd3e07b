//! What a policy says of one value.

use super::hexstring::HexString;
use crate::policy::Rule;

/// The policy is silent.
pub(crate) fn silent(field: &str) -> String {
    format!("the policy does not say what is good enough: add `{field}`")
}

/// Whether the rule allows the value.
pub(crate) fn ruled<T: PartialEq + std::fmt::Display>(
    field: &str,
    rule: Option<&Rule<T>>,
    value: &T,
    what: &str,
) -> Result<String, String> {
    match rule {
        None => Err(silent(field)),
        Some(rule) if rule.allows(value) => Ok(format!("the policy allows {what} {value}")),
        Some(_) => Err(format!("the policy does not allow {what} {value}")),
    }
}

/// Whether the rule allows these bytes.
pub(crate) fn same_bytes(
    field: &str,
    rule: Option<&Rule<HexString>>,
    value: &[u8],
    what: &str,
) -> Result<String, String> {
    ruled(field, rule, &HexString(value.to_vec()), what)
}
