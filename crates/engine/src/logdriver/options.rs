//! A driver's options, taken one after the other: what is left over in the end is not known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::identity::{Chosen, Template};
use crate::error::Error;

/// Docker's default of `json-file` is without limit; nothing is without limit here.
const MAX_SIZE: u64 = 20 << 20;
const MAX_FILE: u32 = 5;
/// A reader looks no further, and a rotation renames all of them.
const MOST_FILES: u32 = 1000;
/// Of pauses and deadlines.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Options<'a> {
    driver: &'a str,
    left: BTreeMap<&'a str, &'a str>,
    /// All that were asked for: what the driver knows.
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    pub(super) fn new(driver: &'a str, options: &'a BTreeMap<String, String>) -> Self {
        Self {
            driver,
            left: options
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect(),
            known: Vec::new(),
        }
    }

    /// An empty value is none, as where a variable of a compose file is not set.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        self.left.remove(key).filter(|value| !value.is_empty())
    }

    pub(super) fn peek(&self, key: &str) -> Option<&'a str> {
        self.left
            .get(key)
            .copied()
            .filter(|value| !value.is_empty())
    }

    pub(super) fn wrong(&self, key: &str, value: &str, wanted: &str) -> Error {
        let what = format!("log opt {key} of the log driver {}", self.driver);
        Error::invalid(if value.is_empty() {
            format!("{what}: {wanted}")
        } else {
            format!("invalid value for {what}: {value}: {wanted}")
        })
    }

    pub(super) fn refused(&self, key: &str, value: &str, why: &str) -> Error {
        Error::unsupported(format!(
            "log opt {key}={value} of the log driver {}: {why}",
            self.driver
        ))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(Some(true)),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let number = text.parse().ok();
        number
            .map(Some)
            .ok_or_else(|| self.wrong(key, text, "a number"))
    }

    /// A pause or a deadline, as Go writes it (`500ms`, `1m30s`); absent where it is 0, which is the
    /// default. What is hardly any is made [`LEAST`].
    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let wanted = "a time as 500ms, 2s or 1m30s, at most 1h";
        let given = duration(text).ok_or_else(|| self.wrong(key, text, wanted))?;
        self.bounded(key, text, given)
    }

    /// The same, in whole seconds.
    pub(super) fn seconds(&mut self, key: &'static str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let given = text.parse().map(Duration::from_secs).ok();
        let wanted = "a number of seconds, at most 3600";
        let given = given.ok_or_else(|| self.wrong(key, text, wanted))?;
        self.bounded(key, text, given)
    }

    fn bounded(&self, key: &str, text: &str, given: Duration) -> Result<Option<Duration>, Error> {
        if given > MOST {
            return Err(self.wrong(key, text, "more than an hour"));
        }
        Ok((!given.is_zero()).then_some(given.max(LEAST)))
    }

    /// How much of the log is kept on disk: the options of Docker's cache where the log goes on.
    pub(super) fn kept(&mut self, forwarded: bool) -> Result<(u64, u32), Error> {
        let (size, file, compress) = if forwarded {
            ("cache-max-size", "cache-max-file", "cache-compress")
        } else {
            ("max-size", "max-file", "compress")
        };
        if self.flag(compress)? == Some(true) {
            return Err(self.refused(compress, "true", "rotated logs are not compressed"));
        }
        if forwarded && self.flag("cache-disabled")? == Some(true) {
            let why = "the log on disk is what goes on; bound it by cache-max-size";
            return Err(self.refused("cache-disabled", "true", why));
        }
        let max_size = match self.take(size) {
            None => MAX_SIZE,
            Some(text) => {
                bytes(text).ok_or_else(|| self.wrong(size, text, "a size as 512k or 10m, or -1"))?
            }
        };
        let max_file = match self.take(file) {
            None => MAX_FILE,
            Some(text) => {
                let number = text.parse().ok().filter(|n| (1..=MOST_FILES).contains(n));
                number.ok_or_else(|| self.wrong(file, text, "a number from 1 to 1000"))?
            }
        };
        self.mode(max_size, max_file)?;
        Ok((max_size, max_file))
    }

    /// A container never waits for its log, and what waits to go on does so on disk.
    fn mode(&mut self, max_size: u64, max_file: u32) -> Result<(), Error> {
        let mode = self.take("mode");
        let buffer = self.take("max-buffer-size");
        match mode {
            None | Some("non-blocking") => {}
            Some(other @ "blocking") => {
                let why =
                    "a container never waits for its log: what waits is on disk; leave it out";
                return Err(self.refused("mode", other, why));
            }
            Some(other) => return Err(self.wrong("mode", other, "blocking or non-blocking")),
        }
        let Some(text) = buffer else {
            return Ok(());
        };
        let key = "max-buffer-size";
        if mode.is_none() {
            return Err(self.wrong(key, text, "only together with mode=non-blocking"));
        }
        let wanted = bytes(text).ok_or_else(|| self.wrong(key, text, "a size as 4m"))?;
        let kept = max_size.saturating_mul(u64::from(max_file));
        if max_size > 0 && wanted > kept {
            let hint =
                "more than the log on disk holds, which is the buffer: raise its maximal size";
            return Err(self.wrong(key, text, hint));
        }
        Ok(())
    }

    pub(super) fn tag(&mut self) -> Result<Option<Template>, Error> {
        let Some(text) = self.take("tag").filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        Template::parse(text)
            .map(Some)
            .map_err(|why| self.wrong("tag", text, &why))
    }

    pub(super) fn chosen(&mut self) -> Result<Chosen, Error> {
        let list = |text: Option<&str>| -> Vec<String> {
            let parts = text.unwrap_or_default().split(',').map(str::trim);
            parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
        };
        Ok(Chosen {
            labels: list(self.take("labels")),
            env: list(self.take("env")),
            labels_regex: self.expression("labels-regex")?,
            env_regex: self.expression("env-regex")?,
        })
    }

    fn expression(&mut self, key: &'static str) -> Result<Option<String>, Error> {
        let Some(text) = self.take(key).filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        match regex_lite::Regex::new(text) {
            Ok(_) => Ok(Some(text.to_owned())),
            Err(e) => Err(self.wrong(key, text, &e.to_string())),
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        let Some(unknown) = self.left.keys().next() else {
            return Ok(());
        };
        self.known.sort_unstable();
        Err(Error::invalid(format!(
            "unknown log opt '{unknown}' for {} log driver ({})",
            self.driver,
            self.known.join(", ")
        )))
    }
}

/// `10m`, `1.5g`, `512KiB`, plain bytes; `-1` is without limit. The units are powers of 1024.
///
/// source: docker/go-units RAMInBytes
fn bytes(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(0);
    }
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(['b', 'i']);
    let (digits, unit) = match number.as_bytes().last()? {
        b'k' => (&number[..number.len() - 1], 1 << 10),
        b'm' => (&number[..number.len() - 1], 1 << 20),
        b'g' => (&number[..number.len() - 1], 1 << 30),
        _ => (number, 1),
    };
    let (whole, part) = match digits.trim().split_once('.') {
        Some((whole, part)) => (whole, part),
        None => (digits.trim(), ""),
    };
    let whole = digits_or_point(whole, part)?;
    let part = fraction(part, unit)?;
    let count = whole.checked_mul(unit)?.checked_add(part);
    count.filter(|n| *n > 0)
}

/// A sequence of numbers with units; `0` alone needs none.
///
/// source: Go time.ParseDuration
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: u64 = 0;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let whole = digits_or_point(whole, part)?.checked_mul(unit)?;
        nanos = nanos
            .checked_add(whole)?
            .checked_add(fraction(part, unit)?)?;
        if tail.is_empty() {
            return Some(Duration::from_nanos(nanos));
        }
        rest = tail;
    }
}

/// What stands before a decimal point: nothing, too, if something follows it. No sign, which Rust would
/// take.
fn digits_or_point(text: &str, part: &str) -> Option<u64> {
    if text.is_empty() && !part.is_empty() {
        Some(0)
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// Of `unit`: what follows a decimal point, cut off.
fn fraction(digits: &str, unit: u64) -> Option<u64> {
    let mut sum: u128 = 0;
    let mut scale: u128 = 1;
    for byte in digits.bytes().take(18) {
        if !byte.is_ascii_digit() {
            return None;
        }
        sum = sum * 10 + u128::from(byte - b'0');
        scale *= 10;
    }
    u64::try_from(sum * u128::from(unit) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("-1", Some(0)),
            ("100", Some(100)),
            ("10m", Some(10 << 20)),
            ("1.5m", Some(3 << 19)),
            ("1.5 MB", Some(3 << 19)),
            ("512KiB", Some(512 << 10)),
            ("0.5g", Some(1 << 29)),
            ("0", None),
            ("", None),
            ("m", None),
            ("-5", None),
            ("+5", None),
            ("1.x", None),
            ("99999999999g", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }

    #[test]
    fn durations() {
        let milliseconds = |n| Some(Duration::from_millis(n));
        for (text, wanted) in [
            ("0", milliseconds(0)),
            ("0s", milliseconds(0)),
            ("500ms", milliseconds(500)),
            ("1m30s", milliseconds(90_000)),
            ("1.5h", milliseconds(5_400_000)),
            (".5s", milliseconds(500)),
            (".s", None),
            ("100us", Some(Duration::from_micros(100))),
            ("100\u{b5}s", Some(Duration::from_micros(100))),
            ("1s5ns", Some(Duration::new(1, 5))),
            ("", None),
            ("soon", None),
            ("5", None),
            ("-1s", None),
            ("1s5", None),
            ("s", None),
        ] {
            assert_eq!(duration(text), wanted, "{text}");
        }
    }

    /// A pause of nothing would be a loop without one.
    #[test]
    fn a_pause_is_never_hardly_any() {
        for (given, wanted) in [
            ("0s", None),
            ("", None),
            ("1us", Some(LEAST)),
            ("2s", Some(Duration::from_secs(2))),
        ] {
            let map = [("fluentd-retry-wait".to_owned(), given.to_owned())].into();
            let pause = Options::new("fluentd", &map).duration("fluentd-retry-wait");
            assert_eq!(pause.unwrap(), wanted, "{given}");
        }
        let map = [("gelf-tcp-reconnect-delay".to_owned(), "0".to_owned())].into();
        let pause = Options::new("gelf", &map).seconds("gelf-tcp-reconnect-delay");
        assert_eq!(pause.unwrap(), None);
    }
}
