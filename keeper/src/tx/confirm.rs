//! Confirming and unsticking: what became of the transactions that have a nonce.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::B256;
use alloy::rpc::types::TransactionReceipt;

use super::classify::Class;
use super::signer::{Payload, sign};
use super::{Manager, Seat};
use crate::crash;
use crate::error::Result;
use crate::store::events;
use crate::store::txs::{self, Inclusion, TxRow};
use crate::types::TxState;

/// A fee that should do and does not is raised anyway after so many times `fees.bump_ms`.
const ANYWAY: i64 = 5;
/// Gaps in the nonces that are filled at one look.
const GAPS: u64 = 4;

impl Manager {
    /// Asks for receipts of what the chain has counted, and ends what is final.
    pub(super) async fn confirm(&self, seat: &Seat, latest: u64) -> Result<()> {
        let view = self.view();
        let open = txs::open(self.ctx.store.read(), view.chain_id, seat.signer).await?;
        let included = open.iter().any(|row| row.state == TxState::Included);
        let finalized = if included && !view.instant { self.finalized().await? } else { 0 };
        for row in open {
            match (row.state, row.block_number, row.nonce) {
                (TxState::Included, Some(block), _) => self.settle_included(seat, &row, block, finalized).await?,
                (_, _, Some(nonce)) if nonce < latest => self.find_receipt(seat, &row, nonce).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The last block that is final.
    async fn finalized(&self) -> Result<u64> {
        let view = self.view();
        if view.followed {
            let cursor = events::cursor(self.ctx.store.read(), view.chain_id).await?;
            return Ok(cursor.map_or(0, |cursor| cursor.finalized));
        }
        Ok(view.rpc.head(BlockNumberOrTag::Finalized).await?.map_or(0, |head| head.number))
    }

    /// An included transaction: back on its way when its block is gone, at its end when its block is final.
    async fn settle_included(&self, seat: &Seat, row: &TxRow, block: u64, finalized: u64) -> Result<()> {
        let view = self.view();
        let stored = events::block_below(self.ctx.store.read(), view.chain_id, block).await?;
        let gone = stored.is_some_and(|(number, hash, _)| number == block && Some(hash) != row.block_hash);
        if !gone && !view.instant && block > finalized {
            return Ok(());
        }
        // Final, or gone: the receipt is asked for once more, because the first one may have come from another fork.
        let Some(tx_hash) = row.tx_hash else { return Ok(()) };
        let receipt = if gone { None } else { view.rpc.receipt_anywhere(tx_hash).await? };
        if receipt.is_none() && !gone && self.left_events(tx_hash).await? {
            return Ok(());
        }
        let now_ms = self.ctx.clock.now_ms();
        let mut tx = seat.lease.write(&self.ctx.store).await?;
        match receipt.as_ref().and_then(inclusion) {
            Some(found) if Some(found.block_hash) == row.block_hash => {
                txs::conclude(&mut tx, row.tx_id, found.success, now_ms).await?;
                tracing::info!(tx_id = row.tx_id, intent = row.intent_key, success = found.success, "final");
            }
            Some(found) => txs::include(&mut tx, row.tx_id, &found, now_ms).await?,
            None => {
                tracing::warn!(
                    tx_id = row.tx_id,
                    intent = row.intent_key,
                    block,
                    "its block is gone: on its way again"
                );
                txs::exclude(&mut tx, row.tx_id, now_ms).await?;
            }
        }
        tx.commit().await?;
        self.lane.tell(&self.ctx);
        Ok(())
    }

    /// A nonce that the chain has counted: by one of our envelopes, or by a transaction that is none of ours.
    async fn find_receipt(&self, seat: &Seat, row: &TxRow, nonce: u64) -> Result<()> {
        let view = self.view();
        let mut found = None;
        let mut seen = false;
        for attempt in txs::attempts(self.ctx.store.read(), row.tx_id).await? {
            seen |= self.left_events(attempt.tx_hash).await?;
            found = view.rpc.receipt_anywhere(attempt.tx_hash).await?.as_ref().and_then(inclusion);
            if found.is_some() {
                break;
            }
        }
        let now_ms = self.ctx.clock.now_ms();
        if let Some(found) = found {
            if !found.success {
                super::reverted(self.name(), &row.kind, "reverted: on_chain");
            }
            let mut tx = seat.lease.write(&self.ctx.store).await?;
            txs::include(&mut tx, row.tx_id, &found, now_ms).await?;
            if view.instant {
                txs::conclude(&mut tx, row.tx_id, found.success, now_ms).await?;
            }
            tx.commit().await?;
            crash::point("after_include");
            self.lane.tell(&self.ctx);
            tracing::info!(
                tx_id = row.tx_id, intent = row.intent_key, hash = %found.tx_hash, block = found.block_number,
                success = found.success, "included"
            );
            return Ok(());
        }
        if seen {
            tracing::warn!(tx_id = row.tx_id, "its events are on the chain, but no endpoint has its receipt");
            return Ok(());
        }
        // No endpoint has a receipt: lost only when what took the nonce cannot be undone.
        let tag = if view.instant { BlockNumberOrTag::Latest } else { BlockNumberOrTag::Finalized };
        if nonce < view.rpc.nonce(seat.signer, tag).await? {
            let mut tx = seat.lease.write(&self.ctx.store).await?;
            txs::requeue(&mut tx, row.tx_id, now_ms).await?;
            tx.commit().await?;
            metrics::counter!("quittance_tx_nonces_lost_total", "chain" => self.name()).increment(1);
            tracing::error!(
                tx_id = row.tx_id,
                intent = row.intent_key,
                nonce,
                "another transaction of this key took the nonce: queued again; use the key for nothing else"
            );
        }
        Ok(())
    }

    /// Whether canonical events name a transaction: then it is mined, whatever an endpoint forgot.
    async fn left_events(&self, tx_hash: B256) -> Result<bool> {
        events::any_of_tx(self.ctx.store.read(), tx_hash).await
    }

    /// Sends again what is not mined, raises the fee of the lowest nonce, fills gaps below it.
    pub(super) async fn unstick(&self, latest: u64) -> Result<()> {
        let view = self.view();
        let open = txs::open(self.ctx.store.read(), view.chain_id, self.me()).await?;
        let mut lowest = true;
        for row in open.iter().filter(|row| row.state != TxState::Included) {
            let Some(nonce) = row.nonce.filter(|nonce| *nonce >= latest) else { continue };
            let attempts = txs::attempts(self.ctx.store.read(), row.tx_id).await?;
            let Some(newest) = attempts.first() else { continue };
            let now_ms = self.ctx.clock.now_ms();
            let fees = &self.ctx.config.fees;
            let [again, bump] = [fees.rebroadcast_ms, fees.bump_ms].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
            if std::mem::take(&mut lowest) {
                let age = now_ms.saturating_sub(newest.created_ms);
                if nonce > latest && age > bump {
                    let market = self.market().await?;
                    for missing in (latest..nonce).take(usize::try_from(GAPS).unwrap_or(1)) {
                        self.fill(missing, &market).await?;
                    }
                } else {
                    let underpriced = newest.last_error.as_deref() == Some(Class::Underpriced.as_str());
                    if (age > bump || underpriced) && self.replace(row, nonce, newest, underpriced).await? {
                        continue;
                    }
                }
            }
            if newest.broadcast_ms.is_none_or(|at| now_ms.saturating_sub(at) >= again) {
                self.broadcast(row.tx_id, newest).await?;
            }
        }
        Ok(())
    }

    /// Replaces an envelope by one that offers more, when it offers too little or is stuck anyway. False when it stays.
    async fn replace(&self, row: &TxRow, nonce: u64, newest: &txs::Attempt, underpriced: bool) -> Result<bool> {
        let market = self.market().await?;
        let now_ms = self.ctx.clock.now_ms();
        let bump = i64::try_from(self.ctx.config.fees.bump_ms).unwrap_or(i64::MAX);
        let stuck = now_ms.saturating_sub(newest.created_ms) > bump.saturating_mul(ANYWAY);
        if market.takes(newest.fee) && !stuck && !underpriced {
            return Ok(false);
        }
        let Some(fee) = market.replace(newest.fee, self.limits()) else {
            metrics::counter!("quittance_tx_at_fee_cap_total", "chain" => self.name()).increment(1);
            tracing::warn!(tx_id = row.tx_id, max_fee = newest.fee.max_fee, "stuck at fees.max_fee_wei");
            return Ok(false);
        };
        let payload = Payload {
            chain_id: self.view().chain_id,
            nonce,
            gas_limit: row.gas_limit.unwrap_or(super::MAX_GAS),
            target: row.target,
            value: row.value,
            calldata: row.calldata.clone(),
        };
        let attempt = sign(&self.key, &payload, fee, now_ms)?;
        let mut tx = self.own.lease.write(&self.ctx.store).await?;
        txs::add_attempt(&mut tx, row.tx_id, &attempt).await?;
        tx.commit().await?;
        crash::point("after_replace_before_send");
        tracing::info!(
            tx_id = row.tx_id,
            nonce,
            old = newest.fee.max_fee,
            new = fee.max_fee,
            "replaced at a higher fee"
        );
        metrics::counter!("quittance_tx_replaced_total", "chain" => self.name()).increment(1);
        self.broadcast(row.tx_id, &attempt).await?;
        Ok(true)
    }
}

/// What a receipt says; `None` while it names no block.
fn inclusion(receipt: &TransactionReceipt) -> Option<Inclusion> {
    Some(Inclusion {
        tx_hash: receipt.transaction_hash,
        block_number: receipt.block_number?,
        block_hash: receipt.block_hash?,
        gas_used: receipt.gas_used,
        effective_price: receipt.effective_gas_price,
        success: receipt.status(),
    })
}
