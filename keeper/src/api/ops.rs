//! For operators: is it alive, can it do its work, what does it count.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use crate::chain::Side;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::Code;
use crate::observe;
use crate::store::evidence;

/// Milliseconds after which a chain that was not read makes us unready.
const MAX_LAG_MS: i64 = 60_000;
/// How long the database may take to begin a write.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Whether every loop makes progress: a stuck one makes it 503, and only a new process helps.
#[utoipa::path(get, path = "/livez", tag = "operations",
    responses((status = 200, description = "alive, with every loop's age"), (status = 503, description = "a loop is stuck")))]
pub async fn livez(State(ctx): State<SharedCtx>) -> Response {
    let loops = ctx.life.signs();
    let alive = loops.iter().all(|sign| sign.ok);
    let status = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "alive": alive, "loops": loops }))).into_response()
}

/// The database takes writes, both chains are read, and it is not stopping; with the reason of what does not hold.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "ready, with warnings"), (status = 503, description = "not ready, with reasons")))]
pub async fn readyz(State(ctx): State<SharedCtx>) -> Response {
    let stopping = ctx.stopping.is_cancelled().then(|| "the keeper is stopping".to_owned());
    let mut checks = vec![check("running", stopping), check("database", unwritable(&ctx).await)];
    for side in [Side::Base, Side::OpenGradient] {
        let chain_id = side.view(&ctx).chain_id;
        let read_ms = evidence::last_read_ms(&ctx.store, chain_id).await.ok().flatten();
        let age_ms = read_ms.map(|at| ctx.clock.now_ms().saturating_sub(at));
        let why = match age_ms {
            None => Some(format!("chain {chain_id} was not read yet: check {}.rpc", side.as_str())),
            Some(age) if age > MAX_LAG_MS => {
                Some(format!("chain {chain_id} was last read {} s ago: check {}.rpc", age / 1_000, side.as_str()))
            }
            Some(_) => None,
        };
        let mut check = check(&format!("chain_{chain_id}"), why);
        check["lastReadMs"] = json!(read_ms);
        checks.push(check);
    }
    let stuck: Vec<&str> = ctx.life.signs().iter().filter(|sign| !sign.ok).map(|sign| sign.name).collect();
    let why = (!stuck.is_empty()).then(|| format!("no progress in {}: start the keeper again", stuck.join(", ")));
    checks.push(check("loops", why));
    let reasons: Vec<&Value> = checks.iter().filter_map(|check| check.get("reason")).collect();
    let ready = reasons.is_empty();
    let body = json!({ "ready": ready, "reasons": reasons, "warnings": ctx.warnings.all(), "checks": checks });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

fn check(name: &str, why: Option<String>) -> Value {
    let mut check = json!({ "name": name, "ok": why.is_none() });
    if let Some(why) = why {
        check["reason"] = json!(why);
    }
    check
}

/// Why the database cannot be written now.
async fn unwritable(ctx: &Ctx) -> Option<String> {
    if !ctx.writable.load(Ordering::Relaxed) {
        return Some("the database could not be written a moment ago: check disk and rights".to_owned());
    }
    let write = async { ctx.store.write().await?.rollback().await.map_err(crate::error::Error::from) };
    match tokio::time::timeout(WRITE_WITHIN, write).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("the database cannot be written ({}): check disk and rights", error.code())),
        Err(_) => Some(format!("the database does not answer within {WRITE_WITHIN:?}: check its disk or server")),
    }
}

/// Counters and gauges in Prometheus text form; `docs/operations.md` lists them.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "Prometheus text")))]
pub async fn metrics(State(ctx): State<SharedCtx>) -> ApiResult<String> {
    let handle = ctx.metrics.as_ref().ok_or_else(|| ApiError::new(Code::NotFound, "this keeper keeps no metrics"))?;
    observe::instant(&ctx);
    for side in [Side::Base, Side::OpenGradient] {
        let read_ms = evidence::last_read_ms(&ctx.store, side.view(&ctx).chain_id).await?;
        let age_ms = read_ms.map_or(0, |at| ctx.clock.now_ms().saturating_sub(at).max(0));
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)).as_secs_f64();
        metrics::gauge!("quittance_chain_age_seconds", "chain" => side.as_str()).set(age);
    }
    Ok(handle.render())
}
