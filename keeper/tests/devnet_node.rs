//! The devnet node over real HTTP, checked the way a keeper checks a node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use quittance::canonical::output::{EventReader, StreamedOutput, output_text};
use quittance::canonical::{Endpoint, Variant, canonical_request};
use quittance::clock::Clock;
use quittance::crypto::RsaKey;
use quittance::devnet::node::{NodeConfig, RunningNode, serve};
use quittance::error::{Code, Refusal};
use quittance::verify::completion::{Evidence, NodeKey, TimestampRules, Verified, check_completion};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// RSA key generation takes a second in some runs: the committed test key serves.
fn key() -> RsaKey {
    let vectors: Value = serde_json::from_str(include_str!("vectors/tee.json")).unwrap();
    RsaKey::from_pem(vectors["key"]["privatePem"].as_str().unwrap()).unwrap()
}

struct Devnet {
    node: RunningNode,
    public: NodeKey,
    client: Client,
    stop: CancellationToken,
}

impl Devnet {
    async fn start(config: NodeConfig) -> Self {
        let (key, stop) = (key(), CancellationToken::new());
        let public = NodeKey::parse(key.spki()).unwrap();
        let node = serve(config, key, Clock::default(), stop.clone()).await.unwrap();
        assert_eq!(node.id, public.id());
        Self { node, public, client: Client::new(), stop }
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(format!("{}{path}", self.node.url())).json(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.node.url())).send().await.unwrap().json().await.unwrap()
    }

    async fn misbehave(&self, to: Value) {
        assert_eq!(self.post("/devnet/misbehave", &to).await.status(), StatusCode::OK);
    }

    fn check(&self, request: &Value, evidence: &Value, output: &str, variant: Variant) -> Result<Verified, Refusal> {
        let candidates = canonical_request(request.to_string().as_bytes())?;
        let canonical = candidates.iter().find(|found| found.variant == variant).unwrap_or(&candidates[0]);
        let now = Clock::default().now();
        let rules = TimestampRules { valid_after: now - 60, valid_before: now + 60, now, max_age: 30, max_ahead: 5 };
        check_completion(&Evidence::from_response(evidence)?, canonical.hash, Some(output), &self.public, &rules)
    }

    /// Asks and checks; the body and what it verified to.
    async fn ask(&self, endpoint: Endpoint, request: &Value) -> (Value, Result<Verified, Refusal>) {
        let response = self.post(endpoint.path(), request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.bytes().await.unwrap();
        let output = output_text(endpoint, &body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let verified = self.check(request, &body, &output, Variant::B);
        (body, verified)
    }

    async fn ask_stream(&self, request: &Value) -> (String, Value, Result<Verified, Refusal>) {
        let mut response = self.post(Endpoint::Chat.path(), request).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (mut events, mut output) = (EventReader::default(), StreamedOutput::default());
        while let Some(piece) = response.chunk().await.unwrap() {
            for data in events.push(&piece).unwrap() {
                output.push(&data).unwrap();
            }
        }
        assert!(output.is_done());
        let last: Value = serde_json::from_slice(output.last_object().unwrap()).unwrap();
        let text = output.text().unwrap();
        let verified = self.check(request, &last, &text, Variant::B);
        (text, last, verified)
    }
}

fn hello() -> Value {
    json!({ "model": "canned-small", "messages": [{ "role": "user", "content": "Grüße 🚀 \"x\"" }], "temperature": 1, "top_p": 0.2 })
}

#[tokio::test]
async fn answers_verify_and_say_that_they_are_canned() {
    let devnet = Devnet::start(NodeConfig::default()).await;
    let (body, verified) = devnet.ask(Endpoint::Chat, &hello()).await;
    verified.unwrap();
    let content = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.contains("canned") && content.contains("not from a model") && content.contains("Grüße 🚀"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert!(!body["tee_request_hash"].as_str().unwrap().starts_with("0x"));
    assert!(body["tee_id"].as_str().unwrap().starts_with("0x"));
    let usage = &body["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );

    let prompt = json!({ "model": "canned-large", "prompt": "Once", "max_tokens": null, "stream": true });
    let (body, verified) = devnet.ask(Endpoint::Completions, &prompt).await;
    verified.unwrap();
    assert_eq!(body["object"], "text_completion");

    let short =
        json!({ "model": "canned-small", "messages": [{ "role": "user", "content": "日本" }], "max_tokens": 20 });
    let (body, verified) = devnet.ask(Endpoint::Chat, &short).await;
    verified.unwrap();
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert!(body["usage"]["completion_tokens"].as_u64().unwrap() <= 20);

    let mut formatted = hello();
    formatted["response_format"] = json!({ "type": "json_object" });
    let (body, verified) = devnet.ask(Endpoint::Chat, &formatted).await;
    verified.unwrap();
    let inner: Value = serde_json::from_str(body["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(inner["canned"], true);
}

#[tokio::test]
async fn streams_and_tool_calls_verify() {
    let devnet = Devnet::start(NodeConfig::default()).await;
    let mut request = hello();
    request["stream"] = true.into();
    let (text, last, verified) = devnet.ask_stream(&request).await;
    verified.unwrap();
    assert!(text.contains("canned"));
    assert!(last["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert_eq!(last["choices"][0]["delta"], json!({}));

    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": {} } });
    let mut tools = hello();
    tools["tools"] = json!([tool("wetter_ü"), tool("second")]);
    tools["tool_choice"] = "required".into();
    let (body, verified) = devnet.ask(Endpoint::Chat, &tools).await;
    verified.unwrap();
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "wetter_ü");
    tools["tool_choice"] = tool("second");
    tools["stream"] = true.into();
    let (text, _, verified) = devnet.ask_stream(&tools).await;
    verified.unwrap();
    assert!(text.contains("\"name\": \"second\""));
    tools["tool_choice"] = "none".into();
    assert!(devnet.ask_stream(&tools).await.0.contains("canned answer"));
}

#[tokio::test]
async fn both_variants_are_signed() {
    let parts = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": [{ "type": "text", "text": "it's" }] }], "web_search": true });
    let old = Devnet::start(NodeConfig { variant: Variant::A, ..NodeConfig::default() }).await;
    let body: Value = old.post(Endpoint::Chat.path(), &parts).await.json().await.unwrap();
    let content = body["choices"][0]["message"]["content"].as_str().unwrap();
    old.check(&parts, &body, content, Variant::A).unwrap();
    assert_eq!(old.check(&parts, &body, content, Variant::B).unwrap_err().code, Code::RequestMismatch);
    let developer = json!({ "model": "canned-small", "messages": [{ "role": "developer", "content": "x" }] });
    assert_eq!(old.post(Endpoint::Chat.path(), &developer).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let new = Devnet::start(NodeConfig::default()).await;
    new.ask(Endpoint::Chat, &parts).await.1.unwrap();
    new.ask(Endpoint::Chat, &developer).await.1.unwrap();
}

#[tokio::test]
async fn bad_requests_are_refused_as_by_the_gateway() {
    let devnet = Devnet::start(NodeConfig::default()).await;
    let mut unknown = hello();
    unknown["model"] = "gpt-99".into();
    let response = devnet.post(Endpoint::Chat.path(), &unknown).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "error": "Model 'gpt-99' is not supported" }));
    for (body, kind, status) in [
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ("{}", "application/json; charset=utf-8", 400),
        ("{}", "text/plain", 415),
        (&"[".repeat(500_000), "application/json", 400),
        (&" ".repeat(1024 * 1024 + 1), "application/json", 413),
    ] {
        let url = format!("{}{}", devnet.node.url(), Endpoint::Chat.path());
        let sent = devnet.client.post(url).header("content-type", kind).body(body.to_owned()).send().await.unwrap();
        assert_eq!(sent.status(), status, "{}", &body[..body.len().min(20)]);
    }
}

#[tokio::test]
async fn each_fault_shows_what_it_says() {
    let devnet = Devnet::start(NodeConfig::default()).await;
    devnet.misbehave(json!({ "mode": "bad_signature", "count": 1 })).await;
    let (_, verified) = devnet.ask(Endpoint::Chat, &hello()).await;
    assert_eq!(verified.unwrap_err().code, Code::BadInferenceSignature);
    devnet.ask(Endpoint::Chat, &hello()).await.1.unwrap();

    devnet.misbehave(json!({ "mode": "wrong_hash", "count": 1 })).await;
    let (_, verified) = devnet.ask(Endpoint::Chat, &hello()).await;
    assert_eq!(verified.unwrap_err().code, Code::OutputMismatch);

    devnet.misbehave(json!({ "mode": "error_500", "count": 2 })).await;
    let response = devnet.post(Endpoint::Chat.path(), &hello()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "error": "Request processing failed" }));
    let mut streamed = hello();
    streamed["stream"] = true.into();
    let text = devnet.post(Endpoint::Chat.path(), &streamed).await.text().await.unwrap();
    assert_eq!(text, "data: {\"error\": \"Stream processing failed\"}\n\n");

    devnet.misbehave(json!({ "mode": "slow", "ms": 300, "count": 1 })).await;
    let start = Instant::now();
    devnet.ask(Endpoint::Chat, &hello()).await.1.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));

    let bad = devnet.post("/devnet/misbehave", &json!({ "mode": "lazy" })).await;
    assert!(bad.status().is_client_error());
}

#[tokio::test]
async fn a_duplicate_has_the_settlement_id_of_the_first_answer() {
    let devnet = Devnet::start(NodeConfig::default()).await;
    let mut request = hello();
    request["messages"][0]["content"] = "duplicate me".into();
    let first = devnet.ask(Endpoint::Chat, &request).await.1.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let second = devnet.ask(Endpoint::Chat, &request).await.1.unwrap();
    assert_ne!(first.settlement_id, second.settlement_id);
    devnet.misbehave(json!({ "mode": "duplicate" })).await;
    let again = devnet.ask(Endpoint::Chat, &request).await.1.unwrap();
    assert_eq!(first.settlement_id, again.settlement_id);
    let other = devnet.ask(Endpoint::Chat, &hello()).await.1.unwrap();
    assert_ne!(other.settlement_id, again.settlement_id);
}

#[tokio::test]
async fn a_silent_node_answers_nothing_and_still_stops() {
    let devnet = Devnet::start(NodeConfig { misbehave: "silent".parse().unwrap(), ..NodeConfig::default() }).await;
    let request = hello();
    let asked = devnet.post(Endpoint::Chat.path(), &request);
    assert!(tokio::time::timeout(Duration::from_millis(300), asked).await.is_err());
    assert_eq!(devnet.get("/health").await["misbehave"]["mode"], "silent");
    let Devnet { node, stop, client, .. } = devnet;
    let url = format!("{}{}", node.url(), Endpoint::Chat.path());
    let hanging = tokio::spawn(async move { client.post(url).json(&hello()).send().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), node.task).await.unwrap().unwrap().unwrap();
    let answer = hanging.await.unwrap();
    assert!(answer.is_err() || answer.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_key_and_the_state_are_shown() {
    let devnet = Devnet::start(NodeConfig { name: "three".into(), ..NodeConfig::default() }).await;
    let shown = devnet.get("/signing-key").await;
    assert_eq!(shown["tee_id"].as_str().unwrap().parse::<B256>().unwrap(), devnet.node.id);
    assert_eq!(shown["public_key"], key().public_pem());
    assert_eq!(shown["measurements"], Value::Null);
    devnet.ask(Endpoint::Chat, &hello()).await.1.unwrap();
    let health = devnet.get("/health").await;
    assert!(health["responder"].as_str().unwrap().contains("no model runs here"));
    assert_eq!((&health["name"], &health["received"], &health["answered"]), (&json!("three"), &json!(1), &json!(1)));
    assert_eq!(health["variant"], "B");
}
