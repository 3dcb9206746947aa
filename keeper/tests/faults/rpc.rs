//! Endpoints that hold logs back, are slow, limit, cut answers short, or lag behind the chain.

use std::time::Duration;

use crate::proxy::{Fault, Proxy};
use crate::wallet::{Wallet, ids};
use crate::world::{Setup, World, until};
use crate::{Group, scenarios};

pub fn group() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![rpc_empty_logs, rpc_slow_limited_and_cut_short, rpc_from_a_stale_height],
    }
}

/// An endpoint answers `[]` for blocks that have logs: nothing is built on what is missing, and nothing stays missing.
async fn rpc_empty_logs(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    // All logs for a while: deposit and lock are not seen.
    let empty = world.base.always(&["eth_getLogs"], Fault::Empty);
    let wallet = Wallet::funded(world, "empty-logs").await;
    let before = empty.struck();
    until("empty answers", || async { empty.struck() >= before + 6 }).await;
    assert_eq!(keeper.count("SELECT COUNT(*) FROM accounts WHERE free <> '0'").await, 0);
    world.base.heal();
    let mut orders = wallet.ask(world, &keeper, "Which logs", 2).await;
    // Now and then one answer, while batches land: the numbers of later events show the gap.
    for _ in 0..6 {
        let once = world.base.set(&["eth_getLogs"], 1, Fault::Empty);
        orders.extend(wallet.ask(world, &keeper, &format!("After {} gaps", orders.len()), 1).await);
        until("an empty answer", || async { once.struck() == 1 }).await;
    }
    keeper.wait_for(&ids(&orders), &["final"]).await;
    assert!(keeper.log().contains("the endpoint holds logs back") || keeper.log().contains("events are missing"));
    world.audit(&[&keeper]).await;
}

/// Slow answers, HTTP 429, answers cut in the middle, internal errors, one after the other and all methods alike.
async fn rpc_slow_limited_and_cut_short(world: &mut World) {
    let keeper = world.keeper(|_| {}).await;
    let wallet = Wallet::funded(world, "bad-rpc").await;
    let mut orders = Vec::new();
    for (fault, count) in [
        (Fault::Delay(Duration::from_millis(700)), 40),
        (Fault::RateLimit, 12),
        (Fault::Truncate, 25),
        (Fault::Error("internal error"), 25),
        (Fault::DropReply, 25),
        (Fault::Refuse, 25),
    ] {
        let set = [world.base.set(&[], count, fault), world.og.set(&[], count / 2, fault)];
        orders.extend(wallet.ask(world, &keeper, &format!("Under {fault:?}"), 2).await);
        until("all faults to strike", || async { set[0].struck() == count && set[1].struck() == count / 2 }).await;
    }
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Of two endpoints one stands still; the other fails often enough that the first is asked again and again.
async fn rpc_from_a_stale_height(world: &mut World) {
    let behind = Proxy::start(&world.chain().url).await;
    let urls = vec![world.base.url.clone(), behind.url.clone()];
    let keeper = world.keeper(|config| config.base.rpc = urls).await;
    let wallet = Wallet::funded(world, "stale").await;
    let mut orders = wallet.ask(world, &keeper, "Before", 2).await;
    keeper.wait_for(&ids(&orders), &["settled", "final"]).await;
    let stands = behind.always(&[], Fault::Stale(world.height().await));
    for round in 0..4 {
        let fails = world.base.set(&[], 8, Fault::Error("header not found"));
        orders.extend(wallet.ask(world, &keeper, &format!("Behind, round {round}"), 2).await);
        until("failures", || async { fails.struck() == 8 }).await;
        world.blocks(1).await;
    }
    assert!(stands.struck() >= 8);
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}
