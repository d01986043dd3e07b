//! Importing foreign root file systems.

/// Why an import was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No init.
    #[error("no init")]
    NoInit,
}
