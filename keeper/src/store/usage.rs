//! What gateways report of use beside their payments, summed by day once a payment is final: what is asked for stays small however
//! many payments there were.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use serde_json::{Value, json};
use sqlx::{Any, Executor, Row};

use super::joins::Use;
use super::txs::chain_column;
use super::{Store, WriteTx};
use crate::error::{Error, Result};
use crate::types::b256;

const DAY_MS: i64 = 86_400_000;

/// A final payment that is not in the sums yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Uncounted {
    pub payment_id: B256,
    /// Days since 1970, UTC.
    day: i64,
    /// Hash of the API key that it was settled with; empty for none.
    api_key: Vec<u8>,
    used: Use,
}

/// Final payments with a report that are in no sum yet.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn to_count<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64, limit: i64) -> Result<Vec<Uncounted>> {
    let rows = sqlx::query(
        "SELECT payment_id, settled_ms, api_key, usage FROM payments WHERE chain_id = $1 AND counted = 0
         AND state = 'settled' AND final = 1 LIMIT $2",
    )
    .bind(chain_column(chain_id)?)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Uncounted {
                payment_id: b256("payments", &row.try_get::<Vec<u8>, _>("payment_id")?)?,
                day: row.try_get::<i64, _>("settled_ms")?.div_euclid(DAY_MS),
                api_key: row.try_get::<Option<Vec<u8>>, _>("api_key")?.unwrap_or_default(),
                used: read(&row.try_get::<String, _>("usage")?)?,
            })
        })
        .collect()
}

/// Puts payments into the sums of their days.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn count(tx: &mut WriteTx, payments: &[Uncounted]) -> Result<()> {
    // In the order of their keys, so that two keepers never wait for each other in a circle.
    let mut days: BTreeMap<(i64, &[u8]), Use> = BTreeMap::new();
    for payment in payments {
        let done = sqlx::query("UPDATE payments SET counted = 1 WHERE payment_id = $1 AND counted = 0")
            .bind(payment.payment_id.to_vec())
            .execute(&mut **tx)
            .await?;
        if done.rows_affected() == 1 {
            let sum = days.entry((payment.day, &payment.api_key)).or_insert(NOTHING);
            *sum = plus(sum, &payment.used);
        }
    }
    for ((day, api_key), used) in days {
        // Locks the row, there or not, until the end of the transaction.
        sqlx::query(
            "INSERT INTO usage_days (day, api_key, usage) VALUES ($1, $2, $3)
             ON CONFLICT (day, api_key) DO UPDATE SET usage = usage_days.usage",
        )
        .bind(day)
        .bind(api_key.to_vec())
        .bind(written(&NOTHING))
        .execute(&mut **tx)
        .await?;
        let known: String = sqlx::query_scalar("SELECT usage FROM usage_days WHERE day = $1 AND api_key = $2")
            .bind(day)
            .bind(api_key.to_vec())
            .fetch_one(&mut **tx)
            .await?;
        sqlx::query("UPDATE usage_days SET usage = $1 WHERE day = $2 AND api_key = $3")
            .bind(written(&plus(&read(&known)?, &used)))
            .bind(day)
            .bind(api_key.to_vec())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Use by day (days since 1970, UTC; several of one day add up) from a day on; only of one API key, if it is given. Sums, and
/// settled payments that are not in them yet, as of one moment.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn since(store: &Store, first: i64, key: Option<B256>) -> Result<Vec<(i64, Use)>> {
    let rows = sqlx::query(
        "SELECT day, usage FROM usage_days WHERE day >= $1 AND (CAST($2 AS BIGINT) = 0 OR api_key = $3)
         UNION ALL SELECT settled_ms / 86400000 AS day, usage FROM payments WHERE counted = 0 AND state = 'settled'
         AND settled_ms >= $4 AND (CAST($2 AS BIGINT) = 0 OR api_key = $3)",
    )
    .bind(first)
    .bind(i64::from(key.is_some()))
    .bind(key.unwrap_or_default().to_vec())
    .bind(first.saturating_mul(DAY_MS))
    .fetch_all(store.read())
    .await?;
    rows.iter().map(|row| Ok((row.try_get("day")?, read(&row.try_get::<String, _>("usage")?)?))).collect()
}

const NOTHING: Use =
    Use { requests: 0, cost_opg: 0, cost_usd: 0.0, input_tokens: 0, output_tokens: 0, total_tokens: 0 };

fn plus(a: &Use, b: &Use) -> Use {
    Use {
        requests: a.requests.saturating_add(b.requests),
        cost_opg: a.cost_opg.saturating_add(b.cost_opg),
        cost_usd: a.cost_usd + b.cost_usd,
        input_tokens: a.input_tokens.saturating_add(b.input_tokens),
        output_tokens: a.output_tokens.saturating_add(b.output_tokens),
        total_tokens: a.total_tokens.saturating_add(b.total_tokens),
    }
}

/// Use as it is stored, in a gateway's own words.
pub(super) fn written(used: &Use) -> String {
    json!({ "requestCount": used.requests, "costOpg": used.cost_opg.to_string(), "costUsd": used.cost_usd,
        "inputTokens": used.input_tokens, "outputTokens": used.output_tokens, "totalTokens": used.total_tokens })
    .to_string()
}

fn read(text: &str) -> Result<Use> {
    let corrupt = |error: serde_json::Error| Error::Corrupt { table: "payments", what: format!("usage: {error}") };
    Ok(Use::read(&serde_json::from_str::<Value>(text).map_err(corrupt)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payments::{self, Evidence, NewPayment, Settled, fixtures};

    fn total(found: &[(i64, Use)], day: i64) -> Use {
        found.iter().filter(|(of, _)| *of == day).fold(NOTHING, |sum, (_, used)| plus(&sum, used))
    }

    #[tokio::test]
    async fn is_the_same_before_and_after_it_is_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (day, key) = (20_000, B256::repeat_byte(9));
        let place = Evidence { tx_hash: B256::repeat_byte(7), block_number: 8, block_hash: B256::repeat_byte(9) };
        let mut tx = store.write().await.unwrap();
        for id in 1..=5 {
            let usage =
                json!({ "requestCount": id, "costOpg": "1500000000000000000000", "cost_usd": 0.25, "inputTokens": 2 });
            let body = if id == 5 { json!({}) } else { json!({ "usageMetadata": usage }) };
            let api_key = (id == 2).then_some(key);
            let new = NewPayment { request: body.to_string().into_bytes(), api_key, ..fixtures::payment(id) };
            assert!(payments::insert(&mut tx, &new, 5).await.unwrap().is_none());
            // The fourth is in no final block yet, the third is of another day.
            let evidence = (id == 4).then_some(place);
            let settled = Settled { amount: new.amount, extra: None, evidence };
            let at = (day + i64::from(id == 3)) * DAY_MS + 7;
            assert!(payments::settle(&mut tx, new.payment_id, &settled, at).await.unwrap());
        }
        tx.commit().await.unwrap();
        let check = async || {
            let all = since(&store, day, None).await.unwrap();
            let (first, second) = (total(&all, day), total(&all, day + 1));
            assert_eq!((first.requests, first.input_tokens, first.total_tokens), (1 + 2 + 4, 6, 6));
            assert_eq!((first.cost_opg, first.cost_usd), (4_500_000_000_000_000_000_000, 0.75));
            assert_eq!(second.requests, 3);
            assert_eq!(total(&since(&store, day + 1, None).await.unwrap(), day).requests, 0);
            assert_eq!(total(&since(&store, day, Some(key)).await.unwrap(), day).requests, 2);
            all.len()
        };
        assert_eq!(check().await, 4);
        let found = to_count(store.read(), 8453, 10).await.unwrap();
        assert_eq!(found.len(), 3, "what is not final may go");
        for _ in 0..2 {
            let mut tx = store.write().await.unwrap();
            count(&mut tx, &found).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(check().await, 4, "two keys on one day, another day, and one payment");
        }
        assert!(to_count(store.read(), 8453, 10).await.unwrap().is_empty());
    }
}
