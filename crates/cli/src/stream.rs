//! The user's terminal or pipes on one side, a container's streams on the other.
//!
//! One thread polls four descriptors: the daemon's stream, standard input, the signals, and the
//! answer to `wait`. Nothing is written to the daemon that it has not room for, so that a program
//! that writes while it does not read (`cat` of a long file) cannot block both directions.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use api::stream::{FRAME_HEADER, StdStream, parse_frame_header};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

use crate::endpoint::Socket;
use crate::http::Hijacked;
use crate::term::DetachScanner;

/// How a stream came to its end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The other side has no more.
    Eof,
    /// The user typed the detach keys.
    Detached,
    /// The connection broke.
    Broken(io::Error),
}

/// Bytes of each stream shown so far: what to skip when the logs are read again from the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
}

/// Takes multiplexed or raw output apart and prints it.
#[derive(Debug)]
pub(crate) struct Printer {
    raw: bool,
    header: Vec<u8>,
    stream: StdStream,
    left: usize,
    pub(crate) shown: Shown,
    /// Still to be left out, because it was shown before.
    skip: Shown,
    /// What the engine says on its own stream.
    pub(crate) system: Vec<u8>,
}

impl Printer {
    pub(crate) fn new(raw: bool) -> Self {
        Self {
            raw,
            header: Vec::with_capacity(FRAME_HEADER),
            stream: StdStream::Stdout,
            left: 0,
            shown: Shown::default(),
            skip: Shown::default(),
            system: Vec::new(),
        }
    }

    /// The next bytes come from another connection, from the start of the logs.
    pub(crate) fn replay(&mut self) {
        self.header.clear();
        self.left = 0;
        self.skip = self.shown;
    }

    /// The next bytes come from another connection, and none of them was shown.
    pub(crate) fn reconnect(&mut self) {
        self.header.clear();
        self.left = 0;
        self.skip = Shown::default();
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.raw {
            return self.put(StdStream::Stdout, bytes);
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let want = FRAME_HEADER - self.header.len();
                let (now, later) = bytes.split_at(want.min(bytes.len()));
                self.header.extend_from_slice(now);
                bytes = later;
                let Ok(header) = <[u8; FRAME_HEADER]>::try_from(self.header.as_slice()) else {
                    return Ok(());
                };
                self.header.clear();
                let (stream, length) = parse_frame_header(header).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the daemon's stream is out of step",
                    )
                })?;
                self.stream = stream;
                self.left = usize::try_from(length).unwrap_or(usize::MAX);
                continue;
            }
            let (now, later) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= now.len();
            bytes = later;
            self.put(self.stream, now)?;
        }
        Ok(())
    }

    fn put(&mut self, stream: StdStream, bytes: &[u8]) -> io::Result<()> {
        let (shown, skip) = match stream {
            StdStream::Stderr => (&mut self.shown.stderr, &mut self.skip.stderr),
            StdStream::System => {
                self.system.extend_from_slice(bytes);
                return Ok(());
            }
            _ => (&mut self.shown.stdout, &mut self.skip.stdout),
        };
        let old = usize::try_from(*skip).map_or(bytes.len(), |s| s.min(bytes.len()));
        *skip -= old as u64;
        let new = &bytes[old..];
        *shown += new.len() as u64;
        if stream == StdStream::Stderr {
            io::stderr().write_all(new)
        } else {
            let mut out = io::stdout().lock();
            out.write_all(new)?;
            out.flush()
        }
    }
}

/// What the loop does besides copying.
pub(crate) struct Session<'a> {
    pub(crate) printer: &'a mut Printer,
    /// Copy standard input; until its end, which is remembered in `stdin_open`.
    pub(crate) stdin_open: &'a mut bool,
    pub(crate) detach: Option<&'a mut DetachScanner>,
    pub(crate) signals: Option<&'a OwnedFd>,
    pub(crate) on_signal: &'a mut dyn FnMut(i32),
}

impl Session<'_> {
    /// Copies until the stream ends.
    pub(crate) fn run(&mut self, stream: Hijacked) -> io::Result<Ended> {
        let Hijacked {
            mut socket,
            leftover,
        } = stream;
        self.printer.feed(&leftover)?;
        set_nonblocking(&socket)?;
        let mut pending: Vec<u8> = Vec::new();
        let mut write_open = true;
        if !*self.stdin_open {
            // the container's standard input ends here; nothing depends on the answer
            drop(socket.close_write());
            write_open = false;
        }
        let mut buf = vec![0; 64 * 1024];
        loop {
            let ready = self.wait(&socket, write_open && !pending.is_empty())?;
            if ready.signal {
                self.signals();
            }
            if ready.readable {
                match socket.read(&mut buf) {
                    Ok(0) => return Ok(Ended::Eof),
                    Ok(n) => self.printer.feed(&buf[..n])?,
                    Err(e) if is_later(&e) => {}
                    Err(e) => return Ok(Ended::Broken(e)),
                }
            }
            if ready.writable {
                match socket.write(&pending) {
                    Ok(n) => {
                        pending.drain(..n);
                    }
                    Err(e) if is_later(&e) => {}
                    // the program has closed its input or has ended: the rest is for nobody
                    Err(_) => {
                        pending.clear();
                        write_open = false;
                    }
                }
            }
            if ready.stdin && pending.is_empty() {
                let n = rustix::io::read(io::stdin(), &mut buf).unwrap_or(0);
                if n == 0 {
                    *self.stdin_open = false;
                } else if self.typed(&buf[..n], &mut pending) {
                    return Ok(Ended::Detached);
                }
            }
            if !*self.stdin_open && pending.is_empty() && write_open {
                drop(socket.close_write());
                write_open = false;
            }
            if !write_open {
                pending.clear();
            }
        }
    }

    fn typed(&mut self, bytes: &[u8], pending: &mut Vec<u8>) -> bool {
        match self.detach.as_mut() {
            Some(scanner) => scanner.feed(bytes, pending),
            None => {
                pending.extend_from_slice(bytes);
                false
            }
        }
    }

    fn signals(&mut self) {
        if let Some(fd) = self.signals {
            while let Some(signal) = next_signal(fd) {
                (self.on_signal)(signal);
            }
        }
    }

    fn wait(&self, socket: &Socket, to_write: bool) -> io::Result<Ready> {
        let mut interest = PollFlags::IN;
        if to_write {
            interest |= PollFlags::OUT;
        }
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(socket, interest)];
        let stdin_at = (*self.stdin_open && !to_write).then(|| {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
            fds.len() - 1
        });
        let signal_at = self.signals.map(|s| {
            fds.push(PollFd::new(s, PollFlags::IN));
            fds.len() - 1
        });
        poll_forever(&mut fds)?;
        let is = |at: usize, flags: PollFlags| fds[at].revents().intersects(flags);
        let any = PollFlags::IN | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        Ok(Ready {
            readable: is(0, PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            writable: is(0, PollFlags::OUT),
            stdin: stdin_at.is_some_and(|at| is(at, any)),
            signal: signal_at.is_some_and(|at| is(at, PollFlags::IN)),
        })
    }
}

struct Ready {
    readable: bool,
    writable: bool,
    stdin: bool,
    signal: bool,
}

fn is_later(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn poll_forever(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn set_nonblocking(socket: &Socket) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(socket)?;
    rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    Ok(())
}

/// Waits until `fd` is readable, serving signals meanwhile.
pub(crate) fn wait_readable(
    fd: BorrowedFd<'_>,
    signals: Option<&OwnedFd>,
    on_signal: &mut dyn FnMut(i32),
) -> io::Result<()> {
    loop {
        let mut fds = vec![PollFd::new(&fd, PollFlags::IN)];
        fds.extend(signals.map(|s| PollFd::new(s, PollFlags::IN)));
        poll_forever(&mut fds)?;
        let ready = !fds[0].revents().is_empty();
        if let Some(s) = signals {
            while let Some(signal) = next_signal(s) {
                on_signal(signal);
            }
        }
        if ready {
            return Ok(());
        }
    }
}

/// The next pending signal's number.
pub(crate) fn next_signal(fd: impl AsFd) -> Option<i32> {
    // struct signalfd_siginfo is 128 bytes; its first field is the number, in the machine's order
    let mut info = [0_u8; 128];
    match rustix::io::read(fd, &mut info) {
        Ok(n) if n >= 4 => {
            i32::try_from(u32::from_ne_bytes([info[0], info[1], info[2], info[3]])).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_at_any_cut() {
        let mut bytes = Vec::new();
        bytes.extend(api::stream::frame_header(StdStream::Stderr, 0));
        bytes.extend(api::stream::frame_header(StdStream::System, 5));
        bytes.extend(b"hello");
        bytes.extend(api::stream::frame_header(StdStream::System, 1));
        bytes.extend(b"!");
        for cut in 1..bytes.len() {
            let mut printer = Printer::new(false);
            for piece in bytes.chunks(cut) {
                printer.feed(piece).expect("fed");
            }
            assert_eq!(printer.system, b"hello!", "{cut}");
        }
    }

    #[test]
    fn a_stream_that_is_none_is_refused() {
        let mut printer = Printer::new(false);
        assert!(printer.feed(b"HTTP/1.1 200 OK").is_err());
    }

    #[test]
    fn replay_skips_what_was_shown() {
        let mut printer = Printer::new(true);
        printer.feed(b"").expect("fed");
        printer.shown.stdout = 4;
        printer.replay();
        printer.feed(b"abcd").expect("fed");
        assert_eq!(printer.shown.stdout, 4);
        assert_eq!(printer.skip, Shown::default());
    }
}
