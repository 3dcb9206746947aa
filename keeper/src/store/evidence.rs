//! What a receipt file is made of: one settlement with its order, completion, row and batch; and lists for export.

use alloy::primitives::{Address, B256};
use quittance_bindings::typed::{Leaf, RAIL_ORDER};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Store, completions, orders};
use crate::error::{Error, Result};
use crate::types::{OrderRow, b256, units};

/// Where something is on Base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub transaction: B256,
    pub block: u64,
    pub block_hash: Option<B256>,
}

/// One settlement.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub order: OrderRow,
    pub completion: completions::CompletionRow,
    pub receipt_hash: B256,
    /// matched, batched, settled, skipped
    pub state: String,
    /// batch or verified
    pub path: String,
    pub fee: Option<u128>,
    /// Verified path: where it was settled.
    pub place: Option<Place>,
    /// Batch path: the local batch and, once included, the row among captured ones.
    pub batch_id: Option<i64>,
    pub leaf_row: Option<u32>,
}

/// A batch and where it is.
#[derive(Clone, Debug)]
pub struct Batch {
    pub batch_id: i64,
    pub chain_batch_id: Option<i64>,
    pub state: String,
    pub rows: i64,
    pub keeper_id: B256,
    pub token: Address,
    /// ABI encoding of the record; `None` until included.
    pub record: Option<Vec<u8>>,
    pub place: Option<Place>,
    pub created_ms: i64,
}

/// A settlement with its evidence, `None` when the id is unknown or not matched with an order.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn settlement(store: &Store, settlement_id: B256) -> Result<Option<Settlement>> {
    let row = sqlx::query("SELECT * FROM receipts WHERE settlement_id = $1")
        .bind(settlement_id.to_vec())
        .fetch_optional(store.read())
        .await?;
    let Some(row) = row else { return Ok(None) };
    let order_id = b256("receipts", &row.try_get::<Vec<u8>, _>("order_id")?)?;
    let missing = |what: &str| Error::Corrupt { table: "receipts", what: format!("{settlement_id} has no {what}") };
    let order = orders::get(store.read(), order_id).await?.ok_or_else(|| missing("order"))?;
    let completion = completions::get(store.read(), settlement_id).await?.ok_or_else(|| missing("completion"))?;
    Ok(Some(Settlement {
        order,
        completion,
        receipt_hash: b256("receipts", &row.try_get::<Vec<u8>, _>("receipt_hash")?)?,
        state: row.try_get("state")?,
        path: row.try_get("path")?,
        fee: row.try_get::<Option<String>, _>("fee")?.map(|text| units("receipts", &text)).transpose()?,
        place: place(&row)?,
        batch_id: row.try_get("batch_id")?,
        leaf_row: row.try_get::<Option<i64>, _>("leaf_row")?.and_then(|row| u32::try_from(row).ok()),
    }))
}

/// A batch by its local id.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn batch(store: &Store, batch_id: i64) -> Result<Option<Batch>> {
    let row =
        sqlx::query("SELECT * FROM batches WHERE batch_id = $1").bind(batch_id).fetch_optional(store.read()).await?;
    row.as_ref().map(batch_row).transpose()
}

/// A batch by the ledger's id.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn batch_on_chain(store: &Store, chain_batch_id: i64) -> Result<Option<Batch>> {
    let row = sqlx::query("SELECT * FROM batches WHERE chain_batch_id = $1")
        .bind(chain_batch_id)
        .fetch_optional(store.read())
        .await?;
    row.as_ref().map(batch_row).transpose()
}

fn batch_row(row: &AnyRow) -> Result<Batch> {
    Ok(Batch {
        batch_id: row.try_get("batch_id")?,
        chain_batch_id: row.try_get("chain_batch_id")?,
        state: row.try_get("state")?,
        rows: row.try_get("n")?,
        keeper_id: b256("batches", &row.try_get::<Vec<u8>, _>("keeper_id")?)?,
        token: crate::types::address("batches", &row.try_get::<Vec<u8>, _>("token")?)?,
        record: row.try_get("record")?,
        place: place(row)?,
        created_ms: row.try_get("created_ms")?,
    })
}

fn place(row: &AnyRow) -> Result<Option<Place>> {
    let hash = |column: &'static str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(column)?.map(|bytes| b256("receipts", &bytes)).transpose()
    };
    let (transaction, block) = (hash("base_tx_hash")?, row.try_get::<Option<i64>, _>("base_block")?);
    let (Some(transaction), Some(block)) = (transaction, block) else { return Ok(None) };
    Ok(Some(Place { transaction, block: u64::try_from(block).unwrap_or(0), block_hash: hash("base_block_hash")? }))
}

/// Leaves of the captured rows of a batch in row order, with the settlement id of each.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn leaves(store: &Store, batch_id: i64) -> Result<Vec<(B256, Leaf)>> {
    let rows = sqlx::query(
        "SELECT r.settlement_id, r.order_id, r.amount, r.receipt_hash, r.leaf_row, c.node_id, c.node_version
         FROM receipts r JOIN completions c ON c.settlement_id = r.settlement_id
         WHERE r.batch_id = $1 AND r.leaf_row IS NOT NULL ORDER BY r.leaf_row",
    )
    .bind(batch_id)
    .fetch_all(store.read())
    .await?;
    let corrupt = |what: &str| Error::Corrupt { table: "receipts", what: what.to_owned() };
    rows.iter()
        .map(|row| {
            let hash = |column: &'static str| b256("receipts", &row.try_get::<Vec<u8>, _>(column)?);
            let leaf = Leaf {
                rail: RAIL_ORDER,
                paymentId: hash("order_id")?,
                start: 0,
                amount: units("receipts", &row.try_get::<String, _>("amount")?)?,
                nodeId: hash("node_id")?,
                nodeVersion: row.try_get::<i64, _>("node_version")?.try_into().map_err(|_| corrupt("node_version"))?,
                receiptHash: hash("receipt_hash")?,
                row: row.try_get::<i64, _>("leaf_row")?.try_into().map_err(|_| corrupt("leaf_row"))?,
            };
            Ok((hash("settlement_id")?, leaf))
        })
        .collect()
}

/// Which receipts are listed; times in unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub payer: Option<Address>,
    pub node: Option<B256>,
    pub from_ms: i64,
    pub to_ms: i64,
    /// Continue after this one, as (created_ms, settlement id).
    pub after: Option<(i64, B256)>,
    pub limit: i64,
}

/// One line of an export.
#[derive(Clone, Debug)]
pub struct Line {
    pub settlement_id: B256,
    pub order_id: B256,
    pub payer: Address,
    pub token: Address,
    pub node_id: B256,
    pub amount: u128,
    pub state: String,
    pub path: String,
    pub order_state: String,
    pub record_state: String,
    pub batch_id: Option<i64>,
    pub transaction: Option<B256>,
    pub created_ms: i64,
}

/// Receipts by payer, node and time, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn list(store: &Store, filter: &Filter) -> Result<Vec<Line>> {
    let (after_ms, after_id) = filter.after.unwrap_or((i64::MIN, B256::ZERO));
    // An absent filter compares a column with itself: one statement, prepared once, for every combination.
    let rows = sqlx::query(
        "SELECT r.settlement_id, r.order_id, r.payer, r.token, r.node_id, r.amount, r.state, r.path, r.batch_id,
         r.created_ms, o.state AS order_state, c.record_state, COALESCE(r.base_tx_hash, b.base_tx_hash) AS tx_hash
         FROM receipts r JOIN orders o ON o.order_id = r.order_id
         JOIN completions c ON c.settlement_id = r.settlement_id LEFT JOIN batches b ON b.batch_id = r.batch_id
         WHERE r.payer = COALESCE($1, r.payer) AND r.node_id = COALESCE($2, r.node_id)
         AND r.created_ms >= $3 AND r.created_ms < $4
         AND (r.created_ms > $5 OR (r.created_ms = $5 AND r.settlement_id > $6))
         ORDER BY r.created_ms, r.settlement_id LIMIT $7",
    )
    .bind(filter.payer.map(|payer| payer.to_vec()))
    .bind(filter.node.map(|node| node.to_vec()))
    .bind(filter.from_ms)
    .bind(filter.to_ms)
    .bind(after_ms)
    .bind(after_id.to_vec())
    .bind(filter.limit)
    .fetch_all(store.read())
    .await?;
    rows.iter()
        .map(|row| {
            let hash = |column: &'static str| b256("receipts", &row.try_get::<Vec<u8>, _>(column)?);
            let address = |column: &'static str| crate::types::address("receipts", &row.try_get::<Vec<u8>, _>(column)?);
            let tx_hash: Option<Vec<u8>> = row.try_get("tx_hash")?;
            Ok(Line {
                settlement_id: hash("settlement_id")?,
                order_id: hash("order_id")?,
                payer: address("payer")?,
                token: address("token")?,
                node_id: hash("node_id")?,
                amount: units("receipts", &row.try_get::<String, _>("amount")?)?,
                state: row.try_get("state")?,
                path: row.try_get("path")?,
                order_state: row.try_get("order_state")?,
                record_state: row.try_get("record_state")?,
                batch_id: row.try_get("batch_id")?,
                transaction: tx_hash.map(|bytes| b256("receipts", &bytes)).transpose()?,
                created_ms: row.try_get("created_ms")?,
            })
        })
        .collect()
}

/// When a chain was last read, unix milliseconds; `None` before the first time.
///
/// # Errors
/// `store_failed`.
pub async fn last_read_ms(store: &Store, chain_id: u64) -> Result<Option<i64>> {
    let at = sqlx::query_scalar("SELECT updated_ms FROM cursors WHERE chain_id = $1")
        .bind(i64::try_from(chain_id).unwrap_or(i64::MAX))
        .fetch_optional(store.read())
        .await?;
    Ok(at)
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::sol_types::SolValue;
    use quittance_bindings::ledger::SettlementLedger::{BatchRecord, NodeCredit};
    use quittance_bindings::typed::leaf_hash;

    use super::*;
    use crate::merkle::Tree;

    /// Writes what `BatchSettled` of batch 7 would, for these receipts as its rows.
    pub(crate) async fn settle(store: &Store, ids: &[B256]) {
        let mut tx = store.write().await.unwrap();
        let keeper = B256::repeat_byte(0x4E);
        let token = Address::repeat_byte(0x70);
        let batch_id = crate::store::batches::insert(&mut tx, keeper, token, 3, 1).await.unwrap();
        for (row, id) in (0_i64..).zip(ids) {
            sqlx::query(
                "UPDATE receipts SET state = 'settled', batch_id = $1, batch_index = $2, leaf_row = $2
                 WHERE settlement_id = $3",
            )
            .bind(batch_id)
            .bind(row)
            .bind(id.to_vec())
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();
        let rows: Vec<Leaf> = leaves(store, batch_id).await.unwrap().into_iter().map(|(_, leaf)| leaf).collect();
        let total = rows.iter().map(|leaf| leaf.amount).sum();
        let record = BatchRecord {
            batchId: 7,
            keeperId: keeper,
            token,
            settledAt: alloy::primitives::aliases::U40::from(5),
            rows: u32::try_from(rows.len()).unwrap(),
            total,
            receiptsRoot: Tree::new(rows.iter().map(leaf_hash).collect()).root().unwrap(),
            ogRoot: B256::ZERO,
            blobHash: B256::ZERO,
            feeBps: 0,
            feeRecipient: Address::ZERO,
            credits: vec![NodeCredit {
                nodeId: rows[0].nodeId,
                payout: Address::repeat_byte(0x70),
                amount: total,
                fee: 0,
            }],
        };
        let mut tx = store.write().await.unwrap();
        sqlx::query(
            "UPDATE batches SET state = 'included', chain_batch_id = 7, record = $1, base_tx_hash = $2, base_block = 9,
             base_block_hash = $2 WHERE batch_id = $3",
        )
        .bind(record.abi_encode())
        .bind(B256::repeat_byte(3).to_vec())
        .bind(batch_id)
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }
}
