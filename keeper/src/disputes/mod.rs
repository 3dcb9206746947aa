//! Disputes: every challenge is answered whose receipt we hold, whoever's batch it is; other keepers' batches are looked behind,
//! and put to the proof where the configuration says so.

mod answer;
pub mod batch;
mod chain;
mod watch;

use std::time::Duration;

use alloy::primitives::Address;
use tokio_util::sync::CancellationToken;

use crate::ctx::SharedCtx;
use crate::error::{Error, Result};
use crate::store::{batches, challenges};

pub use self::chain::load;

/// Milliseconds between ticks.
const TICK_MS: u64 = 1_000;
/// Challenges and batches of each kind in one tick.
const LIMIT: i64 = 20;
/// Milliseconds before a failed transaction, or the search for a receipt, is tried again.
const RETRY_MS: i64 = 30_000;

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`, `rpc_failed`: the tick can be run again. `bad_configuration` when the key cannot be read.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let source = ctx.config.base.key.clone();
    // A keystore takes a second of computing.
    let signer = tokio::task::spawn_blocking(move || crate::crypto::load_signer(&source)).await;
    let me = signer.map_err(|error| Error::Config(format!("base.key: {error}")))??.address();
    let mut window = None;
    while !stop.is_cancelled() {
        ctx.life.beat("disputes");
        tick(&ctx, me, &mut window).await?;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    Ok(())
}

/// Answers first: they have a deadline.
async fn tick(ctx: &SharedCtx, me: Address, window: &mut Option<i64>) -> Result<()> {
    let Some(head) = batches::head(&ctx.store, ctx.config.base.chain_id).await? else { return Ok(()) };
    let open = challenges::count(&ctx.store).await?;
    #[allow(clippy::cast_precision_loss)]
    for (against, n) in [("ours", open.ours), ("others", open.all - open.ours)] {
        metrics::gauge!("quittance_challenges_open", "against" => against).set(n as f64);
    }
    answer::answer(ctx, head).await?;
    answer::resolve(ctx, head, me).await?;
    let window = match *window {
        Some(window) => window,
        None => *window.insert(crate::finish::window(ctx).await?),
    };
    watch::watch(ctx, head, window, me).await
}
