//! The common case of intake in few statements: what completions need to be checked, and their match with open orders.

use std::collections::HashMap;

use alloy::primitives::B256;
use sqlx::Row;

use super::bulk::{Dialect, Query, keys, query, runs};
use super::completions::{Completion, Metered};
use super::{Store, WriteTx, packed};
use crate::error::Result;
use crate::types::{CompletionState, OrderRow, RecordState, b256};

/// What is stored of a settlement id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub order_id: Option<B256>,
    pub state: CompletionState,
    /// A Meter is stored with it.
    pub metered: bool,
}

/// What is stored of some orders and settlements.
#[derive(Debug, Default)]
pub struct Found {
    /// Without signature, request and reason.
    pub orders: HashMap<B256, OrderRow>,
    pub known: HashMap<B256, Known>,
}

/// Looks up what completions refer to: the order that each names, and its settlement id.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn find(store: &Store, wanted: &[(Option<B256>, B256)]) -> Result<Found> {
    let mut found = Found::default();
    let mut db = store.read().acquire().await?;
    let dialect = Dialect::of(&db);
    let named: Vec<B256> = wanted.iter().filter_map(|(order, _)| *order).collect();
    for run in keys(&named) {
        let mut select = query(packed::select(dialect, run.len()));
        for id in &run {
            select = select.bind(id.as_slice());
        }
        let rows: Option<Vec<u8>> = select.fetch_one(&mut *db).await?.try_get(0)?;
        packed::read(&rows.unwrap_or_default(), &mut found.orders)?;
    }
    let settlements: Vec<B256> = wanted.iter().map(|(_, settlement)| *settlement).collect();
    for run in keys(&settlements) {
        let mut select = query(format!(
            "SELECT settlement_id, order_id, state, CASE WHEN meter_signature IS NULL THEN 0 ELSE 1 END AS metered \
             FROM completions WHERE settlement_id IN ({})",
            dialect.rows("@", run.len())
        ));
        for id in &run {
            select = select.bind(id.as_slice());
        }
        for row in select.fetch_all(&mut *db).await? {
            const T: &str = "completions";
            let order_id: Option<Vec<u8>> = row.try_get("order_id")?;
            let known = Known {
                order_id: order_id.map(|bytes| b256(T, &bytes)).transpose()?,
                state: CompletionState::parse(&row.try_get::<String, _>("state")?)?,
                metered: flag(&row, "metered")?,
            };
            found.known.insert(b256(T, &row.try_get::<Vec<u8>, _>("settlement_id")?)?, known);
        }
    }
    Ok(found)
}

/// A computed 0 or 1: 32 bits on Postgres, 64 on SQLite.
fn flag(row: &sqlx::any::AnyRow, column: &str) -> Result<bool> {
    match row.try_get::<i64, _>(column) {
        Ok(value) => Ok(value != 0),
        Err(_) => Ok(row.try_get::<i32, _>(column)? != 0),
    }
}

/// A metered completion and the order that it answers.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub order: &'a OrderRow,
    pub completion: &'a Completion,
    pub metered: &'a Metered,
    /// Of the receipt that they make.
    pub receipt_hash: B256,
}

/// Puts together one of the statements that a match takes, for a run of them.
type Statement = fn(Dialect, &[Pair<'_>], i64) -> Query;

/// Does for all of them what `completions::insert_matched` does for one that is new: completion, receipt, and the order's
/// state `completed`. False when one of them is not that simple (known, answered, closed): then nothing of `tx` may be
/// committed, and they must go one by one.
///
/// # Errors
/// `store_failed`.
pub async fn match_all(tx: &mut WriteTx, pairs: &[Pair<'_>], now_ms: i64) -> Result<bool> {
    let dialect = Dialect::of(tx);
    let statements: [Statement; 3] = [completed, receipts, completions];
    let mut all = runs(pairs).flat_map(|run| statements.map(|statement| (run, statement)));
    let build = |(run, statement): (&[Pair<'_>], Statement)| {
        (u64::try_from(run.len()).unwrap_or(u64::MAX), statement(dialect, run, now_ms))
    };
    let mut next = all.next().map(build);
    while let Some((rows, statement)) = next {
        // The next is put together while the database works on this one.
        let (done, following) = tokio::join!(statement.execute(&mut **tx), async { all.next().map(build) });
        if done?.rows_affected() != rows {
            return Ok(false);
        }
        next = following;
    }
    Ok(true)
}

fn completed(dialect: Dialect, run: &[Pair<'_>], _: i64) -> Query {
    let or_ignore = dialect.or_ignore();
    let update = query(format!(
        "UPDATE {or_ignore}orders SET state = 'completed', reason = NULL WHERE state IN ('open', 'dispatched') AND order_id IN ({})",
        dialect.rows("@", run.len())
    ));
    run.iter().fold(update, |update, pair| update.bind(pair.order.order_id.as_slice()))
}

fn receipts(dialect: Dialect, run: &[Pair<'_>], now_ms: i64) -> Query {
    let (or_ignore, or_nothing) = (dialect.or_ignore(), dialect.or_nothing());
    let insert = query(format!(
        "INSERT {or_ignore}INTO receipts (settlement_id, order_id, payer, token, node_id, amount, receipt_hash, state, path, \
         delivered, deliver_attempts, created_ms) VALUES {} {or_nothing}",
        dialect.rows("(@, @, @, @, @, @, @, 'matched', @, 0, 0, @)", run.len())
    ));
    run.iter().fold(insert, |insert, Pair { order, completion, metered, receipt_hash }| {
        insert
            .bind(completion.settlement_id.as_slice())
            .bind(order.order_id.as_slice())
            .bind(order.order.payer.as_slice())
            .bind(order.order.token.as_slice())
            .bind(completion.node_id.as_slice())
            .bind(metered.amount.to_string())
            .bind(receipt_hash.as_slice())
            // An order that names no keeper can only be settled verified.
            .bind(if order.order.keeperId == B256::ZERO { "verified" } else { "batch" })
            .bind(now_ms)
    })
}

fn completions(dialect: Dialect, run: &[Pair<'_>], now_ms: i64) -> Query {
    let (or_ignore, or_nothing) = (dialect.or_ignore(), dialect.or_nothing());
    let insert = query(format!(
        "INSERT {or_ignore}INTO completions (settlement_id, order_id, node_id, node_version, request_hash, output_hash, \
         timestamp, signature, output, response, meter_signature, meter_offset, amount, input_tokens, output_tokens, \
         input_rate, output_rate, rate_card, state, record_state, created_ms) VALUES {} {or_nothing}",
        dialect.rows("(@, @, @, @, @, @, @, @, @, @, @, @, @, @, @, @, @, @, 'matched', @, @)", run.len())
    ));
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    run.iter().fold(insert, |insert, Pair { order, completion, metered, .. }| {
        let card = metered.card.as_ref();
        let private = order.blinding.is_none_or(|blinding| blinding != B256::ZERO);
        insert
            .bind(completion.settlement_id.as_slice())
            .bind(order.order_id.as_slice())
            .bind(completion.node_id.as_slice())
            .bind(i64::from(completion.node_version))
            .bind(completion.request_hash.as_slice())
            .bind(completion.output_hash.as_slice())
            .bind(count(completion.timestamp))
            .bind(completion.signature.as_slice())
            .bind(completion.output.as_deref())
            .bind(completion.response.as_deref())
            .bind(metered.signature.as_slice())
            .bind(metered.offset.to_string())
            .bind(metered.amount.to_string())
            .bind(completion.usage.map(|usage| count(usage.input)))
            .bind(completion.usage.map(|usage| count(usage.output)))
            .bind(card.map(|card| card.input.to_string()))
            .bind(card.map(|card| card.output.to_string()))
            .bind(card.map(|card| card.version.as_str()))
            .bind(if private { RecordState::Private } else { RecordState::Due }.as_str())
            .bind(now_ms)
    })
}

#[cfg(test)]
mod tests {
    use quittance_bindings::typed::receipt_hash;

    use super::*;
    use crate::store::accounts;
    use crate::store::completions;
    use crate::store::orders::tests::{KEEPER, PAYER, TOKEN, order, signed, store};
    use crate::store::orders::{self, Signed};
    use crate::types::OrderState;

    fn completion(seed: u8) -> Completion {
        Completion {
            settlement_id: B256::repeat_byte(seed),
            order_id: Some(B256::repeat_byte(seed)),
            node_id: B256::repeat_byte(0xAA),
            node_version: 1,
            request_hash: B256::repeat_byte(7),
            output_hash: B256::repeat_byte(8),
            timestamp: 1_000,
            signature: vec![1; 256],
            output: Some(b"Paris.".to_vec()),
            response: None,
            usage: None,
        }
    }

    fn metered() -> Metered {
        Metered { signature: vec![2; 65], offset: 0, amount: 9, card: None }
    }

    async fn open(store: &Store, count: u8) -> Vec<OrderRow> {
        let mut tx = store.write().await.unwrap();
        for seed in 1..=count {
            let (id, order) = (B256::repeat_byte(seed), order(u64::from(seed)));
            let blinding = if seed == 2 { B256::repeat_byte(5) } else { B256::ZERO };
            assert!(accounts::reserve(&mut tx, id, PAYER, TOKEN, KEEPER, 10, 10_000).await.unwrap());
            let new: Signed<'_> = signed(id, &order, blinding);
            assert!(orders::insert_signed(&mut tx, &new, "me", 10, (0, 1)).await.unwrap());
        }
        tx.commit().await.unwrap();
        let ids: Vec<B256> = (1..=count).map(B256::repeat_byte).collect();
        let wanted: Vec<(Option<B256>, B256)> = ids.iter().map(|id| (Some(*id), B256::ZERO)).collect();
        let found = find(store, &wanted).await.unwrap();
        ids.iter().map(|id| found.orders[id].clone()).collect()
    }

    async fn matched(store: &Store, rows: &[OrderRow]) -> bool {
        let metered = metered();
        let completions: Vec<Completion> = rows.iter().map(|row| completion(row.order_id.0[0])).collect();
        let pairs: Vec<Pair<'_>> = rows
            .iter()
            .zip(&completions)
            .map(|(order, completion)| {
                let receipt_hash = receipt_hash(&completions::receipt(order, completion, &metered));
                Pair { order, completion, metered: &metered, receipt_hash }
            })
            .collect();
        let mut tx = store.write().await.unwrap();
        let all = match_all(&mut tx, &pairs, 5).await.unwrap();
        if all {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        all
    }

    #[tokio::test]
    async fn many_are_matched_as_one_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let rows = open(&store, 101).await;
        assert!(matched(&store, &rows[..100]).await);
        let last = &rows[100];
        let mut tx = store.write().await.unwrap();
        let alone = completion(101);
        completions::insert_matched(&mut tx, &alone, &metered(), last.order_id, 5).await.unwrap();
        tx.commit().await.unwrap();
        for seed in [1, 100, 101] {
            let row = completions::of_order(store.read(), B256::repeat_byte(seed)).await.unwrap().unwrap();
            assert_eq!(row.completion, completion(seed));
            assert_eq!(row.metered, Some(metered()));
            assert_eq!((row.state, row.record_state), (CompletionState::Matched, RecordState::Due));
            let order = orders::get(store.read(), B256::repeat_byte(seed)).await.unwrap().unwrap();
            assert_eq!(order.state, OrderState::Completed);
        }
        let row = completions::of_order(store.read(), B256::repeat_byte(2)).await.unwrap().unwrap();
        assert_eq!(row.record_state, RecordState::Private, "a blinded order is never published singly");
        let differ: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT DISTINCT payer, token, node_id, amount, state, path, delivered, deliver_attempts, \
             retries, retry_ms, created_ms FROM receipts) d",
        )
        .fetch_one(store.read())
        .await
        .unwrap();
        assert_eq!(differ, 1, "receipts are the same both ways");
        let ids: Vec<B256> = (0..=102).map(B256::repeat_byte).collect();
        let wanted: Vec<(Option<B256>, B256)> = ids.iter().map(|id| (Some(*id), *id)).collect();
        let found = find(&store, &wanted).await.unwrap();
        assert_eq!((found.orders.len(), found.known.len()), (101, 101));
        let known = Known { order_id: Some(ids[7]), state: CompletionState::Matched, metered: true };
        assert_eq!(found.known[&ids[7]], known);
    }

    #[tokio::test]
    async fn all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let rows = open(&store, 5).await;
        assert!(matched(&store, &rows[..1]).await);
        assert!(!matched(&store, &rows).await, "the first is answered already");
        let mut tx = store.write().await.unwrap();
        completions::insert_verified(&mut tx, &completion(3), None, 1).await.unwrap();
        tx.commit().await.unwrap();
        assert!(!matched(&store, &rows[1..]).await, "one completion is known already");
        let counts = "SELECT (SELECT COUNT(*) FROM receipts) + (SELECT COUNT(*) FROM orders WHERE state = 'completed')";
        let count: i64 = sqlx::query_scalar(counts).fetch_one(store.read()).await.unwrap();
        assert_eq!(count, 2);
    }
}
