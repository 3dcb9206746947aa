//! Deposits into a channel, by EIP-3009 or by Permit2, as the canonical collectors take them.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue};
use serde_json::Value;

use super::super::contracts::batch::{DepositWitness, PermitWitnessTransferFrom, TokenPermissions};
use super::super::contracts::{ERC3009_COLLECTOR, PERMIT2_COLLECTOR, Permit2612, ReceiveWithAuthorization};
use super::super::exact::MARGIN;
use super::super::permit2;
use super::super::read::At;
use super::super::reasons::{Fault, Reason};
use super::super::signature::Signed;
use super::super::sponsor;
use super::super::wire::Request;
use super::config::units;
use super::voucher::Signer;

/// A deposit that a payer authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deposit {
    /// Token units.
    pub amount: u128,
    pub collector: Address,
    /// What the collector is given.
    pub data: Bytes,
    pub signer: Signer,
    /// The refusal of a signature that is none.
    pub unsigned: Reason,
    /// Permit2 must be allowed to take the tokens: no permit comes along.
    pub needs_allowance: bool,
}

/// Where a deposit goes.
#[derive(Clone, Copy, Debug)]
pub struct Into {
    pub payer: Address,
    pub channel_id: B256,
}

/// Reads and checks a deposit; `now` in unix seconds, `None` to leave the clock out.
///
/// # Errors
/// The first rule that does not hold, in the order of the reference libraries.
pub fn check(request: &Request, into: Into, now: Option<u64>) -> Result<Deposit, Fault> {
    let at = request.part().get("deposit")?;
    let amount = at.get("amount")?;
    let units = units(&amount)?;
    if units == 0 {
        return Err(amount.wrong("must be above 0"));
    }
    let authorization = at.get("authorization")?;
    let permit2 = authorization.maybe("permit2Authorization")?;
    let by_permit2 = match request.requirements.extra.get("assetTransferMethod").and_then(Value::as_str) {
        Some(method) => method == "permit2",
        None => permit2.is_some(),
    };
    if by_permit2 {
        let missing = || Fault::new(Reason::BatchPermit2Required, "deposit.authorization needs permit2Authorization");
        return of_permit2(request, into, units, &permit2.ok_or_else(missing)?, now);
    }
    let eip3009 = authorization.maybe("erc3009Authorization")?;
    let missing = || Fault::new(Reason::BatchAuthorizationRequired, "deposit.authorization needs erc3009Authorization");
    of_eip3009(request, into, units, &eip3009.ok_or_else(missing)?, now)
}

fn of_eip3009(request: &Request, into: Into, amount: u128, at: &At<'_>, now: Option<u64>) -> Result<Deposit, Fault> {
    let asked = &request.requirements;
    let (Some(name), Some(version)) = (asked.extra_text("name"), asked.extra_text("version")) else {
        let text = "paymentRequirements.extra must name the token's EIP-712 domain: name and version";
        return Err(Fault::new(Reason::BatchMissingDomain, text));
    };
    let (after, before) = (at.get("validAfter")?.uint()?, at.get("validBefore")?.uint()?);
    let salt = at.get("salt")?.word()?;
    if let Some(now) = now {
        if before < U256::from(now.saturating_add(MARGIN)) {
            let text = format!("erc3009Authorization.validBefore is {before}: less than {MARGIN} s are left");
            return Err(Fault::new(Reason::BatchValidBefore, text));
        }
        if after > U256::from(now) {
            let text = format!("erc3009Authorization.validAfter is {after}: that is to come");
            return Err(Fault::new(Reason::BatchValidAfter, text));
        }
    }
    let signature = signature(at, Reason::BatchAuthorizationSignature)?;
    let message = ReceiveWithAuthorization {
        from: into.payer,
        to: ERC3009_COLLECTOR,
        value: U256::from(amount),
        validAfter: after,
        validBefore: before,
        nonce: keccak256((into.channel_id, salt).abi_encode()),
    };
    let domain = Eip712Domain {
        name: Some(name.to_owned().into()),
        version: Some(version.to_owned().into()),
        chain_id: Some(U256::from(request.chain_id)),
        verifying_contract: Some(asked.asset),
        salt: None,
    };
    let digest = message.eip712_signing_hash(&domain);
    Ok(Deposit {
        amount,
        collector: ERC3009_COLLECTOR,
        data: (after, before, U256::from_be_bytes(salt.0), signature.bytes.clone()).abi_encode_params().into(),
        signer: Signer::of(into.payer, digest, signature),
        unsigned: Reason::BatchAuthorizationSignature,
        needs_allowance: false,
    })
}

fn of_permit2(request: &Request, into: Into, amount: u128, at: &At<'_>, now: Option<u64>) -> Result<Deposit, Fault> {
    let asset = request.requirements.asset;
    let permit = permit2::Permit::read(at)?;
    if permit.from != into.payer {
        return Err(Fault::differs(
            Reason::BatchPermit2Signature,
            "permit2Authorization.from",
            permit.from,
            into.payer,
        ));
    }
    if permit.spender != PERMIT2_COLLECTOR {
        let what = "permit2Authorization.spender";
        return Err(Fault::differs(Reason::BatchPermit2Spender, what, permit.spender, PERMIT2_COLLECTOR));
    }
    if permit.token != asset {
        let what = "permit2Authorization.permitted.token";
        return Err(Fault::differs(Reason::BatchPermit2Amount, what, permit.token, asset));
    }
    if permit.amount != U256::from(amount) {
        let what = "permit2Authorization.permitted.amount";
        return Err(Fault::differs(Reason::BatchPermit2Amount, what, permit.amount, amount));
    }
    let witness = at.get("witness")?.get("channelId")?.word()?;
    if witness != into.channel_id {
        let what = "permit2Authorization.witness.channelId";
        return Err(Fault::differs(Reason::BatchChannelId, what, witness, into.channel_id));
    }
    if now.is_some_and(|now| permit.deadline < U256::from(now.saturating_add(MARGIN))) {
        let text = format!("permit2Authorization.deadline is {}: less than {MARGIN} s are left", permit.deadline);
        return Err(Fault::new(Reason::BatchPermit2Expired, text));
    }
    let signature = signature(at, Reason::BatchPermit2Signature)?;
    let permit2612 = sponsor::eip2612(request, into.payer, asset, now)?;
    if permit2612.as_ref().is_some_and(|permit| permit.value != U256::from(amount)) {
        let text = "the permit in extensions.eip2612GasSponsoring must be for the deposit's amount";
        return Err(Fault::new(Reason::BatchEip2612Amount, text));
    }
    let message = PermitWitnessTransferFrom {
        permitted: TokenPermissions { token: permit.token, amount: permit.amount },
        spender: permit.spender,
        nonce: permit.nonce,
        deadline: permit.deadline,
        witness: DepositWitness { channelId: into.channel_id },
    };
    let digest = message.eip712_signing_hash(&permit2::domain(request.chain_id));
    let along = permit2612.as_ref().map_or_else(Bytes::new, along);
    Ok(Deposit {
        amount,
        collector: PERMIT2_COLLECTOR,
        data: (permit.nonce, permit.deadline, signature.bytes.clone(), along).abi_encode_params().into(),
        signer: Signer::of(into.payer, digest, signature),
        unsigned: Reason::BatchPermit2Signature,
        needs_allowance: permit2612.is_none(),
    })
}

/// A permit as the collector reads it: its parts stand in another order than at the proxies.
fn along(permit: &Permit2612) -> Bytes {
    (permit.value, permit.deadline, U256::from(permit.v), permit.r, permit.s).abi_encode().into()
}

fn signature(at: &At<'_>, reason: Reason) -> Result<Signed, Fault> {
    let unreadable = || Fault::new(reason, "the ERC-6492 signature cannot be read");
    Signed::read(&at.get("signature")?.bytes()?).ok_or_else(unreadable)
}
