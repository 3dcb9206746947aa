//! Effects of events and their undoing, on rows as the other loops leave them.

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolEvent, SolValue};
use quittance_bindings::escrow::IInferenceEscrow::Sources;
use quittance_bindings::escrow::InferenceEscrow as escrow;
use quittance_bindings::ledger::SettlementLedger::{self as ledger, BatchRecord};
use sqlx::Row;

use super::{Applied, Rules, apply, heads, undo_above};
use crate::chain::logs::{ChainLog, Contract, decode};
use crate::store::receipts::fixtures::{Seed, seed, store};
use crate::store::txs::{self, Attempt, NewTx};
use crate::store::{Store, accounts, batches, events, orders, receipts};
use crate::tx::fees::Fee;
use crate::types::{BatchState, OrderState};

const ESCROW: Address = Address::repeat_byte(0xe1);
const LEDGER: Address = Address::repeat_byte(0xe2);
const KEEPER: B256 = B256::repeat_byte(0xbb);
const TOKEN: Address = Address::repeat_byte(0xcc);
const OUR_TX: B256 = B256::repeat_byte(0x71);
const OTHER_TX: B256 = B256::repeat_byte(0x72);

fn rules() -> Rules {
    Rules {
        chain_id: 8453,
        keeper_id: KEEPER,
        tokens: vec![TOKEN],
        contracts: vec![(ESCROW, Contract::Escrow), (LEDGER, Contract::Ledger)],
        now_ms: 5,
    }
}

/// Builds logs of one chain in order.
#[derive(Default)]
struct Script {
    logs: Vec<ChainLog>,
    escrow: u64,
    ledger: u64,
}

impl Script {
    fn at(&mut self, block: u64, tx_hash: B256, contract: Contract, event: &impl SolEvent) {
        let data = event.encode_log_data();
        let (address, seq) = match contract {
            Contract::Escrow => {
                self.escrow += 1;
                (ESCROW, self.escrow)
            }
            _ => {
                self.ledger += 1;
                (LEDGER, self.ledger)
            }
        };
        let (name, _, event) = decode(contract, data.topics(), &data.data).unwrap().unwrap();
        self.logs.push(ChainLog {
            address,
            block_number: block,
            block_hash: B256::with_last_byte(block as u8),
            timestamp: 1_000 + block,
            log_index: self.logs.len() as u64,
            tx_hash,
            topics: data.topics().to_vec(),
            data: data.data,
            seq,
            name,
            event,
        });
    }

    fn captured(&mut self, block: u64, tx_hash: B256, seed: &Seed) {
        self.at(
            block,
            tx_hash,
            Contract::Escrow,
            &escrow::OrderCaptured {
                seq: self.escrow + 1,
                orderId: seed.order_id(),
                payer: Address::ZERO,
                token: TOKEN,
                keeperId: KEEPER,
                nonce: U256::from(seed.n),
                sources: Sources { hold: 0, lock: 0, free: 0 },
                released: 0,
                nonceSpent: true,
            },
        );
    }

    fn skipped(&mut self, block: u64, seed: &Seed, row: u32, reason: u8) {
        self.skipped_by(OUR_TX, block, seed, row, reason);
    }

    fn skipped_by(&mut self, tx_hash: B256, block: u64, seed: &Seed, row: u32, reason: u8) {
        let seq = self.ledger + 1;
        let event = ledger::RowSkipped { seq, keeperId: KEEPER, orderId: seed.order_id(), row, reason };
        self.at(block, tx_hash, Contract::Ledger, &event);
    }

    fn settled(&mut self, block: u64, tx_hash: B256, rows: u32) {
        self.settled_with(block, tx_hash, rows, B256::repeat_byte(9));
    }

    fn settled_with(&mut self, block: u64, tx_hash: B256, rows: u32, root: B256) {
        let record = BatchRecord {
            batchId: 1,
            keeperId: KEEPER,
            token: TOKEN,
            settledAt: U40::from(1_000 + block),
            rows,
            total: 200,
            receiptsRoot: root,
            ogRoot: B256::ZERO,
            blobHash: B256::ZERO,
            feeBps: 0,
            feeRecipient: Address::ZERO,
            credits: vec![],
        };
        let seq = self.ledger + 1;
        let event =
            ledger::BatchSettled { seq, effectSeq: 1, batchId: 1, keeperId: KEEPER, record, blobId: Bytes::new() };
        self.at(block, tx_hash, Contract::Ledger, &event);
    }

    fn verified(&mut self, block: u64, seed: &Seed, receipt_hash: B256) {
        let event = ledger::Verified {
            seq: self.ledger + 1,
            effectSeq: 1,
            settlementId: seed.settlement_id(),
            paymentId: seed.order_id(),
            nodeId: B256::ZERO,
            receiptHash: receipt_hash,
            amount: 100,
            fee: 1,
        };
        self.at(block, OTHER_TX, Contract::Ledger, &event);
    }
}

async fn run(store: &Store, script: &Script) -> Applied {
    let mut tx = store.write().await.unwrap();
    let applied = apply(&mut tx, &rules(), &script.logs).await.unwrap();
    tx.commit().await.unwrap();
    applied
}

async fn undo(store: &Store, block: u64) {
    let mut tx = store.write().await.unwrap();
    undo_above(&mut tx, &rules(), Some(block)).await.unwrap();
    tx.commit().await.unwrap();
}

/// Three receipts frozen in a batch whose transaction was sent as `OUR_TX`.
async fn frozen(store: &Store) -> (i64, [Seed; 3]) {
    let seeds = [1, 2, 3].map(Seed::new);
    for one in &seeds {
        seed(store, one).await.unwrap();
    }
    let mut tx = store.write().await.unwrap();
    let batch_id = batches::insert(&mut tx, KEEPER, TOKEN, 3, 1).await.unwrap();
    assert!(receipts::to_batch(&mut tx, &seeds.each_ref().map(Seed::settlement_id), batch_id).await.unwrap());
    let new = NewTx {
        chain_id: 8453,
        kind: "settle_batch",
        intent_key: format!("batch:{batch_id}"),
        target: LEDGER,
        calldata: Bytes::new(),
    };
    let tx_id = txs::enqueue(&mut tx, &new, 1).await.unwrap();
    batches::set_tx(&mut tx, batch_id, tx_id).await.unwrap();
    let attempt = Attempt {
        tx_hash: OUR_TX,
        raw: Bytes::from_static(&[1]),
        fee: Fee { max_fee: 2, tip: 1 },
        created_ms: 1,
        broadcast_ms: None,
        last_error: None,
    };
    assert!(txs::allocate(&mut tx, tx_id, Address::ZERO, (0, 1), &attempt).await.unwrap());
    tx.commit().await.unwrap();
    (batch_id, seeds)
}

async fn batch_state(store: &Store, batch_id: i64) -> BatchState {
    batches::get(store, batch_id).await.unwrap().unwrap().state
}

async fn order_state(store: &Store, seed: &Seed) -> OrderState {
    orders::get(store.read(), seed.order_id()).await.unwrap().unwrap().state
}

/// (state, path, leaf row, reason)
async fn receipt(store: &Store, seed: &Seed) -> (String, String, Option<i64>, Option<String>) {
    let row = sqlx::query("SELECT state, path, leaf_row, skip_reason FROM receipts WHERE settlement_id = $1")
        .bind(seed.settlement_id().to_vec())
        .fetch_one(store.read())
        .await
        .unwrap();
    (row.get("state"), row.get("path"), row.get("leaf_row"), row.get("skip_reason"))
}

fn plain(state: &str, leaf: Option<i64>) -> (String, String, Option<i64>, Option<String>) {
    (state.to_owned(), "batch".to_owned(), leaf, None)
}

#[tokio::test]
async fn batch_settles_with_a_skipped_row_survives_a_reorganisation_and_is_paid_when_final() {
    let (_dir, store) = store().await.unwrap();
    let (batch_id, [a, b, c]) = frozen(&store).await;
    let script = |block: u64| {
        let mut script = Script::default();
        script.captured(block, OUR_TX, &a);
        script.skipped(block, &b, 1, 9);
        script.captured(block, OUR_TX, &c);
        script.settled(block, OUR_TX, 2);
        script
    };
    run(&store, &script(7)).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Included);
    assert_eq!(receipt(&store, &a).await, plain("settled", Some(0)));
    assert_eq!(receipt(&store, &c).await, plain("settled", Some(1)), "rows are counted among the captured");
    let (state, _, _, reason) = receipt(&store, &b).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("skipped", Some("insufficient_balance")));
    assert_eq!(order_state(&store, &a).await, OrderState::Settled);
    assert_eq!(order_state(&store, &b).await, OrderState::Completed);

    undo(&store, 6).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Submitted);
    for one in [&a, &b, &c] {
        assert_eq!(receipt(&store, one).await, plain("batched", None));
        assert_eq!(order_state(&store, one).await, OrderState::Completed);
    }

    let mut again = script(8);
    let seq = again.ledger + 1;
    let finalized = ledger::Finalized { seq, effectSeq: 2, batchId: 1, paid: 200, fee: 0 };
    again.at(9, OTHER_TX, Contract::Ledger, &finalized);
    run(&store, &again).await;
    let row = batches::get(&store, batch_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.chain_batch_id, row.base_block), (BatchState::Included, Some(1), Some(8)));
    let record = BatchRecord::abi_decode(&row.record.unwrap()).unwrap();
    assert_eq!((record.rows, record.receiptsRoot), (2, B256::repeat_byte(9)));
    // OpenGradient's heads are far beyond the block; they say nothing of Base.
    let elsewhere = Rules { chain_id: 10_740, contracts: vec![(LEDGER, Contract::Inbox)], ..rules() };
    let mut tx = store.write().await.unwrap();
    heads(&mut tx, &elsewhere, 0, 1_000, 1_000).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Included);
    for (safe, finalized, state, order) in [
        (8, 0, BatchState::Safe, OrderState::Settled),
        (9, 8, BatchState::Finalised, OrderState::Settled),
        (9, 9, BatchState::Paid, OrderState::Final),
    ] {
        let mut tx = store.write().await.unwrap();
        heads(&mut tx, &rules(), finalized.min(8), safe, finalized).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(batch_state(&store, batch_id).await, state);
        assert_eq!(order_state(&store, &a).await, order);
    }
    assert_eq!(order_state(&store, &b).await, OrderState::Completed, "what was not captured is not final");
}

#[tokio::test]
async fn batch_without_a_captured_row_is_empty() {
    let (_dir, store) = store().await.unwrap();
    let (batch_id, [a, b, c]) = frozen(&store).await;
    let mut script = Script::default();
    for (row, one) in (0..).zip([&a, &b, &c]) {
        script.skipped(7, one, row, 4);
    }
    run(&store, &script).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Empty);
    assert_eq!(receipt(&store, &b).await.3.as_deref(), Some("deadline_passed"));
    undo(&store, 6).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Submitted);
    assert_eq!(receipt(&store, &b).await, plain("batched", None));
}

#[tokio::test]
async fn a_batch_that_an_older_copy_of_the_database_did_not_send_is_ours_by_its_root() {
    let (_dir, store) = store().await.unwrap();
    let (batch_id, [a, b, c]) = frozen(&store).await;
    let mut tx = store.write().await.unwrap();
    let rows = super::content::rows_of(&mut tx, batch_id).await.unwrap();
    let root = super::content::root(&rows, &[a.order_id(), c.order_id()]).unwrap();
    tx.commit().await.unwrap();
    let script = |root: B256| {
        let mut script = Script::default();
        script.captured(7, OTHER_TX, &a);
        script.skipped_by(OTHER_TX, 7, &b, 1, 9);
        script.captured(7, OTHER_TX, &c);
        script.settled_with(7, OTHER_TX, 2, root);
        script
    };
    run(&store, &script(root)).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Included);
    assert_eq!(receipt(&store, &c).await, plain("settled", Some(1)));
    assert_eq!(receipt(&store, &b).await.3.as_deref(), Some("insufficient_balance"));
    undo(&store, 6).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Submitted);
    for one in [&a, &b, &c] {
        assert_eq!(receipt(&store, one).await, plain("batched", None));
    }

    // The same orders with other receipts are none of ours: the orders are settled, our receipts are not.
    run(&store, &script(B256::repeat_byte(9))).await;
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Submitted);
    assert_eq!(receipt(&store, &a).await, plain("batched", None));
    assert_eq!(order_state(&store, &a).await, OrderState::Settled);
}

#[tokio::test]
async fn a_verified_settlement_is_final_with_its_block_whoever_made_it() {
    let (_dir, store) = store().await.unwrap();
    let seeds = [1, 2].map(Seed::new);
    let mut script = Script::default();
    for one in &seeds {
        seed(&store, one).await.unwrap();
        script.captured(6, OTHER_TX, one);
    }
    let [a, b] = seeds;
    script.verified(6, &a, B256::repeat_byte(5));
    run(&store, &script).await;
    for (before, finalized, state) in [(0, 5, OrderState::Settled), (5, 6, OrderState::Final)] {
        let mut tx = store.write().await.unwrap();
        heads(&mut tx, &rules(), before, 6, finalized).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(order_state(&store, &a).await, state);
    }
    assert_eq!(order_state(&store, &b).await, OrderState::Settled, "captured, and not known to be paid");
}

#[tokio::test]
async fn settlements_by_others_count_as_settlements() {
    let (_dir, store) = store().await.unwrap();
    let (batch_id, [a, b, c]) = frozen(&store).await;
    let hash = |n: &Seed| n.settlement_id();
    // `a` by anybody with our receipt, before our batch lands; `d` waits and is captured by another inference.
    let d = Seed::new(4);
    seed(&store, &d).await.unwrap();
    let row = sqlx::query("SELECT receipt_hash FROM receipts WHERE settlement_id = $1")
        .bind(hash(&a).to_vec())
        .fetch_one(store.read())
        .await
        .unwrap();
    let ours = B256::from_slice(&row.get::<Vec<u8>, _>(0));
    let mut script = Script::default();
    script.captured(6, OTHER_TX, &a);
    script.verified(6, &a, ours);
    script.captured(6, OTHER_TX, &d);
    script.skipped(7, &a, 0, 2);
    script.captured(7, OUR_TX, &b);
    script.captured(7, OUR_TX, &c);
    script.settled(7, OUR_TX, 2);
    run(&store, &script).await;
    let (state, path, _, reason) = receipt(&store, &a).await;
    assert_eq!((state.as_str(), path.as_str(), reason), ("settled", "verified", None), "a skip does not take it back");
    assert_eq!(receipt(&store, &b).await, plain("settled", Some(0)));
    assert_eq!(receipt(&store, &d).await.3.as_deref(), Some("captured_elsewhere"));
    assert_eq!(order_state(&store, &d).await, OrderState::Settled);

    undo(&store, 5).await;
    assert_eq!(receipt(&store, &a).await, plain("batched", None));
    assert_eq!(receipt(&store, &d).await, plain("matched", None));
    assert_eq!(order_state(&store, &d).await, OrderState::Completed);
    assert_eq!(batch_state(&store, batch_id).await, BatchState::Submitted);
}

#[tokio::test]
async fn undoing_leaves_what_the_remaining_events_say() {
    let (_dir, store) = store().await.unwrap();
    let payers: Vec<Address> = (1..4).map(Address::repeat_byte).collect();
    let mut script = Script::default();
    for block in 1..40_u64 {
        let payer = payers[(block % 3) as usize];
        let seq = script.escrow + 1;
        let amount = u128::from(block) * 10;
        let hash = B256::with_last_byte(block as u8);
        match block % 4 {
            0 | 1 => {
                let event = escrow::Deposited { seq, beneficiary: payer, token: TOKEN, from: payer, amount };
                script.at(block, hash, Contract::Escrow, &event);
            }
            2 => {
                let event = escrow::Deposited { seq, beneficiary: payer, token: TOKEN, from: payer, amount };
                script.at(block, hash, Contract::Escrow, &event);
                let (added, until) = (5, U40::from(block));
                let seq = seq + 1;
                let amount = u128::from(block);
                let event = escrow::Locked {
                    seq,
                    payer,
                    token: TOKEN,
                    keeperId: KEEPER,
                    added,
                    amount,
                    until,
                    nonce: U256::from(block),
                };
                script.at(block, hash, Contract::Escrow, &event);
            }
            _ => {
                let event = escrow::NoncesCancelled {
                    seq,
                    payer,
                    token: TOKEN,
                    keeperId: KEEPER,
                    word: Default::default(),
                    mask: U256::ONE << (block as usize),
                };
                script.at(block, hash, Contract::Escrow, &event);
            }
        }
    }
    let cut = script.logs.partition_point(|log| log.block_number <= 20);
    let rest = Script { logs: script.logs.split_off(cut), ..Script::default() };
    run(&store, &script).await;
    let snapshot = |store: Store, payers: Vec<Address>| async move {
        let mut all = Vec::new();
        for payer in payers {
            let account = accounts::account(store.read(), payer, TOKEN).await.unwrap();
            let lane = accounts::lane(store.read(), payer, TOKEN, KEEPER).await.unwrap();
            let word = accounts::nonce_word(store.read(), payer, TOKEN, KEEPER, U256::ZERO).await.unwrap();
            all.push((account, lane, word));
        }
        all
    };
    let before = snapshot(store.clone(), payers.clone()).await;
    run(&store, &rest).await;
    let after = snapshot(store.clone(), payers.clone()).await;
    assert_ne!(before, after);
    undo(&store, 20).await;
    assert_eq!(snapshot(store.clone(), payers.clone()).await, before);
    run(&store, &rest).await;
    assert_eq!(snapshot(store.clone(), payers.clone()).await, after, "and forward again");
    assert_eq!(events::last_seq(store.read(), 8453, ESCROW).await.unwrap().map(|last| last.0), Some(rest_seq(&rest)));
    undo(&store, 0).await;
    assert!(snapshot(store, payers).await.iter().all(|(account, lane, word)| {
        *account == accounts::Account::default() && lane.locked == 0 && word.is_zero()
    }));
}

fn rest_seq(rest: &Script) -> u64 {
    rest.logs.last().map_or(0, |log| log.seq)
}
