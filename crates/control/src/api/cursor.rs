//! Listing cursors: opaque to clients, bound to what is listed, and no proof of anything: the project always comes from
//! the caller's principal.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lambda_transport::ApiError;
use lambda_types::{Code, ProjectId};
use serde::{Deserialize, Serialize};

/// Entries of a page when the client names no limit.
const DEFAULT_LIMIT: u32 = 50;

/// Most entries of a page.
const MAX_LIMIT: u32 = 1000;

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    /// What is listed.
    of: String,
    /// Whose.
    project: ProjectId,
    /// Creation time of the last entry.
    pub(super) at_ms: u64,
    /// Its id.
    pub(super) id: String,
}

impl Cursor {
    pub(super) fn new(of: &str, project: ProjectId, at_ms: u64, id: String) -> Self {
        Self { of: of.into(), project, at_ms, id }
    }

    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// A cursor that this listing of this project gave out.
    pub(super) fn decode(text: &str, of: &str, project: ProjectId) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|cursor| cursor.of == of && cursor.project == project)
            .ok_or_else(|| ApiError::new(Code::InvalidRequest, "the cursor is not one of this listing; start anew"))
    }
}

/// A page size: 50 when absent or 0, at most 1000; negative or not a number is refused.
pub(super) fn limit(text: Option<&str>) -> Result<u32, ApiError> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    match text.parse::<u64>() {
        Ok(0) => Ok(DEFAULT_LIMIT),
        Ok(limit) => Ok(u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)),
        Err(_) => Err(ApiError::new(Code::InvalidRequest, "limit must be a whole number, 0 or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_coerced_and_negatives_refused() {
        for (text, want) in [(None, 50), (Some("0"), 50), (Some("7"), 7), (Some("1000000"), 1000)] {
            assert_eq!(limit(text).unwrap(), want);
        }
        for bad in ["-1", "x", "", "1.5"] {
            assert!(limit(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_its_listing_and_project() {
        let (mine, other) = (ProjectId::from_bits(1), ProjectId::from_bits(2));
        let text = Cursor::new("instances", mine, 5, "inst_x".into()).encode();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_eq!(Cursor::decode(&text, "instances", mine).unwrap().at_ms, 5);
        assert!(Cursor::decode(&text, "instances", other).is_err());
        assert!(Cursor::decode(&text, "volumes", mine).is_err());
        assert!(Cursor::decode("!!", "instances", mine).is_err());
    }
}
