//! The x402 facilitator: verifies what payers sign, settles it on chain, and answers the same however often it is asked.

pub mod networks;
pub mod read;
pub mod reasons;
pub mod wire;

use alloy::primitives::B256;

use self::reasons::{Fault, Reason};
use self::wire::{Request, SettledAnswer, Supported, Verified};
use crate::ctx::Ctx;

/// What is supported.
pub fn supported(_ctx: &Ctx) -> Supported {
    Supported { kinds: Vec::new(), extensions: Vec::new(), signers: std::collections::BTreeMap::new() }
}

/// Whether a payment would be settled now.
pub async fn verify(_ctx: &Ctx, body: &[u8]) -> Verified {
    let (_, read) = Request::parse(body);
    match read {
        Ok(request) => unsupported(&request).into(),
        Err(fault) => fault.into(),
    }
}

/// Settles a payment, or answers what its settlement came to. `api_key` is the hash of the caller's key.
pub async fn settle(_ctx: &Ctx, body: &[u8], _api_key: Option<B256>) -> SettledAnswer {
    let (outline, read) = Request::parse(body);
    match read {
        Ok(request) => SettledAnswer::refused(outline.network, unsupported(&request)),
        Err(fault) => SettledAnswer::refused(outline.network, fault),
    }
}

fn unsupported(request: &Request) -> Fault {
    let text = format!("{} on {} is not supported: see /supported", request.scheme, request.requirements.network);
    Fault::new(Reason::UnsupportedScheme, text)
}
