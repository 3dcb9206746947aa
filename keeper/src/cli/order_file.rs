//! A signed order on disk: what `order sign` writes, every other command reads, and `POST /orders` takes.

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use quittance_bindings::typed::{self, Order};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::failure::{Failure, Result};
use crate::wire::OrderFields;

/// The file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderFile {
    pub order: OrderFields,
    /// Payer's 65-byte signature; absent for an order that its payer will open itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Bytes>,
    /// Secret of a private order; absent for a public one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blinding: Option<B256>,
    /// The request, byte for byte: its hash depends on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RawValue>>,
    /// Digest of the order under the escrow's domain, for people; never trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<B256>,
}

impl OrderFile {
    /// The order itself.
    ///
    /// # Errors
    /// `malformed` for a number that does not fit its field.
    pub fn order(&self) -> Result<Order> {
        let order = Order::try_from(&self.order)?;
        Ok(order)
    }
}

/// Unix seconds as the contracts hold them.
pub fn u40(seconds: u64) -> Option<U40> {
    (seconds >> 40 == 0).then(|| U40::from(seconds))
}

/// Signs an order for an escrow.
///
/// # Errors
/// `signing_failed`.
pub fn sign(order: &Order, chain_id: u64, escrow: Address, signer: &PrivateKeySigner) -> Result<(B256, Bytes)> {
    let id = typed::order_id(order, &typed::domain(chain_id, escrow));
    let signature = signer.sign_hash_sync(&id).map_err(|error| Failure::new("signing_failed", error.to_string()))?;
    Ok((id, signature.as_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_request_byte_for_byte_and_the_order_exactly() {
        let text = r#"{"order":{"payer":"0x0000000000000000000000000000000000000001","token":"0x0000000000000000000000000000000000000002","maxAmount":"340282366920938463463374607431768211455","requestCommit":"0x0000000000000000000000000000000000000000000000000000000000000003","nodeScope":"0x0000000000000000000000000000000000000000000000000000000000000000","keeperId":"0x0000000000000000000000000000000000000000000000000000000000000000","validAfter":1,"validBefore":2,"captureDeadline":1099511627775,"nonce":"5"},"request":{"b":1.0,  "a":1e400}}"#;
        let file: OrderFile = serde_json::from_str(text).unwrap();
        assert_eq!(file.request.as_ref().unwrap().get(), r#"{"b":1.0,  "a":1e400}"#);
        let order = file.order().unwrap();
        assert_eq!(order.maxAmount, u128::MAX);
        assert_eq!(
            serde_json::to_value(OrderFields::from(&order)).unwrap(),
            serde_json::to_value(&file.order).unwrap()
        );
        let late = OrderFields { capture_deadline: 1 << 40, ..file.order.clone() };
        assert_eq!(OrderFile { order: late, ..file }.order().unwrap_err().code, "malformed");
    }
}
