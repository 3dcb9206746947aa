//! What the chain says of a payment: one JSON-RPC batch with its simulation, and one more to find out why it would fail.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall;

use super::contracts::Multicall3::{self, Call3, Outcome};
use super::contracts::{MULTICALL3, PERMIT2, Token};
use super::plan::{Checked, Method, Plan};
use super::reasons::{Fault, Reason};
use super::reverts::{meaning, named};
use super::signature::{agrees, ask_wallet};
use super::state::Network;
use crate::chain::batch::{Answer, Ask, number};
use crate::tx::classify::{Class, Failure};

/// Gas that a payment of an account may use, and of one that needs more: a wallet's own code, an unusual token.
const GAS_EIP3009: u64 = 150_000;
const GAS_PERMIT2: u64 = 220_000;
pub const GAS_LARGE: u64 = 1_000_000;
/// What the deployment of a wallet may use.
const GAS_DEPLOY: u64 = 2_000_000;

/// A payment that would go through now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Gas that its call may use.
    pub gas: u64,
    /// The payer's wallet must be deployed before it, with so much gas at most.
    pub deploy_gas: Option<u64>,
    /// The payer's approval of Permit2 must be sent before it.
    pub approve: bool,
}

/// Asks the chain whether a payment would go through.
///
/// # Errors
/// The reason why not; `unexpected_verify_error` when the chain cannot be asked.
pub async fn prove(network: &Network, (plan, deferred): Checked) -> Result<Proof, Fault> {
    let refuse = |fault: Fault| fault.of(plan.payer);
    if let (Some(fault), true) = (&deferred, plan.by_key) {
        return Err(refuse(fault.clone()));
    }
    let proven = if plan.method == Method::Eip3009 {
        eip3009(network, &plan, deferred).await
    } else {
        permit2(network, &plan).await
    };
    proven.map_err(refuse)
}

/// The refusal of a payment because the chain cannot be asked.
pub fn unasked(failure: &Failure) -> Fault {
    tracing::warn!(%failure, "cannot verify an x402 payment");
    Fault::new(Reason::UnexpectedVerify, "the network does not answer now: try again")
}

async fn ask(network: &Network, asks: &[Ask]) -> Result<Vec<Answer>, Fault> {
    network.rpc.batch(asks).await.map_err(|failure| unasked(&failure))
}

/// The code at an account, of an answer.
fn has_code(answer: &Answer) -> Result<bool, Fault> {
    answer.as_ref().map(|code| !code.is_empty()).map_err(unasked)
}

fn call3(target: Address, data: Bytes) -> Call3 {
    Call3 { target, allowFailure: true, callData: data }
}

/// The calls of one simulated EIP-3009 payment, through Multicall3: deployment, the wallet's word, the transfer.
fn eip3009_calls(plan: &Plan, gas: Option<u64>, from: Address) -> Ask {
    let mut calls = Vec::with_capacity(3);
    if let Some(deploy) = &plan.signature.deploy {
        calls.push(call3(deploy.factory, deploy.data.clone()));
    }
    calls.push(call3(plan.payer, ask_wallet(plan.payment_id, &plan.signature.bytes)));
    calls.push(call3(plan.target, plan.calldata.clone()));
    Ask::call(from, MULTICALL3, Multicall3::aggregate3Call { calls }.abi_encode().into(), gas)
}

/// The wallet's word and the transfer, of an answer; `None` when it holds no such thing.
fn eip3009_outcomes(answer: &Answer) -> Option<(Outcome, Outcome)> {
    let mut outcomes = Multicall3::aggregate3Call::abi_decode_returns(answer.as_ref().ok()?).ok()?;
    let transfer = outcomes.pop()?;
    Some((outcomes.pop()?, transfer))
}

async fn eip3009(network: &Network, plan: &Plan, deferred: Option<Fault>) -> Result<Proof, Fault> {
    let from = network.config.forwarder;
    let gas = if plan.signature.deploy.is_some() { GAS_DEPLOY } else { GAS_EIP3009 };
    let mut asks = vec![Ask::code(plan.payer), eip3009_calls(plan, Some(gas), from)];
    let asset_known = network.is_deployed(plan.asset);
    if !asset_known {
        asks.push(Ask::code(plan.asset));
    }
    let answers = ask(network, &asks).await?;
    let [code, simulated, rest @ ..] = answers.as_slice() else { return Err(odd()) };
    let wallet = has_code(code)?;
    let outcomes = eip3009_outcomes(simulated);
    if wallet {
        let agreed = outcomes.as_ref().is_some_and(|(word, _)| word.success && agrees(&word.returnData));
        if !agreed && !wallet_agrees(network, plan).await? {
            return Err(Fault::new(Reason::ExactSignature, "the payer's wallet does not agree (ERC-1271)"));
        }
    } else if let Some(deploy) = &plan.signature.deploy {
        if deploy.factory == Address::ZERO || deploy.data.is_empty() {
            let text = "the payer's wallet is not deployed, and nothing says how to";
            return Err(Fault::new(Reason::ExactUndeployedWallet, text));
        }
        if !network.config.factories.contains(&deploy.factory) {
            let text = format!("wallets of the factory {} are not deployed here", deploy.factory);
            return Err(Fault::new(Reason::FactoryNotAllowed, text));
        }
    } else if !plan.by_key {
        let text = "signature is not by authorization.from over this authorization, in the domain that extra names";
        return Err(Fault::new(Reason::ExactSignature, text));
    }
    if let Some(fault) = deferred {
        return Err(fault);
    }
    if let Some(code) = rest.first() {
        if !has_code(code)? {
            return Err(Fault::new(Reason::AssetNotDeployed, format!("there is no token at {}", plan.asset)));
        }
        network.deployed(plan.asset);
    }
    if outcomes.is_some_and(|(_, transfer)| transfer.success) {
        let deploy = plan.signature.deploy.as_ref().filter(|_| !wallet);
        // Where a wallet is deployed first its code was simulated too: how much of the gas is the transfer's is not known.
        let gas = if wallet || deploy.is_some() { GAS_LARGE } else { gas };
        return Ok(Proof { gas, deploy_gas: deploy.map(|_| GAS_DEPLOY), approve: false });
    }
    why_eip3009(network, plan, wallet).await
}

/// The wallet's own word, without a limit of gas.
async fn wallet_agrees(network: &Network, plan: &Plan) -> Result<bool, Fault> {
    let data = ask_wallet(plan.payment_id, &plan.signature.bytes);
    let answers = ask(network, &[Ask::call(network.config.forwarder, plan.payer, data, None)]).await?;
    Ok(matches!(answers.first(), Some(Ok(answer)) if agrees(answer)))
}

/// Why a transfer failed; or that it only needs more gas than most.
async fn why_eip3009(network: &Network, plan: &Plan, wallet: bool) -> Result<Proof, Fault> {
    let from = network.config.forwarder;
    let view = |data: Vec<u8>| Ask::call(from, plan.asset, data.into(), None);
    let asks = [
        eip3009_calls(plan, None, from),
        view(Token::authorizationStateCall { authorizer: plan.payer, nonce: plan.nonce }.abi_encode()),
        view(Token::nameCall {}.abi_encode()),
        view(Token::versionCall {}.abi_encode()),
        view(Token::balanceOfCall { owner: plan.payer }.abi_encode()),
    ];
    let answers = ask(network, &asks).await?;
    let [simulated, used, name, version, balance] = answers.as_slice() else { return Err(odd()) };
    let outcomes = eip3009_outcomes(simulated);
    if let Some((_, transfer)) = &outcomes
        && transfer.success
    {
        let deploy = plan.signature.deploy.as_ref().filter(|_| !wallet);
        return Ok(Proof { gas: GAS_LARGE, deploy_gas: deploy.map(|_| GAS_DEPLOY), approve: false });
    }
    let Some(used) = used.as_ref().ok().and_then(|used| number(used)) else {
        let text = format!("the token {} does not know EIP-3009: pay through Permit2", plan.asset);
        return Err(Fault::new(Reason::ExactEip3009NotSupported, text));
    };
    if !used.is_zero() {
        return Err(Fault::new(Reason::ExactNonceUsed, "the authorization is spent or cancelled: sign a new one"));
    }
    let text =
        |answer: &Answer, decode: fn(&[u8]) -> Option<String>| answer.as_ref().ok().and_then(|data| decode(data));
    let domain = &plan.domain;
    if let Some(found) = text(name, |data| Token::nameCall::abi_decode_returns(data).ok()).filter(|it| *it != domain.0)
    {
        return Err(Fault::differs(Reason::ExactTokenName, "extra.name", &domain.0, found));
    }
    if let Some(found) =
        text(version, |data| Token::versionCall::abi_decode_returns(data).ok()).filter(|it| *it != domain.1)
    {
        return Err(Fault::differs(Reason::ExactTokenVersion, "extra.version", &domain.1, found));
    }
    if let Some(fault) = too_little(balance, plan.amount, Reason::ExactInsufficientBalance) {
        return Err(fault);
    }
    let data = outcomes.map(|(_, transfer)| transfer.returnData).unwrap_or_default();
    let reason = meaning(Method::Eip3009, &data).unwrap_or(Reason::ExactSimulationFailed);
    Err(Fault::new(reason, format!("the token refuses the transfer: {}", named(&data))))
}

async fn permit2(network: &Network, plan: &Plan) -> Result<Proof, Fault> {
    let from = network.config.forwarder;
    let mut asks = vec![Ask::code(plan.payer), Ask::call(from, plan.target, plan.calldata.clone(), Some(GAS_PERMIT2))];
    // A call of nothing succeeds, and so does Permit2's transfer of a token that is not there.
    let unseen: Vec<Address> =
        [plan.target, plan.asset].into_iter().filter(|contract| !network.is_deployed(*contract)).collect();
    asks.extend(unseen.iter().map(|contract| Ask::code(*contract)));
    let answers = ask(network, &asks).await?;
    let [code, simulated, rest @ ..] = answers.as_slice() else { return Err(odd()) };
    let wallet = has_code(code)?;
    if !wallet && !plan.by_key {
        let text = "signature is not by permit2Authorization.from over this permit and witness";
        return Err(Fault::new(Reason::Permit2Signature, text));
    }
    for (contract, code) in unseen.iter().zip(rest) {
        if has_code(code)? {
            network.deployed(*contract);
        } else if *contract == plan.asset {
            return Err(Fault::new(Reason::AssetNotDeployed, format!("there is no token at {}", plan.asset)));
        } else {
            let text = format!("the x402 proxy {contract} is not deployed on this network");
            return Err(Fault::new(Reason::Permit2ProxyNotDeployed, text));
        }
    }
    match simulated {
        Ok(_) => Ok(Proof { gas: if wallet { GAS_LARGE } else { GAS_PERMIT2 }, deploy_gas: None, approve: false }),
        Err(_) => why_permit2(network, plan, wallet).await,
    }
}

/// Why a transfer through Permit2 failed; or that it only needs more gas than most.
async fn why_permit2(network: &Network, plan: &Plan, wallet: bool) -> Result<Proof, Fault> {
    let from = network.config.forwarder;
    let view = |data: Vec<u8>| Ask::call(from, plan.asset, data.into(), None);
    let mut asks = vec![
        Ask::call(from, plan.target, plan.calldata.clone(), None),
        view(Token::balanceOfCall { owner: plan.payer }.abi_encode()),
        view(Token::allowanceCall { owner: plan.payer, spender: PERMIT2 }.abi_encode()),
        Ask::nonce(plan.payer),
    ];
    if wallet {
        asks.push(Ask::call(from, plan.payer, ask_wallet(plan.payment_id, &plan.signature.bytes), None));
    }
    let answers = ask(network, &asks).await?;
    let [simulated, balance, allowance, nonce, rest @ ..] = answers.as_slice() else { return Err(odd()) };
    let data = match simulated {
        Ok(_) => return Ok(Proof { gas: GAS_LARGE, deploy_gas: None, approve: false }),
        Err(Failure { class: Class::Reverted(data), .. }) => data.clone(),
        Err(failure) => return Err(unasked(failure)),
    };
    if rest.first().is_some_and(|word| !matches!(word, Ok(answer) if agrees(answer))) {
        return Err(Fault::new(Reason::Permit2Signature, "the payer's wallet does not agree (ERC-1271)"));
    }
    if let Some(reason) = meaning(plan.method, &data) {
        return Err(Fault::new(reason, named(&data)));
    }
    if let Some(fault) = too_little(balance, plan.amount, Reason::Permit2InsufficientBalance) {
        return Err(fault);
    }
    if let Some(fault) = too_little(allowance, plan.amount, Reason::Permit2AllowanceRequired) {
        if let Some(approval) = &plan.approval {
            return approved_before(approval, plan.amount, nonce);
        }
        let text = format!("{}; approve Permit2 {PERMIT2} for the token {} first", fault.message, plan.asset);
        return Err(Fault::new(Reason::Permit2AllowanceRequired, text));
    }
    Err(Fault::new(Reason::Permit2SimulationFailed, format!("the payment would revert: {}", named(&data))))
}

/// A payment that only lacks the allowance that comes along as a transaction: that must be the payer's next one.
fn approved_before(approval: &super::sponsor::Approval, amount: U256, nonce: &Answer) -> Result<Proof, Fault> {
    if approval.value < amount {
        let what = "amount in signedTransaction";
        return Err(Fault::differs(Reason::ApprovalCalldata, what, approval.value, format!("at least {amount}")));
    }
    let next = nonce.as_ref().map_err(unasked)?;
    let next = number(next).ok_or_else(odd)?;
    if next != U256::from(approval.nonce) {
        let what = "nonce of signedTransaction";
        return Err(Fault::differs(Reason::ApprovalFailed, what, approval.nonce, next));
    }
    Ok(Proof { gas: GAS_LARGE, deploy_gas: None, approve: true })
}

/// The refusal of a payer that has less than `amount`.
fn too_little(answer: &Answer, amount: U256, reason: Reason) -> Option<Fault> {
    let has = number(answer.as_ref().ok()?)?;
    let what = if reason == Reason::Permit2AllowanceRequired { "may be spent by Permit2" } else { "are there" };
    (has < amount).then(|| Fault::new(reason, format!("{has} units of the token {what}, {amount} are needed")))
}

fn odd() -> Fault {
    Fault::new(Reason::UnexpectedVerify, "the network answers what cannot be read: try again")
}
