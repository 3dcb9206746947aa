//! Nodes of OpenGradient's TEE registry: their keys for good, and which are enabled.

use alloy::primitives::{Address, B256};
use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::{address, b256};

/// A node as OpenGradient's registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeeRow {
    pub id: B256,
    /// DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    pub payment_address: Address,
    pub enabled: bool,
}

/// All of them.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn all(store: &Store) -> Result<Vec<TeeRow>> {
    const T: &str = "tees";
    let rows = sqlx::query("SELECT * FROM tees").fetch_all(store.read()).await?;
    rows.iter()
        .map(|row| {
            Ok(TeeRow {
                id: b256(T, &row.try_get::<Vec<u8>, _>("tee_id")?)?,
                public_key: row.try_get("public_key")?,
                payment_address: address(T, &row.try_get::<Vec<u8>, _>("payment_address")?)?,
                enabled: row.try_get::<i64, _>("enabled")? != 0,
            })
        })
        .collect()
}

/// Stores a node, or whether it is enabled and where it wants to be paid: its key never changes.
///
/// # Errors
/// `store_failed`.
pub async fn put(tx: &mut WriteTx, tee: &TeeRow, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO tees (tee_id, public_key, payment_address, enabled, created_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tee_id) DO UPDATE SET payment_address = excluded.payment_address, enabled = excluded.enabled",
    )
    .bind(tee.id.to_vec())
    .bind(tee.public_key.clone())
    .bind(tee.payment_address.to_vec())
    .bind(i64::from(tee.enabled))
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disabled_node_keeps_its_key() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = crate::store::testing::open(&dir).await;
        let tee = TeeRow {
            id: B256::repeat_byte(1),
            public_key: vec![2; 294],
            payment_address: Address::repeat_byte(3),
            enabled: true,
        };
        for enabled in [true, false] {
            let mut tx = store.write().await?;
            put(&mut tx, &TeeRow { enabled, ..tee.clone() }, 7).await?;
            tx.commit().await?;
        }
        assert_eq!(all(&store).await?, [TeeRow { enabled: false, ..tee }]);
        Ok(())
    }
}
