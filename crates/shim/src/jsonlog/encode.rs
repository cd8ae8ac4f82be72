//! One entry of the log as bytes, without allocating: what the shim runs for each line.

use super::Stream;

/// Docker splits lines at this length.
pub(crate) const MAX_PIECE: usize = 16 << 10;

/// Seconds and nanoseconds since 1970, UTC, by the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

impl Time {
    pub(crate) fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self {
            seconds: t.tv_sec,
            nanos: u32::try_from(t.tv_nsec).unwrap_or(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn since_epoch(d: std::time::Duration) -> Self {
        Self {
            seconds: i64::try_from(d.as_secs()).unwrap_or(0),
            nanos: d.subsec_nanos(),
        }
    }

    /// RFC 3339 with as many digits of the second's fraction as it needs, as Go's
    /// `time.RFC3339Nano` writes it.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        self.write_second(out);
        let mut digits = [0_u8; 9];
        let mut rest = self.nanos;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        let used = digits.iter().rposition(|d| *d != b'0').map_or(0, |i| i + 1);
        if used > 0 {
            out.push(b'.');
            out.extend_from_slice(&digits[..used]);
        }
        out.push(b'Z');
    }

    /// RFC 3339 with nine digits: times in records.
    pub(crate) fn rfc3339(self) -> String {
        use std::io::Write as _;
        let mut out = Vec::with_capacity(30);
        self.write_second(&mut out);
        // writing to a vector cannot fail
        drop(write!(out, ".{:09}Z", self.nanos));
        String::from_utf8(out).unwrap_or_default()
    }

    fn write_second(self, out: &mut Vec<u8>) {
        let days = self.seconds.div_euclid(86_400);
        let second = self.seconds.rem_euclid(86_400);
        let (year, month, day) = civil(days);
        for (value, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (second / 3_600, 2, b':'),
            (second / 60 % 60, 2, b':'),
        ] {
            decimal(out, value, width);
            out.push(after);
        }
        decimal(out, second % 60, 2);
    }
}

fn decimal(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_i64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

/// Year, month and day of a day number. Source: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Appends one entry: `text`, and a line's end unless it is a piece of a longer line. `attributes` is an
/// object in JSON, or empty.
pub(crate) fn entry(
    out: &mut Vec<u8>,
    stream: Stream,
    text: &[u8],
    whole: bool,
    time: Time,
    attributes: &str,
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    if whole {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
    if !attributes.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attributes.as_bytes());
    }
    out.extend_from_slice(b",\"time\":\"");
    time.write(out);
    out.extend_from_slice(b"\"}\n");
}

/// As Docker's encoder escapes: also `<`, `>`, `&` and the two separators JavaScript takes for
/// line ends; each byte that is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut from = 0;
        let mut at = 0;
        while at < valid.len() {
            let (length, replacement) = match valid[at] {
                b'"' => (1, Escape::Short(b'"')),
                b'\\' => (1, Escape::Short(b'\\')),
                b'\n' => (1, Escape::Short(b'n')),
                b'\r' => (1, Escape::Short(b'r')),
                b @ (0..=0x1f | b'<' | b'>' | b'&') => (1, Escape::Code(u16::from(b))),
                0xe2 if valid[at + 1] == 0x80 && valid[at + 2] & 0xfe == 0xa8 => {
                    (3, Escape::Code(0x2000 | u16::from(valid[at + 2] & 0x3f)))
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            out.extend_from_slice(&valid[from..at]);
            replacement.write(out);
            at += length;
            from = at;
        }
        out.extend_from_slice(&valid[from..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

enum Escape {
    Short(u8),
    Code(u16),
}

impl Escape {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Short(b) => out.extend_from_slice(&[b'\\', b]),
            Self::Code(code) => {
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    let digit = usize::from(code >> shift & 0xf);
                    out.push(b"0123456789abcdef"[digit]);
                }
            }
        }
    }
}

/// Cuts one output into entries. Feed it bytes; it keeps what has no line end yet, at most
/// [`MAX_PIECE`] bytes.
#[derive(Debug)]
pub(crate) struct Splitter {
    stream: Stream,
    held: Vec<u8>,
    /// A piece of this line has been given out, at this time.
    split_at: Option<Time>,
}

impl Splitter {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            held: Vec::new(),
            split_at: None,
        }
    }

    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        now: Time,
        mut give: impl FnMut(Stream, &[u8], bool, Time),
    ) {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.held.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                let time = self.split_at.take().unwrap_or(now);
                if self.held.is_empty() {
                    give(self.stream, &window[..end], true, time);
                } else {
                    self.held.extend_from_slice(&window[..end]);
                    give(self.stream, &self.held, true, time);
                    self.held.clear();
                }
                bytes = &bytes[end + 1..];
                continue;
            }
            self.held.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            if self.held.len() == MAX_PIECE {
                let keep = unfinished(&self.held);
                let time = *self.split_at.get_or_insert(now);
                give(self.stream, &self.held[..MAX_PIECE - keep], false, time);
                self.held.drain(..MAX_PIECE - keep);
            }
        }
    }

    /// What was fed and is in no entry yet.
    pub(crate) fn held(&self) -> (Stream, &[u8]) {
        (self.stream, &self.held)
    }

    /// What is held at the end of the output: a piece without line end.
    pub(crate) fn finish(&mut self, now: Time, give: impl FnOnce(Stream, &[u8], bool, Time)) {
        if !self.held.is_empty() {
            let time = self.split_at.take().unwrap_or(now);
            give(self.stream, &self.held, false, time);
            self.held = Vec::new();
        }
    }
}

/// How many bytes at the end are the beginning of a character: a piece does not cut one.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=3.min(bytes.len()) {
        let length = match bytes[bytes.len() - back] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if length > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &[u8], whole: bool) -> String {
        let mut out = Vec::new();
        entry(
            &mut out,
            Stream::Stdout,
            text,
            whole,
            Time {
                seconds: 1_790_000_000,
                nanos: 120_000_000,
            },
            "",
        );
        String::from_utf8(out).unwrap()
    }

    /// Byte for byte what dockerd's json-file driver writes.
    #[test]
    fn golden_lines() {
        assert_eq!(
            one(b"a \"b\" <c>\t\\", true),
            "{\"log\":\"a \\\"b\\\" \\u003cc\\u003e\\u0009\\\\\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-09-21T14:13:20.12Z\"}\n"
        );
        assert_eq!(
            one("\u{2028}é\x7f".as_bytes(), false),
            "{\"log\":\"\\u2028é\x7f\",\"stream\":\"stdout\",\"time\":\"2026-09-21T14:13:20.12Z\"}\n"
        );
        assert!(one(b"\xff\xe2\x80x", true).starts_with("{\"log\":\"\\ufffd\\ufffd\\ufffdx\\n\""));
    }

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut got = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, Time::default(), |_, b, w, _| {
                got.push((b.to_vec(), w));
            });
        }
        splitter.finish(Time::default(), |_, b, w, _| got.push((b.to_vec(), w)));
        got
    }

    #[test]
    fn long_lines_are_cut_at_16_kib() {
        let line = vec![b'x'; MAX_PIECE + 10];
        let got = split(&[&line, b"\n"]);
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].0.len(), got[0].1), (MAX_PIECE, false));
        assert_eq!((got[1].0.len(), got[1].1), (10, true));
        // a line of exactly the length is given out before its end is seen
        let got = split(&[&line[..MAX_PIECE], b"\n"]);
        assert_eq!(
            (got[0].0.len(), got[0].1, got[1].1),
            (MAX_PIECE, false, true)
        );
        assert!(got[1].0.is_empty());
    }

    #[test]
    fn a_piece_does_not_cut_a_character() {
        let mut line = vec![b'x'; MAX_PIECE - 2];
        line.extend_from_slice("€€\n".as_bytes());
        let got = split(&[&line]);
        assert_eq!(got[0].0.len(), MAX_PIECE - 2);
        assert_eq!(got[1].0, "€€".as_bytes());
    }

    proptest! {
        #[test]
        fn times_are_as_jiff_reads_them(seconds in 0_i64..16_725_225_600, nanos in 0_u32..1_000_000_000) {
            let time = Time { seconds, nanos };
            let wanted = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap()).unwrap();
            let mut out = Vec::new();
            time.write(&mut out);
            let text = String::from_utf8(out).unwrap();
            prop_assert_eq!(&text, &wanted.to_string());
            prop_assert_eq!(time.rfc3339().parse::<jiff::Timestamp>().unwrap(), wanted);
        }

        /// An entry is JSON, on one line, and says what the text says.
        #[test]
        fn entries_are_json(text in any::<String>(), whole in any::<bool>()) {
            let text = text.replace('\n', " ");
            let mut out = Vec::new();
            entry(&mut out, Stream::Stderr, text.as_bytes(), whole, Time::now(), "");
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let end = if whole { "\n" } else { "" };
            prop_assert_eq!(value["log"].as_str().unwrap(), format!("{text}{end}"));
        }

        #[test]
        fn any_bytes_give_json(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            entry(&mut out, Stream::Stderr, &text, true, Time::now(), "");
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }

        /// However the output comes in, the same text comes out, in the same pieces.
        #[test]
        fn splitting_loses_nothing(
            lines in proptest::collection::vec(0_usize..40_000, 0..6),
            cuts in proptest::collection::vec(1_usize..20_000, 1..8),
            ended in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for (i, length) in lines.iter().enumerate() {
                text.extend(std::iter::repeat_n(b'a' + u8::try_from(i).unwrap(), *length));
                text.push(b'\n');
            }
            if !ended { text.pop(); }
            let mut chunks = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (a, b) = rest.split_at((*cut).min(rest.len()));
                chunks.push(a);
                rest = b;
            }
            let got = split(&chunks);
            let joined: Vec<u8> = got.iter().flat_map(|(bytes, whole)| {
                let mut bytes = bytes.clone();
                if *whole { bytes.push(b'\n'); }
                bytes
            }).collect();
            prop_assert_eq!(&joined, &text);
            prop_assert_eq!(got, split(&[&text]));
        }
    }
}
