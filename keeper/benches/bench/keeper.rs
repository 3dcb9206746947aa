//! A whole keeper for a benchmark: two chains, contracts, registered nodes, and the real binary over a prepared database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy::primitives::U256;
use alloy::primitives::aliases::U40;
use eyre::{Result, eyre};
use quittance::config::Config;
use quittance::crypto::RsaKey;
use quittance::devnet::chains::Chains;
use quittance::devnet::demo::wallets::deposit_for;
use quittance::devnet::deploy::{Keys, NodeIdentity, USDC, deploy, fund, operator_of};
use quittance::devnet::keeper::{self, KeeperProcess};
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;
use quittance::devnet::sender::Sender;
use quittance_bindings::InferenceEscrow;
use quittance_bindings::typed::Lock;

use crate::fixture::{World, payers};

/// Everything but the keeper's process. Ends with this value.
pub struct Stage {
    pub dir: PathBuf,
    pub chains: Chains,
    pub keys: Keys,
    pub config: Config,
    pub world: World,
}

impl Stage {
    /// Starts the chains and deploys; the folder is removed at the end.
    pub async fn new(name: &str, nodes: usize, payer_count: usize, periods: Periods) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("quittance-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let chains = Chains::start(&dir, 1).await?;
        let mut keys = Vec::with_capacity(nodes);
        let mut identities = Vec::with_capacity(nodes);
        for index in 0..nodes {
            let key = RsaKey::generate()?;
            identities.push(NodeIdentity { spki: key.spki().to_vec(), url: "http://127.0.0.1:1".to_owned() });
            keys.push((key, operator_of(index)?.1.signer));
        }
        let listen = keeper::free_address()?;
        let (deployment, roles) = deploy(&chains, periods, &identities, &format!("http://{listen}")).await?;
        let mut config = keeper::config(&deployment, &dir, &listen);
        // The nodes bring their answers themselves.
        config.nodes.clear();
        config.dispatch.max_age = 86_400;
        // A start brings times that lie too far ahead back to the longest that a node may take: then no dispatcher takes up the
        // orders that wait for their answers here, however long a benchmark lasts.
        config.dispatch.timeout_ms = 24 * 3_600_000;
        let base = &deployment.network.base;
        let world = World {
            chain_id: base.chain_id,
            escrow: base.escrow,
            ledger: base.ledger,
            keeper_id: deployment.network.keeper.id,
            token: USDC,
            nodes: keys,
            payers: payers(payer_count)?,
            now: quittance::clock::Clock::default().now().saturating_sub(5),
        };
        Ok(Self { dir, chains, keys: roles, config, world })
    }

    /// Gives every payer money in the escrow and a lock for the keeper.
    pub async fn fund(&self) -> Result<()> {
        const UNITS: u128 = 1_000_000_000_000;
        let base = &self.chains.base;
        let escrow = self.world.escrow;
        for index in 0..self.world.payers.len() {
            let key = Key::of(format!("payer-{index}"))?;
            fund(&self.chains, key.address()).await?;
            let payer = key.address();
            let mut sender = Sender::new(base.provider().clone(), base.chain_id, key).await?;
            deposit_for(&mut sender, escrow, USDC, 2 * UNITS, payer).await?;
            let lock = Lock {
                payer,
                token: USDC,
                keeperId: self.world.keeper_id,
                amount: UNITS,
                until: U40::from(self.world.now + 36_000),
                nonce: U256::ZERO,
            };
            let call = InferenceEscrow::lockCall { lock_: lock.into(), signature: Default::default() };
            sender.call(escrow, &call).await?;
            sender.settle().await?;
        }
        Ok(())
    }

    /// Starts `quittance run` on a free port and waits until it is ready; with the milliseconds that this took.
    pub async fn keeper(&mut self) -> Result<(KeeperProcess, f64)> {
        let program = Path::new(env!("CARGO_BIN_EXE_quittance"));
        self.config.api.listen = keeper::free_address()?;
        let started = Instant::now();
        let mut keeper = KeeperProcess::start(program, &self.dir, &self.config, &self.keys)?;
        let client = reqwest::Client::new();
        let url = format!("http://{}/readyz", self.config.api.listen);
        loop {
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok((keeper, started.elapsed().as_secs_f64() * 1e3));
            }
            if started.elapsed() > Duration::from_secs(60) {
                keeper.ready().await?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The system clears its temporary folder some day.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Memory of a process in MiB: now and at most.
pub fn memory(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib: f64 = line.ok_or_else(|| eyre!("no {name}"))?.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1_024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// Processor time of a process so far, seconds.
pub fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').ok_or_else(|| eyre!("odd stat"))?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).ok_or_else(|| eyre!("short stat"))?.parse()?) };
    // A hundred ticks a second on every Linux that we build for.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
