//! Completions that nodes hand in by themselves.

use super::*;

/// What a node hands in for an order, metered by itself when `meter` is a key.
pub(super) fn completion(api: &Api, rsa: &RsaKey, order: Option<&Order>, timestamp: u64, meter: Option<u8>) -> Value {
    let output = "Paris.";
    let output_hash = alloy::primitives::keccak256(output);
    let message = message_hash(request_hash(REQUEST), output_hash, timestamp);
    let mut body = json!({
        "nodeId": rsa.id(), "requestHash": request_hash(REQUEST), "output": output, "timestamp": timestamp,
        "signature": BASE64.encode(rsa.sign(message).unwrap()),
        "usage": { "prompt_tokens": 3, "completion_tokens": 4 },
    });
    if let Some(order) = order {
        body["orderId"] = json!(id(order));
    }
    if let (Some(seed), Some(order)) = (meter, order) {
        let ledger = domain(8453, LEDGER).separator();
        let sid = settlement_id(rsa.id(), message);
        let bill = Charge { settlement_id: sid, order_id: id(order), max_amount: u128::MAX, ledger };
        let card = rates(&api.ctx.config.rates, rsa.id(), None, TOKEN).unwrap();
        let metered = bill.sign(&key(seed), card, Usage { input: 3, output: 4 }).unwrap();
        body["meter"] = json!({ "offset": "0", "amount": metered.amount.to_string(),
            "signature": format!("0x{}", hex::encode(metered.signature)) });
    }
    body
}

/// An API with one registered node that pushes its completions instead of serving HTTP.
pub(super) async fn pushing() -> (Api, RsaKey) {
    let api = Api::new(&[]).await;
    let rsa = RsaKey::generate().unwrap();
    let version = NodeVersion {
        number: 1,
        verifier: ESCROW,
        meter_key: key(1).address(),
        label: Label::Mirrored,
        created_at: 1,
        replaced_at: 0,
        public_key: rsa.spki().to_vec(),
        key: None,
    };
    let record = NodeRecord {
        id: rsa.id(),
        version: 1,
        label: Label::Mirrored,
        operator: ESCROW,
        payout: ESCROW,
        registered_at: 1,
        retired_at: 0,
        revoked_at: 0,
        endpoint: None,
        versions: BTreeMap::from([(1, version)]),
    };
    let mut tx = api.ctx.store.write().await.unwrap();
    nodes::replace(&mut tx, rsa.id(), Some(&record)).await.unwrap();
    tx.commit().await.unwrap();
    api.ctx.registry.refresh(&api.ctx.store, &api.ctx.config).await.unwrap();
    (api, rsa)
}

#[tokio::test]
async fn completions_are_matched_once_or_refused_each_for_itself() {
    let (api, rsa) = pushing().await;
    let now = api.ctx.clock.now();
    let prefer = [("prefer", "respond-async")];
    let (first, second) = (api.order(1), api.order(2));
    for order in [&first, &second] {
        assert_eq!(api.post("/orders", submission(order, REQUEST, 0x77), &prefer).await.0, 202);
    }
    let good = completion(&api, &rsa, Some(&first), now, Some(1));
    let (status, body) = api.post("/completions", good.to_string(), &[]).await;
    assert_eq!((status, body["state"].as_str()), (200, Some("matched")), "{body}");
    let mut unknown = completion(&api, &rsa, Some(&second), now, Some(1));
    unknown["nodeId"] = json!(B256::repeat_byte(1));
    let mut flipped = completion(&api, &rsa, Some(&second), now - 1, Some(1));
    flipped["output"] = json!("London.");
    let over = {
        let mut body = completion(&api, &rsa, Some(&second), now - 1, Some(1));
        body["meter"]["amount"] = json!("1001");
        body
    };
    let batch = json!([
        good,
        completion(&api, &rsa, Some(&second), now, Some(1)),
        unknown,
        flipped,
        completion(&api, &rsa, Some(&second), now - 1, Some(2)),
        completion(&api, &rsa, Some(&second), now - 1, None),
        over,
        completion(&api, &rsa, Some(&second), now - 100, Some(1)),
        completion(&api, &rsa, Some(&second), now - 8_000, Some(1)),
        completion(&api, &rsa, Some(&second), now + 8_000, Some(1)),
        completion(&api, &rsa, Some(&first), now - 1, Some(1)),
        { "nodeId": 5 },
        completion(&api, &rsa, Some(&second), now - 2, Some(1)),
    ]);
    let (status, results) = api.post("/completions", batch.to_string(), &[]).await;
    assert_eq!(status, 200);
    let seen: Vec<&str> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["state"].as_str().or(result["code"].as_str()).unwrap())
        .collect();
    assert_eq!(
        seen,
        [
            "matched",
            "settlement_replayed",
            "unknown_node",
            "bad_inference_signature",
            "bad_meter",
            "meter_missing",
            "amount_over_maximum",
            "timestamp_outside_order",
            "stale_timestamp",
            "future_timestamp",
            "orphaned",
            "malformed",
            "matched",
        ],
        "{results:#}"
    );
    assert_eq!(results[0], body, "the same completion gets the first answer");
    let (_, answer) = api.submit(&first).await;
    let file: ReceiptFile = serde_json::from_value(answer["receipt"].clone()).unwrap();
    assert!(all_ok(&offline(&file)), "{:#?}", offline(&file));
    assert_eq!(file.receipt.amount, "11", "3 at 1 and 4 at 2 units");
}

#[tokio::test]
async fn a_completion_that_comes_first_is_matched_when_its_order_comes() {
    let (api, rsa) = pushing().await;
    let order = api.order(1);
    let body = completion(&api, &rsa, Some(&order), api.ctx.clock.now(), Some(1));
    let (_, result) = api.post("/completions", body.to_string(), &[]).await;
    assert_eq!(result["state"], "verified", "{result}");
    let (status, answer) = api.submit(&order).await;
    assert_eq!((status, answer["completion"]["output"].as_str()), (200, Some("Paris.")), "{answer}");
    let (_, again) = api.post("/completions", body.to_string(), &[]).await;
    assert_eq!(again["state"], "matched");
}
