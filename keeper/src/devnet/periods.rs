//! The contracts' periods on a devnet: seconds where production has hours.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Constructor periods, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Periods {
    /// From a batch to its finalization.
    pub window: u64,
    /// From scheduling what the admin does to doing it; longer than a batch can stay open.
    pub admin_delay: u64,
    /// Of the fee splitter.
    pub fee_epoch: u64,
    /// To answer a challenge.
    pub response: u64,
    /// For which only a verified settlement can capture the money of a void row.
    pub reopen: u64,
    /// Longest time from now to the end of a lock.
    pub max_lock: u64,
    /// Last part of a lock, in which any verified settlement may draw on it.
    pub lock_tail: u64,
    /// Least time from opening or holding to the capture deadline.
    pub min_capture_time: u64,
    /// How far in the past `validAfter` may lie when an order is opened or held.
    pub max_order_age: u64,
    /// Longest time from `validAfter` to the capture deadline.
    pub max_order_life: u64,
    /// Longest pause of deposits, locks and `openOrder`.
    pub max_pause: u64,
    /// Least time from the end of a pause to the next one.
    pub pause_gap: u64,
    /// For which a replaced node version can still be captured.
    pub grace: u64,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            window: 15,
            admin_delay: 60,
            fee_epoch: 60,
            response: 15,
            reopen: 30,
            max_lock: 7 * 86_400,
            lock_tail: 60,
            min_capture_time: 10,
            max_order_age: 300,
            max_order_life: 3 * 86_400,
            max_pause: 300,
            pause_gap: 301,
            grace: 3_600,
        }
    }
}

impl Periods {
    /// Those of the demonstration: time for a busy machine to challenge and to answer, and little to wait for afterwards.
    pub fn demo() -> Self {
        Self { window: 20, response: 30, reopen: 10, admin_delay: 120, ..Self::default() }
    }

    /// Whatever was recorded before the admin showed what it wants is decided before it comes true.
    ///
    /// # Errors
    /// `config_invalid` with both times.
    pub fn check(&self) -> Result<()> {
        if self.admin_delay > self.window {
            return Ok(());
        }
        let (delay, open) = (self.admin_delay, self.window);
        Err(Error::Config(format!("admin delay {delay} s must be longer than a batch stays open, {open} s")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_is_slower_than_a_batch() {
        let periods = Periods::default();
        assert!(periods.check().is_ok());
        let error = Periods { admin_delay: periods.window, ..periods }.check().unwrap_err();
        assert!(error.to_string().contains("admin delay 15 s"), "{error}");
    }
}
