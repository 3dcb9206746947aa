//! Reads of state with its evidence: orders, batches, accounts, nodes.

use alloy::primitives::{Address, B256};
use alloy::sol_types::SolValue;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use quittance_bindings::ledger::SettlementLedger::BatchRecord;
use quittance_bindings::typed::Order;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answered, answered};
use super::auth::reader;
use super::error::{ApiError, ApiResult, ErrorBody};
use super::receipts::{PathText, id, text};
use crate::ctx::SharedCtx;
use crate::error::{Code, Error};
use crate::ingest::{chain_now, cover};
use crate::limits::settlement_horizon;
use crate::receipt::RecordFields;
use crate::store::{accounts, evidence, orders};
use crate::wire::{LeafFields, OrderFields};

/// An order and how far it is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    #[schema(value_type = String)]
    pub order_id: B256,
    pub order: OrderFields,
    /// open, dispatched, completed, settled, final, voided, expired, reclaimed, refused
    pub state: String,
    /// Stable code of a refusal or of the last failed attempt.
    pub reason: Option<String>,
    /// The chain holds the maximum for it.
    pub held: bool,
    /// Whether the request is known, so that it can be run.
    pub request_known: bool,
    pub attempts: i64,
    pub created_ms: i64,
    /// For those who may read: the answer and its receipt.
    pub answer: Option<Answered>,
}

/// The state of an order; with an API key or the payer's sign-in, its answer and receipt too.
#[utoipa::path(get, path = "/orders/{orderId}", tag = "orders", params(("orderId" = String, Path)),
    responses((status = 200, body = OrderView), (status = "4XX", body = ErrorBody)))]
pub async fn order(State(ctx): State<SharedCtx>, path: PathText, headers: HeaderMap) -> ApiResult<Json<OrderView>> {
    let row = orders::get(ctx.store.read(), id(&text(path)?)?).await?;
    let row = row.ok_or_else(|| ApiError::new(Code::NotFound, "this keeper does not know the order"))?;
    let answer = match reader(&ctx, &headers).await {
        Ok(reader) if reader.may_read(row.order.payer) => answered(&ctx, &row).await?,
        _ => None,
    };
    Ok(Json(OrderView {
        order_id: row.order_id,
        order: OrderFields::from(&row.order),
        state: row.state.as_str().to_owned(),
        reason: row.reason,
        held: row.held,
        request_known: row.request_hash.is_some(),
        attempts: row.attempts,
        created_ms: row.created_ms,
        answer,
    }))
}

/// A batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchView {
    /// The ledger's number.
    pub batch_id: Option<i64>,
    /// frozen, submitted, included, safe, finalised, paid, empty, quarantined
    pub state: String,
    #[schema(value_type = String)]
    pub keeper_id: B256,
    #[schema(value_type = String)]
    pub token: Address,
    /// Rows handed in; fewer may be captured.
    pub rows: i64,
    pub record: Option<RecordFields>,
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub block: Option<u64>,
    #[schema(value_type = Option<String>)]
    pub block_hash: Option<B256>,
    /// Captured rows in order.
    pub leaves: Vec<LeafFields>,
}

/// A batch of this keeper by the ledger's number.
#[utoipa::path(get, path = "/batches/{batchId}", tag = "batches", params(("batchId" = i64, Path)),
    responses((status = 200, body = BatchView), (status = "4XX", body = ErrorBody)))]
pub async fn batch(State(ctx): State<SharedCtx>, path: PathText) -> ApiResult<Json<BatchView>> {
    let number: i64 =
        text(path)?.parse().map_err(|_| ApiError::new(Code::Malformed, "the batch in the path must be a number"))?;
    let batch = evidence::batch_on_chain(&ctx.store, number).await?;
    let batch = batch.ok_or_else(|| ApiError::new(Code::NotFound, "this keeper settled no batch of this number"))?;
    let record = batch.record.as_deref().map(BatchRecord::abi_decode).transpose();
    let record = record.map_err(|error| Error::Corrupt { table: "batches", what: error.to_string() })?;
    let leaves = evidence::leaves(&ctx.store, batch.batch_id).await?;
    Ok(Json(BatchView {
        batch_id: batch.chain_batch_id,
        state: batch.state,
        keeper_id: batch.keeper_id,
        token: batch.token,
        rows: batch.rows,
        record: record.as_ref().map(RecordFields::from),
        transaction: batch.place.map(|place| place.transaction),
        block: batch.place.map(|place| place.block),
        block_hash: batch.place.and_then(|place| place.block_hash),
        leaves: leaves.iter().map(|(_, leaf)| LeafFields::from(leaf)).collect(),
    }))
}

/// A payer's money in one token as this keeper sees it; token units as decimal text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountView {
    #[schema(value_type = String)]
    pub token: Address,
    pub free: String,
    pub held: String,
    /// In the lock for this keeper, and until when (unix seconds).
    pub locked: String,
    pub locked_until: u64,
    /// Promised to orders that are not settled yet.
    pub reserved: String,
    /// What new orders that name this keeper may still promise together.
    pub spendable: String,
}

/// What a payer has and may still order.
#[utoipa::path(get, path = "/accounts/{payer}", tag = "accounts", params(("payer" = String, Path)),
    responses((status = 200, body = Vec<AccountView>), (status = "4XX", body = ErrorBody)))]
pub async fn account(
    State(ctx): State<SharedCtx>,
    path: PathText,
    headers: HeaderMap,
) -> ApiResult<Json<Vec<AccountView>>> {
    let payer: Address =
        text(path)?.parse().map_err(|_| ApiError::new(Code::Malformed, "the payer in the path must be an address"))?;
    reader(&ctx, &headers).await?.require(payer)?;
    let until = chain_now(&ctx).await?.saturating_add(settlement_horizon(&ctx.config));
    let mut views = Vec::new();
    for token in ctx.config.base.tokens.iter().copied() {
        let of_payer = Order { payer, token, keeperId: ctx.config.keeper.id, ..empty_order() };
        let mut connection = ctx.store.read().acquire().await?;
        let cover = cover(&mut connection, &ctx.config, &of_payer).await?;
        let account = accounts::account(&mut *connection, payer, token).await?;
        views.push(AccountView {
            token,
            free: account.free.to_string(),
            held: account.held.to_string(),
            locked: cover.lane.locked.to_string(),
            locked_until: cover.lane.until,
            reserved: cover.lane.reserved.to_string(),
            spendable: cover.limit(until, ctx.lock_tail).saturating_sub(cover.lane.reserved).to_string(),
        });
    }
    Ok(Json(views))
}

fn empty_order() -> Order {
    Order {
        payer: Address::ZERO,
        token: Address::ZERO,
        maxAmount: 0,
        requestCommit: B256::ZERO,
        nodeScope: B256::ZERO,
        keeperId: B256::ZERO,
        validAfter: Default::default(),
        validBefore: Default::default(),
        captureDeadline: Default::default(),
        nonce: Default::default(),
    }
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    #[schema(value_type = String)]
    pub node_id: B256,
    pub version: u32,
    /// declared, mirrored, attested
    pub label: String,
    /// Whether new requests may go to it.
    pub active: bool,
    /// Whether this keeper sends requests to it.
    pub served: bool,
    #[schema(value_type = Option<String>)]
    pub meter_key: Option<Address>,
    #[schema(value_type = String)]
    pub payout: Address,
    /// Requests at the node now.
    pub load: u32,
    /// Rate cards that fit it.
    pub rates: Vec<RateView>,
}

/// A price: token units per million tokens, decimal text.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateView {
    #[schema(value_type = String)]
    pub token: Address,
    /// Null: every model.
    pub model: Option<String>,
    pub input: String,
    pub output: String,
    pub version: String,
}

/// Nodes on Base, whether this keeper serves them, and at what price.
#[utoipa::path(get, path = "/nodes", tag = "nodes", responses((status = 200, body = Vec<NodeView>)))]
pub async fn nodes(State(ctx): State<SharedCtx>) -> Json<Vec<NodeView>> {
    let view = |node: std::sync::Arc<crate::registry::NodeRecord>| NodeView {
        node_id: node.id,
        version: node.version,
        label: node.label.as_str().to_owned(),
        active: node.is_active(),
        served: ctx.config.nodes.iter().any(|configured| configured.id == node.id),
        meter_key: node.current().map(|version| version.meter_key),
        payout: node.payout,
        load: ctx.desk.load(node.id),
        rates: ctx
            .config
            .rates
            .iter()
            .filter(|card| card.node.is_none_or(|only| only == node.id))
            .map(|card| RateView {
                token: card.token,
                model: card.model.clone(),
                input: card.input.clone(),
                output: card.output.clone(),
                version: card.version.clone(),
            })
            .collect(),
    };
    Json(ctx.registry.nodes().into_iter().map(view).collect())
}
