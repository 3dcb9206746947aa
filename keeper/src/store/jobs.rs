//! How far proofs are, as gateways ask for it.

use alloy::primitives::B256;
use sqlx::Row;

use super::Store;
use crate::error::Result;
use crate::types::b256;

/// Times and evidence of one proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// batch or individual; `None` when no gateway handed it in.
    pub kind: Option<String>,
    pub created_ms: i64,
    /// Last change of the transaction that records it, else when it came.
    pub updated_ms: i64,
    /// On OpenGradient; the hash as soon as a transaction with it is on the chain.
    pub tx_hash: Option<B256>,
    pub block: Option<i64>,
}

/// One proof.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn find(store: &Store, settlement_id: B256) -> Result<Option<Stored>> {
    let row = sqlx::query(
        "SELECT h.kind, c.created_ms, COALESCE(t.updated_ms, c.created_ms) AS updated_ms, \
         COALESCE(c.og_tx_hash, t.tx_hash) AS tx_hash, COALESCE(c.og_block, t.block_number) AS block FROM completions c \
         LEFT JOIN handed_in h ON h.settlement_id = c.settlement_id LEFT JOIN txs t ON t.tx_id = c.record_tx \
         WHERE c.settlement_id = $1",
    )
    .bind(settlement_id.to_vec())
    .fetch_optional(store.read())
    .await?;
    row.map(|row| {
        let hash: Option<Vec<u8>> = row.try_get("tx_hash")?;
        Ok(Stored {
            kind: row.try_get("kind")?,
            created_ms: row.try_get("created_ms")?,
            updated_ms: row.try_get("updated_ms")?,
            tx_hash: hash.map(|hash| b256("txs", &hash)).transpose()?,
            block: row.try_get("block")?,
        })
    })
    .transpose()
}
