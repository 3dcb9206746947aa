//! What the loops ask of the store every second finds its rows through an index that holds only rows that still wait for
//! something, or by a key: no query reads a whole table, so that none gets dearer with what was done before.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256, U256};
use quittance::config::Config;
use quittance::ctx::Ctx;
use quittance::store::apply::{self, Rules};
use quittance::store::leases::Lease;
use quittance::store::receipts::{Captured, Path};
use quittance::store::records::Due;
use quittance::store::{
    Store, batches, captures, challenges, closing, events, identifiers, intake, limits, operations, orders,
    publications, receipts, records, resources, searches, sponsored, steps, txs, usage,
};
use quittance::{chain::logs::Contract, finish, relay, settle};
use quittance_bindings::typed::Inference;
use sqlx::{AssertSqlSafe, Connection, Row};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const CHAIN: u64 = 84_532;

/// Every statement that sqlx tells of.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<BTreeSet<String>>>);

impl Visit for Statements {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    // The summary is the first words, and all of a statement that has no more.
    fn record_str(&mut self, field: &Field, value: &str) {
        if matches!(field.name(), "summary" | "db.statement") && !value.trim().ends_with('…') {
            self.0.lock().unwrap().insert(value.trim().to_owned());
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            event.record(&mut self.clone());
        }
    }
}

#[tokio::test]
async fn no_loop_reads_a_whole_table() {
    let statements = Statements::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(statements.clone())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("k.db").display());
    let store = Store::open(&url).await.unwrap();
    statements.0.lock().unwrap().clear();
    look(&store).await;
    let seen = statements.0.lock().unwrap().clone();
    assert!(seen.len() > 40, "{} statements", seen.len());

    let mut db = sqlx::AnyConnection::connect(&url).await.unwrap();
    let indexes = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'");
    let partial: BTreeSet<String> =
        indexes.fetch_all(&mut db).await.unwrap().iter().map(|row| row.get::<String, _>(0)).collect();
    let mut whole = Vec::new();
    for sql in seen.iter().filter(|sql| ["SELECT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb))) {
        for row in sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&mut db).await.unwrap() {
            let step: String = row.get("detail");
            if reads_all(&step, &partial) || leads_through_all(&step) || (brings_rows(sql) && walked(&step).is_some()) {
                whole.push(format!("{step}: {sql}"));
            }
        }
    }
    assert!(whole.is_empty(), "{}", whole.join("\n"));
}

/// The table that a step walks over, if it does: not the rows that the statement brings itself, as `v` or without a name.
fn walked(step: &str) -> Option<&str> {
    let rest = step.strip_prefix("SCAN ")?;
    let own = rest.starts_with("v ") || rest == "v" || rest.contains("CONSTANT ROW") || rest.ends_with("VALUES CLAUSE");
    (!own).then(|| rest.split(' ').next().unwrap_or_default())
}

/// Whether a step walks over all rows of a table that grows.
fn reads_all(step: &str, partial: &BTreeSet<String>) -> bool {
    let small = ["leases", "cursors", "blocks", "nodes", "node_versions", "limits"];
    let index = step.split(' ').next_back().unwrap_or_default();
    walked(step).is_some_and(|table| !small.contains(&table) && !partial.contains(index))
}

/// Whether a search takes all events of a name, of however many blocks. Only fees, of which there are few, are looked for so.
fn leads_through_all(step: &str) -> bool {
    step.contains("events_by_name (chain_id=? AND name=?)")
}

/// Whether a statement brings its rows or their keys, several of them, so that it has no reason to walk over any others.
fn brings_rows(sql: &str) -> bool {
    sql.contains("(VALUES") || sql.contains("IN (?, ?")
}

/// One round of every loop, as far as it asks the store.
async fn look(store: &Store) {
    let config: Config = toml::from_str(include_str!("../quittance.example.toml")).unwrap();
    let ctx = Ctx::new(config, store.clone()).unwrap();
    let (id, me) = (B256::repeat_byte(1), Address::repeat_byte(2));
    let mut role = Lease::new("plans", "me");
    assert!(role.hold(store, 0).await.unwrap());
    settle::tick(&ctx, &role).await.unwrap();
    relay::tick(&ctx, &role).await.unwrap();
    finish::sweep(&ctx, &role).await.unwrap();
    // The x402 facilitator: what a round asks besides its payments, and what a call asks.
    resources::to_list(store.read(), CHAIN, 10).await.unwrap();
    usage::to_count(store.read(), CHAIN, 10).await.unwrap();
    usage::since(store, 0, None).await.unwrap();
    identifiers::is_taken(store.read(), me, "identifier", id).await.unwrap();
    // Settlement: what its tick asks once there is a head.
    for path in [Path::Batch, Path::Verified] {
        receipts::matched(store, path, 0, 10).await.unwrap();
    }
    receipts::past_deadline(store, 0, 10).await.unwrap();
    receipts::verified_ended(store, 0, 10).await.unwrap();
    receipts::skipped(store, 0, 10).await.unwrap();
    receipts::deliverable(store, 0, 0, 10).await.unwrap();
    receipts::of_batch(store, 1).await.unwrap();
    receipts::of_order(store, id, id).await.unwrap();
    // Several at once: for one row SQLite plans otherwise.
    let ids: Vec<B256> = (1..=7).map(B256::repeat_byte).collect();
    batches::ended(store, 0).await.unwrap();
    batches::finalizable(store, 0, 0, 0).await.unwrap();
    closing::expired(store, 0, 10).await.unwrap();
    closing::reclaimable(store, 0, 0, 10).await.unwrap();
    // Recording, publishing, disputes, figures.
    records::due(store, 0, 10).await.unwrap();
    records::under_way(store, 1).await.unwrap();
    records::backlog(store).await.unwrap();
    publications::due(store, 0, 10).await.unwrap();
    challenges::due(store, me, 0, 0, 10).await.unwrap();
    challenges::count(store).await.unwrap();
    challenges::at_stake(store, CHAIN, me).await.unwrap();
    challenges::unwatched(store, me, 0, 10).await.unwrap();
    operations::unsettled(store).await.unwrap();
    operations::oldest_tx(store, CHAIN).await.unwrap();
    // Beside x402 payments.
    searches::open(store.read(), CHAIN, (0, 10)).await.unwrap();
    searches::not_final(store.read(), CHAIN, (0, 10)).await.unwrap();
    sponsored::open(store.read(), CHAIN, (0, 10)).await.unwrap();
    sponsored::has_open(store.read(), CHAIN, me).await.unwrap();
    sponsored::used(store.read(), CHAIN, me, 0).await.unwrap();
    sponsored::waiting(store.read(), id).await.unwrap();
    // Dispatch, intake, transactions, the watcher.
    orders::unanswered(store.read()).await.unwrap();
    orders::any_due(store.read(), 0).await.unwrap();
    orders::waiting_for_answer(store.read(), id).await.unwrap();
    let wanted: Vec<(Option<B256>, B256)> = ids.iter().map(|id| (Some(*id), *id)).collect();
    intake::find(store, &wanted).await.unwrap();
    let inference =
        Inference { nodeId: id, requestHash: id, outputHash: id, timestamp: U256::ZERO, signature: Default::default() };
    let due = |id: &B256| Due { settlement_id: *id, inference: inference.clone(), attempts: 0, created_ms: 0 };
    let due: Vec<Due> = ids.iter().map(due).collect();
    records::adopt(store, &due, 1).await.unwrap();
    txs::open(store.read(), CHAIN, me).await.unwrap();
    txs::queued(store.read(), CHAIN, "", 10).await.unwrap();
    txs::next_nonce(store.read(), CHAIN, me, 0).await.unwrap();
    txs::attempts(store.read(), 1).await.unwrap();
    events::last_seq(store.read(), CHAIN, me).await.unwrap();
    events::any_of_tx(store.read(), id).await.unwrap();
    steps::pull_back(store, [CHAIN, 1], 0, 0).await.unwrap();
    let mut tx = store.write().await.unwrap();
    orders::claim_dispatchable(&mut tx, "me", 10, 0, 0).await.unwrap();
    orders::reopen_dispatched(&mut tx, "me", 0).await.unwrap();
    records::give_back(&mut tx, 0, 0, 0).await.unwrap();
    records::recorded(&mut tx, &ids, (id, 1)).await.unwrap();
    batches::mark_submitted(&mut tx).await.unwrap();
    receipts::to_batch(&mut tx, &ids, 1).await.unwrap();
    let rows: Vec<_> = ids.iter().map(|order_id| Captured { order_id: *order_id, leaf_row: 1, fee: 1 }).collect();
    receipts::settled_in(&mut tx, 1, &rows).await.unwrap();
    captures::captured(&mut tx, &ids, 0).await.unwrap();
    captures::paid(&mut tx, &ids).await.unwrap();
    let nonces: Vec<_> = (1..=7).map(|n| (me, me, id, U256::from(n))).collect();
    captures::nonces_spent(&mut tx, &nonces).await.unwrap();
    limits::forget(&mut tx, 0).await.unwrap();
    events::prune_blocks(&mut tx, CHAIN, 1).await.unwrap();
    let rules = Rules {
        chain_id: CHAIN,
        keeper_id: id,
        tokens: Vec::new(),
        contracts: vec![(me, Contract::Ledger)],
        now_ms: 0,
    };
    apply::heads(&mut tx, &rules, 0, 1, 1).await.unwrap();
    tx.rollback().await.unwrap();
}
