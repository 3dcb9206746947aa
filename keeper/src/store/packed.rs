//! Many orders as one value. Every column of a row costs the driver an allocation or two on both of its sides, and every
//! completion needs an order with most of its columns: read one by one they cost more than the signature of the node.

use std::collections::HashMap;
use std::str::FromStr;

use alloy::primitives::{Address, B256, U256};
use quittance_bindings::typed::Order;

use super::bulk::Dialect;
use crate::error::{Error, Result};
use crate::types::{OrderRow, OrderState, units};

const T: &str = "orders";

/// Selects orders by so many ids, without signature, request and reason: one value, `NULL` when none of them is stored. Each
/// order is bytes, then a line of words that ends with a semicolon. A hash that is missing is said in the first word; then
/// other bytes stand in its place.
pub(super) fn select(dialect: Dialect, ids: usize) -> String {
    let bytes = dialect.bytes();
    format!(
        "SELECT CAST(string_agg(CAST(order_id || payer || token || request_commit || node_scope || keeper_id || nonce \
         || COALESCE(blinding, order_id) || COALESCE(request_hash, order_id) || CAST( \
         CASE WHEN blinding IS NULL THEN '-' ELSE '+' END || CASE WHEN request_hash IS NULL THEN '-' ELSE '+' END \
         || ' ' || state || ' ' || max_amount || ' ' || reserved || ' ' || CAST(valid_after AS TEXT) || ' ' \
         || CAST(valid_before AS TEXT) || ' ' || CAST(capture_deadline AS TEXT) || ' ' || CAST(held AS TEXT) || ' ' \
         || CAST(attempts AS TEXT) || ' ' || CAST(created_ms AS TEXT) || ';' \
         AS {bytes}) AS {bytes}), CAST('' AS {bytes})) AS {bytes}) FROM orders WHERE order_id IN ({})",
        dialect.rows("@", ids)
    )
}

/// Reads what [`select`] selected into `orders`.
///
/// # Errors
/// `store_corrupt` for what no version wrote.
pub(super) fn read(mut packed: &[u8], orders: &mut HashMap<B256, OrderRow>) -> Result<()> {
    while !packed.is_empty() {
        let order =
            one(&mut packed).ok_or_else(|| Error::Corrupt { table: T, what: "an order in pieces".to_owned() })??;
        orders.insert(order.order_id, order);
    }
    Ok(())
}

/// The next order; `None` when its bytes or words are not all there.
fn one(packed: &mut &[u8]) -> Option<Result<OrderRow>> {
    let order_id = hash(packed)?;
    let (payer, token) = (Address::from(*take(packed)?), Address::from(*take(packed)?));
    let [request_commit, node_scope, keeper_id] = [hash(packed)?, hash(packed)?, hash(packed)?];
    let nonce = U256::from_be_bytes(hash(packed)?.0);
    let [blinding, request_hash] = [hash(packed)?, hash(packed)?];
    let end = packed.iter().position(|byte| *byte == b';')?;
    let (line, rest) = packed.split_at(end);
    *packed = rest.get(1..)?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let mut word = || words.next();
    let there = word()?.as_bytes();
    let there = |index: usize| there.get(index) == Some(&b'+');
    let (state, max_amount, reserved) = (word()?, word()?, word()?);
    let [valid_after, valid_before, capture_deadline] = [number(word()?)?, number(word()?)?, number(word()?)?];
    let (held, attempts, created_ms): (i64, i64, i64) = (number(word()?)?, number(word()?)?, number(word()?)?);
    let row = || {
        Ok(OrderRow {
            order_id,
            order: Order {
                payer,
                token,
                maxAmount: units(T, max_amount)?,
                requestCommit: request_commit,
                nodeScope: node_scope,
                keeperId: keeper_id,
                validAfter: valid_after,
                validBefore: valid_before,
                captureDeadline: capture_deadline,
                nonce,
            },
            signature: None,
            blinding: there(0).then_some(blinding),
            request_hash: there(1).then_some(request_hash),
            request: None,
            state: OrderState::parse(state)?,
            reason: None,
            held: held != 0,
            reserved: units(T, reserved)?,
            attempts,
            created_ms,
        })
    };
    Some(row())
}

fn take<'a, const N: usize>(packed: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = packed.split_first_chunk()?;
    *packed = rest;
    Some(first)
}

fn hash(packed: &mut &[u8]) -> Option<B256> {
    take(packed).map(|bytes: &[u8; 32]| B256::from(*bytes))
}

fn number<N: FromStr>(word: &str) -> Option<N> {
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::intake::find;
    use super::super::orders::{self, tests};
    use super::*;

    /// Every byte that a hash may hold comes through, and every column as a plain look-up reads it.
    #[tokio::test]
    async fn orders_are_read_as_they_are_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = tests::store(&dir).await;
        let mut tx = store.write().await.unwrap();
        let mut wanted = Vec::new();
        for seed in 0..=255_u8 {
            let id = B256::from(std::array::from_fn(|index| if index < 16 { seed } else { 0x3B }));
            let mut order = tests::order(u64::from(seed));
            order.nodeScope = B256::repeat_byte(seed);
            order.maxAmount = u128::MAX - u128::from(seed);
            let blinding = B256::repeat_byte(255 - seed);
            let reserved = u128::from(seed);
            let new = tests::signed(id, &order, blinding);
            assert!(orders::insert_signed(&mut tx, &new, "me", reserved, (0, 1_700_000_000_000)).await.unwrap());
            wanted.push((Some(id), B256::ZERO));
        }
        sqlx::query("UPDATE orders SET blinding = NULL WHERE reserved < '2'").execute(&mut *tx).await.unwrap();
        sqlx::query("UPDATE orders SET request_hash = NULL, held = 1, attempts = 7 WHERE reserved > '8'")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        wanted.push((Some(B256::repeat_byte(0x77)), B256::ZERO));
        let found = find(&store, &wanted).await.unwrap();
        assert_eq!(found.orders.len(), 256);
        for (id, row) in found.orders {
            let plain = orders::get(store.read(), id).await.unwrap().unwrap();
            let plain = OrderRow { signature: None, request: None, reason: None, ..plain };
            assert_eq!(format!("{row:?}"), format!("{plain:?}"));
        }
    }

    #[test]
    fn pieces_are_refused() {
        let whole = [[7_u8; 9 * 32 - 24].as_slice(), b"++ open 5 0 1 2 3 0 0 9;"].concat();
        let mut orders = HashMap::new();
        read(&whole, &mut orders).unwrap();
        assert_eq!(orders.len(), 1);
        for length in 1..whole.len() {
            assert!(read(&whole[..length], &mut orders).is_err(), "{length} bytes");
        }
        for line in [
            "++ open 5 0 1 2 3 0 0;",
            "++ gone 5 0 1 2 3 0 0 9;",
            "++ open -5 0 1 2 3 0 0 9;",
            "++ open 5 0 x 2 3 0 0 9;",
        ] {
            assert!(read(&[[7_u8; 264].as_slice(), line.as_bytes()].concat(), &mut orders).is_err(), "{line}");
        }
    }
}
