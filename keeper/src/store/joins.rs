//! x402 payments seen from what they paid for: which fit a proof that names none, and what gateways report of their use.

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Store, WriteTx};
use crate::error::Result;
use crate::types::{address, b256};

/// Payments that are looked at for one proof: whether there is more than one matters, not how many.
const LIMIT: i64 = 8;

/// A settled payment for one answer, or for a session of several, that is not joined to as many yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitting {
    pub payment_id: B256,
    pub receiver: Address,
    /// What the gateway reported of use.
    pub used: Option<Use>,
}

/// Payments of a payer that were settled in this time, unix milliseconds, both ends included.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_payer(store: &Store, payer: Address, (from, to): (i64, i64)) -> Result<Vec<Fitting>> {
    let rows = sqlx::query(
        "SELECT payment_id, receiver, usage FROM payments WHERE payer = $1 AND settled_ms IS NOT NULL \
         AND settled_ms BETWEEN $2 AND $3 AND state = 'settled' AND settlement_id IS NULL \
         AND method IN ('eip3009', 'permit2') ORDER BY settled_ms, payment_id LIMIT $4",
    )
    .bind(payer.to_vec())
    .bind(from)
    .bind(to)
    .bind(LIMIT)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(fitting).collect()
}

/// Payments to an account that were settled in this time, as above.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn of_receiver(store: &Store, receiver: Address, (from, to): (i64, i64)) -> Result<Vec<Fitting>> {
    let rows = sqlx::query(
        "SELECT payment_id, receiver, usage FROM payments WHERE receiver = $1 AND settled_ms BETWEEN $2 AND $3 \
         AND state = 'settled' AND settlement_id IS NULL AND method IN ('eip3009', 'permit2') \
         ORDER BY settled_ms, payment_id LIMIT $4",
    )
    .bind(receiver.to_vec())
    .bind(from)
    .bind(to)
    .bind(LIMIT)
    .fetch_all(store.read())
    .await?;
    rows.iter().map(fitting).collect()
}

fn fitting(row: &AnyRow) -> Result<Fitting> {
    const T: &str = "payments";
    Ok(Fitting {
        payment_id: b256(T, &row.try_get::<Vec<u8>, _>("payment_id")?)?,
        receiver: address(T, &row.try_get::<Vec<u8>, _>("receiver")?)?,
        used: used(row)?,
    })
}

/// What a gateway reported with a payment.
fn used(row: &AnyRow) -> Result<Option<Use>> {
    let usage: Option<String> = row.try_get("usage")?;
    Ok(usage.and_then(|usage| serde_json::from_str(&usage).ok()).as_ref().map(Use::read))
}

/// What a gateway reports of use beside the request to settle a payment.
pub(super) fn reported(request: &[u8]) -> Option<Use> {
    #[derive(serde::Deserialize)]
    struct Request {
        #[serde(alias = "usage_metadata", rename = "usageMetadata")]
        usage: Option<Value>,
    }
    let request: Option<Request> = serde_json::from_slice(request).ok();
    request.and_then(|request| request.usage).filter(Value::is_object).as_ref().map(Use::read)
}

/// Gives a payment to a proof: the completion is paid, its texts are not needed any more. A payment for a session of several
/// requests stays open for more until it has as many. False when another proof has it by now.
///
/// # Errors
/// `store_failed`.
pub async fn join(tx: &mut WriteTx, payment: &Fitting, settlement_id: B256, how: &'static str) -> Result<bool> {
    let others: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM handed_in WHERE payment_id = $1 AND settlement_id <> $2")
            .bind(payment.payment_id.to_vec())
            .bind(settlement_id.to_vec())
            .fetch_one(&mut **tx)
            .await?;
    let requests = payment.used.map_or(1, |used| used.requests);
    let last = others.saturating_add(1) >= i64::try_from(requests).unwrap_or(i64::MAX);
    let done = sqlx::query(
        "UPDATE payments SET joined = $1, settlement_id = $2 WHERE payment_id = $3 AND settlement_id IS NULL \
         AND state = 'settled'",
    )
    .bind(how)
    .bind(last.then(|| settlement_id.to_vec()))
    .bind(payment.payment_id.to_vec())
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE completions SET state = 'direct', output = NULL, response = NULL WHERE settlement_id = $1 \
         AND state IN ('verified', 'orphaned')",
    )
    .bind(settlement_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(true)
}

/// What a gateway reports of one payment (`usageMetadata`), with its spellings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    pub requests: u64,
    /// Token units.
    pub cost_opg: u128,
    pub cost_usd: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub total_tokens: u64,
}

impl Use {
    /// Reads the object; what is missing is 0, a payment without a count is for one request.
    pub fn read(usage: &Value) -> Self {
        let field = |names: [&str; 2]| names.iter().find_map(|name| usage.get(name)).filter(|value| !value.is_null());
        let text = |names| field(names).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let count = |names| text(names).and_then(|text| text.parse::<u64>().ok());
        let (input, output) = (count(["inputTokens", "input_tokens"]), count(["outputTokens", "output_tokens"]));
        let usd = text(["costUsd", "cost_usd"]).and_then(|text| text.parse::<f64>().ok());
        let (input_tokens, output_tokens) = (input.unwrap_or(0), output.unwrap_or(0));
        let total = count(["totalTokens", "total_tokens"]);
        Self {
            requests: count(["requestCount", "request_count"]).unwrap_or(1),
            cost_opg: text(["costOpg", "cost_opg"]).and_then(|text| text.parse().ok()).unwrap_or(0),
            cost_usd: usd.filter(|usd| usd.is_finite() && *usd >= 0.0).unwrap_or(0.0),
            input_tokens,
            output_tokens,
            total_tokens: total.unwrap_or_else(|| input_tokens.saturating_add(output_tokens)),
        }
    }
}
