//! GELF 1.1: over UDP compressed and in chunks, over TCP ended by a zero byte.
//!
//! source: go2docs.graylog.org "GELF"; moby daemon/logger/gelf

use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value, json};
use shim::jsonlog::Stream;

use super::address::{Address, split};
use super::message::{Message, Speaker};
use super::options::Options;
use crate::error::Error;

/// A datagram that every path carries.
const CHUNK: usize = 1420;
const CHUNK_HEAD: usize = 12;
const MOST_CHUNKS: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) address: Address,
    compression: Kind,
    level: u32,
    /// Between two attempts to connect; absent: with a growing pause.
    pub(super) pause: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gzip,
    Zlib,
    None,
}

pub(super) fn settings(options: &mut Options<'_>) -> Result<Settings, Error> {
    let text = options.take("gelf-address").unwrap_or_default();
    let wrong = |options: &Options<'_>, why: &str| options.wrong("gelf-address", text, why);
    if text.is_empty() {
        return Err(wrong(
            options,
            "is needed: udp://host:port or tcp://host:port",
        ));
    }
    let (scheme, rest) = split(text, None).map_err(|e| wrong(options, &e))?;
    let address = match scheme {
        "udp" => Address::Udp(rest),
        "tcp" => Address::Tcp(rest),
        _ => return Err(wrong(options, "udp://host:port or tcp://host:port")),
    };
    let udp = matches!(address, Address::Udp(_));
    let kind = options.take("gelf-compression-type");
    let level: Option<i32> = options.number("gelf-compression-level")?;
    if let Some(kind) = kind.filter(|k| !udp && *k != "none") {
        let why = "nothing is compressed over TCP: only none";
        return Err(options.wrong("gelf-compression-type", kind, why));
    }
    if let Some(level) = level.filter(|l| !udp || !(-1..=9).contains(l)) {
        let why = "-1 to 9, over UDP";
        return Err(options.wrong("gelf-compression-level", &level.to_string(), why));
    }
    let compression = match kind {
        _ if !udp => Kind::None,
        None | Some("gzip") => Kind::Gzip,
        Some("zlib") => Kind::Zlib,
        Some("none") => Kind::None,
        Some(other) => {
            return Err(options.wrong("gelf-compression-type", other, "gzip, zlib or none"));
        }
    };
    if let Some(text) = options.take("gelf-tcp-max-reconnect") {
        let why = "a sink is tried until it is back; leave it out";
        return Err(options.refused("gelf-tcp-max-reconnect", text, why));
    }
    let key = "gelf-tcp-reconnect-delay";
    if let Some(text) = options.peek(key).filter(|_| udp) {
        return Err(options.wrong(key, text, "only over TCP"));
    }
    let pause = options.seconds(key)?;
    // -1 is zlib's own default, 6; Docker's is the fastest
    let level = level.map_or(1, |l| u32::try_from(l).unwrap_or(6));
    Ok(Settings {
        address,
        compression,
        level,
        pause,
    })
}

/// The datagrams, or the piece of the stream.
pub(super) fn encode(
    settings: &Settings,
    speaker: &Speaker,
    message: &Message<'_>,
) -> Result<Vec<Vec<u8>>, String> {
    let mut text = document(speaker, message).to_string().into_bytes();
    if matches!(settings.address, Address::Tcp(_)) {
        text.push(0);
        return Ok(vec![text]);
    }
    let level = Compression::new(settings.level);
    let packed = match settings.compression {
        Kind::None => Ok(text),
        Kind::Gzip => {
            let mut to = GzEncoder::new(Vec::new(), level);
            to.write_all(&text).and_then(|()| to.finish())
        }
        Kind::Zlib => {
            let mut to = ZlibEncoder::new(Vec::new(), level);
            to.write_all(&text).and_then(|()| to.finish())
        }
    };
    let packed = packed.map_err(|e| e.to_string())?;
    if packed.len() <= CHUNK {
        return Ok(vec![packed]);
    }
    chunks(&packed, &speaker.identity.id, message)
}

fn chunks(packed: &[u8], container: &str, message: &Message<'_>) -> Result<Vec<Vec<u8>>, String> {
    let parts = packed.chunks(CHUNK - CHUNK_HEAD);
    let count = parts.len();
    let count = u8::try_from(count)
        .ok()
        .filter(|n| usize::from(*n) <= MOST_CHUNKS)
        .ok_or_else(|| format!("{count} chunks: GELF takes {MOST_CHUNKS} at most"))?;
    // a message that goes a second time has its first number: the sink puts one together
    let mut hash = std::hash::DefaultHasher::new();
    (container, message.position, message.time).hash(&mut hash);
    let id = hash.finish().to_le_bytes();
    Ok(parts
        .zip(0_u8..)
        .map(|(part, number)| {
            let mut out = vec![0x1e, 0x0f];
            out.extend_from_slice(&id);
            out.extend_from_slice(&[number, count]);
            out.extend_from_slice(part);
            out
        })
        .collect())
}

fn document(speaker: &Speaker, message: &Message<'_>) -> Value {
    let identity = &speaker.identity;
    let level = match message.stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    };
    let line = String::from_utf8_lossy(message.line);
    // GELF knows no empty message: Graylog drops one
    let line = if line.is_empty() { "-".into() } else { line };
    let mut out = Map::new();
    let milliseconds = message.time.as_millisecond();
    // exact: 53 bits hold milliseconds for longer than there are dates
    let seconds = milliseconds as f64 / 1000.0;
    for (key, value) in [
        ("version", json!("1.1")),
        ("host", json!(speaker.host)),
        ("short_message", json!(line)),
        ("timestamp", json!(seconds)),
        ("level", json!(level)),
        ("_container_id", json!(identity.id)),
        ("_container_name", json!(identity.name)),
        ("_image_id", json!(identity.image_id)),
        ("_image_name", json!(identity.image)),
        ("_command", json!(identity.command)),
        ("_tag", json!(speaker.tag)),
        ("_created", json!(identity.created)),
    ] {
        out.insert(key.to_owned(), value);
    }
    // over what the driver says, as in Docker
    for (key, value) in &identity.attributes {
        let key = if key.starts_with('_') {
            key.clone()
        } else {
            format!("_{key}")
        };
        out.insert(key, json!(value));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::logdriver::message::tests::{message, speaker};

    fn of(options: &[(&str, &str)]) -> Settings {
        let map = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        settings(&mut Options::new("gelf", &map)).unwrap()
    }

    #[test]
    fn a_document() {
        let mut speaker = speaker();
        speaker.identity.attributes = [("tier".to_owned(), "1".to_owned())].into();
        insta::assert_json_snapshot!(document(&speaker, &message(b"hello")));
    }

    #[test]
    fn an_empty_line_is_a_dash() {
        let document = document(&speaker(), &message(b""));
        assert_eq!(document["short_message"], "-");
    }

    /// Pieces of a line have one time.
    #[test]
    fn each_message_in_chunks_has_an_id_of_its_own() {
        let plain = of(&[
            ("gelf-address", "udp://h:1"),
            ("gelf-compression-type", "none"),
        ]);
        let line = vec![b'y'; 16 << 10];
        let id = |offset, container: &str| {
            let (mut message, mut speaker) = (message(&line), speaker());
            message.position.offset = offset;
            speaker.identity.id = container.to_owned();
            encode(&plain, &speaker, &message).unwrap()[0][2..10].to_vec()
        };
        assert_ne!(id(1, "a"), id(2, "a"));
        assert_ne!(id(1, "a"), id(1, "b"));
        assert_eq!(id(1, "a"), id(1, "a"));
    }

    #[test]
    fn datagrams_are_compressed_and_cut() {
        let speaker = speaker();
        let short = encode(
            &of(&[("gelf-address", "udp://h:1")]),
            &speaker,
            &message(b"x"),
        )
        .unwrap();
        assert_eq!((short.len(), &short[0][..2]), (1, &[0x1f, 0x8b][..]));
        let mut text = String::new();
        let mut gunzip = flate2::read::GzDecoder::new(&short[0][..]);
        gunzip.read_to_string(&mut text).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap()["short_message"],
            "x"
        );

        let line = vec![b'y'; 16 << 10];
        let plain = [
            ("gelf-address", "udp://h:1"),
            ("gelf-compression-type", "none"),
        ];
        let cut = encode(&of(&plain), &speaker, &message(&line)).unwrap();
        assert!(cut.len() > 10 && cut.iter().all(|c| c.len() <= CHUNK));
        let whole: Vec<u8> = cut.iter().flat_map(|c| &c[CHUNK_HEAD..]).copied().collect();
        let document: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(
            document["short_message"].as_str().unwrap().len(),
            line.len()
        );
        for (number, chunk) in cut.iter().enumerate() {
            assert_eq!(&chunk[..2], [0x1e, 0x0f]);
            assert_eq!(&chunk[2..10], &cut[0][2..10]);
            assert_eq!(
                (usize::from(chunk[10]), usize::from(chunk[11])),
                (number, cut.len())
            );
        }
    }

    #[test]
    fn over_tcp_a_zero_ends_it() {
        let out = encode(
            &of(&[("gelf-address", "tcp://h:1")]),
            &speaker(),
            &message(b"x"),
        )
        .unwrap();
        assert_eq!(out[0].iter().filter(|b| **b == 0).count(), 1);
        assert_eq!(out[0].last(), Some(&0));
    }
}
