//! Calldata of settlements: rows, node references and roots from receipts.

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use quittance_bindings::typed::{
    NodeRef, OrderRow, RAIL_ORDER, Receipt, receipt_hash, settleBatchCall, settleVerifiedCall,
};

use crate::error::{Error, Result};
use crate::merkle::Tree;
use crate::store::receipts::Settleable;

/// The receipt that a row commits to.
///
/// # Errors
/// `store_corrupt` when the stored evidence does not add up to the stored receipt hash.
pub fn receipt(row: &Settleable) -> Result<Receipt> {
    let receipt = unchecked(row);
    let actual = receipt_hash(&receipt);
    if actual != row.receipt_hash {
        let what = format!("{}: evidence hashes to {actual}, not {}", row.settlement_id, row.receipt_hash);
        return Err(Error::Corrupt { table: "receipts", what });
    }
    Ok(receipt)
}

/// The receipt that the stored evidence makes, whatever hash is stored.
pub(crate) fn unchecked(row: &Settleable) -> Receipt {
    Receipt {
        rail: RAIL_ORDER,
        paymentId: row.order_id,
        payer: row.order.payer,
        token: row.order.token,
        offset: 0,
        amount: row.amount,
        nodeId: row.node_id,
        nodeVersion: row.node_version,
        requestHash: row.request_hash,
        blinding: row.blinding,
        outputHash: row.output_hash,
        timestamp: U40::saturating_from(row.timestamp),
        salt: keccak256(&row.meter_signature),
    }
}

/// `settleBatch` over these rows, all of one token; rows keep their order. `blob_id` names what is published of them.
///
/// # Errors
/// `store_corrupt` for a row that no call can carry.
pub fn settle_batch(keeper_id: B256, token: Address, receipts: &[Settleable], blob_id: Bytes) -> Result<Bytes> {
    let mut nodes: Vec<NodeRef> = Vec::new();
    let mut rows = Vec::with_capacity(receipts.len());
    for row in receipts {
        let node = NodeRef { nodeId: row.node_id, version: row.node_version };
        let index = nodes.iter().position(|known| *known == node).unwrap_or_else(|| {
            nodes.push(node);
            nodes.len() - 1
        });
        let index = u16::try_from(index).map_err(|_| corrupt(row, "too many nodes in a batch"))?;
        rows.push(row_of(row, index)?);
    }
    let call = settleBatchCall {
        keeperId: keeper_id,
        token,
        nodes,
        rows,
        ogRoot: og_root(receipts.iter().filter(|row| !row.private)),
        blobId: blob_id,
    };
    Ok(call.abi_encode().into())
}

/// One row of a batch; `node` is the index of its node in the call.
///
/// # Errors
/// `store_corrupt` when the stored evidence does not add up, or an order that nobody holds has no ECDSA signature.
pub fn row_of(row: &Settleable, node: u16) -> Result<OrderRow> {
    let (r, vs) = if row.held { (B256::ZERO, B256::ZERO) } else { compact(row)? };
    receipt(row)?;
    Ok(OrderRow {
        payer: row.order.payer,
        maxAmount: row.order.maxAmount,
        requestCommit: row.order.requestCommit,
        nodeScope: row.order.nodeScope,
        validAfter: row.order.validAfter,
        validBefore: row.order.validBefore,
        captureDeadline: row.order.captureDeadline,
        nonce: row.order.nonce,
        r,
        vs,
        amount: row.amount,
        node,
        receiptHash: row.receipt_hash,
    })
}

/// `settleVerified` for one receipt.
///
/// # Errors
/// `store_corrupt` when the stored evidence does not add up.
pub fn settle_verified(row: &Settleable) -> Result<Bytes> {
    let call = settleVerifiedCall {
        order: row.order.clone(),
        orderSignature: row.order_signature.clone().unwrap_or_default().into(),
        receipt: receipt(row)?,
        inferenceSignature: row.inference_signature.clone().into(),
        meterSignature: row.meter_signature.clone().into(),
    };
    Ok(call.abi_encode().into())
}

/// Root over inferences as OpenGradient's own settlement builds it: OpenZeppelin's standard tree with sorted leaves over
/// (teeId, inputHash, outputHash, signature, timestamp). Zero over none.
pub fn og_root<'a>(inferences: impl Iterator<Item = &'a Settleable>) -> B256 {
    let mut leaves: Vec<B256> = inferences
        .map(|row| {
            let leaf = (
                row.node_id,
                row.request_hash,
                row.output_hash,
                Bytes::from(row.inference_signature.clone()),
                U256::from(row.timestamp),
            );
            keccak256(keccak256(leaf.abi_encode_params()))
        })
        .collect();
    leaves.sort_unstable();
    Tree::new(leaves).root().unwrap_or_default()
}

/// The payer's signature in EIP-2098 form.
fn compact(row: &Settleable) -> Result<(B256, B256)> {
    let bytes = row.order_signature.as_deref().unwrap_or_default();
    let (Some((r, rest)), true) = (bytes.split_at_checked(32), matches!(bytes.len(), 64 | 65)) else {
        return Err(corrupt(row, "the payer's signature is not an ECDSA signature"));
    };
    let mut vs = [0; 32];
    vs.copy_from_slice(&rest[..32]);
    match rest.get(32) {
        Some(1 | 28) => vs[0] |= 0x80,
        Some(0 | 27) | None => {}
        Some(_) => return Err(corrupt(row, "the payer's signature has an unknown recovery id")),
    }
    Ok((B256::from_slice(r), B256::from(vs)))
}

fn corrupt(row: &Settleable, what: &str) -> Error {
    Error::Corrupt { table: "receipts", what: format!("{}: {what}", row.settlement_id) }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::b256;
    use alloy::sol_types::SolCall;

    use super::*;
    use crate::store::receipts::fixtures::{Seed, seed, store};
    use crate::store::receipts::get;

    async fn row(seeded: &Seed) -> Settleable {
        let (_dir, store) = store().await.unwrap();
        seed(&store, seeded).await.unwrap();
        get(&store, seeded.settlement_id()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_batch_names_each_node_once_and_signs_only_what_nobody_holds() {
        let rows = [
            row(&Seed { node: 1, ..Seed::new(1) }).await,
            row(&Seed { node: 2, held: true, ..Seed::new(2) }).await,
            row(&Seed { node: 1, private: true, ..Seed::new(3) }).await,
        ];
        let data = settle_batch(B256::repeat_byte(7), rows[0].order.token, &rows, Bytes::new()).unwrap();
        let call = settleBatchCall::abi_decode(&data).unwrap();
        assert_eq!(call.nodes.len(), 2);
        assert_eq!(call.rows.iter().map(|row| row.node).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(call.rows[0].vs.0[0], 0x91, "recovery id 28 is the top bit of vs");
        assert_eq!((call.rows[1].r, call.rows[1].vs), (B256::ZERO, B256::ZERO));
        assert_eq!(call.rows[2].receiptHash, rows[2].receipt_hash);
        assert_eq!(call.ogRoot, og_root(rows[..2].iter()), "a private inference is in no public root");
        assert_eq!(call.ogRoot, og_root(rows[..2].iter().rev()), "the root does not depend on the order");
    }

    #[tokio::test]
    async fn evidence_that_does_not_add_up_is_never_sent() {
        let good = row(&Seed::new(1)).await;
        assert!(row_of(&good, 0).is_ok());
        assert!(row_of(&Settleable { amount: good.amount + 1, ..good.clone() }, 0).is_err());
        for signature in [None, Some(vec![1; 63]), Some(vec![9; 65]), Some(vec![1; 200])] {
            assert!(row_of(&Settleable { order_signature: signature, ..good.clone() }, 0).is_err());
        }
    }

    #[tokio::test]
    async fn the_root_is_the_one_of_openzeppelins_standard_tree() {
        // StandardMerkleTree.of(values, ["bytes32","bytes32","bytes32","bytes","uint256"]).root, @openzeppelin/merkle-tree.
        let base = row(&Seed::new(1)).await;
        let rows: Vec<_> = (1_u8..=5)
            .map(|n| Settleable {
                node_id: B256::repeat_byte(n),
                request_hash: B256::repeat_byte(n + 0x10),
                output_hash: B256::repeat_byte(n + 0x20),
                inference_signature: vec![n; 256],
                timestamp: 1_795_200_000 + u64::from(n),
                ..base.clone()
            })
            .collect();
        let expected = b256!("b786d1275302c3204c1dcb6c9af49feb72c17ca815156238d72f6c8e5eab5610");
        assert_eq!(og_root(rows.iter()), expected);
        assert_eq!(og_root([].iter()), B256::ZERO);
    }
}
