//! An attached client: a bounded queue towards it, a patience after which it is dropped.
//!
//! ```text
//! Flowing --(queue > HIGH)--> Full: the outputs it takes part in are not read
//!    ^                          |  takes something within its patience: Flowing once below LOW
//!    +--------------------------+  takes nothing: Dropped, ends with a system error frame
//! ```
//!
//! A reader that is merely slow so holds its producer back as a pipe does, and nothing is lost
//! (`run IMAGE pg_dump | gzip`); one that has stopped costs the container its patience once.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendFlags};

use crate::jsonlog::Stream;
use crate::launch::AttachOptions;

/// Above this many queued bytes the reader holds its producer back.
pub(super) const HIGH: usize = 64 << 10;
const LOW: usize = 16 << 10;
/// After a process has ended its output is queued without regard to `HIGH`: it is bounded by what
/// the pipe held. This is the bound for one that somebody else keeps writing to.
const LIMIT: usize = 4 << 20;

/// How long the container's own clients may take nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Client {
    pub(super) fd: OwnedFd,
    pub(super) process: u32,
    /// Its input is still read.
    pub(super) stdin: bool,
    stdout: bool,
    stderr: bool,
    framed: bool,
    queue: Vec<u8>,
    /// Bytes of `queue` already sent.
    sent: usize,
    /// Where in `queue` the frame ends of which a part has been sent; at least `sent`.
    boundary: usize,
    patience: Option<Duration>,
    /// Since when it has taken nothing, the queue being full or the end waited for.
    idle_since: Option<Instant>,
    /// Nothing more will be queued; gone once the queue is empty.
    pub(super) closing: bool,
    hung_up: bool,
}

impl Client {
    pub(super) fn new(
        fd: OwnedFd,
        process: u32,
        options: &AttachOptions,
        tty: bool,
        patience: Option<Duration>,
    ) -> Self {
        Self {
            fd,
            process,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            framed: !tty,
            queue: Vec::new(),
            sent: 0,
            boundary: 0,
            patience: options.patience.or(patience),
            idle_since: None,
            closing: false,
            hung_up: false,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.queue.len() - self.sent
    }

    /// Its producers are to wait.
    pub(super) fn is_full(&self) -> bool {
        self.pending() > HIGH && !self.closing
    }

    /// Its producers wait for it: it was full, and has not taken enough since. Who does has a
    /// deadline; one that is neither full nor was holds nobody back, whatever is queued.
    pub(super) fn holds(&self) -> bool {
        self.idle_since.is_some() && !self.closing
    }

    /// Sends or queues output.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let wanted = match stream {
            // a terminal has one output, which is wanted by whoever wants either
            _ if !self.framed => self.stdout || self.stderr,
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        if !wanted || self.closing {
            return Ok(());
        }
        let header = header(
            match stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            },
            bytes.len(),
        );
        let head: &[u8] = if self.framed { &header } else { &[] };
        let mut done = 0;
        if self.pending() == 0 {
            done = match send(&self.fd, head, bytes) {
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => 0,
                Err(e) => return Err(e.into()),
            };
        }
        if done < head.len() + bytes.len() {
            let from = done.min(head.len());
            self.queue.extend_from_slice(&head[from..]);
            self.queue.extend_from_slice(&bytes[done - from..]);
            if done > 0 {
                self.boundary = self.queue.len();
            }
        }
        if self.is_full() && self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
        if self.pending() > LIMIT {
            self.give_up("more output than it could take");
        }
        Ok(())
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.pending() > 0 {
            match send(&self.fd, &[], &self.queue[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.idle_since = self.idle_since.map(|_| Instant::now());
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        while self.framed && self.boundary < self.sent {
            self.boundary += 8 + frame_length(&self.queue[self.boundary..]);
        }
        if self.pending() == 0 {
            // a burst's memory is given back
            self.queue = Vec::new();
            self.sent = 0;
            self.boundary = 0;
        } else if self.sent > HIGH / 2 {
            self.queue.drain(..self.sent);
            self.boundary = self.boundary.saturating_sub(self.sent);
            self.sent = 0;
        }
        if self.pending() <= LOW && !self.closing {
            self.idle_since = None;
        }
        Ok(())
    }

    /// No more output will come; what is queued is still sent, within `patience`.
    pub(super) fn close(&mut self, patience: Duration) {
        if !self.closing {
            self.closing = true;
            self.patience = Some(self.patience.map_or(patience, |p| p.min(patience)));
            self.idle_since = Some(Instant::now());
        }
    }

    /// Its other side is closed; what it wrote before can still be read.
    pub(super) fn hang_up(&mut self) {
        self.closing = true;
        self.hung_up = true;
        self.queue = Vec::new();
        self.sent = 0;
        self.idle_since = None;
    }

    pub(super) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// When it runs out of patience.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.idle_since? + self.patience?)
    }

    /// Its time is up: what was queued is thrown away and the end says why.
    pub(super) fn give_up(&mut self, why: &str) {
        let text = format!(
            "plimsoll: detached: {why}; the log has what is missing here ({} bytes)\n",
            self.pending()
        );
        // the frame being sent is finished first, or the client could not read the next
        self.queue.truncate(self.boundary.max(self.sent));
        if self.framed {
            self.queue.extend_from_slice(&header(3, text.len()));
            self.queue.extend_from_slice(text.as_bytes());
        }
        self.closing = true;
        self.patience = Some(PATIENCE);
        self.idle_since = Some(Instant::now());
    }
}

/// The header of a stdcopy frame. Source: moby pkg/stdcopy (format only).
fn header(kind: u8, length: usize) -> [u8; 8] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, 0, 0, 0, a, b, c, d]
}

fn frame_length(frame: &[u8]) -> usize {
    match frame {
        [_, _, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    }
}

fn send(fd: &OwnedFd, head: &[u8], bytes: &[u8]) -> rustix::io::Result<usize> {
    let parts = [IoSlice::new(head), IoSlice::new(bytes)];
    rustix::net::sendmsg(
        fd,
        &parts,
        &mut SendAncillaryBuffer::default(),
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn attached(options: &AttachOptions, tty: bool) -> (Client, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        let client = Client::new(a.into(), 0, options, tty, Some(PATIENCE));
        (client, b)
    }

    /// Frames of a stream, checked to be whole.
    fn frames(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut rest = bytes;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let length = frame_length(rest);
            out.push((rest[0], rest[8..8 + length].to_vec()));
            rest = &rest[8 + length..];
        }
        out
    }

    // FAILURES: "stdout blocks the application": a reader that stops halfway must not hold for ever
    #[test]
    fn who_holds_the_producer_back_has_a_deadline() {
        let both = AttachOptions {
            stdout: true,
            stderr: true,
            ..AttachOptions::default()
        };
        let (mut client, mut peer) = attached(&both, false);
        while !client.is_full() {
            assert!(!client.holds() && client.deadline().is_none());
            client.output(Stream::Stdout, &[b'x'; 4 << 10]).unwrap();
        }
        let mut held_below_high = 0;
        let mut some = [0; 4 << 10];
        while client.pending() > LOW {
            assert!(client.holds() && client.deadline().is_some());
            held_below_high += u32::from(!client.is_full());
            peer.read_exact(&mut some).unwrap();
            client.flush().unwrap();
        }
        assert!(held_below_high > 0, "never between the two marks");
        assert!(!client.holds() && client.deadline().is_none());
    }

    // FAILURES: "stdout blocks the application": a dropped reader's stream is still well-formed
    #[test]
    fn giving_up_ends_on_a_frame_and_says_so() {
        let both = AttachOptions {
            stdout: true,
            stderr: true,
            ..AttachOptions::default()
        };
        for taken in [0, 1, 5, 8, 1000, 16_392, 16_393, 100_000] {
            let (mut client, mut peer) = attached(&both, false);
            while !client.is_full() {
                client.output(Stream::Stdout, &[b'x'; 16 << 10]).unwrap();
            }
            let mut got = vec![0; taken];
            peer.read_exact(&mut got).unwrap();
            client.flush().unwrap();
            client.give_up("test");
            peer.set_nonblocking(true).unwrap();
            while client.pending() > 0 {
                drop(peer.read_to_end(&mut got));
                client.flush().unwrap();
            }
            drop(client);
            peer.set_nonblocking(false).unwrap();
            peer.read_to_end(&mut got).unwrap();
            let frames = frames(&got);
            let (last, before) = frames.split_last().unwrap();
            assert_eq!(last.0, 3, "taken {taken}");
            assert!(String::from_utf8_lossy(&last.1).contains("detached: test"));
            assert!(before.iter().all(|f| f.0 == 1 && f.1.len() == 16 << 10));
        }
    }

    #[test]
    fn only_the_streams_asked_for() {
        let (mut client, mut peer) = attached(
            &AttachOptions {
                stderr: true,
                ..AttachOptions::default()
            },
            false,
        );
        client.output(Stream::Stdout, b"no").unwrap();
        client.output(Stream::Stderr, b"yes").unwrap();
        drop(client);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"\x02\0\0\0\0\0\0\x03yes");
    }
}
