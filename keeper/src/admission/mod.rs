//! Who may come in, and how often: rates per payer, key, address and in all; room for what is new. The rates are kept in
//! memory and written every `limits.snapshot_ms`: a stop forgets nothing, a `kill -9` at most what was used since the last
//! write. Keepers on one database learn of each other's use by the same writes.

pub mod bucket;
pub mod caller;
pub mod connections;
pub mod pressure;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use tokio_util::sync::CancellationToken;

use self::caller::{Caller, Keys, subject, within};
use self::connections::Connections;
use self::pressure::Pressure;
use self::table::{Id, Scope, Table, Use};
use crate::config::limits::{Limits, Rate};
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Refusal, Result};
use crate::store::{limits as rows, orders};

/// Rows of one write at most: others wait for the writer meanwhile.
const WRITE: usize = 500;

/// What admission remembers.
#[derive(Debug)]
pub struct Admission {
    pub table: Table,
    pub pressure: Pressure,
    pub keys: Keys,
    pub connections: Arc<Connections>,
}

impl Admission {
    /// Nobody came yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            table: Table::new(limits.subjects),
            pressure: Pressure::new(limits),
            keys: Keys::default(),
            connections: Arc::new(Connections::new(limits)),
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Orders,
    Completions,
    /// x402, to verify and to settle.
    Payments,
    Reads,
    Heartbeats,
}

impl Route {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Completions => "completions",
            Self::Payments => "payments",
            Self::Reads => "reads",
            Self::Heartbeats => "heartbeats",
        }
    }

    /// Rates per key, per address and in all.
    const fn rates(self, limits: &Limits) -> [Rate; 3] {
        match self {
            Self::Orders => [limits.orders.key, limits.orders.ip, limits.orders.global],
            Self::Completions => [limits.completions.key, limits.completions.ip, limits.completions.global],
            Self::Payments => [limits.payments.key, limits.payments.ip, limits.payments.global],
            Self::Reads => [limits.reads.key, limits.reads.ip, limits.reads.global],
            Self::Heartbeats => [limits.heartbeats.key, limits.heartbeats.ip, limits.heartbeats.global],
        }
    }
}

/// Counts `cost` units against the caller: its key if it has one, else its address.
///
/// # Errors
/// `rate_limited` with when to come again.
pub fn count_caller(ctx: &Ctx, route: Route, caller: &Caller, cost: u32) -> Result<(), Refusal> {
    let limits = &ctx.config.limits;
    let [key, ip, _] = route.rates(limits);
    match &caller.key {
        Some(bearer) => take(ctx, route, ("key", bearer.hash), key, cost),
        None if within(&limits.exempt, caller.ip) => Ok(()),
        None => take(ctx, route, ("ip", subject(caller.ip)), ip, cost),
    }
}

/// Counts `cost` units against everybody together. Comes last: what others' limits refuse must not use up everyone's.
///
/// # Errors
/// `rate_limited`.
pub fn count_all(ctx: &Ctx, route: Route, cost: u32) -> Result<(), Refusal> {
    let [_, _, global] = route.rates(&ctx.config.limits);
    take(ctx, route, ("global", B256::ZERO), global, cost)
}

/// Counts an order against its payer. Only for an order that is proven to be the payer's: nobody uses up another's rate.
///
/// # Errors
/// `rate_limited`.
pub fn count_payer(ctx: &Ctx, payer: Address) -> Result<(), Refusal> {
    take(ctx, Route::Orders, ("payer", payer.into_word()), ctx.config.limits.orders.payer, 1)
}

/// Counts a payment to settle against its payer. Only for one that is proven to be the payer's.
///
/// # Errors
/// `rate_limited`.
pub fn count_payment(ctx: &Ctx, payer: Address) -> Result<(), Refusal> {
    take(ctx, Route::Payments, ("payer", payer.into_word()), ctx.config.limits.payments.payer, 1)
}

/// Counts a search on the chain for who settled a payment, against its payer.
///
/// # Errors
/// `rate_limited`.
pub fn count_search(ctx: &Ctx, payer: Address) -> Result<(), Refusal> {
    take(ctx, Route::Payments, ("search", payer.into_word()), ctx.config.limits.payments.search, 1)
}

fn take(ctx: &Ctx, route: Route, (kind, subject): (&'static str, B256), rate: Rate, cost: u32) -> Result<(), Refusal> {
    let id = Id { scope: Scope { route: route.as_str(), kind }, subject };
    ctx.admission.table.take(id, rate, now_ns(ctx), cost).map_err(|wait| {
        metrics::counter!("quittance_limited_total", "route" => route.as_str(), "limit" => kind).increment(1);
        let details = serde_json::json!({
            "limit": kind,
            "perMinute": rate.per_minute,
            "burst": rate.burst,
            "retryAfterMs": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1),
        });
        let text = "too many: come again when Retry-After says, nothing was stored";
        Refusal { details, ..Refusal::new(Code::RateLimited, text) }
    })
}

fn now_ns(ctx: &Ctx) -> i64 {
    ctx.clock.now_ms().saturating_mul(1_000_000)
}

/// Reads what was used before the last stop; comes before the first call is taken.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn load(ctx: &Ctx) -> Result<()> {
    let now = now_ns(ctx);
    for (id, full_at) in rows::load(&ctx.store, now, i64::from(ctx.config.limits.subjects)).await? {
        ctx.admission.table.learned(id, full_at);
    }
    Ok(())
}

/// Writes what was used until `stop`, and then once more; counts the orders that wait.
///
/// # Errors
/// `store_failed`; the supervisor starts it again and nothing is forgotten.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let pause = Duration::from_millis(ctx.config.limits.snapshot_ms.into());
    while !stop.is_cancelled() {
        ctx.life.beat("limits");
        ctx.admission.pressure.set_open_orders(orders::unanswered(ctx.store.read()).await?);
        write(&ctx).await?;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    write(&ctx).await
}

/// Writes what was used since the last time.
///
/// # Errors
/// `store_failed`; it is unwritten again.
pub async fn write(ctx: &Ctx) -> Result<()> {
    loop {
        let now = now_ns(ctx);
        let uses = ctx.admission.table.unwritten(now, WRITE);
        if uses.is_empty() {
            return Ok(());
        }
        match write_some(ctx, &uses, now).await {
            Ok(learned) => {
                for (one, full_at) in uses.iter().zip(learned) {
                    ctx.admission.table.learned(one.id, full_at);
                }
            }
            Err(error) => {
                ctx.admission.table.give_back(&uses);
                return Err(error);
            }
        }
        if uses.len() < WRITE {
            return Ok(());
        }
    }
}

async fn write_some(ctx: &Ctx, uses: &[Use], now: i64) -> Result<Vec<i64>> {
    let mut tx = ctx.store.write().await?;
    rows::forget(&mut tx, now).await?;
    let mut learned = Vec::with_capacity(uses.len());
    for one in uses {
        learned.push(rows::add(&mut tx, one).await?);
    }
    tx.commit().await?;
    Ok(learned)
}
