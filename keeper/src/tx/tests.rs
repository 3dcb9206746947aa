//! The manager against real chains: what is dropped, too cheap, reorganised, interrupted, or met by a foreign transaction.

use std::sync::atomic::Ordering;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use serde_json::{Value, json};

use super::Manager;
use super::fees::Fee;
use super::lane::Lane;
use super::signer::{Payload, sign};
use crate::chain::Side;
use crate::chain::faults::{self, Faults};
use crate::chain::tests::{bare, catch_up, mine, reorg};
use crate::chain::watch::Watcher;
use crate::ctx::SharedCtx;
use crate::devnet::chains::Chains;
use crate::devnet::deploy::fund;
use crate::devnet::keys::Key;
use crate::store::txs::{self, Attempt, NewTx, TxRow};
use crate::types::TxState;

/// A contract that always reverts.
const REVERTER: Address = Address::repeat_byte(0xfd);

const HERE: &str = "127.0.0.1:1";

struct Bed {
    chains: Chains,
    ctx: SharedCtx,
    manager: Manager,
    watcher: Watcher,
    key: Key,
    dir: tempfile::TempDir,
}

impl Bed {
    /// Base makes no block unless told to.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chains = Chains::start(dir.path(), 1).await.unwrap();
        chains.base.pause().await.unwrap();
        let key = Key::of("manager").unwrap();
        fund(&chains, key.address()).await.unwrap();
        for _ in 0..3 {
            mine(&chains.base).await;
        }
        let ctx = bare(&chains, &chains.base.url, HERE, &dir).await;
        let manager = Manager::new(ctx.clone(), Lane::Own(Side::Base), key.signer.clone());
        let watcher = Watcher::new(ctx.clone(), Side::Base);
        Self { chains, ctx, manager, watcher, key, dir }
    }

    /// As after a crash: a new process over the same database.
    async fn restart(&mut self) {
        self.ctx = bare(&self.chains, &self.chains.base.url, HERE, &self.dir).await;
        self.manager = Manager::new(self.ctx.clone(), Lane::Own(Side::Base), self.key.signer.clone());
        self.watcher = Watcher::new(self.ctx.clone(), Side::Base);
    }

    async fn enqueue(&self, name: &str, target: Address) -> i64 {
        let new = NewTx {
            chain_id: self.chains.base.chain_id,
            kind: "reclaim",
            intent_key: name.to_owned(),
            target,
            calldata: Bytes::from_static(&[1, 2, 3]),
        };
        let mut tx = self.ctx.store.write().await.unwrap();
        let id = txs::enqueue(&mut tx, &new, self.ctx.clock.now_ms()).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn tick(&mut self) {
        self.manager.tick().await.unwrap();
    }

    async fn row(&self, id: i64) -> TxRow {
        txs::get(self.ctx.store.read(), id).await.unwrap().unwrap()
    }

    async fn state(&self, id: i64) -> TxState {
        self.row(id).await.state
    }

    async fn attempts(&self, id: i64) -> Vec<Attempt> {
        txs::attempts(self.ctx.store.read(), id).await.unwrap()
    }

    async fn call(&self, method: &'static str, params: Value) -> Value {
        self.chains.base.call(method, params).await.unwrap()
    }

    async fn in_pool(&self, hash: B256) -> bool {
        let found = self.chains.base.provider().get_transaction_by_hash(hash).await.unwrap();
        found.is_some_and(|tx| tx.block_number.is_none())
    }

    /// Mines until everything so far is final, and tells the keeper.
    async fn finalise(&mut self) {
        for _ in 0..3 {
            mine(&self.chains.base).await;
        }
        catch_up(&mut self.watcher).await;
    }

    /// Transactions of the key that are mined.
    async fn mined(&self) -> u64 {
        self.chains.base.provider().get_transaction_count(self.key.address()).await.unwrap()
    }
}

const TARGET: Address = Address::repeat_byte(0x77);

#[tokio::test]
async fn sent_included_done() {
    let mut bed = Bed::new().await;
    let ids = [bed.enqueue("a", TARGET).await, bed.enqueue("b", TARGET).await];
    bed.tick().await;
    for (nonce, id) in (0..).zip(ids) {
        let row = bed.row(id).await;
        assert_eq!((row.state, row.nonce), (TxState::Sent, Some(nonce)));
    }
    bed.tick().await;
    assert_eq!(bed.attempts(ids[0]).await.len(), 1, "nothing is sent twice at once");
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!(bed.state(ids[0]).await, TxState::Included);
    catch_up(&mut bed.watcher).await;
    bed.tick().await;
    assert_eq!(bed.state(ids[0]).await, TxState::Included, "one block is not final on Base");
    bed.finalise().await;
    bed.tick().await;
    for id in ids {
        let row = bed.row(id).await;
        assert_eq!((row.state, row.success), (TxState::Done, Some(true)));
    }
}

#[tokio::test]
async fn dropped_transaction_is_sent_again_unchanged() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let hash = bed.attempts(id).await[0].tx_hash;
    bed.call("anvil_dropTransaction", json!([hash])).await;
    assert!(!bed.in_pool(hash).await);
    bed.tick().await;
    assert!(!bed.in_pool(hash).await, "not before its time");
    bed.ctx.clock.shift(3_500);
    bed.tick().await;
    assert!(bed.in_pool(hash).await);
    mine(&bed.chains.base).await;
    bed.tick().await;
    let row = bed.row(id).await;
    assert_eq!((row.state, row.tx_hash), (TxState::Included, Some(hash)));
    assert_eq!(bed.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn fee_growth_replaces_by_an_eighth_up_to_the_cap() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let first = bed.attempts(id).await[0].clone();
    let dear = first.fee.max_fee + 1_000;
    bed.call("anvil_setNextBlockBaseFeePerGas", json!([U256::from(dear)])).await;
    mine(&bed.chains.base).await;
    bed.call("anvil_setNextBlockBaseFeePerGas", json!([U256::from(dear)])).await;
    bed.ctx.clock.shift(7_000);
    bed.tick().await;
    let attempts = bed.attempts(id).await;
    assert_eq!(attempts.len(), 2);
    let fee: Fee = attempts[0].fee;
    assert!(fee.max_fee * 8 >= first.fee.max_fee * 9 && fee.tip * 8 >= first.fee.tip * 9);
    assert!(fee.max_fee > dear);
    bed.call("anvil_setNextBlockBaseFeePerGas", json!([U256::from(dear)])).await;
    mine(&bed.chains.base).await;
    bed.tick().await;
    let row = bed.row(id).await;
    assert_eq!((row.state, row.tx_hash), (TxState::Included, Some(attempts[0].tx_hash)));
    assert_eq!(bed.mined().await, 1, "replaced, not repeated");

    // Above the cap: nothing new is offered, and nothing fails.
    let cap = bed.ctx.config.fees.max_fee_wei;
    bed.call("anvil_setNextBlockBaseFeePerGas", json!([U256::from(cap)])).await;
    mine(&bed.chains.base).await;
    bed.call("anvil_setNextBlockBaseFeePerGas", json!([U256::from(cap) * U256::from(2)])).await;
    mine(&bed.chains.base).await;
    let later = bed.enqueue("b", TARGET).await;
    bed.tick().await;
    assert_eq!(bed.state(later).await, TxState::Queued);
}

#[tokio::test]
async fn restart_sends_what_was_stored_and_not_sent() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let other = bed.enqueue("b", TARGET).await;
    // The process dies between the commit and the broadcast.
    let payload = Payload {
        chain_id: bed.chains.base.chain_id,
        nonce: 1,
        gas_limit: 50_000,
        target: TARGET,
        value: 0,
        calldata: Bytes::from_static(&[1, 2, 3]),
    };
    let fee = bed.attempts(id).await[0].fee;
    let attempt = sign(&bed.key.signer, &payload, fee, bed.ctx.clock.now_ms()).unwrap();
    let row = bed.row(other).await;
    assert!(bed.manager.allocate(&row, &payload, &attempt, 0).await.unwrap());
    assert!(!bed.in_pool(attempt.tx_hash).await);
    bed.restart().await;
    bed.tick().await;
    assert!(bed.in_pool(attempt.tx_hash).await, "the stored envelope, no other");
    assert_eq!(bed.attempts(other).await.len(), 1);
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!(bed.state(other).await, TxState::Included);
    assert_eq!(bed.mined().await, 2);

    // It dies between the broadcast and the mark: the second broadcast is known already.
    let third = bed.enqueue("c", TARGET).await;
    let payload = Payload { nonce: 2, ..payload };
    let attempt = sign(&bed.key.signer, &payload, fee, bed.ctx.clock.now_ms()).unwrap();
    let row = bed.row(third).await;
    assert!(bed.manager.allocate(&row, &payload, &attempt, 2).await.unwrap());
    bed.ctx.base.broadcast(&attempt.raw).await.unwrap();
    bed.restart().await;
    bed.tick().await;
    assert_eq!(bed.state(third).await, TxState::Sent);
    assert_eq!(bed.attempts(third).await[0].last_error, None, "already known is success");
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!((bed.state(third).await, bed.mined().await), (TxState::Included, 3));
}

#[tokio::test]
async fn reorganised_inclusion_is_sent_again() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    mine(&bed.chains.base).await;
    bed.tick().await;
    catch_up(&mut bed.watcher).await;
    let before = bed.row(id).await;
    assert_eq!(before.state, TxState::Included);
    reorg(&bed.chains.base, 1).await;
    assert_eq!(bed.mined().await, 0);
    catch_up(&mut bed.watcher).await;
    assert_eq!(bed.state(id).await, TxState::Sent);
    bed.ctx.clock.shift(3_500);
    bed.tick().await;
    mine(&bed.chains.base).await;
    bed.tick().await;
    let after = bed.row(id).await;
    assert_eq!((after.state, after.tx_hash), (TxState::Included, before.tx_hash), "the same envelope in another block");
    assert_ne!(after.block_hash, before.block_hash);
    bed.finalise().await;
    bed.tick().await;
    assert_eq!(bed.state(id).await, TxState::Done);
}

#[tokio::test]
async fn foreign_transaction_at_our_nonce_queues_the_intent_again() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let mine_first = bed.attempts(id).await[0].clone();
    bed.call("anvil_dropTransaction", json!([mine_first.tx_hash])).await;
    let foreign = Payload {
        chain_id: bed.chains.base.chain_id,
        nonce: 0,
        gas_limit: 30_000,
        target: bed.key.address(),
        value: 0,
        calldata: Bytes::new(),
    };
    let foreign = sign(&bed.key.signer, &foreign, mine_first.fee, 0).unwrap();
    bed.ctx.base.broadcast(&foreign.raw).await.unwrap();
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!(bed.state(id).await, TxState::Sent, "not lost before it is final");
    bed.finalise().await;
    bed.tick().await;
    let row = bed.row(id).await;
    assert_eq!((row.state, row.nonce), (TxState::Sent, Some(1)), "queued again and sent at the next nonce");
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!(bed.state(id).await, TxState::Included);
}

#[tokio::test]
async fn missing_nonce_is_filled() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    // The chain counted a transaction when the nonce was given, and a reorganisation took it away.
    let payload = Payload {
        chain_id: bed.chains.base.chain_id,
        nonce: 1,
        gas_limit: 50_000,
        target: TARGET,
        value: 0,
        calldata: Bytes::new(),
    };
    let fee = Fee { max_fee: 4_000_000_000, tip: 1_000_000 };
    let attempt = sign(&bed.key.signer, &payload, fee, bed.ctx.clock.now_ms()).unwrap();
    let row = bed.row(id).await;
    bed.tick_lease().await;
    assert!(bed.manager.allocate(&row, &payload, &attempt, 1).await.unwrap());
    bed.tick().await;
    assert_eq!(bed.mined().await, 0);
    bed.ctx.clock.shift(7_000);
    bed.tick().await;
    mine(&bed.chains.base).await;
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!((bed.state(id).await, bed.mined().await), (TxState::Included, 2));
}

#[tokio::test]
async fn permanent_revert_is_quarantined_and_no_money_pauses() {
    let mut bed = Bed::new().await;
    bed.call("anvil_setCode", json!([REVERTER, "0x60006000fd"])).await;
    let bad = bed.enqueue("bad", REVERTER).await;
    let good = bed.enqueue("good", TARGET).await;
    bed.tick().await;
    assert_eq!(bed.state(bad).await, TxState::Queued, "an endpoint may be behind");
    assert_eq!(bed.state(good).await, TxState::Sent, "nobody waits for it");
    bed.tick().await;
    bed.tick().await;
    assert_eq!(bed.state(bad).await, TxState::Queued, "three looks within a moment are one");
    mine(&bed.chains.base).await;
    bed.ctx.clock.shift(2_100);
    bed.tick().await;
    assert_eq!(bed.state(bad).await, TxState::Quarantined);

    bed.call("anvil_setBalance", json!([bed.key.address(), "0x1"])).await;
    let poor = bed.enqueue("poor", TARGET).await;
    bed.tick().await;
    assert_eq!(bed.state(poor).await, TxState::Queued);
    fund(&bed.chains, bed.key.address()).await.unwrap();
    bed.tick().await;
    assert_eq!(bed.state(poor).await, TxState::Sent);
}

#[tokio::test]
async fn gas_money_costs_what_its_transfer_may() {
    let mut bed = Bed::new().await;
    // An account whose code spends more than a plain transfer.
    bed.call("anvil_setCode", json!([REVERTER, "0x600160015500"])).await;
    let new = NewTx {
        chain_id: bed.chains.base.chain_id,
        kind: "top_up",
        intent_key: "top_up:a".to_owned(),
        target: REVERTER,
        calldata: Bytes::new(),
    };
    let mut tx = bed.ctx.store.write().await.unwrap();
    let dear = txs::enqueue_in(&mut tx, "", &new, (30_000, 5), bed.ctx.clock.now_ms()).await.unwrap();
    let new = NewTx { intent_key: "top_up:b".to_owned(), target: TARGET, ..new };
    let plain = txs::enqueue_in(&mut tx, "", &new, (30_000, 5), bed.ctx.clock.now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    for _ in 0..3 {
        bed.tick().await;
    }
    assert_eq!((bed.state(dear).await, bed.state(plain).await), (TxState::Queued, TxState::Sent));
    bed.ctx.clock.shift(2_100);
    bed.tick().await;
    assert_eq!(bed.state(dear).await, TxState::Quarantined);

    // What there is does for a transaction, and not for this.
    let ether = U256::from(10).pow(U256::from(18));
    bed.call("anvil_setBalance", json!([bed.key.address(), ether])).await;
    let mut tx = bed.ctx.store.write().await.unwrap();
    let mut much = Vec::new();
    for (name, value) in [("top_up:c", 1), ("top_up:d", 2)] {
        let new = NewTx { intent_key: name.to_owned(), ..new.clone() };
        let value = value * 999_999_000_000_000_000_u128;
        much.push(txs::enqueue_in(&mut tx, "", &new, (30_000, value), bed.ctx.clock.now_ms()).await.unwrap());
    }
    tx.commit().await.unwrap();
    let behind = bed.enqueue("behind", TARGET).await;
    bed.tick().await;
    for id in much {
        assert_eq!(bed.state(id).await, TxState::Queued);
    }
    assert_eq!(bed.state(behind).await, TxState::Sent, "nobody waits for it");
}

#[tokio::test]
async fn rpc_timeout_after_accept() {
    let mut bed = Bed::new().await;
    let faults = Faults::default();
    let url = faults::start(bed.chains.base.url.clone(), faults.clone()).await;
    bed.ctx = bare(&bed.chains, &url, HERE, &bed.dir).await;
    bed.manager = Manager::new(bed.ctx.clone(), Lane::Own(Side::Base), bed.key.signer.clone());
    faults.lost_sends.store(true, Ordering::SeqCst);
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let attempt = bed.attempts(id).await[0].clone();
    assert_eq!((bed.state(id).await, attempt.last_error.as_deref()), (TxState::Sent, Some("unknown")));
    assert!(bed.in_pool(attempt.tx_hash).await, "unknown is not failed");
    bed.ctx.clock.shift(3_500);
    bed.tick().await;
    faults.lost_sends.store(false, Ordering::SeqCst);
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!((bed.state(id).await, bed.mined().await), (TxState::Included, 1));
    assert_eq!(bed.attempts(id).await.len(), 1);
}

#[tokio::test]
async fn two_keepers_with_one_key_never_sign_the_same_nonce() {
    let mut bed = Bed::new().await;
    let there = bare(&bed.chains, &bed.chains.base.url, "127.0.0.1:2", &bed.dir).await;
    let mut other = Manager::new(there.clone(), Lane::Own(Side::Base), bed.key.signer.clone());
    let first = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let second = bed.enqueue("b", TARGET).await;
    other.tick().await.unwrap();
    assert_eq!(bed.state(second).await, TxState::Queued, "only who has the role sends");
    // The first one hangs; its role ends, the second goes on, and the first is fenced when it comes back.
    there.clock.pass(16_000);
    other.tick().await.unwrap();
    assert_eq!(bed.row(second).await.nonce, Some(1));
    let third = bed.enqueue("c", TARGET).await;
    let payload = Payload {
        chain_id: bed.chains.base.chain_id,
        nonce: 2,
        gas_limit: 50_000,
        target: TARGET,
        value: 0,
        calldata: Bytes::new(),
    };
    let fee = bed.attempts(first).await[0].fee;
    let attempt = sign(&bed.key.signer, &payload, fee, bed.ctx.clock.now_ms()).unwrap();
    let row = bed.row(third).await;
    assert!(!bed.manager.allocate(&row, &payload, &attempt, 0).await.unwrap(), "fenced");
    assert!(bed.attempts(third).await.is_empty());
    other.tick().await.unwrap();
    mine(&bed.chains.base).await;
    other.tick().await.unwrap();
    for id in [first, second, third] {
        assert_eq!(bed.state(id).await, TxState::Included);
    }
    assert_eq!(bed.mined().await, 3);
}

#[tokio::test]
async fn what_a_replaced_key_signed_comes_to_its_end() {
    let mut bed = Bed::new().await;
    let [first, second] = [bed.enqueue("a", TARGET).await, bed.enqueue("b", TARGET).await];
    bed.tick().await;
    let sent = bed.attempts(first).await[0].tx_hash;
    bed.call("anvil_dropAllTransactions", json!([])).await;
    let former = std::mem::replace(&mut bed.key, Key::of("rotated").unwrap());
    fund(&bed.chains, bed.key.address()).await.unwrap();
    bed.restart().await;
    bed.ctx.clock.shift(3_500);
    bed.tick().await;
    assert!(bed.in_pool(sent).await, "the stored envelope");
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!(bed.state(first).await, TxState::Included);
    assert_eq!(bed.state(second).await, TxState::Included);
    bed.finalise().await;
    bed.tick().await;
    assert_eq!((bed.state(first).await, bed.state(second).await), (TxState::Done, TxState::Done));
    assert_eq!(bed.mined().await, 0, "the new key sent nothing");

    // The former account is emptied: what it signed can never be mined.
    let (new, old) = (bed.key.clone(), former.clone());
    bed.key = old;
    bed.restart().await;
    let third = bed.enqueue("c", TARGET).await;
    bed.tick().await;
    bed.call("anvil_dropAllTransactions", json!([])).await;
    bed.call("anvil_setBalance", json!([former.address(), "0x0"])).await;
    bed.key = new;
    bed.restart().await;
    bed.ctx.clock.shift(3_500);
    for _ in 0..3 {
        bed.tick().await;
    }
    let row = bed.row(third).await;
    assert_eq!((row.state, row.signer), (TxState::Sent, Some(bed.key.address())));
    mine(&bed.chains.base).await;
    bed.tick().await;
    assert_eq!((bed.state(third).await, bed.mined().await), (TxState::Included, 1));
}

#[tokio::test]
async fn a_key_of_another_lane_is_none_of_ours() {
    let mut bed = Bed::new().await;
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let hash = bed.attempts(id).await[0].tx_hash;
    bed.call("anvil_dropTransaction", json!([hash])).await;
    let mut tx = bed.ctx.store.write().await.unwrap();
    sqlx::query("UPDATE txs SET lane = '0xaa'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    bed.key = Key::of("rotated").unwrap();
    fund(&bed.chains, bed.key.address()).await.unwrap();
    bed.restart().await;
    bed.ctx.clock.shift(3_500);
    bed.tick().await;
    assert!(!bed.in_pool(hash).await);
}

#[tokio::test]
async fn another_keepers_key_is_left_to_it() {
    let mut bed = Bed::new().await;
    let there = bare(&bed.chains, &bed.chains.base.url, "127.0.0.1:2", &bed.dir).await;
    let key = Key::of("beside").unwrap();
    fund(&bed.chains, key.address()).await.unwrap();
    let mut other = Manager::new(there.clone(), Lane::Own(Side::Base), key.signer.clone());
    let id = bed.enqueue("a", TARGET).await;
    bed.tick().await;
    let hash = bed.attempts(id).await[0].tx_hash;
    bed.call("anvil_dropTransaction", json!([hash])).await;
    there.clock.shift(3_500);
    other.tick().await.unwrap();
    assert!(!bed.in_pool(hash).await, "its keeper lives");
    there.clock.pass(16_000);
    other.tick().await.unwrap();
    assert!(bed.in_pool(hash).await, "its keeper shows no sign of life");
    mine(&bed.chains.base).await;
    assert!(bed.manager.tick().await.is_err(), "its role was another's meanwhile");
    bed.tick().await;
    assert_eq!(bed.state(id).await, TxState::Included, "it is back and takes its role back at once");
}

impl Bed {
    /// Takes the signer's role without looking at anything.
    async fn tick_lease(&mut self) {
        assert!(self.manager.own.lease.hold(&self.ctx.store, self.ctx.clock.elapsed_ms()).await.unwrap());
    }
}
