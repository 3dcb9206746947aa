//! Who may read: bearers of an API key, and payers that sign in with their wallet (EIP-4361).
//!
//! `Authorization: Bearer KEY` opens what the key's scopes say. `Authorization: SIWE MESSAGE.SIGNATURE` opens what belongs to
//! one payer: MESSAGE is the EIP-4361 text in base64, SIGNATURE the payer's EIP-191 signature of the text in hexadecimal.
//! The text must name this keeper's domain, Base's chain id and an expiration at most 10 minutes after it was issued. There is
//! no session and no server nonce: within those minutes the header can be used again, and opens reading only.

use alloy::primitives::{Address, Signature};
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::error::{ApiError, ApiResult};
use crate::clock::unix_seconds;
use crate::ctx::Ctx;
use crate::error::{Code, Refusal};
use crate::store::api_keys;

/// Seconds that a signed-in reader may keep its header.
pub const MAX_SESSION: i64 = 600;

/// Seconds that a payer's clock may be ahead.
const MAX_SKEW: i64 = 60;

/// What a caller may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Everything.
    All,
    /// What this payer paid for.
    Payer(Address),
}

impl Reader {
    /// Whether it may read what belongs to `payer`.
    pub fn may_read(self, payer: Address) -> bool {
        self == Self::All || self == Self::Payer(payer)
    }

    /// # Errors
    /// `unauthorized` when it may not read what belongs to `payer`.
    pub fn require(self, payer: Address) -> ApiResult<()> {
        if self.may_read(payer) { Ok(()) } else { Err(unauthorized("this belongs to another payer: sign in as it")) }
    }
}

pub(super) fn unauthorized(text: &str) -> ApiError {
    ApiError::new(Code::Unauthorized, text)
}

/// Who reads.
///
/// # Errors
/// `unauthorized` with what is missing or wrong.
pub async fn reader(ctx: &Ctx, headers: &HeaderMap) -> ApiResult<Reader> {
    if ctx.config.api.open_reads {
        return Ok(Reader::All);
    }
    match credentials(headers)? {
        None => Err(unauthorized(
            "send an API key (Authorization: Bearer …) or sign in as the payer (Authorization: SIWE …)",
        )),
        Some(("bearer", key)) => {
            if api_keys::allows(&ctx.store, key, api_keys::READ).await? {
                Ok(Reader::All)
            } else {
                Err(unauthorized("the API key is unknown, revoked or may not read"))
            }
        }
        Some((_, text)) => Ok(Reader::Payer(signed_in(ctx, text)?)),
    }
}

fn credentials(headers: &HeaderMap) -> ApiResult<Option<(&'static str, &str)>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| unauthorized("the Authorization header is no text"))?;
    match value.trim().split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(("bearer", key.trim()))),
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("siwe") => Ok(Some(("siwe", text.trim()))),
        _ => Err(unauthorized("the Authorization scheme must be Bearer or SIWE")),
    }
}

fn signed_in(ctx: &Ctx, text: &str) -> ApiResult<Address> {
    let (message, signature) =
        text.split_once('.').ok_or_else(|| unauthorized("SIWE credentials are MESSAGE.SIGNATURE"))?;
    let message = BASE64.decode(message).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let message = message.ok_or_else(|| unauthorized("the SIWE message must be text in base64"))?;
    let signature: Option<Signature> = signature.parse().ok();
    let signature = signature.ok_or_else(|| unauthorized("the SIWE signature must be 65 bytes in hexadecimal"))?;
    let api = &ctx.config.api;
    let domain = if api.domain.is_empty() { &api.listen } else { &api.domain };
    let now = i64::try_from(ctx.clock.now()).unwrap_or(i64::MAX);
    let address = check_message(&message, domain, ctx.config.base.chain_id, now)?;
    match signature.recover_address_from_msg(message.as_bytes()) {
        Ok(signer) if signer == address => Ok(address),
        _ => Err(unauthorized("the SIWE signature is not by the address in the message")),
    }
}

/// Checks an EIP-4361 message and gives its address. `now` in unix seconds.
fn check_message(message: &str, domain: &str, chain_id: u64, now: i64) -> Result<Address, Refusal> {
    let refuse = |text: &str| Refusal::new(Code::Unauthorized, text);
    let mut lines = message.lines();
    let first = lines.next().and_then(|line| line.strip_suffix(" wants you to sign in with your Ethereum account:"));
    // A scheme before the domain is allowed by the standard.
    let named = first.ok_or_else(|| refuse("the message is no EIP-4361 message"))?;
    let named = named.split_once("://").map_or(named, |(_, rest)| rest);
    if named != domain {
        let text = "the SIWE message is for another domain";
        return Err(Refusal::mismatch(Code::Unauthorized, text, named, domain));
    }
    let address = lines.next().and_then(|line| line.parse::<Address>().ok());
    let address = address.ok_or_else(|| refuse("the second line of a SIWE message must be the address"))?;
    let field = |name: &str| {
        let mut found = message.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        // A statement cannot repeat a field: both readings would be possible.
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(refuse(&format!("the SIWE message needs exactly one line {name}: …"))),
        }
    };
    if field("Version")? != "1" {
        return Err(refuse("the SIWE version must be 1"));
    }
    if field("Chain ID")? != chain_id.to_string() {
        let text = "the SIWE message names another chain";
        return Err(Refusal::mismatch(Code::Unauthorized, text, field("Chain ID")?, chain_id.to_string()));
    }
    let time = |name: &str| {
        let value = field(name)?;
        unix_seconds(value).ok_or_else(|| refuse(&format!("{name} must be a time like 2026-01-31T12:00:00Z")))
    };
    let (issued, expires) = (time("Issued At")?, time("Expiration Time")?);
    if issued > now + MAX_SKEW || expires > issued + MAX_SESSION {
        return Err(refuse("the SIWE message must be issued now and expire within 10 minutes"));
    }
    if expires <= now {
        return Err(refuse("the SIWE message has expired: sign in again"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_200_000;

    fn message(domain: &str, chain: u64, issued: &str, expires: &str) -> String {
        format!(
            "{domain} wants you to sign in with your Ethereum account:\n{}\n\nRead receipts.\n\nURI: https://k\nVersion: 1\n\
             Chain ID: {chain}\nNonce: abcdefgh\nIssued At: {issued}\nExpiration Time: {expires}",
            Address::repeat_byte(7)
        )
    }

    #[test]
    fn messages() {
        let (issued, expires) = ("2026-11-20T18:39:00Z", "2026-11-20T18:49:00Z");
        let check = |text: &str| check_message(text, "keeper.example", 8453, NOW).map_err(|refusal| refusal.message);
        let good = message("keeper.example", 8453, issued, expires);
        assert_eq!(check(&good), Ok(Address::repeat_byte(7)));
        assert_eq!(check(&format!("https://{good}")), Ok(Address::repeat_byte(7)));
        for (bad, says) in [
            (message("evil.example", 8453, issued, expires), "domain"),
            (message("keeper.example", 1, issued, expires), "chain"),
            (message("keeper.example", 8453, issued, "2026-11-20T18:40:00Z"), "expired"),
            (message("keeper.example", 8453, issued, "2026-11-20T18:50:00Z"), "10 minutes"),
            (message("keeper.example", 8453, "2026-11-20T18:42:00Z", "2026-11-20T18:45:00Z"), "issued now"),
            (good.replace("Version: 1", "Version: 2"), "version"),
            (good.replace("Nonce", "Chain ID"), "exactly one"),
            (good.replace("\nExpiration Time", "\nNot"), "exactly one"),
            ("hello".to_owned(), "EIP-4361"),
        ] {
            let message = check(&bad).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
