//! The demo's disputes: a row of our keeper is doubted and proven; a row of a rogue keeper is challenged by ours, stays unproven,
//! and its money goes back.

use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::{SolCall, SolEvent, SolEventInterface};
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowEvents as Escrow;
use quittance_bindings::game::DisputeGame::{Answered, Challenged, DisputeGameEvents as Game, Unproven};
use quittance_bindings::keepers::KeeperRegistry::KeeperRegistryEvents as Keepers;
use quittance_bindings::typed::Game as GameCalls;
use quittance_bindings::{InferenceEscrow, KeeperRegistry, SettlementLedger};
use serde_json::Value;

use super::chain::Observed;
use super::stage::{Stage, failed};
use super::steps::head_time;
use super::story::Doubt;
use crate::cli::send::read;
use crate::devnet::deploy::fund;
use crate::devnet::keys::Key;
use crate::error::{Error, Result};

const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(300);

/// Every event of one kind that a contract emitted.
async fn events<E: SolEvent>(stage: &Stage, contract: Address) -> Result<Vec<E>> {
    let base = &stage.devnet.chains.base;
    let rpc = |message: String| Error::Rpc { chain_id: base.chain_id, message };
    let start = stage.devnet.deployment.network.base.start_block;
    let filter = Filter::new().address(contract).event_signature(E::SIGNATURE_HASH).from_block(start);
    let logs = base.provider().get_logs(&filter).await.map_err(|error| rpc(error.to_string()))?;
    let decode = |log: &alloy::rpc::types::Log| E::decode_log(&log.inner).map(|event| event.data);
    logs.iter().map(decode).collect::<std::result::Result<_, _>>().map_err(|error| rpc(error.to_string()))
}

/// Waits for events of the dispute game until `found` makes something of them.
async fn wait<E: SolEvent, T>(stage: &Stage, what: &str, found: impl Fn(&[E]) -> Option<T>) -> Result<T> {
    let game = stage.devnet.deployment.network.base.dispute_game;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found(&events::<E>(stage, game).await?) {
            return Ok(found);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Io(std::io::Error::other(format!("waited in vain: {what}"))));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A stranger challenges the first row of our keeper's newest batch.
///
/// # Errors
/// `rpc_failed`; `io_failed` when there is no batch or the program cannot challenge it.
pub async fn doubt(stage: &mut Stage) -> Result<()> {
    let stranger = Key::of("doubter")?;
    fund(&stage.devnet.chains, stranger.address()).await?;
    let network = stage.devnet.deployment.network.clone();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let batch_id = loop {
        let batches = events::<SettlementLedger::BatchSettled>(stage, network.base.ledger).await?;
        let ours = batches.iter().rev().find(|batch| batch.keeperId == network.keeper.id);
        if let Some(batch) = ours {
            break batch.batchId;
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Io(std::io::Error::other("the keeper settled no batch")));
        }
        tokio::time::sleep(POLL).await;
    };
    stage.actor().do_run(&stranger, &["challenge", &batch_id.to_string(), "--row", "0"]).await?;
    let keeper = stage.devnet.keys.keeper_base.address();
    stage.story.doubt = Doubt { challenger: stranger.address(), batch_id, row: 0, keeper };
    Ok(())
}

/// Waits until our keeper has answered the stranger.
///
/// # Errors
/// `io_failed` when it has not in time.
pub async fn wait_answered(stage: &Stage) -> Result<()> {
    let Doubt { batch_id, row, .. } = stage.story.doubt;
    let fits = |events: &[Answered]| events.iter().any(|e| (e.batchId, e.row) == (batch_id, row)).then_some(());
    wait(stage, "for the keeper's answer to a challenge", fits).await
}

/// Waits until our keeper has challenged the row that nobody answered.
///
/// # Errors
/// `io_failed` when it has not in time.
pub async fn wait_challenged(stage: &Stage) -> Result<()> {
    let rogue = &stage.story.rogue;
    let fits =
        |events: &[Challenged]| events.iter().any(|e| (e.batchId, e.row) == (rogue.batch_id, rogue.row)).then_some(());
    wait(stage, "for the keeper to challenge the unproven row", fits).await
}

/// The operator of the node behind the honest rows; it stands by until this value is dropped.
#[derive(Debug)]
pub struct Operator(tokio::task::JoinHandle<()>);

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets the operator answer every challenge against an honest row, with its receipt and an RPC URL alone: chance decides which of
/// them our keeper challenges beside the other one.
///
/// # Errors
/// `io_failed`.
pub fn defend(stage: &Stage) -> Result<Operator> {
    let key = Key::of("operator-1")?;
    let rogue = &stage.story.rogue;
    let mut rows = Vec::with_capacity(rogue.honest.len());
    for file in &rogue.honest {
        let path = stage.devnet.dir.join(format!("honest-{}.json", row_of(file)));
        std::fs::write(&path, file.to_string())?;
        rows.push((row_of(file), path.display().to_string()));
    }
    let (actor, provider) = (stage.actor(), stage.devnet.chains.base.provider().clone());
    let (game, batch) = (stage.devnet.deployment.network.base.dispute_game, rogue.batch_id);
    Ok(Operator(tokio::spawn(async move {
        let filter = Filter::new().address(game).topic1(B256::from(U256::from(batch))).from_block(0);
        loop {
            // What fails now is tried again; the checks tell what came of it.
            let logs = provider.get_logs(&filter).await.unwrap_or_default();
            let events: Vec<Game> =
                logs.iter().filter_map(|log| Game::decode_log(&log.inner).ok().map(|event| event.data)).collect();
            for (row, path) in &rows {
                let challenged = events.iter().any(|event| matches!(event, Game::Challenged(e) if e.row == *row));
                let answered = events.iter().any(|event| matches!(event, Game::Answered(e) if e.row == *row));
                if challenged && !answered {
                    let args = ["answer", &batch.to_string(), &row.to_string(), "--receipt", path];
                    drop(actor.do_run(&key, &args).await);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    })))
}

/// Row of an honest receipt.
fn row_of(file: &Value) -> u32 {
    let row = file.pointer("/base/batch/leaf/row").and_then(Value::as_u64);
    row.and_then(|row| u32::try_from(row).ok()).unwrap_or(u32::MAX)
}

/// Waits until our keeper has voided the unproven row.
///
/// # Errors
/// `io_failed` when it has not in time.
pub async fn wait_unproven(stage: &Stage) -> Result<()> {
    let rogue = &stage.story.rogue;
    let fits =
        |events: &[Unproven]| events.iter().any(|e| (e.batchId, e.row) == (rogue.batch_id, rogue.row)).then_some(());
    wait(stage, "for the keeper to void the unproven row", fits).await
}

/// A stranger returns the money of the void row to its payer and pays the other rows of its batch.
///
/// # Errors
/// `io_failed` with what the program said.
pub async fn end(stage: &Stage) -> Result<()> {
    let rogue = &stage.story.rogue;
    let (escrow, base) = (stage.devnet.deployment.network.base.escrow, stage.devnet.chains.base.provider());
    let state = read(base, escrow, &InferenceEscrow::orderStateCall { id: rogue.order_id }).await.map_err(failed)?;
    while head_time(stage).await? <= state.captureDeadline.to::<u64>() {
        tokio::time::sleep(POLL).await;
    }
    let (actor, stranger) = (stage.actor(), Key::of("stranger")?);
    actor.do_run(&stranger, &["order", "reclaim", &rogue.order_id.to_string()]).await?;
    actor.do_run(&stranger, &["finalize", &rogue.batch_id.to_string()]).await
}

/// Why a check fails, or what it found.
type Found = std::result::Result<String, String>;

fn must(holds: bool, why: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

async fn ask<C: SolCall>(stage: &Stage, to: Address, call: &C) -> std::result::Result<C::Return, String> {
    read(stage.devnet.chains.base.provider(), to, call).await.map_err(|failure| failure.to_string())
}

/// The challenge against a row, and how it ended.
fn challenge_of(seen: &Observed, batch: u64, row: u32) -> std::result::Result<(&Challenged, &Game), String> {
    let mut found = None;
    let mut end = None;
    for event in &seen.game {
        let of = match event {
            Game::Challenged(e) if (e.batchId, e.row) == (batch, row) => {
                found = Some(e);
                continue;
            }
            Game::Answered(e) => (e.batchId, e.row),
            Game::Unproven(e) => (e.batchId, e.row),
            Game::Duplicate(e) => (e.batchId, e.row),
            _ => continue,
        };
        if of == (batch, row) {
            must(end.is_none(), || format!("row {row} of batch {batch} ended twice"))?;
            end = Some(event);
        }
    }
    found.zip(end).ok_or_else(|| format!("row {row} of batch {batch} was not challenged, or that has not ended"))
}

/// `unproven_row_refunded`.
///
/// # Errors
/// Why it does not hold.
pub async fn refunded(stage: &Stage, seen: &Observed) -> Found {
    let (rogue, network) = (&stage.story.rogue, &stage.devnet.deployment.network);
    let ours = stage.devnet.keys.keeper_base.address();
    let batch = seen.batches.iter().find(|seen| seen.event.batchId == rogue.batch_id).ok_or("no such batch")?;
    must(batch.event.keeperId == rogue.keeper_id && rogue.keeper_id != network.keeper.id, || {
        "it is no other keeper's batch".to_owned()
    })?;
    let captures = seen.captures.get(&rogue.order_id).map_or(&[][..], Vec::as_slice);
    let [capture] = captures else { return Err(format!("the order was captured {} times", captures.len())) };
    must(capture.tx == batch.tx && capture.amount.to_string() == rogue.amount, || "another amount".to_owned())?;
    let (challenged, end) = challenge_of(seen, rogue.batch_id, rogue.row)?;
    let Game::Unproven(unproven) = end else { return Err(format!("it ended otherwise: {end:?}")) };
    must(challenged.challenger == ours && unproven.challenger == ours, || "not our keeper challenged it".to_owned())?;
    must(unproven.bond == challenged.bond, || "not the whole bond came back".to_owned())?;

    let mut bond = 0_u128;
    let mut slashes = Vec::new();
    for event in &seen.keepers {
        match event {
            Keepers::BondAdded(e) if e.keeperId == rogue.keeper_id => bond += e.amount,
            Keepers::Slashed(e) => slashes.push(e),
            _ => {}
        }
    }
    let [slash] = slashes[..] else { return Err(format!("{} slashes", slashes.len())) };
    must(slash.keeperId == rogue.keeper_id && slash.amount > 0 && slash.amount == unproven.slashed, || {
        format!("another slash: {slash:?}")
    })?;
    let call = KeeperRegistry::bondOfCall { keeperId: rogue.keeper_id };
    let left = ask(stage, network.base.keeper_registry, &call).await?;
    must(left.amount == bond - slash.amount && left.suspended, || format!("its bond is {}", left.amount))?;

    let reopened = seen.escrow.iter().find_map(|seen| match &seen.event {
        Escrow::OrderReopened(e) if e.orderId == rogue.order_id => Some((e.amount, e.payer)),
        _ => None,
    });
    must(reopened == Some((capture.amount, rogue.payer)), || format!("held again: {reopened:?}"))?;
    let back = seen.reclaims.get(&rogue.order_id).map(|(amount, payer, _)| (*amount, *payer));
    must(back == Some((capture.amount, rogue.payer)), || format!("came back: {back:?}"))?;
    let deposited: u128 = seen
        .escrow
        .iter()
        .map(|seen| match &seen.event {
            Escrow::Deposited(e) if e.beneficiary == rogue.payer && e.token == rogue.token => e.amount,
            _ => 0,
        })
        .sum();
    let account = InferenceEscrow::accountCall { owner: rogue.payer, token: rogue.token };
    let account = ask(stage, network.base.escrow, &account).await?;
    let lock = InferenceEscrow::lockOfCall { payer: rogue.payer, token: rogue.token, keeperId: rogue.keeper_id };
    let lock = ask(stage, network.base.escrow, &lock).await?;
    must(account.free + account.held + lock.amount == deposited, || "the payer has not all it deposited".to_owned())?;
    let units = capture.amount;
    Ok(format!("{units} units back with {}; its keeper lost {} units of its bond", rogue.payer, slash.amount))
}

/// `honest_rows_paid`.
///
/// # Errors
/// Why it does not hold.
pub async fn paid(stage: &Stage, seen: &Observed) -> Found {
    let (rogue, network) = (&stage.story.rogue, &stage.devnet.deployment.network);
    let mut total = 0_u128;
    let mut proven = 0;
    for file in &rogue.honest {
        let row = row_of(file);
        let file: crate::receipt::ReceiptFile =
            serde_json::from_value(file.clone()).map_err(|error| error.to_string())?;
        let captures = seen.captures.get(&file.receipt.payment_id).map_or(&[][..], Vec::as_slice);
        let [capture] = captures else { return Err(format!("row {row} was captured {} times", captures.len())) };
        must(capture.amount.to_string() == file.receipt.amount, || format!("row {row}: another amount"))?;
        total += capture.amount;
        if seen.game.iter().any(|e| matches!(e, Game::Challenged(e) if (e.batchId, e.row) == (rogue.batch_id, row))) {
            let (_, end) = challenge_of(seen, rogue.batch_id, row)?;
            must(matches!(end, Game::Answered(_)), || format!("row {row} was challenged and not proven"))?;
            proven += 1;
        }
    }
    must(rogue.honest.len() == 2, || "not two honest rows".to_owned())?;
    let call = SettlementLedger::batchStatusCall { batchId: rogue.batch_id };
    must(ask(stage, network.base.ledger, &call).await? == 2, || "the batch is not final".to_owned())?;
    let reference = B256::from(U256::from(rogue.batch_id));
    let credited: u128 = seen
        .escrow
        .iter()
        .map(|seen| match &seen.event {
            Escrow::Credited(e) if e.r#ref == reference => e.amount,
            _ => 0,
        })
        .sum();
    must(credited == total, || format!("{credited} units were paid for {total}"))?;
    Ok(format!("{total} units paid for {} rows of the same batch, {proven} of them challenged and proven", 2))
}

/// `challenge_answered`.
///
/// # Errors
/// Why it does not hold.
pub async fn answered(stage: &Stage, seen: &Observed) -> Found {
    let (doubt, network) = (&stage.story.doubt, &stage.devnet.deployment.network);
    let batch = seen.batches.iter().find(|seen| seen.event.batchId == doubt.batch_id).ok_or("no such batch")?;
    must(batch.event.keeperId == network.keeper.id, || "it is not our batch".to_owned())?;
    let (challenged, end) = challenge_of(seen, doubt.batch_id, doubt.row)?;
    must(challenged.challenger == doubt.challenger && doubt.challenger != doubt.keeper, || {
        "somebody else challenged it".to_owned()
    })?;
    let Game::Answered(answered) = end else { return Err(format!("it ended otherwise: {end:?}")) };
    must(answered.answerer == doubt.keeper && answered.bond == challenged.bond, || {
        "the bond is not the keeper's".to_owned()
    })?;
    let due: U256 = seen
        .game
        .iter()
        .map(|event| match event {
            Game::Answered(e) if e.answerer == doubt.keeper => e.bond,
            Game::Unproven(e) if e.challenger == doubt.keeper => e.bond,
            _ => U256::ZERO,
        })
        .sum();
    let call = GameCalls::withdrawableCall { owner: doubt.keeper };
    let has = ask(stage, network.base.dispute_game, &call).await?;
    must(has == due && due >= answered.bond, || format!("the keeper can take {has} wei, won {due}"))?;
    Ok(format!("row {} of batch {} proven; {} wei of bond to the keeper", doubt.row, doubt.batch_id, answered.bond))
}
