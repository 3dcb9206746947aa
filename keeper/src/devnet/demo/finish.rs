//! The end of the demo: receipts, their verification, table, totals, figures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use alloy::providers::Provider;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::chain::{Observed, observe, sums};
use super::checks::{self, Evidence, Receipts};
use super::stage::{CONCURRENCY, Stage, failed, unexpected};
use super::steps::all_orders;
use super::story::{Check, Inference, Report};
use crate::cli::amount;
use crate::cli::output::{short, table};
use crate::error::{Error, Result};
use crate::receipt::ReceiptFile;

/// Waits until every receipt is final and every public inference recorded.
///
/// # Errors
/// `io_failed` naming what is not.
pub async fn receipts(stage: &Stage, patience: Duration) -> Result<BTreeMap<B256, Value>> {
    let orders = all_orders(stage);
    stage.wait_for(&orders, &["final"], patience, "windows passing, nodes being paid").await?;
    let deadline = tokio::time::Instant::now() + patience;
    let fetch = orders.iter().map(|order| async move {
        let state = stage.order(*order).await?;
        let id = settlement_of(&state).ok_or_else(|| unexpected("a final order", &state))?;
        loop {
            let file = stage.api.get(&format!("/receipts/{id}")).await.map_err(failed)?;
            let recorded = file.pointer("/opengradient/state").and_then(Value::as_str).unwrap_or_default();
            let last = file.get("state").and_then(Value::as_str) == Some("final");
            if last && matches!(recorded, "recorded" | "private") {
                return Ok::<_, Error>((id, file));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(unexpected("a receipt that must be final and recorded", &file));
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    stream::iter(fetch).buffer_unordered(CONCURRENCY).try_collect().await
}

/// Settlement id in an order's state.
fn settlement_of(state: &Value) -> Option<B256> {
    state.pointer("/answer/completion/settlementId")?.as_str()?.parse().ok()
}

/// Writes the files and lets the program itself verify them, offline.
///
/// # Errors
/// `io_failed` when it cannot be started.
pub async fn verify(stage: &Stage, receipts: &BTreeMap<B256, Value>) -> Result<Result<String, String>> {
    let dir = stage.devnet.dir.join("receipts");
    std::fs::create_dir_all(&dir)?;
    let mut paths = Vec::with_capacity(receipts.len());
    for (id, file) in receipts {
        let path = dir.join(format!("{id}.json"));
        std::fs::write(&path, file.to_string())?;
        paths.push(path);
    }
    let mut command = tokio::process::Command::new(&stage.program);
    command.args(["receipt", "verify", "--offline"]).args(&paths).env_remove("QUITTANCE_NETWORK");
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    let last = said.lines().last().unwrap_or_default().to_owned();
    Ok(if output.status.success() { Ok(last) } else { Err(said) })
}

/// Looks at both chains and puts the report together.
///
/// # Errors
/// `rpc_failed`, `chain_contradiction`.
pub async fn report(stage: &Stage, receipts: BTreeMap<B256, Value>, started: Instant) -> Result<Report> {
    let verified = verify(stage, &receipts).await?;
    let network = &stage.devnet.deployment.network;
    let (base, og) = (stage.devnet.chains.base.provider(), stage.devnet.chains.opengradient.provider());
    let seen = observe(network, base, og).await?;
    let sums = sums(network, base, &seen.replay()).await?;
    let files: Receipts = receipts
        .iter()
        .map(|(id, value)| {
            let file: ReceiptFile = serde_json::from_value(value.clone())
                .map_err(|error| unexpected(&format!("receipt {id} ({error})"), value))?;
            Ok((*id, file))
        })
        .collect::<Result<_>>()?;
    let evidence = Evidence { stage, seen: &seen, receipts: &files, sums: &sums, verified: &verified };
    let checks = checks::all(&evidence).await;
    let inferences = inferences(stage, &seen, &files).await?;
    let mut captured: BTreeMap<Address, u128> = BTreeMap::new();
    for (_, capture) in seen.captured_by(network.keeper.id) {
        *captured.entry(capture.token).or_default() += capture.amount;
    }
    let text = |units: &BTreeMap<Address, u128>| -> BTreeMap<Address, String> {
        units.iter().map(|(token, amount)| (*token, amount.to_string())).collect()
    };
    let pick = |part: fn(&super::chain::Sums) -> u128| sums.iter().map(|(token, sums)| (*token, part(sums))).collect();
    let totals = json!({
        "inferences": files.len(), "batches": seen.batches.len(), "verified": seen.verified.len(),
        "recorded": seen.recorded.len(), "captured": text(&captured),
        "deposited": text(&pick(|sums| sums.deposited)), "free": text(&pick(|sums| sums.free)),
        "held": text(&pick(|sums| sums.held)), "locked": text(&pick(|sums| sums.locked)),
    });
    let metrics = metrics(stage, &seen, started).await?;
    Ok(Report { inferences, checks, totals, metrics, network: network.clone(), story: stage.story.clone(), receipts })
}

async fn gas_of(stage: &Stage, opengradient: bool, tx: B256) -> Result<u64> {
    let chains = &stage.devnet.chains;
    let chain = if opengradient { &chains.opengradient } else { &chains.base };
    let rpc = |message: String| Error::Rpc { chain_id: chain.chain_id, message };
    let receipt = chain.provider().get_transaction_receipt(tx).await.map_err(|error| rpc(error.to_string()))?;
    Ok(receipt.ok_or_else(|| rpc(format!("no receipt of {tx}")))?.gas_used)
}

async fn inferences(stage: &Stage, seen: &Observed, files: &Receipts) -> Result<Vec<Inference>> {
    let mut gas: BTreeMap<B256, u64> = BTreeMap::new();
    for tx in seen.captured_by(stage.devnet.deployment.network.keeper.id).map(|(_, capture)| capture.tx) {
        if let std::collections::btree_map::Entry::Vacant(place) = gas.entry(tx) {
            let rows = seen.batches.iter().find(|batch| batch.tx == tx).map_or(1, |batch| batch.event.record.rows);
            place.insert(gas_of(stage, false, tx).await? / u64::from(rows.max(1)));
        }
    }
    let mut rows: Vec<Inference> = files
        .values()
        .map(|file| Inference {
            settlement_id: Some(file.settlement_id),
            order_id: file.receipt.payment_id,
            payer: file.receipt.payer,
            node: Some(file.receipt.node_id),
            token: file.receipt.token,
            amount: file.receipt.amount.clone(),
            state: file.state.clone(),
            path: file.base.path.clone(),
            private: !file.receipt.blinding.is_zero(),
            gas: file.base.transaction.and_then(|tx| gas.get(&tx).copied()).unwrap_or(0),
        })
        .collect();
    let story = &stage.story.unanswered;
    let (token, ..) = super::wallets::MONEY[0];
    let (state, gas) = match seen.reclaims.get(&story.order_id) {
        Some((_, _, tx)) => ("reclaimed", gas_of(stage, false, *tx).await?),
        None => ("held", 0),
    };
    rows.push(Inference {
        settlement_id: None,
        order_id: story.order_id,
        payer: story.payer,
        node: None,
        token,
        amount: "0".to_owned(),
        state: state.to_owned(),
        path: "none".to_owned(),
        private: false,
        gas,
    });
    Ok(rows)
}

async fn metrics(stage: &Stage, seen: &Observed, started: Instant) -> Result<Value> {
    let mut batches = Vec::with_capacity(seen.batches.len());
    for batch in &seen.batches {
        let gas = gas_of(stage, false, batch.tx).await?;
        let rows = batch.event.record.rows;
        let finalize = match seen.finalized.get(&batch.event.batchId) {
            Some(tx) => gas_of(stage, false, *tx).await?,
            None => 0,
        };
        batches.push(json!({ "batchId": batch.event.batchId, "rows": rows, "gas": gas,
            "gasPerRow": gas / u64::from(rows.max(1)), "finalizeGas": finalize }));
    }
    let mut record = 0;
    let txs: std::collections::BTreeSet<B256> = seen.recorded.values().copied().collect();
    for tx in &txs {
        record += gas_of(stage, true, *tx).await?;
    }
    let recorded = u64::try_from(seen.recorded.len()).unwrap_or(0).max(1);
    Ok(json!({
        "seconds": started.elapsed().as_secs_f64(),
        "keeperPeakMemoryKiB": stage.peaks,
        "batches": batches,
        "recordGasPerInference": record / recorded,
        "recordTransactions": txs.len(),
    }))
}

/// Table and checks for people.
pub fn shown(report: &Report) -> String {
    let symbol = |token: Address| {
        report
            .network
            .tokens
            .iter()
            .find(|(_, known)| known.address == token)
            .map(|(name, known)| (name, known.decimals))
    };
    let rows: Vec<Vec<String>> = report
        .inferences
        .iter()
        .map(|row| {
            let units = row.amount.parse().unwrap_or(0);
            let amount = match symbol(row.token) {
                Some((name, decimals)) => format!("{} {name}", amount::format(units, decimals)),
                None => row.amount.clone(),
            };
            let id = row.settlement_id.map_or_else(|| "-".to_owned(), |id| short(&id.to_string()));
            let node = row.node.map_or_else(|| "-".to_owned(), |id| short(&id.to_string()));
            let state = if row.private { format!("{} (private)", row.state) } else { row.state.clone() };
            vec![id, short(&row.payer.to_string()), node, amount, state, row.path.clone(), row.gas.to_string()]
        })
        .collect();
    let head = ["settlement", "payer", "node", "amount", "state", "path", "gas"];
    let table = table(&head, &rows, &[3, 6]);
    format!("{table}\n\n{}", checks_shown(&report.checks))
}

fn checks_shown(checks: &[Check]) -> String {
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            vec![if check.ok { "ok" } else { "FAILED" }.to_owned(), check.name.to_owned(), check.detail.clone()]
        })
        .collect();
    table(&["", "check", "what was found"], &rows, &[])
}
