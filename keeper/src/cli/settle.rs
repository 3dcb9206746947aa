//! `settle`, `finalize`, `deliver`: what a keeper does, done by anyone with the files and an RPC URL.

use std::path::PathBuf;

use alloy::primitives::{B256, Bytes, keccak256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::{SolEvent, SolStruct};
use clap::Args;
use quittance_bindings::typed::{self, Meter, RAIL_ORDER, Receipt};
use quittance_bindings::{NodeRegistry, SettlementLedger};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::dispute;
use super::failure::{Failure, Result, read, read_json};
use super::network::{KeyArgs, Network, NetworkArgs};
use super::order::request_hash;
use super::order_file::{OrderFile, u40};
use super::output::Report;
use super::send::{Wallet, explain, read as view};
use crate::receipt::ReceiptFile;
use crate::verify::completion::{hash32, signature};

/// Settles one inference against its three signatures; the node is paid at once. Anyone can.
#[derive(Args, Debug)]
pub struct Settle {
    /// What `order sign` wrote
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// The node's evidence: its chat response with the tee_* fields, or what POST /completions takes
    #[arg(long, value_name = "FILE")]
    completion: PathBuf,
    /// Meter {amount, signature}, when the completion file has none
    #[arg(long, value_name = "FILE")]
    meter: Option<PathBuf>,
    /// Print receipt and settlement id, send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Pays the nodes of a batch after its window; rows that are void or in dispute are left out. Anyone can.
#[derive(Args, Debug)]
pub struct Finalize {
    /// Batch id
    batch: u64,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Hands the answer of a verified settlement to the contract that ordered it. Anyone can.
#[derive(Args, Debug)]
pub struct Deliver {
    /// Receipt file
    #[arg(long, value_name = "FILE")]
    receipt: PathBuf,
    /// The answer, byte for byte (`-` for standard input)
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// A node's evidence in either of its two forms.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Completion {
    #[serde(alias = "tee_id")]
    node_id: String,
    #[serde(alias = "tee_request_hash")]
    request_hash: Option<String>,
    request: Option<Box<RawValue>>,
    #[serde(alias = "tee_output_hash")]
    output_hash: Option<String>,
    output: Option<String>,
    #[serde(alias = "tee_timestamp")]
    timestamp: u64,
    #[serde(alias = "tee_signature")]
    signature: String,
    meter: Option<MeterFile>,
}

/// What the node's operator charges.
#[derive(Clone, Debug, Deserialize)]
struct MeterFile {
    amount: String,
    signature: Bytes,
}

impl Settle {
    /// Builds the receipt and settles it.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let provider = network.base().await?;
        let file: OrderFile = read_json(&self.order)?;
        let completion: Completion = read_json(&self.completion)?;
        let meter = match (&self.meter, &completion.meter) {
            (Some(path), _) => read_json(path)?,
            (None, Some(meter)) => meter.clone(),
            (None, None) => {
                return Err(Failure::usage("meter_missing", "the completion has no meter: name one with --meter FILE"));
            }
        };
        let (order, receipt, inference) = self.receipt(&network, &provider, &file, &completion, &meter).await?;
        let message = typed::message_hash(receipt.requestHash, receipt.outputHash, receipt.timestamp.to());
        let settlement_id = typed::settlement_id(receipt.nodeId, message);
        let mut json = json!({ "settlementId": settlement_id, "receiptHash": typed::receipt_hash(&receipt),
            "orderId": receipt.paymentId, "amount": receipt.amount.to_string() });
        let mut facts = vec![("settlement", settlement_id.to_string()), ("order", receipt.paymentId.to_string())];
        if !self.dry_run {
            let wallet = Wallet { provider, signer: self.key.signer()? };
            let call = SettlementLedger::settleVerifiedCall {
                order: order.into(),
                orderSignature: file.signature.unwrap_or_default(),
                receipt: receipt.into(),
                inferenceSignature: inference.into(),
                meterSignature: meter.signature,
            };
            let mined = wallet.send(network.ledger()?, &call).await?;
            note(&mut json, &mut facts, &mined);
        }
        Ok(Report::facts(json, &facts))
    }

    async fn receipt(
        &self,
        network: &Network,
        provider: &DynProvider,
        file: &OrderFile,
        completion: &Completion,
        meter: &MeterFile,
    ) -> Result<(typed::Order, Receipt, Vec<u8>)> {
        let order = file.order()?;
        let node_id = hash32("nodeId", &completion.node_id)?;
        let request_hash = match (&completion.request_hash, completion.request.as_ref().or(file.request.as_ref())) {
            (Some(hash), _) => hash32("requestHash", hash)?,
            (None, Some(request)) => request_hash(request)?,
            (None, None) => {
                return Err(Failure::usage("request_missing", "neither file tells the request or its hash"));
            }
        };
        let blinding = file.blinding.unwrap_or_default();
        if typed::request_commit(request_hash, blinding) != order.requestCommit {
            return Err(Failure::new(
                "request_mismatch",
                "the completion answers another request than the order names",
            ));
        }
        let output_hash = match (&completion.output_hash, &completion.output) {
            (Some(hash), _) => hash32("outputHash", hash)?,
            (None, Some(output)) => keccak256(output.as_bytes()),
            (None, None) => return Err(Failure::usage("malformed", "the completion has no output and no output hash")),
        };
        let chain_id = network_chain(network, provider).await?;
        let node = view(provider, network.base.node_registry, &NodeRegistry::nodeCall { nodeId: node_id }).await?;
        let receipt = Receipt {
            rail: RAIL_ORDER,
            paymentId: typed::order_id(&order, &typed::domain(chain_id, network.escrow()?)),
            payer: order.payer,
            token: order.token,
            offset: 0,
            amount: meter
                .amount
                .parse()
                .map_err(|_| Failure::usage("bad_meter", "meter.amount is no number of units"))?,
            nodeId: node_id,
            nodeVersion: node.version,
            requestHash: request_hash,
            blinding,
            outputHash: output_hash,
            timestamp: u40(completion.timestamp).ok_or_else(|| Failure::usage("malformed", "timestamp too large"))?,
            salt: keccak256(&meter.signature),
        };
        Ok((order, receipt, signature("signature", &completion.signature)?))
    }
}

impl Finalize {
    /// Finds the batch's record on the chain and finalizes it.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let record = record(&network, &wallet.provider, self.batch).await?;
        let out = dispute::excluded(&network, &wallet.provider, self.batch).await?;
        let mut json =
            json!({ "batchId": self.batch, "total": record.total.to_string(), "rows": record.rows, "excluded": out });
        let mut facts = vec![("batch", self.batch.to_string()), ("rows", record.rows.to_string())];
        let mined = if out.is_empty() {
            wallet.send(network.ledger()?, &SettlementLedger::finalizeCall { record }).await?
        } else {
            facts.push(("left out, void or in dispute", format!("rows {out:?}")));
            dispute::finalize(&network, &wallet, self.batch, &out).await?
        };
        note(&mut json, &mut facts, &mined);
        Ok(Report::facts(json, &facts))
    }
}

impl Deliver {
    /// Delivers with the receipt's own fields.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let file: ReceiptFile = read_json(&self.receipt)?;
        let receipt = Receipt::try_from(&file.receipt)?;
        let output = read(&self.output)?;
        if keccak256(&output) != receipt.outputHash {
            return Err(Failure::new(
                "output_mismatch",
                "this is not the answer that the receipt names, byte for byte",
            ));
        }
        let message = typed::message_hash(receipt.requestHash, receipt.outputHash, receipt.timestamp.to());
        let settlement_id = typed::settlement_id(receipt.nodeId, message);
        let call = SettlementLedger::deliverCall {
            settlementId: settlement_id,
            receipt: receipt.into(),
            output: output.into(),
        };
        let mined = wallet.send(network.ledger()?, &call).await?;
        let mut json = json!({ "settlementId": settlement_id });
        let mut facts = vec![("delivered", settlement_id.to_string())];
        note(&mut json, &mut facts, &mined);
        Ok(Report::facts(json, &facts))
    }
}

/// The record of a batch, from its event.
///
/// # Errors
/// `not_found`, `rpc_failed`.
pub async fn record(network: &Network, provider: &DynProvider, batch: u64) -> Result<SettlementLedger::BatchRecord> {
    let filter = Filter::new()
        .address(network.ledger()?)
        .event_signature(SettlementLedger::BatchSettled::SIGNATURE_HASH)
        .topic1(B256::left_padding_from(&batch.to_be_bytes()))
        .from_block(network.base.start_block);
    let logs = provider.get_logs(&filter).await.map_err(explain)?;
    let log = logs.first().ok_or_else(|| Failure::new("not_found", format!("no batch {batch} on this ledger")))?;
    let event = SettlementLedger::BatchSettled::decode_log(&log.inner)
        .map_err(|error| Failure::new("rpc_failed", error.to_string()))?;
    Ok(event.data.record)
}

/// EIP-712 digest that a meter key signs.
pub fn meter_digest(meter: &Meter, chain_id: u64, ledger: alloy::primitives::Address) -> B256 {
    meter.eip712_signing_hash(&typed::domain(chain_id, ledger))
}

async fn network_chain(network: &Network, provider: &DynProvider) -> Result<u64> {
    match network.base.chain_id {
        0 => provider.get_chain_id().await.map_err(explain),
        id => Ok(id),
    }
}

fn note(json: &mut serde_json::Value, facts: &mut Vec<(&str, String)>, receipt: &TransactionReceipt) {
    if let Some(object) = json.as_object_mut() {
        object.insert("transaction".to_owned(), json!(receipt.transaction_hash));
        object.insert("block".to_owned(), json!(receipt.block_number));
        object.insert("gasUsed".to_owned(), json!(receipt.gas_used));
    }
    facts.push(("transaction", receipt.transaction_hash.to_string()));
    facts.push(("gas", receipt.gas_used.to_string()));
}
