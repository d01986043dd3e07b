//! Projects and API keys. A key's text is never stored: only its SHA-256, which is enough for 178 random bits.

use lambda_types::api_key::{self, Principal, Scope};
use lambda_types::{ApiKeyId, ProjectId};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

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

impl Store {
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
