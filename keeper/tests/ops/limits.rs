//! Limits and back-pressure of the real keeper.

use quittance::config::limits::{OrderRates, Rate};
use quittance::devnet::demo::wallets::Terms;
use quittance::store::{completions, limits};
use serde_json::{Value, json};

use crate::net::{Keeper, Net};

const BURST: u32 = 25;

/// How many orders in a row are taken before one is refused by the payer's rate.
async fn taken(net: &Net, round: &str) -> u32 {
    for n in 0..=3 * BURST {
        let (_, body) = net.order(&format!("{round} {n}?"), Terms::default());
        let (status, after, answer) = net.submit(&body).await;
        if status == 202 || status == 200 {
            continue;
        }
        assert_eq!((status, answer["code"].as_str()), (429, Some("rate_limited")), "{answer}");
        assert_eq!(answer["details"]["limit"], "payer");
        let wait_ms = answer["details"]["retryAfterMs"].as_u64().unwrap();
        assert!(after.unwrap() * 1_000 >= wait_ms && wait_ms <= 60_001, "{after:?} {wait_ms}");
        return n;
    }
    panic!("no limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_survive_a_restart() {
    let net = Net::up().await;
    let config = net.config(|config| {
        config.limits.orders = OrderRates { payer: Rate::new(1, BURST), ..config.limits.orders.clone() };
        config.limits.completions.ip = Rate::new(1, 1);
    });
    let mut keeper = Keeper::start(&net, &config).await;
    assert!(taken(&net, "first").await >= BURST);
    // A caller behind the proxy on this machine; what it claims itself does not help it. A thousand minutes' worth at once.
    let stranger = [("x-forwarded-for", "198.51.100.7, 203.0.113.9")];
    let batch = Value::Array(vec![json!({}); 1_000]);
    assert_eq!(net.post("/completions", &batch, &stranger).await.0, 200);
    let (status, after, answer) = net.post("/completions", &json!([{}]), &stranger).await;
    assert_eq!((status, answer["details"]["limit"].as_str()), (429, Some("ip")), "{answer}");
    assert!(after.unwrap() > 60);
    let neighbour = [("x-forwarded-for", "203.0.113.9, 203.0.113.10")];
    assert_eq!(net.post("/completions", &json!([{}]), &neighbour).await.0, 200);

    keeper.signal("TERM");
    assert!(keeper.ended(&net).await.success());
    let mut keeper = Keeper::start(&net, &config).await;
    // A slow machine may have given a minute's worth or two back meanwhile, but never the burst.
    let again = taken(&net, "after a restart").await;
    assert!(again < BURST, "{again} orders were taken after a restart");
    assert_eq!(net.post("/completions", &json!([{}]), &stranger).await.0, 429);

    // What was written before a kill is known after it; the wait is for the write, once a second.
    let store = net.store().await;
    net.until("the use to be written", async || {
        let rows = limits::load(&store, 0, 100).await.unwrap();
        ["orders:payer", "completions:ip"].iter().all(|scope| rows.iter().any(|(id, _)| id.scope.text() == *scope))
    })
    .await;
    keeper.kill();
    let _keeper = Keeper::start(&net, &config).await;
    assert!(taken(&net, "after a kill").await < BURST);
    assert_eq!(net.post("/completions", &json!([{}]), &stranger).await.0, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_taken_while_orders_are_shed() {
    let net = Net::up().await;
    // No node to send anything to: orders stay open.
    let config = net.config(|config| {
        config.nodes.clear();
        config.limits.open_orders = 3;
    });
    let mut keeper = Keeper::start(&net, &config).await;
    let mut refused = Value::Null;
    let mut n = 0;
    net.until("orders to be shed", async || {
        n += 1;
        let (_, body) = net.order(&format!("Question {n}?"), Terms::default());
        let (status, after, answer) = net.submit(&body).await;
        if status == 202 {
            return false;
        }
        assert_eq!((status, answer["code"].as_str()), (503, Some("overloaded")), "{answer}");
        assert!(after.is_some());
        refused = answer;
        true
    })
    .await;
    assert_eq!(refused["details"]["reason"], "open_orders");
    let handed = net.completion(0, "An answer that nobody ordered?").await;
    let (status, _, accepted) = net.post("/completions", &handed, &[]).await;
    assert_eq!((status, accepted["state"].as_str()), (200, Some("verified")), "{accepted}");
    let (_, _, batch) = net.post("/completions", &json!([net.completion(1, "Another?").await]), &[]).await;
    assert_eq!(batch[0]["state"], "verified", "{batch}");
    // Acknowledged is stored, whatever happens to the process.
    keeper.kill();
    let store = net.store().await;
    for id in [&accepted["settlementId"], &batch[0]["settlementId"]] {
        let id = id.as_str().unwrap().parse().unwrap();
        assert!(completions::get(store.read(), id).await.unwrap().is_some());
    }
}
