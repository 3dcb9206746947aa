//! Heartbeats: checked at the door, one transaction for each.

use alloy::primitives::keccak256;

use super::*;
use crate::gateway::tees;
use crate::store::tees::{TeeRow, put};
use crate::store::txs::{self, Attempt};
use crate::tx::fees::Fee;

/// An API that knows a node of OpenGradient's registry, enabled or not.
async fn with_tee(enabled: bool, change: impl FnOnce(&mut Config)) -> (Api, RsaKey) {
    let api = Api::with(&[], true, change).await;
    let rsa = RsaKey::generate().unwrap();
    let row = TeeRow { id: rsa.id(), public_key: rsa.spki().to_vec(), payment_address: ESCROW, enabled };
    let mut tx = api.ctx.store.write().await.unwrap();
    put(&mut tx, &row, 1).await.unwrap();
    tx.commit().await.unwrap();
    tees::load(&api.ctx).await.unwrap();
    (api, rsa)
}

fn beat(rsa: &RsaKey, timestamp: u64) -> Value {
    let message = keccak256([rsa.id().as_slice(), &U256::from(timestamp).to_be_bytes::<32>()].concat());
    json!({
        "teeId": rsa.id(), "timestamp": timestamp.to_string(), "signature": BASE64.encode(rsa.sign(message).unwrap()),
        "contractAddress": ESCROW,
    })
}

/// What the transaction manager does once it gets to it: an endpoint has the envelope.
async fn accepted(api: &Api, tx_id: i64, hash: B256) {
    let attempt = Attempt {
        tx_hash: hash,
        raw: Default::default(),
        fee: Fee { max_fee: 2, tip: 1 },
        created_ms: 1,
        broadcast_ms: None,
        last_error: None,
    };
    let mut tx = api.ctx.store.write().await.unwrap();
    assert!(txs::allocate(&mut tx, tx_id, ESCROW, (0, 21_000), &attempt).await.unwrap());
    txs::mark_sent(&mut tx, tx_id, hash, None, 2).await.unwrap();
    tx.commit().await.unwrap();
}

async fn queued(api: &Api) -> Vec<i64> {
    let rows = txs::queued(api.ctx.store.read(), 10_740, "", 10).await.unwrap();
    rows.iter().filter(|row| row.kind == "heartbeat").map(|row| row.tx_id).collect()
}

#[tokio::test]
async fn many_calls_of_one_heartbeat_wait_for_one_transaction() {
    let (api, rsa) = with_tee(true, |_| {}).await;
    let body = beat(&rsa, api.ctx.clock.now() - 300);
    let calls = (0..5).map(|_| api.post("/heartbeat", body.to_string(), &[]));
    let send = async {
        loop {
            if let [tx_id] = queued(&api).await[..] {
                return accepted(&api, tx_id, B256::repeat_byte(7)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (answers, ()) = futures_util::future::join(futures_util::future::join_all(calls), send).await;
    for (status, answer) in answers {
        assert_eq!((status, &answer["success"], &answer["txHash"]), (200, &json!(true), &json!(B256::repeat_byte(7))));
        assert_eq!((&answer["teeId"], &answer["timestamp"]), (&body["teeId"], &body["timestamp"]));
        assert_eq!(answer["contract"], json!(ESCROW));
    }
    // A gateway that did not hear from us signs anew ten seconds later.
    let (status, next) = api.post("/heartbeat", beat(&rsa, api.ctx.clock.now() - 290).to_string(), &[]).await;
    assert_eq!((status, &next["txHash"]), (200, &json!(B256::repeat_byte(7))), "{next}");
    assert_eq!(next["relayedTimestamp"], body["timestamp"]);
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM txs").fetch_one(api.ctx.store.read()).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn what_the_registry_would_refuse_is_refused_at_the_door() {
    let (api, rsa) = with_tee(true, |_| {}).await;
    let now = api.ctx.clock.now();
    let stranger = RsaKey::generate().unwrap();
    let with = |name: &str, value: Value| {
        let mut body = beat(&rsa, now - 300);
        body[name] = value;
        body
    };
    for (body, expected) in [
        (with("contractAddress", json!(LEDGER)), "bad_heartbeat"),
        (with("teeId", Value::Null), "bad_heartbeat"),
        (with("timestamp", json!((now - 299).to_string())), "bad_inference_signature"),
        (beat(&stranger, now - 300), "unknown_node"),
        (beat(&rsa, now - 1_800), "stale_timestamp"),
        (beat(&rsa, now + 60), "future_timestamp"),
    ] {
        let (status, answer) = api.post("/heartbeat", body.to_string(), &[]).await;
        assert_eq!((status, code(&answer).as_str()), (400, expected), "{answer}");
        assert_eq!(answer["error"], answer["message"]);
    }
    assert!(queued(&api).await.is_empty(), "nothing is sent");
    let (api, rsa) = with_tee(false, |_| {}).await;
    let (status, answer) = api.post("/heartbeat", beat(&rsa, now - 300).to_string(), &[]).await;
    assert_eq!((status, code(&answer).as_str()), (400, "node_not_active"));
    let (api, rsa) = with_tee(true, |config| config.gateway.heartbeats = false).await;
    let (status, answer) = api.post("/heartbeat", beat(&rsa, now - 300).to_string(), &[]).await;
    assert_eq!((status, &answer["error"]), (503, &json!("Heartbeat relay is not configured on this facilitator")));
}

#[tokio::test]
async fn a_heartbeat_that_the_chain_refuses_says_why() {
    let (api, rsa) = with_tee(true, |_| {}).await;
    let body = beat(&rsa, api.ctx.clock.now() - 300);
    let refuse = async {
        loop {
            if let [tx_id] = queued(&api).await[..] {
                let mut tx = api.ctx.store.write().await.unwrap();
                txs::quarantine(&mut tx, tx_id, "reverted: TEENotEnabled", 3).await.unwrap();
                return tx.commit().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((status, answer), ()) =
        futures_util::future::join(api.post("/heartbeat", body.to_string(), &[]), refuse).await;
    assert_eq!((status, code(&answer).as_str()), (400, "heartbeat_refused"));
    assert!(answer["error"].as_str().unwrap().contains("TEENotEnabled"), "{answer}");
}
