//! Projects and API keys. A key's text is never stored: only its SHA-256, which is enough for 178 random bits.

use lambda_types::api_key::{self, Principal, Scope};
use lambda_types::{ApiKeyId, ProjectId};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use sqlx::any::AnyRow;

use super::{Columns, Store, StoreError, Write, json, signed};
use crate::audit::Event;

/// A key that was just made; its text exists only here.
pub struct NewKey {
    /// Public part.
    pub id: ApiKeyId,
    /// Whose it is.
    pub project: ProjectId,
    /// What the customer presents.
    pub text: Zeroizing<String>,
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Public part.
    pub id: ApiKeyId,
    /// Whose it is.
    pub project: ProjectId,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made, milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When it was revoked.
    pub revoked_ms: Option<u64>,
}

impl ApiKey {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let columns = Columns(row);
        Ok(Self {
            id: columns.id("id")?,
            project: columns.id("project")?,
            scopes: columns.json("scopes")?,
            created_ms: columns.number("created_ms")?,
            revoked_ms: columns.maybe_number("revoked_ms")?,
        })
    }
}

impl Write {
    /// Adds a project.
    pub(crate) async fn create_project(&mut self) -> Result<ProjectId, StoreError> {
        let project = ProjectId::random()?;
        sqlx::query("INSERT INTO projects (id, created_ms) VALUES ($1, $2)")
            .bind(project.to_string())
            .bind(signed(self.at_ms))
            .execute(self.connection())
            .await?;
        self.audit(&Event::ProjectCreated { project }).await?;
        Ok(project)
    }

    /// Adds a key to a project.
    pub(crate) async fn create_api_key(&mut self, project: ProjectId, scopes: &[Scope]) -> Result<NewKey, StoreError> {
        let text = Zeroizing::new(api_key::generate()?);
        let id = ApiKeyId::random()?;
        sqlx::query("INSERT INTO api_keys (id, project, sha256, scopes, created_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(id.to_string())
            .bind(project.to_string())
            .bind(hex::encode(Sha256::digest(text.as_bytes())))
            .bind(json(&scopes)?)
            .bind(signed(self.at_ms))
            .execute(self.connection())
            .await?;
        self.audit(&Event::ApiKeyCreated { key: id, project, scopes: scopes.to_vec() }).await?;
        Ok(NewKey { id, project, text })
    }
}

impl Write {
    /// Ends a key. `None` when there is no such key; one that was revoked before keeps its time.
    pub(crate) async fn revoke_api_key(&mut self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        let changed = sqlx::query("UPDATE api_keys SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL")
            .bind(id.to_string())
            .bind(signed(self.at_ms))
            .execute(self.connection())
            .await?;
        let row = sqlx::query("SELECT id, project, scopes, created_ms, revoked_ms FROM api_keys WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.connection())
            .await?;
        let key = row.as_ref().map(ApiKey::read).transpose()?;
        if let (Some(key), 1) = (&key, changed.rows_affected()) {
            self.audit(&Event::ApiKeyRevoked { key: key.id, project: key.project }).await?;
        }
        Ok(key)
    }
}

impl Store {
    /// Every key, oldest first.
    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let rows =
            sqlx::query("SELECT id, project, scopes, created_ms, revoked_ms FROM api_keys ORDER BY created_ms, id")
                .fetch_all(self.readers())
                .await?;
        rows.iter().map(ApiKey::read).collect()
    }

    /// For whom a key speaks, by its SHA-256.
    pub(crate) async fn authenticate(&self, sha256: &[u8; 32]) -> Result<Option<Principal>, StoreError> {
        let row = sqlx::query("SELECT id, project, scopes FROM api_keys WHERE sha256 = $1 AND revoked_ms IS NULL")
            .bind(hex::encode(sha256))
            .fetch_optional(self.readers())
            .await?;
        row.map(|row| {
            let columns = Columns(&row);
            Ok(Principal { key: columns.id("id")?, project: columns.id("project")?, scopes: columns.json("scopes")? })
        })
        .transpose()
    }
}
