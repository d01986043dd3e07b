//! API keys: `lam_` + 30 base62 characters (178 bits) + 6 base62 characters of CRC-32.
//!
//! The checksum lets the gateway refuse a mistyped key before it asks anyone, and lets secret scanners match without
//! false positives. Only the SHA-256 of a key is stored.

use serde::{Deserialize, Serialize};

use crate::{ApiKeyId, ProjectId};

/// What every key starts with.
pub const PREFIX: &str = "lam_";

/// Length of a key in characters.
pub const LEN: usize = 40;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Read resources.
    Read,
    /// Create, change and delete resources.
    Write,
    /// Read and answer mailboxes: what an unattended key broker needs beside `read`.
    Broker,
    /// Open tunnels.
    Connect,
}

/// Who a request speaks for, once its key is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// The key.
    pub key: ApiKeyId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// What it may do.
    pub scopes: Vec<Scope>,
}
