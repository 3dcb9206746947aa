//! Chains that are away: started again, or out of reach for hours.

use alloy::primitives::B256;
use serde_json::json;

use crate::disk::disk_full;
use crate::proxy::Fault;
use crate::wallet::{Terms, Wallet, hand_in, ids};
use crate::world::{Setup, World, none};
use crate::{Group, scenarios};

/// Seconds that pass on a chain while nobody reaches it.
const HOURS: u64 = 6 * 3_600;

pub fn group() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![both_chains_restart, opengradient_down_for_hours, disk_full, base_down_for_hours],
    }
}

/// Both chains stop with transactions in their pools and come back without those.
async fn both_chains_restart(world: &mut World) {
    let keeper = world.keeper(|config| (config.fees.rebroadcast_ms, config.fees.bump_ms) = (1_000, 2_000)).await;
    let wallet = Wallet::funded(world, "restart").await;
    let mut orders = wallet.ask(world, &keeper, "Before", 2).await;
    keeper.wait_for(&ids(&orders), &["settled", "final"]).await;
    world.chain().pause().await.unwrap();
    orders.extend(wallet.ask(world, &keeper, "In the pool", 2).await);
    keeper.wait_count("SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'sent'", 1).await;
    let chains = &mut world.devnet.chains;
    chains.base.restart().await.unwrap();
    chains.opengradient.restart().await.unwrap();
    world.base.retarget(&world.devnet.chains.base.url);
    world.og.retarget(&world.devnet.chains.opengradient.url);
    orders.extend(wallet.ask(world, &keeper, "After", 2).await);
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Payment does not wait for OpenGradient, and what was due meanwhile is recorded when it is back.
async fn opengradient_down_for_hours(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::funded(world, "og-down").await;
    world.og.always(&[], Fault::Refuse);
    let orders = wallet.ask(world, &keeper, "Unrecorded", 3).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    let og = &world.devnet.chains.opengradient;
    og.call("evm_increaseTime", json!([HOURS])).await.unwrap();
    og.call("evm_mine", none()).await.unwrap();
    assert_eq!(keeper.count("SELECT COUNT(*) FROM completions WHERE record_state = 'recorded'").await, 0);
    world.audit(&[&keeper]).await;
    let recorded = keeper.count("SELECT COUNT(*) FROM completions WHERE record_state = 'recorded'").await;
    assert_eq!(recorded, 3);
}

/// Base is out of reach for hours. What can still be captured is; what cannot ends with its reason, and holds go back.
async fn base_down_for_hours(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::funded(world, "base-down").await;
    let [long, short] = [80_000, 600].map(|term| Terms { term, ..Terms::default() });
    // A hold whose answer never comes: no node will sign in its time.
    for node in 0..world.devnet.nodes.len() {
        world.node(node, "error_500").await;
    }
    let node = world.devnet.nodes[0].id;
    let held = wallet.order(world, "Held and never answered?", Terms { node, ..short }).await;
    wallet.open(world, &held).await;
    world.acknowledge(&keeper, &held.order, held.id);
    keeper.wait_for(&[held.id], &["open", "dispatched"]).await;
    world.base.always(&[], Fault::Refuse);
    let nodes = world.devnet.nodes.len();
    // The held order stays unanswered: its node is the first, which goes on failing.
    for node in 1..nodes {
        world.node(node, "none").await;
    }
    let mut lasting = Vec::new();
    let mut passing = Vec::new();
    for number in 0..3 {
        for (terms, into) in [(long, &mut lasting), (short, &mut passing)] {
            let question = format!("While Base is away, question {number} of {}?", terms.term);
            let order = wallet.order(world, &question, terms).await;
            let (status, answer) = hand_in(world, &keeper, &order, false).await.expect("an answer");
            assert!(matches!(status, 200 | 202), "{answer}");
            into.push(order);
        }
    }
    keeper.wait_for(&ids(&lasting), &["completed"]).await;
    keeper.wait_for(&ids(&passing), &["completed"]).await;
    world.chain().call("evm_increaseTime", json!([HOURS])).await.unwrap();
    world.chain().call("evm_mine", none()).await.unwrap();
    world.base.heal();
    keeper.wait_for(&ids(&lasting), &["final"]).await;
    keeper.wait_for(&ids(&passing), &["expired"]).await;
    keeper.wait_for(&[held.id], &["reclaimed"]).await;
    world.audit(&[&keeper]).await;
    let seen = world.observe().await;
    assert!(seen.reclaims.contains_key(&held.id));
    let lost: Vec<B256> = ids(&passing);
    assert!(lost.iter().all(|id| !seen.captures.contains_key(id)));
}
