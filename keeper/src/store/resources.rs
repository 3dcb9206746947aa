//! The catalogue of resources that were paid for through this keeper, and the payments that make its entries.

use alloy::primitives::{Address, B256};
use sqlx::{Any, Executor, Row};

use super::WriteTx;
use super::txs::chain_column;
use crate::error::{Error, Result};
use crate::types::b256;
use crate::x402::extensions::bazaar::Entry;

/// Resources that are kept: those that were paid for last.
pub const MOST: i64 = 10_000;
/// Ways to pay for one of them.
const MOST_TERMS: i64 = 8;

/// A payment whose server declared what it sells: its entry is made once it is settled in a transaction.
///
/// # Errors
/// `store_failed`.
pub async fn declare(tx: &mut WriteTx, payment_id: B256) -> Result<()> {
    sqlx::query("UPDATE payments SET listed = 0 WHERE payment_id = $1")
        .bind(payment_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Settled payments whose entries are to be made, with their requests and times (unix milliseconds).
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn to_list<'c>(
    db: impl Executor<'c, Database = Any>,
    chain_id: u64,
    limit: i64,
) -> Result<Vec<(B256, Vec<u8>, i64)>> {
    let rows = sqlx::query(
        "SELECT payment_id, request, settled_ms FROM payments WHERE chain_id = $1 AND listed = 0 AND state = 'settled'
         AND tx_hash IS NOT NULL ORDER BY payment_id LIMIT $2",
    )
    .bind(chain_column(chain_id)?)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let id = b256("payments", &row.try_get::<Vec<u8>, _>("payment_id")?)?;
            Ok((id, row.try_get("request")?, row.try_get("settled_ms")?))
        })
        .collect()
}

/// The entry of a payment is made, or it makes none. False when another keeper did it.
///
/// # Errors
/// `store_failed`.
pub async fn listed(tx: &mut WriteTx, payment_id: B256) -> Result<bool> {
    let done = sqlx::query("UPDATE payments SET listed = 1 WHERE payment_id = $1 AND listed = 0")
        .bind(payment_id.to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts an entry into the catalogue, or renews it; the oldest go when there are too many.
///
/// # Errors
/// `store_failed`.
pub async fn put(tx: &mut WriteTx, entry: &Entry, at_ms: i64, most: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO resources (resource_id, url, kind, details, payments, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, 1, $5, $5) ON CONFLICT (resource_id) DO UPDATE SET details = excluded.details,
         payments = resources.payments + 1, updated_ms = excluded.updated_ms",
    )
    .bind(entry.resource_id.to_vec())
    .bind(entry.url.clone())
    .bind(entry.kind)
    .bind(entry.details.clone())
    .bind(at_ms)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO resource_terms (resource_id, terms_id, scheme, network, pay_to, requirements, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (resource_id, terms_id) DO UPDATE SET
         requirements = excluded.requirements, updated_ms = excluded.updated_ms",
    )
    .bind(entry.resource_id.to_vec())
    .bind(entry.terms.terms_id.to_vec())
    .bind(entry.terms.scheme.clone())
    .bind(entry.terms.network.clone())
    .bind(entry.terms.pay_to.to_vec())
    .bind(entry.terms.requirements.clone())
    .bind(at_ms)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM resource_terms WHERE resource_id = $1 AND terms_id IN (SELECT terms_id FROM resource_terms
         WHERE resource_id = $1 ORDER BY updated_ms DESC, terms_id LIMIT 100 OFFSET $2)",
    )
    .bind(entry.resource_id.to_vec())
    .bind(MOST_TERMS)
    .execute(&mut **tx)
    .await?;
    for statement in [
        "DELETE FROM resource_terms WHERE resource_id IN (SELECT resource_id FROM resources
         ORDER BY updated_ms DESC, resource_id LIMIT 100 OFFSET $1)",
        "DELETE FROM resources WHERE resource_id IN (SELECT resource_id FROM resources
         ORDER BY updated_ms DESC, resource_id LIMIT 100 OFFSET $1)",
    ] {
        sqlx::query(statement).bind(most).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Which resources.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// http or mcp
    pub kind: Option<String>,
    pub scheme: Option<String>,
    pub network: Option<String>,
    pub pay_to: Option<Address>,
}

/// A resource of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub resource_id: B256,
    pub url: String,
    pub kind: String,
    /// JSON object.
    pub details: String,
    /// JSON objects, the last paid first.
    pub accepts: Vec<String>,
    /// When it was paid for last, unix milliseconds.
    pub updated_ms: i64,
}

/// A page of the catalogue, what was paid for last first.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn page<'c>(
    db: impl Executor<'c, Database = Any>,
    filter: &Filter,
    limit: i64,
    offset: i64,
) -> Result<Vec<Listed>> {
    let rows = sqlx::query(
        "SELECT r.resource_id, r.url, r.kind, r.details, r.updated_ms, t.requirements FROM (SELECT * FROM resources c
         WHERE (CAST($1 AS TEXT) = '' OR c.kind = $1) AND EXISTS (SELECT 1 FROM resource_terms f
         WHERE f.resource_id = c.resource_id AND (CAST($2 AS TEXT) = '' OR f.scheme = $2)
         AND (CAST($3 AS TEXT) = '' OR f.network = $3) AND (CAST($4 AS BIGINT) = 0 OR f.pay_to = $5))
         ORDER BY c.updated_ms DESC, c.resource_id LIMIT $6 OFFSET $7) r
         JOIN resource_terms t ON t.resource_id = r.resource_id
         ORDER BY r.updated_ms DESC, r.resource_id, t.updated_ms DESC, t.terms_id",
    )
    .bind(filter.kind.clone().unwrap_or_default())
    .bind(filter.scheme.clone().unwrap_or_default())
    .bind(filter.network.clone().unwrap_or_default())
    .bind(i64::from(filter.pay_to.is_some()))
    .bind(filter.pay_to.unwrap_or_default().to_vec())
    .bind(limit)
    .bind(offset)
    .fetch_all(db)
    .await?;
    let mut page: Vec<Listed> = Vec::new();
    for row in rows {
        let resource_id = b256("resources", &row.try_get::<Vec<u8>, _>("resource_id")?)?;
        if page.last().is_none_or(|last| last.resource_id != resource_id) {
            page.push(Listed {
                resource_id,
                url: row.try_get("url")?,
                kind: row.try_get("kind")?,
                details: row.try_get("details")?,
                accepts: Vec::new(),
                updated_ms: row.try_get("updated_ms")?,
            });
        }
        let requirements = row.try_get("requirements")?;
        let missing = || Error::Corrupt { table: "resources", what: format!("{resource_id} is gone") };
        page.last_mut().ok_or_else(missing)?.accepts.push(requirements);
    }
    Ok(page)
}

/// Resources that a filter lets through, on all pages.
///
/// # Errors
/// `store_failed`.
pub async fn count<'c>(db: impl Executor<'c, Database = Any>, filter: &Filter) -> Result<i64> {
    let n = sqlx::query_scalar(
        "SELECT COUNT(*) FROM resources c WHERE (CAST($1 AS TEXT) = '' OR c.kind = $1) AND EXISTS (SELECT 1
         FROM resource_terms f WHERE f.resource_id = c.resource_id AND (CAST($2 AS TEXT) = '' OR f.scheme = $2)
         AND (CAST($3 AS TEXT) = '' OR f.network = $3) AND (CAST($4 AS BIGINT) = 0 OR f.pay_to = $5))",
    )
    .bind(filter.kind.clone().unwrap_or_default())
    .bind(filter.scheme.clone().unwrap_or_default())
    .bind(filter.network.clone().unwrap_or_default())
    .bind(i64::from(filter.pay_to.is_some()))
    .bind(filter.pay_to.unwrap_or_default().to_vec())
    .fetch_one(db)
    .await?;
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payments::{self, Evidence, Settled, fixtures};
    use crate::x402::extensions::bazaar::Terms;

    fn entry(n: u8, scheme: &str) -> Entry {
        Entry {
            resource_id: B256::repeat_byte(n),
            url: format!("https://seller.example/{n}"),
            kind: if n < 50 { "http" } else { "mcp" },
            details: "{}".to_owned(),
            terms: Terms {
                terms_id: alloy::primitives::keccak256(scheme),
                scheme: scheme.to_owned(),
                network: "eip155:8453".to_owned(),
                pay_to: Address::repeat_byte(n),
                requirements: format!("{{\"scheme\":\"{scheme}\"}}"),
            },
        }
    }

    #[tokio::test]
    async fn pages_filters_and_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let mut tx = store.write().await.unwrap();
        for n in [1, 2, 60] {
            put(&mut tx, &entry(n, "exact"), i64::from(n), 100).await.unwrap();
        }
        put(&mut tx, &entry(1, "upto"), 70, 100).await.unwrap();
        tx.commit().await.unwrap();
        let urls = async |filter: &Filter, limit, offset| -> Vec<String> {
            let page = page(store.read(), filter, limit, offset).await.unwrap();
            page.iter().map(|listed| listed.url.rsplit('/').next().unwrap().to_owned()).collect()
        };
        let all = Filter::default();
        assert_eq!(urls(&all, 10, 0).await, ["1", "60", "2"]);
        assert_eq!(urls(&all, 1, 1).await, ["60"]);
        assert_eq!(urls(&all, 10, 3).await, [""; 0]);
        assert_eq!(count(store.read(), &all).await.unwrap(), 3);
        let first = &page(store.read(), &all, 1, 0).await.unwrap()[0];
        assert_eq!((first.accepts.len(), first.accepts[0].as_str()), (2, "{\"scheme\":\"upto\"}"));
        let of = |kind: &str, scheme: &str, pay_to: Option<u8>| Filter {
            kind: Some(kind.to_owned()),
            scheme: Some(scheme.to_owned()),
            network: None,
            pay_to: pay_to.map(Address::repeat_byte),
        };
        assert_eq!(urls(&of("mcp", "", None), 10, 0).await, ["60"]);
        assert_eq!(urls(&of("", "upto", None), 10, 0).await, ["1"]);
        assert_eq!(urls(&of("", "exact", Some(2)), 10, 0).await, ["2"]);
        let elsewhere = Filter { network: Some("eip155:1".to_owned()), ..Filter::default() };
        assert_eq!((urls(&elsewhere, 10, 0).await.len(), count(store.read(), &elsewhere).await.unwrap()), (0, 0));

        let mut tx = store.write().await.unwrap();
        put(&mut tx, &entry(3, "exact"), 80, 2).await.unwrap();
        for n in 0..12 {
            put(&mut tx, &entry(3, &format!("scheme-{n}")), 81 + n, 2).await.unwrap();
        }
        tx.commit().await.unwrap();
        assert_eq!(urls(&all, 10, 0).await, ["3", "1"], "what was paid for last stays");
        let accepts = &page(store.read(), &all, 1, 0).await.unwrap()[0].accepts;
        assert_eq!((accepts.len(), accepts[0].as_str()), (8, "{\"scheme\":\"scheme-11\"}"));
    }

    #[tokio::test]
    async fn only_what_was_settled_on_chain_makes_entries_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let place = Evidence { tx_hash: B256::repeat_byte(7), block_number: 8, block_hash: B256::repeat_byte(9) };
        let mut tx = store.write().await.unwrap();
        for (id, declares, evidence) in
            [(1, true, Some(place)), (2, false, Some(place)), (3, true, None), (4, true, None)]
        {
            let new = fixtures::payment(id);
            assert!(payments::insert(&mut tx, &new, 5).await.unwrap().is_none());
            if declares {
                declare(&mut tx, new.payment_id).await.unwrap();
            }
            let settled = Settled { amount: new.amount, extra: None, evidence };
            if id != 4 {
                assert!(payments::settle(&mut tx, new.payment_id, &settled, 10).await.unwrap());
            }
        }
        tx.commit().await.unwrap();
        let found = to_list(store.read(), 8453, 10).await.unwrap();
        assert_eq!(found, [(B256::repeat_byte(1), b"{}".to_vec(), 10)]);
        assert!(to_list(store.read(), 1, 10).await.unwrap().is_empty());
        let mut tx = store.write().await.unwrap();
        assert!(listed(&mut tx, B256::repeat_byte(1)).await.unwrap());
        assert!(!listed(&mut tx, B256::repeat_byte(1)).await.unwrap());
        tx.commit().await.unwrap();
        assert!(to_list(store.read(), 8453, 10).await.unwrap().is_empty());
    }
}
