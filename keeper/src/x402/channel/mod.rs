//! Scheme `batch-settlement`: payment channels on the canonical contract. Nothing in here asks a chain.

pub mod claim;
pub mod config;
pub mod deposit;
pub mod state;
#[cfg(test)]
mod tests;
pub mod voucher;

use alloy::primitives::{Address, B256, Bytes};
use alloy::sol_types::SolCall;

use self::claim::{Claim, Payout, Refund};
use self::deposit::{Deposit, Into};
use self::state::Use;
use self::voucher::{SignedVoucher, Signer};
use super::contracts::batch::Batch::depositCall;
use super::contracts::batch::ChannelConfig;
use super::reasons::{Fault, Reason};
use super::wire::Request;

/// What a client signed: a voucher, with a deposit or a wish to have the rest back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub config: ChannelConfig,
    pub channel_id: B256,
    /// Token units that the voucher allows over the life of the channel.
    pub max: u128,
    pub voucher: Signer,
    pub deposit: Option<Deposit>,
    pub purpose: Use,
}

impl Signed {
    /// The account that pays.
    pub const fn payer(&self) -> Address {
        self.config.payer
    }

    /// The call that deposits; `None` when nothing is deposited.
    pub fn calldata(&self) -> Option<Bytes> {
        let deposit = self.deposit.as_ref()?;
        let call = depositCall {
            config: self.config.clone(),
            amount: deposit.amount,
            collector: deposit.collector,
            collectorData: deposit.data.clone(),
        };
        Some(call.abi_encode().into())
    }
}

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Claim(Claim),
    Payout(Payout),
    Refund(Box<Refund>),
}

/// A payload of this scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Signed(Box<Signed>),
    Asked(Asked),
}

/// Reads a payload and checks what can be checked without a chain; `now` in unix seconds, `None` to leave the clock out.
///
/// # Errors
/// The first rule that does not hold, in the order of the reference libraries.
pub fn check(request: &Request, now: Option<u64>) -> Result<Payload, Fault> {
    config::scheme(request)?;
    let part = request.part();
    let chain_id = request.chain_id;
    let kind = part.get("type")?;
    match kind.text()? {
        "deposit" => signed(request, |id, payer| {
            let deposit = deposit::check(request, Into { payer, channel_id: id }, now)?;
            Ok((Use::Deposit(deposit.amount), Some(deposit)))
        }),
        "voucher" => signed(request, |_, _| Ok((Use::Pay, None))),
        // A server adds the nonce to what its client sent.
        "refund" if part.maybe("refundNonce")?.is_some() => {
            Ok(Payload::Asked(Asked::Refund(Box::new(Refund::read(&part, chain_id)?))))
        }
        "refund" => signed(request, |_, _| Ok((Use::Refund, None))),
        "claim" => Ok(Payload::Asked(Asked::Claim(Claim::read(&part, chain_id)?))),
        "settle" => Ok(Payload::Asked(Asked::Payout(Payout::read(&part)?))),
        other => {
            let text = format!("payload.type is {other:?}: deposit, voucher, refund, claim or settle");
            Err(Fault::new(Reason::BatchPayloadType, text))
        }
    }
}

fn signed(
    request: &Request,
    more: impl FnOnce(B256, Address) -> Result<(Use, Option<Deposit>), Fault>,
) -> Result<Payload, Fault> {
    let part = request.part();
    let config = config::read(&part.get("channelConfig")?)?;
    let payer = config.payer;
    let read = || {
        let voucher = SignedVoucher::read(&part.get("voucher")?)?;
        config::fits(request, &config, voucher.channel_id)?;
        let (purpose, deposit) = more(voucher.channel_id, payer)?;
        Ok((voucher, purpose, deposit))
    };
    let (voucher, purpose, deposit) = read().map_err(|fault: Fault| fault.of(payer))?;
    Ok(Payload::Signed(Box::new(Signed {
        voucher: voucher.signer(&config, request.chain_id),
        channel_id: voucher.channel_id,
        max: voucher.max,
        config,
        deposit,
        purpose,
    })))
}
