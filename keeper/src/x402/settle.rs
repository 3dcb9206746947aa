//! The loop that settles a network's payments: what waits goes into transactions of the forwarder, what receipts say becomes
//! results. A start is no special case: every round begins with what was left.

use std::collections::HashMap;
use std::time::Duration;

use alloy::eips::eip1898::BlockId;
use alloy::network::TransactionBuilder;
use alloy::primitives::{B256, Bytes, keccak256};
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::{SolCall, SolValue};
use quittance_bindings::X402Forwarder::forwardCall;
use quittance_bindings::x402_forwarder::IX402Forwarder::{self, Call};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::channels;
use super::evidence::may_be_settled;
use super::extensions::bazaar;
use super::outcome::{self, method};
use super::reverts;
use super::state::{Lane, Network};
use crate::crash;
use crate::ctx::SharedCtx;
use crate::error::{Error, Result};
use crate::store::leases::Lease;
use crate::store::payments::{self, Carrier, Payment, Settled};
use crate::store::resources;
use crate::store::searches;
use crate::store::txs::{self, NewTx};
use crate::store::usage;
use crate::tx::classify::Class;
use crate::types::{PaymentState, TxState};

/// Time between looks while payments wait or are on their way: their callers wait.
const BUSY: Duration = Duration::from_millis(100);
/// Gas of one transaction at most, below what the transaction manager allows.
const MAX_GAS: u64 = 14_500_000;
/// Gas of a transaction besides its calls, and of each call besides what it may use.
const GAS_BASE: u64 = 60_000;
const GAS_CALL: u64 = 14_000;

/// Entries of the catalogue that are made in one round at most.
const ENTRIES: i64 = 20;
/// Payments whose use is summed up in one round at most.
const COUNTED: i64 = 200;

/// Settles the payments of a network until `stop`.
///
/// # Errors
/// `store_corrupt`, `bad_configuration`. What an endpoint or the database fails to do is tried again in the next round.
pub async fn run(ctx: SharedCtx, index: usize, stop: CancellationToken) -> Result<()> {
    let mut settler = Settler::new(ctx.clone(), index);
    let network = &ctx.x402.networks[index];
    let span = info_span!("x402", chain = network.config.chain_id);
    async {
        let tick = Duration::from_millis(network.config.tick_ms.max(10));
        while !stop.is_cancelled() {
            ctx.life.beat(network.beat);
            let pause = match settler.round().await {
                Ok(true) => BUSY.min(tick),
                Ok(false) => tick,
                Err(error @ (Error::Corrupt { .. } | Error::Config(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "look at payments failed");
                    tick
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = network.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        settler.lease.release(&ctx.store).await
    }
    .instrument(span)
    .await
}

/// The loop's state.
pub(crate) struct Settler {
    ctx: SharedCtx,
    index: usize,
    lease: Lease,
}

impl Settler {
    pub(crate) fn new(ctx: SharedCtx, index: usize) -> Self {
        let chain_id = ctx.x402.networks[index].config.chain_id;
        let lease = Lease::new(format!("x402:{chain_id}"), &ctx.installation);
        Self { ctx, index, lease }
    }

    fn network(&self) -> &Network {
        &self.ctx.x402.networks[self.index]
    }

    fn chain_id(&self) -> u64 {
        self.network().config.chain_id
    }

    /// One round. True while something waits or is on its way.
    pub(crate) async fn round(&mut self) -> Result<bool> {
        if !self.lease.hold(&self.ctx.store, self.ctx.clock.elapsed_ms()).await? {
            return Ok(false);
        }
        for carrier in payments::carriers_to_close(self.ctx.store.read(), self.chain_id()).await? {
            self.close(carrier).await?;
        }
        for carrier in payments::carriers_to_read(self.ctx.store.read(), self.chain_id()).await? {
            self.read(carrier).await?;
        }
        let more = self.send().await?;
        // After the money: an entry that cannot be made is tried again, and keeps nobody waiting.
        if let Err(error) = self.catalogue().await {
            tracing::warn!(code = error.code(), %error, "the catalogue of resources was not written");
        }
        if let Err(error) = self.sum_up().await {
            tracing::warn!(code = error.code(), %error, "use was not summed up");
        }
        Ok(more)
    }

    /// Puts what gateways reported of final payments into the sums of their days.
    async fn sum_up(&self) -> Result<()> {
        let found = usage::to_count(self.ctx.store.read(), self.chain_id(), COUNTED).await?;
        if found.is_empty() {
            return Ok(());
        }
        let mut tx = self.lease.write(&self.ctx.store).await?;
        usage::count(&mut tx, &found).await?;
        Ok(tx.commit().await?)
    }

    /// Makes the catalogue's entries of payments that were settled.
    async fn catalogue(&self) -> Result<()> {
        for (id, request, settled_ms) in resources::to_list(self.ctx.store.read(), self.chain_id(), ENTRIES).await? {
            let entry = bazaar::entry(&request);
            let mut tx = self.lease.write(&self.ctx.store).await?;
            if resources::listed(&mut tx, id).await? {
                match &entry {
                    Ok(entry) => resources::put(&mut tx, entry, settled_ms, resources::MOST).await?,
                    Err(reason) => tracing::info!(payment = %id, reason, "the resource is not catalogued"),
                }
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// A transaction whose payments have their results: they are final with its block, or open again without it.
    async fn close(&self, carrier: Carrier) -> Result<()> {
        let now_ms = self.ctx.clock.now_ms();
        let mut tx = self.lease.write(&self.ctx.store).await?;
        if matches!(carrier.state, TxState::Done | TxState::Failed) && carrier.stands {
            payments::close(&mut tx, self.chain_id(), carrier.tx_id, now_ms).await?;
        } else {
            tracing::warn!(tx_id = carrier.tx_id, "the block of settled payments is gone: they are on their way again");
            payments::reopen(&mut tx, self.chain_id(), carrier.tx_id, now_ms).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Reads the results of a transaction's payments.
    async fn read(&self, carrier: Carrier) -> Result<()> {
        let carried = payments::carried(self.ctx.store.read(), self.chain_id(), carrier.tx_id).await?;
        let now_ms = self.ctx.clock.now_ms();
        let Some(hash) = carrier.tx_hash.filter(|_| !matches!(carrier.state, TxState::Quarantined | TxState::Obsolete))
        else {
            tracing::warn!(tx_id = carrier.tx_id, payments = carried.len(), "the transaction was never sent: again");
            let mut tx = self.lease.write(&self.ctx.store).await?;
            for payment in &carried {
                payments::unqueue(&mut tx, payment.new.payment_id, now_ms).await?;
            }
            return Ok(tx.commit().await?);
        };
        let Some(receipt) = self.network().rpc.receipt_anywhere(hash).await? else { return Ok(()) };
        let Some(place) = outcome::evidence(&receipt) else { return Ok(()) };
        let parts = outcome::parts(&receipt, self.network().config.forwarder);
        let mut results = Vec::with_capacity(carried.len());
        for payment in &carried {
            let result = outcome::of(payment, parts.get(&payment.new.payment_id), place);
            results.push(match (result, outcome::channel_of(payment)) {
                (Ok(settled), Some(channel)) => {
                    let state = channels::at_block(self.network(), channel, place.block_number).await?;
                    let extra = json!({ "channelState": state.json(channel) }).to_string();
                    Ok(Settled { extra: Some(extra), ..settled })
                }
                (result, _) => result,
            });
        }
        let mut tx = self.lease.write(&self.ctx.store).await?;
        for (payment, result) in carried.iter().zip(&results) {
            let id = payment.new.payment_id;
            match result {
                Ok(settled) => {
                    payments::settle(&mut tx, id, settled, now_ms).await?;
                }
                Err(fault) => {
                    let because = (fault.reason.as_str(), fault.message.as_str());
                    if may_be_settled(fault.reason) {
                        searches::begin(&mut tx, id, PaymentState::Queued, because, now_ms).await?;
                        continue;
                    }
                    payments::fail(&mut tx, id, PaymentState::Queued, because, Some(place), now_ms).await?;
                }
            }
            if let Some(channel) = outcome::channel_of(payment) {
                self.network().channels.forget(channel);
            }
            let outcome = result.as_ref().map_or_else(|fault| fault.reason.as_str(), |_| "settled");
            metrics::counter!("quittance_x402_settled_total", "scheme" => payment.new.scheme, "outcome" => outcome)
                .increment(1);
            tracing::info!(target: "trail", step = "payment_result", payment = %id, tx = %place.tx_hash, outcome);
        }
        crash::point("before_payment_results_commit");
        tx.commit().await?;
        crash::point("after_payment_results_commit");
        if results.iter().any(|result| result.as_ref().is_err_and(|fault| may_be_settled(fault.reason))) {
            self.network().aside.notify_one();
        }
        for payment in &carried {
            self.ctx.x402.waiting.tell(payment.new.payment_id);
        }
        Ok(())
    }

    /// Puts what waits into transactions of lanes that have room.
    async fn send(&self) -> Result<bool> {
        let network = self.network();
        let under_way: HashMap<String, i64> =
            txs::under_way(self.ctx.store.read(), self.chain_id()).await?.into_iter().collect();
        self.adopt(under_way.keys()).await?;
        let load = |lane: &Lane| under_way.get(&lane.name).copied().unwrap_or(0);
        let busy = network.lanes.iter().any(|lane| load(lane) > 0);
        let mut lanes: Vec<&Lane> =
            network.lanes.iter().filter(|lane| load(lane) < i64::from(network.config.in_flight)).collect();
        lanes.sort_by_key(|lane| load(lane));
        let rows = usize::try_from(network.config.max_rows).unwrap_or(1);
        let limit = i64::try_from(rows * network.lanes.len()).unwrap_or(i64::MAX);
        let waiting = payments::to_send(self.ctx.store.read(), self.chain_id(), limit).await?;
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("quittance_x402_waiting").set(waiting.len() as f64);
        let mut rest = waiting.as_slice();
        for lane in lanes {
            // A lane with nothing under way sends what there is; another one only what fills a transaction or has waited long.
            let old = rest.first().is_some_and(|payment| {
                let age = self.ctx.clock.now_ms().saturating_sub(payment.created_ms);
                age > i64::try_from(network.config.tick_ms).unwrap_or(i64::MAX)
            });
            if rest.is_empty() || (load(lane) > 0 && rest.len() < rows && !old) {
                break;
            }
            let (group, after) = self.group(rest, rows)?;
            rest = after;
            self.forward(lane, &group).await?;
        }
        Ok(busy || !waiting.is_empty())
    }

    /// What is queued for a key that is not in the configuration any more gets another one.
    async fn adopt(&self, lanes: impl Iterator<Item = &String>) -> Result<()> {
        let network = self.network();
        let Some(first) = network.lanes.first() else { return Ok(()) };
        for lane in lanes.filter(|lane| network.lanes.iter().all(|known| known.name != **lane)) {
            let mut tx = self.lease.write(&self.ctx.store).await?;
            let n = txs::adopt(&mut tx, self.chain_id(), lane, &first.name).await?;
            tx.commit().await?;
            if n > 0 {
                tracing::warn!(from = lane, to = first.name, n, "transactions of a removed key have another one now");
                first.txs.notify_one();
            }
        }
        Ok(())
    }

    /// The payments that fit into one transaction, with their calls, and those that do not.
    fn group<'a>(&self, waiting: &'a [Payment], rows: usize) -> Result<(Vec<Item<'a>>, &'a [Payment])> {
        let mut gas = GAS_BASE;
        let mut group = Vec::new();
        for payment in waiting.iter().take(rows) {
            let calls = Vec::<Call>::abi_decode(&payment.new.calls).map_err(|error| Error::Corrupt {
                table: "payments",
                what: format!("calls of {}: {error}", payment.new.payment_id),
            })?;
            let needed: u64 = calls.iter().map(needs).sum();
            if !group.is_empty() && gas + needed > MAX_GAS {
                break;
            }
            gas += needed;
            group.push(Item { payment, calls });
        }
        let n = group.len();
        Ok((group, &waiting[n..]))
    }

    /// Simulates a transaction, drops what would fail in it, and queues the rest.
    async fn forward(&self, lane: &Lane, group: &[Item<'_>]) -> Result<()> {
        let network = self.network();
        let all: Vec<&Item<'_>> = group.iter().collect();
        let request = TransactionRequest::default()
            .with_from(lane.address)
            .with_to(network.config.forwarder)
            .with_gas_limit(gas(&all))
            .with_input(calldata(&all));
        let results = match network.rpc.dry_run(request, BlockId::pending()).await {
            Ok(data) => forwardCall::abi_decode_returns(&data).map_err(|error| Error::Rpc {
                chain_id: self.chain_id(),
                message: format!("the forwarder's answer cannot be read: {error}"),
            })?,
            Err(failure) => {
                if let Class::Reverted(data) = &failure.class {
                    let reason = reverts::named(data);
                    tracing::error!(reason, lane = lane.name, "the forwarder refuses: check its keys");
                }
                return Err(failure.into());
            }
        };
        let mut results = results.into_iter();
        let mut good = Vec::with_capacity(group.len());
        let mut bad = Vec::new();
        for item in group {
            // The last call moves the money.
            match results.by_ref().take(item.calls.len()).last() {
                Some(result) if result.success => good.push(item),
                Some(IX402Forwarder::Result { reason, .. }) => bad.push((item, reason)),
                None => {}
            }
        }
        self.drop_failing(&bad).await?;
        if good.is_empty() {
            return Ok(());
        }
        self.queue(lane, &good).await
    }

    /// Payments that would fail are told so; nothing is sent for them.
    async fn drop_failing(&self, bad: &[(&Item<'_>, Bytes)]) -> Result<()> {
        if bad.is_empty() {
            return Ok(());
        }
        let now_ms = self.ctx.clock.now_ms();
        let mut tx = self.lease.write(&self.ctx.store).await?;
        for (item, data) in bad {
            let fault = reverts::fault(method(item.payment), data);
            let id = item.payment.new.payment_id;
            let text = format!("{}; nothing was sent", fault.message);
            let because = (fault.reason.as_str(), text.as_str());
            if may_be_settled(fault.reason) {
                searches::begin(&mut tx, id, PaymentState::Accepted, because, now_ms).await?;
                continue;
            }
            payments::fail(&mut tx, id, PaymentState::Accepted, because, None, now_ms).await?;
            metrics::counter!("quittance_x402_settled_total", "scheme" => item.payment.new.scheme,
                "outcome" => fault.reason.as_str())
            .increment(1);
            tracing::info!(target: "trail", step = "payment_dropped", payment = %id, reason = fault.reason.as_str());
        }
        tx.commit().await?;
        self.network().aside.notify_one();
        for (item, _) in bad {
            self.ctx.x402.waiting.tell(item.payment.new.payment_id);
        }
        Ok(())
    }

    /// Commits a transaction and the payments in it together.
    async fn queue(&self, lane: &Lane, good: &[&Item<'_>]) -> Result<()> {
        let ids: Vec<B256> = good.iter().map(|item| item.payment.new.payment_id).collect();
        let now_ms = self.ctx.clock.now_ms();
        let name = keccak256([ids.abi_encode(), now_ms.to_string().into_bytes()].concat());
        let new = NewTx {
            chain_id: self.chain_id(),
            kind: "x402",
            intent_key: format!("x402:{name}"),
            target: self.network().config.forwarder,
            calldata: calldata(good),
        };
        let mut tx = self.lease.write(&self.ctx.store).await?;
        let tx_id = txs::enqueue_in(&mut tx, &lane.name, &new, (gas(good), 0), now_ms).await?;
        for id in &ids {
            if !payments::queue(&mut tx, *id, tx_id, now_ms).await? {
                // Its caller took it back meanwhile: the next round makes another transaction.
                tx.rollback().await?;
                self.network().wake.notify_one();
                return Ok(());
            }
        }
        tx.commit().await?;
        crash::point("after_payments_queued");
        tracing::info!(tx_id, payments = ids.len(), lane = lane.name, "payments queued");
        lane.txs.notify_one();
        Ok(())
    }
}

/// A payment and its calls.
struct Item<'a> {
    payment: &'a Payment,
    calls: Vec<Call>,
}

/// Gas that the forwarder needs to be able to give a call what it may use.
fn needs(call: &Call) -> u64 {
    let bytes = u64::try_from(call.data.len()).unwrap_or(u64::MAX);
    // Calldata costs 16 gas a byte at most, 40 where a floor price applies (EIP-7623).
    (call.gas + call.gas / 63).saturating_add(GAS_CALL).saturating_add(bytes.saturating_mul(40))
}

fn gas(items: &[&Item<'_>]) -> u64 {
    items.iter().flat_map(|item| &item.calls).map(needs).sum::<u64>().saturating_add(GAS_BASE)
}

fn calldata(items: &[&Item<'_>]) -> Bytes {
    let calls = items.iter().flat_map(|item| item.calls.iter().cloned()).collect();
    forwardCall { calls }.abi_encode().into()
}
