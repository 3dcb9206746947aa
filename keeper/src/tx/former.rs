//! A key that was replaced: what it signed and nobody sees to any more. Its envelopes are stored, so that they can be sent again
//! and followed to their end; only what can never be mined gets an envelope of the present key.

use alloy::eips::BlockNumberOrTag;

use super::classify::Class;
use super::{Manager, Seat};
use crate::error::Result;
use crate::store::txs;
use crate::types::TxState;

impl Manager {
    /// Follows the open transactions of keys that no keeper on this database has. The role of such a key is taken for one look
    /// at a time: a keeper that has the key takes it back in between.
    pub(super) async fn see_to_former_keys(&mut self) -> Result<()> {
        let all = txs::other_signers(self.ctx.store.read(), self.view().chain_id, self.me()).await?;
        let signers: Vec<_> =
            all.into_iter().filter(|(_, lane)| self.lane.inherits(&self.ctx, lane)).map(|(signer, _)| signer).collect();
        self.former.retain(|signer, _| signers.contains(signer));
        for signer in signers {
            let seat = self.former.remove(&signer);
            let mut seat = seat.unwrap_or_else(|| Seat::new(&self.ctx, self.lane, signer));
            let looked = if seat.lease.hold(&self.ctx.store, self.ctx.clock.elapsed_ms()).await? {
                let looked = self.see_to(&seat).await;
                seat.lease.release(&self.ctx.store).await?;
                looked
            } else {
                Ok(())
            };
            self.former.insert(signer, seat);
            looked?;
        }
        Ok(())
    }

    async fn see_to(&self, seat: &Seat) -> Result<()> {
        let chain_id = self.view().chain_id;
        let latest = self.view().rpc.nonce(seat.signer, BlockNumberOrTag::Latest).await?;
        self.confirm(seat, latest).await?;
        for row in txs::open(self.ctx.store.read(), chain_id, seat.signer).await? {
            if row.state == TxState::Included || row.nonce.is_none_or(|nonce| nonce < latest) {
                continue;
            }
            let attempts = txs::attempts(self.ctx.store.read(), row.tx_id).await?;
            let Some(newest) = attempts.first() else { continue };
            let now_ms = self.ctx.clock.now_ms();
            if newest.last_error.as_deref() == Some(Class::InsufficientFunds.as_str()) {
                // Should somebody fund that account and send it all the same, the chain does nothing twice.
                let mut tx = seat.lease.write(&self.ctx.store).await?;
                txs::requeue(&mut tx, row.tx_id, now_ms).await?;
                tx.commit().await?;
                tracing::warn!(tx_id = row.tx_id, intent = row.intent_key, former = %seat.signer, "a replaced key has no gas money left: queued again");
                continue;
            }
            let again = i64::try_from(self.ctx.config.fees.rebroadcast_ms).unwrap_or(i64::MAX);
            if newest.broadcast_ms.is_none_or(|at| now_ms.saturating_sub(at) >= again) {
                tracing::info!(tx_id = row.tx_id, intent = row.intent_key, former = %seat.signer, "sending what a replaced key has signed");
                self.broadcast(row.tx_id, newest).await?;
            }
        }
        Ok(())
    }
}
