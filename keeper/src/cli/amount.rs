//! Amounts as people write them: decimal units of a token, exact or refused; and spans of time.

use super::failure::{Failure, Result};

/// Reads `12.5` with 6 decimals as 12,500,000 units; never rounds.
///
/// # Errors
/// `malformed` for anything but digits with at most `decimals` places, or more than a u128 holds.
pub fn parse(text: &str, decimals: u8) -> Result<u128> {
    let refuse = |why: &str| Failure::usage("malformed", format!("{text:?} is no amount: {why}"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(refuse("write digits with an optional point, such as 12.5"));
    }
    let places = usize::from(decimals);
    if fraction.len() > places {
        return Err(refuse(&format!("the token has {decimals} decimals")));
    }
    let units: String = format!("{whole}{fraction:0<places$}");
    if units.is_empty() {
        return Ok(0);
    }
    units.parse().map_err(|_| refuse("it is more than a 128-bit number of units"))
}

/// Writes units as a decimal number without needless zeros.
pub fn format(units: u128, decimals: u8) -> String {
    let places = usize::from(decimals);
    let text = format!("{units:0>width$}", width = places + 1);
    let (whole, fraction) = text.split_at(text.len() - places);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// Reads `90`, `90s`, `15m`, `2h` or `7d` as seconds.
///
/// # Errors
/// A sentence for clap.
pub fn seconds(text: &str) -> std::result::Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("{unit:?} is no unit of time: use s, m, h or d")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit, such as 10m".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_exactly_or_refuses() {
        assert_eq!(parse("12.5", 6).unwrap(), 12_500_000);
        assert_eq!(parse("0.000001", 6).unwrap(), 1);
        assert_eq!(parse(".5", 1).unwrap(), 5);
        assert_eq!(parse("7", 0).unwrap(), 7);
        for bad in ["", ".", "1.0000001", "-1", "1e3", "1,5", "0x10", "340282366920938463463374607431768211456", " 1"] {
            assert!(parse(bad, 6).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_spans() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7_200));
        assert!(seconds("2w").is_err() && seconds("h").is_err() && seconds("").is_err());
        assert!(seconds("999999999999999999d").is_err());
    }

    proptest! {
        #[test]
        fn writes_what_it_reads(units: u128, decimals in 0_u8..=24) {
            prop_assert_eq!(parse(&format(units, decimals), decimals).unwrap(), units);
        }
    }
}
