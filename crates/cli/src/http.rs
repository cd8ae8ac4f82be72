//! HTTP/1.1 to the daemon, blocking.
//!
//! A command makes a handful of requests and then waits for bytes; a runtime and a general client
//! would cost more time to set up than the requests take. What is used of the protocol is small:
//! a request with a body of known length or in chunks, a response with a length, in chunks, or
//! until the end, and the hijack of the connection for attach and exec.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::endpoint::{Endpoint, Socket};

/// The API version asked for: the oldest that has all we use, so that a newer or older engine of
/// the same protocol can be driven too.
pub(crate) const API_VERSION: &str = "1.48";

/// Why a request had no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")]
    Connect {
        endpoint: Endpoint,
        source: io::Error,
    },
    #[error("connection to {endpoint} broke during {what}")]
    Io {
        endpoint: Endpoint,
        what: String,
        source: io::Error,
    },
    /// The daemon's own refusal, with its own words.
    #[error("Error response from daemon: {message}")]
    Api { status: u16, message: String },
    #[error("cannot understand the daemon's answer to {what}")]
    Decode {
        what: String,
        source: api::DecodeError,
    },
}

impl HttpError {
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The connection failed, not the request: asking again may help.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Io { .. })
    }
}

/// What is sent with a request.
pub(crate) enum Body<'a> {
    Empty,
    Json(Vec<u8>),
    /// A stream of a content type, sent in chunks.
    Stream(&'static str, &'a mut dyn Read),
}

/// Speaks to one daemon; keeps one idle connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    idle: RefCell<Option<BufReader<Socket>>>,
    trace: bool,
    /// One try is enough: a daemon that ends at once would be started for ever.
    autostarted: Cell<bool>,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, trace: bool) -> Self {
        Self {
            endpoint,
            idle: RefCell::new(None),
            trace,
            autostarted: Cell::new(false),
        }
    }

    /// Sends a request; any status of 400 and above is an error.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Body<'_>,
    ) -> Result<Response<'_>, HttpError> {
        self.request(method, path, body, "")
    }

    /// As [`Client::send`], with whole lines of a header.
    pub(crate) fn send_with(
        &self,
        method: &str,
        path: &str,
        body: Body<'_>,
        header: &str,
    ) -> Result<Response<'_>, HttpError> {
        self.request(method, path, body, header)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Response<'_>, HttpError> {
        self.send("GET", path, Body::Empty)
    }

    pub(crate) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.get(path)?.json()
    }

    /// As [`Client::get_json`], for lists that may be long: read at once, and with care only where `null`
    /// stands for something.
    pub(crate) fn get_list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, HttpError> {
        let response = self.get(path)?;
        let what = response.what.clone();
        let bytes = response.bytes()?;
        serde_json::from_slice(&bytes)
            .or_else(|_| api::decode(&bytes))
            .map_err(|source| HttpError::Decode { what, source })
    }

    /// A POST whose answer has nothing we need.
    pub(crate) fn post(&self, path: &str) -> Result<(), HttpError> {
        self.send("POST", path, Body::Empty)?.discard()
    }

    /// Takes the connection over: what follows the answer is the stream.
    pub(crate) fn hijack(&self, path: &str, body: Body<'_>) -> Result<Hijacked, HttpError> {
        let response = self.request(
            "POST",
            path,
            body,
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        )?;
        let leftover = response.conn.buffer().to_vec();
        Ok(Hijacked {
            socket: response.conn.into_inner(),
            leftover,
        })
    }

    /// Waits until the daemon answers again.
    pub(crate) fn wait_ready(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.idle.borrow_mut().take();
        loop {
            if self.get("/_ping").and_then(Response::discard).is_ok() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        mut body: Body<'_>,
        extra: &str,
    ) -> Result<Response<'_>, HttpError> {
        let what = format!("{method} {path}");
        let io_error = |source| HttpError::Io {
            endpoint: self.endpoint.clone(),
            what: what.clone(),
            source,
        };
        let reused = self.idle.borrow_mut().take();
        // a connection the daemon has closed in the meantime shows at the first read; a request
        // without effects is then simply asked again
        let retry = reused.is_some() && method == "GET";
        let mut conn = match reused {
            Some(conn) => conn,
            None => self.connect()?,
        };
        let head = self.head(method, path, &body, extra);
        let mut answer = exchange(&mut conn, &head, &mut body);
        if retry && answer.is_err() {
            conn = self.connect()?;
            answer = exchange(&mut conn, &head, &mut body);
        }
        let head = answer.map_err(io_error)?;
        if self.trace {
            trace(&format!("{what} -> {}", head.status));
        }
        let response = Response {
            status: head.status,
            headers: head.headers,
            // the length in the answer to a HEAD is that of a body which is not sent
            framing: if method == "HEAD" {
                Framing::Done
            } else {
                head.framing
            },
            conn,
            client: self,
            what,
        };
        if response.status >= 400 {
            return Err(response.into_error());
        }
        Ok(response)
    }

    fn connect(&self) -> Result<BufReader<Socket>, HttpError> {
        let mut answer = self.endpoint.connect();
        if let (Err(e), Endpoint::Unix(path)) = (&answer, &self.endpoint)
            && matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            )
            && !self.autostarted.replace(true)
        {
            answer = match crate::autostart::start(path) {
                Ok(true) => self.connect_within(Duration::from_secs(30)),
                Ok(false) => answer,
                Err(e) => Err(e),
            };
        }
        answer
            .map(|s| BufReader::with_capacity(16 * 1024, s))
            .map_err(|source| HttpError::Connect {
                endpoint: self.endpoint.clone(),
                source,
            })
    }

    /// Tries until somebody listens.
    fn connect_within(&self, patience: Duration) -> io::Result<Socket> {
        let deadline = Instant::now() + patience;
        loop {
            match self.endpoint.connect() {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }

    fn head(&self, method: &str, path: &str, body: &Body<'_>, extra: &str) -> Vec<u8> {
        let host = match &self.endpoint {
            Endpoint::Unix(_) | Endpoint::Ssh(_) => "api.moby.localhost",
            Endpoint::Tcp(address) | Endpoint::Tls { address, .. } => address,
        };
        let mut head = format!(
            "{method} /v{API_VERSION}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: plimsoll/{}\r\n{extra}",
            env!("CARGO_PKG_VERSION"),
        );
        // writing to a String cannot fail
        let _ = match body {
            Body::Empty if method == "GET" || method == "HEAD" => Ok(()),
            Body::Empty => write!(head, "Content-Length: 0\r\n"),
            Body::Json(json) => write!(
                head,
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                json.len()
            ),
            Body::Stream(ty, _) => {
                write!(head, "Content-Type: {ty}\r\nTransfer-Encoding: chunked\r\n")
            }
        };
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if let Body::Json(json) = body {
            // one write for head and body: the daemon reads both at once
            bytes.extend_from_slice(json);
        }
        bytes
    }
}

/// A connection that has become a stream of bytes.
#[derive(Debug)]
pub(crate) struct Hijacked {
    pub(crate) socket: Socket,
    /// What arrived together with the answer.
    pub(crate) leftover: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Bytes left.
    Length(u64),
    /// Bytes left of the current chunk; `None` before its size was read.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// An answer: its head, and its body as a reader.
#[derive(Debug)]
pub(crate) struct Response<'c> {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    conn: BufReader<Socket>,
    client: &'c Client,
    what: String,
}

impl Response<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    pub(crate) fn bytes(mut self) -> Result<Vec<u8>, HttpError> {
        let mut all = Vec::new();
        self.read_to_end(&mut all).map_err(|source| HttpError::Io {
            endpoint: self.client.endpoint.clone(),
            what: self.what.clone(),
            source,
        })?;
        self.recycle();
        Ok(all)
    }

    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, HttpError> {
        let what = self.what.clone();
        let bytes = self.bytes()?;
        api::decode(&bytes).map_err(|source| HttpError::Decode { what, source })
    }

    pub(crate) fn discard(self) -> Result<(), HttpError> {
        self.bytes().map(drop)
    }

    fn recycle(self) {
        let closing = self
            .header("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if self.framing == Framing::Done && !closing {
            *self.client.idle.borrow_mut() = Some(self.conn);
        }
    }

    fn into_error(self) -> HttpError {
        #[derive(serde::Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = self.status;
        let what = self.what.clone();
        match self.bytes() {
            Ok(bytes) => HttpError::Api {
                status,
                message: serde_json::from_slice::<Refusal>(&bytes).map_or_else(
                    |_| {
                        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                        if text.is_empty() {
                            format!("status {status} without a message to {what}")
                        } else {
                            text
                        }
                    },
                    |r| r.message,
                ),
            },
            Err(e) => e,
        }
    }

    /// The descriptor to poll, and whether bytes are buffered already.
    pub(crate) fn poll_state(&self) -> (BorrowedFd<'_>, bool) {
        (self.conn.get_ref().as_fd(), !self.conn.buffer().is_empty())
    }
}

impl Read for Response<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::Done => Ok(0),
            Framing::UntilClose => {
                let n = self.conn.read(buf)?;
                if n == 0 {
                    self.framing = Framing::Done;
                }
                Ok(n)
            }
            Framing::Length(left) => {
                let n = read_at_most(&mut self.conn, buf, left)?;
                let left = left - n as u64;
                self.framing = if left == 0 {
                    Framing::Done
                } else {
                    Framing::Length(left)
                };
                Ok(n)
            }
            Framing::Chunked(None) => {
                let size = chunk_size(&mut self.conn)?;
                if size == 0 {
                    // trailers are not used by this API; the line after them ends the body
                    skip_trailers(&mut self.conn)?;
                    self.framing = Framing::Done;
                    return Ok(0);
                }
                self.framing = Framing::Chunked(Some(size));
                self.read(buf)
            }
            Framing::Chunked(Some(left)) => {
                let n = read_at_most(&mut self.conn, buf, left)?;
                let left = left - n as u64;
                if left == 0 {
                    let mut end = [0; 2];
                    self.conn.read_exact(&mut end)?;
                    self.framing = Framing::Chunked(None);
                } else {
                    self.framing = Framing::Chunked(Some(left));
                }
                Ok(n)
            }
        }
    }
}

fn read_at_most(conn: &mut BufReader<Socket>, buf: &mut [u8], left: u64) -> io::Result<usize> {
    let want = usize::try_from(left).map_or(buf.len(), |l| l.min(buf.len()));
    let n = conn.read(&mut buf[..want])?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(n)
}

fn chunk_size(conn: &mut BufReader<Socket>) -> io::Result<u64> {
    let line = read_line(conn)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a size"))
}

fn skip_trailers(conn: &mut BufReader<Socket>) -> io::Result<()> {
    while !read_line(conn)?.is_empty() {}
    Ok(())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A line of the head: bounded, so that what is not HTTP cannot fill the memory.
fn read_line(conn: &mut BufReader<Socket>) -> io::Result<String> {
    let mut line = Vec::new();
    conn.by_ref().take(64 * 1024).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| bad("a header that is not text"))
}

struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
}

fn exchange(conn: &mut BufReader<Socket>, head: &[u8], body: &mut Body<'_>) -> io::Result<Head> {
    let sent = conn
        .get_mut()
        .write_all(head)
        .and_then(|()| send_body(conn.get_mut(), body));
    match (sent, read_head(conn)) {
        (_, Ok(head)) => Ok(head),
        // the daemon may refuse and close before it has read everything: its answer counts, but
        // when there is none, the failed write is the better story
        (Err(e), Err(_)) | (Ok(()), Err(e)) => Err(e),
    }
}

fn send_body(socket: &mut Socket, body: &mut Body<'_>) -> io::Result<()> {
    let Body::Stream(_, source) = body else {
        return Ok(());
    };
    const PREFIX: usize = 16;
    let mut buf = vec![0; PREFIX + 256 * 1024 + 2];
    loop {
        let end = buf.len() - 2;
        let n = source.read(&mut buf[PREFIX..end])?;
        if n == 0 {
            return socket.write_all(b"0\r\n\r\n");
        }
        let size = format!("{n:x}\r\n");
        let start = PREFIX - size.len();
        buf[start..PREFIX].copy_from_slice(size.as_bytes());
        buf[PREFIX + n..PREFIX + n + 2].copy_from_slice(b"\r\n");
        socket.write_all(&buf[start..PREFIX + n + 2])?;
    }
}

fn read_head(conn: &mut BufReader<Socket>) -> io::Result<Head> {
    loop {
        let line = read_line(conn)?;
        let status: u16 = line
            .strip_prefix("HTTP/1.")
            .and_then(|l| l.split(' ').nth(1))
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| bad("an answer that is not HTTP"))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(conn)?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        // 100 Continue and its like precede the answer; 101 is one
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let framing = framing(status, &headers);
        return Ok(Head {
            status,
            headers,
            framing,
        });
    }
}

fn framing(status: u16, headers: &[(String, String)]) -> Framing {
    let header = |wanted: &str| {
        headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(wanted))
            .map(|(_, v)| v.as_str())
    };
    if matches!(status, 204 | 304) {
        return Framing::Done;
    }
    if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(None);
    }
    match header("content-length").and_then(|v| v.parse().ok()) {
        Some(0) => Framing::Done,
        Some(n) => Framing::Length(n),
        None => Framing::UntilClose,
    }
}

fn trace(line: &str) {
    // the trace is for a person watching; a closed stderr is no reason to fail
    drop(writeln!(io::stderr(), "debug: {line}"));
}

/// A path with its query.
#[derive(Debug)]
pub(crate) struct Query {
    text: String,
    first: bool,
}

impl Query {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self {
            text: path.into(),
            first: true,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.text.push(if self.first { '?' } else { '&' });
        self.first = false;
        self.text.push_str(name);
        self.text.push('=');
        self.text.push_str(&escape(value));
        self
    }

    /// Only when it says something.
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(v) => self.with(name, v),
            None => self,
        }
    }

    pub(crate) fn flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "1") } else { self }
    }

    pub(crate) fn build(self) -> String {
        self.text
    }
}

/// Percent-encodes everything but the unreserved characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            // writing to a String cannot fail
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// An image reference in a path: the slashes of its name stay.
pub(crate) fn escape_path(text: &str) -> String {
    text.split('/').map(escape).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Serves the answers given to one connection, in order, and returns what was asked.
    fn serve(answers: &'static [&'static [u8]]) -> (Client, std::thread::JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let thread = std::thread::spawn(move || {
            let _dir = dir;
            let (mut socket, _) = listener.accept().expect("a client");
            let mut asked = Vec::new();
            for answer in answers {
                let mut buf = vec![0; 65536];
                let n = socket.read(&mut buf).expect("a request");
                asked.push(String::from_utf8_lossy(&buf[..n]).into_owned());
                socket.write_all(answer).expect("answered");
            }
            asked
        });
        (Client::new(Endpoint::Unix(path), false), thread)
    }

    #[test]
    fn one_connection_serves_two_requests() {
        let (client, server) = serve(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\n\r\n",
        ]);
        let first: Vec<u8> = client.get_json("/x").expect("a list");
        assert!(first.is_empty());
        let second: serde_json::Value = client.get_json("/y?a=b").expect("an object");
        assert_eq!(second["a"], 1);
        let asked = server.join().expect("served");
        assert!(asked[1].starts_with("GET /v1.48/y?a=b HTTP/1.1\r\n"));
    }

    #[test]
    fn refusals_carry_the_daemons_words() {
        let (client, server) = serve(&[
            b"HTTP/1.1 409 Conflict\r\nContent-Length: 21\r\n\r\n{\"message\":\"in use\"}\n",
        ]);
        let error = client.post("/x").expect_err("refused");
        assert_eq!(error.status(), Some(409));
        assert_eq!(error.to_string(), "Error response from daemon: in use");
        server.join().expect("served");
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let (client, server) = serve(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nX-Stat: abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        ]);
        let response = client.send("HEAD", "/x", Body::Empty).expect("a head");
        assert_eq!(response.header("x-stat"), Some("abc"));
        response.discard().expect("nothing follows");
        drop(client.get_json::<Vec<u8>>("/y").expect("a list"));
        server.join().expect("served");
    }

    #[test]
    fn hijack_keeps_what_came_with_the_answer() {
        let (client, server) =
            serve(&[b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello"]);
        let stream = client.hijack("/attach", Body::Empty).expect("upgraded");
        assert_eq!(stream.leftover, b"hello");
        assert!(server.join().expect("served")[0].contains("Upgrade: tcp"));
    }

    #[test]
    fn a_truncated_answer_is_an_error() {
        let (client, server) = serve(&[b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]"]);
        let error = client.get("/x").expect("a head").bytes().expect_err("cut");
        assert!(error.is_transport());
        server.join().expect("served");
    }

    #[test]
    fn streams_are_chunked() {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let mut socket = Socket::Unix(far);
        let mut source: &[u8] = b"abcdefghijklmnopq";
        send_body(&mut socket, &mut Body::Stream("x", &mut source)).expect("sent");
        drop(socket);
        let mut got = String::new();
        near.read_to_string(&mut got).expect("read");
        assert_eq!(got, "11\r\nabcdefghijklmnopq\r\n0\r\n\r\n");
    }

    #[test]
    fn queries_are_escaped() {
        let q = Query::new("/x")
            .with("a", "b c&d")
            .flag("f", true)
            .flag("g", false);
        assert_eq!(q.build(), "/x?a=b%20c%26d&f=1");
    }
}
