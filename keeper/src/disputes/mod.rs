//! Disputes: every challenge is answered whose receipt we hold, whoever's batch it is; other keepers' batches are looked behind,
//! and put to the proof where the configuration says so.

mod answer;
pub mod batch;
mod chain;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use alloy::primitives::Address;
use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Error, Result};
use crate::store::leases::{Lease, unless_lost};
use crate::store::{batches, challenges};

pub use self::chain::load;

/// Milliseconds between ticks.
const TICK_MS: u64 = 1_000;
/// Challenges and batches of each kind in one tick.
const LIMIT: i64 = 20;
/// Milliseconds before a failed transaction, or the search for a receipt that is not here, is tried again.
const RETRY_MS: i64 = 30_000;

/// Runs until `stop`. A role: several keepers on one database would read every batch several times, and each would put up the
/// whole `max_stake`.
///
/// # Errors
/// `store_failed`, `store_corrupt`, `rpc_failed`: the tick can be run again. `bad_configuration` when the key cannot be read.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let source = ctx.config.base.key.clone();
    // A keystore takes a second of computing.
    let signer = tokio::task::spawn_blocking(move || crate::crypto::load_signer(&source)).await;
    let me = signer.map_err(|error| Error::Config(format!("base.key: {error}")))??.address();
    look_after(&ctx, me, &stop).await
}

/// Looks after disputes in the name of `me` while the role is ours.
async fn look_after(ctx: &Ctx, me: Address, stop: &CancellationToken) -> Result<()> {
    let mut role = Lease::new("disputes", &ctx.installation);
    let mut window = None;
    while !stop.is_cancelled() {
        ctx.life.beat("disputes");
        if role.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            unless_lost(tick(ctx, &role, me, &mut window).await)?;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// Answers first: they have a deadline.
async fn tick(ctx: &Ctx, role: &Lease, me: Address, window: &mut Option<i64>) -> Result<()> {
    let Some(head) = batches::head(&ctx.store, ctx.config.base.chain_id).await? else { return Ok(()) };
    let open = challenges::count(&ctx.store).await?;
    #[allow(clippy::cast_precision_loss)]
    for (against, n) in [("ours", open.ours), ("others", open.all - open.ours)] {
        metrics::gauge!("quittance_challenges_open", "against" => against).set(n as f64);
    }
    answer::end(ctx, role, head, me).await?;
    let window = match *window {
        Some(window) => window,
        None => *window.insert(crate::finish::window(ctx).await?),
    };
    watch::watch(ctx, role, head, window, me).await
}

/// Whether an error is one of the store or of the role, and not of the batch or receipt that is looked at.
const fn stops(error: &Error) -> bool {
    matches!(error, Error::Store(_) | Error::LeaseLost(_))
}
