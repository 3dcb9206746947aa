//! Nodes and what comes from them: nodes that leave, hang or lie while orders stream in, answers and rows that are poison.

use std::time::Duration;

use alloy::primitives::{B256, keccak256};
use quittance::devnet::deploy::operator_of;
use quittance_bindings::NodeRegistry;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::proxy::Fault;
use crate::wallet::{Signed, Terms, Wallet, hand_in, ids};
use crate::world::{Keeper, Setup, World, until};
use crate::{Group, scenarios};

/// Orders of the load under which nodes come and go.
const LOAD: usize = 90;
/// Good completions, and rows, beside each poison one.
const GOOD: usize = 12;

pub fn group() -> Group {
    Group {
        setup: Setup { nodes: 6, ..Setup::default() },
        scenarios: scenarios![
            poison_completion_among_good_ones,
            poison_row_among_good_ones,
            poison_batch_is_split,
            node_churn_under_load
        ],
    }
}

/// A keeper that reaches no node: answers are handed in.
async fn pushed_to(world: &World, change: impl FnOnce(&mut quittance::config::Config)) -> Keeper {
    world
        .keeper(|config| {
            config.nodes.iter_mut().for_each(|node| node.url = Some("http://127.0.0.1:1".to_owned()));
            change(config);
        })
        .await
}

/// What a node answers to the order's request, as it is handed in; the keeper meters it.
async fn answer_of(world: &World, node: usize, order: &Signed) -> Value {
    let url = format!("{}/v1/chat/completions", world.devnet.nodes[node].url());
    let answer: Value = world.http.post(url).json(&order.body["request"]).send().await.unwrap().json().await.unwrap();
    json!({
        "orderId": order.id,
        "nodeId": world.devnet.deployment.nodes[node].id,
        "request": order.body["request"],
        "output": answer["choices"][0]["message"]["content"],
        "timestamp": answer["tee_timestamp"],
        "signature": answer["tee_signature"],
        "usage": answer["usage"],
    })
}

async fn waiting(world: &World, keeper: &Keeper, wallet: &Wallet, topic: &str, n: usize) -> Vec<Signed> {
    let mut orders = Vec::new();
    for number in 0..n {
        let order = wallet.order(world, &format!("{topic}, question {number}?"), Terms::default()).await;
        let (status, answer) = hand_in(world, keeper, &order, false).await.expect("an answer");
        assert_eq!(status, 202, "{answer}");
        orders.push(order);
    }
    orders
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

/// One call with good completions and bad ones of every kind between them: each is answered for itself, the good ones are
/// paid, and the orders of the bad ones are still free for a good answer.
async fn poison_completion_among_good_ones(world: &mut World) {
    let keeper = pushed_to(world, |_| {}).await;
    let wallet = Wallet::funded(world, "poison").await;
    let good = waiting(world, &keeper, &wallet, "Good", GOOD).await;
    let spoilt = waiting(world, &keeper, &wallet, "Spoilt", 8).await;
    let mut handed = Vec::new();
    for (number, order) in good.iter().enumerate() {
        handed.push((answer_of(world, number % 6, order).await, None));
    }
    let mut of_spoilt = Vec::new();
    for order in &spoilt {
        of_spoilt.push(answer_of(world, 1, order).await);
    }
    let one = of_spoilt[0].clone();
    let time = one["timestamp"].as_u64().unwrap();
    let meter = json!({ "offset": "0", "amount": "19000", "signature": format!("0x{}", "11".repeat(65)) });
    let other_order = handed[0].0.clone();
    for (poison, code) in [
        (Value::Null, "malformed"),
        (json!(7), "malformed"),
        (json!([[]]), "malformed"),
        (json!({ "orderId": "?" }), "malformed"),
        (with(&of_spoilt[1], "output", json!("Another text.")), "bad_inference_signature"),
        (with(&of_spoilt[2], "nodeId", json!(B256::repeat_byte(9))), "unknown_node"),
        (with(&of_spoilt[3], "timestamp", json!(time - 1)), "bad_inference_signature"),
        (with(&of_spoilt[4], "meter", meter), "bad_meter"),
        (with(&of_spoilt[5], "requestHash", json!(keccak256("else"))), "request_mismatch"),
        (with(&of_spoilt[6], "signature", json!(format!("{}==", "A".repeat(342)))), "bad_inference_signature"),
        (with(&other_order, "orderId", json!(spoilt[7].id)), "request_mismatch"),
    ] {
        let place = handed.len() / 2;
        handed.insert(place, (poison, Some(code)));
    }
    // The same answer twice is one.
    handed.push((handed[0].0.clone(), None));
    let items: Vec<&Value> = handed.iter().map(|(item, _)| item).collect();
    let answer = world.http.post(format!("{}/completions", keeper.url)).json(&items).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let results: Vec<Value> = answer.json().await.unwrap();
    assert_eq!(results.len(), handed.len());
    for ((item, code), result) in handed.iter().zip(&results) {
        match code {
            None => assert_eq!(result["state"], "matched", "{item} {result}"),
            Some(code) => assert_eq!(result["code"], *code, "{item} {result}"),
        }
    }
    keeper.wait_for(&ids(&good), &["final"]).await;
    for order in &spoilt {
        let view = keeper.view(order.id).await;
        assert!(matches!(view["state"].as_str(), Some("open" | "dispatched")), "{view}");
    }
    let answer = world.http.post(format!("{}/completions", keeper.url)).json(&of_spoilt).send().await.unwrap();
    let results: Vec<Value> = answer.json().await.unwrap();
    assert!(results.iter().all(|result| result["state"] == "matched"), "{results:?}");
    keeper.wait_for(&ids(&spoilt), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Rows of the database go bad while they wait for their batch and for OpenGradient: each ends with a reason of its own, the
/// rows beside it are paid and recorded.
async fn poison_row_among_good_ones(world: &mut World) {
    let mut keeper = pushed_to(world, |config| {
        (config.batch.max_age_ms, config.batch.max_rows) = (600_000, (GOOD + 2).try_into().unwrap());
        config.opengradient.record_rows = 1;
    })
    .await;
    let wallet = Wallet::funded(world, "poison-row").await;
    // Nothing is recorded or settled before the rows are spoilt: with the last answers the batch is full, of the good ones
    // and of the two that only the chains find out.
    world.og.always(&[], Fault::Refuse);
    let mut orders = waiting(world, &keeper, &wallet, "Row", GOOD + 5).await;
    let mut handed = Vec::new();
    for (number, order) in orders.iter().enumerate() {
        handed.push(answer_of(world, number % 6, order).await);
    }
    let last = handed.split_off(GOOD);
    let answer = world.http.post(format!("{}/completions", keeper.url)).json(&handed).send().await.unwrap();
    let results: Vec<Value> = answer.json().await.unwrap();
    assert!(results.iter().all(|result| result["state"] == "matched"), "{results:?}");
    // What is on its way to OpenGradient is as it was; only what still waits can go bad.
    keeper.wait_count("SELECT COUNT(*) FROM completions WHERE record_state = 'submitted'", 2).await;
    let store = keeper.store().await;
    let due: Vec<Vec<u8>> = sqlx::query_scalar("SELECT order_id FROM completions WHERE record_state = 'due'")
        .fetch_all(store.read())
        .await
        .unwrap();
    store.close().await;
    orders.sort_by_key(|order| !due.contains(&order.id.to_vec()));
    let flipped = |signature: &Value| {
        let mut bytes: Vec<u8> = hex::decode(signature.as_str().unwrap().trim_start_matches("0x")).unwrap();
        bytes[40] ^= 1;
        hex::encode(bytes)
    };
    let broken = flipped(&orders[2].body["signature"]);
    for (order, change) in [
        (&orders[0], "UPDATE receipts SET amount = '19999'".to_owned()),
        (&orders[1], "UPDATE orders SET signature = X'0102'".to_owned()),
        (&orders[2], format!("UPDATE orders SET signature = X'{broken}'")),
        (&orders[3], "UPDATE completions SET signature = X'00'".to_owned()),
        (&orders[4], "UPDATE completions SET output_hash = request_hash".to_owned()),
    ] {
        let store = keeper.store().await;
        let mut tx = store.write().await.unwrap();
        let sql = format!("{change} WHERE order_id = X'{}'", hex::encode(order.id));
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{change}");
        tx.commit().await.unwrap();
        store.close().await;
    }
    world.og.heal();
    let answer = world.http.post(format!("{}/completions", keeper.url)).json(&last).send().await.unwrap();
    assert!(answer.status().is_success());
    let good: Vec<B256> = ids(&orders[5..]);
    keeper.wait_for(&good, &["final"]).await;
    // What the chain skipped is tried once more, in a batch that is not full.
    keeper.kill();
    keeper.config.batch.max_age_ms = 500;
    keeper.run(&[]);
    keeper.ready().await;
    for (order, reason) in [
        (&orders[0], "internal"),
        (&orders[1], "internal"),
        (&orders[2], "bad_order_signature"),
        (&orders[4], "internal"),
    ] {
        keeper.wait_for(&[order.id], &["refused"]).await;
        assert_eq!(keeper.view(order.id).await["reason"], reason);
    }
    // Paid by a batch, which needs no node's signature; OpenGradient does not take it.
    keeper.wait_for(&[orders[3].id], &["final"]).await;
    let refused = "SELECT COUNT(*) FROM completions WHERE record_state = 'refused'";
    keeper.wait_count(refused, 2).await;
    let recorded = i64::try_from(GOOD + 3).unwrap();
    keeper.wait_count("SELECT COUNT(*) FROM completions WHERE record_state = 'recorded'", recorded).await;
    world.audit(&[&keeper]).await;
    let seen = world.observe().await;
    for order in [&orders[0], &orders[1], &orders[2], &orders[4]] {
        assert!(!seen.captures.contains_key(&order.id));
    }
}

/// What is to be sent for a batch goes bad before it is signed, so that the whole batch would revert: it is split, and what is
/// made anew of its rows is paid.
async fn poison_batch_is_split(world: &mut World) {
    let keeper = world.keeper(|config| (config.batch.max_age_ms, config.batch.max_rows) = (600_000, 4)).await;
    let wallet = Wallet::funded(world, "poison-batch").await;
    let account = world.devnet.keys.keeper_base.address();
    // Without gas money nothing is signed.
    world.chain().call("anvil_setBalance", json!([account, "0x0"])).await.unwrap();
    let orders = wallet.ask(world, &keeper, "In a batch that reverts", 4).await;
    keeper.wait_count("SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'queued'", 1).await;
    let store = keeper.store().await;
    let mut tx = store.write().await.unwrap();
    let spoil = "UPDATE txs SET calldata = X'deadbeef' WHERE kind = 'settle_batch' AND state = 'queued'";
    assert_eq!(sqlx::query(spoil).execute(&mut *tx).await.unwrap().rows_affected(), 1);
    tx.commit().await.unwrap();
    store.close().await;
    world.fund(account).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    assert_eq!(keeper.count("SELECT COUNT(*) FROM batches WHERE state = 'quarantined'").await, 1);
    assert_eq!(keeper.count("SELECT COUNT(*) FROM batches WHERE state = 'paid' AND n = 2").await, 2);
    world.audit(&[&keeper]).await;
}

/// Orders stream in while one node is retired, one is revoked, one hangs, one is slow, one comes and goes, and one lies now and
/// then. Every order is answered; what a node earned before it left is paid, what a revoked one has not been paid is not.
async fn node_churn_under_load(world: &mut World) {
    let keeper = world
        .keeper(|config| {
            (config.dispatch.timeout_ms, config.dispatch.retry_ms) = (2_000, 300);
            config.fees.rebroadcast_ms = 1_000;
        })
        .await;
    let wallet = Wallet::funded(world, "churn").await;
    let registry = world.devnet.deployment.network.base.node_registry;
    let [retired, revoked] = [0, 1].map(|index: usize| world.devnet.deployment.nodes[index].id);
    let mut orders = Vec::new();
    for number in 0..LOAD {
        match number {
            0 => world.node(5, "bad_signature").await,
            5 => world.node(2, "silent").await,
            10 => world.node(3, "slow:700").await,
            40 => world.node(5, "wrong_hash").await,
            30 => {
                // Batches wait outside of the pool, so that there is something to be paid when the nodes leave.
                world.base.always(&["eth_sendRawTransaction"], Fault::Swallow);
            }
            45 => {
                let mut operator = world.sender(&operator_of(0).unwrap().0).await;
                operator.call(registry, &NodeRegistry::retireCall { nodeId: retired }).await.unwrap();
                operator.settle().await.unwrap();
                let mut guardian = world.sender(&world.devnet.keys.guardian).await;
                guardian.call(registry, &NodeRegistry::revokeCall { nodeId: revoked }).await.unwrap();
                guardian.settle().await.unwrap();
                world.base.heal();
            }
            _ => {}
        }
        match number % 12 {
            0 => world.node(4, "error_500").await,
            6 => world.node(4, "none").await,
            _ => {}
        }
        let order = wallet.order(world, &format!("Who is there, question {number}?"), Terms::default()).await;
        let (status, answer) = hand_in(world, &keeper, &order, false).await.expect("an answer");
        assert!(matches!(status, 200 | 202), "{status} {answer}");
        orders.push(order);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for node in 2..6 {
        world.node(node, "none").await;
    }
    keeper.wait_for(&ids(&orders), &["final", "refused"]).await;
    let mut unpaid = 0;
    for order in &orders {
        let view = keeper.view(order.id).await;
        if view["state"] == "refused" {
            assert_eq!(view["reason"], "node_not_active", "{view}");
            assert_eq!(view["answer"]["completion"]["nodeId"], json!(revoked), "{view}");
            unpaid += 1;
        }
    }
    assert!(unpaid < LOAD / 2, "{unpaid}");
    // Nobody asks those that left any more.
    let before = [received(world, 0).await, received(world, 1).await];
    let later = wallet.ask(world, &keeper, "After they left", 6).await;
    keeper.wait_for(&ids(&later), &["final"]).await;
    assert_eq!(before, [received(world, 0).await, received(world, 1).await]);
    until("failures of nodes in the metrics", || async {
        keeper.metric("quittance_node_failures_total{code=\"bad_inference_signature\"}").await >= 1.0
    })
    .await;
    world.audit(&[&keeper]).await;
}

async fn received(world: &World, node: usize) -> u64 {
    let url = format!("{}/health", world.devnet.nodes[node].url());
    let health: Value = world.http.get(url).send().await.unwrap().json().await.unwrap();
    health["received"].as_u64().unwrap()
}
