//! Looks on the chain for who settled a payment that would not go through any more. Nothing is called failed that was paid.

use std::collections::HashMap;

use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;

use super::contracts::{PERMIT2, Permit2View, Token};
use super::evidence::{Kind, Trace, proven_spent};
use super::plan::Method;
use super::state::Network;
use crate::chain::batch::number;
use crate::chain::rpc::Head;
use crate::ctx::SharedCtx;
use crate::error::Result;
use crate::store::events;
use crate::store::leases::Lease;
use crate::store::payments::{self, Payment};
use crate::store::searches::{self, Find};
use crate::tx::classify::{Class, Failure};
use crate::types::PaymentState;

/// Payments of one look; others wait.
const AT_ONCE: i64 = 16;
/// Seconds that clocks and endpoints may differ: a search begins so long before the payment was first seen.
const SLACK: u64 = 120;
/// Milliseconds after which a payment whose nonce is not spent in any block is sent again.
const RETRY_MS: i64 = 3_000;
/// Milliseconds between a search that finds nothing and the one that confirms it: endpoints may be behind.
const CONFIRM_MS: i64 = 3_000;
/// Requests for logs of one look at a payment.
const LOOKS: u32 = 10;
/// Transactions that one look opens at most, newest first.
const MOST: usize = 200;
/// Seconds that a search goes back at most.
const LONGEST: u64 = 14 * 86_400;

/// Payments without an answer after which a look ends: an odd one must not stop the others, a dead endpoint must.
const UNANSWERED: u32 = 3;

/// What a look at the chain says.
enum Seen {
    /// The payer took the nonce back.
    Cancelled,
    Found(Vec<Find>),
    /// The nonce is spent; by what is not to be seen.
    Nothing,
    /// No block has the nonce.
    Unspent,
    /// Not all blocks were looked at.
    More,
}

/// Searches of a network.
pub(super) struct Search {
    /// Most blocks that the endpoints answer for.
    range: u64,
    /// When a search found nothing for the first time, milliseconds of time that only passes.
    missed: HashMap<B256, i64>,
    /// Block up to which a search that takes several looks has still to go.
    left: HashMap<B256, u64>,
    /// How many the next look passes over, so that each has its turn.
    skip: i64,
    /// The same of those that are found and not final.
    skip_found: i64,
}

impl Search {
    pub(super) fn new(network: &Network) -> Self {
        Self {
            range: network.config.log_range.max(1),
            missed: HashMap::new(),
            left: HashMap::new(),
            skip: 0,
            skip_found: 0,
        }
    }

    /// One look at all that is searched. True while something is left.
    pub(super) async fn round(&mut self, ctx: &SharedCtx, network: &Network, lease: &Lease) -> Result<bool> {
        let chain_id = network.config.chain_id;
        finish(ctx, network, lease, &mut self.skip_found).await?;
        let skip = std::mem::take(&mut self.skip);
        let open = searches::open(ctx.store.read(), chain_id, (skip, AT_ONCE)).await?;
        if i64::try_from(open.len()).is_ok_and(|n| n == AT_ONCE) {
            self.skip = skip.saturating_add(AT_ONCE);
        } else if skip == 0 {
            // These are all: what is known of others is of no use any more.
            let is_open = |id: &B256| open.iter().any(|payment| payment.new.payment_id == *id);
            self.missed.retain(|id, _| is_open(id));
            self.left.retain(|id, _| is_open(id));
        }
        let mut unanswered = 0;
        for (at, payment) in (skip + 1..).zip(&open) {
            ctx.life.beat(network.aside_beat);
            let looked = match Trace::of(payment) {
                Some(trace) => {
                    let first = u64::try_from(payment.created_ms / 1_000).unwrap_or(0).saturating_sub(SLACK);
                    let since = first.max(ctx.clock.now().saturating_sub(LONGEST));
                    self.look(network, &trace, since).await
                }
                None => Ok(Seen::Nothing),
            };
            let seen = match looked {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::warn!(payment = %payment.new.payment_id, code = error.code(), %error, "cannot look for a payment");
                    unanswered += 1;
                    if unanswered >= UNANSWERED {
                        self.skip = at;
                        return Err(error);
                    }
                    continue;
                }
            };
            self.conclude(ctx, network, lease, payment, seen).await?;
        }
        Ok(skip > 0 || !open.is_empty())
    }

    /// Reads logs from the newest block back to `since`, unix seconds, some at a time: a long search keeps no other one waiting.
    async fn look(&mut self, network: &Network, trace: &Trace, since: u64) -> Result<Seen> {
        let rpc = &network.rpc;
        let Some(head) = rpc.head(BlockNumberOrTag::Latest).await? else { return Ok(Seen::Unspent) };
        if !spent(network, trace, head).await? {
            return Ok(Seen::Unspent);
        }
        let id = trace.payment_id;
        let mut to = self.left.remove(&id).unwrap_or(head.number).min(head.number);
        let began = to;
        let mut opened = Vec::new();
        let mut looks = 0;
        while looks < LOOKS {
            looks += 1;
            let from = (to + 1).saturating_sub(self.range);
            let logs = match rpc.logs(trace.filter().from_block(from).to_block(to)).await {
                Ok(logs) => logs,
                Err(Failure { class: Class::RangeTooLarge, .. }) if self.range > 1 => {
                    self.range = self.range.div_ceil(2);
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            for log in logs.iter().rev().filter(|log| !log.removed) {
                match trace.reads(log) {
                    Some(Kind::Cancelled) => return Ok(Seen::Cancelled),
                    Some(Kind::Candidate(hash)) if !opened.contains(&hash) => {
                        if opened.len() >= MOST {
                            // On from there at the next look; never from where this one began.
                            let Some(block) = log.block_number.filter(|block| *block < began) else {
                                return Ok(Seen::Nothing);
                            };
                            self.left.insert(id, block);
                            return Ok(Seen::More);
                        }
                        opened.push(hash);
                        let found = open(network, trace, hash).await?;
                        if !found.is_empty() {
                            return Ok(Seen::Found(found));
                        }
                    }
                    _ => {}
                }
            }
            if from == 0 || rpc.head(from.into()).await?.is_none_or(|first| first.timestamp < since) {
                return Ok(Seen::Nothing);
            }
            to = from - 1;
        }
        self.left.insert(id, to);
        Ok(Seen::More)
    }

    /// Whether a search has found nothing for a while; the first time it begins to count.
    fn confirmed(&mut self, ctx: &SharedCtx, id: B256) -> bool {
        let elapsed_ms = ctx.clock.elapsed_ms();
        elapsed_ms.saturating_sub(*self.missed.entry(id).or_insert(elapsed_ms)) >= CONFIRM_MS
    }

    async fn conclude(
        &mut self,
        ctx: &SharedCtx,
        network: &Network,
        lease: &Lease,
        payment: &Payment,
        seen: Seen,
    ) -> Result<()> {
        let id = payment.new.payment_id;
        let now_ms = ctx.clock.now_ms();
        let reason = payment.reason.clone().unwrap_or_default();
        let text = payment.message.clone().unwrap_or_default();
        let mut tx = lease.write(&ctx.store).await?;
        let outcome = match seen {
            Seen::More => return Ok(tx.rollback().await?),
            Seen::Found(finds) => {
                let mut settled = false;
                for find in &finds {
                    settled = settled || searches::settle(&mut tx, id, find, now_ms).await?;
                }
                if settled {
                    "found"
                } else {
                    let text = "another payment was settled by what spent this nonce";
                    fail(&mut tx, id, (&reason, text), now_ms).await?;
                    "another"
                }
            }
            // Endpoints may be behind.
            Seen::Nothing if !self.confirmed(ctx, id) => return Ok(tx.rollback().await?),
            Seen::Unspent if !proven_spent(&reason) && !self.confirmed(ctx, id) => {
                return Ok(tx.rollback().await?);
            }
            Seen::Unspent if !proven_spent(&reason) => {
                fail(&mut tx, id, (&reason, &text), now_ms).await?;
                "unspent"
            }
            Seen::Unspent if now_ms.saturating_sub(payment.updated_ms) < RETRY_MS => return Ok(tx.rollback().await?),
            Seen::Unspent => {
                searches::resume(&mut tx, id, now_ms).await?;
                network.wake.notify_one();
                "again"
            }
            Seen::Cancelled => {
                fail(&mut tx, id, (&reason, "the payer cancelled the authorization: no money moved"), now_ms).await?;
                "cancelled"
            }
            Seen::Nothing => {
                let text = "the nonce is spent, and not by this payment: sign a new one";
                fail(&mut tx, id, (&reason, text), now_ms).await?;
                "none"
            }
        };
        tx.commit().await?;
        self.missed.remove(&id);
        self.left.remove(&id);
        metrics::counter!("quittance_x402_searched_total", "outcome" => outcome).increment(1);
        tracing::info!(target: "trail", step = "payment_searched", payment = %id, outcome);
        ctx.x402.waiting.tell(id);
        Ok(())
    }
}

async fn fail(tx: &mut crate::store::WriteTx, id: B256, because: (&str, &str), now_ms: i64) -> Result<()> {
    payments::fail(tx, id, PaymentState::Searching, because, None, now_ms).await?;
    Ok(())
}

/// Whether a payment's nonce is spent at a block.
async fn spent(network: &Network, trace: &Trace, head: Head) -> Result<bool> {
    let (contract, data, mask) = if trace.method == Method::Eip3009 {
        let call = Token::authorizationStateCall { authorizer: trace.payer, nonce: trace.nonce };
        (trace.asset, call.abi_encode(), U256::MAX)
    } else {
        let nonce = U256::from_be_bytes(trace.nonce.0);
        let call = Permit2View::nonceBitmapCall { owner: trace.payer, word: nonce >> 8 };
        (PERMIT2, call.abi_encode(), U256::ONE << (nonce & U256::from(0xff)))
    };
    let answer = match network.rpc.call(Address::ZERO, contract, &data.into(), BlockId::number(head.number)).await {
        Ok(answer) => answer,
        // A token that does not know authorizations.
        Err(Failure { class: Class::Reverted(_), .. }) => return Ok(false),
        Err(failure) => return Err(failure.into()),
    };
    Ok(number(&answer).is_some_and(|word| !(word & mask).is_zero()))
}

/// The payment in a transaction, if it is there.
async fn open(network: &Network, trace: &Trace, hash: B256) -> Result<Vec<Find>> {
    let input = network.rpc.input(hash).await?;
    if !input.is_some_and(|(_, input)| trace.is_in(&input)) {
        return Ok(Vec::new());
    }
    let receipt = network.rpc.receipt_anywhere(hash).await?;
    Ok(receipt.map(|receipt| trace.finds(&receipt, network.config.forwarder)).unwrap_or_default())
}

/// Notes that the blocks of what others settled are final, or gone.
async fn finish(ctx: &SharedCtx, network: &Network, lease: &Lease, skip: &mut i64) -> Result<()> {
    let from = std::mem::take(skip);
    let open = searches::not_final(ctx.store.read(), network.config.chain_id, (from, AT_ONCE)).await?;
    if i64::try_from(open.len()).is_ok_and(|n| n == AT_ONCE) {
        *skip = from.saturating_add(AT_ONCE);
    }
    if open.is_empty() {
        return Ok(());
    }
    let finalized = if network.config.instant {
        u64::MAX
    } else if network.followed {
        events::cursor(ctx.store.read(), network.config.chain_id).await?.map_or(0, |cursor| cursor.finalized)
    } else {
        network.rpc.head(BlockNumberOrTag::Finalized).await?.map_or(0, |head| head.number)
    };
    for (id, place) in open {
        let block = network.rpc.head(place.block_number.into()).await?;
        let stands = block.is_some_and(|block| block.hash == place.block_hash);
        if stands && place.block_number > finalized {
            continue;
        }
        if !stands
            && network
                .rpc
                .receipt_anywhere(place.tx_hash)
                .await?
                .is_some_and(|receipt| receipt.block_hash == Some(place.block_hash))
        {
            continue;
        }
        let mut tx = lease.write(&ctx.store).await?;
        searches::close(&mut tx, id, stands, ctx.clock.now_ms()).await?;
        tx.commit().await?;
        if !stands {
            tracing::warn!(payment = %id, "the block in which others settled it is gone: it is looked for again");
        }
    }
    Ok(())
}
