//! Merkle tree over 32-byte leaves, shaped and hashed as OpenZeppelin's tree without sorted leaves, as the ledger builds it.

use alloy::primitives::{B256, keccak256};

/// A complete binary tree in one array: the root at 0, leaf `i` at `2n − 2 − i`, each parent the hash of its sorted children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<B256>,
    leaves: usize,
}

impl Tree {
    /// Builds the tree over leaves in row order. Leaves are expected to be hashed twice already (`typed::leaf_hash`).
    pub fn new(leaves: Vec<B256>) -> Self {
        let n = leaves.len();
        let mut nodes = vec![B256::ZERO; (2 * n).saturating_sub(1)];
        for (i, leaf) in leaves.into_iter().enumerate() {
            nodes[2 * n - 2 - i] = leaf;
        }
        for i in (0..n.saturating_sub(1)).rev() {
            nodes[i] = hash_pair(nodes[2 * i + 1], nodes[2 * i + 2]);
        }
        Self { nodes, leaves: n }
    }

    /// The root; `None` for a tree without leaves.
    pub fn root(&self) -> Option<B256> {
        self.nodes.first().copied()
    }

    /// The siblings from leaf `row` up to the root; `None` when there is no such row.
    pub fn proof(&self, row: usize) -> Option<Vec<B256>> {
        if row >= self.leaves {
            return None;
        }
        let mut at = 2 * self.leaves - 2 - row;
        let mut proof = Vec::new();
        while at > 0 {
            // Left children have odd places, so the sibling is one further; right children the other way.
            proof.push(self.nodes[if at % 2 == 1 { at + 1 } else { at - 1 }]);
            at = (at - 1) / 2;
        }
        Some(proof)
    }
}

/// Whether `leaf` stands under `root`.
pub fn verify(root: B256, leaf: B256, proof: &[B256]) -> bool {
    proof.iter().fold(leaf, |hash, sibling| hash_pair(hash, *sibling)) == root
}

fn hash_pair(a: B256, b: B256) -> B256 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    keccak256([low.0, high.0].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quittance_bindings::typed::{Leaf, leaf_hash};

    use super::*;

    /// Row `i` of every tree in the vectors; script/vectors/merkle.mjs computes the same.
    fn vector_leaf(i: u32) -> B256 {
        let word = |name: &str, i: u32| keccak256(format!("{name} {i}"));
        leaf_hash(&Leaf {
            rail: 1,
            paymentId: word("payment", i),
            start: 0,
            amount: u128::from(i + 1).pow(5),
            nodeId: word("node", i % 7),
            nodeVersion: i % 3 + 1,
            receiptHash: word("receipt", i),
            row: i,
        })
    }

    #[test]
    fn empty_and_single() {
        assert_eq!(Tree::new(Vec::new()).root(), None);
        assert_eq!(Tree::new(Vec::new()).proof(0), None);
        let leaf = keccak256("leaf");
        let tree = Tree::new(vec![leaf]);
        assert_eq!(tree.root(), Some(leaf));
        assert_eq!(tree.proof(0), Some(Vec::new()));
    }

    #[test]
    fn the_library_of_openzeppelin_builds_the_same_trees() {
        let vectors: serde_json::Value = serde_json::from_str(include_str!("../../test/vectors/merkle.json")).unwrap();
        let hash = |value: &serde_json::Value| value.as_str().unwrap().parse::<B256>().unwrap();
        for tree in vectors["trees"].as_array().unwrap() {
            let size = u32::try_from(tree["size"].as_u64().unwrap()).unwrap();
            let leaves: Vec<B256> = (0..size).map(vector_leaf).collect();
            let built = Tree::new(leaves.clone());
            assert_eq!(built.root(), Some(hash(&tree["root"])), "{size} leaves");
            for (row, proof) in tree["proven"].as_array().unwrap().iter().zip(tree["proofs"].as_array().unwrap()) {
                let row = usize::try_from(row.as_u64().unwrap()).unwrap();
                let proof: Vec<B256> = proof.as_array().unwrap().iter().map(hash).collect();
                assert_eq!(built.proof(row), Some(proof), "row {row} of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_leaf_proves_and_nothing_else_does(seeds in prop::collection::hash_set(any::<u64>(), 1..70)) {
            let leaves: Vec<B256> = seeds.iter().map(|seed| keccak256(seed.to_be_bytes())).collect();
            let tree = Tree::new(leaves.clone());
            let root = tree.root().unwrap_or_default();
            for (row, leaf) in leaves.iter().enumerate() {
                let proof = tree.proof(row).unwrap_or_default();
                prop_assert!(verify(root, *leaf, &proof));
                prop_assert!(!verify(root, keccak256(leaf), &proof));
                if let Some(other) = leaves.get(row + 1) {
                    prop_assert!(!verify(root, *other, &proof));
                }
            }
            prop_assert_eq!(tree.proof(leaves.len()), None);
        }
    }
}
