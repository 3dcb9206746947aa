//! `status`: how a keeper stands, from its API and its database; of the database alone when it does not run.

use clap::Args;
use serde_json::{Value, json};

use super::{At, url_of};
use crate::chain::Side;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Report, table};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::operations::{self, Table};
use crate::store::{Store, batches, evidence, records};

/// Show how a keeper stands.
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    at: At,
    /// Where the keeper is; default: where the configuration has it listen
    #[arg(long)]
    url: Option<String>,
}

impl Status {
    /// Runs it; a keeper that is not ready, or not there, is reported and makes the exit code 1.
    pub async fn run(&self) -> Result<Report> {
        let (config, store) = self.at.open().await?;
        let url = self.url.clone().unwrap_or_else(|| url_of(&config.api.listen));
        let api = api(&url).await;
        let database = database(&config, &store).await?;
        store.close().await;
        let ready = api["ready"] == true;
        let text = text(&url, &api, &database);
        Ok(Report { json: json!({ "ok": ready, "url": url, "api": api, "database": database }), text, ok: ready })
    }
}

/// What the running keeper says of itself.
async fn api(url: &str) -> Value {
    let Ok(client) = reqwest::Client::builder().timeout(std::time::Duration::from_secs(10)).build() else {
        return Value::Null;
    };
    let get =
        async |path: &str| -> Option<Value> { client.get(format!("{url}{path}")).send().await.ok()?.json().await.ok() };
    let Some(ready) = get("/readyz").await else {
        return json!({ "running": false, "ready": false, "reasons": ["no keeper answers there: start it with `quittance run`"] });
    };
    let live = get("/livez").await.unwrap_or_default();
    json!({
        "running": true,
        "ready": ready["ready"],
        "reasons": ready["reasons"],
        "warnings": ready["warnings"],
        "alive": live["alive"],
        "loops": live["loops"],
    })
}

/// What the database says.
async fn database(config: &Config, store: &Store) -> Result<Value> {
    let now_ms = Clock::default().now_ms();
    let age = |oldest: Option<i64>| oldest.map(|oldest| now_ms.saturating_sub(oldest).max(0) / 1_000);
    let mut counts = serde_json::Map::new();
    for kind in Table::ALL {
        let states = operations::states(store, kind).await?;
        counts.insert(kind.as_str().to_owned(), states.into_iter().map(|(state, n)| (state, json!(n))).collect());
    }
    let mut chains = Vec::new();
    for (side, chain_id) in [(Side::Base, config.base.chain_id), (Side::OpenGradient, config.opengradient.chain_id)] {
        let head = batches::head(store, chain_id).await?;
        chains.push(json!({
            "chain": side.as_str(),
            "chainId": chain_id,
            "block": head.map(|head| head.number),
            "safe": head.map(|head| head.safe),
            "finalized": head.map(|head| head.finalized),
            "readSecondsAgo": age(evidence::last_read_ms(store, chain_id).await?),
            "oldestTransactionSeconds": age(operations::oldest_tx(store, chain_id).await?),
        }));
    }
    let unsettled = operations::unsettled(store).await?;
    let unrecorded = records::backlog(store).await?;
    let roles: Vec<Value> = operations::roles(store)
        .await?
        .iter()
        .map(|role| {
            json!({ "name": role.name, "owner": role.owner, "epoch": role.epoch, "beat": role.beat, "held": !role.owner.is_empty() })
        })
        .collect();
    Ok(json!({
        "chains": chains,
        "counts": counts,
        "unsettled": { "receipts": unsettled.waiting, "oldestSeconds": age(unsettled.oldest_ms) },
        "unrecorded": { "inferences": unrecorded.waiting, "oldestSeconds": age(unrecorded.oldest_ms) },
        "roles": roles,
    }))
}

fn text(url: &str, api: &Value, database: &Value) -> String {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let state = match (api["running"] == true, api["ready"] == true) {
        (false, _) => "not running",
        (true, true) => "ready",
        (true, false) => "NOT READY",
    };
    let mut lines = vec![format!("keeper at {url}: {state}")];
    lines.extend(list(&api["reasons"]).into_iter().map(|reason| format!("  reason   {reason}")));
    lines.extend(list(&api["warnings"]).into_iter().map(|warning| format!("  warning  {warning}")));
    let rows: Vec<Vec<String>> = database["chains"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|chain| {
            ["chain", "block", "safe", "finalized", "readSecondsAgo", "oldestTransactionSeconds"]
                .map(|name| cell(&chain[name]))
                .to_vec()
        })
        .collect();
    let head = ["chain", "block", "safe", "finalized", "read, s ago", "oldest tx, s"];
    lines.extend([String::new(), table(&head, &rows, &[1, 2, 3, 4, 5]), String::new()]);
    let rows: Vec<Vec<String>> = database["counts"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, states)| {
            let states = states.as_object().into_iter().flatten().map(|(state, n)| format!("{state} {n}"));
            vec![name.clone(), states.collect::<Vec<_>>().join(", ")]
        })
        .collect();
    lines.push(table(&["rows", "by state"], &rows, &[]));
    lines.push(String::new());
    for (what, name, unit) in
        [("unsettled on Base", "unsettled", "receipts"), ("unrecorded on OpenGradient", "unrecorded", "inferences")]
    {
        let one = &database[name];
        lines.push(format!("{what}: {} {unit}, oldest {} s", cell(&one[unit]), cell(&one["oldestSeconds"])));
    }
    lines.join("\n")
}

/// A configuration that names no reachable keeper is the caller's mistake only when it says where.
impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::new("keeper_unreachable", error.to_string())
    }
}
