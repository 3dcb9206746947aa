//! Whether there is room for new payments. Completions are revenue already earned: they wait where orders are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::config::limits::Limits;
use crate::error::{Code, Refusal};

/// How long a completion waits for its turn before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is under way.
#[derive(Debug)]
pub struct Pressure {
    orders: Arc<Semaphore>,
    completions: Semaphore,
    /// Orders without an answer, as the store had them a moment ago.
    open_orders: AtomicI64,
    start: Instant,
    /// Milliseconds after `start` at which the running commit began; 0 while none runs.
    commit_began: AtomicI64,
    /// How long the last commit took and when it ended, milliseconds.
    commit_took: AtomicI64,
    commit_ended: AtomicI64,
}

/// Why no order is taken now; stable, for metrics and error bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    Stopping,
    OrdersInFlight,
    OpenOrders,
    Queue,
    StoreLag,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Stopping, Self::OrdersInFlight, Self::OpenOrders, Self::Queue, Self::StoreLag];

    /// The text in metrics and error bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::OrdersInFlight => "orders_in_flight",
            Self::OpenOrders => "open_orders",
            Self::Queue => "queue",
            Self::StoreLag => "store_lag",
        }
    }
}

impl Pressure {
    /// Nothing is under way.
    pub fn new(limits: &Limits) -> Self {
        let permits = |n: u32| usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self {
            orders: Arc::new(Semaphore::new(permits(limits.orders_in_flight))),
            completions: Semaphore::new(permits(limits.completions_in_flight)),
            open_orders: AtomicI64::new(0),
            start: Instant::now(),
            commit_began: AtomicI64::new(0),
            commit_took: AtomicI64::new(0),
            commit_ended: AtomicI64::new(0),
        }
    }

    /// A place for one call of `POST /orders`, or why there is none. `queued`: rows that wait for their commit.
    ///
    /// # Errors
    /// `overloaded`; nothing was stored.
    pub fn order(&self, limits: &Limits, queued: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let shed = if i64::from(limits.open_orders) <= self.open_orders.load(Ordering::Relaxed) {
            Some(Shed::OpenOrders)
        } else if queued >= usize::try_from(limits.queue_high_water).unwrap_or(usize::MAX) {
            Some(Shed::Queue)
        } else if self.lag_ms() >= i64::from(limits.store_lag_ms) {
            Some(Shed::StoreLag)
        } else {
            None
        };
        match shed {
            Some(reason) => Err(refuse(reason)),
            None => self.orders.clone().try_acquire_owned().map_err(|_| refuse(Shed::OrdersInFlight)),
        }
    }

    /// Places for so many completions of one call; waits for them. By default all of them together fit into
    /// half of the writer's queue, so that none is refused there.
    ///
    /// # Errors
    /// `overloaded` after 20 seconds.
    pub async fn completions(&self, limits: &Limits, count: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let places = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, limits.completions_in_flight);
        match tokio::time::timeout(PATIENCE, self.completions.acquire_many(places)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::new(Code::Overloaded, "too many completions are under way: try again shortly")),
        }
    }

    /// A commit begins; it ends with the guard.
    pub fn committing(&self) -> Committing<'_> {
        self.commit_began.store(self.now_ms(), Ordering::Relaxed);
        Committing(self)
    }

    /// Milliseconds that the running commit takes so far, or what the last one took as long as that tells something.
    pub fn lag_ms(&self) -> i64 {
        let now = self.now_ms();
        let began = self.commit_began.load(Ordering::Relaxed);
        let running = if began > 0 { now.saturating_sub(began) } else { 0 };
        let took = self.commit_took.load(Ordering::Relaxed);
        let age = now.saturating_sub(self.commit_ended.load(Ordering::Relaxed));
        // Without an end to it a single slow commit would keep all orders out, and with them the commit that proves it wrong.
        if age <= took { running.max(took) } else { running }
    }

    /// Notes how many orders wait for an answer.
    pub fn set_open_orders(&self, open: i64) {
        self.open_orders.store(open, Ordering::Relaxed);
    }

    /// Orders that wait for an answer.
    pub fn open_orders(&self) -> i64 {
        self.open_orders.load(Ordering::Relaxed)
    }

    /// Calls of `POST /orders`, and completions, that are under way.
    pub fn in_flight(&self, limits: &Limits) -> [u32; 2] {
        let used = |all: u32, free: usize| all.saturating_sub(u32::try_from(free).unwrap_or(u32::MAX));
        [
            used(limits.orders_in_flight, self.orders.available_permits()),
            used(limits.completions_in_flight, self.completions.available_permits()),
        ]
    }

    fn now_ms(&self) -> i64 {
        // Never 0, which says that none runs.
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX).saturating_add(1)
    }
}

/// A running commit.
#[derive(Debug)]
pub struct Committing<'a>(&'a Pressure);

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        let began = self.0.commit_began.swap(0, Ordering::Relaxed);
        let now = self.0.now_ms();
        self.0.commit_took.store(now.saturating_sub(began), Ordering::Relaxed);
        self.0.commit_ended.store(now, Ordering::Relaxed);
    }
}

/// The refusal of an order for lack of room.
pub fn refuse(reason: Shed) -> Refusal {
    metrics::counter!("quittance_orders_shed_total", "reason" => reason.as_str()).increment(1);
    let text = "the keeper takes no new orders at this moment and nothing was stored: hand it in again shortly";
    let details = serde_json::json!({ "reason": reason.as_str(), "retryAfterMs": 1_000 });
    Refusal { details, ..Refusal::new(Code::Overloaded, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(refused: Result<OwnedSemaphorePermit, Refusal>) -> String {
        refused.unwrap_err().details["reason"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn orders_are_refused_where_completions_wait() {
        let limits = Limits {
            orders_in_flight: 1,
            completions_in_flight: 1,
            open_orders: 5,
            queue_high_water: 9,
            ..Limits::default()
        };
        let pressure = Pressure::new(&limits);
        let first = pressure.order(&limits, 0).unwrap();
        assert_eq!(reason(pressure.order(&limits, 0)), "orders_in_flight");
        assert_eq!(pressure.in_flight(&limits), [1, 0]);
        drop(first);
        assert_eq!(reason(pressure.order(&limits, 9)), "queue");
        pressure.set_open_orders(5);
        assert_eq!(reason(pressure.order(&limits, 0)), "open_orders");
        pressure.set_open_orders(4);
        assert!(pressure.order(&limits, 8).is_ok());
        let held = pressure.completions(&limits, 1).await.unwrap();
        let (second, ()) = tokio::join!(pressure.completions(&limits, 1), async { drop(held) });
        assert!(second.is_ok(), "the second waited for the first");
        drop(second);
        let many = pressure.completions(&limits, 1_000).await;
        assert!(many.is_ok(), "a batch above the limit takes all places and is not kept out for ever");
    }

    #[test]
    fn a_slow_commit_sheds_orders_and_its_memory_fades() {
        let limits = Limits { store_lag_ms: 1, ..Limits::default() };
        let pressure = Pressure::new(&limits);
        assert!(pressure.order(&limits, 0).is_ok());
        let commit = pressure.committing();
        let waited = |wanted: bool| {
            let start = Instant::now();
            while pressure.order(&limits, 0).is_ok() != wanted {
                assert!(start.elapsed() < Duration::from_secs(60));
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        waited(false);
        assert_eq!(reason(pressure.order(&limits, 0)), "store_lag");
        drop(commit);
        waited(true);
    }
}
