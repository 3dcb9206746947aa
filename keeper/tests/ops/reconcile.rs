//! Money without proof and proof without money are found, on the chains themselves.

use quittance::devnet::demo::wallets::Terms;
use serde_json::json;

use crate::net::{Keeper, Net};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_on_either_chain_are_found() {
    let net = Net::up().await;
    let config = net.devnet.config.clone();
    let _keeper = Keeper::start(&net, &config).await;
    let first = net.serve("Am I paid and proven?", &["settled", "final"]).await;
    let (alone, body) = net.order("And I, who keep my secret?", Terms { private: true, ..Terms::default() });
    assert!(net.submit(&body).await.0 < 300);
    net.reaches(alone, &["settled", "final"]).await;
    let reconcile = async |more: &[&str]| net.run(&config, &[&["reconcile", "--json"], more].concat()).await;
    // Settlement and recording take their time; what is still on its way is told as unfinished or unproven without grace.
    let mut said = json!(null);
    net.until("both chains to agree", async || {
        let (code, now, error) = reconcile(&["--grace", "0"]).await;
        assert!(code < 2, "{now} {error}");
        said = now;
        code == 0
    })
    .await;
    assert_eq!((said["captured"].as_u64(), said["recorded"].as_u64()), (Some(2), Some(1)), "the private one: {said}");
    // A second answer to a paid order: proof that nobody pays for.
    let mut second = net.completion(1, "Am I paid and proven?").await;
    second["orderId"] = json!(first);
    let (status, _, taken) = net.post("/completions", &second, &[]).await;
    assert_eq!((status, taken["state"].as_str()), (200, Some("orphaned")), "{taken}");
    let orphans = |said: &serde_json::Value, kind: &str| -> Vec<serde_json::Value> {
        let all = said["orphans"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|orphan| orphan["kind"] == kind).collect()
    };
    net.until("the orphan to be recorded", async || {
        let (_, now, _) = reconcile(&[]).await;
        said = now;
        !orphans(&said, "recorded_not_paid").is_empty()
    })
    .await;
    assert_eq!(orphans(&said, "recorded_not_paid")[0]["settlementId"], taken["settlementId"]);
    let (code, text, _) = net.run(&config, &["reconcile"]).await;
    assert!(code == 1 && text.as_str().unwrap().contains("recorded_not_paid"), "{text}");
    // Before all of it there is nothing to compare, and a span that ends before it begins is a mistake.
    let (code, said, _) = reconcile(&["--to", "2020-01-01T00:00:00Z"]).await;
    assert_eq!((code, said["captured"].as_u64()), (0, Some(0)), "{said}");
    assert_eq!(reconcile(&["--from", "9", "--to", "8"]).await.0, 2);
    // A database that knows nothing: everything captured in our name is an orphan.
    let empty =
        net.config(|config| config.keeper.database = format!("sqlite:{}", net.devnet.dir.join("e.db").display()));
    assert_eq!(net.run(&empty, &["key", "create", "nobody", "--json"]).await.0, 0, "makes the database");
    let (code, said, _) = net.run(&empty, &["reconcile", "--json"]).await;
    assert_eq!((code, orphans(&said, "captured_unknown").len()), (1, 2), "{said}");
}
