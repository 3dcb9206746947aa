//! The outbox of published rows: written with the batch, kept until the place has it.

use alloy::primitives::B256;
use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::b256;

/// Rows that are to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub batch_id: i64,
    /// keccak256 of the content.
    pub hash: B256,
    pub content: Vec<u8>,
    pub attempts: i64,
}

/// Queues the rows of a batch.
///
/// # Errors
/// `store_failed`.
pub async fn enqueue(tx: &mut WriteTx, batch_id: i64, hash: B256, content: &[u8]) -> Result<()> {
    sqlx::query("INSERT INTO publications (batch_id, hash, content, attempts, next_ms) VALUES ($1, $2, $3, 0, 0)")
        .bind(batch_id)
        .bind(hash.to_vec())
        .bind(content.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What is not published yet and due at `now_ms`, the oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn due(store: &Store, now_ms: i64, limit: i64) -> Result<Vec<Due>> {
    let rows = sqlx::query(
        "SELECT batch_id, hash, content, attempts FROM publications WHERE place IS NULL AND next_ms <= $1
         ORDER BY batch_id LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Due {
                batch_id: row.try_get("batch_id")?,
                hash: b256("publications", &row.try_get::<Vec<u8>, _>("hash")?)?,
                content: row.try_get("content")?,
                attempts: row.try_get("attempts")?,
            })
        })
        .collect()
}

/// Published: the place has the content, it need not be kept here.
///
/// # Errors
/// `store_failed`.
pub async fn done(tx: &mut WriteTx, batch_id: i64, place: &str) -> Result<()> {
    sqlx::query("UPDATE publications SET place = $1, content = NULL, attempts = attempts + 1 WHERE batch_id = $2")
        .bind(place.to_owned())
        .bind(batch_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Not published: tried again at `next_ms`.
///
/// # Errors
/// `store_failed`.
pub async fn failed(tx: &mut WriteTx, batch_id: i64, next_ms: i64) -> Result<()> {
    sqlx::query("UPDATE publications SET attempts = attempts + 1, next_ms = $1 WHERE batch_id = $2 AND place IS NULL")
        .bind(next_ms)
        .bind(batch_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
