//! Undoing what blocks did that a reorganisation took away: balances and nodes are replayed from the events that remain,
//! states go back to what they waited for.

use std::collections::BTreeSet;

use alloy::primitives::B256;
use sqlx::Row;

use super::escrow::{CAPTURED_ELSEWHERE, RECLAIMED, save};
use super::ledger::{Settling, skip_reason};
use super::{Rules, game};
use crate::chain::fold::Balances;
use crate::chain::logs::{Contract, EscrowEvents, Event, LedgerEvents, decode};
use crate::error::{Error, Result};
use crate::store::events::{self, StoredEvent};
use crate::store::{WriteTx, nodes, orders};
use crate::types::OrderState;

/// Replayed in pages of this many events.
const PAGE: i64 = 2_000;

/// Undoes everything above a block (everything at all for `None`) and drops it. Returns the number of events undone.
///
/// # Errors
/// `store_failed`, `store_corrupt`; `chain_contradiction` when the remaining events do not add up.
pub async fn undo_above(tx: &mut WriteTx, rules: &Rules, block: Option<u64>) -> Result<usize> {
    let gone = events::above(tx, rules.chain_id, block).await?;
    let mut balances = Balances::default();
    let mut touched = BTreeSet::new();
    for event in &gone {
        match decoded(rules, event)? {
            Some(Event::Escrow(inner)) => {
                balances.touch(&inner);
                escrow(tx, rules, &inner).await?;
            }
            Some(Event::Ledger(inner)) => ledger(tx, rules, event, &inner).await?,
            Some(Event::Game(inner)) => game::undo(tx, &inner).await?,
            Some(Event::Nodes(_)) => {
                touched.extend(event.topics.get(1).copied());
            }
            Some(Event::Inbox(_)) => {
                sqlx::query(
                    "UPDATE completions SET record_state = 'submitted', og_tx_hash = NULL, og_block = NULL
                     WHERE og_tx_hash = $1 AND record_state IN ('recorded', 'refused')",
                )
                .bind(event.tx_hash.to_vec())
                .execute(&mut **tx)
                .await?;
            }
            Some(Event::Keepers(_)) | None => {}
        }
    }
    // A transaction that was mined there is on its way again.
    sqlx::query(
        "UPDATE txs SET state = 'sent', tx_hash = NULL, block_number = NULL, block_hash = NULL, gas_used = NULL,
         effective_price = NULL, success = NULL, updated_ms = $1
         WHERE chain_id = $2 AND state = 'included' AND block_number > $3",
    )
    .bind(rules.now_ms)
    .bind(crate::store::txs::chain_column(rules.chain_id)?)
    .bind(block.map_or(Ok(-1), events::column)?)
    .execute(&mut **tx)
    .await?;
    events::delete_above(tx, rules.chain_id, block).await?;
    replay_balances(tx, rules, balances).await?;
    for node_id in touched {
        replay_node(tx, rules, node_id).await?;
    }
    Ok(gone.len())
}

fn contract(rules: &Rules, which: Contract) -> impl Iterator<Item = alloy::primitives::Address> {
    rules.contracts.iter().filter(move |(_, contract)| *contract == which).map(|(address, _)| *address)
}

fn decoded(rules: &Rules, event: &StoredEvent) -> Result<Option<Event>> {
    let Some((_, contract)) = rules.contracts.iter().find(|(address, _)| *address == event.contract) else {
        return Ok(None);
    };
    let decoded =
        decode(*contract, &event.topics, &event.data).map_err(|what| Error::Corrupt { table: "events", what })?;
    Ok(decoded.map(|(_, _, event)| event))
}

/// Replays what the events that remain say of the loaded balances.
async fn replay_balances(tx: &mut WriteTx, rules: &Rules, mut balances: Balances) -> Result<()> {
    if balances == Balances::default() {
        return Ok(());
    }
    for escrow in contract(rules, Contract::Escrow) {
        let mut after = 0;
        loop {
            let page = events::page(&mut **tx, rules.chain_id, escrow, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for event in &page {
                if let Some(Event::Escrow(inner)) = decoded(rules, event)? {
                    balances.fold(&inner).map_err(|error| rules.contradiction(error))?;
                }
            }
        }
    }
    save(tx, &balances).await
}

/// Replays a node from the events that remain.
async fn replay_node(tx: &mut WriteTx, rules: &Rules, node_id: B256) -> Result<()> {
    let mut record = None;
    for registry in contract(rules, Contract::Nodes) {
        for event in events::of_contract(&mut **tx, rules.chain_id, registry, node_id).await? {
            if let Some(Event::Nodes(inner)) = decoded(rules, &event)? {
                nodes::fold(&mut record, &inner, event.timestamp);
            }
        }
    }
    nodes::replace(tx, node_id, record.as_ref()).await
}

async fn escrow(tx: &mut WriteTx, rules: &Rules, event: &EscrowEvents) -> Result<()> {
    match event {
        EscrowEvents::OrderOpened(e) => {
            orders::set_held(tx, e.orderId, false, rules.now_ms).await?;
            // Known from the chain alone and not yet at a node: as if it had never been.
            sqlx::query(
                "DELETE FROM orders WHERE order_id = $1 AND signature IS NULL AND state = 'open'
                 AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.order_id = orders.order_id)
                 AND NOT EXISTS (SELECT 1 FROM completions c WHERE c.order_id = orders.order_id
                 AND c.state IN ('verified', 'orphaned'))",
            )
            .bind(e.orderId.to_vec())
            .execute(&mut **tx)
            .await?;
            // Promised before it was held: the promise stands, so the lane secures it again.
            let live = [OrderState::Open, OrderState::Dispatched, OrderState::Completed];
            if let Some(row) = orders::get(&mut **tx, e.orderId).await?.filter(|row| live.contains(&row.state)) {
                secure(tx, &row).await?;
            }
        }
        EscrowEvents::OrderCaptured(e) => {
            let held = e.sources.hold != 0 || e.released != 0;
            orders::set_held(tx, e.orderId, held, rules.now_ms).await?;
            let answered: Option<i64> = sqlx::query_scalar("SELECT 1 FROM receipts WHERE order_id = $1")
                .bind(e.orderId.to_vec())
                .fetch_optional(&mut **tx)
                .await?;
            let back = if answered.is_some() { OrderState::Completed } else { OrderState::Open };
            orders::set_state(tx, e.orderId, &[OrderState::Settled], back, None).await?;
            unskip(tx, e.orderId, CAPTURED_ELSEWHERE).await?;
        }
        EscrowEvents::OrderReclaimed(e) => {
            orders::set_held(tx, e.orderId, true, rules.now_ms).await?;
            orders::set_state(tx, e.orderId, &[OrderState::Reclaimed], OrderState::Expired, None).await?;
            unskip(tx, e.orderId, RECLAIMED).await?;
        }
        // Balances are replayed. An order refused for its cancelled nonce stays refused: its payer has spoken.
        EscrowEvents::Deposited(_)
        | EscrowEvents::Withdrawn(_)
        | EscrowEvents::Locked(_)
        | EscrowEvents::Unlocked(_)
        | EscrowEvents::NoncesCancelled(_)
        | EscrowEvents::LockNoncesCancelled(_)
        | EscrowEvents::Paused(_)
        | EscrowEvents::OrderReopened(_)
        | EscrowEvents::Credited(_)
        | EscrowEvents::EIP712DomainChanged(_) => {}
    }
    Ok(())
}

async fn secure(tx: &mut WriteTx, row: &crate::types::OrderRow) -> Result<()> {
    if row.reserved != 0 || row.signature.is_none() {
        return Ok(());
    }
    let order = &row.order;
    let max = u128::MAX;
    crate::store::accounts::reserve(tx, row.order_id, order.payer, order.token, order.keeperId, order.maxAmount, max)
        .await?;
    Ok(())
}

async fn unskip(tx: &mut WriteTx, order_id: B256, reason: &str) -> Result<()> {
    sqlx::query(
        "UPDATE receipts SET state = 'matched', skip_reason = NULL
         WHERE order_id = $1 AND state = 'skipped' AND skip_reason = $2",
    )
    .bind(order_id.to_vec())
    .bind(reason.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn ledger(tx: &mut WriteTx, rules: &Rules, event: &StoredEvent, inner: &LedgerEvents) -> Result<()> {
    match inner {
        LedgerEvents::BatchSettled(e) => {
            let row = sqlx::query("SELECT batch_id FROM batches WHERE chain_batch_id = $1 AND base_tx_hash = $2")
                .bind(events::column(e.batchId)?)
                .bind(event.tx_hash.to_vec())
                .fetch_optional(&mut **tx)
                .await?;
            let Some(row) = row else { return Ok(()) };
            let batch_id: i64 = row.try_get("batch_id")?;
            back_to_submitted(tx, batch_id).await?;
            sqlx::query(
                "UPDATE receipts SET state = 'batched', leaf_row = NULL, fee = NULL
                 WHERE batch_id = $1 AND state = 'settled' AND path = 'batch'",
            )
            .bind(batch_id)
            .execute(&mut **tx)
            .await?;
        }
        LedgerEvents::RowSkipped(e) => {
            if e.keeperId != rules.keeper_id {
                return Ok(());
            }
            if let Some(batch_id) = Settling::sent(tx, event.tx_hash).await?.batch() {
                back_to_submitted(tx, batch_id).await?;
            }
            sqlx::query(
                "UPDATE receipts SET state = 'batched', skip_reason = NULL
                 WHERE order_id = $1 AND batch_index = $2 AND state = 'skipped' AND skip_reason = $3 AND batch_id IS NOT NULL",
            )
            .bind(e.orderId.to_vec())
            .bind(i64::from(e.row))
            .bind(skip_reason(e.reason))
            .execute(&mut **tx)
            .await?;
        }
        LedgerEvents::Verified(e) => {
            sqlx::query(
                "UPDATE receipts SET state = CASE WHEN batch_id IS NULL THEN 'matched' ELSE 'batched' END,
                 path = CASE WHEN batch_id IS NULL THEN path ELSE 'batch' END,
                 fee = NULL, base_tx_hash = NULL, base_block = NULL, base_block_hash = NULL
                 WHERE settlement_id = $1 AND state = 'settled' AND path = 'verified'",
            )
            .bind(e.settlementId.to_vec())
            .execute(&mut **tx)
            .await?;
            sqlx::query(
                "UPDATE receipts SET state = 'matched', skip_reason = NULL
                 WHERE settlement_id = $1 AND state = 'skipped' AND skip_reason = 'settled_by_another_receipt'",
            )
            .bind(e.settlementId.to_vec())
            .execute(&mut **tx)
            .await?;
        }
        LedgerEvents::Delivered(e) => {
            sqlx::query("UPDATE receipts SET delivered = 0 WHERE settlement_id = $1")
                .bind(e.settlementId.to_vec())
                .execute(&mut **tx)
                .await?;
        }
        LedgerEvents::RowVoided(e) => {
            // Back by hand: no state but this one ever follows a void.
            sqlx::query("UPDATE orders SET state = 'settled', reason = NULL WHERE order_id = $1 AND state = 'voided'")
                .bind(e.orderId.to_vec())
                .execute(&mut **tx)
                .await?;
        }
        // Took effect only in a finalised block.
        _ => {}
    }
    Ok(())
}

async fn back_to_submitted(tx: &mut WriteTx, batch_id: i64) -> Result<()> {
    sqlx::query(
        "UPDATE batches SET state = 'submitted', chain_batch_id = NULL, record = NULL, receipts_root = NULL, settled_at = NULL,
         base_tx_hash = NULL, base_block = NULL, base_block_hash = NULL
         WHERE batch_id = $1 AND state IN ('included', 'safe', 'empty')",
    )
    .bind(batch_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
