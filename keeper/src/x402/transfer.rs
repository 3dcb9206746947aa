//! Schemes `exact` and `upto` from request to answer.

use alloy::primitives::{Address, keccak256};
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::evidence::proven_spent;
use super::extensions::identifier;
use super::permit2::Charge;
use super::plan::{Checked, Method, Plan};
use super::reasons::{Fault, Reason};
use super::simulate::{GAS_LARGE, Proof, prove};
use super::sponsor::Gift;
use super::state::Network;
use super::wait::{self, Accepted, Start};
use super::wire::{Request, SettledAnswer, Verified};
use super::{Asked, exact, permit2, sponsor};
use crate::admission::{count_payment, count_search};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::payments::{self, NewPayment, Payment, Settled};
use crate::types::PaymentState;

/// Checks a payment by itself; `now` in unix seconds, `None` to leave the clock out.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(forwarder: Address, request: &Request, charge: Charge, now: Option<u64>) -> Result<Checked, Fault> {
    let upto = request.requirements.scheme == "upto";
    let permit2 = upto || (request.version == 2 && request.payload.get("permit2Authorization").is_some());
    if !permit2 {
        return exact::check(request, now);
    }
    let charge = if upto { charge } else { Charge::All };
    permit2::check(request, charge, forwarder, now)
}

/// Whether a payment would be settled now.
pub(super) async fn verify(ctx: &Ctx, network: &Network, request: &Request) -> Result<Verified> {
    let (plan, deferred) = match check(network.config.forwarder, request, Charge::All, Some(ctx.clock.now())) {
        Ok(checked) => checked,
        Err(fault) => return Ok(fault.into()),
    };
    let payer = plan.payer;
    // Spent here without the chain knowing: settled for nothing.
    if let Some(known) = payments::get(ctx.store.read(), plan.payment_id).await?
        && known.state == PaymentState::Settled
    {
        return Ok(spent(&plan).into());
    }
    if let Some(fault) = identifier::refusal(ctx, request, payer, plan.payment_id).await? {
        return Ok(fault.into());
    }
    let given = match prove(network, (plan.clone(), deferred)).await {
        Ok(proof) => gift(ctx, network, request, &plan, proof).await,
        Err(fault) => Err(fault),
    };
    let refused = match given {
        Ok(Some(gift)) => sponsor::room(ctx, network, &gift).await?,
        Ok(None) => None,
        Err(fault) => Some(fault),
    };
    if let Some(fault) = refused {
        return Ok(fault.into());
    }
    ctx.x402.verified.note(plan.payment_id, ctx.clock.now_ms());
    Ok(Verified::valid(payer, None))
}

/// What a payment costs us besides its transaction.
async fn gift<'a>(
    ctx: &Ctx,
    network: &Network,
    request: &Request,
    plan: &'a Plan,
    proof: Proof,
) -> Result<Option<Gift<'a>>, Fault> {
    match &plan.approval {
        _ if plan.amount.is_zero() || plan.method == Method::Eip3009 => Ok(None),
        Some(approval) if proof.approve => {
            sponsor::approval_gift(&ctx.config, network, plan.payer, approval).await.map(Some)
        }
        _ if sponsor::brings_permit(request) => sponsor::permit_gift(network, plan.payer).await.map(Some),
        _ => Ok(None),
    }
}

/// The refusal of what was settled already.
fn spent(plan: &Plan) -> Fault {
    let reason = match plan.method {
        Method::Eip3009 => Reason::ExactNonceUsed,
        _ => Reason::Permit2InvalidNonce,
    };
    Fault::new(reason, "this payment was settled already: sign a new one").of(plan.payer)
}

/// Settles a payment, or answers what came of it before.
pub(super) async fn settle(ctx: &Ctx, asked: &Asked<'_>) -> Result<SettledAnswer> {
    let (network, request) = (asked.network, asked.request);
    match check(network.config.forwarder, request, Charge::Asked, None) {
        Err(fault) => return Ok(asked.refused(fault)),
        Ok((plan, None)) => {
            if let Some(known) = payments::get(ctx.store.read(), plan.payment_id).await?
                && !(known.state == PaymentState::Failed && known.is_final)
            {
                return again(ctx, asked, &plan, known).await;
            }
        }
        // What is wrong comes out below, after the signature.
        Ok((_, Some(_))) => {}
    }
    let (plan, deferred) = match check(network.config.forwarder, request, Charge::Asked, Some(ctx.clock.now())) {
        Ok(checked) => checked,
        Err(fault) => return Ok(asked.refused(fault)),
    };
    if let Some(fault) = identifier::refusal(ctx, request, plan.payer, plan.payment_id).await? {
        return Ok(asked.refused(fault));
    }
    let proven = match prove(network, (plan.clone(), deferred)).await {
        Ok(proof) => gift(ctx, network, request, &plan, proof).await.map(|gift| (proof, gift)),
        Err(fault) => Err(fault),
    };
    let (proof, gift) = match proven {
        Ok(proven) => proven,
        Err(fault) => {
            // Another call may have settled it meanwhile: that is why it would fail now.
            return match payments::get(ctx.store.read(), plan.payment_id).await? {
                Some(known) if known.state != PaymentState::Failed => again(ctx, asked, &plan, known).await,
                known => by_others(ctx, asked, &plan, known, fault).await,
            };
        }
    };
    count_payment(ctx, plan.payer)?;
    let free = plan.amount.is_zero();
    let calls = if free { Vec::new() } else { calls(&plan, proof) };
    let row = plan.row(request, asked.body, &calls, asked.api_key);
    let settled = free.then_some(Settled { amount: plan.amount, extra: None, evidence: None });
    let start = match (&settled, &gift) {
        (Some(settled), _) => Start::Settled(settled),
        (None, Some(gift)) => Start::Sponsored(gift),
        (None, None) => Start::Waits,
    };
    store(ctx, asked, &plan, &row, start).await
}

/// A payment that is spent and that we did not settle. If it was good when it was first shown here, somebody else may have settled
/// it since: the chain is asked. Otherwise it may be an old payment that is shown again.
async fn by_others(
    ctx: &Ctx,
    asked: &Asked<'_>,
    plan: &Plan,
    known: Option<Payment>,
    fault: Fault,
) -> Result<SettledAnswer> {
    let was_good = match &known {
        // One that is known as spent was looked for already.
        Some(known) => !known.reason.as_deref().is_some_and(proven_spent),
        None => ctx.x402.verified.at(plan.payment_id).is_some(),
    };
    if !was_good || !proven_spent(fault.reason.as_str()) || plan.amount.is_zero() {
        return Ok(asked.refused(fault));
    }
    count_payment(ctx, plan.payer)?;
    count_search(ctx, plan.payer)?;
    let calls = calls(plan, Proof { gas: GAS_LARGE, deploy_gas: None, approve: false });
    let row = plan.row(asked.request, asked.body, &calls, asked.api_key);
    let seen_ms = ctx.x402.verified.at(plan.payment_id).unwrap_or_else(|| ctx.clock.now_ms());
    store(ctx, asked, plan, &row, Start::Spent(&fault, seen_ms)).await
}

/// Stores a payment and waits for its result.
async fn store(ctx: &Ctx, asked: &Asked<'_>, plan: &Plan, row: &NewPayment, start: Start<'_>) -> Result<SettledAnswer> {
    match wait::accept(ctx, asked, row, start).await? {
        Accepted::New => wait::after(ctx, asked, row).await,
        Accepted::Known(known) => again(ctx, asked, plan, *known).await,
        Accepted::Taken => Ok(asked.refused(identifier::conflict(Some(plan.payer)))),
        Accepted::Refused(fault) => Ok(asked.refused(fault)),
    }
}

/// The calls of a payment: its wallet's deployment, if it has none yet, and the transfer.
fn calls(plan: &Plan, proof: Proof) -> Vec<Call> {
    let mut calls = Vec::with_capacity(2);
    if let (Some(gas), Some(deploy)) = (proof.deploy_gas, &plan.signature.deploy) {
        let id = keccak256([plan.payment_id.as_slice(), b"deploy"].concat());
        calls.push(Call { id, target: deploy.factory, gas, data: deploy.data.clone() });
    }
    calls.push(Call { id: plan.payment_id, target: plan.target, gas: proof.gas, data: plan.calldata.clone() });
    calls
}

/// The same payment again: what came of it the first time. For another resource it is not the same request, but an attempt to
/// use one payment twice.
async fn again(ctx: &Ctx, asked: &Asked<'_>, plan: &Plan, known: Payment) -> Result<SettledAnswer> {
    // What is signed for Permit2 does not name its owner: another's payment is no answer to this one.
    if known.new.payer != Some(plan.payer) {
        let text = "another payer signed the same and was first: sign a new one, with a nonce of your own";
        return Ok(asked.refused(Fault::new(spent(plan).reason, text).of(plan.payer)));
    }
    if identifier::differs(&known.new, asked.request, plan.amount) {
        return Ok(asked.refused(identifier::conflict(Some(plan.payer))));
    }
    let other = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    if other(&known.new.resource, &asked.request.resource) {
        return Ok(asked.refused(spent(plan)));
    }
    wait::for_result(ctx, asked, plan.payment_id).await
}
