//! Compares both chains with the database over a span of time, reading the chains themselves: money without proof, proof
//! without money, and what one side claims that the other does not have.

use std::collections::{BTreeMap, BTreeSet};

use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolCall;
use serde::Serialize;

use crate::chain::logs::{self, ChainLog, EscrowEvents, Event, InboxEvents, LedgerEvents};
use crate::chain::{Side, View};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::store::handed_in;
use crate::store::reconcile::{self as rows, Known};
use crate::tx::classify::Class;

alloy::sol! {
    function recordedAt(bytes32 settlementId) external view returns (uint40);
}

/// Blocks of one request for logs; halved while an endpoint finds it too large.
const RANGE: u64 = 2_000;

/// The span, unix seconds, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: u64,
    pub to: u64,
    /// Seconds that the other side may be behind.
    pub grace: u64,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Captured on Base in our name, and no receipt of it here.
    CapturedUnknown,
    /// Captured on Base, and not settled here.
    CapturedNotNoted,
    /// Paid on Base, and OpenGradient has no record of a public inference.
    PaidNotRecorded,
    /// Recorded on OpenGradient, and nobody is charged for it, or its receipt was not taken.
    RecordedNotPaid,
    /// Settled here, and Base has no capture where it should be.
    SettledNotCaptured,
    /// Recorded here, and OpenGradient has no record where it should be.
    RecordedNotFound,
    /// Acknowledged here, and waiting for Base or OpenGradient for longer than the grace.
    Unfinished,
}

/// One thing that does not fit.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    pub kind: Kind,
    pub order_id: Option<B256>,
    pub settlement_id: Option<B256>,
    pub transaction: Option<B256>,
    /// Why, when the database knows.
    pub reason: Option<String>,
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// First and last block of the span; `None` when a chain had none in it.
    pub base_blocks: Option<(u64, u64)>,
    pub opengradient_blocks: Option<(u64, u64)>,
    /// Captures of this keeper, and records of inferences that it knows.
    pub captured: usize,
    pub recorded: usize,
    /// Records of inferences that this keeper does not know: other keepers'.
    pub others: usize,
    pub orphans: Vec<Orphan>,
}

/// A capture on Base.
#[derive(Clone, Copy, Debug)]
struct Capture {
    order_id: B256,
    /// In a batch of this keeper; else alone, by anybody.
    ours: bool,
    transaction: B256,
    block: u64,
}

/// Compares.
///
/// # Errors
/// `rpc_failed`, `store_failed`, `store_corrupt`.
pub async fn run(ctx: &Ctx, span: Span) -> Result<Outcome> {
    let [base, og] = [Side::Base.view(ctx), Side::OpenGradient.view(ctx)];
    let base_blocks = blocks(&base, span).await?;
    let og_blocks = blocks(&og, span).await?;
    let base_logs = read(&base, base_blocks).await?;
    let og_logs = read(&og, og_blocks).await?;
    let captures = captures(&base_logs, ctx.config.keeper.id);
    let mut outcome = Outcome {
        base_blocks,
        opengradient_blocks: og_blocks,
        captured: 0,
        recorded: 0,
        others: 0,
        orphans: Vec::new(),
    };
    money(ctx, span, &base, &captures, &mut outcome).await?;
    proof(ctx, span, &og_logs, &mut outcome).await?;
    claims(ctx, span, &captures, &og_logs, &mut outcome).await?;
    Ok(outcome)
}

/// Every capture of ours: known here, settled here, and proven on OpenGradient.
async fn money(ctx: &Ctx, span: Span, base: &View<'_>, captures: &[Capture], outcome: &mut Outcome) -> Result<()> {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for capture in captures {
        let known = rows::by_order(&ctx.store, capture.order_id).await?;
        if !capture.ours && known.is_none() {
            continue;
        }
        outcome.captured += 1;
        let time = match times.get(&capture.block) {
            Some(time) => *time,
            None => {
                let head = base.rpc.head(BlockNumberOrTag::Number(capture.block)).await?;
                let time = head.map_or(span.to, |head| head.timestamp);
                times.insert(capture.block, time);
                time
            }
        };
        let late = span.to.saturating_sub(time) >= span.grace;
        let Some(known) = known else {
            outcome.orphans.push(orphan(
                Kind::CapturedUnknown,
                Some(capture.order_id),
                None,
                Some(capture.transaction),
            ));
            continue;
        };
        let told = |kind: Kind| Orphan {
            reason: known.skip_reason.clone(),
            ..orphan(kind, Some(capture.order_id), Some(known.settlement_id), Some(capture.transaction))
        };
        if known.receipt.as_deref() != Some("settled") && late {
            outcome.orphans.push(told(Kind::CapturedNotNoted));
        }
        if known.record_state != "private" && late && !is_recorded(ctx, known.settlement_id).await? {
            outcome.orphans.push(told(Kind::PaidNotRecorded));
        }
    }
    Ok(())
}

/// Every record of an inference that we know: paid, or on its way to it.
async fn proof(ctx: &Ctx, span: Span, og_logs: &[ChainLog], outcome: &mut Outcome) -> Result<()> {
    let ids: Vec<B256> = records(og_logs).map(|(id, _)| id).collect();
    let handed_in = handed_in::payments_of(&ctx.store, &ids).await?;
    for (settlement_id, transaction) in records(og_logs) {
        let Some(known) = rows::by_settlement(&ctx.store, settlement_id).await? else {
            outcome.others += 1;
            continue;
        };
        outcome.recorded += 1;
        if let Some(reason) = unpaid(&known, span) {
            let reason = match handed_in.get(&settlement_id) {
                None => reason,
                Some((Some(joined), _)) => format!("{reason}; by a gateway, joined by {} only", joined.as_str()),
                Some((None, 0)) => format!("{reason}; by a gateway that names no payment, and none fits"),
                Some((None, fit)) => format!("{reason}; by a gateway that names no payment, and {fit} fit"),
            };
            outcome.orphans.push(Orphan {
                reason: Some(reason),
                ..orphan(Kind::RecordedNotPaid, known.order_id, Some(settlement_id), Some(transaction))
            });
        }
    }
    Ok(())
}

/// Everything that the database claims of the span, and what it still owes.
async fn claims(
    ctx: &Ctx,
    span: Span,
    captures: &[Capture],
    og_logs: &[ChainLog],
    outcome: &mut Outcome,
) -> Result<()> {
    let block = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let captured: BTreeSet<B256> = captures.iter().map(|capture| capture.order_id).collect();
    if let Some((from, to)) = outcome.base_blocks {
        for (order_id, settlement_id) in rows::settled(&ctx.store, block(from), block(to)).await? {
            if !captured.contains(&order_id) {
                outcome.orphans.push(orphan(Kind::SettledNotCaptured, Some(order_id), Some(settlement_id), None));
            }
        }
    }
    let found: BTreeSet<B256> = records(og_logs).map(|(id, _)| id).collect();
    if let Some((from, to)) = outcome.opengradient_blocks {
        for settlement_id in rows::recorded(&ctx.store, block(from), block(to)).await? {
            if !found.contains(&settlement_id) {
                outcome.orphans.push(orphan(Kind::RecordedNotFound, None, Some(settlement_id), None));
            }
        }
    }
    let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let until = span.to.saturating_sub(span.grace).saturating_add(1);
    for known in rows::unfinished(&ctx.store, ms(span.from), ms(until)).await? {
        let waits = match known.receipt.as_deref() {
            Some(state @ ("matched" | "batched")) => format!("receipt {state}"),
            _ => format!("record {}", known.record_state),
        };
        outcome.orphans.push(Orphan {
            reason: Some(waits),
            ..orphan(Kind::Unfinished, known.order_id, Some(known.settlement_id), None)
        });
    }
    Ok(())
}

/// Why nobody pays for a recorded inference; `None` when somebody does, or may still.
fn unpaid(known: &Known, span: Span) -> Option<String> {
    let to_ms = i64::try_from(span.to.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let age = u64::try_from(to_ms.saturating_sub(known.created_ms)).unwrap_or(0) / 1_000;
    match (known.receipt.as_deref(), known.state.as_str()) {
        (Some("settled"), _) => None,
        (Some("skipped"), _) => Some(known.skip_reason.clone().unwrap_or_else(|| "skipped".to_owned())),
        // Joined to an x402 payment, more or less surely: `quittance admin explain` says how.
        (None, "direct") => None,
        (_, "orphaned") => Some("no order is charged for it".to_owned()),
        // What waits too long is told as unfinished.
        (Some(_), _) => None,
        (None, state) => (age >= span.grace).then(|| format!("completion {state}")),
    }
}

const fn orphan(kind: Kind, order_id: Option<B256>, settlement_id: Option<B256>, transaction: Option<B256>) -> Orphan {
    Orphan { kind, order_id, settlement_id, transaction, reason: None }
}

async fn is_recorded(ctx: &Ctx, settlement_id: B256) -> Result<bool> {
    let data = recordedAtCall { settlementId: settlement_id }.abi_encode().into();
    let answer = ctx.og.call(Address::ZERO, ctx.config.opengradient.inbox, &data, BlockId::latest()).await?;
    Ok(U256::try_from_be_slice(&answer).is_some_and(|at| !at.is_zero()))
}

/// Captures that batches of this keeper and verified settlements of anybody made. Captures stand before the event that they
/// belong to.
fn captures(all: &[ChainLog], keeper_id: B256) -> Vec<Capture> {
    let mut found = Vec::new();
    for run in all.chunk_by(|a, b| a.tx_hash == b.tx_hash) {
        let mut open = Vec::new();
        for log in run {
            let capture = |order_id: B256, ours: bool| Capture {
                order_id,
                ours,
                transaction: log.tx_hash,
                block: log.block_number,
            };
            match &log.event {
                Event::Escrow(event) => {
                    if let EscrowEvents::OrderCaptured(e) = event.as_ref() {
                        open.push(capture(e.orderId, true));
                    }
                }
                Event::Ledger(event) => match event.as_ref() {
                    LedgerEvents::BatchSettled(e) if e.keeperId == keeper_id => found.append(&mut open),
                    LedgerEvents::BatchSettled(_) => open.clear(),
                    LedgerEvents::Verified(e) => {
                        open.clear();
                        found.push(capture(e.paymentId, false));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
    found
}

/// Recorded inferences with their transactions.
fn records(all: &[ChainLog]) -> impl Iterator<Item = (B256, B256)> + '_ {
    all.iter().filter_map(|log| match &log.event {
        Event::Inbox(event) => match event.as_ref() {
            InboxEvents::InferenceRecorded(e) => Some((e.settlementId, log.tx_hash)),
            InboxEvents::InferenceRefused(_) => None,
        },
        _ => None,
    })
}

/// First and last block of a span.
async fn blocks(view: &View<'_>, span: Span) -> Result<Option<(u64, u64)>> {
    let missing =
        || Error::Rpc { chain_id: view.chain_id, message: "a block is missing: is the endpoint in sync?".to_owned() };
    let latest = view.rpc.head(BlockNumberOrTag::Latest).await?.ok_or_else(missing)?;
    let start = view.start_block.min(latest.number);
    // The first block from `start` on whose time is at least `time`; one beyond the latest when there is none.
    let first_at = async |time: u64| -> Result<u64> {
        let (mut low, mut high) = (start, latest.number + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let head = view.rpc.head(BlockNumberOrTag::Number(middle)).await?.ok_or_else(missing)?;
            if head.timestamp < time { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    };
    let from = first_at(span.from).await?;
    let end = first_at(span.to.saturating_add(1)).await?;
    Ok((from < end).then(|| (from, end - 1)))
}

/// Logs of our contracts in these blocks, in chain order.
async fn read(view: &View<'_>, blocks: Option<(u64, u64)>) -> Result<Vec<ChainLog>> {
    let Some((mut from, to)) = blocks else { return Ok(Vec::new()) };
    let addresses: Vec<Address> = view.contracts.iter().map(|(address, _)| *address).collect();
    let mut found: Vec<Log> = Vec::new();
    let mut range = RANGE;
    while from <= to {
        let end = to.min(from.saturating_add(range - 1));
        match view.rpc.logs_of_range(&addresses, from, end).await {
            Ok(more) => {
                found.extend(more);
                from = end + 1;
                range = (range * 2).min(RANGE);
            }
            Err(failure) if range > 1 && failure.class == Class::RangeTooLarge => range /= 2,
            Err(failure) => return Err(failure.into()),
        }
    }
    let mut all = Vec::with_capacity(found.len());
    for log in &found {
        all.extend(logs::read(view.chain_id, &view.contracts, log, 0)?);
    }
    all.sort_by_key(|log| (log.block_number, log.log_index));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: &str, receipt: Option<&str>, created_ms: i64) -> Known {
        Known {
            settlement_id: B256::ZERO,
            order_id: None,
            state: state.to_owned(),
            record_state: "recorded".to_owned(),
            receipt: receipt.map(str::to_owned),
            skip_reason: receipt.filter(|state| *state == "skipped").map(|_| "order_closed".to_owned()),
            created_ms,
        }
    }

    #[test]
    fn proof_without_payment_is_told_once_it_is_certain() {
        let span = Span { from: 0, to: 1_000, grace: 100 };
        for (known, expected) in [
            (known("matched", Some("settled"), 0), None),
            (known("matched", Some("batched"), 0), None),
            (known("matched", Some("skipped"), 999_000), Some("order_closed")),
            (known("orphaned", None, 999_000), Some("no order is charged for it")),
            (known("direct", None, 0), None),
            (known("verified", None, 950_000), None),
            (known("verified", None, 900_000), Some("completion verified")),
        ] {
            assert_eq!(unpaid(&known, span).as_deref(), expected, "{known:?}");
        }
    }
}
