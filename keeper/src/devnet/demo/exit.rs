//! The demo's last step: a payer gets its money out while every keeper is stopped and the guardian has paused.

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::primitives::{B256, U256};
use alloy::providers::Provider;
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowEvents as Escrow;
use quittance_bindings::typed::{self, Lock, Order};
use quittance_bindings::{DevUSDC, InferenceEscrow};
use serde_json::Value;

use super::chain::Observed;
use super::stage::Stage;
use super::steps::head_time;
use super::story::Exit;
use super::wallets::{MONEY, deposit_for};
use crate::cli::order_file::u40;
use crate::cli::send::read;
use crate::crypto::RsaKey;
use crate::devnet::deploy::fund;
use crate::devnet::keeper::KeeperProcess;
use crate::devnet::keys::Key;
use crate::devnet::sender::Sender;
use crate::error::{Error, Result};

/// Seconds for which order and lock run: the least that the escrow allows, and time for a busy machine to send them.
const COMMITTED_FOR: u64 = 22;
/// Seconds for which the guardian pauses: under the devnet's longest pause, over what a busy machine needs to leave.
const PAUSED_FOR: u64 = 240;

/// Deposits, opens an order that nobody will answer, and locks for the keeper.
///
/// # Errors
/// `rpc_failed`.
pub async fn commit(stage: &mut Stage) -> Result<()> {
    let key = Key::of("leaving")?;
    fund(&stage.devnet.chains, key.address()).await?;
    let base = &stage.devnet.chains.base;
    let network = &stage.devnet.deployment.network;
    let (token, _, lock, max) = MONEY[0];
    let deposit = 2 * lock;
    let gone = tokio::task::spawn_blocking(RsaKey::generate).await.map_err(std::io::Error::other)??;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await?;
    deposit_for(&mut sender, network.base.escrow, token, deposit, key.address()).await?;
    let now = head_time(stage).await?;
    let end = now + COMMITTED_FOR;
    let until = u40(end).unwrap_or_default();
    let order = Order {
        payer: key.address(),
        token,
        maxAmount: max,
        requestCommit: B256::ZERO,
        nodeScope: gone.id(),
        keeperId: network.keeper.id,
        validAfter: u40(now).unwrap_or_default(),
        validBefore: until,
        captureDeadline: until,
        nonce: U256::ZERO,
    };
    let open = InferenceEscrow::openOrderCall { order: order.clone().into(), requestBody: Default::default() };
    sender.call(network.base.escrow, &open).await?;
    let lock_ =
        Lock { payer: key.address(), token, keeperId: network.keeper.id, amount: lock, until, nonce: U256::ZERO };
    let call = InferenceEscrow::lockCall { lock_: lock_.into(), signature: Default::default() };
    sender.call(network.base.escrow, &call).await?;
    sender.settle().await?;
    let order_id = typed::order_id(&order, &typed::domain(network.base.chain_id, network.base.escrow));
    stage.story.exit = Exit {
        payer: key.address(),
        token,
        amount: deposit.to_string(),
        order_id,
        keeper: stage.devnet.keys.keeper_base.address(),
        until: end,
        ..Exit::default()
    };
    Ok(())
}

/// Stops the keeper, lets the guardian pause, takes the payer's money out with the program and an RPC URL alone, and puts everything back.
///
/// # Errors
/// `io_failed` with what the program said when it could not take the money out.
pub async fn leave(stage: &mut Stage) -> Result<()> {
    while head_time(stage).await? <= stage.story.exit.until {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stage.note_peak();
    stage.story.exit.stopped_pid = stage.keeper.pid();
    stage.keeper.kill()?;
    let until = head_time(stage).await? + PAUSED_FOR;
    stage.story.exit.paused = pause(stage, until).await?;

    let payer = Key::of("leaving")?;
    let refused = stage.actor().run(&payer, &["lock", "--token", "USDC", "--amount", "1", "--for", "1h"]).await?;
    let body: Value = serde_json::from_slice(&refused.stdout).unwrap_or_default();
    stage.story.exit.refused = body.get("code").and_then(Value::as_str).unwrap_or_default().to_owned();
    let order_id = stage.story.exit.order_id.to_string();
    let ways: [&[&str]; 3] = [
        &["order", "reclaim", &order_id],
        &["unlock", "--token", "USDC"],
        &["withdraw", "--token", "USDC", "--amount", "all"],
    ];
    for args in ways {
        stage.actor().do_run(&payer, args).await?;
    }
    // A time that has passed ends it.
    pause(stage, 1).await?;
    let devnet = &stage.devnet;
    stage.keeper = KeeperProcess::start(&stage.program, &devnet.dir, &devnet.config, &devnet.keys)?;
    stage.keeper.ready().await
}

/// The guardian's call; tells its transaction.
async fn pause(stage: &Stage, until: u64) -> Result<B256> {
    let base = &stage.devnet.chains.base;
    let guardian = stage.devnet.keys.guardian.clone();
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, guardian).await?;
    let until = u40(until).ok_or_else(|| Error::Config(format!("{until} is no time")))?;
    sender.call(stage.devnet.deployment.network.base.escrow, &InferenceEscrow::pauseCall { until }).await?;
    let receipts = sender.settle().await?;
    Ok(receipts.first().map(|receipt| receipt.transaction_hash).unwrap_or_default())
}

/// What came of it, from the chain.
///
/// # Errors
/// Why it does not hold.
pub async fn check(stage: &Stage, seen: &Observed) -> Result<String, String> {
    let story = &stage.story.exit;
    let must = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    must(story.stopped_pid != 0 && story.stopped_pid != stage.keeper.pid(), "the keeper was not stopped")?;
    must(story.refused == "intake_paused", &format!("a lock was answered {:?}", story.refused))?;
    let index = seen.escrow.iter().position(|seen| seen.tx == story.paused).ok_or("the guardian did not pause")?;
    let rest = seen.escrow.get(index..).unwrap_or_default();
    let Some(Escrow::Paused(paused)) = rest.first().map(|seen| &seen.event) else {
        return Err("that was no pause".to_owned());
    };
    // Nothing but the payer's own ways out until the pause ended.
    let inside: Vec<_> = rest.iter().skip(1).take_while(|seen| !matches!(seen.event, Escrow::Paused(_))).collect();
    let mut got: BTreeMap<&str, u128> = BTreeMap::new();
    for seen in &inside {
        match &seen.event {
            Escrow::OrderReclaimed(e) if e.orderId == story.order_id => {
                *got.entry("reclaimed").or_default() += e.amount
            }
            Escrow::Unlocked(e) if e.payer == story.payer => *got.entry("unlocked").or_default() += e.amount,
            Escrow::Withdrawn(e) if e.owner == story.payer && e.to == story.payer => {
                *got.entry("withdrawn").or_default() += e.amount;
            }
            other => return Err(format!("during the pause: {other:?}")),
        }
        let time = time_of(stage, seen.tx).await?;
        must(time < paused.until.to::<u64>(), "that was after the pause")?;
    }
    must(got.len() == 3, &format!("not reclaimed, unlocked and withdrawn: {got:?}"))?;
    let withdrawn = got.get("withdrawn").copied().unwrap_or_default();
    must(withdrawn.to_string() == story.amount, &format!("{withdrawn} of {} units came out", story.amount))?;
    let base = stage.devnet.chains.base.provider();
    let escrow = stage.devnet.deployment.network.base.escrow;
    let call = InferenceEscrow::accountCall { owner: story.payer, token: story.token };
    let left = read(base, escrow, &call).await.map_err(|failure| failure.to_string())?;
    must((left.free, left.held) == (0, 0), "something is left in the escrow")?;
    let call = DevUSDC::balanceOfCall { account: story.payer };
    let balance = read(base, story.token, &call).await.map_err(|failure| failure.to_string())?;
    must(balance == U256::from(withdrawn), "the payer does not have it")?;
    Ok(format!(
        "{withdrawn} units reclaimed, unlocked and withdrawn with an RPC URL alone; a new lock: {}",
        story.refused
    ))
}

async fn time_of(stage: &Stage, tx: B256) -> Result<u64, String> {
    let base = stage.devnet.chains.base.provider();
    let receipt = base.get_transaction_receipt(tx).await.map_err(|error| error.to_string())?;
    let hash = receipt.and_then(|receipt| receipt.block_hash).ok_or_else(|| format!("no receipt of {tx}"))?;
    let block = base.get_block_by_hash(hash).await.map_err(|error| error.to_string())?;
    Ok(block.ok_or_else(|| format!("no block {hash}"))?.header.timestamp)
}
