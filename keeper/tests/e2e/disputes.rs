//! The dispute game between real keepers' money: a row without a receipt is challenged by the keeper that watches, stays
//! unanswered and goes back to its payer; a challenge against the honest keeper is answered.

use std::process::Command;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use quittance::cli::send::read;
use quittance::devnet::deploy::{OPG, USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;
use quittance::devnet::sender::Sender;
use quittance_bindings::game::DisputeGame::{Answered, Challenged, Unproven};
use quittance_bindings::keepers::KeeperRegistry::Slashed;
use quittance_bindings::typed::{Game, NodeRef, Order, OrderRow, reclaimCall, settleBatchCall};
use quittance_bindings::{DevOPG, InferenceEscrow, KeeperRegistry, NodeRegistry};
use serde_json::Value;

use crate::harness::{Keeper, Net, Signed, Wallet, hand_in};

/// Long enough for a busy machine to act in, short enough to wait for.
fn periods() -> Periods {
    Periods { window: 60, response: 40, reopen: 30, admin_delay: 300, ..Periods::default() }
}
const AMOUNT: u128 = 7_000;
const BOND: u128 = 300 * 1_000_000_000_000_000_000;

/// Every event of one kind that a contract emitted.
async fn events<E: SolEvent>(net: &Net, contract: Address) -> Vec<E> {
    let filter = Filter::new().address(contract).event_signature(E::SIGNATURE_HASH).from_block(0);
    let logs = net.devnet.chains.base.provider().get_logs(&filter).await.unwrap();
    logs.iter().map(|log| E::decode_log(&log.inner).unwrap().data).collect()
}

/// Waits until there is an event of one kind that fits.
async fn event<E: SolEvent>(net: &Net, contract: Address, fits: impl Fn(&E) -> bool) -> E {
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        if let Some(found) = events::<E>(net, contract).await.into_iter().find(|event| fits(event)) {
            return found;
        }
        assert!(Instant::now() < deadline, "no {}\n{}", E::SIGNATURE, net.log_tail());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Runs the program with a key; its JSON.
fn quittance(net: &Net, key: &Key, args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_quittance"))
        .args(args)
        .arg("--json")
        .env("QUITTANCE_NETWORK", net.devnet.dir.join("network.json"))
        .env("QUITTANCE_KEY", key.hex())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

/// Another keeper, with a bond and no honesty.
async fn rogue(net: &Net) -> (Sender, B256) {
    let chains = &net.devnet.chains;
    let key = Key::of("e2e-rogue").unwrap();
    fund(chains, key.address()).await.unwrap();
    let registry = net.devnet.deployment.network.base.keeper_registry;
    let mut sender = Sender::new(chains.base.provider().clone(), chains.base.chain_id, key).await.unwrap();
    let me = sender.address();
    let call = KeeperRegistry::registerCall { salt: B256::ZERO, payout: me, hotKeys: vec![me] };
    sender.call(registry, &call).await.unwrap();
    let id = keccak256(alloy::sol_types::SolValue::abi_encode(&(me, B256::ZERO)));
    sender.call(OPG, &DevOPG::mintCall { to: me, amount: U256::from(BOND) }).await.unwrap();
    sender.call(OPG, &DevOPG::approveCall { spender: registry, value: U256::from(BOND) }).await.unwrap();
    sender.call(registry, &KeeperRegistry::addBondCall { keeperId: id, amount: BOND }).await.unwrap();
    sender.settle().await.unwrap();
    (sender, id)
}

/// A row that captures an order for a receipt that nobody has.
async fn row(net: &Net, order: &Order, signed: &Signed) -> (NodeRef, OrderRow) {
    let registry = net.devnet.deployment.network.base.node_registry;
    let node = net.devnet.nodes[0].id;
    let provider = net.devnet.chains.base.provider();
    let known = read(provider, registry, &NodeRegistry::nodeCall { nodeId: node }).await.unwrap();
    let signature: Bytes = serde_json::from_value(signed.body["signature"].clone()).unwrap();
    let (r, mut vs) = (B256::from_slice(&signature[..32]), B256::from_slice(&signature[32..64]));
    if signature[64] == 28 {
        vs.0[0] |= 0x80;
    }
    let row = OrderRow {
        payer: order.payer,
        maxAmount: order.maxAmount,
        requestCommit: order.requestCommit,
        nodeScope: order.nodeScope,
        validAfter: order.validAfter,
        validBefore: order.validBefore,
        captureDeadline: order.captureDeadline,
        nonce: order.nonce,
        r,
        vs,
        amount: AMOUNT,
        node: 0,
        receiptHash: B256::repeat_byte(0xba),
    };
    (NodeRef { nodeId: node, version: known.version }, row)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unproven_money_goes_back_and_proven_money_stays() {
    let net = Net::up_with(periods()).await;
    let network = net.devnet.deployment.network.clone();
    let (base, game) = (&net.devnet.chains.base, network.base.dispute_game);
    let mut config = net.devnet.config.clone();
    config.disputes.challenge = true;
    let mut keeper = Keeper::start_with(&net, &config, None);
    let payer = Wallet::funded(&net, "e2e-proven").await;
    let (mut rogue, rogue_id) = rogue(&net).await;
    let victim = Wallet::funded_for(&net, "e2e-victim", rogue_id).await;
    keeper.ready(&net).await;

    // The honest keeper settles; the rogue one settles what nobody answered.
    let honest = payer.order(&net, "Is this one proven?", false);
    let (status, answer) = hand_in(&net, &honest, true).await.expect("an answer");
    assert_eq!(status, 200, "{answer}\n{}", net.log_tail());
    let (order, request) = victim.draft(&net, "Is this one?", B256::ZERO);
    let order = Order { keeperId: rogue_id, ..order };
    let signed = victim.sign(&net, &order, &request);
    let (node, row) = row(&net, &order, &signed).await;
    let call = settleBatchCall {
        keeperId: rogue_id,
        token: USDC,
        nodes: vec![node],
        rows: vec![row],
        ogRoot: B256::ZERO,
        blobId: Bytes::new(),
    };
    rogue.call(network.base.ledger, &call).await.unwrap();
    rogue.settle().await.unwrap();
    net.wait_for(&[honest.id], "settled", Duration::from_secs(60)).await;

    // A stranger doubts the honest one, by hand; the keeper answers and earns the bond.
    let seen = net.observe().await;
    let batch_of = |keeper: B256| {
        let batch = seen.batches.iter().find(|batch| batch.event.record.keeperId == keeper);
        batch.map(|batch| batch.event.batchId).expect("a batch")
    };
    let (ours, theirs) = (batch_of(network.keeper.id), batch_of(rogue_id));
    let stranger = Key::of("e2e-doubter").unwrap();
    fund(&net.devnet.chains, stranger.address()).await.unwrap();
    let said = quittance(&net, &stranger, &["challenge", &ours.to_string(), "--row", "0"]);
    assert_eq!(said["challenges"][0]["row"], 0, "{said}");
    let answered = event::<Answered>(&net, game, |event| event.batchId == ours).await;
    assert_eq!(answered.answerer, net.devnet.keys.keeper_base.address());
    let won = quittance(&net, &net.devnet.keys.keeper_base, &["bonds", "--dry-run"]);
    assert_eq!(won["amount"].as_str(), Some(answered.bond.to_string().as_str()), "{won}");

    // The keeper has found the rogue batch by itself; nobody can answer, so it is slashed.
    let challenged = event::<Challenged>(&net, game, |event| event.batchId == theirs).await;
    assert_eq!(challenged.challenger, net.devnet.keys.keeper_base.address());
    let unproven = event::<Unproven>(&net, game, |event| event.batchId == theirs).await;
    let slashed = events::<Slashed>(&net, network.base.keeper_registry).await;
    assert_eq!(slashed.len(), 1);
    assert_eq!((slashed[0].keeperId, slashed[0].amount), (rogue_id, unproven.slashed));
    assert!(slashed[0].amount > 0);

    // Its payer gets everything back; the node of the proven row is paid.
    let deadline = Instant::now() + Duration::from_secs(120);
    let free = || async {
        let call = InferenceEscrow::accountCall { owner: victim.address(), token: USDC };
        let account = read(base.provider(), network.base.escrow, &call).await.unwrap();
        (account.free, account.held)
    };
    let (before, held) = free().await;
    assert_eq!(held, AMOUNT, "held again, for a verified settlement only");
    loop {
        let mut anyone = Sender::new(base.provider().clone(), base.chain_id, stranger.clone()).await.unwrap();
        anyone.call(network.base.escrow, &reclaimCall { order: order.clone() }).await.unwrap();
        if anyone.settle().await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "not reclaimable");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(free().await, (before + AMOUNT, 0));
    net.wait_for(&[honest.id], "final", Duration::from_secs(150)).await;
    let seen = net.observe().await;
    assert!(seen.finalized.contains_key(&ours) && !seen.finalized.contains_key(&theirs));
    assert!(events::<Unproven>(&net, game).await.iter().all(|event| event.batchId == theirs));
    net.money_adds_up().await;
    let won =
        read(base.provider(), game, &Game::withdrawableCall { owner: net.devnet.keys.keeper_base.address() }).await;
    assert!(won.unwrap() > answered.bond, "its own bond is back as well");
}
