//! Any keeper's batch as the chain shows it: leaves from calldata and events, checked against the ledger's root; which row a
//! unit of its money stands for.

use alloy::primitives::B256;
use alloy::sol_types::{Eip712Domain, SolCall};
use quittance_bindings::typed::{BatchRecord, Leaf, Order, RAIL_ORDER, leaf_hash, order_id, settleBatchCall};

use crate::merkle::Tree;

/// A batch whose leaves hash to the root that the ledger built.
#[derive(Clone, Debug)]
pub struct ChainBatch {
    pub record: BatchRecord,
    pub leaves: Vec<Leaf>,
    /// The orders that the rows captured.
    pub orders: Vec<Order>,
    tree: Tree,
}

impl ChainBatch {
    /// Reads the input of a `settleBatch` transaction. `skipped` are the places of rows that its `RowSkipped` events name;
    /// `escrow` is the domain of orders.
    ///
    /// # Errors
    /// What does not fit: other calldata, or other leaves than the record's root.
    pub fn read(input: &[u8], record: BatchRecord, skipped: &[u32], escrow: &Eip712Domain) -> Result<Self, String> {
        let call = settleBatchCall::abi_decode(input).map_err(|error| format!("not a settleBatch call: {error}"))?;
        let mut leaves = Vec::with_capacity(call.rows.len());
        let mut orders = Vec::with_capacity(call.rows.len());
        for (place, row) in (0_u32..).zip(&call.rows) {
            if skipped.contains(&place) {
                continue;
            }
            let node = call.nodes.get(usize::from(row.node)).ok_or_else(|| format!("row {place} names no node"))?;
            let order = Order {
                payer: row.payer,
                token: call.token,
                maxAmount: row.maxAmount,
                requestCommit: row.requestCommit,
                nodeScope: row.nodeScope,
                keeperId: call.keeperId,
                validAfter: row.validAfter,
                validBefore: row.validBefore,
                captureDeadline: row.captureDeadline,
                nonce: row.nonce,
            };
            leaves.push(Leaf {
                rail: RAIL_ORDER,
                paymentId: order_id(&order, escrow),
                start: 0,
                amount: row.amount,
                nodeId: node.nodeId,
                nodeVersion: node.version,
                receiptHash: row.receiptHash,
                row: u32::try_from(leaves.len()).unwrap_or(u32::MAX),
            });
            orders.push(order);
        }
        let tree = Tree::new(leaves.iter().map(leaf_hash).collect());
        if tree.root() != Some(record.receiptsRoot) {
            return Err(format!("its rows hash to {:?}, not to {}", tree.root(), record.receiptsRoot));
        }
        Ok(Self { record, leaves, orders, tree })
    }

    /// Money that was captured, token units.
    pub fn total(&self) -> u128 {
        self.leaves.iter().fold(0, |total, leaf| total.saturating_add(leaf.amount))
    }

    /// The row in which the `nth` unit of the batch's money lies, and that unit within the row; `None` beyond the total.
    pub fn unit(&self, nth: u128) -> Option<(&Leaf, u128)> {
        let mut left = nth;
        for leaf in &self.leaves {
            if left < leaf.amount {
                return Some((leaf, leaf.start.saturating_add(left)));
            }
            left -= leaf.amount;
        }
        None
    }

    /// A row and the order that it captured.
    pub fn row(&self, row: u32) -> Option<(&Leaf, &Order)> {
        let row = usize::try_from(row).ok()?;
        self.leaves.get(row).zip(self.orders.get(row))
    }

    /// Siblings from a row to the root.
    pub fn proof(&self, row: u32) -> Option<Vec<B256>> {
        self.tree.proof(usize::try_from(row).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes, U256, keccak256};
    use proptest::prelude::*;
    use quittance_bindings::typed::{domain, receipt_hash};

    use super::*;
    use crate::merkle;
    use crate::publish::rows::BatchRows;
    use crate::settle::call;
    use crate::store::receipts::fixtures::{Seed, seed, store};
    use crate::store::receipts::{Settleable, get};

    fn escrow() -> Eip712Domain {
        domain(8453, Address::repeat_byte(0xe5))
    }

    /// Receipts whose order ids are the digests that the ledger computes.
    async fn receipts(n: u8) -> Vec<Settleable> {
        let (_dir, store) = store().await.unwrap();
        let mut all = Vec::new();
        for i in 1..=n {
            let one = Seed { node: i % 3 + 1, ..Seed::new(i) };
            seed(&store, &one).await.unwrap();
            let mut row = get(&store, one.settlement_id()).await.unwrap().unwrap();
            row.order_id = order_id(&row.order, &escrow());
            row.amount = u128::from(i) * 10;
            row.receipt_hash = receipt_hash(&call::unchecked(&row));
            all.push(row);
        }
        all
    }

    fn record(root: B256, rows: usize) -> BatchRecord {
        BatchRecord {
            batchId: 1,
            keeperId: B256::ZERO,
            token: Address::ZERO,
            settledAt: Default::default(),
            rows: u32::try_from(rows).unwrap(),
            total: 0,
            receiptsRoot: root,
            ogRoot: B256::ZERO,
            blobHash: keccak256(b""),
            feeBps: 0,
            feeRecipient: Address::ZERO,
            credits: Vec::new(),
        }
    }

    #[tokio::test]
    async fn calldata_and_skips_give_the_leaves_under_the_root() {
        let rows = receipts(5).await;
        let keeper = rows[0].order.keeperId;
        let input = call::settle_batch(keeper, rows[0].order.token, &rows, Bytes::new()).unwrap();
        let published = BatchRows::of(8453, Address::ZERO, keeper, &rows).unwrap();
        for skipped in [vec![], vec![0], vec![1, 3], vec![4]] {
            let root = published.receipts_root(&skipped).unwrap();
            let batch = ChainBatch::read(&input, record(root, 5 - skipped.len()), &skipped, &escrow()).unwrap();
            assert_eq!(batch.leaves.len(), 5 - skipped.len());
            for leaf in &batch.leaves {
                assert!(merkle::verify(root, leaf_hash(leaf), &batch.proof(leaf.row).unwrap()));
            }
            assert_eq!(batch.proof(5), None);
        }
        let root = published.receipts_root(&[]).unwrap();
        assert!(ChainBatch::read(&input, record(root, 4), &[2], &escrow()).is_err(), "other leaves");
        assert!(ChainBatch::read(&input[1..], record(root, 5), &[], &escrow()).is_err(), "other calldata");
        let other = domain(1, Address::ZERO);
        assert!(ChainBatch::read(&input, record(root, 5), &[], &other).is_err(), "another escrow's orders");
    }

    fn batch_of(amounts: &[u128]) -> ChainBatch {
        let leaves: Vec<Leaf> = (0..)
            .zip(amounts)
            .map(|(row, amount)| Leaf {
                rail: RAIL_ORDER,
                paymentId: B256::from(U256::from(row)),
                start: 0,
                amount: *amount,
                nodeId: B256::ZERO,
                nodeVersion: 1,
                receiptHash: B256::ZERO,
                row,
            })
            .collect();
        let tree = Tree::new(leaves.iter().map(leaf_hash).collect());
        ChainBatch { record: record(tree.root().unwrap_or_default(), leaves.len()), leaves, orders: Vec::new(), tree }
    }

    proptest! {
        #[test]
        fn every_unit_stands_in_one_row(amounts in prop::collection::vec(1_u128..50, 1..20)) {
            let batch = batch_of(&amounts);
            let mut counts = vec![0_u128; amounts.len()];
            for nth in 0..batch.total() {
                let (leaf, unit) = batch.unit(nth).unwrap();
                prop_assert!(unit < leaf.amount);
                counts[leaf.row as usize] += 1;
            }
            prop_assert_eq!(counts, amounts);
            prop_assert!(batch.unit(batch.total()).is_none());
        }
    }
}
