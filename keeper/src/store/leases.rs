//! Roles of keepers that share a database. The epoch fences: who lost a lease cannot write under it.
//!
//! A lease has no time in it, so no two clocks are ever compared: its holder counts its `beat` up, and another installation
//! takes it over when it has seen the same beat for `TTL_MS` of its own time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Row;

use super::{Store, WriteTx};
use crate::error::{Error, Result};

/// How long the others wait after the last beat that they saw, milliseconds.
pub const TTL_MS: i64 = 15_000;
/// Milliseconds after which the holder shows that it lives.
const RENEW_MS: i64 = 5_000;
/// Leases that say that an installation lives are called so, followed by its name.
const ALIVE: &str = "keeper:";

/// A role that this process wants or has.
#[derive(Debug)]
pub struct Lease {
    name: String,
    owner: String,
    epoch: Option<i64>,
    renewed_ms: i64,
    /// A write was refused since: another has it.
    lost: AtomicBool,
    /// Another's lease as it was seen last, and since when it has looked like this.
    seen: Option<(Beat, i64)>,
}

/// What changes about a lease while its holder lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    epoch: i64,
    beat: i64,
}

impl Lease {
    /// A role, not taken yet. `owner` names the installation, not the process: after a crash the same installation takes its
    /// role back at once, and what was left of the former process is fenced by the epoch.
    pub fn new(name: impl Into<String>, owner: &str) -> Self {
        Self {
            name: name.into(),
            owner: owner.to_owned(),
            epoch: None,
            renewed_ms: 0,
            lost: AtomicBool::new(false),
            seen: None,
        }
    }

    /// The lease that says that the installation `owner` lives: its claims on orders stand while it does.
    pub fn alive(owner: &str) -> Self {
        Self::new(format!("{ALIVE}{owner}"), owner)
    }

    /// Takes or renews the role. False while another installation has it. `now_ms` are milliseconds of time that only passes.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn hold(&mut self, store: &Store, now_ms: i64) -> Result<bool> {
        if self.epoch.is_some() {
            let lost = self.lost.load(Ordering::Relaxed);
            if !lost && now_ms.saturating_sub(self.renewed_ms) < RENEW_MS {
                return Ok(true);
            }
            let mut tx = store.write().await?;
            if self.guard(&mut tx).await? {
                tx.commit().await?;
                self.renewed_ms = now_ms;
                return Ok(true);
            }
            tx.rollback().await?;
            tracing::warn!(lease = self.name, "another process took the lease");
            (self.epoch, self.seen) = (None, None);
            self.lost.store(false, Ordering::Relaxed);
        }
        let row = sqlx::query("SELECT owner, epoch, beat FROM leases WHERE name = $1")
            .bind(self.name.clone())
            .fetch_optional(store.read())
            .await?;
        let mut last = Beat { epoch: 0, beat: 0 };
        if let Some(row) = row {
            last = Beat { epoch: row.try_get("epoch")?, beat: row.try_get("beat")? };
            let owner: String = row.try_get("owner")?;
            if !owner.is_empty() && owner != self.owner {
                let since = self.seen.filter(|(beat, _)| *beat == last).map_or(now_ms, |(_, since)| since);
                self.seen = Some((last, since));
                if now_ms.saturating_sub(since) < TTL_MS {
                    return Ok(false);
                }
                tracing::warn!(lease = self.name, from = owner, "no sign of its holder: taking the lease over");
            }
        }
        let mut tx = store.write().await?;
        let epoch = sqlx::query_scalar(
            "INSERT INTO leases (name, owner, epoch, beat) VALUES ($1, $2, 1, 0)
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = leases.epoch + 1, beat = 0
             WHERE leases.epoch = $3 AND leases.beat = $4 RETURNING epoch",
        )
        .bind(self.name.clone())
        .bind(self.owner.clone())
        .bind(last.epoch)
        .bind(last.beat)
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        self.epoch = epoch;
        (self.renewed_ms, self.seen) = (now_ms, None);
        Ok(self.epoch.is_some())
    }

    /// Starts a write transaction under the role: until it ends nobody can take the role over.
    ///
    /// # Errors
    /// `lease_lost` when another has it: nothing may be written; `store_failed`.
    pub async fn write(&self, store: &Store) -> Result<WriteTx> {
        let mut tx = store.write().await?;
        if self.guard(&mut tx).await? {
            return Ok(tx);
        }
        tx.rollback().await?;
        Err(Error::LeaseLost(self.name.clone()))
    }

    /// Shows, inside a transaction that writes under the role, that its holder lives. False when the role is lost: roll back.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn guard(&self, tx: &mut WriteTx) -> Result<bool> {
        let Some(epoch) = self.epoch else { return Ok(false) };
        let done = sqlx::query("UPDATE leases SET beat = beat + 1 WHERE name = $1 AND owner = $2 AND epoch = $3")
            .bind(self.name.clone())
            .bind(self.owner.clone())
            .bind(epoch)
            .execute(&mut **tx)
            .await?;
        let held = done.rows_affected() == 1;
        self.lost.fetch_or(!held, Ordering::Relaxed);
        Ok(held)
    }

    /// Gives the role back, so that another installation need not wait.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn release(&mut self, store: &Store) -> Result<()> {
        let Some(epoch) = self.epoch.take() else { return Ok(()) };
        let mut tx = store.write().await?;
        sqlx::query("UPDATE leases SET owner = '' WHERE name = $1 AND owner = $2 AND epoch = $3")
            .bind(self.name.clone())
            .bind(self.owner.clone())
            .bind(epoch)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Watches whether other installations live.
#[derive(Debug, Default)]
pub struct Others {
    seen: HashMap<String, (Beat, i64)>,
}

impl Others {
    /// Installations without a sign of life for `TTL_MS`; each is fenced, so that it claims nothing more before it has noticed.
    /// `me` is left out.
    ///
    /// # Errors
    /// `store_failed`.
    pub async fn dead(&mut self, store: &Store, me: &str, now_ms: i64) -> Result<Vec<String>> {
        let rows = sqlx::query(
            "SELECT name, owner, epoch, beat FROM leases WHERE name LIKE 'keeper:%' AND owner <> '' AND owner <> $1",
        )
        .bind(me.to_owned())
        .fetch_all(store.read())
        .await?;
        let mut seen = HashMap::new();
        let mut dead = Vec::new();
        for row in &rows {
            let (name, owner): (String, String) = (row.try_get("name")?, row.try_get("owner")?);
            let last = Beat { epoch: row.try_get("epoch")?, beat: row.try_get("beat")? };
            let since = self.seen.get(&name).filter(|(beat, _)| *beat == last).map_or(now_ms, |(_, since)| *since);
            if now_ms.saturating_sub(since) < TTL_MS {
                seen.insert(name, (last, since));
                continue;
            }
            let mut tx = store.write().await?;
            let done = sqlx::query(
                "UPDATE leases SET owner = '', epoch = epoch + 1 WHERE name = $1 AND epoch = $2 AND beat = $3",
            )
            .bind(name)
            .bind(last.epoch)
            .bind(last.beat)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            if done.rows_affected() == 1 {
                dead.push(owner);
            }
        }
        self.seen = seen;
        Ok(dead)
    }
}

/// A look that ended because the role is another's now: the next one sees to it.
///
/// # Errors
/// Every other error.
pub fn unless_lost(looked: Result<()>) -> Result<()> {
    match looked {
        Err(Error::LeaseLost(name)) => {
            tracing::warn!(lease = name, "lost to another keeper");
            Ok(())
        }
        other => other,
    }
}

/// Name of this installation: the machine and where its API listens.
pub fn installation(listen: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{listen}", host.trim())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Roles for tests of what is done under them.

    use super::*;

    /// A role that is held.
    pub(crate) async fn held(store: &Store) -> Lease {
        let mut lease = Lease::new("test", "test");
        assert!(lease.hold(store, 0).await.unwrap());
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_owner_at_a_time_and_the_loser_is_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let lease = |owner: &str| Lease::new("signer:1", owner);
        let (mut a, mut b) = (lease("a"), lease("b"));
        assert!(a.hold(&store, 1_000).await.unwrap());
        // The two count time from different moments.
        assert!(!b.hold(&store, 902_000).await.unwrap());
        assert!(a.hold(&store, 10_000).await.unwrap(), "renewed");
        assert!(!b.hold(&store, 918_000).await.unwrap(), "a sign of life since");
        assert!(!b.hold(&store, 932_999).await.unwrap());
        a.write(&store).await.unwrap().commit().await.unwrap();
        assert!(!b.hold(&store, 933_000).await.unwrap(), "what is written under it is a sign of life too");
        assert!(b.hold(&store, 948_000).await.unwrap(), "no sign of life for 15 s");
        assert!(matches!(a.write(&store).await, Err(Error::LeaseLost(_))), "fenced");
        b.write(&store).await.unwrap().commit().await.unwrap();
        assert!(!a.hold(&store, 30_000).await.unwrap());
        let mut restarted = lease("b");
        assert!(restarted.hold(&store, 5).await.unwrap(), "the same installation does not wait for itself");
        assert!(matches!(b.write(&store).await, Err(Error::LeaseLost(_))), "its former process is fenced");
        restarted.release(&store).await.unwrap();
        assert!(a.hold(&store, 30_001).await.unwrap());
    }

    #[tokio::test]
    async fn of_two_that_take_over_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let mut gone = Lease::new("settle", "gone");
        assert!(gone.hold(&store, 0).await.unwrap());
        let mut rest = ["b", "c"].map(|owner| Lease::new("settle", owner));
        for one in &mut rest {
            assert!(!one.hold(&store, 0).await.unwrap());
        }
        let [b, c] = &mut rest;
        let (b, c) = tokio::join!(b.hold(&store, TTL_MS), c.hold(&store, TTL_MS));
        assert!(b.unwrap() != c.unwrap());
    }

    #[tokio::test]
    async fn the_dead_are_named_once_and_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::testing::open(&dir).await;
        let (mut a, mut b) = (Lease::alive("a"), Lease::alive("b"));
        assert!(a.hold(&store, 0).await.unwrap() && b.hold(&store, 0).await.unwrap());
        let mut others = Others::default();
        assert!(others.dead(&store, "a", 50_000).await.unwrap().is_empty());
        assert!(others.dead(&store, "a", 60_000).await.unwrap().is_empty());
        assert!(b.hold(&store, 9_000).await.unwrap());
        assert!(others.dead(&store, "a", 66_000).await.unwrap().is_empty(), "it lives");
        assert_eq!(others.dead(&store, "a", 81_000).await.unwrap(), ["b"]);
        assert!(others.dead(&store, "a", 99_000).await.unwrap().is_empty());
        assert!(b.write(&store).await.is_err());
        assert!(b.hold(&store, 20_000).await.unwrap(), "it comes back");
    }
}
