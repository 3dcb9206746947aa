//! Schemes `exact` and `upto` over Permit2: what can be said of a payment without asking a chain.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, eip712_domain};

use super::contracts::{
    EXACT_PROXY, ExactProxy, PERMIT2, Permit2612, PermitTransferFrom, TokenPermissions, UPTO_PROXY, UptoProxy,
};
use super::exact::MARGIN;
use super::plan::{Checked, Method, Plan, accepted_fits};
use super::read::At;
use super::reasons::{Fault, Reason};
use super::signature::Signed;
use super::sponsor;
use super::wire::Request;

/// EIP-712 domain of Permit2.
pub fn domain(chain_id: u64) -> Eip712Domain {
    eip712_domain! { name: "Permit2", chain_id: chain_id, verifying_contract: PERMIT2, }
}

/// A Permit2 authorization without its witness.
#[derive(Clone, Debug)]
pub struct Permit {
    pub from: Address,
    pub token: Address,
    pub amount: U256,
    pub spender: Address,
    pub nonce: U256,
    pub deadline: U256,
}

impl Permit {
    /// Reads a `permit2Authorization`.
    ///
    /// # Errors
    /// `invalid_payload` naming the member.
    pub fn read(at: &At<'_>) -> Result<Self, Fault> {
        let permitted = at.get("permitted")?;
        Ok(Self {
            from: at.get("from")?.address()?,
            token: permitted.get("token")?.address()?,
            amount: permitted.get("amount")?.uint()?,
            spender: at.get("spender")?.address()?,
            nonce: at.get("nonce")?.uint()?,
            deadline: at.get("deadline")?.uint()?,
        })
    }

    fn permitted(&self) -> TokenPermissions {
        TokenPermissions { token: self.token, amount: self.amount }
    }

    fn transfer(&self) -> PermitTransferFrom {
        PermitTransferFrom { permitted: self.permitted(), nonce: self.nonce, deadline: self.deadline }
    }
}

/// Checks a payment that is to move at most what `request` asks for, of which `charge` token units are to be paid. `now` in unix
/// seconds, `None` to leave the clock out; `forwarder` is who settles.
///
/// # Errors
/// The first rule that does not hold, in the order of the reference libraries.
pub fn check(request: &Request, charge: Charge, forwarder: Address, now: Option<u64>) -> Result<Checked, Fault> {
    let asked = &request.requirements;
    let upto = request.scheme == "upto" || asked.scheme == "upto";
    let part = request.part();
    let at = part.get("permit2Authorization")?;
    let payer = at.get("from")?.address()?;
    let refuse = |fault: Fault| fault.of(payer);
    let (wanted, scheme_reason, network_reason, spender) = if upto {
        ("upto", Reason::UptoScheme, Reason::UptoNetworkMismatch, UPTO_PROXY)
    } else {
        ("exact", Reason::UnsupportedPayloadType, Reason::ExactNetworkMismatch, EXACT_PROXY)
    };
    for scheme in [&request.scheme, &asked.scheme] {
        if scheme != wanted {
            return Err(refuse(Fault::differs(scheme_reason, "scheme", scheme, wanted)));
        }
    }
    if request.network != asked.network {
        return Err(refuse(Fault::differs(network_reason, "network", &request.network, &asked.network)));
    }
    let permit = Permit::read(&at)?;
    let witness = at.get("witness")?;
    let (to, valid_after) = (witness.get("to")?.address()?, witness.get("validAfter")?.uint()?);
    let facilitator = if upto { Some(witness.get("facilitator")?.address()?) } else { None };
    let signature = part.get("signature")?.bytes()?;
    if permit.spender != spender {
        let fault = Fault::differs(Reason::Permit2Spender, "permit2Authorization.spender", permit.spender, spender);
        return Err(refuse(fault));
    }
    if let Some(facilitator) = facilitator.filter(|facilitator| *facilitator != forwarder) {
        let what = "permit2Authorization.witness.facilitator";
        return Err(refuse(Fault::differs(Reason::UptoFacilitatorMismatch, what, facilitator, forwarder)));
    }
    if to != asked.pay_to {
        let what = "permit2Authorization.witness.to";
        let fault = Fault::differs(Reason::Permit2Recipient, what, to, format!("payTo {}", asked.pay_to));
        return Err(refuse(fault));
    }
    if let Some(now) = now {
        if permit.deadline < U256::from(now.saturating_add(MARGIN)) {
            let text = format!("permit2Authorization.deadline is {}: less than {MARGIN} s are left", permit.deadline);
            return Err(refuse(Fault::new(Reason::Permit2Expired, text)));
        }
        if valid_after > U256::from(now) {
            let text = format!("permit2Authorization.witness.validAfter is {valid_after}: that is to come");
            return Err(refuse(Fault::new(Reason::Permit2NotYetValid, text)));
        }
    }
    let amount = match charge {
        Charge::All if permit.amount != asked.amount => {
            let what = "permit2Authorization.permitted.amount";
            return Err(refuse(Fault::differs(Reason::Permit2Amount, what, permit.amount, asked.amount)));
        }
        Charge::Asked if asked.amount > permit.amount => {
            let text = format!("{} is to be settled, the payer permits {}", asked.amount, permit.amount);
            return Err(refuse(Fault::new(Reason::UptoExceedsAmount, text)));
        }
        _ => asked.amount,
    };
    if permit.token != asked.asset {
        let what = "permit2Authorization.permitted.token";
        return Err(refuse(Fault::differs(Reason::Permit2Token, what, permit.token, asked.asset)));
    }
    accepted_fits(request, payer, !upto)?;
    let unreadable = || Fault::new(Reason::Permit2Signature, "the ERC-6492 signature cannot be read").of(payer);
    let signature = Signed::read(&signature).ok_or_else(unreadable)?;
    let permit2612 = sponsor::eip2612(request, payer, asked.asset, now).map_err(refuse)?;
    let approval =
        if permit2612.is_none() { sponsor::approval(request, payer, asked.asset).map_err(refuse)? } else { None };
    let message = Message { permit: &permit, to, valid_after, facilitator };
    let payment_id = message.digest(request.chain_id);
    let plan = Plan {
        method: if upto { Method::Upto } else { Method::Permit2 },
        payment_id,
        payer,
        receiver: to,
        asset: asked.asset,
        max_amount: permit.amount,
        amount,
        by_key: signature.is_by(payer, payment_id),
        nonce: B256::from(permit.nonce),
        domain: Default::default(),
        target: spender,
        // For nothing there is no transaction; whether there could be one is what all of it shows.
        calldata: message.call(if amount.is_zero() { permit.amount } else { amount }, &signature.bytes, permit2612),
        signature,
        approval,
    };
    Ok((plan, None))
}

/// How much of what is permitted is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// All: what is asked for must be what is permitted.
    All,
    /// What is asked for, at most what is permitted.
    Asked,
}

/// What the payer signed.
struct Message<'a> {
    permit: &'a Permit,
    to: Address,
    valid_after: U256,
    /// `upto` only.
    facilitator: Option<Address>,
}

impl Message<'_> {
    fn digest(&self, chain_id: u64) -> B256 {
        let Permit { spender, nonce, deadline, .. } = *self.permit;
        let permitted = self.permit.permitted();
        let domain = domain(chain_id);
        match self.facilitator {
            Some(facilitator) => {
                let witness = UptoProxy::Witness { to: self.to, facilitator, validAfter: self.valid_after };
                UptoProxy::PermitWitnessTransferFrom { permitted, spender, nonce, deadline, witness }
                    .eip712_signing_hash(&domain)
            }
            None => {
                let witness = ExactProxy::Witness { to: self.to, validAfter: self.valid_after };
                ExactProxy::PermitWitnessTransferFrom { permitted, spender, nonce, deadline, witness }
                    .eip712_signing_hash(&domain)
            }
        }
    }

    fn call(&self, amount: U256, signature: &Bytes, permit2612: Option<Permit2612>) -> Bytes {
        let (permit, owner, signature) = (self.permit.transfer(), self.permit.from, signature.clone());
        let data = match (self.facilitator, permit2612) {
            (Some(facilitator), None) => {
                let witness = UptoProxy::Witness { to: self.to, facilitator, validAfter: self.valid_after };
                UptoProxy::settleCall { permit, amount, owner, witness, signature }.abi_encode()
            }
            (Some(facilitator), Some(permit2612)) => {
                let witness = UptoProxy::Witness { to: self.to, facilitator, validAfter: self.valid_after };
                UptoProxy::settleWithPermitCall { permit2612, permit, amount, owner, witness, signature }.abi_encode()
            }
            (None, None) => {
                let witness = ExactProxy::Witness { to: self.to, validAfter: self.valid_after };
                ExactProxy::settleCall { permit, owner, witness, signature }.abi_encode()
            }
            (None, Some(permit2612)) => {
                let witness = ExactProxy::Witness { to: self.to, validAfter: self.valid_after };
                ExactProxy::settleWithPermitCall { permit2612, permit, owner, witness, signature }.abi_encode()
            }
        };
        data.into()
    }
}
