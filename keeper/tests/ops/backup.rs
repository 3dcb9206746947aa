//! A keeper goes on from an older copy of its database: nothing is paid twice, and what the copy holds comes to its end.

use std::collections::BTreeMap;
use std::path::Path;

use alloy::primitives::B256;
use quittance::config::Config;
use quittance::devnet::demo::chain::observe;
use quittance::devnet::demo::wallets::Terms;
use quittance::store::operations::{self, Table};
use serde_json::json;

use crate::net::{Keeper, Net};

/// How often each order was captured, as the chain has it.
async fn captures(net: &Net) -> BTreeMap<B256, usize> {
    let chains = &net.devnet.chains;
    let (base, og) = (chains.base.provider(), chains.opengradient.provider());
    let seen = observe(&net.devnet.deployment.network, base, og).await.unwrap();
    seen.captures.iter().map(|(order, captures)| (*order, captures.len())).collect()
}

/// Puts a copy in the place of the database, as an operator would.
fn restore(net: &Net, copy: &Path) {
    let database = net.devnet.dir.join("keeper.db");
    for rest in ["keeper.db-wal", "keeper.db-shm"] {
        let _ = std::fs::remove_file(net.devnet.dir.join(rest));
    }
    std::fs::copy(copy, database).unwrap();
}

/// Waits until nothing is under way any more.
async fn quiet(net: &Net) {
    let store = net.store().await;
    net.until("nothing to be under way", async || {
        let count = async |table: Table, states: &[&str]| -> i64 {
            let all = operations::states(&store, table).await.unwrap();
            all.iter().filter(|(state, _)| states.contains(&state.as_str())).map(|(_, n)| *n).sum()
        };
        count(Table::Receipts, &["matched", "batched"]).await == 0
            && count(Table::Records, &["due", "submitted"]).await == 0
            && count(Table::Txs, &["queued", "signed", "sent"]).await == 0
    })
    .await;
    store.close().await;
}

async fn backup(net: &Net, config: &Config, name: &str) -> std::path::PathBuf {
    let path = net.devnet.dir.join(name);
    let (code, said, _) = net.run(config, &["backup", path.to_str().unwrap(), "--json"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said["bytes"].as_u64().unwrap() > 10_000);
    let (code, said, _) = net.run(config, &["backup", path.to_str().unwrap(), "--json"]).await;
    assert_eq!((code, said["code"].as_str()), (2, Some("unwritable_file")), "an older copy is not overwritten");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_pays_nothing_twice_and_loses_nothing_that_it_holds() {
    let net = Net::up().await;
    let slow = net.config(|config| config.batch.max_age_ms = 400_000);
    let fast = net.devnet.config.clone();

    // Answered, not batched: the first copy. It is made while the keeper runs.
    let mut keeper = Keeper::start(&net, &slow).await;
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(net.serve(&format!("Who is in the copy, {n}?"), &["completed"]).await);
    }
    let answered = backup(&net, &slow, "answered.db").await;
    keeper.signal("TERM");
    assert!(keeper.ended(&net).await.success());
    // Frozen, not sent: the second copy.
    let mut keeper = Keeper::spawn(&net, &fast, &[("QUITTANCE_CRASH_AT", "after_freeze")]);
    keeper.ended(&net).await;
    let frozen = backup(&net, &fast, "frozen.db").await;
    // Settled, and one more order that no copy knows.
    let mut keeper = Keeper::start(&net, &fast).await;
    for order in &held {
        net.reaches(*order, &["settled", "final"]).await;
    }
    let lost = net.serve("Who is not in the copy?", &["settled", "final"]).await;
    quiet(&net).await;
    keeper.kill();
    let mut before = captures(&net).await;
    assert_eq!(before, held.iter().chain([&lost]).map(|order| (*order, 1)).collect());

    for copy in [frozen, answered] {
        restore(&net, &copy);
        let mut keeper = Keeper::start(&net, &fast).await;
        for order in &held {
            net.reaches(*order, &["settled", "final"]).await;
        }
        quiet(&net).await;
        assert_eq!(captures(&net).await, before, "{}: nothing is captured again", copy.display());
        // What the chain settled is recognised by its content: evidence and all.
        for order in &held {
            let (status, file) = net.get(&format!("/orders/{order}")).await;
            assert_eq!(status, 200, "{file}");
            let (_, said, _) = net.run(&fast, &["admin", "explain", &order.to_string(), "--json"]).await;
            assert_eq!(said["rows"]["receipts"][0]["state"], "settled", "{}: {said}", copy.display());
            assert!(said["rows"]["batches"][0]["base_tx_hash"].is_string(), "{said}");
        }
        // What came after the copy is lost to this keeper, and is named.
        assert_eq!(net.get(&format!("/orders/{lost}")).await.0, 404);
        let (code, said, _) = net.run(&fast, &["reconcile", "--json"]).await;
        let orphans = said["orphans"].as_array().unwrap();
        let unknown = |order: &B256| {
            orphans.iter().any(|one| one["kind"] == "captured_unknown" && one["orderId"] == json!(order))
        };
        assert_eq!(code, 1);
        assert!(before.keys().all(|order| unknown(order) != held.contains(order)), "{said}");
        // It goes on with new work.
        let (order, body) = net.order(&format!("And after {}?", copy.display()), Terms::default());
        let (status, _, said) = net.submit(&body).await;
        assert!(status < 300, "{said}");
        net.reaches(order, &["settled", "final"]).await;
        keeper.signal("TERM");
        assert!(keeper.ended(&net).await.success());
        let after = captures(&net).await;
        assert!(after.len() == before.len() + 1 && after.values().all(|n| *n == 1), "{after:?}");
        before = after;
    }
}
