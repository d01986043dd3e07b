//! Remembered answers to POST requests: 24 hours, by API key and idempotency key.
//!
//! An answer is stored in the transaction of the change itself, so "done" and "remembered" cannot come apart.

use lambda_types::ApiKeyId;

use super::{Columns, Store, StoreError, Write, signed};

/// How long an answer is remembered.
pub(crate) const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// A remembered answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// SHA-256 of method, path and body, hex.
    pub(crate) fingerprint: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// Body as sent.
    pub(crate) body: String,
}

impl Write {
    pub(crate) async fn remembered(&mut self, key: ApiKeyId, name: &str) -> Result<Option<Remembered>, StoreError> {
        let oldest = signed(self.at_ms.saturating_sub(KEPT_MS));
        let row = sqlx::query(
            "SELECT fingerprint, status, body FROM idempotency WHERE api_key = $1 AND name = $2 AND created_ms >= $3",
        )
        .bind(key.to_string())
        .bind(name)
        .bind(oldest)
        .fetch_optional(self.connection())
        .await?;
        row.map(|row| {
            let columns = Columns(&row);
            Ok(Remembered {
                fingerprint: columns.text("fingerprint")?,
                status: columns.number("status")?,
                body: columns.text("body")?,
            })
        })
        .transpose()
    }

    pub(crate) async fn remember(&mut self, key: ApiKeyId, name: &str, answer: &Remembered) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM idempotency WHERE api_key = $1 AND name = $2")
            .bind(key.to_string())
            .bind(name)
            .execute(self.connection())
            .await?;
        sqlx::query(
            "INSERT INTO idempotency (api_key, name, fingerprint, status, body, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(key.to_string())
        .bind(name)
        .bind(answer.fingerprint.as_str())
        .bind(i64::from(answer.status))
        .bind(answer.body.as_str())
        .bind(signed(self.at_ms))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Drops what is older than [`KEPT_MS`].
    pub(crate) async fn forget_expired(&mut self) -> Result<u64, StoreError> {
        let oldest = signed(self.at_ms.saturating_sub(KEPT_MS));
        let done = sqlx::query("DELETE FROM idempotency WHERE created_ms < $1")
            .bind(oldest)
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected())
    }
}

impl Store {
    /// Whether anything is older than [`KEPT_MS`].
    pub(crate) async fn has_expired_answers(&self, now_ms: u64) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT name FROM idempotency WHERE created_ms < $1 LIMIT 1")
            .bind(signed(now_ms.saturating_sub(KEPT_MS)))
            .fetch_optional(self.readers())
            .await?;
        Ok(row.is_some())
    }
}
