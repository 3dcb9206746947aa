//! An endpoint in front of another one that does what endpoints do: holds back logs, fails calls, loses answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::{Router, routing::post};
use serde_json::{Value, json};

/// What the endpoint does wrong now.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Every block is without logs.
    pub(crate) no_logs: Arc<AtomicBool>,
    /// No state to call anything.
    pub(crate) no_calls: Arc<AtomicBool>,
    /// Whoever asks for logs waits until this ends, as in a process that is frozen; then gets what there was.
    pub(crate) frozen: Arc<AtomicBool>,
    /// Somebody waits.
    pub(crate) waiting: Arc<AtomicBool>,
    /// Transactions are taken, and the answer is lost.
    pub(crate) lost_sends: Arc<AtomicBool>,
}

/// Starts one in front of `target`; answers its URL.
pub(crate) async fn start(target: String, faults: Faults) -> String {
    let client = reqwest::Client::new();
    let handler = move |body: Bytes| answer(client.clone(), target.clone(), faults.clone(), body);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(handler))).await });
    url
}

async fn answer(client: reqwest::Client, target: String, faults: Faults, body: Bytes) -> (StatusCode, String) {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let on = |fault: &AtomicBool| fault.load(Ordering::SeqCst);
    let method = request["method"].as_str().unwrap();
    if method == "eth_getLogs" && on(&faults.no_logs) {
        return (StatusCode::OK, json!({"jsonrpc": "2.0", "id": request["id"], "result": []}).to_string());
    }
    if method == "eth_call" && on(&faults.no_calls) {
        let error = json!({"code": -32000, "message": "missing trie node"});
        return (StatusCode::OK, json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string());
    }
    let sent = client.post(&target).header("content-type", "application/json").body(body).send().await;
    let text = sent.unwrap().text().await.unwrap();
    while method == "eth_getLogs" && on(&faults.frozen) {
        faults.waiting.store(true, Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    if method == "eth_sendRawTransaction" && on(&faults.lost_sends) {
        return (StatusCode::GATEWAY_TIMEOUT, String::new());
    }
    (StatusCode::OK, text)
}
