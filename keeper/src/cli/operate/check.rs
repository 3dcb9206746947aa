//! `config check`: the file, and whether the keys that it names are there.

use clap::Args;
use serde_json::json;

use super::At;
use crate::cli::failure::{Failure, Result};
use crate::cli::output::Report;
use crate::config::{Config, KeySource};
use crate::crypto::load_signer;

/// Check a configuration.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    at: At,
    /// Fail when a key's environment variable is not set; without it that is a warning
    #[arg(long)]
    strict: bool,
}

/// A key that the configuration names, and what is wrong with it.
#[derive(Debug)]
pub struct KeyProblem {
    /// Place in the file.
    pub place: String,
    pub text: String,
    /// Only a variable is missing here; it may be set where the keeper runs.
    pub unset: bool,
}

/// Keys that cannot be loaded. Decrypting a keystore takes about a second each.
pub fn keys(config: &Config) -> Vec<KeyProblem> {
    let mut named = vec![
        ("base.key".to_owned(), &config.base.key),
        ("opengradient.key".to_owned(), &config.opengradient.key),
        ("keeper.receipt_key".to_owned(), &config.keeper.receipt_key),
    ];
    for node in &config.nodes {
        named.extend(node.meter_key.iter().map(|key| (format!("nodes.meter_key of {}", node.id), key)));
    }
    for network in &config.x402.networks {
        let place = format!("x402.networks, chain {}", network.chain_id);
        named.extend(network.keys.iter().map(|key| (format!("{place}, keys"), key)));
        named.extend(network.receiver_authorizer.iter().map(|key| (format!("{place}, receiver_authorizer"), key)));
    }
    let problem = |(place, source): (String, &KeySource)| {
        let error = load_signer(source).err()?;
        let variable = match source {
            KeySource::Env { env } => Some(env),
            KeySource::Keystore { password_env, .. } => password_env.as_ref(),
        };
        let unset = variable.is_some_and(|name| std::env::var_os(name).is_none());
        Some(KeyProblem { place, text: error.to_string(), unset })
    };
    named.into_iter().filter_map(problem).collect()
}

impl Check {
    /// Checks it.
    ///
    /// # Errors
    /// `bad_configuration` with everything that is wrong.
    pub fn run(&self) -> Result<Report> {
        let config = self.at.load()?;
        let problems = keys(&config);
        let bad: Vec<String> = problems
            .iter()
            .filter(|problem| self.strict || !problem.unset)
            .map(|problem| format!("{}: {}", problem.place, problem.text))
            .collect();
        if !bad.is_empty() {
            return Err(Failure::usage("bad_configuration", bad.join("; ")));
        }
        let warnings: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.place, problem.text)).collect();
        let mut facts = vec![("configuration", "ok".to_owned()), ("keeper", config.keeper.id.to_string())];
        facts.extend(warnings.iter().map(|text| ("warning", text.clone())));
        Ok(Report::facts(json!({ "ok": true, "keeper": config.keeper.id, "warnings": warnings }), &facts))
    }
}
