//! A SEQPACKET socket in the async world, and the kernel's handles on processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions};
use sys::fdpass::Received;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::wire::MAX_MESSAGE;

/// A descriptor in tokio's poller.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type could give another descriptor each time it \
              is asked, which OwnedFd does not"
)]
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

#[derive(Debug)]
pub(super) struct Connection {
    fd: AsyncFd<OwnedFd>,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            fd: register(fd, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// To the socket in a shim's run directory. Fails at once where nobody listens; a listener
    /// whose queue is full is tried again until `until`.
    pub(super) async fn connect(run_dir: &Path, until: Instant) -> io::Result<Self> {
        let dir = rustix::fs::open(
            run_dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let name = crate::serve::state::SOCKET;
        // through the descriptor: the path may be longer than a socket address
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => return Self::new(socket),
                Err(rustix::io::Errno::AGAIN) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub(super) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.fd
            .async_io(Interest::WRITABLE, |fd| {
                sys::fdpass::send(fd.as_fd(), bytes, fds).map(drop)
            })
            .await
    }

    /// One message; an empty one at the end. No buffer is held while waiting: there are as many
    /// connections as containers.
    pub(super) async fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut buffer = vec![0; MAX_MESSAGE];
            let received: Received = match ready
                .try_io(|fd| sys::fdpass::recv(fd.get_ref().as_fd(), &mut buffer, true))
            {
                Ok(received) => received?,
                Err(_would_block) => continue,
            };
            if received.truncated {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            buffer.truncate(received.len);
            buffer.shrink_to_fit();
            return Ok((buffer, received.fds));
        }
    }

    /// The process at the other side when the connection was made.
    pub(super) fn peer_pid(&self) -> io::Result<i32> {
        let peer = rustix::net::sockopt::socket_peercred(self.fd.get_ref())?;
        Ok(peer.pid.as_raw_pid())
    }
}

/// A process by its descriptor: never another that has got its number.
#[derive(Debug)]
pub(super) struct Handle {
    fd: AsyncFd<OwnedFd>,
}

impl Handle {
    pub(super) fn new(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            fd: register(pidfd, Interest::READABLE)?,
        })
    }

    /// The process with this number, if it is the one that started then.
    pub(super) fn find(pid: i32, start_time: u64) -> io::Result<Option<OwnedFd>> {
        let Some(number) = rustix::process::Pid::from_raw(pid) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // read after the descriptor is held: if it is the process now, the descriptor is its
        match crate::serve::process::start_time(pid) {
            Ok(at) if at == start_time => Ok(Some(pidfd)),
            _ => Ok(None),
        }
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    /// Waits for its end and reaps it if it is ours to reap. False: it still lives.
    pub(super) async fn ended(&self, within: Duration) -> bool {
        let readable = self.fd.readable();
        if tokio::time::timeout(within, readable).await.is_err() {
            return false;
        }
        reap(self.pidfd());
        true
    }
}

/// Collects a process that has ended, if it is a child of ours (this process is subreaper).
pub(super) fn reap(pidfd: BorrowedFd<'_>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd), options);
}

/// As [`Handle::ended`], where blocking is allowed.
pub(super) fn ended_blocking(pidfd: BorrowedFd<'_>, within: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let timeout = Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let ended = matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1));
    if ended {
        reap(pidfd);
    }
    ended
}
