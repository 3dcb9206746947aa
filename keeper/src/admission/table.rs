//! Buckets of all callers: bounded in number, in memory, with what was used since the last write to the store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::B256;

use super::bucket;
use crate::config::limits::Rate;

/// What is limited, for whom; the text is stable (metrics, database, error bodies).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// orders, completions, payments, reads, heartbeats
    pub route: &'static str,
    /// payer, search, key, ip, global
    pub kind: &'static str,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 18] = [
        Self::new("orders", "payer"),
        Self::new("orders", "key"),
        Self::new("orders", "ip"),
        Self::new("orders", "global"),
        Self::new("completions", "key"),
        Self::new("completions", "ip"),
        Self::new("completions", "global"),
        Self::new("payments", "payer"),
        Self::new("payments", "search"),
        Self::new("payments", "key"),
        Self::new("payments", "ip"),
        Self::new("payments", "global"),
        Self::new("reads", "key"),
        Self::new("reads", "ip"),
        Self::new("reads", "global"),
        Self::new("heartbeats", "key"),
        Self::new("heartbeats", "ip"),
        Self::new("heartbeats", "global"),
    ];

    const fn new(route: &'static str, kind: &'static str) -> Self {
        Self { route, kind }
    }

    /// The text in the database.
    pub fn text(self) -> String {
        format!("{}:{}", self.route, self.kind)
    }

    /// Reads the text; `None` for a scope of another version.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.text() == text)
    }
}

/// One caller under one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub scope: Scope,
    /// Address, key hash or IP address, padded; all ones for those that share a bucket.
    pub subject: B256,
}

/// What the store is told of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    pub id: Id,
    /// When the bucket is full again as far as this process knows, unix nanoseconds.
    pub full_at: i64,
    /// By how much its use since the last write moved that, nanoseconds.
    pub used: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: i64,
    unwritten: i64,
}

/// All buckets.
#[derive(Debug)]
pub struct Table {
    buckets: Mutex<HashMap<Id, Bucket>>,
    capacity: usize,
}

impl Table {
    /// An empty table for `capacity` callers.
    pub fn new(capacity: u32) -> Self {
        Self { buckets: Mutex::default(), capacity: usize::try_from(capacity).unwrap_or(usize::MAX) }
    }

    /// Takes `cost` units from a caller's bucket.
    ///
    /// # Errors
    /// How long to wait; nothing is taken then.
    pub fn take(&self, mut id: Id, rate: Rate, now: i64, cost: u32) -> Result<(), Duration> {
        if rate.per_minute == 0 {
            return Ok(());
        }
        let mut buckets = self.lock();
        if !buckets.contains_key(&id) && buckets.len() >= self.capacity {
            // Strangers beyond the capacity share: memory is bounded and so is what they may do together.
            id.subject = B256::repeat_byte(0xff);
        }
        let bucket = buckets.entry(id).or_default();
        let (full_at, used) = bucket::take(rate, bucket.full_at, now, cost)?;
        bucket.full_at = full_at;
        bucket.unwritten = bucket.unwritten.saturating_add(used);
        Ok(())
    }

    /// Up to `limit` buckets that were used since the last write. Buckets that are full and written are forgotten.
    pub fn unwritten(&self, now: i64, limit: usize) -> Vec<Use> {
        let mut buckets = self.lock();
        buckets.retain(|_, bucket| bucket.full_at > now || bucket.unwritten > 0);
        let mut uses = Vec::new();
        for (id, bucket) in buckets.iter_mut().filter(|(_, bucket)| bucket.unwritten > 0).take(limit) {
            uses.push(Use { id: *id, full_at: bucket.full_at, used: std::mem::take(&mut bucket.unwritten) });
        }
        uses
    }

    /// The store knows that a bucket is full at `full_at`, counting what other keepers gave; what was used here meanwhile
    /// comes on top.
    pub fn learned(&self, id: Id, full_at: i64) {
        let mut buckets = self.lock();
        let bucket = buckets.entry(id).or_default();
        bucket.full_at = bucket.full_at.max(full_at.saturating_add(bucket.unwritten));
    }

    /// The write failed: what it would have written is unwritten again.
    pub fn give_back(&self, uses: &[Use]) {
        let mut buckets = self.lock();
        for one in uses {
            let bucket = buckets.entry(one.id).or_default();
            bucket.full_at = bucket.full_at.max(one.full_at);
            bucket.unwritten = bucket.unwritten.saturating_add(one.used);
        }
    }

    /// Buckets now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing panics while it holds the lock, and a bucket is right in every state.
    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::new(60, 2);
    const NOW: i64 = 1_800_000_000_000_000_000;
    const SECOND: i64 = 1_000_000_000;

    fn id(subject: u8) -> Id {
        Id { scope: Scope::ALL[0], subject: B256::repeat_byte(subject) }
    }

    #[test]
    fn scopes_read_back() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(&scope.text()), Some(scope));
        }
        assert_eq!(Scope::parse("orders:moon"), None);
    }

    #[test]
    fn strangers_beyond_the_capacity_share_one_bucket() {
        let table = Table::new(2);
        for subject in 1..3 {
            assert!(table.take(id(subject), RATE, NOW, 1).is_ok());
        }
        assert!(table.take(id(3), RATE, NOW, 1).is_ok());
        assert!(table.take(id(4), RATE, NOW, 1).is_ok());
        assert!(table.take(id(5), RATE, NOW, 1).is_err(), "the two before it used up what strangers have");
        assert!(table.take(id(1), RATE, NOW, 1).is_ok(), "who is known is not concerned");
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn what_is_written_once_is_not_written_again_and_full_buckets_are_forgotten() {
        let table = Table::new(9);
        table.take(id(1), RATE, NOW, 1).unwrap();
        let uses = table.unwritten(NOW, 10);
        assert_eq!(uses, [Use { id: id(1), full_at: NOW + SECOND, used: SECOND }]);
        assert!(table.unwritten(NOW, 10).is_empty());
        table.give_back(&uses);
        assert_eq!(table.unwritten(NOW, 10), uses);
        assert!(table.unwritten(NOW + SECOND, 10).is_empty());
        assert!(table.is_empty());
    }

    #[test]
    fn what_other_keepers_gave_counts_here() {
        let table = Table::new(9);
        table.take(id(1), RATE, NOW, 1).unwrap();
        table.unwritten(NOW, 10);
        table.take(id(1), RATE, NOW, 1).unwrap();
        table.learned(id(1), NOW + 3 * SECOND);
        assert_eq!(
            table.take(id(1), RATE, NOW, 1),
            Err(Duration::from_secs(3)),
            "three there, one here, two are the most"
        );
    }
}
