//! `order sign|submit|hold|open|reclaim|cancel`: what a payer, or anyone in its place, does with one order.

use std::path::PathBuf;

use alloy::primitives::{B256, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{Filter, TransactionReceipt};
use alloy::sol_types::SolEvent;
use clap::{Args, Subcommand};
use quittance_bindings::typed::{self, Order};
use quittance_bindings::{InferenceEscrow, SettlementLedger};
use serde_json::{Value, json, value::RawValue};

use super::amount;
use super::dispute;
use super::failure::{Failure, Result, read_json};
use super::http::Keeper;
use super::money::{keeper, token};
use super::network::{KeyArgs, Network, NetworkArgs};
use super::order_file::{OrderFile, sign, u40};
use super::output::Report;
use super::send::{Wallet, explain};
use crate::canonical::canonical_request;
use crate::clock::Clock;
use crate::wire::OrderFields;

/// Orders: one request, at most this much, in this time.
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Sign an order for a chat request and print it as a file
    Sign(Sign),
    /// Hand a signed order and its request to a keeper and wait for answer and receipt
    Submit(Submit),
    /// Hold an order's maximum with the payer's signature. Anyone can
    Hold(WithFile),
    /// Hold an order's maximum as its payer
    Open(Open),
    /// Return a hold to its payer after the capture deadline. Anyone can
    Reclaim(Reclaim),
    /// Spend nonces so that their orders can never be captured. Not while the lock for that keeper runs
    Cancel(Cancel),
}

/// Terms of a new order.
#[derive(Args, Debug)]
pub struct Sign {
    /// Chat request (JSON file, `-` for standard input)
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Most that may be charged, decimal
    #[arg(long)]
    max: String,
    /// Only this node; default: any mirrored node
    #[arg(long)]
    node: Option<B256>,
    /// Keeper that may settle it in a batch; default: the network file's
    #[arg(long)]
    keeper: Option<B256>,
    /// No keeper: verified settlement only
    #[arg(long, conflicts_with = "keeper")]
    no_keeper: bool,
    /// Keep the request's hash off both chains behind a random blinding
    #[arg(long)]
    private: bool,
    /// From now on, for how long an answer counts
    #[arg(long, default_value = "10m", value_parser = amount::seconds, value_name = "SPAN")]
    valid_for: u64,
    /// From now on, until when it can be captured
    #[arg(long, default_value = "1h", value_parser = amount::seconds, value_name = "SPAN")]
    capture_for: u64,
    /// Any number not used with this token and keeper before; neighbours share a storage slot. Default: random
    #[arg(long)]
    nonce: Option<U256>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// An order file for a keeper.
#[derive(Args, Debug)]
pub struct Submit {
    /// What `order sign` wrote (`-` for standard input)
    file: PathBuf,
    /// Do not wait for the answer
    #[arg(long = "async")]
    respond_async: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

/// An order file and a key that pays gas.
#[derive(Args, Debug)]
pub struct WithFile {
    /// What `order sign` wrote (`-` for standard input)
    file: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// An order file, opened by its payer.
#[derive(Args, Debug)]
pub struct Open {
    /// What `order sign` wrote (`-` for standard input)
    file: PathBuf,
    /// Publish the request on-chain, so that a keeper can serve it with no other channel. Public orders only
    #[arg(long)]
    publish_request: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// An order that nobody answered, or whose row of a batch is void.
#[derive(Args, Debug)]
pub struct Reclaim {
    /// Order file, or the id of an order that was opened, held or captured by a batch
    order: String,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Nonces of one (token, keeper).
#[derive(Args, Debug)]
pub struct Cancel {
    /// Nonces to spend
    #[arg(required = true)]
    nonces: Vec<U256>,
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Keeper that the orders name; default: the network file's
    #[arg(long)]
    keeper: Option<B256>,
    /// Orders that name no keeper
    #[arg(long, conflicts_with = "keeper")]
    no_keeper: bool,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

impl OrderCommand {
    /// Runs the subcommand.
    pub async fn run(&self) -> Result<Report> {
        match self {
            Self::Sign(args) => args.run().await,
            Self::Submit(args) => args.run().await,
            Self::Hold(args) => args.hold().await,
            Self::Open(args) => args.run().await,
            Self::Reclaim(args) => args.run().await,
            Self::Cancel(args) => args.run().await,
        }
    }
}

impl Sign {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let signer = self.key.signer()?;
        let provider = network.base().await?;
        let chain_id = provider.get_chain_id().await.map_err(explain)?;
        let token = token(&network, &provider, &self.token).await?;
        let request: Box<RawValue> = read_json(&self.request)?;
        let blinding = if self.private { B256::from(rand::random::<[u8; 32]>()) } else { B256::ZERO };
        let now = Clock::default().now();
        let time = |span: u64| u40(now.saturating_add(span)).ok_or_else(|| Failure::usage("malformed", "too long"));
        let order = Order {
            payer: signer.address(),
            token: token.address,
            maxAmount: amount::parse(&self.max, token.decimals)?,
            requestCommit: typed::request_commit(request_hash(&request)?, blinding),
            nodeScope: self.node.unwrap_or_default(),
            keeperId: if self.no_keeper { B256::ZERO } else { keeper(&network, self.keeper)? },
            // The node's clock may be a little behind ours.
            validAfter: u40(now.saturating_sub(30)).unwrap_or_default(),
            validBefore: time(self.valid_for)?,
            captureDeadline: time(self.capture_for.max(self.valid_for))?,
            nonce: self.nonce.unwrap_or_else(|| U256::from(rand::random::<u64>())),
        };
        let (order_id, signature) = sign(&order, chain_id, network.escrow()?, &signer)?;
        let file = OrderFile {
            order: OrderFields::from(&order),
            signature: Some(signature),
            blinding: self.private.then_some(blinding),
            request: Some(request),
            order_id: Some(order_id),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| Failure::new("malformed", error.to_string()))?;
        let json = serde_json::to_value(&file).map_err(|error| Failure::new("malformed", error.to_string()))?;
        // The file is the output in both forms: it is meant to be redirected.
        Ok(Report { json, text, ok: true })
    }
}

impl Submit {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let keeper = Keeper::new(network.keeper_url()?)?;
        let file: OrderFile = read_json(&self.file)?;
        let (_, answer) = submit(&keeper, &file, self.respond_async).await?;
        let text = |path: &str| match answer.pointer(path) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "-".to_owned(),
        };
        let facts = [
            ("order", text("/orderId")),
            ("state", text("/state")),
            ("answer", text("/completion/output")),
            ("settlement", text("/receipt/settlementId")),
        ];
        Ok(Report::facts(answer.clone(), &facts))
    }
}

/// Hands an order in; answers status and body.
///
/// # Errors
/// The keeper's own code, `keeper_unreachable`.
pub async fn submit(keeper: &Keeper, file: &OrderFile, respond_async: bool) -> Result<(u16, Value)> {
    let body = OrderFile { order_id: None, ..file.clone() };
    let body = serde_json::to_string(&body).map_err(|error| Failure::new("malformed", error.to_string()))?;
    let headers: &[(&str, &str)] = if respond_async { &[("prefer", "respond-async")] } else { &[] };
    let (status, answer) = keeper.post("/orders", body, headers).await?;
    Ok((status.as_u16(), answer))
}

impl WithFile {
    async fn hold(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let file: OrderFile = read_json(&self.file)?;
        let order = file.order()?;
        let signature = file.signature.ok_or_else(|| Failure::usage("malformed", "the order file has no signature"))?;
        let call = InferenceEscrow::holdCall { order: order.clone().into(), signature };
        let receipt = wallet.send(network.escrow()?, &call).await?;
        Ok(done("held", id(&network, &wallet.provider, &order).await?, &receipt))
    }
}

impl Open {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let file: OrderFile = read_json(&self.file)?;
        let order = file.order()?;
        let body = match (&file.request, self.publish_request) {
            (Some(request), true) => canonical(request)?.bytes,
            (None, true) => return Err(Failure::usage("malformed", "the order file holds no request to publish")),
            (_, false) => Vec::new(),
        };
        let call = InferenceEscrow::openOrderCall { order: order.clone().into(), requestBody: body.into() };
        let receipt = wallet.send(network.escrow()?, &call).await?;
        Ok(done("opened", id(&network, &wallet.provider, &order).await?, &receipt))
    }
}

impl Reclaim {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let order = match self.order.parse::<B256>() {
            Ok(id) => known(&network, &wallet.provider, id).await?,
            Err(_) => read_json::<OrderFile>(self.order.as_ref())?.order()?,
        };
        let call = InferenceEscrow::reclaimCall { order: order.clone().into() };
        let receipt = wallet.send(network.escrow()?, &call).await?;
        Ok(done("reclaimed", id(&network, &wallet.provider, &order).await?, &receipt))
    }
}

impl Cancel {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let token = token(&network, &wallet.provider, &self.token).await?;
        let keeper_id = if self.no_keeper { B256::ZERO } else { keeper(&network, self.keeper)? };
        let mut words = std::collections::BTreeMap::<U256, U256>::new();
        for nonce in &self.nonces {
            *words.entry(*nonce >> 8).or_default() |= U256::from(1) << (*nonce & U256::from(255));
        }
        let mut transactions = Vec::new();
        for (word, mask) in words {
            let call = InferenceEscrow::cancelNoncesCall {
                token: token.address,
                keeperId: keeper_id,
                word: alloy::primitives::Uint::from(word),
                mask,
            };
            transactions.push(wallet.send(network.escrow()?, &call).await?.transaction_hash);
        }
        let json = json!({ "action": "cancelled", "nonces": self.nonces.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "transactions": transactions });
        Ok(Report::facts(json, &[("cancelled", format!("{} nonces", self.nonces.len()))]))
    }
}

/// An order as the chain has it: opened or held, or captured by a batch.
///
/// # Errors
/// `not_found`, `rpc_failed`.
pub async fn known(network: &Network, provider: &DynProvider, order_id: B256) -> Result<Order> {
    let of = |signature| {
        let escrow = network.escrow()?;
        let filter = Filter::new().address(escrow).event_signature(signature).topic1(order_id);
        Ok::<_, Failure>(filter.from_block(network.base.start_block))
    };
    let opened = of(InferenceEscrow::OrderOpened::SIGNATURE_HASH)?;
    if let Some(log) = provider.get_logs(&opened).await.map_err(explain)?.first() {
        let event = InferenceEscrow::OrderOpened::decode_log(&log.inner)
            .map_err(|error| Failure::new("rpc_failed", error.to_string()))?;
        return Ok(event.data.order.into());
    }
    // A row that was void holds its order's money again; only the batch names the order.
    let captured = of(InferenceEscrow::OrderCaptured::SIGNATURE_HASH)?;
    for log in provider.get_logs(&captured).await.map_err(explain)? {
        let Some(hash) = log.transaction_hash else { continue };
        let Some(receipt) = provider.get_transaction_receipt(hash).await.map_err(explain)? else { continue };
        let settled = receipt.inner.logs().iter().filter(|log| Some(log.address()) == network.ledger().ok());
        for log in settled {
            let Ok(event) = SettlementLedger::BatchSettled::decode_log(&log.inner) else { continue };
            let batch = dispute::batch(network, provider, event.data.batchId).await?;
            let row = batch.leaves.iter().position(|leaf| leaf.paymentId == order_id);
            if let Some(order) = row.and_then(|row| batch.orders.get(row)) {
                return Ok(order.clone());
            }
        }
    }
    let start = network.base.start_block;
    Err(Failure::new("not_found", format!("no order {order_id} was opened, held or batched since block {start}")))
}

/// The request's canonical bytes and hash under the newest rules.
///
/// # Errors
/// `malformed`.
pub fn canonical(request: &RawValue) -> Result<crate::canonical::Canonical> {
    canonical_request(request.get().as_bytes())?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("malformed", "the request has no canonical form"))
}

/// keccak256 of the request's canonical bytes.
///
/// # Errors
/// `malformed`.
pub fn request_hash(request: &RawValue) -> Result<B256> {
    canonical(request).map(|canonical| canonical.hash)
}

async fn id(network: &Network, provider: &DynProvider, order: &Order) -> Result<B256> {
    let chain_id = provider.get_chain_id().await.map_err(explain)?;
    Ok(typed::order_id(order, &typed::domain(chain_id, network.escrow()?)))
}

fn done(what: &str, order_id: B256, receipt: &TransactionReceipt) -> Report {
    let json = json!({ "action": what, "orderId": order_id, "transaction": receipt.transaction_hash,
        "block": receipt.block_number, "gasUsed": receipt.gas_used });
    let facts = [
        (what, order_id.to_string()),
        ("transaction", receipt.transaction_hash.to_string()),
        ("gas", receipt.gas_used.to_string()),
    ];
    Report::facts(json, &facts)
}
