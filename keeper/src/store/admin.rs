//! What operators look at and set right by hand: everything about one id, trying again, taking out.

use alloy::primitives::B256;
use serde_json::{Map, Value, json};
use sqlx::any::AnyRow;
use sqlx::{Column, Row, ValueRef};

use super::{Store, WriteTx, orders};
use crate::error::Result;
use crate::types::{OrderState, b256};

/// Bytes of a column that are shown; longer ones are told by their length.
const SHOWN: usize = 300;

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Order(B256),
    /// A completion, matched with an order or not.
    Settlement(B256),
    Batch(i64),
    Tx(i64),
}

/// What 32 bytes name here: an order, a settlement, or the hash of a transaction that we sent.
///
/// # Errors
/// `store_failed`.
pub async fn subject(store: &Store, id: B256) -> Result<Option<Subject>> {
    let found = |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).bind(id.to_vec()).fetch_optional(store.read());
    if found("SELECT created_ms FROM orders WHERE order_id = $1").await?.is_some() {
        return Ok(Some(Subject::Order(id)));
    }
    if found("SELECT created_ms FROM completions WHERE settlement_id = $1").await?.is_some() {
        return Ok(Some(Subject::Settlement(id)));
    }
    Ok(found("SELECT tx_id FROM attempts WHERE tx_hash = $1").await?.map(Subject::Tx))
}

/// Rows about one thing as JSON: orders, completions, receipts, batches, transactions, attempts, events.
///
/// # Errors
/// `store_failed`.
pub async fn rows(store: &Store, subject: Subject) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    match subject {
        Subject::Order(id) => {
            let id = id.to_vec();
            put(&mut found, "orders", all(store, "SELECT * FROM orders WHERE order_id = $1", &id).await?);
            put(&mut found, "completions", all(store, "SELECT * FROM completions WHERE order_id = $1", &id).await?);
            put(&mut found, "receipts", all(store, "SELECT * FROM receipts WHERE order_id = $1", &id).await?);
        }
        Subject::Settlement(id) => {
            let id = id.to_vec();
            let sql =
                "SELECT o.* FROM orders o JOIN completions c ON c.order_id = o.order_id WHERE c.settlement_id = $1";
            put(&mut found, "orders", all(store, sql, &id).await?);
            put(
                &mut found,
                "completions",
                all(store, "SELECT * FROM completions WHERE settlement_id = $1", &id).await?,
            );
            put(&mut found, "receipts", all(store, "SELECT * FROM receipts WHERE settlement_id = $1", &id).await?);
            put(&mut found, "handedIn", all(store, "SELECT * FROM handed_in WHERE settlement_id = $1", &id).await?);
        }
        Subject::Batch(id) => {
            put(&mut found, "batches", numbered(store, "SELECT * FROM batches WHERE batch_id = $1", id).await?);
            let sql = "SELECT * FROM receipts WHERE batch_id = $1 ORDER BY batch_index LIMIT 256";
            put(&mut found, "receipts", numbered(store, sql, id).await?);
        }
        Subject::Tx(_) => {}
    }
    let numbers = |found: &Map<String, Value>, table: &str, column: &str| -> Vec<i64> {
        let rows = found.get(table).and_then(Value::as_array).cloned().unwrap_or_default();
        rows.iter().filter_map(|row| row.get(column)?.as_i64()).collect()
    };
    if !matches!(subject, Subject::Batch(_)) {
        let mut batches = Vec::new();
        for id in numbers(&found, "receipts", "batch_id") {
            batches.extend(numbered(store, "SELECT * FROM batches WHERE batch_id = $1", id).await?);
        }
        put(&mut found, "batches", batches);
    }
    let mut ids: Vec<i64> = match subject {
        Subject::Tx(id) => vec![id],
        _ => Vec::new(),
    };
    for (table, column) in [
        ("orders", "reclaim_tx"),
        ("completions", "record_tx"),
        ("receipts", "tx_id"),
        ("receipts", "deliver_tx"),
        ("batches", "tx_id"),
        ("batches", "finalize_tx_id"),
    ] {
        ids.extend(numbers(&found, table, column));
    }
    ids.sort_unstable();
    ids.dedup();
    let (mut txs, mut attempts) = (Vec::new(), Vec::new());
    for id in ids {
        txs.extend(numbered(store, "SELECT * FROM txs WHERE tx_id = $1", id).await?);
        let sql = "SELECT * FROM attempts WHERE tx_id = $1 ORDER BY created_ms";
        attempts.extend(numbered(store, sql, id).await?);
    }
    put(&mut found, "transactions", txs);
    put(&mut found, "attempts", attempts);
    if let Subject::Order(id) | Subject::Settlement(id) = subject {
        let sql = "SELECT chain_id, block_number, tx_hash, name, seq, timestamp FROM events WHERE topic1 = $1 \
                   ORDER BY chain_id, block_number, log_index";
        let mut events = all(store, sql, id.as_slice()).await?;
        let other = if matches!(subject, Subject::Order(_)) {
            ("completions", "settlement_id")
        } else {
            ("orders", "order_id")
        };
        let rows = found.get(other.0).and_then(Value::as_array).cloned().unwrap_or_default();
        for text in rows.iter().filter_map(|row| row.get(other.1)?.as_str()) {
            if let Ok(id) = text.parse::<B256>() {
                events.extend(all(store, sql, id.as_slice()).await?);
            }
        }
        put(&mut found, "events", events);
    }
    Ok(found)
}

fn put(found: &mut Map<String, Value>, name: &str, rows: Vec<Value>) {
    if !rows.is_empty() {
        found.insert(name.to_owned(), Value::Array(rows));
    }
}

async fn all(store: &Store, sql: &'static str, id: &[u8]) -> Result<Vec<Value>> {
    let rows = sqlx::query(sql).bind(id.to_vec()).fetch_all(store.read()).await?;
    Ok(rows.iter().map(shown).collect())
}

async fn numbered(store: &Store, sql: &'static str, id: i64) -> Result<Vec<Value>> {
    let rows = sqlx::query(sql).bind(id).fetch_all(store.read()).await?;
    Ok(rows.iter().map(shown).collect())
}

/// A row as JSON: bytes in hexadecimal. Requests and answers are the payer's and never shown.
fn shown(row: &AnyRow) -> Value {
    let mut object = Map::new();
    for column in row.columns() {
        let name = column.name();
        let null = row.try_get_raw(name).map_or(true, |value| value.is_null());
        let value = if null {
            Value::Null
        } else if let Ok(number) = row.try_get::<i64, _>(name) {
            json!(number)
        } else if let Ok(text) = row.try_get::<String, _>(name) {
            json!(text)
        } else if let Ok(bytes) = row.try_get::<Vec<u8>, _>(name) {
            let private = matches!(name, "request" | "output" | "response" | "blinding");
            let whole = !private && bytes.len() <= SHOWN;
            if whole { json!(format!("0x{}", hex::encode(&bytes))) } else { json!(format!("({} bytes)", bytes.len())) }
        } else {
            Value::Null
        };
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

/// Lets an order be tried at a node now instead of after its pause. False when it does not wait for that.
///
/// # Errors
/// `store_failed`.
pub async fn retry_order(tx: &mut WriteTx, order_id: B256, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE orders SET next_attempt_ms = $2, updated_ms = $2 WHERE order_id = $1 AND state = 'open' \
         AND request IS NOT NULL AND next_attempt_ms > $2",
    )
    .bind(order_id.to_vec())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The settlement that an order is charged with, if it is answered.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn settlement_of(tx: &mut WriteTx, order_id: B256) -> Result<Option<B256>> {
    let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT settlement_id FROM receipts WHERE order_id = $1")
        .bind(order_id.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
    found.map(|id| b256("receipts", &id)).transpose()
}

/// Lets a receipt be settled, or delivered, now instead of after its pause. False when it does not wait for that.
///
/// # Errors
/// `store_failed`.
pub async fn retry_receipt(tx: &mut WriteTx, settlement_id: B256, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE receipts SET retry_ms = $2 WHERE settlement_id = $1 AND retry_ms > $2")
        .bind(settlement_id.to_vec())
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a completion be recorded now instead of after its pause. False when it does not wait for that.
///
/// # Errors
/// `store_failed`.
pub async fn retry_record(tx: &mut WriteTx, settlement_id: B256, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE completions SET record_next_ms = $2 WHERE settlement_id = $1 AND record_state = 'due' \
         AND record_next_ms > $2",
    )
    .bind(settlement_id.to_vec())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Queues a quarantined transaction again, if what it was made for still waits for it.
///
/// # Errors
/// `store_failed`.
pub async fn requeue_tx(tx: &mut WriteTx, tx_id: i64, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE txs SET state = 'queued', reason = NULL, updated_ms = $2 WHERE tx_id = $1 AND state = 'quarantined' AND (
         EXISTS (SELECT 1 FROM batches b WHERE b.tx_id = $1 AND b.state IN ('frozen', 'submitted'))
         OR EXISTS (SELECT 1 FROM batches b WHERE b.finalize_tx_id = $1 AND b.state IN ('safe', 'finalised'))
         OR EXISTS (SELECT 1 FROM receipts r WHERE r.tx_id = $1 AND r.state = 'matched')
         OR EXISTS (SELECT 1 FROM receipts r WHERE r.deliver_tx = $1 AND r.delivered = 0)
         OR EXISTS (SELECT 1 FROM orders o WHERE o.reclaim_tx = $1 AND o.held = 1)
         OR EXISTS (SELECT 1 FROM completions c WHERE c.record_tx = $1 AND c.record_state = 'submitted'))",
    )
    .bind(tx_id)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a transaction that has a nonce be broadcast at the next look.
///
/// # Errors
/// `store_failed`.
pub async fn rebroadcast(tx: &mut WriteTx, tx_id: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE attempts SET broadcast_ms = NULL WHERE tx_id = $1 \
         AND EXISTS (SELECT 1 FROM txs t WHERE t.tx_id = $1 AND t.state IN ('signed', 'sent'))",
    )
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes an unanswered order, or one whose receipt waits for settlement, out of the work: nobody is paid by us for it.
/// False when it is too late or done already.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn withdraw_order(tx: &mut WriteTx, order_id: B256, reason: &str) -> Result<bool> {
    let receipt: Option<String> = sqlx::query_scalar("SELECT state FROM receipts WHERE order_id = $1")
        .bind(order_id.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
    match receipt.as_deref() {
        None => {
            let from = [OrderState::Open, OrderState::Dispatched];
            orders::set_state(tx, order_id, &from, OrderState::Refused, Some(reason)).await
        }
        Some("matched") => {
            let done = sqlx::query(
                "UPDATE receipts SET state = 'skipped', skip_reason = $2 WHERE order_id = $1 AND state = 'matched' \
                 AND tx_id IS NULL",
            )
            .bind(order_id.to_vec())
            .bind(reason.to_owned())
            .execute(&mut **tx)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            orders::set_state(tx, order_id, &[OrderState::Completed], OrderState::Refused, Some(reason)).await
        }
        Some(_) => Ok(false),
    }
}

/// The order that a settlement is charged to.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn order_of(store: &Store, settlement_id: B256) -> Result<Option<B256>> {
    let order: Option<Vec<u8>> = sqlx::query_scalar("SELECT order_id FROM receipts WHERE settlement_id = $1")
        .bind(settlement_id.to_vec())
        .fetch_optional(store.read())
        .await?;
    order.map(|bytes| b256("receipts", &bytes)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::receipts::fixtures::{Seed, seed, store};

    #[tokio::test]
    async fn everything_about_an_id_is_found_and_texts_are_not_shown() -> Result<()> {
        let (_dir, store) = store().await?;
        let one = Seed::new(1);
        seed(&store, &one).await?;
        assert_eq!(subject(&store, one.order_id()).await?, Some(Subject::Order(one.order_id())));
        assert_eq!(subject(&store, one.settlement_id()).await?, Some(Subject::Settlement(one.settlement_id())));
        assert_eq!(subject(&store, B256::ZERO).await?, None);
        for of in [Subject::Order(one.order_id()), Subject::Settlement(one.settlement_id())] {
            let found = rows(&store, of).await?;
            assert_eq!(found["orders"][0]["order_id"], json!(one.order_id()));
            assert_eq!(found["receipts"][0]["state"], "matched");
            assert!(found["completions"][0]["output"].as_str().is_none_or(|text| text.contains("bytes)")), "{found:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn an_order_is_withdrawn_once_and_before_it_is_batched() -> Result<()> {
        let (_dir, store) = store().await?;
        for n in 1..3 {
            seed(&store, &Seed::new(n)).await?;
        }
        let [first, second] = [1, 2].map(Seed::new);
        let mut tx = store.write().await?;
        assert!(withdraw_order(&mut tx, first.order_id(), "withdrawn").await?);
        assert!(!withdraw_order(&mut tx, first.order_id(), "withdrawn").await?);
        assert!(crate::store::receipts::to_batch(&mut tx, &[second.settlement_id()], 1).await?);
        assert!(!withdraw_order(&mut tx, second.order_id(), "withdrawn").await?, "its batch may be on its way");
        tx.commit().await?;
        let order = orders::get(store.read(), first.order_id()).await?.map(|row| (row.state, row.reason));
        assert_eq!(order, Some((OrderState::Refused, Some("withdrawn".to_owned()))));
        assert_eq!(order_of(&store, first.settlement_id()).await?, Some(first.order_id()));
        Ok(())
    }

    #[tokio::test]
    async fn a_quarantined_transaction_is_queued_again_only_for_what_still_waits() -> Result<()> {
        let (_dir, store) = store().await?;
        let one = Seed { path: crate::store::receipts::Path::Verified, ..Seed::new(1) };
        seed(&store, &one).await?;
        let new = crate::store::txs::NewTx {
            chain_id: 8453,
            kind: "settle_verified",
            intent_key: "a".to_owned(),
            target: Default::default(),
            calldata: Default::default(),
        };
        let mut tx = store.write().await?;
        let tx_id = crate::store::txs::enqueue(&mut tx, &new, 1).await?;
        crate::store::txs::quarantine(&mut tx, tx_id, "why", 2).await?;
        assert!(!requeue_tx(&mut tx, tx_id, 3).await?, "nothing waits for it");
        assert!(crate::store::receipts::set_verified_tx(&mut tx, one.settlement_id(), tx_id).await?);
        assert!(requeue_tx(&mut tx, tx_id, 3).await?);
        assert!(!requeue_tx(&mut tx, tx_id, 4).await?, "it is queued");
        assert!(!rebroadcast(&mut tx, tx_id).await?, "it has no nonce");
        tx.commit().await?;
        Ok(())
    }
}
