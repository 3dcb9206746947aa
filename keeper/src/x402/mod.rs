//! The x402 facilitator: verifies what payers sign, settles it on chain, and answers the same however often it is asked.

mod approve;
pub mod aside;
pub mod batch;
pub mod channel;
pub mod channels;
pub mod contracts;
pub mod evidence;
pub mod exact;
pub mod extensions;
pub mod networks;
pub mod outcome;
pub mod permit2;
pub mod plan;
pub mod read;
pub mod reasons;
pub mod reverts;
mod search;
pub mod settle;
pub mod signature;
pub mod simulate;
pub mod sponsor;
pub mod state;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod wait;
pub mod wire;

use std::collections::BTreeMap;

use alloy::primitives::B256;
use serde_json::json;

use self::extensions::{bazaar, identifier, receipt};
use self::reasons::{Fault, Reason};
use self::state::{Facilitator, Network};
use self::wire::{Kind, Request, SettledAnswer, Supported, Verified};
use crate::ctx::Ctx;
use crate::error::Result;

/// Schemes, networks and extensions that are supported.
pub fn supported(facilitator: &Facilitator) -> Supported {
    let mut kinds = Vec::new();
    let mut signers = Vec::new();
    for network in &facilitator.networks {
        let id = network.config.chain_id;
        let name = networks::name(id);
        let kind = |scheme, extra| Kind { x402_version: 2, scheme, network: name.clone(), extra };
        kinds.push(kind("exact", None));
        kinds.push(kind("upto", Some(json!({ "facilitatorAddress": network.config.forwarder }))));
        let authorizer = network.authorizer.as_ref().map(|key| json!({ "receiverAuthorizer": key.address() }));
        kinds.push(kind("batch-settlement", authorizer));
        if let Some(old) = networks::v1_name(id) {
            kinds.push(Kind { x402_version: 1, scheme: "exact", network: old.to_owned(), extra: None });
        }
        // What calls the contracts is the forwarder.
        signers.push(network.config.forwarder);
        signers.extend(network.lanes.iter().map(|lane| lane.address));
    }
    signers.sort_unstable();
    signers.dedup();
    let signers = if signers.is_empty() { BTreeMap::new() } else { BTreeMap::from([("eip155:*", signers)]) };
    let mut extensions = if kinds.is_empty() {
        Vec::new()
    } else {
        vec![sponsor::EIP2612, identifier::NAME, receipt::NAME, bazaar::NAME]
    };
    if facilitator.networks.iter().any(|network| network.config.sponsor.approvals) {
        extensions.push(sponsor::APPROVAL);
    }
    Supported { kinds, extensions, signers }
}

/// The network of a request, if its token is taken there.
fn network<'a>(ctx: &'a Ctx, request: &Request) -> Result<&'a Network, Fault> {
    let asked = &request.requirements;
    let network = ctx.x402.network(request.chain_id).ok_or_else(|| {
        Fault::new(Reason::InvalidNetwork, format!("{} is not supported: see /supported", asked.network))
    })?;
    let assets = &network.config.assets;
    if !assets.is_empty() && !assets.contains(&asked.asset) {
        let text = format!("the token {} is not taken on {}", asked.asset, asked.network);
        return Err(Fault::new(Reason::InvalidRequirements, text));
    }
    Ok(network)
}

fn unsupported(request: &Request) -> Fault {
    let asked = &request.requirements;
    let text = format!("{} on {} is not supported: see /supported", asked.scheme, asked.network);
    Fault::new(Reason::UnsupportedScheme, text)
}

/// Whether a payment would be settled now. Nothing is stored.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn verify(ctx: &Ctx, body: &[u8]) -> Result<Verified> {
    let (outline, read) = Request::parse(body);
    let verified = match read {
        Err(fault) => Verified::from(fault),
        Ok(request) => match network(ctx, &request) {
            Err(fault) => Verified::from(Fault { payer: outline.payer, ..fault }),
            Ok(network) => match request.requirements.scheme.as_str() {
                "exact" | "upto" => transfer::verify(ctx, network, &request).await?,
                "batch-settlement" => batch::verify(ctx, network, &request).await?,
                _ => Verified::from(Fault { payer: outline.payer, ..unsupported(&request) }),
            },
        },
    };
    let outcome = verified.invalid_reason.unwrap_or("valid");
    metrics::counter!("quittance_x402_verified_total", "outcome" => outcome).increment(1);
    Ok(verified)
}

/// Settles a payment, or answers what its settlement came to. `api_key` is the hash of the caller's key; `at_once` answers as
/// soon as the payment is stored, with its id in `job` while it has no result.
///
/// # Errors
/// `rate_limited` for a payer that settles too often; `store_failed`, `store_corrupt`.
pub async fn settle(ctx: &Ctx, body: &[u8], api_key: Option<B256>, at_once: bool) -> Result<SettledAnswer> {
    let (outline, read) = Request::parse(body);
    let refused = |fault: Fault| {
        let fault = Fault { payer: fault.payer.or(outline.payer), ..fault };
        SettledAnswer::refused(outline.network.clone(), fault)
    };
    let answer = match read {
        Err(fault) => refused(fault),
        Ok(request) => match network(ctx, &request) {
            Err(fault) => refused(fault),
            Ok(network) => {
                let asked = Asked { network, request: &request, body, api_key, at_once };
                match request.requirements.scheme.as_str() {
                    "exact" | "upto" => transfer::settle(ctx, &asked).await?,
                    "batch-settlement" => batch::settle(ctx, &asked).await?,
                    _ => refused(unsupported(&request)),
                }
            }
        },
    };
    if !answer.success && answer.job.is_none() {
        let reason = answer.error_reason.as_deref().unwrap_or_default();
        let known = Reason::ALL.iter().find(|known| known.as_str() == reason).map_or("other", |known| known.as_str());
        metrics::counter!("quittance_x402_refused_total", "reason" => known).increment(1);
    }
    Ok(answer)
}

/// A request to settle.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub network: &'a Network,
    pub request: &'a Request,
    /// As it came.
    pub body: &'a [u8],
    /// Hash of the caller's key.
    pub api_key: Option<B256>,
    /// The caller does not wait for the result.
    pub at_once: bool,
}

impl Asked<'_> {
    /// The answer to a request that is not settled.
    pub fn refused(&self, fault: Fault) -> SettledAnswer {
        SettledAnswer::refused(self.request.requirements.network.clone(), fault)
    }

    /// The answer to what others did before.
    pub fn done_before(&self) -> SettledAnswer {
        SettledAnswer {
            success: true,
            transaction: String::new(),
            network: self.request.requirements.network.clone(),
            payer: None,
            amount: None,
            error_reason: None,
            error_message: None,
            extra: None,
            extensions: None,
            told: None,
            job: None,
        }
    }
}
