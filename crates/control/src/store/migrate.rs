//! Schema versions, embedded and checksummed. A version that was changed after it was applied, or that this program
//! does not know, stops the program: it must not guess at a schema.

use sha2::{Digest as _, Sha256};
use sqlx::{Executor as _, Row as _};

use super::{Store, StoreError, signed};

struct Migration {
    version: i64,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../migrations/0001_spine.sql") },
    Migration { version: 2, sql: include_str!("../../migrations/0002_degraded.sql") },
    Migration { version: 3, sql: include_str!("../../migrations/0003_confidential.sql") },
];

pub(super) async fn run(store: &Store) -> Result<(), StoreError> {
    apply(store, MIGRATIONS).await
}

async fn apply(store: &Store, migrations: &[Migration]) -> Result<(), StoreError> {
    let mut tx = store.writer.begin_with("BEGIN IMMEDIATE").await?;
    tx.execute(
        "CREATE TABLE IF NOT EXISTS schema_versions \
         (version BIGINT PRIMARY KEY NOT NULL, checksum TEXT NOT NULL, applied_ms BIGINT NOT NULL)",
    )
    .await?;
    let rows =
        sqlx::query("SELECT version, checksum FROM schema_versions ORDER BY version").fetch_all(&mut *tx).await?;
    for row in &rows {
        let (version, checksum): (i64, String) = (row.try_get("version")?, row.try_get("checksum")?);
        let Some(known) = migrations.iter().find(|migration| migration.version == version) else {
            let text = format!("the store has schema version {version}, which is newer than this program; upgrade it");
            return Err(StoreError::Schema(text));
        };
        if checksum_of(known.sql) != checksum {
            let text = format!("schema version {version} of the store is not the one this program was built with");
            return Err(StoreError::Schema(text));
        }
    }
    for migration in migrations.iter().skip(rows.len()) {
        sqlx::raw_sql(migration.sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_versions (version, checksum, applied_ms) VALUES ($1, $2, $3)")
            .bind(migration.version)
            .bind(checksum_of(migration.sql))
            .bind(signed(store.clock.now_ms()))
            .execute(&mut *tx)
            .await?;
    }
    Ok(tx.commit().await?)
}

fn checksum_of(sql: &str) -> String {
    hex::encode(Sha256::digest(sql.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::hub::Hub;

    async fn open() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let store = Store::open(&path, Arc::new(Hub::default()), Clock::System).await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn reopening_applies_nothing_twice() {
        let (_folder, store) = open().await;
        run(&store).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_or_newer_schema_is_refused() {
        let (_folder, store) = open().await;
        let changed = [Migration { version: 1, sql: "SELECT 1" }];
        assert!(matches!(apply(&store, &changed).await, Err(StoreError::Schema(text)) if text.contains("not the one")));
        assert!(matches!(apply(&store, &[]).await, Err(StoreError::Schema(text)) if text.contains("newer")));
    }

    #[tokio::test]
    async fn a_migration_that_fails_leaves_nothing() {
        let (_folder, store) = open().await;
        let with = |sql| {
            let known = MIGRATIONS.iter().map(|known| Migration { version: known.version, sql: known.sql });
            known.chain([Migration { version: 1000, sql }]).collect::<Vec<_>>()
        };
        let broken = with("CREATE TABLE half (id TEXT); CREATE TABLE projects (id TEXT);");
        assert!(matches!(apply(&store, &broken).await, Err(StoreError::Database(_))));
        apply(&store, &with("CREATE TABLE half (id TEXT);")).await.unwrap();
    }

    #[tokio::test]
    async fn the_store_is_durable_and_checks_references() {
        let (_folder, store) = open().await;
        for pool in [&store.writer, &store.readers] {
            for (pragma, want) in [("PRAGMA synchronous", 2i64), ("PRAGMA foreign_keys", 1)] {
                let row = sqlx::query(sqlx::AssertSqlSafe(pragma)).fetch_one(pool).await.unwrap();
                assert_eq!(row.try_get::<i64, _>(0).unwrap(), want, "{pragma}");
            }
            let row = sqlx::query("PRAGMA journal_mode").fetch_one(pool).await.unwrap();
            assert_eq!(row.try_get::<String, _>(0).unwrap(), "wal");
        }
    }
}
