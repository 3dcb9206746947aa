//! Effects of escrow events: balances, locks and nonces exactly as on-chain, and the orders that we serve.

use alloy::primitives::{Address, B256, U256};
use sqlx::Row;

use super::Rules;
use super::ledger::Settling;
use crate::chain::fold::{Balances, LaneKey};
use crate::chain::logs::{ChainLog, EscrowEvents, Event};
use crate::error::Result;
use crate::store::{WriteTx, accounts, captures, orders};
use crate::types::{OrderState, b256, u256};

/// Why an order that others captured or that went back leaves its receipt unpaid.
pub(super) const CAPTURED_ELSEWHERE: &str = "captured_elsewhere";
pub(super) const RECLAIMED: &str = "order_reclaimed";

/// States in which an order still waits for its end.
pub(super) const LIVE: &[OrderState] = &[
    OrderState::Open,
    OrderState::Dispatched,
    OrderState::Completed,
    OrderState::Expired,
    OrderState::Refused,
    OrderState::Reclaimed,
];

/// Folds the escrow events of these logs into the stored balances.
pub(super) async fn balances(tx: &mut WriteTx, rules: &Rules, logs: &[ChainLog]) -> Result<()> {
    let escrow = || {
        logs.iter().filter_map(|log| match &log.event {
            Event::Escrow(event) => Some(event),
            _ => None,
        })
    };
    let mut balances = Balances::default();
    for event in escrow() {
        balances.touch(event);
    }
    load(tx, &mut balances).await?;
    for event in escrow() {
        balances.fold(event).map_err(|error| rules.contradiction(error))?;
    }
    save(tx, &balances).await
}

/// Replaces the zeros of what is loaded by what is stored.
async fn load(tx: &mut WriteTx, balances: &mut Balances) -> Result<()> {
    for ((owner, token), account) in &mut balances.accounts {
        *account = accounts::account(&mut **tx, *owner, *token).await?;
    }
    for ((payer, token, keeper), lock) in &mut balances.locks {
        let lane = accounts::lane(&mut **tx, *payer, *token, *keeper).await?;
        (lock.amount, lock.until) = (lane.locked, lane.until);
    }
    for (((payer, token, keeper), word), bits) in &mut balances.words {
        *bits = accounts::nonce_word(&mut **tx, *payer, *token, *keeper, *word).await?;
    }
    Ok(())
}

/// Writes what is loaded.
pub(super) async fn save(tx: &mut WriteTx, balances: &Balances) -> Result<()> {
    for ((owner, token), account) in &balances.accounts {
        accounts::put_account(tx, *owner, *token, *account).await?;
    }
    for (lane, lock) in &balances.locks {
        accounts::put_lock(tx, *lane, lock.amount, lock.until).await?;
    }
    for ((lane, word), bits) in &balances.words {
        accounts::put_nonce_word(tx, *lane, *word, *bits).await?;
    }
    Ok(())
}

/// Effects on orders; true when one was opened.
pub(super) async fn orders(
    tx: &mut WriteTx,
    rules: &Rules,
    event: &EscrowEvents,
    settling: &mut Settling,
) -> Result<bool> {
    match event {
        EscrowEvents::OrderOpened(e) => {
            let ours = e.order.keeperId.is_zero() || e.order.keeperId == rules.keeper_id;
            if !ours || !rules.tokens.contains(&e.order.token) {
                return Ok(false);
            }
            orders::upsert_opened(tx, e.orderId, &e.order.clone().into(), &e.requestBody, rules.now_ms).await?;
            return Ok(true);
        }
        EscrowEvents::OrderCaptured(e) => {
            settling.captured.push(e.orderId);
            settling.gathered.orders.push(e.orderId);
            if e.nonceSpent {
                settling.gathered.nonces.push((e.payer, e.token, e.keeperId, e.nonce));
            }
        }
        EscrowEvents::OrderReclaimed(e) => {
            orders::set_held(tx, e.orderId, false, rules.now_ms).await?;
            orders::set_state(tx, e.orderId, LIVE, OrderState::Reclaimed, None).await?;
            skip_matched(tx, e.orderId, RECLAIMED).await?;
        }
        EscrowEvents::NoncesCancelled(e) => {
            spend(tx, (e.payer, e.token, e.keeperId), U256::from(e.word), e.mask).await?;
        }
        EscrowEvents::Deposited(_)
        | EscrowEvents::Withdrawn(_)
        | EscrowEvents::Locked(_)
        | EscrowEvents::Unlocked(_)
        | EscrowEvents::LockNoncesCancelled(_)
        | EscrowEvents::Paused(_)
        | EscrowEvents::OrderReopened(_)
        | EscrowEvents::Credited(_)
        | EscrowEvents::EIP712DomainChanged(_) => {}
    }
    Ok(false)
}

/// Captures of one transaction that are not applied yet: those of a batch go together.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    orders: Vec<B256>,
    nonces: Vec<(Address, Address, B256, U256)>,
}

/// Applies the captures that were gathered. Comes before any event that could depend on them.
pub(super) async fn apply_gathered(tx: &mut WriteTx, rules: &Rules, settling: &mut Settling) -> Result<()> {
    let Gathered { orders, nonces } = std::mem::take(&mut settling.gathered);
    captures::captured(tx, &orders, rules.now_ms).await?;
    if !settling.is_ours() {
        for order_id in &orders {
            skip_matched(tx, *order_id, CAPTURED_ELSEWHERE).await?;
        }
    }
    captures::nonces_spent(tx, &nonces).await
}

/// A receipt that waits for settlement but whose order is closed will never be paid by us.
async fn skip_matched(tx: &mut WriteTx, order_id: B256, reason: &str) -> Result<()> {
    sqlx::query("UPDATE receipts SET state = 'skipped', skip_reason = $1 WHERE order_id = $2 AND state = 'matched'")
        .bind(reason.to_owned())
        .bind(order_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Orders that are neither held nor answered and whose nonce is spent now can never be captured.
async fn spend(tx: &mut WriteTx, (payer, token, keeper_id): LaneKey, word: U256, mask: U256) -> Result<()> {
    let first: U256 = word << 8;
    let rows = sqlx::query(
        "SELECT order_id, nonce FROM orders WHERE payer = $1 AND token = $2 AND keeper_id = $3 AND nonce >= $4 AND nonce <= $5
         AND held = 0 AND state IN ('open', 'dispatched')",
    )
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .bind(first.to_be_bytes::<32>().to_vec())
    .bind((first | U256::from(255)).to_be_bytes::<32>().to_vec())
    .fetch_all(&mut **tx)
    .await?;
    for row in rows {
        let nonce = u256("orders", &row.try_get::<Vec<u8>, _>("nonce")?)?;
        if mask.bit(usize::from(nonce.byte(0))) {
            let order_id = b256("orders", &row.try_get::<Vec<u8>, _>("order_id")?)?;
            let from = [OrderState::Open, OrderState::Dispatched];
            orders::set_state(tx, order_id, &from, OrderState::Refused, Some("nonce_spent")).await?;
        }
    }
    Ok(())
}
