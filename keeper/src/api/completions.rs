//! `POST /completions`: nodes' evidence, one or many, each answered for itself.

use std::sync::Arc;

use alloy::primitives::{B256, keccak256};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap};
use axum::response::{IntoResponse, Response};
use quittance_bindings::typed::{message_hash, settlement_id};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::{json_bytes, parse, too_large};
use super::error::{ApiError, ApiResult, ErrorBody};
use crate::admission::caller::caller;
use crate::admission::{Route, count_all, count_caller};
use crate::canonical::canonical_request;
use crate::ctx::Ctx;
use crate::ctx::SharedCtx;
use crate::dispatch::{charge_order, check_evidence, node_key, supplied, usage};
use crate::error::{Code, Refusal};
use crate::ingest::{Done, Job, NewCompletion};
use crate::limits::MAX_COMPLETIONS;
use crate::registry::NodeRecord;
use crate::store::completions::{Completion, Matched};
use crate::store::intake::{self, Known};
use crate::store::{api_keys, completions, orders};
use crate::types::OrderRow;
use crate::verify::charge::check_active;
use crate::verify::completion::{Evidence, TimestampRules, check_completion, signature};

/// One completion.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Handed {
    /// The order that it answers; without it, an open order with this request is looked for.
    #[schema(value_type = Option<String>)]
    #[serde(alias = "paymentId")]
    pub order_id: Option<B256>,
    #[schema(value_type = String)]
    pub node_id: B256,
    /// The request, or its hash.
    #[schema(value_type = Option<Object>)]
    pub request: Option<Box<RawValue>>,
    #[schema(value_type = Option<String>)]
    pub request_hash: Option<B256>,
    /// The answer's text, or its hash.
    pub output: Option<String>,
    #[schema(value_type = Option<String>)]
    pub output_hash: Option<B256>,
    /// The node's own time, unix seconds.
    pub timestamp: u64,
    /// The node's signature, standard base64 or 0x-hexadecimal.
    pub signature: String,
    /// The node's Meter `{offset, amount, signature}`; without it this keeper meters, which takes an API key with scope
    /// `completions`.
    #[schema(value_type = Option<Object>)]
    pub meter: Option<Value>,
    /// `{prompt_tokens, completion_tokens}` or `{input_tokens, output_tokens}`.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Value>,
    /// The node's whole response, kept for the payer.
    #[schema(value_type = Option<Object>)]
    pub response: Option<Box<RawValue>>,
}

/// What became of one completion.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    #[schema(value_type = String)]
    pub settlement_id: B256,
    /// matched: charged to an order. verified: waits for its order. orphaned: proof without payment, the order has
    /// another answer or is closed.
    pub state: &'static str,
    #[schema(value_type = Option<String>)]
    pub order_id: Option<B256>,
}

/// Hands in one completion, or an array of up to 1,000.
#[utoipa::path(post, path = "/completions", tag = "completions", request_body = Handed,
    responses(
        (status = 200, description = "One result, or one per item in order: a result or an error body", body = Accepted),
        (status = "4XX", description = "Refused (a single completion), or the array itself cannot be read", body = ErrorBody),
        (status = "5XX", description = "Try again: nothing was stored", body = ErrorBody)))]
pub async fn submit(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let api = &ctx.config.api;
    let caller = caller(&ctx, &extensions, &headers).await?;
    let count = |cost: usize| -> Result<(), Refusal> {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        count_caller(&ctx, Route::Completions, &caller, cost)?;
        count_all(&ctx, Route::Completions, cost)
    };
    // Whoever has overdrawn need not even send its body; how much a call costs is known when it is read.
    count(0)?;
    let bytes = json_bytes(&headers, body, api.max_batch_body.max(api.max_body)).await;
    if bytes.is_err() {
        count(1)?;
    }
    let bytes = bytes?;
    // Waits rather than refuses; a slow sender takes no place.
    let places = |count: usize| ctx.admission.pressure.completions(&ctx.config.limits, count);
    // A devnet meters for everybody.
    let metered = api.open_reads || caller.key.as_ref().is_some_and(|key| key.has(api_keys::COMPLETIONS));
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        count(1)?;
        if bytes.len() > api.max_body {
            return Err(too_large(api.max_body));
        }
        let handed = parse(&bytes)?;
        let _place = places(1).await?;
        return Ok(Json(one(&ctx, handed, metered).await?).into_response());
    }
    let items: ApiResult<Vec<&RawValue>> = parse(&bytes);
    count(items.as_ref().map_or(1, |items| items.len().clamp(1, MAX_COMPLETIONS)))?;
    let items = items?;
    if items.len() > MAX_COMPLETIONS {
        let text = "too many completions in one call";
        return Err(Refusal::mismatch(Code::BodyTooLarge, text, items.len(), MAX_COMPLETIONS).into());
    }
    let _places = places(items.len()).await?;
    let handed = items.into_iter().map(|item| parse(item.get().as_bytes())).collect();
    let results: Vec<ItemResult> = many(&ctx, handed, metered).await?.into_iter().map(ItemResult::from).collect();
    Ok(Json(results).into_response())
}

/// One item of the answer to an array.
#[derive(Serialize)]
#[serde(untagged)]
enum ItemResult {
    Accepted(Accepted),
    Refused(Value),
}

impl From<ApiResult<Accepted>> for ItemResult {
    fn from(result: ApiResult<Accepted>) -> Self {
        match result {
            Ok(accepted) => Self::Accepted(accepted),
            Err(ApiError(refusal)) => Self::Refused(refusal.to_json()),
        }
    }
}

/// A completion that can be read: what is claimed, of which node.
struct Claim {
    handed: Handed,
    node: Arc<NodeRecord>,
    evidence: Evidence,
    settlement_id: B256,
}

/// What is to be done with a completion that passed.
enum Step {
    /// It was stored before: the first answer again.
    Known(Accepted),
    Store(Box<NewCompletion>),
}

/// Verifies and stores one completion. `metered`: the caller may have us meter by the usage that it reports.
async fn one(ctx: &Ctx, handed: Handed, metered: bool) -> ApiResult<Accepted> {
    let claim = read(ctx, handed)?;
    let (order, known) = ctx.lookup.find(&ctx.store, claim.handed.order_id, claim.settlement_id).await?;
    let order = find_order(ctx, &claim, order).await?;
    match judge(ctx, claim, order, known, metered)? {
        Step::Known(accepted) => Ok(accepted),
        Step::Store(new) => {
            let (id, named) = (new.completion.settlement_id, new.completion.order_id);
            stored(ctx.ingest.submit(Job::Completion(new)).await?, id, named)
        }
    }
}

/// Verifies and stores many, each for itself: looked up and committed together, verified away from the threads that serve.
async fn many(ctx: &SharedCtx, handed: Vec<ApiResult<Handed>>, metered: bool) -> ApiResult<Vec<ApiResult<Accepted>>> {
    let pool = Arc::clone(ctx);
    let claims: Vec<ApiResult<Claim>> =
        verify(ctx, move || handed.into_iter().map(|handed| read(&pool, handed?)).collect()).await?;
    let good = claims.iter().filter_map(|claim| claim.as_ref().ok());
    let wanted: Vec<(Option<B256>, B256)> = good.map(|claim| (claim.handed.order_id, claim.settlement_id)).collect();
    let found = intake::find(&ctx.store, &wanted).await?;
    let mut judged = Vec::with_capacity(claims.len());
    for claim in claims {
        let claim = match claim {
            Ok(claim) => claim,
            Err(refused) => {
                judged.push(Err(refused));
                continue;
            }
        };
        let order = claim.handed.order_id.and_then(|id| found.orders.get(&id).cloned());
        let order = find_order(ctx, &claim, order).await?;
        let known = found.known.get(&claim.settlement_id).copied();
        judged.push(Ok((claim, order, known)));
    }
    let pool = Arc::clone(ctx);
    let steps: Vec<ApiResult<Step>> = verify(ctx, move || {
        judged
            .into_iter()
            .map(|one| one.and_then(|(claim, order, known)| judge(&pool, claim, order, known, metered)))
            .collect()
    })
    .await?;
    let mut jobs = Vec::with_capacity(steps.len());
    let mut results: Vec<Option<ApiResult<Accepted>>> = Vec::with_capacity(steps.len());
    let mut submitted = Vec::with_capacity(steps.len());
    for step in steps {
        results.push(match step {
            Ok(Step::Store(new)) => {
                submitted.push((results.len(), new.completion.settlement_id, new.completion.order_id));
                jobs.push(Job::Completion(new));
                None
            }
            Ok(Step::Known(accepted)) => Some(Ok(accepted)),
            Err(refused) => Some(Err(refused)),
        });
    }
    let done = ctx.ingest.submit_all(jobs).await;
    for ((place, id, named), done) in submitted.into_iter().zip(done) {
        results[place] = Some(done.map_err(ApiError::from).and_then(|done| stored(done, id, named)));
    }
    let missing = || Err(ApiError::new(Code::Internal, "an answer got lost: ask again"));
    Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
}

/// Runs what takes the processor for milliseconds away from the threads that serve.
async fn verify<T: Send + 'static>(ctx: &Ctx, work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
    let lost = || ApiError::new(Code::Internal, "the verification broke off, and nothing was stored: try again");
    ctx.verifiers.run(work).await.ok_or_else(lost)
}

/// Reads what is claimed; only where a request has several canonical forms a signature is checked, to find the right one.
fn read(ctx: &Ctx, handed: Handed) -> ApiResult<Claim> {
    metrics::counter!("quittance_completions_total").increment(1);
    let hashes = request_hashes(&handed)?;
    let output_hash = match (&handed.output, handed.output_hash) {
        (Some(output), claimed) => {
            let hash = keccak256(output);
            if claimed.is_some_and(|claimed| claimed != hash) {
                return Err(ApiError::new(Code::OutputMismatch, "outputHash is not the hash of output"));
            }
            hash
        }
        (None, Some(hash)) => hash,
        (None, None) => return Err(ApiError::new(Code::Malformed, "send output or outputHash")),
    };
    let node = ctx.registry.node(handed.node_id).ok_or_else(|| {
        let details = serde_json::json!({ "nodeId": handed.node_id });
        let text = "no such node is registered on Base: register it first";
        ApiError(Refusal { details, ..Refusal::new(Code::UnknownNode, text) })
    })?;
    let mut evidence = Evidence {
        node_id: handed.node_id,
        request_hash: hashes.first().copied().unwrap_or_default(),
        output_hash,
        timestamp: handed.timestamp,
        signature: node_signature(&handed.signature)?,
    };
    // The gateway's variant decides which canonical form was signed.
    let key = node_key(&node)?;
    if hashes.len() > 1 {
        let signed = |hash: &&B256| {
            let message = message_hash(**hash, output_hash, handed.timestamp);
            key.verify(message, &evidence.signature).is_ok()
        };
        if let Some(hash) = hashes.iter().find(signed) {
            evidence.request_hash = *hash;
        }
    }
    let settlement_id = settlement_id(handed.node_id, evidence.message_hash());
    Ok(Claim { handed, node, evidence, settlement_id })
}

/// Verifies what is claimed against the order, and charges it.
fn judge(ctx: &Ctx, claim: Claim, order: Option<OrderRow>, known: Option<Known>, metered: bool) -> ApiResult<Step> {
    let Claim { handed, node, evidence, settlement_id: id } = claim;
    // The same completion again gets the first answer, however late it comes.
    if let Some(stored) = known.filter(|stored| stored.metered) {
        node_key(&node)?.verify(evidence.message_hash(), &evidence.signature)?;
        return Ok(Step::Known(known_as(id, handed.order_id, stored.order_id, stored.state.as_str())?));
    }
    let supplied = handed.meter.as_ref().map(supplied).transpose()?;
    let usage = usage(handed.usage.as_ref());
    let Some(order) = order else {
        check_alone(ctx, &evidence, &node, handed.output.as_deref())?;
        if supplied.is_some() && handed.order_id.is_none() {
            return Err(ApiError::new(Code::BadMeter, "a Meter names its order: send orderId with it"));
        }
        if supplied.is_none() && !metered {
            return Err(not_metered());
        }
        // Kept with what it came with; checked again and charged when its order comes.
        let matching = supplied.zip(handed.order_id).map(|(s, order_id)| {
            let (signature, offset, amount) = (s.signature, s.offset, s.amount);
            (order_id, completions::Metered { signature, offset, amount, card: None })
        });
        let completion = completion(id, handed.order_id, node.version, evidence, handed, usage);
        return Ok(Step::Store(Box::new(NewCompletion { completion, matching, order: None })));
    };
    // The output needs no comparison: its hash is what `read` made of it.
    check_evidence(ctx, &evidence, &node, &order, None)?;
    if supplied.is_none() && !metered {
        return Err(not_metered());
    }
    let model = order.request.as_deref().and_then(|request| canonical_request(request).ok());
    let model = model.and_then(|candidates| candidates.into_iter().next()).and_then(|canonical| canonical.model);
    let (version, charged) = charge_order(ctx, &node, &order, id, supplied.as_ref(), usage, model.as_deref())?;
    let completion = completion(id, Some(order.order_id), version, evidence, handed, usage);
    Ok(Step::Store(Box::new(NewCompletion::answering(order, completion, charged))))
}

fn not_metered() -> ApiError {
    let text =
        "send the node's Meter with the completion, or an API key with scope completions to have it metered here";
    ApiError::new(Code::MeterMissing, text)
}

/// Candidate hashes of the request that was answered.
fn request_hashes(handed: &Handed) -> Result<Vec<B256>, Refusal> {
    let from_request = match &handed.request {
        Some(request) => canonical_request(request.get().as_bytes())?.iter().map(|canonical| canonical.hash).collect(),
        None => Vec::new(),
    };
    match handed.request_hash {
        None if from_request.is_empty() => Err(Refusal::new(Code::RequestMissing, "send request or requestHash")),
        None => Ok(from_request),
        Some(hash) if from_request.is_empty() || from_request.contains(&hash) => Ok(vec![hash]),
        Some(_) => Err(Refusal::new(Code::RequestMismatch, "requestHash is not the hash of request")),
    }
}

/// A node's signature in either form. One base64 text in 4,096 begins with `0x` as well: only what is hexadecimal throughout
/// is read as that.
fn node_signature(text: &str) -> Result<Vec<u8>, Refusal> {
    match text.strip_prefix("0x").filter(|digits| digits.len() <= 1_024).and_then(|digits| hex::decode(digits).ok()) {
        Some(bytes) => Ok(bytes),
        None => signature("signature", text),
    }
}

/// The order that a completion names, else one that waits for this request. `named` comes without its request, which only
/// a completion that we meter needs: rate cards go by model.
async fn find_order(ctx: &Ctx, claim: &Claim, named: Option<OrderRow>) -> ApiResult<Option<OrderRow>> {
    let order = match claim.handed.order_id {
        Some(id) if claim.handed.meter.is_none() => orders::get(ctx.store.read(), id).await?,
        Some(_) => named,
        None => orders::waiting_for_answer(ctx.store.read(), claim.evidence.request_hash).await?,
    };
    // Without its request an order cannot be matched yet: blinding and hash come with it.
    Ok(order.filter(|order| order.request_hash.is_some()))
}

fn check_alone(ctx: &Ctx, evidence: &Evidence, node: &NodeRecord, output: Option<&str>) -> Result<(), Refusal> {
    check_active(node, evidence.timestamp)?;
    let rules = TimestampRules {
        valid_after: 0,
        valid_before: u64::MAX,
        now: ctx.clock.now(),
        max_age: ctx.config.dispatch.max_age,
        max_ahead: ctx.config.dispatch.max_ahead,
    };
    let key = node_key(node)?;
    check_completion(evidence, evidence.request_hash, output, &key, &rules)?;
    Ok(())
}

fn completion(
    id: B256,
    order_id: Option<B256>,
    node_version: u32,
    evidence: Evidence,
    handed: Handed,
    usage: Option<completions::Usage>,
) -> Completion {
    Completion {
        settlement_id: id,
        order_id,
        node_id: evidence.node_id,
        node_version,
        request_hash: evidence.request_hash,
        output_hash: evidence.output_hash,
        timestamp: evidence.timestamp,
        signature: evidence.signature,
        output: handed.output.map(String::into_bytes),
        response: handed.response.as_ref().map(|response| response.get().as_bytes().to_vec()),
        usage,
    }
}

fn stored(done: Done, id: B256, order_id: Option<B256>) -> ApiResult<Accepted> {
    tracing::info!(target: "trail", step = "handed_in", settlement = %id, order = order_id.map(tracing::field::display), ?done);
    match done {
        Done::Matched(Matched::New | Matched::Known) => Ok(Accepted { settlement_id: id, state: "matched", order_id }),
        Done::Matched(Matched::Answered { .. } | Matched::Closed { .. }) => {
            Ok(Accepted { settlement_id: id, state: "orphaned", order_id })
        }
        Done::Matched(Matched::Replayed { order_id: other }) => known_as(id, order_id, Some(other), "matched"),
        Done::Waiting | Done::Admitted | Done::Known | Done::HandedIn(_) => {
            Ok(Accepted { settlement_id: id, state: "verified", order_id })
        }
    }
}

/// The first answer again, unless the bearer wants the inference charged to another order.
fn known_as(id: B256, wanted: Option<B256>, order_id: Option<B256>, state: &'static str) -> ApiResult<Accepted> {
    match (wanted, order_id) {
        (Some(wanted), Some(charged)) if wanted != charged => {
            let text = "this inference is charged to another order: each is charged once, run it again";
            let (actual, expected) = (wanted.to_string(), charged.to_string());
            Err(Refusal::mismatch(Code::SettlementReplayed, text, actual, expected).into())
        }
        _ => Ok(Accepted { settlement_id: id, state, order_id }),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    #[test]
    fn a_signature_in_base64_may_begin_like_hexadecimal() {
        let mut bytes = vec![7; 256];
        bytes[..2].copy_from_slice(&[0xD3, 0x1F]);
        let text = BASE64.encode(&bytes);
        assert!(text.starts_with("0x"));
        assert_eq!(node_signature(&text).unwrap(), bytes);
        assert_eq!(node_signature(&format!("0x{}", hex::encode(&bytes))).unwrap(), bytes);
        assert_eq!(node_signature("0xz").unwrap_err().code, Code::Malformed);
    }
}
