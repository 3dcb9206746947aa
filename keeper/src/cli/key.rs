//! `key create|revoke|list`: API keys in a keeper's database; only their hashes are stored.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Failure, Result};
use super::operate::At;
use super::output::{Report, table};
use crate::clock::Clock;
use crate::store::{Store, api_keys};

/// API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it; it cannot be shown again
    Create(Create),
    /// Revoke every key of a name
    Revoke(Revoke),
    /// Show whose keys there are; the keys themselves are not stored
    List(At),
}

/// A new key.
#[derive(Args, Debug)]
pub struct Create {
    /// Whose it is
    name: String,
    /// What it opens: read (receipts and accounts of every payer), completions (metered by the keeper), gateway (settle_data,
    /// heartbeat, and what was used with this key), settle (x402 payments, where `x402.key_required`)
    #[arg(long, value_delimiter = ',', default_values_t = [api_keys::READ.to_owned()],
        value_parser = [api_keys::READ, api_keys::COMPLETIONS, api_keys::GATEWAY, api_keys::SETTLE])]
    scope: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// A name.
#[derive(Args, Debug)]
pub struct Revoke {
    /// Whose keys
    name: String,
    #[command(flatten)]
    at: At,
}

impl KeyCommand {
    /// Runs the subcommand.
    pub async fn run(&self) -> Result<Report> {
        match self {
            Self::Create(args) => args.run().await,
            Self::Revoke(args) => args.run().await,
            Self::List(at) => list(at).await,
        }
    }
}

impl Create {
    async fn run(&self) -> Result<Report> {
        let config = self.at.load()?;
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
        let config = self.at.load()?;
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

async fn list(at: &At) -> Result<Report> {
    let (_, store) = at.open().await?;
    let keys = api_keys::list(&store).await?;
    store.close().await;
    let row = |key: &api_keys::ApiKey| {
        let state = key.revoked_ms.map_or("active".to_owned(), |at| format!("revoked {at}"));
        vec![key.name.clone(), key.scopes.clone(), key.created_ms.to_string(), state]
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let json = keys.iter().map(|key| {
        json!({ "name": key.name, "scopes": key.scopes.split(' ').collect::<Vec<_>>(), "hash": key.hash,
            "createdMs": key.created_ms, "revokedMs": key.revoked_ms })
    });
    let json = json!({ "keys": json.collect::<Vec<_>>() });
    Ok(Report { json, text: table(&["name", "scopes", "created, unix ms", "state"], &rows, &[2]), ok: true })
}
