//! Chains that fail: OpenGradient does not answer, and Base takes back the block with a batch.

use std::process::Command;
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use quittance::store::{Store, batches};
use serde_json::json;
use sqlx::Row;

use crate::harness::{Keeper, Net, Wallet, hand_in};

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").arg(name).arg(pid.to_string()).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn og_down_during_relay_and_reorg_included_batch() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    let wallet = Wallet::funded(&net, "e2e-fault-payer").await;
    keeper.ready(&net).await;
    let base = &net.devnet.chains.base;
    // Base's blocks are safe and final by Base's heads, however far ahead OpenGradient is.
    net.devnet.chains.opengradient.call("anvil_mine", json!(["0x1f4"])).await.unwrap();
    let mut ids: Vec<B256> = Vec::new();

    // Payment does not wait for OpenGradient.
    let og = net.devnet.chains.opengradient.pid();
    signal("-STOP", og);
    for n in 0..3 {
        let order = wallet.order(&net, &format!("OpenGradient is down, question {n}?"), false);
        let (status, answer) = hand_in(&net, &order, true).await.expect("an answer");
        assert_eq!(status, 200, "{answer}");
        ids.push(order.id);
    }
    net.wait_for(&ids, "settled", Duration::from_secs(90)).await;
    let store = net.store().await;
    let recorded: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM completions WHERE record_state = 'recorded'")
        .fetch_one(store.read())
        .await
        .unwrap();
    assert_eq!(recorded, 0);
    signal("-CONT", og);

    // One block holds the batch, and is taken back before it is safe: no block comes but those made here, and none after the
    // batch's.
    base.pause().await.unwrap();
    let order = wallet.order(&net, "Which block is it in?", false);
    let (status, answer) = hand_in(&net, &order, true).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    ids.push(order.id);
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let sent: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT a.tx_hash FROM attempts a JOIN batches b ON b.tx_id = a.tx_id \
             JOIN receipts r ON r.batch_id = b.batch_id WHERE r.order_id = $1 AND a.broadcast_ms IS NOT NULL",
        )
        .bind(order.id.to_vec())
        .fetch_all(store.read())
        .await
        .unwrap();
        if !sent.is_empty() {
            base.call("evm_mine", json!([])).await.unwrap();
        }
        let mut mined = false;
        for hash in &sent {
            let hash = B256::from_slice(hash);
            mined |= !base.call("eth_getTransactionReceipt", json!([hash])).await.unwrap().is_null();
        }
        if mined {
            break;
        }
        assert!(Instant::now() < deadline, "the batch was not mined\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    net.wait_for(&[order.id], "settled", Duration::from_secs(60)).await;
    let seen = opengradient_head(&net, &store).await;
    while opengradient_head(&net, &store).await < seen + 2 {
        assert!(Instant::now() < deadline, "OpenGradient is not followed\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let included = batch_of(&store, order.id).await;
    base.call("anvil_reorg", json!([1, []])).await.unwrap();
    base.resume().await.unwrap();
    net.wait_for(&ids, "final", Duration::from_secs(180)).await;
    let again = batch_of(&store, order.id).await;
    store.close().await;
    assert_eq!(included.0, again.0, "the same batch");
    assert_ne!(included.1, again.1, "in another block");

    let seen = net.observe().await;
    for id in &ids {
        assert_eq!(seen.captures.get(id).map_or(0, Vec::len), 1, "order {id} is paid once");
    }
    assert_eq!(seen.recorded.len(), ids.len(), "what was due while OpenGradient was down is recorded");
    net.money_adds_up().await;
}

/// Block up to which OpenGradient's events are applied.
async fn opengradient_head(net: &Net, store: &Store) -> i64 {
    let head = batches::head(store, net.devnet.chains.opengradient.chain_id).await.unwrap();
    head.map_or(0, |head| head.number)
}

/// Local batch id and block hash of the batch that settles an order.
async fn batch_of(store: &Store, order_id: B256) -> (i64, Vec<u8>) {
    let row = sqlx::query(
        "SELECT b.batch_id, b.base_block_hash FROM batches b JOIN receipts r ON r.batch_id = b.batch_id \
         WHERE r.order_id = $1",
    )
    .bind(order_id.to_vec())
    .fetch_one(store.read())
    .await
    .unwrap();
    (row.get("batch_id"), row.get("base_block_hash"))
}
