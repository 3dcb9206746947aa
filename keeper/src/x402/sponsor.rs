//! Extensions by which a payer without gas money lets Permit2 spend its tokens: a signed permit (ERC-2612) that goes along with
//! the payment, or a signed `approve` transaction that we send before it, with the gas money that it lacks. What this costs us is
//! limited for each payer and for all.

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, U256, address};
use alloy::sol_types::SolCall;

use super::contracts::{PERMIT2, Permit2612, Token};
use super::exact::MARGIN;
use super::read::At;
use super::reasons::{Fault, Reason};
use super::state::Network;
use super::wire::Request;
use crate::chain::batch::{Answer, Ask, number};
use crate::config::Config;
use crate::ctx::Ctx;
use crate::error;
use crate::store::WriteTx;
use crate::store::sponsored::{self, New, Raw, Used};
use crate::store::txs::{self, NewTx};
use crate::tx::classify::Failure;
use crate::types::SponsoredState;

/// Gas that a permit costs at most.
const PERMIT_GAS: u64 = 80_000;
/// Gas that bringing gas money costs at most.
pub const TOP_UP_GAS: u64 = 30_000;
/// Gas of an approval that we pay for; stock clients ask for 70,000.
const MOST_GAS: u64 = 200_000;
/// GasPriceOracle of OP Stack chains, Base among them.
const L1_FEES: Address = address!("420000000000000000000000000000000000000F");

alloy::sol! {
    function getL1Fee(bytes data) returns (uint256);
}

/// Key of the extension with a permit.
pub const EIP2612: &str = "eip2612GasSponsoring";
/// Key of the extension with a transaction.
pub const APPROVAL: &str = "erc20ApprovalGasSponsoring";

/// A payer's transaction that approves Permit2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// As the payer signed it.
    pub raw: Bytes,
    pub tx_hash: B256,
    pub nonce: u64,
    /// The token.
    pub asset: Address,
    /// What Permit2 may spend.
    pub value: U256,
    pub gas: u64,
    /// Wei per gas at most.
    pub max_fee: u128,
    /// Wei that the payer must have for it.
    pub cost: U256,
}

/// The permit that comes with a payment, if one does.
///
/// # Errors
/// `invalid_eip2612_extension_format` and the mismatches of the extension.
pub fn eip2612(
    request: &Request,
    payer: Address,
    asset: Address,
    now: Option<u64>,
) -> Result<Option<Permit2612>, Fault> {
    let Some(info) = request.extension(EIP2612) else { return Ok(None) };
    let at = At::root(info, "extensions.eip2612GasSponsoring.info");
    let format = |fault: Fault| Fault { reason: Reason::Eip2612Format, ..fault };
    // Declared by the server and left empty by the client: not used.
    if at.maybe("signature").map_err(format)?.is_none() {
        return Ok(None);
    }
    let read = || -> Result<_, Fault> {
        at.get("version")?.text()?;
        at.get("nonce")?.uint()?;
        let signature = at.get("signature")?;
        let bytes = signature.bytes()?;
        if bytes.len() != 65 {
            return Err(signature.wrong("must have 65 bytes"));
        }
        let permit = Permit2612 {
            value: at.get("amount")?.uint()?,
            deadline: at.get("deadline")?.uint()?,
            r: B256::from_slice(&bytes[..32]),
            s: B256::from_slice(&bytes[32..64]),
            v: if bytes[64] < 27 { bytes[64] + 27 } else { bytes[64] },
        };
        Ok((at.get("from")?.address()?, at.get("asset")?.address()?, at.get("spender")?.address()?, permit))
    };
    let (from, token, spender, permit) = read().map_err(format)?;
    if from != payer {
        return Err(Fault::differs(Reason::Eip2612From, "from of the permit", from, payer));
    }
    if token != asset {
        return Err(Fault::differs(Reason::Eip2612Asset, "asset of the permit", token, asset));
    }
    if spender != PERMIT2 {
        return Err(Fault::differs(Reason::Eip2612Spender, "spender of the permit", spender, PERMIT2));
    }
    if now.is_some_and(|now| permit.deadline < U256::from(now.saturating_add(MARGIN))) {
        let text = format!("deadline of the permit is {}: less than {MARGIN} s are left", permit.deadline);
        return Err(Fault::new(Reason::Eip2612Expired, text));
    }
    Ok(Some(permit))
}

/// The approving transaction that comes with a payment, if one does.
///
/// # Errors
/// `invalid_erc20_approval_extension_format` and the mismatches of the extension.
pub fn approval(request: &Request, payer: Address, asset: Address) -> Result<Option<Approval>, Fault> {
    let Some(info) = request.extension(APPROVAL) else { return Ok(None) };
    let at = At::root(info, "extensions.erc20ApprovalGasSponsoring.info");
    let format = |fault: Fault| Fault { reason: Reason::ApprovalFormat, ..fault };
    if at.maybe("signedTransaction").map_err(format)?.is_none() {
        return Ok(None);
    }
    let read = || -> Result<_, Fault> {
        at.get("version")?.text()?;
        at.get("amount")?.uint()?;
        let raw = at.get("signedTransaction")?.bytes()?;
        Ok((at.get("from")?.address()?, at.get("asset")?.address()?, at.get("spender")?.address()?, raw))
    };
    let (from, token, spender, raw) = read().map_err(format)?;
    if from != payer {
        return Err(Fault::differs(Reason::ApprovalFrom, "from of the approval", from, payer));
    }
    if token != asset {
        return Err(Fault::differs(Reason::ApprovalAsset, "asset of the approval", token, asset));
    }
    if spender != PERMIT2 {
        return Err(Fault::differs(Reason::ApprovalSpender, "spender of the approval", spender, PERMIT2));
    }
    let tx = TxEnvelope::decode_2718_exact(&raw)
        .map_err(|error| Fault::new(Reason::ApprovalParse, format!("signedTransaction cannot be read: {error}")))?;
    if !matches!(tx, TxEnvelope::Legacy(_) | TxEnvelope::Eip2930(_) | TxEnvelope::Eip1559(_)) {
        let text = "signedTransaction must be of type 0, 1 or 2";
        return Err(Fault::new(Reason::ApprovalParse, text));
    }
    if tx.chain_id() != Some(request.chain_id) {
        let found = tx.chain_id().map_or("missing".to_owned(), |id| id.to_string());
        return Err(Fault::differs(Reason::ApprovalParse, "chain id of signedTransaction", found, request.chain_id));
    }
    if tx.to() != Some(asset) {
        let text = format!("signedTransaction must call the token {asset}");
        return Err(Fault::new(Reason::ApprovalTarget, text));
    }
    let input = tx.input();
    if input.get(..4) != Some(&Token::approveCall::SELECTOR) {
        return Err(Fault::new(Reason::ApprovalSelector, "signedTransaction must call approve"));
    }
    let call = Token::approveCall::abi_decode_validate(input).map_err(|error| {
        Fault::new(Reason::ApprovalCalldata, format!("the call in signedTransaction cannot be read: {error}"))
    })?;
    if call.spender != PERMIT2 {
        let what = "spender in signedTransaction";
        return Err(Fault::differs(Reason::ApprovalTxSpender, what, call.spender, PERMIT2));
    }
    if !tx.value().is_zero() {
        return Err(Fault::differs(Reason::ApprovalCalldata, "value of signedTransaction", tx.value(), 0));
    }
    let signer = tx.signature().recover_address_from_prehash(&tx.signature_hash());
    let signer =
        signer.map_err(|_| Fault::new(Reason::ApprovalSignature, "signedTransaction has no good signature"))?;
    if signer != payer {
        return Err(Fault::differs(Reason::ApprovalSigner, "signer of signedTransaction", signer, payer));
    }
    let (gas, max_fee) = (tx.gas_limit(), tx.max_fee_per_gas());
    Ok(Some(Approval {
        tx_hash: *tx.tx_hash(),
        nonce: tx.nonce(),
        asset,
        value: call.value,
        gas,
        max_fee,
        cost: U256::from(gas).saturating_mul(U256::from(max_fee)),
        raw,
    }))
}

/// Whether a permit comes with a payment.
pub fn brings_permit(request: &Request) -> bool {
    request.extension(EIP2612).is_some_and(|info| info.get("signature").is_some_and(|signature| !signature.is_null()))
}

/// Gas money that a payment costs us besides its own transaction.
#[derive(Clone, Copy, Debug)]
pub struct Gift<'a> {
    pub payer: Address,
    /// What counts against the limits.
    pub wei: u64,
    /// The payer's transaction, and the wei that its payer lacks for it.
    pub approval: Option<(&'a Approval, u128)>,
}

/// What a permit costs that goes along.
///
/// # Errors
/// `unexpected_settle_error` when the network does not answer.
pub async fn permit_gift(network: &Network, payer: Address) -> Result<Gift<'static>, Fault> {
    let price = network.gas_price().await.map_err(|failure| unasked(&failure).of(payer))?;
    Ok(Gift { payer, wei: whole(U256::from(price) * U256::from(PERMIT_GAS)), approval: None })
}

/// What an approval costs us: nothing when its payer has enough.
///
/// # Errors
/// `erc20_approval_tx_failed` for a transaction that would fail, that is not worth its price, or for which we give nothing.
pub async fn approval_gift<'a>(
    config: &Config,
    network: &Network,
    payer: Address,
    approval: &'a Approval,
) -> Result<Gift<'a>, Fault> {
    let refuse = |text: String| Err(Fault::new(Reason::ApprovalFailed, text).of(payer));
    let history = network.rpc.fee_history(50.0).await.map_err(|failure| unasked(&failure).of(payer))?;
    let base_fee = history.base_fee_per_gas.last().copied().unwrap_or_default();
    if approval.max_fee < base_fee {
        return refuse(format!(
            "signedTransaction offers {} wei per gas, the network asks for {base_fee}: sign another one",
            approval.max_fee
        ));
    }
    let call = Token::approveCall { spender: PERMIT2, value: approval.value }.abi_encode();
    let asks = [
        Ask::balance(payer),
        Ask::gas_price(),
        Ask::call(payer, L1_FEES, getL1FeeCall { data: approval.raw.clone() }.abi_encode().into(), None),
        Ask::call(payer, approval.asset, call.into(), Some(approval.gas)),
    ];
    let answers = network.rpc.batch(&asks).await.map_err(|failure| unasked(&failure).of(payer))?;
    let [balance, price, l1, approves] = answers.as_slice() else { return refuse("no answer".to_owned()) };
    let read = |answer: &Answer| answer.as_ref().ok().and_then(|answer| number(answer));
    let (Some(balance), Some(price)) = (read(balance), read(price)) else {
        return Err(
            Fault::new(Reason::UnexpectedSettle, "the network answers what cannot be read: try again").of(payer)
        );
    };
    if approves.is_err() {
        return refuse("signedTransaction would revert".to_owned());
    }
    // A rollup takes its own fee besides: some more, because it changes.
    let l1 = read(l1).unwrap_or_default();
    let cost = approval.cost.saturating_add(l1).saturating_add(l1 / U256::from(4));
    let Some(lacks) = cost.checked_sub(balance).filter(|lacks| !lacks.is_zero()) else {
        return Ok(Gift { payer, wei: 0, approval: Some((approval, 0)) });
    };
    if !network.config.sponsor.approvals {
        return refuse(format!(
            "signedTransaction costs up to {cost} wei, the payer has {balance}: this facilitator gives none"
        ));
    }
    let most = u128::from(config.fees.max_fee_wei);
    if approval.max_fee > most || approval.gas > MOST_GAS {
        return refuse(format!(
            "this facilitator pays for at most {MOST_GAS} gas at {most} wei, signedTransaction wants {} at {}",
            approval.gas, approval.max_fee
        ));
    }
    let wei = whole(lacks.saturating_add(price.saturating_mul(U256::from(TOP_UP_GAS))));
    Ok(Gift { payer, wei, approval: Some((approval, u128::try_from(lacks).unwrap_or(u128::MAX))) })
}

/// The refusal of gas money beyond a limit.
fn beyond(network: &Network, gift: &Gift<'_>, used: Used) -> Option<Fault> {
    let most = &network.config.sponsor;
    let limits = [
        ("payer_hour", used.payer_hour, most.payer_hour_wei, "for this payer within an hour"),
        ("hour", used.hour, most.hour_wei, "within an hour"),
        ("day", used.day, most.day_wei, "within a day"),
    ];
    let (name, used, most, text) =
        limits.into_iter().find(|(_, used, most, _)| used.saturating_add(gift.wei) > *most)?;
    metrics::counter!("quittance_x402_sponsor_refused_total", "limit" => name).increment(1);
    let text = format!(
        "this needs {} wei of gas money, {used} of {most} are given out {text}: try later, or let the payer approve Permit2 itself",
        gift.wei
    );
    Some(Fault::new(Reason::SponsorLimit, text).of(gift.payer))
}

/// Whether the limits leave room for a gift now.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn room(ctx: &Ctx, network: &Network, gift: &Gift<'_>) -> error::Result<Option<Fault>> {
    if gift.wei == 0 {
        return Ok(None);
    }
    let used = sponsored::used(ctx.store.read(), network.config.chain_id, gift.payer, ctx.clock.now_ms()).await?;
    Ok(beyond(network, gift, used))
}

/// Stores a gift with the payment that needs it: what it costs counts from now on, and the payer's approval goes before the payment.
/// The refusal when the limits leave no room.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn give(
    tx: &mut WriteTx,
    network: &Network,
    gift: &Gift<'_>,
    payment_id: B256,
    now_ms: i64,
) -> error::Result<Option<Fault>> {
    let chain_id = network.config.chain_id;
    let id = gift.approval.map_or(payment_id, |(approval, _)| approval.tx_hash);
    sponsored::lock(tx, chain_id, now_ms).await?;
    match (sponsored::state(&mut **tx, id).await?, gift.approval) {
        (None, _) => {
            let used = sponsored::used(&mut **tx, chain_id, gift.payer, now_ms).await?;
            if let Some(fault) = beyond(network, gift, used).filter(|_| gift.wei > 0) {
                return Ok(Some(fault));
            }
            if gift.approval.is_some_and(|(_, lacks)| lacks > 0)
                && sponsored::has_open(&mut **tx, chain_id, gift.payer).await?
            {
                let text = "another signedTransaction of this payer is on its way: try again when it is mined";
                return Ok(Some(Fault::new(Reason::ApprovalFailed, text).of(gift.payer)));
            }
            let approval = match gift.approval {
                None => None,
                Some((approval, 0)) => Some(Raw { raw: approval.raw.clone(), nonce: approval.nonce, top_up: None }),
                Some((approval, lacks)) => {
                    let top_up = top_up(tx, network, gift.payer, (approval.tx_hash, lacks), now_ms).await?;
                    Some(Raw { raw: approval.raw.clone(), nonce: approval.nonce, top_up: Some(top_up) })
                }
            };
            let kind = if approval.is_some() { "approval" } else { "permit" };
            let new = New { id, chain_id, payer: gift.payer, wei: gift.wei, approval };
            sponsored::insert(tx, &new, now_ms).await?;
            metrics::counter!("quittance_x402_sponsored_total", "kind" => kind).increment(1);
        }
        (Some(SponsoredState::Done), None) => return Ok(None),
        // Mined since the chain was asked, or its block is gone: the next look tells which.
        (Some(SponsoredState::Done), Some(_)) => {
            sponsored::step(tx, id, SponsoredState::Done, SponsoredState::Sending, now_ms).await?;
        }
        (Some(SponsoredState::Failed), Some((_, lacks))) => {
            if lacks > 0 {
                let text = "the gas money for this signedTransaction was sent once: sign another one";
                return Ok(Some(Fault::new(Reason::ApprovalFailed, text).of(gift.payer)));
            }
            sponsored::step(tx, id, SponsoredState::Failed, SponsoredState::Sending, now_ms).await?;
        }
        (Some(_), _) => {}
    }
    if gift.approval.is_some() {
        sponsored::await_approval(tx, payment_id, id, now_ms).await?;
    }
    Ok(None)
}

/// Queues the transaction that brings a payer the gas money for its approval.
async fn top_up(
    tx: &mut WriteTx,
    network: &Network,
    payer: Address,
    (approval, lacks): (B256, u128),
    now_ms: i64,
) -> error::Result<i64> {
    // Any key will do; this one is the same however often it is asked.
    let index = usize::from(approval[0]) % network.lanes.len().max(1);
    let lane =
        network.lanes.get(index).ok_or_else(|| error::Error::Config("an x402 network without keys".to_owned()))?;
    let new = NewTx {
        chain_id: network.config.chain_id,
        kind: "top_up",
        intent_key: format!("top_up:{approval}"),
        target: payer,
        calldata: Bytes::new(),
    };
    let tx_id = txs::enqueue_in(tx, &lane.name, &new, (TOP_UP_GAS, lacks), now_ms).await?;
    lane.txs.notify_one();
    Ok(tx_id)
}

/// Wei as they are stored.
fn whole(wei: U256) -> u64 {
    u64::try_from(wei).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs())
}

fn unasked(failure: &Failure) -> Fault {
    tracing::warn!(%failure, "cannot tell what gas costs");
    Fault::new(Reason::UnexpectedSettle, "the network does not answer now: try again")
}
