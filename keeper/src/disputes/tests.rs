//! Disputes against a store and an endpoint that answers what a test says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::SolEvent;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use quittance_bindings::ledger::SettlementLedger;
use quittance_bindings::typed::{Leaf, RAIL_ORDER, domain, leaf_hash, order_id, receipt_hash};
use serde_json::{Value, json};
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use super::answer::end;
use super::look_after;
use crate::chain::logs::{ChainLog, Contract, decode};
use crate::config::Config;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::settle::call;
use crate::store::batches::{self, Head};
use crate::store::challenges::{self, Open};
use crate::store::leases::Lease;
use crate::store::leases::testing::held;
use crate::store::receipts::Settleable;
use crate::store::receipts::fixtures::{Seed, seed, set_head, store};
use crate::store::{Store, events, operations, receipts};

const CHAIN: u64 = 84_532;
const NOW: i64 = 20_000;
const ME: Address = Address::repeat_byte(0x3e);
const OTHER: B256 = B256::repeat_byte(0x0e);

/// Inputs of transactions by hash; `None`: the endpoint fails.
type Inputs = Arc<Mutex<HashMap<B256, Option<Bytes>>>>;

/// An endpoint that knows transactions, and tells a window of an hour and a bond of 1,000 gwei.
async fn endpoint(ledger: Address) -> (String, Inputs) {
    let inputs = Inputs::default();
    let known = inputs.clone();
    let handler = move |Json(request): Json<Value>| async move {
        let result = match request["method"].as_str().unwrap() {
            "eth_call" if request["params"][0]["to"] == json!(ledger) => json!(B256::from(U256::from(3_600))),
            "eth_call" => json!(B256::from(U256::from(1_000_000_000_000_u64))),
            "eth_getTransactionByHash" => {
                let hash: B256 = request["params"][0].as_str().unwrap().parse().unwrap();
                match known.lock().unwrap().get(&hash).cloned().flatten() {
                    Some(input) => transaction(hash, ledger, &input),
                    None => return (StatusCode::BAD_GATEWAY, Json(Value::Null)),
                }
            }
            method => panic!("{method}"),
        };
        (StatusCode::OK, Json(json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(handler))).await });
    (url, inputs)
}

fn transaction(hash: B256, to: Address, input: &Bytes) -> Value {
    let word = B256::repeat_byte(1);
    json!({ "type": "0x2", "hash": hash, "chainId": "0x14a34", "nonce": "0x0", "from": ME, "to": to, "value": "0x0",
        "gas": "0x5208", "gasPrice": "0x1", "maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x1", "input": input,
        "accessList": [], "v": "0x0", "yParity": "0x0", "r": word, "s": word,
        "blockHash": word, "blockNumber": "0x1", "transactionIndex": "0x0" })
}

struct World {
    ctx: Ctx,
    inputs: Inputs,
    _dir: tempfile::TempDir,
}

fn tx_hash(batch: u8) -> B256 {
    keccak256([0x77, batch])
}

impl World {
    async fn new() -> Self {
        let (dir, store) = store().await.unwrap();
        let mut config: Config = toml::from_str(include_str!("../../quittance.example.toml")).unwrap();
        let (url, inputs) = endpoint(config.base.ledger).await;
        config.base.rpc = vec![url];
        set_head(&store, 84_532, 50, NOW, 50).await.unwrap();
        let ctx = Ctx::new(config, store).unwrap();
        ctx.clock.shift(NOW * 1_000 - ctx.clock.now_ms());
        Self { ctx, inputs, _dir: dir }
    }

    async fn head(&self) -> Head {
        batches::head(&self.ctx.store, CHAIN).await.unwrap().unwrap()
    }

    /// A batch of one row of a keeper on the ledger, and the receipt behind it in our store.
    async fn settled(&self, n: u8, keeper_id: B256) -> Seed {
        let (ctx, seeded) = (&self.ctx, Seed { keeper_id, ..Seed::new(n) });
        let base = &ctx.config.base;
        seed(&ctx.store, &seeded).await.unwrap();
        let row = self.with_its_digest(&seeded).await;
        let input = call::settle_batch(keeper_id, row.order.token, std::slice::from_ref(&row), Bytes::new()).unwrap();
        let leaf = Leaf {
            rail: RAIL_ORDER,
            paymentId: row.order_id,
            start: 0,
            amount: row.amount,
            nodeId: row.node_id,
            nodeVersion: row.node_version,
            receiptHash: row.receipt_hash,
            row: 0,
        };
        let record = SettlementLedger::BatchRecord {
            batchId: n.into(),
            keeperId: keeper_id,
            token: row.order.token,
            settledAt: Default::default(),
            rows: 1,
            total: row.amount,
            receiptsRoot: leaf_hash(&leaf),
            ogRoot: B256::ZERO,
            blobHash: B256::ZERO,
            feeBps: 0,
            feeRecipient: Address::ZERO,
            credits: Vec::new(),
        };
        let event = SettlementLedger::BatchSettled {
            seq: n.into(),
            effectSeq: n.into(),
            batchId: n.into(),
            keeperId: keeper_id,
            record,
            blobId: Bytes::new(),
        };
        let log = event.encode_log_data();
        let (name, seq, event) = decode(Contract::Ledger, log.topics(), &log.data).unwrap().unwrap();
        let log = ChainLog {
            address: base.ledger,
            block_number: n.into(),
            block_hash: B256::repeat_byte(n),
            timestamp: u64::try_from(NOW).unwrap(),
            log_index: 0,
            tx_hash: tx_hash(n),
            topics: log.topics().to_vec(),
            data: log.data.clone(),
            seq,
            name,
            event,
        };
        let mut tx = ctx.store.write().await.unwrap();
        events::insert(&mut tx, CHAIN, &[log]).await.unwrap();
        tx.commit().await.unwrap();
        self.inputs.lock().unwrap().insert(tx_hash(n), Some(input));
        seeded
    }

    /// Somebody challenges the row of a batch; `deadline` in seconds from now.
    async fn challenge(&self, n: u8, challenger: Address, deadline: i64) {
        let open = Open {
            chain_batch_id: n.into(),
            row: 0,
            challenger,
            deadline: NOW + deadline,
            answer_tx_id: None,
            resolve_tx_id: None,
        };
        let mut tx = self.ctx.store.write().await.unwrap();
        challenges::opened(&mut tx, &open, 0, U256::from(1)).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn look(&self) -> Result<()> {
        end(&self.ctx, &held(&self.ctx.store).await, self.head().await, ME).await
    }

    /// The receipt of a seeded order, under the id that the ledger computes for the order.
    async fn with_its_digest(&self, seeded: &Seed) -> Settleable {
        let base = &self.ctx.config.base;
        let mut row = receipts::get(&self.ctx.store, seeded.settlement_id()).await.unwrap().unwrap();
        row.order_id = order_id(&row.order, &domain(base.chain_id, base.escrow));
        row.receipt_hash = receipt_hash(&call::unchecked(&row));
        let mut tx = self.ctx.store.write().await.unwrap();
        for (sql, value, key) in [
            ("UPDATE orders SET order_id = $1 WHERE order_id = $2", row.order_id, seeded.order_id()),
            ("UPDATE completions SET order_id = $1 WHERE order_id = $2", row.order_id, seeded.order_id()),
            ("UPDATE receipts SET order_id = $1 WHERE order_id = $2", row.order_id, seeded.order_id()),
            ("UPDATE receipts SET receipt_hash = $1 WHERE order_id = $2", row.receipt_hash, row.order_id),
        ] {
            sqlx::query(sql).bind(value.to_vec()).bind(key.to_vec()).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        row
    }

    async fn set_output_hash(&self, of: &Seed, hash: B256) {
        let mut tx = self.ctx.store.write().await.unwrap();
        let sql = "UPDATE completions SET output_hash = $1 WHERE settlement_id = $2";
        let query = sqlx::query(sql).bind(hash.to_vec()).bind(of.settlement_id().to_vec());
        query.execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn queued(store: &Store) -> Vec<String> {
    let rows = sqlx::query("SELECT intent_key FROM txs ORDER BY tx_id").fetch_all(store.read()).await.unwrap();
    rows.iter().map(|row| row.get("intent_key")).collect()
}

#[tokio::test]
async fn what_fails_for_one_challenge_stops_no_other() {
    let world = World::new().await;
    let stranger = Address::repeat_byte(0x5a);
    let ours = world.ctx.config.keeper.id;
    let corrupt = world.settled(1, ours).await;
    world.settled(2, ours).await;
    world.settled(3, ours).await;
    // The most urgent are the ones that fail: a receipt that does not add up, an endpoint that does not answer.
    for (n, deadline) in [(1, 10), (2, 20), (3, 30)] {
        world.challenge(n, stranger, deadline).await;
    }
    world.set_output_hash(&corrupt, B256::ZERO).await;
    let input = world.inputs.lock().unwrap().insert(tx_hash(2), None).flatten();
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await, ["answer:3:0"]);
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await.len(), 1, "each is put off");

    world.inputs.lock().unwrap().insert(tx_hash(2), input);
    world.ctx.clock.shift(5_000);
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await, ["answer:3:0", "answer:2:0"]);

    // The receipt is brought back from a backup.
    world.set_output_hash(&corrupt, keccak256([5, 1])).await;
    world.ctx.clock.shift(30_000);
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await, ["answer:3:0", "answer:2:0", "answer:1:0"]);
}

#[tokio::test]
async fn a_challenge_of_ours_that_nobody_answered_is_resolved_and_others_are_left_alone() {
    let world = World::new().await;
    for n in 1..=3 {
        world.settled(n, OTHER).await;
    }
    world.challenge(1, ME, -1).await;
    world.challenge(2, Address::repeat_byte(0x5a), -1).await;
    world.challenge(3, ME, 0).await;
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await, ["answer:3:0", "resolve:1:0"], "answers first: we hold that receipt");
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await.len(), 2, "both are under way");

    let mut tx = world.ctx.store.write().await.unwrap();
    sqlx::query("UPDATE txs SET state = 'quarantined'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    world.ctx.clock.shift(30_001);
    world.look().await.unwrap();
    assert_eq!(
        queued(&world.ctx.store).await[2..],
        ["answer:3:0:1", "resolve:1:0:2"],
        "tried again under another name"
    );
}

#[tokio::test]
async fn a_receipt_that_was_looked_for_in_vain_delays_no_resolution() {
    let world = World::new().await;
    let seeded = world.settled(1, OTHER).await;
    let mut tx = world.ctx.store.write().await.unwrap();
    let delete = sqlx::query("DELETE FROM receipts WHERE settlement_id = $1").bind(seeded.settlement_id().to_vec());
    delete.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    world.challenge(1, ME, 60).await;
    world.look().await.unwrap();
    assert!(queued(&world.ctx.store).await.is_empty());
    // Looked for once more just before the time is over.
    world.ctx.clock.shift(31_000);
    world.look().await.unwrap();
    assert!(queued(&world.ctx.store).await.is_empty());
    world.ctx.clock.shift(20_000);
    set_head(&world.ctx.store, 84_532, 51, NOW + 61, 51).await.unwrap();
    world.look().await.unwrap();
    assert_eq!(queued(&world.ctx.store).await, ["resolve:1:0"]);
}

#[tokio::test]
async fn who_lost_the_role_queues_nothing() {
    let world = World::new().await;
    world.settled(1, world.ctx.config.keeper.id).await;
    world.challenge(1, Address::repeat_byte(0x5a), 30).await;
    let role = held(&world.ctx.store).await;
    let mut tx = world.ctx.store.write().await.unwrap();
    sqlx::query("UPDATE leases SET owner = 'another', epoch = epoch + 1").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let looked = end(&world.ctx, &role, world.head().await, ME).await;
    assert!(matches!(looked, Err(Error::LeaseLost(_))), "{looked:?}");
    assert!(queued(&world.ctx.store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepers_on_one_database_put_up_one_stake_together() {
    let mut world = World::new().await;
    for n in 1..=4 {
        world.settled(n, OTHER).await;
    }
    world.ctx.config.disputes.challenge = true;
    // One bond of 1,000 gwei and a quarter more.
    world.ctx.config.disputes.max_stake = "1300000000000".to_owned();
    let mut second = Ctx::new(world.ctx.config.clone(), world.ctx.store.clone()).unwrap();
    second.installation = "second@nowhere".to_owned();
    let stop = CancellationToken::new();
    let all_watched = async {
        let watched = "SELECT COUNT(*) FROM watched";
        let seen = async || sqlx::query_scalar::<_, i64>(watched).fetch_one(world.ctx.store.read()).await.unwrap();
        while seen().await < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let holder = operations::roles(&world.ctx.store).await.unwrap();
        stop.cancel();
        holder
    };
    let (first, other) = (look_after(&world.ctx, ME, &stop), look_after(&second, ME, &stop));
    let (a, b, held) =
        tokio::time::timeout(Duration::from_secs(120), async { tokio::join!(first, other, all_watched) })
            .await
            .expect("all batches are looked behind");
    a.unwrap();
    b.unwrap();
    assert_eq!(held.iter().filter(|role| !role.owner.is_empty()).count(), 1, "{held:?}");
    assert_eq!(queued(&world.ctx.store).await.len(), 1, "max_stake is for all of them");
    let mut next = Lease::new("disputes", "next");
    assert!(next.hold(&world.ctx.store, 0).await.unwrap(), "given back");
}
