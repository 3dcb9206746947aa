//! Watching real chains with the real contracts: money, orders, nodes, and what a reorganisation takes away.

use std::sync::Arc;

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider;
use alloy::sol_types::SolCall;
use quittance_bindings::typed::{Order, domain, order_id, request_commit};
use quittance_bindings::{DevUSDC, InferenceEscrow};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Side;
use super::faults::{self, Faults};
use super::watch::Watcher;
use crate::cli::network::Network;
use crate::config::{self, Config, KeySource};
use crate::crypto::RsaKey;
use crate::ctx::{Ctx, SharedCtx};
use crate::devnet::chains::{Anvil, Chains};
use crate::devnet::deploy::{Deployment, Keys, NodeIdentity, USDC, deploy, fund};
use crate::devnet::keys::Key;
use crate::devnet::periods::Periods;
use crate::devnet::sender::Sender;
use crate::error::Error;
use crate::store::{accounts, events, orders};
use crate::types::OrderState;

/// Two chains with everything deployed, one registered node, and a keeper's shared state.
pub(crate) struct Bed {
    pub(crate) chains: Chains,
    pub(crate) deployment: Deployment,
    pub(crate) keys: Keys,
    pub(crate) ctx: SharedCtx,
    pub(crate) dir: tempfile::TempDir,
}

/// Starts it.
pub(crate) async fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let chains = Chains::start(dir.path(), 1).await.unwrap();
    let spki = RsaKey::generate().unwrap().spki().to_vec();
    let node = NodeIdentity { spki, url: "http://127.0.0.1:9".to_owned() };
    let (deployment, keys) = deploy(&chains, Periods::default(), &[node], "http://127.0.0.1:1").await.unwrap();
    let ctx = ctx(&deployment, &dir).await;
    Bed { chains, deployment, keys, ctx, dir }
}

/// A keeper's shared state over the same database: what a restart sees.
pub(crate) async fn ctx(deployment: &Deployment, dir: &tempfile::TempDir) -> SharedCtx {
    let store = crate::store::testing::open(dir).await;
    Arc::new(Ctx::new(config(&deployment.network), store).unwrap())
}

/// Shared state over two chains on which nothing is deployed, of the installation that listens at `listen`.
pub(crate) async fn bare(chains: &Chains, base_rpc: &str, listen: &str, dir: &tempfile::TempDir) -> SharedCtx {
    let mut network = Network::default();
    network.base.chain_id = chains.base.chain_id;
    network.base.rpc = base_rpc.to_owned();
    network.base.escrow = Address::repeat_byte(0xe1);
    network.base.ledger = Address::repeat_byte(0xe2);
    network.base.node_registry = Address::repeat_byte(0xe3);
    network.base.keeper_registry = Address::repeat_byte(0xe4);
    network.base.dispute_game = Address::repeat_byte(0xe5);
    network.opengradient.chain_id = chains.opengradient.chain_id;
    network.opengradient.rpc.clone_from(&chains.opengradient.url);
    network.opengradient.inbox = Address::repeat_byte(0xe5);
    network.keeper.id = B256::repeat_byte(0xbb);
    let store = crate::store::testing::open(dir).await;
    let mut config = config(&network);
    config.api.listen = listen.to_owned();
    Arc::new(Ctx::new(config, store).unwrap())
}

fn config(network: &Network) -> Config {
    let key = |env: &str| KeySource::Env { env: env.to_owned() };
    Config {
        disputes: Default::default(),
        x402: Default::default(),
        gateway: Default::default(),
        publish: None,
        keeper: config::Keeper {
            id: network.keeper.id,
            database: String::new(),
            auto_reclaim: true,
            receipt_key: key("NONE"),
            drain_ms: 1_000,
        },
        base: config::Base {
            chain_id: network.base.chain_id,
            rpc: vec![network.base.rpc.clone()],
            escrow: network.base.escrow,
            ledger: network.base.ledger,
            node_registry: network.base.node_registry,
            dispute_game: network.base.dispute_game,
            keeper_registry: network.base.keeper_registry,
            start_block: network.base.start_block,
            key: key("NONE"),
            tick_ms: 50,
            tokens: vec![USDC],
            in_flight: 4,
        },
        opengradient: config::OpenGradient {
            chain_id: network.opengradient.chain_id,
            rpc: vec![network.opengradient.rpc.clone()],
            inbox: network.opengradient.inbox,
            tee_registry: network.opengradient.tee_registry,
            start_block: network.opengradient.start_block,
            key: key("NONE"),
            tick_ms: 50,
            in_flight: 1,
            record_rows: 20,
        },
        api: Default::default(),
        limits: Default::default(),
        batch: Default::default(),
        dispatch: Default::default(),
        fees: Default::default(),
        nodes: vec![],
        rates: vec![],
    }
}

/// Looks until there is nothing more to read.
pub(crate) async fn catch_up(watcher: &mut Watcher) {
    let stop = CancellationToken::new();
    while watcher.tick(&stop).await.unwrap() {}
}

pub(crate) async fn mine(chain: &Anvil) {
    chain.call("evm_mine", json!([])).await.unwrap();
}

/// Replaces the last blocks by empty ones.
pub(crate) async fn reorg(chain: &Anvil, depth: u64) {
    chain.call("anvil_reorg", json!([depth, []])).await.unwrap();
}

impl Bed {
    async fn sender(&self, key: &Key) -> Sender {
        fund(&self.chains, key.address()).await.unwrap();
        Sender::new(self.chains.base.provider().clone(), self.chains.base.chain_id, key.clone()).await.unwrap()
    }

    async fn free(&self, owner: Address) -> u128 {
        let account = accounts::account(self.ctx.store.read(), owner, USDC).await.unwrap();
        let escrow = InferenceEscrow::new(self.ctx.config.base.escrow, self.chains.base.provider());
        let on_chain = escrow.account(owner, USDC).call().await.unwrap();
        assert_eq!((account.free, account.held), (on_chain.free, on_chain.held), "the cache is what the chain says");
        account.free
    }

    fn order(&self, payer: Address, now: u64, body: &[u8]) -> (B256, Order) {
        let order = Order {
            payer,
            token: USDC,
            maxAmount: 300,
            requestCommit: request_commit(keccak256(body), B256::ZERO),
            nodeScope: B256::ZERO,
            keeperId: B256::ZERO,
            validAfter: U40::from(now - 10),
            validBefore: U40::from(now + 100),
            captureDeadline: U40::from(now + 1_000),
            nonce: U256::from(7),
        };
        let base = &self.ctx.config.base;
        (order_id(&order, &domain(base.chain_id, base.escrow)), order)
    }
}

#[tokio::test]
async fn money_orders_and_nodes_follow_the_chain_through_reorganisations() {
    let bed = bed().await;
    let base = &bed.chains.base;
    let mut watcher = Watcher::new(bed.ctx.clone(), Side::Base);
    let mut og = Watcher::new(bed.ctx.clone(), Side::OpenGradient);
    catch_up(&mut watcher).await;
    catch_up(&mut og).await;
    let node = bed.ctx.registry.node(bed.deployment.nodes[0].id).unwrap();
    assert!(node.is_active() && node.current().unwrap().key.is_some());
    assert_eq!(node.current().unwrap().meter_key, bed.deployment.nodes[0].meter_key);
    assert_eq!(bed.ctx.registry.endpoints(), [(node.id, "http://127.0.0.1:9".to_owned())]);
    assert!(bed.ctx.registry.is_hot_key(bed.keys.keeper_base.address()));
    assert!(!bed.ctx.registry.is_hot_key(bed.keys.admin.address()));

    let payer = Key::of("payer-0").unwrap();
    let escrow = bed.ctx.config.base.escrow;
    let mut sender = bed.sender(&payer).await;
    let deposit = |amount: u64| InferenceEscrow::depositCall {
        token: USDC,
        beneficiary: payer.address(),
        amount: U256::from(amount),
    };
    sender.call(USDC, &DevUSDC::mintCall { to: payer.address(), amount: U256::from(10_000) }).await.unwrap();
    sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: U256::MAX }).await.unwrap();
    sender.call(escrow, &deposit(1_000)).await.unwrap();
    sender.settle().await.unwrap();
    base.pause().await.unwrap();
    mine(base).await;
    mine(base).await;
    catch_up(&mut watcher).await;
    assert_eq!(bed.free(payer.address()).await, 1_000);

    // A deposit and an order that a reorganisation takes away.
    let now = base.provider().get_block(alloy::eips::BlockId::latest()).await.unwrap().unwrap().header.timestamp;
    let body = br#"{"model": "m"}"#;
    let (id, order) = bed.order(payer.address(), now, body);
    sender.call(escrow, &deposit(500)).await.unwrap();
    let open = InferenceEscrow::openOrderCall { order: order.clone().into(), requestBody: Bytes::from_static(body) };
    sender.send("openOrder", alloy::primitives::TxKind::Call(escrow), open.abi_encode().into()).await.unwrap();
    mine(base).await;
    catch_up(&mut watcher).await;
    assert_eq!(bed.free(payer.address()).await, 1_200);
    let row = orders::get(bed.ctx.store.read(), id).await.unwrap().unwrap();
    assert!(row.held && row.state == OrderState::Open && row.request.as_deref() == Some(body.as_slice()));
    reorg(base, 1).await;
    catch_up(&mut watcher).await;
    assert_eq!(bed.free(payer.address()).await, 1_000);
    assert!(orders::get(bed.ctx.store.read(), id).await.unwrap().is_none());
    assert!(events::by_topic(bed.ctx.store.read(), "OrderOpened", id).await.unwrap().is_empty());

    // A restart goes on where the cursor stands.
    let chain_id = bed.ctx.config.base.chain_id;
    let cursor = events::cursor(bed.ctx.store.read(), chain_id).await.unwrap().unwrap();
    assert_eq!(cursor.finalized + 2, cursor.number);
    let again = ctx(&bed.deployment, &bed.dir).await;
    let mut watcher = Watcher::new(again.clone(), Side::Base);
    catch_up(&mut watcher).await;
    assert_eq!(events::cursor(again.store.read(), chain_id).await.unwrap(), Some(cursor));

    // What is final does not change; if it does, we stop.
    for _ in 0..4 {
        mine(base).await;
    }
    catch_up(&mut watcher).await;
    reorg(base, 4).await;
    let halted = watcher.tick(&CancellationToken::new()).await;
    assert!(matches!(halted, Err(Error::Chain { .. })), "{halted:?}");
}

#[tokio::test]
async fn rpc_returns_empty_logs() {
    use std::sync::atomic::Ordering::SeqCst;

    let mut bed = bed().await;
    let base = &bed.chains.base;
    let faults = Faults::default();
    bed.deployment.network.base.rpc = faults::start(base.url.clone(), faults.clone()).await;
    bed.ctx = ctx(&bed.deployment, &bed.dir).await;
    let mut watcher = Watcher::new(bed.ctx.clone(), Side::Base);
    base.pause().await.unwrap();
    catch_up(&mut watcher).await;
    let chain_id = bed.ctx.config.base.chain_id;
    let known = events::cursor(bed.ctx.store.read(), chain_id).await.unwrap().unwrap();

    // A deposit whose logs the endpoint holds back: the contract's own count gives it away, the cursor stays.
    let payer = Key::of("payer-1").unwrap();
    let escrow = bed.ctx.config.base.escrow;
    let mut sender = bed.sender(&payer).await;
    let deposit = InferenceEscrow::depositCall { token: USDC, beneficiary: payer.address(), amount: U256::from(40) };
    sender.call(USDC, &DevUSDC::mintCall { to: payer.address(), amount: U256::from(1_000) }).await.unwrap();
    sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: U256::MAX }).await.unwrap();
    sender.call(escrow, &deposit).await.unwrap();
    mine(base).await;
    faults.no_logs.store(true, SeqCst);
    bed.ctx.clock.shift(6_000);
    let stop = CancellationToken::new();
    assert!(watcher.tick(&stop).await.is_err());
    assert_eq!(events::cursor(bed.ctx.store.read(), chain_id).await.unwrap(), Some(known));
    faults.no_logs.store(false, SeqCst);
    catch_up(&mut watcher).await;
    assert_eq!(bed.free(payer.address()).await, 40);

    // Held back while old state is not to be had either, deep below `safe`: found later, read again from before.
    sender.call(escrow, &deposit).await.unwrap();
    base.call("anvil_mine", json!(["0x5a"])).await.unwrap();
    faults.no_logs.store(true, SeqCst);
    faults.no_calls.store(true, SeqCst);
    bed.ctx.clock.shift(6_000);
    assert!(watcher.tick(&stop).await.unwrap(), "a range was read");
    let after = events::cursor(bed.ctx.store.read(), chain_id).await.unwrap().unwrap();
    assert!(after.number > known.number + 64);
    faults.no_logs.store(false, SeqCst);
    faults.no_calls.store(false, SeqCst);
    for _ in 0..8 {
        mine(base).await;
        let _ = watcher.tick(&stop).await;
    }
    catch_up(&mut watcher).await;
    assert_eq!(bed.free(payer.address()).await, 80);
}

/// A process is frozen with logs in its hands, another keeper reads on, and the first one finds numbers that are taken.
#[tokio::test]
async fn what_another_keeper_read_meanwhile_is_no_contradiction() {
    use std::sync::atomic::Ordering::SeqCst;

    let mut bed = bed().await;
    let base = &bed.chains.base;
    let healthy = bed.deployment.network.clone();
    let faults = Faults::default();
    bed.deployment.network.base.rpc = faults::start(base.url.clone(), faults.clone()).await;
    bed.ctx = ctx(&bed.deployment, &bed.dir).await;
    let mut watcher = Watcher::new(bed.ctx.clone(), Side::Base);
    base.pause().await.unwrap();
    catch_up(&mut watcher).await;
    let payer = Key::of("payer-2").unwrap();
    let escrow = bed.ctx.config.base.escrow;
    let mut sender = bed.sender(&payer).await;
    let deposit = InferenceEscrow::depositCall { token: USDC, beneficiary: payer.address(), amount: U256::from(40) };
    sender.call(USDC, &DevUSDC::mintCall { to: payer.address(), amount: U256::from(1_000) }).await.unwrap();
    sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: U256::MAX }).await.unwrap();
    sender.call(escrow, &deposit).await.unwrap();
    mine(base).await;
    faults.frozen.store(true, SeqCst);
    let frozen = tokio::spawn(async move {
        let ended = watcher.tick(&CancellationToken::new()).await;
        (watcher, ended)
    });
    while !faults.waiting.load(SeqCst) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut config = config(&healthy);
    config.api.listen = "127.0.0.1:2".to_owned();
    let there = Arc::new(Ctx::new(config, crate::store::testing::open(&bed.dir).await).unwrap());
    let mut other = Watcher::new(there.clone(), Side::Base);
    catch_up(&mut other).await;
    there.clock.pass(16_000);
    catch_up(&mut other).await;
    assert_eq!(bed.free(payer.address()).await, 40, "the other read on");
    faults.frozen.store(false, SeqCst);
    let (watcher, ended) = frozen.await.unwrap();
    assert!(matches!(ended, Err(Error::Chain { .. })), "{ended:?}");
    assert!(watcher.overtaken().await.unwrap() && !other.overtaken().await.unwrap());
    assert_eq!(bed.free(payer.address()).await, 40);
}
