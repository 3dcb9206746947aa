//! What a receipt says of the payments in it: each stands between two `Forwarded` events, apart from the others.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::{Log, TransactionReceipt};
use alloy::sol_types::SolEvent;
use quittance_bindings::X402Forwarder::Forwarded;

use super::channel::config;
use super::contracts::batch::Batch;
use super::contracts::{BATCH, Token};
use super::plan::Method;
use super::reasons::{Fault, Reason};
use super::reverts;
use super::wire::Request;
use crate::store::payments::{Evidence, Payment, Settled};

/// What came of one call.
#[derive(Debug)]
pub struct Part<'a> {
    pub success: bool,
    /// Revert data of a failed call, as far as it was kept.
    pub reason: Bytes,
    /// What it logged.
    pub logs: Vec<&'a Log>,
}

/// The calls of a receipt by their ids; empty for a transaction that reverted as a whole.
pub fn parts(receipt: &TransactionReceipt, forwarder: Address) -> HashMap<B256, Part<'_>> {
    let mut parts = HashMap::new();
    let mut logs = Vec::new();
    for log in receipt.logs() {
        let forwarded = (log.address() == forwarder).then(|| Forwarded::decode_log(&log.inner).ok()).flatten();
        match forwarded {
            Some(event) => {
                let logs = std::mem::take(&mut logs);
                parts.insert(event.data.id, Part { success: event.data.success, reason: event.data.reason, logs });
            }
            None => logs.push(log),
        }
    }
    parts
}

/// Where a receipt is; `None` while it names no block.
pub fn evidence(receipt: &TransactionReceipt) -> Option<Evidence> {
    Some(Evidence {
        tx_hash: receipt.transaction_hash,
        block_number: receipt.block_number?,
        block_hash: receipt.block_hash?,
    })
}

/// How the money of a stored payment moves.
pub fn method(payment: &Payment) -> Method {
    match (payment.new.scheme, payment.new.method) {
        ("upto", _) => Method::Upto,
        (_, "eip3009") => Method::Eip3009,
        (_, "deposit") => Method::Deposit,
        (_, "claim") => Method::Claim,
        (_, "settle") => Method::Payout,
        (_, "refund") => Method::Refund,
        _ => Method::Permit2,
    }
}

/// What a payment came to. Success of a transfer needs the token's own `Transfer` of exactly this money, that of a deposit, payout
/// or refund the event of the channels' contract.
///
/// # Errors
/// The reason why it moved nothing.
pub fn of(payment: &Payment, part: Option<&Part<'_>>, place: Evidence) -> Result<Settled, Fault> {
    let method = method(payment);
    let Some(part) = part else {
        let text = "the transaction reverted as a whole: nothing moved, settle it again";
        return Err(Fault::new(reverts::fault(method, &[]).reason, text));
    };
    if !part.success {
        return Err(reverts::fault(method, &part.reason));
    }
    let new = &payment.new;
    if method.of_channel() {
        return of_channel(payment, method, part, place);
    }
    let moved = part.logs.iter().any(|log| {
        let transfer = (log.address() == new.asset).then(|| Token::Transfer::decode_log(&log.inner).ok()).flatten();
        transfer.is_some_and(|event| {
            Some(event.data.from) == new.payer && event.data.to == new.receiver && event.data.value == new.amount
        })
    });
    if !moved {
        let text = format!("the token {} did not log the transfer of exactly this money", new.asset);
        return Err(Fault::new(Reason::ExactTransferMismatch, text));
    }
    Ok(Settled { amount: new.amount, extra: None, evidence: Some(place) })
}

fn of_channel(payment: &Payment, method: Method, part: &Part<'_>, place: Evidence) -> Result<Settled, Fault> {
    let amount = part.logs.iter().filter(|log| log.address() == BATCH).find_map(|log| match method {
        Method::Deposit => Batch::Deposited::decode_log(&log.inner).ok().map(|event| event.data.amount),
        Method::Payout => Batch::Settled::decode_log(&log.inner).ok().map(|event| event.data.amount),
        Method::Refund => Batch::Refunded::decode_log(&log.inner).ok().map(|event| event.data.amount),
        _ => None,
    });
    let amount = match (method, amount) {
        // Rows that others claimed in the meantime are skipped without an event.
        (Method::Claim, _) => payment.new.amount,
        (_, Some(amount)) => U256::from(amount),
        (_, None) => {
            let fault = reverts::fault(method, &[]);
            return Err(Fault::new(fault.reason, "the contract moved nothing: others did it in the meantime"));
        }
    };
    Ok(Settled { amount, extra: None, evidence: Some(place) })
}

/// The channel whose state goes into the answer to a payment.
pub fn channel_of(payment: &Payment) -> Option<B256> {
    if !matches!(method(payment), Method::Deposit | Method::Refund) {
        return None;
    }
    let request = Request::parse(&payment.new.request).1.ok()?;
    let config = config::read(&request.part().get("channelConfig").ok()?).ok()?;
    Some(config::channel_id(&config, request.chain_id))
}
