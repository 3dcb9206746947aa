//! The x402 facilitator: networks on which payments are verified and settled. Absent: the routes answer and support nothing.

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use super::{Base, KeySource};
use crate::error::{Error, Result};

/// The facilitator.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct X402 {
    /// Verify and settle only for callers with an API key of scope `settle`.
    pub key_required: bool,
    /// Milliseconds that `POST /settle` waits for the receipt before it answers `settlement_pending`. Clients give up after 30
    /// seconds (og-x402) or 90.
    pub settle_wait_ms: u64,
    /// Bytes of a request.
    pub max_body: usize,
    pub networks: Vec<Network>,
}

impl Default for X402 {
    fn default() -> Self {
        Self { key_required: false, settle_wait_ms: 25_000, max_body: 256 * 1024, networks: Vec::new() }
    }
}

/// One chain on which payments are settled.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub chain_id: u64,
    /// Endpoints; may be left out for Base's chain, whose own are taken.
    #[serde(default)]
    pub rpc: Vec<String>,
    /// The `X402Forwarder`: `upto` payments name it, and every settlement passes through it.
    pub forwarder: Address,
    /// Keys that the forwarder takes calls from. Each sends on its own; used for nothing else.
    pub keys: Vec<KeySource>,
    /// Milliseconds between looks at the chain while nothing is under way.
    #[serde(default = "one_second")]
    pub tick_ms: u64,
    /// Transactions in flight per key at most.
    #[serde(default = "two")]
    pub in_flight: u32,
    /// Payments in one transaction at most.
    #[serde(default = "hundred")]
    pub max_rows: u32,
    /// Blocks that the endpoints' `eth_getLogs` answers for at once.
    #[serde(default = "two_thousand")]
    pub log_range: u64,
    /// One block is final.
    #[serde(default)]
    pub instant: bool,
    /// Tokens that are taken; all when empty.
    #[serde(default)]
    pub assets: Vec<Address>,
    /// Factories that may deploy a payer's wallet (ERC-6492); none when empty.
    #[serde(default)]
    pub factories: Vec<Address>,
    /// Gas money for payers.
    #[serde(default)]
    pub sponsor: Sponsor,
    /// Signs claims and refunds of payment channels for servers that name it; whoever may call `/settle` may ask for it.
    #[serde(default)]
    pub receiver_authorizer: Option<KeySource>,
}

/// Gas money that is spent for payers: for permits that go along with payments (`eip2612GasSponsoring`), and for approvals
/// (`erc20ApprovalGasSponsoring`). All in wei, at most 9.2 × 10^18.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sponsor {
    /// Bring payers the gas money that their approval needs. Otherwise only those are sent that their payers can pay.
    pub approvals: bool,
    /// For one payer within an hour.
    pub payer_hour_wei: u64,
    /// For all within an hour.
    pub hour_wei: u64,
    /// For all within a day.
    pub day_wei: u64,
}

impl Default for Sponsor {
    fn default() -> Self {
        Self {
            approvals: false,
            payer_hour_wei: 1_000_000_000_000_000,
            hour_wei: 10_000_000_000_000_000,
            day_wei: 50_000_000_000_000_000,
        }
    }
}

impl X402 {
    /// # Errors
    /// `bad_configuration` naming the first rule that does not hold.
    pub fn check(&self, base: &Base) -> Result<()> {
        let rule = |holds: bool, text: String| if holds { Ok(()) } else { Err(Error::Config(text)) };
        rule(self.max_body > 0, "x402.max_body must be at least 1".to_owned())?;
        for (index, network) in self.networks.iter().enumerate() {
            let id = network.chain_id;
            let known = self.networks[..index].iter().any(|other| other.chain_id == id);
            rule(!known, format!("x402.networks: chain {id} is there twice"))?;
            rule(!network.keys.is_empty(), format!("x402.networks, chain {id}: keys needs at least one key"))?;
            rule(
                !network.rpc.is_empty() || id == base.chain_id,
                format!("x402.networks, chain {id}: rpc needs at least one URL"),
            )?;
            rule(network.in_flight > 0, format!("x402.networks, chain {id}: in_flight must be at least 1"))?;
            let rows = format!("x402.networks, chain {id}: max_rows must be from 1 to 100");
            rule((1..=100).contains(&network.max_rows), rows)?;
            let most = [network.sponsor.payer_hour_wei, network.sponsor.hour_wei, network.sponsor.day_wei];
            let text = format!("x402.networks, chain {id}: sponsor takes at most {} wei", i64::MAX);
            rule(most.iter().all(|wei| i64::try_from(*wei).is_ok()), text)?;
            rule(
                network.forwarder != Address::ZERO,
                format!("x402.networks, chain {id}: deploy the forwarder and name it"),
            )?;
        }
        Ok(())
    }
}

const fn one_second() -> u64 {
    1_000
}
const fn two() -> u32 {
    2
}
const fn two_thousand() -> u64 {
    2_000
}
const fn hundred() -> u32 {
    100
}
