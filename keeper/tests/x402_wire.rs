//! Wire types held against another implementation's (`x402-types` of x402-rs) and against payments that stock clients signed.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use alloy::primitives::Address;
use quittance::x402::reasons::{Fault, Reason};
use quittance::x402::wire::{Kind, Request, SettledAnswer, Supported, Verified};
use serde_json::{Value, json};
use x402_types::chain::ChainId;
use x402_types::proto;

/// Payments as the stock TypeScript and Python clients sign them.
fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("vectors/x402.json")).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

#[test]
fn requests_of_stock_clients_mean_the_same_to_both() {
    let vectors = vectors();
    assert!(vectors.len() >= 15);
    for vector in vectors {
        let (request, name) = (&vector["request"], format!("{} {}", vector["producer"], vector["name"]));
        let ours = Request::parse(request.to_string().as_bytes()).1.unwrap();
        let theirs: proto::VerifyRequest = serde_json::from_value(request.clone()).unwrap();
        let slug = theirs.scheme_handler_slug().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(slug.chain_id, ChainId::new("eip155", ours.chain_id.to_string()), "{name}");
        assert_eq!(
            (u64::from(slug.x402_version), slug.name.as_str()),
            (u64::from(ours.version), ours.scheme.as_str()),
            "{name}"
        );
        if ours.version == 2 {
            let asked: proto::v2::PaymentRequirements =
                serde_json::from_value(request["paymentRequirements"].clone()).unwrap();
            assert_eq!(asked.amount, ours.requirements.amount.to_string(), "{name}");
            assert_eq!(asked.pay_to.parse(), Ok(ours.requirements.pay_to), "{name}");
            assert_eq!(asked.asset.parse(), Ok(ours.requirements.asset), "{name}");
        }
    }
}

#[test]
fn the_other_implementation_reads_what_is_answered() {
    let payer = Address::repeat_byte(1);
    let read = |answer: Verified| -> proto::v1::VerifyResponse {
        proto::VerifyResponse(serde_json::to_value(answer).unwrap()).try_into().unwrap()
    };
    let proto::v1::VerifyResponse::Valid { payer: read_payer } = read(Verified::valid(payer, None)) else { panic!() };
    assert_eq!(read_payer.parse(), Ok(payer));
    let fault = Fault::new(Reason::InvalidNetwork, "see /supported").of(payer);
    let proto::v1::VerifyResponse::Invalid { reason, payer: read_payer } = read(fault.clone().into()) else { panic!() };
    assert_eq!((reason.as_str(), read_payer.unwrap().parse()), ("invalid_network", Ok(payer)));

    let settled = SettledAnswer {
        success: true,
        transaction: "0x01".to_owned(),
        error_reason: None,
        error_message: None,
        ..SettledAnswer::refused("eip155:8453".to_owned(), fault.clone())
    };
    let read: proto::v1::SettleResponse = serde_json::from_value(serde_json::to_value(settled).unwrap()).unwrap();
    let proto::v1::SettleResponse::Success { transaction, network, .. } = read else { panic!() };
    assert_eq!((transaction.as_str(), network.as_str()), ("0x01", "eip155:8453"));
    // Failures cannot be held against it: it names the reason `error_reason`, the protocol's text and all other clients `errorReason`.
    let refused = serde_json::to_value(SettledAnswer::refused("eip155:8453".to_owned(), fault)).unwrap();
    assert_eq!(refused["errorReason"], "invalid_network");
    assert_eq!(refused["transaction"], "");

    let supported = Supported {
        kinds: vec![Kind {
            x402_version: 2,
            scheme: "upto",
            network: "eip155:8453".to_owned(),
            extra: Some(json!({ "facilitatorAddress": payer })),
        }],
        extensions: vec!["payment-identifier"],
        signers: [("eip155:*", vec![payer])].into(),
    };
    let read: proto::SupportedResponse = serde_json::from_value(serde_json::to_value(supported).unwrap()).unwrap();
    assert_eq!(read.kinds.len(), 1, "a kind that it cannot read is left out");
    assert_eq!(read.kinds[0].extra.as_ref().unwrap()["facilitatorAddress"].as_str().unwrap().parse(), Ok(payer));
    assert_eq!(read.signers[&ChainId::new("eip155", "*")].len(), 1);
}
