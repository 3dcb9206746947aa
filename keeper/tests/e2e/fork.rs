//! A devnet whose Base goes on from another chain: it uses the contracts that it finds there, and the keeper settles payments on it.
//! The other chain is a local one: a live one cannot be reached from tests.

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use quittance::devnet::chains::Chains;
use quittance::devnet::deploy::{OPG, PERMIT2, USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance::devnet::x402::{
    BATCH_SETTLEMENT, ERC3009_COLLECTOR, EXACT_PROXY, MULTICALL3, PERMIT2_COLLECTOR, UPTO_PROXY,
};
use quittance::devnet::{Options, up};
use quittance_bindings::{
    DevERC3009DepositCollector, DevMulticall3, DevPermit2, DevPermit2DepositCollector, DevUSDC, DevX402BatchSettlement,
    DevX402ExactPermit2Proxy, DevX402UptoPermit2Proxy,
};
use serde_json::json;

use super::harness::{Keeper, Net};
use super::x402::{Payer, fresh, post, usdc, with_amount};

/// Contracts that the chain has before it is forked: like ours, but not byte for byte. OPG is not among them.
fn theirs() -> Vec<(Address, Bytes)> {
    let code = [
        (USDC, &DevUSDC::DEPLOYED_BYTECODE),
        (PERMIT2, &DevPermit2::DEPLOYED_BYTECODE),
        (MULTICALL3, &DevMulticall3::DEPLOYED_BYTECODE),
        (EXACT_PROXY, &DevX402ExactPermit2Proxy::DEPLOYED_BYTECODE),
        (UPTO_PROXY, &DevX402UptoPermit2Proxy::DEPLOYED_BYTECODE),
        (BATCH_SETTLEMENT, &DevX402BatchSettlement::DEPLOYED_BYTECODE),
        (ERC3009_COLLECTOR, &DevERC3009DepositCollector::DEPLOYED_BYTECODE),
        (PERMIT2_COLLECTOR, &DevPermit2DepositCollector::DEPLOYED_BYTECODE),
    ];
    code.into_iter().map(|(at, code)| (at, [code.as_ref(), &[0xfe]].concat().into())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_settles_through_the_contracts_that_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let live = Chains::start(dir.path(), 1).await.unwrap();
    for (at, code) in theirs() {
        live.base.call("anvil_setCode", json!([at, code])).await.unwrap();
    }
    let (somebody, rich) = (Key::of("somebody").unwrap(), fresh());
    fund(&live, somebody.address()).await.unwrap();
    let mut sender = Sender::new(live.base.provider().clone(), live.base.chain_id, somebody).await.unwrap();
    sender.mint(USDC, rich, U256::from(77)).await.unwrap();
    sender.settle().await.unwrap();

    let elsewhere = Options { fork: Some(live.opengradient.url.clone()), ..Options::default() };
    let refused = up(tempfile::tempdir().unwrap().path(), elsewhere).await.unwrap_err();
    assert!(refused.to_string().contains("is of chain 10740: name one of Base (8453)"), "{refused}");

    let net = Net::up_as(Options { fork: Some(live.base.url.clone()), ..Options::default() }).await;
    let provider = net.devnet.chains.base.provider();
    for (at, code) in theirs() {
        assert_eq!(provider.get_code_at(at).await.unwrap(), code, "{at}");
    }
    assert!(!provider.get_code_at(OPG).await.unwrap().is_empty(), "what is not there is ours");
    assert_eq!(usdc(&net, rich).await, 77, "the state is there");
    let minted = Filter::new().address(USDC).event_signature(DevUSDC::Transfer::SIGNATURE_HASH).from_block(0);
    let minted = provider.get_logs(&minted.topic1(Address::ZERO.into_word())).await.unwrap();
    assert_eq!(minted.len(), 1, "payers have money, and the token minted only what it had before");

    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let payer = Payer::of_devnet(&net);
    for scheme in ["exact", "permit2", "upto"] {
        let to = fresh();
        let request = if scheme == "exact" { payer.exact(to, 30) } else { payer.permit2(scheme == "upto", to, 30) };
        let amount = if scheme == "upto" { 20 } else { 30 };
        let settled = post(&net, "/settle", &with_amount(&request, &amount.to_string())).await;
        assert_eq!(settled["success"], json!(true), "{scheme}: {settled}\n{}", net.log_tail());
        assert_eq!(usdc(&net, to).await, amount, "{scheme}");
    }
    assert_eq!(live.base.provider().get_transaction_count(payer.key.address()).await.unwrap(), 0, "nothing went there");
}
