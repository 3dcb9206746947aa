//! Which receipts go into which batch, and when it is closed: by count, value, age, or a deadline that comes near.

use std::collections::BTreeSet;

use alloy::primitives::B256;

use crate::store::receipts::Settleable;

/// Nodes that one `settleBatch` call may name.
pub const MAX_NODES: usize = 64;
/// Seconds that a row's deadline must lie ahead of the chain's clock to be sent at all.
pub const LEAD: u64 = 2;

/// When a batch of one token is closed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows at most.
    pub rows: usize,
    /// Milliseconds that the oldest receipt waits at most.
    pub age_ms: i64,
    /// Token units that wait at most.
    pub value: Option<u128>,
    /// Seconds before a row's deadline at which waiting ends.
    pub margin: u64,
}

/// Times that decide: local milliseconds for ages, the chain's seconds for deadlines.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub ms: i64,
    pub chain: u64,
}

/// Splits receipts of one token, oldest first, into batches that are to be frozen now; what waits on is left out, and so
/// is what could no longer be captured in time.
pub fn close(receipts: Vec<Settleable>, limits: Limits, now: Now) -> Vec<Vec<Settleable>> {
    let mut closed = Vec::new();
    let mut open = Open::default();
    for receipt in receipts {
        let deadline = receipt.order.captureDeadline.to::<u64>();
        if deadline < now.chain.saturating_add(LEAD) {
            continue;
        }
        if !open.nodes.contains(&(receipt.node_id, receipt.node_version)) && open.nodes.len() == MAX_NODES {
            closed.push(std::mem::take(&mut open).rows);
        }
        open.add(receipt);
        if open.rows.len() >= limits.rows.max(1) || limits.value.is_some_and(|value| open.value >= value) {
            closed.push(std::mem::take(&mut open).rows);
        }
    }
    let due = open.rows.iter().any(|receipt| {
        now.ms.saturating_sub(receipt.created_ms) >= limits.age_ms
            || receipt.order.captureDeadline.to::<u64>() <= now.chain.saturating_add(limits.margin)
    });
    if due {
        closed.push(open.rows);
    }
    closed
}

#[derive(Default)]
struct Open {
    rows: Vec<Settleable>,
    nodes: BTreeSet<(B256, u32)>,
    value: u128,
}

impl Open {
    fn add(&mut self, receipt: Settleable) {
        self.nodes.insert((receipt.node_id, receipt.node_version));
        self.value = self.value.saturating_add(receipt.amount);
        self.rows.push(receipt);
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U40;
    use alloy::primitives::{Address, U256, keccak256};
    use proptest::prelude::*;
    use quittance_bindings::typed::Order;

    use super::*;
    use crate::store::receipts::Path;

    const LIMITS: Limits = Limits { rows: 3, age_ms: 1_000, value: Some(1_000), margin: 30 };

    fn receipt(n: u64, node: u64, amount: u128, created_ms: i64, deadline: u64) -> Settleable {
        let id = |kind: u64| keccak256([kind.to_be_bytes(), n.to_be_bytes()].concat());
        Settleable {
            settlement_id: id(0),
            order_id: id(1),
            order: Order {
                payer: Address::ZERO,
                token: Address::ZERO,
                maxAmount: amount,
                requestCommit: B256::ZERO,
                nodeScope: B256::ZERO,
                keeperId: B256::ZERO,
                validAfter: U40::ZERO,
                validBefore: U40::ZERO,
                captureDeadline: U40::saturating_from(deadline),
                nonce: U256::from(n),
            },
            order_signature: None,
            held: true,
            blinding: B256::ZERO,
            node_id: keccak256(node.to_be_bytes()),
            node_version: 1,
            request_hash: id(2),
            output_hash: id(3),
            timestamp: 0,
            inference_signature: vec![],
            meter_signature: vec![],
            amount,
            receipt_hash: id(4),
            path: Path::Batch,
            private: false,
            retries: 0,
            skip_reason: None,
            created_ms,
        }
    }

    fn sizes(batches: &[Vec<Settleable>]) -> Vec<usize> {
        batches.iter().map(Vec::len).collect()
    }

    #[test]
    fn closes_by_count_and_leaves_the_rest_waiting() {
        let rows = (0..7).map(|n| receipt(n, 0, 1, 500, 9_000)).collect();
        assert_eq!(sizes(&close(rows, LIMITS, Now { ms: 600, chain: 0 })), [3, 3]);
    }

    #[test]
    fn closes_by_age() {
        let rows: Vec<_> = (0..2).map(|n| receipt(n, 0, 1, 500, 9_000)).collect();
        assert!(close(rows.clone(), LIMITS, Now { ms: 1_499, chain: 0 }).is_empty());
        assert_eq!(sizes(&close(rows, LIMITS, Now { ms: 1_500, chain: 0 })), [2]);
    }

    #[test]
    fn closes_by_value() {
        let rows = [600, 400, 1].map(|amount| receipt(0, 0, amount, 0, 9_000)).to_vec();
        assert_eq!(sizes(&close(rows, LIMITS, Now { ms: 1, chain: 0 })), [2]);
    }

    #[test]
    fn closes_before_a_deadline_and_leaves_out_what_is_late() {
        let rows = vec![receipt(0, 0, 1, 0, 101), receipt(1, 0, 1, 0, 130), receipt(2, 0, 1, 0, 9_000)];
        let batches = close(rows, LIMITS, Now { ms: 1, chain: 100 });
        assert_eq!(sizes(&batches), [2]);
        assert!(batches[0].iter().all(|row| row.order.captureDeadline.to::<u64>() >= 102));
    }

    #[test]
    fn names_no_more_nodes_than_the_contract_takes() {
        let rows = (0..65).map(|n| receipt(n, n, 1, 0, 9_000)).collect();
        let limits = Limits { rows: 256, value: None, ..LIMITS };
        assert_eq!(sizes(&close(rows, limits, Now { ms: 5_000, chain: 0 })), [64, 1]);
    }

    proptest! {
        #[test]
        fn every_receipt_goes_once_or_waits(
            seeds in proptest::collection::vec((0_u64..80, 1_u128..700, 0_i64..3_000, 0_u64..200), 0..200),
            rows in 1_usize..256,
        ) {
            let receipts: Vec<_> = seeds
                .iter()
                .enumerate()
                .map(|(n, (node, amount, ms, deadline))| receipt(n as u64, *node, *amount, *ms, *deadline))
                .collect();
            let limits = Limits { rows, ..LIMITS };
            let batches = close(receipts.clone(), limits, Now { ms: 3_000, chain: 100 });
            let mut seen = BTreeSet::new();
            for batch in &batches {
                prop_assert!(!batch.is_empty() && batch.len() <= rows);
                let nodes: BTreeSet<_> = batch.iter().map(|row| row.node_id).collect();
                prop_assert!(nodes.len() <= MAX_NODES);
                for row in batch {
                    prop_assert!(seen.insert(row.settlement_id), "twice");
                    prop_assert!(row.order.captureDeadline.to::<u64>() >= 102);
                }
            }
            for row in receipts {
                let old = row.created_ms <= 2_000 && row.order.captureDeadline.to::<u64>() >= 102;
                prop_assert!(!old || seen.contains(&row.settlement_id), "an old receipt was left behind");
            }
        }
    }
}
