//! Signed orders and their answers, made before anything is timed, and a database that knows the orders.

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolStruct;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use eyre::{Result, eyre};
use quittance::canonical::canonical_request;
use quittance::crypto::RsaKey;
use quittance::devnet::keys::Key;
use quittance::store::completions::{Completion, Metered, Usage};
use quittance::store::orders::Signed;
use quittance::store::{Store, accounts, intake, orders};
use quittance::types::OrderRow;
use quittance_bindings::typed::{Meter, Order, domain, message_hash, order_id, request_commit, settlement_id};

/// Token units that each order allows, and that each answer is charged.
pub const MAXIMUM: u128 = 20_000;
pub const AMOUNT: u128 = 1_234;

/// Who signs what, for which contracts.
pub struct World {
    pub chain_id: u64,
    pub escrow: Address,
    pub ledger: Address,
    pub keeper_id: B256,
    pub token: Address,
    /// Keys of nodes with their meter keys.
    pub nodes: Vec<(RsaKey, PrivateKeySigner)>,
    pub payers: Vec<PrivateKeySigner>,
    /// Unix seconds at which every order begins and is answered.
    pub now: u64,
}

/// An order with its answer, both fully signed.
pub struct Pair {
    pub order: Order,
    pub order_id: B256,
    pub order_signature: Vec<u8>,
    pub request: Vec<u8>,
    pub request_hash: B256,
    pub completion: Completion,
    pub metered: Metered,
    /// The order as its caller read it.
    pub row: Option<OrderRow>,
}

/// Devnet payers, by number.
pub fn payers(count: usize) -> Result<Vec<PrivateKeySigner>> {
    (0..count).map(|index| Ok(Key::of(format!("payer-{index}"))?.signer)).collect()
}

impl World {
    /// Pairs numbered `from` to `from + count`, signed on every core.
    pub fn pairs(&self, from: usize, count: usize) -> Result<Vec<Pair>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> = (from..from + count)
                .step_by(share)
                .map(|first| {
                    let last = (first + share).min(from + count);
                    scope.spawn(move || (first..last).map(|number| self.pair(number)).collect::<Result<Vec<_>>>())
                })
                .collect();
            let mut pairs = Vec::with_capacity(count);
            for part in parts {
                pairs.extend(part.join().map_err(|_| eyre!("a signing thread panicked"))??);
            }
            Ok(pairs)
        })
    }

    fn pair(&self, number: usize) -> Result<Pair> {
        let payer = &self.payers[number % self.payers.len()];
        let (node_key, meter_key) = &self.nodes[number % self.nodes.len()];
        let request = format!(
            r#"{{"model":"canned-small","messages":[{{"role":"user","content":"Question {number}: what is due?"}}],"temperature":0.2,"max_tokens":64}}"#
        )
        .into_bytes();
        let first = canonical_request(&request)?.into_iter().next();
        let request_hash = first.ok_or_else(|| eyre!("the request has no canonical form"))?.hash;
        let order = Order {
            payer: payer.address(),
            token: self.token,
            maxAmount: MAXIMUM,
            requestCommit: request_commit(request_hash, B256::ZERO),
            nodeScope: B256::ZERO,
            keeperId: self.keeper_id,
            validAfter: U40::from(self.now),
            validBefore: U40::from(self.now + 36_000),
            captureDeadline: U40::from(self.now + 36_000),
            nonce: U256::from(number / self.payers.len()),
        };
        let id = order_id(&order, &domain(self.chain_id, self.escrow));
        let output = format!(
            "This is the answer to question {number}. It is about as long as the short answers that models give when \
             they are asked for one sentence, so that hashing and storing it costs what it costs in earnest."
        );
        let output_hash = keccak256(&output);
        let message = message_hash(request_hash, output_hash, self.now);
        let settlement = settlement_id(node_key.id(), message);
        let meter = Meter { settlementId: settlement, paymentId: id, offset: 0, amount: AMOUNT };
        let digest = meter.eip712_signing_hash(&domain(self.chain_id, self.ledger));
        Ok(Pair {
            order_signature: payer.sign_hash_sync(&id)?.as_bytes().to_vec(),
            completion: Completion {
                settlement_id: settlement,
                order_id: Some(id),
                node_id: node_key.id(),
                node_version: 2,
                request_hash,
                output_hash,
                timestamp: self.now,
                signature: node_key.sign(message)?,
                output: Some(output.into_bytes()),
                response: None,
                usage: Some(Usage { input: 21, output: 42 }),
            },
            metered: Metered {
                signature: meter_key.sign_hash_sync(&digest)?.as_bytes().to_vec(),
                offset: 0,
                amount: AMOUNT,
                card: None,
            },
            order,
            order_id: id,
            request,
            request_hash,
            row: None,
        })
    }
}

impl Pair {
    /// What a node sends to `POST /completions`.
    pub fn json(&self) -> String {
        let Completion { node_id, request_hash, timestamp, signature, output, .. } = &self.completion;
        let output = String::from_utf8_lossy(output.as_deref().unwrap_or_default()).into_owned();
        serde_json::json!({
            "orderId": self.order_id,
            "nodeId": node_id,
            "requestHash": request_hash,
            "output": output,
            "timestamp": timestamp,
            "signature": BASE64.encode(signature),
            "meter": { "amount": AMOUNT.to_string(), "signature": format!("0x{}", hex::encode(&self.metered.signature)) },
            "usage": { "prompt_tokens": 21, "completion_tokens": 42 },
        })
        .to_string()
    }
}

/// Orders that the keeper took and that wait for a node to bring its answer: no dispatcher takes them up.
pub async fn admit(store: &Store, pairs: &mut [Pair]) -> Result<()> {
    // Within the longest that a node may take in these benchmarks: a start need not bring it back.
    let pause_ms = quittance::clock::Clock::default().now_ms() + 24 * 3_600_000;
    for group in pairs.chunks_mut(1_000) {
        let mut tx = store.write().await?;
        for pair in &*group {
            let order = &pair.order;
            let signed = Signed {
                order_id: pair.order_id,
                order,
                signature: Some(&pair.order_signature),
                blinding: B256::ZERO,
                request_hash: pair.request_hash,
                request: &pair.request,
            };
            let (amount, limit) = (order.maxAmount, u128::MAX);
            accounts::reserve(&mut tx, pair.order_id, order.payer, order.token, order.keeperId, amount, limit).await?;
            eyre::ensure!(
                orders::insert_signed(&mut tx, &signed, "bench", amount, (0, 1)).await?,
                "an order is known already"
            );
        }
        // As after a round in which no node answered, with a long pause.
        sqlx::query("UPDATE orders SET attempts = 1, next_attempt_ms = $1 WHERE attempts = 0")
            .bind(pause_ms)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        let ids: Vec<B256> = group.iter().map(|pair| pair.order_id).collect();
        let wanted: Vec<(Option<B256>, B256)> = ids.iter().map(|id| (Some(*id), B256::ZERO)).collect();
        let mut found = intake::find(store, &wanted).await?;
        for pair in group {
            pair.row = found.orders.remove(&pair.order_id);
        }
    }
    Ok(())
}
