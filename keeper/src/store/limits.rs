//! What callers have used of their rates, so that a restart forgives nobody and keepers on one database count together.

use sqlx::Row;

use super::{Store, WriteTx};
use crate::admission::table::{Id, Scope, Use};
use crate::error::Result;
use crate::types::b256;

/// Adds what was used to a bucket and gives when it is full again, unix nanoseconds, other keepers' use included.
///
/// # Errors
/// `store_failed`.
pub async fn add(tx: &mut WriteTx, one: &Use) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "INSERT INTO limits (scope, subject, full_at_ns) VALUES ($1, $2, $3)
         ON CONFLICT (scope, subject) DO UPDATE SET full_at_ns = CASE
         WHEN limits.full_at_ns + $4 > excluded.full_at_ns THEN limits.full_at_ns + $4 ELSE excluded.full_at_ns END
         RETURNING full_at_ns",
    )
    .bind(one.id.scope.text())
    .bind(one.id.subject.to_vec())
    .bind(one.full_at)
    .bind(one.used)
    .fetch_one(&mut **tx)
    .await?)
}

/// Forgets buckets that are full at `now`, unix nanoseconds.
///
/// # Errors
/// `store_failed`.
pub async fn forget(tx: &mut WriteTx, now: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM limits WHERE full_at_ns <= $1").bind(now).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

/// Buckets that are not full at `now`, unix nanoseconds; those that take longest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn load(store: &Store, now: i64, limit: i64) -> Result<Vec<(Id, i64)>> {
    let rows = sqlx::query(
        "SELECT scope, subject, full_at_ns FROM limits WHERE full_at_ns > $1 ORDER BY full_at_ns DESC LIMIT $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        // A scope that only another version has is that version's.
        let Some(scope) = Scope::parse(&row.try_get::<String, _>("scope")?) else { continue };
        let subject = b256("limits", &row.try_get::<Vec<u8>, _>("subject")?)?;
        found.push((Id { scope, subject }, row.try_get("full_at_ns")?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    #[tokio::test]
    async fn use_adds_up_over_keepers_and_full_buckets_are_forgotten() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = crate::store::testing::open(&dir).await;
        let id = Id { scope: Scope::ALL[0], subject: B256::repeat_byte(1) };
        let one = |full_at: i64, used: i64| Use { id, full_at, used };
        let mut tx = store.write().await?;
        assert_eq!(add(&mut tx, &one(1_010, 10)).await?, 1_010);
        assert_eq!(add(&mut tx, &one(1_010, 10)).await?, 1_020, "another keeper gave as much");
        assert_eq!(add(&mut tx, &one(9_010, 10)).await?, 9_010, "long after the others were full again");
        tx.commit().await?;
        assert_eq!(load(&store, 9_009, 10).await?, [(id, 9_010)]);
        assert!(load(&store, 9_010, 10).await?.is_empty());
        let mut tx = store.write().await?;
        assert_eq!(forget(&mut tx, 9_009).await?, 0);
        assert_eq!(forget(&mut tx, 9_010).await?, 1);
        tx.commit().await?;
        Ok(())
    }
}
