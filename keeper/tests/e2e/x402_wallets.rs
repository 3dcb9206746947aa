//! x402 payers whose account is code: contract wallets (ERC-1271), wallets that are not there yet (ERC-6492), accounts that delegate
//! to code (EIP-7702). Each pays through the real keeper; balances and gas are read from the chain.

use alloy::consensus::{SignableTransaction, TxEip7702, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip7702::Authorization;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, Bytes, U256, b256};
use alloy::providers::Provider;
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolValue};
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance_bindings::{DevOPG, DevSmartWallet, DevSmartWalletFactory};
use serde_json::{Value, json};

use super::harness::{Keeper, Net};
use super::x402::{Payer, fresh, post, sent, usdc, with_amount};
use super::x402_extensions::files_hold;

/// The form of wallets with several owners: longer than a key's signature, so the token is called with bytes.
fn long(request: &Value) -> Value {
    let signature = signature_of(request);
    with_signature(request, (U256::ZERO, signature).abi_encode_params().into())
}

/// A signature of a wallet that is not there yet.
fn undeployed(request: &Value, factory: Address, data: Bytes) -> Value {
    let magic = b256!("6492649264926492649264926492649264926492649264926492649264926492");
    let wrapped = (factory, data, signature_of(request)).abi_encode_params();
    with_signature(request, [wrapped.as_slice(), magic.as_slice()].concat().into())
}

/// A signature by somebody else.
fn forged(request: &Value) -> Value {
    let key = Key::of("x402-forger").unwrap();
    let signature =
        key.signer.sign_hash_sync(&b256!("00000000000000000000000000000000000000000000000000000000000000ff"));
    with_signature(request, signature.unwrap().as_bytes().into())
}

fn signature_of(request: &Value) -> Bytes {
    request["paymentPayload"]["payload"]["signature"].as_str().unwrap().parse().unwrap()
}

fn with_signature(request: &Value, signature: Bytes) -> Value {
    let mut request = request.clone();
    request["paymentPayload"]["payload"]["signature"] = json!(signature);
    request
}

/// Verified and settled; exactly this moved.
async fn pays(payer: &Payer<'_>, request: &Value, to: Address, amount: u128) {
    let net = payer.net;
    let (before, sent_before) = (usdc(net, payer.account).await, sent(net).await);
    let verified = post(net, "/verify", request).await;
    assert_eq!((&verified["isValid"], &verified["payer"]), (&json!(true), &json!(payer.account)), "{verified}");
    let settled = post(net, "/settle", request).await;
    assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    assert_eq!((usdc(net, to).await, usdc(net, payer.account).await), (amount, before - amount));
    assert_eq!(post(net, "/settle", request).await, settled, "the first result");
    assert_eq!(sent(net).await, sent_before + 1, "one transaction");
}

/// Refused by both routes, and no gas was spent.
async fn refused(payer: &Payer<'_>, request: &Value, reason: &str, says: &str) {
    let net = payer.net;
    let before = (usdc(net, payer.account).await, sent(net).await);
    for (route, [name, message]) in
        [("/verify", ["invalidReason", "invalidMessage"]), ("/settle", ["errorReason", "errorMessage"])]
    {
        let answer = post(net, route, request).await;
        assert_eq!(answer[name], json!(reason), "{answer}");
        assert!(answer[message].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!((usdc(net, payer.account).await, sent(net).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_payers_whose_account_is_code() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    contract_wallet(&net).await;
    wallet_that_is_not_there_yet(&net).await;
    account_that_delegates(&net).await;
    let files = files_hold(&net).await;
    assert!(files.len() > 4, "{files:?}");
}

/// ERC-1271: the wallet decides.
async fn contract_wallet(net: &Net) {
    let wallet = net.devnet.deployment.contracts.x402.wallet;
    let payer = Payer { account: wallet, ..Payer::of_devnet(net) };
    for amount in [11, 12] {
        let to = fresh();
        let request = payer.exact(to, amount);
        let request = if amount == 12 { long(&request) } else { request };
        pays(&payer, &request, to, amount).await;
    }
    for upto in [false, true] {
        let to = fresh();
        let request = payer.permit2(upto, to, 20);
        // Less than what was signed for.
        let amount = if upto { 13 } else { 20 };
        let net_before = usdc(net, wallet).await;
        assert_eq!(post(net, "/verify", &request).await["isValid"], json!(true));
        let settled = post(net, "/settle", &with_amount(&long(&request), &amount.to_string())).await;
        assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
        assert_eq!((usdc(net, to).await, usdc(net, wallet).await), (amount, net_before - amount));
    }
    let request = payer.exact(fresh(), 14);
    let words = "the payer's wallet does not agree (ERC-1271)";
    for request in [forged(&request), long(&forged(&request)), with_signature(&request, Bytes::from(vec![1; 200]))] {
        refused(&payer, &request, "invalid_exact_evm_signature", words).await;
    }
    for upto in [false, true] {
        let request = payer.permit2(upto, fresh(), 15);
        for request in [forged(&request), long(&forged(&request))] {
            refused(&payer, &request, "invalid_permit2_signature", words).await;
        }
    }
}

/// ERC-6492: deployed by a factory that the keeper's configuration lists, then as above.
async fn wallet_that_is_not_there_yet(net: &Net) {
    let x402 = net.devnet.deployment.contracts.x402;
    let wallet = x402.counterfactual_wallet;
    let payer = Payer { account: wallet, ..Payer::of_devnet(net) };
    let create = |salt: u64| -> Bytes {
        let owner = payer.key.address();
        DevSmartWalletFactory::createAccountCall { owner, salt: U256::from(salt) }.abi_encode().into()
    };
    let provider = net.devnet.chains.base.provider();
    let to = fresh();
    let request = payer.exact(to, 16);

    refused(&payer, &request, "invalid_exact_evm_signature", "not by authorization.from").await;
    let stranger = fresh();
    let elsewhere = undeployed(&request, stranger, create(1));
    refused(&payer, &elsewhere, "eip6492_factory_not_allowed", &stranger.to_string()).await;
    let other = undeployed(&request, x402.wallet_factory, create(2));
    refused(&payer, &other, "invalid_exact_evm_signature", "").await;
    let forged = undeployed(&forged(&request), x402.wallet_factory, create(1));
    refused(&payer, &forged, "invalid_exact_evm_signature", "").await;
    assert!(provider.get_code_at(wallet).await.unwrap().is_empty());

    pays(&payer, &undeployed(&request, x402.wallet_factory, create(1)), to, 16).await;
    assert!(!provider.get_code_at(wallet).await.unwrap().is_empty(), "its wallet is there now");
    // Wallets go on wrapping their signatures, here in the long form.
    let to = fresh();
    let request = undeployed(&long(&payer.exact(to, 17)), x402.wallet_factory, create(1));
    pays(&payer, &request, to, 17).await;
}

/// EIP-7702: an account with a key and code. The code decides, here by asking whether its key signed.
async fn account_that_delegates(net: &Net) {
    let payer = Payer::with(net, "x402-delegates", 1_000).await;
    let base = &net.devnet.chains.base;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, payer.key.clone()).await.unwrap();
    let owner = (payer.account,).abi_encode_params();
    let code = sender.create("DevSmartWallet", &DevSmartWallet::BYTECODE, &owner).await.unwrap();
    sender
        .call(USDC, &DevOPG::approveCall { spender: quittance::x402::contracts::PERMIT2, value: U256::MAX })
        .await
        .unwrap();
    sender.settle().await.unwrap();
    delegate(net, &payer, code).await;
    for amount in [18, 19] {
        let to = fresh();
        let request = payer.exact(to, amount);
        pays(&payer, &if amount == 19 { long(&request) } else { request }, to, amount).await;
    }
    let to = fresh();
    pays(&payer, &payer.permit2(false, to, 20), to, 20).await;
    let words = "the payer's wallet does not agree (ERC-1271)";
    refused(&payer, &forged(&payer.exact(fresh(), 21)), "invalid_exact_evm_signature", words).await;

    // Code that knows no ERC-1271: neither the token nor Permit2 takes the key's word, so nothing is sent.
    delegate(net, &payer, net.devnet.deployment.contracts.x402.multicall3).await;
    refused(&payer, &payer.exact(fresh(), 22), "invalid_exact_evm_signature", words).await;
    refused(&payer, &payer.permit2(false, fresh(), 22), "invalid_permit2_signature", words).await;
    // Without a delegation the key alone decides again.
    delegate(net, &payer, Address::ZERO).await;
    let to = fresh();
    pays(&payer, &payer.exact(to, 23), to, 23).await;
}

/// Has the payer's account delegate to code, by a transaction of somebody else.
async fn delegate(net: &Net, payer: &Payer<'_>, code: Address) {
    let base = &net.devnet.chains.base;
    let sponsor = Key::of("x402-sponsor").unwrap();
    fund(&net.devnet.chains, sponsor.address()).await.unwrap();
    let provider = base.provider();
    let nonce = provider.get_transaction_count(payer.account).await.unwrap();
    let authorization = Authorization { chain_id: U256::from(base.chain_id), address: code, nonce };
    let signature = payer.key.signer.sign_hash_sync(&authorization.signature_hash()).unwrap();
    let mut tx = TxEip7702 {
        chain_id: base.chain_id,
        nonce: provider.get_transaction_count(sponsor.address()).await.unwrap(),
        gas_limit: 200_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000,
        to: sponsor.address(),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: vec![authorization.into_signed(signature)],
        input: Bytes::new(),
    };
    let signature = sponsor.signer.sign_transaction_sync(&mut tx).unwrap();
    let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
    let hash = *provider.send_raw_transaction(&raw).await.unwrap().tx_hash();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let receipt = loop {
        match provider.get_transaction_receipt(hash).await.unwrap() {
            Some(receipt) => break receipt,
            None => assert!(std::time::Instant::now() < deadline, "the delegation was not mined"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert!(receipt.status());
    let found = provider.get_code_at(payer.account).await.unwrap();
    let expected = if code.is_zero() { Vec::new() } else { [&[0xef, 0x01, 0x00], code.as_slice()].concat() };
    assert_eq!(found.as_ref(), expected, "the account delegates");
}
