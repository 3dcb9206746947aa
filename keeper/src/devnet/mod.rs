//! A local network: two chains, contracts, nodes. Everything in it is real but the money.

pub mod access;
pub mod chains;
pub mod demo;
pub mod deploy;
pub mod keeper;
pub mod keys;
pub mod node;
pub mod periods;
pub mod sender;
pub mod x402;

use std::path::{Path, PathBuf};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::config::Config;
use crate::crypto::RsaKey;
use crate::error::Result;
use chains::Chains;
use deploy::{Deployment, Keys, NodeIdentity};
use node::{NodeConfig, RunningNode};
use periods::Periods;

/// How large a devnet is.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    pub periods: Periods,
    /// Blocks from `latest` to `safe`; `finalized` is twice as far.
    pub depth: u64,
    /// RPC of a chain that Base goes on from, with the contracts that it has; `None` starts an empty one with ours.
    pub fork: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, periods: Periods::default(), depth: 1, fork: None }
    }
}

/// A running devnet: chains, contracts, nodes. The keeper is configured, not started. Everything ends with this value.
#[derive(Debug)]
pub struct Devnet {
    /// Logs, network file, keeper's configuration and database.
    pub dir: PathBuf,
    pub chains: Chains,
    pub deployment: Deployment,
    pub keys: Keys,
    pub nodes: Vec<RunningNode>,
    /// Configuration of a keeper that serves this devnet; its keys are in `keeper::environment`.
    pub config: Config,
    _stop: DropGuard,
}

/// Starts chains and nodes, deploys, registers; writes `network.json` to `dir`.
///
/// # Errors
/// `bad_configuration` without anvil, `rpc_failed` naming the transaction that failed.
pub async fn up(dir: &Path, options: Options) -> Result<Devnet> {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let chains = Chains::start_from(dir, options.depth, options.fork.as_deref()).await?;
    let mut nodes = Vec::with_capacity(options.nodes);
    let mut identities = Vec::with_capacity(options.nodes);
    for index in 0..options.nodes {
        let key = tokio::task::spawn_blocking(RsaKey::generate).await.map_err(std::io::Error::other)??;
        let spki = key.spki().to_vec();
        let config = NodeConfig { name: format!("node-{index}"), ..NodeConfig::default() };
        let node = node::serve(config, key, Clock::default(), stop.clone()).await?;
        identities.push(NodeIdentity { spki, url: node.url() });
        nodes.push(node);
    }
    let listen = keeper::free_address()?;
    let url = format!("http://{listen}");
    let (deployment, keys) = deploy::deploy(&chains, options.periods, &identities, &url).await?;
    deployment.write(&dir.join("network.json"))?;
    let config = keeper::config(&deployment, dir, &listen);
    Ok(Devnet { dir: dir.to_owned(), chains, deployment, keys, nodes, config, _stop: guard })
}

/// Resolves when the program is told to stop (Ctrl-C or SIGTERM): children must end with it.
///
/// # Errors
/// `io_failed` when the system refuses a signal handler.
pub async fn interrupted() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
