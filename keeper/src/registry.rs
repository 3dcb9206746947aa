//! Snapshot of nodes, versions and parsed keys: what verification reads instead of an RPC.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use alloy::primitives::{Address, B256};
use arc_swap::ArcSwap;

use crate::config::Config;
use crate::error::Result;
use crate::store::{Store, nodes};
use crate::verify::completion::NodeKey;

/// How a node came into the registry on Base; numbers as on-chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    Declared,
    Mirrored,
    Attested,
}

impl Label {
    /// The text in database, API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Mirrored => "mirrored",
            Self::Attested => "attested",
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Declared, Self::Mirrored, Self::Attested].into_iter().find(|label| label.as_str() == text)
    }

    /// Whether a node with this label serves orders that name no node.
    pub const fn serves_open_orders(self) -> bool {
        !matches!(self, Self::Declared)
    }
}

/// One version of a node's keys.
#[derive(Clone, Debug)]
pub struct NodeVersion {
    pub number: u32,
    /// ERC-7913 verifier on Base.
    pub verifier: Address,
    /// Key of Meter signatures; zero: nothing can be captured.
    pub meter_key: Address,
    pub label: Label,
    /// Unix seconds, Base block time.
    pub created_at: u64,
    /// 0 while current.
    pub replaced_at: u64,
    /// DER SubjectPublicKeyInfo for RSA nodes.
    pub public_key: Vec<u8>,
    /// The same, parsed; `None` when it is no RSA key.
    pub key: Option<Arc<NodeKey>>,
}

/// A node as the chain has it.
#[derive(Clone, Debug)]
pub struct NodeRecord {
    pub id: B256,
    /// Number of the current version.
    pub version: u32,
    pub label: Label,
    pub operator: Address,
    pub payout: Address,
    pub registered_at: u64,
    /// 0 while not retired; unix seconds.
    pub retired_at: u64,
    /// 0 while not revoked; final.
    pub revoked_at: u64,
    /// Where OpenGradient's registry says to reach it.
    pub endpoint: Option<String>,
    pub versions: BTreeMap<u32, NodeVersion>,
}

impl NodeRecord {
    /// The current version.
    pub fn current(&self) -> Option<&NodeVersion> {
        self.versions.get(&self.version)
    }

    /// Whether new requests may go to it.
    pub fn is_active(&self) -> bool {
        self.retired_at == 0
            && self.revoked_at == 0
            && self.current().is_some_and(|version| version.meter_key != Address::ZERO)
    }
}

/// Everything at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    nodes: HashMap<B256, Arc<NodeRecord>>,
    hot_keys: HashSet<Address>,
}

/// Nodes as the chain has them.
#[derive(Debug, Default)]
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
}

impl Registry {
    /// A node, or `None` if Base does not know it.
    pub fn node(&self, id: B256) -> Option<Arc<NodeRecord>> {
        self.snapshot.load().nodes.get(&id).cloned()
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> Vec<Arc<NodeRecord>> {
        let mut nodes: Vec<_> = self.snapshot.load().nodes.values().cloned().collect();
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    /// Active nodes with an endpoint, by id.
    pub fn endpoints(&self) -> Vec<(B256, String)> {
        let active = self.nodes().into_iter().filter(|node| node.is_active());
        active.filter_map(|node| node.endpoint.clone().map(|endpoint| (node.id, endpoint))).collect()
    }

    /// Whether a key may act for this keeper.
    pub fn is_hot_key(&self, key: Address) -> bool {
        self.snapshot.load().hot_keys.contains(&key)
    }

    /// Reads everything anew from the database.
    ///
    /// # Errors
    /// `store_failed`, `store_corrupt`; the snapshot stays as it was.
    pub async fn refresh(&self, store: &Store, config: &Config) -> Result<()> {
        let base = &config.base;
        let hot_keys = nodes::hot_keys(store.read(), base.chain_id, base.keeper_registry, config.keeper.id)
            .await?
            .into_iter()
            .collect();
        let mut all = HashMap::new();
        for (id, mut node) in nodes::all(store.read()).await? {
            let before = self.node(id);
            for version in node.versions.values_mut() {
                let parsed = before.as_ref().and_then(|node| node.versions.get(&version.number));
                version.key = parsed
                    .filter(|old| old.public_key == version.public_key)
                    .and_then(|old| old.key.clone())
                    .or_else(|| NodeKey::parse(&version.public_key).ok().map(Arc::new));
            }
            all.insert(id, Arc::new(node));
        }
        self.snapshot.store(Arc::new(Snapshot { nodes: all, hot_keys }));
        Ok(())
    }
}
