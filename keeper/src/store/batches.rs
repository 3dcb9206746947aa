//! Batches: rows frozen together with the calldata that settles them, and what became of it on Base.

use alloy::primitives::{Address, B256};
use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::{BatchState, address, b256};

/// A batch as the settlement loop sees it.
#[derive(Clone, Debug)]
pub struct BatchRow {
    pub batch_id: i64,
    pub keeper_id: B256,
    pub token: Address,
    /// Rows when it was frozen.
    pub n: i64,
    pub state: BatchState,
    pub tx_id: Option<i64>,
    pub finalize_tx_id: Option<i64>,
    pub chain_batch_id: Option<i64>,
    /// ABI encoding of the contract's `BatchRecord`.
    pub record: Option<Vec<u8>>,
    pub settled_at: Option<i64>,
    pub base_block: Option<i64>,
    pub created_ms: i64,
}

/// Where a chain's cursor stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub number: i64,
    /// Unix seconds of the chain's own clock.
    pub timestamp: i64,
    pub safe: i64,
    pub finalized: i64,
}

/// Starts a batch; rows and transaction follow in the same write transaction.
///
/// # Errors
/// `store_failed`.
pub async fn insert(tx: &mut WriteTx, keeper_id: B256, token: Address, n: i64, now_ms: i64) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "INSERT INTO batches (keeper_id, token, n, state, created_ms) VALUES ($1, $2, $3, 'frozen', $4) \
         RETURNING batch_id",
    )
    .bind(keeper_id.to_vec())
    .bind(token.to_vec())
    .bind(n)
    .bind(now_ms)
    .fetch_one(&mut **tx)
    .await?)
}

/// Notes the transaction that settles the batch.
///
/// # Errors
/// `store_failed`.
pub async fn set_tx(tx: &mut WriteTx, batch_id: i64, tx_id: i64) -> Result<()> {
    sqlx::query("UPDATE batches SET tx_id = $1 WHERE batch_id = $2")
        .bind(tx_id)
        .bind(batch_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes the transaction that finalizes the batch. False when one is noted already.
///
/// # Errors
/// `store_failed`.
pub async fn set_finalize_tx(tx: &mut WriteTx, batch_id: i64, tx_id: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE batches SET finalize_tx_id = $1 WHERE batch_id = $2 AND state IN ('safe', 'finalised') \
         AND (finalize_tx_id IS NULL OR finalize_tx_id <> $1)",
    )
    .bind(tx_id)
    .bind(batch_id)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves a batch if it is still in one of the states `from`.
///
/// # Errors
/// `store_failed`.
pub async fn set_state(tx: &mut WriteTx, batch_id: i64, from: &[BatchState], to: BatchState) -> Result<bool> {
    let mut moved = false;
    for state in from.iter().filter(|state| state.can_transition_to(to)) {
        let done = sqlx::query("UPDATE batches SET state = $1 WHERE batch_id = $2 AND state = $3")
            .bind(to.as_str())
            .bind(batch_id)
            .bind(state.as_str())
            .execute(&mut **tx)
            .await?;
        moved |= done.rows_affected() == 1;
    }
    Ok(moved)
}

/// frozen → submitted, for every batch whose transaction was sent.
///
/// # Errors
/// `store_failed`.
pub async fn mark_submitted(tx: &mut WriteTx) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE batches SET state = 'submitted' WHERE state = 'frozen' AND EXISTS (SELECT 1 FROM txs t \
         WHERE t.tx_id = batches.tx_id AND t.state IN ('sent', 'included', 'done'))",
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Batches whose transaction ended without an effect on the ledger: the batch, the transaction's state and its reason.
/// `head` is the last block whose events are applied.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn ended(store: &Store, head: i64) -> Result<Vec<(BatchRow, String, Option<String>)>> {
    let rows = sqlx::query(
        "SELECT b.*, t.state AS tx_state, t.reason AS tx_reason FROM batches b JOIN txs t ON t.tx_id = b.tx_id \
         WHERE b.state IN ('frozen', 'submitted') \
         AND (t.state IN ('quarantined', 'obsolete') OR (t.state IN ('done', 'failed') AND t.block_number <= $1)) \
         ORDER BY b.batch_id LIMIT 100",
    )
    .bind(head)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(|row| Ok((read(row)?, row.try_get("tx_state")?, row.try_get("tx_reason")?))).collect()
}

/// Batches whose window of `window` seconds is over at chain time `chain_time`, and for which no finalize is under way nor
/// failed after `retry_before_ms`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn finalizable(store: &Store, chain_time: i64, window: i64, retry_before_ms: i64) -> Result<Vec<BatchRow>> {
    let rows = sqlx::query(
        "SELECT b.* FROM batches b WHERE b.state IN ('safe', 'finalised') AND b.record IS NOT NULL \
         AND b.settled_at + $1 <= $2 AND NOT EXISTS (SELECT 1 FROM txs t WHERE t.tx_id = b.finalize_tx_id \
         AND (t.state NOT IN ('quarantined', 'obsolete', 'failed') OR t.updated_ms > $3)) ORDER BY b.batch_id LIMIT 50",
    )
    .bind(window)
    .bind(chain_time)
    .bind(retry_before_ms)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(read).collect()
}

/// One batch.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get(store: &Store, batch_id: i64) -> Result<Option<BatchRow>> {
    let row =
        sqlx::query("SELECT * FROM batches WHERE batch_id = $1").bind(batch_id).fetch_optional(store.read()).await?;
    row.as_ref().map(read).transpose()
}

/// Where the cursor of a chain stands; `None` before the first look.
///
/// # Errors
/// `store_failed`.
pub async fn head(store: &Store, chain_id: u64) -> Result<Option<Head>> {
    let row = sqlx::query("SELECT number, timestamp, safe_number, finalized_number FROM cursors WHERE chain_id = $1")
        .bind(i64::try_from(chain_id).unwrap_or(i64::MAX))
        .fetch_optional(store.read())
        .await?;
    row.map(|row| {
        Ok(Head {
            number: row.try_get("number")?,
            timestamp: row.try_get("timestamp")?,
            safe: row.try_get("safe_number")?,
            finalized: row.try_get("finalized_number")?,
        })
    })
    .transpose()
}

fn read(row: &sqlx::any::AnyRow) -> Result<BatchRow> {
    Ok(BatchRow {
        batch_id: row.try_get("batch_id")?,
        keeper_id: b256("batches", &row.try_get::<Vec<u8>, _>("keeper_id")?)?,
        token: address("batches", &row.try_get::<Vec<u8>, _>("token")?)?,
        n: row.try_get("n")?,
        state: BatchState::parse(&row.try_get::<String, _>("state")?)?,
        tx_id: row.try_get("tx_id")?,
        finalize_tx_id: row.try_get("finalize_tx_id")?,
        chain_batch_id: row.try_get("chain_batch_id")?,
        record: row.try_get("record")?,
        settled_at: row.try_get("settled_at")?,
        base_block: row.try_get("base_block")?,
        created_ms: row.try_get("created_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::receipts::fixtures::{set_head, store};
    use super::*;

    #[tokio::test]
    async fn a_batch_moves_only_from_where_it_is() -> Result<()> {
        let (_dir, store) = store().await?;
        assert_eq!(head(&store, 8453).await?, None);
        set_head(&store, 8453, 20, 1_000, 10).await?;
        let at = head(&store, 8453).await?.unwrap_or_default();
        assert_eq!(at, Head { number: 20, timestamp: 1_000, safe: 10, finalized: 10 });
        let mut tx = store.write().await?;
        let id = insert(&mut tx, B256::ZERO, Address::ZERO, 3, 1).await?;
        assert!(!set_state(&mut tx, id, &[BatchState::Frozen], BatchState::Paid).await?, "no state is jumped over");
        assert!(set_state(&mut tx, id, &[BatchState::Frozen], BatchState::Submitted).await?);
        assert!(!set_state(&mut tx, id, &[BatchState::Frozen], BatchState::Included).await?, "a lost race is told");
        tx.commit().await?;
        assert_eq!(get(&store, id).await?.map(|row| row.state), Some(BatchState::Submitted));
        Ok(())
    }
}
