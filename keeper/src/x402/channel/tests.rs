//! Channels as stock clients sign them, and each single change of them.

use serde_json::{Value, json};

use alloy::primitives::{Address, B256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;

use super::*;

/// Payments that stock clients signed; written by their own libraries.
fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../tests/vectors/x402.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    vectors
        .iter()
        .filter(|vector| vector["request"]["paymentRequirements"]["scheme"] == "batch-settlement")
        .cloned()
        .collect()
}

fn vector(name: &str) -> Value {
    vectors().into_iter().find(|vector| vector["name"] == name).unwrap()
}

fn request(body: &Value) -> Request {
    Request::parse(body.to_string().as_bytes()).1.unwrap()
}

fn of(body: &Value) -> Result<Payload, Fault> {
    check(&request(body), None)
}

fn client(body: &Value) -> Signed {
    match of(body) {
        Ok(Payload::Signed(signed)) => *signed,
        other => panic!("{other:?}"),
    }
}

/// The same request in both places that name the offer.
fn offer(body: &mut Value, member: &str, value: Value) {
    body["paymentRequirements"][member] = value.clone();
    body["paymentPayload"]["accepted"][member] = value;
}

#[test]
fn what_stock_clients_sign_is_signed_by_their_payer() {
    let vectors = vectors();
    assert!(vectors.len() >= 4, "{}", vectors.len());
    for vector in vectors {
        let name = &vector["name"];
        let signed = client(&vector["request"]);
        let digests: Vec<B256> = vector["signed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["digest"].as_str().unwrap().parse().unwrap())
            .collect();
        let payer: Address = vector["payer"].as_str().unwrap().parse().unwrap();
        assert_eq!(signed.payer(), payer, "{name}");
        assert!(signed.voucher.by_key && signed.voucher.key_only, "{name}");
        assert!(digests.contains(&signed.voucher.digest), "{name}");
        let deposited = vector["request"]["paymentPayload"]["payload"]["type"] == "deposit";
        assert_eq!(signed.deposit.is_some() && signed.calldata().is_some(), deposited, "{name}");
        if let Some(deposit) = &signed.deposit {
            assert!(deposit.signer.by_key && !deposit.signer.key_only, "{name}");
            assert!(digests.contains(&deposit.signer.digest), "{name}");
            assert_ne!(deposit.signer.digest, signed.voucher.digest, "{name}");
        }
    }
}

#[test]
fn each_single_change_is_refused_by_its_name() {
    let other = json!(Address::repeat_byte(9));
    let word = json!(B256::repeat_byte(9));
    let payload = |member: &str| format!("/paymentPayload/payload/{member}");
    let deposit = vector("deposit")["request"].clone();
    let now = |body: &Value, now| check(&request(body), Some(now)).map(|_| ()).map_err(|fault| fault.reason);
    for (pointer, value, reason) in [
        (payload("type"), json!("withdraw"), Reason::BatchPayloadType),
        (payload("voucher/channelId"), word.clone(), Reason::BatchChannelId),
        (payload("channelConfig/salt"), word.clone(), Reason::BatchChannelId),
        (payload("channelConfig/withdrawDelay"), json!("900"), Reason::InvalidPayload),
        (payload("voucher/maxClaimableAmount"), json!(5), Reason::InvalidPayload),
        (payload("voucher/maxClaimableAmount"), json!((1_u128 << 127).to_string() + "000"), Reason::InvalidPayload),
        (payload("deposit/amount"), json!("0"), Reason::InvalidPayload),
        (payload("deposit/authorization"), json!({}), Reason::BatchAuthorizationRequired),
        ("/paymentRequirements/payTo".to_owned(), other.clone(), Reason::BatchReceiver),
        ("/paymentRequirements/asset".to_owned(), other.clone(), Reason::BatchToken),
        ("/paymentRequirements/extra/receiverAuthorizer".to_owned(), other.clone(), Reason::BatchReceiverAuthorizer),
        (
            "/paymentRequirements/extra/receiverAuthorizer".to_owned(),
            json!(Address::ZERO),
            Reason::BatchReceiverAuthorizer,
        ),
        ("/paymentRequirements/extra/receiverAuthorizer".to_owned(), json!(null), Reason::BatchReceiverAuthorizer),
        ("/paymentRequirements/extra/withdrawDelay".to_owned(), json!(901), Reason::BatchDelayMismatch),
        ("/paymentRequirements/extra/name".to_owned(), json!(""), Reason::BatchMissingDomain),
        ("/paymentRequirements/scheme".to_owned(), json!("exact"), Reason::BatchScheme),
        ("/paymentRequirements/network".to_owned(), json!("eip155:84532"), Reason::BatchNetworkMismatch),
    ] {
        let mut body = deposit.clone();
        *body.pointer_mut(&pointer).unwrap() = value;
        let fault = of(&body).unwrap_err();
        assert_eq!(fault.reason, reason, "{pointer}: {fault}");
        assert!(!fault.message.is_empty());
    }
    assert_eq!(now(&deposit, u64::MAX), Err(Reason::BatchValidBefore));
    assert_eq!(now(&deposit, 1_700_000_000), Ok(()));
    let mut later = deposit.clone();
    *later.pointer_mut(&payload("deposit/authorization/erc3009Authorization/validAfter")).unwrap() =
        json!("1800000000");
    assert_eq!(now(&later, 1_700_000_000), Err(Reason::BatchValidAfter));

    let permit2 = vector("deposit-permit2")["request"].clone();
    assert_eq!(now(&permit2, u64::MAX), Err(Reason::BatchPermit2Expired));
    let authorization = payload("deposit/authorization/permit2Authorization");
    for (member, value, reason) in [
        ("from", other.clone(), Reason::BatchPermit2Signature),
        ("spender", other.clone(), Reason::BatchPermit2Spender),
        ("permitted/token", other, Reason::BatchPermit2Amount),
        ("permitted/amount", json!("1"), Reason::BatchPermit2Amount),
        ("witness/channelId", word, Reason::BatchChannelId),
    ] {
        let mut body = permit2.clone();
        *body.pointer_mut(&format!("{authorization}/{member}")).unwrap() = value;
        assert_eq!(of(&body).unwrap_err().reason, reason, "{member}");
    }
}

#[test]
fn another_amount_or_another_signature_is_not_signed() {
    let payload = "/paymentPayload/payload";
    let mut body = vector("deposit")["request"].clone();
    *body.pointer_mut(&format!("{payload}/voucher/maxClaimableAmount")).unwrap() = json!("1");
    let signed = client(&body);
    assert!(!signed.voucher.by_key && signed.deposit.unwrap().signer.by_key);
    let mut body = vector("deposit")["request"].clone();
    *body.pointer_mut(&format!("{payload}/deposit/amount")).unwrap() = json!("1");
    let signed = client(&body);
    assert!(signed.voucher.by_key && !signed.deposit.unwrap().signer.by_key);
    // The domain that the server names is the token's own business, so the digest is another.
    let mut body = vector("deposit")["request"].clone();
    let mut extra = body["paymentRequirements"]["extra"].clone();
    extra["version"] = json!("3");
    offer(&mut body, "extra", extra);
    assert!(!client(&body).deposit.unwrap().signer.by_key);
}

#[test]
fn delays_out_of_range() {
    for (delay, good) in [(899, false), (900, true), (2_592_000, true), (2_592_001, false)] {
        let config = ChannelConfig {
            payer: Address::repeat_byte(1),
            payerAuthorizer: Address::ZERO,
            receiver: Address::repeat_byte(2),
            receiverAuthorizer: Address::repeat_byte(3),
            token: Address::repeat_byte(4),
            withdrawDelay: alloy::primitives::aliases::U40::from(delay),
            salt: B256::ZERO,
        };
        let id = config::channel_id(&config, 8453);
        let offer = json!({ "scheme": "batch-settlement", "network": "eip155:8453", "amount": "1", "asset": config.token,
            "payTo": config.receiver, "maxTimeoutSeconds": 60,
            "extra": { "receiverAuthorizer": config.receiverAuthorizer } });
        let body = json!({ "x402Version": 2, "paymentRequirements": offer,
            "paymentPayload": { "x402Version": 2, "accepted": offer, "payload": { "type": "voucher" } } });
        let fits = config::fits(&request(&body), &config, id);
        assert_eq!(
            fits.map_err(|fault| fault.reason),
            if good { Ok(()) } else { Err(Reason::BatchDelayRange) },
            "{delay}"
        );
    }
}

/// A server's request about one channel that stock clients opened.
fn asked(payload: Value) -> Value {
    let vector = vector("deposit");
    let config = &vector["request"]["paymentPayload"]["payload"]["channelConfig"];
    let minimal = json!({ "scheme": "batch-settlement", "network": "eip155:8453", "asset": config["token"], "amount": "0",
        "payTo": config["receiver"], "maxTimeoutSeconds": 0, "extra": {} });
    json!({ "x402Version": 2, "paymentRequirements": minimal,
        "paymentPayload": { "x402Version": 2, "accepted": minimal, "payload": payload } })
}

fn row(total: &str) -> Value {
    let payload = vector("deposit")["request"]["paymentPayload"]["payload"].clone();
    let max = payload["voucher"]["maxClaimableAmount"].clone();
    json!({ "voucher": { "channel": payload["channelConfig"], "maxClaimableAmount": max },
        "signature": payload["voucher"]["signature"], "totalClaimed": total })
}

#[test]
fn claims() {
    let Ok(Payload::Asked(Asked::Claim(claim))) = of(&asked(json!({ "type": "claim", "claims": [row("7")] }))) else {
        panic!()
    };
    assert_eq!((claim.rows.len(), claim.rows[0].total_claimed, claim.signature.is_none()), (1, 7, true));
    assert!(claim.rows[0].voucher.by_key, "the voucher of a row is the payer's");
    assert_eq!(claim.authorizer, claim.rows[0].config.receiverAuthorizer);
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let signature = Bytes::from(key.sign_hash_sync(&claim.digest).unwrap().as_bytes().to_vec());
    assert!(claim.calldata(&signature).windows(65).any(|window| window == signature.as_ref()));

    let mut other = row("7");
    other["voucher"]["channel"]["receiverAuthorizer"] = json!(Address::repeat_byte(9));
    for (claims, reason) in [
        (json!([]), Reason::InvalidPayload),
        (json!({}), Reason::InvalidPayload),
        (json!(vec![row("1"); claim::MAX_ROWS + 1]), Reason::InvalidPayload),
        (json!([row("999999999999")]), Reason::InvalidPayload),
        (json!([row("1"), other]), Reason::BatchAuthorizerMismatch),
    ] {
        assert_eq!(of(&asked(json!({ "type": "claim", "claims": claims }))).unwrap_err().reason, reason);
    }
}

#[test]
fn the_digest_of_no_claims_is_that_of_the_deployed_contract() {
    use alloy::sol_types::SolStruct;
    let empty = crate::x402::contracts::batch::ClaimBatch { claims: Vec::new() };
    let expected = alloy::primitives::b256!("57b970b91bd540b4ca1aa82be12adbc9b769b6e978e5285b2a859bd989304e9a");
    assert_eq!(empty.eip712_signing_hash(&config::domain(84_532)), expected);
}

#[test]
fn payouts() {
    let (receiver, token) = (Address::repeat_byte(1), Address::repeat_byte(2));
    let payload = json!({ "type": "settle", "receiver": receiver, "token": token });
    let Ok(Payload::Asked(Asked::Payout(payout))) = of(&asked(payload)) else { panic!() };
    assert_eq!(payout, Payout { receiver, token });
    assert_eq!(payout.calldata().len(), 4 + 64);
    assert_ne!(payout.payment_id(8453, 1), payout.payment_id(8453, 2));
    assert_ne!(payout.payment_id(8453, 1), payout.payment_id(84_532, 1));
}

#[test]
fn refunds() {
    let payload = vector("deposit")["request"]["paymentPayload"]["payload"].clone();
    let full = json!({ "type": "refund", "channelConfig": payload["channelConfig"], "voucher": payload["voucher"],
        "amount": "5", "refundNonce": "3", "claims": [row("7")] });
    let Ok(Payload::Asked(Asked::Refund(refund))) = of(&asked(full.clone())) else { panic!() };
    assert_eq!((refund.amount, refund.nonce, refund.claim.is_some()), (5, alloy::primitives::U256::from(3), true));
    let bytes = Bytes::from(vec![0xab; 65]);
    let alone = refund.calldata(&bytes, None);
    let both = refund.calldata(&bytes, refund.claim.as_ref().map(|claim| claim.calldata(&bytes)));
    assert_eq!(alone[..4], [0xb7, 0x74, 0x33, 0xe9]);
    assert_eq!(both[..4], [0xac, 0x96, 0x50, 0xd8]);

    for (member, value, reason) in [
        ("amount", json!("0"), Reason::BatchRefundAmount),
        ("refundNonce", json!(3), Reason::InvalidPayload),
        ("voucher", json!({ "channelId": keccak256("x") }), Reason::BatchChannelId),
    ] {
        let mut payload = full.clone();
        payload[member] = value;
        let fault = of(&asked(payload)).unwrap_err();
        assert_eq!(fault.reason, reason, "{member}");
        assert!(fault.payer.is_some(), "{member}");
    }
    let mut other = full;
    other["claims"][0]["voucher"]["channel"]["receiverAuthorizer"] = json!(Address::repeat_byte(9));
    assert_eq!(of(&asked(other)).unwrap_err().reason, Reason::BatchAuthorizerMismatch);
}
