//! `POST /verify`, `POST /settle`, `GET /supported`: the x402 facilitator. Outcomes of the protocol are always 200.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::body::bytes;
use super::error::{ApiResult, ErrorBody};
use crate::admission::caller::{Caller, caller};
use crate::admission::pressure::{Shed, refuse};
use crate::admission::{Route, count_all, count_caller};
use crate::ctx::{Ctx, SharedCtx};
use crate::x402;
use crate::x402::wire::{SettledAnswer, Supported, Verified};

/// Whether a payment would be settled now. Nothing is stored.
#[utoipa::path(post, path = "/verify", tag = "x402", request_body = Object,
    responses((status = 200, body = Verified), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
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

/// Settles a payment and waits for its receipt. The same payment again gets the same answer.
#[utoipa::path(post, path = "/settle", tag = "x402", request_body = Object,
    responses((status = 200, body = SettledAnswer, headers(("extension-responses" = Option<String>,
            description = "base64 of {bazaar: {status, rejectedReason?}}, for a payment whose server declared its resource"))),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub async fn settle(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let caller = admit(&ctx, &extensions, &headers).await?;
    let body = bytes(body, ctx.config.x402.max_body).await?;
    let answer = x402::settle(&ctx, &body, caller.key.map(|key| key.hash)).await?;
    let told = answer.told.as_ref().and_then(|told| HeaderValue::try_from(BASE64.encode(told.to_string())).ok());
    let mut response = Json(answer).into_response();
    if let Some(told) = told {
        response.headers_mut().insert("extension-responses", told);
    }
    Ok(response)
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
    Ok(caller)
}
