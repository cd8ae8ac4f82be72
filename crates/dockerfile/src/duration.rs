//! Durations as Go writes them, which is how flags and histories have them.

use std::time::Duration;

/// `1h2m3.5s`, `300ms`, `0`. Nothing for what is negative or too long to count in nanoseconds.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let unit_end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = behind;
    }
    (i64::try_from(total).is_ok()).then(|| Duration::from_nanos(total))
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // what is less than a nanosecond does not count
    let mut part = 0;
    let mut unit = scale;
    for digit in fraction.bytes() {
        unit /= 10;
        part += u64::from(digit - b'0') * unit;
    }
    whole.checked_mul(scale)?.checked_add(part)
}

/// As Go prints it: `1h0m30s`, `1.5s`, `10ms`.
pub(crate) fn print(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |scale: u128, unit: &str| {
        let fraction = format!("{:0width$}", nanos % scale, width = scale.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}{unit}", nanos / scale)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let seconds = duration.as_secs();
            let rest = Duration::from_secs(seconds % 60)
                + Duration::from_nanos(u64::from(duration.subsec_nanos()));
            let fraction = format!("{:09}", rest.subsec_nanos());
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let last = format!("{}{dot}{fraction}s", rest.as_secs());
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => last,
                (0, minutes) => format!("{minutes}m{last}"),
                (hours, minutes) => format!("{hours}h{minutes}m{last}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_read() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("50ns", 50),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1m30s", 90_000_000_000),
            ("1h2m3s", 3_723_000_000_000),
            ("+1s", 1_000_000_000),
            ("0.0000000001s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "1x",
            "1 s",
            ".s",
            "1..2s",
            "9999999h",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn are_printed() {
        for text in [
            "0s",
            "5ns",
            "1.5µs",
            "10ms",
            "1.25ms",
            "30s",
            "1.5s",
            "1m30s",
            "1h0m0s",
            "2h3m4.000000005s",
        ] {
            assert_eq!(parse(text).map(print).as_deref(), Some(text));
        }
    }
}
