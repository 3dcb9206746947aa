//! Scheme `batch-settlement` from request to answer: vouchers, deposits and refunds verified; deposits, claims, payouts and
//! refunds settled.

use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolValue};
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::Asked;
use super::channel::claim::{Claim, Payout, Refund};
use super::channel::deposit::Deposit;
use super::channel::state::{State, Use, covers};
use super::channel::voucher::Signer;
use super::channel::{self, Asked as Action, Payload, Signed};
use super::channels;
use super::contracts::Multicall3::{self, Call3};
use super::contracts::batch::Batch;
use super::contracts::{BATCH, MULTICALL3, PERMIT2, Token};
use super::extensions::identifier;
use super::reasons::{Fault, Reason};
use super::reverts::named;
use super::signature::{agrees, ask_wallet};
use super::simulate::unasked;
use super::sponsor;
use super::state::Network;
use super::wait::{self, Accepted, Start};
use super::wire::{Request, SettledAnswer, Verified};
use crate::admission::count_payment;
use crate::chain::batch::{Answer, Ask, number};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::payments::{self, NewPayment, Payment};
use crate::tx::classify::{Class, Failure};
use crate::types::PaymentState;

/// Gas that calls may use.
const GAS_DEPOSIT: u64 = 600_000;
const GAS_DEPLOY: u64 = 2_000_000;
const GAS_PAYOUT: u64 = 200_000;
const GAS_REFUND: u64 = 300_000;
const GAS_CLAIM: u64 = 400_000;
const GAS_ROW: u64 = 60_000;

type Checked<T> = std::result::Result<T, Fault>;

/// Whether a voucher, deposit or refund is good.
///
/// # Errors
/// `store_failed`.
pub(super) async fn verify(ctx: &Ctx, network: &Network, request: &Request) -> Result<Verified> {
    let verified = match channel::check(request, Some(ctx.clock.now())) {
        Ok(Payload::Signed(signed)) => {
            if let Some(deposit) = &signed.deposit
                && let Some(fault) = identifier::refusal(ctx, request, signed.payer(), deposit.signer.digest).await?
            {
                return Ok(fault.into());
            }
            let proven = prove(network, &signed).await.map_err(|fault| fault.of(signed.payer()));
            proven.map(|(state, _)| Verified::valid(signed.payer(), Some(state.json(signed.channel_id))))
        }
        Ok(Payload::Asked(_)) => {
            let text = "claims, payouts and refunds with a refundNonce are for /settle";
            Err(Fault::new(Reason::BatchPayloadType, text))
        }
        Err(fault) => Err(fault),
    };
    Ok(verified.unwrap_or_else(Verified::from))
}

/// The channel that covers what a client signed, as it is before, and the calls of its deposit.
async fn prove(network: &Network, signed: &Signed) -> Checked<(State, Vec<Call>)> {
    match &signed.deposit {
        Some(deposit) => prove_deposit(network, signed, deposit).await,
        None => prove_voucher(network, signed).await.map(|state| (state, Vec::new())),
    }
}

/// A voucher is never refused because of what was remembered: then the chain is asked.
async fn prove_voucher(network: &Network, signed: &Signed) -> Checked<State> {
    let by_key = signed.voucher.key_only && signed.voucher.by_key;
    if let Some(state) = network.channels.get(signed.channel_id).filter(|_| by_key)
        && covers(&state, signed.max, signed.purpose).is_ok()
    {
        return Ok(state);
    }
    let mut asks = channels::asks(signed.channel_id, network.config.forwarder, BlockId::latest()).to_vec();
    asks.extend(signer_asks(network, &signed.voucher));
    let answers = ask(network, &asks).await?;
    let (state, signer) = answers.split_at(3);
    if !signs(&signed.voucher, signer)? {
        return Err(unsigned_voucher());
    }
    let state = channels::state(state)?;
    covers(&state, signed.max, signed.purpose)?;
    network.channels.set(signed.channel_id, state);
    Ok(state)
}

fn unsigned_voucher() -> Fault {
    let text = "the voucher is not signed by the channel's payerAuthorizer, or by its payer where there is none";
    Fault::new(Reason::BatchVoucherSignature, text)
}

/// Questions about who signed: an account that may be a wallet.
fn signer_asks(network: &Network, signer: &Signer) -> Vec<Ask> {
    if signer.key_only {
        return Vec::new();
    }
    let question = ask_wallet(signer.digest, &signer.signature.bytes);
    vec![Ask::code(signer.account), Ask::call(network.config.forwarder, signer.account, question, None)]
}

/// Whether it signed; `answers` to [`signer_asks`].
fn signs(signer: &Signer, answers: &[Answer]) -> Checked<bool> {
    let [code, word] = answers else { return Ok(signer.by_key) };
    let wallet = !code.as_ref().map_err(unasked)?.is_empty();
    Ok(if wallet { matches!(word, Ok(word) if agrees(word)) } else { signer.by_key })
}

async fn ask(network: &Network, asks: &[Ask]) -> Checked<Vec<Answer>> {
    network.rpc.batch(asks).await.map_err(|failure| {
        tracing::warn!(%failure, "cannot read a channel");
        Fault::new(Reason::BatchReadFailed, "the network does not answer now: try again")
    })
}

fn unread() -> Fault {
    Fault::new(Reason::BatchReadFailed, "the network answers what cannot be read: try again")
}

/// The state before a deposit that would go through, and the calls that make it.
async fn prove_deposit(network: &Network, signed: &Signed, deposit: &Deposit) -> Checked<(State, Vec<Call>)> {
    let (from, payer, token) = (network.config.forwarder, signed.payer(), signed.config.token);
    let data = signed.calldata().ok_or_else(unread)?;
    let view = |data: Vec<u8>| Ask::call(from, token, data.into(), None);
    let deploy = deposit.signer.signature.deploy.as_ref();
    let simulation = match deploy {
        None => Ask::call(from, BATCH, data.clone(), None),
        Some(deploy) => {
            let call = |target, data: &Bytes| Call3 { target, allowFailure: true, callData: data.clone() };
            let calls = vec![call(deploy.factory, &deploy.data), call(BATCH, &data)];
            Ask::call(from, MULTICALL3, Multicall3::aggregate3Call { calls }.abi_encode().into(), None)
        }
    };
    let mut asks = channels::asks(signed.channel_id, from, BlockId::latest()).to_vec();
    asks.extend([
        view(Token::balanceOfCall { owner: payer }.abi_encode()),
        view(Token::allowanceCall { owner: payer, spender: PERMIT2 }.abi_encode()),
        simulation,
    ]);
    asks.extend(signer_asks(network, &deposit.signer));
    asks.extend(signer_asks(network, &signed.voucher));
    let answers = ask(network, &asks).await?;
    let (state, rest) = answers.split_at(3);
    let [balance, allowance, simulated, code, word, voucher @ ..] = rest else { return Err(unread()) };
    let missing = code.as_ref().map_err(unasked)?.is_empty();
    let deploy = deploy.filter(|_| missing);
    if let Some(deploy) = deploy.filter(|deploy| !network.config.factories.contains(&deploy.factory)) {
        let text = format!("wallets of the factory {} are not deployed here", deploy.factory);
        return Err(Fault::new(Reason::BatchFactoryNotAllowed, text));
    }
    // A wallet that is not there yet speaks in the simulation.
    if deploy.is_none() && !signs(&deposit.signer, &[code.clone(), word.clone()])? {
        return Err(Fault::new(deposit.unsigned, "the deposit's authorization is not signed by the channel's payer"));
    }
    if (deploy.is_none() || signed.voucher.key_only) && !signs(&signed.voucher, voucher)? {
        return Err(unsigned_voucher());
    }
    let state = channels::state(state)?;
    let amount = U256::from(deposit.amount);
    let units = |answer: &Answer| answer.as_ref().ok().and_then(|data| number(data));
    let has = units(balance).unwrap_or_default();
    if has < amount {
        let text = format!("{has} units of the token are there, {amount} are to be deposited");
        return Err(Fault::new(Reason::BatchInsufficientBalance, text));
    }
    covers(&state, signed.max, signed.purpose)?;
    if let Err(data) = succeeded(simulated, deposit.signer.signature.deploy.is_some())? {
        if deposit.needs_allowance && units(allowance).is_some_and(|allowed| allowed < amount) {
            let text = format!("approve Permit2 {PERMIT2} for the token {token} first");
            return Err(Fault::new(Reason::BatchPermit2Allowance, text));
        }
        return Err(Fault::new(Reason::BatchDepositSimulation, format!("the deposit would fail: {}", named(&data))));
    }
    let id = deposit.signer.digest;
    let mut calls = Vec::with_capacity(2);
    if let Some(deploy) = deploy {
        let id = keccak256([id.as_slice(), b"deploy"].concat());
        calls.push(Call { id, target: deploy.factory, gas: GAS_DEPLOY, data: deploy.data.clone() });
    }
    calls.push(Call { id, target: BATCH, gas: GAS_DEPOSIT, data });
    Ok((state, calls))
}

/// Whether a simulation succeeded, or what it reverted with. `last`: it is the last call of a Multicall3.
fn succeeded(answer: &Answer, last: bool) -> Checked<std::result::Result<(), Bytes>> {
    let data = match answer {
        Ok(data) => data,
        Err(Failure { class: Class::Reverted(data), .. }) => return Ok(Err(data.clone())),
        Err(failure) => return Err(unasked(failure)),
    };
    if !last {
        return Ok(Ok(()));
    }
    let last = Multicall3::aggregate3Call::abi_decode_returns(data).ok().and_then(|mut outcomes| outcomes.pop());
    Ok(match last {
        Some(outcome) if outcome.success => Ok(()),
        outcome => Err(outcome.map(|outcome| outcome.returnData).unwrap_or_default()),
    })
}

/// Settles a deposit, a claim, a payout or a refund, or answers what came of it before.
pub(super) async fn settle(ctx: &Ctx, asked: &Asked<'_>) -> Result<SettledAnswer> {
    match channel::check(asked.request, None) {
        Err(fault) => Ok(asked.refused(fault)),
        Ok(Payload::Signed(signed)) => match signed.deposit.as_ref().map(|deposit| deposit.signer.digest) {
            Some(id) => settle_deposit(ctx, asked, id, &signed).await,
            None => {
                let text = "vouchers and a client's wish for a refund are for /verify";
                Ok(asked.refused(Fault::new(Reason::BatchPayloadType, text).of(signed.payer())))
            }
        },
        Ok(Payload::Asked(Action::Claim(claim))) => settle_claim(ctx, asked, &claim).await,
        Ok(Payload::Asked(Action::Payout(payout))) => settle_payout(ctx, asked, payout).await,
        Ok(Payload::Asked(Action::Refund(refund))) => settle_refund(ctx, asked, &refund).await,
    }
}

/// A payment that has a result or will have one.
async fn known(ctx: &Ctx, id: B256) -> Result<Option<Payment>> {
    let known = payments::get(ctx.store.read(), id).await?;
    Ok(known.filter(|known| !(known.state == PaymentState::Failed && known.is_final)))
}

async fn is_known(ctx: &Ctx, id: B256) -> Result<bool> {
    Ok(known(ctx, id).await?.is_some())
}

/// Waits for an action that is known, or refuses it with what would be wrong with it now.
async fn known_or(ctx: &Ctx, asked: &Asked<'_>, id: B256, fault: Fault) -> Result<SettledAnswer> {
    if is_known(ctx, id).await? { wait::for_result(ctx, asked, id).await } else { Ok(asked.refused(fault)) }
}

/// What is stored of an action.
struct Row {
    id: B256,
    method: &'static str,
    payer: Option<Address>,
    receiver: Address,
    asset: Address,
    amount: U256,
    /// The payer's own name for it; deposits only, the rest is of servers.
    identifier: Option<String>,
    calls: Vec<Call>,
}

/// Stores an action and waits for its result.
async fn act(ctx: &Ctx, asked: &Asked<'_>, row: Row) -> Result<SettledAnswer> {
    let new = NewPayment {
        payment_id: row.id,
        chain_id: asked.request.chain_id,
        scheme: "batch-settlement",
        method: row.method,
        x402_version: asked.request.version,
        payer: row.payer,
        receiver: row.receiver,
        asset: row.asset,
        max_amount: row.amount,
        amount: row.amount,
        resource: asked.request.resource.clone(),
        identifier: row.identifier,
        request: asked.body.to_vec(),
        calls: row.calls.abi_encode(),
        api_key: asked.api_key,
    };
    let gift = match row.payer.filter(|_| row.method == "deposit" && sponsor::brings_permit(asked.request)) {
        Some(payer) => match sponsor::permit_gift(asked.network, payer).await {
            Ok(gift) => Some(gift),
            Err(fault) => return Ok(asked.refused(fault)),
        },
        None => None,
    };
    match wait::accept(ctx, asked, &new, gift.as_ref().map_or(Start::Waits, Start::Sponsored)).await? {
        Accepted::Refused(fault) => Ok(asked.refused(fault)),
        Accepted::Taken => Ok(asked.refused(identifier::conflict(row.payer))),
        Accepted::New => wait::after(ctx, asked, &new).await,
        Accepted::Known(_) => wait::for_result(ctx, asked, row.id).await,
    }
}

async fn settle_deposit(ctx: &Ctx, asked: &Asked<'_>, id: B256, signed: &Signed) -> Result<SettledAnswer> {
    if let Some(known) = known(ctx, id).await? {
        // A server may ask for a deposit again with what it charges by now: that is the channel's matter.
        if identifier::differs(&known.new, asked.request, known.new.amount) {
            return Ok(asked.refused(identifier::conflict(known.new.payer)));
        }
        return wait::for_result(ctx, asked, id).await;
    }
    // The clock counts for new ones only.
    if let Err(fault) = channel::check(asked.request, Some(ctx.clock.now())) {
        return Ok(asked.refused(fault));
    }
    if let Some(fault) = identifier::refusal(ctx, asked.request, signed.payer(), id).await? {
        return Ok(asked.refused(fault));
    }
    let calls = match prove(asked.network, signed).await {
        Ok((_, calls)) => calls,
        Err(fault) => return known_or(ctx, asked, id, fault.of(signed.payer())).await,
    };
    count_payment(ctx, signed.payer())?;
    asked.network.channels.forget(signed.channel_id);
    let Use::Deposit(amount) = signed.purpose else { return Ok(asked.refused(unread())) };
    let row = Row {
        id,
        method: "deposit",
        payer: Some(signed.payer()),
        receiver: signed.config.receiver,
        asset: signed.config.token,
        amount: U256::from(amount),
        identifier: identifier::read(asked.request).ok().flatten(),
        calls,
    };
    act(ctx, asked, row).await
}

/// A receivers' authorizer's signature: the one that came along, or ours where it is ours to give.
fn authorize(network: &Network, given: Option<&Bytes>, authorizer: Address, digest: B256) -> Checked<Bytes> {
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return Ok(given.clone());
    }
    let Some(own) = &network.authorizer else {
        let text = "send the authorizer's signature along: this facilitator signs for nobody";
        return Err(Fault::new(Reason::BatchAuthorizerMissing, text));
    };
    if own.address() != authorizer {
        return Err(Fault::differs(Reason::BatchAuthorizerMismatch, "receiverAuthorizer", authorizer, own.address()));
    }
    let failed = |_| Fault::new(Reason::UnexpectedSettle, "the facilitator cannot sign now");
    own.sign_hash_sync(&digest).map(|signature| signature.as_bytes().to_vec().into()).map_err(failed)
}

/// Simulates a call of the channels' contract.
async fn simulate(network: &Network, data: &Bytes, reason: Reason) -> Checked<()> {
    let answers = ask(network, &[Ask::call(network.config.forwarder, BATCH, data.clone(), None)]).await?;
    match succeeded(answers.first().ok_or_else(unread)?, false)? {
        Ok(()) => Ok(()),
        Err(data) => Err(Fault::new(reason, format!("it would fail: {}", named(&data)))),
    }
}

fn gas_of_claims(claim: &Claim) -> u64 {
    GAS_CLAIM.saturating_add(GAS_ROW.saturating_mul(u64::try_from(claim.rows.len()).unwrap_or(u64::MAX)))
}

async fn settle_claim(ctx: &Ctx, asked: &Asked<'_>, claim: &Claim) -> Result<SettledAnswer> {
    let network = asked.network;
    let id = claim.digest;
    if is_known(ctx, id).await? {
        return wait::for_result(ctx, asked, id).await;
    }
    let prove = async {
        let signature = authorize(network, claim.signature.as_ref(), claim.authorizer, id)?;
        if already_claimed(network, claim).await? {
            return Ok(None);
        }
        let data = claim.calldata(&signature);
        simulate(network, &data, Reason::BatchClaimSimulation).await?;
        Ok(Some(data))
    };
    let data = match prove.await {
        Ok(Some(data)) => data,
        // Somebody claimed all of it before: there is nothing to send.
        Ok(None) => return Ok(asked.done_before()),
        Err(fault) => return known_or(ctx, asked, id, fault).await,
    };
    for row in &claim.rows {
        network.channels.forget(row.channel_id);
    }
    let first = claim.rows.first().map(|row| &row.config);
    let row = Row {
        id,
        method: "claim",
        payer: None,
        receiver: first.map_or(Address::ZERO, |config| config.receiver),
        asset: first.map_or(Address::ZERO, |config| config.token),
        amount: U256::ZERO,
        identifier: None,
        calls: vec![Call { id, target: BATCH, gas: gas_of_claims(claim), data }],
    };
    act(ctx, asked, row).await
}

/// Whether every row of a claim is claimed already: the contract would skip them all.
async fn already_claimed(network: &Network, claim: &Claim) -> Checked<bool> {
    let call = |channel_id| Call3 {
        target: BATCH,
        allowFailure: true,
        callData: Batch::channelsCall { channelId: channel_id }.abi_encode().into(),
    };
    let calls = claim.rows.iter().map(|row| call(row.channel_id)).collect();
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let answers = ask(network, &[Ask::call(network.config.forwarder, MULTICALL3, data.into(), None)]).await?;
    let data = answers.first().and_then(|answer| answer.as_ref().ok()).ok_or_else(unread)?;
    let outcomes = Multicall3::aggregate3Call::abi_decode_returns(data).map_err(|_| unread())?;
    let mut all = true;
    for (outcome, row) in outcomes.iter().zip(&claim.rows) {
        let channel = Batch::channelsCall::abi_decode_returns(&outcome.returnData).map_err(|_| unread())?;
        all &= row.total_claimed <= channel.totalClaimed;
    }
    Ok(all)
}

async fn settle_payout(ctx: &Ctx, asked: &Asked<'_>, payout: Payout) -> Result<SettledAnswer> {
    let (network, Payout { receiver, token }) = (asked.network, payout);
    let data = Batch::receiversCall { receiver, token }.abi_encode();
    let answers = match ask(network, &[Ask::call(network.config.forwarder, BATCH, data.into(), None)]).await {
        Ok(answers) => answers,
        Err(fault) => return Ok(asked.refused(fault)),
    };
    let totals = answers.first().and_then(|answer| answer.as_ref().ok());
    let Some(totals) = totals.and_then(|data| Batch::receiversCall::abi_decode_returns(data).ok()) else {
        return Ok(asked.refused(unread()));
    };
    let id = payout.payment_id(asked.request.chain_id, totals.totalClaimed);
    if is_known(ctx, id).await? {
        return wait::for_result(ctx, asked, id).await;
    }
    if totals.totalClaimed <= totals.totalSettled {
        let text = "all that was claimed is paid out: claim first";
        return Ok(asked.refused(Fault::new(Reason::BatchNothingToSettle, text)));
    }
    let data = payout.calldata();
    if let Err(fault) = simulate(network, &data, Reason::BatchSettleSimulation).await {
        return known_or(ctx, asked, id, fault).await;
    }
    let row = Row {
        id,
        method: "settle",
        payer: None,
        receiver,
        asset: token,
        amount: U256::from(totals.totalClaimed - totals.totalSettled),
        identifier: None,
        calls: vec![Call { id, target: BATCH, gas: GAS_PAYOUT, data }],
    };
    act(ctx, asked, row).await
}

async fn settle_refund(ctx: &Ctx, asked: &Asked<'_>, refund: &Refund) -> Result<SettledAnswer> {
    let id = refund.digest;
    let payer = refund.config.payer;
    if is_known(ctx, id).await? {
        return wait::for_result(ctx, asked, id).await;
    }
    let data = match prove_refund(asked.network, refund).await {
        Ok(data) => data,
        Err(fault) => return known_or(ctx, asked, id, fault.of(payer)).await,
    };
    asked.network.channels.forget(refund.channel_id);
    let gas = GAS_REFUND + refund.claim.as_ref().map_or(0, gas_of_claims);
    let row = Row {
        id,
        method: "refund",
        payer: Some(payer),
        receiver: refund.config.receiver,
        asset: refund.config.token,
        amount: U256::from(refund.amount),
        identifier: None,
        calls: vec![Call { id, target: BATCH, gas, data }],
    };
    act(ctx, asked, row).await
}

/// The call of a refund that would go through.
async fn prove_refund(network: &Network, refund: &Refund) -> Checked<Bytes> {
    let asks = channels::asks(refund.channel_id, network.config.forwarder, BlockId::latest());
    let mut state = channels::state(&ask(network, &asks).await?)?;
    // What is claimed before leaves less to refund.
    for row in refund.claim.iter().flat_map(|claim| &claim.rows).filter(|row| row.channel_id == refund.channel_id) {
        state.total_claimed = state.total_claimed.max(row.total_claimed);
    }
    if state.refundable() == 0 {
        let text = "all of the channel is claimed: there is nothing to refund";
        return Err(Fault::new(Reason::BatchRefundNoBalance, text));
    }
    let authorizer = refund.config.receiverAuthorizer;
    let signature = authorize(network, refund.signature.as_ref(), authorizer, refund.digest)?;
    let claim = match &refund.claim {
        Some(claim) => {
            let given = claim.signature.as_ref();
            Some(claim.calldata(&authorize(network, given, claim.authorizer, claim.digest)?))
        }
        None => None,
    };
    let data = refund.calldata(&signature, claim);
    simulate(network, &data, Reason::BatchRefundSimulation).await?;
    Ok(data)
}
