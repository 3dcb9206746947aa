//! The two ways from an order to a paid node: batch and verified settlement.

use std::time::{Duration, Instant};

use alloy::primitives::{B256, Uint};
use alloy::sol_types::{SolEvent, SolValue};
use quittance::cli::order::canonical;
use quittance::cli::send::read;
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance_bindings::{InferenceConsumer, InferenceEscrow};
use serde_json::json;
use sqlx::Row;

use crate::harness::{Keeper, MAX, Net, Wallet, deposit, hand_in};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_over_http_and_on_chain_end_paid_delivered_recorded_and_erased() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    let wallet = Wallet::funded(&net, "e2e-payer").await;
    keeper.ready(&net).await;

    // Over HTTP: public and private ones.
    let orders: Vec<_> = (0..6).map(|n| wallet.order(&net, &format!("What is {n} plus {n}?"), n == 5)).collect();
    for order in &orders {
        let (status, answer) = hand_in(&net, order, true).await.expect("an answer");
        assert_eq!(status, 200, "{answer}\n{}", net.log_tail());
        assert!(answer["receipt"].is_object() && answer["completion"].is_object(), "{answer}");
    }
    let (status, again) = hand_in(&net, &orders[0], true).await.expect("an answer");
    assert_eq!(status, 200, "{again}");

    // On-chain, by a protocol's contract.
    let key = Key::of("e2e-protocol").unwrap();
    fund(&net.devnet.chains, key.address()).await.unwrap();
    let base = &net.devnet.chains.base;
    let escrow = net.devnet.deployment.network.base.escrow;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, key).await.unwrap();
    let arguments = (escrow,).abi_encode_params();
    let consumer = sender.create("InferenceConsumer", &InferenceConsumer::BYTECODE, &arguments).await.unwrap();
    deposit(&mut sender, escrow, consumer).await;
    let request = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": "What next?" }] });
    let raw = serde_json::value::RawValue::from_string(request.to_string()).unwrap();
    let call = InferenceConsumer::askCall {
        token: USDC,
        max: MAX,
        node: B256::ZERO,
        term: Uint::from(300),
        request: canonical(&raw).unwrap().bytes.into(),
    };
    sender.call(consumer, &call).await.unwrap();
    let receipts = sender.settle().await.unwrap();
    let opened = receipts
        .iter()
        .flat_map(|receipt| receipt.inner.logs())
        .find_map(|log| InferenceEscrow::OrderOpened::decode_log(&log.inner).ok())
        .expect("an opened order")
        .data
        .orderId;

    let mut all: Vec<B256> = orders.iter().map(|order| order.id).collect();
    all.push(opened);
    net.wait_for(&all, "final", Duration::from_secs(120)).await;

    let answer = read(base.provider(), consumer, &InferenceConsumer::answersCall { orderId: opened }).await.unwrap();
    assert!(!answer.is_empty(), "the contract has its answer");
    let seen = net.observe().await;
    assert_eq!(seen.verified.len(), 1);
    assert_eq!(seen.delivered.len(), 1);
    assert_eq!(seen.finalized.len(), seen.batches.len());
    for id in &all {
        let captures = seen.captures.get(id).map_or(0, Vec::len);
        assert_eq!(captures, 1, "order {id} is paid once");
        assert!(seen.captures[id][0].amount <= MAX);
    }
    assert_eq!(seen.recorded.len(), 6, "every public inference is recorded, the private one is not");
    net.money_adds_up().await;

    // Texts go when nobody needs them.
    let store = net.store().await;
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM orders WHERE request IS NOT NULL) AS requests, \
             (SELECT COUNT(*) FROM completions WHERE output IS NOT NULL OR response IS NOT NULL) AS answers",
        )
        .fetch_one(store.read())
        .await
        .unwrap();
        let left: (i64, i64) = (row.get("requests"), row.get("answers"));
        if left == (0, 0) {
            break;
        }
        assert!(Instant::now() < deadline, "requests and answers left: {left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    store.close().await;

    let stopping = Instant::now();
    keeper.terminate();
    let status = keeper.ended(Duration::from_secs(25)).await.expect("it stops in time");
    assert!(status.success(), "{status} after {:?}\n{}", stopping.elapsed(), net.log_tail());
}
