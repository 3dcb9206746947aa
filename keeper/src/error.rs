//! Stable error codes: what callers, operators and tests match on.

use alloy::primitives::B256;
use serde_json::{Value, json};

/// Result of library code.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a caller's input was refused. The text form is stable; see `Code::as_str`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    Malformed,
    BodyTooLarge,
    WrongContentType,
    WrongChain,
    UnsupportedToken,
    OtherKeeper,
    BadOrderSignature,
    RequestMismatch,
    RequestMissing,
    OrderNotYetValid,
    OrderExpired,
    OrderClosed,
    NonceSpent,
    InsufficientBalance,
    UnknownNode,
    NodeNotActive,
    NodeOutsideScope,
    StaleTimestamp,
    FutureTimestamp,
    TimestampOutsideOrder,
    BadInferenceSignature,
    OutputMismatch,
    UnknownSettlementType,
    BadSettlementData,
    FallbackTeeId,
    FallbackHash,
    SignatureMissing,
    TimestampMissing,
    BadHeartbeat,
    HeartbeatRefused,
    HeartbeatPending,
    HeartbeatsOff,
    MeterMissing,
    BadMeter,
    AmountOverMaximum,
    SettlementReplayed,
    NoNodeAnswered,
    NotFound,
    MethodNotAllowed,
    Unauthorized,
    RateLimited,
    Overloaded,
    Internal,
}

impl Code {
    /// Every code, for documentation and tests.
    pub const ALL: [Self; 43] = [
        Self::Malformed,
        Self::BodyTooLarge,
        Self::WrongContentType,
        Self::WrongChain,
        Self::UnsupportedToken,
        Self::OtherKeeper,
        Self::BadOrderSignature,
        Self::RequestMismatch,
        Self::RequestMissing,
        Self::OrderNotYetValid,
        Self::OrderExpired,
        Self::OrderClosed,
        Self::NonceSpent,
        Self::InsufficientBalance,
        Self::UnknownNode,
        Self::NodeNotActive,
        Self::NodeOutsideScope,
        Self::StaleTimestamp,
        Self::FutureTimestamp,
        Self::TimestampOutsideOrder,
        Self::BadInferenceSignature,
        Self::OutputMismatch,
        Self::UnknownSettlementType,
        Self::BadSettlementData,
        Self::FallbackTeeId,
        Self::FallbackHash,
        Self::SignatureMissing,
        Self::TimestampMissing,
        Self::BadHeartbeat,
        Self::HeartbeatRefused,
        Self::HeartbeatPending,
        Self::HeartbeatsOff,
        Self::MeterMissing,
        Self::BadMeter,
        Self::AmountOverMaximum,
        Self::SettlementReplayed,
        Self::NoNodeAnswered,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Unauthorized,
        Self::RateLimited,
        Self::Overloaded,
        Self::Internal,
    ];

    /// The code as it appears in JSON, logs and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BodyTooLarge => "body_too_large",
            Self::WrongContentType => "wrong_content_type",
            Self::WrongChain => "wrong_chain",
            Self::UnsupportedToken => "unsupported_token",
            Self::OtherKeeper => "other_keeper",
            Self::BadOrderSignature => "bad_order_signature",
            Self::RequestMismatch => "request_mismatch",
            Self::RequestMissing => "request_missing",
            Self::OrderNotYetValid => "order_not_yet_valid",
            Self::OrderExpired => "order_expired",
            Self::OrderClosed => "order_closed",
            Self::NonceSpent => "nonce_spent",
            Self::InsufficientBalance => "insufficient_balance",
            Self::UnknownNode => "unknown_node",
            Self::NodeNotActive => "node_not_active",
            Self::NodeOutsideScope => "node_outside_scope",
            Self::StaleTimestamp => "stale_timestamp",
            Self::FutureTimestamp => "future_timestamp",
            Self::TimestampOutsideOrder => "timestamp_outside_order",
            Self::BadInferenceSignature => "bad_inference_signature",
            Self::OutputMismatch => "output_mismatch",
            Self::UnknownSettlementType => "unknown_settlement_type",
            Self::BadSettlementData => "bad_settlement_data",
            Self::FallbackTeeId => "fallback_tee_id",
            Self::FallbackHash => "fallback_hash",
            Self::SignatureMissing => "signature_missing",
            Self::TimestampMissing => "timestamp_missing",
            Self::BadHeartbeat => "bad_heartbeat",
            Self::HeartbeatRefused => "heartbeat_refused",
            Self::HeartbeatPending => "heartbeat_pending",
            Self::HeartbeatsOff => "heartbeats_off",
            Self::MeterMissing => "meter_missing",
            Self::BadMeter => "bad_meter",
            Self::AmountOverMaximum => "amount_over_maximum",
            Self::SettlementReplayed => "settlement_replayed",
            Self::NoNodeAnswered => "no_node_answered",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }

    /// HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed
            | Self::WrongChain
            | Self::UnknownSettlementType
            | Self::BadSettlementData
            | Self::FallbackTeeId
            | Self::FallbackHash
            | Self::SignatureMissing
            | Self::TimestampMissing
            | Self::BadHeartbeat
            | Self::HeartbeatRefused => 400,
            Self::Unauthorized => 401,
            Self::InsufficientBalance => 402,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::OrderClosed | Self::NonceSpent | Self::SettlementReplayed => 409,
            Self::BodyTooLarge => 413,
            Self::WrongContentType => 415,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::NoNodeAnswered => 502,
            Self::Overloaded | Self::HeartbeatPending | Self::HeartbeatsOff => 503,
            _ => 422,
        }
    }
}

/// A refusal: a stable code, a sentence that says what to do, and the values that were compared.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    pub details: Value,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Value::Null }
    }

    /// A refusal that names what was found and what would have been right.
    pub fn mismatch(
        code: Code,
        message: impl Into<String>,
        actual: impl Into<Value>,
        expected: impl Into<Value>,
    ) -> Self {
        Self { code, message: message.into(), details: json!({ "actual": actual.into(), "expected": expected.into() }) }
    }

    /// The JSON error body.
    pub fn to_json(&self) -> Value {
        json!({ "code": self.code.as_str(), "message": self.message, "details": self.details })
    }
}

/// What can go wrong inside the keeper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input was refused; nothing was stored and no gas spent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed; the operation did not happen.
    #[error("store: {0}")]
    Store(#[from] sqlx::Error),
    /// Another installation took a role over: nothing was written.
    #[error("{0}: another keeper has this role now")]
    LeaseLost(String),
    /// A row holds what this version cannot read.
    #[error("store: row of {table} is corrupt: {what}")]
    Corrupt { table: &'static str, what: String },
    /// An RPC endpoint failed or answered nonsense; the outcome is unknown.
    #[error("rpc {chain_id}: {message}")]
    Rpc { chain_id: u64, message: String },
    /// The chain contradicts what was final; the keeper halts rather than guess.
    #[error("chain {chain_id} contradicts itself: {message}")]
    Chain { chain_id: u64, message: String },
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// A precondition of start-up does not hold.
    #[error("preflight {check}: {message}")]
    Preflight { check: &'static str, message: String },
    /// A settlement id that should exist does not.
    #[error("unknown settlement {0}")]
    UnknownSettlement(B256),
    /// Anything local: files, sockets, child processes.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether the database gave up this transaction for another one (deadlock, serialization): tried again it may succeed.
    pub fn is_conflict(&self) -> bool {
        let Self::Store(sqlx::Error::Database(error)) = self else { return false };
        // Postgres: serialization failure, deadlock; SQLite: busy.
        error.code().is_some_and(|code| matches!(code.as_ref(), "40001" | "40P01" | "5"))
    }

    /// Stable code, for logs and operators.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code.as_str(),
            Self::Store(_) => "store_failed",
            Self::LeaseLost(_) => "lease_lost",
            Self::Corrupt { .. } => "store_corrupt",
            Self::Rpc { .. } => "rpc_failed",
            Self::Chain { .. } => "chain_contradiction",
            Self::Config(_) => "bad_configuration",
            Self::Preflight { .. } => "preflight_failed",
            Self::UnknownSettlement(_) => "unknown_settlement",
            Self::Io(_) => "io_failed",
        }
    }
}
