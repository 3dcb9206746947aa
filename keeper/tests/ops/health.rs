//! Health and metrics of the real keeper.

use std::collections::BTreeSet;

use quittance::ingest::QUEUE;
use quittance::metrics::{Kind, SERIES};

use crate::net::{Keeper, Net};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loop_is_alive_and_metrics_are_the_documented_ones() {
    let net = Net::up().await;
    // A second endpoint that answers the same, and one that does not answer.
    let config = net.config(|config| {
        let base = config.base.rpc[0].replace("127.0.0.1", "localhost");
        config.base.rpc.push(base);
        config.opengradient.rpc.push("http://127.0.0.1:1".to_owned());
    });
    let _keeper = Keeper::start(&net, &config).await;
    net.serve("Is it measured?", &["settled", "final"]).await;
    let (status, live) = net.get("/livez").await;
    assert_eq!(status, 200, "{live}");
    let loops: BTreeSet<&str> = live["loops"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    let expected = [
        "dispatch",
        "disputes",
        "finish",
        "ingest",
        "join",
        "limits",
        "observe",
        "publish",
        "relay",
        "settle",
        "tees",
        "txs_base",
        "txs_opengradient",
        "txs_x402_8453_0",
        "watch_base",
        "watch_opengradient",
        "x402_8453",
        "x402_aside_8453",
    ];
    assert!(BTreeSet::from(expected).is_subset(&loops), "{loops:?}");

    let mut text = String::new();
    let value = |text: &str, series: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    net.until("endpoints to be compared", async || {
        text = net.get("/metrics").await.1.as_str().unwrap().to_owned();
        value(&text, "quittance_rpc_disagreement{chain=\"opengradient\"}").is_some()
            && value(&text, "quittance_unsettled_oldest_seconds") == Some(0.0)
    })
    .await;
    assert_eq!(value(&text, "quittance_rpc_disagreement{chain=\"base\"}"), Some(0.0));
    assert_eq!(value(&text, "quittance_rpc_up{chain=\"opengradient\",endpoint=\"127.0.0.1:1\"}"), Some(0.0));
    assert!(value(&text, "quittance_signer_balance_ether{chain=\"base\"}").is_some_and(|ether| ether > 0.1), "{text}");
    assert_eq!(
        value(&text, "quittance_queue_capacity{queue=\"ingest\"}"),
        Some(f64::from(u32::try_from(QUEUE).unwrap()))
    );
    assert!(value(&text, "quittance_orders_total").is_some_and(|n| n >= 1.0));
    assert!(value(&text, "quittance_memory_bytes").is_some_and(|bytes| bytes > 1e6));

    // What is emitted is documented, and what is documented without labels is there from the start.
    let emitted: BTreeSet<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let documented: BTreeSet<(&str, &str)> = SERIES
        .iter()
        .map(|series| {
            let kind = match series.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            (series.name, kind)
        })
        .collect();
    assert!(emitted.is_subset(&documented), "not documented: {:?}", emitted.difference(&documented));
    let bare: BTreeSet<&str> = SERIES.iter().filter(|s| s.labels.is_empty()).map(|series| series.name).collect();
    let names: BTreeSet<&str> = emitted.iter().map(|(name, _)| *name).collect();
    assert!(bare.is_subset(&names), "missing: {:?}", bare.difference(&names));
}
