//! The transaction manager: one actor per lane, which is one key on one chain. Every look is recover → confirm → unstick → send, so that a start
//! is no special case. The nonce is a column of the transaction's row; nonce, signed bytes and attempt are stored before
//! anything is broadcast; what an endpoint answers to a broadcast never decides, only receipts do.

pub mod classify;
mod confirm;
pub mod fees;
mod former;
pub mod lane;
pub mod signer;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip1898::BlockId;
use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, U256};
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use self::classify::{Class, Failure, revert_reason};
use self::fees::{Limits, Market};
use self::lane::Lane;
use self::signer::{Payload, sign};
use crate::chain::View;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Error, Result};
use crate::store::leases::Lease;
use crate::store::txs::{self, Attempt, NewTx, TxRow};
use crate::x402::sponsor::TOP_UP_GAS;
use crate::{crash, crypto};

/// Gas of one transaction at most: Base refuses more than 2^24, and a margin keeps estimates honest.
const MAX_GAS: u64 = 15_000_000;
/// Looks at which a simulation must revert before its transaction is taken out: endpoints may be behind.
const REVERTS: u32 = 3;
/// And for how long, milliseconds.
const REVERT_MS: i64 = 2_000;
/// Simulations without an answer after which a look ends: one odd transaction must not stop the others, a dead endpoint must.
const UNANSWERED: u32 = 3;
/// Percentile of recent tips.
const PERCENTILE: f64 = 50.0;
/// Queued transactions looked at in one go.
const LOOK_AHEAD: i64 = 32;

/// Sends and confirms the transactions of one lane until `stop`.
///
/// # Errors
/// `bad_configuration` when the key cannot be loaded; `store_corrupt`. What an endpoint or the database fails to do is tried
/// again at the next tick.
pub async fn run(ctx: SharedCtx, lane: Lane, stop: CancellationToken) -> Result<()> {
    let source = lane.view(&ctx).key.clone();
    let key = tokio::task::spawn_blocking(move || crypto::load_signer(&source))
        .await
        .map_err(|error| Error::Config(format!("cannot load the key: {error}")))??;
    let span = info_span!("txs", chain = lane.as_str(&ctx), signer = %key.address());
    let mut manager = Manager::new(ctx.clone(), lane, key);
    async {
        let view = lane.view(&ctx);
        while !stop.is_cancelled() {
            ctx.life.beat(lane.beat(&ctx));
            let mut pause = view.tick;
            match manager.tick().await {
                Ok(Sent::Nothing) => {}
                Ok(Sent::Waiting) => pause = view.busy,
                Err(error @ (Error::Corrupt { .. } | Error::Config(_))) => return Err(error),
                Err(error) => tracing::warn!(code = error.code(), %error, "look at transactions failed"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = view.txs.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        manager.own.lease.release(&ctx.store).await
    }
    .instrument(span)
    .await
}

/// A key's transactions and the right to see to them.
struct Seat {
    signer: Address,
    lease: Lease,
}

impl Seat {
    fn new(ctx: &Ctx, lane: Lane, signer: Address) -> Self {
        let name = format!("signer:{}:{signer}", lane.view(ctx).chain_id);
        Self { signer, lease: Lease::new(name, &ctx.installation) }
    }
}

/// What a look left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Nothing,
    /// Transactions that no block has.
    Waiting,
}

/// The actor.
pub(crate) struct Manager {
    ctx: SharedCtx,
    lane: Lane,
    key: PrivateKeySigner,
    own: Seat,
    /// Keys that this keeper had before and whose transactions are not at their end.
    former: HashMap<Address, Seat>,
    /// Reverted simulations in a row and when the first was, by transaction.
    reverts: HashMap<i64, (u32, i64)>,
}

impl Manager {
    pub(crate) fn new(ctx: SharedCtx, lane: Lane, key: PrivateKeySigner) -> Self {
        let own = Seat::new(&ctx, lane, key.address());
        Self { ctx, lane, key, own, former: HashMap::new(), reverts: HashMap::new() }
    }

    fn view(&self) -> View<'_> {
        self.lane.view(&self.ctx)
    }

    fn name(&self) -> &'static str {
        self.lane.as_str(&self.ctx)
    }

    fn me(&self) -> Address {
        self.key.address()
    }

    fn limits(&self) -> Limits {
        let fees = &self.ctx.config.fees;
        Limits { max_fee: fees.max_fee_wei.into(), min_tip: fees.min_tip_wei.into() }
    }

    /// One look.
    pub(crate) async fn tick(&mut self) -> Result<Sent> {
        if !self.own.lease.hold(&self.ctx.store, self.ctx.clock.elapsed_ms()).await? {
            return Ok(Sent::Nothing);
        }
        let view = self.view();
        // A lane of payments that has nothing to do asks nobody; the first of a network sees to what others left.
        let own = matches!(self.lane, Lane::Own(_) | Lane::X402 { key: 0, .. });
        if !own && !txs::any_left(self.ctx.store.read(), view.chain_id, view.lane, self.me()).await? {
            return Ok(Sent::Nothing);
        }
        let latest = view.rpc.nonce(self.me(), BlockNumberOrTag::Latest).await?;
        self.confirm(&self.own, latest).await?;
        self.unstick(latest).await?;
        let sent = self.send(latest).await?;
        self.see_to_former_keys().await?;
        Ok(sent)
    }

    /// What the chain asks for now.
    async fn market(&self) -> Result<Market> {
        let rpc = self.view().rpc;
        match rpc.fee_history(PERCENTILE).await {
            Ok(history) if !history.base_fee_per_gas.is_empty() => {
                let base_fee = history.base_fee_per_gas.last().copied().unwrap_or_default();
                let rewards = history.reward.unwrap_or_default();
                let tips = rewards.iter().filter_map(|block| block.first().copied()).collect();
                Ok(Market::new(base_fee, tips, self.limits()))
            }
            // A chain without fee history names one price.
            _ => Ok(Market::new(rpc.gas_price().await?, Vec::new(), self.limits())),
        }
    }

    /// Gives queued transactions a nonce and sends them while the window has room.
    async fn send(&mut self, latest: u64) -> Result<Sent> {
        let ctx = self.ctx.clone();
        let view = self.lane.view(&ctx);
        let open = txs::open(self.ctx.store.read(), view.chain_id, self.me()).await?;
        let mut in_flight = open.iter().filter(|row| row.block_number.is_none()).count();
        let queued = txs::queued(self.ctx.store.read(), view.chain_id, view.lane, LOOK_AHEAD).await?;
        self.reverts.retain(|tx_id, _| queued.iter().any(|row| row.tx_id == *tx_id));
        gauge("quittance_tx_in_flight", self.name(), in_flight);
        gauge("quittance_tx_queued", self.name(), queued.len());
        let waiting = |in_flight| if in_flight == 0 { Sent::Nothing } else { Sent::Waiting };
        if queued.is_empty() || in_flight >= view.in_flight {
            return Ok(waiting(in_flight));
        }
        let market = self.market().await?;
        let Some(fee) = market.offer(self.limits()) else {
            tracing::warn!(base_fee = market.base_fee, "gas costs more than fees.max_fee_wei: waiting");
            return Ok(waiting(in_flight));
        };
        let mut balance = view.rpc.balance(self.me()).await?;
        let mut unanswered = 0;
        for row in queued {
            if in_flight >= view.in_flight {
                break;
            }
            let gas_limit = match self.simulate(&row).await {
                Ok(Some(gas)) => gas,
                Ok(None) => continue,
                Err(failure) if failure.class == Class::InsufficientFunds => {
                    self.pause(balance, U256::from(row.value));
                    if is_gift(&row) {
                        continue;
                    }
                    break;
                }
                Err(failure) => {
                    tracing::warn!(tx_id = row.tx_id, intent = row.intent_key, %failure, "cannot simulate");
                    unanswered += 1;
                    if unanswered >= UNANSWERED {
                        return Err(failure.into());
                    }
                    continue;
                }
            };
            // Twice: the second half pays for replacements and for what a rollup charges beyond gas.
            let gas = U256::from(gas_limit) * U256::from(fee.max_fee);
            let cost = gas + U256::from(row.value);
            if balance < cost + gas {
                self.pause(balance, cost);
                if is_gift(&row) {
                    continue;
                }
                break;
            }
            gauge("quittance_tx_paused", self.name(), 0);
            let payload = Payload {
                chain_id: view.chain_id,
                nonce: txs::next_nonce(self.ctx.store.read(), view.chain_id, self.me(), latest).await?,
                gas_limit,
                target: row.target,
                value: row.value,
                calldata: row.calldata.clone(),
            };
            let attempt = sign(&self.key, &payload, fee, self.ctx.clock.now_ms())?;
            if self.allocate(&row, &payload, &attempt, latest).await? {
                self.broadcast(row.tx_id, &attempt).await?;
                in_flight += 1;
                balance = balance.saturating_sub(cost);
            }
        }
        Ok(waiting(in_flight))
    }

    fn pause(&self, balance: U256, cost: U256) {
        gauge("quittance_tx_paused", self.name(), 1);
        tracing::warn!(%balance, %cost, "not enough gas money: waiting; fund the account");
    }

    /// Gas limit of a transaction that would succeed now; `None` when it would revert.
    async fn simulate(&mut self, row: &TxRow) -> Result<Option<u64>, Failure> {
        // Gas money goes to strangers: what their code would spend beyond a transfer nobody has counted.
        let most = if is_gift(row) { row.gas_limit.unwrap_or(TOP_UP_GAS) } else { MAX_GAS };
        let run = async {
            let (rpc, me) = (self.view().rpc, self.me());
            let request = TransactionRequest::default().with_from(me).with_to(row.target);
            let request = request.with_value(U256::from(row.value)).with_input(row.calldata.clone());
            if let Some(bound) = row.gas_limit.or_else(|| fees::gas_bound(&row.kind, row.calldata.len())) {
                // An estimate runs the whole batch several times; whether the bound is enough shows in one run.
                let bounded = request.clone().with_gas_limit(bound);
                if rpc.dry_run(bounded, BlockId::pending()).await.is_ok() {
                    return Ok(bound);
                }
            }
            rpc.dry_run(request.clone(), BlockId::pending()).await?;
            // What the state costs may have grown when the transaction is mined.
            rpc.estimate_gas(request).await.map(|gas| if gas > most { gas } else { (gas + gas / 5).min(most) })
        };
        let simulated = run.await;
        let reason = match simulated {
            Ok(gas) if gas <= most => {
                self.reverts.remove(&row.tx_id);
                return Ok(Some(gas));
            }
            Ok(gas) => format!("needs {gas} gas, {most} is the most"),
            Err(Failure { class: Class::Reverted(data), .. }) => revert_reason(&data),
            Err(failure) => return Err(failure),
        };
        let now_ms = self.ctx.clock.now_ms();
        let (seen, first_ms) = self.reverts.entry(row.tx_id).or_insert((0, now_ms));
        *seen += 1;
        let settled = *seen >= REVERTS && now_ms.saturating_sub(*first_ms) >= REVERT_MS;
        tracing::warn!(tx_id = row.tx_id, intent = row.intent_key, reason, seen, "the transaction would revert");
        if settled {
            reverted(self.name(), &row.kind, &reason);
            self.reverts.remove(&row.tx_id);
            // The store's failure is the next look's: the row is still queued then.
            if let Err(error) = self.quarantine(row.tx_id, &reason).await {
                tracing::warn!(code = error.code(), %error, "cannot quarantine");
            }
        }
        Ok(None)
    }

    async fn quarantine(&self, tx_id: i64, reason: &str) -> Result<()> {
        let mut tx = self.own.lease.write(&self.ctx.store).await?;
        txs::quarantine(&mut tx, tx_id, reason, self.ctx.clock.now_ms()).await?;
        tx.commit().await?;
        metrics::counter!("quittance_tx_quarantined_total", "chain" => self.name()).increment(1);
        Ok(())
    }

    /// Stores nonce and envelope together, if the role is still ours and the nonce is still the next. Only then may it be sent.
    async fn allocate(&self, row: &TxRow, payload: &Payload, attempt: &Attempt, latest: u64) -> Result<bool> {
        let mut tx = self.ctx.store.write().await?;
        let next = txs::next_nonce(&mut *tx, payload.chain_id, self.me(), latest).await?;
        let stored = next == payload.nonce
            && self.own.lease.guard(&mut tx).await?
            && txs::allocate(&mut tx, row.tx_id, self.me(), (payload.nonce, payload.gas_limit), attempt).await?;
        if !stored {
            tx.rollback().await?;
            tracing::warn!(tx_id = row.tx_id, nonce = payload.nonce, "lost the race for the nonce");
            return Ok(false);
        }
        tx.commit().await?;
        crash::point("after_persist_before_send");
        Ok(true)
    }

    /// Sends a stored envelope to every endpoint and notes what they said.
    async fn broadcast(&self, tx_id: i64, attempt: &Attempt) -> Result<()> {
        let outcome = self.view().rpc.broadcast(&attempt.raw).await;
        crash::point("after_send_before_mark");
        let said = match &outcome {
            Ok(()) => None,
            Err(failure) => {
                tracing::warn!(tx_id, hash = %attempt.tx_hash, class = failure.class.as_str(), %failure, "not accepted");
                Some(failure.class.as_str())
            }
        };
        let mut tx = self.ctx.store.write().await?;
        txs::mark_sent(&mut tx, tx_id, attempt.tx_hash, said, self.ctx.clock.now_ms()).await?;
        tx.commit().await?;
        tracing::info!(target: "trail", step = "sent", tx_id, tx = %attempt.tx_hash, chain = self.name(), said);
        if said.is_none() {
            tracing::info!(tx_id, hash = %attempt.tx_hash, max_fee = attempt.fee.max_fee, "sent");
        }
        Ok(())
    }

    /// Transfers nothing to ourselves at a nonce that nobody uses, so that later ones can be mined.
    async fn fill(&self, nonce: u64, market: &Market) -> Result<()> {
        let Some(fee) = market.offer(self.limits()) else { return Ok(()) };
        let chain_id = self.view().chain_id;
        let now_ms = self.ctx.clock.now_ms();
        let payload =
            Payload { chain_id, nonce, gas_limit: 30_000, target: self.me(), value: 0, calldata: Default::default() };
        let attempt = sign(&self.key, &payload, fee, now_ms)?;
        let new = NewTx {
            chain_id,
            kind: "noop",
            intent_key: format!("noop:{chain_id}:{}:{nonce}", self.me()),
            target: self.me(),
            calldata: Default::default(),
        };
        let mut tx = self.ctx.store.write().await?;
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        txs::assign(&mut tx, tx_id, self.view().lane).await?;
        let stored = self.own.lease.guard(&mut tx).await?
            && txs::allocate(&mut tx, tx_id, self.me(), (nonce, payload.gas_limit), &attempt).await?;
        if !stored {
            return Ok(tx.rollback().await?);
        }
        tx.commit().await?;
        tracing::warn!(nonce, "filling a gap in the nonces");
        self.broadcast(tx_id, &attempt).await
    }
}

/// Whether a transaction brings a stranger gas money: it keeps nothing behind it waiting.
fn is_gift(row: &TxRow) -> bool {
    row.kind == "top_up"
}

/// Counts a revert under the name of its error; texts of foreign contracts would be labels without end.
fn reverted(chain: &'static str, kind: &str, reason: &str) {
    let name = reason.strip_prefix("reverted: ").and_then(|rest| rest.split(' ').next()).unwrap_or("other");
    let fits = name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_uppercase());
    let name =
        if fits && name.chars().all(|c| c.is_ascii_alphanumeric()) || name == "on_chain" { name } else { "other" };
    let labels = [("chain", chain.to_owned()), ("kind", kind.to_owned()), ("reason", name.to_owned())];
    metrics::counter!("quittance_tx_reverts_total", &labels).increment(1);
}

#[allow(clippy::cast_precision_loss)]
fn gauge(name: &'static str, chain: &'static str, value: usize) {
    metrics::gauge!(name, "chain" => chain).set(value as f64);
}
