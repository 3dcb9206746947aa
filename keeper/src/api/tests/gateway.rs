//! Proofs over `/settle_data`, jobs, figures of use.

use alloy::primitives::keccak256;

use super::completions::pushing;
use super::*;
use crate::store::completions::get as stored;
use crate::store::payments::fixtures::payment;
use crate::store::payments::{self, NewPayment, Settled};

const ANSWER: &str = "Paris.";

/// What a gateway makes of a node's answer.
fn batch(rsa: &RsaKey, request: B256, timestamp: u64) -> Value {
    let output = keccak256(ANSWER);
    let signature = rsa.sign(message_hash(request, output, timestamp)).unwrap();
    json!({
        "tee_id": rsa.id(), "input_hash": hex::encode(request), "output_hash": hex::encode(output),
        "tee_signature": BASE64.encode(signature), "tee_timestamp": timestamp, "timestamp": timestamp,
    })
}

fn individual(rsa: &RsaKey, timestamp: u64, payer: Address) -> Value {
    let mut data = batch(rsa, request_hash(REQUEST), timestamp);
    data["timestamp"] = json!(timestamp.to_string());
    data["input"] = serde_json::from_str(REQUEST).unwrap();
    data["output"] = json!({ "choices": [{ "finish_reason": "stop", "message": { "content": ANSWER } }] });
    data["eth_address"] = json!(payer);
    data
}

fn id_of(rsa: &RsaKey, data: &Value) -> B256 {
    let hash = |name: &str| format!("0x{}", data[name].as_str().unwrap()).parse::<B256>().unwrap();
    let message = message_hash(hash("input_hash"), hash("output_hash"), data["tee_timestamp"].as_u64().unwrap());
    settlement_id(rsa.id(), message)
}

impl Api {
    async fn settle(&self, kind: &str, data: &Value, more: &[(&str, &str)]) -> (u16, Value) {
        let data = BASE64.encode(data.to_string());
        let mut headers = vec![("x-settlement-type", kind), ("x-settlement-data", data.as_str())];
        headers.extend(more);
        self.post("/settle_data", "{}", &headers).await
    }
}

#[tokio::test]
async fn proofs_are_stored_once_and_due_for_recording() {
    let (api, rsa) = pushing().await;
    let now = api.ctx.clock.now();
    let data = batch(&rsa, B256::repeat_byte(1), now);
    let id = id_of(&rsa, &data);
    let (status, body) = api.settle("batch", &data, &[]).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!((&body["settlementId"], &body["known"]), (&json!(id), &json!(false)));
    assert_eq!((&body["state"], &body["record"], &body["joined"]), (&json!("verified"), &json!("due"), &Value::Null));
    // The same answer signed anew is the same inference.
    let (_, again) = api.settle(" Batch", &batch(&rsa, B256::repeat_byte(1), now), &[]).await;
    assert_eq!((&again["settlementId"], &again["known"]), (&json!(id), &json!(true)), "{again}");
    let (status, job) = api.get(&format!("/settle/settlement-batch-{id}"), None).await;
    assert_eq!((status, &job["status"], &job["settlementType"]), (200, &json!("queued"), &json!("batch")), "{job}");
    assert!(job["createdAt"].as_str().unwrap().ends_with('Z'));
    let row = stored(api.ctx.store.read(), id).await.unwrap().unwrap();
    assert_eq!((row.completion.node_version, row.completion.output), (1, None));

    let whole = individual(&rsa, now, key(9).address());
    let (status, job) = api.settle("inidvidual", &whole, &[("prefer", "respond-async")]).await;
    assert_eq!(status, 202, "{job}");
    let job_id = job["settlementJob"]["jobId"].as_str().unwrap();
    assert_eq!(job_id, format!("settlement-individual-{}", id_of(&rsa, &whole)));
    assert_eq!(api.get(&format!("/settle/{job_id}"), None).await.0, 200);
    let (_, body) = api.settle("individual", &whole, &[]).await;
    assert_eq!((&body["known"], &body["variant"], &body["outputMatches"]), (&json!(true), &json!("B"), &json!(true)));

    let (status, private) = api.post("/settle_data", "{}", &[("x-settlement-type", "pivate")]).await;
    assert_eq!((status, &private["state"]), (200, &json!("private")));
    let headers = [("x-settlement-type", "private"), ("prefer", "respond-async")];
    let (status, private) = api.post("/settle_data", "{}", &headers).await;
    assert_eq!((status, &private["settlementJob"]), (202, &Value::Null));
    let (status, body) = api.get("/settle/settlement-batch-1", None).await;
    assert_eq!((status, &body["error"]), (404, &json!("Settlement job not found: settlement-batch-1")));
    let count: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM handed_in").fetch_one(api.ctx.store.read()).await.unwrap();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn a_poisoned_proof_is_refused_and_touches_no_other() {
    let (api, rsa) = pushing().await;
    let now = api.ctx.clock.now();
    let good = |n: u8| batch(&rsa, B256::repeat_byte(n), now);
    let with = |name: &str, value: Value| {
        let mut data = good(1);
        data[name] = value;
        data
    };
    let mut other = individual(&rsa, now, key(9).address());
    other["output"]["choices"][0]["message"]["content"] = json!("London.");
    let stranger = RsaKey::generate().unwrap();
    let bad = [
        ("batches", good(1), "unknown_settlement_type"),
        ("batch", json!("text"), "bad_settlement_data"),
        ("batch", with("input_hash", json!("12")), "bad_settlement_data"),
        ("batch", with("tee_id", json!(crate::gateway::item::FALLBACK_TEE_ID)), "fallback_tee_id"),
        ("batch", with("input_hash", json!(format!("0x{}", "11".repeat(32)))), "fallback_hash"),
        ("batch", with("tee_signature", json!("0x")), "signature_missing"),
        ("batch", with("tee_signature", json!(BASE64.encode([7; 256]))), "bad_inference_signature"),
        ("batch", with("output_hash", json!("11".repeat(32))), "bad_inference_signature"),
        ("batch", batch(&stranger, B256::repeat_byte(1), now), "unknown_node"),
        ("batch", batch(&rsa, B256::repeat_byte(1), now - 4_000), "stale_timestamp"),
        ("batch", batch(&rsa, B256::repeat_byte(1), now + 400), "future_timestamp"),
        ("individual", good(1), "bad_settlement_data"),
        ("individual", other, "output_mismatch"),
    ];
    for (n, (kind, data, expected)) in (10_u8..).zip(&bad) {
        let beside = good(n);
        let (refused, stored) =
            futures_util::future::join(api.settle(kind, data, &[]), api.settle("batch", &beside, &[])).await;
        let (status, body) = refused;
        assert_eq!((status, code(&body).as_str()), (400, *expected), "{body}");
        assert_eq!(body["error"], body["message"]);
        assert_eq!(stored.0, 200, "{}", stored.1);
    }
    let mut nothing = with("tee_timestamp", Value::Null);
    nothing["timestamp"] = Value::Null;
    assert_eq!(code(&api.settle("batch", &nothing, &[]).await.1), "timestamp_missing");
    let count: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM completions").fetch_one(api.ctx.store.read()).await.unwrap();
    assert_eq!(count, i64::try_from(bad.len()).unwrap(), "the good ones, nothing else");
}

#[tokio::test]
async fn what_is_stored_is_known_however_late_it_comes_again() {
    let (api, rsa) = pushing().await;
    let data = batch(&rsa, B256::repeat_byte(1), api.ctx.clock.now());
    assert_eq!(api.settle("batch", &data, &[]).await.0, 200);
    api.ctx.clock.shift(7_200_000);
    let (status, body) = api.settle("batch", &data, &[]).await;
    assert_eq!((status, &body["known"]), (200, &json!(true)), "{body}");
}

#[tokio::test]
async fn an_open_order_of_the_request_is_named_and_a_private_one_keeps_it_off_the_chain() {
    let (api, rsa) = pushing().await;
    let now = api.ctx.clock.now();
    let prefer = [("prefer", "respond-async")];
    let public = api.order(1);
    assert_eq!(api.post("/orders", submission(&public, REQUEST, 0x77), &prefer).await.0, 202);
    let (_, body) = api.settle("batch", &batch(&rsa, request_hash(REQUEST), now), &[]).await;
    assert_eq!((&body["joined"], &body["orderId"]), (&json!("request"), &json!(id(&public))), "{body}");
    assert_eq!(body["record"], "due");

    let request = REQUEST.replace("France", "Spain");
    let blinding = B256::repeat_byte(5);
    let private = Order { requestCommit: request_commit(request_hash(&request), blinding), ..api.order(2) };
    let mut body: Value = serde_json::from_str(&submission(&private, &request, 0x77)).unwrap();
    body["blinding"] = json!(blinding);
    assert_eq!(api.post("/orders", body.to_string(), &prefer).await.0, 202);
    let data = batch(&rsa, request_hash(&request), now);
    let (_, body) = api.settle("batch", &data, &[]).await;
    assert_eq!((&body["record"], &body["joined"]), (&json!("private"), &json!("request")), "{body}");
}

#[tokio::test]
async fn a_completion_handed_in_before_is_recorded_now_and_charged_later_all_the_same() {
    let (api, rsa) = pushing().await;
    let now = api.ctx.clock.now();
    let data = batch(&rsa, request_hash(REQUEST), now);
    assert_eq!(api.settle("batch", &data, &[]).await.1["record"], "due");
    let mut tx = api.ctx.store.write().await.unwrap();
    sqlx::query("UPDATE completions SET record_state = 'recorded', og_block = 7").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let order = api.order(1);
    assert_eq!(api.post("/orders", submission(&order, REQUEST, 0x77), &[("prefer", "respond-async")]).await.0, 202);
    let body = super::completions::completion(&api, &rsa, Some(&order), now, Some(1));
    let (status, answer) = api.post("/completions", body.to_string(), &[]).await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("matched")), "{answer}");
    let (_, again) = api.settle("batch", &data, &[]).await;
    assert_eq!(
        (&again["joined"], &again["orderId"], &again["record"]),
        (&json!("order"), &json!(id(&order)), &json!("recorded"))
    );
}

#[tokio::test]
async fn keys_of_gateways() {
    let api = Api::with(&[], true, |config| config.gateway.key_required = true).await;
    let data = json!({});
    let (status, body) = api.settle("batch", &data, &[]).await;
    assert_eq!((status, code(&body)), (401, "unauthorized".to_owned()), "{body}");
    let mut tx = api.ctx.store.write().await.unwrap();
    api_keys::insert(&mut tx, "reads", "r", api_keys::READ, 1).await.unwrap();
    api_keys::insert(&mut tx, "gates", "g", api_keys::GATEWAY, 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(api.settle("batch", &data, &[("authorization", "Bearer reads")]).await.0, 401);
    let (status, body) = api.settle("batch", &data, &[("authorization", "Bearer gates")]).await;
    assert_eq!((status, code(&body)), (400, "bad_settlement_data".to_owned()));
}

#[tokio::test]
async fn keys_of_servers_that_settle() {
    let open = Api::with(&[], true, |_| {}).await;
    let (status, body) = open.post("/settle", "{}".to_owned(), &[]).await;
    assert_eq!((status, &body["errorReason"]), (200, &json!("invalid_payload")), "anybody may ask: {body}");
    let api = Api::with(&[], true, |config| config.x402.key_required = true).await;
    let mut tx = api.ctx.store.write().await.unwrap();
    api_keys::insert(&mut tx, "reads", "r", api_keys::READ, 1).await.unwrap();
    api_keys::insert(&mut tx, "settles", "s", "read settle", 1).await.unwrap();
    tx.commit().await.unwrap();
    for route in ["/verify", "/settle"] {
        for headers in [&[][..], &[("authorization", "Bearer reads")], &[("authorization", "Bearer nobody")]] {
            let (status, body) = api.post(route, "{}".to_owned(), headers).await;
            assert_eq!((status, code(&body)), (401, "unauthorized".to_owned()), "{body}");
        }
        let (status, body) = api.post(route, "{}".to_owned(), &[("authorization", "Bearer settles")]).await;
        assert_eq!(status, 200, "{body}");
    }
}

#[tokio::test]
async fn use_is_summed_by_day_and_a_gateway_sees_its_own() {
    let api = Api::with(&[], false, |_| {}).await;
    let now_ms = api.ctx.clock.now_ms();
    let mut tx = api.ctx.store.write().await.unwrap();
    for (name, scope) in [("reads", api_keys::READ), ("gates", api_keys::GATEWAY), ("other", api_keys::COMPLETIONS)] {
        api_keys::insert(&mut tx, name, name, scope, 1).await.unwrap();
    }
    let reports = [
        (
            1,
            0,
            Some("gates"),
            json!({ "requestCount": 3, "costOpg": "1500000000000000000", "costUsd": 0.25, "inputTokens": 10, "outputTokens": 5, "totalTokens": 15 }),
        ),
        (
            2,
            0,
            None,
            json!({ "request_count": "2", "cost_opg": "500000000000000000", "cost_usd": "0.5", "input_tokens": 1 }),
        ),
        (3, 40, None, json!({ "requestCount": 100 })),
    ];
    for (seed, days_ago, bearer, usage) in reports {
        // As gateways send it beside the payment.
        let request = json!({ "x402Version": 2, "usageMetadata": usage }).to_string().into_bytes();
        let new = NewPayment { api_key: bearer.map(api_keys::hash), request, ..payment(seed) };
        let at = now_ms - days_ago * 86_400_000;
        assert!(payments::insert(&mut tx, &new, at).await.unwrap().is_none());
        let settled = Settled { amount: new.amount, extra: None, evidence: None };
        assert!(payments::settle(&mut tx, new.payment_id, &settled, at).await.unwrap());
    }
    let silent = payment(9);
    assert!(payments::insert(&mut tx, &silent, now_ms).await.unwrap().is_none());
    let settled = Settled { amount: silent.amount, extra: None, evidence: None };
    assert!(payments::settle(&mut tx, silent.payment_id, &settled, now_ms).await.unwrap());
    tx.commit().await.unwrap();
    let (status, all) = api.get("/usage?days=7", Some("Bearer reads")).await;
    assert_eq!(status, 200, "{all}");
    assert_eq!(
        (&all["totalRequests"], &all["totalCostOpg"], &all["totalCostUsd"]),
        (&json!(5), &json!("2"), &json!(0.75))
    );
    assert_eq!((&all["totalInputTokens"], &all["totalTokens"]), (&json!(11), &json!(16)));
    let daily = all["daily"].as_array().unwrap();
    assert_eq!((daily.len(), &daily[6]["requestCount"], &daily[0]["costOpg"]), (7, &json!(5), &json!("0")));
    let (_, own) = api.get("/usage", Some("Bearer gates")).await;
    assert_eq!((&own["totalRequests"], &own["totalCostOpg"]), (&json!(3), &json!("1.5")));
    assert_eq!(api.get("/usage?days=90", Some("Bearer reads")).await.1["totalRequests"], 105);
    for days in ["0", "91", "x", "-1"] {
        assert_eq!(api.get(&format!("/usage?days={days}"), Some("Bearer reads")).await.0, 400);
    }
    for bearer in [None, Some("Bearer other"), Some("Bearer nobody")] {
        assert_eq!(api.get("/usage", bearer).await.0, 401);
    }
    let (status, health) = api.get("/health", None).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    assert!(health["supportedKinds"].is_array() && health["signers"].is_object(), "{health}");
}
