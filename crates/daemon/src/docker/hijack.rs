//! Taking a connection over for attach and exec.
//!
//! Two ways are in use. With `Upgrade: tcp` the answer is `101 UPGRADED`, which hyper does. Older
//! clients send a plain POST and expect `200`, after which both sides send raw bytes; hyper knows
//! that only of CONNECT. So such a request's method is rewritten to CONNECT on its way in
//! ([`Sniffed`]), and [`is_raw`] tells the handler. Only a request's head is ever touched: to know
//! where heads begin, bodies are counted. dockerode keeps its connections: what comes behind an upload,
//! which is chunked, may be an attach.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::stream::{FRAME_HEADER, StdStream, frame_header};
use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::answer::Body;
use super::failure::Failure;

/// Longest head that is looked at; longer ones pass as they are.
const HEAD_LIMIT: usize = 16 * 1024;

/// A stream whose hijacking POSTs say CONNECT.
#[derive(Debug)]
pub(crate) struct Sniffed {
    stream: UnixStream,
    state: State,
    /// The beginning of a head, not complete yet.
    held: Vec<u8>,
    /// Looked at, to be handed on first.
    passed: VecDeque<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What comes next is a head.
    Head,
    /// So many bytes of a body come next.
    Body(u64),
    Chunked(Chunked),
    /// Not looked at any more.
    Blind,
}

/// Where in a chunked body. source: RFC 9112, 7.1
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunked {
    /// In a line with a size, so far this; `read`: what follows in it is an extension.
    Size { size: u64, read: bool },
    /// So many bytes of data and line end come next.
    Data(u64),
    /// In the lines behind the last chunk; an empty one ends them.
    Trailers { empty: bool },
}

impl Chunked {
    const BEGIN: Self = Self::Size {
        size: 0,
        read: false,
    };

    /// How many of these bytes are the body's, and whether it ends with them. `None`: it is none, and
    /// hyper says so.
    fn take(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            *self = match *self {
                Self::Data(left) => {
                    let here = left.min((bytes.len() - at) as u64);
                    at += usize::try_from(here).ok()?;
                    if here < left {
                        *self = Self::Data(left - here);
                        break;
                    }
                    *self = Self::BEGIN;
                    continue;
                }
                Self::Size { size: 0, .. } if byte == b'\n' => Self::Trailers { empty: true },
                Self::Size { size, .. } if byte == b'\n' => Self::Data(size.checked_add(2)?),
                Self::Size { size, read: false } => match char::from(byte).to_digit(16) {
                    Some(digit) => Self::Size {
                        size: size.checked_mul(16)? + u64::from(digit),
                        read: false,
                    },
                    None => Self::Size { size, read: true },
                },
                within @ Self::Size { .. } => within,
                Self::Trailers { empty: true } if byte == b'\n' => return Some((at + 1, true)),
                Self::Trailers { empty } => Self::Trailers {
                    empty: byte == b'\n' || (empty && byte == b'\r'),
                },
            };
            at += 1;
        }
        Some((at, false))
    }
}

impl Sniffed {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            state: State::Head,
            held: Vec::new(),
            passed: VecDeque::new(),
        }
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let (front, _) = self.passed.as_slices();
        let n = buf.remaining().min(front.len());
        buf.put_slice(&front[..n]);
        self.passed.drain(..n);
    }

    /// Takes new bytes of a head, and what came with them.
    fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        while !self.held.is_empty() {
            let (pass, next) = match self.state {
                State::Head => match self.head() {
                    Some(seen) => seen,
                    None => return,
                },
                State::Body(left) => body(left, self.held.len()),
                State::Chunked(within) => chunked(within, &self.held),
                State::Blind => (self.held.len(), State::Blind),
            };
            self.state = next;
            self.passed.extend(self.held.drain(..pass));
        }
    }

    /// The length of the head that is held, and what follows it. `None`: it is not complete.
    fn head(&mut self) -> Option<(usize, State)> {
        let Some(len) = head_len(&self.held) else {
            let too_long = self.held.len() > HEAD_LIMIT;
            return too_long.then_some((self.held.len(), State::Blind));
        };
        let len = super::target::encode_refused(&mut self.held, len);
        let judged = judge(&self.held[..len]);
        if judged.raw {
            self.held.splice(..b"POST".len(), *b"CONNECT");
            // from here on the connection is the container's
            return Some((self.held.len(), State::Blind));
        }
        Some((len, judged.body))
    }

    /// The stream, and what was read of it but not handed on.
    fn into_parts(self) -> (UnixStream, Vec<u8>) {
        let mut rest = Vec::from(self.passed);
        rest.extend(self.held);
        (self.stream, rest)
    }
}

/// Of `here` bytes those of a body that has so many left, and what follows them.
fn body(left: u64, here: usize) -> (usize, State) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    match left - taken as u64 {
        0 => (taken, State::Head),
        left => (taken, State::Body(left)),
    }
}

/// As [`body`], of a chunked one.
fn chunked(mut within: Chunked, bytes: &[u8]) -> (usize, State) {
    match within.take(bytes) {
        Some((taken, true)) => (taken, State::Head),
        Some((taken, false)) => (taken, State::Chunked(within)),
        None => (bytes.len(), State::Blind),
    }
}

/// Length of a head with its empty line.
fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

#[derive(Debug, PartialEq, Eq)]
struct Judged {
    /// A POST that takes the connection over, without `Upgrade`.
    raw: bool,
    /// The body that follows; [`State::Blind`] where no head can follow it.
    body: State,
}

fn judge(head: &[u8]) -> Judged {
    let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.next().unwrap_or_default();
    let (mut upgrade, mut body) = (false, State::Body(0));
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            body = match value.eq_ignore_ascii_case(b"chunked") {
                true => State::Chunked(Chunked::BEGIN),
                false => State::Blind,
            };
        } else if name.eq_ignore_ascii_case(b"content-length") && matches!(body, State::Body(_)) {
            let length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            body = State::Body(length.unwrap_or(0));
        }
    }
    let mut words = first.split(|b| *b == b' ');
    let post = words.next() == Some(b"POST");
    let target = words.next().unwrap_or_default();
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let exec = path.windows(6).any(|w| w == b"/exec/") || path.starts_with(b"exec/");
    let hijacks = path.ends_with(b"/attach") || (exec && path.ends_with(b"/start"));
    Judged {
        raw: post && hijacks && !upgrade,
        body: match body {
            _ if upgrade => State::Blind,
            State::Body(0) => State::Head,
            body => body,
        },
    }
}

impl AsyncRead for Sniffed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                this.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Blind => return Pin::new(&mut this.stream).poll_read(cx, buf),
                State::Body(left) => {
                    let most = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(buf.remaining());
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    let n = part.filled().len();
                    buf.advance(n);
                    this.state = body(left, n).1;
                    return Poll::Ready(Ok(()));
                }
                State::Chunked(within) => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                    let new = &buf.filled()[before..];
                    let (taken, next) = chunked(within, new);
                    let rest = new[taken..].to_vec();
                    buf.set_filled(before + taken);
                    this.state = next;
                    this.feed(&rest);
                    return Poll::Ready(Ok(()));
                }
                State::Head => {
                    let mut chunk = [0_u8; 4096];
                    let mut read = ReadBuf::new(&mut chunk);
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
                    if read.filled().is_empty() {
                        // half a head: hyper says what is wrong with it
                        this.state = State::Blind;
                        this.passed.extend(this.held.drain(..));
                        if this.passed.is_empty() {
                            return Poll::Ready(Ok(()));
                        }
                    } else {
                        this.feed(read.filled());
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// True where the client expects `200` and raw bytes, false where it expects `101`.
pub(crate) fn is_raw<B>(request: &Request<B>) -> Result<bool, Failure> {
    if request.method() == Method::CONNECT {
        return Ok(true);
    }
    if request.headers().contains_key(UPGRADE) {
        return Ok(false);
    }
    // behind a chunked body of an earlier request heads are not looked at any more
    Err(Failure::invalid(
        "this connection cannot be taken over: send Upgrade: tcp, or use a new connection",
    ))
}

/// The answer that hands the connection over, in the way the client asked for.
pub(crate) fn response(raw: bool, kind: &'static str) -> Response<Body> {
    let mut response = super::answer::with_type(StatusCode::OK, kind, Body::Full(Bytes::new()));
    if !raw {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .extensions_mut()
            .insert(ReasonPhrase::from_static(b"UPGRADED"));
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static("tcp"));
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How bytes go between client and container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    /// Typed into a terminal they end the attachment, not the program.
    pub(crate) detach: Vec<u8>,
    pub(crate) framing: Framing,
}

/// Whether output comes in frames that say of which stream it is. A process without a terminal has
/// its output framed, one with a terminal not; a client of exec says for itself what it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    AsItComes,
    /// What a terminal shows, in frames of stdout.
    Add,
    /// Of both streams, in the order in which it came.
    Remove,
}

impl Framing {
    /// `tty`: the process has a terminal; `raw`: the client reads no frames.
    pub(crate) fn between(tty: bool, raw: bool) -> Self {
        match (tty, raw) {
            (true, false) => Self::Add,
            (false, true) => Self::Remove,
            _ => Self::AsItComes,
        }
    }

    async fn copy<R, W>(self, from: &mut R, to: &mut W) -> io::Result<()>
    where
        R: tokio::io::AsyncBufRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        match self {
            Self::AsItComes => tokio::io::copy_buf(from, to).await.map(drop),
            Self::Add => loop {
                let bytes = from.fill_buf().await?;
                let len = bytes.len();
                if len == 0 {
                    return to.flush().await;
                }
                // no longer than the buffer
                let size = u32::try_from(len).unwrap_or(u32::MAX);
                to.write_all(&frame_header(StdStream::Stdout, size)).await?;
                to.write_all(bytes).await?;
                from.consume(len);
            },
            Self::Remove => loop {
                if from.fill_buf().await?.is_empty() {
                    return to.flush().await;
                }
                let mut header = [0; FRAME_HEADER];
                from.read_exact(&mut header).await?;
                let [.., a, b, c, d] = header;
                let size = u64::from(u32::from_be_bytes([a, b, c, d]));
                tokio::io::copy_buf(&mut (&mut *from).take(size), to).await?;
            },
        }
    }
}

/// A connection that is ours now; the answer's head has reached the client's socket.
#[derive(Debug)]
pub(crate) struct Taken {
    stream: UnixStream,
    /// What the client sent before it had the answer.
    early: Vec<u8>,
}

impl Taken {
    /// `None`: the client went before.
    pub(crate) async fn over(client: OnUpgrade) -> Option<Self> {
        let upgraded = match client.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!("a client went before its connection was taken over: {error}");
                return None;
            }
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<Sniffed>>() else {
            tracing::error!("a connection that was not made here");
            return None;
        };
        let (stream, mut early) = parts.io.into_inner().into_parts();
        early.splice(..0, parts.read_buf);
        Some(Self { stream, early })
    }

    /// One that was never HTTP.
    pub(crate) fn of(stream: UnixStream) -> Self {
        Self {
            stream,
            early: Vec::new(),
        }
    }

    /// And what the client sent before it had the answer.
    pub(crate) fn into_parts(self) -> (UnixStream, Vec<u8>) {
        (self.stream, self.early)
    }

    /// Returns when the client has read the answer's head, or seems not to want to. Clients that
    /// read the head through a buffer and the stream beside it (docker-py) lose what comes along
    /// with the head; dockerd is too slow for them to notice.
    pub(crate) async fn head_read(&self) {
        for _ in 0..HEAD_PATIENCE {
            if !sys::socket::unread_by_peer(&self.stream).is_ok_and(|bytes| bytes > 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Says one thing and ends.
    pub(crate) async fn say(mut self, bytes: &[u8]) {
        // the client is gone: nobody is left to tell
        drop(self.stream.write_all(bytes).await);
        drop(self.stream.shutdown().await);
    }

    /// Copies until the container's output ends, the client goes or the detach keys come. The client
    /// hears of the output's end when `settled` has resolved too.
    pub(crate) async fn copy(
        self,
        container: UnixStream,
        policy: Policy,
        settled: impl Future<Output = ()>,
    ) {
        let (client_in, mut client_out) = self.stream.into_split();
        let (container_out, container_in) = container.into_split();
        let output = async {
            let mut from = tokio::io::BufReader::with_capacity(COPY_BUFFER, container_out);
            let copied = policy.framing.copy(&mut from, &mut client_out).await;
            if copied.is_ok() {
                settled.await;
            }
            drop(client_out.shutdown().await);
            if copied.is_err() {
                // the client has gone: `input` tells the container, if it is to know
                tokio::time::sleep(LINGER).await;
            }
        };
        tokio::select! {
            () = output => {}
            () = input(client_in, container_in, self.early, &policy) => {}
        }
    }
}

/// Takes a connection over, and copies.
pub(crate) async fn copy(client: OnUpgrade, container: UnixStream, policy: Policy) {
    if let Some(taken) = Taken::over(client).await {
        taken.head_read().await;
        taken.copy(container, policy, std::future::ready(())).await;
    }
}

/// Milliseconds that a client gets to read a head before output follows it.
const HEAD_PATIENCE: u32 = 100;
const COPY_BUFFER: usize = 32 * 1024;

/// How long the connection to the shim outlives a client that has gone. The shim must see the end
/// of input before the end of the connection: a connection that merely ends is that of an engine
/// that died, and leaves the container's input open for the next one.
const LINGER: Duration = Duration::from_secs(1);

/// Client to container; returns where the attachment is to end.
async fn input(
    mut client: OwnedReadHalf,
    mut container: OwnedWriteHalf,
    early: Vec<u8>,
    policy: &Policy,
) {
    let mut keys = DetachKeys::new(if policy.tty { &policy.detach } else { &[] });
    let mut buffer = early;
    loop {
        if policy.stdin && !buffer.is_empty() {
            let detach = keys.filter(&mut buffer);
            if container.write_all(&buffer).await.is_err() {
                // its stdin is closed; its output may go on
                return std::future::pending().await;
            }
            if detach {
                return;
            }
        }
        buffer.resize(COPY_BUFFER, 0);
        match client.read(&mut buffer).await {
            Err(_) | Ok(0) => break,
            Ok(n) => buffer.truncate(n),
        }
    }
    drop(buffer);
    if policy.stdin && policy.tty {
        // as dockerd: the end of a terminal's input is the end of the attachment
        return;
    }
    if policy.stdin {
        drop(container.shutdown().await);
    }
    // half-closed: output goes on; closed altogether: nobody is left to write to
    match client.as_ref().ready(Interest::WRITABLE).await {
        Ok(ready) if !ready.is_write_closed() => std::future::pending().await,
        _ => tokio::time::sleep(LINGER).await,
    }
}

/// Finds a sequence of keys in what is typed. Keys that may be its beginning are held back.
#[derive(Debug)]
struct DetachKeys<'a> {
    keys: &'a [u8],
    matched: usize,
}

impl<'a> DetachKeys<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, matched: 0 }
    }

    /// True at the end of the sequence; what came after it is dropped.
    fn filter(&mut self, bytes: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut found = false;
        for &byte in bytes.iter() {
            if byte != self.keys[self.matched] {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    found = true;
                    break;
                }
            } else {
                out.push(byte);
            }
        }
        *bytes = out;
        found
    }
}

/// `ctrl-p,ctrl-q`, `a,b`. Empty: the default.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>, Failure> {
    if text.is_empty() {
        return Ok(vec![16, 17]);
    }
    text.split(',')
        .map(|key| {
            match (
                key.strip_prefix("ctrl-").unwrap_or_default().as_bytes(),
                key.as_bytes(),
            ) {
                ([c @ b'a'..=b'z'], _) => Ok(c - b'a' + 1),
                ([c @ b'@'], _) | ([c @ b'['..=b'_'], _) => Ok(c - b'@'),
                (_, [c]) => Ok(*c),
                _ => Err(Failure::invalid(format!(
                    "invalid detach keys ({text}) provided"
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniff(reads: &[&[u8]]) -> String {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        rt.block_on(async {
            let (mut client, server) = UnixStream::pair().unwrap();
            let mut server = Sniffed::new(server);
            let mut out = Vec::new();
            for bytes in reads {
                client.write_all(bytes).await.unwrap();
                let mut buf = [0; 7];
                while let Ok(read) =
                    tokio::time::timeout(Duration::from_millis(5), server.read(&mut buf)).await
                {
                    out.extend_from_slice(&buf[..read.unwrap()]);
                }
            }
            drop(client);
            server.read_to_end(&mut out).await.unwrap();
            String::from_utf8(out).unwrap()
        })
    }

    const ATTACH: &[u8] = b"POST /v1.24/containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n";

    #[test]
    fn output_is_framed_as_the_client_reads_it() {
        let framed = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x04errs";
        let copied = |framing: Framing, from: &[u8]| {
            let rt = tokio::runtime::Builder::new_current_thread().build();
            let (mut from, mut to) = (from, Vec::new());
            let copied = rt.unwrap().block_on(framing.copy(&mut from, &mut to));
            copied.map(|()| to)
        };
        for (tty, raw, from, want) in [
            (true, true, &b"out"[..], &b"out"[..]),
            (true, false, b"out", &framed[..11]),
            (false, false, framed, framed),
            (false, true, framed, b"outerrs"),
            (true, false, b"", b""),
            (false, true, b"", b""),
        ] {
            let framing = Framing::between(tty, raw);
            assert_eq!(copied(framing, from).unwrap(), want, "{framing:?}");
        }
        assert!(
            copied(Framing::Remove, &framed[..5]).is_err(),
            "half a header"
        );
    }

    #[test]
    fn a_plain_hijack_becomes_connect_and_its_bytes_pass() {
        let out = sniff(&[ATTACH, b"POST /containers/x/attach HTTP/1.1\r\n\r\n"]);
        assert!(
            out.starts_with("CONNECT /v1.24/containers/x/attach?stream=1 HTTP/1.1\r\n"),
            "{out}"
        );
        assert!(
            out.ends_with("\r\n\r\nPOST /containers/x/attach HTTP/1.1\r\n\r\n"),
            "{out}"
        );
    }

    #[test]
    fn a_head_in_pieces_and_after_other_requests() {
        let out = sniff(&[
            b"GET /_ping HTTP/1.1\r\n\r\nPOST /exec/1/start HT",
            b"TP/1.1\r\nContent-Length: 2\r\n\r",
            b"\n{}",
        ]);
        assert_eq!(
            out,
            "GET /_ping HTTP/1.1\r\n\r\nCONNECT /exec/1/start HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn bodies_are_never_touched() {
        let body = "POST /containers/x/attach HTTP/1.1\r\n\r\n";
        let put = format!("PUT /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        let sent = [put.as_bytes(), body.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"];
        assert_eq!(sniff(&sent), format!("{put}{body}GET / HTTP/1.1\r\n\r\n"));
        let odd: &[u8] = b"PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n";
        assert!(sniff(&[odd, ATTACH]).contains("\r\n\r\nPOST "));
    }

    /// Also where the pieces that are read end anywhere.
    #[test]
    fn behind_a_chunked_body_comes_a_head() {
        let put = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let inner = "POST /containers/x/attach HTTP/1.1\r\n\r\n";
        let chunk = format!("{:X};name=value\r\n{inner}\r\n", inner.len());
        let bodies = [
            "0\r\n\r\n".to_owned(),
            format!("{chunk}000\r\n\r\n"),
            format!("{chunk}1\r\n\n\r\n{chunk}0\r\nTrailer: x\r\n\r\n"),
        ];
        for body in bodies {
            let sent = [put.as_bytes(), body.as_bytes(), ATTACH].concat();
            let want = format!(
                "{put}{body}CONNECT {}",
                &std::str::from_utf8(ATTACH).unwrap()[5..]
            );
            for at in (0..sent.len()).step_by(29) {
                let (one, two) = sent.split_at(at);
                assert_eq!(sniff(&[one, two]), want, "cut at {at}");
            }
        }
        for malformed in ["fffffffffffffffff\r\n", "ffffffffffffffff\r\n"] {
            let sent = [put.as_bytes(), malformed.as_bytes(), ATTACH];
            assert!(sniff(&sent).contains("\r\nPOST "), "{malformed}");
        }
    }

    #[test]
    fn upgrades_and_other_posts_are_left_alone() {
        for head in [
            "POST /containers/x/attach HTTP/1.1\r\nupgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
            "POST /containers/x/start HTTP/1.1\r\n\r\n",
            "GET /containers/attach HTTP/1.1\r\n\r\n",
            "no http at all",
        ] {
            assert_eq!(sniff(&[head.as_bytes()]), head);
        }
    }

    #[test]
    fn keys() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(
            detach_keys("ctrl-@,ctrl-[,ctrl-_,x").unwrap(),
            [0, 27, 31, b'x']
        );
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
        let mut keys = DetachKeys::new(&[16, 17]);
        for (typed, passed, found) in [
            (&b"ab\x10"[..], &b"ab"[..], false),
            (b"c", b"\x10c", false),
            (b"\x10\x10", b"\x10", false),
            (b"\x11rest", b"", true),
        ] {
            let mut bytes = typed.to_vec();
            assert_eq!(keys.filter(&mut bytes), found);
            assert_eq!(bytes, passed);
        }
    }
}
