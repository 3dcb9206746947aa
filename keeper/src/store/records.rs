//! Completions on their way to OpenGradient's settlement inbox.

use alloy::primitives::{B256, U256};
use quittance_bindings::typed::{Inference, message_hash, settlement_id};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::bulk::{Dialect, keys, places, query, runs};
use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::b256;

/// A completion that is due for recording.
#[derive(Clone, Debug)]
pub struct Due {
    pub settlement_id: B256,
    pub inference: Inference,
    /// Recording transactions that ended without recording it.
    pub attempts: i64,
    pub created_ms: i64,
}

impl Due {
    /// Whether the stored inference is the one that the settlement id names.
    pub fn adds_up(&self) -> bool {
        let Inference { nodeId, requestHash, outputHash, timestamp, .. } = &self.inference;
        let message = message_hash(*requestHash, *outputHash, timestamp.saturating_to());
        settlement_id(*nodeId, message) == self.settlement_id
    }
}

/// What waits for recording, for the alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub waiting: i64,
    /// Unix milliseconds of the oldest; `None` when nothing waits.
    pub oldest_ms: Option<i64>,
}

impl Backlog {
    /// Adds a row with the columns `n` and `oldest`.
    pub(super) fn add(&mut self, row: &AnyRow) -> Result<()> {
        self.waiting += row.try_get::<i64, _>("n")?;
        self.oldest_ms = self.oldest_ms.into_iter().chain(row.try_get::<Option<i64>, _>("oldest")?).min();
        Ok(())
    }
}

/// Completions that may be recorded now, those that never failed first, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn due(store: &Store, now_ms: i64, limit: i64) -> Result<Vec<Due>> {
    let fresh = sqlx::query(
        "SELECT settlement_id, node_id, request_hash, output_hash, timestamp, signature, record_attempts, created_ms \
         FROM completions WHERE record_state = 'due' AND record_attempts = 0 ORDER BY created_ms, settlement_id LIMIT $1",
    )
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let left = limit.saturating_sub(i64::try_from(fresh.len()).unwrap_or(i64::MAX));
    let again = sqlx::query(
        "SELECT settlement_id, node_id, request_hash, output_hash, timestamp, signature, record_attempts, created_ms \
         FROM completions WHERE record_state = 'due' AND record_attempts > 0 AND record_next_ms <= $1 \
         ORDER BY record_next_ms, created_ms, settlement_id LIMIT $2",
    )
    .bind(now_ms)
    .bind(left)
    .fetch_all(store.read())
    .await?;
    let read = |row: &AnyRow| {
        let hash = |column: &str| b256("completions", &row.try_get::<Vec<u8>, _>(column)?);
        Ok(Due {
            settlement_id: hash("settlement_id")?,
            inference: Inference {
                nodeId: hash("node_id")?,
                requestHash: hash("request_hash")?,
                outputHash: hash("output_hash")?,
                timestamp: U256::from(u64::try_from(row.try_get::<i64, _>("timestamp")?).unwrap_or(0)),
                signature: row.try_get::<Vec<u8>, _>("signature")?.into(),
            },
            attempts: row.try_get("record_attempts")?,
            created_ms: row.try_get("created_ms")?,
        })
    };
    fresh.iter().chain(&again).map(read).collect()
}

/// Recording transactions that are not on the chain yet. More wait for them, so that they go together.
///
/// # Errors
/// `store_failed`.
pub async fn under_way(store: &Store, chain_id: i64) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "SELECT COUNT(*) FROM txs WHERE chain_id = $1 AND state IN ('queued', 'signed', 'sent') AND kind = 'record'",
    )
    .bind(chain_id)
    .fetch_one(store.read())
    .await?)
}

/// due → submitted. False when something else took one of them first: then nothing of `tx` may be committed.
///
/// # Errors
/// `store_failed`.
pub async fn submit(tx: &mut WriteTx, due: &[Due], tx_id: i64) -> Result<bool> {
    let dialect = Dialect::of(tx);
    let mut taken = 0;
    for run in runs(due) {
        let sql = format!(
            "UPDATE completions SET record_state = 'submitted', record_tx = @ WHERE record_state = 'due' \
             AND settlement_id IN ({})",
            places(run.len())
        );
        let mut update = query(dialect.rows(&sql, 1)).bind(tx_id);
        for one in run {
            update = update.bind(one.settlement_id.to_vec());
        }
        taken += update.execute(&mut **tx).await?.rows_affected();
    }
    Ok(taken == u64::try_from(due.len()).unwrap_or(u64::MAX))
}

/// What OpenGradient has recorded in one transaction, in whatever state it was.
///
/// # Errors
/// `store_failed`.
pub async fn recorded(tx: &mut WriteTx, settlement_ids: &[B256], (tx_hash, block): (B256, i64)) -> Result<()> {
    let dialect = Dialect::of(tx);
    for run in runs(settlement_ids) {
        let sql = format!(
            "UPDATE completions SET record_state = 'recorded', og_tx_hash = @, og_block = @ WHERE settlement_id IN ({})",
            places(run.len())
        );
        let mut update = query(dialect.rows(&sql, 1)).bind(tx_hash.to_vec()).bind(block);
        for id in run {
            update = update.bind(id.to_vec());
        }
        update.execute(&mut **tx).await?;
    }
    Ok(())
}

/// due → refused: it can never be recorded.
///
/// # Errors
/// `store_failed`.
pub async fn refuse(tx: &mut WriteTx, settlement_id: B256) -> Result<()> {
    sqlx::query("UPDATE completions SET record_state = 'refused' WHERE settlement_id = $1 AND record_state = 'due'")
        .bind(settlement_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Marks those as recorded that others recorded before we knew of them: the event was applied without a completion to move.
///
/// # Errors
/// `store_failed`.
pub async fn adopt(store: &Store, due: &[Due], chain_id: i64) -> Result<u64> {
    let ids: Vec<B256> = due.iter().map(|due| due.settlement_id).collect();
    let mut found = Vec::new();
    let mut db = store.read().acquire().await?;
    let dialect = Dialect::of(&db);
    for run in keys(&ids) {
        // Written so that SQLite takes the index on the topic: that on chain and name leads through all that was ever recorded.
        let mut select = query(format!(
            "SELECT topic1, tx_hash, block_number FROM events WHERE topic1 IN ({}) AND name = 'InferenceRecorded' \
             AND chain_id + 0 = {chain_id} ORDER BY seq",
            dialect.rows("@", run.len())
        ));
        for id in &run {
            select = select.bind(id.to_vec());
        }
        found.extend(select.fetch_all(&mut *db).await?);
    }
    drop(db);
    if found.is_empty() {
        return Ok(0);
    }
    let mut tx = store.write().await?;
    let mut adopted = 0;
    for row in found {
        let done = sqlx::query(
            "UPDATE completions SET record_state = 'recorded', og_tx_hash = $1, og_block = $2 WHERE settlement_id = $3 \
             AND record_state = 'due'",
        )
        .bind(row.try_get::<Vec<u8>, _>("tx_hash")?)
        .bind(row.try_get::<i64, _>("block_number")?)
        .bind(row.try_get::<Vec<u8>, _>("topic1")?)
        .execute(&mut *tx)
        .await?;
        adopted += done.rows_affected();
    }
    tx.commit().await?;
    Ok(adopted)
}

/// submitted → due for what a transaction that ended has not recorded; the next try is `delay_ms` × 2^attempts away. `head`
/// is OpenGradient's last block whose events are applied.
///
/// # Errors
/// `store_failed`.
pub async fn give_back(tx: &mut WriteTx, head: i64, now_ms: i64, delay_ms: i64) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE completions SET record_state = 'due', record_tx = NULL, record_attempts = record_attempts + 1, \
         record_next_ms = $2 + $3 * (CASE WHEN record_attempts = 0 THEN 1 WHEN record_attempts = 1 THEN 2 \
         WHEN record_attempts = 2 THEN 4 WHEN record_attempts = 3 THEN 8 WHEN record_attempts = 4 THEN 16 \
         WHEN record_attempts = 5 THEN 32 ELSE 64 END) \
         WHERE record_state = 'submitted' AND EXISTS (SELECT 1 FROM txs t WHERE t.tx_id = completions.record_tx \
         AND (t.state IN ('quarantined', 'obsolete') OR (t.state IN ('done', 'failed') AND t.block_number <= $1)))",
    )
    .bind(head)
    .bind(now_ms)
    .bind(delay_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// How much waits, and since when.
///
/// # Errors
/// `store_failed`.
pub async fn backlog(store: &Store) -> Result<Backlog> {
    let mut backlog = Backlog::default();
    for sql in [
        "SELECT COUNT(*) AS n, MIN(created_ms) AS oldest FROM completions WHERE record_state = 'due'",
        "SELECT COUNT(*) AS n, MIN(created_ms) AS oldest FROM completions WHERE record_state = 'submitted'",
    ] {
        backlog.add(&sqlx::query(sql).fetch_one(store.read()).await?)?;
    }
    Ok(backlog)
}
