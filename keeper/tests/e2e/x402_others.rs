//! x402 payments that somebody else sends: anyone may. They are not called failed when their money moved, nor paid when it did not.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::{SolCall, SolStruct, eip712_domain};
use quittance::crash;
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance::x402::contracts::{
    EXACT_PROXY, ExactProxy, PermitTransferFrom, TokenPermissions, TokenWhole, TransferWithAuthorization,
};
use serde_json::{Value, json};

use super::harness::{Keeper, Net};
use super::x402::{PATIENCE, Payer, fresh, post, sent, settle, try_post, usdc};
use super::x402_extensions::files_hold;

alloy::sol! {
    struct CancelAuthorization {
        address authorizer;
        bytes32 nonce;
    }
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature);
}

/// Somebody with gas money, who sends what others signed.
struct Stranger(Sender);

impl Stranger {
    async fn new(net: &Net) -> Self {
        let key = Key::of("x402-stranger").unwrap();
        let chains = &net.devnet.chains;
        fund(chains, key.address()).await.unwrap();
        Self(Sender::new(chains.base.provider().clone(), chains.base.chain_id, key).await.unwrap())
    }

    /// The transaction's hash, once it is mined.
    async fn call(&mut self, to: Address, call: &impl SolCall) -> String {
        self.0.call(to, call).await.unwrap();
        self.0.settle().await.unwrap()[0].transaction_hash.to_string()
    }

    async fn authorization(&mut self, request: &Value) -> String {
        let call = authorized(request);
        self.call(USDC, &call).await
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

/// The call that settles an `exact` payment.
fn authorized(request: &Value) -> TokenWhole::transferWithAuthorizationCall {
    let part = |name: &str| text(request, &format!("/paymentPayload/payload/authorization/{name}"));
    TokenWhole::transferWithAuthorizationCall {
        from: part("from").parse().unwrap(),
        to: part("to").parse().unwrap(),
        value: part("value").parse().unwrap(),
        validAfter: part("validAfter").parse().unwrap(),
        validBefore: part("validBefore").parse().unwrap(),
        nonce: part("nonce").parse().unwrap(),
        signature: text(request, "/paymentPayload/payload/signature").parse().unwrap(),
    }
}

fn nonce_of(request: &Value) -> B256 {
    text(request, "/paymentPayload/payload/authorization/nonce").parse().unwrap()
}

async fn is_valid(net: &Net, request: &Value) -> bool {
    post(net, "/verify", request).await["isValid"] == json!(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_what_somebody_else_settled_is_settled() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let payer = Payer::of_devnet(&net);
    let mut stranger = Stranger::new(&net).await;
    let before = sent(&net).await;

    // An authorization, and a permit through x402's proxy.
    let to = fresh();
    let request = payer.exact(to, 10_000);
    assert!(is_valid(&net, &request).await);
    let hash = stranger.authorization(&request).await;
    let settled = settle(&net, &request).await;
    assert_eq!((&settled["success"], &settled["transaction"]), (&json!(true), &json!(hash)), "{}", net.log_tail());
    assert_eq!(settle(&net, &request).await, settled, "the first result");
    assert!(!is_valid(&net, &request).await);
    assert_eq!(usdc(&net, to).await, 10_000);

    let to = fresh();
    let request = payer.permit2(false, to, 20_000);
    assert!(is_valid(&net, &request).await);
    let hash = stranger.call(EXACT_PROXY, &permitted(&request)).await;
    let settled = settle(&net, &request).await;
    assert_eq!((&settled["success"], &settled["transaction"]), (&json!(true), &json!(hash)), "{}", net.log_tail());
    assert_eq!(usdc(&net, to).await, 20_000);

    // It was spent before anybody showed it here: an old payment, perhaps.
    let old = payer.exact(fresh(), 30_000);
    stranger.authorization(&old).await;
    let refused = settle(&net, &old).await;
    assert_eq!(refused["errorReason"], json!("invalid_exact_evm_nonce_already_used"), "{refused}");

    // The payer takes it back.
    let cancelled = payer.exact(fresh(), 40_000);
    assert!(is_valid(&net, &cancelled).await);
    let domain =
        eip712_domain! { name: "USD Coin", version: "2", chain_id: payer.chain_id(), verifying_contract: USDC, };
    let message = CancelAuthorization { authorizer: payer.key.address(), nonce: nonce_of(&cancelled) };
    let signature = payer.sign(message.eip712_signing_hash(&domain)).parse().unwrap();
    let call = cancelAuthorizationCall { authorizer: message.authorizer, nonce: message.nonce, signature };
    stranger.call(USDC, &call).await;
    let refused = settle(&net, &cancelled).await;
    assert_eq!(refused["errorReason"], json!("invalid_exact_evm_nonce_already_used"), "{refused}");
    assert!(text(&refused, "/errorMessage").contains("cancelled"), "{refused}");
    assert_eq!(settle(&net, &cancelled).await["success"], json!(false));

    // The payer signs the same nonce, receiver and amount once more, and that is what is sent.
    let to = fresh();
    let (first, second) = (payer.exact(to, 50_000), payer.exact(to, 50_000));
    let message = TransferWithAuthorization {
        from: payer.key.address(),
        to,
        value: U256::from(50_000),
        validAfter: U256::ZERO,
        validBefore: U256::from(u32::MAX),
        nonce: nonce_of(&first),
    };
    let mut other = second;
    other["paymentPayload"]["payload"] = json!({
        "authorization": { "from": message.from, "to": to, "value": "50000", "validAfter": "0",
            "validBefore": message.validBefore.to_string(), "nonce": message.nonce },
        "signature": payer.sign(message.eip712_signing_hash(&domain)) });
    assert!(is_valid(&net, &first).await && is_valid(&net, &other).await);
    let hash = stranger.authorization(&other).await;
    let refused = settle(&net, &first).await;
    assert_eq!(refused["errorReason"], json!("invalid_exact_evm_nonce_already_used"), "{refused}");
    let settled = settle(&net, &other).await;
    assert_eq!((&settled["success"], &settled["transaction"]), (&json!(true), &json!(hash)), "{settled}");
    assert_eq!(sent(&net).await, before, "nothing was sent for any of them");
    assert_eq!(files_hold(&net).await.len(), 3);
}

/// The call that settles an `exact` payment by Permit2.
fn permitted(request: &Value) -> ExactProxy::settleCall {
    let part = |name: &str| text(request, &format!("/paymentPayload/payload/permit2Authorization/{name}"));
    let permitted = TokenPermissions {
        token: part("permitted/token").parse().unwrap(),
        amount: part("permitted/amount").parse().unwrap(),
    };
    let (nonce, deadline) = (part("nonce").parse().unwrap(), part("deadline").parse().unwrap());
    let witness = ExactProxy::Witness { to: part("witness/to").parse().unwrap(), validAfter: U256::ZERO };
    ExactProxy::settleCall {
        permit: PermitTransferFrom { permitted, nonce, deadline },
        owner: part("from").parse().unwrap(),
        witness,
        signature: text(request, "/paymentPayload/payload/signature").parse().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x402_what_somebody_else_settles_meanwhile_is_settled() {
    let net = Net::up().await;
    let payer = Payer::of_devnet(&net);
    let mut stranger = Stranger::new(&net).await;
    // Committed and not in a transaction; in a transaction that is not sent yet and in which it fails.
    for point in [crash::X402[0], "after_persist_before_send"] {
        let to = fresh();
        let request = payer.exact(to, 321);
        let mut keeper = Keeper::start(&net, Some(point));
        keeper.ready(&net).await;
        // Whatever it answers: it ends at the point.
        let _ = try_post(&net, "/settle", &request).await;
        assert!(keeper.ended(PATIENCE).await.is_some(), "{point} was not passed\n{}", net.log_tail());
        let hash = stranger.authorization(&request).await;
        let mut keeper = Keeper::start(&net, None);
        keeper.ready(&net).await;
        let settled = settle(&net, &request).await;
        let found = (&settled["success"], &settled["transaction"]);
        assert_eq!(found, (&json!(true), &json!(hash)), "{point}\n{}", net.log_tail());
        assert_eq!(usdc(&net, to).await, 321, "{point}: paid once");
        keeper.kill();
    }
}
