//! `POST /settle_data` and `GET /settle/{job}`: proofs as OpenGradient's gateways hand them in, in headers, naming no payment.

use alloy::primitives::B256;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body::drain;
use super::error::{ErrorBody, GatewayError, GatewayResult};
use super::orders::wants_async;
use super::x402;
use crate::admission::caller::{Caller, caller};
use crate::admission::{Route, count_all, count_caller};
use crate::clock::iso;
use crate::ctx::{Ctx, SharedCtx};
use crate::dispatch::node_key;
use crate::error::{Code, Refusal};
use crate::gateway::item::{self, Compared, Item, Kind};
use crate::gateway::join::LOOKS_MS;
use crate::ingest::{Done, Job as IngestJob};
use crate::store::api_keys;
use crate::store::completions::Completion;
use crate::store::handed_in::{self, NewHandedIn, Taken};
use crate::store::jobs;
use crate::types::RecordState;
use crate::verify::charge::check_active;
use crate::verify::completion::{NodeKey, TimestampRules};

/// What a gateway's proof came to.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    #[schema(value_type = String)]
    pub settlement_id: B256,
    /// batch or individual
    pub settlement_type: &'static str,
    /// It was handed in before.
    pub known: bool,
    /// verified: nobody is known to have paid for it. matched: charged to an order. direct: joined to an x402 payment.
    /// orphaned: nobody paid for it in time.
    pub state: &'static str,
    /// Recording on OpenGradient: due, submitted, recorded, refused; private when its payer asked for privacy.
    pub record: &'static str,
    /// How sure it is who paid: order, request, payer, window; null while nobody is known.
    pub joined: Option<&'static str>,
    #[schema(value_type = Option<String>)]
    pub order_id: Option<B256>,
    #[schema(value_type = Option<String>)]
    pub payment_id: Option<B256>,
    /// Rules of canonical text by which the request that came with it is the signed one; null when it was not compared.
    pub variant: Option<&'static str>,
    /// The answer that came with it is the signed one; null when it was not compared.
    pub output_matches: Option<bool>,
}

/// Takes a proof: the node's signature is checked, and it is on disk before the answer. It is recorded on OpenGradient like any
/// other. The body is not looked at.
#[utoipa::path(post, path = "/settle_data", tag = "gateway",
    params(
        ("x-settlement-type" = String, Header, description = "private, batch or individual"),
        ("x-settlement-data" = Option<String>, Header, description = "standard base64 of the JSON; not for private"),
        ("Prefer" = Option<String>, Header, description = "respond-async: answer 202 with a job"),
    ),
    responses(
        (status = 200, description = "Stored, now or before", body = Proof),
        (status = 202, description = "The same as a job: {settlementJob: {jobId, queue, status, …}}"),
        (status = 400, description = "Refused: nothing is stored, and the code says what is wrong", body = ErrorBody),
        (status = "5XX", description = "Try again: nothing was stored", body = ErrorBody)))]
pub async fn settle_data(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> GatewayResult<Response> {
    let caller = caller(&ctx, &extensions, &headers).await?;
    admit(&ctx, &caller, Route::Completions)?;
    metrics::counter!("quittance_settle_data_total").increment(1);
    drain(body, ctx.config.api.max_body).await?;
    let asynchronous = wants_async(&headers);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = item::kind(text("x-settlement-type")).map_err(GatewayError::invalid)?;
    let Some(kind) = kind else { return Ok(private(asynchronous)) };
    let data = headers.get("x-settlement-data").map(HeaderValue::as_bytes);
    let item = item::read(kind, data).map_err(GatewayError::invalid)?;
    let (taken, compared, id) = take(&ctx, item, &caller).await?;
    if asynchronous {
        let job = jobs::find(&ctx.store, id).await?;
        let job = job.map(|stored| job_of(kind.as_str(), id, &taken, &stored));
        return Ok(accepted(json!({ "settlementJob": job })));
    }
    Ok(Json(proof(kind, id, &taken, &compared)).into_response())
}

/// Whether a gateway may come in; counts it.
pub(super) fn admit(ctx: &Ctx, caller: &Caller, route: Route) -> Result<(), Refusal> {
    count_caller(ctx, route, caller, 1)?;
    count_all(ctx, route, 1)?;
    let bears = caller.key.as_ref().is_some_and(|key| key.has(api_keys::GATEWAY));
    if ctx.config.gateway.key_required && !bears {
        let text = "this keeper serves gateways with an API key of scope gateway (Authorization: Bearer …)";
        return Err(Refusal::new(Code::Unauthorized, text));
    }
    Ok(())
}

fn private(asynchronous: bool) -> Response {
    let notes = "a private inference is neither stored nor recorded";
    let body = json!({ "settlementJob": null, "settlementId": null, "state": "private", "notes": notes });
    if asynchronous { accepted(body) } else { Json(body).into_response() }
}

pub(super) fn accepted(body: Value) -> Response {
    (StatusCode::ACCEPTED, [("preference-applied", "respond-async")], Json(body)).into_response()
}

async fn take(ctx: &Ctx, item: Item, caller: &Caller) -> GatewayResult<(Taken, Compared, B256)> {
    let (key, version) = key_of(ctx, &item).await.map_err(GatewayError::invalid)?;
    // Waits rather than refuses; whoever names an unknown node takes no place.
    let _place = ctx.admission.pressure.completions(&ctx.config.limits, 1).await?;
    item.check_signature(&key).map_err(GatewayError::invalid)?;
    let compared = item.compare().map_err(GatewayError::invalid)?;
    let id = item.evidence.settlement_id();
    let rules = TimestampRules {
        valid_after: 0,
        valid_before: u64::MAX,
        now: ctx.clock.now(),
        max_age: ctx.config.dispatch.max_age,
        max_ahead: ctx.config.dispatch.max_ahead,
    };
    if let Err(refusal) = rules.check(item.evidence.timestamp) {
        // What is stored gets the first answer again, however late it comes.
        let known = handed_in::find(&ctx.store, id).await?;
        return known.map(|taken| (taken, compared, id)).ok_or_else(|| GatewayError::invalid(refusal));
    }
    let Item { kind, evidence, payer, .. } = item;
    let new = NewHandedIn {
        completion: Completion {
            settlement_id: id,
            order_id: None,
            node_id: evidence.node_id,
            node_version: version,
            request_hash: evidence.request_hash,
            output_hash: evidence.output_hash,
            timestamp: evidence.timestamp,
            signature: evidence.signature,
            output: None,
            response: None,
            usage: None,
        },
        kind,
        payer,
        api_key: caller.key.as_ref().map(|key| key.hash),
        next_ms: ctx.clock.now_ms().saturating_add(LOOKS_MS[0]),
    };
    match ctx.ingest.submit(IngestJob::HandedIn(Box::new(new))).await? {
        Done::HandedIn(taken) => {
            tracing::info!(target: "trail", step = "handed_in", settlement = %id, known = taken.known);
            Ok((taken, compared, id))
        }
        _ => Err(Refusal::new(Code::Internal, "an answer got lost: ask again").into()),
    }
}

/// The node's key, and its version on Base (0 when Base does not know it).
async fn key_of(ctx: &Ctx, item: &Item) -> Result<(std::sync::Arc<NodeKey>, u32), Refusal> {
    let id = item.evidence.node_id;
    let base = ctx.registry.node(id);
    if let Some(node) = &base {
        check_active(node, item.evidence.timestamp)?;
    }
    let version = base.as_ref().map_or(0, |node| node.version);
    if let Some(tee) = ctx.tees.get(id) {
        return Ok((tee.key.clone(), version));
    }
    if let Some(key) = base.as_deref().and_then(|node| node_key(node).ok()) {
        return Ok((key, version));
    }
    let found = ctx.tees.find(id).await;
    found.map(|tee| (tee.key.clone(), version)).ok_or_else(|| {
        let text = "neither OpenGradient's registry nor the one on Base has such a node: register it first";
        Refusal { details: json!({ "teeId": id }), ..Refusal::new(Code::UnknownNode, text) }
    })
}

fn proof(kind: Kind, id: B256, taken: &Taken, compared: &Compared) -> Proof {
    Proof {
        settlement_id: id,
        settlement_type: kind.as_str(),
        known: taken.known,
        state: taken.state.as_str(),
        record: taken.record.as_str(),
        joined: taken.joined.map(handed_in::Joined::as_str),
        order_id: taken.order_id,
        payment_id: taken.payment_id,
        variant: compared.variant.map(crate::canonical::Variant::as_str),
        output_matches: compared.output.as_ref().map(|_| true),
    }
}

/// A job as OpenGradient's facilitator shows it.
fn job_of(kind: &str, id: B256, taken: &Taken, stored: &jobs::Stored) -> Value {
    let status = match taken.record {
        RecordState::Due => "queued",
        RecordState::Submitted => "processing",
        RecordState::Recorded | RecordState::Private => "succeeded",
        RecordState::Refused => "failed",
    };
    let mut job = json!({
        "jobId": format!("settlement-{kind}-{id}"),
        "queue": "settle-data",
        "settlementType": kind,
        "status": status,
        "createdAt": iso(stored.created_ms),
        "updatedAt": iso(stored.updated_ms),
        "result": {
            "settlementId": id,
            "state": taken.state.as_str(),
            "record": taken.record.as_str(),
            "joined": taken.joined.map(handed_in::Joined::as_str),
            "orderId": taken.order_id,
            "paymentId": taken.payment_id,
            "txHash": stored.tx_hash,
            "block": stored.block,
        },
    });
    if taken.record == RecordState::Refused {
        job["error"] = json!("OpenGradient's inbox refused the inference: its registry has another key or none");
    }
    job
}

/// How far a job is: a proof (`settlement-…` or a bare settlement id) or an x402 payment (`payment-…`).
#[utoipa::path(get, path = "/settle/{job}", tag = "gateway",
    params(("job" = String, Path, description = "jobId, a settlement id, or an x402 payment's id")),
    responses(
        (status = 200, description = "{jobId, queue, status: queued | processing | succeeded | failed, createdAt, updatedAt, \
                                      result?, error?}"),
        (status = 404, description = "No such job", body = ErrorBody)))]
pub async fn job(State(ctx): State<SharedCtx>, Path(name): Path<String>) -> GatewayResult<Json<Value>> {
    let missing = || {
        let shown: String = name.chars().take(128).collect();
        GatewayError::from(Refusal::new(Code::NotFound, format!("Settlement job not found: {shown}")))
    };
    let id = name.rsplit('-').next().and_then(|id| id.parse::<B256>().ok()).ok_or_else(missing)?;
    if name.starts_with("payment-") {
        return Ok(Json(x402::job(&ctx, id).await?.ok_or_else(missing)?));
    }
    let (Some(taken), Some(stored)) = (handed_in::find(&ctx.store, id).await?, jobs::find(&ctx.store, id).await?)
    else {
        return Ok(Json(x402::job(&ctx, id).await?.ok_or_else(missing)?));
    };
    let kind = stored.kind.clone().unwrap_or_else(|| "batch".to_owned());
    Ok(Json(job_of(&kind, id, &taken, &stored)))
}
