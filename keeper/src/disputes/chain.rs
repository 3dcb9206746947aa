//! Any batch from the chain: its record and skipped rows from stored events, its rows from the transaction's input.

use alloy::primitives::{B256, U256};
use alloy::sol_types::SolValue;
use quittance_bindings::typed::{BatchRecord, domain};

use super::batch::ChainBatch;
use crate::chain::logs::{Contract, Event, LedgerEvents, decode};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::store::events;

/// A batch, or why nobody can read it: `Err` of the outer result is ours (store, RPC), of the inner one its keeper's.
///
/// # Errors
/// `store_failed`, `store_corrupt`, `rpc_failed`.
pub async fn load(ctx: &Ctx, chain_batch_id: i64) -> Result<std::result::Result<ChainBatch, String>> {
    let base = &ctx.config.base;
    let topic = B256::from(U256::from(u64::try_from(chain_batch_id).unwrap_or_default()));
    let found = events::by_topic(ctx.store.read(), "BatchSettled", topic).await?;
    let Some(settled) = found.into_iter().find(|event| event.contract == base.ledger) else {
        return Ok(Err("no such batch on the ledger".to_owned()));
    };
    let corrupt = |what: String| Error::Corrupt { table: "events", what };
    let read = |topics: &[B256], data: &[u8]| match decode(Contract::Ledger, topics, data) {
        Ok(Some((_, _, Event::Ledger(event)))) => Ok(Some(*event)),
        Ok(_) => Ok(None),
        Err(what) => Err(corrupt(what)),
    };
    let Some(LedgerEvents::BatchSettled(e)) = read(&settled.topics, &settled.data)? else {
        return Err(corrupt(format!("batch {chain_batch_id} is no batch")));
    };
    let mut skipped = Vec::new();
    for event in events::of_tx(ctx.store.read(), settled.tx_hash).await? {
        if event.contract != base.ledger || event.log_index > settled.log_index {
            continue;
        }
        match read(&event.topics, &event.data)? {
            Some(LedgerEvents::RowSkipped(e)) => skipped.push(e.row),
            // Another batch in the same transaction ended here.
            Some(LedgerEvents::BatchSettled(_)) if event.log_index < settled.log_index => skipped.clear(),
            _ => {}
        }
    }
    let missing = || Error::Rpc { chain_id: base.chain_id, message: format!("no transaction {}", settled.tx_hash) };
    let (to, input) = ctx.base.input(settled.tx_hash).await?.ok_or_else(missing)?;
    if to != Some(base.ledger) {
        return Ok(Err(format!(
            "the endpoint shows a transaction to {to:?}: the ledger takes batches by direct calls alone"
        )));
    }
    let record = BatchRecord::abi_decode(&e.record.abi_encode()).map_err(|error| corrupt(error.to_string()))?;
    Ok(ChainBatch::read(&input, record, &skipped, &domain(base.chain_id, base.escrow)))
}
