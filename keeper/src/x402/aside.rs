//! The loop beside a network's settling: whatever payments need that is not their own transaction, and may take long.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::approve::Approvals;
use super::search::Search;
use crate::ctx::SharedCtx;
use crate::error::{Error, Result};
use crate::store::leases::Lease;

/// Time between looks while something is open.
const BUSY: Duration = Duration::from_millis(200);

/// Runs until `stop`.
///
/// # Errors
/// `store_corrupt`, `bad_configuration`. What an endpoint or the database fails to do is tried again in the next round.
pub async fn run(ctx: SharedCtx, index: usize, stop: CancellationToken) -> Result<()> {
    let network = &ctx.x402.networks[index];
    let span = info_span!("x402_aside", chain = network.config.chain_id);
    let mut lease = Lease::new(format!("x402_aside:{}", network.config.chain_id), &ctx.installation);
    let mut open = (Approvals::default(), Search::new(network));
    async {
        let tick = Duration::from_millis(network.config.tick_ms.max(10));
        while !stop.is_cancelled() {
            ctx.life.beat(network.aside_beat);
            let pause = match round(&ctx, index, &mut lease, &mut open).await {
                Ok(true) => BUSY.min(tick),
                Ok(false) => tick,
                Err(error @ (Error::Corrupt { .. } | Error::Config(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "look beside payments failed");
                    tick
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = network.aside.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        lease.release(&ctx.store).await
    }
    .instrument(span)
    .await
}

async fn round(ctx: &SharedCtx, index: usize, lease: &mut Lease, open: &mut (Approvals, Search)) -> Result<bool> {
    if !lease.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
        return Ok(false);
    }
    let network = &ctx.x402.networks[index];
    let (approvals, search) = open;
    // Neither stops the other.
    let approved = approvals.round(ctx, network, lease).await;
    let searched = search.round(ctx, network, lease).await;
    Ok(approved? | searched?)
}
