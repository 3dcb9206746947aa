//! Lanes: keys that send on their own. The keeper has one of each chain for its own work, and any number for x402 payments.

use std::time::Duration;

use crate::chain::{Side, View};
use crate::ctx::Ctx;

/// Time between looks while payments are on their way: their callers wait.
const BUSY: Duration = Duration::from_millis(100);

/// A key on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The keeper's own of a chain.
    Own(Side),
    /// One of an x402 network; both are places in `ctx.x402`.
    X402 { network: usize, key: usize },
}

impl Lane {
    /// Every lane of a keeper.
    pub fn all(ctx: &Ctx) -> Vec<Self> {
        let own = [Self::Own(Side::Base), Self::Own(Side::OpenGradient)];
        let networks = ctx.x402.networks.iter().enumerate();
        let x402 = networks
            .flat_map(|(network, settings)| (0..settings.lanes.len()).map(move |key| Self::X402 { network, key }));
        own.into_iter().chain(x402).collect()
    }

    /// Short name for logs and metrics.
    pub fn as_str(self, ctx: &Ctx) -> &'static str {
        match self {
            Self::Own(side) => side.as_str(),
            Self::X402 { .. } => self.beat(ctx).trim_start_matches("txs_"),
        }
    }

    /// Name of the loop that sends.
    pub fn beat(self, ctx: &Ctx) -> &'static str {
        match self {
            Self::Own(side) => side.txs_loop(),
            Self::X402 { network, key } => ctx.x402.networks[network].lanes[key].beat,
        }
    }

    /// This lane's settings.
    pub fn view(self, ctx: &Ctx) -> View<'_> {
        let (network, key) = match self {
            Self::Own(side) => return side.view(ctx),
            Self::X402 { network, key } => (network, key),
        };
        let network = &ctx.x402.networks[network];
        let lane = &network.lanes[key];
        let tick = Duration::from_millis(network.config.tick_ms.max(10));
        View {
            chain_id: network.config.chain_id,
            rpc: &network.rpc,
            tick,
            start_block: 0,
            contracts: Vec::new(),
            key: &lane.key,
            in_flight: usize::try_from(network.config.in_flight).unwrap_or(1),
            instant: network.config.instant,
            txs: &lane.txs,
            lane: &lane.name,
            followed: network.followed,
            busy: BUSY.min(tick),
        }
    }

    /// Whether this lane sees to what a key of `lane` left that nobody has any more: the keeper's own to its own, and the first of
    /// a network to all that are not in the configuration.
    pub fn inherits(self, ctx: &Ctx, lane: &str) -> bool {
        match self {
            Self::Own(_) => lane.is_empty(),
            Self::X402 { network, key } => {
                key == 0 && !lane.is_empty() && ctx.x402.networks[network].lanes.iter().all(|known| known.name != lane)
            }
        }
    }

    /// Tells whoever waits for the results of what this lane sends.
    pub fn tell(self, ctx: &Ctx) {
        if let Self::X402 { network, .. } = self {
            ctx.x402.networks[network].wake.notify_one();
        }
    }
}
