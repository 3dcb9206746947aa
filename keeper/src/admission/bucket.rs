//! One limit of one caller, as the generic cell rate algorithm keeps it: a single moment, from which on the caller is as if
//! it had never come. It lies `burst` steps ahead of now at most; time alone brings it back. Pure; times in nanoseconds.

use std::time::Duration;

use crate::config::limits::Rate;

const MINUTE_NS: i64 = 60_000_000_000;
/// More than one call may ask for (completions in a batch): how far a call may overdraw.
const MAX_COST: i64 = 1_000;

/// What one unit costs.
const fn step(rate: Rate) -> i64 {
    // At most 2^32 a minute: never zero.
    let step = MINUTE_NS / rate.per_minute as i64;
    if step == 0 { 1 } else { step }
}

/// Takes `cost` units at `now` from a bucket that is full again at `full_at`: when it is full again after that, and how much
/// later that is than it would have been. A call for more than `burst` units is taken when the bucket is full, and overdraws it.
///
/// # Errors
/// How long to wait before it fits.
pub fn take(rate: Rate, full_at: i64, now: i64, cost: u32) -> Result<(i64, i64), Duration> {
    if rate.per_minute == 0 {
        return Ok((full_at, 0));
    }
    let (step, burst) = (step(rate), i64::from(rate.burst));
    // A clock that was set back, or a lower limit than before, must not lock a caller out for longer than its use can cost.
    let furthest = now.saturating_add(step.saturating_mul(burst + MAX_COST));
    let start = full_at.clamp(now, furthest);
    let wanted = step.saturating_mul(i64::from(cost).min(burst));
    let over = start.saturating_sub(now).saturating_add(wanted).saturating_sub(step.saturating_mul(burst));
    if over > 0 {
        return Err(Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX)));
    }
    let used = step.saturating_mul(i64::from(cost));
    Ok((start.saturating_add(used), used))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * SECOND;

    #[test]
    fn a_burst_at_once_and_then_the_rate() {
        let rate = Rate::new(60, 3);
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = take(rate, full_at, NOW, 1).unwrap().0;
        }
        assert_eq!(take(rate, full_at, NOW, 1), Err(Duration::from_secs(1)));
        assert_eq!(take(rate, full_at, NOW + SECOND - 1, 1), Err(Duration::from_nanos(1)));
        full_at = take(rate, full_at, NOW + SECOND, 1).unwrap().0;
        assert!(take(rate, full_at, NOW + SECOND, 1).is_err());
        assert_eq!(take(Rate::new(0, 0), 7, NOW, 1_000), Ok((7, 0)), "no limit");
    }

    #[test]
    fn a_large_call_needs_a_full_bucket_and_overdraws_it() {
        let rate = Rate::new(60, 10);
        let (full_at, used) = take(rate, 0, NOW, 100).unwrap();
        assert_eq!((full_at, used), (NOW + 100 * SECOND, 100 * SECOND));
        assert_eq!(take(rate, full_at, NOW, 1), Err(Duration::from_secs(91)));
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let rate = Rate::new(60, 3);
        let wait = take(rate, NOW + 86_400 * SECOND, NOW, 1).unwrap_err();
        assert!(wait <= Duration::from_secs(1_003), "{wait:?}");
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_in_any_span(
            per_minute in 1_u32..1_000_000, burst in 1_u32..1_000, gaps in prop::collection::vec(0_i64..SECOND, 1..300),
        ) {
            let rate = Rate::new(per_minute, burst);
            let (mut now, mut full_at, mut taken) = (NOW, 0, 0_i64);
            for gap in gaps {
                now += gap;
                if let Ok((after, _)) = take(rate, full_at, now, 1) {
                    full_at = after;
                    taken += 1;
                }
            }
            let allowed = i64::from(burst) + (now - NOW) / step(rate) + 1;
            prop_assert!(taken <= allowed, "{taken} > {allowed}");
        }

        #[test]
        fn who_waits_as_told_is_taken(per_minute in 1_u32..100_000, burst in 1_u32..50, cost in 1_u32..80) {
            let rate = Rate::new(per_minute, burst);
            let mut full_at = 0;
            loop {
                match take(rate, full_at, NOW, cost) {
                    Ok((after, _)) => full_at = after,
                    Err(wait) => {
                        let later = NOW + i64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(take(rate, full_at, later, cost).is_ok());
                        break;
                    }
                }
            }
        }
    }
}
