//! `challenge`, `answer`, `resolve`, `bonds`: the dispute game for anyone with an RPC URL; no keeper in between.

use std::collections::BTreeSet;
use std::path::PathBuf;

use alloy::consensus::Transaction;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::{SolEvent, SolEventInterface, SolValue};
use clap::Args;
use quittance_bindings::SettlementLedger;
use quittance_bindings::game::DisputeGame::DisputeGameEvents as GameEvents;
use quittance_bindings::typed::{BatchRecord, Game, Receipt, ReceiptEvidence, domain};
use serde_json::{Value, json};

use super::failure::{Failure, Result, read_json};
use super::network::{KeyArgs, Network, NetworkArgs};
use super::output::Report;
use super::send::{Wallet, explain, read as view};
use crate::disputes::batch::ChainBatch;
use crate::receipt::ReceiptFile;

alloy::sol! {
    /// The game that may void rows of this ledger.
    function disputes() external view returns (address);
}

/// Demands the receipts behind units of a batch's money, each with a bond. Anyone can, until the batch's window ends.
#[derive(Args, Debug)]
pub struct Challenge {
    /// Batch id
    batch: u64,
    /// This row; otherwise the rows of random units
    #[arg(long)]
    row: Option<u32>,
    /// How many random units
    #[arg(long, default_value_t = 1, conflicts_with = "row")]
    units: u32,
    /// Show what would be challenged and the bond, send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Shows the receipt of a challenged row and earns the bond. Anyone who has the receipt file can.
#[derive(Args, Debug)]
pub struct Answer {
    /// Batch id
    batch: u64,
    /// Row
    row: u32,
    /// Receipt file of that row
    #[arg(long, value_name = "FILE")]
    receipt: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Voids a challenged row that nobody proved in time. Anyone can.
#[derive(Args, Debug)]
pub struct Resolve {
    /// Batch id
    batch: u64,
    /// Row
    row: u32,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Takes the ETH of won and returned bonds out of the dispute game.
#[derive(Args, Debug)]
pub struct Bonds {
    /// Account that gets it; the key's own when absent
    #[arg(long, value_name = "ADDRESS")]
    to: Option<Address>,
    /// Show the sum, send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

impl Challenge {
    /// Picks rows and challenges them.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let provider = network.base().await?;
        let game = game(&network, &provider).await?;
        let batch = batch(&network, &provider, self.batch).await?;
        let picks = self.picks(&batch)?;
        let least = view(&provider, game, &Game::challengeBondCall {}).await?;
        let mut json = json!({ "batchId": self.batch, "bond": least.to_string(), "challenges": [] });
        let mut facts = vec![("batch", self.batch.to_string()), ("bond", format!("{least} wei"))];
        for (row, unit) in picks {
            let mut one = json!({ "row": row, "unit": unit.to_string() });
            let mut text = format!("row {row}, unit {unit}");
            if !self.dry_run {
                let wallet = Wallet { provider: provider.clone(), signer: self.key.signer()? };
                let missing = || Failure::new("not_found", format!("batch {} has no row {row}", self.batch));
                let ((leaf, _), proof) = batch.row(row).zip(batch.proof(row)).ok_or_else(missing)?;
                let call = Game::challengeCall { record: batch.record.clone(), leaf: leaf.clone(), proof, unit };
                // The base fee may rise before it is mined; all of it comes back with the challenge.
                let gwei = U256::from(1_000_000_000);
                let value = (least + least / U256::from(4)).div_ceil(gwei) * gwei;
                let mined = wallet.send_with(game, &call, value).await?;
                one["transaction"] = json!(mined.transaction_hash);
                one["gasUsed"] = json!(mined.gas_used);
                text = format!("{text}: {} ({} gas)", mined.transaction_hash, mined.gas_used);
            }
            if let Some(all) = json["challenges"].as_array_mut() {
                all.push(one);
            }
            facts.push(("challenge", text));
        }
        Ok(Report::facts(json, &facts))
    }

    /// Rows, each once, and the unit that is pointed at in each.
    fn picks(&self, batch: &ChainBatch) -> Result<Vec<(u32, u128)>> {
        if let Some(row) = self.row {
            let missing =
                || Failure::usage("not_found", format!("batch {} has {} rows", self.batch, batch.leaves.len()));
            return Ok(vec![(row, batch.row(row).ok_or_else(missing)?.0.start)]);
        }
        let mut rows: Vec<(u32, u128)> = Vec::new();
        for _ in 0..self.units {
            if let Some((leaf, unit)) = batch.unit(rand::random_range(0..batch.total().max(1)))
                && !rows.iter().any(|(row, _)| *row == leaf.row)
            {
                rows.push((leaf.row, unit));
            }
        }
        Ok(rows)
    }
}

impl Answer {
    /// Answers with the file's evidence.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let file: ReceiptFile = read_json(&self.receipt)?;
        let batch = batch(&network, &wallet.provider, self.batch).await?;
        let missing = || Failure::usage("not_found", format!("batch {} has {} rows", self.batch, batch.leaves.len()));
        let (leaf, order) = batch.row(self.row).ok_or_else(missing)?;
        if leaf.receiptHash != file.receipt_hash {
            let text =
                format!("row {} names receipt {}, the file is {}", self.row, leaf.receiptHash, file.receipt_hash);
            return Err(Failure::usage("receipt_mismatch", text));
        }
        let evidence = ReceiptEvidence {
            receipt: Receipt::try_from(&file.receipt)?,
            inferenceSignature: file.node.signature.clone(),
            meterSignature: file.meter.signature.clone(),
        };
        let (record, leaf, order) = (batch.record.clone(), leaf.clone(), order.clone());
        let game = game(&network, &wallet.provider).await?;
        let mined = wallet.send(game, &Game::answerCall { record, leaf, order, evidence }).await?;
        Ok(done("answered", self.batch, self.row, &mined))
    }
}

impl Resolve {
    /// Voids the row.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let batch = batch(&network, &wallet.provider, self.batch).await?;
        let missing = || Failure::usage("not_found", format!("batch {} has {} rows", self.batch, batch.leaves.len()));
        let (leaf, order) = batch.row(self.row).ok_or_else(missing)?;
        let call = Game::resolveCall { record: batch.record.clone(), leaf: leaf.clone(), order: order.clone() };
        let game = game(&network, &wallet.provider).await?;
        let mined = wallet.send(game, &call).await?;
        Ok(done("voided", self.batch, self.row, &mined))
    }
}

impl Bonds {
    /// Shows and withdraws.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let game = game(&network, &wallet.provider).await?;
        let amount = view(&wallet.provider, game, &Game::withdrawableCall { owner: wallet.address() }).await?;
        let mut json = json!({ "owner": wallet.address(), "amount": amount.to_string() });
        let mut facts = vec![("owner", wallet.address().to_string()), ("withdrawable", format!("{amount} wei"))];
        if !self.dry_run && !amount.is_zero() {
            let to = self.to.unwrap_or_else(|| wallet.address());
            let mined = wallet.send(game, &Game::withdrawBondsCall { to }).await?;
            json["to"] = json!(to);
            json["transaction"] = json!(mined.transaction_hash);
            facts.push(("to", to.to_string()));
            facts.push(("transaction", mined.transaction_hash.to_string()));
        }
        Ok(Report::facts(json, &facts))
    }
}

fn done(what: &'static str, batch: u64, row: u32, mined: &TransactionReceipt) -> Report {
    let json: Value = json!({ "batchId": batch, "row": row, "transaction": mined.transaction_hash,
        "block": mined.block_number, "gasUsed": mined.gas_used });
    let facts = [
        (what, format!("row {row} of batch {batch}")),
        ("transaction", mined.transaction_hash.to_string()),
        ("gas", mined.gas_used.to_string()),
    ];
    Report::facts(json, &facts)
}

/// The ledger's own dispute game.
async fn game(network: &Network, provider: &DynProvider) -> Result<Address> {
    view(provider, network.ledger()?, &disputesCall {}).await
}

/// Rows of a batch that are void or in dispute, from the game's events.
///
/// # Errors
/// `rpc_failed`.
pub async fn excluded(network: &Network, provider: &DynProvider, id: u64) -> Result<BTreeSet<u32>> {
    let filter = Filter::new()
        .address(game(network, provider).await?)
        .topic1(B256::left_padding_from(&id.to_be_bytes()))
        .from_block(network.base.start_block);
    let mut rows = BTreeSet::new();
    for log in provider.get_logs(&filter).await.map_err(explain)? {
        match GameEvents::decode_log(&log.inner).map(|event| event.data) {
            Ok(GameEvents::Challenged(e)) => drop(rows.insert(e.row)),
            Ok(GameEvents::Duplicate(e)) => drop(rows.insert(e.row)),
            Ok(GameEvents::Answered(e)) => drop(rows.remove(&e.row)),
            _ => {}
        }
    }
    Ok(rows)
}

/// Pays a batch without some of its rows.
///
/// # Errors
/// As `batch` and `Wallet::send`.
pub async fn finalize(network: &Network, wallet: &Wallet, id: u64, rows: &BTreeSet<u32>) -> Result<TransactionReceipt> {
    let batch = batch(network, &wallet.provider, id).await?;
    let missing = || Failure::new("rpc_failed", format!("batch {id} has {} rows, not {rows:?}", batch.leaves.len()));
    let leaf = |row: &u32| batch.row(*row).map(|(leaf, _)| leaf.clone());
    let excluded = rows.iter().map(leaf).collect::<Option<Vec<_>>>().ok_or_else(missing)?;
    let game = game(network, &wallet.provider).await?;
    wallet.send(game, &Game::finalizeCall { record: batch.record.clone(), excluded }).await
}

/// A batch with its rows, from its event and its transaction.
///
/// # Errors
/// `not_found`, `rpc_failed`, `unreadable_batch` when the endpoint's transaction is not the ledger's batch.
pub async fn batch(network: &Network, provider: &DynProvider, id: u64) -> Result<ChainBatch> {
    let ledger = network.ledger()?;
    let filter = Filter::new()
        .address(ledger)
        .event_signature(SettlementLedger::BatchSettled::SIGNATURE_HASH)
        .topic1(B256::left_padding_from(&id.to_be_bytes()))
        .from_block(network.base.start_block);
    let logs = provider.get_logs(&filter).await.map_err(explain)?;
    let log = logs.first().ok_or_else(|| Failure::new("not_found", format!("no batch {id} on this ledger")))?;
    let broken = |what: String| Failure::new("rpc_failed", what);
    let event = SettlementLedger::BatchSettled::decode_log(&log.inner).map_err(|error| broken(error.to_string()))?;
    let hash = log.transaction_hash.ok_or_else(|| broken("a log without its transaction".to_owned()))?;
    let found = provider.get_transaction_by_hash(hash).await.map_err(explain)?;
    let transaction = found.ok_or_else(|| broken(format!("no transaction {hash}")))?;
    let receipt = provider.get_transaction_receipt(hash).await.map_err(explain)?;
    let receipt = receipt.ok_or_else(|| broken(format!("no receipt of {hash}")))?;
    let mut skipped = Vec::new();
    for other in receipt.inner.logs().iter().filter(|other| other.address() == ledger) {
        if other.log_index >= log.log_index {
            break;
        }
        if let Ok(row) = SettlementLedger::RowSkipped::decode_log(&other.inner) {
            skipped.push(row.row);
        } else if SettlementLedger::BatchSettled::decode_log(&other.inner).is_ok() {
            skipped.clear();
        }
    }
    if transaction.inner.inner().to() != Some(ledger) {
        let text =
            format!("the endpoint shows {hash} of batch {id} as a call to another contract: ask another endpoint");
        return Err(Failure::new("unreadable_batch", text));
    }
    let chain_id = match network.base.chain_id {
        0 => provider.get_chain_id().await.map_err(explain)?,
        known => known,
    };
    let record = BatchRecord::abi_decode(&event.data.record.abi_encode()).map_err(|error| broken(error.to_string()))?;
    let escrow = domain(chain_id, network.escrow()?);
    let input = transaction.inner.inner().input();
    ChainBatch::read(input, record, &skipped, &escrow).map_err(|reason| Failure::new("unreadable_batch", reason))
}
