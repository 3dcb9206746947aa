//! Recording of inferences on OpenGradient: at once, in small batches, never a private one, until the chain has them.

use std::time::Duration;

use alloy::sol_types::SolCall;
use quittance_bindings::typed::recordInferencesCall;
use tokio_util::sync::CancellationToken;

use crate::crash;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::Result;
use crate::store::batches;
use crate::store::leases::{Lease, unless_lost};
use crate::store::records::{self, Due};
use crate::store::txs::{self, NewTx};

/// Milliseconds between ticks.
const TICK_MS: u64 = 500;
/// Recording transactions on their way at most; what comes meanwhile goes together in the next one.
const UNDER_WAY: i64 = 2;
/// Milliseconds before what a transaction did not record is sent again; doubles each time.
const DELAY_MS: i64 = 5_000;
/// Completions that failed before go alone, this many in one tick.
const ALONE: usize = 4;
/// Milliseconds after which an unrecorded inference is an alarm.
const ALARM_MS: i64 = 30 * 60 * 1_000;
/// Ticks between two counts of what waits.
const COUNT_EVERY: u64 = 4;
/// Ticks between two warnings of the same alarm.
const ALARM_EVERY: u64 = 120;

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`: the tick did nothing and can be run again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut ticks = 0_u64;
    let mut role = Lease::new("relay", &ctx.installation);
    while !stop.is_cancelled() {
        ctx.life.beat("relay");
        if role.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            unless_lost(tick(&ctx, &role).await)?;
        }
        if ticks.is_multiple_of(COUNT_EVERY) {
            alarm(&ctx, ticks.is_multiple_of(ALARM_EVERY)).await?;
        }
        ticks = ticks.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// Takes back what ended without effect and queues what is due.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn tick(ctx: &Ctx, role: &Lease) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let chain_id = txs::chain_column(ctx.config.opengradient.chain_id)?;
    if let Some(head) = batches::head(&ctx.store, ctx.config.opengradient.chain_id).await? {
        let mut tx = role.write(&ctx.store).await?;
        let back = records::give_back(&mut tx, head.number, now_ms, DELAY_MS).await?;
        tx.commit().await?;
        if back > 0 {
            tracing::warn!(inferences = back, "recording transactions ended without recording");
            metrics::counter!("quittance_record_retries_total").increment(back);
        }
    }
    if records::under_way(&ctx.store, chain_id).await? >= UNDER_WAY {
        return Ok(());
    }
    let rows = i64::from(ctx.config.opengradient.record_rows);
    let mut due = records::due(&ctx.store, now_ms, rows).await?;
    if records::adopt(&ctx.store, &due, chain_id).await? > 0 {
        due = records::due(&ctx.store, now_ms, rows).await?;
    }
    let (due, corrupt): (Vec<Due>, Vec<Due>) = due.into_iter().partition(Due::adds_up);
    for one in corrupt {
        // It would be recorded, or refused, under another id, again and again.
        let mut tx = role.write(&ctx.store).await?;
        records::refuse(&mut tx, one.settlement_id).await?;
        tx.commit().await?;
        tracing::error!(settlement_id = %one.settlement_id, "a stored completion does not hash to its settlement id and is not recorded");
    }
    let (fresh, failed): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|due| due.attempts == 0);
    if !fresh.is_empty() {
        submit(ctx, role, &fresh, now_ms).await?;
    }
    // One inference that the inbox chokes on must not hold up the others.
    for alone in failed.chunks(1).take(ALONE) {
        submit(ctx, role, alone, now_ms).await?;
    }
    Ok(())
}

async fn submit(ctx: &Ctx, role: &Lease, due: &[Due], now_ms: i64) -> Result<()> {
    let Some(first) = due.first() else { return Ok(()) };
    let call = recordInferencesCall { inferences: due.iter().map(|due| due.inference.clone()).collect() };
    let new = NewTx {
        chain_id: ctx.config.opengradient.chain_id,
        kind: "record",
        intent_key: format!("record:{}:{}", first.settlement_id, first.attempts),
        target: ctx.config.opengradient.inbox,
        calldata: call.abi_encode().into(),
    };
    let mut tx = role.write(&ctx.store).await?;
    let tx_id = txs::enqueue(&mut tx, &new, now_ms).await?;
    if !records::submit(&mut tx, due, tx_id).await? {
        return Ok(());
    }
    tx.commit().await?;
    crash::point("after_record_queued");
    for one in due {
        tracing::info!(target: "trail", step = "recording", settlement = %one.settlement_id, tx_id);
    }
    tracing::info!(tx_id, inferences = due.len(), "recording queued");
    ctx.signals.og_txs.notify_one();
    Ok(())
}

/// Says so when an inference waits longer than it ever should.
async fn alarm(ctx: &Ctx, speak: bool) -> Result<()> {
    let backlog = records::backlog(&ctx.store).await?;
    let age_ms = backlog.oldest_ms.map_or(0, |oldest| ctx.clock.now_ms().saturating_sub(oldest).max(0));
    metrics::gauge!("quittance_record_waiting").set(count(backlog.waiting));
    metrics::gauge!("quittance_record_oldest_seconds").set(count(age_ms / 1_000));
    if speak && age_ms >= ALARM_MS {
        tracing::warn!(
            waiting = backlog.waiting,
            minutes = age_ms / 60_000,
            "inferences wait for OpenGradient: check its RPC and the gas balance there"
        );
    }
    Ok(())
}

fn count(value: i64) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::leases::testing::held;
    use crate::store::receipts::fixtures::{Seed, seed, set_head, store};
    use sqlx::Row;

    const OG: i64 = 10_740;

    async fn ctx() -> (tempfile::TempDir, Ctx) {
        let (dir, store) = store().await.unwrap();
        let mut config: Config = toml::from_str(include_str!("../quittance.example.toml")).unwrap();
        config.opengradient.record_rows = 3;
        set_head(&store, OG, 50, 1_000, 50).await.unwrap();
        (dir, Ctx::new(config, store).unwrap())
    }

    async fn look(ctx: &Ctx) -> Result<()> {
        tick(ctx, &held(&ctx.store).await).await
    }

    async fn sql(ctx: &Ctx, sql: &'static str) {
        let mut tx = ctx.store.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn states(ctx: &Ctx) -> Vec<String> {
        let rows = sqlx::query("SELECT record_state FROM completions ORDER BY created_ms").fetch_all(ctx.store.read());
        rows.await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn keys(ctx: &Ctx) -> Vec<String> {
        let rows = sqlx::query("SELECT intent_key FROM txs ORDER BY tx_id").fetch_all(ctx.store.read());
        rows.await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    #[tokio::test]
    async fn what_is_due_goes_in_bounded_calls_and_a_private_inference_never() {
        let (_dir, ctx) = ctx().await;
        for n in 0..8 {
            seed(&ctx.store, &Seed { private: n == 1, created_ms: i64::from(n), ..Seed::new(n) }).await.unwrap();
        }
        for _ in 0..4 {
            look(&ctx).await.unwrap();
        }
        let due = ["submitted", "private", "submitted", "submitted", "submitted", "submitted", "submitted", "due"];
        assert_eq!(states(&ctx).await, due, "two calls of three are under way, the rest waits");
        assert_eq!(keys(&ctx).await.len(), 2);
    }

    #[tokio::test]
    async fn what_a_transaction_did_not_record_is_sent_again_alone() {
        let (_dir, ctx) = ctx().await;
        for n in 0..3 {
            seed(&ctx.store, &Seed { created_ms: i64::from(n), ..Seed::new(n) }).await.unwrap();
        }
        look(&ctx).await.unwrap();
        sql(&ctx, "UPDATE txs SET state = 'failed', block_number = 51").await;
        look(&ctx).await.unwrap();
        assert_eq!(states(&ctx).await, ["submitted"; 3], "not before the events of its block are applied");
        sql(&ctx, "UPDATE txs SET state = 'failed', block_number = 50").await;
        look(&ctx).await.unwrap();
        assert_eq!(states(&ctx).await, ["due"; 3]);
        ctx.clock.shift(6_000);
        look(&ctx).await.unwrap();
        let again: Vec<_> = (0..3).map(|n| format!("record:{}:1", Seed::new(n).settlement_id())).collect();
        assert_eq!(keys(&ctx).await[1..], again);
    }

    #[tokio::test]
    async fn what_does_not_add_up_is_never_sent() {
        let (_dir, ctx) = ctx().await;
        for n in 0..3 {
            seed(&ctx.store, &Seed { created_ms: i64::from(n), ..Seed::new(n) }).await.unwrap();
        }
        sql(&ctx, "UPDATE completions SET output_hash = request_hash WHERE created_ms = 1").await;
        look(&ctx).await.unwrap();
        assert_eq!(states(&ctx).await, ["submitted", "refused", "submitted"]);
    }

    #[tokio::test]
    async fn what_others_recorded_before_is_recorded() {
        let (_dir, ctx) = ctx().await;
        let one = Seed::new(1);
        seed(&ctx.store, &one).await.unwrap();
        let mut tx = ctx.store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO events (chain_id, block_number, log_index, block_hash, tx_hash, contract, seq, name, topics, \
             topic1, data, timestamp) VALUES (10740, 9, 0, $1, $1, $2, 1, 'InferenceRecorded', $1, $3, $1, 7)",
        )
        .bind(vec![1_u8; 32])
        .bind(vec![2_u8; 20])
        .bind(one.settlement_id().to_vec())
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        look(&ctx).await.unwrap();
        assert_eq!(states(&ctx).await, ["recorded"]);
        assert!(keys(&ctx).await.is_empty());
    }
}
