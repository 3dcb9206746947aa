//! Canonical request bytes and output text: what an OpenGradient node hashes and signs.

pub mod json;
pub mod output;
pub mod print;
mod printable;
mod request;

use alloy::primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Refusal};
use json::{Json, Object};

/// Bytes of a request that are read at most; callers set lower limits.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// How a gateway canonicalises requests; newer gateways follow B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Variant {
    B,
    A,
}

impl Variant {
    /// The text in receipts, logs and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::B => "B",
            Self::A => "A",
        }
    }
}

/// The gateway routes whose answers are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Chat,
    Completions,
}

impl Endpoint {
    /// Path at the node.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

/// One way to hash a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    pub variant: Variant,
    pub endpoint: Endpoint,
    /// As the request names it; `None` when it names none.
    pub model: Option<String>,
    /// Tokens the answer may have, if the request says so in a way that can be read.
    pub max_tokens: Option<u64>,
    /// What is hashed: ASCII JSON text.
    pub bytes: Vec<u8>,
    /// keccak256 of `bytes`.
    pub hash: B256,
}

/// A request that came as its canonical bytes, with nothing else known (a public order opened on-chain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub canonical: Canonical,
    /// Body to send to a node so that it hashes exactly the canonical bytes.
    pub wire: Vec<u8>,
}

/// The ways in which gateways hash a request: variant B first, then A where it differs and serves the request at all.
///
/// # Errors
/// `malformed` for what no gateway serves, `body_too_large` beyond [`MAX_REQUEST_BYTES`].
pub fn canonical_request(body: &[u8]) -> Result<Vec<Canonical>, Refusal> {
    let body = parse_body(body)?;
    candidates(&body, endpoint_of(&body)?)
}

/// Like [`canonical_request`], for one variant of a gateway that was asked at a known route.
///
/// # Errors
/// As [`canonical_request`]; `malformed` too for what only the other variant serves.
pub fn canonical_at(endpoint: Endpoint, variant: Variant, body: &[u8]) -> Result<Canonical, Refusal> {
    canonical(&parse_body(body)?, endpoint, variant)?
        .ok_or_else(|| Refusal::new(Code::Malformed, "role developer is unknown to gateways of variant A: use system"))
}

/// Reads a request that must be its own canonical bytes.
///
/// # Errors
/// As [`canonical_request`]; `request_mismatch` when the bytes are not canonical.
pub fn opened_request(bytes: &[u8]) -> Result<Opened, Refusal> {
    let body = parse_body(bytes)?;
    let endpoint = endpoint_of(&body)?;
    let find = |body: &Object| -> Result<Option<Canonical>, Refusal> {
        Ok(candidates(body, endpoint)?.into_iter().find(|candidate| candidate.bytes == bytes))
    };
    if let Some(canonical) = find(&body)? {
        return Ok(Opened { canonical, wire: bytes.to_vec() });
    }
    // `/v1/completions` hashes nothing for an explicit null but 16 for an absent max_tokens: the wire needs the null.
    if endpoint == Endpoint::Completions && body.get("max_tokens").is_none() {
        let body = body.with("max_tokens", Json::Null);
        if let Some(canonical) = find(&body)? {
            return Ok(Opened { canonical, wire: print::dumps(&Json::Object(body)).into_bytes() });
        }
    }
    Err(Refusal::new(
        Code::RequestMismatch,
        "the request is not its own canonical bytes: open the order with what `quittance request hash` prints",
    ))
}

fn parse_body(body: &[u8]) -> Result<Object, Refusal> {
    if body.len() > MAX_REQUEST_BYTES {
        return Err(Refusal::mismatch(Code::BodyTooLarge, "the request is too large", body.len(), MAX_REQUEST_BYTES));
    }
    match Json::parse(body)? {
        Json::Object(object) => Ok(object),
        _ => Err(Refusal::new(Code::Malformed, "the request must be a JSON object")),
    }
}

fn endpoint_of(body: &Object) -> Result<Endpoint, Refusal> {
    match (body.get("messages"), body.get("prompt")) {
        (Some(_), None) => Ok(Endpoint::Chat),
        (None, Some(_)) => Ok(Endpoint::Completions),
        (None, None) => {
            Err(Refusal::new(Code::Malformed, "the request needs messages (chat) or a prompt (completions)"))
        }
        (Some(_), Some(_)) => {
            Err(Refusal::new(Code::Malformed, "send messages (chat) or a prompt (completions), not both"))
        }
    }
}

fn candidates(body: &Object, endpoint: Endpoint) -> Result<Vec<Canonical>, Refusal> {
    let mut found: Vec<Canonical> = Vec::with_capacity(2);
    for variant in [Variant::B, Variant::A] {
        if let Some(candidate) = canonical(body, endpoint, variant)?
            && found.iter().all(|other| other.hash != candidate.hash)
        {
            found.push(candidate);
        }
    }
    Ok(found)
}

fn canonical(body: &Object, endpoint: Endpoint, variant: Variant) -> Result<Option<Canonical>, Refusal> {
    let digest = match endpoint {
        Endpoint::Chat => request::chat(body, variant)?,
        Endpoint::Completions => request::completions(body, variant)?,
    };
    Ok(digest.map(|digest| {
        let bytes = print::dumps(&digest).into_bytes();
        let hash = keccak256(&bytes);
        let model = body.get("model").and_then(Json::as_str).map(str::to_owned);
        let max_tokens = digest.as_object().and_then(|digest| digest.get("max_tokens")).and_then(Json::as_u64);
        Canonical { variant, endpoint, model, max_tokens, bytes, hash }
    }))
}
