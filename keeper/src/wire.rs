//! JSON forms of what is signed: camel case, amounts and nonces as decimal text, bytes as 0x-hexadecimal.

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, U256};
use quittance_bindings::typed::{Leaf, Order, Receipt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Code, Refusal};

/// A payer's order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderFields {
    #[schema(value_type = String)]
    pub payer: Address,
    #[schema(value_type = String)]
    pub token: Address,
    /// Token units, decimal text.
    pub max_amount: String,
    #[schema(value_type = String)]
    pub request_commit: B256,
    /// Zero: any mirrored or attested node.
    #[schema(value_type = String)]
    pub node_scope: B256,
    /// Zero: verified settlement only.
    #[schema(value_type = String)]
    pub keeper_id: B256,
    /// Unix seconds.
    pub valid_after: u64,
    pub valid_before: u64,
    pub capture_deadline: u64,
    /// Decimal text of a number below 2^256.
    pub nonce: String,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReceiptFields {
    pub rail: u8,
    #[schema(value_type = String)]
    pub payment_id: B256,
    #[schema(value_type = String)]
    pub payer: Address,
    #[schema(value_type = String)]
    pub token: Address,
    pub offset: String,
    /// Token units, decimal text.
    pub amount: String,
    #[schema(value_type = String)]
    pub node_id: B256,
    pub node_version: u32,
    #[schema(value_type = String)]
    pub request_hash: B256,
    #[schema(value_type = String)]
    pub blinding: B256,
    #[schema(value_type = String)]
    pub output_hash: B256,
    /// The node's own time, unix seconds.
    pub timestamp: u64,
    /// keccak256 of the Meter signature.
    #[schema(value_type = String)]
    pub salt: B256,
}

/// A leaf of a batch's receipts tree.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeafFields {
    pub rail: u8,
    #[schema(value_type = String)]
    pub payment_id: B256,
    pub start: String,
    pub amount: String,
    #[schema(value_type = String)]
    pub node_id: B256,
    pub node_version: u32,
    #[schema(value_type = String)]
    pub receipt_hash: B256,
    pub row: u32,
}

fn units(name: &str, text: &str) -> Result<u128, Refusal> {
    // `parse` would take a leading plus.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Refusal::new(Code::Malformed, format!("{name} must be a whole number of token units as decimal text"))
    })
}

fn time(name: &str, seconds: u64) -> Result<U40, Refusal> {
    U40::try_from(seconds)
        .map_err(|_| Refusal::new(Code::Malformed, format!("{name} must be unix seconds that fit 40 bits")))
}

impl From<&Order> for OrderFields {
    fn from(order: &Order) -> Self {
        Self {
            payer: order.payer,
            token: order.token,
            max_amount: order.maxAmount.to_string(),
            request_commit: order.requestCommit,
            node_scope: order.nodeScope,
            keeper_id: order.keeperId,
            valid_after: order.validAfter.to(),
            valid_before: order.validBefore.to(),
            capture_deadline: order.captureDeadline.to(),
            nonce: order.nonce.to_string(),
        }
    }
}

impl TryFrom<&OrderFields> for Order {
    type Error = Refusal;

    fn try_from(fields: &OrderFields) -> Result<Self, Refusal> {
        let digits = fields.nonce.bytes().all(|byte| byte.is_ascii_digit()) && !fields.nonce.is_empty();
        let nonce = U256::from_str_radix(&fields.nonce, 10).ok().filter(|_| digits);
        Ok(Self {
            payer: fields.payer,
            token: fields.token,
            maxAmount: units("order.maxAmount", &fields.max_amount)?,
            requestCommit: fields.request_commit,
            nodeScope: fields.node_scope,
            keeperId: fields.keeper_id,
            validAfter: time("order.validAfter", fields.valid_after)?,
            validBefore: time("order.validBefore", fields.valid_before)?,
            captureDeadline: time("order.captureDeadline", fields.capture_deadline)?,
            nonce: nonce.ok_or_else(|| {
                Refusal::new(Code::Malformed, "order.nonce must be a whole number below 2^256 as decimal text")
            })?,
        })
    }
}

impl From<&Receipt> for ReceiptFields {
    fn from(receipt: &Receipt) -> Self {
        Self {
            rail: receipt.rail,
            payment_id: receipt.paymentId,
            payer: receipt.payer,
            token: receipt.token,
            offset: receipt.offset.to_string(),
            amount: receipt.amount.to_string(),
            node_id: receipt.nodeId,
            node_version: receipt.nodeVersion,
            request_hash: receipt.requestHash,
            blinding: receipt.blinding,
            output_hash: receipt.outputHash,
            timestamp: receipt.timestamp.to(),
            salt: receipt.salt,
        }
    }
}

impl TryFrom<&ReceiptFields> for Receipt {
    type Error = Refusal;

    fn try_from(fields: &ReceiptFields) -> Result<Self, Refusal> {
        Ok(Self {
            rail: fields.rail,
            paymentId: fields.payment_id,
            payer: fields.payer,
            token: fields.token,
            offset: units("receipt.offset", &fields.offset)?,
            amount: units("receipt.amount", &fields.amount)?,
            nodeId: fields.node_id,
            nodeVersion: fields.node_version,
            requestHash: fields.request_hash,
            blinding: fields.blinding,
            outputHash: fields.output_hash,
            timestamp: time("receipt.timestamp", fields.timestamp)?,
            salt: fields.salt,
        })
    }
}

impl From<&Leaf> for LeafFields {
    fn from(leaf: &Leaf) -> Self {
        Self {
            rail: leaf.rail,
            payment_id: leaf.paymentId,
            start: leaf.start.to_string(),
            amount: leaf.amount.to_string(),
            node_id: leaf.nodeId,
            node_version: leaf.nodeVersion,
            receipt_hash: leaf.receiptHash,
            row: leaf.row,
        }
    }
}

impl TryFrom<&LeafFields> for Leaf {
    type Error = Refusal;

    fn try_from(fields: &LeafFields) -> Result<Self, Refusal> {
        Ok(Self {
            rail: fields.rail,
            paymentId: fields.payment_id,
            start: units("leaf.start", &fields.start)?,
            amount: units("leaf.amount", &fields.amount)?,
            nodeId: fields.node_id,
            nodeVersion: fields.node_version,
            receiptHash: fields.receipt_hash,
            row: fields.row,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(max_amount: u128, nonce: [u64; 4], time: u64) -> Order {
        Order {
            payer: Address::repeat_byte(1),
            token: Address::repeat_byte(2),
            maxAmount: max_amount,
            requestCommit: B256::repeat_byte(3),
            nodeScope: B256::ZERO,
            keeperId: B256::repeat_byte(4),
            validAfter: U40::from(time),
            validBefore: U40::from(time),
            captureDeadline: U40::from(time),
            nonce: U256::from_limbs(nonce),
        }
    }

    proptest! {
        #[test]
        fn orders_survive_json(max: u128, nonce: [u64; 4], time in 0_u64..(1 << 40)) {
            let order = order(max, nonce, time);
            let text = serde_json::to_string(&OrderFields::from(&order)).unwrap();
            let fields: OrderFields = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Order::try_from(&fields).unwrap(), order);
        }

        #[test]
        fn odd_numbers_are_refused(text in "[+-]?[0-9a-fx ]{0,5}") {
            let fields = OrderFields { max_amount: text.clone(), ..OrderFields::from(&order(1, [0; 4], 0)) };
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert_eq!(Order::try_from(&fields).is_ok(), plain);
            let fields = OrderFields { nonce: text, ..OrderFields::from(&order(1, [0; 4], 0)) };
            prop_assert_eq!(Order::try_from(&fields).is_ok(), plain);
        }
    }

    #[test]
    fn times_beyond_forty_bits_are_refused() {
        let fields = OrderFields { valid_before: 1 << 40, ..OrderFields::from(&order(1, [0; 4], 0)) };
        assert_eq!(Order::try_from(&fields).unwrap_err().code, Code::Malformed);
    }
}
