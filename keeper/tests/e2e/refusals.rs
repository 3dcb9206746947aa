//! Everything that the keeper refuses, each with its stable code, over HTTP: nothing is stored, no gas is spent, and what is
//! good is settled afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance::cli::order_file::u40;
use quittance::cli::send::read;
use quittance::config::{Config, Node};
use quittance::crypto::RsaKey;
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance::store::completions::Usage;
use quittance::verify::meter::{Charge, rates};
use quittance_bindings::NodeRegistry;
use quittance_bindings::typed::{Order, domain, message_hash, settlement_id};
use serde_json::{Value, json};

use crate::harness::{Keeper, MAX, Net, Signed, Wallet, hand_in, hash_of, now};

const OUTPUT: &str = "A pushed answer.";

/// A node that the test runs itself: registered by its operator, metered by its own key, pushing what it signed.
struct Pusher {
    rsa: RsaKey,
    meter: Key,
    operator: Sender,
}

impl Pusher {
    async fn declared(net: &Net, name: &str) -> Self {
        let chains = &net.devnet.chains;
        let (operator, meter) = (Key::of(name).unwrap(), Key::of(format!("{name}-meter")).unwrap());
        fund(chains, operator.address()).await.unwrap();
        let rsa = tokio::task::spawn_blocking(RsaKey::generate).await.unwrap().unwrap();
        let registry = net.devnet.deployment.network.base.node_registry;
        let verifier = net.devnet.deployment.contracts.rsa_verifier;
        let payout = operator.address();
        let digest = NodeRegistry::declareDigestCall {
            nodeId: rsa.id(),
            verifier,
            operator: payout,
            meterKey: meter.address(),
            payout,
        };
        let digest = read(chains.base.provider(), registry, &digest).await.unwrap();
        let call = NodeRegistry::declareCall {
            verifier,
            key: rsa.spki().to_vec().into(),
            meterKey: meter.address(),
            payout,
            possession: rsa.sign(digest).unwrap().into(),
        };
        let mut operator = Sender::new(chains.base.provider().clone(), chains.base.chain_id, operator).await.unwrap();
        operator.call(registry, &call).await.unwrap();
        operator.settle().await.unwrap();
        Self { rsa, meter, operator }
    }

    /// What it hands in for an order, metered by itself.
    fn completion(&self, net: &Net, order: &Signed, request: B256, timestamp: u64) -> Value {
        let message = message_hash(request, keccak256(OUTPUT), timestamp);
        let network = &net.devnet.deployment.network;
        let ledger = domain(network.base.chain_id, network.base.ledger).separator();
        let charge = Charge {
            settlement_id: settlement_id(self.rsa.id(), message),
            order_id: order.id,
            max_amount: MAX,
            ledger,
        };
        let card = rates(&net.devnet.config.rates, self.rsa.id(), None, USDC).unwrap();
        let metered = charge.sign(&self.meter.signer, card, Usage { input: 3, output: 4 }).unwrap();
        json!({
            "orderId": order.id, "nodeId": self.rsa.id(), "requestHash": request, "output": OUTPUT,
            "timestamp": timestamp, "signature": BASE64.encode(self.rsa.sign(message).unwrap()),
            "usage": { "prompt_tokens": 3, "completion_tokens": 4 },
            "meter": { "offset": "0", "amount": metered.amount.to_string(),
                "signature": format!("0x{}", hex::encode(metered.signature)) },
        })
    }
}

/// The devnet's configuration with these nodes as well; nobody listens at their address.
fn serving(net: &Net, nodes: &[&Pusher]) -> Config {
    let mut config = net.devnet.config.clone();
    let url = Some("http://127.0.0.1:1".to_owned());
    config.nodes.extend(nodes.iter().map(|node| Node { id: node.rsa.id(), url: url.clone(), meter_key: None }));
    config
}

/// Hands an order in for later, again until the keeper knows its node.
async fn taken(net: &Net, order: &Signed) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = hand_in(net, order, false).await.expect("an answer");
        if answer.0 == 202 {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Sends bytes as they are; status and body.
async fn send(net: &Net, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Value) {
    let request = net.http.post(format!("{}{path}", net.url())).header("content-type", content_type).body(body);
    let answer = request.timeout(Duration::from_secs(60)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn post(net: &Net, path: &str, body: &Value) -> (u16, Value) {
    send(net, path, "application/json", body.to_string().into_bytes()).await
}

/// The code of a refusal, which must say what to do.
fn code((status, body): &(u16, Value)) -> String {
    assert!(*status >= 400, "{status} {body}");
    assert!(body["message"].as_str().is_some_and(|text| text.len() > 10), "{body}");
    body["code"].as_str().unwrap().to_owned()
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

fn without(body: &Value, name: &str) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove(name);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_code_and_costs_nothing() {
    let net = Net::up().await;
    let wallet = Wallet::funded(&net, "e2e-refused").await;
    let stranger = Wallet::funded(&net, "e2e-stranger").await;
    let node = Pusher::declared(&net, "e2e-pusher").await;
    let mut retired = Pusher::declared(&net, "e2e-retired").await;
    let mut keeper = Keeper::start_with(&net, &serving(&net, &[&node, &retired]), None);
    keeper.ready(&net).await;

    // Two orders wait for the nodes that they name; then one of these retires.
    let scoped = |question: &str, node: &Pusher| {
        let (order, request) = wallet.draft(&net, question, B256::ZERO);
        let order = Order { nodeScope: node.rsa.id(), ..order };
        (wallet.sign(&net, &order, &request), hash_of(&request))
    };
    let (waiting, request) = scoped("Who waits?", &node);
    let (stranded, stranded_request) = scoped("Who waits in vain?", &retired);
    let end = u40(now() + 60).unwrap();
    let (short, short_request) = wallet.draft(&net, "Does nobody answer?", B256::ZERO);
    let short = Order { nodeScope: node.rsa.id(), validBefore: end, captureDeadline: end, ..short };
    let late = wallet.sign(&net, &short, &short_request);
    for order in [&waiting, &stranded, &late] {
        taken(&net, order).await;
    }
    let registry = net.devnet.deployment.network.base.node_registry;
    retired.operator.call(registry, &NodeRegistry::retireCall { nodeId: retired.rsa.id() }).await.unwrap();
    retired.operator.settle().await.unwrap();
    let (public, _) = {
        let order = wallet.order(&net, "Who answers?", false);
        let answer = hand_in(&net, &order, true).await.expect("an answer");
        assert_eq!(answer.0, 200, "{answer:?}");
        (order, answer)
    };
    net.wait_for(&[public.id], "final", Duration::from_secs(120)).await;
    let store = net.store().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let recorded = "SELECT COUNT(*) FROM completions WHERE record_state = 'recorded'";
    while sqlx::query_scalar::<_, i64>(recorded).fetch_one(store.read()).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "not recorded\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    store.close().await;
    let gas_before = spent(&net).await;
    let stored_before = rows(&net).await;

    let mut seen = BTreeSet::new();
    let mut refused = |answer: (u16, Value), expected: &str| {
        assert_eq!(code(&answer), expected, "{answer:?}");
        seen.insert(expected.to_owned());
    };

    // Orders.
    let (good, body) = wallet.draft(&net, "What is refused?", B256::ZERO);
    let at = |seconds: u64| u40(seconds).unwrap();
    let time = now();
    for (order, expected) in [
        (Order { token: Address::repeat_byte(7), ..good.clone() }, "unsupported_token"),
        (Order { keeperId: B256::repeat_byte(9), ..good.clone() }, "other_keeper"),
        (Order { validAfter: at(time + 300), ..good.clone() }, "order_not_yet_valid"),
        (Order { validAfter: at(time - 4_000), ..good.clone() }, "order_expired"),
        (Order { validAfter: at(time - 200), validBefore: at(time - 100), ..good.clone() }, "order_expired"),
        (Order { requestCommit: B256::repeat_byte(1), ..good.clone() }, "request_mismatch"),
        (Order { nodeScope: B256::repeat_byte(9), ..good.clone() }, "unknown_node"),
        (Order { nodeScope: retired.rsa.id(), ..good.clone() }, "node_not_active"),
        (Order { maxAmount: u128::MAX, ..good.clone() }, "insufficient_balance"),
        (Order { keeperId: B256::ZERO, ..good.clone() }, "insufficient_balance"),
        (Order { maxAmount: 0, ..good.clone() }, "malformed"),
        (Order { nonce: U256::ZERO, ..good.clone() }, "nonce_spent"),
    ] {
        refused(post(&net, "/orders", &wallet.sign(&net, &order, &body).body).await, expected);
    }
    let signed = wallet.sign(&net, &good, &body).body;
    refused(post(&net, "/orders", &stranger.sign(&net, &good, &body).body).await, "bad_order_signature");
    refused(post(&net, "/orders", &without(&signed, "signature")).await, "bad_order_signature");
    refused(post(&net, "/orders", &with(&signed, "chainId", json!(1))).await, "wrong_chain");
    refused(post(&net, "/orders", &without(&signed, "request")).await, "request_missing");
    refused(post(&net, "/orders", &with(&signed, "more", json!(1))).await, "malformed");
    let odd = with(&signed["order"], "maxAmount", json!("0x10"));
    refused(post(&net, "/orders", &with(&signed, "order", odd)).await, "malformed");
    for bytes in [b"{".to_vec(), Vec::new(), b"null".to_vec(), vec![0xff; 40], vec![b'['; 60_000]] {
        refused(send(&net, "/orders", "application/json", bytes).await, "malformed");
    }
    refused(send(&net, "/orders", "text/plain", signed.to_string().into_bytes()).await, "wrong_content_type");
    refused(send(&net, "/orders", "application/json", vec![b' '; 64 * 1024 + 1]).await, "body_too_large");
    refused(send(&net, "/completions", "application/json", vec![b' '; 1024 * 1024 + 1]).await, "body_too_large");

    // Completions.
    let evidence = node.completion(&net, &waiting, request, time);
    let scope = net.devnet.nodes[0].id;
    let other_request = B256::repeat_byte(4);
    let cases = [
        (with(&evidence, "nodeId", json!(B256::repeat_byte(9))), "unknown_node"),
        (with(&evidence, "nodeId", json!(scope)), "node_outside_scope"),
        (retired.completion(&net, &stranded, stranded_request, time + 30), "node_not_active"),
        (node.completion(&net, &waiting, request, time - 100_000), "stale_timestamp"),
        (node.completion(&net, &waiting, request, time + 100_000), "future_timestamp"),
        (node.completion(&net, &waiting, request, time - 100), "timestamp_outside_order"),
        (node.completion(&net, &waiting, other_request, time), "request_mismatch"),
        (with(&evidence, "output", json!("Another answer.")), "bad_inference_signature"),
        (with(&evidence, "timestamp", json!(time + 1)), "bad_inference_signature"),
        (with(&evidence, "signature", json!(BASE64.encode([7; 256]))), "bad_inference_signature"),
        (with(&evidence, "signature", json!("no base64")), "malformed"),
        (with(&evidence, "outputHash", json!(B256::ZERO)), "output_mismatch"),
        (without(&evidence, "meter"), "meter_missing"),
        (with(&evidence, "meter", with(&evidence["meter"], "amount", json!("1"))), "bad_meter"),
        (with(&evidence, "meter", with(&evidence["meter"], "offset", json!("5"))), "bad_meter"),
        (
            with(&evidence, "meter", with(&evidence["meter"], "amount", json!((MAX + 1).to_string()))),
            "amount_over_maximum",
        ),
        (with(&evidence, "meter", json!("no")), "bad_meter"),
        (without(&evidence, "requestHash"), "request_missing"),
        (without(&without(&evidence, "output"), "outputHash"), "malformed"),
        (json!(5), "malformed"),
    ];
    for (body, expected) in &cases {
        refused(post(&net, "/completions", body).await, expected);
    }
    let all: Vec<&Value> = cases.iter().map(|(body, _)| body).collect();
    let (status, answers) = post(&net, "/completions", &json!(all)).await;
    assert_eq!(status, 200, "an array is answered item by item");
    for ((_, expected), answer) in cases.iter().zip(answers.as_array().unwrap()) {
        assert_eq!(answer["code"], json!(expected), "{answer}");
    }

    // Reads.
    let answer = net.http.get(format!("{}/orders/{}", net.url(), B256::repeat_byte(3))).send().await.unwrap();
    refused((answer.status().as_u16(), answer.json().await.unwrap()), "not_found");
    let answer = net.http.delete(format!("{}/orders", net.url())).send().await.unwrap();
    refused((answer.status().as_u16(), answer.json().await.unwrap()), "method_not_allowed");

    assert_eq!(spent(&net).await, gas_before, "no refusal costs gas");
    assert_eq!(rows(&net).await, stored_before, "no refusal stores anything");

    // What is good is taken after all of that, once, and a replay gets the first answer.
    let first = post(&net, "/completions", &evidence).await;
    assert_eq!((first.0, first.1["state"].as_str()), (200, Some("matched")), "{first:?}");
    assert_eq!(post(&net, "/completions", &evidence).await, first, "the first answer again");
    let (second, _) = scoped("Who waits?", &node);
    assert_eq!(hand_in(&net, &second, false).await.expect("an answer").0, 202);
    let stolen = node.completion(&net, &second, request, time);
    refused(post(&net, "/completions", &stolen).await, "settlement_replayed");
    net.wait_for(&[waiting.id], "final", Duration::from_secs(120)).await;
    let observed = net.observe().await;
    assert_eq!(observed.captures.get(&waiting.id).map_or(0, Vec::len), 1);
    assert!(!observed.captures.contains_key(&second.id));
    net.money_adds_up().await;

    // What nobody answered in time is closed.
    let deadline = Instant::now() + Duration::from_secs(150);
    while !matches!(net.order_state(late.id).await.as_deref(), Some("expired" | "refused")) {
        assert!(Instant::now() < deadline, "an order outlives its time\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    refused(post(&net, "/orders", &late.body).await, "order_closed");

    // Reads that are not open take a key that is known.
    keeper.kill();
    let mut closed = serving(&net, &[&node, &retired]);
    closed.api.open_reads = false;
    let mut keeper = Keeper::start_with(&net, &closed, None);
    keeper.ready(&net).await;
    for key in [None, Some("Bearer nobody"), Some("Basic eDp5")] {
        let mut request = net.http.get(format!("{}/receipts", net.url()));
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let answer = request.send().await.unwrap();
        refused((answer.status().as_u16(), answer.json().await.unwrap()), "unauthorized");
    }

    let unseen: Vec<&str> = quittance::error::Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| !seen.contains(*code) && !ELSEWHERE.contains(code))
        .collect();
    assert!(unseen.is_empty(), "codes that no test shows: {unseen:?}");
}

/// Codes that are no answer to what a caller sent, or have a test of their own.
const ELSEWHERE: [&str; 14] = [
    // A reason in a 202, shown by the tests of dispatch.
    "no_node_answered",
    // The tests of limits and back-pressure.
    "rate_limited",
    "overloaded",
    // Our fault, never the caller's.
    "internal",
    // The tests of gateways.
    "unknown_settlement_type",
    "bad_settlement_data",
    "fallback_tee_id",
    "fallback_hash",
    "signature_missing",
    "timestamp_missing",
    "bad_heartbeat",
    "heartbeat_refused",
    "heartbeats_off",
    // OpenGradient did not answer in time: nothing that a caller sent.
    "heartbeat_pending",
];

/// Transactions that the keeper has sent, by chain.
async fn spent(net: &Net) -> [u64; 2] {
    let (chains, keys) = (&net.devnet.chains, &net.devnet.keys);
    let base = chains.base.provider().get_transaction_count(keys.keeper_base.address());
    let opengradient = chains.opengradient.provider().get_transaction_count(keys.keeper_og.address());
    [base.await.unwrap(), opengradient.await.unwrap()]
}

/// Orders, completions and receipts in the store.
async fn rows(net: &Net) -> Vec<i64> {
    let store = net.store().await;
    let mut counts = Vec::new();
    for sql in ["SELECT COUNT(*) FROM orders", "SELECT COUNT(*) FROM completions", "SELECT COUNT(*) FROM receipts"] {
        counts.push(sqlx::query_scalar(sql).fetch_one(store.read()).await.unwrap());
    }
    store.close().await;
    counts
}
