//! The log of one inference, from its order to both chains, followed by its ids alone.

use serde_json::Value;

use crate::net::{Keeper, Net};

/// The log without a last line that is still being written.
fn written(net: &Net) -> String {
    let mut text = net.log();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_inference_can_be_followed_through_the_log() {
    let net = Net::up().await;
    let config = net.devnet.config.clone();
    let _keeper = Keeper::start_with(&net, &config, &["--log", "json", "--trail"]).await;
    let order = net.serve("Where have I been?", &["settled", "final"]).await.to_string();
    // A step that names these values.
    let step = |name: &str, with: &[(&str, &str)]| -> Option<Value> {
        let text = written(&net);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().map(|line| line["fields"].clone()).find(|fields| {
            fields["step"] == name
                && with.iter().all(|(key, value)| fields[*key].to_string().trim_matches('"') == *value)
        })
    };
    let text = |step: &Value, key: &str| step[key].to_string().trim_matches('"').to_owned();
    step("taken", &[("order", &order)]).unwrap();
    step("dispatched", &[("order", &order)]).unwrap();
    let answered = step("answered", &[("order", &order)]).unwrap();
    let settlement = text(&answered, "settlement");
    let batched = step("batched", &[("order", &order), ("settlement", &settlement)]).unwrap();
    let settled = step("settled", &[("order", &order), ("batch_id", &text(&batched, "batch_id"))]).unwrap();
    // A slow machine may have replaced the first envelope: the one that settled was sent all the same.
    let sent = [("tx", text(&settled, "tx")), ("tx_id", text(&batched, "tx_id")), ("chain", "base".to_owned())];
    step("sent", &sent.each_ref().map(|(key, value)| (*key, value.as_str()))).unwrap();
    net.until("the inference to be recorded", async || step("recorded", &[("settlement", &settlement)]).is_some())
        .await;
    let recorded = step("recorded", &[("settlement", &settlement)]).unwrap();
    let sent = step("sent", &[("tx", &text(&recorded, "tx")), ("chain", "opengradient")]).unwrap();
    step("recording", &[("settlement", &settlement), ("tx_id", &text(&sent, "tx_id"))]).unwrap();
    // Every line of the log is one JSON object, but for the one that scripts wait for.
    let log = written(&net);
    let plain: Vec<&str> = log.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(plain.len() == 1 && plain[0].starts_with("listening on http://"), "{plain:?}");
}
