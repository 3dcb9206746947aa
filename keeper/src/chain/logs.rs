//! Logs of our contracts: which contract, which event, which sequence number.

use alloy::primitives::{Address, B256, Bytes};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEventInterface;

use crate::error::{Error, Result};

pub use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowEvents as EscrowEvents;
pub use quittance_bindings::game::DisputeGame::DisputeGameEvents as GameEvents;
pub use quittance_bindings::inbox::SettlementInbox::SettlementInboxEvents as InboxEvents;
pub use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryEvents as KeepersEvents;
pub use quittance_bindings::ledger::SettlementLedger::SettlementLedgerEvents as LedgerEvents;
pub use quittance_bindings::nodes::NodeRegistry::NodeRegistryEvents as NodesEvents;

/// Events that our contracts inherit and that carry no number.
const UNNUMBERED: &[&str] = &["AuthorityUpdated", "EIP712DomainChanged"];

/// Contracts whose events we follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contract {
    Escrow,
    Ledger,
    Game,
    Nodes,
    Keepers,
    Inbox,
}

/// A decoded event.
#[derive(Debug)]
pub enum Event {
    Escrow(Box<EscrowEvents>),
    Ledger(Box<LedgerEvents>),
    Game(Box<GameEvents>),
    Nodes(Box<NodesEvents>),
    Keepers(Box<KeepersEvents>),
    Inbox(Box<InboxEvents>),
}

/// A log of one of our contracts.
#[derive(Debug)]
pub struct ChainLog {
    pub address: Address,
    pub block_number: u64,
    pub block_hash: B256,
    /// Block time, unix seconds.
    pub timestamp: u64,
    pub log_index: u64,
    pub tx_hash: B256,
    pub topics: Vec<B256>,
    pub data: Bytes,
    /// The contract's contiguous number of this event, from 1.
    pub seq: u64,
    pub name: &'static str,
    pub event: Event,
}

/// An event from topics and data: its name, number and content; `None` for an event that is none of ours (access control).
///
/// # Errors
/// The reason why a log with a known topic cannot be read.
pub fn decode(contract: Contract, topics: &[B256], data: &[u8]) -> Result<Option<(&'static str, u64, Event)>, String> {
    let Some(topic0) = topics.first() else { return Ok(None) };
    let bad = |error: alloy::sol_types::Error| format!("{contract:?} event {topic0}: {error}");
    macro_rules! read {
        ($events:ident, $variant:ident) => {{
            let Some(name) = $events::name_by_selector(topic0.0) else { return Ok(None) };
            if UNNUMBERED.contains(&name) {
                return Ok(None);
            }
            (name, Event::$variant(Box::new($events::decode_raw_log(topics, data).map_err(bad)?)))
        }};
    }
    let (name, event) = match contract {
        Contract::Escrow => read!(EscrowEvents, Escrow),
        Contract::Ledger => read!(LedgerEvents, Ledger),
        Contract::Game => read!(GameEvents, Game),
        Contract::Nodes => read!(NodesEvents, Nodes),
        Contract::Keepers => read!(KeepersEvents, Keepers),
        Contract::Inbox => read!(InboxEvents, Inbox),
    };
    let word: [u8; 8] = data.get(24..32).and_then(|word| word.try_into().ok()).ok_or("event data too short")?;
    Ok(Some((name, u64::from_be_bytes(word), event)))
}

/// Reads what an endpoint returned; logs of other contracts and events that carry no number are left out.
///
/// # Errors
/// `rpc_failed` for a log without its place, or marked as removed; `chain_contradiction` for one that cannot be decoded.
pub fn read(chain_id: u64, contracts: &[(Address, Contract)], log: &Log, timestamp: u64) -> Result<Option<ChainLog>> {
    let Some((address, contract)) = contracts.iter().find(|(address, _)| *address == log.address()) else {
        return Ok(None);
    };
    let place = (log.block_number, log.block_hash, log.log_index, log.transaction_hash);
    let (Some(block_number), Some(block_hash), Some(log_index), Some(tx_hash), false) =
        (place.0, place.1, place.2, place.3, log.removed)
    else {
        return Err(Error::Rpc { chain_id, message: "eth_getLogs: a log without its place in the chain".to_owned() });
    };
    let decoded =
        decode(*contract, log.topics(), &log.data().data).map_err(|message| Error::Chain { chain_id, message })?;
    let Some((name, seq, event)) = decoded else { return Ok(None) };
    Ok(Some(ChainLog {
        address: *address,
        block_number,
        block_hash,
        timestamp,
        log_index,
        tx_hash,
        topics: log.topics().to_vec(),
        data: log.data().data.clone(),
        seq,
        name,
        event,
    }))
}
