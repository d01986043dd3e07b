use der::DateTime;
use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z, as the caller's clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time in UTC such as 2026-01-31T12:00:00Z")]
pub struct TimeError;

impl std::str::FromStr for UnixTime {
    type Err = TimeError;

    /// RFC 3339, whole seconds, UTC.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let seconds = text.parse::<DateTime>().map_err(|_| TimeError)?.unix_duration().as_secs();
        i64::try_from(seconds).map(Self).map_err(|_| TimeError)
    }
}

impl std::fmt::Display for UnixTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = std::time::Duration::from_secs(self.0.try_into().unwrap_or_default());
        match DateTime::from_unix_duration(seconds) {
            Ok(time) => std::fmt::Display::fmt(&time, f),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!("2026-01-31T12:00:00Z".parse(), Ok(UnixTime(1_769_860_800)));
        assert_eq!(UnixTime(1_769_860_800).to_string(), "2026-01-31T12:00:00Z");
        for bad in
            ["", "2026-01-31", "2026-01-31T12:00:00+01:00", "2026-02-30T12:00:00Z", "1600-01-01T00:00:00Z", "now"]
        {
            assert_eq!(bad.parse::<UnixTime>(), Err(TimeError), "{bad}");
        }
    }
}
