//! All SQL lives in this folder: one `Store` over SQLite or Postgres, one SQL text for both.

use std::str::FromStr;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyPool, AssertSqlSafe, Connection, Transaction};

pub mod accounts;
pub mod admin;
pub mod api_keys;
pub mod apply;
pub mod batches;
mod bulk;
pub mod captures;
pub mod challenges;
pub mod closing;
pub mod completions;
#[cfg(test)]
mod copies;
pub mod events;
pub mod evidence;
pub mod handed_in;
pub mod heartbeats;
pub mod identifiers;
pub mod intake;
pub mod jobs;
pub mod joins;
pub mod leases;
pub mod limits;
pub mod nodes;
pub mod operations;
pub mod orders;
mod packed;
pub mod payments;
pub mod publications;
pub mod receipts;
pub mod reconcile;
pub mod records;
pub mod resources;
pub mod searches;
pub mod sponsored;
#[cfg(test)]
mod statements;
pub mod steps;
pub mod tees;
pub mod txs;
pub mod usage;

use crate::error::{Error, Result};

/// The schema, step by step: a database is brought from the step that it has to the last.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/0001_init.sql"),
    include_str!("../../migrations/0002_x402.sql"),
    include_str!("../../migrations/0003_gateway.sql"),
];

/// Settings of every SQLite connection. FULL: an acknowledged row survives a power cut, not only a crash. Temporary copies of
/// the pages that a statement may have to undo stay in memory: as files they doubled what a completion writes.
const PRAGMAS: &[&str] =
    &["journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000", "foreign_keys=on", "temp_store=MEMORY"];
/// The writer touches pages all over its indexes: 24 MiB of them stay in memory, and the log grows to 64 MiB before its pages,
/// most of them written several times over, are put back into the file.
const WRITER_PRAGMAS: &[&str] = &["cache_size=-24576", "wal_autocheckpoint=16384"];
const READER_PRAGMAS: &[&str] = &["cache_size=-3072", "query_only=on"];

/// A keeper that hangs inside a transaction holds its row locks: the server ends such a session, so that the others go on.
const HUNG: &str = "SET idle_in_transaction_session_timeout = '10s'";

/// A write transaction. Nothing foreign may be awaited while it is open.
pub type WriteTx = Transaction<'static, Any>;

/// The database: a single-connection writer and a pool of readers on SQLite, one pool on Postgres.
#[derive(Clone, Debug)]
pub struct Store {
    writer: AnyPool,
    reader: AnyPool,
    sqlite: bool,
}

impl Store {
    /// Opens the database and creates the schema if it is new.
    ///
    /// # Errors
    /// `store_failed` when it cannot be opened or written, `bad_configuration` for an unknown URL.
    pub async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        if !sqlite && !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
            return Err(Error::Config(format!("database {url:?}: use sqlite:PATH or postgres://…")));
        }
        let url = if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        let options = AnyConnectOptions::from_str(&url)?;
        let pool = |size: u32, read_only: bool| {
            // A connection to a file cannot break, and a look at each before its use would double every short query.
            let options = AnyPoolOptions::new().max_connections(size).min_connections(1).test_before_acquire(!sqlite);
            let options = options.after_release(move |connection, _| {
                Box::pin(async move {
                    if !sqlite || read_only {
                        return Ok(true);
                    }
                    // SQLite itself undoes a transaction that finds the disk full or failing, and the driver then takes the
                    // connection for one inside a transaction for ever: it must go, or nothing is ever written again. The
                    // undoing that a dropped transaction asked for is done before the ping is answered.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            });
            options.after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        let own = if read_only { READER_PRAGMAS } else { WRITER_PRAGMAS };
                        for pragma in PRAGMAS.iter().chain(own) {
                            sqlx::query(AssertSqlSafe(format!("PRAGMA {pragma}"))).execute(&mut *connection).await?;
                        }
                    } else {
                        sqlx::query(HUNG).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
        };
        let writer = pool(if sqlite { 1 } else { 8 }, false).connect_with(options.clone()).await?;
        let store = Self {
            reader: if sqlite { pool(4, true).connect_with(options).await? } else { writer.clone() },
            writer,
            sqlite,
        };
        store.migrate().await?;
        Ok(store)
    }

    /// Starts a write transaction; on SQLite it holds the write lock from its first statement.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn write(&self) -> Result<WriteTx> {
        Ok(self.writer.begin_with(if self.sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" }).await?)
    }

    /// The pool for reads.
    pub const fn read(&self) -> &AnyPool {
        &self.reader
    }

    /// Proves that the database can be written, and leaves nothing in it.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn probe(&self) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query("INSERT INTO leases (name, owner, epoch, beat) VALUES ('probe', '', 0, 0)")
            .execute(&mut *tx)
            .await?;
        tx.rollback().await?;
        Ok(())
    }

    /// Commits a row of this installation, over and over the same: shows whether there is room for a write.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn beat(&self, installation: &str) -> Result<()> {
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO leases (name, owner, epoch, beat) VALUES ($1, '', 0, 1)
             ON CONFLICT (name) DO UPDATE SET beat = leases.beat + 1",
        )
        .bind(format!("disk:{installation}"))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Writes a consistent copy of a SQLite database to a new file while others read and write.
    ///
    /// # Errors
    /// `store_failed`: also when the file exists.
    pub async fn copy_to(&self, path: &std::path::Path) -> Result<()> {
        sqlx::query("VACUUM INTO $1").bind(path.display().to_string()).execute(&self.writer).await?;
        Ok(())
    }

    /// Closes all connections after their work.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    async fn migrate(&self) -> Result<()> {
        let mut connection = self.writer.acquire().await?;
        let mut tx = connection.begin().await?;
        if !self.sqlite {
            // Two keepers may start at once on one empty database.
            sqlx::query("SELECT pg_advisory_xact_lock(7179)").execute(&mut *tx).await?;
        }
        sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)").execute(&mut *tx).await?;
        let version: Option<i64> =
            sqlx::query_scalar("SELECT MAX(version) FROM schema_version").fetch_one(&mut *tx).await?;
        let (bytes, id) = if self.sqlite {
            ("BLOB", "INTEGER PRIMARY KEY AUTOINCREMENT")
        } else {
            ("BYTEA", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        };
        for (number, schema) in (1_i64..).zip(MIGRATIONS) {
            if version.unwrap_or(0) >= number {
                continue;
            }
            let schema = schema.replace("{BYTES}", bytes).replace("{ID}", id);
            for statement in statements(&schema) {
                sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
            }
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)").bind(number).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// The statements of a schema text, comments removed.
fn statements(schema: &str) -> Vec<String> {
    let code: String =
        schema.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code)).collect::<Vec<_>>().join("\n");
    code.split(';').map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    //! The database that a test writes to.

    use super::*;

    /// The database of a test's directory: a SQLite file in it, or, when `QUITTANCE_TEST_POSTGRES` names a server, a database
    /// there. The same directory gets the same database, as after a restart.
    pub(crate) async fn open(dir: &tempfile::TempDir) -> Store {
        let Ok(server) = std::env::var("QUITTANCE_TEST_POSTGRES") else {
            return Store::open(&format!("sqlite:{}", dir.path().join("k.db").display())).await.unwrap();
        };
        let name = format!("q_{}", hex::encode(dir.path().file_name().unwrap().as_encoded_bytes()));
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap();
        // Fails when it exists: then it is the one that we want.
        let _ = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await;
        let (host, _) = server.rsplit_once('/').unwrap();
        Store::open(&format!("{host}/{name}")).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_twice_and_keeps_rows() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let url = format!("sqlite:{}", dir.path().join("k.db").display());
        let store = Store::open(&url).await?;
        let mut tx = store.write().await?;
        sqlx::query("INSERT INTO leases (name, owner, epoch, beat) VALUES ($1, $2, $3, $4)")
            .bind("a")
            .bind("b")
            .bind(1_i64)
            .bind(2_i64)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        store.close().await;
        let store = Store::open(&url).await?;
        let owner: String = sqlx::query_scalar("SELECT owner FROM leases").fetch_one(store.read()).await?;
        assert_eq!(owner, "b");
        assert!(sqlx::query("DELETE FROM leases").execute(store.read()).await.is_err(), "readers cannot write");
        Ok(())
    }

    /// SQLite only: PostgreSQL's server has the disk.
    #[tokio::test]
    async fn a_full_disk_fails_a_write_and_not_those_after_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&format!("sqlite:{}", dir.path().join("k.db").display())).await?;
        let beat = async |owner: String| -> Result<()> {
            let mut tx = store.write().await?;
            let sql = "INSERT INTO leases (name, owner, epoch, beat) VALUES ($1, $2, 1, 1)";
            sqlx::query(sql).bind(owner.len().to_string()).bind(owner).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        };
        beat("before".to_owned()).await?;
        // No page more than there are: what a full disk is to SQLite.
        sqlx::query("PRAGMA max_page_count = 1").execute(&store.writer).await?;
        let full = beat("x".repeat(100_000)).await.unwrap_err();
        assert!(full.to_string().contains("full"), "{full}");
        sqlx::query("PRAGMA max_page_count = 1000000").execute(&store.writer).await?;
        beat("x".repeat(100_000)).await?;
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM leases").fetch_one(store.read()).await?;
        assert_eq!(rows, 2);
        Ok(())
    }

    /// PostgreSQL only: SQLite's one writer is the process itself.
    #[tokio::test]
    async fn a_writer_that_hangs_loses_its_transaction_and_the_others_go_on() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = testing::open(&dir).await;
        if store.sqlite {
            return Ok(());
        }
        let mut tx = store.write().await?;
        sqlx::query("INSERT INTO leases (name, owner, epoch, beat) VALUES ('hung', '', 0, 0)")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        const BEAT: &str = "UPDATE leases SET beat = beat + 1 WHERE name = 'hung'";
        let mut hung = store.write().await?;
        sqlx::query(BEAT).execute(&mut *hung).await?;
        let mut other = store.write().await?;
        let waited = tokio::time::timeout(std::time::Duration::from_secs(90), sqlx::query(BEAT).execute(&mut *other));
        assert!(waited.await.is_ok_and(|done| done.is_ok()), "the row stayed locked");
        other.commit().await?;
        assert!(hung.commit().await.is_err(), "what hung was undone");
        let beat: i64 =
            sqlx::query_scalar("SELECT beat FROM leases WHERE name = 'hung'").fetch_one(store.read()).await?;
        assert_eq!(beat, 1);
        Ok(())
    }
}
