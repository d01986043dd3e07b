//! The store: SQL that SQLite and PostgreSQL both run (TEXT and BIGINT columns, `$n` parameters, bytes as base64).
//!
//! One connection writes. Every write is one transaction that ends with [`Write::commit`], which refuses to commit a
//! change without an audit entry and only then wakes whoever waits for it. A crash before the commit leaves nothing,
//! a crash after it loses only wake-ups, and every waiter reads the store again within its long-poll.

pub(crate) mod idempotency;
pub(crate) mod instance;
pub(crate) mod mailbox;
mod migrate;
pub(crate) mod node;
pub(crate) mod project;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lambda_transport::ApiError;
use lambda_types::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions as _, Executor as _, Row as _, Transaction};

use crate::audit::{Cause, Event, KEPT_MS};
use crate::clock::Clock;
use crate::hub::{Hub, Notice};

/// Connections that only read.
const READERS: u32 = 4;

/// How long a statement waits for another process's write.
const BUSY: Duration = Duration::from_secs(5);

/// Every commit syncs the log. The log is folded into the database by [`Store::checkpoint`], not by whichever commit
/// happens to fill it: a customer's request should not pay for that.
const PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                       PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0; \
                       PRAGMA journal_size_limit = 16777216; PRAGMA cache_size = -1024;";

/// Why the store refuses or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[from] sqlx::Error),
    /// A row that this version cannot read.
    #[error("the store holds a {what} that cannot be read: {reason}")]
    Unreadable {
        /// Which column.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The schema is not this version's.
    #[error("{0}")]
    Schema(String),
    /// A change without an audit entry: a defect.
    #[error("a change was about to be committed without an audit entry")]
    Unaudited,
    /// No randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

impl StoreError {
    /// True when SQLite found no room for a page, or for its shared index of the log.
    fn is_out_of_space(&self) -> bool {
        const FULL: [&str; 2] = ["13", "4874"];
        let Self::Database(error) = self else { return false };
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| FULL.contains(&code.as_ref()))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let StoreError::Database(sqlx::Error::PoolTimedOut) = error {
            tracing::error!(%error, "the store is overloaded");
            return Self::new(Code::Unavailable, "the control plane is overloaded; try again in a few seconds");
        }
        if error.is_out_of_space() {
            tracing::error!(%error, "the disk of the store is full: free space on it");
            let detail = "the control plane's disk is full; nothing was changed, and the operator must free space";
            return Self::new(Code::Unavailable, detail);
        }
        Self::internal(&error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why an operation did not happen.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The caller's doing, decided: the answer to a repetition of the request is the same.
    Api(ApiError),
    /// The store's.
    Store(StoreError),
}

impl Refusal {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::Api(ApiError::new(code, detail))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Api(error) => error,
            Refusal::Store(error) => error.into(),
        }
    }
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: AnyPool,
    readers: AnyPool,
    hub: Arc<Hub>,
    clock: Clock,
}

/// A write transaction.
pub(crate) struct Write {
    tx: Transaction<'static, Any>,
    hub: Arc<Hub>,
    notices: Vec<Notice>,
    cause: Cause,
    audited: bool,
    /// The time of this change.
    pub(crate) at_ms: u64,
}

impl Store {
    /// Opens the store, creating and migrating it as needed.
    pub(crate) async fn open(path: &Path, hub: Arc<Hub>, clock: Clock) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let url = SqliteConnectOptions::new().filename(path).create_if_missing(true).to_url_lossy();
        // Statements carry sealed values and addresses: they are never logged.
        let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
        let pool = |connections: u32| {
            AnyPoolOptions::new().max_connections(connections).min_connections(1).acquire_timeout(BUSY).after_connect(
                |connection, _| {
                    Box::pin(async move {
                        connection.execute(PRAGMAS).await?;
                        Ok(())
                    })
                },
            )
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        let readers = pool(READERS).connect_with(options).await?;
        let store = Self { writer, readers, hub, clock };
        migrate::run(&store).await?;
        Ok(store)
    }

    /// Begins a write. It holds the database's write lock from here on, so what it reads stays true until it commits.
    pub(crate) async fn write(&self, cause: Cause) -> Result<Write, StoreError> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        let tx = match self.writer.begin_with(BEGIN).await {
            // For want of disk SQLite ends a transaction by itself. The driver still counts it, and would for ever.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                self.writer.acquire().await?.close().await?;
                self.writer.begin_with(BEGIN).await?
            }
            begun => begun?,
        };
        let at_ms = self.clock.now_ms();
        Ok(Write { tx, hub: self.hub.clone(), notices: Vec::new(), cause, audited: false, at_ms })
    }

    /// Begins a read of one consistent state.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.readers.begin().await?)
    }

    pub(crate) fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// Folds what is committed into the database file without holding up writers.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        self.readers.execute("PRAGMA wal_checkpoint(PASSIVE)").await?;
        Ok(())
    }

    /// True when the oldest audit entry is older than entries are kept.
    pub(crate) async fn has_expired_audit(&self, now_ms: u64) -> Result<bool, StoreError> {
        let oldest =
            sqlx::query("SELECT at_ms FROM audit WHERE seq < (SELECT MAX(seq) FROM audit) ORDER BY seq LIMIT 1")
                .fetch_optional(self.readers())
                .await?;
        let Some(row) = oldest else { return Ok(false) };
        Ok(Columns(&row).number::<u64>("at_ms")? < now_ms.saturating_sub(KEPT_MS))
    }

    /// Closes every connection, so that the write-ahead log is folded into the database.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Write {
    pub(crate) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Appends an audit entry to this transaction.
    pub(crate) async fn audit(&mut self, event: &Event) -> Result<(), StoreError> {
        let request = self.cause.request.map(|id| id.to_string());
        sqlx::query(
            "INSERT INTO audit (seq, at_ms, request, actor, event) \
             VALUES ((SELECT COALESCE(MAX(seq), 0) + 1 FROM audit), $1, $2, $3, $4)",
        )
        .bind(signed(self.at_ms))
        .bind(request)
        .bind(json(&self.cause.actor)?)
        .bind(json(event)?)
        .execute(self.connection())
        .await?;
        self.audited = true;
        Ok(())
    }

    /// Removes audit entries that are older than they are kept. Numbers are not given again.
    pub(crate) async fn forget_expired_audit(&mut self) -> Result<(), StoreError> {
        let before = signed(self.at_ms.saturating_sub(KEPT_MS));
        sqlx::query("DELETE FROM audit WHERE at_ms < $1 AND seq < (SELECT MAX(seq) FROM audit)")
            .bind(before)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Commits a change, which must have an audit entry, and wakes its waiters.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        if !self.audited {
            return Err(StoreError::Unaudited);
        }
        self.commit_bookkeeping().await
    }

    /// Commits what is no change of any resource: liveness, expiry, remembered answers.
    pub(crate) async fn commit_bookkeeping(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        for notice in self.notices {
            self.hub.publish(notice);
        }
        Ok(())
    }

    /// Marks a point that [`Self::undo`] goes back to.
    pub(crate) async fn mark(&mut self) -> Result<(), StoreError> {
        sqlx::query("SAVEPOINT attempt").execute(self.connection()).await?;
        Ok(())
    }

    /// Undoes everything since [`Self::mark`].
    pub(crate) async fn undo(&mut self) -> Result<(), StoreError> {
        sqlx::query("ROLLBACK TO SAVEPOINT attempt").execute(self.connection()).await?;
        self.notices.clear();
        self.audited = false;
        Ok(())
    }
}

/// True when a statement failed because a constraint refused it.
pub(crate) fn is_constraint(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.is_unique_violation() || error.is_check_violation() || error.is_foreign_key_violation()
    })
}

/// As the store's signed 64 bits; times and counters never come near the limit.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Unreadable { what: "value to store", reason: error.to_string() })
}

/// A unit variant's name, without JSON's quotes.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String, StoreError> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

/// Typed access to a row's columns.
pub(crate) struct Columns<'a>(pub(crate) &'a AnyRow);

impl Columns<'_> {
    pub(crate) fn text(&self, name: &'static str) -> Result<String, StoreError> {
        Ok(self.0.try_get(name)?)
    }

    pub(crate) fn maybe_text(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_get(name)?)
    }

    pub(crate) fn number<N: TryFrom<i64>>(&self, name: &'static str) -> Result<N, StoreError> {
        let value: i64 = self.0.try_get(name)?;
        N::try_from(value)
            .map_err(|_| StoreError::Unreadable { what: name, reason: format!("{value} is out of range") })
    }

    pub(crate) fn maybe_number<N: TryFrom<i64>>(&self, name: &'static str) -> Result<Option<N>, StoreError> {
        let value: Option<i64> = self.0.try_get(name)?;
        value
            .map(|value| {
                N::try_from(value)
                    .map_err(|_| StoreError::Unreadable { what: name, reason: format!("{value} is out of range") })
            })
            .transpose()
    }

    pub(crate) fn id<I: FromStr>(&self, name: &'static str) -> Result<I, StoreError>
    where
        I::Err: std::fmt::Display,
    {
        parse(name, &self.text(name)?)
    }

    pub(crate) fn maybe_id<I: FromStr>(&self, name: &'static str) -> Result<Option<I>, StoreError>
    where
        I::Err: std::fmt::Display,
    {
        self.maybe_text(name)?.map(|text| parse(name, &text)).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, StoreError> {
        from_json(name, &self.text(name)?)
    }

    pub(crate) fn maybe_json<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StoreError> {
        self.maybe_text(name)?.map(|text| from_json(name, &text)).transpose()
    }

    pub(crate) fn word<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, StoreError> {
        from_json(name, &format!("\"{}\"", self.text(name)?))
    }

    pub(crate) fn maybe_word<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StoreError> {
        self.maybe_text(name)?.map(|text| from_json(name, &format!("\"{text}\""))).transpose()
    }

    pub(crate) fn bytes(&self, name: &'static str) -> Result<Vec<u8>, StoreError> {
        let binary: lambda_types::Binary = self.word(name)?;
        Ok(binary.0)
    }
}

fn parse<I: FromStr>(what: &'static str, text: &str) -> Result<I, StoreError>
where
    I::Err: std::fmt::Display,
{
    text.parse().map_err(|error: I::Err| StoreError::Unreadable { what, reason: error.to_string() })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable { what, reason: error.to_string() })
}
