//! What a process does to itself between clone and execve. Nothing here allocates unless said.

use std::ffi::{CStr, c_char};
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Ends the process at once: no handlers, no buffers flushed.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit only ends the process; it runs no handlers and takes no locks.
    unsafe { libc::_exit(code) }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A NULL-terminated array of strings as execve wants it. Made (with an allocation) before clone.
#[derive(Debug)]
pub struct CStrArray<'a> {
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a CStr>,
}

impl<'a> FromIterator<&'a CStr> for CStrArray<'a> {
    fn from_iter<I: IntoIterator<Item = &'a CStr>>(iter: I) -> Self {
        let mut pointers: Vec<_> = iter.into_iter().map(CStr::as_ptr).collect();
        pointers.push(std::ptr::null());
        Self {
            pointers,
            strings: PhantomData,
        }
    }
}

/// execve(2). Returns only with the reason why not.
#[must_use]
pub fn execve(path: &CStr, argv: &CStrArray<'_>, envp: &CStrArray<'_>) -> io::Error {
    // SAFETY: path is NUL-terminated; both arrays end in NULL and borrow live C strings.
    unsafe {
        libc::execve(
            path.as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// execveat(2) of the file behind a descriptor (AT_EMPTY_PATH). Returns only with the reason why
/// not.
#[must_use]
pub fn execve_fd(file: BorrowedFd<'_>, argv: &CStrArray<'_>, envp: &CStrArray<'_>) -> io::Error {
    // SAFETY: the path is a NUL-terminated empty string; both arrays end in NULL and borrow live
    // C strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Joins namespaces: of a process by its pidfd (several at once) or one by its own descriptor.
///
/// # Errors
/// As setns(2).
pub fn setns(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: setns takes no memory.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds) }).map(drop)
}

/// Runs `work` in another network namespace: this thread's alone, and only meanwhile.
///
/// # Errors
/// Those of `work`; and that the other cannot be entered, or this one not come back to.
pub fn in_network<T>(there: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = std::fs::File::open("/proc/thread-self/ns/net")?;
    setns(there, libc::CLONE_NEWNET)?;
    let done = work();
    setns(home.as_fd(), libc::CLONE_NEWNET)?;
    done
}

/// unshare(2) of namespaces, or of CLONE_FS.
///
/// # Errors
/// As unshare(2); `EINVAL` for anything but `CLONE_NEW*` and `CLONE_FS`.
pub fn unshare(namespaces: i32) -> io::Result<()> {
    const ALLOWED: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_FS // own root, directory and umask: what a mount namespace needs first
        | 0x80; // CLONE_NEWTIME
    if namespaces & !ALLOWED != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: namespaces and CLONE_FS only, checked above: descriptors and memory stay shared as they are.
    check(unsafe { libc::syscall(libc::SYS_unshare, namespaces) }).map(drop)
}

/// Sets the supplementary groups of this thread.
///
/// # Errors
/// As setgroups(2).
pub fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads groups.len() ids of 32 bits from the slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved group id of this thread.
///
/// # Errors
/// As setresgid(2).
pub fn setgid(gid: u32) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Sets real, effective and saved user id of this thread.
///
/// # Errors
/// As setresuid(2).
pub fn setuid(uid: u32) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// A new, anonymous session keyring, so that keys of the caller's session can't be read.
///
/// # Errors
/// As keyctl(2).
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no name is given, so no memory is read.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// As close_range(2); where it is missing (before Linux 5.11) or refused, as prlimit(2).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: changes a flag of descriptors only; none is closed now.
    let done = check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    });
    match done.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => each_below_limit(first, |fd| {
            // SAFETY: changes a flag of a descriptor, or finds that there is none.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }),
        _ => done.map(drop),
    }
}

/// Descriptors lie below the soft limit, unless it was lowered after they were opened.
fn each_below_limit(first: u32, act: impl Fn(i32)) -> io::Result<()> {
    const MOST: u64 = 1 << 20;
    let (soft, _) = rlimit(libc::RLIMIT_NOFILE)?;
    let end = i32::try_from(soft.min(MOST)).unwrap_or(i32::MAX);
    (first.cast_signed()..end).for_each(act);
    Ok(())
}

/// Closes every descriptor from `first` on, for a process that will use none of them again: an
/// `OwnedFd` that is still around must never be dropped, so the caller must not return.
///
/// # Errors
/// As [`cloexec_from`].
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the callers (a reaper after fork, which ends by _exit) own no descriptor type that
    // is used or dropped afterwards.
    let done = check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) });
    match done.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::ENOSYS | libc::EPERM)) => each_below_limit(first, |fd| {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }),
        _ => done.map(drop),
    }
}

/// Closes the copy that a clone's child got of a descriptor its parent goes on using. For the child
/// alone, which never returns to where the owner would close it again.
pub fn close_copy(fd: BorrowedFd<'_>) {
    // SAFETY: only called between clone and execve: the owner object belongs to the parent's
    // memory, and the child's copy of it is never dropped.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Makes `to` the same open file as `from`, not close-on-exec.
///
/// # Errors
/// As dup2(2).
pub fn dup_onto(from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: F_SETFD takes no memory.
        let result = unsafe { libc::fcntl(to, libc::F_SETFD, 0) };
        return check(libc::c_long::from(result)).map(drop);
    }
    // SAFETY: replaces descriptor `to`; callers pass 0..=2, which no owner object holds.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) }).map(drop)
}

/// Default dispositions for every signal and an empty mask: what a program expects to start with.
/// (Handlers are reset by execve, ignored signals are not, and Rust ignores SIGPIPE.)
///
/// The raw call, because the C library keeps signals 32 and 33 from its callers, and an ignored one
/// is inherited all the same.
pub fn reset_signals() {
    // struct sigaction of the kernel: handler SIG_DFL, no flags, no restorer, empty mask
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads one sigaction, 32 bytes at most on any architecture; SIG_DFL
        // installs no code of ours. SIGKILL and SIGSTOP are refused, which is fine.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8) };
    }
    set_mask(false);
}

/// Blocks every signal, or none.
fn set_mask(all: bool) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    if all {
        // SAFETY: sigfillset initialises the set it is given.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
    } else {
        // SAFETY: sigemptyset initialises the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    }
    // SAFETY: the set was initialised above; no old set is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) };
}

/// Blocks every signal: they are then taken with [`next_signal`].
pub fn block_signals() {
    set_mask(true);
}

/// Waits for a signal of the process, all of them being blocked.
#[must_use]
pub fn next_signal() -> i32 {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigfillset initialises the set it is given.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    loop {
        // SAFETY: the set was initialised above; no siginfo is asked for.
        let n = unsafe { libc::sigwaitinfo(set.as_ptr(), std::ptr::null_mut()) };
        if n > 0 {
            return n;
        }
    }
}

/// A child that ended: its pid and wait status. `None`: no child has ended now.
#[must_use]
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the kernel writes one int; no rusage is asked for.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// kill(2) by raw numbers; 0 and negative pids have their special meaning.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// The current directory as the kernel names it, in the caller's buffer: begins with
/// `(unreachable)` when it lies outside the root.
///
/// # Errors
/// As getcwd(2).
pub fn getcwd(buf: &mut [u8]) -> io::Result<&[u8]> {
    // SAFETY: the kernel writes at most buf.len() bytes.
    let n = check(unsafe { libc::syscall(libc::SYS_getcwd, buf.as_mut_ptr(), buf.len()) })?;
    let n = usize::try_from(n).unwrap_or(0).saturating_sub(1);
    Ok(&buf[..n])
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Errors
/// As socket(2), SIOCSIFFLAGS of netdevice(7).
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: takes no memory.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_socket,
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )
    })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))?;
    // SAFETY: the kernel just made this descriptor for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed() as c_char;
    request.ifr_name[1] = b'o'.cast_signed() as c_char;
    // a new loopback has only IFF_LOOPBACK, which can't be changed: no need to read flags first
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads an ifreq that lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        )
    }))
    .map(drop)
}

/// sethostname(2).
///
/// # Errors
/// As the call.
pub fn sethostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads name.len() bytes.
    check(unsafe { libc::syscall(libc::SYS_sethostname, name.as_ptr(), name.len()) }).map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// As the call.
pub fn setdomainname(name: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads name.len() bytes.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.len()) }).map(drop)
}

/// prlimit(2) of this process by raw numbers: sets `resource`, `u64::MAX` being no limit.
///
/// # Errors
/// As the call.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let new = [soft, hard];
    // SAFETY: the kernel reads two 64-bit words (struct rlimit64) and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new.as_ptr(), 0) }).map(drop)
}

/// The limits of this process, soft and hard.
///
/// # Errors
/// As prlimit(2).
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut old = [0_u64; 2];
    // SAFETY: the kernel writes two 64-bit words (struct rlimit64) and reads nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0, old.as_mut_ptr()) })?;
    Ok((old[0], old[1]))
}

/// personality(2).
///
/// # Errors
/// As the call.
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// ioprio_set(2) of this process.
///
/// # Errors
/// As the call.
pub fn set_io_priority(value: i32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes no memory.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// Makes the caller's process group the terminal's foreground group; called with SIGTTOU blocked.
///
/// # Errors
/// As tcsetpgrp(3); `ENOTTY` when it is no terminal.
pub fn take_foreground(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no memory.
    let group = unsafe { libc::getpgrp() };
    // SAFETY: the kernel reads one int that lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSPGRP as _, &raw const group)
    }))
    .map(drop)
}
