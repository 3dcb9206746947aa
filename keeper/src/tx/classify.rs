//! What an RPC error means, decided in one place: by its message first, by its code after that.

use alloy::primitives::Bytes;
use alloy::sol_types::{Revert, SolError};
use alloy::transports::{RpcError, TransportError, TransportErrorKind};

use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowErrors;
use quittance_bindings::inbox::SettlementInbox::SettlementInboxErrors;
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryErrors;
use quittance_bindings::ledger::SettlementLedger::SettlementLedgerErrors;
use quittance_bindings::nodes::NodeRegistry::NodeRegistryErrors;

use crate::error::Error;
use crate::known_errors;

/// Meaning of an RPC error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// The very transaction is in the pool or mined.
    AlreadyKnown,
    /// The account has used this nonce.
    NonceTooLow,
    /// A lower nonce is missing.
    NonceTooHigh,
    /// The fee is too low, absolutely or to replace another transaction.
    Underpriced,
    /// The signer cannot pay for gas.
    InsufficientFunds,
    /// Execution reverted; the revert data, empty if the endpoint gave none.
    Reverted(Bytes),
    /// Later, or elsewhere.
    RateLimited,
    /// The answer says that a range of logs is too large.
    RangeTooLarge,
    /// Anything else. For a broadcast: possibly sent.
    Unknown,
}

impl Class {
    /// Whether another endpoint would answer the same: then it is not asked.
    pub const fn is_deterministic(&self) -> bool {
        !matches!(self, Self::RateLimited | Self::Unknown)
    }

    /// Short name for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AlreadyKnown => "already_known",
            Self::NonceTooLow => "nonce_too_low",
            Self::NonceTooHigh => "nonce_too_high",
            Self::Underpriced => "underpriced",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Reverted(_) => "reverted",
            Self::RateLimited => "rate_limited",
            Self::RangeTooLarge => "range_too_large",
            Self::Unknown => "unknown",
        }
    }
}

/// An RPC request that failed on every endpoint that was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {message}")]
pub struct Failure {
    pub chain_id: u64,
    pub what: &'static str,
    pub class: Class,
    pub message: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Rpc { chain_id: failure.chain_id, message: failure.to_string() }
    }
}

/// Phrases of geth, reth, erigon, nethermind, anvil and Cosmos nodes, lower case. The first that occurs decides.
const PHRASES: &[(&str, Class)] = &[
    ("already known", Class::AlreadyKnown),
    ("alreadyknown", Class::AlreadyKnown),
    ("known transaction", Class::AlreadyKnown),
    ("already imported", Class::AlreadyKnown),
    ("already in the mempool", Class::AlreadyKnown),
    ("tx already in mempool", Class::AlreadyKnown),
    ("tx already in cache", Class::AlreadyKnown),
    ("tx already exists in cache", Class::AlreadyKnown),
    ("replacement transaction underpriced", Class::Underpriced),
    ("replacement underpriced", Class::Underpriced),
    ("replacement fee too low", Class::Underpriced),
    ("transaction underpriced", Class::Underpriced),
    ("feetoolow", Class::Underpriced),
    ("fee too low", Class::Underpriced),
    ("max fee per gas less than block base fee", Class::Underpriced),
    ("max fee per gas is less than", Class::Underpriced),
    ("fee cap less than block base fee", Class::Underpriced),
    ("gas price below", Class::Underpriced),
    ("gas tip cap", Class::Underpriced),
    ("insufficient fee", Class::Underpriced),
    ("underpriced", Class::Underpriced),
    ("nonce too low", Class::NonceTooLow),
    ("nonce is too low", Class::NonceTooLow),
    ("oldnonce", Class::NonceTooLow),
    ("nonce has already been used", Class::NonceTooLow),
    ("nonce too high", Class::NonceTooHigh),
    ("nonce gap", Class::NonceTooHigh),
    ("insufficient funds", Class::InsufficientFunds),
    ("insufficient balance", Class::InsufficientFunds),
    ("sender doesn't have enough funds", Class::InsufficientFunds),
    ("too many requests", Class::RateLimited),
    ("rate limit", Class::RateLimited),
    ("request limit", Class::RateLimited),
    ("daily request count exceeded", Class::RateLimited),
    ("capacity exceeded", Class::RateLimited),
    ("block range", Class::RangeTooLarge),
    ("range is too large", Class::RangeTooLarge),
    ("range too large", Class::RangeTooLarge),
    ("query returned more than", Class::RangeTooLarge),
    ("response size", Class::RangeTooLarge),
    ("log response size exceeded", Class::RangeTooLarge),
];

/// The meaning of an error's text and code.
pub fn classify(message: &str, code: i64) -> Class {
    let text = message.to_lowercase();
    // First: a contract's own reason may contain any phrase.
    if code == 3 || text.contains("execution reverted") {
        return Class::Reverted(Bytes::new());
    }
    if let Some(class) = cosmos_nonce(&text) {
        return class;
    }
    if let Some((_, class)) = PHRASES.iter().find(|(phrase, _)| text.contains(phrase)) {
        return class.clone();
    }
    match code {
        -32005 | 429 => Class::RateLimited,
        _ if text.contains("vm execution error") || text.contains("evm error") => Class::Reverted(Bytes::new()),
        _ => Class::Unknown,
    }
}

/// Cosmos nodes say "invalid nonce; got 7, expected 5: invalid sequence".
fn cosmos_nonce(text: &str) -> Option<Class> {
    let rest = &text[text.find("invalid nonce; got ")? + "invalid nonce; got ".len()..];
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let (got, expected): (u64, u64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(if got < expected { Class::NonceTooLow } else { Class::NonceTooHigh })
}

/// The meaning of a transport error.
pub fn class_of(error: &TransportError) -> Class {
    match error {
        RpcError::ErrorResp(payload) => {
            let class = classify(&payload.message, payload.code);
            match (class, payload.as_revert_data()) {
                (Class::Reverted(_), data) => Class::Reverted(data.unwrap_or_default()),
                (Class::Unknown, Some(data)) => Class::Reverted(data),
                (class, _) => class,
            }
        }
        RpcError::Transport(TransportErrorKind::HttpError(http)) => of_status(http.status, &http.body),
        RpcError::Transport(TransportErrorKind::HttpErrorWithRetryAfter { error, .. }) => {
            of_status(error.status, &error.body)
        }
        _ => Class::Unknown,
    }
}

/// Some endpoints put the JSON-RPC error into the body of an HTTP error.
fn of_status(status: u16, body: &str) -> Class {
    match classify(body, 0) {
        Class::Unknown if status == 429 => Class::RateLimited,
        class => class,
    }
}

/// Name of the error that a call reverted with, as far as our contracts know it, and the data.
pub fn revert_reason(data: &[u8]) -> String {
    let Some(selector) = data.first_chunk::<4>() else { return "reverted without a reason".to_owned() };
    if let Ok(text) = Revert::abi_decode(data) {
        return format!("reverted: {}", text.reason());
    }
    let name = SettlementLedgerErrors::name_by_selector(*selector)
        .or_else(|| KeeperRegistryErrors::name_by_selector(*selector))
        .or_else(|| InferenceEscrowErrors::name_by_selector(*selector))
        .or_else(|| SettlementInboxErrors::name_by_selector(*selector))
        .or_else(|| NodeRegistryErrors::name_by_selector(*selector))
        .or_else(|| known_errors::name(*selector))
        .unwrap_or("unknown error");
    format!("reverted: {name} {}", Bytes::copy_from_slice(&data[..data.len().min(132)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_real_nodes() {
        for (message, code, class) in [
            ("already known", -32000, Class::AlreadyKnown),
            ("nonce too low: next nonce 5, tx nonce 3", -32000, Class::NonceTooLow),
            ("nonce too low", -32603, Class::NonceTooLow),
            ("replacement transaction underpriced", -32603, Class::Underpriced),
            ("transaction underpriced: tip needed 1, tip permitted 0", -32000, Class::Underpriced),
            (
                "max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1, baseFee: 7",
                -32000,
                Class::Underpriced,
            ),
            ("insufficient funds for gas * price + value: balance 0", -32000, Class::InsufficientFunds),
            ("Insufficient funds for gas * price + value", -32003, Class::InsufficientFunds),
            ("invalid nonce; got 7, expected 5: invalid sequence", -32000, Class::NonceTooHigh),
            (
                "rpc error: invalid nonce; got 4, expected 5: invalid sequence: invalid request",
                -32000,
                Class::NonceTooLow,
            ),
            ("tx already in mempool", -32000, Class::AlreadyKnown),
            ("Too Many Requests", -32005, Class::RateLimited),
            ("over rate limit", -32016, Class::RateLimited),
            ("query returned more than 10000 results", -32005, Class::RangeTooLarge),
            ("eth_getLogs is limited to a 10,000 block range", -32614, Class::RangeTooLarge),
            ("execution reverted", 3, Class::Reverted(Bytes::new())),
            ("execution reverted: ERC20: insufficient balance", -32000, Class::Reverted(Bytes::new())),
            ("VM execution error.", -32015, Class::Reverted(Bytes::new())),
            ("something else", -32603, Class::Unknown),
            ("header not found", -32000, Class::Unknown),
        ] {
            assert_eq!(classify(message, code), class, "{message}");
        }
        assert!(Class::NonceTooLow.is_deterministic(), "never asked again elsewhere");
        assert!(!Class::Unknown.is_deterministic());
    }

    #[test]
    fn reverts_have_names() {
        let error = quittance_bindings::SettlementLedger::NoRows {}.abi_encode();
        assert!(revert_reason(&error).starts_with("reverted: NoRows 0x"), "{}", revert_reason(&error));
        assert_eq!(revert_reason(&Revert::from("why").abi_encode()), "reverted: why");
        assert_eq!(revert_reason(&[]), "reverted without a reason");
    }

    #[test]
    fn http_bodies_count_too() {
        assert_eq!(of_status(429, "slow down"), Class::RateLimited);
        assert_eq!(of_status(500, r#"{"error":{"message":"nonce too low"}}"#), Class::NonceTooLow);
        assert_eq!(of_status(503, ""), Class::Unknown);
    }
}
