//! Reads: who may, and what is refused as JSON.

use super::*;

#[tokio::test]
async fn bodies_types_paths_and_methods_are_refused_as_json() {
    let api = Api::new(&[]).await;
    let post =
        |path: &str, kind: &str, body: String| Request::post(path).header("content-type", kind).body(body.into());
    for (request, status, expected) in [
        (post("/orders", "text/plain", "{}".to_owned()), 415, "wrong_content_type"),
        (post("/orders", "application/json", "{".to_owned()), 400, "malformed"),
        (post("/orders", "application/json", "x".repeat(64 * 1024 + 1)), 413, "body_too_large"),
        (post("/completions", "application/json", " ".repeat(64 * 1024 + 1)), 413, "body_too_large"),
        (post("/completions", "application/json", format!("[{}", " ".repeat(1024 * 1024))), 413, "body_too_large"),
        (post("/completions", "application/json", "[1".to_owned()), 400, "malformed"),
        (Request::get("/nothing").body(Body::empty()), 404, "not_found"),
        (Request::delete("/orders").body(Body::empty()), 405, "method_not_allowed"),
        (Request::get("/orders/12").body(Body::empty()), 400, "malformed"),
        (Request::get("/orders/%ff").body(Body::empty()), 400, "malformed"),
        (Request::get(format!("/orders/{}", B256::ZERO)).body(Body::empty()), 404, "not_found"),
        (Request::get("/batches/x").body(Body::empty()), 400, "malformed"),
        (Request::get("/batches/1").body(Body::empty()), 404, "not_found"),
        (Request::get("/receipts?bad=1").body(Body::empty()), 400, "malformed"),
        (Request::get("/receipts").body(Body::empty()), 401, "unauthorized"),
        (Request::get(format!("/accounts/{ESCROW}")).body(Body::empty()), 401, "unauthorized"),
    ] {
        let (actual, body) = json_of(api.raw(request.unwrap()).await).await;
        assert_eq!((actual, code(&body).as_str()), (status, expected), "{body}");
    }
    assert_eq!(api.get("/livez", None).await.0, 200);
    assert_eq!(api.get("/readyz", None).await.0, 503, "no chain was read yet");
    assert_eq!(api.get("/nodes", None).await.0, 200);
}

fn sign_in(api: &Api, signer: u8, domain: &str) -> String {
    let now = i64::try_from(api.ctx.clock.now()).unwrap();
    let time = |at: i64| {
        // Good enough for one day: the date of the day, the seconds of the day.
        let days = at.div_euclid(86_400);
        let (mut year, mut left) = (1970, days);
        let leap = |y: i64| i64::from(y % 4 == 0 && (y % 100 != 0 || y % 400 == 0));
        while left >= 365 + leap(year) {
            left -= 365 + leap(year);
            year += 1;
        }
        let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        let s = at.rem_euclid(86_400);
        format!("{year}-{:02}-{:02}T{:02}:{:02}:{:02}Z", month + 1, left + 1, s / 3_600, s / 60 % 60, s % 60)
    };
    let message = format!(
        "{domain} wants you to sign in with your Ethereum account:\n{}\n\nURI: http://k\nVersion: 1\nChain ID: 8453\n\
         Nonce: abcdefgh\nIssued At: {}\nExpiration Time: {}",
        key(signer).address(),
        time(now),
        time(now + 300)
    );
    let signature = key(signer).sign_message_sync(message.as_bytes()).unwrap();
    format!("SIWE {}.0x{}", BASE64.encode(&message), hex::encode(signature.as_bytes()))
}

#[tokio::test]
async fn receipts_are_for_their_payer_and_for_keys() {
    let api = Api::with(&[good()], true, |config| config.api.domain = "keeper.example".to_owned()).await;
    let (_, answer) = api.submit(&api.order(1)).await;
    let path = format!("/receipts/{}", answer["receipt"]["settlementId"].as_str().unwrap());
    let mut tx = api.ctx.store.write().await.unwrap();
    api_keys::insert(&mut tx, "secret", "ops", "read", 1).await.unwrap();
    api_keys::insert(&mut tx, "other", "nodes", "completions", 1).await.unwrap();
    tx.commit().await.unwrap();
    let payer = sign_in(&api, 0x77, "keeper.example");
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer secret"), 200),
        (Some("Bearer wrong"), 401),
        (Some("Bearer other"), 401),
        (Some("Basic x"), 401),
        (Some(payer.as_str()), 200),
        (Some(sign_in(&api, 0x78, "keeper.example").as_str()), 404),
        (Some(sign_in(&api, 0x77, "evil.example").as_str()), 401),
    ] {
        assert_eq!(api.get(&path, authorization).await.0, status, "{authorization:?}");
    }
    let (_, list) = api.get("/receipts", Some(&payer)).await;
    assert_eq!(list["receipts"].as_array().unwrap().len(), 1);
    let (_, list) = api.get("/receipts", Some(&sign_in(&api, 0x78, "keeper.example"))).await;
    assert!(list["receipts"].as_array().unwrap().is_empty());
    let (_, csv) = api.get("/receipts?format=csv&limit=1", Some("Bearer secret")).await;
    let lines: Vec<&str> = csv.as_str().unwrap().lines().collect();
    assert_eq!((lines.len(), lines[0].split(',').count(), lines[1].split(',').count()), (2, 13, 13));
    let (_, page) = api.get("/receipts?limit=1", Some("Bearer secret")).await;
    let next = page["next"].as_str().unwrap();
    let (_, page) = api.get(&format!("/receipts?limit=1&after={next}"), Some("Bearer secret")).await;
    assert_eq!((page["receipts"].as_array().unwrap().len(), page["next"].is_null()), (0, true));
    let accounts = format!("/accounts/{}", key(0x77).address());
    let (_, account) = api.get(&accounts, Some(&payer)).await;
    assert_eq!((account[0]["reserved"].as_str(), account[0]["spendable"].as_str()), (Some("1000"), Some("999000")));
    assert_eq!(api.get(&accounts, Some(&sign_in(&api, 0x78, "keeper.example"))).await.0, 401);
    let mut tx = api.ctx.store.write().await.unwrap();
    assert_eq!(api_keys::revoke(&mut tx, "ops", 2).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(api.get(&path, Some("Bearer secret")).await.0, 401);
}

#[test]
fn the_committed_description_is_the_served_one() {
    let served = crate::api::document().to_pretty_json().unwrap() + "\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("QUITTANCE_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, served, "run the tests with QUITTANCE_WRITE_OPENAPI=1 and commit keeper/openapi.json");
}
