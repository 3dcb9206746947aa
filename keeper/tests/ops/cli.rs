//! The operator's command line beside a running keeper, and without one.

use quittance::devnet::demo::wallets::Terms;
use serde_json::{Value, json};

use crate::net::{Keeper, Net};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_and_set_right() {
    let net = Net::up().await;
    let config = net.devnet.config.clone();

    // The configuration alone. A key that is only set where the keeper runs is no mistake in the file.
    let (code, said, _) = net.run(&config, &["config", "check", "--json"]).await;
    assert_eq!((code, &said["warnings"]), (0, &json!([])), "{said}");
    let without_keys = |arguments: &[&str]| {
        let mut command = net.command(&config, arguments);
        let output = command.env_remove("QUITTANCE_BASE_KEY").output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = without_keys(&["config", "check", "--json"]);
    assert!(code == 0 && said["warnings"][0].as_str().unwrap().contains("QUITTANCE_BASE_KEY"), "{code} {said}");
    let (code, said) = without_keys(&["config", "check", "--strict", "--json"]);
    assert_eq!((code, said["code"].as_str()), (2, Some("bad_configuration")), "{said}");
    let bad = net.config(|config| config.batch.max_rows = 300);
    let (code, said, _) = net.run(&bad, &["config", "check", "--json"]).await;
    assert!(code == 2 && said["message"].as_str().unwrap().contains("max_rows"), "{said}");

    // Nothing runs, and there is no database: looking does not make one.
    let (code, said, _) = net.run(&config, &["status", "--json"]).await;
    assert_eq!((code, said["code"].as_str()), (2, Some("no_database")), "{said}");
    let (code, said, _) = net.run(&config, &["doctor", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(!net.devnet.dir.join("keeper.db").exists());

    let keeper = Keeper::start(&net, &config).await;
    let order = net.serve("What is known of me?", &["settled", "final"]).await;
    let (code, said, _) = net.run(&config, &["status", "--json"]).await;
    assert_eq!((code, said["ok"].as_bool()), (0, Some(true)), "{said}");
    assert_eq!(said["database"]["counts"]["receipts"]["settled"], 1, "{said}");
    assert_eq!(said["database"]["chains"][0]["chain"], "base");
    net.until("roles to be held", async || {
        let (_, said, _) = net.run(&config, &["status", "--json"]).await;
        said["database"]["roles"].as_array().unwrap().iter().any(|role| role["held"] == true)
    })
    .await;
    let (code, text, _) = net.run(&config, &["status"]).await;
    assert!(code == 0 && text.as_str().unwrap().contains(": ready"), "{text}");

    // All is well; then a node is gone and a key is another's.
    let (code, said, _) = net.run(&config, &["doctor", "--json"]).await;
    assert_eq!((code, said["ok"].as_bool()), (0, Some(true)), "{said}");
    let ill = net.config(|config| {
        config.nodes[0].url = Some("http://127.0.0.1:1".to_owned());
        config.nodes[1].meter_key = Some(config.base.key.clone());
        config.base.escrow = config.base.ledger;
        config.rates.clear();
        config.x402.networks[0].keys = vec![config.keeper.receipt_key.clone()];
    });
    let (code, said, _) = net.run(&ill, &["doctor", "--json"]).await;
    let failed: Vec<&str> = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["outcome"] == "failed")
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(code, 1);
    for name in ["rates", "base_wiring", "node_registry", "node_reachable", "x402_keys", "x402_gas"] {
        assert!(failed.contains(&name), "{name} in {failed:?}");
    }

    explain_and_retry(&net, order).await;
    keys(&net).await;

    drop(keeper);
    let (code, said, _) = net.run(&config, &["status", "--json"]).await;
    assert_eq!((code, said["api"]["running"].as_bool()), (1, Some(false)), "{said}");
    assert_eq!(said["database"]["counts"]["receipts"]["settled"], 1, "the database tells without the keeper");
}

async fn explain_and_retry(net: &Net, order: alloy::primitives::B256) {
    let config = &net.devnet.config;
    let id = order.to_string();
    let (code, said, _) = net.run(config, &["admin", "explain", &id, "--json"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        said["says"][0].as_str().unwrap().contains("settled") || said["says"][0].as_str().unwrap().contains("final")
    );
    assert!(said["rows"]["orders"][0]["request"].as_str().is_none_or(|text| text.ends_with("bytes)")), "not shown");
    let settlement = said["rows"]["receipts"][0]["settlement_id"].as_str().unwrap().to_owned();
    let events: Vec<&str> =
        said["rows"]["events"].as_array().unwrap().iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert!(events.contains(&"OrderCaptured"), "{events:?}");
    let tx_hash = said["rows"]["attempts"][0]["tx_hash"].as_str().unwrap().to_owned();
    let (_, by_settlement, _) = net.run(config, &["admin", "explain", &settlement, "--json"]).await;
    assert_eq!(by_settlement["rows"]["orders"][0]["order_id"], json!(order));
    let (_, by_tx, _) = net.run(config, &["admin", "explain", &tx_hash, "--json"]).await;
    assert_eq!(by_tx["rows"]["attempts"][0]["tx_hash"], json!(tx_hash), "{by_tx}");
    let (code, said, _) = net.run(config, &["admin", "explain", "batch:1", "--json"]).await;
    assert!(code == 0 && said["rows"]["receipts"][0]["settlement_id"] == json!(settlement), "{said}");
    let (code, said, _) = net.run(config, &["admin", "retry", &id, "--json"]).await;
    assert_eq!((code, said["code"].as_str()), (1, Some("nothing_to_do")), "{said}");
    let (code, said, _) = net.run(config, &["admin", "quarantine", &id, "--json"]).await;
    assert_eq!((code, said["code"].as_str()), (1, Some("nothing_to_do")), "{said}");
    let absent = format!("0x{}", "77".repeat(32));
    assert_eq!(net.run(config, &["admin", "explain", &absent, "--json"]).await.0, 1);
    assert_eq!(net.run(config, &["admin", "explain", "0x12", "--json"]).await.0, 2);

    // An order whose only node fails is open until an operator withdraws it.
    let node = &net.devnet.deployment.nodes[0];
    let misbehave = async |mode: &str| {
        let url = format!("{}/devnet/misbehave", node.url);
        let answer = net.http.post(url).json(&json!({ "mode": mode })).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    };
    misbehave("error_500").await;
    let terms = Terms { node: node.id, ..Terms::default() };
    let (stuck, body) = net.order("Who answers me?", terms);
    assert_eq!(net.submit(&body).await.0, 202);
    let stuck_id = stuck.to_string();
    net.until("the order to be put back", async || {
        let (_, said, _) = net.run(config, &["admin", "explain", &stuck_id, "--json"]).await;
        said["says"][0].as_str().unwrap().contains("no_node_answered")
    })
    .await;
    net.until("the order to wait for its next round, and to be let go at once", async || {
        net.run(config, &["admin", "retry", &stuck_id, "--json"]).await.0 == 0
    })
    .await;
    net.until("the order to be withdrawn", async || {
        net.run(config, &["admin", "quarantine", &stuck_id, "--json"]).await.0 == 0
    })
    .await;
    net.reaches(stuck, &["refused"]).await;
    let (_, said, _) = net.run(config, &["admin", "explain", &stuck_id, "--json"]).await;
    assert!(said["says"][0].as_str().unwrap().contains("withdrawn_by_operator"), "{said}");
    misbehave("none").await;
}

async fn keys(net: &Net) {
    let config = &net.devnet.config;
    let (code, made, _) = net.run(config, &["key", "create", "auditor", "--json"]).await;
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(code, 0);
    let (_, listed, _) = net.run(config, &["key", "list", "--json"]).await;
    assert_eq!(listed["keys"][0]["name"], "auditor");
    assert!(listed["keys"][0]["revokedMs"].is_null() && !listed.to_string().contains(&key[3..]), "{listed}");
    assert_eq!(net.run(config, &["key", "revoke", "auditor", "--json"]).await.0, 0);
    assert_eq!(net.run(config, &["key", "revoke", "auditor", "--json"]).await.0, 1, "once");
    let (_, listed, _) = net.run(config, &["key", "list", "--json"]).await;
    assert!(listed["keys"][0]["revokedMs"].is_i64(), "{listed}");
}
