//! Vouchers: what a payer lets the receiver claim in all.

use alloy::primitives::{Address, B256};
use alloy::sol_types::SolStruct;

use super::super::contracts::batch::{ChannelConfig, Voucher};
use super::super::read::At;
use super::super::reasons::{Fault, Reason};
use super::super::signature::Signed;
use super::config::{domain, units};

/// A voucher as it was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedVoucher {
    pub channel_id: B256,
    /// Token units, over the life of the channel.
    pub max: u128,
    pub signature: Signed,
}

/// A signature about which the chain may have the last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub account: Address,
    pub digest: B256,
    pub signature: Signed,
    /// The account's key made it.
    pub by_key: bool,
    /// Only a key counts, whether the account has code or not.
    pub key_only: bool,
}

impl Signer {
    /// A signature that an account, be it a wallet, must agree with.
    pub fn of(account: Address, digest: B256, signature: Signed) -> Self {
        let by_key = signature.bytes.len() == 65 && signature.is_by(account, digest);
        Self { account, digest, signature, by_key, key_only: false }
    }
}

impl SignedVoucher {
    /// Reads a voucher.
    ///
    /// # Errors
    /// `invalid_payload` naming the member.
    pub fn read(at: &At<'_>) -> Result<Self, Fault> {
        let signature = at.get("signature")?;
        let unreadable = || Fault::new(Reason::BatchVoucherSignature, "the voucher's signature cannot be read");
        Ok(Self {
            channel_id: at.get("channelId")?.word()?,
            max: units(&at.get("maxClaimableAmount")?)?,
            signature: Signed::read(&signature.bytes()?).ok_or_else(unreadable)?,
        })
    }

    /// Who must have signed it. A channel's authorizer is a key and nothing else; without one it is the payer, wallet or not.
    pub fn signer(&self, config: &ChannelConfig, chain_id: u64) -> Signer {
        signer(config, self.channel_id, self.max, self.signature.clone(), chain_id)
    }
}

/// Who must have signed a voucher of a channel.
pub fn signer(config: &ChannelConfig, channel_id: B256, max: u128, signature: Signed, chain_id: u64) -> Signer {
    let digest = Voucher { channelId: channel_id, maxClaimableAmount: max }.eip712_signing_hash(&domain(chain_id));
    if config.payerAuthorizer.is_zero() {
        return Signer::of(config.payer, digest, signature);
    }
    Signer { key_only: true, ..Signer::of(config.payerAuthorizer, digest, signature) }
}
