//! States of what the keeper tracks, and which of them may follow which.

use alloy::primitives::{Address, B256, U256};
use quittance_bindings::typed::Order;

use crate::error::{Error, Result};

/// Declares a state enum with its text form in the database and its legal successors.
macro_rules! states {
    ($(#[$doc:meta])* $name:ident ($table:literal) { $($(#[$vdoc:meta])* $variant:ident = $text:literal => [$($next:ident),*]),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text in database, API and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads the text form.
            ///
            /// # Errors
            /// `store_corrupt` for a text that no version wrote.
            pub fn parse(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(Error::Corrupt { table: $table, what: format!("state {other:?}") }),
                }
            }

            /// Whether `next` may follow. A state may always be confirmed (follow itself).
            pub fn can_transition_to(self, next: Self) -> bool {
                self == next || match self { $(Self::$variant => [$(Self::$next),*].contains(&next)),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

states! {
    /// An order that we serve. Backward arrows exist only where a reorganisation can undo the evidence.
    OrderState("orders") {
        /// Known, not yet sent to a node.
        Open = "open" => [Dispatched, Completed, Settled, Expired, Reclaimed, Refused],
        /// A node has it, or had it when we last looked.
        Dispatched = "dispatched" => [Open, Completed, Settled, Expired, Reclaimed, Refused],
        /// A verified completion is matched with it.
        Completed = "completed" => [Settled, Expired, Reclaimed, Refused],
        /// Captured on Base. Open again if a reorganisation undoes a capture that others made.
        Settled = "settled" => [Open, Completed, Final, Voided],
        /// Window over, node paid.
        Final = "final" => [],
        Voided = "voided" => [],
        /// Capture deadline passed without a capture.
        Expired = "expired" => [Settled, Reclaimed],
        /// The hold is back with the payer.
        Reclaimed = "reclaimed" => [Expired, Open],
        /// Nobody will be paid for it; `reason` says why.
        Refused = "refused" => [Settled, Reclaimed, Expired],
    }
}

states! {
    /// A node's evidence.
    CompletionState("completions") {
        Verified = "verified" => [Matched, Orphaned, Direct],
        Matched = "matched" => [],
        /// Proof without payment; still recorded.
        Orphaned = "orphaned" => [Matched, Direct],
        /// Paid by an x402 payment, as far as anybody can tell: nobody signed which.
        Direct = "direct" => [Matched],
    }
}

states! {
    /// Recording of a completion on OpenGradient.
    RecordState("completions") {
        /// The payer chose privacy, or the payer is not known yet: not recorded singly.
        Private = "private" => [Due],
        Due = "due" => [Submitted, Recorded, Refused],
        Submitted = "submitted" => [Due, Recorded, Refused],
        Recorded = "recorded" => [],
        Refused = "refused" => [Recorded],
    }
}

states! {
    /// A matched (order, completion).
    ReceiptState("receipts") {
        Matched = "matched" => [Batched, Settled, Skipped],
        Batched = "batched" => [Matched, Settled, Skipped],
        Settled = "settled" => [Batched, Matched],
        /// The chain refused it; `skip_reason` says why.
        Skipped = "skipped" => [Batched, Matched, Settled],
    }
}

states! {
    /// A batch of rows.
    BatchState("batches") {
        Frozen = "frozen" => [Submitted, Included, Empty, Quarantined],
        Submitted = "submitted" => [Included, Empty, Quarantined],
        Included = "included" => [Safe, Submitted],
        Safe = "safe" => [Finalised, Submitted],
        Finalised = "finalised" => [Paid],
        Paid = "paid" => [],
        /// Included, and every row was skipped.
        Empty = "empty" => [Submitted],
        /// Would revert for good; split in two, or left to the operator.
        Quarantined = "quarantined" => [],
    }
}

states! {
    /// What must happen on a chain.
    TxState("txs") {
        Queued = "queued" => [Signed, Quarantined, Obsolete],
        /// Nonce and first attempt are committed, nothing is broadcast yet.
        Signed = "signed" => [Sent, Included],
        Sent = "sent" => [Included, Queued, Obsolete],
        Included = "included" => [Sent, Done, Failed],
        /// Final and successful.
        Done = "done" => [],
        /// Final and reverted.
        Failed = "failed" => [],
        /// Would revert; never sent.
        Quarantined = "quarantined" => [Queued],
        /// Its purpose was met by others before it was signed.
        Obsolete = "obsolete" => [],
    }
}

states! {
    /// An x402 payment.
    PaymentState("payments") {
        /// Verified and committed; nothing is sent.
        Accepted = "accepted" => [Approving, Queued, Searching, Settled, Failed],
        /// It waits for its payer's approval of Permit2, which came along.
        Approving = "approving" => [Accepted, Failed],
        /// In a transaction.
        Queued = "queued" => [Accepted, Searching, Settled, Failed],
        /// It would not go through any more: whether somebody else settled it is looked for on the chain.
        Searching = "searching" => [Accepted, Settled, Failed],
        /// The money moved, or the payment is spent without any. On its way again if a reorganisation undoes it.
        Settled = "settled" => [Queued, Accepted],
        /// No money moved; `reason` says why. It may be handed in again.
        Failed = "failed" => [Accepted, Queued],
    }
}

states! {
    /// Gas money for an x402 payer.
    SponsoredState("sponsored") {
        /// It is on its way to the payer.
        Funding = "funding" => [Sending, Failed],
        /// The payer's approval is on its way.
        Sending = "sending" => [Done, Failed],
        /// The approval is mined, or the permit went along with its payment.
        Done = "done" => [],
        /// The approval will not be mined, or reverted.
        Failed = "failed" => [Sending],
    }
}

/// An order and what we know of it.
#[derive(Clone, Debug)]
pub struct OrderRow {
    pub order_id: B256,
    pub order: Order,
    pub signature: Option<Vec<u8>>,
    pub blinding: Option<B256>,
    pub request_hash: Option<B256>,
    pub request: Option<Vec<u8>>,
    pub state: OrderState,
    pub reason: Option<String>,
    pub held: bool,
    pub reserved: u128,
    pub attempts: i64,
    pub created_ms: i64,
}

/// Bytes of a database column as a 32-byte value.
///
/// # Errors
/// `store_corrupt` when the length is wrong.
pub fn b256(table: &'static str, bytes: &[u8]) -> Result<B256> {
    B256::try_from(bytes).map_err(|_| Error::Corrupt { table, what: format!("{} bytes where 32 belong", bytes.len()) })
}

/// Bytes of a database column as an address.
///
/// # Errors
/// `store_corrupt` when the length is wrong.
pub fn address(table: &'static str, bytes: &[u8]) -> Result<Address> {
    Address::try_from(bytes)
        .map_err(|_| Error::Corrupt { table, what: format!("{} bytes where 20 belong", bytes.len()) })
}

/// Decimal text of a database column as token units.
///
/// # Errors
/// `store_corrupt` when it is no u128.
pub fn units(table: &'static str, text: &str) -> Result<u128> {
    text.parse().map_err(|_| Error::Corrupt { table, what: format!("amount {text:?}") })
}

/// 32 big-endian bytes of a database column as a number.
///
/// # Errors
/// `store_corrupt` when the length is wrong.
pub fn u256(table: &'static str, bytes: &[u8]) -> Result<U256> {
    Ok(U256::from_be_bytes(b256(table, bytes)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_are_unique_and_read_back() {
        for state in OrderState::ALL {
            assert_eq!(OrderState::parse(state.as_str()).ok(), Some(*state));
        }
        assert!(OrderState::parse("lost").is_err());
    }

    #[test]
    fn terminal_states_stay() {
        for next in OrderState::ALL {
            assert_eq!(OrderState::Final.can_transition_to(*next), *next == OrderState::Final);
        }
        for next in TxState::ALL {
            assert_eq!(TxState::Done.can_transition_to(*next), *next == TxState::Done);
        }
        assert!(!OrderState::Completed.can_transition_to(OrderState::Open), "an answered order is never run again");
        assert!(!BatchState::Paid.can_transition_to(BatchState::Submitted));
        assert!(!TxState::Queued.can_transition_to(TxState::Sent), "nothing is broadcast before it is persisted");
    }
}
