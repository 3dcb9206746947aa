//! Contract errors in words: the error's name as stable code, its arguments, and what to do.

use alloy::sol_types::SolInterface;
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowErrors;
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryErrors;
use quittance_bindings::ledger::SettlementLedger::SettlementLedgerErrors;
use quittance_bindings::nodes::NodeRegistry::NodeRegistryErrors;
use serde_json::json;

use super::failure::Failure;
use crate::known_errors::{self, KnownErrors};

/// The failure that revert data stands for.
pub fn explain(data: &[u8]) -> Failure {
    let Some((name, text)) = decode(data) else {
        let text = match data {
            [] => "the contract refused without a reason: is it the contract that the network file names?".to_owned(),
            _ => format!("the contract refused with an error that is not known here: 0x{}", hex::encode(data)),
        };
        return Failure::new("reverted", text);
    };
    let code = snake(&name);
    let message = match hint(&name) {
        Some(hint) => format!("{hint} ({text})"),
        None => format!("the contract refused: {text}"),
    };
    Failure { details: json!({ "error": text }), ..Failure::new(code, message) }
}

/// Name and readable form of a custom error of ours, of a token or library, a plain revert text or a panic.
fn decode(data: &[u8]) -> Option<(String, String)> {
    match KnownErrors::abi_decode(data) {
        Ok(KnownErrors::Error(error)) => return Some(("Reverted".to_owned(), error.reason)),
        Ok(KnownErrors::Panic(panic)) => {
            let meaning = known_errors::panic(panic.code.saturating_to());
            return Some(("Panicked".to_owned(), format!("{meaning} (panic {:#x})", panic.code)));
        }
        _ => {}
    }
    named::<InferenceEscrowErrors>(data)
        .or_else(|| named::<SettlementLedgerErrors>(data))
        .or_else(|| named::<NodeRegistryErrors>(data))
        .or_else(|| named::<KeeperRegistryErrors>(data))
        .or_else(|| named::<KnownErrors>(data))
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
        "IntakePaused" => {
            "the guardian has paused deposits, locks and openOrder until the time named; withdraw, unlock, reclaim and signed orders work"
        }
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
        "ERC20InsufficientBalance" => {
            "the account does not have that many tokens: get some first, or name a smaller amount"
        }
        "ERC20InsufficientAllowance" | "InsufficientAllowance" => {
            "the allowance is too small: approve the escrow first"
        }
        "SafeERC20FailedOperation" | "TransferFailed" | "TransferFromFailed" | "ApproveFailed" => {
            "the token refused: check balance, allowance, and that the address is a token"
        }
        "ERC2612ExpiredSignature" | "AllowanceExpired" | "SignatureExpired" => "the permit has expired: sign a new one",
        "ERC2612InvalidSigner" | "InvalidSigner" | "InvalidSignature" | "InvalidContractSignature" => {
            "the permit is not signed by the owner for exactly this: sign again on the right chain"
        }
        "InvalidAccountNonce" | "InvalidNonce" => "the permit's nonce is used: sign with another one",
        "EnforcedPause" => "the token or contract is paused: try later",
        "OwnableUnauthorizedAccount" | "AccessManagedUnauthorized" | "AccessManagerUnauthorizedAccount" => {
            "this account may not do that: use the one that has the role"
        }
        _ => return None,
    })
}

/// `InsufficientFree` as `insufficient_free`, `ERC20InvalidSender` as `erc20_invalid_sender`.
fn snake(name: &str) -> String {
    let mut code = String::with_capacity(name.len() + 4);
    let mut before: Option<char> = None;
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let word = before
            .is_some_and(|before| !before.is_ascii_uppercase() || rest.peek().is_some_and(char::is_ascii_lowercase));
        if c.is_ascii_uppercase() && word {
            code.push('_');
        }
        code.push(c.to_ascii_lowercase());
        before = Some(c);
    }
    code
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use alloy::sol_types::{Revert, SolError as _};
    use quittance_bindings::InferenceEscrow;

    use super::*;
    use crate::known_errors::Known;

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

    #[test]
    fn tokens_and_the_compiler_are_understood() {
        let (account, number) = (Address::repeat_byte(1), U256::from(7));
        let poor = Known::ERC20InsufficientBalance { sender: account, balance: number, needed: U256::from(8) };
        let failure = explain(&poor.abi_encode());
        assert_eq!(failure.code, "erc20_insufficient_balance");
        assert!(failure.message.contains("needed: 8") && failure.message.contains("get some first"), "{failure}");
        let short = Known::ERC20InsufficientAllowance { spender: account, allowance: number, needed: number };
        assert_eq!(explain(&short.abi_encode()).code, "erc20_insufficient_allowance");
        let panic = explain(&Known::Panic { code: U256::from(0x11) }.abi_encode());
        assert_eq!(panic.code, "panicked");
        assert!(panic.message.contains("overflowed (panic 0x11)"), "{panic}");
        assert_eq!(
            explain(&Known::SignatureExpired { signatureDeadline: number }.abi_encode()).code,
            "signature_expired"
        );
        assert_eq!(snake("ECDSAInvalidSignatureS"), "ecdsa_invalid_signature_s");
        assert_eq!(snake("SafeERC20FailedOperation"), "safe_erc20_failed_operation");
        assert!(!explain(&[]).message.contains("known"), "no reason at all is said to be none");
    }
}
