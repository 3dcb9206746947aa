//! Recognising our batch by what it settled: the ledger's receipts root is built from our rows, whoever sent them.

use std::collections::BTreeMap;

use alloy::primitives::{B256, Bytes};
use quittance_bindings::ledger::SettlementLedger::BatchRecord;
use quittance_bindings::typed::{Leaf, RAIL_ORDER, leaf_hash};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Rules;
use crate::chain::logs::{ChainLog, EscrowEvents, Event, LedgerEvents};
use crate::error::{Error, Result};
use crate::merkle::Tree;
use crate::store::txs::{self, NewTx};
use crate::store::{WriteTx, batches};
use crate::types::{b256, units};

/// The batch that a transaction settles although this database did not send it: another process over the same rows did, or
/// this database is a copy from before it was sent.
pub(super) async fn batch_of(tx: &mut WriteTx, rules: &Rules, run: &[ChainLog]) -> Result<Option<i64>> {
    let mut captured = Vec::new();
    for log in run {
        match &log.event {
            Event::Escrow(event) => {
                if let EscrowEvents::OrderCaptured(e) = event.as_ref() {
                    captured.push(e.orderId);
                }
            }
            Event::Ledger(event) => match event.as_ref() {
                LedgerEvents::BatchSettled(e) if e.keeperId == rules.keeper_id => {
                    let Some(first) = captured.first() else { return Ok(None) };
                    let batch_id: Option<Option<i64>> =
                        sqlx::query_scalar("SELECT batch_id FROM receipts WHERE order_id = $1")
                            .bind(first.to_vec())
                            .fetch_optional(&mut **tx)
                            .await?;
                    let Some(batch_id) = batch_id else { return Ok(None) };
                    let Some(batch_id) = batch_id else { return adopt(tx, rules, log, &e.record, &captured).await };
                    let root = root(&rows_of(tx, batch_id).await?, &captured);
                    return Ok((root == Some(e.record.receiptsRoot)).then_some(batch_id));
                }
                LedgerEvents::BatchSettled(_) | LedgerEvents::Verified(_) => captured.clear(),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(None)
}

/// Makes a batch of receipts that wait here for theirs, when the chain has settled exactly them: this database is a copy from
/// before they were frozen. `None` when they are not those.
async fn adopt(
    tx: &mut WriteTx,
    rules: &Rules,
    log: &ChainLog,
    record: &BatchRecord,
    captured: &[B256],
) -> Result<Option<i64>> {
    let mut rows = BTreeMap::new();
    for order_id in captured {
        let row = sqlx::query(
            "SELECT r.order_id, r.amount, r.node_id, r.receipt_hash, c.node_version FROM receipts r
             JOIN completions c ON c.settlement_id = r.settlement_id
             WHERE r.order_id = $1 AND r.batch_id IS NULL AND r.state IN ('matched', 'skipped')",
        )
        .bind(order_id.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (order_id, row) = batch_row(&row)?;
        rows.insert(order_id, row);
    }
    if root(&rows, captured) != Some(record.receiptsRoot) {
        return Ok(None);
    }
    let n = i64::try_from(captured.len()).unwrap_or(i64::MAX);
    let batch_id = batches::insert(tx, rules.keeper_id, record.token, n, rules.now_ms).await?;
    // Never sent, and so: when a reorganisation undoes the batch, its rows are given back to a batch of ours.
    let new = NewTx {
        chain_id: rules.chain_id,
        kind: "settle_batch",
        intent_key: format!("batch:{batch_id}"),
        target: log.address,
        calldata: Bytes::new(),
    };
    let tx_id = txs::enqueue(tx, &new, rules.now_ms).await?;
    sqlx::query("UPDATE txs SET state = 'obsolete' WHERE tx_id = $1").bind(tx_id).execute(&mut **tx).await?;
    batches::set_tx(tx, batch_id, tx_id).await?;
    for (index, order_id) in (0_i64..).zip(captured) {
        sqlx::query(
            "UPDATE receipts SET state = 'batched', batch_id = $1, batch_index = $2, tx_id = NULL, skip_reason = NULL
             WHERE order_id = $3",
        )
        .bind(batch_id)
        .bind(index)
        .bind(order_id.to_vec())
        .execute(&mut **tx)
        .await?;
    }
    Ok(Some(batch_id))
}

/// A row of a batch, as far as its leaf depends on it.
pub(super) struct BatchRow {
    pub(super) amount: u128,
    node_id: B256,
    node_version: u32,
    receipt_hash: B256,
}

/// Our receipts in a batch, by order.
pub(super) async fn rows_of(tx: &mut WriteTx, batch_id: i64) -> Result<BTreeMap<B256, BatchRow>> {
    let rows = sqlx::query(
        "SELECT r.order_id, r.amount, r.node_id, r.receipt_hash, c.node_version FROM receipts r
         JOIN completions c ON c.settlement_id = r.settlement_id WHERE r.batch_id = $1",
    )
    .bind(batch_id)
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(batch_row).collect()
}

fn batch_row(row: &AnyRow) -> Result<(B256, BatchRow)> {
    const T: &str = "receipts";
    let version: i64 = row.try_get("node_version")?;
    let receipt = BatchRow {
        amount: units(T, &row.try_get::<String, _>("amount")?)?,
        node_id: b256(T, &row.try_get::<Vec<u8>, _>("node_id")?)?,
        node_version: u32::try_from(version)
            .map_err(|_| Error::Corrupt { table: "completions", what: format!("node version {version}") })?,
        receipt_hash: b256(T, &row.try_get::<Vec<u8>, _>("receipt_hash")?)?,
    };
    Ok((b256(T, &row.try_get::<Vec<u8>, _>("order_id")?)?, receipt))
}

/// Root over the receipts of these orders in this order; `None` when one of them is not a row of the batch.
pub(super) fn root(rows: &BTreeMap<B256, BatchRow>, captured: &[B256]) -> Option<B256> {
    let leaf = |(number, order_id): (u32, &B256)| {
        let row = rows.get(order_id)?;
        Some(leaf_hash(&Leaf {
            rail: RAIL_ORDER,
            paymentId: *order_id,
            start: 0,
            amount: row.amount,
            nodeId: row.node_id,
            nodeVersion: row.node_version,
            receiptHash: row.receipt_hash,
            row: number,
        }))
    };
    Tree::new((0..).zip(captured).map(leaf).collect::<Option<Vec<_>>>()?).root()
}
