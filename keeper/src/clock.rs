//! The one clock. On-chain deadlines use the chain's block time instead; see `chain::watch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall-clock time, shiftable in tests and by fault scenarios.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    shift_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(self.shift_ms.load(Ordering::Relaxed))
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.now_ms() / 1000).unwrap_or(0)
    }

    /// Moves this clock and all its clones by `ms` milliseconds from now on.
    pub fn shift(&self, ms: i64) {
        self.shift_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// Unix seconds of an RFC 3339 time in UTC; fractions are dropped.
pub fn unix_seconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (date, time) = text.split_once('T')?;
    let time = time.split_once('.').map_or(time, |(time, _)| time);
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> =
            text.split(by).map(|part| part.parse::<u32>().ok().map(i64::from)).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    // Days since 1970-01-01 with years that begin in March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    fits.then(|| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2026-11-20T18:40:00.123Z"), Some(1_795_200_000));
        assert_eq!(unix_seconds("2024-02-29T23:59:59+00:00"), Some(1_709_251_199));
        for bad in ["", "2026-11-20", "2026-13-20T00:00:00Z", "2026-11-20T00:00:00+01:00", "2026-11-20T25:00:00Z"] {
            assert_eq!(unix_seconds(bad), None, "{bad}");
        }
    }
}
