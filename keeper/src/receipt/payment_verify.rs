//! Checks the receipt file of an x402 payment: by itself, and against the chain that the payment was settled on.

use alloy::primitives::{Address, B256, U256};
use alloy::rpc::types::{Log, TransactionReceipt};
use alloy::sol_types::{SolEvent, SolValue};
use quittance_bindings::X402Forwarder::Forwarded;
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::online::{keeper, transaction};
use super::payment::{PaymentFile, SCHEMA, digest, rail};
use super::verify::{Check, equal};
use crate::chain::rpc::Rpc;
use crate::store::payments::{NewPayment, Payment};
use crate::types::PaymentState;
use crate::verify::order::recover;
use crate::x402::channel::{self, Asked, Payload};
use crate::x402::evidence::Trace;
use crate::x402::outcome;
use crate::x402::permit2::Charge;
use crate::x402::plan::Plan;
use crate::x402::transfer;
use crate::x402::wire::Request;

/// What was signed, as the authorization in the file gives it.
struct Signed {
    /// `None` for payouts: anyone may ask for one.
    payment_id: Option<B256>,
    payer: Option<Address>,
    receiver: Address,
    token: Address,
    /// What was signed for; `None` where the contract decides.
    max_amount: Option<U256>,
    /// The payer's key signed; `None` where no payer signs.
    by_key: Option<bool>,
}

/// Recomputes everything in the file. Whether the money moved is for [`online`].
pub fn offline(file: &PaymentFile) -> Vec<Check> {
    let schema = equal("schema", file.schema.clone(), SCHEMA.to_owned());
    let mut checks = vec![Check::new("schema", schema)];
    match signed(file) {
        Err(error) => checks.push(Check::new("authorization", Err(error))),
        Ok(signed) => checks.extend([
            Check::new("payment_id", payment_id(file, &signed)),
            Check::new("terms", terms(file, &signed)),
            Check::new("authorization", authorized(file, &signed)),
        ]),
    }
    checks.push(Check::new("settlement", settlement(file)));
    checks.push(Check::new("keeper_signature", keeper_signature(file)));
    checks
}

fn request(file: &PaymentFile) -> Result<Request, String> {
    Request::parse(file.authorization.to_string().as_bytes()).1.map_err(|fault| fault.message)
}

/// What was signed for a transfer.
fn plan(file: &PaymentFile, request: &Request) -> Result<Plan, String> {
    // A keeper that settles there no more names no forwarder: then it is whom the payer named.
    let named = || request.payload.pointer("/permit2Authorization/witness/facilitator")?.as_str()?.parse().ok();
    let forwarder = Some(file.network.forwarder).filter(|forwarder| !forwarder.is_zero()).or_else(named);
    let checked = transfer::check(forwarder.unwrap_or_default(), request, Charge::Asked, None);
    let (plan, wrong) = checked.map_err(|fault| fault.message)?;
    wrong.map_or(Ok(plan), |fault| Err(fault.message))
}

fn signed(file: &PaymentFile) -> Result<Signed, String> {
    let request = request(file)?;
    equal("chain", file.network.chain_id, request.chain_id)?;
    equal("scheme", file.payment.scheme.clone(), request.requirements.scheme.clone())?;
    if file.payment.scheme != "batch-settlement" {
        let plan = plan(file, &request)?;
        return Ok(Signed {
            payment_id: Some(plan.payment_id),
            payer: Some(plan.payer),
            receiver: plan.receiver,
            token: plan.asset,
            max_amount: Some(plan.max_amount),
            by_key: Some(plan.by_key),
        });
    }
    let of = |config: &crate::x402::contracts::batch::ChannelConfig| (config.receiver, config.token);
    let (payment_id, payer, (receiver, token), max_amount, by_key) = match channel::check(&request, None)
        .map_err(|fault| fault.message)?
    {
        Payload::Signed(signed) => {
            let deposit = signed.deposit.as_ref().ok_or("a voucher alone moves no money")?;
            let amount = Some(U256::from(deposit.amount));
            (Some(deposit.signer.digest), Some(signed.payer()), of(&signed.config), amount, Some(deposit.signer.by_key))
        }
        Payload::Asked(Asked::Claim(claim)) => {
            let first = claim.rows.first().ok_or("the claim has no rows")?;
            (Some(claim.digest), None, of(&first.config), None, None)
        }
        Payload::Asked(Asked::Payout(payout)) => (None, None, (payout.receiver, payout.token), None, None),
        Payload::Asked(Asked::Refund(refund)) => {
            (Some(refund.digest), Some(refund.config.payer), of(&refund.config), Some(U256::from(refund.amount)), None)
        }
    };
    Ok(Signed { payment_id, payer, receiver, token, max_amount, by_key })
}

fn payment_id(file: &PaymentFile, signed: &Signed) -> Result<String, String> {
    match signed.payment_id {
        Some(id) => equal("payment id", file.payment_id, id),
        None => Ok("a payout: anyone may ask for one, nobody signs it".to_owned()),
    }
}

fn terms(file: &PaymentFile, signed: &Signed) -> Result<String, String> {
    let fields = &file.payment;
    let number = |text: &str| U256::from_str_radix(text, 10).map_err(|_| format!("amount {text:?} cannot be read"));
    let (amount, max_amount) = (number(&fields.amount)?, number(&fields.max_amount)?);
    equal("rail", fields.rail.clone(), rail(&fields.scheme).to_owned())?;
    if fields.payer != signed.payer {
        return Err(format!("the payer is {:?}, but {:?} signed", fields.payer, signed.payer));
    }
    equal("receiver", fields.receiver, signed.receiver)?;
    equal("token", fields.token, signed.token)?;
    match signed.max_amount {
        // What comes back of a channel is what is left of it by then.
        Some(_) if fields.method == "refund" => {}
        Some(signed) => {
            equal("maximum", max_amount, signed)?;
            if amount > signed || (fields.scheme == "exact" && amount != signed) {
                return Err(format!("{amount} units were paid of {signed} that were signed for"));
            }
        }
        None => {}
    }
    Ok(format!("{amount} token units"))
}

fn authorized(file: &PaymentFile, signed: &Signed) -> Result<String, String> {
    match signed.by_key {
        Some(true) => Ok(format!("signed by the payer {}", signed.payer.unwrap_or_default())),
        // A contract decides, and only a chain can ask it: there the settlement proves it.
        Some(false) if file.transaction.is_some() => {
            Ok("signed for an account that is a contract: check with --rpc that it took it".to_owned())
        }
        Some(false) => Err("the payer's key did not sign, and nothing was settled".to_owned()),
        None => Ok(format!("a {} is signed by no payer: check with --rpc", file.payment.method)),
    }
}

fn settlement(file: &PaymentFile) -> Result<String, String> {
    let free = file.payment.amount == "0";
    match (file.state.as_str(), file.transaction, file.block) {
        ("settlement_pending", _, None) => Ok("not settled yet".to_owned()),
        ("refused", ..) => Ok(format!("not settled: {}", file.reason.as_deref().unwrap_or("no reason is given"))),
        ("final", None, None) if free && file.payment.scheme == "upto" => {
            Ok("charged nothing: no transaction".to_owned())
        }
        ("included" | "safe" | "final", Some(hash), Some(block)) => {
            Ok(format!("{hash} in block {block}: check with --rpc"))
        }
        (state, ..) => Err(format!("evidence of a settlement that is {state:?} is incomplete or does not fit it")),
    }
}

fn keeper_signature(file: &PaymentFile) -> Result<String, String> {
    let Some(keeper) = &file.keeper else {
        let pending = ["settlement_pending", "refused"].contains(&file.state.as_str());
        return Ok(if pending { "nothing to sign yet" } else { "the keeper signs no receipts" }.to_owned());
    };
    let digest = digest(file, keeper.keeper_id).ok_or("an amount cannot be read")?;
    let (signer, _) = recover(&keeper.signature, digest).map_err(|refusal| refusal.message)?;
    equal::<Address>("keeper key", keeper.key, signer)?;
    Ok(format!("signed by {signer} for keeper {}", keeper.keeper_id))
}

/// Asks the chain about what the file names: the transaction, the events of exactly this payment in it, the keeper's key. `base`
/// is Base, where keepers are registered; a payment on another chain is not looked up.
pub async fn online(file: &PaymentFile, base: &Rpc) -> Vec<Check> {
    let registered = keeper(file.network.ledger, file.keeper.as_ref(), base).await;
    let mut checks = vec![Check::new("base_keeper", registered)];
    if file.network.chain_id == file.network.base_chain_id {
        let place = (file.transaction, file.block, file.block_hash);
        checks.push(Check::new("transaction", transaction(place.0, place.1, place.2, base).await));
        checks.push(Check::new("transfer", moved(file, base).await));
    } else {
        let text = format!("chain {} is not Base: look the transaction up there", file.network.chain_id);
        checks.push(Check::new("transaction", Ok(text)));
    }
    checks
}

/// Whether the transaction carries what was signed, and its events are of this payment.
async fn moved(file: &PaymentFile, rpc: &Rpc) -> Result<String, String> {
    let Some(hash) = file.transaction.filter(|_| file.block.is_some()) else { return Ok("none yet".to_owned()) };
    let receipt = rpc.receipt_anywhere(hash).await.map_err(|error| error.to_string())?;
    let receipt = receipt.ok_or_else(|| format!("the chain does not know transaction {hash}"))?;
    let place = outcome::evidence(&receipt).ok_or("the transaction is in no block")?;
    let mut payment = stored(file)?;
    let trace = if outcome::method(&payment).of_channel() {
        None
    } else {
        let plan = plan(file, &request(file)?)?;
        let call = Call { id: plan.payment_id, target: plan.target, gas: 0, data: plan.calldata };
        payment.new.calls = vec![call].abi_encode();
        let trace = Trace::of(&payment).ok_or("what was signed cannot be read")?;
        // Another payment of the same money to the same receiver is not this one.
        let input = rpc.input(hash).await.map_err(|error| error.to_string())?;
        if !input.is_some_and(|(_, input)| trace.is_in(&input)) {
            return Err(format!("transaction {hash} does not carry what the payer signed"));
        }
        Some(trace)
    };
    let parts = outcome::parts(&receipt, forwarder(file, &receipt));
    let amount = match (parts.get(&file.payment_id), &trace) {
        // Somebody else sent it: the token and its contract tell.
        (None, Some(trace)) => {
            let found = trace.finds(&receipt, forwarder(file, &receipt));
            let wanted = found.iter().find(|find| find.amount == payment.new.amount);
            wanted.ok_or("the transaction did not move exactly this money")?.amount
        }
        (part @ Some(_), _) => outcome::of(&payment, part, place).map_err(|fault| fault.message)?.amount,
        (None, None) => return Err(format!("transaction {hash} is of other payments")),
    };
    equal("amount", payment.new.amount, amount)?;
    Ok(match file.payment.method.as_str() {
        "claim" => "the claim was made".to_owned(),
        _ => format!("{amount} token units moved"),
    })
}

/// The contract that called for the keeper: where the file names none any more, the one that says so of this payment.
fn forwarder(file: &PaymentFile, receipt: &TransactionReceipt) -> Address {
    let says = |log: &&Log| Forwarded::decode_log(&log.inner).is_ok_and(|event| event.data.id == file.payment_id);
    match file.network.forwarder {
        Address::ZERO => receipt.logs().iter().find(says).map(|log| log.address()).unwrap_or_default(),
        known => known,
    }
}

/// The payment as a keeper that settles has it.
fn stored(file: &PaymentFile) -> Result<Payment, String> {
    let fields = &file.payment;
    let number = |text: &str| U256::from_str_radix(text, 10).map_err(|_| format!("amount {text:?} cannot be read"));
    let known = |text: &str, all: &[&'static str]| {
        let found = all.iter().find(|known| **known == text).copied();
        found.ok_or_else(|| format!("{text:?} is no scheme or method"))
    };
    Ok(Payment {
        new: NewPayment {
            payment_id: file.payment_id,
            chain_id: file.network.chain_id,
            scheme: known(&fields.scheme, &["exact", "upto", "batch-settlement"])?,
            method: known(&fields.method, &["eip3009", "permit2", "deposit", "claim", "settle", "refund"])?,
            x402_version: 2,
            payer: fields.payer,
            receiver: fields.receiver,
            asset: fields.token,
            max_amount: number(&fields.max_amount)?,
            amount: number(&fields.amount)?,
            resource: None,
            identifier: None,
            request: Vec::new(),
            calls: Vec::new(),
            api_key: None,
        },
        state: PaymentState::Settled,
        is_final: false,
        reason: None,
        message: None,
        extra: None,
        tx_id: None,
        tx_hash: file.transaction,
        block_number: file.block,
        block_hash: file.block_hash,
        settlement_id: None,
        joined: None,
        created_ms: 0,
        updated_ms: 0,
        settled_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;
    use serde_json::{Value, json};

    use super::*;
    use crate::receipt::KeeperEvidence;
    use crate::receipt::payment::{PaymentNetwork, assemble};
    use crate::receipt::verify::all_ok;
    use crate::store::payments::fixtures;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/x402.json")).unwrap()
    }

    /// The file of a payment that a stock client signed, settled for `amount`.
    fn file(vector: &Value, forwarder: Address, amount: u64) -> PaymentFile {
        let mut request = vector["request"].clone();
        request["paymentPayload"]["extensions"] = json!({ "private": "not for receipts" });
        let scheme = vector["request"]["paymentRequirements"]["scheme"].as_str().unwrap();
        if scheme == "upto" {
            request["paymentRequirements"]["amount"] = json!(amount.to_string());
        }
        let body = request.to_string();
        let read = Request::parse(body.as_bytes()).1.unwrap();
        let (payment_id, payer, receiver, asset, max_amount) = if scheme == "batch-settlement" {
            let Payload::Signed(signed) = channel::check(&read, None).unwrap() else { panic!("{body}") };
            let (config, deposit) = (&signed.config, signed.deposit.as_ref().unwrap());
            (deposit.signer.digest, config.payer, config.receiver, config.token, U256::from(deposit.amount))
        } else {
            let (plan, _) = transfer::check(forwarder, &read, Charge::Asked, None).unwrap();
            (plan.payment_id, plan.payer, plan.receiver, plan.asset, plan.max_amount)
        };
        let known = |all: &[&'static str], text: &str| all.iter().find(|known| **known == text).copied().unwrap();
        let method = if scheme == "batch-settlement" { "deposit" } else { "permit2" };
        let new = NewPayment {
            payment_id,
            chain_id: 8453,
            scheme: known(&["exact", "upto", "batch-settlement"], scheme),
            method,
            x402_version: read.version,
            payer: Some(payer),
            receiver,
            asset,
            max_amount,
            amount: if scheme == "upto" { U256::from(amount) } else { max_amount },
            resource: read.resource,
            identifier: None,
            request: body.into_bytes(),
            calls: Vec::new(),
            api_key: None,
        };
        let payment = Payment {
            is_final: true,
            settlement_id: Some(B256::repeat_byte(4)),
            joined: Some("payer".to_owned()),
            ..fixtures::settled(new)
        };
        let ledger = Address::repeat_byte(0x1e);
        let network = PaymentNetwork { chain_id: 8453, forwarder, base_chain_id: 84_532, ledger };
        let mut file = assemble(payment, "final", network);
        let (signer, keeper_id) = (PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap(), B256::repeat_byte(6));
        let signature = signer.sign_hash_sync(&digest(&file, keeper_id).unwrap()).unwrap();
        file.keeper = Some(KeeperEvidence { keeper_id, key: signer.address(), signature: signature.as_bytes().into() });
        file
    }

    fn failed(file: &PaymentFile) -> Vec<&'static str> {
        offline(file).into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[test]
    fn files_of_what_stock_clients_sign_hold() {
        let all = vectors();
        let forwarder: Address = all["facilitatorAddress"].as_str().unwrap().parse().unwrap();
        for name in ["exact", "exact-v1", "exact-permit2", "upto", "deposit", "deposit-permit2"] {
            let of_name: Vec<&Value> =
                all["vectors"].as_array().unwrap().iter().filter(|vector| vector["name"] == name).collect();
            assert!(of_name.len() >= 2, "{name}");
            for vector in of_name {
                let file = file(vector, forwarder, 1_234);
                let checks = offline(&file);
                assert!(all_ok(&checks), "{name} of {}: {checks:?}", vector["producer"]);
                assert!(checks.iter().any(|check| check.detail.starts_with("signed by the payer")), "{name}");
                let mut left = file.clone();
                left.network.forwarder = Address::ZERO;
                assert!(all_ok(&offline(&left)), "{name}: the keeper does not settle there any more");
                let text = serde_json::to_string(&file).unwrap();
                assert!(!text.contains("private"), "{text}");
                assert_eq!(serde_json::from_str::<PaymentFile>(&text).unwrap(), file);
            }
        }
    }

    #[test]
    fn each_change_is_found() {
        let all = vectors();
        let forwarder: Address = all["facilitatorAddress"].as_str().unwrap().parse().unwrap();
        let upto = all["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == "upto").unwrap();
        let good = file(upto, forwarder, 1_234);
        assert_eq!(failed(&good), [""; 0]);
        let other = json!(Address::repeat_byte(0x11));
        for (pointer, value, finds) in [
            ("/schema", json!("quittance-receipt/1"), &["schema"][..]),
            ("/paymentId", json!(B256::ZERO), &["payment_id", "keeper_signature"]),
            ("/payment/rail", json!("channel"), &["terms"]),
            ("/payment/scheme", json!("exact"), &["authorization", "keeper_signature"]),
            ("/payment/method", json!("eip3009"), &["keeper_signature"]),
            ("/payment/payer", other.clone(), &["terms", "keeper_signature"]),
            ("/payment/receiver", other.clone(), &["terms", "keeper_signature"]),
            ("/payment/token", other, &["terms", "keeper_signature"]),
            ("/payment/amount", json!("1235"), &["keeper_signature"]),
            ("/payment/amount", json!("50001"), &["terms", "keeper_signature"]),
            ("/payment/amount", json!("many"), &["terms", "keeper_signature"]),
            ("/payment/maxAmount", json!("50001"), &["terms", "keeper_signature"]),
            ("/payment/resource", json!("https://elsewhere.example"), &["keeper_signature"]),
            ("/payment/identifier", json!("another-identifier"), &["keeper_signature"]),
            ("/network/chainId", json!(1), &["authorization", "keeper_signature"]),
            ("/network/ledger", json!(Address::ZERO), &["keeper_signature"]),
            ("/transaction", json!(null), &["settlement"]),
            ("/state", json!("settled"), &["settlement"]),
            ("/keeper/key", json!(Address::ZERO), &["keeper_signature"]),
            (
                "/authorization/paymentPayload/payload/permit2Authorization/nonce",
                json!("7"),
                &["payment_id", "authorization"],
            ),
            ("/authorization/paymentPayload/payload", json!({}), &["authorization"]),
        ] {
            let mut text = serde_json::to_value(&good).unwrap();
            *text.pointer_mut(pointer).unwrap() = value.clone();
            let changed: PaymentFile = serde_json::from_value(text).unwrap();
            let found = failed(&changed);
            // What a changed nonce breaks: the id is another one, and the signature recovers to somebody else, whose transaction
            // is then said to be a contract's.
            let expected: Vec<&str> = if pointer.ends_with("/nonce") { vec!["payment_id"] } else { finds.to_vec() };
            assert_eq!(found, expected, "{pointer} = {value}");
        }
    }
}
