//! x402 payments: one row for what a payer signed, and how far its settlement has come.

use alloy::primitives::{Address, B256, U256};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::{column, number};
use super::txs::chain_column;
use super::{joins, usage};
use crate::error::{Error, Result};
use crate::types::{PaymentState, TxState, address, b256};

/// A payment that was verified, before it is stored.
#[derive(Clone, Debug)]
pub struct NewPayment {
    pub payment_id: B256,
    pub chain_id: u64,
    /// exact, upto, batch-settlement
    pub scheme: &'static str,
    /// eip3009, permit2, deposit, claim, settle, refund
    pub method: &'static str,
    pub x402_version: u8,
    pub payer: Option<Address>,
    pub receiver: Address,
    pub asset: Address,
    /// Token units: what was signed, and what is charged.
    pub max_amount: U256,
    pub amount: U256,
    pub resource: Option<String>,
    pub identifier: Option<String>,
    /// The facilitator request as it came.
    pub request: Vec<u8>,
    /// ABI encoding of the forwarder's calls; empty for what needs no transaction.
    pub calls: Vec<u8>,
    pub api_key: Option<B256>,
}

/// A payment as it is stored.
#[derive(Clone, Debug)]
pub struct Payment {
    pub new: NewPayment,
    pub state: PaymentState,
    pub is_final: bool,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// JSON object.
    pub extra: Option<String>,
    pub tx_id: Option<i64>,
    pub tx_hash: Option<B256>,
    pub block_number: Option<u64>,
    pub block_hash: Option<B256>,
    pub settlement_id: Option<B256>,
    pub joined: Option<String>,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub settled_ms: Option<i64>,
}

/// Where a payment was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub tx_hash: B256,
    pub block_number: u64,
    pub block_hash: B256,
}

/// Stores a payment; one that failed for good is stored anew. `None` when it was stored, else the payment that is there.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn insert(tx: &mut WriteTx, new: &NewPayment, now_ms: i64) -> Result<Option<Payment>> {
    let used = joins::reported(&new.request);
    let done = sqlx::query(
        "INSERT INTO payments (payment_id, chain_id, scheme, method, x402_version, payer, receiver, asset, max_amount, amount,
         resource, identifier, request, calls, api_key, usage, counted, state, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 'accepted', $18, $18)
         ON CONFLICT (payment_id) DO UPDATE SET x402_version = excluded.x402_version, payer = excluded.payer, receiver = excluded.receiver,
         max_amount = excluded.max_amount, amount = excluded.amount, resource = excluded.resource,
         identifier = excluded.identifier, request = excluded.request, calls = excluded.calls, api_key = excluded.api_key,
         usage = excluded.usage, counted = excluded.counted,
         state = 'accepted', reason = NULL, message = NULL, extra = NULL, tx_id = NULL, tx_hash = NULL,
         block_number = NULL, block_hash = NULL, approval = NULL, final = 0, updated_ms = excluded.updated_ms
         WHERE payments.state = 'failed' AND payments.final = 1",
    )
    .bind(new.payment_id.to_vec())
    .bind(chain_column(new.chain_id)?)
    .bind(new.scheme)
    .bind(new.method)
    .bind(i64::from(new.x402_version))
    .bind(new.payer.map(|payer| payer.to_vec()))
    .bind(new.receiver.to_vec())
    .bind(new.asset.to_vec())
    .bind(new.max_amount.to_string())
    .bind(new.amount.to_string())
    .bind(new.resource.clone())
    .bind(new.identifier.clone())
    .bind(new.request.clone())
    .bind(new.calls.clone())
    .bind(new.api_key.map(|key| key.to_vec()))
    .bind(used.as_ref().map(usage::written))
    .bind(used.as_ref().map(|_| 0_i64))
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(None);
    }
    let found = get(&mut **tx, new.payment_id).await?;
    let lost = || Error::Corrupt { table: "payments", what: format!("{} was not stored", new.payment_id) };
    Ok(Some(found.ok_or_else(lost)?))
}

/// One payment.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get<'c>(db: impl Executor<'c, Database = Any>, payment_id: B256) -> Result<Option<Payment>> {
    let row = sqlx::query("SELECT * FROM payments WHERE payment_id = $1")
        .bind(payment_id.to_vec())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Which settled payments.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub payer: Option<Address>,
    /// Settled from then on, and before then; unix milliseconds.
    pub from_ms: i64,
    pub to_ms: i64,
    /// Time and id of the last one on the page before.
    pub after: Option<(i64, B256)>,
    pub limit: i64,
}

/// Settled payments, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn settled<'c>(db: impl Executor<'c, Database = Any>, filter: &Filter) -> Result<Vec<Payment>> {
    let (after_ms, after_id) = filter.after.unwrap_or((i64::MIN, B256::ZERO));
    let rows = sqlx::query(
        "SELECT * FROM payments WHERE settled_ms IS NOT NULL AND state = 'settled' AND settled_ms >= $1 AND settled_ms < $2
         AND (CAST($3 AS BIGINT) = 0 OR payer = $4) AND (settled_ms > $5 OR (settled_ms = $5 AND payment_id > $6))
         ORDER BY settled_ms, payment_id LIMIT $7",
    )
    .bind(filter.from_ms)
    .bind(filter.to_ms)
    .bind(i64::from(filter.payer.is_some()))
    .bind(filter.payer.unwrap_or_default().to_vec())
    .bind(after_ms)
    .bind(after_id.to_vec())
    .bind(filter.limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Payments that wait for a transaction, oldest first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn to_send<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64, limit: i64) -> Result<Vec<Payment>> {
    let rows = sqlx::query(
        "SELECT * FROM payments WHERE chain_id = $1 AND state = 'accepted' ORDER BY created_ms, payment_id LIMIT $2",
    )
    .bind(chain_column(chain_id)?)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// A transaction that payments are in, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    pub tx_id: i64,
    pub state: TxState,
    /// From the canonical receipt.
    pub tx_hash: Option<B256>,
    /// It is in the block that the payments got their result from.
    pub stands: bool,
}

/// Transactions that carry payments without a result and are included or at their end.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn carriers_to_read<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64) -> Result<Vec<Carrier>> {
    let rows = sqlx::query(
        "SELECT DISTINCT t.tx_id, t.state, t.tx_hash, CAST(0 AS BIGINT) AS stands FROM payments p JOIN txs t ON t.tx_id = p.tx_id
         WHERE p.chain_id = $1 AND p.state = 'queued' AND t.state IN ('included', 'done', 'failed', 'quarantined', 'obsolete')",
    )
    .bind(chain_column(chain_id)?)
    .fetch_all(db)
    .await?;
    rows.iter().map(carrier).collect()
}

/// Transactions of payments with a result that are final, or whose block is gone.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn carriers_to_close<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64) -> Result<Vec<Carrier>> {
    let rows = sqlx::query(
        "SELECT DISTINCT t.tx_id, t.state, t.tx_hash,
         CAST(CASE WHEN t.block_hash = p.block_hash THEN 1 ELSE 0 END AS BIGINT) AS stands FROM payments p JOIN txs t ON t.tx_id = p.tx_id
         WHERE p.chain_id = $1 AND p.state IN ('settled', 'failed') AND p.final = 0
         AND (t.state <> 'included' OR t.block_hash <> p.block_hash)",
    )
    .bind(chain_column(chain_id)?)
    .fetch_all(db)
    .await?;
    rows.iter().map(carrier).collect()
}

fn carrier(row: &AnyRow) -> Result<Carrier> {
    Ok(Carrier {
        tx_id: row.try_get("tx_id")?,
        state: TxState::parse(&row.try_get::<String, _>("state")?)?,
        tx_hash: row.try_get::<Option<Vec<u8>>, _>("tx_hash")?.map(|hash| b256("txs", &hash)).transpose()?,
        stands: row.try_get::<i64, _>("stands")? != 0,
    })
}

/// Payments that wait for the result of a transaction.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn carried<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64, tx_id: i64) -> Result<Vec<Payment>> {
    let rows = sqlx::query(
        "SELECT * FROM payments WHERE chain_id = $1 AND tx_id = $2 AND state = 'queued' ORDER BY payment_id",
    )
    .bind(chain_column(chain_id)?)
    .bind(tx_id)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Puts a payment into a transaction. False when it is not waiting any more.
///
/// # Errors
/// `store_failed`.
pub async fn queue(tx: &mut WriteTx, payment_id: B256, tx_id: i64, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE payments SET state = 'queued', tx_id = $1, updated_ms = $2 WHERE payment_id = $3 AND state = 'accepted'",
    )
    .bind(tx_id)
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a payment out of a transaction that will never be: it waits again.
///
/// # Errors
/// `store_failed`.
pub async fn unqueue(tx: &mut WriteTx, payment_id: B256, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET state = 'accepted', tx_id = NULL, updated_ms = $1 WHERE payment_id = $2 AND state = 'queued'",
    )
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A payment that moved no money, and why. `from` is the state that it must be in; false when it is in another.
///
/// # Errors
/// `store_failed`.
pub async fn fail(
    tx: &mut WriteTx,
    payment_id: B256,
    from: PaymentState,
    (reason, message): (&str, &str),
    evidence: Option<Evidence>,
    now_ms: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE payments SET state = 'failed', reason = $1, message = $2, tx_hash = $3, block_number = $4, block_hash = $5,
         updated_ms = $6, final = $9 WHERE payment_id = $7 AND state = $8",
    )
    .bind(reason.to_owned())
    .bind(message.to_owned())
    .bind(evidence.map(|place| place.tx_hash.to_vec()))
    .bind(evidence.map(|place| column(place.block_number)).transpose()?)
    .bind(evidence.map(|place| place.block_hash.to_vec()))
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .bind(from.as_str())
    .bind(i64::from(evidence.is_none()))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What a payment came to.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Token units that moved.
    pub amount: U256,
    /// Member `extra` of the answer, a JSON object.
    pub extra: Option<String>,
    /// `None` for what needed no transaction; it is final then.
    pub evidence: Option<Evidence>,
}

/// A payment that is paid. False when it is neither waiting nor in a transaction.
///
/// # Errors
/// `store_failed`.
pub async fn settle(tx: &mut WriteTx, payment_id: B256, settled: &Settled, now_ms: i64) -> Result<bool> {
    let evidence = settled.evidence;
    let done = sqlx::query(
        "UPDATE payments SET state = 'settled', final = $1, amount = $2, extra = $3, tx_hash = $4, block_number = $5,
         block_hash = $6, reason = NULL, message = NULL, settled_ms = $7, updated_ms = $7
         WHERE payment_id = $8 AND state IN ('accepted', 'queued')",
    )
    .bind(i64::from(evidence.is_none()))
    .bind(settled.amount.to_string())
    .bind(settled.extra.clone())
    .bind(evidence.map(|place| place.tx_hash.to_vec()))
    .bind(evidence.map(|place| column(place.block_number)).transpose()?)
    .bind(evidence.map(|place| place.block_hash.to_vec()))
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The block of payments with a result is final.
///
/// # Errors
/// `store_failed`.
pub async fn close(tx: &mut WriteTx, chain_id: u64, tx_id: i64, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET final = 1, updated_ms = $1
         WHERE chain_id = $2 AND tx_id = $3 AND state IN ('settled', 'failed') AND final = 0",
    )
    .bind(now_ms)
    .bind(chain_column(chain_id)?)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The block that payments got their result in is gone: their transaction is on its way again.
///
/// # Errors
/// `store_failed`.
pub async fn reopen(tx: &mut WriteTx, chain_id: u64, tx_id: i64, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET state = 'queued', settled_ms = NULL, reason = NULL, message = NULL, block_number = NULL, block_hash = NULL, updated_ms = $1
         WHERE chain_id = $2 AND tx_id = $3 AND state IN ('settled', 'failed') AND final = 0",
    )
    .bind(now_ms)
    .bind(chain_column(chain_id)?)
    .bind(tx_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Hash of the newest envelope of a payment's transaction, as a caller may look it up; `None` before it was sent.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn sent_as<'c>(db: impl Executor<'c, Database = Any>, tx_id: i64) -> Result<Option<B256>> {
    let row = sqlx::query(
        "SELECT COALESCE(t.tx_hash, a.tx_hash) AS hash FROM attempts a JOIN txs t ON t.tx_id = a.tx_id
         WHERE a.tx_id = $1 AND a.broadcast_ms IS NOT NULL ORDER BY a.created_ms DESC LIMIT 1",
    )
    .bind(tx_id)
    .fetch_optional(db)
    .await?;
    row.map(|row| b256("attempts", &row.try_get::<Vec<u8>, _>("hash")?)).transpose()
}

pub(super) fn read(row: &AnyRow) -> Result<Payment> {
    const T: &str = "payments";
    let hash = |name: &'static str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(name)?.map(|bytes| b256(T, &bytes)).transpose()
    };
    let account = |name: &'static str| -> Result<Address> { address(T, &row.try_get::<Vec<u8>, _>(name)?) };
    let amount = |name: &'static str| -> Result<U256> {
        let text: String = row.try_get(name)?;
        U256::from_str_radix(&text, 10).map_err(|_| Error::Corrupt { table: T, what: format!("amount {text:?}") })
    };
    let one_of = |name: &'static str, known: &[&'static str]| -> Result<&'static str> {
        let text: String = row.try_get(name)?;
        let found = known.iter().find(|known| **known == text);
        found.copied().ok_or_else(|| Error::Corrupt { table: T, what: format!("{name} {text:?}") })
    };
    Ok(Payment {
        new: NewPayment {
            payment_id: b256(T, &row.try_get::<Vec<u8>, _>("payment_id")?)?,
            chain_id: number(row, "chain_id")?,
            scheme: one_of("scheme", &["exact", "upto", "batch-settlement"])?,
            method: one_of("method", &["eip3009", "permit2", "deposit", "claim", "settle", "refund"])?,
            x402_version: if row.try_get::<i64, _>("x402_version")? == 1 { 1 } else { 2 },
            payer: row.try_get::<Option<Vec<u8>>, _>("payer")?.map(|bytes| address(T, &bytes)).transpose()?,
            receiver: account("receiver")?,
            asset: account("asset")?,
            max_amount: amount("max_amount")?,
            amount: amount("amount")?,
            resource: row.try_get("resource")?,
            identifier: row.try_get("identifier")?,
            request: row.try_get("request")?,
            calls: row.try_get("calls")?,
            api_key: hash("api_key")?,
        },
        state: PaymentState::parse(&row.try_get::<String, _>("state")?)?,
        is_final: row.try_get::<i64, _>("final")? != 0,
        reason: row.try_get("reason")?,
        message: row.try_get("message")?,
        extra: row.try_get("extra")?,
        tx_id: row.try_get("tx_id")?,
        tx_hash: hash("tx_hash")?,
        block_number: row
            .try_get::<Option<i64>, _>("block_number")?
            .map(|_| number(row, "block_number"))
            .transpose()?,
        block_hash: hash("block_hash")?,
        settlement_id: hash("settlement_id")?,
        joined: row.try_get("joined")?,
        created_ms: row.try_get("created_ms")?,
        updated_ms: row.try_get("updated_ms")?,
        settled_ms: row.try_get("settled_ms")?,
    })
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Payments for tests.

    use super::*;

    /// A payment of 10 units from account 1 to account 2 for token 3.
    pub(crate) fn payment(id: u8) -> NewPayment {
        NewPayment {
            payment_id: B256::repeat_byte(id),
            chain_id: 8453,
            scheme: "exact",
            method: "eip3009",
            x402_version: 2,
            payer: Some(Address::repeat_byte(1)),
            receiver: Address::repeat_byte(2),
            asset: Address::repeat_byte(3),
            max_amount: U256::from(10),
            amount: U256::from(10),
            resource: Some("https://example.org/paid".to_owned()),
            identifier: None,
            request: b"{}".to_vec(),
            calls: vec![1, 2, 3],
            api_key: None,
        }
    }

    /// The same, settled by transaction 7 in block 8.
    pub(crate) fn settled(new: NewPayment) -> Payment {
        Payment {
            new,
            state: PaymentState::Settled,
            is_final: false,
            reason: None,
            message: None,
            extra: None,
            tx_id: Some(1),
            tx_hash: Some(B256::repeat_byte(7)),
            block_number: Some(8),
            block_hash: Some(B256::repeat_byte(9)),
            settlement_id: None,
            joined: None,
            created_ms: 1,
            updated_ms: 1,
            settled_ms: Some(1_795_300_000_999),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::payment;
    use super::*;
    use crate::store::Store;
    use crate::store::txs::{self, NewTx};

    async fn state(store: &Store, id: u8) -> PaymentState {
        get(store.read(), B256::repeat_byte(id)).await.unwrap().unwrap().state
    }

    async fn carrier_tx(store: &Store, intent: &str) -> i64 {
        let new = NewTx {
            chain_id: 8453,
            kind: "x402",
            intent_key: intent.to_owned(),
            target: Address::repeat_byte(9),
            calldata: Default::default(),
        };
        let mut tx = store.write().await.unwrap();
        let id = txs::enqueue(&mut tx, &new, 1).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    #[tokio::test]
    async fn is_stored_once_and_anew_only_when_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let new = payment(1);
        let mut tx = store.write().await.unwrap();
        assert!(insert(&mut tx, &new, 5).await.unwrap().is_none());
        let other = NewPayment { amount: U256::from(3), ..new.clone() };
        let there = insert(&mut tx, &other, 6).await.unwrap().unwrap();
        assert_eq!((there.new.amount, there.state), (U256::from(10), PaymentState::Accepted));
        assert!(fail(&mut tx, new.payment_id, PaymentState::Accepted, ("why", "what to do"), None, 7).await.unwrap());
        assert!(!fail(&mut tx, new.payment_id, PaymentState::Accepted, ("other", ""), None, 8).await.unwrap());
        assert!(insert(&mut tx, &other, 9).await.unwrap().is_none());
        tx.commit().await.unwrap();
        let row = get(store.read(), new.payment_id).await.unwrap().unwrap();
        assert_eq!((row.new.amount, row.state, row.reason), (U256::from(3), PaymentState::Accepted, None));
        assert_eq!(to_send(store.read(), 8453, 10).await.unwrap().len(), 1);
        assert!(to_send(store.read(), 1, 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn is_of_who_pays_it_now() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let mut tx = store.write().await.unwrap();
        // What is signed for Permit2 does not name its owner: two may sign the same.
        let other = NewPayment { payer: Some(Address::repeat_byte(9)), ..payment(1) };
        assert!(insert(&mut tx, &other, 1).await.unwrap().is_none());
        let because = ("why", "nothing moved");
        assert!(fail(&mut tx, other.payment_id, PaymentState::Accepted, because, None, 2).await.unwrap());
        assert!(insert(&mut tx, &payment(1), 3).await.unwrap().is_none());
        let found = get(&mut *tx, other.payment_id).await.unwrap().unwrap();
        assert_eq!(found.new.payer, payment(1).payer);
    }

    #[tokio::test]
    async fn follows_its_transaction_there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let tx_id = carrier_tx(&store, "x402:1").await;
        let mut tx = store.write().await.unwrap();
        for id in [1, 2] {
            assert!(insert(&mut tx, &payment(id), 5).await.unwrap().is_none());
            assert!(queue(&mut tx, B256::repeat_byte(id), tx_id, 6).await.unwrap());
            assert!(!queue(&mut tx, B256::repeat_byte(id), tx_id, 6).await.unwrap(), "it waits no more");
        }
        tx.commit().await.unwrap();
        assert!(carriers_to_read(store.read(), 8453).await.unwrap().is_empty(), "still queued");
        let place = txs::Inclusion {
            tx_hash: B256::repeat_byte(7),
            block_number: 8,
            block_hash: B256::repeat_byte(9),
            gas_used: 1,
            effective_price: 1,
            success: true,
        };
        let fee = crate::tx::fees::Fee { max_fee: 2, tip: 1 };
        let attempt = txs::Attempt {
            tx_hash: place.tx_hash,
            raw: Default::default(),
            fee,
            created_ms: 7,
            broadcast_ms: None,
            last_error: None,
        };
        let mut tx = store.write().await.unwrap();
        assert!(txs::allocate(&mut tx, tx_id, Address::repeat_byte(5), (0, 21_000), &attempt).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(sent_as(store.read(), tx_id).await.unwrap(), None, "nothing went out");
        let mut tx = store.write().await.unwrap();
        txs::mark_sent(&mut tx, tx_id, place.tx_hash, None, 8).await.unwrap();
        txs::include(&mut tx, tx_id, &place, 9).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(sent_as(store.read(), tx_id).await.unwrap(), Some(place.tx_hash));
        let found = carriers_to_read(store.read(), 8453).await.unwrap();
        assert_eq!(found, [Carrier { tx_id, state: TxState::Included, tx_hash: Some(place.tx_hash), stands: false }]);
        let evidence =
            Evidence { tx_hash: place.tx_hash, block_number: place.block_number, block_hash: place.block_hash };
        let settled = Settled { amount: U256::from(10), extra: None, evidence: Some(evidence) };
        let mut tx = store.write().await.unwrap();
        assert!(settle(&mut tx, B256::repeat_byte(1), &settled, 10).await.unwrap());
        assert!(!settle(&mut tx, B256::repeat_byte(1), &settled, 10).await.unwrap());
        let because = ("insufficient", "too little");
        let failed = fail(&mut tx, B256::repeat_byte(2), PaymentState::Queued, because, Some(evidence), 10).await;
        assert!(failed.unwrap());
        assert!(insert(&mut tx, &payment(2), 10).await.unwrap().is_some(), "its block may still go");
        tx.commit().await.unwrap();
        assert!(carriers_to_close(store.read(), 8453).await.unwrap().is_empty(), "included where it was");
        let mut tx = store.write().await.unwrap();
        txs::exclude(&mut tx, tx_id, 11).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(carriers_to_close(store.read(), 8453).await.unwrap()[0].state, TxState::Sent);
        let mut tx = store.write().await.unwrap();
        reopen(&mut tx, 8453, tx_id, 12).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(state(&store, 1).await, PaymentState::Queued);
        assert_eq!(state(&store, 2).await, PaymentState::Queued, "what failed there may not fail elsewhere");
        let mut tx = store.write().await.unwrap();
        txs::include(&mut tx, tx_id, &place, 13).await.unwrap();
        assert!(settle(&mut tx, B256::repeat_byte(1), &settled, 14).await.unwrap());
        txs::conclude(&mut tx, tx_id, true, 15).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(carriers_to_close(store.read(), 8453).await.unwrap()[0].state, TxState::Done);
        assert_eq!(carried(store.read(), 8453, tx_id).await.unwrap().len(), 1);
        let mut tx = store.write().await.unwrap();
        close(&mut tx, 8453, tx_id, 16).await.unwrap();
        tx.commit().await.unwrap();
        assert!(carriers_to_close(store.read(), 8453).await.unwrap().is_empty());
        assert!(get(store.read(), B256::repeat_byte(1)).await.unwrap().unwrap().is_final);
    }

    #[tokio::test]
    async fn waits_again_when_its_transaction_will_never_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let tx_id = carrier_tx(&store, "x402:1").await;
        let mut tx = store.write().await.unwrap();
        assert!(insert(&mut tx, &payment(1), 5).await.unwrap().is_none());
        assert!(queue(&mut tx, B256::repeat_byte(1), tx_id, 6).await.unwrap());
        txs::quarantine(&mut tx, tx_id, "reverts", 7).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(carriers_to_read(store.read(), 8453).await.unwrap()[0].state, TxState::Quarantined);
        assert_eq!(carried(store.read(), 8453, tx_id).await.unwrap().len(), 1);
        let mut tx = store.write().await.unwrap();
        unqueue(&mut tx, B256::repeat_byte(1), 8).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(state(&store, 1).await, PaymentState::Accepted);
    }
}
