//! Rates and room: who is refused, with what, and that completions are taken where orders are not.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;

use super::*;
use crate::admission::{self, Route};
use crate::config::limits::Rate;

/// A request from an address.
fn from(peer: &str, request: axum::http::request::Builder) -> axum::http::request::Builder {
    request.extension(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4_711)))
}

async fn post_from(api: &Api, peer: &str, path: &str, body: String, bearer: Option<&str>) -> Response<Body> {
    let mut request = from(peer, Request::post(path)).header("content-type", "application/json");
    if let Some(key) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    api.raw(request.body(body.into()).unwrap()).await
}

/// The limit that refused, which must come with Retry-After.
async fn limited_by(response: Response<Body>) -> String {
    let after: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    let (status, body) = json_of(response).await;
    assert_eq!((status, code(&body).as_str()), (429, "rate_limited"), "{body}");
    let wait_ms = body["details"]["retryAfterMs"].as_u64().unwrap();
    assert!(after >= 1 && after * 1_000 >= wait_ms, "{after} s, {wait_ms} ms");
    body["details"]["limit"].as_str().unwrap().to_owned()
}

/// How many tries in a row come through before one is refused by a limit, and by which. A slow machine gives time, and with it
/// room, so the number has a lower bound only.
async fn until_limited(mut attempt: impl AsyncFnMut(u64) -> Response<Body>) -> (u64, String) {
    for n in 0..200 {
        let response = attempt(n).await;
        if response.status() == 429 {
            return (n, limited_by(response).await);
        }
    }
    panic!("no limit");
}

#[tokio::test]
async fn an_address_is_limited_whatever_it_sends_and_others_are_not() {
    let api = Api::with(&[], false, |config| {
        config.limits.orders.ip = Rate::new(1, 3);
        config.limits.reads.ip = Rate::new(1, 2);
    })
    .await;
    let bad_order = async |peer: &str| post_from(&api, peer, "/orders", "{".to_owned(), None).await;
    let (n, limit) = until_limited(async |_| bad_order("203.0.113.9").await).await;
    assert_eq!((n >= 3, limit.as_str()), (true, "ip"), "{n}");
    assert_eq!(bad_order("203.0.113.10").await.status(), 400);
    for _ in 0..50 {
        assert_eq!(bad_order("127.0.0.1").await.status(), 400, "exempt");
    }
    let get = async |path: &str| {
        let request = from("203.0.113.9", Request::get(path)).body(Body::empty()).unwrap();
        api.raw(request).await
    };
    let (n, limit) = until_limited(async |_| get("/nodes").await).await;
    assert_eq!((n >= 2, limit.as_str()), (true, "ip"), "reads are counted apart: {n}");
    for _ in 0..50 {
        assert_eq!(get("/livez").await.status(), 200, "operations are not counted");
    }
}

#[tokio::test]
async fn a_key_counts_instead_of_the_address_and_a_bad_key_does_not() {
    let api = Api::with(&[], false, |config| {
        config.limits.orders.ip = Rate::new(1, 1);
        config.limits.orders.key = Rate::new(1, 20);
    })
    .await;
    let mut tx = api.ctx.store.write().await.unwrap();
    api_keys::insert(&mut tx, "good", "ops", "read", 1).await.unwrap();
    tx.commit().await.unwrap();
    let post = async |key: &str| post_from(&api, "203.0.113.9", "/orders", "{".to_owned(), Some(key)).await;
    let (n, limit) = until_limited(async |_| post("good").await).await;
    assert_eq!((n >= 20, limit.as_str()), (true, "key"), "{n}");
    let (_, limit) = until_limited(async |_| post("bad").await).await;
    assert_eq!(limit, "ip", "a made-up key is no way around the address");
}

#[tokio::test]
async fn a_payer_is_limited_by_its_own_orders_only() {
    let api = Api::with(&[good()], true, |config| {
        config.limits.orders.payer = Rate::new(1, 2);
        config.limits.orders.global = Rate::new(1, 6);
    })
    .await;
    // Orders in the payer's name that it did not sign use nothing up.
    for nonce in 0..50 {
        let forged = submission(&api.order(nonce), REQUEST, 0x78);
        assert_eq!(code(&api.post("/orders", forged, &[]).await.1), "bad_order_signature");
    }
    let mut bodies = Vec::new();
    let post = async |body: String| post_from(&api, "127.0.0.1", "/orders", body, None).await;
    let (n, limit) = until_limited(async |n| {
        let order = api.order(n);
        bodies.push((id(&order), submission(&order, REQUEST, 0x77)));
        post(bodies[bodies.len() - 1].1.clone()).await
    })
    .await;
    assert_eq!((n >= 2, limit.as_str()), (true, "payer"), "{n}");
    let (first, (refused, _)) = (bodies[0].1.clone(), bodies.pop().unwrap());
    assert!(orders::get(api.ctx.store.read(), refused).await.unwrap().is_none(), "nothing is stored");
    assert_eq!(post(first).await.status(), 200, "an order that is known is answered again");
    // Others have their own rates, until all together have too much: counted, then refused for lack of money.
    let (n, limit) = until_limited(async |n| {
        let seed = 0x80 + u8::try_from(n).unwrap();
        post(submission(&Order { payer: key(seed).address(), ..api.order(n) }, REQUEST, seed)).await
    })
    .await;
    assert_eq!((n >= 1, limit.as_str()), (true, "global"), "{n}");
}

#[tokio::test]
async fn time_gives_room_again_and_a_restart_does_not() {
    let api = Api::with(&[], false, |config| config.limits.completions.global = Rate::new(1, 1)).await;
    let ctx = &api.ctx;
    // A thousand minutes' worth at once: no slow machine waits that long.
    admission::count_all(ctx, Route::Completions, 1_000).unwrap();
    admission::write(ctx).await.unwrap();
    // A second keeper on the same database, as after a restart.
    let mut again = Ctx::new(ctx.config.clone(), ctx.store.clone()).unwrap();
    again.clock = ctx.clock.clone();
    assert!(admission::count_all(&again, Route::Completions, 1).is_ok(), "nothing is known before it is read");
    let mut again = Ctx::new(ctx.config.clone(), ctx.store.clone()).unwrap();
    again.clock = ctx.clock.clone();
    admission::load(&again).await.unwrap();
    assert!(admission::count_all(&again, Route::Completions, 1).is_err());
    ctx.clock.shift(1_001 * 60_000);
    assert!(admission::count_all(&again, Route::Completions, 1).is_ok());
    assert!(admission::count_all(ctx, Route::Completions, 1).is_ok());
}

/// A node's answer to a request that no order was given for, as its operator hands it in.
async fn fresh_completion(node: &RunningNode, question: &str) -> Value {
    let request = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": question }] });
    let http = reqwest::Client::new();
    let answer = http.post(format!("{}/v1/chat/completions", node.url())).json(&request).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    json!({
        "nodeId": node.id,
        "request": request,
        "output": answer["choices"][0]["message"]["content"],
        "timestamp": answer["tee_timestamp"],
        "signature": answer["tee_signature"],
        "usage": answer["usage"],
    })
}

#[tokio::test]
async fn completions_are_taken_while_orders_are_shed() {
    let api = Api::with(&[good()], true, |config| config.limits.open_orders = 1).await;
    let mut tx = api.ctx.store.write().await.unwrap();
    api_keys::insert(&mut tx, "node", "ops", "completions", 1).await.unwrap();
    tx.commit().await.unwrap();
    api.ctx.admission.pressure.set_open_orders(1);
    let (status, body) = api.submit(&api.order(1)).await;
    assert_eq!((status, code(&body).as_str()), (503, "overloaded"), "{body}");
    assert_eq!(body["details"]["reason"], "open_orders");
    let handed = fresh_completion(&api.nodes[0], "Who comes first?").await;
    let bearer = [("authorization", "Bearer node")];
    let (status, body) = api.post("/completions", handed.to_string(), &bearer).await;
    assert_eq!((status, body["state"].as_str()), (200, Some("verified")), "{body}");
    api.ctx.admission.pressure.set_open_orders(0);
    assert_eq!(api.submit(&api.order(1)).await.0, 200);
    // A keeper that stops takes no new payment, and still what nodes have earned.
    api.ctx.stopping.cancel();
    assert_eq!(api.submit(&api.order(2)).await.1["details"]["reason"], "stopping");
    let handed = fresh_completion(&api.nodes[0], "And who comes last?").await;
    let (status, body) = api.post("/completions", handed.to_string(), &bearer).await;
    assert_eq!((status, body["state"].as_str()), (200, Some("verified")), "{body}");
}

#[tokio::test]
async fn each_completion_of_a_batch_counts() {
    let api = Api::with(&[], false, |config| config.limits.completions.ip = Rate::new(1, 10)).await;
    let batch = |n: usize| format!("[{}]", vec!["{}"; n].join(","));
    assert_eq!(post_from(&api, "203.0.113.9", "/completions", batch(10), None).await.status(), 200);
    assert_eq!(limited_by(post_from(&api, "203.0.113.9", "/completions", batch(1), None).await).await, "ip");
}
