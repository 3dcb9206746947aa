//! `POST /heartbeat`: a node's sign of life, checked at the door and relayed to OpenGradient's registry, once.

use std::time::Duration;

use alloy::sol;
use alloy::sol_types::SolCall;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Extensions, HeaderMap};
use serde_json::{Value, json};

use super::body::{json_bytes, parse};
use super::error::{ErrorBody, GatewayError, GatewayResult};
use super::gateway::admit;
use crate::admission::Route;
use crate::admission::caller::caller;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Refusal};
use crate::gateway::beat::Heartbeat;
use crate::store::heartbeats::{self, Relay};
use crate::store::txs::NewTx;

/// Gateways give up after 20 seconds; by then they have an answer.
const WAIT: Duration = Duration::from_secs(15);
/// Between two looks at what became of the transaction.
const LOOK: Duration = Duration::from_millis(150);
/// Milliseconds in which one transaction does for all heartbeats of a node: gateways that did not hear from us sign again.
const TOGETHER_MS: i64 = 60_000;

sol! {
    function heartbeat(bytes32 teeId, uint256 timestamp, bytes signature) external;
}

/// Relays a heartbeat. The answer comes as soon as OpenGradient has the transaction, without waiting for its block. The same
/// heartbeat again, an older one, or one within a minute gets the same transaction.
#[utoipa::path(post, path = "/heartbeat", tag = "gateway",
    request_body(content = Object, description = "{teeId, timestamp, signature, contractAddress?}"),
    responses(
        (status = 200, description = "{success, txHash, teeId, timestamp, relayer, contract}"),
        (status = 400, description = "Refused: nothing is sent, and the code says what is wrong", body = ErrorBody),
        (status = 503, description = "Relaying is off, or OpenGradient did not take the transaction yet: it stays queued",
            body = ErrorBody)))]
pub async fn heartbeat(
    State(ctx): State<SharedCtx>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> GatewayResult<Json<Value>> {
    let caller = caller(&ctx, &extensions, &headers).await?;
    admit(&ctx, &caller, Route::Heartbeats)?;
    if !ctx.config.gateway.heartbeats {
        let text = "Heartbeat relay is not configured on this facilitator";
        return Err(Refusal::new(Code::HeartbeatsOff, text).into());
    }
    let bytes = json_bytes(&headers, body, ctx.config.api.max_body).await?;
    let beat = Heartbeat::read(&parse(&bytes)?).map_err(GatewayError::invalid)?;
    check(&ctx, &beat).await.map_err(GatewayError::invalid)?;
    let relay = relay(&ctx, &beat).await?;
    let deadline = tokio::time::Instant::now() + WAIT;
    let mut relay = relay;
    loop {
        if !relay.is_good() {
            let reason = relay.reason.as_deref().unwrap_or("the transaction failed on the chain");
            count("refused");
            let text = format!("OpenGradient's registry does not take the heartbeat: {reason}");
            return Err(GatewayError::invalid(Refusal::new(Code::HeartbeatRefused, text)));
        }
        if let Some(hash) = relay.tx_hash {
            count("relayed");
            return Ok(Json(json!({
                "success": true,
                "txHash": hash,
                "teeId": beat.tee_id,
                "timestamp": beat.timestamp.to_string(),
                "relayedTimestamp": relay.timestamp.to_string(),
                "relayer": ctx.keys.og,
                "contract": ctx.config.opengradient.tee_registry,
            })));
        }
        if tokio::time::Instant::now() >= deadline || ctx.closing.is_cancelled() {
            count("pending");
            let text = "the heartbeat is stored and will be sent, but OpenGradient did not take the transaction yet: \
                        hand it in again for its hash";
            return Err(Refusal::new(Code::HeartbeatPending, text).into());
        }
        tokio::time::sleep(LOOK).await;
        if let Some(now) = heartbeats::find(ctx.store.read(), beat.tee_id, beat.timestamp).await? {
            relay = now;
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("quittance_heartbeats_total", "outcome" => outcome).increment(1);
}

/// Registry, node, time and signature: what the registry would refuse is refused here.
async fn check(ctx: &Ctx, beat: &Heartbeat) -> Result<(), Refusal> {
    let registry = ctx.config.opengradient.tee_registry;
    if let Some(other) = beat.registry.filter(|other| *other != registry) {
        let text = "contractAddress does not match facilitator heartbeat relay contract";
        return Err(Refusal::mismatch(Code::BadHeartbeat, text, other.to_string(), registry.to_string()));
    }
    let tee = ctx.tees.find(beat.tee_id).await.ok_or_else(|| {
        let text = "OpenGradient's registry has no such node: register it first";
        Refusal { details: json!({ "teeId": beat.tee_id }), ..Refusal::new(Code::UnknownNode, text) }
    })?;
    beat.check(&tee.key, ctx.clock.now(), ctx.tees.max_age())?;
    if !tee.enabled {
        return Err(Refusal::new(Code::NodeNotActive, "the node is disabled in OpenGradient's registry"));
    }
    Ok(())
}

/// Stores the heartbeat with the transaction that does its work, before anything is sent.
async fn relay(ctx: &Ctx, beat: &Heartbeat) -> GatewayResult<Relay> {
    let call = heartbeatCall {
        teeId: beat.tee_id,
        timestamp: alloy::primitives::U256::from(beat.timestamp),
        signature: beat.signature.clone().into(),
    };
    let new = NewTx {
        chain_id: ctx.config.opengradient.chain_id,
        kind: "heartbeat",
        intent_key: format!("heartbeat:{}:{}", beat.tee_id, beat.timestamp),
        target: ctx.config.opengradient.tee_registry,
        calldata: call.abi_encode().into(),
    };
    let now_ms = ctx.clock.now_ms();
    let key = (beat.tee_id, beat.timestamp);
    let mut tx = ctx.store.write().await?;
    let taken = heartbeats::take(&mut tx, key, &new, now_ms.saturating_sub(TOGETHER_MS), now_ms).await;
    let (relay, fresh) = match taken {
        Ok(taken) => taken,
        // Another call, here or at another keeper, stored the same at the same moment.
        Err(error) => {
            tx.rollback().await?;
            let found = heartbeats::find(ctx.store.read(), key.0, key.1).await?;
            return found.ok_or_else(|| error.into());
        }
    };
    tx.commit().await?;
    if fresh {
        tracing::info!(target: "trail", step = "heartbeat", node = %beat.tee_id, timestamp = beat.timestamp, tx_id = relay.tx_id);
        ctx.signals.og_txs.notify_one();
    }
    Ok(relay)
}
