//! The keeper of a devnet: its configuration, and `quittance run` as a child process that can be killed.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::primitives::Address;

use super::deploy::{Deployment, Keys, OPG, USDC, operator_of};
use super::x402::LANES;
use crate::config::gateway::Gateway;
use crate::config::limits::{Limits, OrderRates, Rate};
use crate::config::x402::{self, X402};
use crate::config::{
    Api, Base, Batch, Config, Dispatch, Disputes, Fees, Keeper, KeySource, Node, OpenGradient, RateCard,
};
use crate::error::{Error, Result};
use crate::publish::place::Publish;

const BASE_KEY: &str = "QUITTANCE_BASE_KEY";
const OG_KEY: &str = "QUITTANCE_OG_KEY";
const RECEIPT_KEY: &str = "QUITTANCE_RECEIPT_KEY";
const X402_AUTHORIZER: &str = "QUITTANCE_X402_AUTHORIZER";
const START: Duration = Duration::from_secs(60);

/// A loopback address with a port that is free now.
///
/// # Errors
/// `io_failed`.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Configuration of a devnet's keeper: small times, open reads, meter keys of all nodes, prices of both tokens.
pub fn config(deployment: &Deployment, dir: &Path, listen: &str) -> Config {
    let network = &deployment.network;
    let env = |name: &str| KeySource::Env { env: name.to_owned() };
    // A short question and its canned answer cost some 0.002 USDC or 0.02 OPG.
    let rate = |token: Address, input: &str, output: &str| RateCard {
        version: "devnet-1".to_owned(),
        node: None,
        model: None,
        token,
        input: input.to_owned(),
        output: output.to_owned(),
    };
    Config {
        keeper: Keeper {
            id: network.keeper.id,
            database: format!("sqlite:{}", dir.join("keeper.db").display()),
            // Strangers reclaim in the demo.
            auto_reclaim: false,
            receipt_key: env(RECEIPT_KEY),
            drain_ms: 10_000,
        },
        gateway: Gateway::default(),
        disputes: Disputes::default(),
        x402: X402 { networks: vec![x402(deployment, network.base.chain_id)], ..X402::default() },
        publish: Some(Publish::Directory { path: dir.join("rows") }),
        base: Base {
            chain_id: network.base.chain_id,
            rpc: vec![network.base.rpc.clone()],
            escrow: network.base.escrow,
            ledger: network.base.ledger,
            node_registry: network.base.node_registry,
            dispute_game: network.base.dispute_game,
            keeper_registry: network.base.keeper_registry,
            start_block: network.base.start_block,
            key: env(BASE_KEY),
            tick_ms: 300,
            tokens: vec![USDC, OPG],
            in_flight: 4,
        },
        opengradient: OpenGradient {
            chain_id: network.opengradient.chain_id,
            rpc: vec![network.opengradient.rpc.clone()],
            inbox: network.opengradient.inbox,
            tee_registry: network.opengradient.tee_registry,
            start_block: network.opengradient.start_block,
            key: env(OG_KEY),
            tick_ms: 300,
            in_flight: 1,
            record_rows: 20,
        },
        api: Api { listen: listen.to_owned(), open_reads: true, ..Api::default() },
        limits: Limits {
            // One machine, one payer, as fast as it goes.
            orders: OrderRates { payer: Rate::new(600_000, 100_000), global: Rate::new(0, 0), ..OrderRates::default() },
            ..Limits::default()
        },
        batch: Batch { max_rows: 100, max_age_ms: 3_000, ..Batch::default() },
        dispatch: Dispatch {
            timeout_ms: 5_000,
            concurrency: 8,
            retry_ms: 500,
            deadline_margin: 2,
            ..Dispatch::default()
        },
        fees: Fees::default(),
        nodes: deployment
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| Node { id: node.id, url: None, meter_key: Some(env(&meter_variable(index))) })
            .collect(),
        rates: vec![rate(USDC, "10000000", "30000000"), rate(OPG, "100000000000000000000", "300000000000000000000")],
    }
}

/// Payments on the devnet's Base.
fn x402(deployment: &Deployment, chain_id: u64) -> x402::Network {
    let key = |lane| KeySource::Env { env: x402_variable(lane) };
    x402::Network {
        chain_id,
        rpc: Vec::new(),
        forwarder: deployment.contracts.x402.forwarder,
        keys: (0..LANES).map(key).collect(),
        tick_ms: 300,
        in_flight: 8,
        max_rows: 100,
        log_range: 2_000,
        instant: false,
        assets: Vec::new(),
        factories: vec![deployment.contracts.x402.wallet_factory],
        sponsor: x402::Sponsor { approvals: true, ..x402::Sponsor::default() },
        receiver_authorizer: Some(KeySource::Env { env: X402_AUTHORIZER.to_owned() }),
    }
}

fn x402_variable(lane: usize) -> String {
    format!("QUITTANCE_X402_KEY_{lane}")
}

fn meter_variable(index: usize) -> String {
    format!("QUITTANCE_METER_KEY_{index}")
}

/// A keeper process; ends with this value.
#[derive(Debug)]
pub struct KeeperProcess {
    child: Child,
    url: String,
    log: PathBuf,
}

impl KeeperProcess {
    /// Starts `program run -c FILE` with the devnet's keys in its environment; its log goes to `dir`.
    ///
    /// # Errors
    /// `io_failed`.
    pub fn start(program: &Path, dir: &Path, config: &Config, keys: &Keys) -> Result<Self> {
        let file = dir.join("quittance.toml");
        let text = toml::to_string_pretty(config).map_err(|error| Error::Config(error.to_string()))?;
        std::fs::write(&file, text)?;
        let log = dir.join("keeper.log");
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(&file).env_remove("DATABASE_URL");
        for (name, value) in environment(keys, config.nodes.len())? {
            command.env(name, value);
        }
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        Ok(Self { child, url: format!("http://{}", config.api.listen), log })
    }

    /// Waits until it serves and its snapshots are fresh.
    ///
    /// # Errors
    /// `preflight_failed` with the end of its log when it ends or takes a minute.
    pub async fn ready(&mut self) -> Result<()> {
        let client = reqwest::Client::new();
        let deadline = tokio::time::Instant::now() + START;
        loop {
            let answer = client.get(format!("{}/readyz", self.url)).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let text = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(12).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                let message = format!("the keeper is not ready ({}): {}", self.log.display(), tail.join("\n"));
                return Err(Error::Preflight { check: "devnet", message });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// `io_failed`.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Most memory it ever had, in KiB; `None` where the system does not tell.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }
}

impl Drop for KeeperProcess {
    fn drop(&mut self) {
        // Nothing to do about a process that is gone already.
        let _ = self.kill();
    }
}

/// Environment with the keys that `config` refers to.
///
/// # Errors
/// None in practice, see [`super::keys::Key::of`].
pub fn environment(keys: &Keys, nodes: usize) -> Result<Vec<(String, String)>> {
    let mut all = vec![
        (BASE_KEY.to_owned(), keys.keeper_base.hex()),
        (OG_KEY.to_owned(), keys.keeper_og.hex()),
        (RECEIPT_KEY.to_owned(), keys.keeper_receipts.hex()),
    ];
    all.push((X402_AUTHORIZER.to_owned(), keys.x402.authorizer.hex()));
    for (lane, key) in keys.x402.lanes.iter().enumerate() {
        all.push((x402_variable(lane), key.hex()));
    }
    for index in 0..nodes {
        all.push((meter_variable(index), operator_of(index)?.1.hex()));
    }
    Ok(all)
}
