//! How much the keeper takes on: rates, concurrency, high-water marks.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Fewer bytes of a request's head cannot be set.
const LEAST_HEAD: u32 = 8_192;

/// What callers may hand in, and how much may be under way.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Networks whose `X-Forwarded-For` is believed: reverse proxies in front of the keeper.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks without a limit per address: this machine, by default.
    pub exempt: Vec<IpNet>,
    pub orders: OrderRates,
    pub completions: CompletionRates,
    pub payments: PaymentRates,
    pub reads: ReadRates,
    /// Connections at the same time; more are answered 503 and closed. Never more than the process may open files.
    pub connections: u32,
    /// Connections of one address at the same time; exempt networks and trusted proxies have no such limit.
    pub connections_per_ip: u32,
    /// Milliseconds in which a connection must bring the whole head of its next request; idle ones are closed then.
    pub head_ms: u32,
    /// Bytes that the head of a request may have.
    pub head_bytes: u32,
    pub heartbeats: HeartbeatRates,
    /// Calls of `POST /orders` at the same time, waiting ones included; more are refused.
    pub orders_in_flight: u32,
    /// Completions that are worked on at the same time, each of a batch counted; more wait.
    pub completions_in_flight: u32,
    /// Orders that wait for an answer at most; more are refused.
    pub open_orders: u32,
    /// Rows that wait for their commit from which on new orders are refused; completions may use the whole queue.
    pub queue_high_water: u32,
    /// Milliseconds that a commit takes from which on new orders are refused.
    pub store_lag_ms: u32,
    /// Callers whose use is remembered; when there are more active ones, those share one bucket of each kind.
    pub subjects: u32,
    /// Milliseconds between two writes of what was used; a `kill -9` forgets at most this much of it.
    pub snapshot_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let loopback = || {
            vec![
                IpNet::new_assert([127, 0, 0, 0].into(), 8),
                IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
            ]
        };
        Self {
            trusted_proxies: loopback(),
            exempt: loopback(),
            orders: OrderRates::default(),
            completions: CompletionRates::default(),
            payments: PaymentRates::default(),
            reads: ReadRates::default(),
            connections: 1_024,
            connections_per_ip: 128,
            head_ms: 30_000,
            head_bytes: 1_114_112,
            heartbeats: HeartbeatRates::default(),
            orders_in_flight: 1_024,
            completions_in_flight: 4_096,
            open_orders: 20_000,
            queue_high_water: 4_096,
            store_lag_ms: 2_000,
            subjects: 100_000,
            snapshot_ms: 1_000,
        }
    }
}

/// So many at once, and so many a minute in the long run. `per_minute = 0` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub per_minute: u32,
    pub burst: u32,
}

impl Rate {
    /// A limit.
    pub const fn new(per_minute: u32, burst: u32) -> Self {
        Self { per_minute, burst }
    }
}

/// Orders over HTTP. The payer counts once its signature is checked: nobody can use up another's rate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrderRates {
    pub payer: Rate,
    /// A caller with an API key counts by it, others by their address.
    pub key: Rate,
    pub ip: Rate,
    pub global: Rate,
}

impl Default for OrderRates {
    fn default() -> Self {
        Self {
            payer: Rate::new(6_000, 1_000),
            key: Rate::new(60_000, 5_000),
            ip: Rate::new(3_000, 500),
            global: Rate::new(120_000, 10_000),
        }
    }
}

/// Completions, each one of a batch.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompletionRates {
    pub key: Rate,
    pub ip: Rate,
    pub global: Rate,
}

impl Default for CompletionRates {
    fn default() -> Self {
        Self { key: Rate::new(0, 0), ip: Rate::new(120_000, 20_000), global: Rate::new(0, 0) }
    }
}

/// x402 payments, each call to verify or to settle. The payer counts for what is settled, once its signature is checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PaymentRates {
    pub payer: Rate,
    /// Payments of a payer that were spent by somebody else and that are looked for on the chain.
    pub search: Rate,
    pub key: Rate,
    pub ip: Rate,
    pub global: Rate,
}

impl Default for PaymentRates {
    fn default() -> Self {
        Self {
            payer: Rate::new(6_000, 1_000),
            search: Rate::new(30, 20),
            key: Rate::new(0, 0),
            ip: Rate::new(60_000, 10_000),
            global: Rate::new(0, 0),
        }
    }
}

/// Everything that is only read.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadRates {
    pub key: Rate,
    pub ip: Rate,
    pub global: Rate,
}

impl Default for ReadRates {
    fn default() -> Self {
        Self { key: Rate::new(60_000, 5_000), ip: Rate::new(3_000, 500), global: Rate::new(0, 0) }
    }
}

/// Heartbeats of nodes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeartbeatRates {
    pub key: Rate,
    pub ip: Rate,
    pub global: Rate,
}

impl Default for HeartbeatRates {
    fn default() -> Self {
        Self { key: Rate::new(600, 200), ip: Rate::new(120, 60), global: Rate::new(3_000, 1_000) }
    }
}

impl Limits {
    /// # Errors
    /// `bad_configuration` naming the first rule that does not hold.
    pub fn check(&self) -> Result<()> {
        let rates = [
            ("orders.payer", self.orders.payer),
            ("orders.key", self.orders.key),
            ("orders.ip", self.orders.ip),
            ("orders.global", self.orders.global),
            ("completions.key", self.completions.key),
            ("completions.ip", self.completions.ip),
            ("completions.global", self.completions.global),
            ("payments.payer", self.payments.payer),
            ("payments.search", self.payments.search),
            ("payments.key", self.payments.key),
            ("payments.ip", self.payments.ip),
            ("payments.global", self.payments.global),
            ("reads.key", self.reads.key),
            ("reads.ip", self.reads.ip),
            ("reads.global", self.reads.global),
            ("heartbeats.key", self.heartbeats.key),
            ("heartbeats.ip", self.heartbeats.ip),
            ("heartbeats.global", self.heartbeats.global),
        ];
        for (name, rate) in rates {
            if rate.per_minute > 0 && rate.burst == 0 {
                let text = format!("limits.{name}: burst must be at least 1, or per_minute 0 for no limit");
                return Err(Error::Config(text));
            }
        }
        for (name, value) in [
            ("connections", self.connections),
            ("connections_per_ip", self.connections_per_ip),
            ("head_ms", self.head_ms),
            ("orders_in_flight", self.orders_in_flight),
            ("completions_in_flight", self.completions_in_flight),
            ("open_orders", self.open_orders),
            ("queue_high_water", self.queue_high_water),
            ("store_lag_ms", self.store_lag_ms),
            ("subjects", self.subjects),
            ("snapshot_ms", self.snapshot_ms),
        ] {
            if value == 0 {
                return Err(Error::Config(format!("limits.{name} must be at least 1")));
            }
        }
        if self.head_bytes < LEAST_HEAD {
            return Err(Error::Config(format!("limits.head_bytes must be at least {LEAST_HEAD}")));
        }
        Ok(())
    }
}
