//! Payers' approvals that come along with payments: their gas money is brought, they are sent, and the payments behind them wait
//! until they are mined. Every step is in the database before it happens.

use std::collections::HashMap;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256};

use super::reasons::Reason;
use super::state::Network;
use crate::crash;
use crate::ctx::SharedCtx;
use crate::error::Result;
use crate::store::leases::Lease;
use crate::store::payments;
use crate::store::sponsored::{self, Approval};
use crate::store::txs;
use crate::types::{PaymentState, SponsoredState, TxState};

/// Approvals of one look; others wait.
const AT_ONCE: i64 = 32;
/// Approvals without an answer after which a look ends.
const UNANSWERED: u32 = 3;
/// Milliseconds between two times that an approval is sent.
const AGAIN_MS: i64 = 2_000;
/// Milliseconds after which an approval that is not mined is given up: its payer may have spent the gas money.
const PATIENCE_MS: i64 = 180_000;
/// Milliseconds between two times that the figures are told.
const TELL_MS: i64 = 15_000;

/// Approvals of a network.
#[derive(Default)]
pub(super) struct Approvals {
    /// When each was sent last, by time that only passes.
    sent: HashMap<B256, i64>,
    /// How many the next look passes over, so that each has its turn.
    skip: i64,
    told_ms: i64,
}

impl Approvals {
    /// One look at all that are on their way. True while some are left.
    pub(super) async fn round(&mut self, ctx: &SharedCtx, network: &Network, lease: &Lease) -> Result<bool> {
        self.tell(ctx, network).await?;
        let skip = std::mem::take(&mut self.skip);
        let open = sponsored::open(ctx.store.read(), network.config.chain_id, (skip, AT_ONCE)).await?;
        let elapsed_ms = ctx.clock.elapsed_ms();
        self.sent.retain(|_, at| elapsed_ms.saturating_sub(*at) < AGAIN_MS);
        if i64::try_from(open.len()).is_ok_and(|n| n == AT_ONCE) {
            self.skip = skip.saturating_add(AT_ONCE);
        }
        let mut unanswered = 0;
        for (at, approval) in (skip + 1..).zip(&open) {
            let done = match approval.state {
                SponsoredState::Funding => self.fund(ctx, network, lease, approval).await,
                _ => self.send(ctx, network, lease, approval).await,
            };
            if let Err(error) = done {
                tracing::warn!(approval = %approval.id, code = error.code(), %error, "cannot see to an approval");
                unanswered += 1;
                if unanswered >= UNANSWERED {
                    self.skip = at;
                    return Err(error);
                }
            }
        }
        Ok(skip > 0 || !open.is_empty())
    }

    /// Waits for the transaction that brings the gas money.
    async fn fund(&mut self, ctx: &SharedCtx, network: &Network, lease: &Lease, approval: &Approval) -> Result<()> {
        let tx = match approval.tx_id {
            Some(tx_id) => txs::get(ctx.store.read(), tx_id).await?,
            None => None,
        };
        match tx.map(|tx| (tx.state, tx.success)) {
            Some((TxState::Included | TxState::Done, Some(true))) => {
                let mut tx = lease.write(&ctx.store).await?;
                let (from, to) = (SponsoredState::Funding, SponsoredState::Sending);
                sponsored::step(&mut tx, approval.id, from, to, ctx.clock.now_ms()).await?;
                tx.commit().await?;
                let sending = Approval { state: to, ..approval.clone() };
                self.send(ctx, network, lease, &sending).await
            }
            Some((TxState::Queued | TxState::Signed | TxState::Sent, _)) => Ok(()),
            _ => end(ctx, network, lease, approval, Some("the payer's account does not take gas money")).await,
        }
    }

    /// Sends the payer's transaction until it is mined.
    async fn send(&mut self, ctx: &SharedCtx, network: &Network, lease: &Lease, approval: &Approval) -> Result<()> {
        let rpc = &network.rpc;
        if let Some(receipt) = rpc.receipt(approval.id).await? {
            let failed = (!receipt.status()).then_some("signedTransaction reverted");
            return end(ctx, network, lease, approval, failed).await;
        }
        let now_ms = ctx.clock.now_ms();
        if approval.nonce < rpc.nonce(approval.payer, BlockNumberOrTag::Latest).await? {
            let text = match rpc.receipt_anywhere(approval.id).await? {
                Some(receipt) => (!receipt.status()).then_some("signedTransaction reverted"),
                None => Some("another transaction of the payer took the nonce of signedTransaction"),
            };
            return end(ctx, network, lease, approval, text).await;
        }
        if now_ms.saturating_sub(approval.updated_ms) > PATIENCE_MS {
            return end(ctx, network, lease, approval, Some("signedTransaction was not mined in time")).await;
        }
        let elapsed_ms = ctx.clock.elapsed_ms();
        if self.sent.get(&approval.id).is_none_or(|at| elapsed_ms.saturating_sub(*at) >= AGAIN_MS) {
            self.sent.insert(approval.id, elapsed_ms);
            if let Err(failure) = rpc.broadcast(&approval.raw).await {
                tracing::warn!(approval = %approval.id, class = failure.class.as_str(), %failure, "an approval is not accepted");
            }
            crash::point(crash::SPONSORED[0]);
        }
        Ok(())
    }

    /// Tells what was given.
    #[allow(clippy::cast_precision_loss)]
    async fn tell(&mut self, ctx: &SharedCtx, network: &Network) -> Result<()> {
        let now_ms = ctx.clock.now_ms();
        if now_ms.saturating_sub(self.told_ms) < TELL_MS {
            return Ok(());
        }
        self.told_ms = now_ms;
        let chain_id = network.config.chain_id;
        let used = sponsored::used(ctx.store.read(), chain_id, Address::ZERO, now_ms).await?;
        let ether = |wei: u64| wei as f64 / 1e18;
        let chain = chain_id.to_string();
        metrics::gauge!("quittance_x402_sponsored_ether", "chain" => chain.clone()).set(ether(used.day));
        metrics::gauge!("quittance_x402_sponsor_budget_ether", "chain" => chain)
            .set(ether(network.config.sponsor.day_wei));
        Ok(())
    }
}

/// The end of an approval and what this means to the payments behind it.
async fn end(
    ctx: &SharedCtx,
    network: &Network,
    lease: &Lease,
    approval: &Approval,
    failed: Option<&str>,
) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let mut tx = lease.write(&ctx.store).await?;
    let to = if failed.is_some() { SponsoredState::Failed } else { SponsoredState::Done };
    let id = (network.config.chain_id, approval.id);
    let Some(waiting) = sponsored::end(&mut tx, id, approval.state, to, now_ms).await? else {
        return Ok(tx.rollback().await?);
    };
    for id in &waiting {
        match failed {
            Some(text) => {
                let because = (Reason::ApprovalFailed.as_str(), text);
                payments::fail(&mut tx, *id, PaymentState::Approving, because, None, now_ms).await?;
            }
            None => sponsored::approved(&mut tx, *id, now_ms).await?,
        }
    }
    crash::point(crash::SPONSORED[1]);
    tx.commit().await?;
    let outcome = failed.unwrap_or("mined");
    tracing::info!(target: "trail", step = "approval", approval = %approval.id, payer = %approval.payer, outcome);
    network.wake.notify_one();
    for id in waiting {
        ctx.x402.waiting.tell(id);
    }
    Ok(())
}
