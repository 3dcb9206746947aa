//! `reconcile`: what one chain has and the other, or the database, has not.

use clap::Args;
use serde_json::json;

use super::At;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Report, short, table};
use crate::clock::{Clock, unix_seconds};
use crate::ctx::Ctx;
use crate::reconcile::{self, Orphan, Span};

/// Compare both chains with the database.
#[derive(Args, Debug)]
pub struct Reconcile {
    /// From this time on (2026-01-31T12:00:00Z, or unix seconds); default: the first block
    #[arg(long, value_parser = time)]
    from: Option<u64>,
    /// Until this time; default: now
    #[arg(long, value_parser = time)]
    to: Option<u64>,
    /// Seconds that the other side may be behind
    #[arg(long, default_value_t = 1_800)]
    grace: u64,
    #[command(flatten)]
    at: At,
}

fn time(text: &str) -> std::result::Result<u64, String> {
    let seconds = text.parse().ok().or_else(|| unix_seconds(text).and_then(|at| u64::try_from(at).ok()));
    seconds.ok_or_else(|| "a time like 2026-01-31T12:00:00Z, or unix seconds".to_owned())
}

impl Reconcile {
    /// Runs it; an orphan makes the exit code 1.
    pub async fn run(&self) -> Result<Report> {
        let span = Span {
            from: self.from.unwrap_or(0),
            to: self.to.unwrap_or_else(|| Clock::default().now()),
            grace: self.grace,
        };
        if span.from > span.to {
            return Err(Failure::usage("malformed", "--from lies after --to"));
        }
        let (config, store) = self.at.open().await?;
        let ctx = Ctx::new(config, store)?;
        let outcome = reconcile::run(&ctx, span).await;
        ctx.store.close().await;
        let outcome = outcome?;
        let ok = outcome.orphans.is_empty();
        let mut text = format!(
            "{} captures on Base and {} inferences on OpenGradient of this keeper ({} of others)\n{} orphans",
            outcome.captured,
            outcome.recorded,
            outcome.others,
            outcome.orphans.len()
        );
        if !ok {
            let rows: Vec<Vec<String>> = outcome.orphans.iter().map(row).collect();
            text.push_str("\n\n");
            text.push_str(&table(&["kind", "order", "settlement", "transaction", "reason"], &rows, &[]));
            text.push_str("\n\n`quittance admin explain ID` says what is known of one; --json has the whole ids");
        }
        let mut json = serde_json::to_value(&outcome).map_err(|error| Failure::new("failed", error.to_string()))?;
        json["ok"] = json!(ok);
        Ok(Report { json, text, ok })
    }
}

fn row(orphan: &Orphan) -> Vec<String> {
    let id = |id: Option<alloy::primitives::B256>| id.map_or_else(|| "-".to_owned(), |id| short(&id.to_string()));
    let kind = serde_json::to_value(orphan.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    vec![
        kind.unwrap_or_default(),
        id(orphan.order_id),
        id(orphan.settlement_id),
        id(orphan.transaction),
        orphan.reason.clone().unwrap_or_default(),
    ]
}
