//! `POST /verify`, `POST /settle`, `GET /supported`: the x402 facilitator. Outcomes of the protocol are always 200.

use alloy::primitives::B256;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::body::bytes;
use super::error::{ApiError, ApiResult, ErrorBody};
use super::gateway::accepted;
use super::orders::wants_async;
use crate::admission::caller::{Caller, caller};
use crate::admission::pressure::{Shed, refuse};
use crate::admission::{Route, count_all, count_caller};
use crate::clock::iso;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Error};
use crate::store::{api_keys, payments};
use crate::types::PaymentState;
use crate::x402::wire::{SettledAnswer, Supported, Verified};
use crate::x402::{self, networks};

/// Whether a payment would be settled now. Nothing is stored.
#[utoipa::path(post, path = "/verify", tag = "x402", request_body = Object,
    params(("Authorization" = Option<String>, Header, description = "Bearer API-KEY of scope settle, where the keeper wants one")),
    responses((status = 200, body = Verified), (status = 401, description = "An API key of scope settle is wanted", body = ErrorBody),
        (status = 429, description = "Too many of this caller, or of this payer", body = ErrorBody), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub async fn verify(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Verified>> {
    admit(&ctx, &extensions, &headers).await?;
    let body = bytes(body, ctx.config.x402.max_body).await?;
    Ok(Json(x402::verify(&ctx, &body).await?))
}

/// Settles a payment and waits for its receipt. The same payment again gets the same answer. With `Prefer: respond-async` a
/// payment that is stored and has no result yet is answered at once, as a job.
#[utoipa::path(post, path = "/settle", tag = "x402", request_body = Object,
    params(("Prefer" = Option<String>, Header, description = "respond-async: answer 202 with a job"),
        ("Authorization" = Option<String>, Header, description = "Bearer API-KEY of scope settle, where the keeper wants one")),
    responses((status = 202, description = "On its way: {paymentJob: {jobId, queue, status, createdAt, updatedAt, result?, \
            error?}}, see /settle/{job}"),
        (status = 200, body = SettledAnswer, headers(("extension-responses" = Option<String>,
            description = "base64 of {bazaar: {status, rejectedReason?}}, for a payment whose server declared its resource"))),
        (status = 401, description = "An API key of scope settle is wanted", body = ErrorBody),
        (status = 429, description = "Too many of this caller, or of this payer", body = ErrorBody),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub async fn settle(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let caller = admit(&ctx, &extensions, &headers).await?;
    let body = bytes(body, ctx.config.x402.max_body).await?;
    let answer = x402::settle(&ctx, &body, caller.key.map(|key| key.hash), wants_async(&headers)).await?;
    if let Some(id) = answer.job {
        let job = job(&ctx, id).await?;
        return Ok(accepted(json!({ "paymentJob": job })));
    }
    let told = answer.told.as_ref().and_then(|told| HeaderValue::try_from(BASE64.encode(told.to_string())).ok());
    let mut response = Json(answer).into_response();
    if let Some(told) = told {
        response.headers_mut().insert("extension-responses", told);
    }
    Ok(response)
}

/// How far a payment is, as a job of OpenGradient's facilitator; `None` for an unknown one.
pub(super) async fn job(ctx: &Ctx, payment_id: B256) -> Result<Option<Value>, Error> {
    let Some(payment) = payments::get(ctx.store.read(), payment_id).await? else { return Ok(None) };
    let new = &payment.new;
    let status = match payment.state {
        PaymentState::Accepted | PaymentState::Approving => "queued",
        PaymentState::Queued | PaymentState::Searching => "processing",
        PaymentState::Settled => "succeeded",
        PaymentState::Failed => "failed",
    };
    let sent = match payment.tx_id {
        Some(tx_id) if payment.state == PaymentState::Queued => payments::sent_as(ctx.store.read(), tx_id).await?,
        _ => payment.tx_hash,
    };
    let settled = payment.state == PaymentState::Settled;
    let mut job = json!({
        "jobId": format!("payment-{payment_id}"),
        "queue": "settle-payment",
        "status": status,
        "createdAt": iso(payment.created_ms),
        "updatedAt": iso(payment.updated_ms),
        "result": {
            "success": settled,
            "transaction": sent.map(|hash| hash.to_string()).unwrap_or_default(),
            "network": networks::name(new.chain_id),
            "payer": new.payer,
            "amount": settled.then(|| new.amount.to_string()),
            "errorReason": payment.reason.filter(|_| payment.state == PaymentState::Failed),
        },
    });
    if payment.state == PaymentState::Failed {
        job["error"] = json!(payment.message);
    }
    Ok(Some(job))
}

/// Schemes and networks that are settled here.
#[utoipa::path(get, path = "/supported", tag = "x402", responses((status = 200, body = Supported)))]
pub async fn supported(State(ctx): State<SharedCtx>) -> Json<Supported> {
    Json(x402::supported(&ctx.x402))
}

async fn admit(ctx: &Ctx, extensions: &Extensions, headers: &HeaderMap) -> ApiResult<Caller> {
    if ctx.stopping.is_cancelled() {
        return Err(refuse(Shed::Stopping).into());
    }
    let caller = caller(ctx, extensions, headers).await?;
    count_caller(ctx, Route::Payments, &caller, 1)?;
    count_all(ctx, Route::Payments, 1)?;
    let bears = caller.key.as_ref().is_some_and(|key| key.has(api_keys::SETTLE));
    if ctx.config.x402.key_required && !bears {
        let text = "this facilitator serves callers with an API key of scope settle (Authorization: Bearer …)";
        return Err(ApiError::new(Code::Unauthorized, text));
    }
    Ok(caller)
}
