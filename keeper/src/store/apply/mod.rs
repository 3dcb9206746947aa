//! Effects of canonical events, applied in the transaction that moves the cursor, and undone when a reorganisation takes
//! their blocks away.

mod content;
mod escrow;
mod game;
mod ledger;
#[cfg(test)]
mod tests;
mod undo;

use alloy::primitives::{Address, B256};

use super::{WriteTx, events, nodes, records};
use crate::chain::logs::{ChainLog, Contract, EscrowEvents, Event, InboxEvents, LedgerEvents};
use crate::error::{Error, Result};

pub use self::ledger::skip_reason;
pub use self::undo::undo_above;

/// What events mean to this keeper.
#[derive(Clone, Debug)]
pub struct Rules {
    pub chain_id: u64,
    /// Our id in the keeper registry.
    pub keeper_id: B256,
    /// Tokens that we serve orders in.
    pub tokens: Vec<Address>,
    /// Contracts on this chain, by what they are.
    pub contracts: Vec<(Address, Contract)>,
    /// Unix milliseconds, for the rows' local times.
    pub now_ms: i64,
}

impl Rules {
    fn contradiction(&self, message: String) -> Error {
        Error::Chain { chain_id: self.chain_id, message }
    }
}

/// What a run of blocks changed, for those who keep snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub events: usize,
    /// Node or keeper registry changed.
    pub registry: bool,
    /// An order was opened.
    pub orders: bool,
}

/// Applies events in chain order.
///
/// # Errors
/// `store_failed`; `chain_contradiction` when the events do not add up.
pub async fn apply(tx: &mut WriteTx, rules: &Rules, logs: &[ChainLog]) -> Result<Applied> {
    events::insert(tx, rules.chain_id, logs).await?;
    escrow::balances(tx, rules, logs).await?;
    let mut applied = Applied { events: logs.len(), ..Applied::default() };
    for run in logs.chunk_by(|a, b| a.tx_hash == b.tx_hash) {
        let mut settling = ledger::Settling::new(tx, rules, run).await?;
        let mut recorded = Vec::new();
        for log in run {
            let more = matches!(&log.event, Event::Escrow(event) if matches!(**event, EscrowEvents::OrderCaptured(_)));
            let skipped = matches!(&log.event, Event::Ledger(event) if matches!(**event, LedgerEvents::RowSkipped(_)));
            if !more && !skipped {
                escrow::apply_gathered(tx, rules, &mut settling).await?;
            }
            match &log.event {
                Event::Escrow(event) => {
                    applied.orders |= escrow::orders(tx, rules, event, &mut settling).await?;
                }
                Event::Ledger(event) => ledger::apply(tx, rules, log, event, &mut settling).await?,
                Event::Nodes(event) => {
                    applied.registry = true;
                    nodes::apply(tx, event, log.timestamp).await?;
                }
                Event::Game(event) => game::apply(tx, event).await?,
                Event::Keepers(_) => applied.registry = true,
                Event::Inbox(event) => inbox(tx, log, event, &mut recorded).await?,
            }
        }
        records::recorded(tx, &recorded, (run[0].tx_hash, events::column(run[0].block_number)?)).await?;
        escrow::apply_gathered(tx, rules, &mut settling).await?;
        ledger::finish(tx, rules, &run[0], &settling).await?;
    }
    Ok(applied)
}

/// Recording on OpenGradient: the completion is proven, which is gathered in `recorded`, or refused by the contract.
async fn inbox(tx: &mut WriteTx, log: &ChainLog, event: &InboxEvents, recorded: &mut Vec<B256>) -> Result<()> {
    match event {
        InboxEvents::InferenceRecorded(e) => {
            let block = log.block_number;
            tracing::info!(target: "trail", step = "recorded", settlement = %e.settlementId, tx = %log.tx_hash, block);
            recorded.push(e.settlementId);
        }
        InboxEvents::InferenceRefused(e) => {
            // A refusal in one call says nothing of an earlier record, and a private completion is none of the relay's.
            sqlx::query(
                "UPDATE completions SET record_state = 'refused', og_tx_hash = $1, og_block = $2
                 WHERE settlement_id = $3 AND record_state IN ('due', 'submitted')",
            )
            .bind(log.tx_hash.to_vec())
            .bind(events::column(log.block_number)?)
            .bind(e.settlementId.to_vec())
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Safe and finalised heads moved to these blocks: batches follow, and what is paid in a finalised block is final.
/// Without effect for a chain that has no ledger: its block numbers say nothing of ours.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn heads(tx: &mut WriteTx, rules: &Rules, finalized_before: u64, safe: u64, finalized: u64) -> Result<()> {
    if !rules.contracts.iter().any(|(_, contract)| *contract == Contract::Ledger) {
        return Ok(());
    }
    for (sql, block) in [
        ("UPDATE batches SET state = 'safe' WHERE state = 'included' AND base_block <= $1", safe),
        ("UPDATE batches SET state = 'finalised' WHERE state = 'safe' AND base_block <= $1", finalized),
    ] {
        sqlx::query(sql).bind(events::column(block)?).execute(&mut **tx).await?;
    }
    ledger::paid(tx, rules, finalized_before, finalized).await
}
