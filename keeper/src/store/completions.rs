//! Nodes' evidence, and its match with an order: completion, receipt and the order's state in one transaction.

use alloy::primitives::aliases::U40;
use alloy::primitives::{B256, keccak256};
use quittance_bindings::typed::{RAIL_ORDER, Receipt, receipt_hash};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::{WriteTx, orders};
use crate::error::{Error, Result};
use crate::types::{CompletionState, OrderRow, OrderState, RecordState, b256, units};

/// A verified inference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub settlement_id: B256,
    /// The order it answers, when the bearer named one.
    pub order_id: Option<B256>,
    pub node_id: B256,
    /// Version of the node whose key signed.
    pub node_version: u32,
    pub request_hash: B256,
    pub output_hash: B256,
    /// The node's own time, unix seconds.
    pub timestamp: u64,
    pub signature: Vec<u8>,
    /// The hashed output text; `None` when it was not handed in or is erased.
    pub output: Option<Vec<u8>>,
    /// The node's whole response body; `None` as above.
    pub response: Option<Vec<u8>>,
    pub usage: Option<Usage>,
}

/// Tokens that the node reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
}

/// What the inference is charged, under the meter key's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// 65 bytes, low s, v 27 or 28.
    pub signature: Vec<u8>,
    /// 0 on the order rail.
    pub offset: u128,
    /// Token units.
    pub amount: u128,
    /// `None` when the node metered by itself.
    pub card: Option<Rates>,
}

/// The rate card that metered: token units per million tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    pub input: u128,
    pub output: u128,
    pub version: String,
}

/// A completion as stored.
#[derive(Clone, Debug)]
pub struct CompletionRow {
    pub completion: Completion,
    pub metered: Option<Metered>,
    pub state: CompletionState,
    pub record_state: RecordState,
    /// Evidence on OpenGradient: transaction and block.
    pub recorded: Option<(B256, u64)>,
    pub created_ms: i64,
}

/// How a match ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// Stored now: the order is completed.
    New,
    /// Stored before, the same pair.
    Known,
    /// The order was answered by another inference: this one is not charged.
    Answered { settlement_id: B256 },
    /// The inference is charged to another order.
    Replayed { order_id: B256 },
    /// The order is in a state in which it takes no answer.
    Closed { state: OrderState },
}

/// The receipt of a matched pair, as leaves and verified settlements commit to it.
pub fn receipt(order: &OrderRow, completion: &Completion, metered: &Metered) -> Receipt {
    Receipt {
        rail: RAIL_ORDER,
        paymentId: order.order_id,
        payer: order.order.payer,
        token: order.order.token,
        offset: metered.offset,
        amount: metered.amount,
        nodeId: completion.node_id,
        nodeVersion: completion.node_version,
        requestHash: completion.request_hash,
        blinding: order.blinding.unwrap_or_default(),
        outputHash: completion.output_hash,
        timestamp: U40::saturating_from(completion.timestamp),
        salt: keccak256(&metered.signature),
    }
}

/// Stores completion, receipt and the order's state `completed` together. Idempotent by settlement id and by order id:
/// an order has one answer and an inference is charged once; nothing is written unless the result is `New`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn insert_matched(
    tx: &mut WriteTx,
    completion: &Completion,
    metered: &Metered,
    order_id: B256,
    now_ms: i64,
) -> Result<Matched> {
    let Some(order) = orders::get(&mut **tx, order_id).await? else {
        return Err(Error::Corrupt { table: "orders", what: format!("no order {order_id} for a completion") });
    };
    let found = sqlx::query("SELECT settlement_id, order_id FROM receipts WHERE settlement_id = $1 OR order_id = $2")
        .bind(completion.settlement_id.to_vec())
        .bind(order_id.to_vec())
        .fetch_all(&mut **tx)
        .await?;
    let mut other = None;
    for row in &found {
        let settlement_id = b256("receipts", &row.try_get::<Vec<u8>, _>("settlement_id")?)?;
        let of_order = b256("receipts", &row.try_get::<Vec<u8>, _>("order_id")?)?;
        match (settlement_id == completion.settlement_id, of_order == order_id) {
            (true, true) => return Ok(Matched::Known),
            (true, false) => return Ok(Matched::Replayed { order_id: of_order }),
            (false, _) => other = Some(Matched::Answered { settlement_id }),
        }
    }
    if let Some(other) = other {
        return Ok(other);
    }
    if !matches!(order.state, OrderState::Open | OrderState::Dispatched) {
        return Ok(Matched::Closed { state: order.state });
    }
    let private = order.blinding.is_none_or(|blinding| blinding != B256::ZERO);
    put(tx, completion, Some((order_id, metered)), private, now_ms).await?;
    let receipt = receipt(&order, completion, metered);
    sqlx::query(
        "INSERT INTO receipts (settlement_id, order_id, payer, token, node_id, amount, receipt_hash, state, path, delivered,
         deliver_attempts, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, 'matched', $8, 0, 0, $9)",
    )
    .bind(completion.settlement_id.to_vec())
    .bind(order_id.to_vec())
    .bind(order.order.payer.to_vec())
    .bind(order.order.token.to_vec())
    .bind(completion.node_id.to_vec())
    .bind(metered.amount.to_string())
    .bind(receipt_hash(&receipt).to_vec())
    // An order that names no keeper can only be settled verified.
    .bind(if order.order.keeperId == B256::ZERO { "verified" } else { "batch" })
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    let from = [OrderState::Open, OrderState::Dispatched];
    orders::set_state(tx, order_id, &from, OrderState::Completed, None).await?;
    Ok(Matched::New)
}

/// Stores a completion whose order is not known yet, or that will not be charged. False when it was known.
///
/// # Errors
/// `store_failed`.
pub async fn insert_verified(
    tx: &mut WriteTx,
    completion: &Completion,
    metered: Option<&Metered>,
    now_ms: i64,
) -> Result<bool> {
    let known = get(&mut **tx, completion.settlement_id).await?.is_some();
    if !known {
        // Whether its order is private is not known yet, so it is not published before it is matched.
        let order_id = completion.order_id.unwrap_or_default();
        match metered {
            Some(metered) => put(tx, completion, Some((order_id, metered)), true, now_ms).await?,
            None => put(tx, completion, None, true, now_ms).await?,
        }
        sqlx::query("UPDATE completions SET state = 'verified', order_id = $2 WHERE settlement_id = $1")
            .bind(completion.settlement_id.to_vec())
            .bind(completion.order_id.map(|id| id.to_vec()))
            .execute(&mut **tx)
            .await?;
    }
    Ok(!known)
}

/// Stores an inference that will not be charged because its order was answered by another one: proof without payment.
/// False when it was known.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn insert_orphan(tx: &mut WriteTx, completion: &Completion, private: bool, now_ms: i64) -> Result<bool> {
    if get(&mut **tx, completion.settlement_id).await?.is_some() {
        return Ok(false);
    }
    // The text is kept only for what is delivered to somebody.
    let bare = Completion { output: None, response: None, ..completion.clone() };
    put(tx, &bare, None, private, now_ms).await?;
    sqlx::query("UPDATE completions SET state = 'orphaned' WHERE settlement_id = $1")
        .bind(completion.settlement_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(true)
}

/// Writes a completion as matched; one that was stored as verified before is completed with what it lacked.
async fn put(
    tx: &mut WriteTx,
    completion: &Completion,
    matched: Option<(B256, &Metered)>,
    private: bool,
    now_ms: i64,
) -> Result<()> {
    let metered = matched.map(|(_, metered)| metered);
    let card = metered.and_then(|metered| metered.card.as_ref());
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO completions (settlement_id, order_id, node_id, node_version, request_hash, output_hash, timestamp,
         signature, output, response, meter_signature, meter_offset, amount, input_tokens, output_tokens, input_rate,
         output_rate, rate_card, state, record_state, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 'matched', $19, $20)
         ON CONFLICT (settlement_id) DO UPDATE SET order_id = excluded.order_id, node_version = excluded.node_version,
         output = COALESCE(excluded.output, completions.output), response = COALESCE(excluded.response, completions.response),
         meter_signature = excluded.meter_signature, meter_offset = excluded.meter_offset, amount = excluded.amount,
         input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, input_rate = excluded.input_rate,
         output_rate = excluded.output_rate, rate_card = excluded.rate_card, state = excluded.state,
         record_state = CASE WHEN completions.record_state IN ('private', 'due') THEN excluded.record_state
         ELSE completions.record_state END",
    )
    .bind(completion.settlement_id.to_vec())
    .bind(matched.map(|(id, _)| id.to_vec()))
    .bind(completion.node_id.to_vec())
    .bind(i64::from(completion.node_version))
    .bind(completion.request_hash.to_vec())
    .bind(completion.output_hash.to_vec())
    .bind(count(completion.timestamp))
    .bind(completion.signature.clone())
    .bind(completion.output.clone())
    .bind(completion.response.clone())
    .bind(metered.map(|metered| metered.signature.clone()))
    .bind(metered.map(|metered| metered.offset.to_string()))
    .bind(metered.map(|metered| metered.amount.to_string()))
    .bind(completion.usage.map(|usage| count(usage.input)))
    .bind(completion.usage.map(|usage| count(usage.output)))
    .bind(card.map(|card| card.input.to_string()))
    .bind(card.map(|card| card.output.to_string()))
    .bind(card.map(|card| card.version.clone()))
    .bind(if private { RecordState::Private } else { RecordState::Due }.as_str())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A completion, `None` when unknown.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get<'c>(db: impl Executor<'c, Database = Any>, settlement_id: B256) -> Result<Option<CompletionRow>> {
    sqlx::query("SELECT * FROM completions WHERE settlement_id = $1")
        .bind(settlement_id.to_vec())
        .fetch_optional(db)
        .await?
        .as_ref()
        .map(completion_row)
        .transpose()
}

/// The answer that an order is matched with.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_order<'c>(db: impl Executor<'c, Database = Any>, order_id: B256) -> Result<Option<CompletionRow>> {
    sqlx::query(
        "SELECT c.* FROM receipts r JOIN completions c ON c.settlement_id = r.settlement_id WHERE r.order_id = $1",
    )
    .bind(order_id.to_vec())
    .fetch_optional(db)
    .await?
    .as_ref()
    .map(completion_row)
    .transpose()
}

/// Verified completions that wait for this order: they name it, or they name none and answer its request.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn waiting_for<'c>(
    db: impl Executor<'c, Database = Any>,
    order_id: B256,
    request_hash: B256,
) -> Result<Vec<CompletionRow>> {
    let rows = sqlx::query(
        "SELECT * FROM completions WHERE request_hash = $2 AND state = 'verified' AND (order_id = $1 OR order_id IS NULL)
         ORDER BY created_ms LIMIT 16",
    )
    .bind(order_id.to_vec())
    .bind(request_hash.to_vec())
    .fetch_all(db)
    .await?;
    rows.iter().map(completion_row).collect()
}

/// Reads a row of `completions` with all its columns.
///
/// # Errors
/// `store_corrupt` for what no version wrote.
pub fn completion_row(row: &AnyRow) -> Result<CompletionRow> {
    const T: &str = "completions";
    let hash = |column: &'static str| -> Result<B256> { b256(T, &row.try_get::<Vec<u8>, _>(column)?) };
    let optional = |column: &'static str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(column)?.map(|bytes| b256(T, &bytes)).transpose()
    };
    let number = |column: &'static str| -> Result<u64> {
        let value: i64 = row.try_get(column)?;
        u64::try_from(value).map_err(|_| Error::Corrupt { table: T, what: format!("{column} {value}") })
    };
    let amount = |column: &'static str| -> Result<Option<u128>> {
        row.try_get::<Option<String>, _>(column)?.map(|text| units(T, &text)).transpose()
    };
    let tokens = |column: &'static str| -> Result<Option<u64>> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(|value| u64::try_from(value).unwrap_or(0)))
    };
    let card = match (amount("input_rate")?, amount("output_rate")?, row.try_get("rate_card")?) {
        (Some(input), Some(output), Some(version)) => Some(Rates { input, output, version }),
        _ => None,
    };
    let metered = match (row.try_get("meter_signature")?, amount("meter_offset")?, amount("amount")?) {
        (Some(signature), Some(offset), Some(amount)) => Some(Metered { signature, offset, amount, card }),
        _ => None,
    };
    Ok(CompletionRow {
        completion: Completion {
            settlement_id: hash("settlement_id")?,
            order_id: optional("order_id")?,
            node_id: hash("node_id")?,
            node_version: u32::try_from(number("node_version")?)
                .map_err(|_| Error::Corrupt { table: T, what: "node_version".to_owned() })?,
            request_hash: hash("request_hash")?,
            output_hash: hash("output_hash")?,
            timestamp: number("timestamp")?,
            signature: row.try_get("signature")?,
            output: row.try_get("output")?,
            response: row.try_get("response")?,
            usage: match (tokens("input_tokens")?, tokens("output_tokens")?) {
                (Some(input), Some(output)) => Some(Usage { input, output }),
                _ => None,
            },
        },
        metered,
        state: CompletionState::parse(&row.try_get::<String, _>("state")?)?,
        record_state: RecordState::parse(&row.try_get::<String, _>("record_state")?)?,
        recorded: match (optional("og_tx_hash")?, row.try_get::<Option<i64>, _>("og_block")?) {
            (Some(hash), Some(block)) => Some((hash, u64::try_from(block).unwrap_or(0))),
            _ => None,
        },
        created_ms: row.try_get("created_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::accounts::{self, Lane};
    use crate::store::orders::tests::{KEEPER, PAYER, TOKEN, order, signed, store};

    fn completion(seed: u8, order_id: Option<B256>) -> Completion {
        Completion {
            settlement_id: B256::repeat_byte(seed),
            order_id,
            node_id: B256::repeat_byte(0xAA),
            node_version: 1,
            request_hash: B256::repeat_byte(7),
            output_hash: B256::repeat_byte(8),
            timestamp: 1_000,
            signature: vec![1; 256],
            output: Some(b"Paris.".to_vec()),
            response: None,
            usage: Some(Usage { input: 5, output: 6 }),
        }
    }

    fn metered() -> Metered {
        let card = Some(Rates { input: 1, output: 2, version: "v1".to_owned() });
        Metered { signature: vec![2; 65], offset: 0, amount: u128::MAX, card }
    }

    async fn open(store: &Store, id: B256, nonce: u64, blinding: B256) {
        let order = order(nonce);
        let mut tx = store.write().await.unwrap();
        assert!(accounts::reserve(&mut tx, id, PAYER, TOKEN, KEEPER, 10, 100).await.unwrap());
        assert!(orders::insert_signed(&mut tx, &signed(id, &order, blinding), "me", 10, (0, 1)).await.unwrap());
        tx.commit().await.unwrap();
    }

    async fn insert(store: &Store, completion: &Completion, order_id: B256) -> Matched {
        let mut tx = store.write().await.unwrap();
        let matched = insert_matched(&mut tx, completion, &metered(), order_id, 5).await.unwrap();
        tx.commit().await.unwrap();
        matched
    }

    #[tokio::test]
    async fn one_answer_per_order_and_one_order_per_inference() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let [a, b] = [1, 2].map(B256::repeat_byte);
        open(&store, a, 1, B256::ZERO).await;
        open(&store, b, 2, B256::repeat_byte(9)).await;
        let first = completion(0x10, None);
        assert_eq!(insert(&store, &first, a).await, Matched::New);
        assert_eq!(insert(&store, &first, a).await, Matched::Known);
        assert_eq!(insert(&store, &first, b).await, Matched::Replayed { order_id: a });
        let second = completion(0x11, None);
        assert_eq!(insert(&store, &second, a).await, Matched::Answered { settlement_id: first.settlement_id });
        assert_eq!(insert(&store, &second, b).await, Matched::New);
        let row = of_order(store.read(), a).await.unwrap().unwrap();
        assert_eq!(row.completion, Completion { order_id: Some(a), ..first.clone() });
        assert_eq!(row.metered, Some(metered()));
        assert_eq!((row.state, row.record_state), (CompletionState::Matched, RecordState::Due));
        let row = of_order(store.read(), b).await.unwrap().unwrap();
        assert_eq!(row.record_state, RecordState::Private, "a blinded order is never published singly");
        assert_eq!(orders::get(store.read(), a).await.unwrap().unwrap().state, OrderState::Completed);
    }

    #[tokio::test]
    async fn a_closed_order_takes_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let id = B256::repeat_byte(1);
        open(&store, id, 1, B256::ZERO).await;
        let mut tx = store.write().await.unwrap();
        assert!(orders::set_state(&mut tx, id, &[OrderState::Open], OrderState::Refused, Some("x")).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(accounts::lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap(), Lane::default());
        let closed = Matched::Closed { state: OrderState::Refused };
        assert_eq!(insert(&store, &completion(0x10, None), id).await, closed);
        assert!(get(store.read(), B256::repeat_byte(0x10)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_completion_waits_for_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let id = B256::repeat_byte(1);
        let early = completion(0x10, Some(id));
        let mut tx = store.write().await.unwrap();
        assert!(insert_verified(&mut tx, &early, None, 1).await.unwrap());
        assert!(!insert_verified(&mut tx, &early, None, 2).await.unwrap());
        assert!(insert_verified(&mut tx, &completion(0x11, None), Some(&metered()), 3).await.unwrap());
        assert!(insert_verified(&mut tx, &completion(0x12, Some(B256::repeat_byte(3))), None, 4).await.unwrap());
        tx.commit().await.unwrap();
        open(&store, id, 1, B256::ZERO).await;
        let waiting = waiting_for(store.read(), id, early.request_hash).await.unwrap();
        assert_eq!(
            waiting.iter().map(|row| row.completion.settlement_id.0[0]).collect::<Vec<_>>(),
            [0x10, 0x11],
            "those that name it and those that name none"
        );
        // The node's meter key has changed meanwhile: the receipt names the version whose key signs it.
        let renewed = Completion { node_version: 2, ..waiting[0].completion.clone() };
        assert_eq!(insert(&store, &renewed, id).await, Matched::New);
        let row = of_order(store.read(), id).await.unwrap().unwrap();
        assert_eq!(row.completion.node_version, 2);
        assert_eq!((row.state, row.record_state), (CompletionState::Matched, RecordState::Due));
    }
}
