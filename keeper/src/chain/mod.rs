//! The two chains: RPC, watching, and what each side's contracts are.

pub mod batch;
pub mod endpoints;
pub mod fold;
pub mod logs;
pub mod rpc;
pub mod watch;

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use alloy::primitives::Address;
use tokio::sync::Notify;

use self::logs::Contract;
use self::rpc::Rpc;
use crate::config::KeySource;
use crate::ctx::Ctx;

/// One of the two chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Base,
    OpenGradient,
}

/// What the shared state says of one chain.
#[derive(Debug)]
pub struct View<'a> {
    pub chain_id: u64,
    pub rpc: &'a Rpc,
    /// Time between looks.
    pub tick: Duration,
    /// Events are read from here on.
    pub start_block: u64,
    /// Contracts whose events are followed.
    pub contracts: Vec<(Address, Contract)>,
    /// Key that pays gas.
    pub key: &'a KeySource,
    /// Transactions in flight at most.
    pub in_flight: usize,
    /// One block is final.
    pub instant: bool,
    /// Wakes the transaction manager.
    pub txs: &'a Notify,
    /// Name in the database of what this key sends; empty for the keeper's own.
    pub lane: &'a str,
    /// Events of this chain are followed: its finality is known from them.
    pub followed: bool,
    /// Time between looks while something is on its way.
    pub busy: Duration,
}

impl Side {
    /// Short name for logs, metrics and leases.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::OpenGradient => "opengradient",
        }
    }

    /// Name of the loop that follows this chain.
    pub const fn watch_loop(self) -> &'static str {
        match self {
            Self::Base => "watch_base",
            Self::OpenGradient => "watch_opengradient",
        }
    }

    /// Name of the loop that sends transactions to this chain.
    pub const fn txs_loop(self) -> &'static str {
        match self {
            Self::Base => "txs_base",
            Self::OpenGradient => "txs_opengradient",
        }
    }

    /// This side's settings.
    pub fn view(self, ctx: &Ctx) -> View<'_> {
        match self {
            Self::Base => {
                let base = &ctx.config.base;
                View {
                    chain_id: base.chain_id,
                    rpc: &ctx.base,
                    tick: Duration::from_millis(base.tick_ms.max(10)),
                    start_block: base.start_block,
                    contracts: vec![
                        (base.escrow, Contract::Escrow),
                        (base.ledger, Contract::Ledger),
                        (base.dispute_game, Contract::Game),
                        (base.node_registry, Contract::Nodes),
                        (base.keeper_registry, Contract::Keepers),
                    ],
                    key: &base.key,
                    in_flight: usize::try_from(base.in_flight).unwrap_or(1),
                    instant: false,
                    txs: &ctx.signals.base_txs,
                    lane: "",
                    followed: true,
                    busy: Duration::from_millis(base.tick_ms.max(10)),
                }
            }
            Self::OpenGradient => {
                let og = &ctx.config.opengradient;
                View {
                    chain_id: og.chain_id,
                    rpc: &ctx.og,
                    tick: Duration::from_millis(og.tick_ms.max(10)),
                    start_block: og.start_block,
                    contracts: vec![(og.inbox, Contract::Inbox)],
                    key: &og.key,
                    in_flight: usize::try_from(og.in_flight).unwrap_or(1),
                    instant: true,
                    txs: &ctx.signals.og_txs,
                    lane: "",
                    followed: true,
                    busy: Duration::from_millis(og.tick_ms.max(10)),
                }
            }
        }
    }
}
