//! Sizes as people write them: `10G`, `512MiB`.

/// Reads a size in bytes. `K`, `M`, `G`, `T` and `P` are powers of 1024, with or without `iB`; `KB`, `MB`, ... are
/// powers of 1000; without a unit, or with `B`, it is bytes. A fraction is taken if it comes out even: `1.5G`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let bad = |why: &str| format!("{text:?} is not a size: {why}; write it like 10G or 512MiB");
    let text_trimmed = text.trim();
    let digits_end =
        text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(bad("it does not begin with a number"));
    }
    let unit = unit.trim().to_ascii_lowercase();
    let power = |letter: char| "kmgtp".find(letter).map(|at| at as u32 + 1);
    let multiple: u64 = match (unit.chars().next(), unit.get(1..)) {
        (None, _) => 1,
        (Some('b'), Some("")) => 1,
        (Some(letter), Some("" | "ib")) => {
            1024u64.pow(power(letter).ok_or_else(|| bad("the unit is unknown"))?)
        }
        (Some(letter), Some("b")) => 1000u64.pow(power(letter).ok_or_else(|| bad("the unit is unknown"))?),
        _ => return Err(bad("the unit is unknown")),
    };
    let whole: u64 = whole.parse().map_err(|_| bad("the number is too large"))?;
    let mut bytes = whole.checked_mul(multiple).ok_or_else(|| bad("it is too large"))?;
    if !fraction.is_empty() {
        let scale = 10u128.checked_pow(fraction.len() as u32).ok_or_else(|| bad("it has too many digits"))?;
        let part: u128 = fraction.parse().map_err(|_| bad("the number is malformed"))?;
        let scaled = part * u128::from(multiple);
        if !scaled.is_multiple_of(scale) {
            return Err(bad("it is not a whole number of bytes"));
        }
        bytes = bytes.checked_add((scaled / scale) as u64).ok_or_else(|| bad("it is too large"))?;
    }
    Ok(bytes)
}

/// A smaller limit was not meant: other drivers count in gigabytes.
pub const LIMIT_MIN: u64 = 1 << 20;
/// Limits are in whole blocks.
const LIMIT_UNIT: u64 = 4096;

/// Reads the size limit of a volume, in bytes, and rounds it up to whole blocks.
///
/// # Errors
/// What is wrong with the text; less than a MiB.
pub fn parse_limit(text: &str) -> Result<u64, String> {
    match parse(text)? {
        bytes if bytes < LIMIT_MIN => {
            let unit = if bytes == 1 { "byte" } else { "bytes" };
            Err(format!(
                "{text:?} is {bytes} {unit}, and the smallest size limit is 1 MiB; write it like 10G or 512MiB"
            ))
        }
        bytes => match bytes.checked_next_multiple_of(LIMIT_UNIT) {
            Some(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
            _ => Err(format!("{text:?} is too large for a size limit; the largest is just below 8192P")),
        },
    }
}

/// A size for people, in powers of 1024 and about three digits: `10G`, `1.5M`, `512`.
pub fn format(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let tenths = (value * 10.0).round();
    if unit == 0 || tenths % 10.0 == 0.0 || value >= 99.95 {
        format!("{value:.0}{}", UNITS[unit])
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

/// The same where that is exact, and else the number of bytes: what [`parse`] takes for this size.
pub fn format_exact(bytes: u64) -> String {
    let short = format(bytes);
    if parse(&short) == Ok(bytes) { short } else { bytes.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_mean_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10G", 10 << 30),
            ("512MiB", 512 << 20),
            ("512m", 512 << 20),
            ("1GB", 1_000_000_000),
            ("1.5G", 3 << 29),
            ("2 TiB", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "G", "10X", "-1", "1e9", "10GiBB", "99999999999999999999", "20000000P", "1.", "0.3", "1.5"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_whole_blocks_that_somebody_means() {
        assert_eq!(parse_limit("10GB"), Ok(10_000_003_072));
        assert_eq!(parse_limit("1M"), Ok(1 << 20));
        assert_eq!(parse_limit("1048577"), Ok((1 << 20) + 4096));
        for small in ["0", "10", "1023K"] {
            assert!(parse_limit(small).unwrap_err().contains("the smallest size limit is 1 MiB"), "{small}");
        }
        for large in ["8192P", "18446744073709551615"] {
            assert!(parse_limit(large).unwrap_err().contains("too large"), "{large}");
        }
    }

    #[test]
    fn sizes_are_written_short() {
        for (bytes, text) in
            [(0, "0"), (999, "999"), (4096, "4K"), (1536, "1.5K"), (10 << 30, "10G"), (1 << 40, "1T")]
        {
            assert_eq!(format(bytes), text);
        }
        assert_eq!(format((1 << 30) - 1), "1G");
        assert_eq!((format_exact(1 << 30), format_exact((1 << 30) - 1)), ("1G".into(), "1073741823".into()));
        assert_eq!(format(123 << 20), "123M");
    }
}
