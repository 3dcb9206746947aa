//! The receipt file of an x402 payment: what the payer signed, where the money moved, and the keeper's signature under both ends
//! of it. As with orders, the file grows with the settlement and never says anything else.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use alloy::signers::SignerSync;
use alloy::sol;
use alloy::sol_types::SolStruct;
use quittance_bindings::typed::domain;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::KeeperEvidence;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::batches;
use crate::store::payments::{self, Payment};
use crate::types::PaymentState;

/// Value of `schema` in files of this version.
pub const SCHEMA: &str = "quittance-payment-receipt/1";

sol! {
    /// What a keeper signs of a payment, under the ledger's domain. Texts are as in the file, empty for null; the payer is zero
    /// for claims and payouts, which are of many.
    #[derive(Debug)]
    struct PaymentReceipt {
        bytes32 keeperId;
        bytes32 paymentId;
        uint256 chainId;
        string scheme;
        string method;
        address payer;
        address receiver;
        address token;
        uint256 amount;
        uint256 maxAmount;
        string resource;
        string identifier;
    }
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentFile {
    pub schema: String,
    /// EIP-712 digest of what the payer signed; for claims and refunds of the action, for payouts a name for it.
    #[schema(value_type = String)]
    pub payment_id: B256,
    /// settlement_pending, included, safe, final, refused
    pub state: String,
    pub payment: PaymentFields,
    pub network: PaymentNetwork,
    /// The request for its settlement, as far as it is signed: {x402Version, paymentPayload, paymentRequirements}.
    #[schema(value_type = Object)]
    pub authorization: Value,
    #[schema(value_type = Option<String>)]
    pub transaction: Option<B256>,
    pub block: Option<u64>,
    #[schema(value_type = Option<String>)]
    pub block_hash: Option<B256>,
    /// What it paid for, where that is known.
    pub inference: Option<Inference>,
    /// Why it was not settled.
    pub reason: Option<String>,
    /// Null until it is settled.
    pub keeper: Option<KeeperEvidence>,
    /// Members that are null by now (JSON pointers), and the state that fills each.
    pub awaits: BTreeMap<String, String>,
}

/// The payment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentFields {
    /// direct or channel
    pub rail: String,
    /// exact, upto, batch-settlement
    pub scheme: String,
    /// eip3009, permit2, deposit, claim, settle, refund
    pub method: String,
    /// Null for claims and payouts.
    #[schema(value_type = Option<String>)]
    pub payer: Option<Address>,
    #[schema(value_type = String)]
    pub receiver: Address,
    #[schema(value_type = String)]
    pub token: Address,
    /// Token units, decimal text: what moved, and what was signed for.
    pub amount: String,
    pub max_amount: String,
    pub resource: Option<String>,
    pub identifier: Option<String>,
    /// Unix seconds.
    pub settled_at: Option<u64>,
}

/// Where it was settled, and under what domain the keeper signs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentNetwork {
    pub chain_id: u64,
    /// The contract that calls for the keeper; zero when the keeper settles there no more.
    #[schema(value_type = String)]
    pub forwarder: Address,
    pub base_chain_id: u64,
    #[schema(value_type = String)]
    pub ledger: Address,
}

/// The inference that a payment is joined to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inference {
    #[schema(value_type = String)]
    pub settlement_id: B256,
    /// How sure that is: order, request, payer, window. Nobody signed it.
    pub joined: String,
}

/// `direct` or `channel`, by the scheme.
pub fn rail(scheme: &str) -> &'static str {
    if scheme == "batch-settlement" { "channel" } else { "direct" }
}

/// The receipt file of a payment as far as it has come; `None` for an unknown one.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn file(ctx: &Ctx, payment_id: B256) -> Result<Option<PaymentFile>> {
    let Some(payment) = payments::get(ctx.store.read(), payment_id).await? else { return Ok(None) };
    let chain_id = payment.new.chain_id;
    let safe = match batches::head(&ctx.store, chain_id).await? {
        Some(head) => u64::try_from(head.safe).ok(),
        None => None,
    };
    let state = match (payment.state, payment.is_final) {
        (PaymentState::Accepted | PaymentState::Approving | PaymentState::Queued | PaymentState::Searching, _) => {
            "settlement_pending"
        }
        (PaymentState::Failed, _) => "refused",
        (PaymentState::Settled, true) => "final",
        (PaymentState::Settled, false) if payment.block_number <= safe => "safe",
        (PaymentState::Settled, false) => "included",
    };
    let forwarder = ctx.x402.network(chain_id).map_or(Address::ZERO, |network| network.config.forwarder);
    let network =
        PaymentNetwork { chain_id, forwarder, base_chain_id: ctx.config.base.chain_id, ledger: ctx.config.base.ledger };
    let mut file = assemble(payment, state, network);
    if file.payment.settled_at.is_some() {
        file.keeper = sign(ctx, &file);
    }
    Ok(Some(file))
}

pub(super) fn assemble(payment: Payment, state: &str, network: PaymentNetwork) -> PaymentFile {
    let new = payment.new;
    let settled = payment.state == PaymentState::Settled;
    let place = |missing: bool| missing.then(|| "included".to_owned());
    let mut awaits = BTreeMap::new();
    for pointer in ["/transaction", "/block", "/blockHash", "/payment/settledAt", "/keeper"] {
        awaits.extend(place(state == "settlement_pending").map(|state| (pointer.to_owned(), state)));
    }
    PaymentFile {
        schema: SCHEMA.to_owned(),
        payment_id: new.payment_id,
        state: state.to_owned(),
        authorization: authorization(&new.request),
        payment: PaymentFields {
            rail: rail(new.scheme).to_owned(),
            scheme: new.scheme.to_owned(),
            method: new.method.to_owned(),
            payer: new.payer,
            receiver: new.receiver,
            token: new.asset,
            amount: new.amount.to_string(),
            max_amount: new.max_amount.to_string(),
            resource: new.resource,
            identifier: new.identifier,
            settled_at: payment.settled_ms.filter(|_| settled).and_then(|ms| u64::try_from(ms / 1_000).ok()),
        },
        network,
        transaction: payment.tx_hash,
        block: payment.block_number,
        block_hash: payment.block_hash,
        inference: payment
            .settlement_id
            .zip(payment.joined)
            .map(|(settlement_id, joined)| Inference { settlement_id, joined }),
        reason: payment.reason,
        keeper: None,
        awaits,
    }
}

/// What a request holds of what is signed: nothing that goes with it for other purposes.
fn authorization(request: &[u8]) -> Value {
    let Ok(request) = serde_json::from_slice::<Value>(request) else { return Value::Null };
    let only = |of: &Value, names: &[&str]| -> Value {
        let members = of.as_object().into_iter().flatten().filter(|(name, _)| names.contains(&name.as_str()));
        Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
    };
    let terms = ["scheme", "network", "amount", "maxAmountRequired", "asset", "payTo", "maxTimeoutSeconds", "extra"];
    let mut payload = only(&request["paymentPayload"], &["x402Version", "scheme", "network", "payload"]);
    if request["paymentPayload"]["accepted"].is_object() {
        payload["accepted"] = only(&request["paymentPayload"]["accepted"], &terms);
    }
    json!({ "x402Version": payload["x402Version"], "paymentPayload": payload,
        "paymentRequirements": only(&request["paymentRequirements"], &terms) })
}

/// What a keeper signs of a file; `None` when an amount in it is no number.
pub fn digest(file: &PaymentFile, keeper_id: B256) -> Option<B256> {
    let number = |text: &str| U256::from_str_radix(text, 10).ok();
    let fields = &file.payment;
    let receipt = PaymentReceipt {
        keeperId: keeper_id,
        paymentId: file.payment_id,
        chainId: U256::from(file.network.chain_id),
        scheme: fields.scheme.clone(),
        method: fields.method.clone(),
        payer: fields.payer.unwrap_or_default(),
        receiver: fields.receiver,
        token: fields.token,
        amount: number(&fields.amount)?,
        maxAmount: number(&fields.max_amount)?,
        resource: fields.resource.clone().unwrap_or_default(),
        identifier: fields.identifier.clone().unwrap_or_default(),
    };
    Some(receipt.eip712_signing_hash(&domain(file.network.base_chain_id, file.network.ledger)))
}

fn sign(ctx: &Ctx, file: &PaymentFile) -> Option<KeeperEvidence> {
    let signer = ctx.keys.receipt.as_ref()?;
    let keeper_id = ctx.config.keeper.id;
    match signer.sign_hash_sync(&digest(file, keeper_id)?) {
        Ok(signature) => {
            Some(KeeperEvidence { keeper_id, key: signer.address(), signature: signature.as_bytes().into() })
        }
        Err(error) => {
            tracing::error!(%error, "the receipt key cannot sign");
            None
        }
    }
}
