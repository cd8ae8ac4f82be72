//! Docker's API over a unix socket: one connection a request, blocking, with a deadline.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A client of one socket.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
    deadline: Duration,
}

/// An answer.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text())
    }
}

impl Response {
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null when it isn't.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    #[must_use]
    pub fn is_ok(&self) -> bool {
        (200..400).contains(&self.status)
    }

    /// Whether it is a stream of progress that says in a line what went wrong: that is no matter of the status.
    #[must_use]
    pub fn tells_of_failure(&self) -> bool {
        let told = |line: &[u8]| line.starts_with(br#"{"error":"#);
        self.body.split(|b| *b == b'\n').any(told)
    }

    /// Itself, if its status and its progress say that it worked.
    ///
    /// # Panics
    /// Otherwise, with the answer.
    #[track_caller]
    pub fn ok(self) -> Self {
        let worked = self.is_ok() && !self.tells_of_failure();
        assert!(worked, "the engine answered {self:?}");
        self
    }
}

/// Reads with a deadline for the whole answer, not for each read.
struct Deadlined {
    stream: UnixStream,
    until: Instant,
}

impl Read for Deadlined {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buf)
    }
}

impl Api {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline: Duration::from_secs(60),
        }
    }

    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// # Errors
    /// When the engine doesn't answer, or not in time.
    pub fn get(&self, path: &str) -> io::Result<Response> {
        self.request("GET", path, "application/json", &[])
    }

    /// # Errors
    /// As [`Api::get`].
    pub fn delete(&self, path: &str) -> io::Result<Response> {
        self.request("DELETE", path, "application/json", &[])
    }

    /// # Errors
    /// As [`Api::get`].
    pub fn post(&self, path: &str, body: &Value) -> io::Result<Response> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        self.request("POST", path, "application/json", &body)
    }

    /// # Errors
    /// As [`Api::get`].
    pub fn upload(&self, method: &str, path: &str, tar: &[u8]) -> io::Result<Response> {
        self.request(method, path, "application/x-tar", tar)
    }

    /// # Errors
    /// When the engine doesn't answer, or not before the deadline.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> io::Result<Response> {
        let before = Instant::now();
        let until = before + self.deadline;
        let stream = self.send(method, path, &format!("Content-Type: {kind}\r\n"), body)?;
        let mut reader = BufReader::new(Deadlined { stream, until });
        let (status, headers) = head(&mut reader)?;
        let body = body_of(&mut reader, method, status, &headers)?;
        Ok(Response {
            status,
            headers,
            body,
            took: before.elapsed(),
        })
    }

    /// Asks to take the connection over (attach, exec): the raw stream after the answer's head.
    ///
    /// # Errors
    /// As [`Api::get`], and when the answer is neither 101 nor 200.
    pub fn upgrade(&self, path: &str, body: &Value) -> io::Result<UnixStream> {
        let headers = "Content-Type: application/json\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n";
        let stream = self.send("POST", path, headers, body.to_string().as_bytes())?;
        stream.set_read_timeout(Some(self.deadline))?;
        // byte by byte: what follows the head is the stream's
        let mut one = OneByte(stream);
        let (status, _) = head(&mut one)?;
        if status != 101 && status != 200 {
            let mut rest = String::new();
            let _cut = one.0.read_to_string(&mut rest);
            return Err(io::Error::other(format!("not upgraded: {status} {rest}")));
        }
        Ok(one.0)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(self.deadline))?;
        let length = body.len();
        let close = if headers.contains("Upgrade") {
            ""
        } else {
            "Connection: close\r\n"
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: plimsoll\r\n{headers}{close}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        match stream.write_all(body) {
            // the engine may refuse before it has read everything: its answer tells why
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
        Ok(stream)
    }
}

struct OneByte(UnixStream);

impl Read for OneByte {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

trait Line {
    fn line(&mut self) -> io::Result<String>;
}

impl Line for BufReader<Deadlined> {
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Line for OneByte {
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            self.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

type Headers = Vec<(String, String)>;

fn head(reader: &mut impl Line) -> io::Result<(u16, Headers)> {
    let bad = |l: &str| io::Error::other(format!("not an HTTP answer: {l:?}"));
    loop {
        let first = reader.line()?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status: u16 = status.ok_or_else(|| bad(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = reader.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if status != 100 {
            return Ok((status, headers));
        }
    }
}

fn body_of(
    reader: &mut BufReader<Deadlined>,
    method: &str,
    status: u16,
    headers: &Headers,
) -> io::Result<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
    let mut body = Vec::new();
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(body);
    }
    if header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        loop {
            let size = reader.line()?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or(""), 16)
                .map_err(|_| io::Error::other(format!("not a chunk size: {size:?}")))?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            reader.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match header("content-length").and_then(|v| v.parse::<u64>().ok()) {
        Some(length) => {
            reader.take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    Ok(body)
}

/// Docker's frames of attach and logs without a terminal: `{stream, 0, 0, 0, length}` and bytes.
///
/// # Panics
/// When the bytes aren't such frames.
#[must_use]
#[track_caller]
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(8) {
        assert!(
            header[0] <= 3 && header[1..4] == [0; 3],
            "not a frame: {header:?}"
        );
        let length: [u8; 4] = header[4..].try_into().expect("eight bytes less four");
        let length = u32::from_be_bytes(length) as usize;
        let (content, rest) = rest.split_at_checked(length).expect("a whole frame");
        out.push((header[0], content.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame: {bytes:?}");
    out
}

/// What one stream carried: 1 is stdout, 2 is stderr.
#[must_use]
#[track_caller]
pub fn stream_text(bytes: &[u8], stream: u8) -> String {
    let parts = frames(bytes);
    let mine = parts.iter().filter(|f| f.0 == stream);
    let bytes: Vec<u8> = mine.flat_map(|f| f.1.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
