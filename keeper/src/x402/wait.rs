//! Answers to callers that settle: they wait for the result of their payment, up to a time.

use std::pin::pin;
use std::time::Duration;

use alloy::primitives::B256;
use serde_json::json;
use tokio::time::Instant;

use super::Asked;
use super::extensions::{bazaar, receipt};
use super::reasons::{Fault, Reason};
use super::sponsor::{self, Gift};
use super::wire::SettledAnswer;
use crate::crash;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::store::payments::{self, NewPayment, Payment, Settled};
use crate::store::{identifiers, resources, searches};
use crate::types::PaymentState;

/// Looks at the store without a hint: another keeper may settle.
const LOOK: Duration = Duration::from_secs(2);

/// Waits for the result of a payment, if its caller does; `settlement_pending` when it takes too long. Nothing is called failed that may still be paid.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn for_result(ctx: &Ctx, asked: &Asked<'_>, payment_id: B256) -> Result<SettledAnswer> {
    let deadline = Instant::now() + Duration::from_millis(ctx.config.x402.settle_wait_ms);
    let waiter = ctx.x402.waiting.wait(payment_id);
    loop {
        let mut news = pin!(waiter.news());
        // Before the look, so that nothing is missed between the two.
        news.as_mut().enable();
        let payment = payments::get(ctx.store.read(), payment_id).await?;
        let missing = || Error::Corrupt { table: "payments", what: format!("{payment_id} is gone") };
        let payment = payment.ok_or_else(missing)?;
        if let Some(answer) = result(ctx, asked, &payment) {
            return Ok(answer);
        }
        if asked.at_once {
            return Ok(job(asked, &payment.new));
        }
        if Instant::now() >= deadline || ctx.closing.is_cancelled() {
            match pending(ctx, asked, &payment).await? {
                Some(answer) => return Ok(answer),
                None => continue,
            }
        }
        tokio::select! {
            () = &mut news => {}
            () = ctx.closing.cancelled() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)) => {}
        }
    }
}

/// The answer to a payment that was stored a moment ago: its job for a caller that does not wait, else its result.
///
/// # Errors
/// As [`for_result`].
pub async fn after(ctx: &Ctx, asked: &Asked<'_>, new: &NewPayment) -> Result<SettledAnswer> {
    // What needs no transaction has its result.
    if asked.at_once && !new.calls.is_empty() {
        return Ok(job(asked, new));
    }
    for_result(ctx, asked, new.payment_id).await
}

fn job(asked: &Asked<'_>, new: &NewPayment) -> SettledAnswer {
    let fault = Fault::new(Reason::SettlementPending, "the payment is stored: its job tells what becomes of it");
    SettledAnswer { job: Some(new.payment_id), ..asked.refused(Fault { payer: new.payer, ..fault }) }
}

/// What became of a payment that was to be stored.
#[derive(Debug)]
pub enum Accepted {
    /// It is stored now.
    New,
    /// It was there.
    Known(Box<Payment>),
    /// Its identifier stands for another one.
    Taken,
    /// It is not taken.
    Refused(Fault),
}

/// How a payment begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// It waits for a transaction.
    Waits,
    /// And costs us more gas than that, or waits for its payer's approval before.
    Sponsored(&'a Gift<'a>),
    /// It needs none.
    Settled(&'a Settled),
    /// It is spent, and who settled it since it was seen for the first time, unix milliseconds, is looked for.
    Spent(&'a Fault, i64),
}

/// Stores a payment. Its identifier becomes its own in the same transaction.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn accept(ctx: &Ctx, asked: &Asked<'_>, new: &NewPayment, start: Start<'_>) -> Result<Accepted> {
    let now_ms = ctx.clock.now_ms();
    let mut tx = ctx.store.write().await?;
    if let (Some(payer), Some(identifier)) = (new.payer, &new.identifier)
        && !identifiers::claim(&mut tx, payer, identifier, new.payment_id).await?
    {
        tx.rollback().await?;
        return Ok(Accepted::Taken);
    }
    let seen_ms = if let Start::Spent(_, seen_ms) = start { seen_ms } else { now_ms };
    if let Some(known) = payments::insert(&mut tx, new, seen_ms).await? {
        tx.rollback().await?;
        return Ok(Accepted::Known(Box::new(known)));
    }
    if bazaar::declared(asked.request) {
        resources::declare(&mut tx, new.payment_id).await?;
    }
    match start {
        Start::Waits => {}
        Start::Sponsored(gift) => {
            if let Some(fault) = sponsor::give(&mut tx, asked.network, gift, new.payment_id, now_ms).await? {
                tx.rollback().await?;
                return Ok(Accepted::Refused(fault));
            }
        }
        Start::Settled(settled) => {
            payments::settle(&mut tx, new.payment_id, settled, now_ms).await?;
        }
        Start::Spent(fault, _) => {
            let because = (fault.reason.as_str(), fault.message.as_str());
            searches::begin(&mut tx, new.payment_id, PaymentState::Accepted, because, now_ms).await?;
        }
    }
    tx.commit().await?;
    crash::point("after_payment_commit");
    tracing::info!(target: "trail", step = "payment", payment = %new.payment_id, scheme = new.scheme, method = new.method);
    let aside = match start {
        Start::Spent(..) => true,
        Start::Sponsored(gift) => gift.approval.is_some(),
        Start::Waits | Start::Settled(_) => false,
    };
    let loops = if aside { &asked.network.aside } else { &asked.network.wake };
    loops.notify_one();
    Ok(Accepted::New)
}

/// The answer to a payment that has its result.
fn result(ctx: &Ctx, asked: &Asked<'_>, payment: &Payment) -> Option<SettledAnswer> {
    let success = match payment.state {
        PaymentState::Settled => true,
        PaymentState::Failed => false,
        PaymentState::Accepted | PaymentState::Approving | PaymentState::Queued | PaymentState::Searching => {
            return None;
        }
    };
    // `exact` answers without an amount: it is what was asked for.
    let amount = (success && !matches!(payment.new.scheme, "exact") && payment.new.method != "claim")
        .then(|| payment.new.amount.to_string());
    Some(SettledAnswer {
        success,
        transaction: payment.tx_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        network: asked.request.requirements.network.clone(),
        payer: payment.new.payer,
        amount,
        error_reason: payment.reason.clone(),
        error_message: payment.message.clone(),
        extra: payment.extra.as_deref().and_then(|extra| serde_json::from_str(extra).ok()),
        extensions: receipt::answer(ctx.keys.receipt.as_ref(), asked.request, payment)
            .map(|answer| json!({ receipt::NAME: answer })),
        told: (success && bazaar::declared(asked.request) && payment.tx_hash.is_some())
            .then(|| json!({ bazaar::NAME: bazaar::outcome(asked.body) })),
        job: None,
    })
}

/// The answer to a payment without a result in time: taken back if nothing of it was sent, pending otherwise. `None` when it got
/// on meanwhile.
async fn pending(ctx: &Ctx, asked: &Asked<'_>, payment: &Payment) -> Result<Option<SettledAnswer>> {
    let fault = |reason, text: &str| Fault { payer: payment.new.payer, ..Fault::new(reason, text) };
    if payment.state == PaymentState::Accepted {
        let reason = Reason::UnexpectedSettle;
        let text = "nothing was sent: the facilitator cannot send now; try again";
        let (id, now_ms) = (payment.new.payment_id, ctx.clock.now_ms());
        let mut tx = ctx.store.write().await?;
        let taken_back =
            payments::fail(&mut tx, id, PaymentState::Accepted, (reason.as_str(), text), None, now_ms).await?;
        tx.commit().await?;
        return Ok(taken_back.then(|| asked.refused(fault(reason, text))));
    }
    let hash = match payment.tx_id {
        Some(tx_id) => payments::sent_as(ctx.store.read(), tx_id).await?,
        None => None,
    };
    let text = match payment.state {
        PaymentState::Searching => {
            "its nonce is spent, and who settled it is looked for: ask again with the same payment"
        }
        PaymentState::Approving => "the payer's approval is on its way: ask again with the same payment",
        _ => "the transaction is on its way: ask again with the same payment",
    };
    let refused = asked.refused(fault(Reason::SettlementPending, text));
    Ok(Some(SettledAnswer { transaction: hash.map(|hash| hash.to_string()).unwrap_or_default(), ..refused }))
}
