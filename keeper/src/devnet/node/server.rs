//! HTTP of a devnet node.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::B256;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json as JsonBody, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::NodeConfig;
use super::answer::answer;
use super::evidence::{Signed, sign};
use super::misbehave::{Misbehaviour, Mode, Switch};
use crate::canonical::json::Json;
use crate::canonical::{Canonical, Endpoint, MAX_REQUEST_BYTES, Variant, canonical_at};
use crate::clock::Clock;
use crate::crypto::RsaKey;
use crate::error::Result;

/// Answers that are remembered for mode `duplicate`.
const REMEMBERED: usize = 1_024;

/// State of a running node.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    key: RsaKey,
    clock: Clock,
    stop: CancellationToken,
    switch: Switch,
    answers: Mutex<Answers>,
    received: AtomicU64,
    answered: AtomicU64,
}

impl Node {
    pub fn new(config: NodeConfig, key: RsaKey, clock: Clock, stop: CancellationToken) -> Self {
        let switch = Switch::new(config.misbehave);
        let (received, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { config, key, clock, stop, switch, answers: Mutex::default(), received, answered }
    }

    /// Signs, or repeats what was signed first when it should.
    fn sign(&self, canonical: &Canonical, body: &Json, mode: Mode) -> Result<Signed> {
        if mode == Mode::Duplicate
            && let Some(signed) = self.answers().first.get(&canonical.hash)
        {
            return Ok(signed.clone());
        }
        let answer = answer(&self.config.name, canonical, body);
        let signed = sign(&self.key, canonical, answer, self.clock.now(), mode)?;
        if !matches!(mode, Mode::BadSignature | Mode::WrongHash) {
            self.answers().remember(canonical.hash, &signed);
        }
        Ok(signed)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First answer to each request, oldest first in the queue.
#[derive(Debug, Default)]
struct Answers {
    first: HashMap<B256, Signed>,
    order: VecDeque<B256>,
}

impl Answers {
    fn remember(&mut self, request: B256, signed: &Signed) {
        if let Entry::Vacant(place) = self.first.entry(request) {
            place.insert(signed.clone());
            self.order.push_back(request);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.first.remove(&oldest);
        }
    }
}

/// Routes of a node.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route(Endpoint::Chat.path(), post(chat))
        .route(Endpoint::Completions.path(), post(completions))
        .route("/signing-key", get(signing_key))
        .route("/health", get(health))
        .route("/devnet/misbehave", post(misbehave))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(node)
}

async fn chat(node: State<Arc<Node>>, headers: HeaderMap, body: Bytes) -> Response {
    infer(&node, Endpoint::Chat, &headers, &body).await
}

async fn completions(node: State<Arc<Node>>, headers: HeaderMap, body: Bytes) -> Response {
    infer(&node, Endpoint::Completions, &headers, &body).await
}

fn error(status: StatusCode, text: impl Into<String>) -> Response {
    (status, JsonBody(json!({ "error": text.into() }))).into_response()
}

async fn infer(node: &Node, endpoint: Endpoint, headers: &HeaderMap, body: &[u8]) -> Response {
    node.received.fetch_add(1, Ordering::Relaxed);
    if !is_json(headers) {
        let body = json!({ "error": "Unsupported Media Type", "message": "Request must be application/json" });
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, JsonBody(body)).into_response();
    }
    let parsed = match Json::parse(body) {
        Ok(parsed) => parsed,
        Err(refusal) => return error(StatusCode::BAD_REQUEST, refusal.message),
    };
    let canonical = match canonical_at(endpoint, node.config.variant, body) {
        Ok(canonical) => canonical,
        // The old gateway does not catch what only the new one knows.
        Err(_) if node.config.variant == Variant::A && canonical_at(endpoint, Variant::B, body).is_ok() => {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "Request processing failed");
        }
        Err(refusal) => return error(StatusCode::BAD_REQUEST, refusal.message),
    };
    let model = canonical.model.as_deref().unwrap_or_default();
    if !node.config.models.iter().any(|offered| offered == model) {
        return error(StatusCode::BAD_REQUEST, format!("Model '{model}' is not supported"));
    }
    // The gateway streams chat only.
    let streams = endpoint == Endpoint::Chat
        && parsed.as_object().and_then(|body| body.get("stream")).is_some_and(Json::is_truthy);
    let met = node.switch.next();
    tracing::info!(node = %node.key.id(), request = %canonical.hash, mode = ?met.mode, streams, "request");
    match met.mode {
        Mode::Silent => {
            node.stop.cancelled().await;
            return error(StatusCode::SERVICE_UNAVAILABLE, "the node stops");
        }
        Mode::Slow => tokio::time::sleep(Duration::from_millis(met.ms)).await,
        Mode::Error500 if streams => {
            return event_stream(vec![r#"{"error": "Stream processing failed"}"#.to_owned()]);
        }
        Mode::Error500 => return error(StatusCode::INTERNAL_SERVER_ERROR, "Request processing failed"),
        Mode::None | Mode::BadSignature | Mode::WrongHash | Mode::Duplicate => {}
    }
    let signed = match node.sign(&canonical, &parsed, met.mode) {
        Ok(signed) => signed,
        Err(failed) => {
            tracing::error!(error = %failed, "cannot sign");
            return error(StatusCode::INTERNAL_SERVER_ERROR, "Request processing failed");
        }
    };
    node.answered.fetch_add(1, Ordering::Relaxed);
    if streams { event_stream(signed.events(&canonical)) } else { JsonBody(signed.body(&canonical)).into_response() }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

fn event_stream(events: Vec<String>) -> Response {
    let lines = events.into_iter().map(|data| Ok::<_, std::convert::Infallible>(format!("data: {data}\n\n")));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(stream::iter(lines))).into_response()
}

async fn signing_key(node: State<Arc<Node>>) -> JsonBody<Value> {
    JsonBody(json!({
        "public_key": node.key.public_pem(),
        "tee_id": node.key.id(),
        "wallet_address": node.config.wallet,
        "timestamp": node.clock.now(),
        "enclave_info": { "devnet": true, "note": "no enclave: an ordinary process with a key of its own" },
        "measurements": null,
    }))
}

async fn health(node: State<Arc<Node>>) -> JsonBody<Value> {
    JsonBody(json!({
        "status": "ok",
        "name": node.config.name,
        "tee_id": node.key.id(),
        "responder": "canned: no model runs here, answers are made of a fixed text and the question",
        "payment": "none: a real gateway answers 402 to requests without an x402 payment",
        "models": node.config.models,
        "variant": node.config.variant,
        "misbehave": node.switch.now(),
        "received": node.received.load(Ordering::Relaxed),
        "answered": node.answered.load(Ordering::Relaxed),
    }))
}

async fn misbehave(node: State<Arc<Node>>, JsonBody(to): JsonBody<Misbehaviour>) -> JsonBody<Misbehaviour> {
    tracing::info!(node = %node.key.id(), ?to, "misbehave");
    node.switch.set(to);
    JsonBody(to)
}
