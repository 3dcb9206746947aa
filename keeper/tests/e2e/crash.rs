//! `kill -9` at every named point, then another start: nothing is lost, nothing is paid twice.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::B256;
use quittance::crash::POINTS;
use sqlx::Row;

use crate::harness::{Keeper, MAX, Net, Signed, Wallet, hand_in};

const ORDERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_point_nothing_is_lost_and_nothing_is_paid_twice() {
    let net = Net::up().await;
    let wallet = Wallet::funded(&net, "e2e-crash-payer").await;
    let mut all: Vec<Signed> = Vec::new();
    for point in POINTS {
        // What the last one left may bring it to the point before it serves.
        let mut keeper = Keeper::start(&net, Some(point));
        keeper.ready_or_ended(&net).await;
        let orders: Vec<Signed> =
            (0..ORDERS).map(|n| wallet.order(&net, &format!("Killed {point}, question {n}?"), false)).collect();
        for order in &orders {
            // Some callers get no answer: they hand in again after the restart, as any client would.
            let _ = hand_in(&net, order, false).await;
        }
        let ended = keeper.ended(Duration::from_secs(45)).await;
        assert!(ended.is_some_and(|status| !status.success()), "{point} was never reached\n{}", net.log_tail());

        let mut keeper = Keeper::start(&net, None);
        keeper.ready(&net).await;
        for order in &orders {
            let (status, answer) = hand_in(&net, order, true).await.expect("an answer");
            assert!(status == 200 || status == 202, "{point}: {status} {answer}\n{}", net.log_tail());
        }
        all.extend(orders);
        // Killed without warning once more, wherever it is.
        keeper.kill();
    }
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let ids: Vec<B256> = all.iter().map(|order| order.id).collect();
    net.wait_for(&ids, "final", Duration::from_secs(150)).await;

    let seen = net.observe().await;
    let captured: BTreeSet<B256> = seen.captures.keys().copied().collect();
    assert_eq!(captured, ids.iter().copied().collect(), "every acknowledged order is paid, and no other");
    for (id, captures) in &seen.captures {
        assert_eq!(captures.len(), 1, "order {id} is paid once");
        assert!(captures[0].amount > 0 && captures[0].amount <= MAX);
    }
    net.money_adds_up().await;

    // What the database says was charged is what the chain captured, one inference per order.
    let store = net.store().await;
    let rows = sqlx::query("SELECT settlement_id, order_id, amount, state FROM receipts").fetch_all(store.read());
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), ids.len());
    let mut settlements = BTreeSet::new();
    for row in &rows {
        let id = B256::from_slice(&row.get::<Vec<u8>, _>("order_id"));
        assert_eq!(row.get::<String, _>("state"), "settled");
        assert_eq!(row.get::<String, _>("amount"), seen.captures[&id][0].amount.to_string());
        assert!(settlements.insert(row.get::<Vec<u8>, _>("settlement_id")));
    }
    for settlement in &settlements {
        assert!(seen.recorded.contains_key(&B256::from_slice(settlement)), "recorded on OpenGradient");
    }
    let doubled: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT nonce FROM txs WHERE nonce IS NOT NULL GROUP BY chain_id, signer, nonce HAVING COUNT(*) > 1)",
    )
    .fetch_one(store.read())
    .await
    .unwrap();
    assert_eq!(doubled, 0, "no nonce is used for two transactions");
    store.close().await;
}
