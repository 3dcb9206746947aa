//! What the demo did, in the form that its report carries and `script/audit` reads.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes};
use serde::Serialize;
use serde_json::Value;

use crate::cli::network::Network;

/// The report's facts to check against the chains.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    pub protocol: Protocol,
    /// Orders handed in over HTTP and acknowledged.
    pub http: Vec<B256>,
    pub bad_node: BadNode,
    pub unanswered: Unanswered,
    pub kill: Kill,
    pub exit: Exit,
    /// Absent when the demonstration was given no stock clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock: Option<super::stock::Stock>,
    /// Always there at the end.
    pub gateway: Option<super::gateway::Gateway>,
    pub rogue: Rogue,
    pub doubt: Doubt,
}

/// A contract's order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    pub consumer: Address,
    pub order_id: B256,
}

/// A node that signed wrongly.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BadNode {
    /// Order that it was asked first and another node answered.
    pub order_id: B256,
    /// What it said to the same request; the keeper's answer to it.
    pub refused: Refused,
    /// Answers it gave while it signed wrongly.
    pub answers: u64,
    /// Stable code with which the keeper refused it.
    pub code: String,
}

/// Evidence that must not be accepted.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    pub node_id: B256,
    pub version: u32,
    pub request_hash: B256,
    pub output_hash: B256,
    pub timestamp: u64,
    pub signature: Bytes,
}

/// An order that nobody answered.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unanswered {
    pub order_id: B256,
    pub payer: Address,
    pub stranger: Address,
    /// Token units.
    pub amount: String,
}

/// The keeper's death and what it had promised.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kill {
    pub killed_pid: u32,
    pub restarted_pid: u32,
    /// Acknowledged orders that no node had been asked yet.
    pub undispatched: Vec<B256>,
    /// Batches that were broadcast and in no block.
    pub unmined: Vec<Unmined>,
}

/// A payer who left while keepers were stopped and the guardian had paused.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    pub payer: Address,
    pub token: Address,
    /// All that it deposited, token units.
    pub amount: String,
    /// The order that nobody answered.
    pub order_id: B256,
    /// End of order and lock, unix seconds.
    pub until: u64,
    /// Account of the keeper that was stopped.
    pub keeper: Address,
    pub stopped_pid: u32,
    /// Transaction with which the guardian paused.
    pub paused: B256,
    /// Stable code with which a new lock was refused meanwhile.
    pub refused: String,
}

/// Another keeper that batched a row without a valid receipt.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rogue {
    pub keeper_id: B256,
    pub owner: Address,
    pub batch_id: u64,
    /// The row that nobody answered, the order that it captured, and who paid it.
    pub row: u32,
    pub order_id: B256,
    pub payer: Address,
    pub token: Address,
    /// Token units of that row.
    pub amount: String,
    /// Receipt files of the other rows.
    pub honest: Vec<Value>,
}

/// Somebody's challenge against a row of our keeper.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubt {
    pub challenger: Address,
    pub batch_id: u64,
    pub row: u32,
    /// Account of our keeper.
    pub keeper: Address,
}

/// A transaction in no block.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unmined {
    pub hash: B256,
    pub from: Address,
    pub nonce: u64,
    /// Orders of its rows.
    pub orders: Vec<B256>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inference {
    /// `None`: nobody answered.
    pub settlement_id: Option<B256>,
    pub order_id: B256,
    pub payer: Address,
    pub node: Option<B256>,
    pub token: Address,
    /// Token units, decimal text.
    pub amount: String,
    pub state: String,
    /// batch, verified or none
    pub path: String,
    pub private: bool,
    /// Gas on Base of the settlement, its share of a batch.
    pub gas: u64,
}

/// One thing that must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub inferences: Vec<Inference>,
    pub checks: Vec<Check>,
    pub totals: Value,
    pub metrics: Value,
    pub network: Network,
    pub story: Story,
    /// Receipt files by settlement id.
    pub receipts: BTreeMap<B256, Value>,
}
