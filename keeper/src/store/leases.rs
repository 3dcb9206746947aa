//! Roles of keepers that share a database. The epoch fences: who lost a lease cannot write under it.

use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::Result;

/// How long a lease lasts without renewal, milliseconds.
pub const TTL_MS: i64 = 15_000;
/// How often it is renewed, milliseconds.
const RENEW_MS: i64 = 5_000;

/// A role that this process wants or has.
#[derive(Debug)]
pub struct Lease {
    name: String,
    owner: String,
    epoch: Option<i64>,
    renewed_ms: i64,
}

impl Lease {
    /// A role, not taken yet. `owner` names the installation, not the process: after a crash the same installation takes its
    /// role back at once, and what was left of the former process is fenced by the epoch.
    pub fn new(name: String, owner: String) -> Self {
        Self { name, owner, epoch: None, renewed_ms: 0 }
    }

    /// Takes or renews the role. False while another installation has it.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn hold(&mut self, store: &Store, now_ms: i64) -> Result<bool> {
        if self.epoch.is_some() && now_ms - self.renewed_ms < RENEW_MS {
            return Ok(true);
        }
        let mut tx = store.write().await?;
        if self.epoch.is_some() && !self.guard(&mut tx, now_ms).await? {
            tracing::warn!(lease = self.name, "another process took the lease");
            self.epoch = None;
        }
        if self.epoch.is_none() {
            let row = sqlx::query(
                "INSERT INTO leases (name, owner, epoch, expires_ms) VALUES ($1, $2, 1, $3)
                 ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = leases.epoch + 1, expires_ms = excluded.expires_ms
                 WHERE leases.owner = excluded.owner OR leases.expires_ms < $4 RETURNING epoch",
            )
            .bind(self.name.clone())
            .bind(self.owner.clone())
            .bind(now_ms + TTL_MS)
            .bind(now_ms)
            .fetch_optional(&mut *tx)
            .await?;
            self.epoch = row.map(|row| row.try_get("epoch")).transpose()?;
        }
        tx.commit().await?;
        self.renewed_ms = now_ms;
        Ok(self.epoch.is_some())
    }

    /// Renews inside a transaction that writes under the role. False when the role is lost: roll back.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn guard(&self, tx: &mut WriteTx, now_ms: i64) -> Result<bool> {
        let done = sqlx::query("UPDATE leases SET expires_ms = $1 WHERE name = $2 AND owner = $3 AND epoch = $4")
            .bind(now_ms + TTL_MS)
            .bind(self.name.clone())
            .bind(self.owner.clone())
            .bind(self.epoch.unwrap_or(-1))
            .execute(&mut **tx)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives the role back, so that another installation need not wait.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn release(&mut self, store: &Store) -> Result<()> {
        let Some(epoch) = self.epoch.take() else { return Ok(()) };
        let mut tx = store.write().await?;
        sqlx::query("UPDATE leases SET expires_ms = 0 WHERE name = $1 AND owner = $2 AND epoch = $3")
            .bind(self.name.clone())
            .bind(self.owner.clone())
            .bind(epoch)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Name of this installation: the machine and where its API listens.
pub fn installation(listen: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{listen}", host.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_owner_at_a_time_and_the_loser_is_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let lease = |owner: &str| Lease::new("signer:1".to_owned(), owner.to_owned());
        let (mut a, mut b) = (lease("a"), lease("b"));
        assert!(a.hold(&store, 1_000).await.unwrap());
        assert!(!b.hold(&store, 2_000).await.unwrap());
        assert!(a.hold(&store, 10_000).await.unwrap(), "renewed");
        assert!(!b.hold(&store, 20_000).await.unwrap());
        assert!(b.hold(&store, 25_001).await.unwrap(), "expired");
        let mut tx = store.write().await.unwrap();
        assert!(!a.guard(&mut tx, 25_002).await.unwrap(), "fenced");
        assert!(b.guard(&mut tx, 25_002).await.unwrap());
        tx.commit().await.unwrap();
        assert!(!a.hold(&store, 26_000).await.unwrap());
        let mut restarted = lease("b");
        assert!(restarted.hold(&store, 26_000).await.unwrap(), "the same installation does not wait for itself");
        restarted.release(&store).await.unwrap();
        assert!(a.hold(&store, 26_001).await.unwrap());
    }
}
