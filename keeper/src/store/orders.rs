//! Orders that we serve: handed in, opened on-chain, claimed for dispatch, moved through their states.

use alloy::primitives::{B256, keccak256};
use quittance_bindings::typed::{Order, request_commit};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::{WriteTx, accounts};
use crate::error::{Error, Result};
use crate::types::{OrderRow, OrderState, address, b256, u256, units};

/// An order with its payer's signature and the request it pays for.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub order_id: B256,
    pub order: &'a Order,
    /// Payer's 65-byte signature; `None` only for an order that the chain holds.
    pub signature: Option<&'a [u8]>,
    pub blinding: B256,
    pub request_hash: B256,
    /// The request as handed in (JSON).
    pub request: &'a [u8],
}

/// Inserts an order with a known request, taken by the installation `owner`. `reserved` is what the caller reserved in the
/// lane for it, in token units; a dispatcher does not take it before `next_attempt_ms`. False when the order is known already; nothing changed then.
///
/// # Errors
/// `store_failed`.
pub async fn insert_signed(
    tx: &mut WriteTx,
    new: &Signed<'_>,
    owner: &str,
    reserved: u128,
    (next_attempt_ms, now_ms): (i64, i64),
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO orders (order_id, payer, token, max_amount, request_commit, node_scope, keeper_id, valid_after,
         valid_before, capture_deadline, nonce, signature, blinding, request_hash, request, state, held, reserved, attempts,
         next_attempt_ms, created_ms, updated_ms, owner)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'open', 0, $16, 0, $17, $18, $18, $19)
         ON CONFLICT (order_id) DO NOTHING",
    );
    let done = bind_order(done, new.order_id, new.order)
        .bind(new.signature.map(<[u8]>::to_vec))
        .bind(new.blinding.to_vec())
        .bind(new.request_hash.to_vec())
        .bind(new.request.to_vec())
        .bind(reserved.to_string())
        .bind(next_attempt_ms)
        .bind(now_ms)
        .bind(owner.to_owned())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Adds request, blinding and (when there was none) the payer's signature to an order that was opened on-chain without
/// a body. False when the request was known already.
///
/// # Errors
/// `store_failed`.
pub async fn attach_request(
    tx: &mut WriteTx,
    new: &Signed<'_>,
    owner: &str,
    (next_attempt_ms, now_ms): (i64, i64),
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE orders SET signature = COALESCE(signature, $2), blinding = $3, request_hash = $4, request = $5,
         next_attempt_ms = $6, updated_ms = $7, owner = $8 WHERE order_id = $1 AND request IS NULL AND state = 'open'",
    )
    .bind(new.order_id.to_vec())
    .bind(new.signature.map(<[u8]>::to_vec))
    .bind(new.blinding.to_vec())
    .bind(new.request_hash.to_vec())
    .bind(new.request.to_vec())
    .bind(next_attempt_ms)
    .bind(now_ms)
    .bind(owner.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Applies `OrderOpened`: the chain holds the maximum now, so a reservation in the lane is given back. `body` are the
/// canonical request bytes of a public order, empty when the event has none. An order that a reorganisation took away
/// (`reclaimed`, `refused`) and that is opened again is open again.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn upsert_opened(tx: &mut WriteTx, order_id: B256, order: &Order, body: &[u8], now_ms: i64) -> Result<()> {
    let hash = keccak256(body);
    // The contract checks this too; a body that does not match would make every answer worthless.
    let public = !body.is_empty() && request_commit(hash, B256::ZERO) == order.requestCommit;
    let done = sqlx::query(
        "INSERT INTO orders (order_id, payer, token, max_amount, request_commit, node_scope, keeper_id, valid_after,
         valid_before, capture_deadline, nonce, blinding, request_hash, request, state, held, reserved, attempts,
         next_attempt_ms, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'open', 1, '0', 0, 0, $15, $15)
         ON CONFLICT (order_id) DO NOTHING",
    );
    let done = bind_order(done, order_id, order)
        .bind(public.then(|| B256::ZERO.to_vec()))
        .bind(public.then(|| hash.to_vec()))
        .bind(public.then(|| body.to_vec()))
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        accounts::release(tx, order_id).await?;
        set_held(tx, order_id, true, now_ms).await?;
        set_state(tx, order_id, &[OrderState::Reclaimed], OrderState::Open, None).await?;
    }
    Ok(())
}

/// Notes whether the chain holds the maximum for an order.
///
/// # Errors
/// `store_failed`.
pub async fn set_held(tx: &mut WriteTx, order_id: B256, held: bool, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE orders SET held = $2, updated_ms = $3 WHERE order_id = $1")
        .bind(order_id.to_vec())
        .bind(i64::from(held))
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// An order, `None` when unknown.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn get<'c>(db: impl Executor<'c, Database = Any>, order_id: B256) -> Result<Option<OrderRow>> {
    sqlx::query("SELECT * FROM orders WHERE order_id = $1")
        .bind(order_id.to_vec())
        .fetch_optional(db)
        .await?
        .as_ref()
        .map(order_row)
        .transpose()
}

/// The oldest order that waits for an answer to a request.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn waiting_for_answer<'c>(
    db: impl Executor<'c, Database = Any>,
    request_hash: B256,
) -> Result<Option<OrderRow>> {
    sqlx::query(
        "SELECT * FROM orders WHERE request_hash = $1 AND state IN ('open', 'dispatched') ORDER BY created_ms LIMIT 1",
    )
    .bind(request_hash.to_vec())
    .fetch_optional(db)
    .await?
    .as_ref()
    .map(order_row)
    .transpose()
}

/// Another order of the same lane and nonce that was captured or may still be.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn nonce_holder<'c>(
    db: impl Executor<'c, Database = Any>,
    order_id: B256,
    order: &Order,
) -> Result<Option<B256>> {
    let row = sqlx::query(
        "SELECT order_id FROM orders WHERE payer = $1 AND token = $2 AND keeper_id = $3 AND nonce = $4 AND order_id <> $5
         AND state NOT IN ('expired', 'reclaimed', 'refused') LIMIT 1",
    )
    .bind(order.payer.to_vec())
    .bind(order.token.to_vec())
    .bind(order.keeperId.to_vec())
    .bind(order.nonce.to_be_bytes_vec())
    .bind(order_id.to_vec())
    .fetch_optional(db)
    .await?;
    row.map(|row| b256("orders", &row.try_get::<Vec<u8>, _>("order_id")?)).transpose()
}

/// Takes up to `limit` open orders whose request is known and whose time has come, oldest first, and moves each to
/// `dispatched` for the installation `owner`. A claim that is not renewed until `lease_ms` (unix milliseconds) is taken up
/// again.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn claim_dispatchable(
    tx: &mut WriteTx,
    owner: &str,
    limit: i64,
    now_ms: i64,
    lease_ms: i64,
) -> Result<Vec<OrderRow>> {
    let rows = sqlx::query(
        "SELECT * FROM orders WHERE state IN ('open', 'dispatched') AND request IS NOT NULL AND next_attempt_ms <= $1
         ORDER BY next_attempt_ms, created_ms LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut order = order_row(row)?;
        if claim(tx, order.order_id, owner, now_ms, lease_ms).await? {
            order.state = OrderState::Dispatched;
            order.attempts += 1;
            claimed.push(order);
        }
    }
    Ok(claimed)
}

/// Whether `claim_dispatchable` would find anything.
///
/// # Errors
/// `store_failed`.
pub async fn any_due<'c>(db: impl Executor<'c, Database = Any>, now_ms: i64) -> Result<bool> {
    let found = sqlx::query(
        "SELECT 1 AS found FROM orders WHERE state IN ('open', 'dispatched') AND request IS NOT NULL
         AND next_attempt_ms <= $1 LIMIT 1",
    )
    .bind(now_ms)
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

/// Claims one order as `claim_dispatchable` does; false when another has it.
///
/// # Errors
/// `store_failed`.
pub async fn claim(tx: &mut WriteTx, order_id: B256, owner: &str, now_ms: i64, lease_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE orders SET state = 'dispatched', attempts = attempts + 1, next_attempt_ms = $2, updated_ms = $3, owner = $4
         WHERE order_id = $1 AND state IN ('open', 'dispatched') AND request IS NOT NULL AND next_attempt_ms <= $3",
    )
    .bind(order_id.to_vec())
    .bind(lease_ms)
    .bind(now_ms)
    .bind(owner.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Claims an order that was admitted for its bearer and is kept from dispatchers until its `next_attempt_ms`.
///
/// # Errors
/// `store_failed`.
pub async fn claim_kept(tx: &mut WriteTx, order_id: B256, owner: &str, now_ms: i64, lease_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE orders SET state = 'dispatched', attempts = 1, next_attempt_ms = $2, updated_ms = $3, owner = $4
         WHERE order_id = $1 AND state = 'open' AND attempts = 0",
    )
    .bind(order_id.to_vec())
    .bind(lease_ms)
    .bind(now_ms)
    .bind(owner.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Opens what the installation `owner` had at nodes when it stopped, so that it is dispatched at once instead of after the
/// claim's lease. So is what was kept for a bearer that streams. An answer that still arrives is one of two; only one is ever
/// matched. Up to 1,000 of them: a statement over all would hold them all in memory; zero when none is left. What is due
/// already any dispatcher takes.
///
/// # Errors
/// `store_failed`.
pub async fn reopen_dispatched(tx: &mut WriteTx, owner: &str, now_ms: i64) -> Result<u64> {
    let done = sqlx::query(
        // What is looked up may be answered by another keeper before it is written: only the outer condition is looked at again.
        "UPDATE orders SET state = 'open', next_attempt_ms = $1, updated_ms = $1, owner = NULL
         WHERE order_id IN (SELECT order_id FROM orders WHERE request IS NOT NULL AND state IN ('open', 'dispatched')
         AND next_attempt_ms > $1 AND owner = $2 AND (state = 'dispatched' OR attempts = 0) LIMIT 1000)
         AND state IN ('open', 'dispatched') AND next_attempt_ms > $1 AND owner = $2",
    )
    .bind(now_ms)
    .bind(owner.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// Gives an order that `owner` claimed back after a round in which no node answered; it is tried again from `next_attempt_ms`
/// on.
///
/// # Errors
/// `store_failed`.
pub async fn put_back(
    tx: &mut WriteTx,
    (order_id, owner): (B256, &str),
    reason: &str,
    next_attempt_ms: i64,
    now_ms: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE orders SET state = 'open', reason = $2, next_attempt_ms = $3, updated_ms = $4, owner = NULL
         WHERE order_id = $1 AND state = 'dispatched' AND owner = $5",
    )
    .bind(order_id.to_vec())
    .bind(reason)
    .bind(next_attempt_ms)
    .bind(now_ms)
    .bind(owner.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves an order to `to` if it is in one of `from`; false when it is not (a lost race). What the order reserved in its
/// lane is given back as soon as it is captured or nobody will be paid for it, and reserved again when a reorganisation
/// undoes the capture.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn set_state(
    tx: &mut WriteTx,
    order_id: B256,
    from: &[OrderState],
    to: OrderState,
    reason: Option<&str>,
) -> Result<bool> {
    let Some(row) = get(&mut **tx, order_id).await? else { return Ok(false) };
    if !from.contains(&row.state) || !row.state.can_transition_to(to) {
        return Ok(false);
    }
    let done = sqlx::query("UPDATE orders SET state = $2, reason = $3 WHERE order_id = $1 AND state = $4")
        .bind(order_id.to_vec())
        .bind(to.as_str())
        .bind(reason.map(str::to_owned))
        .bind(row.state.as_str())
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    match to {
        OrderState::Open | OrderState::Dispatched | OrderState::Completed => {
            let undone = matches!(row.state, OrderState::Settled | OrderState::Reclaimed);
            if undone && !row.held && row.reserved == 0 {
                let order = &row.order;
                // The answer is out: the reservation must stand whatever the limit says.
                accounts::reserve(tx, order_id, order.payer, order.token, order.keeperId, order.maxAmount, u128::MAX)
                    .await?;
            }
        }
        _ => accounts::release(tx, order_id).await?,
    }
    Ok(true)
}

/// How many orders are in each state that is not terminal, for operators.
///
/// # Errors
/// `store_failed`.
pub async fn counts<'c>(db: impl Executor<'c, Database = Any>) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query(
        "SELECT CAST(state AS TEXT) AS state, COUNT(*) AS n FROM orders GROUP BY CAST(state AS TEXT) ORDER BY 1",
    )
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("state")?, row.try_get("n")?))).collect()
}

/// How many orders wait for an answer that they could get.
///
/// # Errors
/// `store_failed`.
pub async fn unanswered<'c>(db: impl Executor<'c, Database = Any>) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM orders WHERE state IN ('open', 'dispatched') AND request IS NOT NULL")
        .fetch_one(db)
        .await?)
}

type Query<'q> = sqlx::query::Query<'q, Any, <Any as sqlx::Database>::Arguments>;

fn bind_order<'q>(query: Query<'q>, order_id: B256, order: &Order) -> Query<'q> {
    query
        .bind(order_id.to_vec())
        .bind(order.payer.to_vec())
        .bind(order.token.to_vec())
        .bind(order.maxAmount.to_string())
        .bind(order.requestCommit.to_vec())
        .bind(order.nodeScope.to_vec())
        .bind(order.keeperId.to_vec())
        .bind(order.validAfter.to::<i64>())
        .bind(order.validBefore.to::<i64>())
        .bind(order.captureDeadline.to::<i64>())
        .bind(order.nonce.to_be_bytes_vec())
}

/// Reads a row of `orders` with all its columns.
///
/// # Errors
/// `store_corrupt` for what no version wrote.
pub fn order_row(row: &AnyRow) -> Result<OrderRow> {
    const T: &str = "orders";
    let hash = |column: &'static str| -> Result<B256> { b256(T, &row.try_get::<Vec<u8>, _>(column)?) };
    let optional = |column: &'static str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(column)?.map(|bytes| b256(T, &bytes)).transpose()
    };
    let time = |column: &'static str| {
        let value: i64 = row.try_get(column)?;
        value.try_into().map_err(|_| Error::Corrupt { table: T, what: format!("{column} {value}") })
    };
    Ok(OrderRow {
        order_id: hash("order_id")?,
        order: Order {
            payer: address(T, &row.try_get::<Vec<u8>, _>("payer")?)?,
            token: address(T, &row.try_get::<Vec<u8>, _>("token")?)?,
            maxAmount: units(T, &row.try_get::<String, _>("max_amount")?)?,
            requestCommit: hash("request_commit")?,
            nodeScope: hash("node_scope")?,
            keeperId: hash("keeper_id")?,
            validAfter: time("valid_after")?,
            validBefore: time("valid_before")?,
            captureDeadline: time("capture_deadline")?,
            nonce: u256(T, &row.try_get::<Vec<u8>, _>("nonce")?)?,
        },
        signature: row.try_get("signature")?,
        blinding: optional("blinding")?,
        request_hash: optional("request_hash")?,
        request: row.try_get("request")?,
        state: OrderState::parse(&row.try_get::<String, _>("state")?)?,
        reason: row.try_get("reason")?,
        held: row.try_get::<i64, _>("held")? != 0,
        reserved: units(T, &row.try_get::<String, _>("reserved")?)?,
        attempts: row.try_get("attempts")?,
        created_ms: row.try_get("created_ms")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::aliases::U40;
    use alloy::primitives::{Address, U256};

    use super::*;
    use crate::store::Store;

    pub(crate) const PAYER: Address = Address::repeat_byte(1);
    pub(crate) const TOKEN: Address = Address::repeat_byte(2);
    pub(crate) const KEEPER: B256 = B256::repeat_byte(3);

    pub(crate) async fn store(dir: &tempfile::TempDir) -> Store {
        crate::store::testing::open(dir).await
    }

    pub(crate) fn order(nonce: u64) -> Order {
        Order {
            payer: PAYER,
            token: TOKEN,
            maxAmount: 10,
            requestCommit: request_commit(keccak256("{}"), B256::ZERO),
            nodeScope: B256::ZERO,
            keeperId: KEEPER,
            validAfter: U40::from(1),
            validBefore: U40::from(2),
            captureDeadline: U40::from(3),
            nonce: U256::from(nonce),
        }
    }

    pub(crate) fn signed(order_id: B256, order: &Order, blinding: B256) -> Signed<'_> {
        let request_hash = B256::repeat_byte(7);
        Signed { order_id, order, signature: Some(&[5; 65]), blinding, request_hash, request: b"{}" }
    }

    async fn reserved(store: &Store) -> u128 {
        accounts::lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap().reserved
    }

    #[tokio::test]
    async fn claims_are_exclusive_leased_and_taken_up_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let id = B256::repeat_byte(1);
        let mut tx = store.write().await.unwrap();
        assert!(insert_signed(&mut tx, &signed(id, &order(1), B256::ZERO), "me", 0, (0, 5)).await.unwrap());
        assert!(!insert_signed(&mut tx, &signed(id, &order(1), B256::ZERO), "me", 0, (0, 6)).await.unwrap());
        let claimed = claim_dispatchable(&mut tx, "me", 10, 10, 100).await.unwrap();
        assert_eq!(claimed.len(), 1);
        assert_eq!(claimed[0].order, order(1));
        assert!(claim_dispatchable(&mut tx, "me", 10, 99, 200).await.unwrap().is_empty(), "another has it");
        assert_eq!(claim_dispatchable(&mut tx, "me", 10, 100, 200).await.unwrap().len(), 1, "the lease ran out");
        assert_eq!(reopen_dispatched(&mut tx, "other", 101).await.unwrap(), 0, "not another's");
        assert_eq!(reopen_dispatched(&mut tx, "me", 101).await.unwrap(), 1);
        assert_eq!(claim_dispatchable(&mut tx, "me", 10, 101, 300).await.unwrap().len(), 1);
        assert!(!put_back(&mut tx, (id, "other"), "no_node_answered", 500, 102).await.unwrap(), "not another's");
        assert!(put_back(&mut tx, (id, "me"), "no_node_answered", 500, 102).await.unwrap());
        assert!(claim_dispatchable(&mut tx, "me", 10, 499, 600).await.unwrap().is_empty(), "backing off");
        assert!(claim(&mut tx, id, "me", 500, 600).await.unwrap());
        tx.commit().await.unwrap();
        let row = get(store.read(), id).await.unwrap().unwrap();
        assert_eq!((row.attempts, row.reason.as_deref()), (4, Some("no_node_answered")));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_answered_while_it_is_taken_up_stays_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let id = B256::repeat_byte(1);
        let mut tx = store.write().await.unwrap();
        assert!(insert_signed(&mut tx, &signed(id, &order(1), B256::ZERO), "dead", 0, (0, 5)).await.unwrap());
        assert!(claim(&mut tx, id, "dead", 10, 1_000).await.unwrap());
        tx.commit().await.unwrap();

        // The answer is written and not committed yet when another keeper looks for what the dead one had.
        let mut tx = store.write().await.unwrap();
        let answered = set_state(&mut tx, id, &[OrderState::Dispatched], OrderState::Completed, None).await.unwrap();
        assert!(answered);
        let other = store.clone();
        let taken_up = tokio::spawn(async move {
            let mut tx = other.write().await.unwrap();
            let orders = reopen_dispatched(&mut tx, "dead", 20).await.unwrap();
            tx.commit().await.unwrap();
            orders
        });
        // The further it comes before the commit, the more it would miss.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        tx.commit().await.unwrap();
        assert_eq!(taken_up.await.unwrap(), 0);
        assert_eq!(get(store.read(), id).await.unwrap().unwrap().state, OrderState::Completed);
    }

    #[tokio::test]
    async fn an_opened_order_waits_for_its_request_unless_the_chain_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let [a, b] = [1, 2].map(B256::repeat_byte);
        let mut tx = store.write().await.unwrap();
        upsert_opened(&mut tx, a, &order(1), b"", 1).await.unwrap();
        assert!(claim_dispatchable(&mut tx, "me", 10, 10, 100).await.unwrap().is_empty());
        assert!(attach_request(&mut tx, &signed(a, &order(1), B256::ZERO), "me", (0, 2)).await.unwrap());
        assert!(!attach_request(&mut tx, &signed(a, &order(1), B256::ZERO), "me", (0, 3)).await.unwrap());
        upsert_opened(&mut tx, b, &order(2), b"{}", 4).await.unwrap();
        let claimed = claim_dispatchable(&mut tx, "me", 10, 10, 100).await.unwrap();
        assert_eq!(claimed.iter().map(|row| row.order_id).collect::<Vec<_>>(), [a, b]);
        assert!(claimed.iter().all(|row| row.held));
        assert_eq!(claimed[1].request_hash, Some(keccak256("{}")));
    }

    #[tokio::test]
    async fn reservations_follow_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let id = B256::repeat_byte(1);
        let mut tx = store.write().await.unwrap();
        assert!(accounts::reserve(&mut tx, id, PAYER, TOKEN, KEEPER, 10, 10).await.unwrap());
        insert_signed(&mut tx, &signed(id, &order(1), B256::ZERO), "me", 10, (0, 5)).await.unwrap();
        assert!(set_state(&mut tx, id, &[OrderState::Open], OrderState::Completed, None).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(reserved(&store).await, 10);
        let mut tx = store.write().await.unwrap();
        assert!(set_state(&mut tx, id, &[OrderState::Completed], OrderState::Settled, None).await.unwrap());
        assert!(!set_state(&mut tx, id, &[OrderState::Completed], OrderState::Settled, None).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(reserved(&store).await, 0, "the capture took it out of the lock");
        let mut tx = store.write().await.unwrap();
        assert!(set_state(&mut tx, id, &[OrderState::Settled], OrderState::Completed, None).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(reserved(&store).await, 10, "a reorganisation gave the lock back");
        let mut tx = store.write().await.unwrap();
        upsert_opened(&mut tx, id, &order(1), b"", 9).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(reserved(&store).await, 0, "the hold secures it");
        assert_eq!(get(store.read(), id).await.unwrap().unwrap().reserved, 0);
    }

    #[tokio::test]
    async fn a_live_order_keeps_its_nonce() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let [a, b] = [1, 2].map(B256::repeat_byte);
        let mut tx = store.write().await.unwrap();
        insert_signed(&mut tx, &signed(a, &order(1), B256::ZERO), "me", 0, (0, 5)).await.unwrap();
        assert_eq!(nonce_holder(&mut *tx, a, &order(1)).await.unwrap(), None);
        assert_eq!(nonce_holder(&mut *tx, b, &order(1)).await.unwrap(), Some(a));
        assert_eq!(nonce_holder(&mut *tx, b, &Order { keeperId: B256::ZERO, ..order(1) }).await.unwrap(), None);
        set_state(&mut tx, a, &[OrderState::Open], OrderState::Refused, None).await.unwrap();
        assert_eq!(nonce_holder(&mut *tx, b, &order(1)).await.unwrap(), None);
    }
}
