//! Contract errors in words: the error's name as stable code, its arguments, and what to do.

use alloy::sol_types::{Revert, SolError as _, SolInterface};
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowErrors;
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryErrors;
use quittance_bindings::ledger::SettlementLedger::SettlementLedgerErrors;
use quittance_bindings::nodes::NodeRegistry::NodeRegistryErrors;
use serde_json::json;

use super::failure::Failure;

/// The failure that revert data stands for.
pub fn explain(data: &[u8]) -> Failure {
    let Some((name, text)) = decode(data) else {
        return Failure::new(
            "reverted",
            format!("the contract refused without a known reason: 0x{}", hex::encode(data)),
        );
    };
    let code = snake(&name);
    let message = match hint(&name) {
        Some(hint) => format!("{hint} ({text})"),
        None => format!("the contract refused: {text}"),
    };
    Failure { details: json!({ "error": text }), ..Failure::new(code, message) }
}

/// Name and readable form of a custom error of ours, or a plain revert text.
fn decode(data: &[u8]) -> Option<(String, String)> {
    if let Ok(revert) = Revert::abi_decode(data) {
        return Some(("Reverted".to_owned(), revert.reason));
    }
    named::<InferenceEscrowErrors>(data)
        .or_else(|| named::<SettlementLedgerErrors>(data))
        .or_else(|| named::<NodeRegistryErrors>(data))
        .or_else(|| named::<KeeperRegistryErrors>(data))
}

/// `InsufficientFree` and `InsufficientFree { actual: 1, expected: 2 }`.
fn named<E: SolInterface + std::fmt::Debug>(data: &[u8]) -> Option<(String, String)> {
    let error = format!("{:?}", E::abi_decode(data).ok()?);
    // The outer name is the variant, which repeats the error's own.
    let inner = error.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(&error);
    let name = inner.split(['(', ' ', '{']).next().unwrap_or(inner);
    Some((name.to_owned(), inner.to_owned()))
}

fn hint(name: &str) -> Option<&'static str> {
    Some(match name {
        "InsufficientFree" => "not enough free balance in the escrow: deposit first, or ask for less",
        "LockActive" => "the lock still runs: wait until its end, nothing can shorten it",
        "NothingLocked" => "nothing is locked for this keeper",
        "NonceSpent" => "this nonce is spent: sign with another one",
        "OrderClosed" => "this order is captured, reclaimed or held already",
        "OrderNotHeld" => "nothing is held for this order: it was never opened, or it is closed",
        "NotExpired" => "the capture deadline has not passed: reclaim after it",
        "DeadlineTooSoon" => "leave more time to the capture deadline",
        "LockTooLong" => "a lock may not run that long",
        "LockShortened" => "a lock can only be extended: name its present end or a later time",
        "OldOrder" => "validAfter lies too far in the past: sign a fresh order",
        "NotPayer" => "only the payer can do this without a signature",
        "BadSignature" => "the signature is not the payer's for exactly this order on this chain",
        "TransferMismatch" => "the token did not move what it was told to: it takes a fee, or the allowance is short",
        "WindowOpen" => "the window of this batch is still open: finalize after it",
        "BatchNotOpen" => "this batch is final already, or unknown",
        "AlreadySettled" => "this inference is settled already",
        "AlreadyDelivered" => "the answer is delivered already",
        "DeliveryFailed" => "the paying contract refused the answer; it can be delivered again later",
        "NotCapturable" => "the order cannot be captured for this amount now",
        "NodeNotUsable" => "the node's version cannot be paid now",
        "BadInferenceSignature" => "the node's signature does not fit request, answer and time",
        "BadMeterSignature" => "the meter signature is not by the meter key of this node version",
        _ => return None,
    })
}

/// `InsufficientFree` as `insufficient_free`.
fn snake(name: &str) -> String {
    let mut code = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(c.to_ascii_lowercase());
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_bindings::InferenceEscrow;

    #[test]
    fn names_become_codes() {
        assert_eq!(snake("InsufficientFree"), "insufficient_free");
        assert_eq!(explain(&[1, 2]).code, "reverted");
        assert_eq!(explain(&Revert::from("no").abi_encode()).details["error"], "no");
        let error = InferenceEscrow::InsufficientFree { actual: 1, expected: 2 };
        let failure = explain(&error.abi_encode());
        assert_eq!(failure.code, "insufficient_free");
        assert!(failure.message.contains("actual: 1"), "{failure}");
        let failure = explain(&InferenceEscrow::NothingLocked {}.abi_encode());
        assert_eq!(failure.code, "nothing_locked");
    }
}
