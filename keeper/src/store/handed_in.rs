//! Completions that came over `/settle_data`: stored in numbers, known at once when they come again, and joined to whoever paid.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::{Address, B256};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::bulk::{Dialect, keys, query, runs};
use super::completions::Completion;
use super::{Store, WriteTx};
use crate::error::{Error, Result};
use crate::gateway::item::Kind;
use crate::types::{CompletionState, OrderState, RecordState, address, b256};

/// How sure it is who paid for an inference, surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It is matched with an order: charged for it under the node's Meter.
    Order,
    /// One open order asks for exactly this request.
    Request,
    /// The gateway names the payer, and one payment of that payer fits. Nobody signed it.
    Payer,
    /// One payment to the node's account was settled about then.
    Window,
}

impl Joined {
    /// The text in database, API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Request => "request",
            Self::Payer => "payer",
            Self::Window => "window",
        }
    }

    /// # Errors
    /// `store_corrupt` for a text that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let all = [Self::Order, Self::Request, Self::Payer, Self::Window];
        let unknown = || Error::Corrupt { table: "handed_in", what: format!("joined {text:?}") };
        all.into_iter().find(|joined| joined.as_str() == text).ok_or_else(unknown)
    }
}

/// A verified proof to store.
#[derive(Clone, Debug)]
pub struct NewHandedIn {
    pub completion: Completion,
    pub kind: Kind,
    pub payer: Option<Address>,
    pub api_key: Option<B256>,
    /// When to look for its payment first.
    pub next_ms: i64,
}

/// What is stored of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// It was stored before.
    pub known: bool,
    pub state: CompletionState,
    pub record: RecordState,
    pub joined: Option<Joined>,
    pub order_id: Option<B256>,
    pub payment_id: Option<B256>,
}

/// Orders of one request, as far as they matter here.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Some payer of this request wants privacy.
    private: bool,
    /// Open ones, and the first of them.
    open: u32,
    order_id: Option<B256>,
}

/// Stores proofs, each once, and tells of each what is stored. One that nobody asked privacy for is due for recording.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn take_all(tx: &mut WriteTx, all: &[&NewHandedIn], now_ms: i64) -> Result<Vec<Taken>> {
    let dialect = Dialect::of(tx);
    let mut seen = HashSet::new();
    let first: Vec<&NewHandedIn> =
        all.iter().copied().filter(|new| seen.insert(new.completion.settlement_id)).collect();
    let asked = asked(tx, dialect, &first).await?;
    let of = |new: &NewHandedIn| asked.get(&new.completion.request_hash).copied().unwrap_or_default();
    let mut fresh = HashSet::new();
    for run in runs(&first) {
        let mut insert = query(format!(
            "INSERT INTO completions (settlement_id, node_id, node_version, request_hash, output_hash, timestamp, signature, \
             state, record_state, created_ms) VALUES {} ON CONFLICT DO NOTHING RETURNING settlement_id",
            dialect.rows("(@, @, @, @, @, @, @, 'verified', @, @)", run.len())
        ));
        for new in run {
            let completion = &new.completion;
            let record = if of(new).private { RecordState::Private } else { RecordState::Due };
            insert = insert
                .bind(completion.settlement_id.to_vec())
                .bind(completion.node_id.to_vec())
                .bind(i64::from(completion.node_version))
                .bind(completion.request_hash.to_vec())
                .bind(completion.output_hash.to_vec())
                .bind(i64::try_from(completion.timestamp).unwrap_or(i64::MAX))
                .bind(completion.signature.clone())
                .bind(record.as_str())
                .bind(now_ms);
        }
        for row in insert.fetch_all(&mut **tx).await? {
            fresh.insert(b256("completions", &row.try_get::<Vec<u8>, _>("settlement_id")?)?);
        }
    }
    for new in first.iter().filter(|new| !fresh.contains(&new.completion.settlement_id) && !of(new).private) {
        publish(tx, new.completion.settlement_id).await?;
    }
    for run in runs(&first) {
        let mut insert = query(format!(
            "INSERT INTO handed_in (settlement_id, kind, payer, api_key, joined, order_id, next_ms, created_ms) VALUES {} \
             ON CONFLICT DO NOTHING",
            dialect.rows("(@, @, @, @, @, @, @, @)", run.len())
        ));
        for new in run {
            let asked = of(new);
            let order_id = asked.order_id.filter(|_| asked.open == 1);
            insert = insert
                .bind(new.completion.settlement_id.to_vec())
                .bind(new.kind.as_str())
                .bind(new.payer.map(|payer| payer.to_vec()))
                .bind(new.api_key.map(|key| key.to_vec()))
                .bind(order_id.map(|_| Joined::Request.as_str()))
                .bind(order_id.map(|id| id.to_vec()))
                .bind(new.next_ms)
                .bind(now_ms);
        }
        insert.execute(&mut **tx).await?;
    }
    let ids: Vec<B256> = first.iter().map(|new| new.completion.settlement_id).collect();
    let stored = stored(tx, dialect, &ids).await?;
    let mut told = HashSet::new();
    all.iter()
        .map(|new| {
            let id = new.completion.settlement_id;
            let missing = || Error::Corrupt { table: "completions", what: format!("{id} was not stored") };
            let taken = stored.get(&id).copied().ok_or_else(missing)?;
            Ok(Taken { known: !(fresh.contains(&id) && told.insert(id)), ..taken })
        })
        .collect()
}

/// Orders that ask for these requests.
async fn asked(tx: &mut WriteTx, dialect: Dialect, all: &[&NewHandedIn]) -> Result<HashMap<B256, Asked>> {
    const T: &str = "orders";
    let hashes: Vec<B256> = all.iter().map(|new| new.completion.request_hash).collect();
    let mut found: HashMap<B256, Asked> = HashMap::new();
    for run in keys(&hashes) {
        let mut select = query(format!(
            "SELECT order_id, request_hash, blinding, state FROM orders WHERE request_hash IN ({})",
            dialect.rows("@", run.len())
        ));
        for hash in &run {
            select = select.bind(hash.to_vec());
        }
        for row in select.fetch_all(&mut **tx).await? {
            let blinding: Option<Vec<u8>> = row.try_get("blinding")?;
            let blinding = blinding.map(|bytes| b256(T, &bytes)).transpose()?;
            let state = OrderState::parse(&row.try_get::<String, _>("state")?)?;
            let asked = found.entry(b256(T, &row.try_get::<Vec<u8>, _>("request_hash")?)?).or_default();
            asked.private |= blinding.is_none_or(|blinding| blinding != B256::ZERO);
            if matches!(state, OrderState::Open | OrderState::Dispatched) {
                asked.open += 1;
                asked.order_id = Some(b256(T, &row.try_get::<Vec<u8>, _>("order_id")?)?);
            }
        }
    }
    Ok(found)
}

/// A completion that came before without anybody saying that it may be recorded: the gateway says so now.
async fn publish(tx: &mut WriteTx, id: B256) -> Result<()> {
    sqlx::query(
        "UPDATE completions SET record_state = 'due' WHERE settlement_id = $1 AND record_state = 'private' \
         AND state IN ('verified', 'orphaned') AND order_id IS NULL",
    )
    .bind(id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

const COLUMNS: &str = "SELECT c.settlement_id, c.state, c.record_state, c.order_id AS named, r.order_id AS charged, h.joined, \
                       h.order_id, h.payment_id FROM completions c LEFT JOIN handed_in h ON h.settlement_id = c.settlement_id \
                       LEFT JOIN receipts r ON r.settlement_id = c.settlement_id";

async fn stored(tx: &mut WriteTx, dialect: Dialect, ids: &[B256]) -> Result<HashMap<B256, Taken>> {
    let mut found = HashMap::new();
    for run in keys(ids) {
        let mut select = query(format!("{COLUMNS} WHERE c.settlement_id IN ({})", dialect.rows("@", run.len())));
        for id in &run {
            select = select.bind(id.to_vec());
        }
        for row in select.fetch_all(&mut **tx).await? {
            found.insert(b256("completions", &row.try_get::<Vec<u8>, _>("settlement_id")?)?, taken(&row)?);
        }
    }
    Ok(found)
}

/// What is stored of one proof, handed in by a gateway or not; `None` when nothing is.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn find(store: &Store, id: B256) -> Result<Option<Taken>> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE c.settlement_id = $1"));
    sqlx::query(sql).bind(id.to_vec()).fetch_optional(store.read()).await?.as_ref().map(taken).transpose()
}

fn taken(row: &AnyRow) -> Result<Taken> {
    const T: &str = "handed_in";
    let id = |column: &str| -> Result<Option<B256>> {
        row.try_get::<Option<Vec<u8>>, _>(column)?.map(|bytes| b256(T, &bytes)).transpose()
    };
    let joined: Option<String> = row.try_get("joined")?;
    let joined = joined.as_deref().map(Joined::parse).transpose()?;
    let charged = id("charged")?;
    Ok(Taken {
        known: true,
        state: CompletionState::parse(&row.try_get::<String, _>("state")?)?,
        record: RecordState::parse(&row.try_get::<String, _>("record_state")?)?,
        joined: if charged.is_some() { Some(Joined::Order) } else { joined },
        order_id: match charged {
            Some(charged) => Some(charged),
            None => id("order_id")?.or(id("named")?),
        },
        payment_id: id("payment_id")?,
    })
}

/// A proof whose payment is looked for.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub settlement_id: B256,
    pub node_id: B256,
    pub payer: Option<Address>,
    pub joined: Option<Joined>,
    /// The order that it is charged to by now.
    pub charged: Option<B256>,
    pub looks: i64,
    pub created_ms: i64,
}

/// Proofs to look at now.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn waiting(store: &Store, now_ms: i64, limit: i64) -> Result<Vec<Waiting>> {
    const T: &str = "handed_in";
    let rows = sqlx::query(
        "SELECT h.settlement_id, c.node_id, h.payer, h.joined, r.order_id AS charged, h.looks, h.created_ms FROM handed_in h \
         JOIN completions c ON c.settlement_id = h.settlement_id LEFT JOIN receipts r ON r.settlement_id = h.settlement_id \
         WHERE h.next_ms IS NOT NULL AND h.next_ms <= $1 ORDER BY h.next_ms, h.settlement_id LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(store.read())
    .await?;
    rows.iter()
        .map(|row| {
            let payer: Option<Vec<u8>> = row.try_get("payer")?;
            let charged: Option<Vec<u8>> = row.try_get("charged")?;
            let joined: Option<String> = row.try_get("joined")?;
            Ok(Waiting {
                settlement_id: b256(T, &row.try_get::<Vec<u8>, _>("settlement_id")?)?,
                node_id: b256(T, &row.try_get::<Vec<u8>, _>("node_id")?)?,
                payer: payer.map(|bytes| address(T, &bytes)).transpose()?,
                joined: joined.as_deref().map(Joined::parse).transpose()?,
                charged: charged.map(|bytes| b256(T, &bytes)).transpose()?,
                looks: row.try_get("looks")?,
                created_ms: row.try_get("created_ms")?,
            })
        })
        .collect()
}

/// How a look at a proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub settlement_id: B256,
    pub joined: Option<Joined>,
    pub order_id: Option<B256>,
    pub payment_id: Option<B256>,
    /// Payments that fit.
    pub candidates: i64,
    /// When to look again; `None` for never.
    pub next_ms: Option<i64>,
}

/// Notes the end of a look. What is known already is kept when the look found nothing.
///
/// # Errors
/// `store_failed`.
pub async fn note(tx: &mut WriteTx, look: &Look) -> Result<()> {
    sqlx::query(
        "UPDATE handed_in SET joined = COALESCE($2, joined), order_id = COALESCE($3, order_id), \
         payment_id = COALESCE($4, payment_id), candidates = $5, looks = looks + 1, next_ms = $6 WHERE settlement_id = $1",
    )
    .bind(look.settlement_id.to_vec())
    .bind(look.joined.map(Joined::as_str))
    .bind(look.order_id.map(|id| id.to_vec()))
    .bind(look.payment_id.map(|id| id.to_vec()))
    .bind(look.candidates)
    .bind(look.next_ms)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Of these proofs, those that were handed in, with how sure their payment is and how many payments fitted.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn payments_of(store: &Store, ids: &[B256]) -> Result<BTreeMap<B256, (Option<Joined>, i64)>> {
    let mut found = BTreeMap::new();
    let mut db = store.read().acquire().await?;
    let dialect = Dialect::of(&db);
    for run in keys(ids) {
        let mut select = query(format!(
            "SELECT settlement_id, joined, candidates FROM handed_in WHERE settlement_id IN ({})",
            dialect.rows("@", run.len())
        ));
        for id in &run {
            select = select.bind(id.to_vec());
        }
        for row in select.fetch_all(&mut *db).await? {
            let joined: Option<String> = row.try_get("joined")?;
            let joined = joined.as_deref().map(Joined::parse).transpose()?;
            let id = b256("handed_in", &row.try_get::<Vec<u8>, _>("settlement_id")?)?;
            found.insert(id, (joined, row.try_get("candidates")?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::completions;
    use crate::store::orders::tests::{KEEPER, PAYER, TOKEN, order, signed};
    use crate::store::{accounts, orders};

    fn new(seed: u8, request: u8) -> NewHandedIn {
        let completion = Completion {
            settlement_id: B256::repeat_byte(seed),
            order_id: None,
            node_id: B256::repeat_byte(0xAA),
            node_version: 0,
            request_hash: B256::repeat_byte(request),
            output_hash: B256::repeat_byte(8),
            timestamp: 1_000,
            signature: vec![1; 256],
            output: None,
            response: None,
            usage: None,
        };
        NewHandedIn { completion, kind: Kind::Batch, payer: None, api_key: None, next_ms: 9 }
    }

    async fn take(store: &Store, all: &[NewHandedIn]) -> Vec<Taken> {
        let mut tx = store.write().await.unwrap();
        let taken = take_all(&mut tx, &all.iter().collect::<Vec<_>>(), 5).await.unwrap();
        tx.commit().await.unwrap();
        taken
    }

    /// An order of the request that `signed` gives its orders.
    async fn open(store: &Store, seed: u8, blinding: B256) {
        let (id, order) = (B256::repeat_byte(seed), order(u64::from(seed)));
        let mut tx = store.write().await.unwrap();
        assert!(accounts::reserve(&mut tx, id, PAYER, TOKEN, KEEPER, 10, 10_000).await.unwrap());
        assert!(orders::insert_signed(&mut tx, &signed(id, &order, blinding), "me", 10, (0, 1)).await.unwrap());
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn each_once_in_any_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let all: Vec<NewHandedIn> = (0..150).map(|n| new(n % 100, 1)).collect();
        let taken = take(&store, &all).await;
        assert_eq!(taken.iter().filter(|one| !one.known).count(), 100);
        assert!(taken[..100].iter().all(|one| !one.known) && taken[100..].iter().all(|one| one.known));
        assert!(taken.iter().all(|one| one.state == CompletionState::Verified && one.record == RecordState::Due));
        assert!(take(&store, &all[..70]).await.iter().all(|one| one.known));
        assert_eq!(waiting(&store, 9, 1_000).await.unwrap().len(), 100);
        assert!(waiting(&store, 8, 1_000).await.unwrap().is_empty());
        assert!(take(&store, &[]).await.is_empty());
        assert_eq!(find(&store, B256::repeat_byte(0xFE)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn orders_of_the_request_are_named_when_there_is_one_and_private_ones_respected() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let request = signed(B256::ZERO, &order(1), B256::ZERO).request_hash.0[0];
        open(&store, 0xA1, B256::ZERO).await;
        let [taken] = take(&store, &[new(1, request)]).await[..] else { panic!() };
        let named = (taken.joined, taken.order_id, taken.record);
        assert_eq!(named, (Some(Joined::Request), Some(B256::repeat_byte(0xA1)), RecordState::Due));
        open(&store, 0xA2, B256::repeat_byte(5)).await;
        let [taken] = take(&store, &[new(2, request)]).await[..] else { panic!() };
        assert_eq!((taken.joined, taken.order_id, taken.record), (None, None, RecordState::Private), "which of two?");
    }

    #[tokio::test]
    async fn what_waited_for_its_order_is_recorded_once_a_gateway_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let waits = new(1, 1);
        let mut tx = store.write().await.unwrap();
        assert!(completions::insert_verified(&mut tx, &waits.completion, None, 1).await.unwrap());
        tx.commit().await.unwrap();
        let before = find(&store, waits.completion.settlement_id).await.unwrap().unwrap();
        assert_eq!(before.record, RecordState::Private);
        let [taken] = take(&store, &[waits]).await[..] else { panic!() };
        assert_eq!((taken.known, taken.record), (true, RecordState::Due));
    }

    #[tokio::test]
    async fn a_look_that_finds_nothing_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        take(&store, &[new(1, 1)]).await;
        let id = B256::repeat_byte(1);
        let found = Look {
            settlement_id: id,
            joined: Some(Joined::Payer),
            order_id: None,
            payment_id: Some(B256::repeat_byte(7)),
            candidates: 1,
            next_ms: Some(20),
        };
        for look in [found, Look { joined: None, payment_id: None, candidates: 0, next_ms: None, ..found }] {
            let mut tx = store.write().await.unwrap();
            note(&mut tx, &look).await.unwrap();
            tx.commit().await.unwrap();
        }
        let kept = find(&store, id).await.unwrap().unwrap();
        assert_eq!((kept.joined, kept.payment_id), (Some(Joined::Payer), Some(B256::repeat_byte(7))));
        assert_eq!(
            payments_of(&store, &[id, B256::ZERO]).await.unwrap(),
            BTreeMap::from([(id, (Some(Joined::Payer), 0))])
        );
        assert!(waiting(&store, i64::MAX, 10).await.unwrap().is_empty());
    }
}
