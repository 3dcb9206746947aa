//! The whole keeper under completions from another process: verified, matched and on disk before they are answered.

use eyre::{Result, ensure};
use quittance::devnet::periods::Periods;
use quittance::store::Store;

use crate::fixture::{Pair, admit};
use crate::http::{self, Outcome};
use crate::keeper::{Stage, cpu, memory};
use crate::report::{Report, quantile};
use crate::scaled;

/// Connections of the load, single completions and batches.
const SINGLE: usize = 1_000;
const BATCHED: usize = 48;
const BATCH: usize = 100;

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let mut stage = Stage::new("completions", 4, 16, Periods::default()).await?;
    // As in the example configuration: the rows of batches are published only by those who want it.
    stage.config.publish = None;
    let (singles, batched) = (scaled(60_000, scale, 2_000), scaled(120_000, scale, 4_000));
    let mut pairs = stage.world.pairs(0, singles + batched)?;
    let store = Store::open(&stage.config.keeper.database).await?;
    admit(&store, &mut pairs).await?;
    store.close().await;
    // Blocks stand still: this measures intake, with the freezing of batches beside it, not anvil.
    stage.chains.base.pause().await?;
    stage.chains.opengradient.pause().await?;
    let (keeper, _) = stage.keeper().await?;
    let pid = keeper.pid();
    let address = &stage.config.api.listen.clone();

    let json = |pairs: &[Pair]| pairs.iter().map(Pair::json).collect::<Vec<_>>();
    let requests: Vec<Vec<u8>> =
        json(&pairs[..singles]).iter().map(|body| http::post(address, "/completions", body)).collect();
    let before = cpu(pid)?;
    let outcome = http::run(address, requests, SINGLE, "\"matched\"").await?;
    show(report, "single, 1,000 connections", singles, &outcome, cpu(pid)? - before, "10,000")?;

    let requests: Vec<Vec<u8>> = pairs[singles..]
        .chunks(BATCH)
        .map(|pairs| http::post(address, "/completions", &format!("[{}]", json(pairs).join(","))))
        .collect();
    let before = cpu(pid)?;
    let outcome = http::run(address, requests, BATCHED, "\"matched\"").await?;
    show(report, "batches of 100, 48 connections", batched, &outcome, cpu(pid)? - before, "20,000")?;
    report.figure("keeper's peak memory", memory(pid)?.1, "MiB", Some("≤ 150"));
    Ok(())
}

fn show(report: &mut Report, name: &str, count: usize, outcome: &Outcome, cpu: f64, target: &str) -> Result<()> {
    ensure!(outcome.hits == count, "{} of {count} completions were matched", outcome.hits);
    let n = f64::from(u32::try_from(count)?);
    report.figure(
        &format!("{name}: completions"),
        n / outcome.elapsed.as_secs_f64(),
        "/s",
        Some(&format!("≥ {target}")),
    );
    report.figure(&format!("{name}: keeper's processor time each"), cpu * 1e6 / n, "µs", None);
    for (label, share) in [("p50", 0.5), ("p99", 0.99)] {
        let value = quantile(&outcome.latencies, share) / 1e3;
        report.figure(&format!("{name}: request {label}"), value, "ms", None);
    }
    Ok(())
}
