//! x402 payers without gas money: the facilitator brings what their approval needs, once, within its limits.

use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider;
use alloy::sol_types::SolCall;
use quittance::config::Config;
use quittance::crash;
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance::tx::{fees, signer};
use quittance::x402::contracts::{PERMIT2, Token};
use quittance_bindings::DevUSDC;
use serde_json::{Value, json};

use super::harness::{Keeper, Net};
use super::x402::{PATIENCE, Payer, fresh, post, sent, settle, try_post, usdc};

const GAS: u64 = 70_000;
const MAX_FEE: u128 = 4_000_000_000;
const AMOUNT: u128 = 600;

/// Payers with USDC and nothing to pay gas with.
async fn penniless<'a>(net: &'a Net, names: &[&str]) -> Vec<Payer<'a>> {
    let minter = Key::of("x402-minter").unwrap();
    let chains = &net.devnet.chains;
    fund(chains, minter.address()).await.unwrap();
    let mut sender = Sender::new(chains.base.provider().clone(), chains.base.chain_id, minter).await.unwrap();
    let keys: Vec<Key> = names.iter().map(|name| Key::of(*name).unwrap()).collect();
    for key in &keys {
        let call = DevUSDC::mintCall { to: key.address(), amount: U256::from(10 * AMOUNT) };
        sender.call(USDC, &call).await.unwrap();
    }
    sender.settle().await.unwrap();
    keys.into_iter().map(|key| Payer { net, account: key.address(), key }).collect()
}

/// A payment by Permit2 with the payer's approval, and the hash of that.
fn approving(payer: &Payer<'_>, to: Address, spender: Address) -> (Value, B256) {
    let payload = signer::Payload {
        chain_id: payer.chain_id(),
        nonce: 0,
        gas_limit: GAS,
        target: USDC,
        value: 0,
        calldata: Token::approveCall { spender, value: U256::MAX }.abi_encode().into(),
    };
    let fee = fees::Fee { max_fee: MAX_FEE, tip: 1_000_000_000 };
    let signed = signer::sign(&payer.key.signer, &payload, fee, 0).unwrap();
    let mut request = payer.permit2(false, to, AMOUNT);
    request["paymentPayload"]["extensions"] = json!({ "erc20ApprovalGasSponsoring": { "info": {
        "from": payer.account, "asset": USDC, "spender": PERMIT2, "amount": U256::MAX.to_string(),
        "signedTransaction": signed.raw, "version": "1" } } });
    (request, signed.tx_hash)
}

async fn ether(net: &Net, account: Address) -> U256 {
    net.devnet.chains.base.provider().get_balance(account).await.unwrap()
}

/// What was brought to a payer that had nothing: what it has, and what its approval took.
async fn brought(net: &Net, payer: &Payer<'_>, approval: B256) -> U256 {
    let receipt = net.devnet.chains.base.provider().get_transaction_receipt(approval).await.unwrap().unwrap();
    ether(net, payer.account).await + U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price)
}

async fn extensions(net: &Net) -> Value {
    let answer = net.http.get(format!("{}/supported", net.url())).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["extensions"].clone()
}

fn exactly_once() -> U256 {
    U256::from(GAS) * U256::from(MAX_FEE)
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_approvals_without_gas_money_are_paid_for() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    assert!(extensions(&net).await.as_array().unwrap().contains(&json!("erc20ApprovalGasSponsoring")));
    let payers = penniless(&net, &["x402-penniless", "x402-other"]).await;
    let [payer, other] = payers.as_slice() else { panic!() };
    let before = sent(&net).await;

    let (elsewhere, _) = approving(payer, fresh(), USDC);
    let refused = settle(&net, &elsewhere).await;
    assert_eq!(refused["errorReason"], json!("erc20_approval_tx_wrong_spender"), "{refused}");
    let to = fresh();
    let (request, approval) = approving(payer, to, PERMIT2);
    let (mut stolen, _) = approving(other, to, PERMIT2);
    stolen["paymentPayload"]["extensions"]["erc20ApprovalGasSponsoring"]["info"]["from"] = json!(payer.account);
    let refused = settle(&net, &stolen).await;
    assert_eq!(refused["errorReason"], json!("erc20_approval_from_mismatch"), "{refused}");
    assert_eq!(sent(&net).await, before);

    let verified = post(&net, "/verify", &request).await;
    assert_eq!(verified["isValid"], json!(true), "{verified}");
    assert_eq!((ether(&net, payer.account).await, sent(&net).await), (U256::ZERO, before), "to verify costs nothing");
    // Two payments with one approval, and each of them twice at once.
    let also = fresh();
    let mut second = payer.permit2(false, also, 1);
    second["paymentPayload"]["extensions"] = request["paymentPayload"]["extensions"].clone();
    let answers = futures_util::future::join_all([&request, &request, &second, &second].map(|one| settle(&net, one)));
    let answers = answers.await;
    for answer in &answers {
        assert_eq!(answer["success"], json!(true), "{answer}\n{}", net.log_tail());
    }
    assert_eq!((&answers[0], &answers[2]), (&answers[1], &answers[3]));
    assert_eq!((usdc(&net, to).await, usdc(&net, also).await), (AMOUNT, 1));
    assert_eq!(brought(&net, payer, approval).await, exactly_once());
    // From then on the payer needs nothing.
    let later = fresh();
    let settled = settle(&net, &payer.permit2(false, later, 2)).await;
    assert_eq!((&settled["success"], usdc(&net, later).await), (&json!(true), 2), "{settled}");
    assert_eq!(brought(&net, payer, approval).await, exactly_once());
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_gas_money_has_limits_that_survive_a_restart() {
    let net = Net::up().await;
    let with = |change: &dyn Fn(&mut quittance::config::x402::Sponsor)| -> Config {
        let mut config = net.devnet.config.clone();
        change(&mut config.x402.networks[0].sponsor);
        config
    };
    let payers = penniless(&net, &["x402-first", "x402-second"]).await;
    let [first, second] = payers.as_slice() else { panic!() };
    // Room for one approval and what it costs to bring its gas money, not for two.
    let each = u64::try_from(exactly_once()).unwrap();
    let config = with(&|sponsor| sponsor.day_wei = 2 * each - 1);
    let mut keeper = Keeper::start_with(&net, &config, None);
    keeper.ready(&net).await;
    let (request, approval) = approving(first, fresh(), PERMIT2);
    let settled = settle(&net, &request).await;
    assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    assert_eq!(brought(&net, first, approval).await, exactly_once());
    keeper.kill();
    let mut keeper = Keeper::start_with(&net, &config, None);
    keeper.ready(&net).await;
    let to = fresh();
    let (request, approval) = approving(second, to, PERMIT2);
    let before = sent(&net).await;
    for (route, member) in [("/verify", "invalidReason"), ("/settle", "errorReason")] {
        let refused = post(&net, route, &request).await;
        assert_eq!(refused[member], json!("gas_sponsoring_limit_reached"), "{refused}");
    }
    assert_eq!((ether(&net, second.account).await, sent(&net).await), (U256::ZERO, before));
    keeper.kill();
    let off = with(&|sponsor| sponsor.approvals = false);
    let mut keeper = Keeper::start_with(&net, &off, None);
    keeper.ready(&net).await;
    assert!(!extensions(&net).await.as_array().unwrap().contains(&json!("erc20ApprovalGasSponsoring")));
    let refused = post(&net, "/verify", &request).await;
    assert_eq!(refused["invalidReason"], json!("erc20_approval_tx_failed"), "{refused}");
    keeper.kill();
    // Its payer's share is used up neither.
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let settled = settle(&net, &request).await;
    assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    assert_eq!((usdc(&net, to).await, brought(&net, second, approval).await), (AMOUNT, exactly_once()));
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_gas_money_is_brought_once_whenever_it_is_killed() {
    let net = Net::up().await;
    let [sending, approved] = crash::SPONSORED;
    let points =
        [crash::X402[0], "after_persist_before_send", "after_send_before_mark", "after_include", sending, approved];
    let payers = penniless(&net, &points.map(|point| point)).await;
    for (point, payer) in points.into_iter().zip(&payers) {
        let to = fresh();
        let (request, approval) = approving(payer, to, PERMIT2);
        let mut keeper = Keeper::start(&net, Some(point));
        if keeper.ready_or_ended(&net).await {
            // Whatever it answers: it ends at the point.
            let _ = try_post(&net, "/settle", &request).await;
        }
        assert!(keeper.ended(PATIENCE).await.is_some(), "{point} was not passed\n{}", net.log_tail());
        let mut keeper = Keeper::start(&net, None);
        keeper.ready(&net).await;
        let settled = settle(&net, &request).await;
        assert_eq!(settled["success"], json!(true), "{point}: {settled}\n{}", net.log_tail());
        assert_eq!(settle(&net, &request).await, settled, "{point}");
        assert_eq!(usdc(&net, to).await, AMOUNT, "{point}: paid once");
        assert_eq!(brought(&net, payer, approval).await, exactly_once(), "{point}: brought once");
        keeper.kill();
    }
}
