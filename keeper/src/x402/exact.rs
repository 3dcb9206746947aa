//! Scheme `exact` over EIP-3009: what can be said of a payment without asking a chain.

use alloy::primitives::U256;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct};

use super::contracts::{TokenSplit, TokenWhole, TransferWithAuthorization};
use super::plan::{Checked, Method, Plan, accepted_fits};
use super::read::At;
use super::reasons::{Fault, Reason};
use super::signature::Signed;
use super::wire::Request;

/// Seconds that an authorization must be good for.
pub const MARGIN: u64 = 6;

/// Checks a payment; `now` in unix seconds, `None` to leave the clock out.
///
/// # Errors
/// The first rule that does not hold, in the order of the reference libraries. What they check after the signature comes back
/// beside the plan instead: whether the signature is good only the chain may know.
pub fn check(request: &Request, now: Option<u64>) -> Result<Checked, Fault> {
    let asked = &request.requirements;
    let part = request.part();
    let authorization = part.get("authorization")?;
    let payer = authorization.get("from")?.address()?;
    let refuse = |fault: Fault| fault.of(payer);
    for scheme in [&request.scheme, &asked.scheme] {
        if scheme != "exact" {
            return Err(refuse(Fault::differs(Reason::ExactScheme, "scheme", scheme, "exact")));
        }
    }
    let (Some(name), Some(version)) = (asked.extra_text("name"), asked.extra_text("version")) else {
        let text = "paymentRequirements.extra must name the token's EIP-712 domain: name and version";
        return Err(refuse(Fault::new(Reason::ExactMissingDomain, text)));
    };
    if request.network != asked.network {
        let fault = Fault::differs(Reason::ExactNetworkMismatch, "network", &request.network, &asked.network);
        return Err(refuse(fault));
    }
    let message = read(&authorization)?;
    let signature = part.get("signature")?.bytes()?;
    let unreadable = || Fault::new(Reason::ExactSignature, "the ERC-6492 signature cannot be read").of(payer);
    let signature = Signed::read(&signature).ok_or_else(unreadable)?;
    let domain = Eip712Domain {
        name: Some(name.to_owned().into()),
        version: Some(version.to_owned().into()),
        chain_id: Some(U256::from(request.chain_id)),
        verifying_contract: Some(asked.asset),
        salt: None,
    };
    let payment_id = message.eip712_signing_hash(&domain);
    let late = after_signature(request, &message, now).map(refuse);
    let calldata = match signature.parts() {
        Some((v, r, s)) => {
            let TransferWithAuthorization { from, to, value, validAfter, validBefore, nonce } = message.clone();
            TokenSplit::transferWithAuthorizationCall { from, to, value, validAfter, validBefore, nonce, v, r, s }
                .abi_encode()
        }
        None => {
            let TransferWithAuthorization { from, to, value, validAfter, validBefore, nonce } = message.clone();
            let signature = signature.bytes.clone();
            TokenWhole::transferWithAuthorizationCall { from, to, value, validAfter, validBefore, nonce, signature }
                .abi_encode()
        }
    };
    let plan = Plan {
        method: Method::Eip3009,
        payment_id,
        payer,
        receiver: message.to,
        asset: asked.asset,
        max_amount: message.value,
        amount: message.value,
        by_key: signature.bytes.len() == 65 && signature.is_by(payer, payment_id),
        signature,
        nonce: message.nonce,
        domain: (name.to_owned(), version.to_owned()),
        target: asked.asset,
        calldata: calldata.into(),
        approval: None,
    };
    let late = late.or_else(|| accepted_fits(request, payer, true).err());
    Ok((plan, late))
}

fn read(at: &At<'_>) -> Result<TransferWithAuthorization, Fault> {
    Ok(TransferWithAuthorization {
        from: at.get("from")?.address()?,
        to: at.get("to")?.address()?,
        value: at.get("value")?.uint()?,
        validAfter: at.get("validAfter")?.uint()?,
        validBefore: at.get("validBefore")?.uint()?,
        nonce: at.get("nonce")?.word()?,
    })
}

/// What the reference libraries check after the signature.
fn after_signature(request: &Request, message: &TransferWithAuthorization, now: Option<u64>) -> Option<Fault> {
    let asked = &request.requirements;
    if message.to != asked.pay_to {
        return Some(Fault::differs(
            Reason::ExactRecipientMismatch,
            "authorization.to",
            message.to,
            format!("payTo {}", asked.pay_to),
        ));
    }
    if let Some(now) = now {
        if message.validBefore < U256::from(now.saturating_add(MARGIN)) {
            let text = format!("authorization.validBefore is {}: less than {MARGIN} s are left", message.validBefore);
            return Some(Fault::new(Reason::ExactValidBefore, text));
        }
        if message.validAfter > U256::from(now) {
            let text = format!("authorization.validAfter is {}: that is to come", message.validAfter);
            return Some(Fault::new(Reason::ExactValidAfter, text));
        }
    }
    if message.value != asked.amount {
        let reason = if request.version == 1 { Reason::ExactValueMismatchV1 } else { Reason::ExactValueMismatch };
        return Some(Fault::differs(reason, "authorization.value", message.value, asked.amount));
    }
    None
}
