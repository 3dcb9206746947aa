//! The demo's payers: wallets with both tokens in the escrow and a lock for the keeper, and a protocol's contract.

use std::sync::atomic::{AtomicU64, Ordering};

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolValue;
use quittance_bindings::typed::{Lock, Order, request_commit};
use quittance_bindings::{DevUSDC, InferenceConsumer, InferenceEscrow};
use serde_json::value::RawValue;

use crate::cli::order::request_hash;
use crate::cli::order_file::{OrderFile, sign, u40};
use crate::clock::Clock;
use crate::devnet::Devnet;
use crate::devnet::deploy::{OPG, USDC, fund};
use crate::devnet::keys::Key;
use crate::devnet::sender::Sender;
use crate::error::{Error, Result};
use crate::wire::OrderFields;

/// What one wallet puts in, locks for the keeper, and allows for one order: (token, deposit, lock, maximum), in units.
pub const MONEY: [(Address, u128, u128, u128); 2] = [
    (USDC, 50_000_000, 20_000_000, 20_000),
    (OPG, 500_000_000_000_000_000_000, 200_000_000_000_000_000_000, 200_000_000_000_000_000),
];

/// A payer.
#[derive(Debug)]
pub struct Wallet {
    pub key: Key,
    /// Its orders name this keeper.
    keeper_id: B256,
    nonce: AtomicU64,
}

/// Which order a wallet signs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// Index into [`MONEY`].
    pub token: usize,
    pub private: bool,
    /// Zero: any node.
    pub node: B256,
    /// Seconds from now to the capture deadline; 0: ten minutes.
    pub term: u64,
}

/// A chat request with a text of its own: equal requests to one node in one second would be one inference.
///
/// # Errors
/// None in practice: the text is JSON.
pub fn request(question: &str) -> Result<Box<RawValue>> {
    let body = serde_json::json!({
        "model": "canned-small",
        "messages": [{ "role": "user", "content": question }],
        "temperature": 0.2,
        "max_tokens": 64,
    });
    RawValue::from_string(body.to_string()).map_err(|error| Error::Config(error.to_string()))
}

impl Wallet {
    /// A wallet with money in the escrow and locks for the devnet's keeper.
    ///
    /// # Errors
    /// `rpc_failed` naming the transaction that failed.
    pub async fn funded(devnet: &Devnet, index: usize) -> Result<Self> {
        Self::funded_for(devnet, Key::of(format!("payer-{index}"))?, devnet.deployment.network.keeper.id).await
    }

    /// A wallet with money in the escrow and locks for a keeper.
    ///
    /// # Errors
    /// `rpc_failed` naming the transaction that failed.
    pub async fn funded_for(devnet: &Devnet, key: Key, keeper_id: B256) -> Result<Self> {
        fund(&devnet.chains, key.address()).await?;
        let base = &devnet.chains.base;
        let network = &devnet.deployment.network;
        let escrow = network.base.escrow;
        let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await?;
        let until = u40(Clock::default().now() + 3_600).unwrap_or_default();
        for (nonce, (token, deposit, lock, _)) in MONEY.into_iter().enumerate() {
            deposit_for(&mut sender, escrow, token, deposit, key.address()).await?;
            let lock_ = Lock {
                payer: key.address(),
                token,
                keeperId: keeper_id,
                amount: lock,
                until,
                nonce: U256::from(nonce),
            };
            let call = InferenceEscrow::lockCall { lock_: lock_.into(), signature: Default::default() };
            sender.call(escrow, &call).await?;
        }
        sender.settle().await?;
        Ok(Self { key, keeper_id, nonce: AtomicU64::new(0) })
    }

    /// Signs an order for a request.
    ///
    /// # Errors
    /// `malformed`, in practice none.
    pub fn order(&self, devnet: &Devnet, request: Box<RawValue>, terms: Terms) -> Result<OrderFile> {
        let network = &devnet.deployment.network;
        let config = |failure: crate::cli::failure::Failure| Error::Config(failure.to_string());
        let blinding = if terms.private { B256::from(rand::random::<[u8; 32]>()) } else { B256::ZERO };
        let (token, _, _, max) = MONEY[terms.token % MONEY.len()];
        let now = Clock::default().now();
        let term = if terms.term == 0 { 600 } else { terms.term };
        let order = Order {
            payer: self.key.address(),
            token,
            maxAmount: max,
            requestCommit: request_commit(request_hash(&request).map_err(config)?, blinding),
            nodeScope: terms.node,
            keeperId: self.keeper_id,
            validAfter: u40(now.saturating_sub(5)).unwrap_or_default(),
            validBefore: u40(now + term).unwrap_or_default(),
            captureDeadline: u40(now + term).unwrap_or_default(),
            // Neighbours share a storage slot: cheaper than random ones.
            nonce: U256::from(self.nonce.fetch_add(1, Ordering::Relaxed)),
        };
        let (order_id, signature) =
            sign(&order, network.base.chain_id, network.base.escrow, &self.key.signer).map_err(config)?;
        Ok(OrderFile {
            order: OrderFields::from(&order),
            signature: Some(signature),
            blinding: terms.private.then_some(blinding),
            request: Some(request),
            order_id: Some(order_id),
        })
    }
}

/// Mints, approves and deposits for a beneficiary.
///
/// # Errors
/// `rpc_failed`.
pub async fn deposit_for(
    sender: &mut Sender,
    escrow: Address,
    token: Address,
    amount: u128,
    beneficiary: Address,
) -> Result<()> {
    let amount = U256::from(amount);
    sender.mint(token, sender.address(), amount).await?;
    sender.call(token, &DevUSDC::approveCall { spender: escrow, value: amount }).await?;
    sender.call(escrow, &InferenceEscrow::depositCall { token, beneficiary, amount }).await
}

/// A protocol's contract with money in the escrow.
///
/// # Errors
/// `rpc_failed`.
pub async fn consumer(devnet: &Devnet) -> Result<(Sender, Address)> {
    let key = Key::of("protocol")?;
    fund(&devnet.chains, key.address()).await?;
    let base = &devnet.chains.base;
    let escrow = devnet.deployment.network.base.escrow;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, key).await?;
    let arguments = (escrow,).abi_encode_params();
    let consumer = sender.create("InferenceConsumer", &InferenceConsumer::BYTECODE, &arguments).await?;
    let (token, deposit, ..) = MONEY[0];
    deposit_for(&mut sender, escrow, token, deposit, consumer).await?;
    sender.settle().await?;
    Ok((sender, consumer))
}
