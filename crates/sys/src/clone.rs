//! clone3, with a pidfd always, and plain fork.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct clone_args` of linux/sched.h, the version with `cgroup`.
#[repr(C, align(8))]
#[derive(Default)]
struct Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Not libc's constant, which overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process made by [`clone3`].
#[derive(Debug)]
pub struct Cloned {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Makes a process with its own copy of memory and descriptors that runs `child` and never returns
/// from it. `flags` are `CLONE_NEW*`, and `CLONE_PARENT` for a sibling instead of a child; a
/// `cgroup` (v2 directory) is where it is born.
///
/// The child is a copy of one thread: when the process has others, a lock one of them held stays
/// held forever, so `child` must not allocate, log or take locks. A panic in it ends it with 70.
///
/// # Errors
/// As clone3(2). `ENOSYS` before Linux 5.3: then clone(2) is used, without `cgroup`.
pub fn clone3(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> Infallible,
) -> io::Result<Cloned> {
    match both(flags, cgroup)? {
        Some(cloned) => Ok(cloned),
        None => run(child),
    }
}

/// As [`clone3`], returning in both: `None` in the new process. For a caller that has one thread
/// (a process between clone and execve).
///
/// # Errors
/// As [`clone3`].
pub fn clone3_both(flags: u64) -> io::Result<Option<Cloned>> {
    both(flags, None)
}

fn both(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Cloned>> {
    let mut pidfd: libc::c_int = -1;
    // a sibling ends as its maker would: the kernel wants no signal named
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let signal = if sibling { 0 } else { libc::SIGCHLD as u64 };
    let mut args = Args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: signal,
        ..Args::default()
    };
    // the exposed address is what the kernel writes to
    let _exposed = (&raw mut pidfd).expose_provenance();
    let mut size = std::mem::size_of::<Args>();
    match cgroup {
        Some(dir) => {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = dir.as_raw_fd() as u64;
        }
        // the version of 5.3, so that kernels before CLONE_INTO_CGROUP (5.7) take it
        None => size = 64,
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of this stack and may return on it; args
    // and pidfd live until the call returns, and size is at most that of Args.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) };
    if pid < 0 && cgroup.is_none() && errno() == libc::ENOSYS {
        let flags = args.flags | signal;
        // SAFETY: as above; clone(2) stores the pidfd where parent_tid points.
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        return Ok(None);
    }
    let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?;
    // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor that nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Cloned { pid, pidfd }))
}

/// fork(2) for a process of one thread (our reaper, our shim): the raw system call, so no handlers
/// registered with pthread_atfork run. `None` in the child.
///
/// # Errors
/// As fork(2).
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: without CLONE_VM the child has its own copy of everything; flags ask for nothing
    // that needs the other arguments.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn run(child: impl FnOnce() -> Infallible) -> ! {
    // Unwinding into the caller would run the parent's code a second time.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
    match done {
        Ok(never) => match never {},
        Err(_) => crate::process::exit(70),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    #[test]
    fn the_pidfd_is_the_childs() {
        let child = clone3(0, None, || crate::process::exit(7)).unwrap();
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }
}
