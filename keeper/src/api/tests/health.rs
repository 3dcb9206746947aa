//! Liveness and readiness: what fails is named.

use super::*;

#[tokio::test]
async fn a_stuck_loop_fails_liveness_and_readiness_by_its_name() {
    let api = Api::with(&[], false, |config| config.api.stuck_ms = 1).await;
    let (status, body) = api.get("/livez", None).await;
    assert_eq!((status, body["alive"].as_bool()), (200, Some(true)), "{body}");
    api.ctx.life.born("settle");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (status, body) = api.get("/livez", None).await;
    assert_eq!((status, body["loops"][0]["name"].as_str()), (503, Some("settle")), "{body}");
    let reasons = api.get("/readyz", None).await.1["reasons"].to_string();
    assert!(reasons.contains("no progress in settle"), "{reasons}");
    assert!(reasons.contains("chain 8453 was not read yet: check base.rpc"), "{reasons}");
    api.ctx.life.over("settle");
    assert_eq!(api.get("/livez", None).await.0, 200);
    api.ctx.stopping.cancel();
    let reasons = api.get("/readyz", None).await.1["reasons"].to_string();
    assert!(reasons.contains("stopping") && !reasons.contains("settle"), "{reasons}");
}
