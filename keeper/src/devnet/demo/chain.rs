//! What both chains say happened: every event of escrow, ledger, disputes, keepers and inbox, and the balances they add up to.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEventInterface;
use quittance_bindings::escrow::InferenceEscrow::{self, InferenceEscrowEvents as Escrow};
use quittance_bindings::game::DisputeGame::DisputeGameEvents as Game;
use quittance_bindings::inbox::SettlementInbox::SettlementInboxEvents as Inbox;
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryEvents as Keepers;
use quittance_bindings::ledger::SettlementLedger::{self, SettlementLedgerEvents as Ledger};

use crate::cli::network::Network;
use crate::error::{Error, Result};

/// An event and the transaction that emitted it.
#[derive(Clone, Debug)]
pub struct Seen<E> {
    pub event: E,
    pub tx: B256,
}

/// A capture of one order.
#[derive(Clone, Debug)]
pub struct Capture {
    pub payer: Address,
    pub token: Address,
    /// From hold, lock and free balance together.
    pub amount: u128,
    /// Zero: settled verified, by anyone.
    pub keeper_id: B256,
    pub tx: B256,
}

/// Everything that both chains emitted so far.
#[derive(Debug, Default)]
pub struct Observed {
    pub escrow: Vec<Seen<Escrow>>,
    /// By order id.
    pub captures: BTreeMap<B256, Vec<Capture>>,
    /// By order id: amount, payer and transaction.
    pub reclaims: BTreeMap<B256, (u128, Address, B256)>,
    pub batches: Vec<Seen<SettlementLedger::BatchSettled>>,
    /// Rows that the ledger skipped.
    pub skipped: usize,
    /// By settlement id.
    pub verified: BTreeMap<B256, Seen<SettlementLedger::Verified>>,
    /// By batch id.
    pub finalized: BTreeMap<u64, B256>,
    /// Settlement ids whose answer was delivered.
    pub delivered: BTreeMap<B256, B256>,
    /// Of the dispute game.
    pub game: Vec<Game>,
    /// Of the keeper registry.
    pub keepers: Vec<Keepers>,
    /// Settlement ids recorded on OpenGradient, with the transaction.
    pub recorded: BTreeMap<B256, B256>,
}

/// Balances of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub deposited: u128,
    pub withdrawn: u128,
    pub free: u128,
    pub held: u128,
    pub locked: u128,
    pub captured: u128,
}

impl Sums {
    /// Σ deposits − Σ withdrawals = Σ free + Σ held + Σ locked + captured and not yet paid or returned.
    pub fn add_up(&self) -> bool {
        let inside = [self.free, self.held, self.locked, self.captured]
            .iter()
            .try_fold(0_u128, |sum, part| sum.checked_add(*part));
        inside.is_some() && self.deposited.checked_sub(self.withdrawn) == inside
    }
}

/// Accounts of a token and lanes, replayed from events.
#[derive(Debug, Default)]
pub struct Accounts {
    /// (owner, token) → (free, held).
    pub accounts: BTreeMap<(Address, Address), (i128, i128)>,
    /// (payer, token, keeper) → locked.
    pub lanes: BTreeMap<(Address, Address, B256), i128>,
    /// token → (deposited, withdrawn).
    pub flows: BTreeMap<Address, (u128, u128)>,
}

/// Reads both chains from the deployment on.
///
/// # Errors
/// `rpc_failed`; `chain_contradiction` when sequence numbers have a gap.
pub async fn observe(network: &Network, base: &DynProvider, og: &DynProvider) -> Result<Observed> {
    let mut seen = Observed::default();
    let start = network.base.start_block;
    let logs = logs(base, network.base.chain_id, network.base.escrow, start).await?;
    for (log, event) in decode::<Escrow>(network.base.chain_id, &logs)? {
        seen.escrow_event(log, event);
    }
    let ledger = self::logs(base, network.base.chain_id, network.base.ledger, start).await?;
    for (log, event) in decode::<Ledger>(network.base.chain_id, &ledger)? {
        seen.ledger_event(log, event);
    }
    let game = self::logs(base, network.base.chain_id, network.base.dispute_game, start).await?;
    seen.game = decode::<Game>(network.base.chain_id, &game)?.into_iter().map(|(_, event)| event).collect();
    let keepers = self::logs(base, network.base.chain_id, network.base.keeper_registry, start).await?;
    seen.keepers = decode::<Keepers>(network.base.chain_id, &keepers)?.into_iter().map(|(_, event)| event).collect();
    let inbox = self::logs(og, network.opengradient.chain_id, network.opengradient.inbox, 0).await?;
    for (log, event) in decode::<Inbox>(network.opengradient.chain_id, &inbox)? {
        if let Inbox::InferenceRecorded(event) = event {
            seen.recorded.insert(event.settlementId, tx(log));
        }
    }
    Ok(seen)
}

async fn logs(provider: &DynProvider, chain_id: u64, address: Address, from: u64) -> Result<Vec<Log>> {
    provider
        .get_logs(&Filter::new().address(address).from_block(from))
        .await
        .map_err(|error| Error::Rpc { chain_id, message: error.to_string() })
}

fn decode<E: SolEventInterface>(chain_id: u64, logs: &[Log]) -> Result<Vec<(&Log, E)>> {
    logs.iter()
        .map(|log| {
            let event = E::decode_log(&log.inner)
                .map_err(|error| Error::Chain { chain_id, message: format!("an event nobody knows: {error}") })?;
            Ok((log, event.data))
        })
        .collect()
}

fn tx(log: &Log) -> B256 {
    log.transaction_hash.unwrap_or_default()
}

impl Observed {
    fn escrow_event(&mut self, log: &Log, event: Escrow) {
        match &event {
            Escrow::OrderCaptured(capture) => {
                let sources = &capture.sources;
                self.captures.entry(capture.orderId).or_default().push(Capture {
                    payer: capture.payer,
                    token: capture.token,
                    amount: sources.hold + sources.lock + sources.free,
                    keeper_id: capture.keeperId,
                    tx: tx(log),
                });
            }
            Escrow::OrderReclaimed(reclaim) => {
                self.reclaims.insert(reclaim.orderId, (reclaim.amount, reclaim.payer, tx(log)));
            }
            _ => {}
        }
        self.escrow.push(Seen { event, tx: tx(log) });
    }

    fn ledger_event(&mut self, log: &Log, event: Ledger) {
        match event {
            Ledger::BatchSettled(event) => self.batches.push(Seen { event, tx: tx(log) }),
            Ledger::RowSkipped(_) => self.skipped += 1,
            Ledger::Verified(event) => {
                self.verified.insert(event.settlementId, Seen { event, tx: tx(log) });
            }
            Ledger::Finalized(event) => {
                self.finalized.insert(event.batchId, tx(log));
            }
            Ledger::Delivered(event) => {
                self.delivered.insert(event.settlementId, tx(log));
            }
            _ => {}
        }
    }

    /// Captures of `keeper` and of verified settlements, by order id.
    pub fn captured_by(&self, keeper: B256) -> impl Iterator<Item = (B256, &Capture)> {
        let all = self.captures.iter().flat_map(|(id, captures)| captures.iter().map(|capture| (*id, capture)));
        all.filter(move |(_, capture)| capture.keeper_id == keeper || capture.keeper_id.is_zero())
    }

    /// Replays the escrow's events into balances.
    pub fn replay(&self) -> Accounts {
        let mut all = Accounts::default();
        for seen in &self.escrow {
            all.apply(&seen.event);
        }
        all
    }
}

fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}

impl Accounts {
    fn free(&mut self, owner: Address, token: Address, change: i128) {
        self.accounts.entry((owner, token)).or_default().0 += change;
    }

    fn held(&mut self, owner: Address, token: Address, change: i128) {
        self.accounts.entry((owner, token)).or_default().1 += change;
    }

    fn lane(&mut self, payer: Address, token: Address, keeper: B256, change: i128) {
        *self.lanes.entry((payer, token, keeper)).or_default() += change;
    }

    fn apply(&mut self, event: &Escrow) {
        match event {
            Escrow::Deposited(e) => {
                self.free(e.beneficiary, e.token, signed(e.amount));
                self.flows.entry(e.token).or_default().0 += e.amount;
            }
            Escrow::Withdrawn(e) => {
                self.free(e.owner, e.token, -signed(e.amount));
                self.flows.entry(e.token).or_default().1 += e.amount;
            }
            Escrow::Locked(e) => {
                self.free(e.payer, e.token, -signed(e.added));
                self.lane(e.payer, e.token, e.keeperId, signed(e.added));
            }
            Escrow::Unlocked(e) => {
                self.lane(e.payer, e.token, e.keeperId, -signed(e.amount));
                self.free(e.payer, e.token, signed(e.amount));
            }
            Escrow::OrderOpened(e) => {
                self.free(e.payer, e.order.token, -signed(e.order.maxAmount));
                self.held(e.payer, e.order.token, signed(e.order.maxAmount));
            }
            Escrow::OrderCaptured(e) => {
                self.held(e.payer, e.token, -signed(e.sources.hold) - signed(e.released));
                self.free(e.payer, e.token, signed(e.released) - signed(e.sources.free));
                self.lane(e.payer, e.token, e.keeperId, -signed(e.sources.lock));
            }
            Escrow::OrderReopened(e) => self.held(e.payer, e.token, signed(e.amount)),
            Escrow::OrderReclaimed(e) => {
                self.held(e.payer, e.token, -signed(e.amount));
                self.free(e.payer, e.token, signed(e.amount));
            }
            Escrow::Credited(e) => self.free(e.account, e.token, signed(e.amount)),
            _ => {}
        }
    }
}

/// Sums of every token, each part read from the escrow's views for every account that ever had an event.
///
/// # Errors
/// `rpc_failed`; `chain_contradiction` when a view differs from what the events add up to.
pub async fn sums(network: &Network, base: &DynProvider, accounts: &Accounts) -> Result<BTreeMap<Address, Sums>> {
    use crate::cli::send::read;
    let escrow = network.base.escrow;
    let chain_id = network.base.chain_id;
    let rpc = |failure: crate::cli::failure::Failure| Error::Rpc { chain_id, message: failure.to_string() };
    let differs = |what: String| Error::Chain { chain_id, message: format!("view and events differ: {what}") };
    let mut sums: BTreeMap<Address, Sums> = BTreeMap::new();
    for (token, (deposited, withdrawn)) in &accounts.flows {
        let captured = read(base, escrow, &InferenceEscrow::capturedCall { token: *token }).await.map_err(rpc)?;
        let entry = Sums { deposited: *deposited, withdrawn: *withdrawn, captured, ..Sums::default() };
        sums.insert(*token, entry);
    }
    for ((owner, token), (free, held)) in &accounts.accounts {
        let call = InferenceEscrow::accountCall { owner: *owner, token: *token };
        let view = read(base, escrow, &call).await.map_err(rpc)?;
        if (signed(view.free), signed(view.held)) != (*free, *held) {
            return Err(differs(format!("account {owner} {token}")));
        }
        let entry = sums.entry(*token).or_default();
        entry.free += view.free;
        entry.held += view.held;
    }
    for ((payer, token, keeper), locked) in &accounts.lanes {
        let call = InferenceEscrow::lockOfCall { payer: *payer, token: *token, keeperId: *keeper };
        let view = read(base, escrow, &call).await.map_err(rpc)?;
        if signed(view.amount) != *locked {
            return Err(differs(format!("lock of {payer} {token}")));
        }
        sums.entry(*token).or_default().locked += view.amount;
    }
    Ok(sums)
}
