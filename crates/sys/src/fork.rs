//! fork(2) for a process that has one thread, and what such a process does to what it inherited.

#![expect(unsafe_code, reason = "the crate where unsafe is allowed")]

use std::io;
use std::os::fd::RawFd;

use rustix::process::Pid;

/// Which side of a [`fork`] this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    Parent(Pid),
    Child,
}

/// Forks. The child may do anything, allocate included, because the caller has one thread.
///
/// # Errors
/// `EAGAIN`, `ENOMEM` as fork(2); `EBUSY` if this process has more than one thread.
pub fn fork() -> io::Result<Forked> {
    if !single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: the process has exactly this thread (checked above, and no other exists that could
    // start one), so no lock of the allocator or of libc is held in the child by a thread that
    // isn't there.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid)
            .map(Forked::Parent)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD)),
    }
}

/// The number of links of /proc/self/task is 2 + threads.
fn single_threaded() -> io::Result<bool> {
    Ok(rustix::fs::stat("/proc/self/task")?.st_nlink == 3)
}

/// Closes every descriptor from `first` up. For the very start of a process: nothing that owns one
/// of them may exist.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first =
        libc::c_uint::try_from(first).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: closes numbers only; that no `OwnedFd` for them exists is the caller's promise,
    // made at the start of `main` where none has been made yet.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
