//! Stopping: no new payments, answers that nodes owe come in, completions are taken, roles are given back; or at once.

use std::time::Duration;

use quittance::devnet::demo::wallets::Terms;
use quittance::store::operations;
use serde_json::{Value, json};

use crate::net::{Keeper, Net};

/// Makes the first node answer after so many milliseconds.
async fn slow(net: &Net, ms: u64) {
    let url = format!("{}/devnet/misbehave", net.devnet.deployment.nodes[0].url);
    let mode = if ms == 0 { "none" } else { "slow" };
    let answer = net.http.post(url).json(&json!({ "mode": mode, "ms": ms })).send().await.unwrap();
    assert!(answer.status().is_success());
}

async fn stopping(net: &Net) {
    net.until("the keeper to be stopping", async || {
        net.get("/readyz").await.1["reasons"].to_string().contains("the keeper is stopping")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_no_answer_and_a_second_signal_ends_it() {
    let net = Net::up().await;
    let config = net.config(|config| {
        config.dispatch.timeout_ms = 120_000;
        config.keeper.drain_ms = 150_000;
        // Known without a look at OpenGradient: an order is at its node as soon as it is dispatched.
        for (node, running) in config.nodes.iter_mut().zip(&net.devnet.deployment.nodes) {
            node.url = Some(running.url.clone());
        }
    });
    let first = Terms { node: net.devnet.deployment.nodes[0].id, ..Terms::default() };

    // A node that takes longer than anybody waits: the second signal does not.
    let mut keeper = Keeper::start(&net, &config).await;
    slow(&net, 100_000).await;
    let (interrupted, body) = net.order("Who is interrupted?", first);
    assert_eq!(net.submit(&body).await.0, 202);
    net.reaches(interrupted, &["dispatched"]).await;
    keeper.signal("TERM");
    stopping(&net).await;
    keeper.signal("TERM");
    assert_eq!(keeper.ended(&net).await.code(), Some(1));

    // At its next start the order is taken up again. One more is at the node when the stop comes.
    slow(&net, 0).await;
    let mut keeper = Keeper::start(&net, &config).await;
    net.reaches(interrupted, &["completed", "settled", "final"]).await;
    slow(&net, 20_000).await;
    let (waited_for, body) = net.order("Who is waited for?", first);
    let (http, url) = (net.http.clone(), net.url("/orders"));
    let waiting = tokio::spawn(async move { http.post(url).json(&body).send().await.unwrap() });
    net.until("the order to be at the node", async || {
        net.get(&format!("/orders/{waited_for}")).await.1["state"] == "dispatched"
    })
    .await;
    keeper.signal("TERM");
    stopping(&net).await;
    let (_, body) = net.order("Who comes too late?", Terms::default());
    let (status, after, refused) = net.post("/orders", &body, &[]).await;
    assert_eq!((status, refused["details"]["reason"].as_str()), (503, Some("stopping")), "{refused}");
    assert!(after.is_some());
    let handed = net.completion(1, "What was earned before?").await;
    let (status, _, taken) = net.post("/completions", &handed, &[]).await;
    assert_eq!((status, taken["state"].as_str()), (200, Some("verified")), "{taken}");
    let answer = tokio::time::timeout(Duration::from_secs(170), waiting).await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["orderId"], json!(waited_for), "{answer}");
    assert!(keeper.ended(&net).await.success());

    let store = net.store().await;
    let roles = operations::roles(&store).await.unwrap();
    assert!(roles.len() >= 4 && roles.iter().all(|role| role.owner.is_empty()), "all are given back: {roles:?}");
    store.close().await;
    slow(&net, 0).await;
    let _keeper = Keeper::start(&net, &config).await;
    for id in [interrupted, waited_for] {
        net.reaches(id, &["settled", "final"]).await;
    }
}
