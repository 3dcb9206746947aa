//! Streamed answers: the node's chunks as they come, then an event `receipt`; `restart` voids what came before it.

use std::convert::Infallible;
use std::time::Duration;

use alloy::primitives::B256;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::answer::{Standing, wait};
use super::error::{ApiError, ApiResult};
use crate::ctx::SharedCtx;
use crate::dispatch::{Part, lease, serve};
use crate::store::orders;

/// Chunks that wait for a slow reader before the node has to wait too.
const QUEUE: usize = 256;

/// Streams an order's answer. `kept`: the order was kept from the dispatcher, so that it is served here.
/// `place` is given back when the stream ends.
///
/// # Errors
/// `internal`; later failures are events.
pub async fn respond(ctx: SharedCtx, order_id: B256, kept: bool, place: OwnedSemaphorePermit) -> ApiResult<Response> {
    let (events, mut receiver) = mpsc::channel::<Event>(QUEUE);
    let claimed = if kept {
        let now_ms = ctx.clock.now_ms();
        let mut tx = ctx.store.write().await?;
        let claimed = orders::claim_kept(&mut tx, order_id, &ctx.installation, now_ms, lease(&ctx)).await?;
        tx.commit().await?;
        claimed
    } else {
        false
    };
    // Lives on when the caller goes away: the order is taken and will be answered.
    tokio::spawn(async move {
        let served = claimed && relay(&ctx, order_id, &events).await;
        finish(&ctx, order_id, &events, !served).await;
        drop(place);
    });
    let stream = poll_fn(move |cx| receiver.poll_recv(cx).map(|event| event.map(Ok::<_, Infallible>)));
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response())
}

/// Serves the order and passes the node's chunks on; whether any came that still stand.
async fn relay(ctx: &SharedCtx, order_id: B256, events: &mpsc::Sender<Event>) -> bool {
    let Ok(permit) = ctx.desk.permits.clone().acquire_owned().await else { return false };
    let Ok(Some(order)) = orders::get(ctx.store.read(), order_id).await else { return false };
    let (sink, mut parts) = mpsc::channel(QUEUE);
    let pass = async {
        let mut stands = false;
        while let Some(part) = parts.recv().await {
            let event = match part {
                Part::Data(data) => {
                    stands = true;
                    data_event(&data)
                }
                Part::Restart((code, message)) => {
                    stands = false;
                    Event::default().event("restart").data(json!({ "code": code, "message": message }).to_string())
                }
            };
            drop(events.send(event).await);
        }
        stands
    };
    let work = async {
        serve(ctx, order, Some(&sink)).await;
        drop(sink);
    };
    let ((), stands) = tokio::join!(work, pass);
    drop(permit);
    stands
}

/// The end of every stream: the receipt, or why there is none yet. With `whole`, the answer is sent as one chunk first.
async fn finish(ctx: &SharedCtx, order_id: B256, events: &mpsc::Sender<Event>, whole: bool) {
    let limit = Duration::from_millis(ctx.config.api.wait_ms);
    let event = match wait(ctx, order_id, limit).await {
        Ok(Standing::Answered(answered)) => {
            if let Some(response) = answered.completion.response.as_ref().filter(|_| whole) {
                drop(events.send(data_event(response.get().as_bytes())).await);
            }
            let receipt = json!({ "orderId": order_id, "state": answered.state, "receipt": answered.receipt });
            Event::default().event("receipt").data(receipt.to_string())
        }
        Ok(Standing::Pending(pending)) => {
            let text = serde_json::to_string(&pending).unwrap_or_default();
            Event::default().event("pending").data(text)
        }
        Err(ApiError(refusal)) => Event::default().event("error").data(refusal.to_json().to_string()),
    };
    drop(events.send(event).await);
    drop(events.send(Event::default().data("[DONE]")).await);
}

/// One data object; JSON needs its line breaks nowhere.
fn data_event(data: &[u8]) -> Event {
    Event::default().data(String::from_utf8_lossy(data).replace(['\r', '\n'], " "))
}
