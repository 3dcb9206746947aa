//! x402 payments that somebody else may have settled: they are looked for on the chain, and count once.

use alloy::primitives::{B256, U256};
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::{column, number};
use super::payments::{Evidence, Payment, read};
use super::txs::chain_column;
use crate::error::Result;
use crate::types::{PaymentState, b256};
use crate::x402::reasons::Reason;

/// Starts the search for a payment, and keeps why it would fail. `from` is the state that it must be in; false when it is in
/// another.
///
/// # Errors
/// `store_failed`.
pub async fn begin(
    tx: &mut WriteTx,
    payment_id: B256,
    from: PaymentState,
    (reason, message): (&str, &str),
    now_ms: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE payments SET state = 'searching', reason = $1, message = $2, tx_id = NULL, tx_hash = NULL,
         block_number = NULL, block_hash = NULL, updated_ms = $3 WHERE payment_id = $4 AND state = $5",
    )
    .bind(reason.to_owned())
    .bind(message.to_owned())
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .bind(from.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Payments that are looked for, oldest first, without the first `skip`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn open<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    (skip, limit): (i64, i64),
) -> Result<Vec<Payment>> {
    let text = "SELECT * FROM payments WHERE chain_id = $1 AND state = 'searching'
         ORDER BY created_ms, payment_id LIMIT $2 OFFSET $3";
    let rows = sqlx::query(text).bind(chain_column(chain_id)?).bind(limit).bind(skip).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Ends a search without a find: the payment waits for a transaction again.
///
/// # Errors
/// `store_failed`.
pub async fn resume(tx: &mut WriteTx, payment_id: B256, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET state = 'accepted', reason = NULL, message = NULL, updated_ms = $1
         WHERE payment_id = $2 AND state = 'searching'",
    )
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A transfer in a transaction that somebody else sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Find {
    /// Token units.
    pub amount: U256,
    pub place: Evidence,
    /// Among the logs of its block.
    pub log_index: u64,
}

/// Settles a payment by what was found. False when that transfer is another payment's already, or the search is over.
///
/// # Errors
/// `store_failed`.
pub async fn settle(tx: &mut WriteTx, payment_id: B256, find: &Find, now_ms: i64) -> Result<bool> {
    let taken: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(1 AS BIGINT) FROM payments WHERE tx_hash = $1 AND log_index = $2 AND log_index IS NOT NULL",
    )
    .bind(find.place.tx_hash.to_vec())
    .bind(column(find.log_index)?)
    .fetch_optional(&mut **tx)
    .await?;
    if taken.is_some() {
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE payments SET state = 'settled', final = 0, amount = $1, tx_hash = $2, block_number = $3, block_hash = $4,
         log_index = $5, reason = NULL, message = NULL, settled_ms = $6, updated_ms = $6
         WHERE payment_id = $7 AND state = 'searching'",
    )
    .bind(find.amount.to_string())
    .bind(find.place.tx_hash.to_vec())
    .bind(column(find.place.block_number)?)
    .bind(find.place.block_hash.to_vec())
    .bind(column(find.log_index)?)
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Payments that others settled in blocks that are not final, as far as this was noted, without the first `skip`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn not_final<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    (skip, limit): (i64, i64),
) -> Result<Vec<(B256, Evidence)>> {
    let rows = sqlx::query(
        "SELECT payment_id, tx_hash, block_number, block_hash FROM payments
         WHERE chain_id = $1 AND log_index IS NOT NULL AND final = 0 ORDER BY block_number, payment_id LIMIT $2 OFFSET $3",
    )
    .bind(chain_column(chain_id)?)
    .bind(limit)
    .bind(skip)
    .fetch_all(db)
    .await?;
    let hash = |row: &sqlx::any::AnyRow, name| -> Result<B256> { b256("payments", &row.try_get::<Vec<u8>, _>(name)?) };
    rows.iter()
        .map(|row| {
            let place = Evidence {
                tx_hash: hash(row, "tx_hash")?,
                block_number: number(row, "block_number")?,
                block_hash: hash(row, "block_hash")?,
            };
            Ok((hash(row, "payment_id")?, place))
        })
        .collect()
}

/// The block of a payment that others settled is final, or gone: then it is looked for again, because that transaction may be in
/// another block. Only a nonce that no block has lets it wait for a transaction of ours.
///
/// # Errors
/// `store_failed`.
pub async fn close(tx: &mut WriteTx, payment_id: B256, stands: bool, now_ms: i64) -> Result<()> {
    if stands {
        let text = "UPDATE payments SET final = 1, updated_ms = $1 WHERE payment_id = $2 AND log_index IS NOT NULL";
        sqlx::query(text).bind(now_ms).bind(payment_id.to_vec()).execute(&mut **tx).await?;
        return Ok(());
    }
    sqlx::query(
        "UPDATE payments SET state = 'searching', reason = CASE WHEN method = 'eip3009' THEN $1 ELSE $2 END, message = $3,
         settled_ms = NULL, tx_hash = NULL, block_number = NULL, block_hash = NULL, log_index = NULL, updated_ms = $4
         WHERE payment_id = $5 AND log_index IS NOT NULL AND final = 0",
    )
    .bind(Reason::ExactNonceUsed.as_str())
    .bind(Reason::Permit2InvalidNonce.as_str())
    .bind("the block in which others settled it is gone")
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payments::{self, fixtures::payment};

    #[tokio::test]
    async fn a_transfer_settles_one_payment_until_its_block_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let mut tx = store.write().await.unwrap();
        for id in [1, 2] {
            payments::insert(&mut tx, &payment(id), 5).await.unwrap();
            let because = ("spent", "by whom?");
            assert!(begin(&mut tx, B256::repeat_byte(id), PaymentState::Accepted, because, 6).await.unwrap());
            assert!(!begin(&mut tx, B256::repeat_byte(id), PaymentState::Accepted, because, 6).await.unwrap());
        }
        tx.commit().await.unwrap();
        assert!(payments::to_send(store.read(), 8453, 9).await.unwrap().is_empty());
        assert_eq!(open(store.read(), 8453, (1, 9)).await.unwrap()[0].reason.as_deref(), Some("spent"));
        let place = Evidence { tx_hash: B256::repeat_byte(7), block_number: 8, block_hash: B256::repeat_byte(9) };
        let find = Find { amount: U256::from(10), place, log_index: 3 };
        let mut tx = store.write().await.unwrap();
        assert!(settle(&mut tx, a, &find, 7).await.unwrap());
        assert!(!settle(&mut tx, b, &find, 7).await.unwrap(), "it paid the other one");
        assert!(settle(&mut tx, b, &Find { log_index: 4, ..find }, 7).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(not_final(store.read(), 8453, (0, 9)).await.unwrap(), [(a, place), (b, place)]);
        assert_eq!(not_final(store.read(), 8453, (1, 9)).await.unwrap(), [(b, place)]);
        let mut tx = store.write().await.unwrap();
        close(&mut tx, a, true, 8).await.unwrap();
        close(&mut tx, b, false, 8).await.unwrap();
        tx.commit().await.unwrap();
        assert!(not_final(store.read(), 8453, (0, 9)).await.unwrap().is_empty());
        let [a, b] = [a, b].map(|id| payments::get(store.read(), id));
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        assert_eq!((a.state, a.is_final, a.tx_hash), (PaymentState::Settled, true, Some(place.tx_hash)));
        assert_eq!((b.state, b.settled_ms, b.tx_hash), (PaymentState::Searching, None, None));
        assert_eq!(b.reason.as_deref(), Some(Reason::ExactNonceUsed.as_str()), "spent as far as is known");
    }
}
