//! Recognising our batch by what it settled: the ledger's receipts root is built from our rows, whoever sent them.

use alloy::primitives::B256;
use quittance_bindings::typed::{Leaf, RAIL_ORDER, leaf_hash};
use sqlx::Row;

use super::Rules;
use crate::chain::logs::{ChainLog, EscrowEvents, Event, LedgerEvents};
use crate::error::{Error, Result};
use crate::merkle::Tree;
use crate::store::WriteTx;
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
                    let Some(batch_id) = batch_id.flatten() else { return Ok(None) };
                    let root = root_of(tx, batch_id, &captured).await?;
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

/// Root over our receipts of these orders in this order; `None` when one of them is not a row of the batch.
pub(super) async fn root_of(tx: &mut WriteTx, batch_id: i64, captured: &[B256]) -> Result<Option<B256>> {
    let mut leaves = Vec::with_capacity(captured.len());
    for (number, order_id) in (0..).zip(captured) {
        let row = sqlx::query(
            "SELECT r.amount, r.node_id, r.receipt_hash, c.node_version FROM receipts r
             JOIN completions c ON c.settlement_id = r.settlement_id WHERE r.order_id = $1 AND r.batch_id = $2",
        )
        .bind(order_id.to_vec())
        .bind(batch_id)
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let version: i64 = row.try_get("node_version")?;
        leaves.push(leaf_hash(&Leaf {
            rail: RAIL_ORDER,
            paymentId: *order_id,
            start: 0,
            amount: units("receipts", &row.try_get::<String, _>("amount")?)?,
            nodeId: b256("receipts", &row.try_get::<Vec<u8>, _>("node_id")?)?,
            nodeVersion: u32::try_from(version)
                .map_err(|_| Error::Corrupt { table: "completions", what: format!("node version {version}") })?,
            receiptHash: b256("receipts", &row.try_get::<Vec<u8>, _>("receipt_hash")?)?,
            row: number,
        }));
    }
    Ok(Tree::new(leaves).root())
}
