//! Digests and identities against test/vectors/eip712.json, which ethers made.

#![allow(clippy::unwrap_used)]

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy::sol_types::{SolCall, SolStruct, SolValue};
use quittance_bindings::typed::{self, Lock, Meter, Order, Receipt};
use quittance_bindings::{escrow, ledger};
use serde_json::Value;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../test/vectors/eip712.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty(), "{name}");
    list
}

fn b256(value: &Value) -> B256 {
    text(value).parse().unwrap()
}

fn address(value: &Value) -> Address {
    text(value).parse().unwrap()
}

fn number<T: TryFrom<U256>>(value: &Value) -> T
where
    T::Error: std::fmt::Debug,
{
    T::try_from(text(value).parse::<U256>().unwrap()).unwrap()
}

fn uint40(value: &Value) -> alloy::primitives::aliases::U40 {
    alloy::primitives::aliases::U40::from(number::<u64>(value))
}

fn order(m: &Value) -> Order {
    Order {
        payer: address(&m["payer"]),
        token: address(&m["token"]),
        maxAmount: number(&m["maxAmount"]),
        requestCommit: b256(&m["requestCommit"]),
        nodeScope: b256(&m["nodeScope"]),
        keeperId: b256(&m["keeperId"]),
        validAfter: uint40(&m["validAfter"]),
        validBefore: uint40(&m["validBefore"]),
        captureDeadline: uint40(&m["captureDeadline"]),
        nonce: number(&m["nonce"]),
    }
}

fn check<T: SolStruct>(vectors: &Value, vector: &Value, message: &T) {
    let domain = typed::domain(vector["chainId"].as_u64().unwrap(), address(&vector["verifyingContract"]));
    assert_eq!(domain.separator(), b256(&vector["domainSeparator"]));
    assert_eq!(T::eip712_encode_type(), text(&vector["typeString"]));
    assert_eq!(message.eip712_type_hash(), b256(&vector["typeHash"]));
    assert_eq!(message.eip712_hash_struct(), b256(&vector["structHash"]));
    let digest = message.eip712_signing_hash(&domain);
    assert_eq!(digest, b256(&vector["digest"]));

    let signer: PrivateKeySigner = text(&vectors["privateKey"]).parse().unwrap();
    assert_eq!(signer.address(), address(&vectors["signer"]));
    let signature = Bytes::from(signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec());
    assert_eq!(signature.to_string(), text(&vector["signature"]));
}

#[test]
fn orders_locks_and_meters_have_the_digests_of_ethers() {
    let vectors = vectors();
    for vector in list(&vectors, "orders") {
        let order = order(&vector["message"]);
        check(&vectors, vector, &order);
        let domain = typed::domain(vector["chainId"].as_u64().unwrap(), address(&vector["verifyingContract"]));
        assert_eq!(typed::order_id(&order, &domain), b256(&vector["digest"]));
    }
    for vector in list(&vectors, "locks") {
        let m = &vector["message"];
        let lock = Lock {
            payer: address(&m["payer"]),
            token: address(&m["token"]),
            keeperId: b256(&m["keeperId"]),
            amount: number(&m["amount"]),
            until: uint40(&m["until"]),
            nonce: number(&m["nonce"]),
        };
        check(&vectors, vector, &lock);
    }
    for vector in list(&vectors, "meters") {
        let m = &vector["message"];
        let meter = Meter {
            settlementId: b256(&m["settlementId"]),
            paymentId: b256(&m["paymentId"]),
            offset: number(&m["offset"]),
            amount: number(&m["amount"]),
        };
        check(&vectors, vector, &meter);
    }
}

#[test]
fn commitments_inferences_and_receipts_hash_alike() {
    let vectors = vectors();
    for vector in list(&vectors, "requestCommits") {
        let commit = typed::request_commit(b256(&vector["requestHash"]), b256(&vector["blinding"]));
        assert_eq!(commit, b256(&vector["requestCommit"]));
    }
    for vector in list(&vectors, "inferences") {
        let (request, output) = (b256(&vector["requestHash"]), b256(&vector["outputHash"]));
        let message = typed::message_hash(request, output, number(&vector["timestamp"]));
        assert_eq!(message, b256(&vector["messageHash"]));
        assert_eq!(typed::settlement_id(b256(&vector["nodeId"]), message), b256(&vector["settlementId"]));
    }
    for vector in list(&vectors, "receipts") {
        let m = &vector["message"];
        let receipt = Receipt {
            rail: number(&m["rail"]),
            paymentId: b256(&m["paymentId"]),
            payer: address(&m["payer"]),
            token: address(&m["token"]),
            offset: number(&m["offset"]),
            amount: number(&m["amount"]),
            nodeId: b256(&m["nodeId"]),
            nodeVersion: number(&m["nodeVersion"]),
            requestHash: b256(&m["requestHash"]),
            blinding: b256(&m["blinding"]),
            outputHash: b256(&m["outputHash"]),
            timestamp: uint40(&m["timestamp"]),
            salt: b256(&m["salt"]),
        };
        assert_eq!(Bytes::from(receipt.abi_encode()).to_string(), text(&vector["abiEncoded"]));
        assert_eq!(typed::receipt_hash(&receipt), b256(&vector["receiptHash"]));
    }
}

#[test]
fn signed_structs_encode_as_the_contracts_take_them() {
    let vectors = vectors();
    let order = order(&vectors["orders"][0]["message"]);
    let taken = escrow::InferenceEscrow::Order::from(order.clone());
    assert_eq!(taken.abi_encode(), order.abi_encode());
    assert_eq!(ledger::SettlementLedger::Order::from(order.clone()).abi_encode(), order.abi_encode());
    assert_eq!(Order::from(taken.clone()), order);
    let call = escrow::InferenceEscrow::reclaimCall { order: taken };
    assert_eq!(call.abi_encode()[4..], order.abi_encode());
}

#[test]
fn every_contract_has_creation_code() {
    use quittance_bindings::*;
    for (name, code) in [
        ("InferenceEscrow", &InferenceEscrow::BYTECODE),
        ("SettlementLedger", &SettlementLedger::BYTECODE),
        ("NodeRegistry", &NodeRegistry::BYTECODE),
        ("KeeperRegistry", &KeeperRegistry::BYTECODE),
        ("FeeSplitter", &FeeSplitter::BYTECODE),
        ("RsaPssVerifier", &RsaPssVerifier::BYTECODE),
        ("SettlementInbox", &SettlementInbox::BYTECODE),
        ("Deployer", &Deployer::BYTECODE),
        ("NeutralCaller", &NeutralCaller::BYTECODE),
        ("AccessManager", &AccessManager::BYTECODE),
        ("InferenceConsumer", &InferenceConsumer::BYTECODE),
        ("DevTEERegistry", &DevTEERegistry::BYTECODE),
        ("DevTEEInferenceVerifier", &DevTEEInferenceVerifier::BYTECODE),
        ("placed DevUSDC", &DevUSDC::DEPLOYED_BYTECODE),
        ("placed DevOPG", &DevOPG::DEPLOYED_BYTECODE),
        ("placed DevPermit2", &DevPermit2::DEPLOYED_BYTECODE),
        ("placed DevPrecompile0900", &DevPrecompile0900::DEPLOYED_BYTECODE),
    ] {
        assert!(code.len() > 200, "{name}: {} bytes", code.len());
    }
}
