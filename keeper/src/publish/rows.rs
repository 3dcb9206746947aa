//! The document that is published of a batch: its rows as they were sent, in order. Without those that `RowSkipped` events
//! name they are the leaves under the ledger's receipts root. Its keccak256 is the batch's blob id on Base.

use alloy::primitives::{Address, B256, Bytes, keccak256};
use quittance_bindings::typed::{Leaf, RAIL_ORDER, leaf_hash};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::merkle::Tree;
use crate::settle::call;
use crate::store::receipts::Settleable;
use crate::wire::LeafFields;

/// Form of the document; another one gets another name.
pub const SCHEMA: &str = "quittance-batch-rows-1";

/// Rows of a batch. Every member is on Base already, in calldata and events: receipt hashes are salted by Meter signatures.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchRows {
    pub schema: String,
    pub chain_id: u64,
    pub ledger: Address,
    pub keeper_id: B256,
    pub token: Address,
    /// `row` counts the rows of the call here; the ledger counts captured rows.
    pub rows: Vec<LeafFields>,
}

impl BatchRows {
    /// The document of receipts that are settled together.
    ///
    /// # Errors
    /// `store_corrupt` when stored evidence does not add up.
    pub fn of(chain_id: u64, ledger: Address, keeper_id: B256, receipts: &[Settleable]) -> Result<Self> {
        let mut rows = Vec::with_capacity(receipts.len());
        for (row, receipt) in (0..).zip(receipts) {
            let leaf = Leaf {
                rail: RAIL_ORDER,
                paymentId: receipt.order_id,
                start: 0,
                amount: receipt.amount,
                nodeId: receipt.node_id,
                nodeVersion: receipt.node_version,
                receiptHash: quittance_bindings::typed::receipt_hash(&call::receipt(receipt)?),
                row,
            };
            rows.push(LeafFields::from(&leaf));
        }
        let token = receipts.first().map(|receipt| receipt.order.token).unwrap_or_default();
        Ok(Self { schema: SCHEMA.to_owned(), chain_id, ledger, keeper_id, token, rows })
    }

    /// The bytes that are published.
    ///
    /// # Errors
    /// `store_corrupt`; no value of this type fails.
    pub fn bytes(&self) -> Result<Bytes> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::Corrupt { table: "publications", what: error.to_string() })?;
        Ok(bytes.into())
    }

    /// Root over the rows that were captured: all but those at the places `skipped`. `None` when nothing was, or a row cannot
    /// be read.
    pub fn receipts_root(&self, skipped: &[u32]) -> Option<B256> {
        let captured = (0_u32..).zip(&self.rows).filter(|(place, _)| !skipped.contains(place));
        let mut leaves = Vec::with_capacity(self.rows.len());
        for (row, (_, fields)) in (0..).zip(captured) {
            let leaf = Leaf::try_from(fields).ok()?;
            leaves.push(leaf_hash(&Leaf { row, ..leaf }));
        }
        Tree::new(leaves).root()
    }
}

/// Name of a document, and blob id of its batch.
pub fn hash(bytes: &[u8]) -> B256 {
    keccak256(bytes)
}
