//! Answers to challenges, and the end of our own challenges that nobody answered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use alloy::sol_types::SolCall;
use quittance_bindings::typed::{Game, ReceiptEvidence};

use super::batch::ChainBatch;
use super::{LIMIT, RETRY_MS, load};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::settle::call;
use crate::store::batches::Head;
use crate::store::challenges::{self, Open};
use crate::store::receipts;
use crate::store::txs::{self, NewTx};

/// Batches of one tick, so that each is fetched once; `None` for one that cannot be read.
type Loaded = HashMap<i64, Option<ChainBatch>>;

/// Queues answers to open challenges whose receipts we hold.
pub(super) async fn answer(ctx: &Ctx, head: Head) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let mut loaded = Loaded::new();
    for open in challenges::answerable(&ctx.store, head.timestamp, now_ms.saturating_sub(RETRY_MS), LIMIT).await? {
        let calldata = match batch(ctx, &mut loaded, &open).await? {
            Some(batch) => answer_call(ctx, batch, &open).await?,
            None => None,
        };
        let Some(calldata) = calldata else {
            let mut tx = ctx.store.write().await?;
            challenges::set_looked(&mut tx, &open, now_ms).await?;
            tx.commit().await?;
            tracing::warn!(batch = open.chain_batch_id, row = open.row, "challenged row of which we hold no receipt");
            continue;
        };
        let new = new_tx(ctx, "answer", &open, open.answer_tx_id, calldata);
        let mut tx = ctx.store.write().await?;
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        challenges::set_answer_tx(&mut tx, &open, tx_id).await?;
        tx.commit().await?;
        tracing::info!(batch = open.chain_batch_id, row = open.row, tx_id, "answer queued");
        ctx.signals.base_txs.notify_one();
    }
    Ok(())
}

/// Queues the end of our own challenges whose time is over.
pub(super) async fn resolve(ctx: &Ctx, head: Head, me: alloy::primitives::Address) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let retry_before = now_ms.saturating_sub(RETRY_MS);
    let mut loaded = Loaded::new();
    for open in challenges::resolvable(&ctx.store, me, head.timestamp, retry_before, LIMIT).await? {
        let Some(batch) = batch(ctx, &mut loaded, &open).await? else { continue };
        let Some((leaf, order)) = u32::try_from(open.row).ok().and_then(|row| batch.row(row)) else { continue };
        let call = Game::resolveCall { record: batch.record.clone(), leaf: leaf.clone(), order: order.clone() };
        let new = new_tx(ctx, "resolve", &open, open.resolve_tx_id, call.abi_encode());
        let mut tx = ctx.store.write().await?;
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        challenges::set_resolve_tx(&mut tx, &open, tx_id).await?;
        tx.commit().await?;
        tracing::info!(batch = open.chain_batch_id, row = open.row, tx_id, "resolution queued");
        ctx.signals.base_txs.notify_one();
    }
    Ok(())
}

async fn answer_call(ctx: &Ctx, batch: &ChainBatch, open: &Open) -> Result<Option<Vec<u8>>> {
    let Some((leaf, order)) = u32::try_from(open.row).ok().and_then(|row| batch.row(row)) else { return Ok(None) };
    let Some(row) = receipts::by_hash(&ctx.store, leaf.receiptHash).await? else { return Ok(None) };
    let evidence = ReceiptEvidence {
        receipt: call::receipt(&row)?,
        inferenceSignature: row.inference_signature.into(),
        meterSignature: row.meter_signature.into(),
    };
    let (record, leaf, order) = (batch.record.clone(), leaf.clone(), order.clone());
    Ok(Some(Game::answerCall { record, leaf, order, evidence }.abi_encode()))
}

async fn batch<'a>(ctx: &Ctx, loaded: &'a mut Loaded, open: &Open) -> Result<Option<&'a ChainBatch>> {
    let batch = match loaded.entry(open.chain_batch_id) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let batch = load(ctx, open.chain_batch_id).await?;
            if let Err(reason) = &batch {
                tracing::warn!(batch = open.chain_batch_id, reason, "challenged batch cannot be read");
            }
            place.insert(batch.ok())
        }
    };
    Ok(batch.as_ref())
}

/// A transaction about a challenge; `before` is the one that had no effect.
fn new_tx(ctx: &Ctx, kind: &'static str, open: &Open, before: Option<i64>, calldata: Vec<u8>) -> NewTx {
    let key = format!("{kind}:{}:{}", open.chain_batch_id, open.row);
    NewTx {
        chain_id: ctx.config.base.chain_id,
        kind,
        intent_key: before.map_or_else(|| key.clone(), |tx_id| format!("{key}:{tx_id}")),
        target: ctx.config.base.dispute_game,
        calldata: calldata.into(),
    }
}
