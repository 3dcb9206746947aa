//! What a checked payment comes to: who pays whom how much, under which id, and the call that moves the money.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolValue;
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::extensions::identifier;
use super::reasons::{Fault, Reason};
use super::signature::Signed;
use super::wire::Request;
use crate::store::payments::NewPayment;

/// How the money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Eip3009,
    Permit2,
    Upto,
    /// Into a channel.
    Deposit,
    /// What vouchers of channels promise.
    Claim,
    /// What was claimed, to the receiver.
    Payout,
    /// What is left of a channel, to its payer.
    Refund,
}

impl Method {
    /// Whether it is of a channel.
    pub const fn of_channel(self) -> bool {
        matches!(self, Self::Deposit | Self::Claim | Self::Payout | Self::Refund)
    }
}

/// A payment whose fields fit what was asked for. Whether it would go through only the chain knows.
#[derive(Clone, Debug)]
pub struct Plan {
    pub method: Method,
    /// EIP-712 digest of what the payer signed.
    pub payment_id: B256,
    pub payer: Address,
    pub receiver: Address,
    pub asset: Address,
    /// Token units: what was signed, and what is charged.
    pub max_amount: U256,
    pub amount: U256,
    pub signature: Signed,
    /// The payer's key made the signature; decides only while the payer has no code.
    pub by_key: bool,
    /// EIP-3009 nonce.
    pub nonce: B256,
    /// Name and version of the EIP-712 domain that the payer was told; EIP-3009.
    pub domain: (String, String),
    pub target: Address,
    pub calldata: Bytes,
    /// The payer gives Permit2 its allowance in a transaction of its own that comes along.
    pub approval: Option<super::sponsor::Approval>,
}

/// A plan, and what is wrong with it that counts only if its signature is good.
pub type Checked = (Plan, Option<Fault>);

impl Plan {
    /// The row that is stored, for calls that may use so much gas each.
    pub fn row(&self, request: &Request, body: &[u8], calls: &[Call], api_key: Option<B256>) -> NewPayment {
        let (scheme, method) = match self.method {
            Method::Eip3009 => ("exact", "eip3009"),
            Method::Permit2 => ("exact", "permit2"),
            Method::Upto => ("upto", "permit2"),
            Method::Deposit => ("batch-settlement", "deposit"),
            Method::Claim => ("batch-settlement", "claim"),
            Method::Payout => ("batch-settlement", "settle"),
            Method::Refund => ("batch-settlement", "refund"),
        };
        NewPayment {
            payment_id: self.payment_id,
            chain_id: request.chain_id,
            scheme,
            method,
            x402_version: request.version,
            payer: Some(self.payer),
            receiver: self.receiver,
            asset: self.asset,
            max_amount: self.max_amount,
            amount: self.amount,
            resource: request.resource.clone(),
            // A malformed one was refused before.
            identifier: identifier::read(request).ok().flatten(),
            request: body.to_vec(),
            calls: if calls.is_empty() { Vec::new() } else { calls.to_vec().abi_encode() },
            api_key,
        }
    }
}

/// What the payer accepted must be what the server asks for now. The reference libraries look at scheme and network only;
/// what is signed binds the rest, so this finds servers that mix two offers up.
pub fn accepted_fits(request: &Request, payer: Address, fixed_amount: bool) -> Result<(), Fault> {
    let (Some(accepted), asked) = (&request.accepted, &request.requirements) else { return Ok(()) };
    let differs = |what, found: String, wanted: String| {
        Err(Fault::differs(Reason::InvalidRequirements, what, found, wanted).of(payer))
    };
    if accepted.asset != asked.asset {
        return differs("paymentPayload.accepted.asset", accepted.asset.to_string(), asked.asset.to_string());
    }
    if accepted.pay_to != asked.pay_to {
        return differs("paymentPayload.accepted.payTo", accepted.pay_to.to_string(), asked.pay_to.to_string());
    }
    if fixed_amount && accepted.amount != asked.amount {
        return differs("paymentPayload.accepted.amount", accepted.amount.to_string(), asked.amount.to_string());
    }
    Ok(())
}
