//! What operators watch: ages, queues, balances, endpoints that disagree. Read every few seconds, never on the way of a request.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use tokio_util::sync::CancellationToken;

use crate::chain::Side;
use crate::chain::batch::{Ask, number as quantity};
use crate::crypto::load_signer;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::Result;
use crate::ingest;
use crate::store::{operations, orders, records};
use crate::x402::state::Network;

/// Between two looks at the store, and clean-ups of the metrics recorder.
const STORE_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the endpoints.
const CHAIN_EVERY: Duration = Duration::from_secs(15);
/// A gas balance below this many wei is told; a batch on Base costs a hundredth of it.
const LOW_GAS: u128 = 1_000_000_000_000_000;
/// Milliseconds after which an unrecorded inference is told.
const UNRECORDED_MS: i64 = 30 * 60 * 1_000;

/// What is worth a warning though the keeper can work.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<BTreeMap<&'static str, String>>);

impl Warnings {
    fn set(&self, name: &'static str, warning: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match warning {
            Some(text) => drop(all.insert(name, text)),
            None => drop(all.remove(name)),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Looks until `stop`.
///
/// # Errors
/// `store_failed`; the supervisor starts it again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut signers = BTreeMap::new();
    let mut chains_at: Option<Instant> = None;
    while !stop.is_cancelled() {
        ctx.life.beat("observe");
        if let Some(metrics) = &ctx.metrics {
            metrics.run_upkeep();
        }
        writable(&ctx).await;
        store(&ctx).await?;
        if chains_at.is_none_or(|at| at.elapsed() >= CHAIN_EVERY) {
            // Reads an index of all orders: not for every few seconds.
            for (state, n) in orders::counts(ctx.store.read()).await? {
                metrics::gauge!("quittance_orders", "state" => state).set(number(n));
            }
            for side in [Side::Base, Side::OpenGradient] {
                chain(&ctx, side, &mut signers).await;
            }
            for network in &ctx.x402.networks {
                x402_keys(&ctx, network).await;
            }
            chains_at = Some(Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(STORE_EVERY) => {}
        }
    }
    Ok(())
}

/// Writes something, for good: what is undone is never put on the disk.
async fn writable(ctx: &Ctx) {
    let written = ctx.store.beat(&ctx.installation).await;
    if ctx.writable.swap(written.is_ok(), Ordering::Relaxed) != written.is_ok() {
        match &written {
            Ok(()) => tracing::info!("the database takes writes again"),
            Err(error) => tracing::error!(code = error.code(), %error, "the database cannot be written"),
        }
    }
}

async fn store(ctx: &Ctx) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let age = |oldest: Option<i64>| oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
    let unsettled = operations::unsettled(&ctx.store).await?;
    metrics::gauge!("quittance_unsettled").set(number(unsettled.waiting));
    metrics::gauge!("quittance_unsettled_oldest_seconds").set(number(age(unsettled.oldest_ms) / 1_000));
    let unrecorded = age(records::backlog(&ctx.store).await?.oldest_ms);
    let late = format!(
        "an inference waits for OpenGradient since {} minutes: check its RPC and the gas there",
        unrecorded / 60_000
    );
    ctx.warnings.set("unrecorded", (unrecorded >= UNRECORDED_MS).then_some(late));
    for side in [Side::Base, Side::OpenGradient] {
        let oldest = operations::oldest_tx(&ctx.store, side.view(ctx).chain_id).await?;
        metrics::gauge!("quittance_tx_oldest_seconds", "chain" => side.as_str()).set(number(age(oldest) / 1_000));
    }
    Ok(())
}

/// Endpoints and gas of one chain; what does not answer is a figure, no failure.
async fn chain(ctx: &Ctx, side: Side, signers: &mut BTreeMap<&'static str, Address>) {
    let view = side.view(ctx);
    let name = side.as_str();
    let survey = view.rpc.survey().await;
    for endpoint in &survey.endpoints {
        let labels = [("chain", name.to_owned()), ("endpoint", endpoint.name.clone())];
        metrics::gauge!("quittance_rpc_up", &labels).set(if endpoint.latest.is_some() { 1.0 } else { 0.0 });
        if let Some(latest) = endpoint.latest {
            metrics::gauge!("quittance_rpc_block", &labels).set(number(i64::try_from(latest).unwrap_or(i64::MAX)));
        }
    }
    metrics::gauge!("quittance_rpc_disagreement", "chain" => name)
        .set(number(i64::try_from(survey.odd.len()).unwrap_or(0)));
    let odd = format!("endpoints of {name} disagree with the others: {}", survey.odd.join(", "));
    let key = if side == Side::Base { "rpc_base" } else { "rpc_opengradient" };
    ctx.warnings.set(key, (!survey.odd.is_empty()).then_some(odd));
    if !signers.contains_key(name) {
        // A keystore takes a second of computing.
        let source = view.key.clone();
        let loaded = tokio::task::spawn_blocking(move || load_signer(&source)).await;
        if let Ok(Ok(signer)) = loaded {
            signers.insert(name, signer.address());
        }
    }
    let Some(signer) = signers.get(name) else { return };
    if let Ok(balance) = view.rpc.balance(*signer).await {
        metrics::gauge!("quittance_signer_balance_ether", "chain" => name).set(ether(balance));
        let low = format!("{signer} has {} ether left for gas on {name}: send it some", ether(balance));
        let key = if side == Side::Base { "gas_base" } else { "gas_opengradient" };
        ctx.warnings.set(key, (balance < U256::from(LOW_GAS)).then_some(low));
    }
}

/// Gas money of the keys that settle x402 payments.
async fn x402_keys(ctx: &Ctx, network: &Network) {
    let asks: Vec<Ask> = network.lanes.iter().map(|lane| Ask::balance(lane.address)).collect();
    let Ok(answers) = network.rpc.batch(&asks).await else { return };
    let chain = network.config.chain_id;
    for (lane, answer) in network.lanes.iter().zip(&answers) {
        let Some(balance) = answer.as_ref().ok().and_then(|answer| quantity(answer)) else { continue };
        let labels = [("chain", chain.to_string()), ("key", lane.name.clone())];
        metrics::gauge!("quittance_x402_key_balance_ether", &labels).set(ether(balance));
        let low =
            format!("{} has {} ether left for x402 payments on chain {chain}: send it some", lane.name, ether(balance));
        ctx.warnings.set(lane.beat, (balance < U256::from(LOW_GAS)).then_some(low));
    }
}

/// Figures that cost nothing: taken when somebody looks.
pub fn instant(ctx: &Ctx) {
    let limits = &ctx.config.limits;
    let [orders, completions] = ctx.admission.pressure.in_flight(limits);
    let concurrency = ctx.config.dispatch.concurrency;
    let free = u32::try_from(ctx.desk.permits.available_permits()).unwrap_or(u32::MAX);
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let open = u32::try_from(ctx.admission.pressure.open_orders()).unwrap_or(u32::MAX);
    let connections = &ctx.admission.connections;
    for (queue, depth, capacity) in [
        ("connections", connections.open(), connections.capacity()),
        ("ingest", size(ctx.ingest.waiting()), size(ingest::QUEUE)),
        ("orders", orders, limits.orders_in_flight),
        ("completions", completions, limits.completions_in_flight),
        ("dispatch", concurrency.saturating_sub(free), concurrency),
        ("open_orders", open, limits.open_orders),
    ] {
        metrics::gauge!("quittance_queue_depth", "queue" => queue).set(depth);
        metrics::gauge!("quittance_queue_capacity", "queue" => queue).set(capacity);
    }
    metrics::gauge!("quittance_store_lag_seconds").set(number(ctx.admission.pressure.lag_ms()) / 1_000.0);
    metrics::gauge!("quittance_limit_subjects").set(size(ctx.admission.table.len()));
    for sign in ctx.life.signs() {
        let age = Duration::from_millis(sign.age_ms).as_secs_f64();
        metrics::gauge!("quittance_loop_age_seconds", "loop" => sign.name).set(age);
    }
    if let Some(bytes) = memory() {
        metrics::gauge!("quittance_memory_bytes").set(number(bytes));
    }
}

/// Resident memory; `None` where the system does not tell.
fn memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<i64>().ok()?.saturating_mul(1_024))
}

#[allow(clippy::cast_precision_loss)]
fn number(value: i64) -> f64 {
    value as f64
}

/// Wei as ether, for people.
pub fn ether(wei: U256) -> f64 {
    // Thousandths of a gwei: what is lost is worth nothing.
    let milligwei = u64::try_from(wei / U256::from(1_000_000_u64)).unwrap_or(u64::MAX);
    #[allow(clippy::cast_precision_loss)]
    let value = milligwei as f64;
    value / 1e12
}

/// Endpoints that name another block than most do; in a tie the first listed is believed.
pub fn odd_ones(blocks: &[(String, B256)]) -> Vec<String> {
    let votes = |hash: B256| blocks.iter().filter(|(_, other)| *other == hash).count();
    let mut best: Option<(B256, usize)> = None;
    for (_, hash) in blocks {
        if best.is_none_or(|(_, most)| votes(*hash) > most) {
            best = Some((*hash, votes(*hash)));
        }
    }
    let Some((believed, _)) = best else { return Vec::new() };
    blocks.iter().filter(|(_, hash)| *hash != believed).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_is_named() {
        let block = |name: &str, hash: u8| (name.to_owned(), B256::repeat_byte(hash));
        assert!(odd_ones(&[block("a", 1), block("b", 1)]).is_empty());
        assert_eq!(odd_ones(&[block("a", 1), block("b", 2), block("c", 2)]), ["a"]);
        assert_eq!(odd_ones(&[block("a", 1), block("b", 2)]), ["b"]);
        assert!(odd_ones(&[]).is_empty());
    }

    #[test]
    fn wei_in_ether() {
        assert!((ether(U256::from(1_500_000_000_000_000_000_u64)) - 1.5).abs() < 1e-9);
        assert!((ether(U256::from(10_u8).pow(U256::from(22))) - 10_000.0).abs() < 1e-9);
    }
}
