//! Opened and handed-in orders to nodes: pick a node, ask it, verify, meter, commit; another node on any failure.

mod call;
mod desk;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::B256;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use call::{Answer, Part, Prepared, prepare, supplied, usage, with_stream};
pub use desk::{Desk, Pick, Ticket};

use crate::crash;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Error, Refusal, Result};
use crate::ingest::{self, Done, Job, NewCompletion};
use crate::registry::NodeRecord;
use crate::store::completions::{Completion, CompletionRow, Matched};
use crate::store::leases::{Lease, Others, unless_lost};
use crate::store::{completions, orders};
use crate::types::{OrderRow, OrderState};
use crate::verify::charge::{Means, Supplied, charge, check_active, check_scope};
use crate::verify::completion::{Evidence, NodeKey, TimestampRules, check_completion};
use crate::verify::meter::Charge;

/// Milliseconds between looks at the store without a hint.
const TICK_MS: u64 = 500;

/// Milliseconds after which an order is tried again whose only nodes just answered the same request.
const LATER_MS: i64 = 300;

/// Rounds over which the pause after an unanswered one doubles.
const MAX_DOUBLINGS: u32 = 4;

/// How a round over the nodes ended.
#[derive(Debug)]
pub enum Round {
    /// The order is answered, now or by another.
    Answered,
    /// A node could answer in the next second.
    Later,
    /// No node gave a good answer; the last reason.
    Unanswered(Refusal),
    /// It is too late to answer this order.
    TooLate,
}

/// Takes orders whose request is known and serves them until `stop`. Orders that were at nodes when this installation died
/// are taken up again by the first tick, those of others when they show no sign of life any more.
///
/// # Errors
/// `store_failed`; the supervisor starts it again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut alive = Lease::alive(&ctx.installation);
    let mut others = Others::default();
    let mut taken_up = false;
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        ctx.life.beat("dispatch");
        while tasks.try_join_next().is_some() {}
        if alive.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            if !std::mem::replace(&mut taken_up, true) {
                take_up(&ctx, &ctx.installation).await?;
            }
            for dead in others.dead(&ctx.store, &ctx.installation, ctx.clock.elapsed_ms()).await? {
                take_up(&ctx, &dead).await?;
            }
            unless_lost(claim(&ctx, &alive, &mut tasks).await)?;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = ctx.signals.orders.notified() => {}
            Some(_) = tasks.join_next() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    // What is at a node is worth waiting for a little, streams included; what is lost is taken up by others, or at the next start.
    let drained = ctx.desk.permits.acquire_many(ctx.config.dispatch.concurrency);
    let limit = Duration::from_millis(ctx.config.keeper.drain_ms);
    if tokio::time::timeout(limit, drained).await.is_err() {
        tracing::warn!(orders = tasks.len(), "nodes did not answer in time: taken up again at the next start");
    }
    drop(tasks);
    take_up(&ctx, &ctx.installation).await?;
    alive.release(&ctx.store).await
}

/// Opens what an installation had at nodes that does so no more.
async fn take_up(ctx: &Ctx, owner: &str) -> Result<()> {
    let now_ms = ctx.clock.now_ms();
    let mut orders = 0;
    loop {
        let mut tx = ctx.store.write().await?;
        let run = orders::reopen_dispatched(&mut tx, owner, now_ms).await?;
        tx.commit().await?;
        if run == 0 {
            break;
        }
        orders += run;
    }
    if orders > 0 {
        tracing::info!(orders, owner, "taking up orders that were at nodes");
    }
    Ok(())
}

async fn claim(ctx: &SharedCtx, alive: &Lease, tasks: &mut JoinSet<()>) -> Result<()> {
    let free = i64::try_from(ctx.desk.permits.available_permits()).unwrap_or(i64::MAX);
    let now_ms = ctx.clock.now_ms();
    if free == 0 || !orders::any_due(ctx.store.read(), now_ms).await? {
        return Ok(());
    }
    let mut tx = alive.write(&ctx.store).await?;
    let claimed = orders::claim_dispatchable(&mut tx, &ctx.installation, free, now_ms, lease(ctx)).await?;
    tx.commit().await?;
    if !claimed.is_empty() {
        crash::point("after_claim");
    }
    for order in claimed {
        let Ok(permit) = ctx.desk.permits.clone().acquire_owned().await else { return Ok(()) };
        let ctx = Arc::clone(ctx);
        tasks.spawn(async move {
            serve(&ctx, order, None).await;
            drop(permit);
        });
    }
    Ok(())
}

/// Until when a claim is ours without renewal, unix milliseconds: every node of a round may use its whole time.
pub fn lease(ctx: &Ctx) -> i64 {
    let nodes = u64::try_from(ctx.config.nodes.len()).unwrap_or(1).max(1);
    let round = ctx.config.dispatch.timeout_ms.saturating_mul(nodes + 1);
    ctx.clock.now_ms().saturating_add(i64::try_from(round).unwrap_or(i64::MAX))
}

/// Serves one claimed order and settles what becomes of it. With `sink` the answer is streamed there. Gives the reason
/// when it is not answered.
#[tracing::instrument(skip_all, fields(order = %order.order_id))]
pub async fn serve(ctx: &SharedCtx, order: OrderRow, sink: Option<&mpsc::Sender<Part>>) -> Option<Refusal> {
    let order_id = order.order_id;
    match served(ctx, &order, sink).await {
        Ok(reason) => reason,
        Err(error) => {
            tracing::error!(order = %order_id, code = error.code(), %error, "order not served; tried again after its lease");
            Some(Refusal::new(Code::Internal, "the order could not be served now; it is tried again"))
        }
    }
}

async fn served(ctx: &SharedCtx, order: &OrderRow, sink: Option<&mpsc::Sender<Part>>) -> Result<Option<Refusal>> {
    let id = order.order_id;
    let now_ms = ctx.clock.now_ms();
    let retry = i64::try_from(ctx.config.dispatch.retry_ms).unwrap_or(i64::MAX);
    let (reason, pause) = match round(ctx, order, sink).await? {
        Round::Answered => return Ok(None),
        Round::Later => (Refusal::new(Code::NoNodeAnswered, "the only node just answered the same request"), LATER_MS),
        Round::Unanswered(reason) => {
            let doublings = u32::try_from(order.attempts.saturating_sub(1)).unwrap_or(0).min(MAX_DOUBLINGS);
            (reason, retry.saturating_mul(1 << doublings))
        }
        Round::TooLate => {
            let reason = Refusal::new(Code::OrderExpired, "no node answered the order in its time");
            if !order.held {
                let mut tx = ctx.store.write().await?;
                let from = [OrderState::Open, OrderState::Dispatched];
                orders::set_state(&mut tx, id, &from, OrderState::Refused, Some(reason.code.as_str())).await?;
                tx.commit().await?;
                return Ok(Some(reason));
            }
            // The hold goes back to the payer after the capture deadline; nothing is to be done before.
            let deadline = order.order.captureDeadline.to::<i64>().saturating_mul(1_000);
            (reason, deadline.saturating_sub(now_ms).max(retry))
        }
    };
    tracing::debug!(order = %id, code = reason.code.as_str(), pause, "order not answered");
    let mut tx = ctx.store.write().await?;
    let now_ms = ctx.clock.now_ms();
    orders::put_back(&mut tx, (id, &ctx.installation), reason.code.as_str(), now_ms.saturating_add(pause), now_ms)
        .await?;
    tx.commit().await?;
    Ok(Some(reason))
}

/// One round: completions that wait for the order first, then node after node.
async fn round(ctx: &SharedCtx, order: &OrderRow, sink: Option<&mpsc::Sender<Part>>) -> Result<Round> {
    let prepared = match prepare(order) {
        Ok(prepared) => prepared,
        Err(refusal) => return Ok(Round::Unanswered(refusal)),
    };
    if match_waiting(ctx, order, &prepared).await? {
        return Ok(Round::Answered);
    }
    let mut failed: HashSet<B256> = HashSet::new();
    let mut reason = Refusal::new(Code::NoNodeAnswered, "no node that this order allows is active and known to us");
    loop {
        if too_late(ctx, order).await? {
            return Ok(Round::TooLate);
        }
        if let Some(refusal) = uncovered(ctx, order).await? {
            return Ok(Round::Unanswered(refusal));
        }
        let mut nodes = eligible(ctx, order);
        nodes.retain(|(node, _)| !failed.contains(&node.id));
        let pick = ctx.desk.pick(&nodes, |(node, _)| node.id, prepared.canonical.hash, ctx.clock.now());
        let ((node, url), mut ticket) = match pick {
            Pick::Node(node, ticket) => (node, ticket),
            Pick::Later => return Ok(Round::Later),
            Pick::Nobody => return Ok(Round::Unanswered(reason)),
        };
        match ask_node(ctx, order, node, url, &prepared, &mut ticket, sink).await {
            Ok(Matched::Replayed { order_id }) => {
                // Same node, request, answer and second as another order: only a later second is another inference.
                tracing::debug!(order = %order.order_id, other = %order_id, node = %node.id, "collision, run again");
                restart(sink, &Refusal::new(Code::SettlementReplayed, "collision, run again")).await;
            }
            Ok(matched) => {
                tracing::debug!(order = %order.order_id, node = %node.id, ?matched, "answered");
                return Ok(Round::Answered);
            }
            Err(Error::Refused(refusal)) => {
                tracing::warn!(order = %order.order_id, node = %node.id, %refusal, "node failed");
                metrics::counter!("quittance_node_failures_total", "code" => refusal.code.as_str()).increment(1);
                restart(sink, &refusal).await;
                failed.insert(node.id);
                reason = refusal;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn restart(sink: Option<&mpsc::Sender<Part>>, reason: &Refusal) {
    if let Some(sink) = sink {
        drop(sink.send(Part::Restart((reason.code.as_str(), reason.message.clone()))).await);
    }
}

/// Nodes that may answer an order and that we can charge for, with where to reach them.
fn eligible(ctx: &Ctx, order: &OrderRow) -> Vec<(Arc<NodeRecord>, String)> {
    let mut found = Vec::new();
    for configured in &ctx.config.nodes {
        let Some(node) = ctx.registry.node(configured.id) else { continue };
        let Some(version) = node.current() else { continue };
        // A key that the chain does not know any more would sign Meters that nobody takes.
        let chargeable = ctx.keys.meter.get(&node.id).is_none_or(|key| key.address() == version.meter_key);
        if !node.is_active() || !chargeable || check_scope(&order.order, &node, Some(version)).is_err() {
            continue;
        }
        if let Some(url) = configured.url.clone().or_else(|| node.endpoint.clone()) {
            found.push((node, url));
        }
    }
    found
}

async fn ask_node(
    ctx: &SharedCtx,
    order: &OrderRow,
    node: &NodeRecord,
    url: &str,
    prepared: &Prepared,
    ticket: &mut Ticket,
    sink: Option<&mpsc::Sender<Part>>,
) -> Result<Matched> {
    tracing::info!(target: "trail", step = "dispatched", order = %order.order_id, node = %node.id);
    let answer = call::ask(&ctx.desk.http, url, prepared, sink).await?;
    ticket.answered(answer.evidence.timestamp.min(ctx.clock.now().saturating_add(1)));
    let Answer { response, output, evidence, usage, meter } = answer;
    let verified = check_evidence(ctx, &evidence, node, order, Some(&output))?;
    let model = prepared.canonical.model.as_deref();
    let (version, metered) = charge_order(ctx, node, order, verified, meter.as_ref(), usage, model)?;
    let completion = Completion {
        settlement_id: verified,
        order_id: Some(order.order_id),
        node_id: node.id,
        node_version: version,
        request_hash: evidence.request_hash,
        output_hash: evidence.output_hash,
        timestamp: evidence.timestamp,
        signature: evidence.signature,
        output: Some(output.into_bytes()),
        response: Some(response),
        usage,
    };
    crash::point("after_completion_before_commit");
    let matching = Some((order.order_id, metered));
    let job = Job::Completion(Box::new(NewCompletion { completion, matching, order: None }));
    match ctx.ingest.submit_waiting(job).await {
        Ok(Done::Matched(matched)) => {
            tracing::info!(target: "trail", step = "answered", order = %order.order_id, settlement = %verified, ?matched);
            Ok(matched)
        }
        Ok(other) => Err(Error::Corrupt { table: "orders", what: format!("{} vanished: {other:?}", order.order_id) }),
        // Not the node's fault: the next round asks again.
        Err(refusal) => Err(Error::Io(std::io::Error::other(refusal.to_string()))),
    }
}

/// Checks what a node says about an answer to this order and gives its settlement id.
///
/// # Errors
/// Refusals of `check_active`, `check_completion` and `node_outside_scope`.
pub fn check_evidence(
    ctx: &Ctx,
    evidence: &Evidence,
    node: &NodeRecord,
    order: &OrderRow,
    output: Option<&str>,
) -> Result<B256, Refusal> {
    check_scope(&order.order, node, node.current())?;
    check_active(node, evidence.timestamp)?;
    let rules = TimestampRules {
        valid_after: order.order.validAfter.to(),
        valid_before: order.order.validBefore.to(),
        now: ctx.clock.now(),
        max_age: ctx.config.dispatch.max_age,
        max_ahead: ctx.config.dispatch.max_ahead,
    };
    let request_hash = order.request_hash.unwrap_or(evidence.request_hash);
    let key = node_key(node)?;
    Ok(check_completion(evidence, request_hash, output, &key, &rules)?.settlement_id)
}

/// The public key of a node's current version.
///
/// # Errors
/// `unknown_node` for a node whose key is no RSA key that OpenGradient uses.
pub fn node_key(node: &NodeRecord) -> Result<Arc<NodeKey>, Refusal> {
    let key = node.current().and_then(|version| version.key.clone());
    key.ok_or_else(|| {
        Refusal::new(Code::UnknownNode, "the node's registered key is no RSA key that this keeper can check")
    })
}

/// Charges an answer to an order.
///
/// # Errors
/// `meter_missing`, `bad_meter`, `amount_over_maximum`.
pub fn charge_order(
    ctx: &Ctx,
    node: &NodeRecord,
    order: &OrderRow,
    settlement_id: B256,
    supplied: Option<&Supplied>,
    usage: Option<completions::Usage>,
    model: Option<&str>,
) -> Result<(u32, completions::Metered), Refusal> {
    let (order_id, max_amount) = (order.order_id, order.order.maxAmount);
    let bill = Charge { settlement_id, order_id, max_amount, ledger: ctx.ledger };
    let key = ctx.keys.meter.get(&node.id);
    let means = Means { supplied, usage, model, key, cards: &ctx.config.rates };
    charge(node, order.order.token, &bill, &means, ctx.clock.now())
}

/// Matches the first good completion that was handed in before its order came.
async fn match_waiting(ctx: &SharedCtx, order: &OrderRow, prepared: &Prepared) -> Result<bool> {
    let waiting = completions::waiting_for(ctx.store.read(), order.order_id, prepared.canonical.hash).await?;
    for CompletionRow { completion, metered, .. } in waiting {
        let supplied = metered.map(|m| Supplied { offset: m.offset, amount: m.amount, signature: m.signature });
        let Some(node) = ctx.registry.node(completion.node_id) else { continue };
        let evidence = Evidence {
            node_id: completion.node_id,
            request_hash: completion.request_hash,
            output_hash: completion.output_hash,
            timestamp: completion.timestamp,
            signature: completion.signature.clone(),
        };
        let model = prepared.canonical.model.as_deref();
        let charged = check_evidence(ctx, &evidence, &node, order, None)
            .and_then(|id| charge_order(ctx, &node, order, id, supplied.as_ref(), completion.usage, model));
        let (version, metered) = match charged {
            Ok(charged) => charged,
            Err(refusal) => {
                tracing::debug!(order = %order.order_id, settlement = %completion.settlement_id, %refusal, "no match");
                continue;
            }
        };
        let completion = Completion { node_version: version, ..completion };
        let matching = Some((order.order_id, metered));
        let job = Job::Completion(Box::new(NewCompletion { completion, matching, order: None }));
        match ctx.ingest.submit_waiting(job).await {
            Ok(Done::Matched(Matched::Replayed { .. })) => {}
            Ok(_) => return Ok(true),
            Err(refusal) => return Err(Error::Io(std::io::Error::other(refusal.to_string()))),
        }
    }
    Ok(false)
}

async fn too_late(ctx: &Ctx, order: &OrderRow) -> Result<bool> {
    let deadline: u64 = order.order.captureDeadline.to();
    let settled_by = ingest::chain_now(ctx).await?.saturating_add(ctx.config.dispatch.deadline_margin);
    Ok(order.order.validBefore.to::<u64>() < ctx.clock.now() || deadline < settled_by)
}

/// Why an order that is not held is not secured at this moment: locks end, and a reorganisation can undo a hold.
async fn uncovered(ctx: &Ctx, order: &OrderRow) -> Result<Option<Refusal>> {
    if order.held {
        return Ok(None);
    }
    let until = ingest::chain_now(ctx).await?.saturating_add(ctx.config.dispatch.deadline_margin);
    let cover = ingest::cover(&mut *ctx.store.read().acquire().await?, &ctx.config, &order.order).await?;
    let limit = cover.limit(until, ctx.lock_tail);
    if order.reserved > 0 && cover.lane.reserved <= limit {
        return Ok(None);
    }
    let text = "the payer's lock ends too soon, or its hold was undone: extend the lock";
    let (actual, expected) = (limit.to_string(), cover.lane.reserved.to_string());
    Ok(Some(Refusal::mismatch(Code::InsufficientBalance, text, actual, expected)))
}
