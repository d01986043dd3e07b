//! Why a boot is given up: a stable code for the node, and words for the guest's own kernel log.

use std::fmt::Display;

use lambda_types::guest::FailureReason;

/// A failure with its code. The words never quote a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({})", reason.code())]
pub struct Failure {
    /// The code that the node is told.
    pub reason: FailureReason,
    /// What failed.
    pub what: String,
}

impl Failure {
    /// A failure with these words.
    #[must_use]
    pub fn new(reason: FailureReason, what: impl Into<String>) -> Self {
        Self { reason, what: what.into() }
    }
}

/// Gives an error its failure code.
pub trait Because<T> {
    /// Fails with `reason`, saying which `step` failed.
    ///
    /// # Errors
    /// When `self` is an error.
    fn because(self, reason: FailureReason, step: &str) -> Result<T, Failure>;
}

impl<T, E: Display> Because<T> for Result<T, E> {
    fn because(self, reason: FailureReason, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(reason, format!("{step}: {error}")))
    }
}
