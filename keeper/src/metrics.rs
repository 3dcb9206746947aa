//! The recorder behind `/metrics`, and what its figures mean.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};

/// Counters of this keeper's loops; they start at zero so that dashboards show them before the first event.
const COUNTERS: &[(&str, &str)] = &[
    ("quittance_batches_frozen_total", "Batches frozen with their transaction"),
    ("quittance_batches_quarantined_total", "Batches whose transaction would revert or did, split or given back"),
    ("quittance_receipts_skipped_total", "Receipts that the chain did not take"),
    ("quittance_receipts_expired_total", "Receipts whose order's capture deadline passed before the settlement"),
    ("quittance_orders_expired_total", "Orders that nobody answered in time"),
    ("quittance_orphans_total", "Completions that no order came for"),
    ("quittance_deliveries_given_up_total", "Answers that the paying contract did not take"),
    ("quittance_record_retries_total", "Inferences whose recording transaction ended without recording them"),
    ("quittance_loop_restarts_total", "Loops started again after an error, by loop"),
];

/// Gauges and histograms.
const OTHERS: &[(&str, &str)] = &[
    ("quittance_record_waiting", "Inferences that OpenGradient does not have yet"),
    ("quittance_record_oldest_seconds", "Age of the oldest of them; an alarm from 1800"),
    ("quittance_loop_up", "1 while the loop runs, 0 while it waits to be started again, by loop"),
    ("quittance_batch_rows", "Rows of a frozen batch"),
];

/// Upper bounds of histograms of counts.
const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 256.0];

/// Installs the recorder for this process.
///
/// # Errors
/// `bad_configuration` when there is one already.
pub fn install() -> Result<PrometheusHandle> {
    let failed = |error: metrics_exporter_prometheus::BuildError| Error::Config(format!("metrics: {error}"));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("quittance_batch_rows".to_owned()), ROWS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(failed)?;
    for (name, help) in COUNTERS {
        ::metrics::describe_counter!(*name, *help);
        if *name != "quittance_loop_restarts_total" {
            ::metrics::counter!(*name).absolute(0);
        }
    }
    for (name, help) in OTHERS {
        ::metrics::describe_gauge!(*name, *help);
    }
    Ok(handle)
}
