//! Answers to challenges, and the end of our own challenges that nobody answered. What fails for one stops no other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use alloy::primitives::Address;
use alloy::sol_types::SolCall;
use quittance_bindings::typed::{Game, ReceiptEvidence};

use super::batch::ChainBatch;
use super::{LIMIT, RETRY_MS, load, stops};
use crate::crash;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::settle::call;
use crate::store::batches::Head;
use crate::store::challenges::{self, Act, Open};
use crate::store::leases::Lease;
use crate::store::receipts;
use crate::store::txs::{self, NewTx};

/// Milliseconds before what an endpoint did not tell is asked again.
const ASK_AGAIN_MS: i64 = 5_000;

/// Batches of one tick, so that each is fetched once; `None` for one that cannot be read now.
type Loaded = HashMap<i64, Option<ChainBatch>>;

/// Queues answers to open challenges whose receipts we hold, and the end of those of `me` whose time is over.
///
/// # Errors
/// `store_failed`, `lease_lost`.
pub(super) async fn end(ctx: &Ctx, role: &Lease, head: Head, me: Address) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let retry_before = now_ms.saturating_sub(RETRY_MS);
    let mut loaded = Loaded::new();
    for (act, open) in challenges::due(&ctx.store, me, head.timestamp, retry_before, LIMIT).await? {
        let (batch_id, row) = (open.chain_batch_id, open.row);
        let looked_ms = match calldata(ctx, &mut loaded, act, &open).await {
            Ok(Some(calldata)) => {
                queue(ctx, role, act, &open, calldata).await?;
                continue;
            }
            Ok(None) => {
                tracing::warn!(batch_id, row, act = act.as_str(), "nothing to end this challenge with");
                now_ms
            }
            Err(error) if stops(&error) => return Err(error),
            Err(error) => {
                tracing::error!(batch_id, row, act = act.as_str(), code = error.code(), %error, "challenge put off");
                retry_before.saturating_add(ASK_AGAIN_MS)
            }
        };
        let mut tx = role.write(&ctx.store).await?;
        challenges::put_off(&mut tx, &open, looked_ms).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn queue(ctx: &Ctx, role: &Lease, act: Act, open: &Open, calldata: Vec<u8>) -> Result<()> {
    let key = format!("{}:{}:{}", act.as_str(), open.chain_batch_id, open.row);
    let new = NewTx {
        chain_id: ctx.config.base.chain_id,
        kind: act.as_str(),
        // The last one had no effect.
        intent_key: open.last_tx(act).map_or_else(|| key.clone(), |tx_id| format!("{key}:{tx_id}")),
        target: ctx.config.base.dispute_game,
        calldata: calldata.into(),
    };
    let mut tx = role.write(&ctx.store).await?;
    let tx_id = txs::enqueue(&mut tx, &new, ctx.clock.now_ms()).await?;
    challenges::set_tx(&mut tx, act, open, tx_id).await?;
    tx.commit().await?;
    crash::point(crash::ANSWERING);
    tracing::info!(batch_id = open.chain_batch_id, row = open.row, tx_id, kind = act.as_str(), "challenge: queued");
    ctx.signals.base_txs.notify_one();
    Ok(())
}

/// The call that ends a challenge; `None` when we have nothing for it.
async fn calldata(ctx: &Ctx, loaded: &mut Loaded, act: Act, open: &Open) -> Result<Option<Vec<u8>>> {
    let Some(batch) = batch(ctx, loaded, open).await? else { return Ok(None) };
    let Some((leaf, order)) = u32::try_from(open.row).ok().and_then(|row| batch.row(row)) else { return Ok(None) };
    let (record, leaf, order) = (batch.record.clone(), leaf.clone(), order.clone());
    if act == Act::Resolve {
        return Ok(Some(Game::resolveCall { record, leaf, order }.abi_encode()));
    }
    let Some(row) = receipts::of_order(&ctx.store, leaf.paymentId, leaf.receiptHash).await? else { return Ok(None) };
    let evidence = ReceiptEvidence {
        receipt: call::receipt(&row)?,
        inferenceSignature: row.inference_signature.into(),
        meterSignature: row.meter_signature.into(),
    };
    Ok(Some(Game::answerCall { record, leaf, order, evidence }.abi_encode()))
}

/// The batch of a challenge. One that cannot be read is asked for once in a tick.
async fn batch<'a>(ctx: &Ctx, loaded: &'a mut Loaded, open: &Open) -> Result<Option<&'a ChainBatch>> {
    let place = match loaded.entry(open.chain_batch_id) {
        Entry::Occupied(known) => return Ok(known.into_mut().as_ref()),
        Entry::Vacant(place) => place,
    };
    match load(ctx, open.chain_batch_id).await {
        Ok(Ok(batch)) => Ok(place.insert(Some(batch)).as_ref()),
        Ok(Err(reason)) => {
            tracing::warn!(batch_id = open.chain_batch_id, reason, "challenged batch cannot be read");
            place.insert(None);
            Ok(None)
        }
        Err(error) => {
            place.insert(None);
            Err(error)
        }
    }
}
