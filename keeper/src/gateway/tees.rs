//! Snapshot of OpenGradient's TEE registry: whose signatures count, and how old a heartbeat may be. Read again every half minute,
//! and at once, but not more often than every few seconds, when somebody names a node that is not in it: enclaves make a new key
//! at every start. What was read is stored, so that a start without OpenGradient knows the nodes of before.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol;
use alloy::sol_types::SolCall;
use arc_swap::ArcSwap;
use futures_util::{StreamExt, stream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain::endpoints::{TEEInfo, tee};
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Error, Result};
use crate::store::tees::{self as rows, TeeRow};
use crate::tx::classify::Failure;
use crate::verify::completion::NodeKey;

/// Between two readings of the registry.
const EVERY: Duration = Duration::from_secs(30);
/// Between two readings at least, however often somebody asks.
const GAP: Duration = Duration::from_secs(2);
/// How long a caller waits for a reading that was made because of it.
const PATIENCE: Duration = Duration::from_secs(8);
/// Types of nodes that sign: LLM proxies and validators.
const TYPES: [u8; 2] = [0, 1];
/// Nodes that are asked for side by side.
const WIDTH: usize = 8;
/// `heartbeatMaxAge` of OpenGradient's registry until it was read, seconds.
const MAX_AGE: u64 = 1_800;

sol! {
    function getEnabledTEEs(uint8 teeType) external view returns (bytes32[] memory);
    function heartbeatMaxAge() external view returns (uint256);
}

/// A node of OpenGradient's registry.
#[derive(Clone, Debug)]
pub struct Tee {
    pub id: B256,
    pub key: Arc<NodeKey>,
    /// Where payments for its answers go.
    pub payment_address: Address,
    pub enabled: bool,
}

/// All nodes as they were read last.
#[derive(Debug)]
pub struct Tees {
    snapshot: ArcSwap<HashMap<B256, Arc<Tee>>>,
    max_age: AtomicU64,
    wanted: Notify,
    /// When the last reading began; `None` until the loop runs.
    begun: watch::Sender<Option<Instant>>,
}

impl Default for Tees {
    fn default() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            max_age: AtomicU64::new(MAX_AGE),
            wanted: Notify::new(),
            begun: watch::Sender::new(None),
        }
    }
}

impl Tees {
    /// A node that was registered at any time.
    pub fn get(&self, id: B256) -> Option<Arc<Tee>> {
        self.snapshot.load().get(&id).cloned()
    }

    /// The same; a node that is not known is looked for in the registry, and waited for a few seconds.
    pub async fn find(&self, id: B256) -> Option<Arc<Tee>> {
        let found = self.get(id);
        let asked = Instant::now();
        let mut begun = self.begun.subscribe();
        if found.is_some() || begun.borrow_and_update().is_none() {
            return found;
        }
        self.wanted.notify_one();
        // A reading that was under way may have listed the nodes before this one was there.
        let read = begun.wait_for(|at| self.get(id).is_some() || at.is_some_and(|at| at >= asked));
        let _ = tokio::time::timeout(PATIENCE, read).await;
        self.get(id)
    }

    /// How many there are, and how many of them are enabled.
    pub fn count(&self) -> [usize; 2] {
        let snapshot = self.snapshot.load();
        [snapshot.len(), snapshot.values().filter(|tee| tee.enabled).count()]
    }

    /// Seconds for which a heartbeat counts.
    pub fn max_age(&self) -> u64 {
        self.max_age.load(Ordering::Relaxed)
    }
}

/// Reads the registry until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`; what the chain does not answer stays as it was.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    load(&ctx).await?;
    let mut last: Option<Instant> = None;
    while !stop.is_cancelled() {
        ctx.life.beat("tees");
        let began = Instant::now();
        match refresh(&ctx).await {
            Ok(()) => drop(ctx.tees.begun.send_replace(Some(began))),
            Err(error @ Error::Rpc { .. }) => {
                tracing::warn!(code = error.code(), %error, "cannot read OpenGradient's registry");
            }
            Err(error) => return Err(error),
        }
        let [all, enabled] = ctx.tees.count().map(|count| f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        metrics::gauge!("quittance_tees").set(all);
        metrics::gauge!("quittance_tees_enabled").set(enabled);
        let gap = last.replace(Instant::now()).map_or(Duration::ZERO, |_| GAP);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(gap) => {}
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = ctx.tees.wanted.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    Ok(())
}

/// Takes over what was stored.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn load(ctx: &Ctx) -> Result<()> {
    let all = rows::all(&ctx.store).await?.into_iter().filter_map(|row| read(&row).map(|tee| (row.id, tee)));
    ctx.tees.snapshot.store(Arc::new(all.collect()));
    Ok(())
}

/// Lists the enabled nodes, and asks for the keys of those that are new. What is listed is stored before it counts.
async fn refresh(ctx: &Ctx) -> Result<()> {
    let registry = ctx.config.opengradient.tee_registry;
    let mut enabled: BTreeSet<B256> = BTreeSet::new();
    for tee_type in TYPES {
        let call = getEnabledTEEsCall { teeType: tee_type }.abi_encode().into();
        let data = ctx.og.call(Address::ZERO, registry, &call, BlockId::latest()).await?;
        let ids = getEnabledTEEsCall::abi_decode_returns(&data)
            .map_err(|error| Error::Rpc { chain_id: ctx.og.chain_id(), message: format!("getEnabledTEEs: {error}") })?;
        enabled.extend(ids);
    }
    let call = heartbeatMaxAgeCall {}.abi_encode().into();
    let age = ctx.og.call(Address::ZERO, registry, &call, BlockId::latest()).await?;
    let age = U256::try_from_be_slice(&age).and_then(|age| u64::try_from(age).ok());
    ctx.tees.max_age.store(age.unwrap_or(MAX_AGE), Ordering::Relaxed);

    let before = ctx.tees.snapshot.load_full();
    let new: Vec<B256> = enabled.iter().copied().filter(|id| !before.contains_key(id)).collect();
    let asked: Vec<_> = new.iter().map(|id| tee(ctx, *id)).collect();
    let answers: Vec<Result<Option<TEEInfo>, Failure>> = stream::iter(asked).buffered(WIDTH).collect().await;
    let mut changed: Vec<TeeRow> = Vec::new();
    for (id, answer) in new.into_iter().zip(answers) {
        match answer {
            Ok(Some(info)) => changed.push(TeeRow {
                id,
                public_key: info.publicKey.to_vec(),
                payment_address: info.paymentAddress,
                enabled: true,
            }),
            Ok(None) => {}
            Err(failure) => tracing::warn!(node = %id, %failure, "cannot read the node's key"),
        }
    }
    for (id, tee) in before.iter().filter(|(id, tee)| tee.enabled != enabled.contains(*id)) {
        let stored = rows::all(&ctx.store).await?.into_iter().find(|row| row.id == *id);
        changed.extend(stored.map(|row| TeeRow { enabled: !tee.enabled, ..row }));
    }
    if changed.is_empty() {
        return Ok(());
    }
    let mut tx = ctx.store.write().await?;
    for row in &changed {
        rows::put(&mut tx, row, ctx.clock.now_ms()).await?;
    }
    tx.commit().await?;
    let mut after = before.as_ref().clone();
    for row in &changed {
        tracing::info!(node = %row.id, enabled = row.enabled, "node of OpenGradient's registry");
        if let Some(tee) = read(row) {
            after.insert(row.id, tee);
        }
    }
    ctx.tees.snapshot.store(Arc::new(after));
    Ok(())
}

/// A node whose key can be used; `None` for another kind of key, or one that is not the id's.
fn read(row: &TeeRow) -> Option<Arc<Tee>> {
    let key = NodeKey::parse(&row.public_key).ok().filter(|_| keccak256(&row.public_key) == row.id);
    if key.is_none() {
        tracing::warn!(node = %row.id, "the registry's key of this node cannot be used: its proofs are refused");
    }
    let (id, payment_address, enabled) = (row.id, row.payment_address, row.enabled);
    key.map(|key| Arc::new(Tee { id, key: Arc::new(key), payment_address, enabled }))
}
