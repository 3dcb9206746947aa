//! Conversions between the structs that are signed or hashed and the same structs as each contract's calls take them.

use crate::{escrow, ledger, typed};

/// Both directions, member by member.
macro_rules! same {
    ($($one:path, $other:path { $($member:ident),+ })+) => {$(
        impl From<$one> for $other {
            fn from(from: $one) -> Self {
                Self { $($member: from.$member),+ }
            }
        }

        impl From<$other> for $one {
            fn from(from: $other) -> Self {
                Self { $($member: from.$member),+ }
            }
        }
    )+};
}

same! {
    typed::Order, escrow::InferenceEscrow::Order {
        payer, token, maxAmount, requestCommit, nodeScope, keeperId, validAfter, validBefore, captureDeadline, nonce
    }
    typed::Order, ledger::SettlementLedger::Order {
        payer, token, maxAmount, requestCommit, nodeScope, keeperId, validAfter, validBefore, captureDeadline, nonce
    }
    typed::Lock, escrow::InferenceEscrow::Lock { payer, token, keeperId, amount, until, nonce }
    typed::Receipt, ledger::SettlementLedger::Receipt {
        rail, paymentId, payer, token, offset, amount, nodeId, nodeVersion, requestHash, blinding, outputHash, timestamp, salt
    }
    typed::Leaf, ledger::SettlementLedger::Leaf {
        rail, paymentId, start, amount, nodeId, nodeVersion, receiptHash, row
    }
}
