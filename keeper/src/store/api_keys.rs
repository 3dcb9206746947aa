//! API keys: only their hashes are stored.

use alloy::primitives::{B256, keccak256};
use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::b256;

/// Scope of keys that may read receipts, orders and accounts of every payer.
pub const READ: &str = "read";

/// Scope of keys of node operators: completions that this keeper meters.
pub const COMPLETIONS: &str = "completions";

/// Scope of keys of gateways: proofs, heartbeats, and their own figures of use.
pub const GATEWAY: &str = "gateway";

/// Scope of keys of resource servers: to verify and settle x402 payments where that wants a key.
pub const SETTLE: &str = "settle";

/// What is stored of a key. Keys are 256 random bits, so one hash is enough.
pub fn hash(key: &str) -> B256 {
    keccak256(key.as_bytes())
}

/// Stores a new key; `scopes` are separated by spaces.
///
/// # Errors
/// `store_failed`, also for a key that exists.
pub async fn insert(tx: &mut WriteTx, key: &str, name: &str, scopes: &str, now_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO api_keys (key_hash, name, scopes, created_ms) VALUES ($1, $2, $3, $4)")
        .bind(hash(key).to_vec())
        .bind(name.to_owned())
        .bind(scopes.to_owned())
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Revokes every key of a name; gives how many.
///
/// # Errors
/// `store_failed`.
pub async fn revoke(tx: &mut WriteTx, name: &str, now_ms: i64) -> Result<u64> {
    let done = sqlx::query("UPDATE api_keys SET revoked_ms = $2 WHERE name = $1 AND revoked_ms IS NULL")
        .bind(name.to_owned())
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// A stored key; the key itself is nowhere.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub hash: B256,
    pub name: String,
    /// Separated by spaces.
    pub scopes: String,
    pub created_ms: i64,
    pub revoked_ms: Option<i64>,
}

/// All keys, revoked ones too, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn list(store: &Store) -> Result<Vec<ApiKey>> {
    let rows = sqlx::query("SELECT * FROM api_keys ORDER BY created_ms, name").fetch_all(store.read()).await?;
    rows.iter()
        .map(|row| {
            Ok(ApiKey {
                hash: b256("api_keys", &row.try_get::<Vec<u8>, _>("key_hash")?)?,
                name: row.try_get("name")?,
                scopes: row.try_get("scopes")?,
                created_ms: row.try_get("created_ms")?,
                revoked_ms: row.try_get("revoked_ms")?,
            })
        })
        .collect()
}

/// Scopes of a key that exists and is not revoked.
///
/// # Errors
/// `store_failed`.
pub async fn scopes(store: &Store, key_hash: B256) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT scopes FROM api_keys WHERE key_hash = $1 AND revoked_ms IS NULL")
        .bind(key_hash.to_vec())
        .fetch_optional(store.read())
        .await?)
}

/// Whether a key exists, is not revoked and has a scope.
///
/// # Errors
/// `store_failed`.
pub async fn allows(store: &Store, key: &str, scope: &str) -> Result<bool> {
    let scopes = scopes(store, hash(key)).await?.unwrap_or_default();
    Ok(scopes.split_ascii_whitespace().any(|one| one == scope))
}
