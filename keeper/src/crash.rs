//! Named places where a test may kill the process, to prove that a restart loses nothing and pays nothing twice.

/// Every crash point that an inference passes, in that order.
pub const POINTS: [&str; 13] = [
    // An order is checked, nothing of it is committed.
    "before_order_commit",
    // An order is committed, its caller has no answer yet.
    "after_order_commit",
    // An order is claimed, no node has been asked.
    "after_claim",
    // A node answered and the answer verified, nothing of it is committed.
    "after_completion_before_commit",
    // Completion, receipt and the order's state are committed, nobody has been told.
    "after_completion_commit",
    // A recording for OpenGradient is queued, nothing is signed.
    "after_record_queued",
    // A batch and its queued transaction are committed, nothing is signed.
    "after_freeze",
    // Nonce and signed bytes are committed, nothing is broadcast.
    "after_persist_before_send",
    // The transaction is broadcast, the database does not know it.
    "after_send_before_mark",
    // Effects of events are written, neither they nor the cursor are committed.
    "before_events_commit",
    // Effects of events and the cursor are committed, nobody has been told.
    "after_events_commit",
    // The block of a transaction is committed.
    "after_include",
    // A finalize is queued, nothing is signed.
    "after_finalize_queued",
];

/// Crash points that only something unusual leads to.
pub const RARE: [&str; 5] = [
    // A verified settlement is queued, nothing is signed.
    "after_verified_queued",
    // A delivery is queued, nothing is signed.
    "after_delivery_queued",
    // An envelope at a higher fee is committed, not broadcast.
    "after_replace_before_send",
    // The effects of blocks that a reorganisation took away are undone and committed.
    "after_undo",
    // A reclaim is queued, nothing is signed.
    "after_reclaim_queued",
];

/// An answer to a challenge is queued, nothing is signed.
pub const ANSWERING: &str = "after_answer_queued";

/// Crash points that a payer's approval passes, in that order, besides those of the transaction that brings its gas money.
pub const SPONSORED: [&str; 2] = [
    // The approval is broadcast, nobody knows what came of it.
    "after_approval_sent",
    // The approval is mined, neither it nor the payment behind it is committed.
    "before_approval_commit",
];

/// Crash points that an x402 payment passes, in that order, besides those of its transaction.
pub const X402: [&str; 4] = [
    // A payment is committed, nothing is queued for it.
    "after_payment_commit",
    // The transaction of some payments is queued with them, nothing is signed.
    "after_payments_queued",
    // The results of payments are written, not committed.
    "before_payment_results_commit",
    // The results of payments are committed, nobody has been told.
    "after_payment_results_commit",
];

/// Kills the process here when `QUITTANCE_CRASH_AT=<name>[:n]` names this point; `n` is the pass that kills (default 1).
///
/// Does nothing in a release build without the feature `fault`. The process ends as `kill -9` would end it: no
/// destructor, no flush, no shutdown.
#[inline]
pub fn point(name: &str) {
    #[cfg(any(debug_assertions, feature = "fault"))]
    armed::pass(name);
    #[cfg(not(any(debug_assertions, feature = "fault")))]
    let _ = name;
}

#[cfg(any(debug_assertions, feature = "fault"))]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The point that kills, and the pass that does.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Armed {
        pub(super) name: String,
        pub(super) pass: u64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);

    /// Reads `<name>[:n]`; `None` for an empty text.
    pub(super) fn parse(text: &str) -> Option<Armed> {
        let (name, pass) = text.split_once(':').unwrap_or((text, "1"));
        if name.is_empty() {
            return None;
        }
        Some(Armed { name: name.to_owned(), pass: pass.parse().unwrap_or(1).max(1) })
    }

    pub(super) fn pass(name: &str) {
        let armed = ARMED.get_or_init(|| std::env::var("QUITTANCE_CRASH_AT").ok().as_deref().and_then(parse));
        let Some(armed) = armed else { return };
        if armed.name == name && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == armed.pass {
            eprintln!("crash point {name}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_unless_armed() {
        for name in POINTS.into_iter().chain(RARE).chain(X402) {
            point(name);
        }
    }

    #[test]
    fn reads_name_and_pass() {
        assert_eq!(armed::parse(""), None);
        let read = |text| armed::parse(text).map(|armed| (armed.name, armed.pass));
        assert_eq!(read("after_freeze"), Some(("after_freeze".to_owned(), 1)));
        assert_eq!(read("after_freeze:3"), Some(("after_freeze".to_owned(), 3)));
        assert_eq!(read("after_freeze:0"), Some(("after_freeze".to_owned(), 1)));
    }
}
