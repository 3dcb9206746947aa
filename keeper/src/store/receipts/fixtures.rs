//! Rows for tests of settlement.

use alloy::primitives::{Address, keccak256};
use quittance_bindings::typed::{RAIL_ORDER, Receipt, message_hash, receipt_hash, settlement_id};

use super::*;

/// What a test may vary of a matched receipt.
#[derive(Clone)]
pub(crate) struct Seed {
    pub(crate) n: u8,
    pub(crate) keeper_id: B256,
    pub(crate) token: Address,
    pub(crate) node: u8,
    pub(crate) amount: u128,
    pub(crate) deadline: i64,
    pub(crate) held: bool,
    pub(crate) private: bool,
    pub(crate) path: Path,
    pub(crate) created_ms: i64,
}

impl Seed {
    pub(crate) fn new(n: u8) -> Self {
        Self {
            n,
            keeper_id: B256::repeat_byte(0xbb),
            token: Address::repeat_byte(0xcc),
            node: 1,
            amount: 100,
            deadline: 10_000,
            held: false,
            private: false,
            path: Path::Batch,
            created_ms: 1_000,
        }
    }

    pub(crate) fn settlement_id(&self) -> B256 {
        let message = message_hash(keccak256([4, self.n]), keccak256([5, self.n]), 7);
        settlement_id(keccak256([9, self.node]), message)
    }

    pub(crate) fn order_id(&self) -> B256 {
        keccak256([1, self.n])
    }
}

/// A store in a directory that lives as long as the handle.
pub(crate) async fn store() -> Result<(tempfile::TempDir, Store)> {
    let dir = tempfile::tempdir()?;
    let store = crate::store::testing::open(&dir).await;
    Ok((dir, store))
}

/// Moves the cursor of a chain.
pub(crate) async fn set_head(store: &Store, chain_id: i64, number: i64, timestamp: i64, safe: i64) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query("DELETE FROM cursors WHERE chain_id = $1").bind(chain_id).execute(&mut *tx).await?;
    sqlx::query(
        "INSERT INTO cursors (chain_id, number, hash, timestamp, safe_number, finalized_number, updated_ms) \
         VALUES ($1, $2, $3, $4, $5, $5, 0)",
    )
    .bind(chain_id)
    .bind(number)
    .bind(vec![0_u8; 32])
    .bind(timestamp)
    .bind(safe)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// An order in state completed, its completion and its matched receipt.
pub(crate) async fn seed(store: &Store, seed: &Seed) -> Result<()> {
    let id = |kind: u8| keccak256([kind, seed.n]).to_vec();
    let receipt = Receipt {
        rail: RAIL_ORDER,
        paymentId: seed.order_id(),
        payer: Address::repeat_byte(0xaa),
        token: seed.token,
        offset: 0,
        amount: seed.amount,
        nodeId: keccak256([9, seed.node]),
        nodeVersion: 1,
        requestHash: keccak256([4, seed.n]),
        blinding: B256::ZERO,
        outputHash: keccak256([5, seed.n]),
        timestamp: U40::from(7),
        salt: keccak256([6; 65]),
    };
    let mut tx = store.write().await?;
    let signature = (!seed.held).then(|| {
        let mut bytes = vec![seed.n; 64];
        bytes[32] = 0x11;
        bytes.push(28);
        bytes
    });
    sqlx::query(
        "INSERT INTO orders (order_id, payer, token, max_amount, request_commit, node_scope, keeper_id, \
         valid_after, valid_before, capture_deadline, nonce, signature, blinding, request_hash, request, state, \
         held, reserved, attempts, next_attempt_ms, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, \
         $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 0, 0, $19, $19)",
    )
    .bind(seed.order_id().to_vec())
    .bind(vec![0xaa_u8; 20])
    .bind(seed.token.to_vec())
    .bind(seed.amount.to_string())
    .bind(id(2))
    .bind(vec![0_u8; 32])
    .bind(seed.keeper_id.to_vec())
    .bind(1_i64)
    .bind(seed.deadline)
    .bind(seed.deadline)
    .bind(id(3))
    .bind(signature)
    .bind(vec![0_u8; 32])
    .bind(id(4))
    .bind(b"{}".to_vec())
    .bind("completed")
    .bind(i64::from(seed.held))
    .bind("0")
    .bind(seed.created_ms)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO completions (settlement_id, order_id, node_id, node_version, request_hash, output_hash, \
         timestamp, signature, output, response, meter_signature, amount, state, record_state, created_ms) \
         VALUES ($1, $2, $3, 1, $4, $5, 7, $6, $7, $8, $9, $10, 'matched', $11, $12)",
    )
    .bind(seed.settlement_id().to_vec())
    .bind(seed.order_id().to_vec())
    .bind(keccak256([9, seed.node]).to_vec())
    .bind(id(4))
    .bind(id(5))
    .bind(vec![5_u8; 256])
    .bind(b"answer".to_vec())
    .bind(b"{}".to_vec())
    .bind(vec![6_u8; 65])
    .bind(seed.amount.to_string())
    .bind(if seed.private { "private" } else { "due" })
    .bind(seed.created_ms)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO receipts (settlement_id, order_id, payer, token, node_id, amount, receipt_hash, state, path, \
         delivered, deliver_attempts, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, 'matched', $8, 0, 0, $9)",
    )
    .bind(seed.settlement_id().to_vec())
    .bind(seed.order_id().to_vec())
    .bind(vec![0xaa_u8; 20])
    .bind(seed.token.to_vec())
    .bind(keccak256([9, seed.node]).to_vec())
    .bind(seed.amount.to_string())
    .bind(receipt_hash(&receipt).to_vec())
    .bind(seed.path.as_str())
    .bind(seed.created_ms)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
