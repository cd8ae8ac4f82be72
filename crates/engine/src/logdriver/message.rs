//! Entries of the log as a sink gets them, and how far the log has gone on.

use std::io;

use serde::{Deserialize, Serialize};
use shim::jsonlog::{Entry, LogMark, LogPosition, Stream};

use super::identity::Identity;

/// Who speaks, for all entries.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    pub(super) identity: Identity,
    pub(super) tag: String,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) zone: jiff::tz::TimeZone,
    /// Within it the ordinals of entries are unique.
    pub(super) epoch: String,
}

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Message<'a> {
    pub(super) stream: Stream,
    pub(super) time: jiff::Timestamp,
    /// Without its end.
    pub(super) line: &'a [u8],
    pub(super) part: Option<Part>,
    /// Its end in the log, which tells it from all others.
    pub(super) position: LogPosition,
    /// From 1; that of an entry that goes a second time is the same.
    pub(super) ordinal: u64,
}

/// Of a line that was too long for one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) ordinal: u32,
    pub(super) last: bool,
}

/// Which piece of a long line comes next, for each stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Parts {
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<Part>,
}

impl Parts {
    fn part(&mut self, entry: &Entry, last: bool) -> Option<Part> {
        let open = match entry.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let part = match open.take() {
            Some(before) => Some(Part {
                ordinal: before.ordinal + 1,
                last,
                ..before
            }),
            // all pieces of a line have its first one's time
            None if !last => Some(Part {
                id: format!("{:x}", entry.time.as_nanosecond()),
                ordinal: 1,
                last,
            }),
            None => None,
        };
        if !last {
            open.clone_from(&part);
        }
        part
    }
}

/// How far a log has gone on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// The last entry that has.
    pub(super) mark: LogMark,
    /// The ordinal of that.
    pub(super) count: u64,
    /// Of the lines that it was in the middle of.
    pub(super) parts: Parts,
}

/// A message, and how far the log has gone on with it.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) message: Message<'a>,
    pub(super) after: Option<Progress>,
}

/// `from`: what has gone on before. `notice` goes first: something is missing before these entries.
pub(super) fn items<'a>(
    entries: &'a [Entry],
    notice: Option<&'a Entry>,
    from: Option<&Progress>,
) -> Vec<Item<'a>> {
    let mut count = from.map_or(0, |p| p.count);
    let mut parts = from.map_or_else(Parts::default, |p| p.parts.clone());
    let said = notice.map(|entry| {
        // the rest of a line that was begun is gone
        parts = Parts::default();
        count += 1;
        let message = message(entry, None, count);
        let after = from.map(|p| Progress { count, ..p.clone() });
        Item { message, after }
    });
    let rest = entries.iter().map(|entry| {
        count += 1;
        let part = parts.part(entry, entry.bytes.ends_with(b"\n"));
        let after = Some(Progress {
            mark: LogMark {
                position: entry.end,
                time: entry.time,
            },
            count,
            parts: parts.clone(),
        });
        Item {
            message: message(entry, part, count),
            after,
        }
    });
    said.into_iter().chain(rest).collect()
}

fn message(entry: &Entry, part: Option<Part>, ordinal: u64) -> Message<'_> {
    Message {
        stream: entry.stream,
        time: entry.time,
        line: entry.bytes.strip_suffix(b"\n").unwrap_or(&entry.bytes),
        part,
        position: entry.end,
        ordinal,
    }
}

/// What a sink is told where entries are gone before one.
pub(super) fn notice(before: &Entry) -> Entry {
    Entry {
        stream: Stream::Stderr,
        time: before.time,
        end: before.end,
        bytes:
            b"plimsoll: entries may be missing here: the log was rotated before they could go on\n"
                .to_vec(),
        attributes: std::collections::BTreeMap::new(),
    }
}

/// Why entries did not go on.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// From where they go once more.
    pub(super) resume: Option<Progress>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn speaker() -> Speaker {
        Speaker {
            identity: Identity {
                id: "0123456789abcdef".to_owned(),
                name: "web".to_owned(),
                image_id: "sha256:ab".to_owned(),
                image: "busybox".to_owned(),
                command: "sh -c x".to_owned(),
                created: "2026-01-02T03:04:05Z".to_owned(),
                ..Identity::default()
            },
            tag: "web".to_owned(),
            host: "host".to_owned(),
            pid: 7,
            zone: jiff::tz::TimeZone::UTC,
            epoch: "e".to_owned(),
        }
    }

    pub(crate) fn message(line: &[u8]) -> Message<'_> {
        Message {
            stream: Stream::Stdout,
            time: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
            line,
            part: None,
            position: LogPosition {
                inode: 10,
                offset: 171,
            },
            ordinal: 1,
        }
    }

    pub(crate) fn item(message: Message<'_>) -> Item<'_> {
        Item {
            message,
            after: None,
        }
    }

    fn entry(stream: Stream, text: &str) -> Entry {
        Entry {
            stream,
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            bytes: text.into(),
            end: LogPosition {
                inode: 1,
                offset: 0,
            },
            attributes: std::collections::BTreeMap::new(),
        }
    }

    /// Whoever goes on in the middle of a line, goes on numbering.
    #[test]
    fn pieces_of_a_line_are_numbered() {
        let entries = [
            (Stream::Stdout, "a\n"),
            (Stream::Stdout, "b"),
            (Stream::Stderr, "c\n"),
            (Stream::Stdout, "d"),
            (Stream::Stdout, "e\n"),
            (Stream::Stdout, "f\n"),
        ]
        .map(|(stream, text)| entry(stream, text));
        let want = [
            (1, None),
            (2, Some((1, false))),
            (3, None),
            (4, Some((2, false))),
            (5, Some((3, true))),
            (6, None),
        ];
        for cut in 0..=entries.len() {
            let first = items(&entries[..cut], None, None);
            let from = first.last().and_then(|i| i.after.clone());
            let rest = items(&entries[cut..], None, from.as_ref());
            let said: Vec<_> = first
                .iter()
                .chain(&rest)
                .map(|i| {
                    let part = i.message.part.as_ref().map(|p| (p.ordinal, p.last));
                    (i.message.ordinal, part)
                })
                .collect();
            assert_eq!(said, want, "{cut}");
        }
    }
}
