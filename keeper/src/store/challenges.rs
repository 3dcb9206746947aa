//! Challenges against rows of any keeper's batch, and which batches were looked behind.

use alloy::primitives::{Address, U256};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::txs::chain_column;
use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::{address, units};

const EXCLUDED: &str = "SELECT leaf_row FROM challenges WHERE chain_batch_id = $1 \
                        AND state IN ('open', 'unproven', 'duplicate') ORDER BY leaf_row";

/// A challenge that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The ledger's number.
    pub chain_batch_id: i64,
    /// Number among captured rows.
    pub row: i64,
    pub challenger: Address,
    /// Unix seconds: last block time for an answer.
    pub deadline: i64,
    /// The answer that was queued last.
    pub answer_tx_id: Option<i64>,
    /// The resolution that was queued last.
    pub resolve_tx_id: Option<i64>,
}

impl Open {
    /// The transaction that was queued last.
    pub const fn last_tx(&self, act: Act) -> Option<i64> {
        match act {
            Act::Answer => self.answer_tx_id,
            Act::Resolve => self.resolve_tx_id,
        }
    }
}

/// What ends an open challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// With the receipt, in time.
    Answer,
    /// Without one, after it.
    Resolve,
}

impl Act {
    /// The kind of its transaction.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Resolve => "resolve",
        }
    }
}

/// How open challenges stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub all: i64,
    /// Against rows of the keeper that was asked about.
    pub ours: i64,
}

/// A row is challenged.
///
/// # Errors
/// `store_failed`.
pub async fn opened(tx: &mut WriteTx, open: &Open, unit: u128, bond: U256) -> Result<()> {
    sqlx::query(
        "INSERT INTO challenges (chain_batch_id, leaf_row, challenger, unit, bond, deadline, state)
         VALUES ($1, $2, $3, $4, $5, $6, 'open')",
    )
    .bind(open.chain_batch_id)
    .bind(open.row)
    .bind(open.challenger.to_vec())
    .bind(unit.to_string())
    .bind(bond.to_string())
    .bind(open.deadline)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A challenge never was: its block was taken back.
///
/// # Errors
/// `store_failed`.
pub async fn forget(tx: &mut WriteTx, chain_batch_id: i64, row: i64) -> Result<()> {
    sqlx::query("DELETE FROM challenges WHERE chain_batch_id = $1 AND leaf_row = $2")
        .bind(chain_batch_id)
        .bind(row)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Moves a challenge between open, answered, unproven and duplicate; without effect when it is not in the state `from`.
///
/// # Errors
/// `store_failed`.
pub async fn set_state(tx: &mut WriteTx, chain_batch_id: i64, row: i64, from: &str, to: &str) -> Result<()> {
    sqlx::query("UPDATE challenges SET state = $1 WHERE chain_batch_id = $2 AND leaf_row = $3 AND state = $4")
        .bind(to.to_owned())
        .bind(chain_batch_id)
        .bind(row)
        .bind(from.to_owned())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A row is void because its inference was paid elsewhere, challenged or not.
///
/// # Errors
/// `store_failed`.
pub async fn duplicate(tx: &mut WriteTx, chain_batch_id: i64, row: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO challenges (chain_batch_id, leaf_row, challenger, unit, bond, deadline, state)
         VALUES ($1, $2, $3, '0', '0', 0, 'duplicate')
         ON CONFLICT (chain_batch_id, leaf_row) DO UPDATE SET state = 'duplicate'",
    )
    .bind(chain_batch_id)
    .bind(row)
    .bind(Address::ZERO.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Undoes [`duplicate`]: a challenge is open again. One that was answered before is taken for open until its own event is undone
/// or seen again; answering it once more costs nothing, the simulation refuses it.
///
/// # Errors
/// `store_failed`.
pub async fn not_duplicate(tx: &mut WriteTx, chain_batch_id: i64, row: i64) -> Result<()> {
    for sql in [
        "DELETE FROM challenges WHERE chain_batch_id = $1 AND leaf_row = $2 AND state = 'duplicate' AND deadline = 0",
        "UPDATE challenges SET state = 'open' WHERE chain_batch_id = $1 AND leaf_row = $2 AND state = 'duplicate'",
    ] {
        sqlx::query(sql).bind(chain_batch_id).bind(row).execute(&mut **tx).await?;
    }
    Ok(())
}

/// What to do about an open challenge at `chain_time` (unix seconds): answer it while there is time; resolve it after that, if it is
/// one of `me`. Left out while that is under way, or was given up or put off after `retry_before_ms`; an answer that was put off
/// delays no resolution. Answers first, the most urgent first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn due(
    store: &Store,
    me: Address,
    chain_time: i64,
    retry_before_ms: i64,
    limit: i64,
) -> Result<Vec<(Act, Open)>> {
    let rows = sqlx::query(
        "SELECT c.* FROM challenges c
         LEFT JOIN txs t ON t.tx_id = CASE WHEN c.deadline >= $1 THEN c.answer_tx_id ELSE c.resolve_tx_id END
         WHERE c.state = 'open' AND (c.deadline >= $1 OR c.challenger = $3)
         AND (c.looked_ms <= $2 OR (c.deadline < $1 AND c.looked_ms <= c.deadline * 1000))
         AND (t.tx_id IS NULL OR (t.state IN ('quarantined', 'obsolete', 'failed') AND t.updated_ms <= $2))
         ORDER BY CASE WHEN c.deadline >= $1 THEN 0 ELSE 1 END, c.deadline LIMIT $4",
    )
    .bind(chain_time)
    .bind(retry_before_ms)
    .bind(me.to_vec())
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    let act = |open: &Open| if open.deadline >= chain_time { Act::Answer } else { Act::Resolve };
    rows.iter().map(|row| read(row).map(|open| (act(&open), open))).collect()
}

/// Nothing can be done about a challenge now: the next look is a retry after `looked_ms`. A receipt may be brought back from a
/// backup, an endpoint may answer again.
///
/// # Errors
/// `store_failed`.
pub async fn put_off(tx: &mut WriteTx, open: &Open, looked_ms: i64) -> Result<()> {
    sqlx::query("UPDATE challenges SET looked_ms = $1 WHERE chain_batch_id = $2 AND leaf_row = $3")
        .bind(looked_ms)
        .bind(open.chain_batch_id)
        .bind(open.row)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes the transaction that answers or resolves a challenge.
///
/// # Errors
/// `store_failed`.
pub async fn set_tx(tx: &mut WriteTx, act: Act, open: &Open, tx_id: i64) -> Result<()> {
    sqlx::query(match act {
        Act::Answer => "UPDATE challenges SET answer_tx_id = $1 WHERE chain_batch_id = $2 AND leaf_row = $3",
        Act::Resolve => "UPDATE challenges SET resolve_tx_id = $1 WHERE chain_batch_id = $2 AND leaf_row = $3",
    })
    .bind(tx_id)
    .bind(open.chain_batch_id)
    .bind(open.row)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Rows of a batch that were challenged or are void.
///
/// # Errors
/// `store_failed`.
pub async fn rows(store: &Store, chain_batch_id: i64) -> Result<Vec<i64>> {
    Ok(sqlx::query_scalar("SELECT leaf_row FROM challenges WHERE chain_batch_id = $1")
        .bind(chain_batch_id)
        .fetch_all(store.read())
        .await?)
}

/// Rows of a batch that its finalization must leave out: in dispute, or void.
///
/// # Errors
/// `store_failed`.
pub async fn excluded(store: &Store, chain_batch_id: i64) -> Result<Vec<i64>> {
    Ok(sqlx::query_scalar(EXCLUDED).bind(chain_batch_id).fetch_all(store.read()).await?)
}

/// The same inside a transaction that applies blocks.
///
/// # Errors
/// `store_failed`.
pub async fn unpaid(tx: &mut WriteTx, chain_batch_id: i64) -> Result<Vec<i64>> {
    Ok(sqlx::query_scalar(EXCLUDED).bind(chain_batch_id).fetch_all(&mut **tx).await?)
}

/// Open challenges in all, and against batches that this keeper settled.
///
/// # Errors
/// `store_failed`.
pub async fn count(store: &Store) -> Result<Count> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS everyone, COALESCE(SUM(CASE WHEN EXISTS
         (SELECT 1 FROM batches b WHERE b.chain_batch_id = c.chain_batch_id) THEN 1 ELSE 0 END), 0) AS ours
         FROM challenges c WHERE c.state = 'open'",
    )
    .fetch_one(store.read())
    .await?;
    Ok(Count { all: row.try_get("everyone")?, ours: row.try_get("ours")? })
}

/// Wei of a challenger's bonds that are out: challenges still open, and those that it has queued.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn at_stake(store: &Store, chain_id: u64, challenger: Address) -> Result<u128> {
    let open: Vec<String> = sqlx::query_scalar("SELECT bond FROM challenges WHERE state = 'open' AND challenger = $1")
        .bind(challenger.to_vec())
        .fetch_all(store.read())
        .await?;
    let queued: Vec<String> = sqlx::query_scalar(
        "SELECT value FROM txs WHERE chain_id = $1 AND state IN ('queued', 'signed', 'sent') AND kind = 'challenge'",
    )
    .bind(chain_column(chain_id)?)
    .fetch_all(store.read())
    .await?;
    open.iter().chain(&queued).try_fold(0, |sum: u128, bond| Ok(sum.saturating_add(units("challenges", bond)?)))
}

/// Batches on the ledger that nobody here has looked behind yet, settled at `since` (unix seconds) or later.
///
/// # Errors
/// `store_failed`.
pub async fn unwatched(store: &Store, ledger: Address, since: i64, limit: i64) -> Result<Vec<i64>> {
    let topics: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT e.topic1 FROM events e WHERE e.contract = $1 AND e.name = 'BatchSettled' AND e.timestamp >= $2
         AND NOT EXISTS (SELECT 1 FROM watched w WHERE w.batch_topic = e.topic1) ORDER BY e.seq LIMIT $3",
    )
    .bind(ledger.to_vec())
    .bind(since)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    Ok(topics.iter().map(|topic| U256::from_be_slice(topic).saturating_to()).collect())
}

/// A batch was looked behind; `finding` says what was found. False when another keeper on this database was first.
///
/// # Errors
/// `store_failed`.
pub async fn watched(tx: &mut WriteTx, chain_batch_id: i64, finding: &str, now_ms: i64) -> Result<bool> {
    let topic = U256::from(u64::try_from(chain_batch_id).unwrap_or_default()).to_be_bytes_vec();
    let done = sqlx::query(
        "INSERT INTO watched (batch_topic, finding, created_ms) VALUES ($1, $2, $3) ON CONFLICT (batch_topic) DO NOTHING",
    )
    .bind(topic)
    .bind(finding.to_owned())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<Open> {
    Ok(Open {
        chain_batch_id: row.try_get("chain_batch_id")?,
        row: row.try_get("leaf_row")?,
        challenger: address("challenges", &row.try_get::<Vec<u8>, _>("challenger")?)?,
        deadline: row.try_get("deadline")?,
        answer_tx_id: row.try_get("answer_tx_id")?,
        resolve_tx_id: row.try_get("resolve_tx_id")?,
    })
}
