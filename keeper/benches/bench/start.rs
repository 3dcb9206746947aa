//! How soon a keeper is ready when its database holds a million rows, and what it needs while nothing happens.

use std::time::Duration;

use eyre::Result;
use quittance::devnet::periods::Periods;
use quittance::store::Store;

use crate::keeper::{Stage, memory};
use crate::report::Report;
use crate::scaled;

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let mut stage = Stage::new("start", 3, 1, Periods::default()).await?;
    let (keeper, empty) = stage.keeper().await?;
    drop(keeper);
    let store = Store::open(&stage.config.keeper.database).await?;
    let each = scaled(340_000, scale, 10_000);
    fill(&store, each).await?;
    store.close().await;
    let mut best = f64::INFINITY;
    let mut last = None;
    for _ in 0..5 {
        drop(last.take());
        let (keeper, ready) = stage.keeper().await?;
        best = best.min(ready);
        last = Some(keeper);
    }
    let rows = format!("ready, with {} rows", 3 * each);
    report.figure("ready, with an empty store", empty, "ms", None);
    report.figure(&rows, best, "ms", Some("≤ 500"));
    if let Some(keeper) = last {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (now, peak) = memory(keeper.pid())?;
        report.figure("memory, idle for 20 s", now, "MiB", Some("≤ 60"));
        report.figure("peak memory since the start", peak, "MiB", None);
    }
    Ok(())
}

/// Orders, completions and receipts that have gone their way, and one in ten that has not.
async fn fill(store: &Store, each: usize) -> Result<()> {
    let each = i64::try_from(each)?;
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) ";
    for sql in [
        "CREATE TEMP TABLE ids AS {n} SELECT i, randomblob(32) AS o, randomblob(32) AS s FROM n",
        "INSERT INTO orders (order_id, payer, token, max_amount, request_commit, node_scope, keeper_id, valid_after, \
         valid_before, capture_deadline, nonce, signature, blinding, request_hash, request, state, held, reserved, attempts, \
         next_attempt_ms, created_ms, updated_ms) SELECT o, randomblob(20), zeroblob(20), '20000', randomblob(32), \
         zeroblob(32), zeroblob(32), 1, 4000000000, 4000000000, randomblob(32), randomblob(65), zeroblob(32), randomblob(32), \
         CASE WHEN i % 10 = 0 THEN randomblob(160) END, CASE WHEN i % 10 = 0 THEN 'settled' ELSE 'final' END, 0, '0', 1, 0, i, \
         i FROM ids",
        "INSERT INTO completions (settlement_id, order_id, node_id, node_version, request_hash, output_hash, timestamp, \
         signature, output, meter_signature, meter_offset, amount, state, record_state, created_ms) SELECT s, o, zeroblob(32), \
         1, randomblob(32), randomblob(32), 1, randomblob(256), CASE WHEN i % 10 = 0 THEN randomblob(200) END, randomblob(65), \
         '0', '1234', 'matched', 'recorded', i FROM ids",
        "INSERT INTO receipts (settlement_id, order_id, payer, token, node_id, amount, receipt_hash, state, path, batch_id, \
         batch_index, leaf_row, delivered, deliver_attempts, created_ms) SELECT s, o, randomblob(20), zeroblob(20), \
         zeroblob(32), '1234', randomblob(32), 'settled', 'batch', i / 256 + 1, i % 256, i % 256, 0, 0, i FROM ids",
        "DROP TABLE ids",
    ] {
        let mut tx = store.write().await?;
        let text = sql.replace("{n}", numbers);
        let mut statement = sqlx::query(sqlx::AssertSqlSafe(text));
        if sql.contains("{n}") {
            statement = statement.bind(each);
        }
        statement.execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}
