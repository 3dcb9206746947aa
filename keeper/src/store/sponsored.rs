//! Gas money that was spent for x402 payers: one row for each permit that was sent along and each approval of a payer, so that limits
//! hold over restarts and nothing is given twice.

use alloy::primitives::{Address, B256, Bytes};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::events::{column, number};
use super::txs::chain_column;
use crate::error::Result;
use crate::types::{SponsoredState, address, b256};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Gas money to give.
#[derive(Clone, Debug)]
pub struct New {
    /// Payment id of a permit; hash of the payer's transaction of an approval.
    pub id: B256,
    pub chain_id: u64,
    pub payer: Address,
    /// What it costs at most.
    pub wei: u64,
    pub approval: Option<Raw>,
}

/// A payer's own transaction.
#[derive(Clone, Debug)]
pub struct Raw {
    pub raw: Bytes,
    pub nonce: u64,
    /// The transaction that brings its payer the gas money; `None` when it has enough.
    pub top_up: Option<i64>,
}

/// A payer's approval that is to be mined.
#[derive(Clone, Debug)]
pub struct Approval {
    /// Hash of the payer's transaction.
    pub id: B256,
    pub payer: Address,
    pub raw: Bytes,
    pub nonce: u64,
    pub state: SponsoredState,
    /// The transaction that brings the gas money.
    pub tx_id: Option<i64>,
    /// When it came into its state.
    pub updated_ms: i64,
}

/// Wei that were given on a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// To one payer within the last hour.
    pub payer_hour: u64,
    pub hour: u64,
    pub day: u64,
}

/// Holds other writers of a chain's gas money back until the end of the transaction, so that sums stay true.
///
/// # Errors
/// `store_failed`.
pub async fn lock(tx: &mut WriteTx, chain_id: u64, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO sponsors (chain_id, updated_ms) VALUES ($1, $2)
         ON CONFLICT (chain_id) DO UPDATE SET updated_ms = excluded.updated_ms",
    )
    .bind(chain_column(chain_id)?)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What was given lately.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn used<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    payer: Address,
    now_ms: i64,
) -> Result<Used> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(SUM(CASE WHEN payer = $1 AND created_ms > $2 THEN wei ELSE 0 END), 0) AS BIGINT) AS payer_hour,
         CAST(COALESCE(SUM(CASE WHEN created_ms > $2 THEN wei ELSE 0 END), 0) AS BIGINT) AS hour,
         CAST(COALESCE(SUM(wei), 0) AS BIGINT) AS day FROM sponsored WHERE chain_id = $3 AND created_ms > $4",
    )
    .bind(payer.to_vec())
    .bind(now_ms.saturating_sub(HOUR_MS))
    .bind(chain_column(chain_id)?)
    .bind(now_ms.saturating_sub(DAY_MS))
    .fetch_one(db)
    .await?;
    Ok(Used { payer_hour: number(&row, "payer_hour")?, hour: number(&row, "hour")?, day: number(&row, "day")? })
}

/// Stores what is given.
///
/// # Errors
/// `store_failed`, also for what was given before.
pub async fn insert(tx: &mut WriteTx, new: &New, now_ms: i64) -> Result<()> {
    let state = match &new.approval {
        None => SponsoredState::Done,
        Some(Raw { top_up: None, .. }) => SponsoredState::Sending,
        Some(_) => SponsoredState::Funding,
    };
    sqlx::query(
        "INSERT INTO sponsored (sponsored_id, chain_id, payer, wei, raw, nonce, tx_id, state, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
    )
    .bind(new.id.to_vec())
    .bind(chain_column(new.chain_id)?)
    .bind(new.payer.to_vec())
    .bind(column(new.wei)?)
    .bind(new.approval.as_ref().map(|approval| approval.raw.to_vec()))
    .bind(new.approval.as_ref().map(|approval| column(approval.nonce)).transpose()?)
    .bind(new.approval.as_ref().and_then(|approval| approval.top_up))
    .bind(state.as_str())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Whether and how far something was given.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn state<'c>(db: impl Executor<'c, Database = Any>, id: B256) -> Result<Option<SponsoredState>> {
    let text: Option<String> = sqlx::query_scalar("SELECT state FROM sponsored WHERE sponsored_id = $1")
        .bind(id.to_vec())
        .fetch_optional(db)
        .await?;
    text.as_deref().map(SponsoredState::parse).transpose()
}

/// Whether another approval of a payer is on its way. Both have the payer's next nonce, so that only one of them can be mined.
///
/// # Errors
/// `store_failed`.
pub async fn has_open<'c>(db: impl Executor<'c, Database = Any>, chain_id: u64, payer: Address) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(1 AS BIGINT) FROM sponsored WHERE chain_id = $1 AND state IN ('funding', 'sending') AND payer = $2 LIMIT 1",
    )
    .bind(chain_column(chain_id)?)
    .bind(payer.to_vec())
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

/// Approvals that are on their way, oldest first, without the first `skip`.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn open<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    (skip, limit): (i64, i64),
) -> Result<Vec<Approval>> {
    let rows = sqlx::query(
        "SELECT * FROM sponsored WHERE chain_id = $1 AND state IN ('funding', 'sending')
         ORDER BY created_ms, sponsored_id LIMIT $2 OFFSET $3",
    )
    .bind(chain_column(chain_id)?)
    .bind(limit)
    .bind(skip)
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &AnyRow) -> Result<Approval> {
    const T: &str = "sponsored";
    Ok(Approval {
        id: b256(T, &row.try_get::<Vec<u8>, _>("sponsored_id")?)?,
        payer: address(T, &row.try_get::<Vec<u8>, _>("payer")?)?,
        raw: row.try_get::<Vec<u8>, _>("raw")?.into(),
        nonce: number(row, "nonce")?,
        state: SponsoredState::parse(&row.try_get::<String, _>("state")?)?,
        tx_id: row.try_get("tx_id")?,
        updated_ms: row.try_get("updated_ms")?,
    })
}

/// Moves an approval on. False when it is not in that state any more.
///
/// # Errors
/// `store_failed`.
pub async fn step(tx: &mut WriteTx, id: B256, from: SponsoredState, to: SponsoredState, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE sponsored SET state = $1, updated_ms = $2 WHERE sponsored_id = $3 AND state = $4")
        .bind(to.as_str())
        .bind(now_ms)
        .bind(id.to_vec())
        .bind(from.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends an approval: the payments that wait for it. `None` when it is not in that state any more. Who is about to wait for it
/// holds the same lock: either its payment is among these, or it sees the end.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn end(
    tx: &mut WriteTx,
    (chain_id, id): (u64, B256),
    from: SponsoredState,
    to: SponsoredState,
    now_ms: i64,
) -> Result<Option<Vec<B256>>> {
    lock(tx, chain_id, now_ms).await?;
    if !step(tx, id, from, to, now_ms).await? {
        return Ok(None);
    }
    waiting(&mut **tx, id).await.map(Some)
}

/// A payment that was stored waits for its payer's approval before it is sent.
///
/// # Errors
/// `store_failed`.
pub async fn await_approval(tx: &mut WriteTx, payment_id: B256, approval: B256, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET state = 'approving', approval = $1, updated_ms = $2 WHERE payment_id = $3 AND state = 'accepted'",
    )
    .bind(approval.to_vec())
    .bind(now_ms)
    .bind(payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Payments that wait for an approval.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn waiting<'c>(db: impl Executor<'c, Database = Any>, approval: B256) -> Result<Vec<B256>> {
    let ids: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT payment_id FROM payments WHERE approval = $1 AND state = 'approving'")
            .bind(approval.to_vec())
            .fetch_all(db)
            .await?;
    ids.iter().map(|id| b256("payments", id)).collect()
}

/// A payment's approval is mined: it may be sent.
///
/// # Errors
/// `store_failed`.
pub async fn approved(tx: &mut WriteTx, payment_id: B256, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE payments SET state = 'accepted', updated_ms = $1 WHERE payment_id = $2 AND state = 'approving'",
    )
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
    use crate::types::PaymentState;

    const PAYER: Address = Address::repeat_byte(1);

    fn new(id: u8, payer: Address, wei: u64, top_up: Option<i64>) -> New {
        let approval = (id > 100).then(|| Raw { raw: vec![id].into(), nonce: 7, top_up });
        New { id: B256::repeat_byte(id), chain_id: 8453, payer, wei, approval }
    }

    #[tokio::test]
    async fn sums_by_payer_hour_and_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let now = 10 * DAY_MS;
        let mut tx = store.write().await.unwrap();
        lock(&mut tx, 8453, now).await.unwrap();
        lock(&mut tx, 8453, now).await.unwrap();
        insert(&mut tx, &new(1, PAYER, 5, None), now).await.unwrap();
        insert(&mut tx, &new(2, Address::repeat_byte(2), 7, None), now).await.unwrap();
        insert(&mut tx, &new(3, PAYER, 11, None), now - HOUR_MS).await.unwrap();
        insert(&mut tx, &new(4, PAYER, 13, None), now - DAY_MS).await.unwrap();
        tx.commit().await.unwrap();
        let found = used(store.read(), 8453, PAYER, now).await.unwrap();
        assert_eq!(found, Used { payer_hour: 5, hour: 12, day: 23 });
        assert_eq!(used(store.read(), 1, PAYER, now).await.unwrap(), Used::default());
        let mut tx = store.write().await.unwrap();
        assert!(insert(&mut tx, &new(1, PAYER, 5, None), now).await.is_err(), "once");
    }

    #[tokio::test]
    async fn payments_wait_for_their_approval() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let approval = B256::repeat_byte(101);
        let mut tx = store.write().await.unwrap();
        insert(&mut tx, &new(101, PAYER, 5, Some(3)), 1).await.unwrap();
        insert(&mut tx, &new(102, PAYER, 0, None), 2).await.unwrap();
        for id in [1, 2] {
            payments::insert(&mut tx, &payment(id), 1).await.unwrap();
        }
        await_approval(&mut tx, B256::repeat_byte(1), approval, 1).await.unwrap();
        tx.commit().await.unwrap();
        assert!(has_open(store.read(), 8453, PAYER).await.unwrap());
        assert!(!has_open(store.read(), 8453, Address::repeat_byte(2)).await.unwrap());
        let found = open(store.read(), 8453, (0, 9)).await.unwrap();
        assert_eq!(open(store.read(), 8453, (1, 9)).await.unwrap()[0].id, found[1].id);
        let states: Vec<_> = found.iter().map(|row| (row.state, row.tx_id, row.nonce)).collect();
        assert_eq!(states, [(SponsoredState::Funding, Some(3), 7), (SponsoredState::Sending, None, 7)]);
        assert_eq!(payments::to_send(store.read(), 8453, 9).await.unwrap().len(), 1);
        assert_eq!(waiting(store.read(), approval).await.unwrap(), [B256::repeat_byte(1)]);
        let mut tx = store.write().await.unwrap();
        assert!(step(&mut tx, approval, SponsoredState::Funding, SponsoredState::Sending, 3).await.unwrap());
        assert!(!step(&mut tx, approval, SponsoredState::Funding, SponsoredState::Sending, 3).await.unwrap());
        assert!(step(&mut tx, approval, SponsoredState::Sending, SponsoredState::Done, 4).await.unwrap());
        approved(&mut tx, B256::repeat_byte(1), 4).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(state(store.read(), approval).await.unwrap(), Some(SponsoredState::Done));
        assert_eq!(open(store.read(), 8453, (0, 9)).await.unwrap().len(), 1);
        let row = payments::get(store.read(), B256::repeat_byte(1)).await.unwrap().unwrap();
        assert_eq!(row.state, PaymentState::Accepted);
        assert!(waiting(store.read(), approval).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_comes_as_an_approval_ends_does_not_wait_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let approval = B256::repeat_byte(101);
        let mut tx = store.write().await.unwrap();
        insert(&mut tx, &new(101, PAYER, 5, None), 1).await.unwrap();
        tx.commit().await.unwrap();
        let mut comes = store.write().await.unwrap();
        payments::insert(&mut comes, &payment(1), 2).await.unwrap();
        lock(&mut comes, 8453, 2).await.unwrap();
        assert_eq!(state(&mut *comes, approval).await.unwrap(), Some(SponsoredState::Sending));
        await_approval(&mut comes, B256::repeat_byte(1), approval, 2).await.unwrap();
        let ends = tokio::spawn({
            let store = store.clone();
            async move {
                let mut tx = store.write().await.unwrap();
                let (from, to) = (SponsoredState::Sending, SponsoredState::Done);
                let waiting = end(&mut tx, (8453, approval), from, to, 3).await.unwrap();
                tx.commit().await.unwrap();
                waiting
            }
        });
        // Time for it to go ahead, if it does not wait.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        comes.commit().await.unwrap();
        assert_eq!(ends.await.unwrap(), Some(vec![B256::repeat_byte(1)]));
    }
}
