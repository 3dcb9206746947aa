//! Looking behind every batch on the ledger: are its rows the ones under its root, and is there a receipt behind the units of
//! money that chance picks.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, U256};
use alloy::sol_types::SolCall;
use quittance_bindings::typed::Game;

use super::batch::ChainBatch;
use super::{LIMIT, load, stops};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::store::batches::Head;
use crate::store::challenges;
use crate::store::leases::Lease;
use crate::store::txs::{self, NewTx};

/// What a challenge carries: its calldata, and the name of its intent.
struct Pick {
    intent_key: String,
    calldata: Vec<u8>,
}

/// Looks behind batches whose window of `window` seconds is open, each once.
pub(super) async fn watch(ctx: &Ctx, role: &Lease, head: Head, window: i64, me: Address) -> Result<()> {
    let since = head.timestamp.saturating_sub(window);
    for chain_batch_id in challenges::unwatched(&ctx.store, ctx.config.base.ledger, since, LIMIT).await? {
        let batch = match load(ctx, chain_batch_id).await {
            Ok(batch) => batch,
            Err(error) if stops(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(batch = chain_batch_id, code = error.code(), %error, "not looked behind yet");
                continue;
            }
        };
        let (finding, picks) = match batch {
            Err(reason) => {
                metrics::counter!("quittance_batches_unreadable_total").increment(1);
                tracing::error!(batch = chain_batch_id, reason, "a batch whose rows nobody can read");
                (reason, Vec::new())
            }
            Ok(batch) if batch.record.keeperId == ctx.config.keeper.id => ("ours".to_owned(), Vec::new()),
            Ok(batch) if ctx.config.disputes.challenge => {
                let known = challenges::rows(&ctx.store, chain_batch_id).await?;
                let picks = picks(ctx, &batch, &known);
                (format!("{} rows challenged", picks.len()), picks)
            }
            Ok(_) => ("readable".to_owned(), Vec::new()),
        };
        let bond = if picks.is_empty() { 0 } else { bond(ctx).await? };
        let limit = ctx.config.disputes.max_stake.parse().unwrap_or(0);
        let chain_id = ctx.config.base.chain_id;
        let mut stake = if picks.is_empty() { 0 } else { challenges::at_stake(&ctx.store, chain_id, me).await? };
        let now_ms = ctx.clock.now_ms();
        let mut tx = role.write(&ctx.store).await?;
        if !challenges::watched(&mut tx, chain_batch_id, &finding, now_ms).await? {
            tx.rollback().await?;
            continue;
        }
        for pick in picks {
            stake = stake.saturating_add(bond);
            if stake > limit {
                tracing::warn!(batch = chain_batch_id, limit, "not challenged: disputes.max_stake is out already");
                break;
            }
            let new = NewTx {
                chain_id: ctx.config.base.chain_id,
                kind: "challenge",
                intent_key: pick.intent_key,
                target: ctx.config.base.dispute_game,
                calldata: pick.calldata.into(),
            };
            txs::enqueue_with(&mut tx, &new, bond, now_ms).await?;
        }
        tx.commit().await?;
        ctx.signals.base_txs.notify_one();
    }
    Ok(())
}

/// Random units of the batch's money: large rows are picked as often as their money weighs, each row at most once.
fn picks(ctx: &Ctx, batch: &ChainBatch, known: &[i64]) -> Vec<Pick> {
    let mut rows = Vec::new();
    for _ in 0..ctx.config.disputes.units {
        let total = batch.total();
        let Some((leaf, unit)) = (total > 0).then(|| rand::random_range(0..total)).and_then(|nth| batch.unit(nth))
        else {
            break;
        };
        if !known.contains(&i64::from(leaf.row)) && !rows.iter().any(|(row, _)| *row == leaf.row) {
            rows.push((leaf.row, unit));
        }
    }
    let pick = |(row, unit): (u32, u128)| {
        let (leaf, proof) = (batch.row(row)?.0.clone(), batch.proof(row)?);
        let intent_key = format!("challenge:{}:{row}", batch.record.batchId);
        let call = Game::challengeCall { record: batch.record.clone(), leaf, proof, unit };
        Some(Pick { intent_key, calldata: call.abi_encode() })
    };
    rows.into_iter().filter_map(pick).collect()
}

/// Wei of one bond: a quarter more than is asked now, since the base fee moves; whole gwei.
async fn bond(ctx: &Ctx) -> Result<u128> {
    let data = Game::challengeBondCall {}.abi_encode().into();
    let game = ctx.config.base.dispute_game;
    let answer = ctx.base.call(Address::ZERO, game, &data, BlockNumberOrTag::Latest.into()).await?;
    let least = Game::challengeBondCall::abi_decode_returns(&answer).map_err(|error| Error::Rpc {
        chain_id: ctx.config.base.chain_id,
        message: format!("challengeBond() of {game}: {error}"),
    })?;
    let gwei = U256::from(1_000_000_000);
    Ok(((least + least / U256::from(4)).div_ceil(gwei) * gwei).saturating_to())
}
