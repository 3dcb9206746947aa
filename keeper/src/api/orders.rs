//! `POST /orders`: a signed order with its request; the answer and receipt come back, at once, streamed, or later.

use std::time::Duration;

use alloy::primitives::{B256, Bytes};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use quittance_bindings::typed::{Order, domain, order_id};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer::{Answered, Pending, Standing, standing, standing_of, wait};
use super::body::{json_bytes, parse};
use super::error::{ApiError, ApiResult, ErrorBody};
use super::stream;
use crate::admission::caller::caller;
use crate::admission::pressure::{Shed, refuse};
use crate::admission::{Route, count_all, count_caller, count_payer};
use crate::canonical::canonical_request;
use crate::ctx::{Ctx, SharedCtx};
use crate::dispatch::lease;
use crate::error::{Code, Refusal};
use crate::ingest::{self, Done, Job, NewOrder};
use crate::limits::settlement_horizon;
use crate::store::orders;
use crate::types::OrderRow;
use crate::verify::charge::check_scope;
use crate::verify::order::{Checked, Handed, Rules, check, match_request, recover};
use crate::wire::OrderFields;

/// Body of `POST /orders`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Submission {
    pub order: OrderFields,
    /// Payer's EIP-712 signature, 65 bytes or 64 (EIP-2098); may be absent for an order that the chain holds.
    #[schema(value_type = Option<String>)]
    pub signature: Option<Bytes>,
    /// The chat or completions request, byte for byte as it was hashed.
    #[schema(value_type = Object)]
    pub request: Option<Box<RawValue>>,
    /// Secret of a private order; absent for a public one.
    #[schema(value_type = Option<String>)]
    pub blinding: Option<B256>,
    /// Answer as server-sent events, ending in an event `receipt`.
    #[serde(default)]
    pub stream: bool,
    /// The chain that the order is signed for, if the payer wants a clear refusal of a wrong one.
    pub chain_id: Option<u64>,
    /// Digest of the order as order files carry it; never trusted, but another one is refused.
    #[schema(value_type = Option<String>)]
    pub order_id: Option<B256>,
}

/// Whether the caller wants to be answered at once and to ask again (RFC 7240).
pub(super) fn wants_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case("respond-async"))
}

/// Hands in a signed order and its request.
#[utoipa::path(post, path = "/orders", tag = "orders", request_body = Submission,
    params(("Prefer" = Option<String>, Header, description = "respond-async: answer 202 at once")),
    responses(
        (status = 200, description = "The answer and its receipt; with `stream`, server-sent events", body = Answered),
        (status = 202, description = "Taken; ask again with the same order", body = Pending),
        (status = "4XX", description = "Refused: nothing is charged", body = ErrorBody),
        (status = "5XX", description = "Try again: nothing is lost", body = ErrorBody)))]
pub async fn submit(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    if ctx.stopping.is_cancelled() {
        return Err(refuse(Shed::Stopping).into());
    }
    let caller = caller(&ctx, &extensions, &headers).await?;
    count_caller(&ctx, Route::Orders, &caller, 1)?;
    // Held until the answer is out: what waits counts too.
    let place = ctx.admission.pressure.order(&ctx.config.limits, ctx.ingest.waiting())?;
    let bytes = json_bytes(&headers, body, ctx.config.api.max_body).await?;
    let submission: Submission = parse(&bytes)?;
    let streams = submission.stream;
    let taken = take(&ctx, submission).await?;
    metrics::counter!("quittance_orders_total").increment(1);
    let id = taken.order_id;
    if streams {
        return stream::respond(ctx, id, taken.kept, place).await;
    }
    let standing = match taken.known {
        _ if !wants_async(&headers) => wait(&ctx, id, Duration::from_millis(ctx.config.api.wait_ms)).await?,
        Some(known) => standing_of(&ctx, *known).await?,
        None => standing(&ctx, id).await?,
    };
    Ok(match standing {
        Standing::Answered(answered) => Json(answered).into_response(),
        Standing::Pending(pending) => (StatusCode::ACCEPTED, Json(pending)).into_response(),
    })
}

/// An order that is ours to serve, committed.
struct Taken {
    order_id: B256,
    /// Kept from the dispatcher for the bearer that streams.
    kept: bool,
    /// The order as it was found, when it was handed in before.
    known: Option<Box<OrderRow>>,
}

async fn take(ctx: &Ctx, submission: Submission) -> ApiResult<Taken> {
    let base = &ctx.config.base;
    if let Some(chain_id) = submission.chain_id.filter(|chain_id| *chain_id != base.chain_id) {
        let text = "the order is for another chain: sign it with the chain id of the escrow";
        return Err(Refusal::mismatch(Code::WrongChain, text, chain_id, base.chain_id).into());
    }
    let order = Order::try_from(&submission.order)?;
    let request = submission.request.as_ref().ok_or_else(|| {
        ApiError::new(Code::RequestMissing, "hand in the request with the order: the node must run it")
    })?;
    let hashes: Vec<B256> =
        canonical_request(request.get().as_bytes())?.iter().map(|canonical| canonical.hash).collect();
    let blinding = submission.blinding.unwrap_or_default();
    let id = order_id(&order, &domain(base.chain_id, base.escrow));
    if let Some(claimed) = submission.order_id.filter(|claimed| *claimed != id) {
        let text = "the order has another id under this keeper's escrow: it was made for another chain or contract";
        return Err(Refusal::mismatch(Code::WrongChain, text, claimed.to_string(), id.to_string()).into());
    }
    let known = orders::get(ctx.store.read(), id).await?;
    let held = known.as_ref().is_some_and(|known| known.held);
    if let Some(known) = known.filter(|known| known.request_hash.is_some()) {
        again(&known, &order, &hashes, blinding, submission.signature.as_ref().map(AsRef::as_ref))?;
        return Ok(Taken { order_id: id, kept: false, known: Some(Box::new(known)) });
    }
    let rules = Rules {
        chain_id: base.chain_id,
        escrow: base.escrow,
        keeper_id: ctx.config.keeper.id,
        tokens: &base.tokens,
        now: ctx.clock.now(),
        chain_now: ingest::chain_now(ctx).await?,
        min_time_left: settlement_horizon(&ctx.config),
    };
    let handed = Handed {
        order: &order,
        signature: submission.signature.as_ref().map(AsRef::as_ref),
        request_hashes: &hashes,
        blinding,
        held,
    };
    let Checked { request_hash, signature, .. } = check(&handed, &rules)?;
    // Only now is it known to be the payer's, or to be held, which costs whoever did it.
    count_payer(ctx, order.payer)?;
    count_all(ctx, Route::Orders, 1)?;
    check_node(ctx, &order)?;
    let dispatch_from_ms = if submission.stream {
        lease(ctx)
    } else {
        // A payer's clock may be a little ahead of the nodes'.
        order.validAfter.to::<i64>().saturating_mul(1_000)
    };
    let payer = order.payer;
    let job = Job::Order(Box::new(NewOrder {
        order_id: id,
        order,
        signature,
        blinding,
        request_hash,
        request: request.get().as_bytes().to_vec(),
        dispatch_from_ms,
    }));
    let done = ctx.ingest.submit(job).await?;
    tracing::info!(target: "trail", step = "taken", order = %id, %payer);
    Ok(Taken { order_id: id, kept: submission.stream && done == Done::Admitted, known: None })
}

/// The same order again: its bearer must know the request and have the payer's signature, as the first time.
fn again(
    known: &OrderRow,
    order: &Order,
    hashes: &[B256],
    blinding: B256,
    signature: Option<&[u8]>,
) -> Result<(), Refusal> {
    match_request(order, hashes, blinding)?;
    if known.signature.is_some() {
        let signer = recover(signature.unwrap_or_default(), known.order_id).map(|(signer, _)| signer);
        if signer.ok() != Some(order.payer) {
            let text = "hand the order in with the payer's signature, as the first time";
            return Err(Refusal::new(Code::BadOrderSignature, text));
        }
    }
    Ok(())
}

/// An order that names its node: that node must exist, be active, and be one that we can reach and charge for.
fn check_node(ctx: &Ctx, order: &Order) -> Result<(), Refusal> {
    if order.nodeScope == B256::ZERO {
        return Ok(());
    }
    let id = order.nodeScope;
    let unknown =
        |text: &str| Refusal { details: serde_json::json!({ "nodeId": id }), ..Refusal::new(Code::UnknownNode, text) };
    let node = ctx.registry.node(id).ok_or_else(|| unknown("no such node is registered on Base: see /nodes"))?;
    if !node.is_active() {
        let text = "the node is retired, revoked or has no meter key: name another, see /nodes";
        return Err(Refusal { code: Code::NodeNotActive, ..unknown(text) });
    }
    if !ctx.config.nodes.iter().any(|configured| configured.id == id) {
        return Err(unknown("this keeper does not serve that node: name another, see /nodes"));
    }
    check_scope(order, &node, node.current())
}
