//! What operators ask of the whole: what waits since when, and who does what.

use sqlx::Row;

use super::Store;
use super::records::Backlog;
use crate::error::Result;

/// Receipts that are not settled on Base yet.
///
/// # Errors
/// `store_failed`.
pub async fn unsettled(store: &Store) -> Result<Backlog> {
    let mut backlog = Backlog::default();
    // One by one: each state has an index of its own.
    for sql in [
        "SELECT COUNT(*) AS n, MIN(created_ms) AS oldest FROM receipts WHERE state = 'matched'",
        "SELECT COUNT(*) AS n, MIN(created_ms) AS oldest FROM receipts WHERE state = 'batched'",
    ] {
        backlog.add(&sqlx::query(sql).fetch_one(store.read()).await?)?;
    }
    Ok(backlog)
}

/// When the oldest transaction that is not mined was queued, unix milliseconds.
///
/// # Errors
/// `store_failed`.
pub async fn oldest_tx(store: &Store, chain_id: u64) -> Result<Option<i64>> {
    let row = sqlx::query(
        "SELECT MIN(created_ms) AS oldest FROM txs WHERE chain_id = $1 AND state IN ('queued', 'signed', 'sent')",
    )
    .bind(i64::try_from(chain_id).unwrap_or(i64::MAX))
    .fetch_one(store.read())
    .await?;
    Ok(row.try_get("oldest")?)
}

/// How many rows of a table are in each state.
///
/// # Errors
/// `store_failed`.
pub async fn states(store: &Store, table: Table) -> Result<Vec<(String, i64)>> {
    let sql = match table {
        Table::Orders => {
            "SELECT CAST(state AS TEXT) AS state, COUNT(*) AS n FROM orders GROUP BY CAST(state AS TEXT) ORDER BY 1"
        }
        Table::Receipts => "SELECT state, COUNT(*) AS n FROM receipts GROUP BY state ORDER BY state",
        Table::Records => {
            "SELECT record_state AS state, COUNT(*) AS n FROM completions GROUP BY record_state ORDER BY 1"
        }
        Table::Batches => "SELECT state, COUNT(*) AS n FROM batches GROUP BY state ORDER BY state",
        Table::Txs => "SELECT state, COUNT(*) AS n FROM txs GROUP BY state ORDER BY state",
    };
    let rows = sqlx::query(sql).fetch_all(store.read()).await?;
    rows.iter().map(|row| Ok((row.try_get("state")?, row.try_get("n")?))).collect()
}

/// What is counted by its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Orders,
    Receipts,
    /// Recording on OpenGradient.
    Records,
    Batches,
    Txs,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 5] = [Self::Orders, Self::Receipts, Self::Records, Self::Batches, Self::Txs];

    /// Name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Receipts => "receipts",
            Self::Records => "records",
            Self::Batches => "batches",
            Self::Txs => "transactions",
        }
    }
}

/// A role and who has it.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: String,
    pub owner: String,
    pub epoch: i64,
    pub beat: i64,
}

/// Roles of the keepers on this database.
///
/// # Errors
/// `store_failed`.
pub async fn roles(store: &Store) -> Result<Vec<Role>> {
    let rows = sqlx::query("SELECT name, owner, epoch, beat FROM leases WHERE name NOT LIKE 'disk:%' ORDER BY name")
        .fetch_all(store.read());
    rows.await?
        .iter()
        .map(|row| {
            Ok(Role {
                name: row.try_get("name")?,
                owner: row.try_get("owner")?,
                epoch: row.try_get("epoch")?,
                beat: row.try_get("beat")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::leases::Lease;
    use crate::store::receipts::fixtures::{Seed, seed, store};

    #[tokio::test]
    async fn what_waits_is_counted_from_its_oldest() -> Result<()> {
        let (_dir, store) = store().await?;
        assert_eq!(unsettled(&store).await?, Backlog::default());
        assert_eq!(oldest_tx(&store, 8453).await?, None);
        for n in 1..4 {
            seed(&store, &Seed { created_ms: i64::from(n) * 10, ..Seed::new(n) }).await?;
        }
        assert_eq!(unsettled(&store).await?, Backlog { waiting: 3, oldest_ms: Some(10) });
        for table in Table::ALL {
            let rows: i64 = states(&store, table).await?.iter().map(|(_, n)| n).sum();
            let expected = if matches!(table, Table::Batches | Table::Txs) { 0 } else { 3 };
            assert_eq!(rows, expected, "{}", table.as_str());
        }
        Lease::new("watch:1", "a").hold(&store, 1_000).await?;
        let roles = roles(&store).await?;
        assert_eq!((roles.len(), roles[0].owner.as_str()), (1, "a"));
        Ok(())
    }
}
