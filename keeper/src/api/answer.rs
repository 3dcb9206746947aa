//! What a caller gets for its order: state while it runs, then answer and receipt; the same for everybody who asks again.

use alloy::primitives::{B256, Bytes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

use super::error::{ApiError, ApiResult};
use crate::ctx::Ctx;
use crate::error::{Code, Refusal};
use crate::receipt::{ReceiptFile, UsageEvidence, assemble};
use crate::store::completions::{self, CompletionRow};
use crate::store::orders;
use crate::types::{OrderRow, OrderState};

/// Longest time between two looks at the store.
const POLL: Duration = Duration::from_millis(1_000);

/// An answered order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    #[schema(value_type = String)]
    pub order_id: B256,
    /// completed, settled, final, voided
    pub state: String,
    pub completion: CompletionView,
    pub receipt: Option<ReceiptFile>,
}

/// An order that is not answered yet.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    #[schema(value_type = String)]
    pub order_id: B256,
    /// open or dispatched
    pub state: String,
    /// Stable code of the last failed attempt, or null.
    pub reason: Option<String>,
}

/// A node's answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompletionView {
    #[schema(value_type = String)]
    pub settlement_id: B256,
    #[schema(value_type = String)]
    pub node_id: B256,
    #[schema(value_type = String)]
    pub request_hash: B256,
    #[schema(value_type = String)]
    pub output_hash: B256,
    /// The node's own time, unix seconds.
    pub timestamp: u64,
    /// Standard base64.
    pub signature: String,
    /// The hashed text; null when it was not handed in, or once the order is terminal.
    pub output: Option<String>,
    /// The node's whole response body; null as above.
    #[schema(value_type = Option<Object>)]
    pub response: Option<Box<RawValue>>,
    pub usage: Option<UsageEvidence>,
    /// Token units charged, and the Meter signature.
    pub amount: Option<String>,
    #[schema(value_type = Option<String>)]
    pub meter_signature: Option<Bytes>,
}

impl From<CompletionRow> for CompletionView {
    fn from(row: CompletionRow) -> Self {
        let completion = row.completion;
        let raw = completion.response.and_then(|bytes| String::from_utf8(bytes).ok());
        Self {
            settlement_id: completion.settlement_id,
            node_id: completion.node_id,
            request_hash: completion.request_hash,
            output_hash: completion.output_hash,
            timestamp: completion.timestamp,
            signature: BASE64.encode(&completion.signature),
            output: completion.output.and_then(|bytes| String::from_utf8(bytes).ok()),
            response: raw.and_then(|text| RawValue::from_string(text).ok()),
            usage: completion.usage.map(|usage| UsageEvidence { input: usage.input, output: usage.output }),
            amount: row.metered.as_ref().map(|metered| metered.amount.to_string()),
            meter_signature: row.metered.map(|metered| metered.signature.into()),
        }
    }
}

/// How an order stands for its bearer.
#[derive(Debug)]
pub enum Standing {
    Answered(Box<Answered>),
    Pending(Pending),
}

/// The answer of an order as far as it is.
///
/// # Errors
/// `order_closed` for an order that will not be answered, with its state and reason; `not_found`.
pub async fn standing(ctx: &Ctx, order_id: B256) -> ApiResult<Standing> {
    let order = orders::get(ctx.store.read(), order_id).await?;
    let order = order.ok_or_else(|| ApiError::new(Code::NotFound, "this keeper does not know the order"))?;
    standing_of(ctx, order).await
}

/// How an order stands that was read a moment ago.
///
/// # Errors
/// `order_closed`, `internal`.
pub async fn standing_of(ctx: &Ctx, order: OrderRow) -> ApiResult<Standing> {
    let order_id = order.order_id;
    if let Some(answered) = answered(ctx, &order).await? {
        return Ok(Standing::Answered(Box::new(answered)));
    }
    if !matches!(order.state, OrderState::Open | OrderState::Dispatched) {
        let text = "the order is closed without an answer: nothing is charged, sign a new one";
        let details = serde_json::json!({ "orderId": order_id, "state": order.state.as_str(), "reason": order.reason });
        return Err(ApiError(Refusal { details, ..Refusal::new(Code::OrderClosed, text) }));
    }
    Ok(Standing::Pending(Pending { order_id, state: order.state.as_str().to_owned(), reason: order.reason }))
}

/// Answer and receipt of an order that has them.
///
/// # Errors
/// `internal`.
pub async fn answered(ctx: &Ctx, order: &OrderRow) -> ApiResult<Option<Answered>> {
    let Some(row) = completions::of_order(ctx.store.read(), order.order_id).await? else { return Ok(None) };
    let receipt = assemble::file(ctx, row.completion.settlement_id).await?;
    let state = order.state.as_str().to_owned();
    Ok(Some(Answered { order_id: order.order_id, state, completion: row.into(), receipt }))
}

/// Waits until an order is answered, closed, `limit` is over, or the keeper stops.
///
/// # Errors
/// As `standing`.
pub async fn wait(ctx: &Ctx, order_id: B256, limit: Duration) -> ApiResult<Standing> {
    let until = Instant::now() + limit;
    loop {
        let hint = ctx.signals.completions.notified();
        tokio::pin!(hint);
        // Registered before the look, so that a commit between look and wait is not missed.
        hint.as_mut().enable();
        let standing = standing(ctx, order_id).await?;
        let left = until.saturating_duration_since(Instant::now());
        if matches!(standing, Standing::Answered(_)) || left.is_zero() || ctx.closing.is_cancelled() {
            return Ok(standing);
        }
        tokio::select! {
            () = hint => {}
            () = tokio::time::sleep(left.min(POLL)) => {}
            () = ctx.closing.cancelled() => {}
        }
    }
}
