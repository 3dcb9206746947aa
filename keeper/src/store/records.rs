//! Completions on their way to OpenGradient's settlement inbox.

use alloy::primitives::{B256, U256};
use quittance_bindings::typed::Inference;
use sqlx::Row;

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

/// What waits for recording, for the alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub waiting: i64,
    /// Unix milliseconds of the oldest; `None` when nothing waits.
    pub oldest_ms: Option<i64>,
}

/// Completions that may be recorded now, those that never failed first, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn due(store: &Store, now_ms: i64, limit: i64) -> Result<Vec<Due>> {
    let rows = sqlx::query(
        "SELECT settlement_id, node_id, request_hash, output_hash, timestamp, signature, record_attempts, created_ms \
         FROM completions WHERE record_state = 'due' AND record_next_ms <= $1 \
         ORDER BY CASE WHEN record_attempts = 0 THEN 0 ELSE 1 END, created_ms, settlement_id LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter()
        .map(|row| {
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
        })
        .collect()
}

/// Recording transactions that are not on the chain yet. More wait for them, so that they go together.
///
/// # Errors
/// `store_failed`.
pub async fn under_way(store: &Store) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM txs WHERE kind = 'record' AND state IN ('queued', 'signed', 'sent')")
        .fetch_one(store.read())
        .await?)
}

/// due → submitted. False when something else took it first.
///
/// # Errors
/// `store_failed`.
pub async fn submit(tx: &mut WriteTx, settlement_id: B256, tx_id: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE completions SET record_state = 'submitted', record_tx = $1 WHERE settlement_id = $2 \
         AND record_state = 'due'",
    )
    .bind(tx_id)
    .bind(settlement_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks as recorded what others recorded before we knew of it: the event was applied without a completion to move.
///
/// # Errors
/// `store_failed`.
pub async fn adopt(tx: &mut WriteTx, chain_id: i64) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE completions SET record_state = 'recorded', \
         og_tx_hash = (SELECT e.tx_hash FROM events e WHERE e.topic1 = completions.settlement_id \
         AND e.name = 'InferenceRecorded' AND e.chain_id = $1 ORDER BY e.seq LIMIT 1), \
         og_block = (SELECT e.block_number FROM events e WHERE e.topic1 = completions.settlement_id \
         AND e.name = 'InferenceRecorded' AND e.chain_id = $1 ORDER BY e.seq LIMIT 1) \
         WHERE record_state = 'due' AND EXISTS (SELECT 1 FROM events e \
         WHERE e.topic1 = completions.settlement_id AND e.name = 'InferenceRecorded' AND e.chain_id = $1)",
    )
    .bind(chain_id)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
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
         WHERE record_state = 'submitted' AND record_tx IN (SELECT t.tx_id FROM txs t WHERE t.kind = 'record' \
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
    let row = sqlx::query(
        "SELECT COUNT(*) AS n, MIN(created_ms) AS oldest FROM completions WHERE record_state IN ('due', 'submitted')",
    )
    .fetch_one(store.read())
    .await?;
    Ok(Backlog { waiting: row.try_get("n")?, oldest_ms: row.try_get("oldest")? })
}
