//! Where the contracts are: a small file, or flags and environment; and whose key acts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use alloy::primitives::{Address, B256};
use alloy::providers::DynProvider;
use alloy::signers::local::PrivateKeySigner;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Result, read_json};
use crate::config::KeySource;
use crate::crypto::load_signer;
use crate::devnet::chains::provider;
use crate::error::Error;

/// A network as payers and nodes need to know it. `quittance devnet --keep` writes one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    pub base: Base,
    pub opengradient: OpenGradient,
    /// By symbol.
    pub tokens: BTreeMap<String, Token>,
    pub keeper: Keeper,
}

/// Base: payments.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Base {
    pub chain_id: u64,
    pub rpc: String,
    pub escrow: Address,
    pub ledger: Address,
    pub dispute_game: Address,
    pub node_registry: Address,
    pub keeper_registry: Address,
    /// Block in which the contracts were deployed, or an earlier one.
    pub start_block: u64,
}

/// OpenGradient: proof.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenGradient {
    pub chain_id: u64,
    pub rpc: String,
    pub inbox: Address,
    pub tee_registry: Address,
    pub start_block: u64,
}

/// A token that orders are paid in.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Token {
    pub address: Address,
    pub decimals: u8,
}

/// The keeper whose API and id are used when none is named.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keeper {
    pub id: B256,
    pub url: String,
}

/// Flags that say where the contracts are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Network file (JSON); the flags below override what it says
    #[arg(long, env = "QUITTANCE_NETWORK", value_name = "FILE")]
    network: Option<PathBuf>,
    /// RPC URL of Base
    #[arg(long, env = "BASE_RPC", value_name = "URL")]
    rpc: Option<String>,
    /// RPC URL of OpenGradient
    #[arg(long, env = "OPENGRADIENT_RPC", value_name = "URL")]
    og_rpc: Option<String>,
    /// Chain id that Base must have
    #[arg(long, env = "QUITTANCE_CHAIN_ID", value_name = "ID")]
    chain_id: Option<u64>,
    /// InferenceEscrow on Base
    #[arg(long, env = "QUITTANCE_ESCROW", value_name = "ADDRESS")]
    escrow: Option<Address>,
    /// SettlementLedger on Base
    #[arg(long, env = "QUITTANCE_LEDGER", value_name = "ADDRESS")]
    ledger: Option<Address>,
    /// NodeRegistry on Base
    #[arg(long, env = "QUITTANCE_NODES", value_name = "ADDRESS")]
    node_registry: Option<Address>,
    /// SettlementInbox on OpenGradient
    #[arg(long, env = "QUITTANCE_INBOX", value_name = "ADDRESS")]
    inbox: Option<Address>,
    /// Keeper's API
    #[arg(long, env = "QUITTANCE_KEEPER_URL", value_name = "URL")]
    pub(super) keeper_url: Option<String>,
}

impl NetworkArgs {
    /// The file with the flags laid over it.
    ///
    /// # Errors
    /// `unreadable_file`, `malformed`.
    pub fn load(&self) -> Result<Network> {
        let mut network: Network = self.network.as_deref().map(read_json).transpose()?.unwrap_or_default();
        fn over<T: Clone>(place: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                *place = value.clone();
            }
        }
        over(&mut network.base.rpc, self.rpc.as_ref());
        over(&mut network.opengradient.rpc, self.og_rpc.as_ref());
        over(&mut network.base.chain_id, self.chain_id.as_ref());
        over(&mut network.base.escrow, self.escrow.as_ref());
        over(&mut network.base.ledger, self.ledger.as_ref());
        over(&mut network.base.node_registry, self.node_registry.as_ref());
        over(&mut network.opengradient.inbox, self.inbox.as_ref());
        over(&mut network.keeper.url, self.keeper_url.as_ref());
        Ok(network)
    }
}

impl Network {
    /// A connection to Base after a look at its chain id.
    ///
    /// # Errors
    /// `missing_setting` without a URL, `wrong_chain`, `rpc_failed`.
    pub async fn base(&self) -> Result<DynProvider> {
        connect("Base", "--rpc or BASE_RPC", &self.base.rpc, self.base.chain_id).await
    }

    /// A connection to OpenGradient after a look at its chain id.
    ///
    /// # Errors
    /// As `base`.
    pub async fn opengradient(&self) -> Result<DynProvider> {
        connect("OpenGradient", "--og-rpc or OPENGRADIENT_RPC", &self.opengradient.rpc, self.opengradient.chain_id)
            .await
    }

    /// The escrow's address.
    ///
    /// # Errors
    /// `missing_setting`.
    pub fn escrow(&self) -> Result<Address> {
        set(self.base.escrow, "--escrow")
    }

    /// The ledger's address.
    ///
    /// # Errors
    /// `missing_setting`.
    pub fn ledger(&self) -> Result<Address> {
        set(self.base.ledger, "--ledger")
    }

    /// The keeper's URL without a slash at its end.
    ///
    /// # Errors
    /// `missing_setting`.
    pub fn keeper_url(&self) -> Result<&str> {
        match self.keeper.url.trim_end_matches('/') {
            "" => Err(Failure::usage("missing_setting", "set --keeper-url, QUITTANCE_KEEPER_URL or a --network file")),
            url => Ok(url),
        }
    }
}

async fn connect(name: &str, flag: &str, url: &str, expected: u64) -> Result<DynProvider> {
    use alloy::providers::Provider as _;
    if url.is_empty() {
        return Err(Failure::usage(
            "missing_setting",
            format!("no RPC URL of {name}: set {flag}, or a --network file"),
        ));
    }
    let provider = provider(url)?;
    let actual = provider
        .get_chain_id()
        .await
        .map_err(|error| Failure::new("rpc_failed", format!("{name} at {url} does not answer: {error}")))?;
    if expected != 0 && actual != expected {
        return Err(Failure::usage("wrong_chain", format!("{url} is chain {actual}, {name} here is chain {expected}")));
    }
    Ok(provider)
}

fn set(address: Address, flag: &str) -> Result<Address> {
    if address.is_zero() {
        return Err(Failure::usage("missing_setting", format!("set {flag}, or a --network file that names it")));
    }
    Ok(address)
}

/// Flags that say whose key acts. A key is never an argument.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Key")]
pub struct KeyArgs {
    /// Encrypted keystore (version 3); its password comes from --password-file or QUITTANCE_PASSWORD
    #[arg(long, env = "QUITTANCE_KEYSTORE", value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// File with the keystore's password
    #[arg(long, env = "QUITTANCE_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Environment variable that holds a hex private key, when there is no keystore
    #[arg(long, default_value = "QUITTANCE_KEY", value_name = "NAME")]
    key_env: String,
}

impl KeyArgs {
    /// The signer.
    ///
    /// # Errors
    /// `missing_key` when nothing is set or what is set is no key.
    pub fn signer(&self) -> Result<PrivateKeySigner> {
        let source = match (&self.keystore, &self.password_file) {
            (Some(path), file) => KeySource::Keystore {
                keystore: path.clone(),
                password_file: file.clone(),
                password_env: file.is_none().then(|| "QUITTANCE_PASSWORD".to_owned()),
            },
            (None, _) => KeySource::Env { env: self.key_env.clone() },
        };
        load_signer(&source).map_err(|error| match error {
            Error::Config(message) => Failure::usage("missing_key", format!("{message}; or use --keystore FILE")),
            other => other.into(),
        })
    }
}
