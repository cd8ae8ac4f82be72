//! Values of flags as Docker reads them: sizes, durations, environment files, mounts, limits.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::verb::reason;

/// `512m`, `1.5GiB`: powers of 1024 whatever the suffix says.
/// source: go-units `RAMInBytes`.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let last = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or_else(invalid)?;
    let number = text[..=last].trim_end_matches(' ');
    let suffix = text[last + 1..].to_ascii_lowercase();
    let n: f64 = number.parse().map_err(|_| invalid())?;
    if n < 0.0 || !n.is_finite() {
        return Err(invalid());
    }
    let power = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    let value = n * 1024_f64.powi(power);
    if value >= i64::MAX as f64 {
        return Err(invalid());
    }
    // in range: checked above; the fraction of a byte is cut as Go does
    Ok(value as i64)
}

/// `--memory-swap`: `-1` is without limit.
pub(crate) fn swap_bytes(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// `--cpus 1.5` in billionths of a CPU.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".into());
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| bad())?
    };
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|w| w.checked_add(nanos))
        .ok_or_else(bad)
}

/// Go's `time.ParseDuration`: `1h15m30.5s`.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let n: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += n * match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// `--since` and `--until`: seconds with fraction, RFC 3339 in its shorter forms too (local time
/// where no zone is given), or a duration before now. Returned as Docker sends it.
/// source: moby api/types/time `GetTimestamp`.
pub(crate) fn timestamp(text: &str, now: Timestamp) -> Result<String, String> {
    let bad = || {
        format!(
            "invalid time value \"{text}\": give a time, seconds since 1970, or a duration like 10m"
        )
    };
    if let Some(d) = go_duration(text) {
        let then = now - d;
        return Ok(stamp(then));
    }
    let numeric = text
        .split_once('.')
        .map_or(text, |(s, _)| s)
        .strip_prefix('-')
        .unwrap_or(text.split_once('.').map_or(text, |(s, _)| s));
    if !numeric.is_empty() && numeric.chars().all(|c| c.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    if let Ok(t) = text.parse::<Timestamp>() {
        return Ok(stamp(t));
    }
    // a zone with a date alone is a form of Docker's own: 2006-01-02Z07:00
    let (civil, zone) = match text.strip_suffix('Z') {
        Some(rest) => (rest, jiff::tz::TimeZone::UTC),
        None => (text, jiff::tz::TimeZone::system()),
    };
    let civil = match civil.len() {
        10 => format!("{civil}T00:00:00"),
        13 => format!("{civil}:00:00"),
        16 => format!("{civil}:00"),
        _ => civil.to_owned(),
    };
    civil
        .parse::<jiff::civil::DateTime>()
        .ok()
        .and_then(|dt| dt.to_zoned(zone).ok())
        .map(|z| stamp(z.timestamp()))
        .ok_or_else(bad)
}

/// Seconds and nanoseconds as the API takes them.
pub(crate) fn stamp(t: Timestamp) -> String {
    format!("{}.{:09}", t.as_second(), t.subsec_nanosecond())
}

/// An environment variable: `KEY=value`, or `KEY` from our own environment.
/// A key we do not have stays bare: the daemon then removes the image's.
pub(crate) fn env(text: &str) -> Result<String, String> {
    env_from(text, |name| std::env::var(name).ok())
}

fn env_from(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    Ok(lookup(text).map_or_else(|| text.to_owned(), |v| format!("{text}={v}")))
}

/// The lines of an environment or label file.
///
/// With `inherit`, a bare key takes our own value, and is dropped where we have none.
pub(crate) fn key_value_file(path: &Path, inherit: bool) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("open {}: {}", path.display(), reason(&e)))?;
    key_value_lines(&text, |name| {
        if inherit {
            std::env::var(name).ok()
        } else {
            Some(String::new())
        }
    })
    .map_err(|e| format!("invalid env file ({}): {e}", path.display()))
}

fn key_value_lines(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line.trim_end(), None),
        };
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(value) => out.push(format!("{name}={value}")),
            None => {
                if let Some(value) = lookup(name) {
                    out.push(format!("{name}={value}"));
                }
            }
        }
    }
    Ok(out)
}

/// `KEY=value` pairs where the key must be there.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.trim().is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(text.to_owned())
}

pub(crate) fn key_value(text: &str) -> (String, String) {
    let (k, v) = text.split_once('=').unwrap_or((text, ""));
    (k.to_owned(), v.to_owned())
}

/// `nofile=1024:2048`.
/// source: go-units `ParseUlimit`.
pub(crate) fn ulimit(text: &str) -> Result<(String, i64, i64), String> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |t: &str| {
        t.parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {t:?}: invalid syntax"))
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [one] => (number(one)?, number(one)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok((name.to_owned(), soft, hard))
}

/// `on-failure:3`.
pub(crate) fn restart_policy(text: &str) -> Result<(String, i64), String> {
    let Some((name, count)) = text.split_once(':') else {
        return Ok((text.to_owned(), 0));
    };
    if name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".into());
    }
    count
        .parse()
        .map(|n| (name.to_owned(), n))
        .map_err(|_| "invalid restart policy format: maximum retry count must be an integer".into())
}

/// `/dev/a[:/dev/b][:rwm]`.
pub(crate) fn device(text: &str) -> Result<(String, String, String), String> {
    let is_mode = |s: &str| !s.is_empty() && s.chars().all(|c| "rwm".contains(c));
    let parts: Vec<&str> = text.split(':').collect();
    let (from, to, mode) = match parts[..] {
        [from] => (from, from, "rwm"),
        [from, mode] if is_mode(mode) => (from, from, mode),
        [from, to] => (from, to, "rwm"),
        [from, to, mode] if is_mode(mode) => (from, to, mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    for path in [from, to] {
        if !path.starts_with('/') {
            return Err(format!("{path} is not an absolute path"));
        }
    }
    Ok((from.to_owned(), to.to_owned(), mode.to_owned()))
}

/// `/dev/sda:10mb` or, without `sized`, `/dev/sda:100`.
pub(crate) fn device_rate(text: &str, sized: bool) -> Result<(String, u64), String> {
    let (path, rate) = text
        .split_once(':')
        .filter(|(p, _)| !p.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let bad = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>{}. Number must be a positive integer",
            if sized { "[<unit>]" } else { "" }
        )
    };
    let rate = if sized {
        bytes(rate).ok().and_then(|n| u64::try_from(n).ok())
    } else {
        rate.parse().ok()
    };
    Ok((path.to_owned(), rate.ok_or_else(bad)?))
}

/// One line of CSV: commas separate, double quotes protect.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("starts with one field");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in '{text}'"));
    }
    Ok(fields)
}

/// Appends to a list that is absent while empty.
pub(crate) fn push<T>(list: &mut Option<Vec<T>>, item: T) -> Result<(), String> {
    list.get_or_insert_default().push(item);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, want) in [
            ("0", Ok(0)),
            ("32", Ok(32)),
            ("32b", Ok(32)),
            ("32B", Ok(32)),
            ("32k", Ok(32 << 10)),
            ("32kb", Ok(32 << 10)),
            ("32KiB", Ok(32 << 10)),
            ("1.5g", Ok(3 << 29)),
            ("32 MB", Ok(32 << 20)),
            ("1p", Ok(1 << 50)),
            ("x", Err("invalid size: 'x'")),
            ("", Err("invalid size: ''")),
            ("-1", Err("invalid size: '-1'")),
            ("1bb", Err("invalid suffix: 'bb'")),
            ("1kbb", Err("invalid suffix: 'kbb'")),
            ("1 m b", Err("invalid size: '1 m b'")),
        ] {
            assert_eq!(bytes(text), want.map_err(str::to_owned), "{text}");
        }
        assert_eq!(swap_bytes("-1"), Ok(-1));
    }

    #[test]
    fn cpus_are_exact() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus("0.000000001"), Ok(1));
        assert_eq!(cpus(".5"), Ok(500_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        assert_eq!(cpus("0.0000000001"), Err("value is too precise".into()));
        assert!(cpus("x").is_err());
        assert!(cpus("").is_err());
        assert!(cpus("99999999999").is_err());
    }

    #[test]
    fn durations_as_go_reads_them() {
        for (text, want) in [
            ("0", Some(0.0)),
            ("10s", Some(10.0)),
            ("1h15m30.5s", Some(4530.5)),
            ("1.5h", Some(5400.0)),
            ("300ms", Some(0.3)),
            ("10", None),
            ("", None),
            ("s", None),
            ("1x", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_secs_f64()), want, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        let now: Timestamp = "2024-05-06T07:08:09.5Z".parse().expect("a time");
        for (text, want) in [
            ("1136073600", "1136073600"),
            ("1136073600.000000001", "1136073600.000000001"),
            ("10m", "1714978689.500000000"),
            ("2006-01-02T15:04:05Z", "1136214245.000000000"),
            ("2006-01-02T15:04:05.25+01:00", "1136210645.250000000"),
            ("2006-01-02Z", "1136160000.000000000"),
            ("2006-01-02T15:04Z", "1136214240.000000000"),
        ] {
            assert_eq!(timestamp(text, now).as_deref(), Ok(want), "{text}");
        }
        assert!(timestamp("yesterday", now).is_err());
    }

    #[test]
    fn environment() {
        let lookup = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        assert_eq!(env_from("A=b=c", lookup), Ok("A=b=c".into()));
        assert_eq!(env_from("A=", lookup), Ok("A=".into()));
        assert_eq!(env_from("HOME", lookup), Ok("HOME=/h".into()));
        assert_eq!(env_from("NONE", lookup), Ok("NONE".into()));
        assert_eq!(
            env_from("=x", lookup),
            Err("invalid environment variable: =x".into())
        );
    }

    #[test]
    fn environment_files() {
        let lookup = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        let text = "\u{feff}# comment\n\n  A=b # kept\nHOME\nNONE\nC= \"x\" \r\n";
        assert_eq!(
            key_value_lines(text, lookup),
            Ok(vec![
                "A=b # kept".into(),
                "HOME=/h".into(),
                "C= \"x\" ".into()
            ])
        );
        assert_eq!(
            key_value_lines("a b=c", lookup),
            Err("variable 'a b' contains whitespaces".into())
        );
        assert_eq!(
            key_value_lines("=c", lookup),
            Err("no variable name on line '=c'".into())
        );
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=512:1024"), Ok(("nofile".into(), 512, 1024)));
        assert_eq!(ulimit("nofile=512"), Ok(("nofile".into(), 512, 512)));
        assert_eq!(ulimit("core=-1:-1"), Ok(("core".into(), -1, -1)));
        for text in [
            "x",
            "foo=1",
            "nofile=2:1",
            "nofile=1:2:3",
            "nofile=a",
            "nofile=-1:2",
        ] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn restart_policies() {
        assert_eq!(restart_policy("always"), Ok(("always".into(), 0)));
        assert_eq!(restart_policy("on-failure:3"), Ok(("on-failure".into(), 3)));
        assert!(restart_policy("on-failure:x").is_err());
        assert!(restart_policy(":1").is_err());
    }

    #[test]
    fn devices() {
        let d = |a: &str, b: &str, m: &str| Ok((a.to_owned(), b.to_owned(), m.to_owned()));
        assert_eq!(device("/dev/a"), d("/dev/a", "/dev/a", "rwm"));
        assert_eq!(device("/dev/a:r"), d("/dev/a", "/dev/a", "r"));
        assert_eq!(device("/dev/a:/dev/b"), d("/dev/a", "/dev/b", "rwm"));
        assert_eq!(device("/dev/a:/dev/b:rw"), d("/dev/a", "/dev/b", "rw"));
        assert!(device("/dev/a:/dev/b:x").is_err());
        assert!(device("a").is_err());
        assert_eq!(
            device_rate("/dev/a:1m", true),
            Ok(("/dev/a".into(), 1 << 20))
        );
        assert_eq!(device_rate("/dev/a:9", false), Ok(("/dev/a".into(), 9)));
        assert!(device_rate("/dev/a:9m", false).is_err());
        assert!(device_rate("x:9", false).is_err());
    }

    #[test]
    fn csv_fields() {
        assert_eq!(
            csv("a=1,\"b=2,3\",c"),
            Ok(vec!["a=1".into(), "b=2,3".into(), "c".into()])
        );
        assert_eq!(csv("\"a\"\"b\""), Ok(vec!["a\"b".into()]));
        assert!(csv("\"a").is_err());
    }
}
