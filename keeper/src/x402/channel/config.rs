//! A channel as a payer names it: its configuration, its id, and what a server's offer says about it.

use alloy::primitives::{Address, B256, U256, aliases::U40};
use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};
use serde_json::Value;

use super::super::contracts::BATCH;
use super::super::contracts::batch::ChannelConfig;
use super::super::read::At;
use super::super::reasons::{Fault, Reason};
use super::super::wire::Request;

/// Seconds that a withdrawal takes, at least and at most.
const DELAYS: std::ops::RangeInclusive<u64> = 900..=2_592_000;

/// EIP-712 domain of the contract.
pub fn domain(chain_id: u64) -> Eip712Domain {
    eip712_domain! { name: "x402 Batch Settlement", version: "1", chain_id: chain_id, verifying_contract: BATCH, }
}

/// The id of a channel: the digest of its configuration.
pub fn channel_id(config: &ChannelConfig, chain_id: u64) -> B256 {
    config.eip712_signing_hash(&domain(chain_id))
}

/// Reads a configuration. `withdrawDelay` is a JSON number.
///
/// # Errors
/// `invalid_payload` naming the member.
pub fn read(at: &At<'_>) -> Result<ChannelConfig, Fault> {
    let delay = at.get("withdrawDelay")?;
    let seconds = delay.number()?;
    if seconds >= 1 << 40 {
        return Err(delay.wrong("must be below 2^40"));
    }
    Ok(ChannelConfig {
        payer: at.get("payer")?.address()?,
        payerAuthorizer: at.get("payerAuthorizer")?.address()?,
        receiver: at.get("receiver")?.address()?,
        receiverAuthorizer: at.get("receiverAuthorizer")?.address()?,
        token: at.get("token")?.address()?,
        withdrawDelay: U40::from(seconds),
        salt: at.get("salt")?.word()?,
    })
}

/// A whole number of token units as the contract counts them.
///
/// # Errors
/// `invalid_payload` when it does not fit 128 bits.
pub fn units(at: &At<'_>) -> Result<u128, Fault> {
    u128::try_from(at.uint()?).map_err(|_| at.wrong("must be below 2^128"))
}

/// Whether a request is about this scheme, on one network.
///
/// # Errors
/// `invalid_batch_settlement_evm_scheme`, `invalid_batch_settlement_evm_network_mismatch`.
pub fn scheme(request: &Request) -> Result<(), Fault> {
    for scheme in [&request.scheme, &request.requirements.scheme] {
        if scheme != "batch-settlement" {
            return Err(Fault::differs(Reason::BatchScheme, "scheme", scheme, "batch-settlement"));
        }
    }
    let (found, wanted) = (&request.network, &request.requirements.network);
    if found != wanted {
        return Err(Fault::differs(Reason::BatchNetworkMismatch, "network", found, wanted));
    }
    Ok(())
}

/// Whether a channel is the one that the server offers: its id, receiver, authorizer, token and delay.
///
/// # Errors
/// The first rule that does not hold, in the order of the reference libraries.
pub fn fits(request: &Request, config: &ChannelConfig, stated: B256) -> Result<(), Fault> {
    let asked = &request.requirements;
    let id = channel_id(config, request.chain_id);
    if id != stated {
        return Err(Fault::differs(Reason::BatchChannelId, "voucher.channelId", stated, id));
    }
    if config.receiver != asked.pay_to {
        let wanted = format!("payTo {}", asked.pay_to);
        return Err(Fault::differs(Reason::BatchReceiver, "channelConfig.receiver", config.receiver, wanted));
    }
    let authorizer = asked.extra_text("receiverAuthorizer").and_then(|text| text.parse::<Address>().ok());
    if authorizer.is_none_or(|authorizer| authorizer.is_zero() || authorizer != config.receiverAuthorizer) {
        let wanted = asked.extra_text("receiverAuthorizer").unwrap_or("in paymentRequirements.extra, and not zero");
        let found = config.receiverAuthorizer;
        let what = "channelConfig.receiverAuthorizer";
        return Err(Fault::differs(Reason::BatchReceiverAuthorizer, what, found, wanted));
    }
    if config.token != asked.asset {
        return Err(Fault::differs(Reason::BatchToken, "channelConfig.token", config.token, asked.asset));
    }
    let delay = u64::try_from(U256::from(config.withdrawDelay)).unwrap_or(u64::MAX);
    if let Some(wanted) = asked.extra.get("withdrawDelay").and_then(Value::as_u64).filter(|wanted| *wanted != delay) {
        return Err(Fault::differs(Reason::BatchDelayMismatch, "channelConfig.withdrawDelay", delay, wanted));
    }
    if !DELAYS.contains(&delay) {
        let wanted = format!("from {} to {} s", DELAYS.start(), DELAYS.end());
        return Err(Fault::differs(Reason::BatchDelayRange, "channelConfig.withdrawDelay", delay, wanted));
    }
    Ok(())
}
