//! Orders: answered, refused, replayed, streamed, taken up again.

use super::*;
use crate::ingest::QUEUE;

#[tokio::test]
async fn an_order_is_answered_with_a_receipt_and_the_same_again() {
    let api = Api::new(&[good()]).await;
    let order = api.order(1);
    let (status, first) = api.submit(&order).await;
    assert_eq!((status, first["state"].as_str()), (200, Some("completed")), "{first}");
    let output = first["completion"]["output"].as_str().unwrap();
    assert!(!output.is_empty());
    assert_eq!(first["completion"]["response"]["choices"][0]["message"]["content"], output);
    let file: ReceiptFile = serde_json::from_value(first["receipt"].clone()).unwrap();
    let checks = offline(&file);
    assert!(all_ok(&checks), "{checks:#?}");
    assert_eq!(file.state, "settlement_pending");
    assert_eq!(file.awaits.get("/base/transaction").map(String::as_str), Some("included"));
    assert_eq!(api.lane().await.reserved, 1_000);
    let (status, again) = api.submit(&order).await;
    assert_eq!((status, &again), (200, &first), "a replay gets the first answer");
    // Somebody who has seen the order on-chain but has not the payer's signature, or not the request.
    let (_, other) = api.post("/orders", submission(&order, REQUEST, 0x78), &[]).await;
    assert_eq!(code(&other), "bad_order_signature");
    let (_, other) = api.post("/orders", submission(&order, &REQUEST.replace("France", "Spain"), 0x77), &[]).await;
    assert_eq!(code(&other), "request_mismatch");
}

#[tokio::test]
async fn refused_orders_leave_nothing() {
    let api = Api::new(&[good()]).await;
    let base = api.order(1);
    let now = api.ctx.clock.now();
    let at = |seconds: u64| U40::from(seconds);
    for (order, expected) in [
        (Order { token: ESCROW, ..base.clone() }, "unsupported_token"),
        (Order { keeperId: B256::repeat_byte(9), ..base.clone() }, "other_keeper"),
        (Order { validAfter: at(now + 100), ..base.clone() }, "order_not_yet_valid"),
        (Order { validAfter: at(now - 400), ..base.clone() }, "order_expired"),
        (Order { captureDeadline: at(now + 7), validBefore: at(now + 6), ..base.clone() }, "order_expired"),
        (Order { requestCommit: B256::ZERO, ..base.clone() }, "request_mismatch"),
        (Order { nodeScope: B256::repeat_byte(9), ..base.clone() }, "unknown_node"),
        (Order { maxAmount: 1_000_001, ..base.clone() }, "insufficient_balance"),
        (Order { keeperId: B256::ZERO, ..base.clone() }, "insufficient_balance"),
        (Order { payer: ESCROW, ..base.clone() }, "bad_order_signature"),
    ] {
        assert_eq!(api.refused(&order).await, expected);
    }
    let mut wrong: Value = serde_json::from_str(&submission(&base, REQUEST, 0x77)).unwrap();
    wrong["chainId"] = json!(1);
    assert_eq!(code(&api.post("/orders", wrong.to_string(), &[]).await.1), "wrong_chain");
    wrong.as_object_mut().unwrap().remove("chainId");
    wrong.as_object_mut().unwrap().remove("request");
    assert_eq!(code(&api.post("/orders", wrong.to_string(), &[]).await.1), "request_missing");
    assert_eq!(api.lane().await.reserved, 0, "a refusal reserves nothing");
    // The nonce of a live order, and one that the chain has seen spent.
    assert_eq!(api.submit(&base).await.0, 200);
    let twin = Order { maxAmount: 999, ..base.clone() };
    assert_eq!(api.refused(&twin).await, "nonce_spent");
    let mut tx = api.ctx.store.write().await.unwrap();
    let lane = (base.payer, TOKEN, KEEPER);
    accounts::put_nonce_word(&mut tx, lane, U256::ZERO, U256::from(1) << 5_usize).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(api.refused(&api.order(5)).await, "nonce_spent");
}

#[tokio::test]
async fn a_lock_secures_no_more_than_it_holds_and_not_in_its_tail() {
    let api = Api::new(&[]).await;
    let prefer = [("prefer", "respond-async")];
    for nonce in 0..10 {
        let order = Order { maxAmount: 100_000, ..api.order(nonce) };
        let (status, body) = api.post("/orders", submission(&order, REQUEST, 0x77), &prefer).await;
        assert_eq!(status, 202, "{body}");
    }
    let one_more = Order { maxAmount: 1, ..api.order(10) };
    assert_eq!(api.refused(&one_more).await, "insufficient_balance");
    let mut tx = api.ctx.store.write().await.unwrap();
    let lane = (one_more.payer, TOKEN, KEEPER);
    // Larger, but ending in a minute: the tail is 60 seconds.
    accounts::put_lock(&mut tx, lane, 5_000_000, api.ctx.clock.now() + 60).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(api.refused(&one_more).await, "insufficient_balance");
}

#[tokio::test]
async fn a_bad_node_is_refused_and_another_answers_once() {
    let bad = [Mode::BadSignature, Mode::WrongHash, Mode::Error500, Mode::Duplicate];
    let modes: Vec<_> = bad.into_iter().map(mode).chain([good()]).collect();
    let api = Api::new(&modes).await;
    let mut seen = Vec::new();
    for nonce in 0..4 {
        let (status, body) = api.submit(&api.order(nonce)).await;
        assert_eq!(status, 200, "{body}");
        seen.push(body["completion"]["nodeId"].clone());
    }
    // The node that repeats itself is good once; after that its settlement id is taken.
    assert!(seen.iter().filter(|id| **id == json!(api.nodes[3].id)).count() <= 1, "{seen:?}");
    assert!(seen.iter().all(|id| *id == json!(api.nodes[3].id) || *id == json!(api.nodes[4].id)), "{seen:?}");
    assert_eq!(api.lane().await.reserved, 4_000);
}

#[tokio::test]
async fn an_unanswered_order_stays_open_and_is_answered_later() {
    let api = Api::with(&[mode(Mode::Error500)], true, |config| config.api.wait_ms = 600).await;
    let order = api.order(1);
    let (status, body) = api.submit(&order).await;
    assert_eq!((status, body["reason"].as_str()), (202, Some("no_node_answered")), "{body}");
    let (status, view) = api.get(&format!("/orders/{}", id(&order)), None).await;
    assert_eq!((status, view["answer"].is_null()), (200, true), "{view}");
    assert!(view["attempts"].as_i64() > Some(0));
}

#[tokio::test]
async fn what_was_at_a_node_is_taken_up_at_the_next_start() {
    let api = Api::with(&[good()], false, |_| {}).await;
    let ctx = &api.ctx;
    let order = api.order(1);
    let writer = tokio::spawn(ingest::run(ctx.clone(), api.stop.clone()));
    let prefer = [("prefer", "respond-async")];
    assert_eq!(api.post("/orders", submission(&order, REQUEST, 0x77), &prefer).await.0, 202);
    let now_ms = ctx.clock.now_ms();
    let mut tx = ctx.store.write().await.unwrap();
    assert!(orders::claim(&mut tx, id(&order), &ctx.installation, now_ms, now_ms + 3_600_000).await.unwrap());
    tx.commit().await.unwrap();
    tokio::spawn(dispatch::run(ctx.clone(), api.stop.clone()));
    assert_eq!(api.submit(&order).await.0, 200);
    api.stop.cancel();
    assert!(writer.await.unwrap().is_ok());
    let refused = ctx.ingest.submit(dummy_job()).await.unwrap_err();
    assert_eq!(refused.code.as_str(), "overloaded", "the writer is gone");
}

fn dummy_job() -> ingest::Job {
    let order = Order::try_from(&OrderFields {
        payer: ESCROW,
        token: TOKEN,
        max_amount: "1".to_owned(),
        request_commit: B256::ZERO,
        node_scope: B256::ZERO,
        keeper_id: KEEPER,
        valid_after: 0,
        valid_before: 0,
        capture_deadline: 0,
        nonce: "0".to_owned(),
    });
    ingest::Job::Order(Box::new(ingest::NewOrder {
        order_id: B256::ZERO,
        order: order.unwrap(),
        signature: None,
        blinding: B256::ZERO,
        request_hash: B256::ZERO,
        request: Vec::new(),
        dispatch_from_ms: 0,
    }))
}

#[tokio::test]
async fn a_stream_ends_in_a_receipt_and_voids_what_a_bad_node_said() {
    let api = Api::new(&[good()]).await;
    let body = |order: &Order| {
        let mut body = submission(order, REQUEST, 0x77);
        body.truncate(body.len() - 1);
        body + r#","stream":true}"#
    };
    let order = api.order(1);
    let request = |body: String| Request::post("/orders").header("content-type", "application/json").body(body.into());
    for _ in 0..2 {
        let response = api.raw(request(body(&order)).unwrap()).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains("tee_signature"), "{text}");
        assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
        let receipt = text.split("event: receipt\ndata: ").nth(1).unwrap().lines().next().unwrap();
        let receipt: Value = serde_json::from_str(receipt).unwrap();
        let file: ReceiptFile = serde_json::from_value(receipt["receipt"].clone()).unwrap();
        assert!(all_ok(&offline(&file)));
    }
    let api = Api::with(&[mode(Mode::BadSignature)], true, |config| config.api.wait_ms = 500).await;
    let response = api.raw(request(body(&api.order(1))).unwrap()).await;
    let text = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("event: restart") && text.contains("bad_inference_signature"), "{text}");
    assert!(text.contains("event: pending") && !text.contains("event: receipt"), "{text}");
}

#[tokio::test]
async fn a_private_order_is_answered_and_never_recorded_singly() {
    let api = Api::new(&[good()]).await;
    let blinding = B256::repeat_byte(0xB1);
    let order = Order { requestCommit: request_commit(request_hash(REQUEST), blinding), ..api.order(1) };
    let (_, refused) = api.post("/orders", submission(&order, REQUEST, 0x77), &[]).await;
    assert_eq!(code(&refused), "request_mismatch", "without its blinding");
    let mut body: Value = serde_json::from_str(&submission(&order, REQUEST, 0x77)).unwrap();
    body["blinding"] = json!(blinding);
    let (status, answer) = api.post("/orders", body.to_string(), &[]).await;
    assert_eq!(status, 200, "{answer}");
    let file: ReceiptFile = serde_json::from_value(answer["receipt"].clone()).unwrap();
    assert!(all_ok(&offline(&file)));
    assert_eq!((file.opengradient.state.as_str(), file.receipt.blinding), ("private", blinding));
    assert!(!file.awaits.contains_key("/opengradient/transaction"));
}

#[tokio::test]
async fn credit_is_given_where_configured_and_covered_by_what_is_free() {
    let give = |config: &mut Config| {
        config.dispatch.credit.insert(TOKEN, "1500".to_owned());
    };
    let api = Api::with(&[good()], true, give).await;
    let nobody = |nonce| Order { keeperId: B256::ZERO, ..api.order(nonce) };
    assert_eq!(api.refused(&nobody(1)).await, "insufficient_balance", "nothing is free");
    let mut tx = api.ctx.store.write().await.unwrap();
    let account = accounts::Account { free: 5_000, held: 0 };
    accounts::put_account(&mut tx, nobody(1).payer, TOKEN, account).await.unwrap();
    tx.commit().await.unwrap();
    let (status, answer) = api.submit(&nobody(1)).await;
    assert_eq!((status, answer["receipt"]["base"]["path"].as_str()), (200, Some("verified")), "{answer}");
    assert_eq!(api.refused(&nobody(2)).await, "insufficient_balance", "500 are left");
}

#[tokio::test]
async fn the_same_request_twice_at_one_node_is_two_inferences() {
    let api = Api::new(&[good()]).await;
    let (first, second) = (api.order(1), api.order(2));
    let (first, second) = tokio::join!(api.submit(&first), api.submit(&second));
    let id = |(status, answer): (u16, Value)| {
        assert_eq!(status, 200, "{answer}");
        answer["completion"]["settlementId"].clone()
    };
    assert_ne!(id(first), id(second));
}

#[tokio::test]
async fn a_full_queue_refuses_orders_before_completions() {
    let api = Api::with(&[], false, |_| {}).await;
    let ctx = api.ctx.clone();
    let half = QUEUE / 2;
    let mut waiting = Vec::new();
    for _ in 0..half {
        let ctx = ctx.clone();
        waiting.push(tokio::spawn(async move { ctx.ingest.submit(dummy_job()).await }));
    }
    while ctx.ingest.waiting() < half {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, body) = api.submit(&api.order(1)).await;
    assert_eq!((status, code(&body).as_str()), (503, "overloaded"));
    assert_eq!(ctx.ingest.waiting(), half, "there is room for completions still");
    for task in waiting {
        task.abort();
    }
}
