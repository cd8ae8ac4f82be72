//! Sockets handed over by a service manager (`sd_listen_fds(3)`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The descriptors passed to this process, with their names (`LISTEN_FDNAMES`; empty without).
/// They are handed out once: a second call answers none.
///
/// # Errors
/// When a descriptor that was announced is not open.
pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let own = std::env::var("LISTEN_PID")
        .ok()
        .and_then(|pid| pid.parse().ok())
        == Some(std::process::id());
    let count: i32 = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    if !own || count <= 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut out = Vec::new();
    for fd in FIRST..FIRST.saturating_add(count) {
        // SAFETY: F_SETFD on a number that may or may not be open touches no memory.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open (fcntl said so), was passed to this very process
        // (LISTEN_PID), and nobody else owns it: it came with exec and TAKEN lets us through once.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        out.push((names.next().unwrap_or_default().to_owned(), owned));
    }
    Ok(out)
}
