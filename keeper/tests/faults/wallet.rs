//! A payer: deposits, locks, signs orders, hands them in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256, Uint};
use alloy::sol_types::{SolEvent, SolValue};
use quittance::cli::order_file::{sign, u40};
use quittance::devnet::deploy::USDC;
use quittance::devnet::keys::Key;
use quittance::wire::OrderFields;
use quittance_bindings::typed::{Lock, Order, request_commit};
use quittance_bindings::{DevUSDC, InferenceConsumer, InferenceEscrow};
use serde_json::{Value, json};

use crate::world::{Keeper, PATIENCE, World};

/// Most that one order may cost, USDC units.
pub const MAX: u128 = 20_000;
/// What a wallet deposits and locks.
pub const DEPOSIT: u128 = 50_000_000;
pub const LOCK: u128 = 20_000_000;

pub struct Wallet {
    pub key: Key,
    nonce: AtomicU64,
}

/// A signed order as `POST /orders` takes it.
#[derive(Clone)]
pub struct Signed {
    pub id: B256,
    pub order: Order,
    pub body: Value,
}

/// How an order differs from the usual one.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Seconds until it can no longer be captured.
    pub term: u64,
    pub private: bool,
    /// `None`: the devnet's keeper.
    pub keeper_id: Option<B256>,
    pub node: B256,
}

impl Default for Terms {
    fn default() -> Self {
        Self { term: 3_000, private: false, keeper_id: None, node: B256::ZERO }
    }
}

impl Wallet {
    /// A payer with gas money and nothing in the escrow.
    pub async fn poor(world: &World, name: &str) -> Self {
        let key = Key::of(name).unwrap();
        world.fund(key.address()).await;
        Self { key, nonce: AtomicU64::new(0) }
    }

    /// A payer with money in the escrow and a lock for the devnet's keeper.
    pub async fn funded(world: &World, name: &str) -> Self {
        let wallet = Self::poor(world, name).await;
        wallet.deposit(world, DEPOSIT).await;
        wallet.lock(world, world.devnet.config.keeper.id, LOCK, 86_400).await;
        wallet
    }

    pub async fn deposit(&self, world: &World, amount: u128) {
        let mut sender = world.sender(&self.key).await;
        let (escrow, amount) = (world.escrow(), U256::from(amount));
        sender.call(USDC, &DevUSDC::mintCall { to: sender.address(), amount }).await.unwrap();
        sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: amount }).await.unwrap();
        let deposit = InferenceEscrow::depositCall { token: USDC, beneficiary: sender.address(), amount };
        sender.call(escrow, &deposit).await.unwrap();
        sender.settle().await.unwrap();
    }

    /// Locks for a keeper, `seconds` of Base's time from now.
    pub async fn lock(&self, world: &World, keeper_id: B256, amount: u128, seconds: u64) {
        let call = self.lock_call(keeper_id, amount, base_now(world).await + seconds);
        let mut sender = world.sender(&self.key).await;
        sender.call(world.escrow(), &call).await.unwrap();
        sender.settle().await.unwrap();
    }

    pub fn lock_call(&self, keeper_id: B256, amount: u128, until: u64) -> InferenceEscrow::lockCall {
        let (payer, until) = (self.key.address(), u40(until).unwrap());
        // Locks have nonces of their own.
        let nonce = U256::from(self.nonce.fetch_add(1, Ordering::Relaxed));
        let lock = Lock { payer, token: USDC, keeperId: keeper_id, amount, until, nonce };
        InferenceEscrow::lockCall { lock_: lock.into(), signature: Default::default() }
    }

    /// Signs an order for a question.
    pub async fn order(&self, world: &World, question: &str, terms: Terms) -> Signed {
        let network = &world.devnet.deployment.network;
        let request = json!({
            "model": "canned-small",
            "messages": [{ "role": "user", "content": question }],
            "temperature": 0.2,
            "max_tokens": 64,
        });
        let raw = serde_json::value::RawValue::from_string(request.to_string()).unwrap();
        let hash = quittance::cli::order::request_hash(&raw).unwrap();
        let blinding = if terms.private { B256::repeat_byte(0x5e) } else { B256::ZERO };
        let (now, chain) = (now(), base_now(world).await);
        let order = Order {
            payer: self.key.address(),
            token: USDC,
            maxAmount: MAX,
            requestCommit: request_commit(hash, blinding),
            nodeScope: terms.node,
            keeperId: terms.keeper_id.unwrap_or(network.keeper.id),
            validAfter: u40(now.min(chain) - 5).unwrap(),
            // Nodes sign their own time, the chain compares it with these: its clock may be ahead.
            validBefore: u40(now.max(chain) + terms.term).unwrap(),
            captureDeadline: u40(now.max(chain) + terms.term).unwrap(),
            nonce: U256::from(self.nonce.fetch_add(1, Ordering::Relaxed)),
        };
        let (id, signature) = sign(&order, network.base.chain_id, network.base.escrow, &self.key.signer).unwrap();
        let mut body = json!({ "order": OrderFields::from(&order), "signature": signature, "request": request });
        if terms.private {
            body["blinding"] = json!(blinding);
        }
        Signed { id, order, body }
    }

    /// Opens an order on-chain with its request: the maximum is held.
    pub async fn open(&self, world: &World, order: &Signed) {
        let raw = serde_json::value::RawValue::from_string(order.body["request"].to_string()).unwrap();
        let request = quittance::cli::order::canonical(&raw).unwrap().bytes;
        let call = InferenceEscrow::openOrderCall { order: order.order.clone().into(), requestBody: request.into() };
        let mut sender = world.sender(&self.key).await;
        sender.call(world.escrow(), &call).await.unwrap();
        sender.settle().await.unwrap();
    }

    /// Signs `n` orders, hands them in, and gives those back that were acknowledged: all of them.
    pub async fn ask(&self, world: &World, keeper: &Keeper, topic: &str, n: usize) -> Vec<Signed> {
        let mut orders = Vec::with_capacity(n);
        for number in 0..n {
            let order = self.order(world, &format!("{topic}, question {number}?"), Terms::default()).await;
            let (status, answer) = hand_in(world, keeper, &order, false).await.expect("an answer");
            assert!(matches!(status, 200 | 202), "{status} {answer}\n{}", keeper.tail());
            orders.push(order);
        }
        orders
    }
}

/// A contract that orders inference and gets the answer delivered.
pub struct Consumer {
    key: Key,
    address: Address,
}

impl Consumer {
    pub async fn funded(world: &World, name: &str) -> Self {
        let key = Key::of(name).unwrap();
        world.fund(key.address()).await;
        let (mut sender, escrow, amount) = (world.sender(&key).await, world.escrow(), U256::from(DEPOSIT));
        let arguments = (escrow,).abi_encode_params();
        let address = sender.create("InferenceConsumer", &InferenceConsumer::BYTECODE, &arguments).await.unwrap();
        sender.call(USDC, &DevUSDC::mintCall { to: sender.address(), amount }).await.unwrap();
        sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: amount }).await.unwrap();
        let deposit = InferenceEscrow::depositCall { token: USDC, beneficiary: address, amount };
        sender.call(escrow, &deposit).await.unwrap();
        sender.settle().await.unwrap();
        Self { key, address }
    }

    /// Orders on-chain, for any keeper; the order's id.
    pub async fn ask(&self, world: &World, question: &str) -> B256 {
        let request = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": question }] });
        let raw = serde_json::value::RawValue::from_string(request.to_string()).unwrap();
        let call = InferenceConsumer::askCall {
            token: USDC,
            max: MAX,
            node: B256::ZERO,
            term: Uint::from(3_000),
            request: quittance::cli::order::canonical(&raw).unwrap().bytes.into(),
        };
        let mut sender = world.sender(&self.key).await;
        sender.call(self.address, &call).await.unwrap();
        let done = sender.settle().await.unwrap();
        let mut logs = done.iter().flat_map(|receipt| receipt.inner.logs());
        logs.find_map(|log| InferenceEscrow::OrderOpened::decode_log(&log.inner).ok()).unwrap().data.orderId
    }
}

pub fn ids(orders: &[Signed]) -> Vec<B256> {
    orders.iter().map(|order| order.id).collect()
}

/// Hands an order in; `None` when the keeper did not answer at all. A lock that the keeper has not seen yet is waited for.
pub async fn hand_in(world: &World, keeper: &Keeper, order: &Signed, wait: bool) -> Option<(u16, Value)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut request = world.http.post(format!("{}/orders", keeper.url)).json(&order.body);
        if !wait {
            request = request.header("prefer", "respond-async");
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        if matches!(status, 200 | 202) {
            world.acknowledge(keeper, &order.order, order.id);
        }
        // Not seen yet, or shed for a moment: a client comes again.
        if !matches!(status, 402 | 429 | 503) || Instant::now() > deadline {
            return Some((status, body));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub fn now() -> u64 {
    quittance::clock::Clock::default().now()
}

/// Time of Base's last block, unix seconds.
pub async fn base_now(world: &World) -> u64 {
    let latest = alloy::eips::BlockNumberOrTag::Latest;
    let block = alloy::providers::Provider::get_block_by_number(world.chain().provider(), latest).await;
    block.unwrap().unwrap().header.timestamp
}
