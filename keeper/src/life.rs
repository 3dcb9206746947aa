//! Signs of life: every loop beats at each of its rounds, and one that has not for too long is stuck.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Rounds of loops that talk to a chain may wait for endpoints that hang: they get so many times as long.
const CHAIN: u32 = 3;

/// Beats of all loops.
#[derive(Debug)]
pub struct Life {
    limit: Duration,
    loops: Mutex<BTreeMap<&'static str, Pulse>>,
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    at: Instant,
    limit: Duration,
}

/// One loop's sign of life.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sign {
    pub name: &'static str,
    /// False: it has not finished a round for longer than it may.
    pub ok: bool,
    pub age_ms: u64,
    pub limit_ms: u64,
}

impl Life {
    /// No loop runs. `limit`: the longest that a round may take.
    pub fn new(limit: Duration) -> Self {
        Self { limit, loops: Mutex::default() }
    }

    /// A loop is there from now on.
    pub fn born(&self, name: &'static str) {
        let chain = name.starts_with("watch_") || name.starts_with("txs_");
        let limit = if chain { self.limit.saturating_mul(CHAIN) } else { self.limit };
        self.lock().insert(name, Pulse { at: Instant::now(), limit });
    }

    /// A loop begins a round. One that was not born is not watched: tests run single loops.
    pub fn beat(&self, name: &'static str) {
        if let Some(pulse) = self.lock().get_mut(name) {
            pulse.at = Instant::now();
        }
    }

    /// A loop has ended as it should.
    pub fn over(&self, name: &'static str) {
        self.lock().remove(name);
    }

    /// Signs of all loops.
    pub fn signs(&self) -> Vec<Sign> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let sign = |(name, pulse): (&&'static str, &Pulse)| {
            let age = pulse.at.elapsed();
            Sign { name, ok: age <= pulse.limit, age_ms: ms(age), limit_ms: ms(pulse.limit) }
        };
        self.lock().iter().map(sign).collect()
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Pulse>> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_beat_is_stuck() {
        let life = Life::new(Duration::from_millis(1));
        life.beat("settle");
        assert!(life.signs().is_empty(), "nobody watches what was not started");
        life.born("settle");
        std::thread::sleep(Duration::from_millis(5));
        assert!(!life.signs()[0].ok);
        life.over("settle");
        assert!(life.signs().is_empty());
        let patient = Life::new(Duration::from_secs(600));
        for name in ["settle", "watch_base"] {
            patient.born(name);
            patient.beat(name);
        }
        let signs = patient.signs();
        assert!(signs.iter().all(|sign| sign.ok));
        assert_eq!(signs.iter().map(|sign| sign.limit_ms).collect::<Vec<_>>(), [600_000, 1_800_000]);
    }
}
