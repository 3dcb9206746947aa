//! Orders of a whole batch at once: captured, or paid. What `orders::set_state` does for one, in a few statements for all.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use sqlx::Row;

use super::bulk::{Dialect, keys, query, runs};
use super::{WriteTx, accounts, orders};
use crate::chain::fold::LaneKey;
use crate::error::Result;
use crate::types::{OrderState, address, b256, units};

/// Live orders → settled, none of them held any more, and what they reserved in their lanes given back.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn captured(tx: &mut WriteTx, order_ids: &[B256], now_ms: i64) -> Result<()> {
    // These are the states from which `OrderState::can_transition_to` allows `settled`; a test compares them.
    let sql = "UPDATE orders SET held = 0, updated_ms = {now}, \
               reason = CASE WHEN state IN ({live}) THEN NULL ELSE reason END, \
               state = CASE WHEN state IN ({live}) THEN 'settled' ELSE state END \
               WHERE order_id IN ({ids}) RETURNING order_id, payer, token, keeper_id, reserved";
    let sql = sql.replace("{live}", LIVE);
    close(tx, order_ids, &sql, Some(now_ms)).await
}

/// Settled orders → final.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn paid(tx: &mut WriteTx, order_ids: &[B256]) -> Result<()> {
    let sql = "UPDATE orders SET state = 'final', reason = NULL WHERE state = 'settled' AND order_id IN ({ids}) \
               RETURNING order_id, payer, token, keeper_id, reserved";
    close(tx, order_ids, sql, None).await
}

/// States from which an order that the chain captured becomes settled.
const LIVE: &str = "'open', 'dispatched', 'completed', 'expired', 'refused'";

async fn close(tx: &mut WriteTx, order_ids: &[B256], sql: &str, now_ms: Option<i64>) -> Result<()> {
    let dialect = Dialect::of(tx);
    let mut lanes: BTreeMap<LaneKey, u128> = BTreeMap::new();
    let mut reserved = Vec::new();
    for run in keys(order_ids) {
        let parameters = dialect.rows("@", run.len() + usize::from(now_ms.is_some()));
        let (now, ids) = match now_ms {
            Some(_) => parameters.split_once(", ").unwrap_or_default(),
            None => ("", parameters.as_str()),
        };
        let mut update = query(sql.replace("{now}", now).replace("{ids}", ids));
        if let Some(now_ms) = now_ms {
            update = update.bind(now_ms);
        }
        for id in &run {
            update = update.bind(id.to_vec());
        }
        // The rows are ours until the end of the transaction, so what they reserve cannot change between two statements.
        for row in update.fetch_all(&mut **tx).await? {
            const T: &str = "orders";
            let amount = units(T, &row.try_get::<String, _>("reserved")?)?;
            if amount > 0 {
                let lane = (
                    address(T, &row.try_get::<Vec<u8>, _>("payer")?)?,
                    address(T, &row.try_get::<Vec<u8>, _>("token")?)?,
                    b256(T, &row.try_get::<Vec<u8>, _>("keeper_id")?)?,
                );
                *lanes.entry(lane).or_default() += amount;
                reserved.push(b256(T, &row.try_get::<Vec<u8>, _>("order_id")?)?);
            }
        }
    }
    for run in keys(&reserved) {
        let ids = dialect.rows("@", run.len());
        let mut update = query(format!("UPDATE orders SET reserved = '0' WHERE order_id IN ({ids})"));
        for id in &run {
            update = update.bind(id.to_vec());
        }
        update.execute(&mut **tx).await?;
    }
    for (lane, amount) in lanes {
        accounts::give_back(tx, lane, amount).await?;
    }
    Ok(())
}

/// Orders that are neither held nor answered and whose nonce was just spent by another's capture can never be captured.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn nonces_spent(tx: &mut WriteTx, nonces: &[(Address, Address, B256, U256)]) -> Result<()> {
    let dialect = Dialect::of(tx);
    let mut dead = Vec::new();
    for run in runs(nonces) {
        // A cross join, which SQLite takes in this order: it would walk all orders for each run.
        let mut select = query(format!(
            "SELECT o.order_id FROM (VALUES {}) AS v CROSS JOIN orders o WHERE o.payer = v.column1 AND o.token = v.column2 \
             AND o.keeper_id = v.column3 AND o.nonce = v.column4 AND o.held = 0 AND o.state IN ('open', 'dispatched')",
            dialect.rows("(@, @, @, @)", run.len())
        ));
        for (payer, token, keeper_id, nonce) in run {
            select = select
                .bind(payer.to_vec())
                .bind(token.to_vec())
                .bind(keeper_id.to_vec())
                .bind(nonce.to_be_bytes::<32>().to_vec());
        }
        for row in select.fetch_all(&mut **tx).await? {
            dead.push(b256("orders", &row.try_get::<Vec<u8>, _>("order_id")?)?);
        }
    }
    for order_id in dead {
        let from = [OrderState::Open, OrderState::Dispatched];
        orders::set_state(tx, order_id, &from, OrderState::Refused, Some("nonce_spent")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::accounts::Lane;
    use crate::store::orders::tests::{KEEPER, PAYER, TOKEN, order, signed, store};

    #[test]
    fn live_states_are_those_that_may_be_settled() {
        for state in OrderState::ALL {
            let live = LIVE.contains(&format!("'{state}'"));
            let legal = *state != OrderState::Settled && state.can_transition_to(OrderState::Settled);
            assert_eq!(live, legal, "{state}");
        }
    }

    #[tokio::test]
    async fn many_are_captured_and_paid_as_one_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let ids: Vec<B256> = (1..=70).map(B256::repeat_byte).collect();
        let mut tx = store.write().await.unwrap();
        for (nonce, id) in (1..).zip(&ids) {
            assert!(accounts::reserve(&mut tx, *id, PAYER, TOKEN, KEEPER, 10, 10_000).await.unwrap());
            assert!(
                orders::insert_signed(&mut tx, &signed(*id, &order(nonce), B256::ZERO), "me", 10, (0, 1))
                    .await
                    .unwrap()
            );
        }
        // One has its end already, another shares the nonce of the first.
        let (ended, twin) = (ids[69], B256::repeat_byte(0xEE));
        for state in [OrderState::Completed, OrderState::Settled, OrderState::Final] {
            let from = [OrderState::Open, OrderState::Completed, OrderState::Settled];
            assert!(orders::set_state(&mut tx, ended, &from, state, None).await.unwrap());
        }
        assert!(accounts::reserve(&mut tx, twin, PAYER, TOKEN, KEEPER, 10, 10_000).await.unwrap());
        assert!(orders::insert_signed(&mut tx, &signed(twin, &order(1), B256::ZERO), "me", 10, (0, 1)).await.unwrap());
        captured(&mut tx, &ids, 7).await.unwrap();
        let nonces: Vec<_> = (1..=70).map(|nonce| (PAYER, TOKEN, KEEPER, U256::from(nonce))).collect();
        nonces_spent(&mut tx, &nonces).await.unwrap();
        tx.commit().await.unwrap();
        let state = async |id: B256| orders::get(store.read(), id).await.unwrap().unwrap();
        assert_eq!(state(ended).await.state, OrderState::Final);
        assert_eq!(state(twin).await.state, OrderState::Refused);
        for id in &ids[..69] {
            let row = state(*id).await;
            assert_eq!((row.state, row.held, row.reserved), (OrderState::Settled, false, 0));
        }
        assert_eq!(accounts::lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap(), Lane::default());
        let mut tx = store.write().await.unwrap();
        captured(&mut tx, &ids, 8).await.unwrap();
        paid(&mut tx, &ids).await.unwrap();
        tx.commit().await.unwrap();
        for id in &ids {
            assert_eq!(state(*id).await.state, OrderState::Final);
        }
        assert_eq!(accounts::lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap().reserved, 0);
    }
}
