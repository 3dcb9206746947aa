//! What must be true at the moment of the kill: a broadcast batch in no block, an acknowledged order that no node saw.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use quittance_bindings::ledger::SettlementLedger::settleBatchCall;
use quittance_bindings::typed::{Order, domain, order_id};
use serde_json::{Value, json};

use super::stage::Stage;
use super::story::Unmined;
use crate::error::{Error, Result};
use crate::store::{Store, orders};
use crate::types::OrderState;

const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until a broadcast batch with some of these orders is in the pool and in no block.
///
/// # Errors
/// `io_failed` when there is none in time.
pub async fn wait_for_unmined(stage: &Stage, answered: &[B256]) -> Result<()> {
    let wanted: BTreeSet<&B256> = answered.iter().collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if unmined(stage).await?.iter().flat_map(|tx| &tx.orders).any(|order| wanted.contains(order)) {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(missing("no broadcast batch is waiting in the pool"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Looks at pool and database after the process is gone and writes what it finds into the story.
///
/// # Errors
/// `io_failed` when a precondition does not hold.
pub async fn verify(stage: &mut Stage, waiting: &[B256]) -> Result<()> {
    let unmined = unmined(stage).await?;
    if unmined.iter().all(|tx| tx.orders.is_empty()) {
        return Err(missing("no broadcast batch was unmined at the kill"));
    }
    let store = Store::open(&stage.devnet.config.keeper.database).await?;
    let mut undispatched = Vec::new();
    for id in waiting {
        let row = orders::get(store.read(), *id).await?;
        let row = row.ok_or_else(|| missing(&format!("acknowledged order {id} is not in the database")))?;
        if row.state == OrderState::Open && row.attempts == 0 {
            undispatched.push(*id);
        }
    }
    store.close().await;
    if undispatched.is_empty() {
        return Err(missing("no acknowledged order was undispatched at the kill"));
    }
    stage.story.kill.unmined = unmined;
    stage.story.kill.undispatched = undispatched;
    Ok(())
}

/// Batches in the pool of Base.
async fn unmined(stage: &Stage) -> Result<Vec<Unmined>> {
    let pool = stage.devnet.chains.base.call("txpool_content", json!([])).await?;
    let network = &stage.devnet.deployment.network;
    let escrow = domain(network.base.chain_id, network.base.escrow);
    let mut found = Vec::new();
    for queue in ["pending", "queued"] {
        let by_account = pool.get(queue).and_then(Value::as_object);
        for tx in by_account
            .into_iter()
            .flat_map(|all| all.values())
            .filter_map(Value::as_object)
            .flat_map(|all| all.values())
        {
            let Some(seen) = PoolTx::read(tx) else { continue };
            let Some(batch) = super::steps::call_to::<settleBatchCall>(seen.to, network.base.ledger, &seen.input)
            else {
                continue;
            };
            let orders = batch.rows.iter().map(|row| {
                let order = Order {
                    payer: row.payer,
                    token: batch.token,
                    maxAmount: row.maxAmount,
                    requestCommit: row.requestCommit,
                    nodeScope: row.nodeScope,
                    keeperId: batch.keeperId,
                    validAfter: row.validAfter,
                    validBefore: row.validBefore,
                    captureDeadline: row.captureDeadline,
                    nonce: row.nonce,
                };
                order_id(&order, &escrow)
            });
            found.push(Unmined { hash: seen.hash, from: seen.from, nonce: seen.nonce, orders: orders.collect() });
        }
    }
    Ok(found)
}

struct PoolTx {
    hash: B256,
    from: Address,
    to: Option<Address>,
    nonce: u64,
    input: Bytes,
}

impl PoolTx {
    fn read(tx: &Value) -> Option<Self> {
        let text = |name: &str| tx.get(name).and_then(Value::as_str);
        Some(Self {
            hash: text("hash")?.parse().ok()?,
            from: text("from")?.parse().ok()?,
            to: text("to").and_then(|to| to.parse().ok()),
            nonce: u64::from_str_radix(text("nonce")?.trim_start_matches("0x"), 16).ok()?,
            input: text("input").or_else(|| text("data"))?.parse().ok()?,
        })
    }
}

fn missing(what: &str) -> Error {
    Error::Io(std::io::Error::other(what.to_owned()))
}
