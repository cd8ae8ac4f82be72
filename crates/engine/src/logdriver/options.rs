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

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        self.left.remove(key)
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

    /// `500ms`, `2s`, `1m`.
    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, Error> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let split = text.find(|c: char| c.is_ascii_alphabetic());
        let parsed = split.and_then(|at| {
            let number: f64 = text[..at].parse().ok()?;
            let unit = match &text[at..] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            Duration::try_from_secs_f64(number * unit).ok()
        });
        parsed
            .map(Some)
            .ok_or_else(|| self.wrong(key, text, "a time as 500ms, 2s or 1m"))
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

/// `10m`, `1g`, `512k`, plain bytes; `-1` is without limit.
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
    let count: u64 = digits.trim().parse().ok()?;
    count.checked_mul(unit).filter(|n| *n > 0)
}
