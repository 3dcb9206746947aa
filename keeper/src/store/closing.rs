//! The end of orders: expiry, reclaim, orphans, and the erasing of what was said.

use alloy::primitives::B256;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::orders::order_row;
use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::{OrderRow, b256};

/// Unanswered orders that can no longer be captured at chain time `chain_time`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn expired(store: &Store, chain_time: i64, limit: i64) -> Result<Vec<B256>> {
    let rows = sqlx::query(
        "SELECT order_id FROM orders WHERE state IN ('open', 'dispatched', 'completed') AND capture_deadline < $1 \
         AND state <> 'completed' LIMIT $2",
    )
    .bind(chain_time)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(order_id).collect()
}

/// Orders whose hold can go back to the payer and whose reclaim is neither under way nor failed after `retry_before_ms`,
/// with the reclaim that failed.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn reclaimable(
    store: &Store,
    chain_time: i64,
    retry_before_ms: i64,
    limit: i64,
) -> Result<Vec<(OrderRow, Option<i64>)>> {
    let rows = sqlx::query(
        "SELECT o.* FROM orders o WHERE o.held = 1 AND o.state IN ('expired', 'refused') AND o.capture_deadline < $1 \
         AND NOT EXISTS (SELECT 1 FROM txs t WHERE t.tx_id = o.reclaim_tx \
         AND (t.state NOT IN ('quarantined', 'obsolete', 'failed') OR t.updated_ms > $2)) LIMIT $3",
    )
    .bind(chain_time)
    .bind(retry_before_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(|row| Ok((order_row(row)?, row.try_get("reclaim_tx")?))).collect()
}

/// Notes the transaction that reclaims an order.
///
/// # Errors
/// `store_failed`.
pub async fn set_reclaim_tx(tx: &mut WriteTx, order_id: B256, tx_id: i64) -> Result<()> {
    sqlx::query("UPDATE orders SET reclaim_tx = $1 WHERE order_id = $2")
        .bind(tx_id)
        .bind(order_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// verified → orphaned for completions stored before `before_ms` that no order came for. One whose order is known to be
/// public is recorded as proof without payment; of the others nobody can say that their payer did not want privacy.
///
/// # Errors
/// `store_failed`.
pub async fn orphan(tx: &mut WriteTx, before_ms: i64) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE completions SET state = 'orphaned', record_state = CASE WHEN record_state = 'private' AND EXISTS \
         (SELECT 1 FROM orders o WHERE o.order_id = completions.order_id AND o.blinding = $2) THEN 'due' \
         ELSE record_state END WHERE state = 'verified' AND created_ms < $1",
    )
    .bind(before_ms)
    .bind(B256::ZERO.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Erases requests and answers that nobody needs any more: the order has ended, its inference is recorded (or never will
/// be), and the paying contract has its answer (or never will). Hashes and signatures stay.
///
/// # Errors
/// `store_failed`.
pub async fn erase(tx: &mut WriteTx) -> Result<u64> {
    let mut erased = 0;
    // From the orders that have ended and keep their request: they are few, unlike those that ever ended.
    for sql in [
        "UPDATE completions SET output = NULL, response = NULL WHERE (output IS NOT NULL OR response IS NOT NULL) \
         AND record_state NOT IN ('due', 'submitted') AND state = 'matched' AND settlement_id IN \
         (SELECT r.settlement_id FROM orders o JOIN receipts r ON r.order_id = o.order_id WHERE o.request IS NOT NULL \
         AND o.state IN ('final', 'voided', 'expired', 'reclaimed', 'refused') \
         AND NOT (r.state = 'settled' AND r.path = 'verified' AND r.delivered = 0))",
        "UPDATE completions SET output = NULL, response = NULL WHERE state = 'orphaned' AND output IS NOT NULL \
         AND record_state NOT IN ('due', 'submitted')",
        "UPDATE orders SET request = NULL WHERE request IS NOT NULL \
         AND state IN ('final', 'voided', 'expired', 'reclaimed', 'refused') \
         AND NOT EXISTS (SELECT 1 FROM receipts r JOIN completions c ON c.settlement_id = r.settlement_id \
         WHERE r.order_id = orders.order_id AND c.state = 'matched' AND (c.output IS NOT NULL OR c.response IS NOT NULL))",
    ] {
        erased += sqlx::query(sql).execute(&mut **tx).await?.rows_affected();
    }
    Ok(erased)
}

fn order_id(row: &AnyRow) -> Result<B256> {
    b256("orders", &row.try_get::<Vec<u8>, _>("order_id")?)
}
