//! Times as the API writes and reads them.

use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;

/// `since` and `until`: seconds with an optional fraction, or RFC 3339. Nanoseconds since 1970.
/// Clients turn durations (`10m`) into this themselves.
pub(crate) fn parse(name: &str, text: &str) -> Result<i128, Failure> {
    let wrong = || {
        Failure::invalid(format!(
            "{name}: {text:?} is not a time such as 1700000000.5 or 2024-01-02T03:04:05Z"
        ))
    };
    if text.contains('T') {
        return text
            .parse::<Timestamp>()
            .map(Timestamp::as_nanosecond)
            .map_err(|_| wrong());
    }
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty()
        || seconds.len() > 15
        || fraction.len() > 9
        || !all_digits(seconds)
        || !all_digits(fraction)
    {
        return Err(wrong());
    }
    let seconds: i128 = seconds.parse().map_err(|_| wrong())?;
    let nanos: i128 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let sum = seconds * 1_000_000_000 + nanos;
    Ok(if negative { -sum } else { sum })
}

/// `0` and absent both mean "not given", as in dockerd.
pub(crate) fn optional(name: &str, text: Option<&str>) -> Result<Option<i128>, Failure> {
    match text {
        None | Some("" | "0") => Ok(None),
        Some(text) => parse(name, text).map(Some),
    }
}

/// Nine digits of a second always: what log lines carry, so that columns line up.
pub(crate) fn nine_digits(rfc3339: &str) -> String {
    match rfc3339.parse::<Timestamp>() {
        Ok(time) => format!("{time:.9}"),
        Err(_) => rfc3339.to_owned(),
    }
}

/// Seconds since 1970 of an RFC 3339 time; 0 where it is none.
pub(crate) fn seconds(rfc3339: &str) -> i64 {
    rfc3339.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

pub(crate) fn format(nanoseconds: i128) -> String {
    Timestamp::from_nanosecond(nanoseconds).map_or_else(
        |_| api::container::NO_TIME.to_owned(),
        |time| time.to_string(),
    )
}

pub(crate) fn now() -> i128 {
    Timestamp::now().as_nanosecond()
}

/// How long ago, in Docker's words: "4 minutes", "About an hour".
pub(crate) fn ago(rfc3339: &str) -> String {
    let Ok(then) = rfc3339.parse::<Timestamp>() else {
        return "unknown time".to_owned();
    };
    words(Timestamp::now().duration_since(then))
}

fn words(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let minutes = seconds / 60;
    // rounded, as Go's units are
    let hours = (span.as_secs_f64().max(0.0) / 3600.0).round();
    #[expect(clippy::cast_possible_truncation, reason = "hours since 1970 fit")]
    let hours = hours as i64;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse("since", "1.5").unwrap(), 1_500_000_000);
        assert_eq!(
            parse("since", "1136073600.000000001").unwrap(),
            1_136_073_600_000_000_001
        );
        assert_eq!(
            parse("since", "1970-01-01T00:00:01Z").unwrap(),
            1_000_000_000
        );
        assert_eq!(
            parse("since", "1970-01-01T01:00:00.5+01:00").unwrap(),
            500_000_000
        );
        for bad in ["", "x", "1.x", "1.0000000001", "99999999999999999999", "T"] {
            assert!(parse("since", bad).is_err(), "{bad}");
        }
        assert_eq!(optional("until", Some("0")).unwrap(), None);
    }

    #[test]
    fn times_are_written() {
        assert_eq!(
            nine_digits("2024-01-02T03:04:05.5Z"),
            "2024-01-02T03:04:05.500000000Z"
        );
        assert_eq!(seconds("1970-01-01T00:01:00Z"), 60);
        assert_eq!(format(1_000_000_001), "1970-01-01T00:00:01.000000001Z");
    }

    #[test]
    fn durations_in_words() {
        let all: Vec<String> = [
            0, 1, 59, 60, 119, 120, 3540, 3600, 5000, 7200, 172_000, 172_800, 1_300_000, 5_000_000,
            40_000_000, 90_000_000,
        ]
        .map(|s| format!("{s} {}", words(SignedDuration::from_secs(s))))
        .to_vec();
        insta::assert_snapshot!(all.join("\n"));
    }
}
