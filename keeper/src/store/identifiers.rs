//! Payers' own names for their payments: each stands for one payment, until that has failed for good.

use alloy::primitives::{Address, B256};
use sqlx::{Any, Executor};

use super::WriteTx;
use crate::error::Result;

/// Gives an identifier of a payer to a payment. False when it stands for another one. Two that claim it at once take turns: the
/// second sees what the first committed.
///
/// # Errors
/// `store_failed`.
pub async fn claim(tx: &mut WriteTx, payer: Address, identifier: &str, payment_id: B256) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO payment_identifiers (payer, identifier, payment_id) VALUES ($1, $2, $3)
         ON CONFLICT (payer, identifier) DO UPDATE SET payment_id = excluded.payment_id
         WHERE payment_identifiers.payment_id = excluded.payment_id OR EXISTS (SELECT 1 FROM payments p
         WHERE p.payment_id = payment_identifiers.payment_id AND p.state = 'failed' AND p.final = 1)",
    )
    .bind(payer.to_vec())
    .bind(identifier.to_owned())
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether an identifier of a payer stands for another payment than this one.
///
/// # Errors
/// `store_failed`.
pub async fn is_taken<'c>(
    db: impl Executor<'c, Database = Any>,
    payer: Address,
    identifier: &str,
    payment_id: B256,
) -> Result<bool> {
    let found = sqlx::query(
        "SELECT 1 FROM payment_identifiers i JOIN payments p ON p.payment_id = i.payment_id
         WHERE i.payer = $1 AND i.identifier = $2 AND i.payment_id <> $3 AND (p.state <> 'failed' OR p.final = 0)",
    )
    .bind(payer.to_vec())
    .bind(identifier.to_owned())
    .bind(payment_id.to_vec())
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payments::{self, fixtures};
    use crate::types::PaymentState;

    #[tokio::test]
    async fn stands_for_one_payment_until_that_has_failed_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (payer, other) = (Address::repeat_byte(1), Address::repeat_byte(8));
        let [a, b] = [1, 2].map(B256::repeat_byte);
        let mut tx = store.write().await.unwrap();
        assert!(claim(&mut tx, payer, "identifier-of-mine", a).await.unwrap());
        assert!(payments::insert(&mut tx, &fixtures::payment(1), 5).await.unwrap().is_none());
        assert!(claim(&mut tx, payer, "identifier-of-mine", a).await.unwrap(), "the same payment again");
        assert!(!claim(&mut tx, payer, "identifier-of-mine", b).await.unwrap());
        assert!(claim(&mut tx, other, "identifier-of-mine", b).await.unwrap(), "another payer's is another one");
        assert!(claim(&mut tx, payer, "another-of-mine", b).await.unwrap());
        tx.commit().await.unwrap();
        assert!(is_taken(store.read(), payer, "identifier-of-mine", b).await.unwrap());
        assert!(!is_taken(store.read(), payer, "identifier-of-mine", a).await.unwrap());
        assert!(!is_taken(store.read(), payer, "unknown-identifier", b).await.unwrap());
        let mut tx = store.write().await.unwrap();
        assert!(payments::fail(&mut tx, a, PaymentState::Accepted, ("why", ""), None, 7).await.unwrap());
        tx.commit().await.unwrap();
        assert!(!is_taken(store.read(), payer, "identifier-of-mine", b).await.unwrap());
        let mut tx = store.write().await.unwrap();
        assert!(claim(&mut tx, payer, "identifier-of-mine", b).await.unwrap(), "nothing moved: it is free");
        assert!(payments::insert(&mut tx, &fixtures::payment(2), 8).await.unwrap().is_none());
        assert!(!claim(&mut tx, payer, "identifier-of-mine", a).await.unwrap(), "and taken again");
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn of_two_at_once_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let take = |id: u8| {
            let store = store.clone();
            async move {
                let mut tx = store.write().await.unwrap();
                let won =
                    claim(&mut tx, Address::repeat_byte(1), "identifier-of-mine", B256::repeat_byte(id)).await.unwrap();
                if won {
                    assert!(payments::insert(&mut tx, &fixtures::payment(id), 5).await.unwrap().is_none());
                }
                tx.commit().await.unwrap();
                won
            }
        };
        let won = futures_util::future::join_all((1..=8).map(take)).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    }
}
