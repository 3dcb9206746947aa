//! Transactions that get lost, stuck, replaced, or that nobody can pay for.

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::eips::eip2718::Decodable2718;
use alloy::primitives::TxKind;
use quittance::store::txs;
use serde_json::json;

use crate::proxy::Fault;
use crate::wallet::{Wallet, ids};
use crate::world::{Keeper, Setup, World, none};
use crate::{Group, scenarios};

const SENT: &str = "SELECT COUNT(*) FROM txs WHERE kind = 'settle_batch' AND state = 'sent'";

pub fn group() -> Group {
    Group {
        setup: Setup::default(),
        scenarios: scenarios![
            rpc_timeout_after_accept,
            dropped_transaction,
            fee_bump,
            stuck_nonce,
            nonce_taken_by_foreign_transaction,
            out_of_funds_and_refilled,
        ],
    }
}

async fn keeper(world: &World) -> Keeper {
    world.keeper(|config| (config.fees.rebroadcast_ms, config.fees.bump_ms) = (1_000, 2_000)).await
}

/// Every broadcast reaches the chain and its answer is lost: nothing is sent a second time under another nonce.
async fn rpc_timeout_after_accept(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "timeout").await;
    let lost = world.base.set(&["eth_sendRawTransaction"], 4, Fault::DropReply);
    let orders = wallet.ask(world, &keeper, "Lost answers", 3).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    assert!(lost.struck() >= 1);
    world.audit(&[&keeper]).await;
}

/// A transaction vanishes: once the endpoint only says that it took it, once the pool throws it out.
async fn dropped_transaction(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "dropped").await;
    let swallowed = world.base.set(&["eth_sendRawTransaction"], 1, Fault::Swallow);
    let first = wallet.ask(world, &keeper, "Swallowed", 1).await;
    keeper.wait_for(&ids(&first), &["settled", "final"]).await;
    assert_eq!(swallowed.struck(), 1);

    world.chain().pause().await.unwrap();
    let second = wallet.ask(world, &keeper, "Thrown out", 2).await;
    keeper.wait_count(SENT, 1).await;
    world.chain().call("anvil_dropAllTransactions", none()).await.unwrap();
    world.chain().resume().await.unwrap();
    keeper.wait_for(&ids(&second), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// The base fee rises over what a transaction offers: it is replaced, and both fields rise by a tenth at least.
async fn fee_bump(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "fee").await;
    world.chain().pause().await.unwrap();
    let orders = wallet.ask(world, &keeper, "Dearer", 1).await;
    keeper.wait_count(SENT, 1).await;
    raise_base_fee(world, &keeper).await;
    keeper
        .wait_count("SELECT COUNT(*) FROM attempts a JOIN txs t ON t.tx_id = a.tx_id WHERE t.state = 'sent'", 2)
        .await;
    world.chain().resume().await.unwrap();
    keeper.wait_for(&ids(&orders), &["final"]).await;

    let envelopes = envelopes(&keeper).await;
    let replaced: Vec<_> = envelopes.iter().filter(|attempts| attempts.len() > 1).collect();
    assert!(!replaced.is_empty());
    for attempts in replaced {
        for pair in attempts.windows(2) {
            let (old, new) = (&pair[0], &pair[1]);
            assert_eq!(old.nonce(), new.nonce());
            assert_eq!(old.input(), new.input());
            for (what, old, new) in [
                ("fee", old.max_fee_per_gas(), new.max_fee_per_gas()),
                ("tip", old.max_priority_fee_per_gas().unwrap(), new.max_priority_fee_per_gas().unwrap()),
            ] {
                assert!(new * 10 >= old * 11, "{what}: {old} to {new}");
            }
        }
    }
    world.audit(&[&keeper]).await;
}

/// The lowest nonce offers too little and those above it cannot pass: it is the lowest that is replaced.
async fn stuck_nonce(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "stuck").await;
    world.chain().pause().await.unwrap();
    let mut orders = wallet.ask(world, &keeper, "Below", 1).await;
    keeper.wait_count(SENT, 1).await;
    world.base.always(&["eth_sendRawTransaction"], Fault::Refuse);
    raise_base_fee(world, &keeper).await;
    orders.extend(wallet.ask(world, &keeper, "Above", 1).await);
    keeper.wait_count(SENT, 2).await;
    world.base.heal();
    world.chain().resume().await.unwrap();
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Somebody uses the keeper's key beside it: the intent gets another nonce once the foreign transaction is final.
async fn nonce_taken_by_foreign_transaction(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "foreign").await;
    let refused = world.base.always(&["eth_sendRawTransaction"], Fault::Refuse);
    let orders = wallet.ask(world, &keeper, "Whose nonce", 2).await;
    keeper.wait_count(SENT, 1).await;
    let mut foreign = world.sender(&world.devnet.keys.keeper_base).await;
    foreign.send("foreign", TxKind::Call(foreign.address()), Default::default()).await.unwrap();
    foreign.settle().await.unwrap();
    assert!(refused.struck() >= 1);
    world.base.heal();
    keeper.wait_for(&ids(&orders), &["final"]).await;
    assert!(keeper.metric("quittance_tx_nonces_lost_total{chain=\"base\"}").await >= 1.0, "{}", keeper.tail());
    world.audit(&[&keeper]).await;
}

/// No gas money: settlement waits, orders are answered all the same, and everything goes on when there is money again.
async fn out_of_funds_and_refilled(world: &mut World) {
    let keeper = keeper(world).await;
    let wallet = Wallet::funded(world, "funds").await;
    let account = world.devnet.keys.keeper_base.address();
    world.chain().call("anvil_setBalance", json!([account, "0x0"])).await.unwrap();
    let orders = wallet.ask(world, &keeper, "Who pays the gas", 2).await;
    keeper.wait_for(&ids(&orders), &["completed"]).await;
    crate::world::until("paused", || async { keeper.metric("quittance_tx_paused{chain=\"base\"}").await == 1.0 }).await;
    assert_eq!(keeper.count("SELECT COUNT(*) FROM txs WHERE chain_id = 8453 AND nonce IS NOT NULL").await, 0);
    world.fund(account).await;
    keeper.wait_for(&ids(&orders), &["final"]).await;
    world.audit(&[&keeper]).await;
}

/// Makes blocks, mined by hand, whose base fee is above what the keeper's open transactions offer.
async fn raise_base_fee(world: &World, keeper: &Keeper) {
    let store = keeper.store().await;
    let open = txs::open(store.read(), 8453, world.devnet.keys.keeper_base.address()).await.unwrap();
    let mut most = 0;
    for row in open {
        let attempts = txs::attempts(store.read(), row.tx_id).await.unwrap();
        most = most.max(attempts.first().map_or(0, |attempt| attempt.fee.max_fee));
    }
    store.close().await;
    let fee = format!("0x{:x}", most * 2);
    world.chain().call("anvil_setNextBlockBaseFeePerGas", json!([fee])).await.unwrap();
    world.chain().call("evm_mine", none()).await.unwrap();
}

/// Every stored envelope, decoded from its raw bytes, by transaction and in the order in which they were signed.
async fn envelopes(keeper: &Keeper) -> Vec<Vec<TxEnvelope>> {
    use sqlx::Row;
    let store = keeper.store().await;
    let rows = sqlx::query("SELECT tx_id, raw FROM attempts ORDER BY tx_id, created_ms").fetch_all(store.read()).await;
    store.close().await;
    let mut all: Vec<(i64, Vec<TxEnvelope>)> = Vec::new();
    for row in rows.unwrap() {
        let (tx_id, raw): (i64, Vec<u8>) = (row.get("tx_id"), row.get("raw"));
        let envelope = TxEnvelope::decode_2718(&mut raw.as_slice()).unwrap();
        match all.last_mut().filter(|(last, _)| *last == tx_id) {
            Some((_, envelopes)) => envelopes.push(envelope),
            None => all.push((tx_id, vec![envelope])),
        }
    }
    all.into_iter().map(|(_, envelopes)| envelopes).collect()
}
