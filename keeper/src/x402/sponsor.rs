//! Extensions by which a payer without gas money lets Permit2 spend its tokens: a signed permit (ERC-2612) that goes along with
//! the payment, or a signed `approve` transaction that we send before it. Its gas is the payer's: none is given away.

use std::time::Duration;

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use tokio::time::Instant;

use super::contracts::{PERMIT2, Permit2612, Token};
use super::exact::MARGIN;
use super::read::At;
use super::reasons::{Fault, Reason};
use super::state::Network;
use super::wire::Request;
use crate::tx::classify::Failure;

/// How long an approval may take until it is mined, and between two looks.
const APPROVAL_WAIT: Duration = Duration::from_secs(15);
const APPROVAL_LOOK: Duration = Duration::from_millis(200);

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
    if tx.chain_id().is_some_and(|id| id != request.chain_id) {
        let found = tx.chain_id().unwrap_or_default();
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
    let signer = tx.signature().recover_address_from_prehash(&tx.signature_hash());
    let signer =
        signer.map_err(|_| Fault::new(Reason::ApprovalSignature, "signedTransaction has no good signature"))?;
    if signer != payer {
        return Err(Fault::differs(Reason::ApprovalSigner, "signer of signedTransaction", signer, payer));
    }
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    Ok(Some(Approval { tx_hash: *tx.tx_hash(), nonce: tx.nonce(), cost: gas.saturating_add(tx.value()), raw }))
}

/// Sends a payer's approval and waits until it is mined. Sent again it does nothing twice.
///
/// # Errors
/// `erc20_approval_tx_failed`, `erc20_approval_broadcast_failed`.
pub async fn approve(network: &Network, payer: Address, approval: &Approval) -> Result<(), Fault> {
    let unasked = |failure: Failure| {
        tracing::warn!(%failure, "cannot send an approval");
        Fault::new(Reason::ApprovalBroadcast, "the network does not answer now: try again").of(payer)
    };
    let balance = network.rpc.balance(payer).await.map_err(unasked)?;
    if balance < approval.cost {
        let text = format!(
            "signedTransaction costs up to {} wei, the payer has {balance}: this facilitator gives none",
            approval.cost
        );
        return Err(Fault::new(Reason::ApprovalFailed, text).of(payer));
    }
    if let Err(failure) = network.rpc.broadcast(&approval.raw).await {
        let text = format!("signedTransaction was not taken: {}", failure.class.as_str());
        return Err(Fault::new(Reason::ApprovalBroadcast, text).of(payer));
    }
    let deadline = Instant::now() + APPROVAL_WAIT;
    while Instant::now() < deadline {
        match network.rpc.receipt(approval.tx_hash).await.map_err(unasked)? {
            Some(receipt) if receipt.status() => return Ok(()),
            Some(_) => return Err(Fault::new(Reason::ApprovalFailed, "signedTransaction reverted").of(payer)),
            None => tokio::time::sleep(APPROVAL_LOOK).await,
        }
    }
    Err(Fault::new(Reason::ApprovalFailed, "signedTransaction is not mined yet: settle again").of(payer))
}
