//! The keeper's own process: killed at every persist point, told to stop under load, with a clock that jumps.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use quittance::crash::{POINTS, RARE};
use serde_json::json;

use crate::proxy::Fault;
use crate::wallet::{Consumer, Signed, Terms, Wallet, hand_in, ids};
use crate::world::{Keeper, PATIENCE, Setup, World, none, until};
use crate::{Group, scenarios};

pub fn group() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![
            killed_at_every_persist_point,
            #[nightly]
            killed_at_every_persist_point_on_postgres,
            #[nightly]
            killed_at_rare_persist_points,
            sigterm_under_load,
            #[nightly]
            clock_steps,
        ],
    }
}

/// `kill -9` at one point after the other, each time on top of what the deaths before left behind.
async fn killed_at_every_persist_point(world: &mut World) {
    let keeper = world.start(world.config(), &[("QUITTANCE_CRASH_AT", POINTS[0])]);
    kill_at_points(world, keeper, "sqlite").await;
}

/// The same on Postgres.
async fn killed_at_every_persist_point_on_postgres(world: &mut World) {
    let mut config = world.config();
    config.keeper.database = world.postgres().await;
    let keeper = world.start(config, &[("QUITTANCE_CRASH_AT", POINTS[0])]);
    kill_at_points(world, keeper, "postgres").await;
}

async fn kill_at_points(world: &World, mut keeper: Keeper, name: &str) {
    let wallet = Wallet::funded(world, &format!("killed-{name}")).await;
    let mut orders: Vec<Signed> = Vec::new();
    for (index, point) in POINTS.into_iter().enumerate() {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = 0;
        // Some points come with what is left from before, others want new work: callers come until it happens.
        while !keeper.has_ended() {
            assert!(Instant::now() < deadline, "{point} was never reached\n{}", keeper.tail());
            if asked < 3 {
                let order = wallet.order(world, &format!("Killed {point}, question {asked}?"), Terms::default()).await;
                asked += usize::from(once(world, &keeper, &order).await.is_some());
                orders.push(order);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(!keeper.ended().await.success(), "{point}");
        assert!(keeper.log().contains(&format!("crash point {point}")), "{point}\n{}", keeper.tail());
        match POINTS.get(index + 1) {
            Some(next) => keeper.run(&[("QUITTANCE_CRASH_AT", next)]),
            None => keeper.run(&[]),
        }
    }
    keeper.ready().await;
    // Callers without an answer ask again, as any client would: each order is acknowledged by now.
    for order in &orders {
        let (status, answer) = hand_in(world, &keeper, order, false).await.expect("an answer");
        assert!(matches!(status, 200 | 202), "{status} {answer}");
    }
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Hands an order in once, whatever comes of it; the status if there is one.
async fn once(world: &World, keeper: &Keeper, order: &Signed) -> Option<u16> {
    let request = world.http.post(format!("{}/orders", keeper.url)).json(&order.body);
    let answer = request.header("prefer", "respond-async").timeout(Duration::from_secs(20)).send().await.ok()?;
    let status = answer.status().as_u16();
    if matches!(status, 200 | 202) {
        world.acknowledge(keeper, &order.order, order.id);
        return Some(status);
    }
    None
}

/// Points that only something unusual leads to: a replacement, a reorganisation, an order that names no keeper and is paid by
/// a contract, a hold that runs out.
async fn killed_at_rare_persist_points(world: &mut World) {
    let mut config = world.config();
    (config.fees.rebroadcast_ms, config.fees.bump_ms) = (1_000, 1_000);
    let mut keeper = world.start(config, &[("QUITTANCE_CRASH_AT", "after_replace_before_send")]);
    keeper.ready().await;
    let wallet = Wallet::funded(world, "killed-rarely").await;
    world.chain().pause().await.unwrap();
    let mut orders = wallet.ask(world, &keeper, "Replaced", 1).await;
    died(&mut keeper, "after_replace_before_send").await;
    world.chain().resume().await.unwrap();
    keeper.run(&[("QUITTANCE_CRASH_AT", "after_undo")]);
    keeper.ready().await;
    keeper.wait_for(&ids(&orders), &["settled", "final"]).await;

    // One block holds the batch, and is taken back before it is safe.
    world.chain().pause().await.unwrap();
    let taken_back = wallet.ask(world, &keeper, "Taken back", 1).await;
    let height = world.height().await;
    until("the batch's block", || async {
        let sent = keeper.count("SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'sent'").await;
        // One block only: what is taken back must be the one with the batch.
        if sent > 0 && world.height().await == height {
            world.chain().call("evm_mine", none()).await.unwrap();
        }
        keeper.view(taken_back[0].id).await["state"] == "settled"
    })
    .await;
    world.chain().call("anvil_reorg", json!([1, []])).await.unwrap();
    died(&mut keeper, "after_undo").await;
    world.chain().resume().await.unwrap();
    orders.extend(taken_back);

    keeper.run(&[("QUITTANCE_CRASH_AT", "after_verified_queued")]);
    keeper.ready().await;
    let mut all: Vec<B256> = ids(&orders);
    let consumer = Consumer::funded(world, "killed-consumer").await;
    all.push(consumer.ask(world, "Who delivers?").await);
    died(&mut keeper, "after_verified_queued").await;
    keeper.run(&[("QUITTANCE_CRASH_AT", "after_delivery_queued")]);
    died(&mut keeper, "after_delivery_queued").await;

    keeper.run(&[("QUITTANCE_CRASH_AT", "after_reclaim_queued")]);
    keeper.ready().await;
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "error_500").await;
    }
    let held = wallet.order(world, "Never answered?", Terms { term: 20, ..Terms::default() }).await;
    wallet.open(world, &held).await;
    world.acknowledge(&keeper, &held.order, held.id);
    died(&mut keeper, "after_reclaim_queued").await;
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    keeper.run(&[]);
    keeper.ready().await;
    keeper.wait_for(&all, &["final"]).await;
    keeper.wait_for(&[held.id], &["reclaimed"]).await;
    until("the delivery", || async { world.observe().await.delivered.len() == 1 }).await;
    world.audit(&[&keeper]).await;
    let killed = RARE.iter().filter(|point| keeper.log().contains(&format!("crash point {point}"))).count();
    assert_eq!(killed, RARE.len());
}

async fn died(keeper: &mut Keeper, point: &str) {
    let status = keeper.ended().await;
    let named = keeper.log().lines().rev().take(3).any(|line| line.contains(&format!("crash point {point}")));
    assert!(!status.success() && named, "{point}: {status}\n{}", keeper.tail());
}

/// SIGTERM while orders stream in: it stops by itself and in time, and what it acknowledged is served after the next start.
async fn sigterm_under_load(world: &mut World) {
    let mut keeper = world.start(world.config(), &[]);
    keeper.ready().await;
    let wallet = Wallet::funded(world, "sigterm").await;
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "slow:400").await;
    }
    let first = wallet.ask(world, &keeper, "Warm", 1).await;
    let mut orders = Vec::new();
    for round in 0..3 {
        let mut batch = Vec::new();
        for number in 0..24 {
            batch.push(wallet.order(world, &format!("Stop {round}, question {number}?"), Terms::default()).await);
        }
        let (one, rest) = batch.split_at(12);
        let hand_in_all = |orders: Vec<Signed>| {
            let (http, url) = (world.http.clone(), format!("{}/orders", keeper.url));
            let calls = orders.into_iter().map(move |order| {
                let (http, url) = (http.clone(), url.clone());
                async move {
                    let sent = http.post(url).header("prefer", "respond-async").json(&order.body).send().await;
                    sent.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 202))
                }
            });
            tokio::spawn(futures_util::future::join_all(calls))
        };
        for order in one {
            let (status, answer) = hand_in(world, &keeper, order, false).await.expect("an answer");
            assert!(matches!(status, 200 | 202), "{status} {answer}");
        }
        let racing = hand_in_all(rest.to_vec());
        keeper.signal("-TERM");
        let taken = racing.await.unwrap();
        let status = keeper.ended().await;
        assert!(status.success(), "{status}\n{}", keeper.tail());
        keeper.run(&[]);
        keeper.ready().await;
        let acknowledged = rest.iter().zip(taken).filter(|(_, taken)| *taken).map(|(order, _)| order);
        for order in one.iter().chain(acknowledged) {
            assert!(keeper.view(order.id).await["state"].is_string(), "what was acknowledged is there");
            world.acknowledge(&keeper, &order.order, order.id);
            orders.push(order.clone());
        }
    }
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    keeper.wait_for(&ids(&first), &["final"]).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// The machine's clock jumps forward by hours, then back, while orders are in every state: nothing is lost, and nothing waits
/// for the hours to pass.
async fn clock_steps(world: &mut World) {
    let file = world.devnet.dir.join("clock");
    let step = |hours: i64| std::fs::write(&file, (hours * 3_600_000).to_string()).unwrap();
    step(0);
    let mut config = world.config();
    (config.fees.rebroadcast_ms, config.fees.bump_ms) = (1_000, 2_000);
    let mut keeper = world.start(config, &[]);
    keeper.kill();
    keeper.set("QUITTANCE_CLOCK_STEP", file.to_str().unwrap());
    keeper.run(&[]);
    keeper.ready().await;
    let wallet = Wallet::funded(world, "clock").await;
    let before = wallet.ask(world, &keeper, "Before the jump", 2).await;
    keeper.wait_for(&ids(&before), &["settled", "final"]).await;
    // Nodes that fail put orders back, transactions wait unmined, recordings are refused: all with times of their own.
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "error_500").await;
    }
    let long = Terms { term: 50_000, ..Terms::default() };
    let mut orders = Vec::new();
    for number in 0..3 {
        let order = wallet.order(world, &format!("Across the jump, question {number}?"), long).await;
        let (status, answer) = hand_in(world, &keeper, &order, false).await.expect("an answer");
        assert_eq!(status, 202, "{answer}");
        orders.push(order);
    }
    step(2);
    until("rounds by the wrong clock", || async {
        let mut tried = true;
        for order in &orders {
            tried &= keeper.view(order.id).await["attempts"].as_i64() >= Some(3);
        }
        tried
    })
    .await;
    step(0);
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    keeper.wait_for(&ids(&orders), &["settled", "final"]).await;

    // The same with a transaction that no pool has: it must be sent again by the time that it is now.
    let swallowed = world.base.always(&["eth_sendRawTransaction"], Fault::Swallow);
    let stuck = wallet.ask(world, &keeper, "Unmined", 1).await;
    keeper.wait_count("SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'sent'", 1).await;
    step(2);
    keeper
        .wait_count("SELECT COUNT(*) FROM attempts a JOIN txs t ON t.tx_id = a.tx_id WHERE t.state = 'sent'", 2)
        .await;
    until("the second envelope", || async { swallowed.struck() >= 2 }).await;
    step(0);
    world.base.heal();
    keeper.wait_for(&ids(&stuck), &["final"]).await;

    // Behind the others: answers come from what it takes for the future, and so do orders.
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "slow:1500").await;
    }
    let behind = wallet.ask(world, &keeper, "Behind", 1).await;
    keeper.wait_for(&ids(&behind), &["dispatched"]).await;
    step(-2);
    until("an answer from the future", || async {
        keeper.view(behind[0].id).await["reason"].as_str().is_some_and(|reason| reason == "future_timestamp")
    })
    .await;
    let early = wallet.order(world, "Too early?", Terms::default()).await;
    let (status, answer) = hand_in(world, &keeper, &early, false).await.expect("an answer");
    assert_eq!((status, &answer["code"]), (422, &json!("order_not_yet_valid")), "{answer}");
    step(0);
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    let (status, answer) = hand_in(world, &keeper, &early, false).await.expect("an answer");
    assert!(matches!(status, 200 | 202), "{answer}");
    keeper.wait_for(&ids(&behind), &["final"]).await;
    world.audit(&[&keeper]).await;
}
