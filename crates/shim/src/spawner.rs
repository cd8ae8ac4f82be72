//! `plimsoll spawner`: one thread, forks a shim per launch, blocks on none.
//!
//! It holds nothing: a launch is a message with descriptors in it, and everything about it goes to
//! the shim with the fork. If it dies, launches not yet forked fail as a closed control socket;
//! the client starts another spawner and tries them again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sys::fork::Forked;

use crate::serve::{self, Request};
use crate::wire::{MAX_MESSAGE, Message, Writer, kind, tag};

/// Serves launches from the SEQPACKET socket at descriptor 0; returns the process's exit code
/// when the other side closes it, or, in a forked shim, when that has done its work.
#[must_use]
pub fn main() -> i32 {
    match prepare().and_then(serve) {
        Ok(code) => code,
        Err(e) => {
            // descriptor 2 is the daemon's own
            let text = format!("plimsoll spawner: {e}\n");
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
            1
        }
    }
}

/// Takes the socket away from descriptor 0, so that no child ever has it as its input.
fn prepare() -> io::Result<OwnedFd> {
    // nothing of the daemon's may be held on to: a shim lives longer than it
    sys::fork::close_from(3)?;
    // not before: its log is a descriptor as well
    sys::fault::enter("spawner");
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    // what the daemon ignores, containers must not
    for signal in 1..=64 {
        // some cannot be changed, and those have no other action
        drop(sys::signal::default_action(signal));
    }
    // shims are reaped by the kernel: who cares about one holds its pidfd
    sys::signal::ignore(libc::SIGCHLD)?;
    rustix::process::chdir("/")?;
    // protected from the out-of-memory killer as far as this host lets us, and shims with us
    if let Ok(file) = rustix::fs::open(
        "/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        let _ = rustix::io::write(&file, b"-999");
    }
    Ok(socket)
}

fn serve(socket: OwnedFd) -> io::Result<i32> {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let received = match sys::fdpass::recv(socket.as_fd(), &mut buffer, false) {
            Ok(received) => received,
            // the daemon died with messages of ours unread
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            Err(e) => return Err(e),
        };
        if received.len == 0 && received.fds.is_empty() {
            return Ok(0);
        }
        let Ok(message) = Message::parse(&buffer[..received.len]) else {
            continue;
        };
        if received.truncated || message.kind != kind::LAUNCH {
            continue;
        }
        let control = received.fds.get(1).and_then(|fd| fd.try_clone().ok());
        let request = Request::decode(&message, received.fds);
        let Some(request) = request else {
            refuse(
                control.as_ref(),
                &io::Error::from_raw_os_error(libc::EINVAL),
            );
            continue;
        };
        let forked = sys::fault::point("spawner.fork").and_then(|()| sys::fork::fork());
        match forked {
            Ok(Forked::Child) => {
                drop((socket, buffer, control));
                return Ok(serve::main(request));
            }
            Ok(Forked::Parent(_)) => {}
            Err(e) => refuse(control.as_ref(), &e),
        }
    }
}

fn refuse(control: Option<&OwnedFd>, e: &io::Error) {
    let mut w = Writer::message(kind::FAILED, 0);
    w.str(tag::TEXT, &format!("fork a shim: {e}"));
    w.i32(tag::ERRNO, e.raw_os_error().unwrap_or(libc::EIO));
    if let Some(control) = control {
        // who is gone need not be told
        drop(sys::fdpass::send(control.as_fd(), w.as_bytes(), &[]));
    }
}
