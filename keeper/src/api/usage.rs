//! `GET /usage` and `GET /health`, as OpenGradient's facilitator has them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{Extensions, HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::unauthorized;
use super::error::{ErrorBody, GatewayError, GatewayResult};
use crate::admission::caller::caller;
use crate::clock::day;
use crate::ctx::SharedCtx;
use crate::error::{Code, Refusal};
use crate::store::api_keys;
use crate::store::joins::Use;
use crate::store::usage::since;
use crate::x402;

const DAY_MS: i64 = 86_400_000;
/// Decimals of OPG, in which gateways report costs.
const OPG_DECIMALS: usize = 18;

/// How far back.
#[derive(Debug, Deserialize)]
pub struct Days {
    days: Option<String>,
}

/// One day, or all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    requests: u64,
    opg: u128,
    usd: f64,
    input: u64,
    output: u64,
    total: u64,
}

impl Sum {
    const fn add(&mut self, used: &Use) {
        self.requests = self.requests.saturating_add(used.requests);
        self.opg = self.opg.saturating_add(used.cost_opg);
        self.usd += used.cost_usd;
        self.input = self.input.saturating_add(used.input_tokens);
        self.output = self.output.saturating_add(used.output_tokens);
        self.total = self.total.saturating_add(used.total_tokens);
    }
}

/// What gateways reported of use with the payments that were settled, by day (UTC). A key of scope `gateway` sees what was
/// settled with it, one of scope `read` everything.
#[utoipa::path(get, path = "/usage", tag = "gateway",
    params(("days" = Option<u32>, Query, description = "1 to 90, 30 if absent, today included")),
    responses(
        (status = 200, description = "{totalRequests, totalCostOpg, totalCostUsd, totalInputTokens, totalOutputTokens, \
                                      totalTokens, daily: [{day, requestCount, costOpg, costUsd, inputTokens, outputTokens, \
                                      totalTokens}]} of these days; costOpg in whole OPG, decimal text"),
        (status = 400, description = "Another number of days", body = ErrorBody),
        (status = 401, description = "No key that may read it", body = ErrorBody)))]
pub async fn usage(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    Query(asked): Query<Days>,
) -> GatewayResult<Json<Value>> {
    let caller = caller(&ctx, &extensions, &headers).await?;
    let key = match &caller.key {
        Some(key) if key.has(api_keys::READ) => None,
        Some(key) if key.has(api_keys::GATEWAY) => Some(key.hash),
        _ if ctx.config.api.open_reads => None,
        _ => return Err(unauthorized("send an API key of scope gateway or read (Authorization: Bearer …)").into()),
    };
    let days: Option<i64> = asked.days.as_deref().map_or(Some(30), |text| text.parse().ok());
    let days = days.filter(|days| (1..=90).contains(days)).ok_or_else(|| {
        let shown = asked.days.unwrap_or_default().chars().take(32).collect::<String>();
        GatewayError::invalid(Refusal::mismatch(Code::Malformed, "days must be from 1 to 90", shown, "1 to 90"))
    })?;
    let first = ctx.clock.now_ms().div_euclid(DAY_MS) - (days - 1);
    let mut daily: BTreeMap<i64, Sum> = (first..first + days).map(|day| (day, Sum::default())).collect();
    let mut total = Sum::default();
    for (day, used) in since(&ctx.store, first, key).await? {
        // A clock that was ahead has written into the future.
        if let Some(sum) = daily.get_mut(&day) {
            sum.add(&used);
            total.add(&used);
        }
    }
    let daily: Vec<Value> = daily
        .into_iter()
        .map(|(number, sum)| {
            json!({
                "day": day(number * DAY_MS), "requestCount": sum.requests, "costOpg": whole(sum.opg), "costUsd": sum.usd,
                "inputTokens": sum.input, "outputTokens": sum.output, "totalTokens": sum.total,
            })
        })
        .collect();
    Ok(Json(json!({
        "totalRequests": total.requests, "totalCostOpg": whole(total.opg), "totalCostUsd": total.usd,
        "totalInputTokens": total.input, "totalOutputTokens": total.output, "totalTokens": total.total, "daily": daily,
    })))
}

/// Token units as whole OPG, exactly.
fn whole(units: u128) -> String {
    let digits = format!("{units:0>width$}", width = OPG_DECIMALS + 1);
    let (whole, rest) = digits.split_at(digits.len() - OPG_DECIMALS);
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() { whole.to_owned() } else { format!("{whole}.{rest}") }
}

/// That it serves, and which payments.
#[utoipa::path(get, path = "/health", tag = "gateway",
    responses((status = 200, description = "{status, supportedKinds, extensions, signers}")))]
pub async fn health(State(ctx): State<SharedCtx>) -> Json<Value> {
    let supported = x402::supported(&ctx.x402);
    Json(json!({
        "status": "ok", "supportedKinds": supported.kinds, "extensions": supported.extensions, "signers": supported.signers,
    }))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn whole_opg() {
        for (units, text) in [
            (0, "0"),
            (1, "0.000000000000000001"),
            (100_000_000_000_000_000, "0.1"),
            (12_000_000_000_000_000_000, "12"),
            (1_500_000_000_000_000_000, "1.5"),
        ] {
            assert_eq!(whole(units), text);
        }
    }
}
