//! Several keepers: on one database, where one may hang and come back, and on databases of their own under ids of their own.

use std::time::Duration;

use alloy::primitives::{B256, keccak256};
use quittance::config::Config;
use quittance::config::limits::Rate;
use quittance::devnet::deploy::bond;
use quittance::devnet::keys::Key;
use quittance::store::limits;
use quittance_bindings::KeeperRegistry;
use sqlx::Row;

use crate::wallet::{LOCK, MAX, Signed, Terms, Wallet, hand_in, ids};
use crate::world::{Keeper, Setup, World, until};
use crate::{Group, scenarios};

pub fn group() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![
            two_keepers_same_batch,
            #[nightly]
            three_keepers_one_frozen_and_revived,
            dead_keepers_orders_are_taken_over,
            restart_of_one_leaves_the_others_orders_alone,
            two_keepers_share_rates,
            two_keepers_without_a_common_database,
        ],
    }
}

/// Keepers of one id on one database.
async fn keepers(world: &mut World, n: usize, change: impl Fn(&mut Config)) -> Vec<Keeper> {
    let database = world.postgres().await;
    let mut keepers = Vec::new();
    for _ in 0..n {
        let keeper = world.keeper(|config| {
            config.keeper.database.clone_from(&database);
            change(config);
        });
        keepers.push(keeper.await);
    }
    keepers
}

/// Roles, their holders and how often each changed hands.
async fn roles(keeper: &Keeper) -> Vec<(String, String, i64)> {
    let store = keeper.store().await;
    let rows =
        sqlx::query("SELECT name, owner, epoch FROM leases ORDER BY name").fetch_all(store.read()).await.unwrap();
    store.close().await;
    rows.iter().map(|row| (row.get("name"), row.get("owner"), row.get("epoch"))).collect()
}

fn is(role: &str, name: &str) -> bool {
    name == role || name.starts_with(&format!("{role}:"))
}

async fn holder(keeper: &Keeper, role: &str) -> String {
    roles(keeper).await.into_iter().find(|(name, ..)| is(role, name)).map(|(_, owner, _)| owner).unwrap_or_default()
}

/// Orders at both, some at both at once: one keeper settles, each order is paid once.
async fn two_keepers_same_batch(world: &mut World) {
    let keepers = keepers(world, 2, |_| {}).await;
    let wallet = Wallet::funded(world, "two-keepers").await;
    let mut orders: Vec<Signed> = Vec::new();
    for number in 0..12 {
        let order = wallet.order(world, &format!("To both, question {number}?"), Terms::default()).await;
        let first = &keepers[number % 2];
        let both = number % 3 == 0;
        let answers = tokio::join!(hand_in(world, first, &order, false), async {
            if both { hand_in(world, &keepers[(number + 1) % 2], &order, false).await } else { None }
        });
        let (status, answer) = answers.0.expect("an answer");
        assert!(matches!(status, 200 | 202), "{answer}");
        assert!(answers.1.is_none_or(|(status, _)| matches!(status, 200 | 202)));
        orders.push(order);
    }
    for keeper in &keepers {
        keeper.wait_for(&ids(&orders), &["final"]).await;
    }
    for role in ["settle", "relay", "finish", "watch", "signer"] {
        let holders: Vec<_> = roles(&keepers[0]).await.into_iter().filter(|(name, ..)| is(role, name)).collect();
        assert!(!holders.is_empty() && holders.iter().all(|(_, owner, _)| !owner.is_empty()));
    }
    let all: Vec<&Keeper> = keepers.iter().collect();
    world.audit(&all).await;
}

/// Whoever settles is frozen in the middle of its work; the others take over, and it is fenced when it comes back.
async fn three_keepers_one_frozen_and_revived(world: &mut World) {
    let mut keepers = keepers(world, 3, |_| {}).await;
    let wallet = Wallet::funded(world, "three-keepers").await;
    let settling = holder(&keepers[0], "settle").await;
    let index = keepers.iter().position(|keeper| settling.ends_with(&keeper.config.api.listen)).unwrap();
    let mut frozen = keepers.remove(index);
    let mut orders = wallet.ask(world, &frozen, "Before it froze", 4).await;
    frozen.signal("-STOP");
    for keeper in &keepers {
        orders.extend(wallet.ask(world, keeper, "While it was frozen", 3).await);
    }
    keepers[0].wait_for(&ids(&orders), &["final"]).await;
    let before = roles(&keepers[0]).await;
    assert!(
        before.iter().any(|(name, owner, epoch)| name == "settle" && *owner != settling && *epoch > 1),
        "{before:?}"
    );
    frozen.signal("-CONT");
    frozen.ready().await;
    let later = wallet.ask(world, &frozen, "After it came back", 3).await;
    orders.extend(later);
    frozen.wait_for(&ids(&orders), &["final"]).await;
    until("fenced", || async { frozen.log().contains("another process took the lease") }).await;
    let all: Vec<&Keeper> = keepers.iter().chain([&frozen]).collect();
    world.audit(&all).await;
}

/// A keeper dies with orders at nodes that never answer. Its claims would last for hours; the other takes them over at once
/// when the dead one's signs of life stop.
async fn dead_keepers_orders_are_taken_over(world: &mut World) {
    let mut keepers = keepers(world, 2, |config| config.dispatch.timeout_ms = 3_600_000).await;
    let wallet = Wallet::funded(world, "dead-keeper").await;
    let nodes = world.devnet.nodes.len();
    for node in 0..nodes {
        world.node(node, "silent").await;
    }
    let (mut dead, mut other) = (keepers.remove(0), keepers.remove(0));
    let terms = Terms { term: 80_000, ..Terms::default() };
    let mut orders = Vec::new();
    for number in 0..3 {
        orders.push(wallet.order(world, &format!("To the dead, question {number}?"), terms).await);
    }
    // All that is handed in is the first one's to dispatch.
    other.kill();
    for order in &orders {
        let (status, answer) = hand_in(world, &dead, order, false).await.expect("an answer");
        assert_eq!(status, 202, "{answer}");
        world.acknowledge(&other, &order.order, order.id);
    }
    dead.wait_for(&ids(&orders), &["dispatched"]).await;
    other.run(&[]);
    other.ready().await;
    other.wait_for(&ids(&orders), &["dispatched"]).await;
    dead.kill();
    for node in 0..nodes {
        world.node(node, "none").await;
    }
    other.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&other]).await;
}

/// An order is at a slow node for one keeper; that the other starts again does not send it to a node a second time.
async fn restart_of_one_leaves_the_others_orders_alone(world: &mut World) {
    let mut keepers = keepers(world, 2, |config| config.dispatch.timeout_ms = 120_000).await;
    let wallet = Wallet::funded(world, "restarted").await;
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "slow:15000").await;
    }
    let mut restarted = keepers.remove(1);
    let serving = keepers.remove(0);
    restarted.kill();
    let orders = wallet.ask(world, &serving, "Slowly", 2).await;
    serving.wait_for(&ids(&orders), &["dispatched"]).await;
    for _ in 0..2 {
        restarted.run(&[]);
        restarted.ready().await;
        // A keeper that starts reopens what its own installation had, with the first look of its dispatcher.
        until("a sign of life", || async {
            holder_of_life(&serving, &restarted).await.ends_with(&restarted.config.api.listen)
        })
        .await;
        restarted.kill();
    }
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    serving.wait_for(&ids(&orders), &["final"]).await;
    for order in &orders {
        assert_eq!(serving.view(order.id).await["attempts"], 1, "sent to a node once");
    }
    world.audit(&[&serving]).await;
}

/// How many orders in a row a keeper takes before the payer's rate refuses one; with `at_most`, as many at most.
async fn taken(world: &World, keeper: &Keeper, wallet: &Wallet, topic: &str, at_most: u32) -> u32 {
    let mut number = 0;
    while number < at_most {
        let order = wallet.order(world, &format!("{topic}, question {number}?"), Terms::default()).await;
        let request = world.http.post(format!("{}/orders", keeper.url)).header("prefer", "respond-async");
        let answer = request.json(&order.body).send().await.expect("an answer");
        let status = answer.status().as_u16();
        if matches!(status, 200 | 202) {
            world.acknowledge(keeper, &order.order, order.id);
            number += 1;
            continue;
        }
        // A machine that is busy with other things sheds what is new for a moment.
        if status == 503 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let waits = answer.headers().contains_key("retry-after");
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!((status, body["code"].as_str(), waits), (429, Some("rate_limited"), true), "{body}");
        assert_eq!(body["details"]["limit"], "payer");
        return number;
    }
    at_most
}

/// When the payer's rate is full again as the database has it, unix nanoseconds.
async fn used(keeper: &Keeper, wallet: &Wallet) -> i64 {
    let store = keeper.store().await;
    let rows = limits::load(&store, 0, 1_000).await.unwrap();
    store.close().await;
    let payer = wallet.key.address().into_word();
    rows.iter().find(|(id, _)| id.scope.text() == "orders:payer" && id.subject == payer).map_or(0, |(_, full)| *full)
}

/// A payer that used up its rate at one keeper finds it used up at the other as soon as that has written its own use, and so
/// does a keeper that starts later.
async fn two_keepers_share_rates(world: &mut World) {
    const BURST: u32 = 40;
    let mut keepers = keepers(world, 2, |config| {
        // Nobody gets one back while this runs.
        config.limits.orders.payer = Rate::new(1, BURST);
        config.limits.snapshot_ms = 100;
    })
    .await;
    let wallet = Wallet::funded(world, "rates").await;
    // An order that comes before its lock is seen counts as well.
    keepers[0].wait_count("SELECT COUNT(*) FROM lanes WHERE locked <> '0'", 1).await;
    for keeper in &keepers {
        let order = wallet.order(world, &format!("Is the lock known to {}?", keeper.url), Terms::default()).await;
        let (status, answer) = hand_in(world, keeper, &order, false).await.expect("an answer");
        assert!(matches!(status, 200 | 202), "{answer}");
    }
    let first = taken(world, &keepers[0], &wallet, "To the first", 4 * BURST).await;
    assert!(first <= 2 * BURST, "{first}");
    // The other learns with each write of its own.
    let before = used(&keepers[1], &wallet).await;
    assert_eq!(taken(world, &keepers[1], &wallet, "To the second", 1).await, 1);
    until("its use to be written", || async { used(&keepers[1], &wallet).await > before }).await;
    let second = taken(world, &keepers[1], &wallet, "To the second, again", BURST).await;
    assert!(second < BURST / 2, "{second} of {BURST}");
    // Both know of each other now, and so does whoever starts again.
    for keeper in &mut keepers {
        keeper.kill();
        keeper.run(&[]);
        keeper.ready().await;
        assert_eq!(taken(world, keeper, &wallet, "After a restart", 1).await, 0);
    }
    // Another payer has a rate of its own.
    let other = Wallet::funded(world, "rates-other").await;
    let orders = other.ask(world, &keepers[1], "From another payer", 2).await;
    keepers[1].wait_for(&ids(&orders), &["final"]).await;
    let all: Vec<&Keeper> = keepers.iter().collect();
    world.audit(&all).await;
}

async fn holder_of_life(reader: &Keeper, of: &Keeper) -> String {
    let listen = &of.config.api.listen;
    let roles = roles(reader).await;
    let found = roles.into_iter().find(|(name, ..)| name.starts_with("keeper:") && name.ends_with(listen));
    found.map(|(_, owner, _)| owner).unwrap_or_default()
}

/// Two keepers under ids of their own: each settles its orders, refuses the other's, and of an order that names nobody one
/// is paid.
async fn two_keepers_without_a_common_database(world: &mut World) {
    let salt = keccak256("second keeper");
    let [owner, base, og, receipts] =
        ["second-owner", "second-base", "second-og", "second-receipts"].map(|name| Key::of(name).unwrap());
    for key in [&owner, &base, &og] {
        world.fund(key.address()).await;
    }
    let registry = world.devnet.deployment.network.base.keeper_registry;
    let mut sender = world.sender(&owner).await;
    let call = KeeperRegistry::registerCall {
        salt,
        payout: owner.address(),
        hotKeys: vec![base.address(), receipts.address()],
    };
    sender.call(registry, &call).await.unwrap();
    let done = sender.settle().await.unwrap();
    let second_id = done[0].inner.logs().iter().find_map(|log| log.topics().get(1)).copied().unwrap();
    bond(&mut sender, registry, second_id).await.unwrap();
    sender.settle().await.unwrap();

    // Each asks a node of its own, so that their answers to the same order differ.
    let first = world.keeper(|config| config.nodes.truncate(1)).await;
    let mut config = world.config();
    config.keeper.id = second_id;
    config.nodes.remove(0);
    let (base, og, receipts) = (base.hex(), og.hex(), receipts.hex());
    let mut second = world.start(config, &[]);
    second.kill();
    for (name, value) in
        [("QUITTANCE_BASE_KEY", &base), ("QUITTANCE_OG_KEY", &og), ("QUITTANCE_RECEIPT_KEY", &receipts)]
    {
        second.set(name, value);
    }
    second.run(&[]);
    second.ready().await;

    let wallet = Wallet::funded(world, "two-ids").await;
    wallet.lock(world, second_id, LOCK, 86_400).await;
    let mut of_first = wallet.ask(world, &first, "To the first", 3).await;
    let mut of_second = Vec::new();
    for number in 0..3 {
        let terms = Terms { keeper_id: Some(second_id), ..Terms::default() };
        let order = wallet.order(world, &format!("To the second, question {number}?"), terms).await;
        let (status, answer) = hand_in(world, &first, &order, false).await.expect("an answer");
        assert!((400..500).contains(&status), "the first must not take it: {status} {answer}");
        let (status, answer) = hand_in(world, &second, &order, false).await.expect("an answer");
        assert!(matches!(status, 200 | 202), "{answer}");
        of_second.push(order);
    }
    // Opened on-chain for anybody: both serve it.
    let terms = Terms { keeper_id: Some(B256::ZERO), ..Terms::default() };
    let open = wallet.order(world, "To whom it may concern?", terms).await;
    wallet.open(world, &open).await;
    for keeper in [&first, &second] {
        world.acknowledge(keeper, &open.order, open.id);
    }
    of_first.push(open.clone());
    of_second.push(open);
    first.wait_for(&ids(&of_first), &["final"]).await;
    second.wait_for(&ids(&of_second), &["final"]).await;
    world.audit(&[&first, &second]).await;
    let seen = world.observe().await;
    let of_id = |id: B256| seen.batches.iter().filter(|batch| batch.event.keeperId == id).count();
    assert!(of_id(second_id) >= 1 && of_id(world.devnet.config.keeper.id) >= 1);
    assert!(seen.captures.values().flatten().all(|capture| capture.amount <= MAX));
}
