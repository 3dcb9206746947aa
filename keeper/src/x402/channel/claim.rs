//! What a server asks of channels: claim what vouchers promise, pay out what is claimed, give the rest back.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolStruct, SolValue};

use super::super::contracts::batch::Batch::{
    claimWithSignatureCall, multicallCall, refundWithSignatureCall, settleCall,
};
use super::super::contracts::batch::{
    ChannelConfig, ClaimBatch, ClaimEntry, ClaimVoucher, Refund as RefundMessage, VoucherClaim,
};
use super::super::read::At;
use super::super::reasons::{Fault, Reason};
use super::super::signature::Signed;
use super::config::{channel_id, domain, read, units};
use super::voucher::{Signer, signer};

/// Rows of one claim at most: more do not fit a transaction.
pub const MAX_ROWS: usize = 100;

/// One channel of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub config: ChannelConfig,
    pub channel_id: B256,
    /// Token units that the voucher allows over the life of the channel.
    pub max: u128,
    /// Token units that shall be claimed over the life of the channel.
    pub total_claimed: u128,
    pub voucher: Signer,
}

/// Rows of one authorizer, and its signature if it came along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Not empty.
    pub rows: Vec<Row>,
    pub authorizer: Address,
    /// What the authorizer signs.
    pub digest: B256,
    pub signature: Option<Bytes>,
}

impl Claim {
    /// Reads a claim.
    ///
    /// # Errors
    /// `invalid_payload` naming the member; `invalid_batch_settlement_evm_authorizer_address_mismatch` when rows name
    /// several authorizers.
    pub fn read(part: &At<'_>, chain_id: u64) -> Result<Self, Fault> {
        let at = part.get("claims")?;
        let items = at.items()?;
        if items.is_empty() || items.len() > MAX_ROWS {
            return Err(at.wrong(&format!("must have from 1 to {MAX_ROWS} rows")));
        }
        let rows = items.iter().map(|item| Row::read(item, chain_id)).collect::<Result<Vec<_>, _>>()?;
        let authorizer = rows.first().map(|row| row.config.receiverAuthorizer).unwrap_or_default();
        if let Some(other) = rows.iter().map(|row| row.config.receiverAuthorizer).find(|other| *other != authorizer) {
            let what = "receiverAuthorizer of a row";
            return Err(Fault::differs(
                Reason::BatchAuthorizerMismatch,
                what,
                other,
                format!("{authorizer}, as in the first"),
            ));
        }
        let entry = |row: &Row| ClaimEntry {
            channelId: row.channel_id,
            maxClaimableAmount: row.max,
            totalClaimed: row.total_claimed,
        };
        let digest = ClaimBatch { claims: rows.iter().map(entry).collect() }.eip712_signing_hash(&domain(chain_id));
        let signature = part.maybe("claimAuthorizerSignature")?.map(|at| at.bytes()).transpose()?;
        Ok(Self { rows, authorizer, digest, signature })
    }

    /// The call, signed by the authorizer.
    pub fn calldata(&self, signature: &Bytes) -> Bytes {
        let claims = self.rows.iter().map(Row::call).collect();
        claimWithSignatureCall { claims, signature: signature.clone() }.abi_encode().into()
    }
}

impl Row {
    fn read(at: &At<'_>, chain_id: u64) -> Result<Self, Fault> {
        let voucher = at.get("voucher")?;
        let config = read(&voucher.get("channel")?)?;
        let max = units(&voucher.get("maxClaimableAmount")?)?;
        let total_claimed = at.get("totalClaimed")?;
        let claimed = units(&total_claimed)?;
        if claimed > max {
            return Err(total_claimed.wrong(&format!("is {claimed}, the voucher allows {max}")));
        }
        let id = channel_id(&config, chain_id);
        let signature = at.get("signature")?;
        let signed = Signed::read(&signature.bytes()?).ok_or_else(|| signature.wrong("cannot be read"))?;
        let voucher = signer(&config, id, max, signed, chain_id);
        Ok(Self { config, channel_id: id, max, total_claimed: claimed, voucher })
    }

    fn call(&self) -> VoucherClaim {
        VoucherClaim {
            voucher: ClaimVoucher { channel: self.config.clone(), maxClaimableAmount: self.max },
            signature: self.voucher.signature.bytes.clone(),
            totalClaimed: self.total_claimed,
        }
    }
}

/// What is claimed goes to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payout {
    pub receiver: Address,
    pub token: Address,
}

impl Payout {
    /// Reads a payout.
    ///
    /// # Errors
    /// `invalid_payload` naming the member.
    pub fn read(part: &At<'_>) -> Result<Self, Fault> {
        Ok(Self { receiver: part.get("receiver")?.address()?, token: part.get("token")?.address()? })
    }

    /// The call.
    pub fn calldata(&self) -> Bytes {
        settleCall { receiver: self.receiver, token: self.token }.abi_encode().into()
    }

    /// Name of paying out what was claimed until now: once it is paid out the name is spent.
    pub fn payment_id(&self, chain_id: u64, total_claimed: u128) -> B256 {
        keccak256(
            ("x402 settle", U256::from(chain_id), self.receiver, self.token, U256::from(total_claimed)).abi_encode(),
        )
    }
}

/// The rest of a channel goes back to its payer, after what vouchers still promise the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub config: ChannelConfig,
    pub channel_id: B256,
    /// Token units; the contract pays at most what is left.
    pub amount: u128,
    pub nonce: U256,
    pub claim: Option<Claim>,
    /// What the authorizer signs.
    pub digest: B256,
    pub signature: Option<Bytes>,
}

impl Refund {
    /// Reads a refund as a server hands it in.
    ///
    /// # Errors
    /// `invalid_payload` naming the member, `invalid_batch_settlement_evm_channel_id_mismatch`,
    /// `invalid_batch_settlement_evm_refund_amount_invalid`, and what a claim is refused for.
    pub fn read(part: &At<'_>, chain_id: u64) -> Result<Self, Fault> {
        let config = read(&part.get("channelConfig")?)?;
        let id = channel_id(&config, chain_id);
        let refuse = |fault: Fault| fault.of(config.payer);
        let stated = match part.maybe("voucher").map_err(refuse)? {
            Some(voucher) => {
                voucher.maybe("channelId").map_err(refuse)?.map(|at| at.word()).transpose().map_err(refuse)?
            }
            None => None,
        };
        if let Some(stated) = stated.filter(|stated| *stated != id) {
            return Err(refuse(Fault::differs(Reason::BatchChannelId, "voucher.channelId", stated, id)));
        }
        let amount = units(&part.get("amount").map_err(refuse)?).map_err(refuse)?;
        if amount == 0 {
            return Err(refuse(Fault::new(Reason::BatchRefundAmount, "amount must be above 0")));
        }
        let nonce = part.get("refundNonce").and_then(|at| at.uint()).map_err(refuse)?;
        let claims = part.maybe("claims").map_err(refuse)?;
        let empty = claims.as_ref().is_none_or(|claims| claims.value().as_array().is_some_and(Vec::is_empty));
        let claim = if empty { None } else { Some(Claim::read(part, chain_id).map_err(refuse)?) };
        if let Some(claim) = claim.as_ref().filter(|claim| claim.authorizer != config.receiverAuthorizer) {
            let what = "receiverAuthorizer of the claims";
            return Err(refuse(Fault::differs(
                Reason::BatchAuthorizerMismatch,
                what,
                claim.authorizer,
                config.receiverAuthorizer,
            )));
        }
        let digest = RefundMessage { channelId: id, nonce, amount }.eip712_signing_hash(&domain(chain_id));
        let signature = part.maybe("refundAuthorizerSignature").map_err(refuse)?;
        let signature = signature.map(|at| at.bytes()).transpose().map_err(refuse)?;
        Ok(Self { config, channel_id: id, amount, nonce, claim, digest, signature })
    }

    /// The call: claims first, so that what the receiver has earned is not given back.
    pub fn calldata(&self, signature: &Bytes, claim: Option<Bytes>) -> Bytes {
        let refund = refundWithSignatureCall {
            config: self.config.clone(),
            amount: self.amount,
            nonce: self.nonce,
            signature: signature.clone(),
        };
        let refund = Bytes::from(refund.abi_encode());
        match claim {
            Some(claim) => multicallCall { data: vec![claim, refund] }.abi_encode().into(),
            None => refund,
        }
    }
}
