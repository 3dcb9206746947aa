//! Local times after a step of the wall clock: what was written by a clock that was ahead would wait until it is reached.

use super::Store;
use super::txs::chain_column;
use crate::error::Result;

/// Brings local times that lie ahead of the clock back to where they can be waited for; only of rows that still wait for
/// something. `claims_ms` is the latest moment to which a claim made now may last; unix milliseconds. Returns the number of
/// rows. A thousand of them at a time: a statement over all of a long queue would hold them all in memory, and keep others
/// from writing.
///
/// # Errors
/// `store_failed`: some of it may be done.
pub async fn pull_back(store: &Store, chains: [u64; 2], now_ms: i64, claims_ms: i64) -> Result<u64> {
    let mut rows = 0;
    // What is looked up may be moved on by another keeper before it is written: only the outer condition is looked at again.
    for (sql, until) in [
        (
            "UPDATE orders SET next_attempt_ms = $1 WHERE order_id IN (SELECT order_id FROM orders
             WHERE request IS NOT NULL AND state IN ('open', 'dispatched') AND next_attempt_ms > $1 LIMIT 1000)
             AND next_attempt_ms > $1",
            claims_ms,
        ),
        (
            "UPDATE completions SET record_next_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM completions
             WHERE record_state = 'due' AND record_attempts > 0 AND record_next_ms > $1 LIMIT 1000)
             AND record_next_ms > $1",
            now_ms,
        ),
        (
            "UPDATE completions SET created_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM completions
             WHERE state = 'verified' AND created_ms > $1 LIMIT 1000)
             AND state = 'verified'",
            now_ms,
        ),
        (
            "UPDATE handed_in SET next_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM handed_in
             WHERE next_ms > $1 + 600000 LIMIT 1000)
             AND next_ms > $1 + 600000",
            now_ms,
        ),
        (
            "UPDATE receipts SET retry_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM receipts
             WHERE state = 'matched' AND retry_ms > $1 LIMIT 1000)
             AND state = 'matched'",
            now_ms,
        ),
        (
            "UPDATE receipts SET created_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM receipts
             WHERE state = 'matched' AND path IN ('batch', 'verified') AND created_ms > $1 LIMIT 1000)
             AND state = 'matched'",
            now_ms,
        ),
        (
            "UPDATE receipts SET retry_ms = $1 WHERE settlement_id IN (SELECT settlement_id FROM receipts
             WHERE state = 'settled' AND path = 'verified' AND delivered = 0 AND retry_ms > $1 LIMIT 1000)
             AND delivered = 0",
            now_ms,
        ),
    ] {
        loop {
            let mut tx = store.write().await?;
            let run = sqlx::query(sql).bind(until).execute(&mut *tx).await?.rows_affected();
            tx.commit().await?;
            if run == 0 {
                break;
            }
            rows += run;
        }
    }
    let mut tx = store.write().await?;
    for sql in [
        "UPDATE txs SET updated_ms = $1 WHERE chain_id = $2 AND state IN ('quarantined', 'obsolete', 'failed')
         AND updated_ms > $1",
        "UPDATE attempts SET created_ms = $1 WHERE created_ms > $1
         AND tx_id IN (SELECT tx_id FROM txs WHERE chain_id = $2 AND state IN ('signed', 'sent'))",
        "UPDATE attempts SET broadcast_ms = $1 WHERE broadcast_ms > $1
         AND tx_id IN (SELECT tx_id FROM txs WHERE chain_id = $2 AND state IN ('signed', 'sent'))",
    ] {
        for chain_id in chains {
            let done = sqlx::query(sql).bind(now_ms).bind(chain_column(chain_id)?).execute(&mut *tx).await?;
            rows += done.rows_affected();
        }
    }
    tx.commit().await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::store::receipts::fixtures::{Seed, seed, store};

    #[tokio::test]
    async fn what_lies_ahead_can_be_waited_for_and_the_rest_stays() -> Result<()> {
        let (_dir, store) = store().await?;
        for (n, created_ms) in [(1, 500), (2, 9_000_000)] {
            seed(&store, &Seed { created_ms, ..Seed::new(n) }).await?;
        }
        let mut tx = store.write().await?;
        sqlx::query("UPDATE orders SET state = 'open', next_attempt_ms = 7 + 1000000 * (attempts + 1)")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        assert!(pull_back(&store, [1, 2], 1_000, 4_000).await? >= 3);
        assert_eq!(pull_back(&store, [1, 2], 1_000, 4_000).await?, 0);
        let rows = sqlx::query("SELECT created_ms FROM receipts ORDER BY created_ms").fetch_all(store.read()).await?;
        assert_eq!(rows.iter().map(|row| row.get::<i64, _>(0)).collect::<Vec<_>>(), [500, 1_000]);
        let rows = sqlx::query("SELECT next_attempt_ms FROM orders").fetch_all(store.read()).await?;
        assert!(rows.iter().all(|row| row.get::<i64, _>(0) == 4_000));
        Ok(())
    }
}
