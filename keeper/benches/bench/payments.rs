//! Requests to an x402 facilitator with payments signed for them, made before anything is timed.

use alloy::primitives::{Address, B256, U256, address, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue};
use eyre::{Result, eyre};
use quittance::devnet::deploy::{PERMIT2, USDC};
use serde_json::{Value, json};

mod typed {
    //! What payers sign: EIP-3009, Permit2 with the witness of `upto`, and the canonical channel contract.
    alloy::sol! {
        struct TransferWithAuthorization { address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce; }
        struct ReceiveWithAuthorization { address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce; }
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; address facilitator; uint256 validAfter; }
        struct PermitWitnessTransferFrom { TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; Witness witness; }
        struct ChannelConfig { address payer; address payerAuthorizer; address receiver; address receiverAuthorizer; address token; uint40 withdrawDelay; bytes32 salt; }
        struct Voucher { bytes32 channelId; uint128 maxClaimableAmount; }
    }
}

const UPTO_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
const CHANNELS: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
const COLLECTOR: Address = address!("4020806089470a89826cB9fB1f4059150b550004");
const CHAIN_ID: u64 = 8453;
/// The year 2090.
const FOREVER: u64 = 3_800_000_000;
/// What each payment is of, token units.
pub const AMOUNT: u64 = 10_000;

/// Which way to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Exact,
    Upto,
}

impl Scheme {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Upto => "upto",
        }
    }
}

/// Who is paid, through whom.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub pay_to: Address,
    /// `facilitatorAddress` of `/supported`.
    pub facilitator: Address,
}

impl Offer {
    fn requirements(&self, scheme: &str) -> Value {
        let mut extra = json!({ "name": "USD Coin", "version": "2" });
        match scheme {
            "upto" => {
                extra["assetTransferMethod"] = json!("permit2");
                extra["facilitatorAddress"] = json!(self.facilitator);
            }
            "batch-settlement" => {
                extra["receiverAuthorizer"] = json!(self.pay_to);
                extra["withdrawDelay"] = json!(900);
            }
            _ => {}
        }
        json!({ "scheme": scheme, "network": "eip155:8453", "amount": AMOUNT.to_string(), "asset": USDC,
            "payTo": self.pay_to, "maxTimeoutSeconds": 3600, "extra": extra })
    }

    fn request(&self, scheme: &str, payload: &Value) -> String {
        let asked = self.requirements(scheme);
        json!({ "x402Version": 2, "paymentRequirements": asked, "paymentPayload": {
            "x402Version": 2, "payload": payload, "accepted": asked,
            "resource": { "url": "https://seller.example/paid", "description": "bench", "mimeType": "application/json" } } })
        .to_string()
    }

    /// The payment with a number; every number is a payment of its own.
    pub fn payment(&self, scheme: Scheme, payer: &PrivateKeySigner, number: u64) -> Result<String> {
        let payload = match scheme {
            Scheme::Exact => self.exact(payer, number)?,
            Scheme::Upto => self.upto(payer, number)?,
        };
        Ok(self.request(scheme.name(), &payload))
    }

    /// Many payments, signed on every core; payers take turns.
    pub fn payments(
        &self,
        scheme: Scheme,
        payers: &[PrivateKeySigner],
        numbers: std::ops::Range<u64>,
    ) -> Result<Vec<String>> {
        on_every_core(numbers, |number| {
            let payer = usize::try_from(number)? % payers.len().max(1);
            self.payment(scheme, payers.get(payer).ok_or_else(|| eyre!("no payer"))?, number)
        })
    }

    fn exact(&self, payer: &PrivateKeySigner, number: u64) -> Result<Value> {
        let signed = typed::TransferWithAuthorization {
            from: payer.address(),
            to: self.pay_to,
            value: U256::from(AMOUNT),
            validAfter: U256::ZERO,
            validBefore: U256::from(FOREVER),
            nonce: keccak256(number.to_be_bytes()),
        };
        let signature = sign(payer, &signed, &usdc())?;
        Ok(json!({ "signature": signature, "authorization": { "from": signed.from, "to": signed.to,
            "value": AMOUNT.to_string(), "validAfter": "0", "validBefore": FOREVER.to_string(), "nonce": signed.nonce } }))
    }

    fn upto(&self, payer: &PrivateKeySigner, number: u64) -> Result<Value> {
        let signed = typed::PermitWitnessTransferFrom {
            permitted: typed::TokenPermissions { token: USDC, amount: U256::from(AMOUNT) },
            spender: UPTO_PROXY,
            nonce: U256::from(number),
            deadline: U256::from(FOREVER),
            witness: typed::Witness { to: self.pay_to, facilitator: self.facilitator, validAfter: U256::ZERO },
        };
        let signature = sign(payer, &signed, &domain("Permit2", None, PERMIT2))?;
        Ok(json!({ "signature": signature, "permit2Authorization": {
            "from": payer.address(), "permitted": { "token": USDC, "amount": AMOUNT.to_string() }, "spender": UPTO_PROXY,
            "nonce": number.to_string(), "deadline": FOREVER.to_string(),
            "witness": { "to": self.pay_to, "facilitator": self.facilitator, "validAfter": "0" } } }))
    }

    /// The first payment of a payer's channel: it deposits so much.
    pub fn deposit(&self, payer: &PrivateKeySigner, amount: u64) -> Result<String> {
        let (config, channel_id) = self.channel(payer);
        let salt = B256::repeat_byte(7);
        let signed = typed::ReceiveWithAuthorization {
            from: payer.address(),
            to: COLLECTOR,
            value: U256::from(amount),
            validAfter: U256::ZERO,
            validBefore: U256::from(FOREVER),
            nonce: keccak256((channel_id, salt).abi_encode()),
        };
        let authorization = json!({ "validAfter": "0", "validBefore": FOREVER.to_string(), "salt": salt,
            "signature": sign(payer, &signed, &usdc())? });
        let payload = json!({ "type": "deposit", "channelConfig": config, "voucher": voucher(payer, channel_id, AMOUNT)?,
            "deposit": { "amount": amount.to_string(), "authorization": { "erc3009Authorization": authorization } } });
        Ok(self.request("batch-settlement", &payload))
    }

    /// Vouchers of a payer's channel, each of one payment more.
    pub fn vouchers(&self, payer: &PrivateKeySigner, count: u64) -> Result<Vec<String>> {
        let (config, channel_id) = self.channel(payer);
        on_every_core(2..count + 2, |number| {
            let signed = voucher(payer, channel_id, number * AMOUNT)?;
            let payload = json!({ "type": "voucher", "channelConfig": config, "voucher": signed });
            Ok(self.request("batch-settlement", &payload))
        })
    }

    fn channel(&self, payer: &PrivateKeySigner) -> (Value, B256) {
        let config = typed::ChannelConfig {
            payer: payer.address(),
            payerAuthorizer: payer.address(),
            receiver: self.pay_to,
            receiverAuthorizer: self.pay_to,
            token: USDC,
            withdrawDelay: alloy::primitives::aliases::U40::from(900),
            salt: B256::ZERO,
        };
        let shown = json!({ "payer": payer.address(), "payerAuthorizer": payer.address(), "receiver": self.pay_to,
            "receiverAuthorizer": self.pay_to, "token": USDC, "withdrawDelay": 900, "salt": B256::ZERO });
        (shown, config.eip712_signing_hash(&channels()))
    }
}

fn domain(name: &'static str, version: Option<&'static str>, contract: Address) -> Eip712Domain {
    Eip712Domain::new(Some(name.into()), version.map(Into::into), Some(U256::from(CHAIN_ID)), Some(contract), None)
}

fn usdc() -> Eip712Domain {
    domain("USD Coin", Some("2"), USDC)
}

fn channels() -> Eip712Domain {
    domain("x402 Batch Settlement", Some("1"), CHANNELS)
}

fn voucher(payer: &PrivateKeySigner, channel_id: B256, maximum: u64) -> Result<Value> {
    let signed = typed::Voucher { channelId: channel_id, maxClaimableAmount: u128::from(maximum) };
    Ok(json!({ "channelId": channel_id, "maxClaimableAmount": maximum.to_string(),
        "signature": sign(payer, &signed, &channels())? }))
}

fn sign<S: SolStruct>(payer: &PrivateKeySigner, signed: &S, domain: &Eip712Domain) -> Result<String> {
    let signature = payer.sign_hash_sync(&signed.eip712_signing_hash(domain))?;
    Ok(format!("0x{}", hex::encode(signature.as_bytes())))
}

fn on_every_core(numbers: std::ops::Range<u64>, make: impl Fn(u64) -> Result<String> + Sync) -> Result<Vec<String>> {
    let numbers: Vec<u64> = numbers.collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = numbers.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let make = &make;
        let parts: Vec<_> = numbers
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(|number| make(*number)).collect::<Result<Vec<_>>>()))
            .collect();
        let mut all = Vec::with_capacity(numbers.len());
        for part in parts {
            all.extend(part.join().map_err(|_| eyre!("a signing thread panicked"))??);
        }
        Ok(all)
    })
}
