//! Transactions and their attempts: what must happen on a chain, and every signed envelope of it.

use alloy::primitives::{Address, B256, Bytes};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::{column, number};
use crate::error::{Error, Result};
use crate::tx::fees::Fee;
use crate::types::{TxState, address, b256, units};

/// A transaction to queue.
#[derive(Clone, Debug)]
pub struct NewTx {
    pub chain_id: u64,
    /// settle_batch, settle_verified, finalize, deliver, reclaim, record, x402, top_up or noop.
    pub kind: &'static str,
    /// Unique name of the intent: queued once, however often it is asked for.
    pub intent_key: String,
    pub target: Address,
    pub calldata: Bytes,
}

/// Queues a transaction and returns its id; the id of the present one when the intent is known already.
///
/// # Errors
/// `store_failed`.
pub async fn enqueue(tx: &mut WriteTx, new: &NewTx, now_ms: i64) -> Result<i64> {
    enqueue_with(tx, new, 0, now_ms).await
}

/// Queues a transaction that takes `value` wei along.
///
/// # Errors
/// `store_failed`.
pub async fn enqueue_with(tx: &mut WriteTx, new: &NewTx, value: u128, now_ms: i64) -> Result<i64> {
    let inserted = sqlx::query(
        "INSERT INTO txs (chain_id, kind, intent_key, target, calldata, value, state, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $7) ON CONFLICT (intent_key) DO NOTHING RETURNING tx_id",
    )
    .bind(chain_column(new.chain_id)?)
    .bind(new.kind)
    .bind(new.intent_key.as_str())
    .bind(new.target.to_vec())
    .bind(new.calldata.to_vec())
    .bind(value.to_string())
    .bind(now_ms)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(row) = inserted {
        return Ok(row.try_get("tx_id")?);
    }
    Ok(sqlx::query_scalar("SELECT tx_id FROM txs WHERE intent_key = $1")
        .bind(new.intent_key.as_str())
        .fetch_one(&mut **tx)
        .await?)
}

/// Queues a transaction in a lane, with the gas that it needs at most and the wei that it takes along. Nothing else knows its intent: it is queued as often as
/// this is called.
///
/// # Errors
/// `store_failed`.
pub async fn enqueue_in(
    tx: &mut WriteTx,
    lane: &str,
    new: &NewTx,
    (gas_limit, value): (u64, u128),
    now_ms: i64,
) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "INSERT INTO txs (chain_id, kind, intent_key, target, calldata, value, state, lane, gas_limit, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, $9, $9) RETURNING tx_id",
    )
    .bind(chain_column(new.chain_id)?)
    .bind(new.kind)
    .bind(new.intent_key.as_str())
    .bind(new.target.to_vec())
    .bind(new.calldata.to_vec())
    .bind(value.to_string())
    .bind(lane.to_owned())
    .bind(column(gas_limit)?)
    .bind(now_ms)
    .fetch_one(&mut **tx)
    .await?)
}

/// Whether a lane has transactions that wait for a nonce or have no final end.
///
/// # Errors
/// `store_failed`.
pub async fn any_left<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    lane: &str,
    signer: Address,
) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT tx_id FROM txs WHERE chain_id = $1 AND state IN ('queued', 'signed', 'sent', 'included')
         AND (lane = $2 OR signer = $3) LIMIT 1",
    )
    .bind(chain_column(chain_id)?)
    .bind(lane.to_owned())
    .bind(signer.to_vec())
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

/// How many transactions of each lane of a chain are not in a block yet.
///
/// # Errors
/// `store_failed`.
pub async fn under_way<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query(
        "SELECT lane, COUNT(*) AS n FROM txs WHERE chain_id = $1 AND state IN ('queued', 'signed', 'sent') AND lane <> ''
         GROUP BY lane",
    )
    .bind(chain_column(chain_id)?)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("lane")?, row.try_get("n")?))).collect()
}

/// A transaction as the manager sees it.
#[derive(Clone, Debug)]
pub struct TxRow {
    pub tx_id: i64,
    pub kind: String,
    pub intent_key: String,
    pub target: Address,
    /// Wei.
    pub value: u128,
    pub calldata: Bytes,
    pub state: TxState,
    pub signer: Option<Address>,
    pub nonce: Option<u64>,
    pub gas_limit: Option<u64>,
    /// From the canonical receipt.
    pub tx_hash: Option<B256>,
    pub block_number: Option<u64>,
    pub block_hash: Option<B256>,
    pub success: Option<bool>,
}

/// One signed envelope of a transaction.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub tx_hash: B256,
    pub raw: Bytes,
    pub fee: Fee,
    pub created_ms: i64,
    /// Last time it was sent to the endpoints.
    pub broadcast_ms: Option<i64>,
    /// What they said then, `None` if one accepted it.
    pub last_error: Option<String>,
}

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inclusion {
    pub tx_hash: B256,
    pub block_number: u64,
    pub block_hash: B256,
    pub gas_used: u64,
    /// Wei per gas.
    pub effective_price: u128,
    pub success: bool,
}

/// Transactions of a signer that have a nonce and no final end, lowest nonce first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn open<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64, signer: Address) -> Result<Vec<TxRow>> {
    let rows = sqlx::query(
        "SELECT * FROM txs WHERE chain_id = $1 AND signer = $2 AND state IN ('signed', 'sent', 'included') ORDER BY nonce",
    )
    .bind(chain_column(chain_id)?)
    .bind(signer.to_vec())
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Who else signed transactions that are not at their end, and in which lane: keys that were replaced, or that another keeper
/// has.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn other_signers<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    me: Address,
) -> Result<Vec<(Address, String)>> {
    let rows = sqlx::query(
        "SELECT DISTINCT signer, lane FROM txs WHERE chain_id = $1 AND signer <> $2 AND state IN ('signed', 'sent', 'included')",
    )
    .bind(chain_column(chain_id)?)
    .bind(me.to_vec())
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((address("txs", &row.try_get::<Vec<u8>, _>("signer")?)?, row.try_get("lane")?))).collect()
}

/// Puts a transaction into a lane.
///
/// # Errors
/// `store_failed`.
pub async fn assign(tx: &mut WriteTx, tx_id: i64, lane: &str) -> Result<()> {
    sqlx::query("UPDATE txs SET lane = $1 WHERE tx_id = $2")
        .bind(lane.to_owned())
        .bind(tx_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Puts what is queued in one lane into another: its key is not ours any more.
///
/// # Errors
/// `store_failed`.
pub async fn adopt(tx: &mut WriteTx, chain_id: u64, from: &str, to: &str) -> Result<u64> {
    let done = sqlx::query("UPDATE txs SET lane = $1 WHERE chain_id = $2 AND lane = $3 AND state = 'queued'")
        .bind(to.to_owned())
        .bind(chain_column(chain_id)?)
        .bind(from.to_owned())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

/// Transactions of a lane that wait for a nonce, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn queued<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    lane: &str,
    limit: i64,
) -> Result<Vec<TxRow>> {
    let text = "SELECT * FROM txs WHERE chain_id = $1 AND state = 'queued' AND lane = $2 ORDER BY tx_id LIMIT $3";
    let rows = sqlx::query(text).bind(chain_column(chain_id)?).bind(lane.to_owned()).bind(limit).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// One transaction.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get<'c>(db: impl Executor<'c, Database = Any>, tx_id: i64) -> Result<Option<TxRow>> {
    let row = sqlx::query("SELECT * FROM txs WHERE tx_id = $1").bind(tx_id).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Envelopes of a transaction, newest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn attempts<'c>(db: impl Executor<'c, Database = Any>, tx_id: i64) -> Result<Vec<Attempt>> {
    const T: &str = "attempts";
    let rows = sqlx::query("SELECT * FROM attempts WHERE tx_id = $1").bind(tx_id).fetch_all(db).await?;
    let mut attempts = rows
        .iter()
        .map(|row| {
            Ok(Attempt {
                tx_hash: b256(T, &row.try_get::<Vec<u8>, _>("tx_hash")?)?,
                raw: row.try_get::<Vec<u8>, _>("raw")?.into(),
                fee: Fee {
                    max_fee: units(T, &row.try_get::<String, _>("max_fee")?)?,
                    tip: units(T, &row.try_get::<String, _>("tip")?)?,
                },
                created_ms: row.try_get("created_ms")?,
                broadcast_ms: row.try_get("broadcast_ms")?,
                last_error: row.try_get("last_error")?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    // Every envelope offers more than the one before: clocks may not agree, fees do.
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.fee.max_fee));
    Ok(attempts)
}

/// The nonce that follows `latest` (the chain's) and every one that this signer was ever given here.
///
/// # Errors
/// `store_failed`.
pub async fn next_nonce<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    signer: Address,
    latest: u64,
) -> Result<u64> {
    let given: Option<i64> = sqlx::query_scalar("SELECT MAX(nonce) FROM txs WHERE chain_id = $1 AND signer = $2")
        .bind(chain_column(chain_id)?)
        .bind(signer.to_vec())
        .fetch_one(db)
        .await?;
    Ok(given.and_then(|given| u64::try_from(given + 1).ok()).map_or(latest, |next| next.max(latest)))
}

/// Gives a queued transaction its nonce and stores its first envelope. False when it is not queued any more.
///
/// # Errors
/// `store_failed`: also when the nonce is taken.
pub async fn allocate(
    tx: &mut WriteTx,
    tx_id: i64,
    signer: Address,
    (nonce, gas_limit): (u64, u64),
    attempt: &Attempt,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE txs SET state = 'signed', signer = $1, nonce = $2, gas_limit = $3, reason = NULL, updated_ms = $4
         WHERE tx_id = $5 AND state = 'queued'",
    )
    .bind(signer.to_vec())
    .bind(column(nonce)?)
    .bind(column(gas_limit)?)
    .bind(attempt.created_ms)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    add_attempt(tx, tx_id, attempt).await?;
    Ok(true)
}

/// Stores another envelope of a transaction.
///
/// # Errors
/// `store_failed`.
pub async fn add_attempt(tx: &mut WriteTx, tx_id: i64, attempt: &Attempt) -> Result<()> {
    sqlx::query("INSERT INTO attempts (tx_hash, tx_id, raw, max_fee, tip, created_ms) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(attempt.tx_hash.to_vec())
        .bind(tx_id)
        .bind(attempt.raw.to_vec())
        .bind(attempt.fee.max_fee.to_string())
        .bind(attempt.fee.tip.to_string())
        .bind(attempt.created_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes that an envelope went out, and what the endpoints said.
///
/// # Errors
/// `store_failed`.
pub async fn mark_sent(tx: &mut WriteTx, tx_id: i64, tx_hash: B256, error: Option<&str>, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE attempts SET broadcast_ms = $1, last_error = $2 WHERE tx_hash = $3")
        .bind(now_ms)
        .bind(error.map(str::to_owned))
        .bind(tx_hash.to_vec())
        .execute(&mut **tx)
        .await?;
    sqlx::query("UPDATE txs SET state = 'sent', updated_ms = $1 WHERE tx_id = $2 AND state = 'signed'")
        .bind(now_ms)
        .bind(tx_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes the block that a transaction is in.
///
/// # Errors
/// `store_failed`.
pub async fn include(tx: &mut WriteTx, tx_id: i64, inclusion: &Inclusion, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE txs SET state = 'included', tx_hash = $1, block_number = $2, block_hash = $3, gas_used = $4,
         effective_price = $5, success = $6, updated_ms = $7
         WHERE tx_id = $8 AND state IN ('signed', 'sent', 'included')",
    )
    .bind(inclusion.tx_hash.to_vec())
    .bind(column(inclusion.block_number)?)
    .bind(inclusion.block_hash.to_vec())
    .bind(column(inclusion.gas_used)?)
    .bind(inclusion.effective_price.to_string())
    .bind(i64::from(inclusion.success))
    .bind(now_ms)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The block that a transaction was in is not the chain's any more: it is on its way again.
///
/// # Errors
/// `store_failed`.
pub async fn exclude(tx: &mut WriteTx, tx_id: i64, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE txs SET state = 'sent', tx_hash = NULL, block_number = NULL, block_hash = NULL, gas_used = NULL,
         effective_price = NULL, success = NULL, updated_ms = $1 WHERE tx_id = $2 AND state = 'included'",
    )
    .bind(now_ms)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The end of an included transaction: its block is final.
///
/// # Errors
/// `store_failed`.
pub async fn conclude(tx: &mut WriteTx, tx_id: i64, success: bool, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE txs SET state = $1, reason = $2, updated_ms = $3 WHERE tx_id = $4 AND state = 'included'")
        .bind(if success { TxState::Done.as_str() } else { TxState::Failed.as_str() })
        .bind((!success).then_some("reverted"))
        .bind(now_ms)
        .bind(tx_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A transaction that is none of ours took the nonce for good: the intent is queued again, its envelopes are worthless.
///
/// # Errors
/// `store_failed`.
pub async fn requeue(tx: &mut WriteTx, tx_id: i64, now_ms: i64) -> Result<()> {
    let done = sqlx::query(
        "UPDATE txs SET state = CASE WHEN kind = 'noop' THEN 'obsolete' ELSE 'queued' END, signer = NULL, nonce = NULL,
         gas_limit = NULL, reason = 'nonce_lost', updated_ms = $1 WHERE tx_id = $2 AND state IN ('signed', 'sent')",
    )
    .bind(now_ms)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 1 {
        sqlx::query("DELETE FROM attempts WHERE tx_id = $1").bind(tx_id).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Takes a queued transaction out: it would revert.
///
/// # Errors
/// `store_failed`.
pub async fn quarantine(tx: &mut WriteTx, tx_id: i64, reason: &str, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE txs SET state = 'quarantined', reason = $1, updated_ms = $2 WHERE tx_id = $3 AND state = 'queued'",
    )
    .bind(reason.to_owned())
    .bind(now_ms)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<TxRow> {
    const T: &str = "txs";
    let optional = |name: &'static str| -> Result<Option<u64>> {
        row.try_get::<Option<i64>, _>(name)?.map(|_| number(row, name)).transpose()
    };
    let hash = |name: &'static str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(name)?.map(|bytes| b256(T, &bytes)).transpose()
    };
    Ok(TxRow {
        tx_id: row.try_get("tx_id")?,
        kind: row.try_get("kind")?,
        intent_key: row.try_get("intent_key")?,
        target: address(T, &row.try_get::<Vec<u8>, _>("target")?)?,
        value: units(T, &row.try_get::<String, _>("value")?)?,
        calldata: row.try_get::<Vec<u8>, _>("calldata")?.into(),
        state: TxState::parse(&row.try_get::<String, _>("state")?)?,
        signer: row.try_get::<Option<Vec<u8>>, _>("signer")?.map(|bytes| address(T, &bytes)).transpose()?,
        nonce: optional("nonce")?,
        gas_limit: optional("gas_limit")?,
        tx_hash: hash("tx_hash")?,
        block_number: optional("block_number")?,
        block_hash: hash("block_hash")?,
        success: row.try_get::<Option<i64>, _>("success")?.map(|success| success != 0),
    })
}

/// A chain id as the database holds it.
pub(crate) fn chain_column(chain_id: u64) -> Result<i64> {
    i64::try_from(chain_id).map_err(|_| Error::Config(format!("chain id {chain_id} does not fit the database")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_intent_is_queued_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let new = NewTx {
            chain_id: 8453,
            kind: "finalize",
            intent_key: "finalize:1".to_owned(),
            target: Address::repeat_byte(1),
            calldata: Bytes::from_static(&[1, 2]),
        };
        let mut tx = store.write().await.unwrap();
        let first = enqueue(&mut tx, &new, 5).await.unwrap();
        let other = enqueue(&mut tx, &NewTx { intent_key: "finalize:2".to_owned(), ..new.clone() }, 6).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.write().await.unwrap();
        assert_eq!(enqueue(&mut tx, &new, 7).await.unwrap(), first);
        assert_ne!(first, other);
        tx.commit().await.unwrap();
        let n: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM txs").fetch_one(store.read()).await.unwrap();
        assert_eq!(n, 2);
    }
}
