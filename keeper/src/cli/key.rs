//! `key create|revoke`: API keys in a keeper's database; only their hashes are stored.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Failure, Result};
use super::output::Report;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Store, api_keys};

/// API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it; it cannot be shown again
    Create(Create),
    /// Revoke every key of a name
    Revoke(Revoke),
}

/// A new key.
#[derive(Args, Debug)]
pub struct Create {
    /// Whose it is
    name: String,
    /// What it opens: read (receipts and accounts of every payer), completions (metered by the keeper)
    #[arg(long, value_delimiter = ',', default_values_t = [api_keys::READ.to_owned()],
        value_parser = [api_keys::READ, api_keys::COMPLETIONS])]
    scope: Vec<String>,
    /// The keeper's configuration (TOML)
    #[arg(short, long, default_value = "quittance.toml", value_name = "FILE")]
    config: PathBuf,
}

/// A name.
#[derive(Args, Debug)]
pub struct Revoke {
    /// Whose keys
    name: String,
    /// The keeper's configuration (TOML)
    #[arg(short, long, default_value = "quittance.toml", value_name = "FILE")]
    config: PathBuf,
}

impl KeyCommand {
    /// Runs the subcommand.
    pub async fn run(&self) -> Result<Report> {
        match self {
            Self::Create(args) => args.run().await,
            Self::Revoke(args) => args.run().await,
        }
    }
}

impl Create {
    async fn run(&self) -> Result<Report> {
        let config = Config::load(&self.config)?;
        let store = Store::open(&config.keeper.database).await?;
        let key = format!("qk_{}", hex::encode(rand::random::<[u8; 32]>()));
        let scopes = self.scope.join(" ");
        let mut tx = store.write().await?;
        api_keys::insert(&mut tx, &key, &self.name, &scopes, Clock::default().now_ms()).await?;
        tx.commit().await.map_err(crate::error::Error::from)?;
        store.close().await;
        let json = json!({ "name": self.name, "key": key, "scopes": self.scope });
        Ok(Report::facts(json, &[("key", key), ("scopes", scopes)]))
    }
}

impl Revoke {
    async fn run(&self) -> Result<Report> {
        let config = Config::load(&self.config)?;
        let store = Store::open(&config.keeper.database).await?;
        let mut tx = store.write().await?;
        let revoked = api_keys::revoke(&mut tx, &self.name, Clock::default().now_ms()).await?;
        tx.commit().await.map_err(crate::error::Error::from)?;
        store.close().await;
        if revoked == 0 {
            return Err(Failure::new("not_found", format!("{} has no key that is not revoked", self.name)));
        }
        Ok(Report::facts(json!({ "name": self.name, "revoked": revoked }), &[("revoked", revoked.to_string())]))
    }
}
