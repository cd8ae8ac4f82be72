//! Bytes to the socket, and what came back: no client library stands between.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// More than this is not read of an answer.
const MOST: usize = 4 * 1024 * 1024;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Of HEAD, which has none.
    pub(super) is_head: bool,
}

impl Answer {
    pub(super) fn shown(&self) -> String {
        let body = self.body[..self.body.len().min(600)].escape_ascii();
        format!("{}\n{body}", self.head)
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By the engine.
    Closed,
    /// By us: no more patience, or enough read.
    HungUp,
}

/// What is sent on a connection, and how long an answer is waited for.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    /// Whether the requests, in their order, are HEAD: their answers have no bodies.
    pub(super) heads: Vec<bool>,
    /// Nothing comes after it, and the engine is told.
    pub(super) ends: bool,
    pub(super) patience: Duration,
}

/// Everything that was answered, as bytes.
pub(super) fn exchange(socket: &Path, sent: &Sent) -> std::io::Result<(Vec<u8>, End)> {
    let mut stream = UnixStream::connect(socket)?;
    let until = Instant::now() + sent.patience;
    stream.set_write_timeout(Some(sent.patience.min(Duration::from_secs(5))))?;
    // the engine may refuse before it has read everything: its answer tells why
    let _refused = stream.write_all(&sent.bytes);
    if sent.ends {
        let _gone = stream.shutdown(Shutdown::Write);
    }
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || all.len() > MOST {
            return Ok((all, End::HungUp));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((all, End::Closed)),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok((all, End::Closed));
            }
            Err(_) => return Ok((all, End::HungUp)),
        }
    }
}

/// The answers in it, and what is no answer.
pub(super) fn answers(mut bytes: &[u8], heads: &[bool]) -> (Vec<Answer>, String) {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let is_head = heads.get(found.len()).copied().unwrap_or(false);
        let Some((answer, rest)) = answer(bytes, is_head) else {
            break;
        };
        bytes = rest;
        // 100: another head follows
        if answer.status == 101 || answer.status >= 200 {
            found.push(answer);
        }
    }
    (
        found,
        bytes[..bytes.len().min(600)].escape_ascii().to_string(),
    )
}

fn answer(bytes: &[u8], is_head: bool) -> Option<(Answer, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?.to_owned();
    let status: u16 = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let header = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|l| l.split_once(':'));
        let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.next().map(|(_, v)| v.trim().to_owned())
    };
    let rest = &bytes[end..];
    let bodiless = is_head || status == 204 || status == 304 || status == 100;
    let (body, rest) = if bodiless {
        (Vec::new(), rest)
    } else if header("transfer-encoding").is_some() {
        chunks(rest)
    } else if let Some(length) = header("content-length") {
        let (body, rest) = rest.split_at_checked(length.parse().ok()?)?;
        (body.to_vec(), rest)
    } else {
        (rest.to_vec(), &rest[rest.len()..])
    };
    Some((
        Answer {
            status,
            head,
            body,
            is_head,
        },
        rest,
    ))
}

/// As far as they go: a stream that was hung up on has no end.
fn chunks(mut bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n");
        let size = line.and_then(|l| std::str::from_utf8(&bytes[..l]).ok());
        let size = size.and_then(|s| usize::from_str_radix(s, 16).ok());
        let (Some(line), Some(size)) = (line, size) else {
            return (body, &bytes[bytes.len()..]);
        };
        let Some((chunk, rest)) = bytes[line + 2..].split_at_checked(size + 2) else {
            return (body, &bytes[bytes.len()..]);
        };
        body.extend_from_slice(&chunk[..size]);
        bytes = rest;
        if size == 0 {
            return (body, bytes);
        }
    }
}
