//! Failures and their stable exit codes.

use std::process::ExitCode;

use lambda_sdk::Error;
use lambda_types::Code;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What a person reads.
    pub(crate) message: String,
    /// The process's exit code.
    pub(crate) code: u8,
}

/// Any other failure.
pub(crate) const OTHER: u8 = 1;
/// The command line or its input makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Evidence or a policy was refused.
pub(crate) const REFUSED: u8 = 3;
const NOT_FOUND: u8 = 4;
const CONFLICT: u8 = 5;
/// Something cannot be reached or is not there yet.
pub(crate) const UNAVAILABLE: u8 = 6;

impl Failure {
    /// With this code.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), code }
    }

    /// Something without a code of its own.
    pub(crate) fn other(error: impl std::fmt::Display) -> Self {
        Self::new(OTHER, error.to_string())
    }

    /// Bad input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Prints the message and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: code_of(&error), message: error.to_string() }
    }
}

fn code_of(error: &Error) -> u8 {
    match error {
        Error::Usage(_) | Error::NotConnected(_) | Error::Ambiguous { .. } => USAGE,
        Error::Refused(_)
        | Error::IdentityRefused(_)
        | Error::PlatformCaChanged { .. }
        | Error::NotTrusted(_)
        | Error::Inconsistent { .. } => REFUSED,
        Error::NoInstance(_) => NOT_FOUND,
        Error::Unreachable { .. } | Error::Timeout { .. } => UNAVAILABLE,
        Error::Api(problem) => api_code(problem.code),
        _ => OTHER,
    }
}

fn api_code(code: Code) -> u8 {
    match code {
        Code::InvalidRequest
        | Code::TooLarge
        | Code::HeadersTooLarge
        | Code::MethodNotAllowed
        | Code::VersionRequired => USAGE,
        Code::NotFound => NOT_FOUND,
        Code::Conflict | Code::IdempotencyInProgress | Code::IdempotencyMismatch | Code::VersionMismatch => CONFLICT,
        Code::RateLimited | Code::CapacityExhausted | Code::Unavailable | Code::Timeout => UNAVAILABLE,
        Code::Unauthenticated | Code::Forbidden | Code::Internal => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use lambda_types::Problem;

    use super::*;

    #[test]
    fn api_problems_map_to_the_documented_codes() {
        for (code, exit) in [
            (Code::NotFound, 4),
            (Code::Conflict, 5),
            (Code::VersionMismatch, 5),
            (Code::CapacityExhausted, 6),
            (Code::Unavailable, 6),
            (Code::InvalidRequest, 2),
            (Code::Internal, 1),
        ] {
            assert_eq!(Failure::from(Error::Api(Box::new(Problem::new(code, "x")))).code, exit, "{code:?}");
        }
    }

    #[test]
    fn refusals_and_missing_instances_have_codes_of_their_own() {
        assert_eq!(Failure::from(Error::NotTrusted("x".into())).code, 3);
        assert_eq!(Failure::from(Error::NoInstance("x".into())).code, 4);
    }
}
