//! The one clock. On-chain deadlines use the chain's block time instead; see `chain::watch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time, shiftable in tests and by fault scenarios, and time that only passes.
#[derive(Clone, Debug)]
pub struct Clock {
    shift_ms: Arc<AtomicI64>,
    /// What tests let pass beyond real time.
    passed_ms: Arc<AtomicI64>,
    start: Instant,
    /// By how much the wall clock was ahead of the time that passed when it was read last, and by how much it was set back since
    /// anybody asked.
    ahead_ms: Arc<AtomicI64>,
    back_ms: Arc<AtomicI64>,
}

/// Steps back of at most so many milliseconds are waited out.
const TOLERANCE_MS: i64 = 2_000;

impl Default for Clock {
    fn default() -> Self {
        Self {
            shift_ms: Arc::default(),
            passed_ms: Arc::default(),
            start: Instant::now(),
            ahead_ms: Arc::new(AtomicI64::new(i64::MIN)),
            back_ms: Arc::default(),
        }
    }
}

impl Clock {
    /// Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shift = self.shift_ms.load(Ordering::Relaxed).saturating_add(stepped::ms());
        let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(shift);
        let ahead = now_ms.saturating_sub(self.elapsed_ms());
        let before = self.ahead_ms.fetch_max(ahead, Ordering::Relaxed);
        if ahead < before.saturating_sub(TOLERANCE_MS) {
            self.ahead_ms.store(ahead, Ordering::Relaxed);
            self.back_ms.fetch_max(before.saturating_sub(ahead), Ordering::Relaxed);
        }
        now_ms
    }

    /// By how many milliseconds the wall clock was set back since this was asked last, as far as anybody who read it could see;
    /// 0 if it was not.
    pub fn set_back_ms(&self) -> i64 {
        self.now_ms();
        self.back_ms.swap(0, Ordering::Relaxed)
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.now_ms() / 1000).unwrap_or(0)
    }

    /// Milliseconds since this clock was made: for how long something lasts. No step of the wall clock moves it.
    pub fn elapsed_ms(&self) -> i64 {
        let passed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        passed.saturating_add(self.passed_ms.load(Ordering::Relaxed))
    }

    /// Moves the wall clock of this clock and all its clones by `ms` milliseconds from now on.
    pub fn shift(&self, ms: i64) {
        self.shift_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Lets `ms` milliseconds pass, in every sense.
    pub fn pass(&self, ms: i64) {
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
        self.shift(ms);
    }
}

/// A step of the machine's clock, as fault scenarios make one: milliseconds in the file that `QUITTANCE_CLOCK_STEP` names.
/// Compiled in only where crash points are.
mod stepped {
    #[cfg(any(debug_assertions, feature = "fault"))]
    pub(super) fn ms() -> i64 {
        use std::path::PathBuf;
        use std::sync::OnceLock;
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os("QUITTANCE_CLOCK_STEP").map(PathBuf::from));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    #[cfg(not(any(debug_assertions, feature = "fault")))]
    pub(super) const fn ms() -> i64 {
        0
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

/// Day (`2026-01-31`) of unix milliseconds, UTC.
pub fn day(ms: i64) -> String {
    // Years that begin in March, counted from 1 March of year 0, so that the leap day is the last.
    let days = ms.div_euclid(86_400_000) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Unix milliseconds as RFC 3339 in UTC.
pub fn iso(ms: i64) -> String {
    let rest = ms.rem_euclid(86_400_000);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", day(ms))
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

    #[test]
    fn days_and_times_as_text() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(1_795_200_000_123), "2026-11-20T18:40:00.123Z");
        assert_eq!(
            (day(1_709_251_199_000), day(1_709_251_200_000)),
            ("2024-02-29".to_owned(), "2024-03-01".to_owned())
        );
        for seconds in (0..4_000_000_000).step_by(86_399 * 37) {
            assert_eq!(unix_seconds(&iso(seconds * 1_000)), Some(seconds));
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_time_that_passed() {
        let clock = Clock::default();
        clock.shift(-3_600_000);
        assert!((0..60_000).contains(&clock.elapsed_ms()));
        assert_eq!(clock.set_back_ms(), 0, "nobody saw what it was before");
        clock.shift(7_200_000);
        clock.now_ms();
        clock.shift(-7_200_000);
        assert!(clock.clone().set_back_ms() > 7_000_000, "however short it was ahead");
        assert_eq!(clock.set_back_ms(), 0);
        clock.pass(7_200_000);
        assert!(clock.elapsed_ms() >= 7_200_000);
        assert!(clock.clone().now_ms() - Clock::default().now_ms() > 3_500_000);
    }
}
