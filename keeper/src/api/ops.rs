//! For operators: is it alive, can it do its work, what does it count.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::{ApiError, ApiResult};
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Result};
use crate::store::orders;

/// Milliseconds after which a chain that was not read makes us unready.
const MAX_LAG_MS: i64 = 60_000;

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, description = "alive")))]
pub async fn livez() -> &'static str {
    "ok"
}

/// The database takes writes and both chains are read.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "ready"), (status = 503, description = "not ready, with the checks")))]
pub async fn readyz(State(ctx): State<SharedCtx>) -> Response {
    let database = writable(&ctx).await.is_ok();
    let running = !ctx.stopping.is_cancelled();
    let mut checks = vec![json!({ "name": "running", "ok": running }), json!({ "name": "database", "ok": database })];
    let mut ready = database && running;
    for chain_id in [ctx.config.base.chain_id, ctx.config.opengradient.chain_id] {
        let read_ms = crate::store::evidence::last_read_ms(&ctx.store, chain_id).await.ok().flatten();
        let ok = read_ms.is_some_and(|at| ctx.clock.now_ms().saturating_sub(at) <= MAX_LAG_MS);
        checks.push(json!({ "name": format!("chain_{chain_id}"), "ok": ok, "lastReadMs": read_ms }));
        ready &= ok;
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

async fn writable(ctx: &Ctx) -> Result<()> {
    let tx = ctx.store.write().await?;
    tx.rollback().await?;
    Ok(())
}

/// Counters in Prometheus text form.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "Prometheus text")))]
pub async fn metrics(State(ctx): State<SharedCtx>) -> ApiResult<String> {
    let handle = ctx.metrics.as_ref().ok_or_else(|| ApiError::new(Code::NotFound, "this keeper keeps no metrics"))?;
    for (state, n) in orders::counts(ctx.store.read()).await? {
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("quittance_orders", "state" => state).set(n as f64);
    }
    #[allow(clippy::cast_precision_loss)]
    metrics::gauge!("quittance_ingest_waiting").set(ctx.ingest.waiting() as f64);
    Ok(handle.render())
}
