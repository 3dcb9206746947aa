//! x402 payments through the real keeper: signed as clients sign, settled through the forwarder, checked on the chain.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolStruct, SolValue, eip712_domain};
use quittance::crash;
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance::tx::{fees, signer};
use quittance::x402::contracts::batch::{ChannelConfig, Voucher};
use quittance::x402::contracts::{
    ERC3009_COLLECTOR, EXACT_PROXY, ExactProxy, PERMIT2, ReceiveWithAuthorization, Token, TokenPermissions,
    TransferWithAuthorization, UPTO_PROXY, UptoProxy,
};
use quittance::x402::{channel, permit2};
use quittance_bindings::DevUSDC;
use serde_json::{Value, json};

use super::harness::{Keeper, Net, now};
use super::x402_extensions;

/// Longer than any of it may take on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

pub(super) struct Payer<'a> {
    pub net: &'a Net,
    /// Signs.
    pub key: Key,
    /// Whose money it is: the key's own account, or a wallet's.
    pub account: Address,
}

/// An address that nobody has used.
pub(super) fn fresh() -> Address {
    Address::from_slice(&rand::random::<[u8; 20]>())
}

impl<'a> Payer<'a> {
    /// The devnet's payer: it has USDC and has approved Permit2.
    pub fn of_devnet(net: &'a Net) -> Self {
        let key = net.devnet.keys.x402.payer.clone();
        Self { net, account: key.address(), key }
    }

    /// A payer with so many units of USDC.
    pub async fn with(net: &'a Net, name: &str, amount: u128) -> Self {
        let key = Key::of(name).unwrap();
        fund(&net.devnet.chains, key.address()).await.unwrap();
        let base = &net.devnet.chains.base;
        let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await.unwrap();
        if amount > 0 {
            let call = DevUSDC::mintCall { to: key.address(), amount: U256::from(amount) };
            sender.call(USDC, &call).await.unwrap();
        }
        sender.settle().await.unwrap();
        Self { net, account: key.address(), key }
    }

    pub fn chain_id(&self) -> u64 {
        self.net.devnet.config.base.chain_id
    }

    pub(super) fn sign(&self, digest: B256) -> String {
        format!("0x{}", hex::encode(self.key.signer.sign_hash_sync(&digest).unwrap().as_bytes()))
    }

    fn request(&self, scheme: &str, to: Address, amount: u128, extra: Value, payload: Value) -> Value {
        let asked = json!({ "scheme": scheme, "network": format!("eip155:{}", self.chain_id()), "amount": amount.to_string(),
            "asset": USDC, "payTo": to, "maxTimeoutSeconds": 600, "extra": extra });
        json!({ "x402Version": 2, "paymentRequirements": asked,
            "paymentPayload": { "x402Version": 2, "accepted": asked, "payload": payload,
                "resource": { "url": "https://seller.example/paid" } } })
    }

    /// `exact` by EIP-3009.
    pub fn exact(&self, to: Address, amount: u128) -> Value {
        let message = TransferWithAuthorization {
            from: self.account,
            to,
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: U256::from(now() + 600),
            nonce: rand::random::<[u8; 32]>().into(),
        };
        let domain = eip712_domain! {
            name: "USD Coin", version: "2", chain_id: self.chain_id(), verifying_contract: USDC,
        };
        let payload = json!({
            "authorization": { "from": message.from, "to": to, "value": amount.to_string(), "validAfter": "0",
                "validBefore": message.validBefore.to_string(), "nonce": message.nonce },
            "signature": self.sign(message.eip712_signing_hash(&domain)),
        });
        self.request("exact", to, amount, json!({ "name": "USD Coin", "version": "2" }), payload)
    }

    /// `exact` or `upto` by Permit2.
    pub fn permit2(&self, upto: bool, to: Address, amount: u128) -> Value {
        let permitted = TokenPermissions { token: USDC, amount: U256::from(amount) };
        let nonce = U256::from_be_bytes(rand::random::<[u8; 32]>());
        let deadline = U256::from(now() + 600);
        let facilitator = self.net.devnet.deployment.contracts.x402.forwarder;
        let domain = permit2::domain(self.chain_id());
        let (digest, spender) = if upto {
            let witness = UptoProxy::Witness { to, facilitator, validAfter: U256::ZERO };
            let message =
                UptoProxy::PermitWitnessTransferFrom { permitted, spender: UPTO_PROXY, nonce, deadline, witness };
            (message.eip712_signing_hash(&domain), UPTO_PROXY)
        } else {
            let witness = ExactProxy::Witness { to, validAfter: U256::ZERO };
            let message =
                ExactProxy::PermitWitnessTransferFrom { permitted, spender: EXACT_PROXY, nonce, deadline, witness };
            (message.eip712_signing_hash(&domain), EXACT_PROXY)
        };
        let mut witness = json!({ "to": to, "validAfter": "0" });
        let mut extra = json!({ "name": "USD Coin", "version": "2", "assetTransferMethod": "permit2" });
        if upto {
            witness["facilitator"] = json!(facilitator);
            extra["facilitatorAddress"] = json!(facilitator);
        }
        let payload = json!({
            "permit2Authorization": { "from": self.account, "spender": spender, "nonce": nonce.to_string(),
                "permitted": { "token": USDC, "amount": amount.to_string() }, "deadline": deadline.to_string(),
                "witness": witness },
            "signature": self.sign(digest),
        });
        self.request(if upto { "upto" } else { "exact" }, to, amount, extra, payload)
    }
}

/// Posts; whatever comes must be 200 with the members that clients insist on.
pub(super) async fn post(net: &Net, route: &str, body: &Value) -> Value {
    try_post(net, route, body).await.unwrap_or_else(|| panic!("no answer\n{}", net.log_tail()))
}

/// Settles, and asks again while the result is late or nothing could be sent.
pub(super) async fn settle(net: &Net, body: &Value) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let answer = post(net, "/settle", body).await;
        let late =
            ["settlement_pending", "unexpected_settle_error"].iter().any(|late| answer["errorReason"] == json!(late));
        if !late || std::time::Instant::now() > deadline {
            return answer;
        }
    }
}

pub(super) async fn try_post(net: &Net, route: &str, body: &Value) -> Option<Value> {
    let request = net.http.post(format!("{}{route}", net.url())).json(body).timeout(PATIENCE);
    let answer = request.send().await.ok()?;
    assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().await.unwrap());
    let answer: Value = answer.json().await.ok()?;
    if route == "/settle" {
        assert!(answer["transaction"].is_string() && answer["network"].is_string(), "{answer}");
    }
    Some(answer)
}

pub(super) fn with_amount(request: &Value, amount: &str) -> Value {
    let mut request = request.clone();
    request["paymentRequirements"]["amount"] = json!(amount);
    request
}

pub(super) async fn usdc(net: &Net, owner: Address) -> u128 {
    let contract = DevUSDC::new(USDC, net.devnet.chains.base.provider());
    contract.balanceOf(owner).call().await.unwrap().try_into().unwrap()
}

/// Transactions that the forwarder's keys have sent.
pub(super) async fn sent(net: &Net) -> u64 {
    let mut sum = 0;
    for key in &net.devnet.keys.x402.lanes {
        sum += net.devnet.chains.base.provider().get_transaction_count(key.address()).await.unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_payments_are_settled_once_and_answered_alike() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let payer = Payer::of_devnet(&net);
    let supported: Value = net.http.get(format!("{}/supported", net.url())).send().await.unwrap().json().await.unwrap();
    let kinds: BTreeSet<(u64, String)> = supported["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (kind["x402Version"].as_u64().unwrap(), kind["scheme"].as_str().unwrap().to_owned()))
        .collect();
    for kind in [(1, "exact"), (2, "exact"), (2, "upto")] {
        assert!(kinds.contains(&(kind.0, kind.1.to_owned())), "{supported}");
    }

    each_scheme(&net, &payer).await;
    upto_for_nothing(&net, &payer).await;
    fifty_at_once(&net, &payer).await;
    nothing_is_sent_for_an_empty_wallet(&net).await;
    two_that_drain_one_balance(&net).await;
    what_cannot_be_read(&net, &payer).await;
    an_approval_that_comes_along(&net).await;
    listed_for_accounts(&net, &payer).await;
    x402_extensions::play(&net, &payer).await;
}

/// A payer that has not approved Permit2 sends its approval along.
async fn an_approval_that_comes_along(net: &Net) {
    let payer = Payer::with(net, "x402-approves", 1_000).await;
    let to = fresh();
    let mut request = payer.permit2(false, to, 600);
    let refused = post(net, "/verify", &request).await;
    assert_eq!(refused["invalidReason"], json!("permit2_allowance_required"), "{refused}");
    let provider = net.devnet.chains.base.provider();
    let nonce = provider.get_transaction_count(payer.key.address()).await.unwrap();
    let call = Token::approveCall { spender: PERMIT2, value: U256::MAX };
    let envelope = signer::sign(
        &payer.key.signer,
        &signer::Payload {
            chain_id: payer.chain_id(),
            nonce,
            gas_limit: 70_000,
            target: USDC,
            value: 0,
            calldata: call.abi_encode().into(),
        },
        fees::Fee { max_fee: 20_000_000_000, tip: 1_000_000_000 },
        0,
    )
    .unwrap();
    request["paymentPayload"]["extensions"] = json!({ "erc20ApprovalGasSponsoring": { "info": {
        "from": payer.key.address(), "asset": USDC, "spender": PERMIT2, "amount": U256::MAX.to_string(),
        "signedTransaction": envelope.raw, "version": "1" } } });
    assert_eq!(post(net, "/verify", &request).await["isValid"], json!(true));
    let settled = post(net, "/settle", &request).await;
    assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    assert_eq!(usdc(net, to).await, 600);
}

async fn listed_for_accounts(net: &Net, payer: &Payer<'_>) {
    let get = async |query: &str| {
        let answer = net.http.get(format!("{}/receipts?rail=x402{query}", net.url())).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        answer.text().await.unwrap()
    };
    let list: Value = serde_json::from_str(&get("").await).unwrap();
    let amounts: Vec<&str> =
        list["receipts"].as_array().unwrap().iter().map(|line| line["amount"].as_str().unwrap()).collect();
    assert_eq!(amounts, ["10000", "20000", "1234", "0", "777", "1000", "600"], "{list}");
    let own = get(&format!("&payer={}&limit=2&format=csv", payer.key.address())).await;
    let lines: Vec<&str> = own.lines().collect();
    assert_eq!((lines.len(), lines[0].split(',').count(), lines[1].split(',').count()), (3, 18, 18), "{own}");
}

async fn each_scheme(net: &Net, payer: &Payer<'_>) {
    for scheme in ["exact", "permit2", "upto"] {
        let to = fresh();
        let (request, amount) = match scheme {
            "exact" => (payer.exact(to, 10_000), 10_000),
            "permit2" => (payer.permit2(false, to, 20_000), 20_000),
            _ => (payer.permit2(true, to, 50_000), 1_234),
        };
        let verified = post(net, "/verify", &request).await;
        assert_eq!(verified["isValid"], json!(true), "{scheme}: {verified}");
        assert_eq!(verified["payer"], json!(payer.key.address()));
        let asked = if scheme == "upto" { with_amount(&request, "1234") } else { request.clone() };
        let settled = post(net, "/settle", &asked).await;
        assert_eq!(settled["success"], json!(true), "{scheme}: {settled}\n{}", net.log_tail());
        assert_eq!(settled.get("amount").is_some(), scheme == "upto", "{settled}");
        assert_eq!(usdc(net, to).await, amount, "{scheme}");
        assert_eq!(post(net, "/settle", &asked).await, settled, "the first result");
        if scheme == "upto" {
            assert_eq!(post(net, "/settle", &with_amount(&request, "50000")).await, settled, "the first result");
        }
        let mut other = asked.clone();
        other["paymentPayload"]["resource"]["url"] = json!("https://seller.example/other");
        let refused = post(net, "/settle", &other).await;
        assert_eq!(refused["success"], json!(false), "one payment for two resources: {refused}");
        let verified = post(net, "/verify", &request).await;
        let spent = if scheme == "exact" { "invalid_exact_evm_nonce_already_used" } else { "permit2_invalid_nonce" };
        assert_eq!((&verified["isValid"], &verified["invalidReason"]), (&json!(false), &json!(spent)), "{verified}");
        assert_eq!(usdc(net, to).await, amount, "{scheme}: paid once");
    }
}

async fn upto_for_nothing(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    let before = sent(net).await;
    let request = payer.permit2(true, to, 50_000);
    let settled = post(net, "/settle", &with_amount(&request, "0")).await;
    assert_eq!((&settled["success"], &settled["amount"]), (&json!(true), &json!("0")), "{settled}");
    assert_eq!(settled["transaction"], json!(""));
    assert_eq!(post(net, "/settle", &with_amount(&request, "7")).await, settled, "spent for nothing");
    assert_eq!(post(net, "/verify", &request).await["isValid"], json!(false));
    assert_eq!((usdc(net, to).await, sent(net).await), (0, before));
    let beyond = post(net, "/settle", &with_amount(&payer.permit2(true, to, 5), "6")).await;
    assert_eq!(beyond["errorReason"], json!("invalid_upto_evm_payload_settlement_exceeds_amount"));
}

async fn fifty_at_once(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    let request = payer.exact(to, 777);
    let before = sent(net).await;
    let answers = futures_util::future::join_all((0..50).map(|_| post(net, "/settle", &request))).await;
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(answers[0]["success"], json!(true), "{}", answers[0]);
    assert_eq!((usdc(net, to).await, sent(net).await), (777, before + 1));
}

async fn nothing_is_sent_for_an_empty_wallet(net: &Net) {
    let empty = Payer::with(net, "x402-empty", 0).await;
    let before = sent(net).await;
    let exact = empty.exact(fresh(), 5);
    for route in ["/verify", "/settle"] {
        let answer = post(net, route, &exact).await;
        let reason = answer.get("invalidReason").or(answer.get("errorReason"));
        assert_eq!(reason, Some(&json!("invalid_exact_evm_insufficient_balance")), "{answer}");
    }
    let permit2 = post(net, "/settle", &empty.permit2(false, fresh(), 5)).await;
    assert_eq!(permit2["errorReason"], json!("permit2_insufficient_balance"), "{permit2}");
    let rich = Payer::with(net, "x402-no-allowance", 5).await;
    let upto = post(net, "/settle", &rich.permit2(true, fresh(), 5)).await;
    assert_eq!(upto["errorReason"], json!("permit2_allowance_required"), "{upto}");
    assert_eq!(sent(net).await, before);
}

async fn two_that_drain_one_balance(net: &Net) {
    let payer = Payer::with(net, "x402-thousand", 1_000).await;
    let (a, b) = (fresh(), fresh());
    let (first, second) = (payer.exact(a, 1_000), payer.exact(b, 1_000));
    let (first, second) = tokio::join!(post(net, "/settle", &first), post(net, "/settle", &second));
    let paid = (usdc(net, a).await, usdc(net, b).await);
    assert!(paid == (1_000, 0) || paid == (0, 1_000), "{paid:?}");
    let (won, lost) = if paid.0 == 1_000 { (first, second) } else { (second, first) };
    assert_eq!(won["success"], json!(true), "{won}");
    assert_eq!(lost["errorReason"], json!("invalid_exact_evm_insufficient_balance"), "{lost}");
}

async fn what_cannot_be_read(net: &Net, payer: &Payer<'_>) {
    for (body, reason) in [
        (json!({}), "invalid_payload"),
        (json!([1]), "invalid_payload"),
        (json!({ "x402Version": 2, "paymentPayload": {}, "paymentRequirements": {} }), "invalid_payload"),
    ] {
        assert_eq!(post(net, "/verify", &body).await["invalidReason"], json!(reason));
        assert_eq!(post(net, "/settle", &body).await["errorReason"], json!(reason));
    }
    let mut elsewhere = payer.exact(fresh(), 5);
    elsewhere["paymentRequirements"]["network"] = json!("eip155:999");
    assert_eq!(post(net, "/verify", &elsewhere).await["invalidReason"], json!("invalid_network"));
    let settled = post(net, "/settle", &elsewhere).await;
    assert_eq!((&settled["errorReason"], &settled["network"]), (&json!("invalid_network"), &json!("eip155:999")));
    let mut scheme = payer.exact(fresh(), 5);
    scheme["paymentRequirements"]["scheme"] = json!("gift");
    assert_eq!(post(net, "/verify", &scheme).await["invalidReason"], json!("unsupported_scheme"));
    let raw = net.http.post(format!("{}/verify", net.url())).body("{").send().await.unwrap();
    assert_eq!(raw.status().as_u16(), 200);
    let answer: Value = raw.json().await.unwrap();
    assert_eq!(answer["invalidReason"], json!("invalid_payload"));
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_killed_at_every_point_pays_once() {
    let net = Net::up().await;
    let payer = Payer::of_devnet(&net);
    let [accepted, queued, results, told] = crash::X402;
    let before_send = ["after_persist_before_send", "after_send_before_mark", "after_include"];
    for point in [accepted, queued].into_iter().chain(before_send).chain([results, told]) {
        let to = fresh();
        let request = payer.exact(to, 321);
        let mut keeper = Keeper::start(&net, Some(point));
        if keeper.ready_or_ended(&net).await {
            assert_eq!(try_post(&net, "/settle", &request).await, None, "{point}: it was to be killed");
        }
        assert!(keeper.ended(PATIENCE).await.is_some(), "{point} was not passed\n{}", net.log_tail());
        let mut keeper = Keeper::start(&net, None);
        keeper.ready(&net).await;
        let settled = post(&net, "/settle", &request).await;
        assert_eq!(settled["success"], json!(true), "{point}: {settled}\n{}", net.log_tail());
        assert_eq!(post(&net, "/settle", &request).await, settled, "{point}");
        assert_eq!(usdc(&net, to).await, 321, "{point}: paid once");
        keeper.kill();
    }
}

/// A channel of the devnet's payer.
struct Channel<'a> {
    payer: &'a Payer<'a>,
    config: ChannelConfig,
    id: B256,
}

impl<'a> Channel<'a> {
    fn new(payer: &'a Payer<'a>, receiver: Address, authorizer: Address) -> Self {
        let config = ChannelConfig {
            payer: payer.key.address(),
            payerAuthorizer: payer.key.address(),
            receiver,
            receiverAuthorizer: authorizer,
            token: USDC,
            withdrawDelay: U40::from(900),
            salt: rand::random::<[u8; 32]>().into(),
        };
        let id = channel::config::channel_id(&config, payer.chain_id());
        Self { payer, config, id }
    }

    fn json(&self) -> Value {
        let config = &self.config;
        json!({ "payer": config.payer, "payerAuthorizer": config.payerAuthorizer, "receiver": config.receiver,
            "receiverAuthorizer": config.receiverAuthorizer, "token": config.token, "withdrawDelay": 900, "salt": config.salt })
    }

    fn voucher(&self, max: u128) -> Value {
        let message = Voucher { channelId: self.id, maxClaimableAmount: max };
        let digest = message.eip712_signing_hash(&channel::config::domain(self.payer.chain_id()));
        json!({ "channelId": self.id, "maxClaimableAmount": max.to_string(), "signature": self.payer.sign(digest) })
    }

    fn request(&self, payload: Value) -> Value {
        let extra = json!({ "name": "USD Coin", "version": "2", "withdrawDelay": 900,
            "receiverAuthorizer": self.config.receiverAuthorizer });
        self.payer.request("batch-settlement", self.config.receiver, 10_000, extra, payload)
    }

    fn pay(&self, kind: &str, max: u128) -> Value {
        self.request(json!({ "type": kind, "channelConfig": self.json(), "voucher": self.voucher(max) }))
    }

    fn deposit(&self, amount: u128, max: u128) -> Value {
        let salt = B256::from(rand::random::<[u8; 32]>());
        let before = U256::from(now() + 600);
        let message = ReceiveWithAuthorization {
            from: self.config.payer,
            to: ERC3009_COLLECTOR,
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: before,
            nonce: keccak256((self.id, salt).abi_encode()),
        };
        let domain = eip712_domain! {
            name: "USD Coin", version: "2", chain_id: self.payer.chain_id(), verifying_contract: USDC,
        };
        let authorization = json!({ "validAfter": "0", "validBefore": before.to_string(), "salt": salt,
            "signature": self.payer.sign(message.eip712_signing_hash(&domain)) });
        let mut request = self.pay("deposit", max);
        request["paymentPayload"]["payload"]["deposit"] =
            json!({ "amount": amount.to_string(), "authorization": { "erc3009Authorization": authorization } });
        request
    }

    /// As a server's channel manager asks.
    fn ask(&self, payload: Value) -> Value {
        let mut request = self.payer.request("batch-settlement", self.config.receiver, 0, json!({}), payload);
        request["paymentPayload"].as_object_mut().unwrap().remove("resource");
        for pointer in ["/paymentRequirements", "/paymentPayload/accepted"] {
            request.pointer_mut(pointer).unwrap()["maxTimeoutSeconds"] = json!(0);
        }
        request
    }

    fn row(&self, max: u128, total: u128) -> Value {
        let voucher = self.voucher(max);
        json!({ "voucher": { "channel": self.json(), "maxClaimableAmount": max.to_string() },
            "signature": voucher["signature"], "totalClaimed": total.to_string() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_channel_from_deposit_to_refund() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let payer = Payer::of_devnet(&net);
    let supported: Value = net.http.get(format!("{}/supported", net.url())).send().await.unwrap().json().await.unwrap();
    let kinds = supported["kinds"].as_array().unwrap();
    let kind = kinds.iter().find(|kind| kind["scheme"] == "batch-settlement").unwrap();
    let authorizer: Address = kind["extra"]["receiverAuthorizer"].as_str().unwrap().parse().unwrap();
    let receiver = fresh();
    let channel = Channel::new(&payer, receiver, authorizer);

    let early = post(&net, "/verify", &channel.pay("voucher", 10_000)).await;
    assert_eq!(early["invalidReason"], json!("invalid_batch_settlement_evm_channel_not_found"), "{early}");
    let deposit = channel.deposit(50_000, 10_000);
    let verified = post(&net, "/verify", &deposit).await;
    assert_eq!((&verified["isValid"], &verified["extra"]["balance"]), (&json!(true), &json!("0")), "{verified}");
    let before = usdc(&net, payer.key.address()).await;
    let settled = post(&net, "/settle", &deposit).await;
    assert_eq!((&settled["success"], &settled["amount"]), (&json!(true), &json!("50000")), "{settled}");
    assert_eq!(settled["extra"]["channelState"]["balance"], json!("50000"), "{settled}");
    assert_eq!(post(&net, "/settle", &deposit).await, settled, "the first result");
    assert_eq!(usdc(&net, payer.key.address()).await, before - 50_000);

    for (max, reason) in
        [(20_000, None), (50_000, None), (50_001, Some("invalid_batch_settlement_evm_cumulative_exceeds_balance"))]
    {
        let verified = post(&net, "/verify", &channel.pay("voucher", max)).await;
        let found = verified.get("invalidReason").and_then(Value::as_str);
        assert_eq!(found, reason, "{verified}");
    }
    let mut forged = channel.pay("voucher", 20_000);
    forged["paymentPayload"]["payload"]["voucher"]["maxClaimableAmount"] = json!("20001");
    let refused = post(&net, "/verify", &forged).await;
    assert_eq!(refused["invalidReason"], json!("invalid_batch_settlement_evm_voucher_signature"), "{refused}");
    let refused = post(&net, "/settle", &channel.pay("voucher", 20_000)).await;
    assert_eq!(refused["errorReason"], json!("invalid_batch_settlement_evm_payload_type"), "{refused}");

    let payout = channel.ask(json!({ "type": "settle", "receiver": receiver, "token": USDC }));
    let nothing = post(&net, "/settle", &payout).await;
    assert_eq!(nothing["errorReason"], json!("invalid_batch_settlement_evm_nothing_to_settle"), "{nothing}");
    let claim = channel.ask(json!({ "type": "claim", "claims": [channel.row(20_000, 15_000)] }));
    let claimed = post(&net, "/settle", &claim).await;
    assert_eq!(claimed["success"], json!(true), "{claimed}");
    let sent_before = sent(&net).await;
    assert_eq!(post(&net, "/settle", &claim).await, claimed, "the first result");
    let less = channel.ask(json!({ "type": "claim", "claims": [channel.row(20_000, 14_000)] }));
    let less = post(&net, "/settle", &less).await;
    assert_eq!((&less["success"], &less["transaction"]), (&json!(true), &json!("")), "nothing to claim: {less}");
    assert_eq!(sent(&net).await, sent_before);
    let beyond = channel.ask(json!({ "type": "claim", "claims": [channel.row(60_000, 60_000)] }));
    let beyond = post(&net, "/settle", &beyond).await;
    assert_eq!(beyond["errorReason"], json!("invalid_batch_settlement_evm_claim_simulation_failed"), "{beyond}");
    let paid = post(&net, "/settle", &payout).await;
    assert_eq!((&paid["success"], &paid["amount"]), (&json!(true), &json!("15000")), "{paid}");
    assert_eq!(usdc(&net, receiver).await, 15_000);
    assert_eq!(post(&net, "/settle", &payout).await, paid, "the first result");

    let wish = post(&net, "/verify", &channel.pay("refund", 20_000)).await;
    assert_eq!(wish["isValid"], json!(true), "{wish}");
    let refund = channel
        .ask(json!({ "type": "refund", "channelConfig": channel.json(), "voucher": channel.voucher(20_000),
        "amount": "50000", "refundNonce": "0", "claims": [channel.row(20_000, 20_000)] }));
    let refunded = post(&net, "/settle", &refund).await;
    assert_eq!((&refunded["success"], &refunded["amount"]), (&json!(true), &json!("30000")), "{refunded}");
    assert_eq!(refunded["extra"]["channelState"]["refundNonce"], json!("1"), "{refunded}");
    assert_eq!(usdc(&net, payer.key.address()).await, before - 20_000);
    assert_eq!(post(&net, "/settle", &refund).await, refunded, "the first result");
    let paid = post(&net, "/settle", &payout).await;
    assert_eq!((&paid["success"], &paid["amount"]), (&json!(true), &json!("5000")), "{paid}");
    assert_eq!(usdc(&net, receiver).await, 20_000);
    let methods: Vec<String> =
        x402_extensions::files_hold(&net).await.into_iter().map(|file| file.payment.method).collect();
    assert_eq!(methods, ["deposit", "claim", "settle", "refund", "settle"]);
}
