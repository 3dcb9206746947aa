//! Heartbeats of nodes, and the transactions that relay them: one for each, however often it is handed in.

use alloy::primitives::B256;
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::column;
use super::txs::{self, NewTx};
use crate::error::Result;
use crate::types::{TxState, b256};

/// How far a heartbeat's transaction is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    pub tx_id: i64,
    /// The time that this transaction carries, unix seconds.
    pub timestamp: u64,
    pub state: TxState,
    /// Why it was taken out, when it was.
    pub reason: Option<String>,
    /// An envelope that the chain has, or that an endpoint accepted.
    pub tx_hash: Option<B256>,
    pub created_ms: i64,
}

impl Relay {
    /// Whether it did its work, or still may.
    pub const fn is_good(&self) -> bool {
        !matches!(self.state, TxState::Failed | TxState::Quarantined | TxState::Obsolete)
    }
}

/// Takes a heartbeat: the transaction that does its work. That is one of before when the same was handed in, when a newer one
/// was, or when one of the same node is on its way or was made at `since_ms` or later; else `new` is queued. True when it was.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn take(
    tx: &mut WriteTx,
    (tee_id, timestamp): (B256, u64),
    new: &NewTx,
    since_ms: i64,
    now_ms: i64,
) -> Result<(Relay, bool)> {
    let same = find(&mut **tx, tee_id, timestamp).await?;
    if let Some(same) = same {
        return Ok((same, false));
    }
    let newest = newest(&mut **tx, tee_id).await?.filter(|newest| {
        let under_way = matches!(newest.state, TxState::Queued | TxState::Signed | TxState::Sent);
        newest.is_good() && (newest.timestamp > timestamp || under_way || newest.created_ms >= since_ms)
    });
    let tx_id = match &newest {
        Some(newest) => newest.tx_id,
        None => txs::enqueue(tx, new, now_ms).await?,
    };
    sqlx::query("INSERT INTO heartbeats (tee_id, timestamp, tx_id, created_ms) VALUES ($1, $2, $3, $4)")
        .bind(tee_id.to_vec())
        .bind(column(timestamp)?)
        .bind(tx_id)
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    let fresh = newest.is_none();
    let relay = newest.unwrap_or(Relay {
        tx_id,
        timestamp,
        state: TxState::Queued,
        reason: None,
        tx_hash: None,
        created_ms: now_ms,
    });
    Ok((relay, fresh))
}

/// The transaction that a heartbeat was given.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn find<'c>(db: impl Executor<'c, Database = Any>, tee_id: B256, timestamp: u64) -> Result<Option<Relay>> {
    let row = sqlx::query(
        "SELECT h.tx_id, t.state, t.reason, t.created_ms, (SELECT MIN(o.timestamp) FROM heartbeats o WHERE o.tx_id = h.tx_id) \
         AS carried, COALESCE(t.tx_hash, (SELECT a.tx_hash FROM attempts a WHERE a.tx_id = h.tx_id AND \
         a.broadcast_ms IS NOT NULL AND a.last_error IS NULL ORDER BY a.created_ms DESC LIMIT 1)) AS hash \
         FROM heartbeats h JOIN txs t ON t.tx_id = h.tx_id WHERE h.tee_id = $1 AND h.timestamp = $2",
    )
    .bind(tee_id.to_vec())
    .bind(column(timestamp)?)
    .fetch_optional(db)
    .await?;
    row.as_ref().map(read).transpose()
}

/// The newest that a transaction was made for.
async fn newest<'c>(db: impl Executor<'c, Database = Any>, tee_id: B256) -> Result<Option<Relay>> {
    let row = sqlx::query(
        "SELECT h.tx_id, t.state, t.reason, t.created_ms, h.timestamp AS carried, t.tx_hash AS hash \
         FROM heartbeats h JOIN txs t ON t.tx_id = h.tx_id WHERE h.tee_id = $1 ORDER BY h.timestamp DESC LIMIT 1",
    )
    .bind(tee_id.to_vec())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &AnyRow) -> Result<Relay> {
    let hash: Option<Vec<u8>> = row.try_get("hash")?;
    Ok(Relay {
        tx_id: row.try_get("tx_id")?,
        timestamp: u64::try_from(row.try_get::<i64, _>("carried")?).unwrap_or(0),
        state: TxState::parse(&row.try_get::<String, _>("state")?)?,
        reason: row.try_get("reason")?,
        tx_hash: hash.map(|hash| b256("txs", &hash)).transpose()?,
        created_ms: row.try_get("created_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};

    use super::*;
    use crate::store::Store;
    use crate::store::txs::Attempt;
    use crate::tx::fees::Fee;

    const TEE: B256 = B256::repeat_byte(1);

    async fn beat(store: &Store, timestamp: u64, since_ms: i64, now_ms: i64) -> (Relay, bool) {
        let new = NewTx {
            chain_id: 10_740,
            kind: "heartbeat",
            intent_key: format!("heartbeat:{TEE}:{timestamp}"),
            target: Address::repeat_byte(2),
            calldata: Bytes::from_static(&[3]),
        };
        let mut tx = store.write().await.unwrap();
        let taken = take(&mut tx, (TEE, timestamp), &new, since_ms, now_ms).await.unwrap();
        tx.commit().await.unwrap();
        taken
    }

    async fn sql(store: &Store, sql: &'static str) {
        let mut tx = store.write().await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn one_transaction_for_each_and_for_those_that_come_close_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (first, fresh) = beat(&store, 1_000, 0, 5).await;
        assert!(fresh);
        assert_eq!(beat(&store, 1_000, 0, 6).await, (first.clone(), false), "the same again");
        assert_eq!(beat(&store, 1_010, 100, 7).await.0.tx_id, first.tx_id, "the first is on its way");
        assert_eq!(beat(&store, 900, 100, 8).await.0.tx_id, first.tx_id, "an older one says nothing new");
        sql(&store, "UPDATE txs SET state = 'done'").await;
        assert_eq!(beat(&store, 1_020, 5, 9).await.0.tx_id, first.tx_id, "a moment ago");
        let (second, fresh) = beat(&store, 1_900, 6, 10).await;
        assert!(fresh && second.tx_id != first.tx_id);
        sql(&store, "UPDATE txs SET state = 'quarantined', reason = 'reverted: TEENotEnabled'").await;
        let again = beat(&store, 1_900, 0, 11).await.0;
        assert_eq!((again.tx_id, again.is_good()), (second.tx_id, false), "what was refused stays refused");
        assert!(beat(&store, 1_901, 0, 12).await.1, "a new one gets its chance");
        let other = find(store.read(), B256::repeat_byte(9), 1_000).await.unwrap();
        assert_eq!(other, None);
    }

    #[tokio::test]
    async fn a_hash_is_told_once_an_endpoint_has_the_envelope() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (relay, _) = beat(&store, 1_000, 0, 5).await;
        let attempt = |seed: u8| Attempt {
            tx_hash: B256::repeat_byte(seed),
            raw: Bytes::new(),
            fee: Fee { max_fee: seed.into(), tip: 1 },
            created_ms: seed.into(),
            broadcast_ms: None,
            last_error: None,
        };
        let mut tx = store.write().await.unwrap();
        txs::allocate(&mut tx, relay.tx_id, Address::ZERO, (0, 1), &attempt(1)).await.unwrap();
        tx.commit().await.unwrap();
        let hash = async || find(store.read(), TEE, 1_000).await.unwrap().unwrap().tx_hash;
        assert_eq!(hash().await, None, "signed, and nobody has it");
        let mut tx = store.write().await.unwrap();
        txs::mark_sent(&mut tx, relay.tx_id, B256::repeat_byte(1), Some("underpriced"), 6).await.unwrap();
        txs::add_attempt(&mut tx, relay.tx_id, &attempt(2)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(hash().await, None, "refused");
        let mut tx = store.write().await.unwrap();
        txs::mark_sent(&mut tx, relay.tx_id, B256::repeat_byte(2), None, 7).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(hash().await, Some(B256::repeat_byte(2)));
    }
}
