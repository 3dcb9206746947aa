//! What a revert of a payment means, in the protocol's words.

use alloy::sol_types::{Revert, SolError};

use super::contracts::Errors as E;
use super::plan::Method;
use super::reasons::{Fault, Reason};
use crate::known_errors::KnownErrors;
use crate::tx::classify::revert_reason;

/// The reason that revert data of the money's call names; `None` when it names none of the protocol.
pub fn meaning(method: Method, data: &[u8]) -> Option<Reason> {
    let selector: [u8; 4] = data.first_chunk().copied()?;
    if method.of_channel() {
        // The contracts of channels have words of their own; what they say goes into the message.
        return None;
    }
    if let Ok(text) = Revert::abi_decode(data) {
        return of_text(method, text.reason());
    }
    let eip3009 = method == Method::Eip3009;
    let reason = match selector {
        E::AmountExceedsPermitted::SELECTOR => Reason::UptoAmountExceedsPermitted,
        E::UnauthorizedFacilitator::SELECTOR => Reason::UptoUnauthorizedFacilitator,
        E::InvalidAmount::SELECTOR => Reason::Permit2InvalidAmount,
        E::InvalidOwner::SELECTOR => Reason::Permit2InvalidOwner,
        E::InvalidDestination::SELECTOR => Reason::Permit2InvalidDestination,
        E::PaymentTooEarly::SELECTOR => Reason::Permit2TooEarly,
        E::Permit2612AmountMismatch::SELECTOR => Reason::Permit2612Amount,
        E::NoCode::SELECTOR if eip3009 => Reason::AssetNotDeployed,
        E::NoCode::SELECTOR => Reason::Permit2ProxyNotDeployed,
        _ => match KnownErrors::name_by_selector(selector)? {
            "InvalidNonce" if !eip3009 => Reason::Permit2InvalidNonce,
            "InvalidSigner" | "InvalidSignature" | "InvalidSignatureLength" | "InvalidContractSignature" => {
                if eip3009 {
                    Reason::ExactSignature
                } else {
                    Reason::Permit2Signature
                }
            }
            "SignatureExpired" if !eip3009 => Reason::Permit2Expired,
            "ERC20InsufficientBalance" => {
                if eip3009 {
                    Reason::ExactInsufficientBalance
                } else {
                    Reason::Permit2InsufficientBalance
                }
            }
            "ERC20InsufficientAllowance" if !eip3009 => Reason::Permit2AllowanceRequired,
            _ => return None,
        },
    };
    Some(reason)
}

/// Texts of Circle's token, of OpenZeppelin's older ones and of the usual copies of them.
fn of_text(method: Method, text: &str) -> Option<Reason> {
    let text = text.to_lowercase();
    let eip3009 = method == Method::Eip3009;
    let has = |part: &str| text.contains(part);
    if has("exceeds balance") || has("insufficient balance") || has("insufficient-balance") {
        return Some(if eip3009 { Reason::ExactInsufficientBalance } else { Reason::Permit2InsufficientBalance });
    }
    if !eip3009 {
        return (has("exceeds allowance") || has("insufficient allowance")).then_some(Reason::Permit2AllowanceRequired);
    }
    if has("authorization is used") || has("used or canceled") {
        return Some(Reason::ExactNonceUsed);
    }
    if has("authorization is expired") {
        return Some(Reason::ExactValidBefore);
    }
    if has("authorization is not yet valid") {
        return Some(Reason::ExactValidAfter);
    }
    has("invalid signature").then_some(Reason::ExactSignature)
}

/// The reason of a payment that reverted when it was about to be sent or was mined.
pub fn fault(method: Method, data: &[u8]) -> Fault {
    let otherwise = match method {
        Method::Upto => Reason::UptoTransactionFailed,
        Method::Eip3009 | Method::Permit2 => Reason::ExactTransactionFailed,
        Method::Deposit => Reason::BatchDepositFailed,
        Method::Claim => Reason::BatchClaimFailed,
        Method::Payout => Reason::BatchSettleFailed,
        Method::Refund => Reason::BatchRefundFailed,
    };
    Fault::new(meaning(method, data).unwrap_or(otherwise), named(data))
}

/// The name of an error, with its data where it has no better words.
pub fn named(data: &[u8]) -> String {
    let own = data.first_chunk::<4>().and_then(|selector| E::ErrorsErrors::name_by_selector(*selector));
    own.map_or_else(|| revert_reason(data), |name| format!("reverted: {name}"))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{U256, hex};

    use super::*;

    #[test]
    fn names_of_real_reverts() {
        let spent = hex!("756688fe");
        assert_eq!(meaning(Method::Permit2, &spent), Some(Reason::Permit2InvalidNonce));
        assert_eq!(fault(Method::Upto, &spent).reason, Reason::Permit2InvalidNonce);
        let unknown = fault(Method::Upto, &hex!("deadbeef"));
        assert_eq!(unknown.reason, Reason::UptoTransactionFailed);
        assert!(unknown.message.contains("0xdeadbeef"), "{}", unknown.message);
        assert_eq!(fault(Method::Permit2, &[]).reason, Reason::ExactTransactionFailed);
        for (text, expected) in [
            ("ERC20: transfer amount exceeds balance", Some(Reason::ExactInsufficientBalance)),
            ("FiatTokenV2: authorization is used or canceled", Some(Reason::ExactNonceUsed)),
            ("FiatTokenV2: authorization is expired", Some(Reason::ExactValidBefore)),
            ("FiatTokenV2: invalid signature", Some(Reason::ExactSignature)),
            ("Pausable: paused", None),
        ] {
            assert_eq!(meaning(Method::Eip3009, &Revert::from(text).abi_encode()), expected, "{text}");
        }
        assert_eq!(meaning(Method::Permit2, &Revert::from("TRANSFER_FROM_FAILED").abi_encode()), None, "says nothing");
        let early = E::PaymentTooEarly {}.abi_encode();
        assert_eq!(fault(Method::Permit2, &early).reason, Reason::Permit2TooEarly);
        assert_eq!(named(&early), "reverted: PaymentTooEarly");
        let broke = crate::known_errors::Known::ERC20InsufficientBalance {
            sender: Default::default(),
            balance: U256::ZERO,
            needed: U256::ZERO,
        };
        assert_eq!(meaning(Method::Upto, &broke.abi_encode()), Some(Reason::Permit2InsufficientBalance));
    }
}
