//! What follows when the chain does not take a row or a verified settlement: refuse, expire, or try again later.

use alloy::sol_types::SolError;
use quittance_bindings::SettlementLedger;

use crate::error::Code;
use crate::store::apply::skip_reason;
use crate::store::receipts::{Path, Settleable};

/// Milliseconds before a payer who could not pay is asked once more.
const BALANCE_DELAY_MS: i64 = 60_000;
/// Milliseconds before anything else is tried again; doubles with each try.
const DELAY_MS: i64 = 5_000;
/// Tries after the first, whatever the reason.
const MAX_RETRIES: i64 = 5;

/// What becomes of a receipt that did not settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody will be paid for it; the order ends with this reason.
    Refuse(Code),
    /// The capture deadline passed.
    Expire,
    /// Another try on this path, this many milliseconds from now.
    Retry { path: Path, delay_ms: i64 },
    /// The keeper itself may not settle: the operator must act, the receipt waits.
    Blocked { delay_ms: i64 },
}

/// Decides by the name of the reason: a `CaptureResult` or a ledger error, in any spelling, anywhere in the text.
pub fn decide(reason: &str, receipt: &Settleable) -> Decision {
    let named = captured_as(reason).unwrap_or(reason);
    let text: String =
        named.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    let says = |name: &str| text.contains(name);
    let retry = |path: Path, at_most: i64, delay_ms: i64, otherwise: Code| {
        if receipt.retries < at_most { Decision::Retry { path, delay_ms } } else { Decision::Refuse(otherwise) }
    };
    let backoff = DELAY_MS << receipt.retries.clamp(0, 10);
    if ["nothotkey", "keepersuspended", "keeperunbonding", "bondtoosmall"].into_iter().any(says) {
        Decision::Blocked { delay_ms: BALANCE_DELAY_MS }
    } else if says("deadlinepassed") {
        Decision::Expire
    } else if says("insufficientbalance") {
        retry(Path::Verified, 1, BALANCE_DELAY_MS, Code::InsufficientBalance)
    } else if says("badsignature") && !says("inference") && !says("meter") {
        // Frozen as held, and the hold is gone: the signature that we kept still counts.
        if receipt.order_signature.is_some() {
            retry(receipt.path, 1, backoff, Code::BadOrderSignature)
        } else {
            Decision::Refuse(Code::BadOrderSignature)
        }
    } else if says("noncespent") {
        Decision::Refuse(Code::NonceSpent)
    } else if says("orderclosed") {
        Decision::Refuse(Code::OrderClosed)
    } else if says("notyetvalid") {
        retry(receipt.path, MAX_RETRIES, backoff, Code::OrderNotYetValid)
    } else if says("overmaximum") {
        Decision::Refuse(Code::AmountOverMaximum)
    } else if says("nodeoutsidescope") {
        Decision::Refuse(Code::NodeOutsideScope)
    } else if says("nodeversionnotcurrent") || says("nodenotusable") {
        Decision::Refuse(Code::NodeNotActive)
    } else if says("nodenotactive") {
        // A retired node's past stays payable, but only one by one.
        match receipt.path {
            Path::Batch => retry(Path::Verified, 1, backoff, Code::NodeNotActive),
            Path::Verified => Decision::Refuse(Code::NodeNotActive),
        }
    } else if says("alreadysettled") || says("settledbyanotherreceipt") {
        Decision::Refuse(Code::SettlementReplayed)
    } else if says("badinferencesignature") {
        Decision::Refuse(Code::BadInferenceSignature)
    } else if says("badmetersignature") {
        Decision::Refuse(Code::BadMeter)
    } else if says("timestampoutside") {
        Decision::Refuse(Code::TimestampOutsideOrder)
    } else if says("badtimes") || says("zeroamount") || says("wrong") {
        Decision::Refuse(Code::Malformed)
    } else {
        retry(Path::Verified, MAX_RETRIES, backoff, Code::Internal)
    }
}

/// The `CaptureResult` inside the revert data of `NotCapturable`, when the reason carries it.
fn captured_as(reason: &str) -> Option<&'static str> {
    let data = reason.split_whitespace().find_map(|word| word.strip_prefix("0x"))?;
    let error = SettlementLedger::NotCapturable::abi_decode(&hex::decode(data).ok()?).ok()?;
    Some(skip_reason(error.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::receipts::fixtures::{Seed, seed, store};
    use crate::store::receipts::get;

    async fn receipt(path: Path, held: bool, retries: i64) -> Settleable {
        let (_dir, store) = store().await.unwrap();
        let one = Seed { path, held, ..Seed::new(1) };
        seed(&store, &one).await.unwrap();
        let found = get(&store, one.settlement_id()).await.unwrap().unwrap();
        Settleable { retries, ..found }
    }

    #[tokio::test]
    async fn a_payer_without_money_is_asked_once_more() {
        let first = receipt(Path::Batch, false, 0).await;
        for reason in ["InsufficientBalance", "insufficient_balance", "NotCapturable(0x01, InsufficientBalance)"] {
            let expected = Decision::Retry { path: Path::Verified, delay_ms: BALANCE_DELAY_MS };
            assert_eq!(decide(reason, &first), expected);
        }
        let again = receipt(Path::Verified, false, 1).await;
        assert_eq!(decide("InsufficientBalance", &again), Decision::Refuse(Code::InsufficientBalance));
    }

    #[tokio::test]
    async fn revert_data_names_the_reason() {
        let first = receipt(Path::Verified, false, 0).await;
        let data = |reason| {
            SettlementLedger::NotCapturable { orderId: alloy::primitives::B256::repeat_byte(1), reason }.abi_encode()
        };
        let reverted = |reason: u8| crate::tx::classify::revert_reason(&data(reason));
        assert_eq!(decide(&reverted(4), &first), Decision::Expire);
        assert_eq!(decide(&reverted(3), &first), Decision::Refuse(Code::NonceSpent));
        assert!(matches!(decide(&reverted(9), &first), Decision::Retry { delay_ms: BALANCE_DELAY_MS, .. }));
    }

    #[tokio::test]
    async fn what_cannot_change_is_terminal() {
        let first = receipt(Path::Batch, true, 0).await;
        for (reason, code) in [
            ("NodeVersionNotCurrent", Code::NodeNotActive),
            ("NonceSpent", Code::NonceSpent),
            ("OrderClosed", Code::OrderClosed),
            ("OverMaximum", Code::AmountOverMaximum),
            ("BadSignature", Code::BadOrderSignature),
            ("BadInferenceSignature", Code::BadInferenceSignature),
            ("BadMeterSignature", Code::BadMeter),
            ("AlreadySettled(0x12)", Code::SettlementReplayed),
        ] {
            assert_eq!(decide(reason, &first), Decision::Refuse(code), "{reason}");
        }
        assert_eq!(decide("DeadlinePassed", &first), Decision::Expire);
    }

    #[tokio::test]
    async fn a_keeper_without_its_key_or_bond_loses_nothing() {
        let first = receipt(Path::Batch, false, 9).await;
        for reason in ["NotHotKey(0x01, 0x02)", "KeeperSuspended(0x01)", "KeeperUnbonding(0x01)", "BondTooSmall(1, 2)"]
        {
            assert!(matches!(decide(reason, &first), Decision::Blocked { .. }), "{reason}");
        }
    }

    #[tokio::test]
    async fn the_unknown_is_tried_a_few_times() {
        let first = receipt(Path::Batch, false, 0).await;
        assert_eq!(decide("out of gas", &first), Decision::Retry { path: Path::Verified, delay_ms: DELAY_MS });
        let last = receipt(Path::Batch, false, MAX_RETRIES).await;
        assert_eq!(decide("out of gas", &last), Decision::Refuse(Code::Internal));
    }
}
