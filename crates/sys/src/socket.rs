//! What rustix does not tell of sockets, and options of netlink sockets it does not know.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes written to a stream socket that its peer has not read yet (`SIOCOUTQ`; for unix sockets
/// the kernel counts its own overhead too, so only zero is exact).
///
/// # Errors
/// When it is no socket.
pub fn unread_by_peer(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int to its argument, which is a
    // live int of ours; the descriptor is borrowed for the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Asks a netlink socket for the kernel's own words about a request it refuses, and for answers
/// that do not repeat the request.
///
/// # Errors
/// When it is no netlink socket.
pub fn explain_refusals(socket: &impl AsFd) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
        // SAFETY: the kernel reads `length` bytes of a live int of ours; the descriptor is borrowed
        // for the call.
        let done = unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                length,
            )
        };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn zero_once_the_peer_has_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(super::unread_by_peer(&ours).unwrap(), 0);
        ours.write_all(b"head").unwrap();
        assert!(super::unread_by_peer(&ours).unwrap() > 0);
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert!(super::unread_by_peer(&ours).unwrap() > 0);
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(super::unread_by_peer(&ours).unwrap(), 0);
    }
}
