//! Signals as descriptors, and the dispositions a process of ours starts from.

#![expect(unsafe_code, reason = "the crate where unsafe is allowed")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is valid for writing one sigset_t, which sigemptyset initialises.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: `set` was initialised above; a bad number is reported, not followed.
        if unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: initialised by sigemptyset.
    Ok(unsafe { set.assume_init() })
}

/// Blocks the signals and gives a descriptor that is readable when one is pending.
///
/// # Errors
/// As signalfd(2).
pub fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals)?;
    // SAFETY: `set` is an initialised sigset_t; the old mask isn't asked for.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: -1 asks for a new descriptor; `set` is initialised.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by signalfd, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Consumes the pending signals of a [`signalfd`].
pub fn drain(signalfd: impl AsFd) {
    let mut one = [0_u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(&signalfd, &mut one).is_ok_and(|n| n > 0) {}
}

/// The next pending signal of a [`signalfd`], if there is one.
#[must_use]
pub fn next(signalfd: impl AsFd) -> Option<i32> {
    let mut one = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let n = rustix::io::read(&signalfd, &mut one).ok()?;
    // ssi_signo is its first field
    let number = one.first_chunk().filter(|_| n == one.len())?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}

/// Gives the signal its default action.
///
/// # Errors
/// As signal(2).
pub fn default_action(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_DFL)
}

/// Ignores the signal; ignored SIGCHLD means that children are reaped by the kernel.
///
/// # Errors
/// As signal(2).
pub fn ignore(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_IGN)
}

fn set_action(signal: i32, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: `action` is SIG_DFL or SIG_IGN, so no handler of ours can run.
    if unsafe { libc::signal(signal, action) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a signal that rustix has no name for (0 and the real-time ones included) by pidfd.
///
/// # Errors
/// As pidfd_send_signal(2).
pub fn send_to(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: passes numbers and a null siginfo, which asks the kernel to fill it.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
