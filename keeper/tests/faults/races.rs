//! Something happens to an order, its payer, its keeper or its node between the signature of a batch and its block. The batch
//! waits outside of the pool until the other transaction is mined, so who comes first is never left to chance; beside each row
//! that loses stand rows that nothing happened to, which are paid.

use alloy::primitives::aliases::U248;
use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;
use quittance::devnet::deploy::{USDC, operator_of};
use quittance::devnet::keys::Key;
use quittance_bindings::{InferenceEscrow, KeeperRegistry, NodeRegistry};
use serde_json::json;

use crate::proxy::Fault;
use crate::wallet::{DEPOSIT, MAX, Signed, Terms, Wallet, hand_in, ids};
use crate::world::{Keeper, Setup, World, none, until};
use crate::{Group, scenarios};

/// What the keeper trusts a payer with who has no lock.
const CREDIT: u128 = 4 * MAX;
/// Seconds after which a replaced version of a node cannot be captured any more on a devnet, and more.
const AFTER_GRACE: u64 = 3_700;

const SENT: &str = "SELECT COUNT(*) FROM receipts r JOIN batches b ON b.batch_id = r.batch_id
                    JOIN txs t ON t.tx_id = b.tx_id WHERE r.state = 'batched' AND t.state = 'sent'";

/// The last one moves Base's clock ahead: holds are only for orders that are young by it.
pub fn of_payers() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![
            hold_racing_capture,
            withdrawal_racing_capture,
            cancellation_racing_capture,
            keepers_key_rotation_racing_capture,
            expiring_lock_racing_capture,
        ],
    }
}

pub fn of_nodes() -> Group {
    Group {
        setup: Setup { nodes: 5, ..Setup::default() },
        scenarios: scenarios![revocation_racing_capture, meter_key_rotation_racing_capture],
    }
}

async fn keeper(world: &World) -> Keeper {
    world
        .keeper(|config| {
            (config.fees.rebroadcast_ms, config.fees.bump_ms) = (1_000, 60_000);
            // On a slow machine each order may be in a batch of its own: all of them are to be on the way.
            config.base.in_flight = 16;
            config.dispatch.credit.insert(USDC, CREDIT.to_string());
        })
        .await
}

/// A payer that the keeper trusts without a lock.
async fn trusted(world: &World, name: &str) -> Wallet {
    let wallet = Wallet::poor(world, name).await;
    wallet.deposit(world, DEPOSIT).await;
    wallet
}

/// Orders whose batches are signed, stored and said to be sent, and are in no pool until `heal`.
async fn on_the_way(keeper: &Keeper, orders: &[Signed]) {
    keeper.wait_for(&ids(orders), &["completed"]).await;
    keeper.wait_count(SENT, i64::try_from(orders.len()).unwrap()).await;
}

fn hold_back(world: &World) {
    world.base.always(&["eth_sendRawTransaction"], Fault::Swallow);
}

async fn give(world: &World, keeper: &Keeper, wallet: &Wallet, question: &str, terms: Terms) -> Signed {
    let order = wallet.order(world, question, terms).await;
    let (status, answer) = hand_in(world, keeper, &order, false).await.expect("an answer");
    assert!(matches!(status, 200 | 202), "{status} {answer}\n{}", keeper.tail());
    order
}

/// A call that is mined and succeeds.
async fn call<C: SolCall>(world: &World, key: &Key, to: Address, call: &C) {
    let mut sender = world.sender(key).await;
    sender.call(to, call).await.unwrap();
    sender.settle().await.unwrap();
}

/// A call that the chain must not take.
async fn reverts<C: SolCall>(world: &World, key: &Key, to: Address, call: &C) {
    let mut sender = world.sender(key).await;
    sender.call(to, call).await.unwrap();
    let error = sender.settle().await.expect_err("it must revert").to_string();
    assert!(error.contains("reverted"), "{error}");
}

/// Everything that a payer can take out at once.
async fn withdraw_all(world: &World, wallet: &Wallet) {
    let escrow = InferenceEscrow::new(world.escrow(), world.chain().provider());
    let amount = escrow.account(wallet.key.address(), USDC).call().await.unwrap().free;
    let withdraw = InferenceEscrow::withdrawCall { token: USDC, to: wallet.key.address(), amount };
    call(world, &wallet.key, world.escrow(), &withdraw).await;
}

/// Lets time pass on Base.
async fn pass(world: &World, seconds: u64) {
    world.chain().call("evm_increaseTime", json!([seconds])).await.unwrap();
    world.chain().call("evm_mine", none()).await.unwrap();
}

/// The order ends with this reason and nothing of its payer's was taken.
async fn refused(world: &World, keeper: &Keeper, order: &Signed, reason: &str) {
    keeper.wait_for(&[order.id], &["refused"]).await;
    assert_eq!(keeper.view(order.id).await["reason"], reason);
    assert!(!world.observe().await.captures.contains_key(&order.id));
}

async fn is_held(world: &World, order: &Signed) -> bool {
    let escrow = InferenceEscrow::new(world.escrow(), world.chain().provider());
    escrow.orderState(order.id).call().await.unwrap().status == 1
}

/// A stranger holds an order while its batch is on the way: it is captured from the hold. After a capture nobody can hold it.
async fn hold_racing_capture(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "race-hold").await;
    let stranger = Wallet::poor(world, "race-hold-stranger").await;
    hold_back(world);
    let orders = wallet.ask(world, &keeper, "Held too late", 2).await;
    on_the_way(&keeper, &orders).await;
    let hold = |order: &Signed| {
        let signature: alloy::primitives::Bytes = order.body["signature"].as_str().unwrap().parse().unwrap();
        InferenceEscrow::holdCall { order: order.order.clone().into(), signature }
    };
    call(world, &stranger.key, world.escrow(), &hold(&orders[0])).await;
    assert!(is_held(world, &orders[0]).await);
    until("the hold to be seen", || async { keeper.view(orders[0].id).await["held"] == true }).await;
    world.base.heal();
    keeper.wait_for(&ids(&orders), &["settled", "final"]).await;
    for order in &orders {
        reverts(world, &stranger.key, world.escrow(), &hold(order)).await;
    }
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Payers without a lock take everything out before the batch lands: that is what credit risks. One pays in again and is
/// charged, the other's order ends unpaid; with a lock nothing can be taken out.
async fn withdrawal_racing_capture(world: &mut World) {
    let keeper = keeper(world).await;
    let gone = trusted(world, "race-withdrawal-gone").await;
    let back = trusted(world, "race-withdrawal-back").await;
    let locked = Wallet::funded(world, "race-withdrawal-locked").await;
    hold_back(world);
    let [of_gone, of_back] = [
        give(world, &keeper, &gone, "Gone?", Terms::default()).await,
        give(world, &keeper, &back, "Back?", Terms::default()).await,
    ];
    let mut orders = locked.ask(world, &keeper, "Locked", 2).await;
    orders.extend([of_gone.clone(), of_back.clone()]);
    on_the_way(&keeper, &orders).await;
    for wallet in [&gone, &back, &locked] {
        withdraw_all(world, wallet).await;
    }
    world.base.heal();
    keeper.wait_for(&ids(&orders[..2]), &["settled", "final"]).await;
    // The row was skipped on the chain; the payer is asked once more, after a pause that the operator cuts short.
    keeper.wait_count("SELECT COUNT(*) FROM receipts WHERE retries > 0", 2).await;
    back.deposit(world, DEPOSIT).await;
    for order in [&of_gone, &of_back] {
        keeper.retry(order.id).await;
    }
    refused(world, &keeper, &of_gone, "insufficient_balance").await;
    keeper.wait_for(&[of_back.id], &["final"]).await;
    keeper.wait_for(&ids(&orders[..2]), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// A payer without a lock spends the nonces of answered orders: those cannot be captured any more. While a lock runs, the
/// cancellation itself reverts.
async fn cancellation_racing_capture(world: &mut World) {
    let keeper = keeper(world).await;
    let id = world.devnet.config.keeper.id;
    let wallet = trusted(world, "race-cancel").await;
    let locked = Wallet::funded(world, "race-cancel-locked").await;
    hold_back(world);
    let (cancelled, kept) = (
        give(world, &keeper, &wallet, "Cancelled?", Terms::default()).await,
        give(world, &keeper, &wallet, "Not cancelled?", Terms::default()).await,
    );
    let mut orders = locked.ask(world, &keeper, "Locked", 1).await;
    orders.extend([cancelled.clone(), kept.clone()]);
    on_the_way(&keeper, &orders).await;
    let cancel = |order: &Signed| {
        let (word, bit): (U256, usize) = (order.order.nonce >> 8, order.order.nonce.to::<usize>() % 256);
        let mask = U256::from(1) << bit;
        InferenceEscrow::cancelNoncesCall { token: USDC, keeperId: id, word: U248::from(word), mask }
    };
    call(world, &wallet.key, world.escrow(), &cancel(&cancelled)).await;
    reverts(world, &locked.key, world.escrow(), &cancel(&orders[0])).await;
    world.base.heal();
    refused(world, &keeper, &cancelled, "nonce_spent").await;
    keeper.wait_for(&[orders[0].id, kept.id], &["final"]).await;

    // While a node still thinks about it: the order ends at once, and its late answer is proof without payment.
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "slow:3000").await;
    }
    let thinking = give(world, &keeper, &wallet, "Cancelled meanwhile?", Terms::default()).await;
    keeper.wait_for(&[thinking.id], &["dispatched"]).await;
    call(world, &wallet.key, world.escrow(), &cancel(&thinking)).await;
    refused(world, &keeper, &thinking, "nonce_spent").await;
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "none").await;
    }
    let (status, answer) = hand_in(world, &keeper, &thinking, false).await.expect("an answer");
    assert_eq!((status, &answer["details"]["reason"]), (409, &json!("nonce_spent")), "{answer}");
    world.audit(&[&keeper]).await;
}

/// The keeper's owner replaces its hot key while a batch of the old key is on the way: the batch reverts, and its rows are
/// settled under the new key. Without any allowed key the keeper waits, and nothing is given up.
async fn keepers_key_rotation_racing_capture(world: &mut World) {
    let mut keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "race-hot-key").await;
    let (id, registry) = (world.devnet.config.keeper.id, world.devnet.deployment.network.base.keeper_registry);
    let (owner, old) = (world.devnet.keys.keeper_owner.clone(), world.devnet.keys.keeper_base.clone());
    let new = Key::of("keeper-base-rotated").unwrap();
    world.fund(new.address()).await;
    hold_back(world);
    let orders = wallet.ask(world, &keeper, "Under which key", 3).await;
    on_the_way(&keeper, &orders).await;
    let allow = |key: &Key, allowed| KeeperRegistry::setHotKeyCall { keeperId: id, key: key.address(), allowed };
    call(world, &owner, registry, &allow(&old, false)).await;
    call(world, &owner, registry, &allow(&new, true)).await;
    keeper.kill();
    keeper.set("QUITTANCE_BASE_KEY", &new.hex());
    world.base.heal();
    keeper.run(&[]);
    keeper.ready().await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    let failed = keeper.count("SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'failed'").await;
    assert!(failed >= 1, "the old key's batch reverted");

    // No key at all: rows wait for one.
    hold_back(world);
    let later = wallet.ask(world, &keeper, "Without a key", 2).await;
    on_the_way(&keeper, &later).await;
    call(world, &owner, registry, &allow(&new, false)).await;
    world.base.heal();
    until("blocked", || async { keeper.log().contains("this keeper may not settle") }).await;
    for order in &later {
        assert_eq!(keeper.view(order.id).await["state"], "completed");
    }
    call(world, &owner, registry, &allow(&new, true)).await;
    for order in &later {
        keeper.retry(order.id).await;
    }
    keeper.wait_for(&ids(&later), &["final"]).await;
    call(world, &owner, registry, &allow(&old, true)).await;
    world.audit(&[&keeper]).await;
}

/// Locks run out while their batch is on the way, and so does a hold. Whoever takes the money out in time is not charged;
/// who leaves it, or only unlocks it, is.
async fn expiring_lock_racing_capture(world: &mut World) {
    let keeper = keeper(world).await;
    let id = world.devnet.config.keeper.id;
    let mut wallets = Vec::new();
    for name in ["race-lock-gone", "race-lock-unlocked", "race-lock-left"] {
        let wallet = Wallet::poor(world, name).await;
        wallet.deposit(world, DEPOSIT).await;
        wallet.lock(world, id, DEPOSIT, 600).await;
        wallets.push(wallet);
    }
    let holder = Wallet::poor(world, "race-hold-out").await;
    holder.deposit(world, MAX).await;
    let held = holder.order(world, "Held until when?", Terms { term: 600, ..Terms::default() }).await;
    holder.open(world, &held).await;
    hold_back(world);
    let mut orders = Vec::new();
    for wallet in &wallets {
        orders.push(give(world, &keeper, wallet, "Locked until when?", Terms::default()).await);
    }
    let (status, answer) = hand_in(world, &keeper, &held, false).await.expect("an answer");
    assert!(matches!(status, 200 | 202), "{answer}");
    let mut all = orders.clone();
    all.push(held.clone());
    on_the_way(&keeper, &all).await;
    pass(world, 700).await;
    for wallet in &wallets[..2] {
        let unlock = InferenceEscrow::unlockCall { payer: wallet.key.address(), token: USDC, keeperId: id };
        call(world, &wallet.key, world.escrow(), &unlock).await;
    }
    withdraw_all(world, &wallets[0]).await;
    let reclaim = InferenceEscrow::reclaimCall { order: held.order.clone().into() };
    call(world, &wallets[1].key, world.escrow(), &reclaim).await;
    world.base.heal();
    keeper.wait_for(&ids(&orders[1..]), &["final"]).await;
    keeper.wait_for(&[held.id], &["reclaimed"]).await;
    keeper.retry(orders[0].id).await;
    refused(world, &keeper, &orders[0], "insufficient_balance").await;
    world.audit(&[&keeper]).await;
}

/// The guardian revokes a node whose answers are on the way: none of them is captured, held money goes back, and the rows of
/// other nodes in the same batch are paid.
async fn revocation_racing_capture(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "race-revoke").await;
    let registry = world.devnet.deployment.network.base.node_registry;
    let [revoked, other] = [0, 1].map(|index: usize| world.devnet.deployment.nodes[index].id);
    let to = |node: B256| Terms { node, ..Terms::default() };
    let held = wallet.order(world, "Held for a revoked node?", Terms { term: 900, ..to(revoked) }).await;
    wallet.open(world, &held).await;
    hold_back(world);
    let (status, answer) = hand_in(world, &keeper, &held, false).await.expect("an answer");
    assert!(matches!(status, 200 | 202), "{answer}");
    let lost = give(world, &keeper, &wallet, "To a revoked node?", to(revoked)).await;
    let paid = [
        give(world, &keeper, &wallet, "To another node?", to(other)).await,
        give(world, &keeper, &wallet, "To that one again?", to(other)).await,
    ];
    on_the_way(&keeper, &[held.clone(), lost.clone(), paid[0].clone(), paid[1].clone()]).await;
    let guardian = world.devnet.keys.guardian.clone();
    call(world, &guardian, registry, &NodeRegistry::revokeCall { nodeId: revoked }).await;
    world.base.heal();
    keeper.wait_for(&ids(&paid), &["final"]).await;
    refused(world, &keeper, &lost, "node_not_active").await;
    refused(world, &keeper, &held, "node_not_active").await;
    assert!(is_held(world, &held).await);
    // Nobody is sent there any more; an order that names the node waits for nothing.
    let (status, answer) = {
        let late = wallet.order(world, "To a node that is gone?", to(revoked)).await;
        hand_in(world, &keeper, &late, false).await.expect("an answer")
    };
    assert_eq!((status, &answer["code"]), (422, &json!("node_not_active")), "{answer}");
    let public = wallet.ask(world, &keeper, "To whoever is left", 3).await;
    keeper.wait_for(&ids(&public), &["final"]).await;
    pass(world, 1_000).await;
    keeper.wait_for(&[held.id], &["reclaimed"]).await;
    world.audit(&[&keeper]).await;
}

/// Nodes replace their meter key while answers are on the way. The replaced version is still captured within the grace period,
/// not after it; and the keeper asks such a node again only when it has the new key.
async fn meter_key_rotation_racing_capture(world: &mut World) {
    let mut keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "race-meter").await;
    let registry = world.devnet.deployment.network.base.node_registry;
    let [in_time, too_late, other] = [2, 3, 4].map(|index: usize| world.devnet.deployment.nodes[index].id);
    let to = |node: B256| Terms { node, term: 40_000, ..Terms::default() };
    let rotated = Key::of("meter-rotated").unwrap();
    let set = |node: B256| NodeRegistry::setMeterKeyCall { nodeId: node, meterKey: rotated.address() };
    hold_back(world);
    let first = [
        give(world, &keeper, &wallet, "Metered by the old key?", to(in_time)).await,
        give(world, &keeper, &wallet, "By another node?", to(other)).await,
    ];
    on_the_way(&keeper, &first).await;
    call(world, &operator_of(2).unwrap().0, registry, &set(in_time)).await;
    world.base.heal();
    keeper.wait_for(&ids(&first), &["final"]).await;

    // Without the new key nobody is charged for that node: the order waits for it.
    let waiting = give(world, &keeper, &wallet, "Metered by which key?", to(in_time)).await;
    until("no node", || async { keeper.view(waiting.id).await["reason"] == "no_node_answered" }).await;
    keeper.kill();
    keeper.set("QUITTANCE_METER_KEY_2", &rotated.hex());
    keeper.run(&[]);
    keeper.ready().await;
    keeper.wait_for(&[waiting.id], &["final"]).await;
    let versions = "SELECT COUNT(*) FROM (SELECT DISTINCT node_id, node_version FROM completions) AS versions";
    assert_eq!(keeper.count(versions).await, 3, "two of the first node, one of the other");

    hold_back(world);
    let second = [
        give(world, &keeper, &wallet, "Settled within the grace period?", to(too_late)).await,
        give(world, &keeper, &wallet, "By another node again?", to(other)).await,
    ];
    on_the_way(&keeper, &second).await;
    call(world, &operator_of(3).unwrap().0, registry, &set(too_late)).await;
    pass(world, AFTER_GRACE).await;
    world.base.heal();
    refused(world, &keeper, &second[0], "node_not_active").await;
    keeper.wait_for(&[second[1].id], &["final"]).await;
    world.audit(&[&keeper]).await;
}
