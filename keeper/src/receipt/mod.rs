//! The receipt file: one JSON document that proves one paid inference; it grows with the settlement and never changes.

pub mod assemble;
pub mod online;
pub mod payment;
pub mod payment_verify;
pub mod verify;

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes};
use alloy::sol;
use quittance_bindings::ledger::SettlementLedger::{BatchRecord, NodeCredit};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Code, Refusal};
use crate::wire::{LeafFields, OrderFields, ReceiptFields};

/// Value of `schema` in files of this version.
pub const SCHEMA: &str = "quittance-receipt/1";

sol! {
    /// What a keeper signs of a receipt, under the ledger's domain: it has seen this evidence and stands for it.
    #[derive(Debug)]
    struct KeeperReceipt {
        bytes32 keeperId;
        bytes32 settlementId;
        bytes32 receiptHash;
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptFile {
    pub schema: String,
    #[schema(value_type = String)]
    pub settlement_id: B256,
    #[schema(value_type = String)]
    pub receipt_hash: B256,
    /// settlement_pending, included, safe, final, voided, refused
    pub state: String,
    pub receipt: ReceiptFields,
    pub network: Network,
    pub node: NodeEvidence,
    pub order: OrderEvidence,
    pub meter: MeterEvidence,
    pub base: BaseEvidence,
    pub opengradient: OpenGradientEvidence,
    /// Null when the keeper signs no receipts.
    pub keeper: Option<KeeperEvidence>,
    /// Members that are null by now (JSON pointers), and the state that fills each.
    pub awaits: BTreeMap<String, String>,
}

/// Where the contracts are; signatures are bound to them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    pub base_chain_id: u64,
    #[schema(value_type = String)]
    pub escrow: Address,
    #[schema(value_type = String)]
    pub ledger: Address,
    pub opengradient_chain_id: u64,
    #[schema(value_type = String)]
    pub inbox: Address,
}

/// The node's word: this answer to this request at this time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeEvidence {
    /// DER SubjectPublicKeyInfo; its keccak256 is the node id.
    #[schema(value_type = String)]
    pub public_key: Bytes,
    /// RSASSA-PSS, SHA-256, salt 32, over the message hash.
    #[schema(value_type = String)]
    pub signature: Bytes,
    #[schema(value_type = String)]
    pub message_hash: B256,
}

/// The payer's word: this request, at most this much.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvidence {
    pub fields: OrderFields,
    /// Null for an order that the payer opened or that the chain held under a contract's signature.
    #[schema(value_type = Option<String>)]
    pub signature: Option<Bytes>,
    /// The chain held the maximum for it.
    pub held: bool,
}

/// The operator's word: what the inference is charged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeterEvidence {
    /// Key of the node version that the receipt names.
    #[schema(value_type = String)]
    pub key: Address,
    #[schema(value_type = String)]
    pub signature: Bytes,
    /// Tokens as the node reported them; null when the node metered by itself and reported none.
    pub usage: Option<UsageEvidence>,
    /// Rate card; null when the node metered by itself.
    pub rates: Option<RatesEvidence>,
}

/// Tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct UsageEvidence {
    pub input: u64,
    pub output: u64,
}

/// Token units per million tokens, decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct RatesEvidence {
    pub input: String,
    pub output: String,
    pub version: String,
}

/// The settlement on Base.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseEvidence {
    /// batch or verified
    pub path: String,
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub block: Option<u64>,
    #[schema(value_type = Option<String>)]
    pub block_hash: Option<B256>,
    /// Fee out of the amount, token units; null until known.
    pub fee: Option<String>,
    pub batch: Option<BatchEvidence>,
}

/// The row of a batch: its leaf stands under the root of the record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchEvidence {
    pub record: RecordFields,
    pub leaf: LeafFields,
    #[schema(value_type = Vec<String>)]
    pub proof: Vec<B256>,
}

/// A batch as the ledger commits to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordFields {
    pub batch_id: u64,
    #[schema(value_type = String)]
    pub keeper_id: B256,
    #[schema(value_type = String)]
    pub token: Address,
    pub settled_at: u64,
    pub rows: u32,
    pub total: String,
    #[schema(value_type = String)]
    pub receipts_root: B256,
    #[schema(value_type = String)]
    pub og_root: B256,
    #[schema(value_type = String)]
    pub blob_hash: B256,
    /// Hundredths of a percent.
    pub fee_bps: u16,
    #[schema(value_type = String)]
    pub fee_recipient: Address,
    pub credits: Vec<CreditFields>,
}

/// What a batch owes one node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreditFields {
    #[schema(value_type = String)]
    pub node_id: B256,
    /// Account that is credited, fixed at settlement.
    #[schema(value_type = String)]
    pub payout: Address,
    pub amount: String,
    pub fee: String,
}

/// The inference on OpenGradient.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenGradientEvidence {
    /// private, due, submitted, recorded, refused
    pub state: String,
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub block: Option<u64>,
}

/// The keeper's signature over `KeeperReceipt` under the ledger's domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeeperEvidence {
    #[schema(value_type = String)]
    pub keeper_id: B256,
    /// A hot key of the keeper.
    #[schema(value_type = String)]
    pub key: Address,
    #[schema(value_type = String)]
    pub signature: Bytes,
}

impl From<&BatchRecord> for RecordFields {
    fn from(record: &BatchRecord) -> Self {
        let credit = |credit: &NodeCredit| CreditFields {
            node_id: credit.nodeId,
            payout: credit.payout,
            amount: credit.amount.to_string(),
            fee: credit.fee.to_string(),
        };
        Self {
            batch_id: record.batchId,
            keeper_id: record.keeperId,
            token: record.token,
            settled_at: record.settledAt.to(),
            rows: record.rows,
            total: record.total.to_string(),
            receipts_root: record.receiptsRoot,
            og_root: record.ogRoot,
            blob_hash: record.blobHash,
            fee_bps: record.feeBps,
            fee_recipient: record.feeRecipient,
            credits: record.credits.iter().map(credit).collect(),
        }
    }
}

impl TryFrom<&RecordFields> for BatchRecord {
    type Error = Refusal;

    fn try_from(fields: &RecordFields) -> Result<Self, Refusal> {
        let bad = |name: &str| Refusal::new(Code::Malformed, format!("the batch record's {name} cannot be read"));
        let credit = |credit: &CreditFields| -> Result<NodeCredit, Refusal> {
            Ok(NodeCredit {
                nodeId: credit.node_id,
                payout: credit.payout,
                amount: credit.amount.parse().map_err(|_| bad("credit"))?,
                fee: credit.fee.parse().map_err(|_| bad("credit's fee"))?,
            })
        };
        Ok(Self {
            batchId: fields.batch_id,
            keeperId: fields.keeper_id,
            token: fields.token,
            settledAt: fields.settled_at.try_into().map_err(|_| bad("settledAt"))?,
            rows: fields.rows,
            total: fields.total.parse().map_err(|_| bad("total"))?,
            receiptsRoot: fields.receipts_root,
            ogRoot: fields.og_root,
            blobHash: fields.blob_hash,
            feeBps: fields.fee_bps,
            feeRecipient: fields.fee_recipient,
            credits: fields.credits.iter().map(credit).collect::<Result<_, _>>()?,
        })
    }
}
