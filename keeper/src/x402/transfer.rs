//! Schemes `exact` and `upto` from request to answer.

use alloy::primitives::keccak256;
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::extensions::identifier;
use super::permit2::Charge;
use super::plan::{Checked, Plan};
use super::reasons::{Fault, Reason};
use super::simulate::{Proof, prove};
use super::state::Network;
use super::wait::{self, Accepted};
use super::wire::{Request, SettledAnswer, Verified};
use super::{Asked, exact, permit2, sponsor};
use crate::admission::count_payment;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::payments::{self, Payment, Settled};
use crate::types::PaymentState;

/// Checks a payment by itself; `now` in unix seconds, `None` to leave the clock out.
fn check(network: &Network, request: &Request, charge: Charge, now: Option<u64>) -> Result<Checked, Fault> {
    let upto = request.requirements.scheme == "upto";
    let permit2 = upto || (request.version == 2 && request.payload.get("permit2Authorization").is_some());
    if !permit2 {
        return exact::check(request, now);
    }
    let charge = if upto { charge } else { Charge::All };
    permit2::check(request, charge, network.config.forwarder, now)
}

/// Whether a payment would be settled now.
pub(super) async fn verify(ctx: &Ctx, network: &Network, request: &Request) -> Result<Verified> {
    let (plan, deferred) = match check(network, request, Charge::All, Some(ctx.clock.now())) {
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
    Ok(match prove(network, (plan, deferred)).await {
        Ok(_) => Verified::valid(payer, None),
        Err(fault) => fault.into(),
    })
}

/// The refusal of what was settled already.
fn spent(plan: &Plan) -> Fault {
    let reason = match plan.method {
        super::plan::Method::Eip3009 => Reason::ExactNonceUsed,
        _ => Reason::Permit2InvalidNonce,
    };
    Fault::new(reason, "this payment was settled already: sign a new one").of(plan.payer)
}

/// Settles a payment, or answers what came of it before.
pub(super) async fn settle(ctx: &Ctx, asked: &Asked<'_>) -> Result<SettledAnswer> {
    let (network, request) = (asked.network, asked.request);
    match check(network, request, Charge::Asked, None) {
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
    let (plan, deferred) = match check(network, request, Charge::Asked, Some(ctx.clock.now())) {
        Ok(checked) => checked,
        Err(fault) => return Ok(asked.refused(fault)),
    };
    if let Some(fault) = identifier::refusal(ctx, request, plan.payer, plan.payment_id).await? {
        return Ok(asked.refused(fault));
    }
    let mut proven = prove(network, (plan.clone(), deferred)).await;
    if let (Ok(Proof { approve: true, .. }), Some(approval)) = (&proven, &plan.approval) {
        proven = match sponsor::approve(network, plan.payer, approval).await {
            Ok(()) => prove(network, (plan.clone(), None)).await,
            Err(fault) => Err(fault),
        };
    }
    let proof = match proven {
        Ok(proof) => proof,
        Err(fault) => {
            // Another call may have settled it meanwhile: that is why it would fail now.
            return match payments::get(ctx.store.read(), plan.payment_id).await? {
                Some(known) if known.state != PaymentState::Failed => again(ctx, asked, &plan, known).await,
                _ => Ok(asked.refused(fault)),
            };
        }
    };
    count_payment(ctx, plan.payer)?;
    let free = plan.amount.is_zero();
    let calls = if free { Vec::new() } else { calls(&plan, proof) };
    let row = plan.row(request, asked.body, &calls, asked.api_key);
    let settled = free.then_some(Settled { amount: plan.amount, extra: None, evidence: None });
    match wait::accept(ctx, asked, &row, settled.as_ref()).await? {
        Accepted::New => wait::for_result(ctx, asked, plan.payment_id).await,
        Accepted::Known(known) => again(ctx, asked, &plan, *known).await,
        Accepted::Taken => Ok(asked.refused(identifier::conflict(Some(plan.payer)))),
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
    if identifier::differs(&known.new, asked.request, plan.amount) {
        return Ok(asked.refused(identifier::conflict(Some(plan.payer))));
    }
    let other = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    if other(&known.new.resource, &asked.request.resource) {
        return Ok(asked.refused(spent(plan)));
    }
    wait::for_result(ctx, asked, plan.payment_id).await
}
