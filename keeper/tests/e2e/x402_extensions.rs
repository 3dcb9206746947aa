//! x402's extensions, jobs and receipt files through the real keeper.

use alloy::primitives::{Address, B256, U256};
use quittance::chain::rpc::Rpc;
use quittance::receipt::payment::PaymentFile;
use quittance::receipt::payment_verify;
use quittance::receipt::verify::all_ok;
use quittance::x402::extensions::receipt::Receipt;
use serde_json::{Value, json};

use super::harness::Net;
use super::x402::{Payer, fresh, post, usdc, with_amount};

/// All of them, with a keeper that runs and has settled payments of every kind without channels.
pub(super) async fn play(net: &Net, payer: &Payer<'_>) {
    one_identifier_one_payment(net, payer).await;
    receipt_in_the_answer(net, payer).await;
    let files = files_hold(net).await;
    let amounts: Vec<&str> = files.iter().map(|file| file.payment.amount.as_str()).collect();
    assert!(files.len() > 8 && amounts.contains(&"1234") && amounts.contains(&"0"), "{amounts:?}");
    let unknown = net.http.get(format!("{}/receipts/{}", net.url(), B256::repeat_byte(1))).send().await.unwrap();
    assert_eq!(unknown.status().as_u16(), 404);
    a_transaction_of_another_payment_proves_nothing(net, payer).await;
    a_job_for_those_who_do_not_wait(net, payer).await;
}

fn with_extension(request: &Value, name: &str, content: Value) -> Value {
    let mut request = request.clone();
    request["paymentPayload"]["extensions"][name] = content;
    request
}

/// What a payer calls by one name it pays for once, however often and whatever it signs.
async fn one_identifier_one_payment(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    let named = |request: &Value, id: Value| {
        with_extension(request, "payment-identifier", json!({ "info": { "required": true, "id": id }, "schema": {} }))
    };
    let id = json!(format!("pay_{}", hex::encode(rand::random::<[u8; 16]>())));
    let payments: Vec<Value> = (0..5).map(|_| named(&payer.exact(to, 50), id.clone())).collect();
    let answers = futures_util::future::join_all(payments.iter().map(|payment| post(net, "/settle", payment))).await;
    let won: Vec<usize> = (0..5).filter(|n| answers[*n]["success"] == json!(true)).collect();
    let [won] = won[..] else { panic!("{answers:?}\n{}", net.log_tail()) };
    for (n, answer) in answers.iter().enumerate().filter(|(n, _)| *n != won) {
        assert_eq!(answer["errorReason"], json!("payment_identifier_conflict"), "{n}: {answer}");
        let verified = post(net, "/verify", &payments[n]).await;
        assert_eq!(verified["invalidReason"], json!("payment_identifier_conflict"), "{verified}");
    }
    assert_eq!(post(net, "/settle", &payments[won]).await, answers[won], "the first result");
    assert_eq!(usdc(net, to).await, 50, "paid once");

    // One signature for another amount: the first result without an identifier, a conflict with one.
    let upto = payer.permit2(true, to, 90);
    let id = json!(format!("pay_{}", hex::encode(rand::random::<[u8; 16]>())));
    let asked = named(&with_amount(&upto, "30"), id.clone());
    let settled = post(net, "/settle", &asked).await;
    assert_eq!(settled["amount"], json!("30"), "{settled}");
    assert_eq!(post(net, "/settle", &asked).await, settled);
    let other = post(net, "/settle", &named(&with_amount(&upto, "31"), id)).await;
    assert_eq!(other["errorReason"], json!("payment_identifier_conflict"), "{other}");

    for (id, reason) in [(json!(null), "payment_identifier_required"), (json!("short"), "invalid_payment_identifier")] {
        let request = named(&payer.exact(to, 50), id);
        assert_eq!(post(net, "/verify", &request).await["invalidReason"], json!(reason));
        assert_eq!(post(net, "/settle", &request).await["errorReason"], json!(reason));
    }
    assert_eq!(usdc(net, to).await, 80);
}

/// The extension offer-receipt: signed by the keeper, the same each time.
async fn receipt_in_the_answer(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    let request = payer.exact(to, 11);
    let settled =
        post(net, "/settle", &with_extension(&request, "offer-receipt", json!({ "includeTxHash": true }))).await;
    let signed = &settled["extensions"]["offer-receipt"]["info"]["receipt"];
    let payload = &signed["payload"];
    assert_eq!(payload["transaction"], settled["transaction"], "{settled}\n{}", net.log_tail());
    assert_eq!(payload["payer"], json!(payer.key.address().to_string()));
    let text = |name: &str| payload[name].as_str().unwrap().to_owned();
    let receipt = Receipt {
        version: U256::ONE,
        network: text("network"),
        resourceUrl: text("resourceUrl"),
        payer: text("payer"),
        issuedAt: U256::from(payload["issuedAt"].as_u64().unwrap()),
        transaction: text("transaction"),
    };
    let signature: alloy::primitives::Signature = signed["signature"].as_str().unwrap().parse().unwrap();
    let signer = signature.recover_address_from_prehash(&receipt.digest()).unwrap();
    assert_eq!(signer, net.devnet.keys.keeper_receipts.address());
    let again = post(net, "/settle", &with_extension(&request, "offer-receipt", json!({}))).await;
    let private = &again["extensions"]["offer-receipt"]["info"]["receipt"]["payload"];
    assert_eq!((&private["transaction"], &private["issuedAt"]), (&json!(""), &payload["issuedAt"]), "{again}");
    assert!(post(net, "/settle", &request).await.get("extensions").is_none());
}

/// Every settled payment that is listed has a file that holds by itself and against the chain; a change in it is found.
pub(super) async fn files_hold(net: &Net) -> Vec<PaymentFile> {
    let list: Value =
        net.http.get(format!("{}/receipts?rail=x402", net.url())).send().await.unwrap().json().await.unwrap();
    let config = &net.devnet.config.base;
    let base = Rpc::new(config.chain_id, &config.rpc).unwrap();
    let mut files = Vec::new();
    for line in list["receipts"].as_array().unwrap() {
        let id = line["paymentId"].as_str().unwrap();
        let answer = net.http.get(format!("{}/receipts/{id}", net.url())).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let file: PaymentFile = answer.json().await.unwrap();
        let mut checks = payment_verify::offline(&file);
        checks.extend(payment_verify::online(&file, &base).await);
        assert!(all_ok(&checks), "{file:?}: {checks:?}");
        assert!(file.keeper.is_some() && ["included", "safe", "final"].contains(&file.state.as_str()), "{file:?}");
        let mut elsewhere = file.clone();
        elsewhere.payment.receiver = fresh();
        let found = payment_verify::offline(&elsewhere);
        assert!(!all_ok(&found), "{found:?}");
        let mut left = file.clone();
        left.network.forwarder = Address::ZERO;
        let found = payment_verify::online(&left, &base).await;
        assert!(all_ok(&found), "{found:?}");
        if file.transaction.is_some() && file.payment.rail == "direct" {
            let found = payment_verify::online(&elsewhere, &base).await;
            assert!(found.iter().any(|check| check.name == "transfer" && !check.ok), "{found:?}");
        }
        files.push(file);
    }
    // No channel's transaction is another one's either.
    let channels: Vec<&PaymentFile> = files.iter().filter(|file| file.payment.rail == "channel").collect();
    for (file, other) in channels.iter().zip(channels.iter().skip(1)) {
        let mut elsewhere = (*file).clone();
        (elsewhere.transaction, elsewhere.block, elsewhere.block_hash) =
            (other.transaction, other.block, other.block_hash);
        let found = payment_verify::online(&elsewhere, &base).await;
        assert!(found.iter().any(|check| check.name == "transfer" && !check.ok), "{found:?}");
    }
    files
}

/// Two payments of the same money to the same receiver: the transaction of one is none of the other's.
async fn a_transaction_of_another_payment_proves_nothing(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    for request in
        [payer.exact(to, 21), payer.exact(to, 21), payer.permit2(false, to, 21), payer.permit2(false, to, 21)]
    {
        let settled = post(net, "/settle", &request).await;
        assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    }
    let files: Vec<_> = files_hold(net).await.into_iter().filter(|file| file.payment.receiver == to).collect();
    let base = Rpc::new(net.devnet.config.base.chain_id, &net.devnet.config.base.rpc).unwrap();
    let mut pairs = 0;
    for (n, file) in files.iter().enumerate() {
        let same = files.iter().enumerate().find(|(m, other)| *m != n && other.payment.method == file.payment.method);
        let (_, other) = same.unwrap();
        assert_ne!(file.transaction, other.transaction);
        let mut elsewhere = file.clone();
        (elsewhere.transaction, elsewhere.block, elsewhere.block_hash) =
            (other.transaction, other.block, other.block_hash);
        let found = payment_verify::online(&elsewhere, &base).await;
        let failed: Vec<&str> = found.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        assert_eq!(failed, ["transfer"], "{found:?}");
        pairs += 1;
    }
    assert_eq!(pairs, 4);
}

/// `Prefer: respond-async`: stored before the answer, settled after it; without the header never 202.
async fn a_job_for_those_who_do_not_wait(net: &Net, payer: &Payer<'_>) {
    let to = fresh();
    let request = payer.exact(to, 17);
    let ask = || net.http.post(format!("{}/settle", net.url())).header("prefer", "respond-async").json(&request);
    let first = ask().send().await.unwrap();
    assert_eq!(first.status().as_u16(), 202, "{}", first.text().await.unwrap());
    assert_eq!(first.headers()["preference-applied"], "respond-async");
    let first: Value = first.json().await.unwrap();
    let id = first["paymentJob"]["jobId"].as_str().unwrap().to_owned();
    assert!(id.starts_with("payment-0x"), "{first}");
    let settled = post(net, "/settle", &request).await;
    assert_eq!(settled["success"], json!(true), "{settled}\n{}", net.log_tail());
    let job = async |name: &str| -> Value {
        net.http.get(format!("{}/settle/{name}", net.url())).send().await.unwrap().json().await.unwrap()
    };
    for name in [id.as_str(), id.trim_start_matches("payment-")] {
        let job = job(name).await;
        assert_eq!((&job["jobId"], &job["status"]), (&json!(id), &json!("succeeded")), "{job}");
        assert_eq!((&job["result"]["transaction"], &job["result"]["amount"]), (&settled["transaction"], &json!("17")));
    }
    let done = ask().send().await.unwrap();
    assert_eq!(done.status().as_u16(), 200, "it has its result");
    assert_eq!(done.json::<Value>().await.unwrap(), settled);
    let refused = net.http.post(format!("{}/settle", net.url())).header("prefer", "respond-async").json(&json!({}));
    assert_eq!(refused.send().await.unwrap().status().as_u16(), 200, "nothing was stored: there is no job");
    let missing = net.http.get(format!("{}/settle/payment-{}", net.url(), B256::ZERO)).send().await.unwrap();
    assert_eq!(missing.status().as_u16(), 404);
    assert_eq!(usdc(net, to).await, 17);
}
