//! fluentd's forward protocol, in its forward mode: a batch of entries for one tag.
//!
//! source: fluent/fluentd "Forward Protocol Specification v1"; moby daemon/logger/fluentd

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use shim::jsonlog::Stream;

use super::address::{Address, split};
use super::connection::{Connection, deadline};
use super::message::{Item, Message, Speaker};
use super::options::Options;
use super::outlet::MOST_BYTES;
use crate::error::Error;

const PORT: u16 = 24224;
const DEFAULT: &str = "tcp://127.0.0.1:24224";
/// More than any acknowledgement.
const MOST_ANSWER: usize = 4096;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) address: Address,
    sub_second: bool,
    pub(super) request_ack: bool,
    /// Before the second attempt.
    pub(super) pause: Option<Duration>,
    pub(super) write_within: Option<Duration>,
    /// For an acknowledgement.
    answer_within: Option<Duration>,
}

pub(super) fn settings(options: &mut Options<'_>) -> Result<Settings, Error> {
    let text = options.take("fluentd-address").unwrap_or(DEFAULT);
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("tcp://{text}")
    };
    let wrong = |why: &str| options.wrong("fluentd-address", text, why);
    let (scheme, rest) = split(&with_scheme, Some(PORT)).map_err(|e| wrong(&e))?;
    let address = match scheme {
        "tcp" => Address::Tcp(rest),
        "unix" => Address::Unix(rest.into()),
        "tls" => {
            let why = "TLS to fluentd is not built: tcp:// or unix://";
            return Err(options.refused("fluentd-address", text, why));
        }
        _ => return Err(wrong("host:port, tcp://host:port or unix:///path")),
    };
    for key in ["fluentd-async", "fluentd-async-connect"] {
        if options.flag(key)? == Some(false) {
            let why = "a container never waits for its sink: only true";
            return Err(options.refused(key, "false", why));
        }
    }
    for (key, why) in [
        (
            "fluentd-buffer-limit",
            "what waits is on disk: bound it by cache-max-size",
        ),
        (
            "fluentd-max-retries",
            "a sink is tried until it is back; leave it out",
        ),
        (
            "fluentd-async-reconnect-interval",
            "a connection is kept while it works; leave it out",
        ),
    ] {
        if let Some(text) = options.take(key) {
            return Err(options.refused(key, text, why));
        }
    }
    Ok(Settings {
        address,
        sub_second: options.flag("fluentd-sub-second-precision")? == Some(true),
        request_ack: options.flag("fluentd-request-ack")? == Some(true),
        pause: options.duration("fluentd-retry-wait")?,
        write_within: options.duration("fluentd-write-timeout")?,
        answer_within: options.duration("fluentd-read-timeout")?,
    })
}

/// One batch: `[tag, [[time, record], ...], {"chunk": id}]`, the id, and how many entries it has. The
/// id names the entries, so that of all batches only one that goes a second time has it again.
pub(super) fn encode(
    settings: &Settings,
    speaker: &Speaker,
    items: &[Item<'_>],
) -> (Vec<u8>, Option<String>, usize) {
    let mut records = Vec::new();
    let mut count = 0;
    for Item { message, .. } in items {
        let before = records.len();
        array(&mut records, 2);
        time(&mut records, message.time, settings.sub_second);
        record(&mut records, speaker, message);
        if count > 0 && records.len() > MOST_BYTES {
            records.truncate(before);
            break;
        }
        count += 1;
    }
    let mut out = Vec::with_capacity(records.len() + 256);
    array(&mut out, if settings.request_ack { 3 } else { 2 });
    text(&mut out, speaker.tag.as_bytes());
    array(&mut out, count);
    out.append(&mut records);
    let ends = items.first().zip(items[..count].last());
    let chunk = ends.filter(|_| settings.request_ack).map(|(first, last)| {
        let (first, last) = (first.message.position, last.message.position);
        let (id, inode) = (speaker.identity.short_id(), first.inode);
        format!(
            "{id}-{inode:x}-{:x}-{:x}-{count}",
            first.offset, last.offset
        )
    });
    if let Some(id) = &chunk {
        map(&mut out, 1);
        text(&mut out, b"chunk");
        text(&mut out, id.as_bytes());
    }
    (out, chunk, count)
}

/// Waits for `{"ack": id}`.
pub(super) async fn acknowledged(
    settings: &Settings,
    connection: &mut Connection,
    id: &str,
) -> io::Result<()> {
    let limit = settings.answer_within.unwrap_or(ANSWER_WITHIN);
    let wait = async {
        let mut got = Vec::new();
        let mut buffer = [0; 512];
        while !got.windows(id.len()).any(|part| part == id.as_bytes()) {
            let n = connection.read(&mut buffer).await?;
            if n == 0 || got.len() > MOST_ANSWER {
                return Err(io::Error::other("the sink did not acknowledge the batch"));
            }
            got.extend_from_slice(&buffer[..n]);
        }
        Ok(())
    };
    deadline(limit, "be acknowledged", wait).await
}

fn record(out: &mut Vec<u8>, speaker: &Speaker, message: &Message<'_>) {
    let identity = &speaker.identity;
    let name = format!("/{}", identity.name);
    let source: &[u8] = match message.stream {
        Stream::Stdout => b"stdout",
        Stream::Stderr => b"stderr",
    };
    // what the user chose goes over what the driver says, as in Docker
    let mut fields: BTreeMap<&[u8], Cow<'_, [u8]>> = [
        (&b"container_id"[..], identity.id.as_bytes()),
        (b"container_name", name.as_bytes()),
        (b"source", source),
        (b"log", message.line),
    ]
    .map(|(key, value)| (key, value.into()))
    .into();
    let own = identity.attributes.iter();
    fields.extend(own.map(|(k, v)| (k.as_bytes(), v.as_bytes().into())));
    if let Some(part) = &message.part {
        let ordinal = part.ordinal.to_string().into_bytes();
        let last = part.last.to_string().into_bytes();
        fields.extend([
            (&b"partial_message"[..], b"true"[..].into()),
            (b"partial_id", part.id.as_bytes().into()),
            (b"partial_ordinal", ordinal.into()),
            (b"partial_last", last.into()),
        ]);
    }
    map(out, fields.len());
    for (key, value) in fields {
        text(out, key);
        text(out, &value);
    }
}

// ---- MessagePack, source: msgpack/spec.md

fn array(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=15) => out.push(0x90 | short),
        _ => {
            out.push(0xdd);
            long(out, length);
        }
    }
}

fn map(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=15) => out.push(0x80 | short),
        _ => {
            out.push(0xdf);
            long(out, length);
        }
    }
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(short @ 0..=31) => out.push(0xa0 | short),
        Ok(short) => out.extend_from_slice(&[0xd9, short]),
        Err(_) => {
            out.push(0xdb);
            long(out, value.len());
        }
    }
    out.extend_from_slice(value);
}

/// No batch is that long: a line has 16 KiB, a batch some hundreds of them.
fn long(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// Seconds, or the protocol's `EventTime`.
fn time(out: &mut Vec<u8>, at: jiff::Timestamp, sub_second: bool) {
    let seconds = u32::try_from(at.as_second()).unwrap_or(0);
    if sub_second {
        out.extend_from_slice(&[0xd7, 0x00]);
        out.extend_from_slice(&seconds.to_be_bytes());
        let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
        out.extend_from_slice(&nanos.to_be_bytes());
    } else {
        out.push(0xce);
        out.extend_from_slice(&seconds.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logdriver::message::tests::{item, message, speaker};

    fn asking() -> Settings {
        let mut options = BTreeMap::new();
        options.insert("fluentd-sub-second-precision".to_owned(), "true".to_owned());
        options.insert("fluentd-request-ack".to_owned(), "true".to_owned());
        settings(&mut Options::new("fluentd", &options)).unwrap()
    }

    #[test]
    fn a_batch() {
        let long = vec![b'z'; 300];
        let items = [item(message(b"a")), item(message(&long))];
        let (bytes, chunk, count) = encode(&asking(), &speaker(), &items);
        assert_eq!(count, 2);
        // [tag, [two], ...
        assert_eq!(&bytes[..6], b"\x93\xa3web\x92");
        // [EventTime, {4 fields
        assert_eq!(&bytes[6..9], b"\x92\xd7\x00");
        assert_eq!(bytes[17], 0x84);
        let tail = chunk.unwrap();
        assert!(bytes.ends_with(tail.as_bytes()));
        let mut log = b"\xa3log\xdb\x00\x00\x01\x2c".to_vec();
        log.extend_from_slice(&long);
        assert!(bytes.windows(log.len()).any(|w| w == log));
    }

    /// Batches of entries of one time, as the pieces of a line are.
    #[test]
    fn each_batch_has_an_id_of_its_own() {
        let at = |offset| {
            let mut message = message(b"a");
            message.position.offset = offset;
            item(message)
        };
        let id = |items: &[Item<'_>]| encode(&asking(), &speaker(), items).1.unwrap();
        let (first, second) = ([at(10), at(20)], [at(30), at(40)]);
        assert_ne!(id(&first), id(&second));
        assert_ne!(id(&first), id(&first[..1]));
        assert_eq!(id(&first), id(&[at(10), at(20)]));
    }

    /// What an entry brings along counts, too: so many at once would be much.
    #[test]
    fn a_batch_has_an_end() {
        let mut speaker = speaker();
        let long = ("k".to_owned(), "v".repeat(MOST_BYTES / 4));
        speaker.identity.attributes = [long].into();
        let items: Vec<_> = (0..10).map(|_| item(message(b"a"))).collect();
        let (bytes, _, count) = encode(&asking(), &speaker, &items);
        assert_eq!(count, 3);
        assert!(bytes.len() < MOST_BYTES + 1024);
        // one goes, whatever it brings along
        let huge = ("k".to_owned(), "v".repeat(2 * MOST_BYTES));
        speaker.identity.attributes = [huge].into();
        assert_eq!(encode(&asking(), &speaker, &items).2, 1);
    }

    #[test]
    fn a_chosen_attribute_is_the_only_one_of_its_name() {
        let mut speaker = speaker();
        speaker.identity.attributes = [("source".to_owned(), "mine".to_owned())].into();
        let (bytes, ..) = encode(&asking(), &speaker, &[item(message(b"a"))]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(text.matches("source").count(), 1, "{text}");
        assert!(text.contains("mine") && !text.contains("stdout"), "{text}");
    }
}
