//! The one place that reads the wall clock, so that tests can set it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clock {
    /// The system's.
    #[default]
    System,
    /// Set by hand.
    #[cfg(test)]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
            #[cfg(test)]
            Self::Manual(now) => now.load(std::sync::atomic::Ordering::Acquire),
        }
    }
}
