//! A gateway that names this keeper as its facilitator: proofs end on OpenGradient, heartbeats keep its node active.

use std::time::{Duration, Instant};

use alloy::primitives::{B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance::cli::send::read;
use quittance::crypto::RsaKey;
use quittance::devnet::keys::Key;
use quittance::devnet::sender::Sender;
use quittance_bindings::typed::{message_hash, settlement_id};
use quittance_bindings::{DevTEERegistry, SettlementInbox};
use serde_json::{Value, json};

use crate::harness::{Keeper, Net, now, request_of};

const PATIENCE: Duration = Duration::from_secs(120);

/// Answer of a node of the devnet, and what a gateway makes of it.
async fn asked(net: &Net, request: &Value) -> (Value, Value) {
    let url = format!("{}/v1/chat/completions", net.devnet.nodes[0].url());
    let answer: Value = net.http.post(url).json(request).send().await.unwrap().json().await.unwrap();
    let data = json!({
        "tee_id": answer["tee_id"], "input_hash": answer["tee_request_hash"], "output_hash": answer["tee_output_hash"],
        "tee_signature": answer["tee_signature"], "tee_timestamp": answer["tee_timestamp"],
        "timestamp": answer["tee_timestamp"],
    });
    (answer, data)
}

fn individual(request: &Value, answer: &Value, mut data: Value) -> Value {
    data["timestamp"] = json!(answer["tee_timestamp"].to_string());
    data["input"] = request.clone();
    data["output"] = answer.clone();
    data["eth_address"] = json!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
    data
}

async fn settle_data(net: &Net, kind: &str, data: &Value) -> (u16, Value) {
    let request = net.http.post(format!("{}/settle_data", net.url())).json(&json!({}));
    let request =
        request.header("x-settlement-type", kind).header("x-settlement-data", BASE64.encode(data.to_string()));
    let answer = request.timeout(Duration::from_secs(60)).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Takes a proof and gives its settlement id.
async fn taken(net: &Net, kind: &str, data: &Value) -> B256 {
    let (status, body) = settle_data(net, kind, data).await;
    assert_eq!(status, 200, "{body}\n{}", net.log_tail());
    body["settlementId"].as_str().unwrap().parse().unwrap()
}

async fn is_recorded(net: &Net, id: B256) -> bool {
    let call = SettlementInbox::recordedAtCall { settlementId: id };
    let inbox = net.devnet.deployment.network.opengradient.inbox;
    read(net.devnet.chains.opengradient.provider(), inbox, &call).await.unwrap() != alloy::primitives::Uint::ZERO
}

async fn recorded(net: &Net, ids: &[B256]) {
    let deadline = Instant::now() + PATIENCE;
    for id in ids {
        loop {
            let job = net.http.get(format!("{}/settle/{id}", net.url())).send().await.unwrap();
            let job: Value = job.json().await.unwrap();
            if job["status"] == "succeeded" {
                assert!(is_recorded(net, *id).await, "{job}");
                assert!(job["result"]["txHash"].is_string(), "{job}");
                break;
            }
            assert!(Instant::now() < deadline, "{job}\n{}", net.log_tail());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_of_gateways_are_recorded_once_bogus_ones_refused_and_none_lost() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;

    let (_, batch) = asked(&net, &request_of("What does a gateway send?")).await;
    let small = request_of("And with everything?");
    let (answer, data) = asked(&net, &small).await;
    let whole = individual(&small, &answer, data);
    // As long as a head may be: its item rides in one header.
    let large = request_of(&"x".repeat(700_000));
    let (answer, data) = asked(&net, &large).await;
    let large = individual(&large, &answer, data);
    assert!(BASE64.encode(large.to_string()).len() > 900_000);

    // Poison beside the good, at the same time.
    let mut forged = batch.clone();
    forged["output_hash"] = json!("11".repeat(32));
    let mut unsigned = batch.clone();
    unsigned["tee_signature"] = json!("0x");
    let mut stranger = batch.clone();
    stranger["tee_id"] = json!(B256::repeat_byte(7));
    let mut altered = whole.clone();
    altered["output"]["choices"][0]["message"]["content"] = json!("forged");
    let refusals = [
        ("batch", &forged, "bad_inference_signature"),
        ("batch", &unsigned, "signature_missing"),
        ("batch", &stranger, "unknown_node"),
        ("individual", &altered, "output_mismatch"),
    ];
    let refused = futures_util::future::join_all(refusals.iter().map(|(kind, data, _)| settle_data(&net, kind, data)));
    let good = [("batch", &batch), ("individual", &whole), ("individual", &large)];
    let good = futures_util::future::join_all(good.iter().map(|(kind, data)| taken(&net, kind, data)));
    let (refused, ids) = futures_util::future::join(refused, good).await;
    for ((_, _, code), (status, body)) in refusals.iter().zip(refused) {
        assert_eq!((status, body["code"].as_str()), (400, Some(*code)), "{body}");
        assert!(body["error"].is_string(), "{body}");
    }

    // Ten times at once, and after a `kill -9`: one inference.
    let again = futures_util::future::join_all((0..10).map(|_| settle_data(&net, "batch", &batch))).await;
    assert!(again.iter().all(|(status, body)| *status == 200 && body["known"] == true), "{again:?}");
    keeper.kill();
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    recorded(&net, &ids).await;
    let (status, body) = settle_data(&net, "batch", &batch).await;
    assert_eq!((status, &body["known"], &body["record"]), (200, &json!(true), &json!("recorded")), "{body}");
    let filter = Filter::new().event_signature(SettlementInbox::InferenceRecorded::SIGNATURE_HASH).from_block(0);
    let logs = net.devnet.chains.opengradient.provider().get_logs(&filter).await.unwrap();
    assert_eq!(logs.len(), ids.len(), "each once, and nothing else");
    net.money_adds_up().await;
}

/// Registers a node with OpenGradient only, as an enclave does that has just started.
async fn register(net: &Net, rsa: &RsaKey) {
    let chain = &net.devnet.chains.opengradient;
    let mut admin = Sender::new(chain.provider().clone(), chain.chain_id, Key::of("admin").unwrap()).await.unwrap();
    let call = DevTEERegistry::registerDevnetTEECall {
        owner: admin.address(),
        signingPublicKey: rsa.spki().to_vec().into(),
        tlsCertificate: Default::default(),
        paymentAddress: admin.address(),
        endpoint: "https://203.0.113.7".to_owned(),
        teeType: 0,
        pcrHash: keccak256([[0x50; 48], [0x51; 48], [0x52; 48]].concat()),
    };
    admin.call(net.devnet.deployment.network.opengradient.tee_registry, &call).await.unwrap();
    admin.settle().await.unwrap();
}

async fn active(net: &Net) -> Vec<B256> {
    let registry = net.devnet.deployment.network.opengradient.tee_registry;
    let call = DevTEERegistry::getActiveTEEsCall { teeType: 0 };
    let all = read(net.devnet.chains.opengradient.provider(), registry, &call).await.unwrap();
    all.iter().map(|tee| keccak256(&tee.publicKey)).collect()
}

/// Lets so many seconds pass on OpenGradient, and waits for a block that has them.
async fn pass(net: &Net, seconds: u64) {
    let chain = &net.devnet.chains.opengradient;
    let time = async || {
        let block = chain.provider().get_block(Default::default()).await.unwrap().unwrap();
        block.header.timestamp
    };
    let before = time().await;
    chain.call("evm_increaseTime", json!([seconds])).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while time().await < before + seconds {
        assert!(Instant::now() < deadline, "no block with the new time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn beat(net: &Net, rsa: &RsaKey, timestamp: u64) -> (u16, Value) {
    let message = keccak256([rsa.id().as_slice(), &U256::from(timestamp).to_be_bytes::<32>()].concat());
    let body = json!({
        "teeId": rsa.id(), "timestamp": timestamp.to_string(), "signature": BASE64.encode(rsa.sign(message).unwrap()),
        "contractAddress": net.devnet.deployment.network.opengradient.tee_registry,
    });
    let request = net.http.post(format!("{}/heartbeat", net.url())).json(&body).timeout(Duration::from_secs(60));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_keep_a_node_active_that_only_opengradient_knows() {
    let net = Net::up().await;
    let mut keeper = Keeper::start(&net, None);
    keeper.ready(&net).await;
    let rsa = RsaKey::generate().unwrap();
    register(&net, &rsa).await;
    assert!(active(&net).await.contains(&rsa.id()));

    // Its first proof comes before anybody told the keeper of the node.
    let (request, output, timestamp) = (keccak256("request"), keccak256("output"), now());
    let message = message_hash(request, output, timestamp);
    let data = json!({
        "tee_id": rsa.id(), "input_hash": request, "output_hash": output, "tee_timestamp": timestamp,
        "tee_signature": BASE64.encode(rsa.sign(message).unwrap()), "timestamp": timestamp,
    });
    let id = taken(&net, "batch", &data).await;
    assert_eq!(id, settlement_id(rsa.id(), message));

    // Just before everybody is too old.
    pass(&net, 1_700).await;
    let at = now() - 30;
    let answers = futures_util::future::join_all((0..5).map(|_| beat(&net, &rsa, at))).await;
    let hash = answers[0].1["txHash"].as_str().unwrap_or_else(|| panic!("{answers:?}\n{}", net.log_tail())).to_owned();
    for (status, answer) in &answers {
        assert_eq!((*status, answer["txHash"].as_str()), (200, Some(hash.as_str())), "{answer}");
    }
    let provider = net.devnet.chains.opengradient.provider();
    let deadline = Instant::now() + PATIENCE;
    let receipt = loop {
        match provider.get_transaction_receipt(hash.parse().unwrap()).await.unwrap() {
            Some(receipt) => break receipt,
            None => assert!(Instant::now() < deadline, "not mined\n{}", net.log_tail()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(receipt.status());
    assert_eq!(
        receipt.from.to_string(),
        answers[0].1["relayer"].as_str().unwrap().parse::<alloy::primitives::Address>().unwrap().to_string()
    );
    pass(&net, 1_000).await;
    assert_eq!(active(&net).await, [rsa.id()], "the others sent none");

    let (status, again) = beat(&net, &rsa, at).await;
    assert_eq!((status, again["txHash"].as_str()), (200, Some(hash.as_str())), "{again}");
    let (status, bogus) = beat(&net, &RsaKey::generate().unwrap(), at).await;
    assert_eq!((status, bogus["code"].as_str()), (400, Some("unknown_node")), "{bogus}");
    let filter = Filter::new().event_signature(DevTEERegistry::HeartbeatReceived::SIGNATURE_HASH).from_block(0);
    assert_eq!(provider.get_logs(&filter).await.unwrap().len(), 1);
    recorded(&net, &[id]).await;
}
