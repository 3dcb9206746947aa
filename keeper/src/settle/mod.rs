//! Settlement: matched receipts become frozen batches or verified settlements, and what the chain did not take is decided.

pub mod call;
pub mod decide;
pub mod plan;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Result};
use crate::publish::rows::BatchRows;
use crate::settle::decide::{Decision, decide};
use crate::settle::plan::{LEAD, Limits, Now};
use crate::store::batches::{self, BatchRow, Head};
use crate::store::leases::{Lease, unless_lost};
use crate::store::publications;
use crate::store::receipts::{self, Path, Settleable};
use crate::store::txs::{self, NewTx};
use crate::store::{WriteTx, orders};
use crate::types::{BatchState, OrderState};
use crate::{crash, publish};

/// Receipts looked at in one tick.
const LIMIT: i64 = 1_024;
/// Decisions taken in one tick.
const DECISIONS: i64 = 100;
/// Milliseconds between ticks.
const TICK_MS: u64 = 200;

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`: the tick did nothing and can be run again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut role = Lease::new("settle", &ctx.installation);
    while !stop.is_cancelled() {
        ctx.life.beat("settle");
        // A database that was restored from a copy does not know yet what the chain has settled meanwhile.
        let caught_up = ctx.caught_up.load(Ordering::Relaxed);
        if caught_up && role.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            unless_lost(tick(&ctx, &role).await)?;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// One look at everything that settlement may have to do.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn tick(ctx: &Ctx, role: &Lease) -> Result<()> {
    // Deadlines are the chain's: nothing is decided before the watcher has seen it.
    let Some(head) = batches::head(&ctx.store, ctx.config.base.chain_id).await? else { return Ok(()) };
    follow(ctx, role).await?;
    expire(ctx, role, head).await?;
    for (batch, state, reason) in batches::ended(&ctx.store, head.number).await? {
        recover_batch(ctx, role, &batch, &state, reason.as_deref().unwrap_or("")).await?;
    }
    for (receipt, state, reason) in receipts::verified_ended(&ctx.store, head.number, DECISIONS).await? {
        apply(ctx, role, &receipt, reason.as_deref().unwrap_or(&state)).await?;
    }
    for receipt in receipts::skipped(&ctx.store, head.safe, DECISIONS).await? {
        apply(ctx, role, &receipt, receipt.skip_reason.as_deref().unwrap_or("")).await?;
    }
    settle_verified(ctx, role, head).await?;
    settle_batches(ctx, role, head).await
}

/// Moves batches along with their transactions; what blocks do to them is applied with the blocks.
async fn follow(ctx: &Ctx, role: &Lease) -> Result<()> {
    let mut tx = role.write(&ctx.store).await?;
    batches::mark_submitted(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Ends receipts whose order can no longer be captured.
async fn expire(ctx: &Ctx, role: &Lease, head: Head) -> Result<()> {
    for (settlement_id, order_id) in receipts::past_deadline(&ctx.store, head.timestamp, DECISIONS).await? {
        let mut tx = role.write(&ctx.store).await?;
        end(&mut tx, settlement_id, order_id, Decision::Expire).await?;
        tx.commit().await?;
        tracing::warn!(%settlement_id, %order_id, "capture deadline passed before the settlement");
        metrics::counter!("quittance_receipts_expired_total").increment(1);
    }
    Ok(())
}

/// Queues settlements of receipts that go alone.
async fn settle_verified(ctx: &Ctx, role: &Lease, head: Head) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    for row in receipts::matched(&ctx.store, Path::Verified, now_ms, LIMIT).await? {
        if late(&row, head) {
            continue;
        }
        let calldata = match call::settle_verified(&row) {
            Ok(calldata) => calldata,
            Err(error) => {
                unusable(ctx, role, &row, &error).await?;
                continue;
            }
        };
        let mut tx = role.write(&ctx.store).await?;
        let new = NewTx {
            chain_id: ctx.config.base.chain_id,
            kind: "settle_verified",
            intent_key: match row.retries {
                0 => format!("verified:{}", row.settlement_id),
                n => format!("verified:{}:{n}", row.settlement_id),
            },
            target: ctx.config.base.ledger,
            calldata,
        };
        let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
        if receipts::set_verified_tx(&mut tx, row.settlement_id, tx_id).await? {
            tx.commit().await?;
            crash::point("after_verified_queued");
            tracing::info!(target: "trail", step = "queued_alone", order = %row.order_id, settlement = %row.settlement_id, tx_id);
            tracing::info!(settlement_id = %row.settlement_id, tx_id, "verified settlement queued");
            ctx.signals.base_txs.notify_one();
        }
    }
    Ok(())
}

/// Freezes the batches that are due.
async fn settle_batches(ctx: &Ctx, role: &Lease, head: Head) -> Result<()> {
    let now = Now { ms: ctx.clock.now_ms(), chain: u64::try_from(head.timestamp).unwrap_or(0) };
    let mut by_token: BTreeMap<Address, Vec<Settleable>> = BTreeMap::new();
    for row in receipts::matched(&ctx.store, Path::Batch, now.ms, LIMIT).await? {
        match call::row_of(&row, 0) {
            Ok(_) => by_token.entry(row.order.token).or_default().push(row),
            Err(error) => unusable(ctx, role, &row, &error).await?,
        }
    }
    for (token, rows) in by_token {
        let config = &ctx.config.batch;
        let limits = Limits {
            rows: usize::try_from(config.max_rows).unwrap_or(256).min(256),
            age_ms: i64::try_from(config.max_age_ms).unwrap_or(i64::MAX),
            value: config.max_value.get(&token).and_then(|value| value.parse().ok()),
            margin: ctx.config.dispatch.deadline_margin,
        };
        for batch in plan::close(rows, limits, now) {
            let mut tx = role.write(&ctx.store).await?;
            if let Some(batch_id) = freeze(ctx, &mut tx, &batch, None).await? {
                tx.commit().await?;
                crash::point("after_freeze");
                frozen(ctx, batch_id, batch.len());
            }
        }
    }
    Ok(())
}

/// Batch row, its receipts, calldata and queued transaction, all in `tx`; `None` when another keeper took a receipt first
/// (then `tx` must not be committed). `from` is the batch that the receipts leave.
async fn freeze(ctx: &Ctx, tx: &mut WriteTx, rows: &[Settleable], from: Option<i64>) -> Result<Option<i64>> {
    let Some(token) = rows.first().map(|row| row.order.token) else { return Ok(None) };
    let keeper_id = ctx.config.keeper.id;
    let now_ms = ctx.clock.now_ms();
    let n = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let published = match &ctx.config.publish {
        Some(_) => Some(BatchRows::of(ctx.config.base.chain_id, ctx.config.base.ledger, keeper_id, rows)?.bytes()?),
        None => None,
    };
    let blob_id = published.as_deref().map_or_else(Bytes::new, |content| publish::rows::hash(content).into());
    let calldata = call::settle_batch(keeper_id, token, rows, blob_id)?;
    let batch_id = batches::insert(tx, keeper_id, token, n, now_ms).await?;
    let taken = match from {
        None => {
            let ids: Vec<B256> = rows.iter().map(|row| row.settlement_id).collect();
            receipts::to_batch(tx, &ids, batch_id).await?
        }
        Some(from) => {
            let mut all = true;
            for (index, row) in (0_i64..).zip(rows) {
                all &= receipts::rebatch(tx, row.settlement_id, from, batch_id, index).await?;
            }
            all
        }
    };
    if !taken {
        return Ok(None);
    }
    let new = NewTx {
        chain_id: ctx.config.base.chain_id,
        kind: "settle_batch",
        intent_key: format!("batch:{batch_id}"),
        target: ctx.config.base.ledger,
        calldata,
    };
    let tx_id = txs::enqueue(tx, &new, now_ms).await?;
    batches::set_tx(tx, batch_id, tx_id).await?;
    for row in rows {
        tracing::info!(target: "trail", step = "batched", order = %row.order_id, settlement = %row.settlement_id, batch_id, tx_id);
    }
    if let Some(content) = published {
        publications::enqueue(tx, batch_id, publish::rows::hash(&content), &content).await?;
    }
    Ok(Some(batch_id))
}

fn frozen(ctx: &Ctx, batch_id: i64, rows: usize) {
    tracing::info!(batch_id, rows, "batch frozen");
    metrics::counter!("quittance_batches_frozen_total").increment(1);
    metrics::histogram!("quittance_batch_rows").record(u32::try_from(rows).map_or(0.0, f64::from));
    ctx.signals.base_txs.notify_one();
}

/// A batch whose transaction ended without a batch on the chain: split it, or give its rows back.
async fn recover_batch(ctx: &Ctx, role: &Lease, batch: &BatchRow, tx_state: &str, reason: &str) -> Result<()> {
    let rows = receipts::of_batch(&ctx.store, batch.batch_id).await?;
    let now_ms = ctx.clock.now_ms();
    let from = [BatchState::Frozen, BatchState::Submitted];
    let mut tx = role.write(&ctx.store).await?;
    if tx_state == "done" {
        // Every row was skipped with an event, or nothing of it was captured.
        batches::set_state(&mut tx, batch.batch_id, &from, BatchState::Empty).await?;
        for row in &rows {
            receipts::retry(&mut tx, row, Path::Batch, now_ms, 1).await?;
        }
        tx.commit().await?;
        return Ok(());
    }
    if !batches::set_state(&mut tx, batch.batch_id, &from, BatchState::Quarantined).await? {
        return Ok(());
    }
    tracing::warn!(batch_id = batch.batch_id, rows = rows.len(), tx_state, reason, "batch did not land");
    metrics::counter!("quittance_batches_quarantined_total").increment(1);
    let blocked = rows.first().map(|row| decide(reason, row));
    match (blocked, rows.as_slice()) {
        (Some(Decision::Blocked { delay_ms }), _) => {
            tracing::error!(reason, "this keeper may not settle: allow its hot key in the keeper registry");
            for row in &rows {
                receipts::retry(&mut tx, row, Path::Batch, now_ms.saturating_add(delay_ms), 0).await?;
            }
        }
        _ if tx_state == "obsolete" => {
            for row in &rows {
                receipts::retry(&mut tx, row, Path::Batch, now_ms, 0).await?;
            }
        }
        (_, []) => {}
        (_, [row]) => {
            let reason = if reason.is_empty() { "reverted" } else { reason };
            receipts::skip(&mut tx, row.settlement_id, reason).await?;
        }
        (_, rows) => {
            let (left, right) = rows.split_at(rows.len() / 2);
            for half in [left, right] {
                let Some(batch_id) = freeze(ctx, &mut tx, half, Some(batch.batch_id)).await? else { return Ok(()) };
                frozen(ctx, batch_id, half.len());
            }
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Carries out what follows from a receipt that the chain did not take.
async fn apply(ctx: &Ctx, role: &Lease, receipt: &Settleable, reason: &str) -> Result<()> {
    let decision = decide(reason, receipt);
    let now_ms = ctx.clock.now_ms();
    let mut tx = role.write(&ctx.store).await?;
    let id = receipt.settlement_id;
    match decision {
        Decision::Retry { path, delay_ms } => {
            receipts::retry(&mut tx, receipt, path, now_ms.saturating_add(delay_ms), 1).await?;
        }
        Decision::Blocked { delay_ms } => {
            receipts::retry(&mut tx, receipt, receipt.path, now_ms.saturating_add(delay_ms), 0).await?;
        }
        Decision::Refuse(_) | Decision::Expire => end(&mut tx, id, receipt.order_id, decision).await?,
    }
    tx.commit().await?;
    tracing::warn!(settlement_id = %id, order_id = %receipt.order_id, reason, ?decision, "receipt not settled");
    metrics::counter!("quittance_receipts_skipped_total").increment(1);
    Ok(())
}

/// The receipt is skipped and its order ends.
async fn end(tx: &mut WriteTx, settlement_id: B256, order_id: B256, decision: Decision) -> Result<()> {
    let (state, code) = match decision {
        Decision::Refuse(code) => (OrderState::Refused, code),
        _ => (OrderState::Expired, Code::OrderExpired),
    };
    receipts::skip(tx, settlement_id, code.as_str()).await?;
    orders::set_state(tx, order_id, &[OrderState::Completed], state, Some(code.as_str())).await?;
    Ok(())
}

/// A receipt that no call can carry must not stop the others.
async fn unusable(ctx: &Ctx, role: &Lease, receipt: &Settleable, error: &crate::error::Error) -> Result<()> {
    tracing::error!(settlement_id = %receipt.settlement_id, %error, "receipt cannot be settled");
    let mut tx = role.write(&ctx.store).await?;
    end(&mut tx, receipt.settlement_id, receipt.order_id, Decision::Refuse(Code::Internal)).await?;
    tx.commit().await?;
    Ok(())
}

fn late(row: &Settleable, head: Head) -> bool {
    row.order.captureDeadline.to::<u64>() < u64::try_from(head.timestamp).unwrap_or(0).saturating_add(LEAD)
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::config::Config;
    use crate::store::leases::testing::held;
    use crate::store::receipts::fixtures::{Seed, seed, set_head, store};

    async fn ctx() -> (tempfile::TempDir, Ctx) {
        let (dir, store) = store().await.unwrap();
        let mut config: Config = toml::from_str(include_str!("../../quittance.example.toml")).unwrap();
        config.batch.max_rows = 3;
        set_head(&store, 84532, 50, 1_000, 50).await.unwrap();
        (dir, Ctx::new(config, store).unwrap())
    }

    async fn look(ctx: &Ctx) -> Result<()> {
        tick(ctx, &held(&ctx.store).await).await
    }

    async fn txs(ctx: &Ctx) -> Vec<(String, String)> {
        let rows = sqlx::query("SELECT intent_key, state FROM txs ORDER BY tx_id").fetch_all(ctx.store.read()).await;
        rows.unwrap().iter().map(|row| (row.get("intent_key"), row.get("state"))).collect()
    }

    async fn end_tx(ctx: &Ctx, tx_id: i64, state: &str, reason: &str) {
        let mut tx = ctx.store.write().await.unwrap();
        sqlx::query("UPDATE txs SET state = $1, reason = $2, block_number = 40 WHERE tx_id = $3")
            .bind(state)
            .bind(reason)
            .bind(tx_id)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    async fn order(ctx: &Ctx, seeded: &Seed) -> (OrderState, Option<String>) {
        let row = orders::get(ctx.store.read(), seeded.order_id()).await.unwrap().unwrap();
        (row.state, row.reason)
    }

    #[tokio::test]
    async fn a_full_batch_is_frozen_once() {
        let (_dir, ctx) = ctx().await;
        for n in 0..3 {
            seed(&ctx.store, &Seed { created_ms: i64::MAX, ..Seed::new(n) }).await.unwrap();
        }
        look(&ctx).await.unwrap();
        look(&ctx).await.unwrap();
        assert_eq!(txs(&ctx).await, [("batch:1".to_owned(), "queued".to_owned())]);
        assert_eq!(receipts::of_batch(&ctx.store, 1).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_batch_that_would_revert_is_halved_until_the_bad_row_is_alone() {
        let (_dir, ctx) = ctx().await;
        let seeds: Vec<_> = (0..3).map(|n| Seed { created_ms: i64::from(n), ..Seed::new(n) }).collect();
        for one in &seeds {
            seed(&ctx.store, one).await.unwrap();
        }
        look(&ctx).await.unwrap();
        end_tx(&ctx, 1, "quarantined", "out of gas").await;
        look(&ctx).await.unwrap();
        let keys: Vec<_> = txs(&ctx).await.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["batch:1", "batch:2", "batch:3"]);
        assert_eq!(receipts::of_batch(&ctx.store, 2).await.unwrap().len(), 1);
        assert_eq!(receipts::of_batch(&ctx.store, 3).await.unwrap().len(), 2);
        assert_eq!(batches::get(&ctx.store, 1).await.unwrap().unwrap().state, BatchState::Quarantined);
        end_tx(&ctx, 2, "quarantined", "OverMaximum").await;
        look(&ctx).await.unwrap();
        let refused = order(&ctx, &seeds[0]).await;
        assert_eq!(refused, (OrderState::Refused, Some("amount_over_maximum".to_owned())));
        assert_eq!(order(&ctx, &seeds[1]).await.0, OrderState::Completed);
    }

    #[tokio::test]
    async fn a_keeper_that_lost_its_role_keeps_its_receipts() {
        let (_dir, ctx) = ctx().await;
        seed(&ctx.store, &Seed::new(1)).await.unwrap();
        look(&ctx).await.unwrap();
        end_tx(&ctx, 1, "quarantined", "NotHotKey(0x00, 0x00)").await;
        look(&ctx).await.unwrap();
        assert!(receipts::matched(&ctx.store, Path::Batch, ctx.clock.now_ms(), 9).await.unwrap().is_empty());
        ctx.clock.shift(61_000);
        look(&ctx).await.unwrap();
        let keys: Vec<_> = txs(&ctx).await.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["batch:1", "batch:2"]);
    }

    #[tokio::test]
    async fn orders_that_name_no_keeper_go_alone_and_a_payer_without_money_gets_one_more_try() {
        let (_dir, ctx) = ctx().await;
        let one = Seed { path: Path::Verified, keeper_id: B256::ZERO, ..Seed::new(1) };
        seed(&ctx.store, &one).await.unwrap();
        look(&ctx).await.unwrap();
        look(&ctx).await.unwrap();
        let key = format!("verified:{}", one.settlement_id());
        assert_eq!(txs(&ctx).await, [(key.clone(), "queued".to_owned())]);
        end_tx(&ctx, 1, "failed", "NotCapturable(0x00, InsufficientBalance)").await;
        look(&ctx).await.unwrap();
        assert_eq!(txs(&ctx).await.len(), 1, "not before the delay");
        ctx.clock.shift(61_000);
        look(&ctx).await.unwrap();
        assert_eq!(txs(&ctx).await[1].0, format!("{key}:1"));
        end_tx(&ctx, 2, "quarantined", "NotCapturable(0x00, InsufficientBalance)").await;
        look(&ctx).await.unwrap();
        assert_eq!(order(&ctx, &one).await, (OrderState::Refused, Some("insufficient_balance".to_owned())));
    }

    #[tokio::test]
    async fn nothing_is_sent_after_its_deadline() {
        let (_dir, ctx) = ctx().await;
        let late = Seed { deadline: 1_001, ..Seed::new(1) };
        let gone = Seed { deadline: 999, ..Seed::new(2) };
        for one in [&late, &gone] {
            seed(&ctx.store, one).await.unwrap();
        }
        look(&ctx).await.unwrap();
        assert!(txs(&ctx).await.is_empty());
        assert_eq!(order(&ctx, &late).await.0, OrderState::Completed);
        assert_eq!(order(&ctx, &gone).await, (OrderState::Expired, Some("order_expired".to_owned())));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_sent_does_not_stop_the_others() {
        let (_dir, ctx) = ctx().await;
        for n in 1..3 {
            seed(&ctx.store, &Seed::new(n)).await.unwrap();
        }
        let mut tx = ctx.store.write().await.unwrap();
        let bad = Seed::new(1);
        sqlx::query("UPDATE orders SET signature = NULL WHERE order_id = $1")
            .bind(bad.order_id().to_vec())
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        look(&ctx).await.unwrap();
        assert_eq!(receipts::of_batch(&ctx.store, 1).await.unwrap().len(), 1);
        assert_eq!(order(&ctx, &bad).await.0, OrderState::Refused);
    }
}
