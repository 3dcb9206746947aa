//! Notices that the wall clock was set back, and brings what was written by it before to where it can be waited for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::dispatch::lease;
use crate::error::Result;
use crate::store::steps;

/// Milliseconds between looks.
const TICK_MS: u64 = 1_000;
/// Steps back of at most so many milliseconds are waited out.
const TOLERANCE_MS: i64 = 2_000;

/// Runs until `stop`. A start counts as a step: nobody knows what happened before.
///
/// # Errors
/// `store_failed`: the next start of the loop does it again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut offset: Option<i64> = None;
    while !stop.is_cancelled() {
        ctx.life.beat("steps");
        let now = ctx.clock.now_ms().saturating_sub(ctx.clock.elapsed_ms());
        if offset.is_none_or(|before| now < before.saturating_sub(TOLERANCE_MS)) {
            if let Some(before) = offset {
                tracing::warn!(ms = before.saturating_sub(now), "the machine's clock was set back");
            }
            pull_back(&ctx).await?;
        }
        offset = Some(offset.map_or(now, |before| if (before - now).abs() > TOLERANCE_MS { now } else { before }));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    Ok(())
}

async fn pull_back(ctx: &Ctx) -> Result<()> {
    let mut tx = ctx.store.write().await?;
    let chains = [ctx.config.base.chain_id, ctx.config.opengradient.chain_id];
    let rows = steps::pull_back(&mut tx, chains, ctx.clock.now_ms(), lease(ctx)).await?;
    tx.commit().await?;
    if rows > 0 {
        tracing::info!(rows, "local times that lay ahead of the clock");
        ctx.signals.orders.notify_one();
    }
    Ok(())
}
