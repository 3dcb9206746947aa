//! Node evidence against vectors signed with OpenSSL, and everything that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::primitives::{B256, hex, keccak256};
use quittance::canonical::output::{EventReader, StreamedOutput, output_text};
use quittance::canonical::{Endpoint, canonical_request};
use quittance::crypto::RsaKey;
use quittance::error::Code;
use quittance::verify::completion::{Evidence, NodeKey, TimestampRules, check_completion, hash32, signature};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/tee.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn hash(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

fn key() -> NodeKey {
    NodeKey::parse(&bytes(&vectors()["key"]["spki"])).unwrap()
}

fn around(timestamp: u64) -> TimestampRules {
    TimestampRules {
        valid_after: timestamp - 10,
        valid_before: timestamp + 10,
        now: timestamp + 2,
        max_age: 60,
        max_ahead: 5,
    }
}

/// Evidence and output text of an entry, read the way a keeper does.
fn read(entry: &Value) -> (Evidence, String) {
    if let Some(body) = entry["response"].as_str() {
        let endpoint = if entry["endpoint"] == Endpoint::Chat.path() { Endpoint::Chat } else { Endpoint::Completions };
        let evidence = Evidence::from_response(&serde_json::from_str(body).unwrap()).unwrap();
        return (evidence, output_text(endpoint, body.as_bytes()).unwrap());
    }
    let mut output = StreamedOutput::default();
    for data in EventReader::default().push(entry["stream"].as_str().unwrap().as_bytes()).unwrap() {
        output.push(&data).unwrap();
    }
    assert!(output.is_done());
    let last = serde_json::from_slice(output.last_object().unwrap()).unwrap();
    (Evidence::from_response(&last).unwrap(), output.text().unwrap())
}

#[test]
fn evidence_of_openssl_verifies() {
    let key = key();
    assert_eq!(key.id(), hash(&vectors()["key"]["nodeId"]));
    for entry in vectors()["entries"].as_array().unwrap() {
        let name = &entry["name"];
        let candidates = canonical_request(entry["request"].as_str().unwrap().as_bytes()).unwrap();
        let canonical = candidates.iter().find(|found| found.variant.as_str() == entry["variant"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&canonical.bytes), entry["canonical"].as_str().unwrap(), "{name}");
        assert_eq!(canonical.hash, hash(&entry["requestHash"]), "{name}");
        assert_eq!(canonical.endpoint.path(), entry["endpoint"], "{name}");
        let (evidence, output) = read(entry);
        assert_eq!(output, entry["output"].as_str().unwrap(), "{name}");
        assert_eq!(keccak256(&output), hash(&entry["outputHash"]), "{name}");
        let timestamp = entry["timestamp"].as_u64().unwrap();
        let verified = check_completion(&evidence, canonical.hash, Some(&output), &key, &around(timestamp)).unwrap();
        assert_eq!(verified.message_hash, hash(&entry["messageHash"]), "{name}");
        assert_eq!(verified.settlement_id, hash(&entry["settlementId"]), "{name}");
        assert_eq!(evidence.settlement_id(), verified.settlement_id);
    }
}

#[test]
fn what_opengradient_does_not_sign_is_refused() {
    let key = key();
    let refused = |message: B256, signature: &[u8]| {
        assert_eq!(key.verify(message, signature).unwrap_err().code, Code::BadInferenceSignature);
    };
    for entry in vectors()["entries"].as_array().unwrap() {
        let (message, good) = (hash(&entry["messageHash"]), bytes(&entry["signature"]));
        key.verify(message, &good).unwrap();
        for salt in entry["wrongSalt"].as_array().unwrap() {
            refused(message, &bytes(salt));
        }
        refused(message, &bytes(&entry["wrongScheme"]));
        refused(message, &bytes(&entry["singleHash"]));
        refused(keccak256(message), &good);
        for bit in (0..2048).step_by(61) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            refused(message, &bad);
        }
        for bad in [&good[1..], &good[..255], &[good.as_slice(), &[0]].concat(), &[0; 256], &[0xff; 256], &[]] {
            refused(message, bad);
        }
    }
}

#[test]
fn only_keys_that_the_contracts_take_are_parsed() {
    for case in vectors()["keys"].as_array().unwrap() {
        assert_eq!(NodeKey::parse(&bytes(&case["spki"])).is_ok(), case["accepted"] == true, "{case}");
    }
    let good = bytes(&vectors()["key"]["spki"]);
    for bad in [&good[1..], &good[..293], &[good.as_slice(), &[0]].concat(), &[], &[0; 294]] {
        assert_eq!(NodeKey::parse(bad).unwrap_err().code, Code::Malformed);
    }
    // Every byte around the modulus has one legal value.
    for at in (0..33).chain(289..294) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(NodeKey::parse(&bad).is_err(), "byte {at}");
    }
    for (at, mask) in [(33, 0x80), (288, 1)] {
        let mut bad = good.clone();
        bad[at] &= !mask;
        assert!(NodeKey::parse(&bad).is_err(), "modulus too short or even");
    }
}

#[test]
fn each_lie_has_its_code() {
    let key = key();
    let entry = &vectors()["entries"][0];
    let (evidence, output) = read(entry);
    let request = evidence.request_hash;
    let rules = around(evidence.timestamp);
    let code = |evidence: &Evidence, request, output: Option<&str>, rules: &TimestampRules| {
        check_completion(evidence, request, output, &key, rules).unwrap_err().code
    };
    check_completion(&evidence, request, Some(&output), &key, &rules).unwrap();
    check_completion(&evidence, request, None, &key, &rules).unwrap();
    assert_eq!(code(&evidence, B256::ZERO, Some(&output), &rules), Code::RequestMismatch);
    assert_eq!(code(&evidence, request, Some("another answer"), &rules), Code::OutputMismatch);
    let other = Evidence { node_id: B256::ZERO, ..evidence.clone() };
    assert_eq!(code(&other, request, Some(&output), &rules), Code::UnknownNode);
    let later = Evidence { timestamp: evidence.timestamp + 1, ..evidence.clone() };
    assert_eq!(code(&later, request, Some(&output), &rules), Code::BadInferenceSignature);
    let hashed = Evidence { output_hash: B256::ZERO, ..evidence.clone() };
    assert_eq!(code(&hashed, request, None, &rules), Code::BadInferenceSignature);
    let t = evidence.timestamp;
    for (rules, expected) in [
        (TimestampRules { now: t - 6, ..rules }, Code::FutureTimestamp),
        (TimestampRules { now: t + 61, ..rules }, Code::StaleTimestamp),
        (TimestampRules { valid_after: t + 1, ..rules }, Code::TimestampOutsideOrder),
        (TimestampRules { valid_before: t - 1, ..rules }, Code::TimestampOutsideOrder),
    ] {
        assert_eq!(code(&evidence, request, Some(&output), &rules), expected);
    }
    for rules in [
        TimestampRules { now: t - 5, ..rules },
        TimestampRules { now: t + 60, ..rules },
        TimestampRules { valid_after: t, valid_before: t, ..rules },
    ] {
        check_completion(&evidence, request, Some(&output), &key, &rules).unwrap();
    }
    let endless = TimestampRules {
        valid_after: 0,
        valid_before: u64::MAX,
        now: u64::MAX,
        max_age: u64::MAX,
        max_ahead: u64::MAX,
    };
    assert_eq!(endless.check(1 << 40).unwrap_err().code, Code::FutureTimestamp, "does not fit a receipt");
    endless.check((1 << 40) - 1).unwrap();
}

#[test]
fn response_members_are_read_with_or_without_prefix() {
    let entry = &vectors()["entries"][0];
    let response: Value = serde_json::from_str(entry["response"].as_str().unwrap()).unwrap();
    let expected = Evidence::from_response(&response).unwrap();
    let with = |name: &str, value: Value| {
        let mut response = response.clone();
        response[name] = value;
        Evidence::from_response(&response)
    };
    let prefixed = format!("0x{}", response["tee_request_hash"].as_str().unwrap().to_uppercase());
    assert_eq!(with("tee_request_hash", json!(prefixed)).unwrap(), expected);
    assert_eq!(with("tee_id", json!(&response["tee_id"].as_str().unwrap()[2..])).unwrap(), expected);
    for (name, value) in [
        ("tee_id", json!(null)),
        ("tee_id", json!("0x")),
        ("tee_request_hash", json!("zz".repeat(32))),
        ("tee_output_hash", json!("00".repeat(31))),
        ("tee_output_hash", json!("0x0x")),
        ("tee_timestamp", json!(null)),
        ("tee_timestamp", json!("1795200000")),
        ("tee_timestamp", json!(-1)),
        ("tee_timestamp", json!(1.5)),
        ("tee_signature", json!("0x")),
        ("tee_signature", json!("")),
        ("tee_signature", json!("A".repeat(10_000))),
        ("tee_signature", json!("_-".repeat(172))),
    ] {
        assert_eq!(with(name, value.clone()).unwrap_err().code, Code::Malformed, "{name} {value}");
    }
    assert_eq!(hash32("x", "").unwrap_err().code, Code::Malformed);
    assert_eq!(signature("x", "QUJD").unwrap_err().code, Code::Malformed, "too short for RSA-2048");
}

#[test]
fn our_signatures_verify_with_our_key_form() {
    let vectors = vectors();
    let key = RsaKey::from_pem(vectors["key"]["privatePem"].as_str().unwrap()).unwrap();
    assert_eq!(key.spki(), bytes(&vectors["key"]["spki"]));
    assert_eq!(key.public_pem(), vectors["key"]["publicPem"].as_str().unwrap());
    let again = RsaKey::from_pem(key.to_pem().unwrap().expose_secret()).unwrap();
    assert_eq!(again.id(), key.id());
    let fresh = RsaKey::generate().unwrap();
    for key in [&key, &fresh] {
        let message = keccak256("message");
        let (first, second) = (key.sign(message).unwrap(), key.sign(message).unwrap());
        assert_ne!(first, second, "PSS is randomised");
        let public = NodeKey::parse(key.spki()).unwrap();
        assert_eq!(public.id(), key.id());
        public.verify(message, &first).unwrap();
        public.verify(message, &second).unwrap();
    }
    for bad in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----"] {
        assert!(RsaKey::from_pem(bad).is_err());
    }
}
