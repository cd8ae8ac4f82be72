//! Installing a seccomp filter.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// SECCOMP_FILTER_FLAG_LOG.
pub const FLAG_LOG: u32 = 2;
/// SECCOMP_FILTER_FLAG_SPEC_ALLOW.
pub const FLAG_SPEC_ALLOW: u32 = 4;

/// SECCOMP_FILTER_FLAG_TSYNC.
pub const FLAG_TSYNC: u32 = 1;
/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
const FLAG_NEW_LISTENER: u32 = 8;
/// SECCOMP_FILTER_FLAG_TSYNC_ESRCH.
const FLAG_TSYNC_ESRCH: u32 = 16;
/// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; only with a listener.
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Installs a program of `struct sock_filter`s, given as bytes, for this thread and what it will
/// execute. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// As seccomp(2); `EINVAL` when the length isn't that of 1 to 4096 instructions.
pub fn install(program: &[u8], flags: u32) -> io::Result<()> {
    set(program, flags).map(drop)
}

/// As [`install`], with a descriptor (close-on-exec) on which calls that the program wants to be
/// judged are announced.
///
/// # Errors
/// As [`install`]; `EBUSY` when a filter with a listener is in force already.
pub fn install_with_listener(program: &[u8], flags: u32) -> io::Result<OwnedFd> {
    // with both flags a thread that can't be synchronised is an error, not a thread's id
    let both = if flags & FLAG_TSYNC == 0 {
        0
    } else {
        FLAG_TSYNC_ESRCH
    };
    let fd = set(program, flags | both | FLAG_NEW_LISTENER)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?;
    // SAFETY: with NEW_LISTENER the kernel answered with a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(program: &[u8], flags: u32) -> io::Result<libc::c_long> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let count = program.len() / 8;
    let Ok(len) = u16::try_from(count) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if !program.len().is_multiple_of(8) || count == 0 || count > 4096 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies len * 8 bytes from the slice (checked above) without needing any
    // alignment, and never writes to it.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(r)
}

/// Waits for the next call that a listener announces and answers it with an errno: the smallest
/// agent there is.
///
/// # Errors
/// As SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND; `ENOENT` when the caller is gone.
pub fn refuse_next(listener: BorrowedFd<'_>, errno: i32) -> io::Result<()> {
    const RECV: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    // struct seccomp_notif, 80 bytes: its first word is the call's number
    let mut request = [0_u64; 10];
    // SAFETY: the kernel writes one struct seccomp_notif, whose size is part of the request's code.
    let r = unsafe { libc::ioctl(listener.as_raw_fd(), RECV as _, request.as_mut_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // struct seccomp_notif_resp: number, value, and the error with flags above it
    let mut response = [request[0], 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: the kernel reads one struct seccomp_notif_resp of 24 bytes.
    let r = unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, response.as_mut_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
