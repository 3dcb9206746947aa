//! Base takes blocks back: those with a batch, with a deposit and its lock, with a hold, and more than it ever may.

use serde_json::json;
use sqlx::Row;

use crate::wallet::{DEPOSIT, LOCK, Terms, Wallet, hand_in, ids};
use crate::world::{Keeper, Setup, World, none, until};
use crate::{Group, scenarios};

/// Blocks from `latest` to `safe`; `finalized` is twice as far. So many can be taken back and put together again.
const DEPTH: u64 = 8;

pub fn group() -> Group {
    Group {
        setup: Setup { depth: DEPTH, ..Setup::default() },
        scenarios: scenarios![reorg_of_included_batch, reorg_of_deposit, reorg_of_hold, reorg_deeper_than_window_halts],
    }
}

/// Takes back every block above `height`; new ones come by the second again.
async fn take_back(world: &World, height: u64) {
    world.chain().pause().await.unwrap();
    let depth = world.height().await - height;
    assert!((1..2 * DEPTH).contains(&depth), "{depth} blocks would be final");
    world.chain().call("anvil_reorg", json!([depth, []])).await.unwrap();
    world.chain().resume().await.unwrap();
}

/// From now on every transaction has a block of its own, and there are no others: what is taken back has a known size.
async fn block_by_block(world: &World) {
    world.chain().pause().await.unwrap();
    world.chain().call("evm_setAutomine", json!([true])).await.unwrap();
}

async fn nodes(world: &World, behaviour: &str) {
    for node in 0..world.devnet.nodes.len() {
        world.node(node, behaviour).await;
    }
}

/// Local id and block hash of the batch of an order.
async fn batch_of(keeper: &Keeper, order: &crate::wallet::Signed) -> (i64, Vec<u8>) {
    let store = keeper.store().await;
    let row = sqlx::query(
        "SELECT b.batch_id, b.base_block_hash FROM batches b JOIN receipts r ON r.batch_id = b.batch_id
         WHERE r.order_id = $1",
    )
    .bind(order.id.to_vec())
    .fetch_one(store.read())
    .await
    .unwrap();
    store.close().await;
    (row.get("batch_id"), row.get("base_block_hash"))
}

/// The batch is mined, taken back with its block, and mined again: the same batch in another block.
async fn reorg_of_included_batch(world: &mut World) {
    let keeper = world.keeper(|config| config.fees.rebroadcast_ms = 1_000).await;
    let wallet = Wallet::funded(world, "reorg-batch").await;
    world.chain().pause().await.unwrap();
    let orders = wallet.ask(world, &keeper, "In which block", 2).await;
    keeper.wait_for(&ids(&orders), &["completed"]).await;
    let height = world.height().await;
    let sent = "SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'sent'";
    until("the batch's block", || async {
        if keeper.count(sent).await > 0 && world.height().await < height + DEPTH {
            world.chain().call("evm_mine", none()).await.unwrap();
        }
        let mut settled = true;
        for order in &orders {
            settled &= keeper.view(order.id).await["state"] == "settled";
        }
        settled
    })
    .await;
    let before = batch_of(&keeper, &orders[0]).await;
    take_back(world, height).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    let after = batch_of(&keeper, &orders[0]).await;
    assert_eq!(before.0, after.0, "the same batch");
    assert_ne!(before.1, after.1, "in another block");
    world.audit(&[&keeper]).await;
}

/// Deposit and lock are taken back under an order that was taken on them: no node is asked until it is covered again.
async fn reorg_of_deposit(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::poor(world, "reorg-deposit").await;
    nodes(world, "error_500").await;
    block_by_block(world).await;
    let height = world.height().await;
    wallet.deposit(world, DEPOSIT).await;
    wallet.lock(world, world.devnet.config.keeper.id, LOCK, 86_400).await;
    let order = wallet.order(world, "Who pays?", Terms::default()).await;
    let (status, answer) = hand_in(world, &keeper, &order, false).await.expect("an answer");
    assert_eq!(status, 202, "{answer}");
    take_back(world, height).await;
    until("no cover", || async { keeper.view(order.id).await["reason"] == "insufficient_balance" }).await;
    nodes(world, "none").await;
    world.blocks(2).await;
    let view = keeper.view(order.id).await;
    assert!(view["state"] == "open" || view["state"] == "dispatched", "{view}");
    // As any wallet would, it sends again what was lost.
    wallet.deposit(world, DEPOSIT).await;
    wallet.lock(world, world.devnet.config.keeper.id, LOCK, 86_400).await;
    keeper.wait_for(&[order.id], &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// An order is opened, taken back before anybody answered, and opened again.
async fn reorg_of_hold(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::poor(world, "reorg-hold").await;
    wallet.deposit(world, DEPOSIT).await;
    nodes(world, "error_500").await;
    let order = wallet.order(world, "Held or not?", Terms::default()).await;
    block_by_block(world).await;
    let height = world.height().await;
    wallet.open(world, &order).await;
    keeper.wait_for(&[order.id], &["open", "dispatched"]).await;
    take_back(world, height).await;
    until("no hold", || async { keeper.view(order.id).await["held"] != true }).await;
    nodes(world, "none").await;
    world.blocks(2).await;
    assert!(!world.observe().await.captures.contains_key(&order.id));
    wallet.open(world, &order).await;
    keeper.wait_for(&[order.id], &["final"]).await;
    world.acknowledge(&keeper, &order.order, order.id);
    world.audit(&[&keeper]).await;
}

/// A finalised block is taken back: the keeper says so and stops, and does not start again on such a chain.
async fn reorg_deeper_than_window_halts(world: &mut World) {
    let mut keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::funded(world, "reorg-deep").await;
    let orders = wallet.ask(world, &keeper, "Final or not", 2).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.chain().call("anvil_reorg", json!([2 * DEPTH + 4, []])).await.unwrap();
    let status = keeper.ended().await;
    assert!(!status.success() && keeper.log().contains("chain_contradiction"), "{status}\n{}", keeper.tail());
    keeper.run(&[]);
    let status = keeper.ended().await;
    assert!(!status.success(), "{status}\n{}", keeper.tail());
    let seen = world.observe().await;
    world.money_adds_up(&seen).await;
}
