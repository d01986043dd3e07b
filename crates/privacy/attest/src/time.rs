use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z, as the caller's clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);
