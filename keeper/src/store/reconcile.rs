//! What this database says of settlements that the chains name, and what it claims that the chains should name.

use alloy::primitives::B256;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Store;
use crate::error::Result;
use crate::types::b256;

/// A completion and what became of it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub settlement_id: B256,
    pub order_id: Option<B256>,
    /// verified, matched, orphaned
    pub state: String,
    /// private, due, submitted, recorded, refused
    pub record_state: String,
    /// State of its receipt; `None` when no order is charged for it.
    pub receipt: Option<String>,
    pub skip_reason: Option<String>,
    pub created_ms: i64,
}

const COLUMNS: &str = "SELECT c.settlement_id, c.order_id, c.state, c.record_state, c.created_ms, r.state AS receipt, \
                       r.skip_reason FROM completions c LEFT JOIN receipts r ON r.settlement_id = c.settlement_id ";

fn known(row: &AnyRow) -> Result<Known> {
    let order: Option<Vec<u8>> = row.try_get("order_id")?;
    Ok(Known {
        settlement_id: b256("completions", &row.try_get::<Vec<u8>, _>("settlement_id")?)?,
        order_id: order.map(|bytes| b256("completions", &bytes)).transpose()?,
        state: row.try_get("state")?,
        record_state: row.try_get("record_state")?,
        receipt: row.try_get("receipt")?,
        skip_reason: row.try_get("skip_reason")?,
        created_ms: row.try_get("created_ms")?,
    })
}

/// A completion by its settlement id.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn by_settlement(store: &Store, id: B256) -> Result<Option<Known>> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE c.settlement_id = $1"));
    sqlx::query(sql).bind(id.to_vec()).fetch_optional(store.read()).await?.as_ref().map(known).transpose()
}

/// The completion that an order is charged for.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn by_order(store: &Store, id: B256) -> Result<Option<Known>> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE r.order_id = $1"));
    sqlx::query(sql).bind(id.to_vec()).fetch_optional(store.read()).await?.as_ref().map(known).transpose()
}

/// Settlements that this database has in these blocks of Base, both ends included: order and settlement ids.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn settled(store: &Store, from: i64, to: i64) -> Result<Vec<(B256, B256)>> {
    let rows = sqlx::query(
        "SELECT r.order_id, r.settlement_id FROM receipts r LEFT JOIN batches b ON b.batch_id = r.batch_id \
         WHERE r.state = 'settled' AND COALESCE(r.base_block, b.base_block) BETWEEN $1 AND $2",
    )
    .bind(from)
    .bind(to)
    .fetch_all(store.read())
    .await?;
    let id = |row: &AnyRow, column: &str| b256("receipts", &row.try_get::<Vec<u8>, _>(column)?);
    rows.iter().map(|row| Ok((id(row, "order_id")?, id(row, "settlement_id")?))).collect()
}

/// Settlements that this database has as recorded in these blocks of OpenGradient, both ends included.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn recorded(store: &Store, from: i64, to: i64) -> Result<Vec<B256>> {
    let rows = sqlx::query(
        "SELECT settlement_id FROM completions WHERE record_state = 'recorded' AND og_block BETWEEN $1 AND $2",
    )
    .bind(from)
    .bind(to)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(|row| b256("completions", &row.try_get::<Vec<u8>, _>("settlement_id")?)).collect()
}

/// Completions stored in this time, unix milliseconds, whose receipt is not settled or whose inference is not recorded.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn unfinished(store: &Store, from_ms: i64, to_ms: i64) -> Result<Vec<Known>> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{COLUMNS} WHERE c.created_ms >= $1 AND c.created_ms < $2 \
         AND (r.state IN ('matched', 'batched') OR c.record_state IN ('due', 'submitted'))"
    ));
    let rows = sqlx::query(sql).bind(from_ms).bind(to_ms).fetch_all(store.read()).await?;
    rows.iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::receipts::fixtures::{Seed, seed, store};

    #[tokio::test]
    async fn what_is_known_of_a_settlement() -> Result<()> {
        let (_dir, store) = store().await?;
        let one = Seed::new(1);
        seed(&store, &one).await?;
        let by = by_order(&store, one.order_id()).await?;
        assert_eq!(by, by_settlement(&store, one.settlement_id()).await?);
        let by = by.map(|known| (known.settlement_id, known.receipt));
        assert_eq!(by, Some((one.settlement_id(), Some("matched".to_owned()))));
        assert_eq!(by_order(&store, B256::ZERO).await?, None);
        assert_eq!(unfinished(&store, 0, 2_000).await?.len(), 1);
        assert!(unfinished(&store, 2_000, 3_000).await?.is_empty());
        assert!(settled(&store, 0, i64::MAX).await?.is_empty() && recorded(&store, 0, i64::MAX).await?.is_empty());
        Ok(())
    }
}
