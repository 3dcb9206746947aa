//! Notices that the wall clock was set back, and brings what was written by it before to where it can be waited for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::dispatch::lease;
use crate::error::Result;
use crate::store::steps;

/// Milliseconds between looks.
const TICK_MS: u64 = 1_000;

/// Runs until `stop`. A start counts as a step: nobody knows what happened before.
///
/// # Errors
/// `store_failed`: the next start of the loop does it again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut started = false;
    while !stop.is_cancelled() {
        ctx.life.beat("steps");
        let ms = ctx.clock.set_back_ms();
        if ms > 0 {
            tracing::warn!(ms, "the machine's clock was set back");
        }
        if ms > 0 || !std::mem::replace(&mut started, true) {
            pull_back(&ctx).await?;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    Ok(())
}

async fn pull_back(ctx: &Ctx) -> Result<()> {
    let chains = [ctx.config.base.chain_id, ctx.config.opengradient.chain_id];
    let rows = steps::pull_back(&ctx.store, chains, ctx.clock.now_ms(), lease(ctx)).await?;
    if rows > 0 {
        tracing::info!(rows, "local times that lay ahead of the clock");
        ctx.signals.orders.notify_one();
    }
    Ok(())
}
