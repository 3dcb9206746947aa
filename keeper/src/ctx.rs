//! What every loop and handler shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use metrics_exporter_prometheus::PrometheusHandle;
use quittance_bindings::typed::domain;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::chain::rpc::Rpc;
use crate::clock::Clock;
use crate::config::Config;
use crate::crypto::load_signer;
use crate::dispatch::Desk;
use crate::error::Result;
use crate::gateway::tees::Tees;
use crate::ingest::Ingest;
use crate::life::Life;
use crate::lookup::Lookup;
use crate::observe::Warnings;
use crate::registry::Registry;
use crate::store::Store;
use crate::store::leases::installation;
use crate::verifiers::Verifiers;
use crate::x402::state::Facilitator;

/// Wake-ups between loops: hints only, every loop also ticks on its own.
#[derive(Debug, Default)]
pub struct Signals {
    /// An order became servable.
    pub orders: Notify,
    /// A completion was stored; wakes those who wait for an answer too.
    pub completions: Notify,
    /// A transaction was queued on Base.
    pub base_txs: Notify,
    /// A transaction was queued on OpenGradient.
    pub og_txs: Notify,
    /// Events of a block were applied.
    pub chain: Notify,
}

/// Shared state of a running keeper.
#[derive(Debug)]
pub struct Ctx {
    pub config: Config,
    pub store: Store,
    pub clock: Clock,
    /// Name of this installation among those that share the database.
    pub installation: String,
    /// EIP-712 domain separator of the ledger, under which Meters are signed.
    pub ledger: B256,
    /// RPC of Base and of OpenGradient. Never on the way from a completion to its acknowledgement.
    pub base: Rpc,
    pub og: Rpc,
    /// Nodes and keys as the chain has them, for the hot path.
    pub registry: Registry,
    /// Nodes as OpenGradient's registry has them: whose proofs and heartbeats count.
    pub tees: Tees,
    pub signals: Signals,
    /// Keys that sign receipts and Meters; transaction keys are elsewhere.
    pub keys: Keys,
    /// Networks of x402 payments; set by start-up.
    pub x402: Facilitator,
    /// The escrow's `LOCK_TAIL`, seconds. Until preflight has read it no lock secures anything.
    pub lock_tail: u64,
    /// The writer that commits orders and completions in groups.
    pub ingest: Ingest,
    /// Who may come in, and how often.
    pub admission: Admission,
    /// Signs of life of the loops.
    pub life: Life,
    /// What is worth a warning though the keeper can work.
    pub warnings: Warnings,
    /// Look-ups of callers who wait at the same moment.
    pub lookup: Lookup,
    /// Check the signatures of completions that come in numbers.
    pub verifiers: Verifiers,
    /// What nodes are busy with.
    pub desk: Desk,
    /// What `/metrics` shows; `None` in tests.
    pub metrics: Option<PrometheusHandle>,
    /// Base was read up to its head since the start: only then is it known what is settled already.
    pub caught_up: AtomicBool,
    /// The last look found that the database takes writes; a full disk shows only when something is written.
    pub writable: AtomicBool,
    /// Cancelled when the keeper stops taking new payments: `/readyz` answers 503 from then on.
    pub stopping: CancellationToken,
    /// Cancelled when the API ends, after what was at nodes has come back: nobody waits for an answer from then on.
    pub closing: CancellationToken,
}

/// Keys that sign what this keeper says, not what it sends.
#[derive(Debug, Default)]
pub struct Keys {
    /// Signs receipt files; without it they carry no signature of the keeper.
    pub receipt: Option<PrivateKeySigner>,
    /// Meter keys by node id, where this keeper meters for the node.
    pub meter: BTreeMap<B256, PrivateKeySigner>,
    /// Account that sends our transactions to OpenGradient; its key is the transaction manager's.
    pub og: Option<Address>,
}

impl Keys {
    /// Loads the keys that the configuration names. Decrypting a keystore takes about a second each.
    ///
    /// # Errors
    /// `bad_configuration` naming the variable or file.
    pub fn load(config: &Config) -> Result<Self> {
        let mut meter = BTreeMap::new();
        for node in &config.nodes {
            if let Some(source) = &node.meter_key {
                meter.insert(node.id, load_signer(source)?);
            }
        }
        let og = Some(load_signer(&config.opengradient.key)?.address());
        Ok(Self { receipt: Some(load_signer(&config.keeper.receipt_key)?), meter, og })
    }
}

impl Ctx {
    /// Puts the shared state together; connects to no chain and loads no key. `keys` and `lock_tail` are set by start-up.
    ///
    /// # Errors
    /// `bad_configuration` for an RPC URL that is none.
    pub fn new(config: Config, store: Store) -> Result<Self> {
        Ok(Self {
            base: Rpc::new(config.base.chain_id, &config.base.rpc)?,
            og: Rpc::new(config.opengradient.chain_id, &config.opengradient.rpc)?,
            desk: Desk::new(&config.dispatch)?,
            keys: Keys::default(),
            x402: Facilitator::default(),
            lock_tail: u64::MAX,
            ingest: Ingest::default(),
            admission: Admission::new(&config.limits),
            life: Life::new(Duration::from_millis(config.api.stuck_ms)),
            warnings: Warnings::default(),
            lookup: Lookup::default(),
            verifiers: Verifiers::new()?,
            installation: installation(&config.api.listen),
            ledger: domain(config.base.chain_id, config.base.ledger).separator(),
            config,
            store,
            clock: Clock::default(),
            registry: Registry::default(),
            tees: Tees::default(),
            signals: Signals::default(),
            metrics: None,
            caught_up: AtomicBool::new(false),
            writable: AtomicBool::new(true),
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
        })
    }
}

/// Shared handle.
pub type SharedCtx = Arc<Ctx>;
