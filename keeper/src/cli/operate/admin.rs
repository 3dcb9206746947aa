//! `admin explain|retry|quarantine ID`: everything about one order, settlement, batch or transaction, and setting it right.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::At;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::Report;
use crate::clock::Clock;
use crate::error::Error;
use crate::store::admin::{self, Subject};
use crate::store::{Store, txs};
use crate::types::TxState;

/// Reason of what an operator took out, in rows and API answers.
const BY_OPERATOR: &str = "withdrawn_by_operator";

/// Look at one thing, or set it right.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Say everything that is known of it, and what it waits for
    Explain(One),
    /// Let it be tried now: an order at its nodes, a receipt's settlement, a recording, a transaction
    Retry(One),
    /// Take it out of the work: an order that is not batched yet, or a transaction that is not signed yet
    Quarantine(One),
}

/// One thing.
#[derive(Args, Debug)]
pub struct One {
    /// Order id, settlement id or transaction hash (0x…), batch:N or tx:N
    id: String,
    #[command(flatten)]
    at: At,
}

impl AdminCommand {
    /// Runs the subcommand.
    pub async fn run(&self) -> Result<Report> {
        let (Self::Explain(one) | Self::Retry(one) | Self::Quarantine(one)) = self;
        let (_, store) = one.at.open().await?;
        let subject = find(&store, &one.id).await?;
        let report = match self {
            Self::Explain(_) => explain(&store, subject).await,
            Self::Retry(_) => retry(&store, subject).await,
            Self::Quarantine(_) => quarantine(&store, subject).await,
        };
        store.close().await;
        report
    }
}

async fn find(store: &Store, id: &str) -> Result<Subject> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| bad_id(id));
    if let Some(text) = id.strip_prefix("batch:") {
        return Ok(Subject::Batch(number(text)?));
    }
    if let Some(text) = id.strip_prefix("tx:") {
        return Ok(Subject::Tx(number(text)?));
    }
    let hash = id.parse().map_err(|_| bad_id(id))?;
    admin::subject(store, hash).await?.ok_or_else(|| {
        Failure::new(
            "not_found",
            format!(
                "this keeper knows no order, settlement or transaction {id}: `quittance reconcile` looks at the chains"
            ),
        )
    })
}

fn bad_id(id: &str) -> Failure {
    Failure::usage("malformed", format!("{id:?} is no id: give 32 bytes as 0x-hexadecimal, batch:N or tx:N"))
}

async fn explain(store: &Store, subject: Subject) -> Result<Report> {
    let rows = admin::rows(store, subject).await?;
    if rows.is_empty() {
        return Err(Failure::new("not_found", "there is no such row".to_owned()));
    }
    let says = sentences(&rows);
    let mut text = says.join("\n");
    for (table, rows) in &rows {
        for row in rows.as_array().into_iter().flatten() {
            text.push_str(&format!("\n\n{table}"));
            for (name, value) in row.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.push_str(&format!("\n  {name:<18} {value}"));
            }
        }
    }
    Ok(Report { json: json!({ "says": says, "rows": rows }), text, ok: true })
}

/// What the rows mean, the latest first.
fn sentences(rows: &Map<String, Value>) -> Vec<String> {
    let all = |table: &str| rows.get(table).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let now_ms = Clock::default().now_ms();
    let due = |row: &Value, name: &str| {
        let wait = row[name].as_i64().unwrap_or(0).saturating_sub(now_ms);
        if wait > 0 { format!("in {} s", wait / 1_000) } else { "now".to_owned() }
    };
    let mut says = Vec::new();
    for order in all("orders") {
        let reason = text(&order, "reason");
        let why = if reason.is_empty() { String::new() } else { format!(", because of {reason}") };
        says.push(match text(&order, "state").as_str() {
            "open" if order["request"].is_null() => {
                "The order is held on Base and its request is not known: hand it in.".to_owned()
            }
            "open" => format!(
                "The order waits for an answer; {} rounds so far{why}; next {}.",
                order["attempts"],
                due(&order, "next_attempt_ms")
            ),
            "dispatched" => format!("The order is at a node, round {}.", order["attempts"]),
            "completed" => "The order is answered and waits for its settlement.".to_owned(),
            "settled" => "The order is settled on Base; its window runs.".to_owned(),
            "final" => "The order is final: the node is paid.".to_owned(),
            "expired" => format!("The order expired without a capture{why}."),
            "reclaimed" => "The order's hold went back to its payer.".to_owned(),
            "refused" => format!("Nobody is paid by this keeper for the order{why}."),
            other => format!("The order is {other}{why}."),
        });
    }
    for completion in all("completions") {
        says.push(match text(&completion, "record_state").as_str() {
            "private" => "Its inference is private: not recorded on OpenGradient.".to_owned(),
            "due" => format!(
                "Its inference is to be recorded on OpenGradient {}, after {} tries.",
                due(&completion, "record_next_ms"),
                completion["record_attempts"]
            ),
            "submitted" => "Its inference is on its way to OpenGradient.".to_owned(),
            "recorded" => "Its inference is recorded on OpenGradient.".to_owned(),
            other => format!("The recording of its inference is {other}."),
        });
        if text(&completion, "state") != "matched" {
            says.push(format!("The completion is {}: no order is charged for it.", text(&completion, "state")));
        }
    }
    for receipt in all("receipts").iter().take(5) {
        says.push(match text(receipt, "state").as_str() {
            "matched" => format!(
                "The receipt waits for its settlement ({}), next {}, after {} tries.",
                text(receipt, "path"),
                due(receipt, "retry_ms"),
                receipt["retries"]
            ),
            "batched" => format!("The receipt is row {} of batch {}.", receipt["batch_index"], receipt["batch_id"]),
            "settled" => format!("The receipt is settled ({}).", text(receipt, "path")),
            other => format!("The receipt is {other}: {}.", text(receipt, "skip_reason")),
        });
    }
    for batch in all("batches") {
        says.push(format!("Batch {} is {}.", batch["batch_id"], text(&batch, "state")));
    }
    for tx in all("transactions") {
        let reason = text(&tx, "reason");
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        says.push(format!("Transaction {} ({}) is {}{why}.", tx["tx_id"], text(&tx, "kind"), text(&tx, "state")));
    }
    says
}

/// What was done, or why nothing could be.
fn outcome(id: &str, done: &[&str], otherwise: &str) -> Result<Report> {
    if done.is_empty() {
        return Err(Failure::new("nothing_to_do", otherwise));
    }
    let facts: Vec<(&str, String)> = done.iter().map(|what| (id, (*what).to_owned())).collect();
    Ok(Report::facts(json!({ "ok": true, "done": done }), &facts))
}

async fn retry(store: &Store, subject: Subject) -> Result<Report> {
    let now_ms = Clock::default().now_ms();
    let mut tx = store.write().await?;
    let mut done = Vec::new();
    let settlement = match subject {
        Subject::Settlement(id) => Some(id),
        Subject::Order(id) => {
            if admin::retry_order(&mut tx, id, now_ms).await? {
                done.push("the order is tried at its nodes now");
            }
            admin::settlement_of(&mut tx, id).await?
        }
        Subject::Tx(id) => {
            if admin::requeue_tx(&mut tx, id, now_ms).await? {
                done.push("the transaction is queued again");
            } else if admin::rebroadcast(&mut tx, id).await? {
                done.push("the transaction is broadcast again");
            }
            None
        }
        Subject::Batch(_) => None,
    };
    if let Some(id) = settlement {
        if admin::retry_receipt(&mut tx, id, now_ms).await? {
            done.push("the receipt is settled or delivered now");
        }
        if admin::retry_record(&mut tx, id, now_ms).await? {
            done.push("the inference is recorded now");
        }
    }
    tx.commit().await.map_err(Error::from)?;
    let otherwise = "nothing of it waits for a later try: `quittance admin explain` says how it stands";
    outcome("retry", &done, otherwise)
}

async fn quarantine(store: &Store, subject: Subject) -> Result<Report> {
    let order = match subject {
        Subject::Order(id) => Some(id),
        Subject::Settlement(id) => admin::order_of(store, id).await?,
        _ => None,
    };
    let now_ms = Clock::default().now_ms();
    let mut tx = store.write().await?;
    let mut done = Vec::new();
    if let Some(id) = order
        && admin::withdraw_order(&mut tx, id, BY_OPERATOR).await?
    {
        done.push("the order is refused and its receipt stays out of batches; whoever has its three signatures can still settle it");
    }
    if let Subject::Tx(id) = subject
        && txs::get(&mut *tx, id).await?.is_some_and(|row| row.state == TxState::Queued)
    {
        txs::quarantine(&mut tx, id, BY_OPERATOR, now_ms).await?;
        done.push("the transaction is not sent; its batch is split, other work is queued anew later");
    }
    tx.commit().await.map_err(Error::from)?;
    let otherwise =
        "it cannot be taken out: it is batched, signed, or at its end; `quittance admin explain` says how it stands";
    outcome("quarantine", &done, otherwise)
}
