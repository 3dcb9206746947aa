//! The contracts' periods on a devnet: seconds where production has hours.

use serde::{Deserialize, Serialize};

/// Constructor periods, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Periods {
    /// From a batch to its finalization.
    pub window: u64,
    /// Longest time from now to the end of a lock.
    pub max_lock: u64,
    /// Last part of a lock, in which any verified settlement may draw on it.
    pub lock_tail: u64,
    /// Least time from opening or holding to the capture deadline.
    pub min_capture_time: u64,
    /// How far in the past `validAfter` may lie when an order is opened or held.
    pub max_order_age: u64,
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
            max_lock: 7 * 86_400,
            lock_tail: 60,
            min_capture_time: 10,
            max_order_age: 300,
            max_pause: 60,
            pause_gap: 90,
            grace: 3_600,
        }
    }
}
