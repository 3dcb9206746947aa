//! `doctor`: everything that a keeper needs to do its work, each with what to do when it is not so.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{At, check, existing, file_of};
use crate::cli::failure::Result;
use crate::cli::output::{Report, table};
use crate::config::Config;
use crate::ctx::Ctx;
use crate::preflight::{self, Check, Outcome};
use crate::store::Store;
use crate::x402::state::Facilitator;

/// Check what a keeper needs: keys, database, chains, contracts, gas, nodes, prices.
#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    at: At,
}

impl Doctor {
    /// Runs every check; a failed one makes the exit code 1.
    pub async fn run(&self) -> Result<Report> {
        let config = self.at.load()?;
        let mut checks = Vec::new();
        let mut note = |name: &'static str, outcome: Outcome| checks.push(Check { name, outcome });
        for problem in check::keys(&config) {
            note("keys", Outcome::Failed(format!("{}: {}", problem.place, problem.text)));
        }
        prices(&config, &mut note);
        let fresh = file_of(&config.keeper.database).is_some_and(|path| !path.exists());
        let store = if fresh {
            let text = "there is no database yet: `quittance run` makes one".to_owned();
            note("database", Outcome::Warning(text));
            Store::open("sqlite::memory:").await?
        } else {
            let store = existing(&config).await?;
            match preflight::database(&store, &config.keeper.database).await {
                Ok(()) => note("database", Outcome::Fine),
                Err(error) => note("database", Outcome::Failed(error.to_string())),
            }
            store
        };
        let mut ctx = Ctx::new(config, store)?;
        match Facilitator::load(&ctx.config) {
            Ok(facilitator) => ctx.x402 = facilitator,
            Err(error) => note("x402", Outcome::Failed(error.to_string())),
        }
        let (chains, _) = preflight::survey(&ctx).await;
        for Check { name, outcome } in chains {
            note(name, outcome);
        }
        for (name, rpc) in [("base_rpc", &ctx.base), ("og_rpc", &ctx.og)] {
            let odd = rpc.survey().await.odd;
            let text = format!("{} names another block than the other endpoints: take it out", odd.join(", "));
            note(name, if odd.is_empty() { Outcome::Fine } else { Outcome::Failed(text) });
        }
        nodes(&ctx, fresh, &mut note).await?;
        ctx.store.close().await;
        Ok(report(&checks))
    }
}

/// Every token that orders may be paid in needs a rate card when we meter.
fn prices(config: &Config, note: &mut impl FnMut(&'static str, Outcome)) {
    let meters = config.nodes.iter().any(|node| node.meter_key.is_some());
    for token in &config.base.tokens {
        if meters && !config.rates.iter().any(|card| card.token == *token) {
            let text =
                format!("no rate card charges in {token}: its orders cannot be metered here, add one to [[rates]]");
            note("rates", Outcome::Failed(text));
        }
    }
    if config.nodes.is_empty() {
        note("nodes", Outcome::Warning("no node is configured: nothing is dispatched, see [[nodes]]".to_owned()));
    }
}

/// Nodes answer, are registered and active, and the meter keys that we hold are theirs.
async fn nodes(ctx: &Ctx, fresh: bool, note: &mut impl FnMut(&'static str, Outcome)) -> Result<()> {
    if !fresh {
        ctx.registry.refresh(&ctx.store, &ctx.config).await?;
    }
    let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    for node in &ctx.config.nodes {
        let known = ctx.registry.node(node.id);
        let mut outcome = match &known {
            None if fresh => Outcome::Warning(format!("{}: not known before the chain was read", node.id)),
            None => Outcome::Failed(format!("{} is not registered on Base: register it, or correct its id", node.id)),
            Some(record) if !record.is_active() => {
                Outcome::Failed(format!("{} is retired, revoked or has no meter key", node.id))
            }
            Some(_) => Outcome::Fine,
        };
        let key = node.meter_key.as_ref().and_then(|source| crate::crypto::load_signer(source).ok());
        let version = known.as_ref().and_then(|record| record.current());
        if let (Some(key), Some(version)) = (key, version)
            && key.address() != version.meter_key
        {
            let text = format!("{}: the meter key is {}, the chain has {}", node.id, key.address(), version.meter_key);
            outcome = Outcome::Failed(format!("{text}: correct nodes.meter_key"));
        }
        note("node_registry", outcome);
        let url = node.url.clone().or_else(|| known.and_then(|record| record.endpoint.clone()));
        let reached = match &url {
            None => Outcome::Warning(format!("{}: OpenGradient's registry names no endpoint: set nodes.url", node.id)),
            // Whatever it answers, somebody is there.
            Some(url) => match http.get(url).send().await {
                Ok(_) => Outcome::Fine,
                Err(error) => Outcome::Failed(format!("{} at {url} does not answer: {}", node.id, error.without_url())),
            },
        };
        note("node_reachable", reached);
    }
    Ok(())
}

fn report(checks: &[Check]) -> Report {
    let spelled = |outcome: &Outcome| match outcome {
        Outcome::Fine => ("ok", String::new()),
        Outcome::Warning(text) => ("warning", text.clone()),
        Outcome::Failed(text) => ("FAILED", text.clone()),
    };
    let ok = !checks.iter().any(|check| matches!(check.outcome, Outcome::Failed(_)));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut list: Vec<Value> = Vec::new();
    for check in checks {
        let (outcome, text) = spelled(&check.outcome);
        let row = vec![check.name.to_owned(), outcome.to_owned(), text.clone()];
        if !rows.contains(&row) {
            rows.push(row);
        }
        list.push(json!({ "check": check.name, "outcome": outcome.to_lowercase(), "message": text }));
    }
    let text = table(&["check", "outcome", "what to do"], &rows, &[]);
    Report { json: json!({ "ok": ok, "checks": list }), text, ok }
}
