//! Follows one chain: every block above what is final is linked by hash to the one before it, logs are asked for by block
//! hash, each contract's events are counted, and effects are applied in the transaction that moves the cursor.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolCall;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::endpoints::Endpoints;
use super::logs::{self, ChainLog};
use super::rpc::Head;
use super::{Side, View};
use crate::crash;
use crate::ctx::SharedCtx;
use crate::error::{Error, Result};
use crate::store::apply::{self, Rules};
use crate::store::events::{self, Cursor};
use crate::store::evidence;
use crate::store::leases::{Lease, TTL_MS};
use crate::tx::classify::Class;

alloy::sol! {
    /// Every contract of ours counts its events.
    function seq() external view returns (uint64);
}

/// Blocks of the window that are read together.
const WINDOW: u64 = 32;
/// Requests in flight at the same time.
const PARALLEL: usize = 8;
/// Blocks of a range below `safe`; halved while an endpoint finds it too large.
const RANGE: u64 = 2_000;
/// Ranges are used while at least so many safe blocks are missing.
const RANGE_FROM: u64 = 64;
/// How often contracts are asked how many events they had while none comes, milliseconds.
const COUNT_EVERY_MS: i64 = 5_000;
/// Looks at which an endpoint may hold back logs before what was read earlier is read again.
const PATIENCE: u32 = 3;

/// Follows one chain until `stop`. Its first look is its recovery.
///
/// # Errors
/// `chain_contradiction` when a finalised block changed or events do not add up: then only a human can help. What an
/// endpoint or the database fails to do is tried again at the next tick.
pub async fn run(ctx: SharedCtx, side: Side, stop: CancellationToken) -> Result<()> {
    let view = side.view(&ctx);
    let span = info_span!("watch", chain = side.as_str());
    let mut watcher = Watcher::new(ctx.clone(), side);
    async {
        ctx.registry.refresh(&ctx.store, &ctx.config).await?;
        loop {
            ctx.life.beat(side.watch_loop());
            let more = match watcher.tick(&stop).await {
                Ok(more) => {
                    if !more && side == Side::Base && watcher.at_head().await? {
                        ctx.caught_up.store(true, Ordering::Relaxed);
                    }
                    more
                }
                Err(error @ (Error::Chain { .. } | Error::Corrupt { .. } | Error::Config(_))) => {
                    if watcher.overtaken().await? {
                        tracing::warn!(code = error.code(), %error, "another keeper read on meanwhile: looking again");
                        continue;
                    }
                    tracing::error!(code = error.code(), %error, "cannot follow the chain");
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "look at the chain failed");
                    false
                }
            };
            if !more {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(view.tick) => {}
                }
            }
            if stop.is_cancelled() {
                break;
            }
        }
        watcher.lease.release(&ctx.store).await
    }
    .instrument(span)
    .await
}

/// One chain's follower.
pub(crate) struct Watcher {
    ctx: SharedCtx,
    side: Side,
    lease: Lease,
    endpoints: Endpoints,
    range: u64,
    /// The chain's head at the last look; `None` while another keeper looks.
    head: Option<u64>,
    /// Looks in a row at which a contract had more events than we were given.
    short: u32,
    /// When the contracts' own counts agreed with ours last, unix milliseconds.
    counted_ms: i64,
}

/// The chain's own view at one moment.
#[derive(Clone, Copy, Debug)]
struct Heads {
    latest: Head,
    safe: Option<Head>,
    finalized: Option<Head>,
}

impl Watcher {
    pub(crate) fn new(ctx: SharedCtx, side: Side) -> Self {
        let name = format!("watch:{}", side.view(&ctx).chain_id);
        let lease = Lease::new(name, &ctx.installation);
        Self { lease, endpoints: Endpoints::default(), range: RANGE, head: None, short: 0, counted_ms: 0, side, ctx }
    }

    fn view(&self) -> View<'_> {
        self.side.view(&self.ctx)
    }

    fn rules(&self) -> Rules {
        Rules {
            chain_id: self.view().chain_id,
            keeper_id: self.ctx.config.keeper.id,
            tokens: self.ctx.config.base.tokens.clone(),
            contracts: self.view().contracts,
            now_ms: self.ctx.clock.now_ms(),
        }
    }

    fn rpc_error(&self, message: impl Into<String>) -> Error {
        Error::Rpc { chain_id: self.view().chain_id, message: message.into() }
    }

    /// Whether what is stored reaches the chain's head as we know it; while another keeper reads, whether it does so.
    async fn at_head(&self) -> Result<bool> {
        if self.ctx.caught_up.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let chain_id = self.view().chain_id;
        if let Some(head) = self.head {
            let cursor = events::cursor(self.ctx.store.read(), chain_id).await?;
            return Ok(cursor.is_some_and(|cursor| cursor.number >= head));
        }
        let read_ms = evidence::last_read_ms(&self.ctx.store, chain_id).await?;
        Ok(read_ms.is_some_and(|at| self.ctx.clock.now_ms().saturating_sub(at) < TTL_MS))
    }

    /// Whether another keeper took the role during a look. What was read before then contradicts what that one has stored
    /// since, and says nothing of the chain.
    pub(crate) async fn overtaken(&self) -> Result<bool> {
        match self.lease.write(&self.ctx.store).await {
            Ok(tx) => {
                tx.commit().await?;
                Ok(false)
            }
            Err(Error::LeaseLost(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// One look; true when there is more to read at once.
    pub(crate) async fn tick(&mut self, stop: &CancellationToken) -> Result<bool> {
        if !self.lease.hold(&self.ctx.store, self.ctx.clock.elapsed_ms()).await? {
            self.ctx.registry.refresh(&self.ctx.store, &self.ctx.config).await?;
            self.head = None;
            return Ok(false);
        }
        if self.side == Side::OpenGradient {
            self.endpoints.refresh(&self.ctx).await?;
        }
        let chain_id = self.view().chain_id;
        let heads = self.heads().await?;
        self.head = Some(heads.latest.number);
        let cursor = events::cursor(self.ctx.store.read(), chain_id).await?;
        if self.diverged(cursor.as_ref(), &heads).await? {
            return self.reorganise(cursor).await;
        }
        let next = cursor.map_or(self.view().start_block, |cursor| cursor.number + 1);
        let safe = heads.safe.map_or(0, |head| head.number);
        if next > heads.latest.number {
            if let Some(cursor) = cursor {
                self.deepen(cursor, &heads).await?;
            }
            return Ok(false);
        }
        let more = if next + RANGE_FROM <= safe {
            self.read_range(cursor, next, safe, &heads).await?
        } else {
            self.read_window(cursor, next, &heads).await?
        };
        Ok(more && !stop.is_cancelled())
    }

    async fn heads(&self) -> Result<Heads> {
        let view = self.view();
        let missing = || self.rpc_error("no latest block");
        let latest = view.rpc.head(BlockNumberOrTag::Latest).await?.ok_or_else(missing)?;
        if view.instant {
            return Ok(Heads { latest, safe: Some(latest), finalized: Some(latest) });
        }
        // An endpoint without these tags leaves everything unsafe: pessimistic, never wrong.
        let tag = |tag| async move { view.rpc.head(tag).await.ok().flatten() };
        Ok(Heads { latest, safe: tag(BlockNumberOrTag::Safe).await, finalized: tag(BlockNumberOrTag::Finalized).await })
    }

    /// Whether a block that we applied is not the chain's any more.
    async fn diverged(&self, cursor: Option<&Cursor>, heads: &Heads) -> Result<bool> {
        let Some(cursor) = cursor else { return Ok(false) };
        for head in [Some(heads.latest), heads.finalized].into_iter().flatten() {
            if head.number > cursor.number {
                continue;
            }
            let stored = events::block_below(self.ctx.store.read(), self.view().chain_id, head.number).await?;
            if stored.is_some_and(|(number, hash, _)| number == head.number && hash != head.hash) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads blocks one by one, each linked to the one before.
    async fn read_window(&mut self, cursor: Option<Cursor>, next: u64, heads: &Heads) -> Result<bool> {
        let view = self.view();
        let to = heads.latest.number.min(next + WINDOW - 1);
        // Collected before they are polled: a closure inside the stream would keep this future on one thread.
        let asked: Vec<_> = (next..=to).map(|number| view.rpc.head(BlockNumberOrTag::Number(number))).collect();
        let blocks: Vec<Option<Head>> = stream::iter(asked).buffered(PARALLEL).try_collect().await?;
        let mut linked: Vec<Head> = Vec::with_capacity(blocks.len());
        for block in blocks {
            // The endpoint lost it: a reorganisation on its way, or another endpoint answered.
            let Some(block) = block else { break };
            match linked.last().map(|last| last.hash).or_else(|| cursor.map(|cursor| cursor.hash)) {
                Some(parent) if parent != block.parent && linked.is_empty() => {
                    return self.reorganise(cursor).await;
                }
                Some(parent) if parent != block.parent => break,
                _ => linked.push(block),
            }
        }
        let Some(last) = linked.last().copied() else { return Ok(false) };
        let addresses: Vec<Address> = view.contracts.iter().map(|(address, _)| *address).collect();
        let asked: Vec<_> = linked.iter().map(|block| view.rpc.logs_of_block(&addresses, block.hash)).collect();
        let fetched: Vec<Vec<Log>> = stream::iter(asked).buffered(PARALLEL).try_collect().await?;
        let mut found = Vec::new();
        for (block, logs) in linked.iter().zip(&fetched) {
            for log in logs {
                let Some(log) = logs::read(view.chain_id, &view.contracts, log, block.timestamp)? else { continue };
                if log.block_hash != block.hash {
                    return Err(self.rpc_error(format!("asked for logs of block {}, got others", block.hash)));
                }
                found.push(log);
            }
        }
        let more = last.number < heads.latest.number;
        Ok(self.advance(cursor, heads, &linked, found, true).await? && more)
    }

    /// Reads a range below `safe`, then checks the hashes of the blocks that its logs come from.
    async fn read_range(&mut self, cursor: Option<Cursor>, next: u64, safe: u64, heads: &Heads) -> Result<bool> {
        let view = self.view();
        let to = safe.min(next + self.range - 1);
        let addresses: Vec<Address> = view.contracts.iter().map(|(address, _)| *address).collect();
        let fetched = match view.rpc.logs_of_range(&addresses, next, to).await {
            Ok(fetched) => fetched,
            Err(failure) if self.range > 1 && matches!(failure.class, Class::RangeTooLarge | Class::Unknown) => {
                self.range = (self.range / 2).max(1);
                tracing::debug!(range = self.range, %failure, "smaller ranges of logs");
                return Ok(true);
            }
            Err(failure) => return Err(failure.into()),
        };
        let mut numbers: Vec<u64> = fetched.iter().filter_map(|log| log.block_number).chain([next, to]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let asked: Vec<_> = numbers.into_iter().map(|number| view.rpc.head(BlockNumberOrTag::Number(number))).collect();
        let blocks: Vec<Option<Head>> = stream::iter(asked).buffered(PARALLEL).try_collect().await?;
        let blocks: BTreeMap<u64, Head> = blocks.into_iter().flatten().map(|head| (head.number, head)).collect();
        let block = |number: u64| {
            blocks.get(&number).copied().ok_or_else(|| self.rpc_error(format!("block {number} is missing")))
        };
        if cursor.is_some_and(|cursor| block(next).is_ok_and(|first| first.parent != cursor.hash)) {
            return self.reorganise(cursor).await;
        }
        let mut found = Vec::new();
        for log in &fetched {
            let place = block(log.block_number.unwrap_or_default())?;
            let Some(log) = logs::read(view.chain_id, &view.contracts, log, place.timestamp)? else { continue };
            if log.block_hash != place.hash {
                return Err(self.rpc_error(format!("block {} changed while its logs were read", place.number)));
            }
            found.push(log);
        }
        found.sort_by_key(|log| (log.block_number, log.log_index));
        let last = block(to)?;
        self.range = (self.range * 2).min(RANGE);
        self.advance(cursor, heads, &[last], found, false).await
    }

    /// Applies logs and moves the cursor to the last of `blocks`, in one transaction. False when that has to be read again.
    async fn advance(
        &mut self,
        cursor: Option<Cursor>,
        heads: &Heads,
        blocks: &[Head],
        logs: Vec<ChainLog>,
        strict: bool,
    ) -> Result<bool> {
        let Some(last) = blocks.last() else { return Ok(false) };
        if let Some(gap) = self.gap(&logs, last.hash, strict).await? {
            return self.rewind(cursor, gap).await;
        }
        let rules = self.rules();
        let new = deeper(cursor.as_ref(), *last, heads);
        let mut tx = self.lease.write(&self.ctx.store).await?;
        for block in blocks {
            events::insert_block(&mut tx, rules.chain_id, block).await?;
        }
        let applied = apply::apply(&mut tx, &rules, &logs).await?;
        let before = cursor.map_or(0, |cursor| cursor.finalized);
        apply::heads(&mut tx, &rules, before, new.safe, new.finalized).await?;
        events::prune_blocks(&mut tx, rules.chain_id, new.finalized).await?;
        if !events::move_cursor(&mut tx, rules.chain_id, cursor.as_ref(), &new, rules.now_ms).await? {
            tx.rollback().await?;
            tracing::warn!("another keeper moved the cursor");
            return Ok(false);
        }
        if applied.events > 0 {
            crash::point("before_events_commit");
        }
        tx.commit().await?;
        if applied.events > 0 {
            crash::point("after_events_commit");
            tracing::info!(block = new.number, events = applied.events, "events applied");
        }
        if applied.registry {
            self.ctx.registry.refresh(&self.ctx.store, &self.ctx.config).await?;
        }
        if applied.orders {
            self.ctx.signals.orders.notify_one();
        }
        self.moved(&new);
        Ok(true)
    }

    /// Follows safe and finalised heads while there is no new block.
    async fn deepen(&self, cursor: Cursor, heads: &Heads) -> Result<()> {
        let here = Head { number: cursor.number, hash: cursor.hash, parent: B256::ZERO, timestamp: cursor.timestamp };
        let new = deeper(Some(&cursor), here, heads);
        if new == cursor {
            return Ok(());
        }
        let rules = self.rules();
        let mut tx = self.lease.write(&self.ctx.store).await?;
        apply::heads(&mut tx, &rules, cursor.finalized, new.safe, new.finalized).await?;
        events::prune_blocks(&mut tx, rules.chain_id, new.finalized).await?;
        if events::move_cursor(&mut tx, rules.chain_id, Some(&cursor), &new, rules.now_ms).await? {
            tx.commit().await?;
            self.moved(&new);
        }
        Ok(())
    }

    fn moved(&self, cursor: &Cursor) {
        let chain = self.side.as_str();
        #[allow(clippy::cast_precision_loss)]
        for (name, value) in [("latest", cursor.number), ("safe", cursor.safe), ("finalized", cursor.finalized)] {
            metrics::gauge!("quittance_chain_block", "chain" => chain, "level" => name).set(value as f64);
        }
        self.ctx.signals.chain.notify_waiters();
    }

    /// The contract whose events do not follow the stored ones without a gap, and the block from which to read again.
    async fn gap(&mut self, logs: &[ChainLog], at: B256, strict: bool) -> Result<Option<Gap>> {
        let view = self.side.view(&self.ctx);
        let now_ms = self.ctx.clock.now_ms();
        let mut answered = true;
        let count = !logs.is_empty() || self.short > 0 || now_ms.saturating_sub(self.counted_ms) >= COUNT_EVERY_MS;
        for (address, _) in &view.contracts {
            let last = events::last_seq(self.ctx.store.read(), view.chain_id, *address).await?;
            let mut expected = last.map_or(1, |(seq, _, _)| seq + 1);
            // Within a block a reentrant call may take its number before it logs.
            let mut numbers: Vec<u64> = logs.iter().filter(|log| log.address == *address).map(|log| log.seq).collect();
            numbers.sort_unstable();
            for number in numbers {
                if number < expected {
                    return Err(Error::Chain {
                        chain_id: view.chain_id,
                        message: format!("{address} reused event number {number}, {expected} was next"),
                    });
                }
                if number > expected {
                    tracing::warn!(contract = %address, expected, number, "events are missing");
                    return Ok(Some(Gap { contract: *address, block: last.map(|(_, block, _)| block), number }));
                }
                expected += 1;
            }
            if !count {
                continue;
            }
            let call = seqCall {}.abi_encode().into();
            match view.rpc.call(Address::ZERO, *address, &call, BlockId::hash(at)).await {
                // No code yet at that block: nothing can have happened.
                Ok(data) if data.is_empty() && expected == 1 => {}
                Ok(data) => {
                    let seq = seqCall::abi_decode_returns(&data)
                        .map_err(|error| self.rpc_error(format!("seq() of {address}: {error}")))?;
                    if seq + 1 == expected {
                        continue;
                    }
                    self.short += 1;
                    tracing::warn!(contract = %address, seq, got = expected - 1, "the endpoint holds logs back");
                    if seq + 1 > expected && self.short > PATIENCE {
                        self.short = 0;
                        let block = last.map(|(_, block, _)| block);
                        return Ok(Some(Gap { contract: *address, block, number: expected }));
                    }
                    return Err(
                        self.rpc_error(format!("{address} had {seq} events at block {at}, not {}", expected - 1))
                    );
                }
                Err(failure) if strict => return Err(failure.into()),
                // State of old blocks is pruned; the next event's number shows what is missing.
                Err(failure) => {
                    answered = false;
                    tracing::debug!(contract = %address, %failure, "no old state to count events");
                }
            }
        }
        self.short = 0;
        if count && answered {
            self.counted_ms = now_ms;
        }
        Ok(None)
    }

    /// Goes back to before the last event that is known of a contract: one after it was never delivered.
    async fn rewind(&mut self, cursor: Option<Cursor>, gap: Gap) -> Result<bool> {
        let view = self.view();
        let Some(cursor) = cursor else {
            return Err(Error::Config(format!(
                "start_block of chain {} lies after the first event of {}: its first event there is number {}",
                view.chain_id, gap.contract, gap.number
            )));
        };
        metrics::counter!("quittance_chain_rewinds_total", "chain" => self.side.as_str()).increment(1);
        let to = gap.block.unwrap_or(view.start_block).saturating_sub(1);
        let target = if to < view.start_block { None } else { view.rpc.head(BlockNumberOrTag::Number(to)).await? };
        self.go_back(cursor, target).await?;
        Ok(true)
    }

    /// Finds the last block that we and the chain agree on and undoes what came after it.
    async fn reorganise(&mut self, cursor: Option<Cursor>) -> Result<bool> {
        let view = self.view();
        let Some(cursor) = cursor else { return Ok(true) };
        let mut at = Some(cursor.number);
        let mut ancestor = None;
        while let Some(number) = at {
            let stored = events::block_below(self.ctx.store.read(), view.chain_id, number).await?;
            let Some((number, hash, timestamp)) = stored else { break };
            let Some(head) = view.rpc.head(BlockNumberOrTag::Number(number)).await? else {
                if number <= cursor.finalized {
                    return Err(self.rpc_error(format!("final block {number} is missing: the endpoint is behind")));
                }
                // The other branch is shorter.
                at = number.checked_sub(1);
                continue;
            };
            if head.hash == hash {
                ancestor = Some(Head { number, hash, parent: head.parent, timestamp });
                break;
            }
            if number <= cursor.finalized {
                return Err(Error::Chain {
                    chain_id: view.chain_id,
                    message: format!("finalised block {number} was {hash} and is {} now", head.hash),
                });
            }
            at = number.checked_sub(1);
        }
        metrics::counter!("quittance_chain_reorgs_total", "chain" => self.side.as_str()).increment(1);
        let depth = cursor.number.saturating_sub(ancestor.map_or(view.start_block, |head| head.number));
        #[allow(clippy::cast_precision_loss)]
        metrics::histogram!("quittance_chain_reorg_depth_blocks", "chain" => self.side.as_str()).record(depth as f64);
        tracing::warn!(from = cursor.number, to = ancestor.map(|head| head.number), "chain reorganised");
        self.go_back(cursor, ancestor).await?;
        Ok(true)
    }

    async fn go_back(&self, cursor: Cursor, target: Option<Head>) -> Result<()> {
        let rules = self.rules();
        let mut tx = self.lease.write(&self.ctx.store).await?;
        let undone = apply::undo_above(&mut tx, &rules, target.map(|head| head.number)).await?;
        let won = if let Some(head) = target {
            let new = Cursor {
                number: head.number,
                hash: head.hash,
                timestamp: head.timestamp,
                safe: cursor.safe.min(head.number),
                finalized: cursor.finalized.min(head.number),
            };
            events::insert_block(&mut tx, rules.chain_id, &head).await?;
            events::move_cursor(&mut tx, rules.chain_id, Some(&cursor), &new, rules.now_ms).await?
        } else {
            events::drop_cursor(&mut tx, rules.chain_id).await?;
            true
        };
        if won {
            tx.commit().await?;
            crash::point("after_undo");
            tracing::warn!(undone, "events undone");
            self.ctx.registry.refresh(&self.ctx.store, &self.ctx.config).await?;
            self.ctx.signals.chain.notify_waiters();
            return Ok(());
        }
        Ok(tx.rollback().await?)
    }
}

/// Where events of a contract are missing.
struct Gap {
    contract: Address,
    /// Block of the last event before the gap.
    block: Option<u64>,
    /// Number of the first event after it.
    number: u64,
}

/// The cursor at `last`, with safe and finalised heads that never go back and never pass it.
fn deeper(old: Option<&Cursor>, last: Head, heads: &Heads) -> Cursor {
    let level = |head: Option<Head>, old: u64| head.map_or(old, |head| head.number.min(last.number).max(old));
    let finalized = level(heads.finalized, old.map_or(0, |old| old.finalized));
    Cursor {
        number: last.number,
        hash: last.hash,
        timestamp: last.timestamp,
        safe: level(heads.safe, old.map_or(0, |old| old.safe)).max(finalized),
        finalized,
    }
}
