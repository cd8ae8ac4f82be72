//! A process of the container and its streams: the first one, or one that was exec'd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use runtime::Pending;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::jsonlog::Stream;
use crate::jsonlog::encode::Splitter;

/// The number of the container's first process.
pub(super) const FIRST: u32 = 0;

/// Input that waits for the process to read it.
const SINK_LIMIT: usize = 16 << 10;

/// An output of the process, read by us.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    /// Of the first process, if it has a log.
    pub(super) splitter: Option<Splitter>,
    /// Not read until each client that was full has room.
    pub(super) paused: bool,
}

/// The standard input of the process, written by us.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) fd: OwnedFd,
    pub(super) queue: Vec<u8>,
    /// Close when the queue is empty.
    pub(super) ending: bool,
}

impl Sink {
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < SINK_LIMIT && !self.ending
    }

    /// Writes what it takes. False: it is gone or at its end.
    pub(super) fn flush(&mut self) -> bool {
        while !self.queue.is_empty() {
            match rustix::io::write(&self.fd, &self.queue) {
                Ok(n) => {
                    self.queue.drain(..n);
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.queue = Vec::new();
        !self.ending
    }
}

/// Who waits to hear that an exec'd process runs: a connection and the request's number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) connection: u32,
    pub(super) request: u32,
}

#[derive(Debug)]
pub(super) enum Life {
    /// Between clone and the execution of its program. Absent for a moment only.
    Starting(Option<Pending>),
    Running,
    Ended {
        code: i32,
        signal: Option<i32>,
    },
}

#[derive(Debug)]
pub(super) struct Process {
    /// Absent for the container's first.
    pub(super) exec_id: Option<String>,
    pub(super) asker: Option<Asker>,
    pub(super) life: Life,
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) tty: bool,
    pub(super) size: Option<(u16, u16)>,
    pub(super) sources: [Option<Source>; 2],
    pub(super) sink: Option<Sink>,
    /// The end of a client's input is the process's.
    pub(super) stdin_once: bool,
    pub(super) kill_on_disconnect: bool,
    /// Ended: its outputs are given up at this time though somebody still holds them.
    pub(super) drained_by: Option<Instant>,
}

impl Process {
    pub(super) fn outputs_open(&self) -> bool {
        self.sources.iter().any(Option::is_some)
    }

    pub(super) fn ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// A descriptor of its terminal.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let source = self.sources[0].as_ref()?;
        self.tty.then(|| source.fd.as_fd())
    }
}

/// Both sides of a process's standard streams before it is started.
#[derive(Debug)]
pub(super) struct Stdio {
    pub(super) theirs: [OwnedFd; 3],
    pub(super) sources: [Option<Source>; 2],
    pub(super) sink: Option<Sink>,
}

impl Stdio {
    /// Pipes, or /dev/null for an input that is not kept open. With a terminal the child makes it
    /// and all three are /dev/null.
    pub(super) fn new(tty: bool, open_stdin: bool, logged: bool) -> io::Result<Self> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if tty {
            let theirs = [null.try_clone()?, null.try_clone()?, null];
            return Ok(Self {
                theirs,
                sources: [None, None],
                sink: None,
            });
        }
        let source = |stream| {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            dont_block(&ours)?;
            let source = Source {
                fd: ours,
                stream,
                splitter: logged.then(|| Splitter::new(stream)),
                paused: false,
            };
            io::Result::Ok((source, theirs))
        };
        let (out, theirs_out) = source(Stream::Stdout)?;
        let (err, theirs_err) = source(Stream::Stderr)?;
        let (sink, theirs_in) = if open_stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            dont_block(&ours)?;
            (Some(Sink::new(ours)), theirs)
        } else {
            (None, null)
        };
        Ok(Self {
            theirs: [theirs_in, theirs_out, theirs_err],
            sources: [Some(out), Some(err)],
            sink,
        })
    }
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            queue: Vec::new(),
            ending: false,
        }
    }
}

pub(super) fn dont_block(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Field 22 of `/proc/<pid>/stat`: with the pid it names a process for ever.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    let mut buffer = [0; 1024];
    let stat = sys::file::read_short(&format!("/proc/{pid}/stat"), &mut buffer)?;
    let stat = String::from_utf8_lossy(stat);
    // the command's name, in parentheses, may hold anything
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}
