//! Effects of ledger events: batches, verified settlements, deliveries, payouts; ours or made by others.

use alloy::primitives::{B256, U256};
use alloy::sol_types::SolValue;
use quittance_bindings::ledger::SettlementLedger::{BatchRecord, Verified};
use sqlx::Row;

use super::escrow::Gathered;
use super::{Rules, content};
use crate::chain::logs::{ChainLog, Contract, Event, LedgerEvents, decode};
use crate::error::{Error, Result};
use crate::store::{WriteTx, captures, challenges, events, orders, receipts, txs};
use crate::types::{OrderState, b256};

/// What one transaction has done so far.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Intent of the transaction, when we sent it.
    intent: Option<String>,
    /// Orders captured since the last settlement in the same transaction.
    pub(super) captured: Vec<B256>,
    /// Captures whose effects are still to be applied.
    pub(super) gathered: Gathered,
    /// Rows of our batch were skipped.
    skipped: bool,
    /// Our batch was settled.
    settled: bool,
}

impl Settling {
    /// Looks up what the transaction of these logs is to us.
    pub(super) async fn new(tx: &mut WriteTx, rules: &Rules, run: &[ChainLog]) -> Result<Self> {
        let mut settling = Self::sent(tx, run.first().map(|log| log.tx_hash).unwrap_or_default()).await?;
        if settling.intent.is_none()
            && let Some(batch_id) = content::batch_of(tx, rules, run).await?
        {
            tracing::warn!(batch_id, "a batch of ours was settled by a transaction that this database did not send");
            settling.intent = Some(format!("batch:{batch_id}"));
        }
        Ok(settling)
    }

    /// Looks up whether we sent a transaction.
    pub(super) async fn sent(tx: &mut WriteTx, tx_hash: B256) -> Result<Self> {
        let intent: Option<String> = sqlx::query_scalar(
            "SELECT t.intent_key FROM attempts a JOIN txs t ON t.tx_id = a.tx_id WHERE a.tx_hash = $1",
        )
        .bind(tx_hash.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
        Ok(Self { intent, ..Self::default() })
    }

    /// Whether we sent the transaction, or it settles our batch.
    pub(super) const fn is_ours(&self) -> bool {
        self.intent.is_some()
    }

    /// Local id of the batch that the transaction settles.
    pub(super) fn batch(&self) -> Option<i64> {
        self.intent.as_deref()?.strip_prefix("batch:")?.parse().ok()
    }
}

/// Applies one event.
pub(super) async fn apply(
    tx: &mut WriteTx,
    rules: &Rules,
    log: &ChainLog,
    event: &LedgerEvents,
    settling: &mut Settling,
) -> Result<()> {
    match event {
        LedgerEvents::BatchSettled(e) => {
            let captured = std::mem::take(&mut settling.captured);
            if e.keeperId != rules.keeper_id {
                return Ok(());
            }
            let Some(batch_id) = settling.batch() else {
                tracing::warn!(batch = e.batchId, tx = %log.tx_hash, "a batch of this keeper that this database did not send");
                return Ok(());
            };
            settling.settled = true;
            batch_settled(tx, rules.chain_id, log, batch_id, (&e.record, &captured)).await
        }
        LedgerEvents::RowSkipped(e) => {
            let Some(batch_id) = settling.batch().filter(|_| e.keeperId == rules.keeper_id) else { return Ok(()) };
            settling.skipped = true;
            let done = sqlx::query(
                "UPDATE receipts SET state = 'skipped', skip_reason = $1
                 WHERE batch_id = $2 AND batch_index = $3 AND order_id = $4 AND state = 'batched'",
            )
            .bind(skip_reason(e.reason))
            .bind(batch_id)
            .bind(i64::from(e.row))
            .bind(e.orderId.to_vec())
            .execute(&mut **tx)
            .await?;
            tracing::info!(batch_id, order = %e.orderId, reason = skip_reason(e.reason), rows = done.rows_affected(), "row skipped");
            Ok(())
        }
        LedgerEvents::Verified(e) => {
            settling.captured.clear();
            verified(tx, log, e).await
        }
        LedgerEvents::Delivered(e) => {
            sqlx::query("UPDATE receipts SET delivered = 1 WHERE settlement_id = $1")
                .bind(e.settlementId.to_vec())
                .execute(&mut **tx)
                .await?;
            Ok(())
        }
        LedgerEvents::RowVoided(e) => {
            let reason = if e.unproven { "unproven" } else { "duplicate" };
            if orders::set_state(tx, e.orderId, &[OrderState::Settled], OrderState::Voided, Some(reason)).await? {
                tracing::error!(batch = e.batchId, row = e.row, order = %e.orderId, reason, "a row that we know is void");
            }
            Ok(())
        }
        // Paid is final: applied when its block is finalised, see `paid`.
        _ => Ok(()),
    }
}

/// After the last event of a transaction: a batch of which every row was skipped leaves no `BatchSettled`.
pub(super) async fn finish(tx: &mut WriteTx, rules: &Rules, log: &ChainLog, settling: &Settling) -> Result<()> {
    let Some(batch_id) = settling.batch().filter(|_| settling.skipped && !settling.settled) else { return Ok(()) };
    sqlx::query(
        "UPDATE batches SET state = 'empty', base_tx_hash = $1, base_block = $2, base_block_hash = $3
         WHERE batch_id = $4 AND state IN ('frozen', 'submitted')",
    )
    .bind(log.tx_hash.to_vec())
    .bind(events::column(log.block_number)?)
    .bind(log.block_hash.to_vec())
    .bind(batch_id)
    .execute(&mut **tx)
    .await?;
    tracing::warn!(chain_id = rules.chain_id, batch_id, "every row of the batch was skipped");
    Ok(())
}

async fn batch_settled(
    tx: &mut WriteTx,
    chain_id: u64,
    log: &ChainLog,
    batch_id: i64,
    (record, captured): (&BatchRecord, &[B256]),
) -> Result<()> {
    sqlx::query(
        "UPDATE batches SET state = 'included', chain_batch_id = $1, record = $2, receipts_root = $3, settled_at = $4,
         base_tx_hash = $5, base_block = $6, base_block_hash = $7
         WHERE batch_id = $8 AND state IN ('frozen', 'submitted')",
    )
    .bind(events::column(record.batchId)?)
    .bind(record.abi_encode())
    .bind(record.receiptsRoot.to_vec())
    .bind(record.settledAt.to::<i64>())
    .bind(log.tx_hash.to_vec())
    .bind(events::column(log.block_number)?)
    .bind(log.block_hash.to_vec())
    .bind(batch_id)
    .execute(&mut **tx)
    .await?;
    if captured.len() != usize::try_from(record.rows).unwrap_or(usize::MAX) {
        tracing::error!(
            batch_id,
            rows = record.rows,
            captured = captured.len(),
            "captures do not match the batch record"
        );
    }
    let rows = content::rows_of(tx, batch_id).await?;
    if content::root(&rows, captured) != Some(record.receiptsRoot) {
        metrics::counter!("quittance_receipt_roots_unlike_total").increment(1);
        tracing::error!(batch_id, root = %record.receiptsRoot, "the ledger's receipts root is not that of our receipts");
    }
    let bps = fee_bps(tx, chain_id, log).await?;
    let mut settled = Vec::with_capacity(captured.len());
    for (row, order_id) in (0_i64..).zip(captured) {
        let Some(receipt) = rows.get(order_id) else {
            tracing::error!(batch_id, order = %order_id, "captured in our batch, but no receipt of it here");
            continue;
        };
        tracing::info!(target: "trail", step = "settled", order = %order_id, batch_id, tx = %log.tx_hash, block = log.block_number);
        settled.push(receipts::Captured { order_id: *order_id, leaf_row: row, fee: fee_of(receipt.amount, bps) });
    }
    receipts::settled_in(tx, batch_id, &settled).await
}

/// A settlement against its three signatures, sent by us or by anybody.
async fn verified(tx: &mut WriteTx, log: &ChainLog, e: &Verified) -> Result<()> {
    let receipt = sqlx::query("SELECT receipt_hash FROM receipts WHERE settlement_id = $1")
        .bind(e.settlementId.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(receipt) = receipt else { return Ok(()) };
    tracing::info!(target: "trail", step = "settled", settlement = %e.settlementId, tx = %log.tx_hash, block = log.block_number);
    if b256("receipts", &receipt.try_get::<Vec<u8>, _>("receipt_hash")?)? == e.receiptHash {
        sqlx::query(
            "UPDATE receipts SET state = 'settled', path = 'verified', fee = $1, skip_reason = NULL, base_tx_hash = $2,
             base_block = $3, base_block_hash = $4
             WHERE settlement_id = $5 AND state IN ('matched', 'batched', 'skipped')",
        )
        .bind(e.fee.to_string())
        .bind(log.tx_hash.to_vec())
        .bind(events::column(log.block_number)?)
        .bind(log.block_hash.to_vec())
        .bind(e.settlementId.to_vec())
        .execute(&mut **tx)
        .await?;
    } else {
        // The inference is paid, but by another receipt: ours can never be settled.
        sqlx::query(
            "UPDATE receipts SET state = 'skipped', skip_reason = 'settled_by_another_receipt'
             WHERE settlement_id = $1 AND state = 'matched'",
        )
        .bind(e.settlementId.to_vec())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// `Finalized` and `Verified` events in newly finalised blocks: the nodes are paid, and nothing can undo it.
pub(super) async fn paid(tx: &mut WriteTx, rules: &Rules, after: u64, to: u64) -> Result<()> {
    if to <= after {
        return Ok(());
    }
    for event in events::named(tx, rules.chain_id, "Finalized", after, to).await? {
        let chain_batch = event.topics.get(1).copied().unwrap_or_default();
        let settled = events::by_topic(&mut **tx, "BatchSettled", chain_batch).await?;
        for settled in settled.iter().filter(|settled| settled.contract == event.contract) {
            if settled.topics.get(2) != Some(&rules.keeper_id) {
                continue;
            }
            sqlx::query(
                "UPDATE batches SET state = 'paid' WHERE chain_batch_id = $1 AND state IN ('included', 'safe', 'finalised')",
            )
            .bind(U256::from_be_bytes(chain_batch.0).saturating_to::<i64>())
            .execute(&mut **tx)
            .await?;
            let mut captured = captured_by(tx, settled.tx_hash, settled.log_index).await?;
            let disputed = challenges::unpaid(tx, U256::from_be_bytes(chain_batch.0).saturating_to()).await?;
            let mut row = 0;
            captured.retain(|_| {
                row += 1;
                !disputed.contains(&(row - 1))
            });
            captures::paid(tx, &captured).await?;
        }
    }
    // Paid at once, by whatever keeper: the third topic is the order.
    let verified = events::named(tx, rules.chain_id, "Verified", after, to).await?;
    let order_ids: Vec<B256> = verified.iter().filter_map(|event| event.topics.get(2).copied()).collect();
    captures::paid(tx, &order_ids).await?;
    for event in events::named(tx, rules.chain_id, "RowFinalized", after, to).await? {
        let place = |n: usize| event.topics.get(n).map(|topic| U256::from_be_bytes(topic.0).saturating_to::<usize>());
        let (Some(topic), Some(row)) = (event.topics.get(1), place(2)) else { continue };
        for settled in events::by_topic(&mut **tx, "BatchSettled", *topic).await? {
            if settled.contract == event.contract && settled.topics.get(2) == Some(&rules.keeper_id) {
                let captured = captured_by(tx, settled.tx_hash, settled.log_index).await?;
                captures::paid(tx, captured.get(row..=row).unwrap_or_default()).await?;
            }
        }
    }
    Ok(())
}

/// Orders that a transaction captured for the batch whose event stands at `until`.
async fn captured_by(tx: &mut WriteTx, tx_hash: B256, until: u64) -> Result<Vec<B256>> {
    let mut captured = Vec::new();
    for event in events::of_tx(&mut **tx, tx_hash).await?.iter().take_while(|event| event.log_index < until) {
        match event.name.as_str() {
            "OrderCaptured" => captured.extend(event.topics.get(1)),
            "BatchSettled" | "Verified" => captured.clear(),
            _ => {}
        }
    }
    Ok(captured)
}

/// The ledger's fee at an event, in basis points: the last `FeeSet` before it.
async fn fee_bps(tx: &mut WriteTx, chain_id: u64, log: &ChainLog) -> Result<u16> {
    // By name alone, and put in order here: there are few of them, and an order in the statement leads SQLite through all
    // events of the chain.
    let set = sqlx::query("SELECT contract, seq, topics, data FROM events WHERE chain_id = $1 AND name = 'FeeSet'")
        .bind(txs::chain_column(chain_id)?)
        .fetch_all(&mut **tx)
        .await?;
    let mut last = None;
    for row in &set {
        let (contract, seq): (Vec<u8>, u64) = (row.try_get("contract")?, events::number(row, "seq")?);
        if contract == log.address.as_slice() && seq < log.seq && last.is_none_or(|(before, _)| before < seq) {
            last = Some((seq, row));
        }
    }
    let Some((_, row)) = last else { return Ok(0) };
    let topics: Vec<u8> = row.try_get("topics")?;
    let topic = b256("events", topics.get(..32).unwrap_or_default())?;
    match decode(Contract::Ledger, &[topic], &row.try_get::<Vec<u8>, _>("data")?) {
        Ok(Some((_, _, Event::Ledger(event)))) => match *event {
            LedgerEvents::FeeSet(e) => Ok(e.feeBps),
            _ => Ok(0),
        },
        _ => Err(Error::Corrupt { table: "events", what: "FeeSet".to_owned() }),
    }
}

/// floor(amount × bps / 10,000), as the ledger computes it for each row.
fn fee_of(amount: u128, bps: u16) -> u128 {
    (U256::from(amount) * U256::from(bps) / U256::from(10_000)).saturating_to()
}

/// Stable text of the contract's `CaptureResult`.
pub const fn skip_reason(result: u8) -> &'static str {
    match result {
        0 => "captured",
        1 => "bad_signature",
        2 => "order_closed",
        3 => "nonce_spent",
        4 => "deadline_passed",
        5 => "not_yet_valid",
        6 => "bad_times",
        7 => "zero_amount",
        8 => "over_maximum",
        9 => "insufficient_balance",
        10 => "unknown_node_index",
        11 => "node_not_active",
        12 => "node_version_not_current",
        13 => "node_outside_scope",
        _ => "unknown",
    }
}
