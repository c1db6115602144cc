//! How long something is kept, as people write it.

use std::time::Duration;

/// Nobody means more: a hundred years.
const MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Reads `24h`, `7d`, `1h 30min`; `0`, `off` and `none` are no time at all.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "off" | "none") {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        // A part of a second is not to become none.
        Ok(period) if period <= MAX => {
            Ok(Duration::from_secs(period.as_secs() + u64::from(period.subsec_nanos() > 0)))
        }
        Ok(_) => Err(format!("{text:?} is too long")),
        Err(_) => Err(format!("{text:?} is not a length of time; write it like 24h or 7d, or 0 for none")),
    }
}

/// The same in one way of writing it, whole seconds of it.
pub fn format(period: Duration) -> String {
    match period.as_secs() {
        0 => "0".to_owned(),
        seconds if seconds % (24 * 3600) == 0 => format!("{}d", seconds / (24 * 3600)),
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}min", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// The same as one says it: `24 hours`, `7 days`.
pub fn in_words(period: Duration) -> String {
    let counted = |n: u64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match period.as_secs() {
        // As the documents call it.
        86_400 => counted(24, "hour"),
        seconds if seconds % 86_400 == 0 => counted(seconds / 86_400, "day"),
        seconds if seconds % 3600 == 0 => counted(seconds / 3600, "hour"),
        seconds if seconds % 60 == 0 => counted(seconds / 60, "minute"),
        seconds => counted(seconds, "second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them() {
        for (text, seconds, again) in [
            ("24h", 86_400, "1d"),
            ("7d", 604_800, "7d"),
            ("1h 30min", 5400, "90min"),
            ("36h", 129_600, "36h"),
            ("90s", 90, "90s"),
            ("0", 0, "0"),
            ("off", 0, "0"),
            ("0s", 0, "0"),
        ] {
            let period = parse(text).unwrap();
            assert_eq!((period.as_secs(), format(period).as_str()), (seconds, again), "{text}");
            assert_eq!(parse(&format(period)), Ok(period));
        }
        for (seconds, words) in [
            (86_400, "24 hours"),
            (604_800, "7 days"),
            (3600, "1 hour"),
            (5400, "90 minutes"),
            (1, "1 second"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
        for bad in ["", "24", "-1h", "h", "1000years", "99999999999999999999h", "24 h x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
