//! The recorder behind `/metrics`, and every series that this keeper has. `docs/operations.md` lists the same, a test compares.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One series.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub name: &'static str,
    pub kind: Kind,
    /// Labels, separated by spaces.
    pub labels: &'static str,
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static str, help: &'static str) -> Series {
    Series { name, kind: Kind::Histogram, labels, help }
}

/// Every series.
pub const SERIES: &[Series] = &[
    counter("quittance_orders_total", "", "Orders taken over HTTP, the same order again included"),
    counter("quittance_completions_total", "", "Completions handed in over HTTP"),
    counter("quittance_settle_data_total", "", "Proofs handed in by gateways, refused ones included"),
    counter(
        "quittance_heartbeats_total",
        "outcome",
        "Heartbeats that passed the checks: relayed, refused by the registry, pending",
    ),
    counter("quittance_proofs_joined_total", "how", "Gateways' proofs whose payment was found: order, payer, window"),
    counter("quittance_proofs_unpaid_total", "", "Gateways' proofs that no payment was found for in time"),
    gauge("quittance_tees", "", "Nodes of OpenGradient's registry that were ever seen"),
    gauge("quittance_tees_enabled", "", "Of them those that are enabled"),
    counter("quittance_refusals_total", "code", "Requests refused, by error code"),
    counter("quittance_limited_total", "route limit", "Requests refused by a rate: payer, key, ip, global"),
    counter("quittance_orders_shed_total", "reason", "Orders refused for lack of room, by what is full"),
    counter(
        "quittance_connections_refused_total",
        "reason",
        "Connections closed for lack of room: in all, for the address",
    ),
    counter("quittance_node_failures_total", "code", "Answers of nodes that were not good"),
    counter("quittance_batches_frozen_total", "", "Batches frozen with their transaction"),
    counter(
        "quittance_batches_quarantined_total",
        "",
        "Batches whose transaction would revert or did, split or given back",
    ),
    counter("quittance_x402_verified_total", "outcome", "Calls of /verify: valid, or the reason why not"),
    counter("quittance_x402_refused_total", "reason", "Calls of /settle without success, pending ones included"),
    counter(
        "quittance_x402_settled_total",
        "scheme outcome",
        "x402 payments with a result: settled, or the reason why not",
    ),
    counter(
        "quittance_x402_searched_total",
        "outcome",
        "x402 payments that somebody else had spent, looked for on the chain: found, or what else",
    ),
    counter("quittance_x402_sponsored_total", "kind", "Gas money that was given to x402 payers: permit, approval"),
    counter(
        "quittance_x402_sponsor_refused_total",
        "limit",
        "x402 payments that were refused because gas money is given out: payer_hour, hour, day",
    ),
    counter("quittance_receipts_skipped_total", "", "Receipts that the chain did not take"),
    counter("quittance_receipts_expired_total", "", "Receipts whose capture deadline passed before the settlement"),
    counter(
        "quittance_receipt_roots_unlike_total",
        "",
        "Batches whose root on the chain is not that of our receipts: never",
    ),
    counter("quittance_orders_expired_total", "", "Orders that nobody answered in time"),
    counter("quittance_challenges_total", "", "Challenges against rows of any batch on the ledger"),
    gauge("quittance_challenges_open", "against", "Challenges without an answer yet: against ours, against others"),
    counter("quittance_batches_unreadable_total", "", "Batches of other keepers whose rows nobody can read"),
    counter("quittance_publications_total", "", "Batches whose rows were published"),
    counter("quittance_publication_failures_total", "", "Uploads of rows that failed and are tried again"),
    counter("quittance_orphans_total", "", "Completions that no order came for"),
    counter("quittance_deliveries_given_up_total", "", "Answers that the paying contract did not take"),
    counter(
        "quittance_record_retries_total",
        "",
        "Inferences whose recording transaction ended without recording them",
    ),
    counter("quittance_loop_restarts_total", "loop", "Loops started again after an error"),
    counter("quittance_rpc_failures_total", "endpoint class", "RPC requests that failed"),
    counter("quittance_chain_reorgs_total", "chain", "Reorganisations that undid blocks we had applied"),
    counter(
        "quittance_chain_rewinds_total",
        "chain",
        "Times that events had to be read again because some were missing",
    ),
    counter("quittance_tx_quarantined_total", "chain", "Transactions taken out because they would revert"),
    counter(
        "quittance_tx_reverts_total",
        "chain kind reason",
        "Reverts by transaction kind and the contract's error; on_chain: mined and reverted",
    ),
    counter("quittance_tx_nonces_lost_total", "chain", "Nonces that a foreign transaction of the same key took"),
    counter("quittance_tx_replaced_total", "chain", "Transactions replaced at a higher fee"),
    counter("quittance_tx_at_fee_cap_total", "chain", "Times that a stuck transaction was at fees.max_fee_wei"),
    gauge("quittance_loop_up", "loop", "1 while the loop runs, 0 while it waits to be started again"),
    gauge("quittance_loop_age_seconds", "loop", "Time since the loop began its last round"),
    gauge("quittance_orders", "state", "Orders by state"),
    gauge("quittance_unsettled", "", "Receipts that are not settled on Base yet"),
    gauge("quittance_unsettled_oldest_seconds", "", "Age of the oldest of them"),
    gauge("quittance_record_waiting", "", "Inferences that OpenGradient does not have yet"),
    gauge("quittance_record_oldest_seconds", "", "Age of the oldest of them; an alarm from 1800"),
    gauge(
        "quittance_queue_depth",
        "queue",
        "What waits or is under way: connections, ingest, orders, completions, dispatch, open_orders",
    ),
    gauge("quittance_queue_capacity", "queue", "The most that each of them takes"),
    gauge("quittance_store_lag_seconds", "", "How long the running commit takes so far, or the last one took"),
    gauge("quittance_limit_subjects", "", "Callers whose use is remembered"),
    gauge("quittance_chain_block", "chain level", "Block that was read: latest, safe, finalized"),
    gauge("quittance_chain_age_seconds", "chain", "Time since the chain was read last"),
    gauge("quittance_rpc_up", "chain endpoint", "1 while the endpoint answers"),
    gauge("quittance_rpc_block", "chain endpoint", "Latest block of the endpoint"),
    gauge("quittance_rpc_disagreement", "chain", "Endpoints whose block differs from most others' at the same height"),
    gauge("quittance_signer_balance_ether", "chain", "What the transaction key has for gas"),
    gauge("quittance_tx_queued", "chain", "Transactions without a nonce yet"),
    gauge("quittance_tx_in_flight", "chain", "Transactions sent and not mined"),
    gauge("quittance_tx_oldest_seconds", "chain", "Age of the oldest of both"),
    gauge("quittance_tx_paused", "chain", "1 while there is not enough gas money"),
    gauge("quittance_x402_key_balance_ether", "chain key", "What a key that settles x402 payments has for gas"),
    gauge("quittance_x402_sponsored_ether", "chain", "Gas money that was given to x402 payers within a day"),
    gauge("quittance_x402_sponsor_budget_ether", "chain", "Gas money that x402 payers may be given within a day"),
    gauge("quittance_x402_waiting", "", "x402 payments that wait for a transaction"),
    gauge("quittance_memory_bytes", "", "Resident memory of the process"),
    histogram("quittance_batch_rows", "", "Rows of a frozen batch"),
    histogram("quittance_chain_reorg_depth_blocks", "chain", "Blocks that a reorganisation undid"),
];

/// Upper bounds of histograms of counts.
const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 256.0];

/// Installs the recorder for this process. Series without labels are there from the start, so that dashboards show them before
/// the first event.
///
/// # Errors
/// `bad_configuration` when there is one already.
pub fn install() -> Result<PrometheusHandle> {
    let failed = |error: metrics_exporter_prometheus::BuildError| Error::Config(format!("metrics: {error}"));
    let mut builder = PrometheusBuilder::new();
    for series in SERIES.iter().filter(|series| series.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(series.name.to_owned()), ROWS).map_err(failed)?;
    }
    let handle = builder.install_recorder().map_err(failed)?;
    for Series { name, kind, labels, help } in SERIES {
        match kind {
            Kind::Counter => ::metrics::describe_counter!(*name, *help),
            Kind::Gauge => ::metrics::describe_gauge!(*name, *help),
            Kind::Histogram => ::metrics::describe_histogram!(*name, *help),
        }
        match kind {
            _ if !labels.is_empty() => {}
            Kind::Counter => ::metrics::counter!(*name).absolute(0),
            Kind::Gauge => ::metrics::gauge!(*name).set(0.0),
            Kind::Histogram => drop(::metrics::histogram!(*name)),
        }
    }
    Ok(handle)
}

/// The table of all series as the documentation has it.
pub fn table() -> String {
    let mut text = String::from("| series | kind | labels | what it says |\n|---|---|---|---|\n");
    for Series { name, kind, labels, help } in SERIES {
        let kind = format!("{kind:?}").to_lowercase();
        let labels = labels.replace(' ', ", ");
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
    }

    /// Everything in a text that looks like a series of ours. Histograms have series of their own for their parts.
    fn named(text: &str) -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = words.filter(|word| word.starts_with("quittance_") && word.len() > "quittance_".len());
        ours.map(|word| {
            let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| word.strip_suffix(part));
            let of_histogram = |name: &&str| SERIES.iter().any(|s| s.name == *name && s.kind == Kind::Histogram);
            part.filter(of_histogram).unwrap_or(word).to_owned()
        })
        .collect()
    }

    fn known() -> BTreeSet<String> {
        SERIES.iter().map(|series| series.name.to_owned()).collect()
    }

    fn sources(dir: &Path, found: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") && path != root().join("src/metrics.rs") {
                found.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn the_code_sets_every_series_and_no_other() {
        let mut text = String::new();
        sources(&root().join("src"), &mut text);
        // Crates, files and other names of ours that are no series.
        let quoted: BTreeSet<String> = named(&text)
            .into_iter()
            .filter(|name| text.contains(&format!("\"{name}\"")) && name != "quittance_bindings")
            .collect();
        assert_eq!(quoted, known(), "left: set in the code, right: in metrics::SERIES");
    }

    #[test]
    fn the_documentation_lists_the_same() {
        let path = root().join("docs/operations.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once("<!-- series -->\n").unwrap();
        let (listed, tail) = rest.split_once("<!-- series: end -->").unwrap();
        if std::env::var("QUITTANCE_WRITE_DOCS").is_ok() {
            let text = format!("{head}<!-- series -->\n{}<!-- series: end -->{tail}", table());
            std::fs::write(&path, text).unwrap();
            return;
        }
        assert_eq!(listed, table(), "run the tests with QUITTANCE_WRITE_DOCS=1 and commit keeper/docs/operations.md");
    }

    #[test]
    fn dashboard_and_alerts_name_series_that_exist() {
        for file in ["dashboard.json", "alerts.yml"] {
            let text = std::fs::read_to_string(root().join("../ops").join(file)).unwrap();
            let unknown: Vec<String> = named(&text).difference(&known()).cloned().collect();
            assert!(unknown.is_empty(), "{file} names {unknown:?}");
            assert!(named(&text).len() > 10, "{file} is about this keeper");
        }
        let text = std::fs::read_to_string(root().join("../ops/dashboard.json")).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(
            panels
                .iter()
                .all(|panel| panel["targets"].as_array().is_some_and(|t| !t.is_empty()) || panel["type"] == "row")
        );
    }
}
