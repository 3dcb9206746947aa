//! Canonical logs, the window of blocks that are not final, and the cursor that both move with.

use alloy::primitives::{Address, B256, Bytes};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::bulk::{Dialect, query, runs};
use super::txs::chain_column;
use crate::chain::logs::ChainLog;
use crate::error::{Error, Result};
use crate::types::{address, b256};

/// How far a chain's events are applied, and which part of that cannot change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Last block whose events are applied.
    pub number: u64,
    pub hash: B256,
    /// Its time, unix seconds.
    pub timestamp: u64,
    /// Blocks up to here are safe (on L1) / finalised; never above `number`.
    pub safe: u64,
    pub finalized: u64,
}

/// An event as stored.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub block_number: u64,
    pub block_hash: B256,
    pub log_index: u64,
    pub tx_hash: B256,
    pub contract: Address,
    pub seq: u64,
    pub name: String,
    pub topics: Vec<B256>,
    pub data: Bytes,
    /// Block time, unix seconds.
    pub timestamp: u64,
}

/// The cursor of a chain, `None` before the first block.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn cursor<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64) -> Result<Option<Cursor>> {
    let row =
        sqlx::query("SELECT number, hash, timestamp, safe_number, finalized_number FROM cursors WHERE chain_id = $1")
            .bind(chain_column(chain_id)?)
            .fetch_optional(db)
            .await?;
    row.map(|row| {
        Ok(Cursor {
            number: number(&row, "number")?,
            hash: b256("cursors", &row.try_get::<Vec<u8>, _>("hash")?)?,
            timestamp: number(&row, "timestamp")?,
            safe: number(&row, "safe_number")?,
            finalized: number(&row, "finalized_number")?,
        })
    })
    .transpose()
}

/// Moves the cursor from `old`. False when somebody else moved it: then nothing of this transaction may stay.
///
/// # Errors
/// `store_failed`.
pub async fn move_cursor(
    tx: &mut WriteTx,
    chain_id: u64,
    old: Option<&Cursor>,
    new: &Cursor,
    now_ms: i64,
) -> Result<bool> {
    let done = if let Some(old) = old {
        sqlx::query(
            "UPDATE cursors SET number = $1, hash = $2, timestamp = $3, safe_number = $4, finalized_number = $5, updated_ms = $6
             WHERE chain_id = $7 AND number = $8 AND hash = $9",
        )
        .bind(column(new.number)?)
        .bind(new.hash.to_vec())
        .bind(column(new.timestamp)?)
        .bind(column(new.safe)?)
        .bind(column(new.finalized)?)
        .bind(now_ms)
        .bind(chain_column(chain_id)?)
        .bind(column(old.number)?)
        .bind(old.hash.to_vec())
        .execute(&mut **tx)
        .await?
    } else {
        sqlx::query(
            "INSERT INTO cursors (number, hash, timestamp, safe_number, finalized_number, updated_ms, chain_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (chain_id) DO NOTHING",
        )
        .bind(column(new.number)?)
        .bind(new.hash.to_vec())
        .bind(column(new.timestamp)?)
        .bind(column(new.safe)?)
        .bind(column(new.finalized)?)
        .bind(now_ms)
        .bind(chain_column(chain_id)?)
        .execute(&mut **tx)
        .await?
    };
    Ok(done.rows_affected() == 1)
}

/// Forgets the cursor: events are read from the start again.
///
/// # Errors
/// `store_failed`.
pub async fn drop_cursor(tx: &mut WriteTx, chain_id: u64) -> Result<()> {
    sqlx::query("DELETE FROM cursors WHERE chain_id = $1").bind(chain_column(chain_id)?).execute(&mut **tx).await?;
    Ok(())
}

/// Adds a block to the window.
///
/// # Errors
/// `store_failed`.
pub async fn insert_block(tx: &mut WriteTx, chain_id: u64, head: &crate::chain::rpc::Head) -> Result<()> {
    sqlx::query(
        "INSERT INTO blocks (chain_id, number, hash, parent, timestamp) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (chain_id, number) DO UPDATE SET hash = excluded.hash, parent = excluded.parent, timestamp = excluded.timestamp",
    )
    .bind(chain_column(chain_id)?)
    .bind(column(head.number)?)
    .bind(head.hash.to_vec())
    .bind(head.parent.to_vec())
    .bind(column(head.timestamp)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The stored block at or below a number: (number, hash, time).
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn block_below<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    at_most: u64,
) -> Result<Option<(u64, B256, u64)>> {
    let row = sqlx::query(
        "SELECT number, hash, timestamp FROM blocks WHERE chain_id = $1 AND number <= $2 ORDER BY number DESC LIMIT 1",
    )
    .bind(chain_column(chain_id)?)
    .bind(column(at_most)?)
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let hash = b256("blocks", &row.try_get::<Vec<u8>, _>("hash")?)?;
        Ok((number(&row, "number")?, hash, number(&row, "timestamp")?))
    })
    .transpose()
}

/// Drops blocks below the newest stored one that is final: that one stays as the anchor.
///
/// # Errors
/// `store_failed`.
pub async fn prune_blocks(tx: &mut WriteTx, chain_id: u64, finalized: u64) -> Result<()> {
    sqlx::query(
        "DELETE FROM blocks WHERE chain_id = $1 AND number <
         (SELECT MAX(number) FROM blocks WHERE chain_id = $1 AND number <= $2)",
    )
    .bind(chain_column(chain_id)?)
    .bind(column(finalized)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Drops blocks and events above a block; their effects were undone before.
///
/// # Errors
/// `store_failed`.
pub async fn delete_above(tx: &mut WriteTx, chain_id: u64, number: Option<u64>) -> Result<()> {
    let above = number.map_or(Ok(-1), column)?;
    for sql in [
        "DELETE FROM events WHERE chain_id = $1 AND block_number > $2",
        "DELETE FROM blocks WHERE chain_id = $1 AND number > $2",
    ] {
        sqlx::query(sql).bind(chain_column(chain_id)?).bind(above).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Stores logs.
///
/// # Errors
/// `store_failed`: also when a chain position or a sequence number is taken.
pub async fn insert(tx: &mut WriteTx, chain_id: u64, logs: &[ChainLog]) -> Result<()> {
    let dialect = Dialect::of(tx);
    for run in runs(logs) {
        let mut insert = query(format!(
            "INSERT INTO events (chain_id, block_number, log_index, block_hash, tx_hash, contract, seq, name, topics, topic1, \
             data, timestamp) VALUES {}",
            dialect.rows("(@, @, @, @, @, @, @, @, @, @, @, @)", run.len())
        ));
        for log in run {
            insert = insert
                .bind(chain_column(chain_id)?)
                .bind(column(log.block_number)?)
                .bind(column(log.log_index)?)
                .bind(log.block_hash.to_vec())
                .bind(log.tx_hash.to_vec())
                .bind(log.address.to_vec())
                .bind(column(log.seq)?)
                .bind(log.name)
                .bind(log.topics.concat())
                .bind(log.topics.get(1).copied().unwrap_or_default().to_vec())
                .bind(log.data.to_vec())
                .bind(column(log.timestamp)?);
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// The last event of a contract: its number and its block.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn last_seq<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    contract: Address,
) -> Result<Option<(u64, u64, B256)>> {
    let row = sqlx::query(
        "SELECT seq, block_number, block_hash FROM events WHERE chain_id = $1 AND contract = $2 ORDER BY seq DESC LIMIT 1",
    )
    .bind(chain_column(chain_id)?)
    .bind(contract.to_vec())
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let hash = b256("events", &row.try_get::<Vec<u8>, _>("block_hash")?)?;
        Ok((number(&row, "seq")?, number(&row, "block_number")?, hash))
    })
    .transpose()
}

/// Events above a block, the last one first; all of them for `None`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn above(tx: &mut WriteTx, chain_id: u64, block: Option<u64>) -> Result<Vec<StoredEvent>> {
    let rows = sqlx::query(
        "SELECT * FROM events WHERE chain_id = $1 AND block_number > $2 ORDER BY block_number DESC, log_index DESC",
    )
    .bind(chain_column(chain_id)?)
    .bind(block.map_or(Ok(-1), column)?)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(stored).collect()
}

/// A contract's events after a sequence number, at most `limit`, in order.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn page<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    contract: Address,
    after: u64,
    limit: i64,
) -> Result<Vec<StoredEvent>> {
    let rows =
        sqlx::query("SELECT * FROM events WHERE chain_id = $1 AND contract = $2 AND seq > $3 ORDER BY seq LIMIT $4")
            .bind(chain_column(chain_id)?)
            .bind(contract.to_vec())
            .bind(column(after)?)
            .bind(limit)
            .fetch_all(db)
            .await?;
    rows.iter().map(stored).collect()
}

/// Events by their second topic (order, batch, settlement, node or keeper id), in chain order. A batch id is its number as
/// 32 bytes.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn by_topic<'c>(db: impl Executor<'c, Database = Any>, name: &str, topic1: B256) -> Result<Vec<StoredEvent>> {
    let rows =
        sqlx::query("SELECT * FROM events WHERE topic1 = $1 AND name = $2 ORDER BY chain_id, block_number, log_index")
            .bind(topic1.to_vec())
            .bind(name.to_owned())
            .fetch_all(db)
            .await?;
    rows.iter().map(stored).collect()
}

/// A contract's events with this second topic, in order.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_contract<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    contract: Address,
    topic1: B256,
) -> Result<Vec<StoredEvent>> {
    let rows = sqlx::query("SELECT * FROM events WHERE topic1 = $1 AND chain_id = $2 AND contract = $3 ORDER BY seq")
        .bind(topic1.to_vec())
        .bind(chain_column(chain_id)?)
        .bind(contract.to_vec())
        .fetch_all(db)
        .await?;
    rows.iter().map(stored).collect()
}

/// Events of one transaction, in order.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_tx<'c>(db: impl Executor<'c, Database = Any>, tx_hash: B256) -> Result<Vec<StoredEvent>> {
    let rows = sqlx::query("SELECT * FROM events WHERE tx_hash = $1 ORDER BY chain_id, block_number, log_index")
        .bind(tx_hash.to_vec())
        .fetch_all(db)
        .await?;
    rows.iter().map(stored).collect()
}

/// Whether a transaction left an event.
///
/// # Errors
/// `store_failed`.
pub async fn any_of_tx<'c>(db: impl Executor<'c, Database = Any>, tx_hash: B256) -> Result<bool> {
    let found = sqlx::query("SELECT 1 AS found FROM events WHERE tx_hash = $1 LIMIT 1")
        .bind(tx_hash.to_vec())
        .fetch_optional(db)
        .await?;
    Ok(found.is_some())
}

/// Events of one name in a range of blocks: above `after`, up to `to`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn named(tx: &mut WriteTx, chain_id: u64, name: &str, after: u64, to: u64) -> Result<Vec<StoredEvent>> {
    let rows = sqlx::query(
        "SELECT * FROM events WHERE chain_id = $1 AND name = $2 AND block_number > $3 AND block_number <= $4
         ORDER BY block_number, log_index",
    )
    .bind(chain_column(chain_id)?)
    .bind(name.to_owned())
    .bind(column(after)?)
    .bind(column(to)?)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &AnyRow) -> Result<StoredEvent> {
    let topics: Vec<u8> = row.try_get("topics")?;
    Ok(StoredEvent {
        block_number: number(row, "block_number")?,
        block_hash: b256("events", &row.try_get::<Vec<u8>, _>("block_hash")?)?,
        log_index: number(row, "log_index")?,
        tx_hash: b256("events", &row.try_get::<Vec<u8>, _>("tx_hash")?)?,
        contract: address("events", &row.try_get::<Vec<u8>, _>("contract")?)?,
        seq: number(row, "seq")?,
        name: row.try_get("name")?,
        topics: topics.chunks(32).map(|topic| b256("events", topic)).collect::<Result<_>>()?,
        data: row.try_get::<Vec<u8>, _>("data")?.into(),
        timestamp: number(row, "timestamp")?,
    })
}

/// A non-negative number of a row.
pub(crate) fn number(row: &AnyRow, name: &str) -> Result<u64> {
    let value: i64 = row.try_get(name)?;
    u64::try_from(value).map_err(|_| Error::Corrupt { table: "events", what: format!("{name} is {value}") })
}

/// A number as the database holds it.
pub(crate) fn column(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::Corrupt { table: "events", what: format!("{value} does not fit") })
}
