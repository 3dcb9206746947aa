//! What comes after settlement: batches are finalized, answers delivered, holds returned, orders ended, and texts erased.

use std::collections::HashMap;
use std::time::Duration;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::{SolCall, SolValue};
use quittance_bindings::typed::{BatchRecord, Game, Leaf, deliverCall, finalizeCall, reclaimCall};
use tokio_util::sync::CancellationToken;

use crate::crash;
use crate::ctx::{Ctx, SharedCtx};
use crate::disputes;
use crate::error::{Code, Error, Result};
use crate::settle::call;
use crate::store::batches::{self, Head};
use crate::store::leases::{Lease, unless_lost};
use crate::store::receipts::{self, Deliverable};
use crate::store::txs::{self, NewTx};
use crate::store::{challenges, closing, orders};
use crate::types::OrderState;

/// Milliseconds between ticks.
const TICK_MS: u64 = 500;
/// Rows of each kind in one tick.
const LIMIT: i64 = 100;
/// Bytes of an answer that a contract takes.
const MAX_OUTPUT: usize = 16 * 1024;
/// Deliveries tried before the contract is given up.
const MAX_DELIVERIES: i64 = 6;
/// Milliseconds before a failed delivery is tried again; doubles each time.
const DELIVERY_DELAY_MS: i64 = 10_000;
/// Milliseconds before a failed finalize or reclaim is tried again.
const RETRY_MS: i64 = 30_000;
/// Payers whose kind is remembered.
const KNOWN_PAYERS: usize = 10_000;
/// Ticks between two sweeps for orphans and erasable texts.
const SWEEP_EVERY: u64 = 4;

/// What the loop remembers between ticks; all of it can be asked again.
#[derive(Debug, Default)]
pub struct Known {
    /// Seconds from a batch to its finalization.
    window: Option<i64>,
    /// Payers with code.
    contracts: HashMap<Address, bool>,
}

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`, `rpc_failed`: the tick can be run again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut role = Lease::new("finish", &ctx.installation);
    let mut known = Known::default();
    let mut ticks = 0_u64;
    while !stop.is_cancelled() {
        ctx.life.beat("finish");
        if role.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            unless_lost(tick(&ctx, &role, &mut known).await)?;
            if ticks.is_multiple_of(SWEEP_EVERY) {
                unless_lost(sweep(&ctx, &role).await)?;
            }
        }
        ticks = ticks.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// One look at everything that can be brought to its end.
///
/// # Errors
/// `store_failed`, `store_corrupt`, `rpc_failed`.
pub async fn tick(ctx: &Ctx, role: &Lease, known: &mut Known) -> Result<()> {
    let Some(head) = batches::head(&ctx.store, ctx.config.base.chain_id).await? else { return Ok(()) };
    expire(ctx, role, head).await?;
    if ctx.config.keeper.auto_reclaim {
        reclaim(ctx, role, head).await?;
    }
    finalize(ctx, role, head, known).await?;
    deliver(ctx, role, head, known).await
}

/// Orphans and texts that nobody needs any more.
///
/// # Errors
/// `store_failed`.
pub async fn sweep(ctx: &Ctx, role: &Lease) -> Result<()> {
    let age_ms = i64::try_from(ctx.config.dispatch.max_age).unwrap_or(i64::MAX).saturating_mul(1_000);
    let mut tx = role.write(&ctx.store).await?;
    let orphans = closing::orphan(&mut tx, ctx.clock.now_ms().saturating_sub(age_ms)).await?;
    let erased = closing::erase(&mut tx).await?;
    tx.commit().await?;
    if orphans > 0 {
        tracing::warn!(orphans, "completions that no order came for");
        metrics::counter!("quittance_orphans_total").increment(orphans);
    }
    if erased > 0 {
        tracing::debug!(erased, "requests and answers erased");
    }
    Ok(())
}

/// Orders that nobody answered in time.
async fn expire(ctx: &Ctx, role: &Lease, head: Head) -> Result<()> {
    for order_id in closing::expired(&ctx.store, head.timestamp, LIMIT).await? {
        let from = [OrderState::Open, OrderState::Dispatched];
        let mut tx = role.write(&ctx.store).await?;
        let code = Code::OrderExpired.as_str();
        let moved = orders::set_state(&mut tx, order_id, &from, OrderState::Expired, Some(code)).await?;
        tx.commit().await?;
        if moved {
            tracing::info!(%order_id, "order expired unanswered");
            metrics::counter!("quittance_orders_expired_total").increment(1);
            ctx.signals.completions.notify_waiters();
        }
    }
    Ok(())
}

/// Expired holds of orders that we know go back to their payers.
async fn reclaim(ctx: &Ctx, role: &Lease, head: Head) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let retry_before = now_ms.saturating_sub(RETRY_MS);
    for (row, before) in closing::reclaimable(&ctx.store, head.timestamp, retry_before, LIMIT).await? {
        let new = NewTx {
            chain_id: ctx.config.base.chain_id,
            kind: "reclaim",
            intent_key: again(format!("reclaim:{}", row.order_id), before),
            target: ctx.config.base.escrow,
            calldata: reclaimCall { order: row.order }.abi_encode().into(),
        };
        let mut tx = role.write(&ctx.store).await?;
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        closing::set_reclaim_tx(&mut tx, row.order_id, tx_id).await?;
        tx.commit().await?;
        crash::point("after_reclaim_queued");
        tracing::info!(order_id = %row.order_id, tx_id, "reclaim queued");
        ctx.signals.base_txs.notify_one();
    }
    Ok(())
}

/// Batches whose window is over pay their nodes.
async fn finalize(ctx: &Ctx, role: &Lease, head: Head, known: &mut Known) -> Result<()> {
    let window = match known.window {
        Some(window) => window,
        None => *known.window.insert(window(ctx).await?),
    };
    let now_ms = ctx.clock.now_ms();
    let retry_before = now_ms.saturating_sub(RETRY_MS);
    for batch in batches::finalizable(&ctx.store, head.timestamp, window, retry_before).await? {
        let (Some(chain_batch), Some(record)) = (batch.chain_batch_id, batch.record.as_deref()) else { continue };
        let record = BatchRecord::abi_decode(record).map_err(|error| Error::Corrupt {
            table: "batches",
            what: format!("record of batch {}: {error}", batch.batch_id),
        })?;
        let excluded = challenges::excluded(&ctx.store, chain_batch).await?;
        let (target, calldata) = if excluded.is_empty() {
            (ctx.config.base.ledger, finalizeCall { record }.abi_encode())
        } else {
            let Some(excluded) = leaves(ctx, chain_batch, &excluded).await? else { continue };
            (ctx.config.base.dispute_game, Game::finalizeCall { record, excluded }.abi_encode())
        };
        let new = NewTx {
            chain_id: ctx.config.base.chain_id,
            kind: "finalize",
            intent_key: again(format!("finalize:{chain_batch}"), batch.finalize_tx_id),
            target,
            calldata: calldata.into(),
        };
        let mut tx = role.write(&ctx.store).await?;
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        if batches::set_finalize_tx(&mut tx, batch.batch_id, tx_id).await? {
            tx.commit().await?;
            crash::point("after_finalize_queued");
            tracing::info!(batch_id = batch.batch_id, chain_batch, tx_id, "finalize queued");
            ctx.signals.base_txs.notify_one();
        }
    }
    Ok(())
}

/// Leaves of rows of a batch; `None` when they cannot be read.
async fn leaves(ctx: &Ctx, chain_batch: i64, rows: &[i64]) -> Result<Option<Vec<Leaf>>> {
    let batch = match disputes::load(ctx, chain_batch).await? {
        Ok(batch) => batch,
        Err(reason) => {
            tracing::error!(chain_batch, reason, "a batch of ours that cannot be read");
            return Ok(None);
        }
    };
    let leaf = |row: &i64| u32::try_from(*row).ok().and_then(|row| batch.row(row)).map(|(leaf, _)| leaf.clone());
    Ok(rows.iter().map(leaf).collect())
}

/// Answers of safe verified settlements go to the contracts that paid for them.
async fn deliver(ctx: &Ctx, role: &Lease, head: Head, known: &mut Known) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    for one in receipts::deliverable(&ctx.store, head.safe, now_ms, LIMIT).await? {
        let wanted = is_contract(ctx, known, one.receipt.order.payer).await?;
        let given_up = one.attempts >= MAX_DELIVERIES || one.output.is_empty() || one.output.len() > MAX_OUTPUT;
        let settlement_id = one.receipt.settlement_id;
        if !wanted || given_up {
            let mut tx = role.write(&ctx.store).await?;
            receipts::end_delivery(&mut tx, settlement_id).await?;
            tx.commit().await?;
            if wanted {
                tracing::warn!(%settlement_id, attempts = one.attempts, bytes = one.output.len(), "delivery given up");
                metrics::counter!("quittance_deliveries_given_up_total").increment(1);
            }
            continue;
        }
        queue_delivery(ctx, role, &one, now_ms).await?;
    }
    Ok(())
}

async fn queue_delivery(ctx: &Ctx, role: &Lease, one: &Deliverable, now_ms: i64) -> Result<()> {
    let settlement_id = one.receipt.settlement_id;
    let call = deliverCall {
        settlementId: settlement_id,
        receipt: call::receipt(&one.receipt)?,
        output: one.output.clone().into(),
    };
    let new = NewTx {
        chain_id: ctx.config.base.chain_id,
        kind: "deliver",
        intent_key: format!("deliver:{settlement_id}:{}", one.attempts),
        target: ctx.config.base.ledger,
        calldata: call.abi_encode().into(),
    };
    let retry_ms = now_ms.saturating_add(DELIVERY_DELAY_MS << one.attempts.clamp(0, 16));
    let mut tx = role.write(&ctx.store).await?;
    let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
    if receipts::set_delivery(&mut tx, settlement_id, tx_id, retry_ms).await? {
        tx.commit().await?;
        crash::point("after_delivery_queued");
        tracing::info!(%settlement_id, tx_id, attempt = one.attempts, "delivery queued");
        ctx.signals.base_txs.notify_one();
    }
    Ok(())
}

async fn is_contract(ctx: &Ctx, known: &mut Known, payer: Address) -> Result<bool> {
    if let Some(known) = known.contracts.get(&payer) {
        return Ok(*known);
    }
    let contract = !ctx.base.code(payer).await?.is_empty();
    if known.contracts.len() >= KNOWN_PAYERS {
        known.contracts.clear();
    }
    known.contracts.insert(payer, contract);
    Ok(contract)
}

/// The ledger's window, seconds.
pub(crate) async fn window(ctx: &Ctx) -> Result<i64> {
    alloy::sol! { function WINDOW() returns (uint40); }
    let data = Bytes::from(WINDOWCall {}.abi_encode());
    let answer = ctx.base.call(Address::ZERO, ctx.config.base.ledger, &data, BlockNumberOrTag::Latest.into()).await?;
    let window = U256::try_from_be_slice(&answer).and_then(|window| i64::try_from(window).ok());
    window.ok_or_else(|| Error::Rpc {
        chain_id: ctx.config.base.chain_id,
        message: format!("WINDOW() of {} answered {answer}", ctx.config.base.ledger),
    })
}

/// The name of an intent that is tried again after the transaction `before` ended without effect.
fn again(key: String, before: Option<i64>) -> String {
    before.map_or_else(|| key.clone(), |tx_id| format!("{key}:{tx_id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::leases::testing::held;
    use crate::store::receipts::fixtures::{Seed, seed, set_head, store};
    use sqlx::Row;

    async fn ctx() -> (tempfile::TempDir, Ctx) {
        let (dir, store) = store().await.unwrap();
        let config: Config = toml::from_str(include_str!("../quittance.example.toml")).unwrap();
        set_head(&store, 84_532, 50, 20_000, 40).await.unwrap();
        (dir, Ctx::new(config, store).unwrap())
    }

    async fn sql(ctx: &Ctx, sql: &'static str) {
        let mut tx = ctx.store.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn head(ctx: &Ctx) -> Head {
        batches::head(&ctx.store, 84_532).await.unwrap().unwrap()
    }

    async fn state(ctx: &Ctx, seeded: &Seed) -> OrderState {
        orders::get(ctx.store.read(), seeded.order_id()).await.unwrap().unwrap().state
    }

    async fn texts(ctx: &Ctx) -> (bool, bool, bool) {
        let row = sqlx::query(
            "SELECT COUNT(o.request), COUNT(c.output), COUNT(c.response) \
             FROM orders o JOIN completions c ON c.order_id = o.order_id",
        )
        .fetch_one(ctx.store.read())
        .await
        .unwrap();
        let there = |index: usize| row.get::<i64, _>(index) != 0;
        (there(0), there(1), there(2))
    }

    #[tokio::test]
    async fn an_unanswered_order_expires_and_its_hold_goes_back_once() {
        let (_dir, ctx) = ctx().await;
        let one = Seed { held: true, deadline: 20_000, ..Seed::new(1) };
        seed(&ctx.store, &one).await.unwrap();
        sql(&ctx, "UPDATE orders SET state = 'dispatched'").await;
        expire(&ctx, &held(&ctx.store).await, head(&ctx).await).await.unwrap();
        assert_eq!(state(&ctx, &one).await, OrderState::Dispatched, "the deadline itself is still in time");
        set_head(&ctx.store, 84_532, 51, 20_001, 40).await.unwrap();
        expire(&ctx, &held(&ctx.store).await, head(&ctx).await).await.unwrap();
        assert_eq!(state(&ctx, &one).await, OrderState::Expired);
        for _ in 0..2 {
            reclaim(&ctx, &held(&ctx.store).await, head(&ctx).await).await.unwrap();
        }
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT intent_key FROM txs").fetch_all(ctx.store.read()).await.unwrap();
        assert_eq!(keys, [format!("reclaim:{}", one.order_id())]);
        sql(&ctx, "UPDATE txs SET state = 'quarantined'").await;
        ctx.clock.shift(RETRY_MS + 1_000);
        reclaim(&ctx, &held(&ctx.store).await, head(&ctx).await).await.unwrap();
        let n: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM txs").fetch_one(ctx.store.read()).await.unwrap();
        assert_eq!(n, 2, "a reclaim that would have reverted is tried again");
    }

    #[tokio::test]
    async fn texts_are_erased_when_nobody_needs_them_and_not_before() {
        let (_dir, ctx) = ctx().await;
        let one = Seed::new(1);
        seed(&ctx.store, &one).await.unwrap();
        sql(&ctx, "UPDATE orders SET state = 'settled'").await;
        sql(&ctx, "UPDATE receipts SET state = 'settled', path = 'verified', base_block = 40").await;
        sweep(&ctx, &held(&ctx.store).await).await.unwrap();
        assert_eq!(texts(&ctx).await, (true, true, true), "the order has not ended");
        sql(&ctx, "UPDATE orders SET state = 'final'").await;
        sweep(&ctx, &held(&ctx.store).await).await.unwrap();
        assert_eq!(texts(&ctx).await, (true, true, true), "not recorded on OpenGradient");
        sql(&ctx, "UPDATE completions SET record_state = 'recorded'").await;
        sweep(&ctx, &held(&ctx.store).await).await.unwrap();
        assert_eq!(texts(&ctx).await, (true, true, true), "not delivered");
        sql(&ctx, "UPDATE receipts SET delivered = 1").await;
        sweep(&ctx, &held(&ctx.store).await).await.unwrap();
        assert_eq!(texts(&ctx).await, (false, false, false));
    }

    #[tokio::test]
    async fn an_orphan_is_recorded_only_when_its_order_is_public() {
        let (_dir, ctx) = ctx().await;
        for n in 0..3 {
            seed(&ctx.store, &Seed { private: true, ..Seed::new(n) }).await.unwrap();
        }
        let secret = Seed::new(1).order_id();
        let unknown = Seed::new(2).settlement_id();
        let mut tx = ctx.store.write().await.unwrap();
        sqlx::query("UPDATE orders SET blinding = $1 WHERE order_id = $2")
            .bind(vec![1_u8; 32])
            .bind(secret.to_vec())
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("UPDATE completions SET order_id = NULL WHERE settlement_id = $1")
            .bind(unknown.to_vec())
            .execute(&mut *tx)
            .await
            .unwrap();
        sqlx::query("UPDATE completions SET state = 'verified'").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        sweep(&ctx, &held(&ctx.store).await).await.unwrap();
        let due: Vec<Vec<u8>> = sqlx::query_scalar("SELECT settlement_id FROM completions WHERE record_state = 'due'")
            .fetch_all(ctx.store.read())
            .await
            .unwrap();
        assert_eq!(due, [Seed::new(0).settlement_id().to_vec()]);
    }
}
