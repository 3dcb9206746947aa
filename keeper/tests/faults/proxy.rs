//! An RPC endpoint in front of a chain that does what endpoints do: it loses answers, is slow, refuses, lags behind, holds
//! logs back. Which requests it does that to, and how often, each scenario says.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::post};
use futures_util::stream;
use serde_json::{Value, json};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Forwarded; the answer is lost on the way back.
    DropReply,
    /// Forwarded after a while.
    Delay(Duration),
    /// HTTP 429.
    RateLimit,
    /// Answered as if this block were the latest.
    Stale(u64),
    /// Forwarded; half of the answer comes back.
    Truncate,
    /// An empty list, whatever there is.
    Empty,
    /// The connection is cut, nothing is forwarded.
    Refuse,
    /// A transaction is taken with its hash and never forwarded.
    Swallow,
    /// JSON-RPC error -32603 with this text, nothing is forwarded.
    Error(&'static str),
}

/// A fault that is set; tells how often it struck.
#[derive(Clone)]
pub struct Set(Arc<Rule>);

impl Set {
    pub fn struck(&self) -> u32 {
        self.0.struck.load(Ordering::SeqCst)
    }
}

struct Rule {
    methods: Vec<&'static str>,
    fault: Fault,
    /// Requests that it still strikes.
    left: AtomicU32,
    struck: AtomicU32,
}

#[derive(Clone)]
struct State {
    client: reqwest::Client,
    target: Arc<Mutex<String>>,
    rules: Arc<Mutex<Vec<Arc<Rule>>>>,
}

/// A running proxy; ends with its runtime.
pub struct Proxy {
    pub url: String,
    state: State,
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        let state = State {
            client: reqwest::Client::builder().timeout(Duration::from_secs(120)).build().unwrap(),
            target: Arc::new(Mutex::new(target.to_owned())),
            rules: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = state.clone();
        let handler = move |body: Bytes| answer(shared.clone(), body);
        let router = Router::new().route("/", post(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// Sets a fault for `count` requests of these methods (of every method if there are none).
    pub fn set(&self, methods: &[&'static str], count: u32, fault: Fault) -> Set {
        let rule =
            Arc::new(Rule { methods: methods.to_vec(), fault, left: AtomicU32::new(count), struck: AtomicU32::new(0) });
        self.state.rules.lock().unwrap().push(rule.clone());
        Set(rule)
    }

    /// Sets a fault until `heal`.
    pub fn always(&self, methods: &[&'static str], fault: Fault) -> Set {
        self.set(methods, u32::MAX, fault)
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    /// Another chain behind the same address.
    pub fn retarget(&self, target: &str) {
        target.clone_into(&mut self.state.target.lock().unwrap());
    }
}

impl State {
    /// The first fault that strikes this method.
    fn fault(&self, method: &str) -> Option<Fault> {
        let rules = self.rules.lock().unwrap().clone();
        for rule in rules {
            if !rule.methods.is_empty() && !rule.methods.contains(&method) {
                continue;
            }
            let left = rule.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                u32::MAX => Some(u32::MAX),
                left => left.checked_sub(1),
            });
            if left.is_ok() {
                rule.struck.fetch_add(1, Ordering::SeqCst);
                return Some(rule.fault);
            }
        }
        None
    }

    /// What the chain answers; `None` when it does not.
    async fn forward(&self, body: &Value) -> Option<Value> {
        let target = self.target.lock().unwrap().clone();
        self.client.post(target).json(body).send().await.ok()?.json().await.ok()
    }
}

async fn answer(state: State, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    let result = |result: Value| text(&json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }));
    let error = |code: i64, message: &str| {
        text(&json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } }))
    };
    let fault = state.fault(&method);
    match fault {
        Some(Fault::RateLimit) => return (StatusCode::TOO_MANY_REQUESTS, "Too Many Requests").into_response(),
        Some(Fault::Empty) => return result(json!([])),
        Some(Fault::Refuse) => return cut(String::new()),
        Some(Fault::Error(message)) => return error(-32603, message),
        Some(Fault::Swallow) => {
            let raw = request["params"][0].as_str().unwrap_or_default();
            let raw = hex::decode(raw.trim_start_matches("0x")).unwrap_or_default();
            return result(json!(alloy::primitives::keccak256(raw)));
        }
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Stale(height)) => return stale(&state, &method, request.clone(), height).await,
        Some(Fault::DropReply | Fault::Truncate) | None => {}
    }
    let Some(answer) = state.forward(&request).await else { return cut(String::new()) };
    match fault {
        Some(Fault::DropReply) => cut(String::new()),
        Some(Fault::Truncate) => {
            let whole = answer.to_string();
            let half: String = whole.chars().take(whole.len() / 2).collect();
            ([("content-type", "application/json")], half).into_response()
        }
        _ => text(&answer),
    }
}

fn text(answer: &Value) -> Response {
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

/// A response whose connection ends before the body does.
fn cut(start: String) -> Response {
    let parts = [Ok(start), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
    ([("content-type", "application/json")], Body::from_stream(stream::iter(parts))).into_response()
}

/// What an endpoint answers whose last block is `height`.
async fn stale(state: &State, method: &str, mut request: Value, height: u64) -> Response {
    let id = request["id"].clone();
    let null = || text(&json!({ "jsonrpc": "2.0", "id": id, "result": null }));
    let number = |value: &Value| u64::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok();
    let place = match method {
        "eth_blockNumber" => {
            return text(&json!({ "jsonrpc": "2.0", "id": id, "result": format!("0x{height:x}") }));
        }
        "eth_getBlockByNumber" => Some(0),
        "eth_call" | "eth_estimateGas" | "eth_getTransactionCount" | "eth_getBalance" | "eth_getCode" => Some(1),
        _ => None,
    };
    if let Some(place) = place {
        let tag = request["params"].get(place).cloned().unwrap_or(Value::Null);
        match tag.as_str() {
            Some("latest" | "pending") | None if !tag.is_object() => {
                if let Some(params) = request["params"].as_array_mut() {
                    params.resize(params.len().max(place + 1), Value::Null);
                    params[place] = json!(format!("0x{height:x}"));
                }
            }
            Some(_) if number(&tag).is_some_and(|number| number > height) => return null(),
            _ => {}
        }
    }
    let Some(answer) = state.forward(&request).await else { return cut(String::new()) };
    let newer = |member: &str| number(&answer["result"][member]).is_some_and(|number| number > height);
    match method {
        "eth_getTransactionReceipt" if newer("blockNumber") => null(),
        "eth_getBlockByNumber" | "eth_getBlockByHash" if newer("number") => null(),
        _ => text(&answer),
    }
}
