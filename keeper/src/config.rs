//! The keeper's configuration: one TOML file, unknown keys refused, secrets only by reference to environment or keystore.

pub mod gateway;
pub mod limits;
pub mod x402;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use self::gateway::Gateway;
use self::limits::Limits;
use self::x402::X402;
use crate::error::{Error, Result};
use crate::publish::place::Publish;

/// Everything `quittance run` needs to know.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub keeper: Keeper,
    pub base: Base,
    pub opengradient: OpenGradient,
    #[serde(default)]
    pub api: Api,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub batch: Batch,
    #[serde(default)]
    pub dispatch: Dispatch,
    #[serde(default)]
    pub fees: Fees,
    /// OpenGradient's gateways.
    #[serde(default)]
    pub gateway: Gateway,
    /// Challenges against batches of other keepers.
    #[serde(default)]
    pub disputes: Disputes,
    /// Where the rows of batches are published; nowhere when absent (they are in Base's calldata all the same).
    #[serde(default)]
    pub publish: Option<Publish>,
    /// Networks on which x402 payments are settled.
    #[serde(default)]
    pub x402: X402,
    /// Nodes that this keeper may send requests to or whose meter key it holds.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// Rate cards; the first that fits node, model and token counts.
    #[serde(default)]
    pub rates: Vec<RateCard>,
}

/// Who this keeper is and where it keeps its state.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Keeper {
    /// Id in the keeper registry on Base.
    pub id: B256,
    /// `sqlite:PATH` or `postgres://…`; overridden by the environment's `DATABASE_URL`.
    pub database: String,
    /// Reclaim expired holds of orders that we know, so that payers get their money back without lifting a finger.
    #[serde(default = "yes")]
    pub auto_reclaim: bool,
    /// Signs receipts (EIP-712) as this keeper; any hot key of the registry.
    pub receipt_key: KeySource,
    /// Milliseconds that a stop waits for answers of nodes; the rest of it takes 15 seconds at most.
    #[serde(default = "ten_seconds")]
    pub drain_ms: u64,
}

/// Base: payments.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    pub chain_id: u64,
    /// Tried in order; transactions go to all of them.
    pub rpc: Vec<String>,
    pub escrow: Address,
    pub ledger: Address,
    pub dispute_game: Address,
    pub node_registry: Address,
    pub keeper_registry: Address,
    /// Block in which the contracts were deployed; events are read from here.
    pub start_block: u64,
    /// Hot key that posts batches and pays gas.
    pub key: KeySource,
    /// Milliseconds between looks at the chain.
    #[serde(default = "one_second")]
    pub tick_ms: u64,
    /// Tokens that orders may be paid in.
    pub tokens: Vec<Address>,
    /// Transactions in flight at most.
    #[serde(default = "four")]
    pub in_flight: u32,
}

/// OpenGradient: proof.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OpenGradient {
    pub chain_id: u64,
    pub rpc: Vec<String>,
    pub inbox: Address,
    /// OpenGradient's TEE registry; names the nodes' endpoints.
    pub tee_registry: Address,
    pub start_block: u64,
    /// Pays gas for recording inferences.
    pub key: KeySource,
    #[serde(default = "one_second")]
    pub tick_ms: u64,
    /// Cosmos nodes refuse nonce gaps: one at a time.
    #[serde(default = "one")]
    pub in_flight: u32,
    /// Inferences in one recording transaction at most.
    #[serde(default = "twenty")]
    pub record_rows: u32,
}

/// A private key, never in the file itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum KeySource {
    /// Hex private key in an environment variable.
    Env { env: String },
    /// Encrypted keystore (version 3) and where its password is.
    Keystore { keystore: PathBuf, password_file: Option<PathBuf>, password_env: Option<String> },
}

/// HTTP API.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address to listen on.
    pub listen: String,
    /// Host (and port) that payers name when they sign in to read (EIP-4361); empty: the address to listen on.
    pub domain: String,
    /// Serve receipts and accounts without key or signature: a devnet only.
    pub open_reads: bool,
    /// Bytes of one order or completion.
    pub max_body: usize,
    /// Bytes of a batch of completions.
    pub max_batch_body: usize,
    /// Milliseconds that `POST /orders` waits for the answer before it turns into 202.
    pub wait_ms: u64,
    /// Milliseconds without a finished round after which a loop is stuck and `/livez` fails; loops that talk to a chain get
    /// three times as long.
    pub stuck_ms: u64,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4021".to_owned(),
            domain: String::new(),
            open_reads: false,
            max_body: 64 * 1024,
            max_batch_body: 1024 * 1024,
            wait_ms: 55_000,
            stuck_ms: 120_000,
        }
    }
}

/// When a batch is closed: whichever comes first.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Rows at most; the contract takes 256.
    pub max_rows: u32,
    /// Milliseconds the oldest receipt waits.
    pub max_age_ms: u64,
    /// Token units that wait at most, decimal text per token address.
    pub max_value: BTreeMap<Address, String>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_rows: 100, max_age_ms: 30_000, max_value: BTreeMap::new() }
    }
}

/// How requests are sent to nodes, and which orders are served.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dispatch {
    /// Milliseconds that a node gets for one answer.
    pub timeout_ms: u64,
    /// Requests at nodes at the same time.
    pub concurrency: u32,
    /// Milliseconds before an order that no node answered is tried again.
    pub retry_ms: u64,
    /// Seconds before the capture deadline after which an order is no longer sent to a node.
    pub deadline_margin: u64,
    /// Unsecured credit per payer and token beyond holds and locks, decimal token units.
    pub credit: BTreeMap<Address, String>,
    /// Seconds that a completion's timestamp may lie in the past / in the future.
    pub max_age: u64,
    pub max_ahead: u64,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            timeout_ms: 30_000,
            concurrency: 32,
            retry_ms: 2_000,
            deadline_margin: 30,
            credit: BTreeMap::new(),
            max_age: 3_600,
            max_ahead: 300,
        }
    }
}

/// Looking behind the batches of other keepers. Challenges are answered in any case.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disputes {
    /// Challenge them; otherwise their rows are only compared with the ledger's roots.
    pub challenge: bool,
    /// Units of money in each batch that are challenged, at random.
    pub units: u32,
    /// Wei of bonds that may be out at the same time, decimal text.
    pub max_stake: String,
}

impl Default for Disputes {
    fn default() -> Self {
        Self { challenge: false, units: 1, max_stake: "50000000000000000".to_owned() }
    }
}

/// What transactions may cost.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fees {
    /// Wei per gas at most, any chain.
    pub max_fee_wei: u64,
    /// Least tip in wei.
    pub min_tip_wei: u64,
    /// Milliseconds before a transaction is sent again unchanged.
    pub rebroadcast_ms: u64,
    /// Milliseconds before a transaction is replaced at a higher fee.
    pub bump_ms: u64,
}

impl Default for Fees {
    fn default() -> Self {
        Self { max_fee_wei: 5_000_000_000, min_tip_wei: 1_000_000, rebroadcast_ms: 3_000, bump_ms: 6_000 }
    }
}

/// A node as this keeper knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub id: B256,
    /// Base URL; without it the endpoint that OpenGradient's registry names.
    pub url: Option<String>,
    /// The node's meter key, when this keeper meters for it.
    pub meter_key: Option<KeySource>,
}

/// Price of a model at a node in one token.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateCard {
    /// Version that receipts carry.
    pub version: String,
    /// `None`: every node.
    pub node: Option<B256>,
    /// `None`: every model.
    pub model: Option<String>,
    pub token: Address,
    /// Token units per million input and output tokens, decimal text.
    pub input: String,
    pub output: String,
}

impl Config {
    /// Reads and checks a file; the environment's `DATABASE_URL` overrides the database.
    ///
    /// # Errors
    /// `bad_configuration` with the place in the file or the rule that does not hold.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Config(format!("cannot read {}: {error}", path.display())))?;
        let mut config: Self =
            toml::from_str(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
        if let Ok(url) = std::env::var("DATABASE_URL") {
            config.keeper.database = url;
        }
        config.check()?;
        Ok(config)
    }

    /// The rules that types cannot say.
    ///
    /// # Errors
    /// `bad_configuration` naming the first rule that does not hold.
    pub fn check(&self) -> Result<()> {
        let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(Error::Config(text.to_owned())) };
        rule(!self.base.rpc.is_empty(), "base.rpc needs at least one URL")?;
        rule(!self.opengradient.rpc.is_empty(), "opengradient.rpc needs at least one URL")?;
        rule(self.keeper.id != B256::ZERO, "keeper.id must not be zero: register the keeper first")?;
        rule(!self.base.tokens.is_empty(), "base.tokens needs at least one token")?;
        rule((1..=256).contains(&self.batch.max_rows), "batch.max_rows must be from 1 to 256")?;
        rule(self.base.in_flight > 0 && self.opengradient.in_flight > 0, "in_flight must be at least 1")?;
        rule(self.opengradient.record_rows > 0, "opengradient.record_rows must be at least 1")?;
        rule(self.dispatch.concurrency > 0, "dispatch.concurrency must be at least 1")?;
        self.limits.check()?;
        self.x402.check(&self.base)?;
        rule(self.disputes.max_stake.parse::<u128>().is_ok(), "disputes.max_stake must be a whole number of wei")?;
        for (token, amount) in self.dispatch.credit.iter().chain(&self.batch.max_value) {
            rule(amount.parse::<u128>().is_ok(), &format!("{token}: {amount:?} is not a whole number of token units"))?;
        }
        for card in &self.rates {
            for rate in [&card.input, &card.output] {
                rule(rate.parse::<u128>().is_ok(), &format!("rates: {rate:?} is not a whole number of token units"))?;
            }
        }
        Ok(())
    }
}

const fn yes() -> bool {
    true
}
const fn one_second() -> u64 {
    1_000
}
const fn ten_seconds() -> u64 {
    10_000
}
const fn one() -> u32 {
    1
}
const fn four() -> u32 {
    4
}
const fn twenty() -> u32 {
    20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_is_valid() {
        let config: Config = toml::from_str(include_str!("../quittance.example.toml")).unwrap();
        config.check().unwrap();
        assert_eq!(config.rates.len(), 2);
        assert_eq!(config.x402.networks.len(), 1);
        assert!(!config.api.open_reads, "an example must not open receipts to everyone");
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let example = include_str!("../quittance.example.toml");
        assert!(toml::from_str::<Config>(&example.replace("max_rows = 100", "max_row = 100")).is_err());
        let config: Config = toml::from_str(&example.replace("max_rows = 100", "max_rows = 257")).unwrap();
        assert!(config.check().is_err());
    }
}
