//! Messages with descriptors over unix sockets (SCM_RIGHTS). Nothing here allocates except
//! [`recv`]'s vector, so the child of a clone can send.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most descriptors in one message: the kernel's SCM_MAX_FD.
pub const MAX_FDS: usize = 253;

/// A connected pair that keeps message boundaries, close-on-exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message. A peer that is gone is `EPIPE`, never SIGPIPE.
///
/// # Errors
/// As sendmsg(2); more than [`MAX_FDS`] descriptors is `EINVAL`.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// What [`recv`] got.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of the message now in the buffer. 0 with no descriptors: the peer closed.
    pub len: usize,
    pub fds: Vec<OwnedFd>,
    /// The message did not fit in the buffer, or descriptors were lost.
    pub truncated: bool,
}

/// Receives one message; descriptors come close-on-exec.
///
/// # Errors
/// As recvmsg(2); `EAGAIN` on a socket that doesn't block, or with `DONTWAIT`.
pub fn recv(socket: BorrowedFd<'_>, buf: &mut [u8], dont_wait: bool) -> io::Result<Received> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    if dont_wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let got = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Received {
        len: got.bytes.min(buf.len()),
        fds,
        truncated: got
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_and_descriptors_arrive() {
        let (a, b) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        send(a.as_fd(), b"hello", &[file.as_fd(), a.as_fd()]).unwrap();
        let mut buf = [0; 16];
        let got = recv(b.as_fd(), &mut buf, false).unwrap();
        assert_eq!((&buf[..got.len], got.fds.len()), (&b"hello"[..], 2));
        assert_eq!(rustix::fs::fstat(&got.fds[0]).unwrap().st_size, 1);
        drop((a, got));
        let end = recv(b.as_fd(), &mut buf, false).unwrap();
        assert_eq!((end.len, end.fds.len()), (0, 0));
    }

    #[test]
    fn a_short_buffer_is_told() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"hello", &[]).unwrap();
        let got = recv(b.as_fd(), &mut [0; 2], false).unwrap();
        assert!(got.truncated);
    }
}
