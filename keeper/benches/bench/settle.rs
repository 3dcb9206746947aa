//! The whole keeper against two chains with a block a second: how many inferences are settled a second, and how long one
//! takes from its completion to Base, to OpenGradient and to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use quittance::devnet::periods::Periods;
use quittance::store::Store;
use sqlx::Row;

use crate::fixture::{Pair, admit};
use crate::http;
use crate::keeper::{Stage, cpu, memory};
use crate::report::{Report, quantile};
use crate::scaled;

const BATCH: usize = 100;
/// Completions a second while times are taken.
const STEADY: usize = 50;
/// Seconds from a batch to its end on this devnet.
const WINDOW: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(180);

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let mut stage = Stage::new("settle", 4, 16, Periods { window: WINDOW, ..Periods::default() }).await?;
    stage.config.batch.max_rows = 256;
    stage.config.batch.max_age_ms = 1_000;
    stage.config.base.in_flight = 24;
    stage.config.opengradient.record_rows = 200;
    let (steady, many) = (scaled(1_000, scale, 200), scaled(30_000, scale, 3_000));
    let mut pairs = stage.world.pairs(0, steady + many)?;
    let store = Store::open(&stage.config.keeper.database).await?;
    stage.fund().await?;
    admit(&store, &mut pairs).await?;
    let (keeper, _) = stage.keeper().await?;
    let pid = keeper.pid();
    let address = stage.config.api.listen.clone();

    times(report, &store, &address, &pairs[..steady]).await?;

    let before = cpu(pid)?;
    let bodies = pairs[steady..].chunks(BATCH).map(|pairs| {
        let items: Vec<String> = pairs.iter().map(Pair::json).collect();
        http::post(&address, "/completions", &format!("[{}]", items.join(",")))
    });
    let outcome = http::run(&address, bodies.collect(), 8, "\"matched\"").await?;
    ensure!(outcome.hits == many, "{} of {many} completions were matched", outcome.hits);
    let wanted = i64::try_from(steady + many)?;
    let started = Instant::now();
    while count(&store, "SELECT COUNT(*) FROM receipts WHERE state = 'settled'").await? < wanted {
        ensure!(started.elapsed() < PATIENCE, "not everything was settled in three minutes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rows = sqlx::query(
        "SELECT b.settled_at, COUNT(*) AS n FROM batches b JOIN receipts r ON r.batch_id = b.batch_id \
         GROUP BY b.settled_at ORDER BY b.settled_at",
    )
    .fetch_all(store.read())
    .await?;
    let mut blocks: BTreeMap<i64, i64> = BTreeMap::new();
    for row in rows {
        blocks.insert(row.try_get("settled_at")?, row.try_get("n")?);
    }
    // The longest run of seconds with settlements: the load; what was settled before it was the steady part.
    let n = f64::from(i32::try_from(many)?);
    let (rows, seconds) = busiest(&blocks, i64::try_from(many)?);
    report.figure("inferences settled, blocks of one second", rows / seconds, "/s", Some("≥ 2,000"));
    report.figure("  keeper's processor time each", (cpu(pid)? - before) * 1e6 / n, "µs", None);
    report.figure("  keeper's peak memory", memory(pid)?.1, "MiB", Some("≤ 150"));
    store.close().await;
    Ok(())
}

/// Rows and seconds from the first block that belongs to the load to the last.
fn busiest(blocks: &BTreeMap<i64, i64>, wanted: i64) -> (f64, f64) {
    let (mut rows, mut first, mut last) = (0, 0, 0);
    for (at, n) in blocks.iter().rev() {
        last = last.max(*at);
        if rows >= wanted {
            break;
        }
        rows += n;
        first = *at;
    }
    #[allow(clippy::cast_precision_loss)]
    (rows as f64, (last - first + 1) as f64)
}

async fn count(store: &Store, sql: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(store.read()).await?)
}

/// One completion every 20 ms, and when each is seen to be where.
async fn times(report: &mut Report, store: &Store, address: &str, pairs: &[Pair]) -> Result<()> {
    let mut sent: BTreeMap<Vec<u8>, Instant> = BTreeMap::new();
    let levels = [
        ("to included on Base", "SELECT settlement_id FROM receipts WHERE state = 'settled'"),
        ("to recorded on OpenGradient", "SELECT settlement_id FROM completions WHERE record_state = 'recorded'"),
        (
            "to final, of that 5 s of window",
            "SELECT r.settlement_id FROM receipts r JOIN orders o ON o.order_id = r.order_id WHERE o.state = 'final'",
        ),
    ];
    let mut seen: Vec<BTreeSet<Vec<u8>>> = vec![BTreeSet::new(); levels.len()];
    let mut took: Vec<Vec<u64>> = vec![Vec::new(); levels.len()];
    let started = Instant::now();
    let mut next = pairs.iter().enumerate().peekable();
    while took.iter().any(|times| times.len() < pairs.len()) {
        ensure!(started.elapsed() < PATIENCE, "not everything was final in three minutes");
        while let Some((index, pair)) = next.peek() {
            if started.elapsed() < Duration::from_millis(u64::try_from(index * 1_000 / STEADY)?) {
                break;
            }
            let request = http::post(address, "/completions", &pair.json());
            let outcome = http::run(address, vec![request], 1, "\"matched\"").await?;
            ensure!(outcome.hits == 1, "a completion was not matched");
            sent.insert(pair.completion.settlement_id.to_vec(), Instant::now());
            next.next();
        }
        for (level, (_, sql)) in levels.iter().enumerate() {
            for row in sqlx::query(*sql).fetch_all(store.read()).await? {
                let id: Vec<u8> = row.try_get("settlement_id")?;
                if let Some(at) = sent.get(&id).filter(|_| !seen[level].contains(&id)) {
                    took[level].push(u64::try_from(at.elapsed().as_millis())?);
                    seen[level].insert(id);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for ((name, _), mut times) in levels.iter().zip(took) {
        times.sort_unstable();
        for (label, share) in [("p50", 0.5), ("p99", 0.99)] {
            report.figure(
                &format!("50 a second: completion {name}, {label}"),
                quantile(&times, share) / 1e3,
                "s",
                None,
            );
        }
    }
    Ok(())
}
