//! `GET /receipts?rail=x402`: settled x402 payments as JSON or CSV, for accounts.

use alloy::primitives::{Address, B256};
use serde::Serialize;
use utoipa::ToSchema;

use crate::receipt::payment::rail;
use crate::store::payments::Payment;

/// A list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedPayments {
    pub receipts: Vec<PaymentLine>,
    /// Value of `after` for the next page; null on the last.
    pub next: Option<String>,
}

/// A settled x402 payment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentLine {
    /// Digest of what the payer signed.
    #[schema(value_type = String)]
    pub payment_id: B256,
    /// direct or channel
    pub rail: &'static str,
    /// The inference that it paid for, and how sure that is: order, request, payer, window.
    #[schema(value_type = Option<String>)]
    pub settlement_id: Option<B256>,
    pub joined: Option<String>,
    /// Null for claims and payouts, which are of many payers.
    #[schema(value_type = Option<String>)]
    pub payer: Option<Address>,
    #[schema(value_type = String)]
    pub receiver: Address,
    #[schema(value_type = String)]
    pub token: Address,
    /// Token units, decimal text.
    pub amount: String,
    /// What the payer signed for.
    pub max_amount: String,
    pub chain_id: u64,
    /// exact, upto, batch-settlement
    pub scheme: &'static str,
    /// eip3009, permit2, deposit, claim, settle, refund
    pub method: &'static str,
    /// Null when nothing was to be paid.
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub block: Option<u64>,
    /// The block cannot go any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub resource: Option<String>,
    pub identifier: Option<String>,
    pub settled_ms: Option<i64>,
}

impl From<Payment> for PaymentLine {
    fn from(payment: Payment) -> Self {
        let new = payment.new;
        Self {
            payment_id: new.payment_id,
            rail: rail(new.scheme),
            settlement_id: payment.settlement_id,
            joined: payment.joined,
            payer: new.payer,
            receiver: new.receiver,
            token: new.asset,
            amount: new.amount.to_string(),
            max_amount: new.max_amount.to_string(),
            chain_id: new.chain_id,
            scheme: new.scheme,
            method: new.method,
            transaction: payment.tx_hash,
            block: payment.block_number,
            is_final: payment.is_final,
            resource: new.resource,
            identifier: new.identifier,
            settled_ms: payment.settled_ms,
        }
    }
}

/// The lines as CSV (RFC 4180).
pub fn to_csv(lines: &[PaymentLine]) -> String {
    let mut text =
        "payment_id,rail,settlement_id,joined,payer,receiver,token,amount,max_amount,chain_id,scheme,method,\
                    transaction,block,final,resource,identifier,settled_ms\n"
            .to_owned();
    for line in lines {
        let hash = |hash: Option<B256>| hash.map(|hash| hash.to_string()).unwrap_or_default();
        let members = [
            line.payment_id.to_string(),
            line.rail.to_owned(),
            hash(line.settlement_id),
            line.joined.clone().unwrap_or_default(),
            line.payer.map(|payer| payer.to_string()).unwrap_or_default(),
            line.receiver.to_string(),
            line.token.to_string(),
            line.amount.clone(),
            line.max_amount.clone(),
            line.chain_id.to_string(),
            line.scheme.to_owned(),
            line.method.to_owned(),
            hash(line.transaction),
            line.block.map(|block| block.to_string()).unwrap_or_default(),
            line.is_final.to_string(),
            quoted(line.resource.as_deref().unwrap_or_default()),
            line.identifier.clone().unwrap_or_default(),
            line.settled_ms.map(|at| at.to_string()).unwrap_or_default(),
        ];
        text.push_str(&members.join(","));
        text.push('\n');
    }
    text
}

/// What strangers wrote: in quotes, and no formula to a spreadsheet.
fn quoted(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_stays_in_its_column() {
        assert_eq!(quoted("https://a/b?c=1,2"), "\"https://a/b?c=1,2\"");
        assert_eq!(quoted("a\"b\nc"), "\"a\"\"b\nc\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
    }
}
