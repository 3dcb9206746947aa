//! Durable ingest without HTTP and signatures: how fast the writer commits what was verified.

use std::sync::Arc;
use std::time::Instant;

use alloy::primitives::{Address, B256};
use eyre::{Result, ensure, eyre};
use futures_util::stream::{self, StreamExt};
use quittance::config::Config;
use quittance::crypto::RsaKey;
use quittance::ctx::Ctx;
use quittance::devnet::keys::Key;
use quittance::ingest::{self, Done, Job, NewCompletion};
use quittance::store::Store;
use quittance::store::completions::Matched;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Pair, World, admit, payers};
use crate::report::Report;
use crate::scaled;

/// Callers that wait for their commit at the same time.
const CALLERS: usize = 256;

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let mut config: Config = toml::from_str(include_str!("../../quittance.example.toml"))?;
    let dir = std::env::temp_dir().join(format!("quittance-bench-ingest-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let world = World {
        chain_id: config.base.chain_id,
        escrow: config.base.escrow,
        ledger: config.base.ledger,
        keeper_id: config.keeper.id,
        token: config.base.tokens.first().copied().unwrap_or(Address::ZERO),
        nodes: vec![(RsaKey::generate()?, Key::of("meter-0")?.signer)],
        payers: payers(8)?,
        now: 1_795_200_000,
    };
    let mut pairs = world.pairs(0, scaled(40_000, scale, 2_000))?;
    config.keeper.database = format!("sqlite:{}", dir.join("keeper.db").display());
    let store = Store::open(&config.keeper.database).await?;
    admit(&store, &mut pairs).await?;
    let ctx = Arc::new(Ctx::new(config, store)?);
    let stop = CancellationToken::new();
    let writer = tokio::spawn(ingest::run(Arc::clone(&ctx), stop.clone()));

    let half = pairs.split_off(pairs.len() / 2);
    let alone: Vec<Pair> = pairs.drain(..pairs.len() / 20).collect();
    let rate = |count: usize, started: Instant| {
        f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / started.elapsed().as_secs_f64()
    };

    let (count, started) = (alone.len(), Instant::now());
    for pair in alone {
        commit(&ctx, pair).await?;
    }
    report.figure("one caller, one completion at a time", rate(count, started), "/s", None);

    let (count, started) = (pairs.len(), Instant::now());
    let mut waiting = stream::iter(pairs.into_iter().map(|pair| commit(&ctx, pair))).buffer_unordered(CALLERS);
    while let Some(done) = waiting.next().await {
        done?;
    }
    report.figure("256 callers, one completion each", rate(count, started), "/s", None);

    let (count, started) = (half.len(), Instant::now());
    let mut half = half.into_iter();
    loop {
        let batch: Vec<Pair> = half.by_ref().take(100).collect();
        if batch.is_empty() {
            break;
        }
        for done in futures_util::future::join_all(batch.into_iter().map(|pair| commit(&ctx, pair))).await {
            done?;
        }
    }
    report.figure("one caller, batches of 100", rate(count, started), "/s", None);
    stop.cancel();
    writer.await??;
    ctx.store.close().await;
    Ok(std::fs::remove_dir_all(dir)?)
}

async fn commit(ctx: &Ctx, pair: Pair) -> Result<()> {
    let order_id: B256 = pair.order_id;
    let row = pair.row.ok_or_else(|| eyre!("order {order_id} was not read"))?;
    let new = NewCompletion::answering(row, pair.completion, pair.metered);
    let done = ctx.ingest.submit(Job::Completion(Box::new(new))).await?;
    ensure!(done == Done::Matched(Matched::New), "order {order_id}: {done:?}");
    Ok(())
}
