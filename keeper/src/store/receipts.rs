//! Receipts: matched (order, completion) pairs on their way to a batch, a verified settlement or a skip.

use alloy::primitives::B256;
use alloy::primitives::aliases::U40;
use quittance_bindings::typed::Order;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::bulk::{Dialect, query, runs};
use super::{Store, WriteTx};
use crate::error::{Error, Result};
use crate::types::{address, b256, u256, units};

/// How a receipt is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// As a row of a batch of this keeper.
    Batch,
    /// Alone, against its three signatures.
    Verified,
}

impl Path {
    /// The text in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Verified => "verified",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text {
            "batch" => Ok(Self::Batch),
            "verified" => Ok(Self::Verified),
            other => Err(Error::Corrupt { table: "receipts", what: format!("path {other:?}") }),
        }
    }
}

/// A receipt with all that its settlement needs: the order, the evidence and the price.
#[derive(Clone, Debug)]
pub struct Settleable {
    pub settlement_id: B256,
    pub order_id: B256,
    pub order: Order,
    /// Payer's 65-byte signature, if it was handed in.
    pub order_signature: Option<Vec<u8>>,
    /// The chain holds the maximum, so the capture needs no signature.
    pub held: bool,
    /// Zero for a public order.
    pub blinding: B256,
    pub node_id: B256,
    pub node_version: u32,
    pub request_hash: B256,
    pub output_hash: B256,
    /// Unix seconds, as the node signed it.
    pub timestamp: u64,
    pub inference_signature: Vec<u8>,
    pub meter_signature: Vec<u8>,
    /// Token units.
    pub amount: u128,
    pub receipt_hash: B256,
    pub path: Path,
    /// The payer wants the inference neither recorded singly nor in a public root.
    pub private: bool,
    /// How often it was tried again after a skip.
    pub retries: i64,
    pub skip_reason: Option<String>,
    pub created_ms: i64,
}

/// Columns of `Settleable`, from receipts `r`, orders `o` and completions `c`.
macro_rules! settleable {
    ($rest:literal) => {
        concat!(
            "SELECT r.settlement_id, r.order_id, r.amount, r.receipt_hash, r.path, r.retries, r.skip_reason, r.created_ms, \
             o.payer, o.token, o.max_amount, o.request_commit, o.node_scope, o.keeper_id, o.valid_after, o.valid_before, \
             o.capture_deadline, o.nonce, o.signature AS order_signature, o.held, o.blinding, \
             c.node_id, c.node_version, c.request_hash, c.output_hash, c.timestamp, c.signature, c.meter_signature, \
             c.record_state \
             FROM receipts r JOIN orders o ON o.order_id = r.order_id \
             JOIN completions c ON c.settlement_id = r.settlement_id ",
            $rest
        )
    };
}

/// Receipts that wait for settlement on `path`, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn matched(store: &Store, path: Path, now_ms: i64, limit: i64) -> Result<Vec<Settleable>> {
    let rows = sqlx::query(settleable!(
        "WHERE r.state = 'matched' AND r.path = $1 AND r.tx_id IS NULL AND r.retry_ms <= $2 \
         ORDER BY r.created_ms, r.settlement_id LIMIT $3"
    ))
    .bind(path.as_str())
    .bind(now_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(read).collect()
}

/// One receipt, whatever its state.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get(store: &Store, settlement_id: B256) -> Result<Option<Settleable>> {
    let row = sqlx::query(settleable!("WHERE r.settlement_id = $1"))
        .bind(settlement_id.to_vec())
        .fetch_optional(store.read())
        .await?;
    row.as_ref().map(read).transpose()
}

/// The receipt of an order with this hash, whatever its state.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_order(store: &Store, order_id: B256, receipt_hash: B256) -> Result<Option<Settleable>> {
    let row = sqlx::query(settleable!("WHERE r.order_id = $1 AND r.receipt_hash = $2"))
        .bind(order_id.to_vec())
        .bind(receipt_hash.to_vec())
        .fetch_optional(store.read())
        .await?;
    row.as_ref().map(read).transpose()
}

/// The rows of a frozen batch that nothing settled yet, in their order.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_batch(store: &Store, batch_id: i64) -> Result<Vec<Settleable>> {
    let rows = sqlx::query(settleable!("WHERE r.batch_id = $1 AND r.state = 'batched' ORDER BY r.batch_index"))
        .bind(batch_id)
        .fetch_all(store.read())
        .await?;
    rows.iter().map(read).collect()
}

/// Receipts that the chain skipped in a block up to `safe_block` and whose order still waits for a decision.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn skipped(store: &Store, safe_block: i64, limit: i64) -> Result<Vec<Settleable>> {
    let rows = sqlx::query(settleable!(
        "WHERE r.state = 'skipped' AND o.state = 'completed' AND NOT EXISTS \
         (SELECT 1 FROM batches b JOIN txs t ON t.tx_id = b.tx_id WHERE b.batch_id = r.batch_id \
          AND COALESCE(b.base_block, t.block_number, 0) > $1) ORDER BY r.created_ms LIMIT $2"
    ))
    .bind(safe_block)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(read).collect()
}

/// Verified settlements whose transaction ended without settling: receipt, the transaction's state and its reason. `head`
/// is the last block whose events are applied.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn verified_ended(store: &Store, head: i64, limit: i64) -> Result<Vec<(Settleable, String, Option<String>)>> {
    let rows = sqlx::query(
        "SELECT r.settlement_id, t.state, t.reason FROM receipts r JOIN txs t ON t.tx_id = r.tx_id \
         WHERE r.state = 'matched' AND r.path = 'verified' \
         AND (t.state IN ('quarantined', 'obsolete') OR (t.state = 'failed' AND t.block_number <= $1)) \
         ORDER BY r.created_ms LIMIT $2",
    )
    .bind(head)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let mut ended = Vec::with_capacity(rows.len());
    for row in rows {
        let id = b256("receipts", &row.try_get::<Vec<u8>, _>("settlement_id")?)?;
        if let Some(receipt) = get(store, id).await? {
            ended.push((receipt, row.try_get("state")?, row.try_get("reason")?));
        }
    }
    Ok(ended)
}

/// matched → batched, with their places in the batch. False when something else took one of them first: then nothing of
/// `tx` may be committed.
///
/// # Errors
/// `store_failed`.
pub async fn to_batch(tx: &mut WriteTx, settlement_ids: &[B256], batch_id: i64) -> Result<bool> {
    let dialect = Dialect::of(tx);
    let mut taken = 0;
    let rows: Vec<(i64, B256)> = (0_i64..).zip(settlement_ids.iter().copied()).collect();
    for run in runs(&rows) {
        // Written so that SQLite takes no index on the state: it would walk all that wait, for each run.
        let mut update = query(format!(
            "UPDATE receipts SET state = 'batched', batch_id = v.column2, batch_index = v.column3, leaf_row = NULL, \
             skip_reason = NULL FROM (VALUES {}) AS v \
             WHERE receipts.settlement_id = v.column1 AND CAST(receipts.state AS TEXT) = 'matched' AND receipts.tx_id IS NULL",
            dialect.rows("(@, @, @)", run.len())
        ));
        for (index, settlement_id) in run {
            update = update.bind(settlement_id.to_vec()).bind(batch_id).bind(*index);
        }
        taken += update.execute(&mut **tx).await?.rows_affected();
    }
    Ok(taken == u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

/// A row that the ledger captured.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    pub order_id: B256,
    /// Its number among the captured rows.
    pub leaf_row: i64,
    /// Token units.
    pub fee: u128,
}

/// Rows of a batch → settled.
///
/// # Errors
/// `store_failed`.
pub async fn settled_in(tx: &mut WriteTx, batch_id: i64, rows: &[Captured]) -> Result<()> {
    let dialect = Dialect::of(tx);
    for run in runs(rows) {
        // Written so that SQLite takes no index but that on the order: it would walk all that was ever in a batch.
        let mut update = query(format!(
            "UPDATE receipts SET state = 'settled', leaf_row = v.column3, fee = v.column4, skip_reason = NULL \
             FROM (VALUES {}) AS v WHERE receipts.order_id = v.column1 \
             AND COALESCE(receipts.batch_id, 0) = v.column2 AND CAST(receipts.state AS TEXT) IN ('batched', 'matched', 'skipped')",
            dialect.rows("(@, @, @, @)", run.len())
        ));
        for row in run {
            update = update.bind(row.order_id.to_vec()).bind(batch_id).bind(row.leaf_row).bind(row.fee.to_string());
        }
        update.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Moves a row of a batch that will not land into another one.
///
/// # Errors
/// `store_failed`.
pub async fn rebatch(tx: &mut WriteTx, settlement_id: B256, from: i64, to: i64, index: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE receipts SET batch_id = $1, batch_index = $2, leaf_row = NULL \
         WHERE settlement_id = $3 AND batch_id = $4 AND state = 'batched'",
    )
    .bind(to)
    .bind(index)
    .bind(settlement_id.to_vec())
    .bind(from)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes the transaction that settles a receipt alone. False when something else took the receipt first.
///
/// # Errors
/// `store_failed`.
pub async fn set_verified_tx(tx: &mut WriteTx, settlement_id: B256, tx_id: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE receipts SET tx_id = $1 WHERE settlement_id = $2 AND state = 'matched' AND path = 'verified' \
         AND tx_id IS NULL",
    )
    .bind(tx_id)
    .bind(settlement_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// matched or batched → skipped, with a stable reason.
///
/// # Errors
/// `store_failed`.
pub async fn skip(tx: &mut WriteTx, settlement_id: B256, reason: &str) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE receipts SET state = 'skipped', skip_reason = $1 WHERE settlement_id = $2 \
         AND state IN ('matched', 'batched')",
    )
    .bind(reason)
    .bind(settlement_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts a receipt that did not settle back to matched, to be tried on `path` from `retry_ms` on. `tries` is 1 when the
/// receipt had its try, 0 when it was not its fault. False when another keeper decided first.
///
/// # Errors
/// `store_failed`.
pub async fn retry(tx: &mut WriteTx, receipt: &Settleable, path: Path, retry_ms: i64, tries: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE receipts SET state = 'matched', path = $1, retry_ms = $2, retries = retries + $4, tx_id = NULL, \
         batch_id = NULL, batch_index = NULL, leaf_row = NULL \
         WHERE settlement_id = $3 AND state IN ('matched', 'batched', 'skipped') AND retries = $5",
    )
    .bind(path.as_str())
    .bind(retry_ms)
    .bind(receipt.settlement_id.to_vec())
    .bind(tries)
    .bind(receipt.retries)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Matched receipts whose order can no longer be captured at chain time `chain_time`: settlement and order ids.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn past_deadline(store: &Store, chain_time: i64, limit: i64) -> Result<Vec<(B256, B256)>> {
    let rows = sqlx::query(
        "SELECT r.settlement_id, r.order_id FROM orders o JOIN receipts r ON r.order_id = o.order_id \
         WHERE o.state IN ('open', 'dispatched', 'completed') AND o.capture_deadline < $1 AND r.state = 'matched' LIMIT $2",
    )
    .bind(chain_time)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let id = |row: &AnyRow, column: &str| b256("receipts", &row.try_get::<Vec<u8>, _>(column)?);
    rows.iter().map(|row| Ok((id(row, "settlement_id")?, id(row, "order_id")?))).collect()
}

/// A verified settlement whose answer the paying contract may be waiting for.
#[derive(Clone, Debug)]
pub struct Deliverable {
    pub receipt: Settleable,
    pub output: Vec<u8>,
    pub attempts: i64,
}

/// Verified settlements in blocks up to `safe_block` that are neither delivered nor being delivered.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn deliverable(store: &Store, safe_block: i64, now_ms: i64, limit: i64) -> Result<Vec<Deliverable>> {
    let rows = sqlx::query(
        "SELECT r.settlement_id, r.deliver_attempts, c.output FROM receipts r \
         JOIN completions c ON c.settlement_id = r.settlement_id \
         WHERE r.state = 'settled' AND r.path = 'verified' AND r.delivered = 0 AND r.base_block <= $1 \
         AND r.retry_ms <= $2 AND NOT EXISTS (SELECT 1 FROM txs t WHERE t.tx_id = r.deliver_tx \
         AND t.state NOT IN ('quarantined', 'obsolete', 'done', 'failed')) ORDER BY r.created_ms LIMIT $3",
    )
    .bind(safe_block)
    .bind(now_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let id = b256("receipts", &row.try_get::<Vec<u8>, _>("settlement_id")?)?;
        if let Some(receipt) = get(store, id).await? {
            found.push(Deliverable {
                receipt,
                output: row.try_get::<Option<Vec<u8>>, _>("output")?.unwrap_or_default(),
                attempts: row.try_get("deliver_attempts")?,
            });
        }
    }
    Ok(found)
}

/// Notes a queued delivery and when the next one may follow, should it fail.
///
/// # Errors
/// `store_failed`.
pub async fn set_delivery(tx: &mut WriteTx, settlement_id: B256, tx_id: i64, retry_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE receipts SET deliver_tx = $1, deliver_attempts = deliver_attempts + 1, retry_ms = $2 \
         WHERE settlement_id = $3 AND delivered = 0",
    )
    .bind(tx_id)
    .bind(retry_ms)
    .bind(settlement_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The payer is no contract, or its contract did not take the answer: no more deliveries.
///
/// # Errors
/// `store_failed`.
pub async fn end_delivery(tx: &mut WriteTx, settlement_id: B256) -> Result<bool> {
    let done = sqlx::query("UPDATE receipts SET delivered = 2 WHERE settlement_id = $1 AND delivered = 0")
        .bind(settlement_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<Settleable> {
    let bytes = |column: &str| -> Result<Vec<u8>> { Ok(row.try_get::<Vec<u8>, _>(column)?) };
    let hash = |column: &str| b256("receipts", &bytes(column)?);
    let number = |column: &str| -> Result<i64> { Ok(row.try_get::<i64, _>(column)?) };
    let time = |column: &str| -> Result<u64> { unsigned(number(column)?) };
    let money = |column: &str| units("receipts", &row.try_get::<String, _>(column)?);
    Ok(Settleable {
        settlement_id: hash("settlement_id")?,
        order_id: hash("order_id")?,
        order: Order {
            payer: address("orders", &bytes("payer")?)?,
            token: address("orders", &bytes("token")?)?,
            maxAmount: money("max_amount")?,
            requestCommit: hash("request_commit")?,
            nodeScope: hash("node_scope")?,
            keeperId: hash("keeper_id")?,
            validAfter: U40::saturating_from(time("valid_after")?),
            validBefore: U40::saturating_from(time("valid_before")?),
            captureDeadline: U40::saturating_from(time("capture_deadline")?),
            nonce: u256("orders", &bytes("nonce")?)?,
        },
        order_signature: row.try_get("order_signature")?,
        held: number("held")? != 0,
        blinding: match row.try_get::<Option<Vec<u8>>, _>("blinding")? {
            Some(bytes) => b256("orders", &bytes)?,
            None => B256::ZERO,
        },
        node_id: hash("node_id")?,
        node_version: u32::try_from(number("node_version")?)
            .map_err(|_| Error::Corrupt { table: "completions", what: "node version".to_owned() })?,
        request_hash: hash("request_hash")?,
        output_hash: hash("output_hash")?,
        timestamp: time("timestamp")?,
        inference_signature: bytes("signature")?,
        meter_signature: row.try_get::<Option<Vec<u8>>, _>("meter_signature")?.unwrap_or_default(),
        amount: money("amount")?,
        receipt_hash: hash("receipt_hash")?,
        path: Path::parse(&row.try_get::<String, _>("path")?)?,
        private: row.try_get::<String, _>("record_state")? == "private",
        retries: number("retries")?,
        skip_reason: row.try_get("skip_reason")?,
        created_ms: number("created_ms")?,
    })
}

fn unsigned(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::Corrupt { table: "receipts", what: format!("negative time {value}") })
}

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests {
    use super::fixtures::{Seed, seed, store};
    use super::*;

    #[tokio::test]
    async fn a_receipt_enters_one_batch_only() -> Result<()> {
        let (_dir, store) = store().await?;
        let first = Seed::new(1);
        seed(&store, &first).await?;
        let found = matched(&store, Path::Batch, 0, 10).await?;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].order.captureDeadline, U40::from(10_000));
        assert_eq!(found[0].amount, 100);
        let mut tx = store.write().await?;
        assert!(to_batch(&mut tx, &[first.settlement_id()], 1).await?);
        assert!(!to_batch(&mut tx, &[first.settlement_id()], 2).await?, "a second batch cannot take it");
        assert!(!set_verified_tx(&mut tx, first.settlement_id(), 3).await?);
        tx.commit().await?;
        assert!(matched(&store, Path::Batch, 0, 10).await?.is_empty());
        assert_eq!(of_batch(&store, 1).await?.len(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_skipped_receipt_is_tried_again_later() -> Result<()> {
        let (_dir, store) = store().await?;
        let first = Seed::new(1);
        seed(&store, &first).await?;
        let mut tx = store.write().await?;
        assert!(to_batch(&mut tx, &[first.settlement_id()], 1).await?);
        assert!(skip(&mut tx, first.settlement_id(), "InsufficientBalance").await?);
        tx.commit().await?;
        let found = skipped(&store, 5, 10).await?;
        assert_eq!(found.len(), 1);
        let mut tx = store.write().await?;
        assert!(retry(&mut tx, &found[0], Path::Verified, 500, 1).await?);
        assert!(!retry(&mut tx, &found[0], Path::Verified, 900, 1).await?, "decided once");
        tx.commit().await?;
        assert!(matched(&store, Path::Verified, 499, 10).await?.is_empty());
        let again = matched(&store, Path::Verified, 500, 10).await?;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].retries, 1);
        assert_eq!(again[0].skip_reason.as_deref(), Some("InsufficientBalance"));
        Ok(())
    }
}
