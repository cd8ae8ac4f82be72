//! Times and sizes in Docker's words.
//! source: github.com/docker/go-units (duration.go, size.go), Go's `%g`.

use std::time::Duration;

use jiff::Timestamp;

/// `About an hour`, `3 weeks`.
pub(crate) fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    let minutes = seconds / 60;
    // hours are rounded, all else is cut
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2 hours ago` of a time in seconds since 1970; `N/A` where there is none.
pub(crate) fn ago(unix: i64, now: Timestamp) -> String {
    if unix == 0 {
        return "N/A".into();
    }
    let past = u64::try_from(now.as_second().saturating_sub(unix)).unwrap_or(0);
    format!("{} ago", duration(Duration::from_secs(past)))
}

/// `13.3MB`: powers of 1000, three digits, as in `images` and `ps`.
pub(crate) fn size(bytes: i64) -> String {
    scaled(
        bytes as f64,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
        3,
    )
}

/// `1.234GB`: powers of 1000, four digits, as in `system df`.
pub(crate) fn size4(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 4)
}

/// `1.5MiB`: powers of 1024, as in `stats` and `info`.
pub(crate) fn binary_size(bytes: f64) -> String {
    scaled(
        bytes,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
        4,
    )
}

fn scaled(mut n: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while n >= base && unit + 1 < units.len() {
        n /= base;
        unit += 1;
    }
    format!("{}{}", general(n, digits), units[unit])
}

/// Go's `%.<digits>g`.
pub(crate) fn general(n: f64, digits: usize) -> String {
    if n == 0.0 {
        return "0".into();
    }
    let scientific = format!("{n:.*e}", digits - 1);
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("Rust's {:e} always has an exponent");
    let exponent: i32 = exponent.parse().expect("an integer by its format");
    let significant = i32::try_from(digits).expect("a handful of digits");
    let trim = |s: &str| {
        if s.contains('.') {
            s.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            s.to_owned()
        }
    };
    if exponent < -4 || exponent >= significant {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(significant - 1 - exponent).unwrap_or(0);
    trim(&format!("{n:.decimals$}"))
}

/// `sha256:0123..` or an id cut to twelve digits.
pub(crate) fn short_id(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, hex)| hex);
    id.get(..12).unwrap_or(id)
}

/// Cut to `width` columns with an ellipsis, as Docker cuts commands and images.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let cut: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let minute = 60;
        let hour = 60 * minute;
        let day = 24 * hour;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * minute + 59, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (731 * day, "2 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, words) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_240_000, "1.24MB"),
            (13_256_000, "13.3MB"),
            (117_000_000, "117MB"),
            // Go's %.3g rounds up to 1e+03
            (999_900, "1e+03kB"),
        ] {
            assert_eq!(size(bytes), words, "{bytes}");
        }
        assert_eq!(size4(1_234_567_890.0), "1.235GB");
        assert_eq!(binary_size(1536.0), "1.5KiB");
        assert_eq!(binary_size(1023.99 * 1024.0), "1024KiB");
    }

    #[test]
    fn general_is_gos() {
        for (n, digits, want) in [
            (0.00001234, 3, "1.23e-05"),
            (0.0001234, 3, "0.000123"),
            (100.0, 3, "100"),
            (1000.0, 3, "1e+03"),
            (12.0, 4, "12"),
        ] {
            assert_eq!(general(n, digits), want);
        }
    }

    #[test]
    fn cuts() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
