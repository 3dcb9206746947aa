//! Escrow balances as the chain has them, and what acknowledged orders reserve of a lane.

use alloy::primitives::{Address, B256, U256};
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use crate::error::Result;
use crate::types::{u256, units};

/// A payer's balance of one token in the escrow, in token units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Spendable and withdrawable at once.
    pub free: u128,
    /// Set aside for held orders.
    pub held: u128,
}

/// What secures orders of one (payer, token, keeper) that are not held, in token units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// In the lock on-chain.
    pub locked: u128,
    /// When the lock ends, unix seconds; 0 without a lock.
    pub until: u64,
    /// Promised to orders that we acknowledged and that are not terminal.
    pub reserved: u128,
}

/// A payer's balance; zero when the chain never named the account.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn account<'c>(db: impl Executor<'c, Database = Any>, owner: Address, token: Address) -> Result<Account> {
    let row = sqlx::query("SELECT free, held FROM accounts WHERE owner = $1 AND token = $2")
        .bind(owner.to_vec())
        .bind(token.to_vec())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(Account::default()) };
    Ok(Account {
        free: units("accounts", &row.try_get::<String, _>("free")?)?,
        held: units("accounts", &row.try_get::<String, _>("held")?)?,
    })
}

/// A lane; zero when neither the chain nor an order named it.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn lane<'c>(
    db: impl Executor<'c, Database = Any>,
    payer: Address,
    token: Address,
    keeper_id: B256,
) -> Result<Lane> {
    let row =
        sqlx::query("SELECT locked, until, reserved FROM lanes WHERE payer = $1 AND token = $2 AND keeper_id = $3")
            .bind(payer.to_vec())
            .bind(token.to_vec())
            .bind(keeper_id.to_vec())
            .fetch_optional(db)
            .await?;
    let Some(row) = row else { return Ok(Lane::default()) };
    Ok(Lane {
        locked: units("lanes", &row.try_get::<String, _>("locked")?)?,
        until: u64::try_from(row.try_get::<i64, _>("until")?).unwrap_or(0),
        reserved: units("lanes", &row.try_get::<String, _>("reserved")?)?,
    })
}

/// Reserves `amount` for an order when the lane's reservations stay within `limit` (usable lock and credit, computed by
/// the caller), and notes it in the order's row if that exists already. False when the limit does not allow it.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn reserve(
    tx: &mut WriteTx,
    order_id: B256,
    payer: Address,
    token: Address,
    keeper_id: B256,
    amount: u128,
    limit: u128,
) -> Result<bool> {
    lock_lane(tx, payer, token, keeper_id).await?;
    reserve_locked(tx, order_id, (payer, token, keeper_id), amount, limit).await
}

/// Holds a lane until the transaction ends: what is read of it and its orders from here on no other keeper on this database
/// changes meanwhile.
///
/// # Errors
/// `store_failed`.
pub async fn lock_lane(tx: &mut WriteTx, payer: Address, token: Address, keeper_id: B256) -> Result<()> {
    sqlx::query(
        "INSERT INTO lanes (payer, token, keeper_id, locked, until, reserved) VALUES ($1, $2, $3, '0', 0, '0')
         ON CONFLICT (payer, token, keeper_id) DO UPDATE SET reserved = lanes.reserved",
    )
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// `reserve` in a lane that [`lock_lane`] holds.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn reserve_locked(
    tx: &mut WriteTx,
    order_id: B256,
    (payer, token, keeper_id): (Address, Address, B256),
    amount: u128,
    limit: u128,
) -> Result<bool> {
    loop {
        let old = lane(&mut **tx, payer, token, keeper_id).await?.reserved;
        let Some(new) = old.checked_add(amount).filter(|new| *new <= limit) else { return Ok(false) };
        if set_reserved(tx, (payer, token, keeper_id), old, new).await? {
            break;
        }
    }
    sqlx::query("UPDATE orders SET reserved = $1 WHERE order_id = $2")
        .bind(amount.to_string())
        .bind(order_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(true)
}

/// Gives back what an order reserved; nothing the second time, nor for an order that is not known.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn release(tx: &mut WriteTx, order_id: B256) -> Result<()> {
    let row = sqlx::query("SELECT payer, token, keeper_id, reserved FROM orders WHERE order_id = $1")
        .bind(order_id.to_vec())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(row) = row else { return Ok(()) };
    let text: String = row.try_get("reserved")?;
    let amount = units("orders", &text)?;
    if amount == 0 {
        return Ok(());
    }
    let taken = sqlx::query("UPDATE orders SET reserved = '0' WHERE order_id = $1 AND reserved = $2")
        .bind(order_id.to_vec())
        .bind(text)
        .execute(&mut **tx)
        .await?;
    if taken.rows_affected() == 0 {
        return Ok(());
    }
    let key = (
        crate::types::address("orders", &row.try_get::<Vec<u8>, _>("payer")?)?,
        crate::types::address("orders", &row.try_get::<Vec<u8>, _>("token")?)?,
        crate::types::b256("orders", &row.try_get::<Vec<u8>, _>("keeper_id")?)?,
    );
    give_back(tx, key, amount).await
}

/// Takes `amount` off what a lane has reserved.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn give_back(tx: &mut WriteTx, key: (Address, Address, B256), amount: u128) -> Result<()> {
    loop {
        let old = lane(&mut **tx, key.0, key.1, key.2).await?.reserved;
        // Nothing to take from: the lane's row does not exist or was given back already.
        if old == 0 || set_reserved(tx, key, old, old.saturating_sub(amount)).await? {
            return Ok(());
        }
    }
}

/// Spent nonces of a lane: those with the same `word = nonce / 256`, one bit each.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn nonce_word<'c>(
    db: impl Executor<'c, Database = Any>,
    payer: Address,
    token: Address,
    keeper_id: B256,
    word: U256,
) -> Result<U256> {
    let bits: Option<Vec<u8>> = sqlx::query_scalar(
        "SELECT bits FROM nonce_words WHERE payer = $1 AND token = $2 AND keeper_id = $3 AND word = $4",
    )
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .bind(word.to_be_bytes::<32>().to_vec())
    .fetch_optional(db)
    .await?;
    bits.map_or(Ok(U256::ZERO), |bits| u256("nonce_words", &bits))
}

/// Whether the chain has seen a nonce captured or cancelled.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn nonce_spent<'c>(
    db: impl Executor<'c, Database = Any>,
    payer: Address,
    token: Address,
    keeper_id: B256,
    nonce: U256,
) -> Result<bool> {
    let bits = nonce_word(db, payer, token, keeper_id, nonce >> 8).await?;
    Ok(bits.bit(usize::from(nonce.byte(0))))
}

/// Writes a word of spent nonces.
///
/// # Errors
/// `store_failed`.
pub async fn put_nonce_word(
    tx: &mut WriteTx,
    (payer, token, keeper_id): (Address, Address, B256),
    word: U256,
    bits: U256,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO nonce_words (payer, token, keeper_id, word, bits) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (payer, token, keeper_id, word) DO UPDATE SET bits = excluded.bits",
    )
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .bind(word.to_be_bytes::<32>().to_vec())
    .bind(bits.to_be_bytes::<32>().to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Compare-and-set of a lane's reservations: two writers on Postgres must not lose one of two additions.
async fn set_reserved(
    tx: &mut WriteTx,
    (payer, token, keeper_id): (Address, Address, B256),
    old: u128,
    new: u128,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE lanes SET reserved = $1 WHERE payer = $2 AND token = $3 AND keeper_id = $4 AND reserved = $5",
    )
    .bind(new.to_string())
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .bind(old.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes a balance that the chain named.
///
/// # Errors
/// `store_failed`.
pub async fn put_account(tx: &mut WriteTx, owner: Address, token: Address, account: Account) -> Result<()> {
    sqlx::query(
        "INSERT INTO accounts (owner, token, free, held) VALUES ($1, $2, $3, $4)
         ON CONFLICT (owner, token) DO UPDATE SET free = excluded.free, held = excluded.held",
    )
    .bind(owner.to_vec())
    .bind(token.to_vec())
    .bind(account.free.to_string())
    .bind(account.held.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes the lock of a lane; its reservations stay.
///
/// # Errors
/// `store_failed`.
pub async fn put_lock(
    tx: &mut WriteTx,
    (payer, token, keeper_id): (Address, Address, B256),
    locked: u128,
    until: u64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO lanes (payer, token, keeper_id, locked, until, reserved) VALUES ($1, $2, $3, $4, $5, '0')
         ON CONFLICT (payer, token, keeper_id) DO UPDATE SET locked = excluded.locked, until = excluded.until",
    )
    .bind(payer.to_vec())
    .bind(token.to_vec())
    .bind(keeper_id.to_vec())
    .bind(locked.to_string())
    .bind(i64::try_from(until).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const PAYER: Address = Address::repeat_byte(1);
    const TOKEN: Address = Address::repeat_byte(2);
    const KEEPER: B256 = B256::repeat_byte(3);
    const LANE: (Address, Address, B256) = (PAYER, TOKEN, KEEPER);

    async fn store(dir: &tempfile::TempDir) -> Store {
        crate::store::testing::open(dir).await
    }

    async fn insert_order(tx: &mut WriteTx, id: B256) {
        sqlx::query(
            "INSERT INTO orders (order_id, payer, token, max_amount, request_commit, node_scope, keeper_id, valid_after,
             valid_before, capture_deadline, nonce, state, held, reserved, attempts, next_attempt_ms, created_ms, updated_ms)
             VALUES ($1, $2, $3, '9', $1, $1, $4, 0, 0, 0, $1, 'open', 0, '0', 0, 0, 0, 0)",
        )
        .bind(id.to_vec())
        .bind(PAYER.to_vec())
        .bind(TOKEN.to_vec())
        .bind(KEEPER.to_vec())
        .execute(&mut **tx)
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn reservations_never_pass_the_limit_and_come_back_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let mut tx = store.write().await.unwrap();
        let [a, b, c] = [1, 2, 3].map(B256::repeat_byte);
        for id in [a, b, c] {
            insert_order(&mut tx, id).await;
        }
        assert!(reserve(&mut tx, a, PAYER, TOKEN, KEEPER, 6, 10).await.unwrap());
        assert!(!reserve(&mut tx, b, PAYER, TOKEN, KEEPER, 5, 10).await.unwrap());
        assert!(reserve(&mut tx, c, PAYER, TOKEN, KEEPER, 4, 10).await.unwrap());
        assert!(
            !reserve(&mut tx, b, PAYER, TOKEN, KEEPER, u128::MAX, u128::MAX).await.unwrap(),
            "overflow is over the limit"
        );
        tx.commit().await.unwrap();
        assert_eq!(lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap().reserved, 10);

        let mut tx = store.write().await.unwrap();
        release(&mut tx, a).await.unwrap();
        release(&mut tx, a).await.unwrap();
        release(&mut tx, B256::repeat_byte(9)).await.unwrap();
        put_lock(&mut tx, LANE, 100, 77).await.unwrap();
        put_nonce_word(&mut tx, LANE, U256::from(1), U256::from(0b101)).await.unwrap();
        put_account(&mut tx, PAYER, TOKEN, Account { free: u128::MAX, held: 5 }).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(
            lane(store.read(), PAYER, TOKEN, KEEPER).await.unwrap(),
            Lane { locked: 100, until: 77, reserved: 4 }
        );
        assert_eq!(
            account(store.read(), PAYER, TOKEN).await.unwrap(),
            Account { free: u128::MAX, held: 5 },
            "a u128 survives"
        );
        for (nonce, spent) in [(256, true), (257, false), (258, true), (0, false), (512, false)] {
            let actual = nonce_spent(store.read(), PAYER, TOKEN, KEEPER, U256::from(nonce)).await.unwrap();
            assert_eq!(actual, spent, "nonce {nonce}");
        }
        assert_eq!(account(store.read(), TOKEN, PAYER).await.unwrap(), Account::default());
    }
}
