//! What we take on: how much unheld money of a payer we trust, and how long an order must still run.

use crate::config::Config;
use crate::store::accounts::Lane;

/// Completions in one call at most.
pub const MAX_COMPLETIONS: usize = 1_000;

/// What secures the unheld orders of one lane, all amounts in token units.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cover {
    /// The lane of the order.
    pub lane: Lane,
    /// The payer's other lane with us in the same token: credit is per payer and token, not per lane.
    pub other: Lane,
    /// The payer's free balance: what credit is captured from.
    pub free: u128,
    /// Credit that the configuration gives each payer in this token.
    pub credit: u128,
}

impl Cover {
    /// The most that orders of the lane may reserve together. A lock counts while its part that only we can draw on
    /// lasts until `until`, unix seconds; `lock_tail` is the escrow's constant in seconds.
    pub fn limit(&self, until: u64, lock_tail: u64) -> u128 {
        let usable = |lane: &Lane| {
            let safe = lane.until.checked_sub(lock_tail).is_some_and(|end| end >= until);
            if safe { lane.locked } else { 0 }
        };
        let elsewhere = self.other.reserved.saturating_sub(usable(&self.other));
        let credit = self.credit.saturating_sub(elsewhere).min(self.free);
        usable(&self.lane).saturating_add(credit)
    }
}

/// Seconds from taking an order to its capture in the ordinary course: one answer, one batch, one inclusion.
pub fn settlement_horizon(config: &Config) -> u64 {
    let wait = config.dispatch.timeout_ms.saturating_add(config.batch.max_age_ms).div_ceil(1_000);
    config.dispatch.deadline_margin.saturating_add(wait)
}

/// Credit in token units for one payer.
pub fn credit(config: &Config, token: alloy::primitives::Address) -> u128 {
    config.dispatch.credit.get(&token).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn lane(locked: u128, until: u64, reserved: u128) -> Lane {
        Lane { locked, until, reserved }
    }

    #[test]
    fn a_lock_counts_only_while_it_is_ours_alone() {
        let cover = Cover { lane: lane(100, 1_000, 0), ..Cover::default() };
        assert_eq!(cover.limit(940, 60), 100);
        assert_eq!(cover.limit(941, 60), 0, "its tail is open to others");
        assert_eq!(cover.limit(0, u64::MAX), 0, "an unknown tail trusts nothing");
    }

    #[test]
    fn credit_is_one_sum_per_payer_and_never_beyond_what_is_free() {
        let cover = Cover { credit: 50, free: 30, ..Cover::default() };
        assert_eq!(cover.limit(0, 0), 30);
        let used = Cover { credit: 50, free: 500, other: lane(0, 0, 20), ..Cover::default() };
        assert_eq!(used.limit(0, 0), 30, "20 are used on the other lane");
        let secured = Cover { credit: 50, free: 500, other: lane(20, 1_000, 20), ..Cover::default() };
        assert_eq!(secured.limit(10, 60), 50, "the other lane is secured by its own lock");
    }

    proptest! {
        #[test]
        fn never_more_than_lock_and_credit(
            locked: u128, until: u64, reserved: u128, free: u128, credit: u128, horizon: u64, tail: u64,
        ) {
            let cover = Cover { lane: lane(locked, until, 0), other: lane(0, 0, reserved), free, credit };
            prop_assert!(cover.limit(horizon, tail) <= locked.saturating_add(credit.min(free)));
        }
    }
}
