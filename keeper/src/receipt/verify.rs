//! Checks a receipt file by itself: every hash is computed again and every signature verified, with no network.

use alloy::primitives::{Address, B256, keccak256};
use alloy::sol_types::SolStruct;
use quittance_bindings::ledger::SettlementLedger::BatchRecord;
use quittance_bindings::typed::{
    Leaf, Order, RAIL_ORDER, Receipt, domain, leaf_hash, message_hash, order_id, receipt_hash, request_commit,
    settlement_id,
};
use serde::Serialize;

use super::{BatchEvidence, KeeperReceipt, ReceiptFile, SCHEMA};
use crate::error::Refusal;
use crate::merkle;
use crate::store::completions::{Rates, Usage};
use crate::verify::completion::NodeKey;
use crate::verify::meter::{Charge, price};
use crate::verify::order::recover;

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    pub ok: bool,
    /// What was found, or what is wrong.
    pub detail: String,
}

impl Check {
    pub(super) fn new(name: &'static str, result: Result<String, String>) -> Self {
        let ok = result.is_ok();
        Self { name, ok, detail: result.unwrap_or_else(|error| error) }
    }
}

/// Whether all checks hold.
pub fn all_ok(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.ok)
}

/// Recomputes everything in the file. The chains are not asked: whether the transaction exists, whether the batch record
/// is the ledger's, and whether the Meter key is the node's are for [`super::online`].
pub fn offline(file: &ReceiptFile) -> Vec<Check> {
    let mut checks = vec![Check::new("schema", equal("schema", file.schema.clone(), SCHEMA.to_owned()))];
    let parsed =
        Receipt::try_from(&file.receipt).and_then(|receipt| Ok((receipt, Order::try_from(&file.order.fields)?)));
    let (receipt, order) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => {
            checks.push(Check::new("fields", Err(refusal.message)));
            return checks;
        }
    };
    let message = message_hash(receipt.requestHash, receipt.outputHash, receipt.timestamp.to());
    let bill = Charge {
        settlement_id: file.settlement_id,
        order_id: receipt.paymentId,
        max_amount: order.maxAmount,
        ledger: domain(file.network.base_chain_id, file.network.ledger).separator(),
    };
    let escrow = domain(file.network.base_chain_id, file.network.escrow);
    let identity = || {
        equal("message hash", file.node.message_hash, message)?;
        equal("settlement id", file.settlement_id, settlement_id(receipt.nodeId, message))
    };
    checks.extend([
        Check::new("settlement_id", identity()),
        Check::new("receipt_hash", equal("receipt hash", file.receipt_hash, receipt_hash(&receipt))),
        Check::new("node_id", equal("node id", receipt.nodeId, keccak256(&file.node.public_key))),
        Check::new("inference_signature", inference(file, message)),
        Check::new("order_id", equal("order id", receipt.paymentId, order_id(&order, &escrow))),
        Check::new("order_terms", terms(&order, &receipt)),
        Check::new("order_signature", order_signature(file, &order, receipt.paymentId)),
        Check::new("meter_signature", meter_signature(file, &receipt, &bill)),
        Check::new("metering", metering(file, &receipt, order.maxAmount)),
        Check::new("settlement", settlement(file, &order, &receipt)),
        Check::new("keeper_signature", keeper_signature(file)),
    ]);
    checks
}

pub(super) fn equal<T: PartialEq + ToString>(what: &str, actual: impl Into<T>, expected: T) -> Result<String, String> {
    let actual: T = actual.into();
    if actual == expected {
        Ok(expected.to_string())
    } else {
        Err(format!("{what} is {}, but the rest of the file gives {}", actual.to_string(), expected.to_string()))
    }
}

fn text(refusal: Refusal) -> String {
    refusal.message
}

fn inference(file: &ReceiptFile, message: B256) -> Result<String, String> {
    NodeKey::parse(&file.node.public_key).map_err(text)?.verify(message, &file.node.signature).map_err(text)?;
    Ok("the node signed this answer to this request at this time".to_owned())
}

fn terms(order: &Order, receipt: &Receipt) -> Result<String, String> {
    let rule = |holds: bool, text: &str| if holds { Ok(()) } else { Err(text.to_owned()) };
    rule(receipt.rail == RAIL_ORDER, "the receipt is not of the order rail")?;
    rule(receipt.offset == 0, "the offset of an order's receipt must be 0")?;
    rule(receipt.payer == order.payer, "the receipt names another payer than the order")?;
    rule(receipt.token == order.token, "the receipt names another token than the order")?;
    rule(receipt.amount > 0 && receipt.amount <= order.maxAmount, "the amount is zero or over the order's maximum")?;
    let commit = request_commit(receipt.requestHash, receipt.blinding);
    rule(commit == order.requestCommit, "the order commits to another request")?;
    let scope = order.nodeScope == B256::ZERO || order.nodeScope == receipt.nodeId;
    rule(scope, "the order names another node")?;
    let in_time = receipt.timestamp >= order.validAfter && receipt.timestamp <= order.validBefore;
    rule(in_time, "the answer's time lies outside the order's")?;
    Ok(format!("{} of at most {} token units", receipt.amount, order.maxAmount))
}

fn order_signature(file: &ReceiptFile, order: &Order, id: B256) -> Result<String, String> {
    let Some(signature) = &file.order.signature else {
        return if file.order.held {
            Ok("the payer authorized it on-chain: check with --rpc".to_owned())
        } else {
            Err("neither a signature of the payer nor a hold on-chain".to_owned())
        };
    };
    let (signer, _) = recover(signature, id).map_err(text)?;
    if signer == order.payer {
        Ok(format!("signed by the payer {signer}"))
    } else {
        Err(format!("signed by {signer}, but the payer is {}", order.payer))
    }
}

fn meter_signature(file: &ReceiptFile, receipt: &Receipt, bill: &Charge) -> Result<String, String> {
    equal("salt", receipt.salt, keccak256(&file.meter.signature))?;
    let (signer, _) = bill.check(receipt.offset, receipt.amount, &file.meter.signature).map_err(text)?;
    equal("meter key", file.meter.key, signer)?;
    Ok(format!("signed by the meter key {signer}"))
}

fn metering(file: &ReceiptFile, receipt: &Receipt, max_amount: u128) -> Result<String, String> {
    let (Some(rates), Some(usage)) = (&file.meter.rates, &file.meter.usage) else {
        return Ok("metered by the node itself: there is no rate card to compute again".to_owned());
    };
    let rate = |text: &str| text.parse::<u128>().map_err(|_| format!("rate {text:?} cannot be read"));
    let card = Rates { input: rate(&rates.input)?, output: rate(&rates.output)?, version: rates.version.clone() };
    let price = price(&card, Usage { input: usage.input, output: usage.output }, max_amount);
    equal("amount", receipt.amount, price)?;
    Ok(format!("{} input and {} output tokens by rate card {}", usage.input, usage.output, card.version))
}

fn settlement(file: &ReceiptFile, order: &Order, receipt: &Receipt) -> Result<String, String> {
    match (file.base.path.as_str(), &file.base.batch, file.base.transaction) {
        ("verified", None, Some(transaction)) => Ok(format!("settled alone in {transaction}: check with --rpc")),
        ("batch", Some(batch), Some(transaction)) => {
            let row = batch_row(file, batch, order, receipt)?;
            Ok(format!("row {row} of batch {} in {transaction}", batch.record.batch_id))
        }
        ("batch" | "verified", None, None) => Ok(format!("not settled yet: {}", file.state)),
        (path, ..) => Err(format!("evidence of a settlement on path {path:?} is incomplete or does not fit it")),
    }
}

fn batch_row(file: &ReceiptFile, batch: &BatchEvidence, order: &Order, receipt: &Receipt) -> Result<u32, String> {
    let leaf = Leaf::try_from(&batch.leaf).map_err(text)?;
    let record = BatchRecord::try_from(&batch.record).map_err(text)?;
    let expected = Leaf {
        rail: receipt.rail,
        paymentId: receipt.paymentId,
        start: receipt.offset,
        amount: receipt.amount,
        nodeId: receipt.nodeId,
        nodeVersion: receipt.nodeVersion,
        receiptHash: file.receipt_hash,
        row: leaf.row,
    };
    if leaf != expected {
        return Err("the leaf is of another receipt".to_owned());
    }
    if leaf.row >= record.rows {
        return Err(format!("row {} of a batch of {} rows", leaf.row, record.rows));
    }
    if record.keeperId != order.keeperId || record.token != order.token {
        return Err("the batch is of another keeper or token than the order".to_owned());
    }
    if !merkle::verify(record.receiptsRoot, leaf_hash(&leaf), &batch.proof) {
        return Err("the leaf does not stand under the batch's root".to_owned());
    }
    let total = record.credits.iter().try_fold(0_u128, |sum, credit| sum.checked_add(credit.amount));
    if total != Some(record.total) {
        return Err("the batch's credits do not add up to its total".to_owned());
    }
    Ok(leaf.row)
}

fn keeper_signature(file: &ReceiptFile) -> Result<String, String> {
    let Some(keeper) = &file.keeper else { return Ok("the keeper signs no receipts".to_owned()) };
    let signer = keeper_signer(file)?;
    equal::<Address>("keeper key", keeper.key, signer)?;
    Ok(format!("signed by {signer} for keeper {}", keeper.keeper_id))
}

/// Who signed the file as its keeper.
fn keeper_signer(file: &ReceiptFile) -> Result<Address, String> {
    let keeper = file.keeper.as_ref().ok_or("the keeper signs no receipts")?;
    let digest = keeper_digest(file.network.base_chain_id, file.network.ledger, keeper.keeper_id, file);
    recover(&keeper.signature, digest).map(|(signer, _)| signer).map_err(text)
}

/// What a keeper signs of a file.
pub(super) fn keeper_digest(chain_id: u64, ledger: Address, keeper_id: B256, file: &ReceiptFile) -> B256 {
    KeeperReceipt { keeperId: keeper_id, settlementId: file.settlement_id, receiptHash: file.receipt_hash }
        .eip712_signing_hash(&domain(chain_id, ledger))
}
