//! Children that try something and are thrown away: the only way to learn what a host can do.
//!
//! A child reports in fixed-size records over a pipe while it goes, so that one which is killed
//! (by a seccomp filter) or hangs (on a dead file system) still tells how far it came. The parent
//! waits until a deadline and then kills it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// The child's end: tells the parent numbers.
#[derive(Debug)]
pub struct Reporter {
    pipe: OwnedFd,
}

impl Reporter {
    /// Sends one record. A parent that has gone doesn't matter: the child is killed with it.
    pub fn tell(&self, id: u32, value: i32) {
        let mut record = [0_u8; 8];
        record[..4].copy_from_slice(&id.to_ne_bytes());
        record[4..].copy_from_slice(&value.to_ne_bytes());
        let _sent = write(&self.pipe, &record);
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited,
    /// By this signal: SIGSYS where a seccomp filter forbids what was tried.
    Killed(i32),
    /// It didn't end before the deadline and was killed.
    TimedOut,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Throwaway {
    pid: Option<Pid>,
    pipe: OwnedFd,
}

/// Forks a child that runs `f` and exits.
///
/// The child of a process with several threads must not wait for a lock that another thread held
/// at the fork, so `f` should neither allocate nor log. One that does anyway can deadlock, which
/// the deadline ends like any other hang: the parent's memory is never touched.
///
/// # Errors
/// When no pipe or process can be had.
pub fn spawn(f: impl FnOnce(&Reporter)) -> io::Result<Throwaway> {
    let (rx, tx) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: fork takes no memory; the child runs on its own copy of the address space and leaves
    // by _exit below, so nothing of the parent's is unwound or dropped twice.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        drop(rx);
        let code = child(f, Reporter { pipe: tx });
        // SAFETY: _exit only ends the process; it runs no handlers and takes no locks.
        unsafe { libc::_exit(code) }
    }
    Ok(Throwaway {
        pid: Pid::from_raw(pid),
        pipe: rx,
    })
}

fn child(f: impl FnOnce(&Reporter), reporter: Reporter) -> i32 {
    let _armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let run = std::panic::AssertUnwindSafe(|| f(&reporter));
    match std::panic::catch_unwind(run) {
        Ok(()) => 0,
        Err(_) => 101,
    }
}

impl Throwaway {
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.pid.map(Pid::as_raw_pid)
    }

    /// The next record, or `None` when the child has ended or the deadline has passed.
    pub fn next(&self, until: Instant) -> Option<(u32, i32)> {
        let mut record = [0_u8; 8];
        let mut filled = 0;
        while filled < record.len() {
            if !readable(self.pipe.as_fd(), until) {
                return None;
            }
            match read(&self.pipe, &mut record[filled..]) {
                Ok(0) => return None,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let (id, value) = record.split_at(4);
        Some((
            u32::from_ne_bytes(id.try_into().ok()?),
            i32::from_ne_bytes(value.try_into().ok()?),
        ))
    }

    /// Gives each record to `each` until the child ends or the deadline passes, then reaps it.
    pub fn collect(mut self, until: Instant, mut each: impl FnMut(u32, i32)) -> Ended {
        while let Some((id, value)) = self.next(until) {
            each(id, value);
        }
        let Some(pid) = self.pid.take() else {
            return Ended::Exited;
        };
        let timed_out = Instant::now() >= until;
        if timed_out {
            let _gone = kill_process(pid, Signal::KILL);
        }
        match reap(pid) {
            _ if timed_out => Ended::TimedOut,
            Some(signal) => Ended::Killed(signal),
            None => Ended::Exited,
        }
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _gone = kill_process(pid, Signal::KILL);
            let _signal = reap(pid);
        }
    }
}

fn readable(fd: BorrowedFd<'_>, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

/// Waits for a child that has ended or was killed. One that sleeps uninterruptibly (on a dead
/// file system) dies only when that wakes up: it is then reaped by a thread of its own.
fn reap(pid: Pid) -> Option<i32> {
    let patience = Instant::now() + Duration::from_millis(200);
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return status.terminating_signal(),
            Ok(None) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(None) => {
                std::thread::spawn(move || {
                    let _status = waitpid(Some(pid), WaitOptions::empty());
                });
                return None;
            }
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// unshare, in a throwaway child (it would change the whole process for good).
///
/// # Errors
/// As the kernel answers.
pub fn unshare(flags: rustix::thread::UnshareFlags) -> Result<(), Errno> {
    // SAFETY: only UnshareFlags::FILES could take descriptors away from under their owners, and a
    // table unshared by the single thread of a forked child has no other user.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// A system call that can be asked for with arguments it refuses before it does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Execveat,
    Statmount,
    IoUringSetup,
    Keyctl,
}

/// Whether a system call is there: any answer but "no such call" or "not allowed" is a yes.
///
/// # Errors
/// ENOSYS or EPERM (EACCES) as the kernel or a filter answers.
pub fn answers(call: Call) -> Result<(), Errno> {
    let (number, args): (libc::c_long, [libc::c_long; 5]) = match call {
        Call::Execveat => (libc::SYS_execveat, [-1, 0, 0, 0, 0]),
        // statmount has no constant in libc; 457 on every architecture (unified table).
        Call::Statmount => (457, [0, 0, 0, 0, 0]),
        Call::IoUringSetup => (libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]),
        // KEYCTL_GET_KEYRING_ID of the session keyring, without creating it.
        Call::Keyctl => (libc::SYS_keyctl, [0, -3, 0, 0, 0]),
    };
    // SAFETY: every pointer argument above is null, which each of these calls refuses with EFAULT
    // or EINVAL before it writes anywhere; the numbers are arguments only.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if result >= 0 {
        return Ok(());
    }
    match last() {
        e @ (Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Err(e),
        _ => Ok(()),
    }
}

fn last() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// source: mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What to try with mount_setattr on a detached mount.
#[derive(Debug, Clone, Copy)]
pub enum SetAttr<'a> {
    ReadOnly { recursive: bool },
    IdMap(BorrowedFd<'a>),
}

/// mount_setattr on a detached mount.
///
/// # Errors
/// As the kernel answers.
pub fn mount_setattr(mount: BorrowedFd<'_>, what: SetAttr<'_>) -> Result<(), Errno> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mut attr = MountAttr {
        set: MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    match what {
        SetAttr::ReadOnly { recursive: true } => flags |= libc::AT_RECURSIVE,
        SetAttr::ReadOnly { recursive: false } => {}
        SetAttr::IdMap(fd) => {
            attr.set = MOUNT_ATTR_IDMAP;
            attr.userns_fd = u64::from(fd.as_raw_fd().unsigned_abs());
        }
    }
    // SAFETY: the path is a NUL-terminated literal, and `attr` is a mount_attr of the size given
    // that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

/// source: clone(2), `struct clone_args` up to `cgroup`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
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

/// Makes a child by clone3 that exits at once, in the cgroup2 directory given if any, and reaps it.
/// To be called in a throwaway child.
///
/// # Errors
/// As the kernel answers.
pub fn clone3(into_cgroup: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = into_cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
    }
    // SAFETY: no CLONE_VM and no stack: the child has its own copy of this one, like fork's, and
    // `args` is a clone_args of the size given.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if pid == 0 {
        // SAFETY: _exit only ends this child.
        unsafe { libc::_exit(0) }
    }
    let pid = check(pid)?;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    waitpid(pid, WaitOptions::empty()).map(drop)
}

/// Numbers of seccomp actions for [`seccomp_action`]. source: linux/seccomp.h.
pub const SECCOMP_ACTIONS: [(&str, u32); 8] = [
    ("kill_process", 0x8000_0000),
    ("kill_thread", 0x0000_0000),
    ("trap", 0x0003_0000),
    ("errno", 0x0005_0000),
    ("user_notif", 0x7fc0_0000),
    ("trace", 0x7ff0_0000),
    ("log", 0x7ffc_0000),
    ("allow", 0x7fff_0000),
];

/// Whether the kernel knows a seccomp action.
///
/// # Errors
/// EOPNOTSUPP where it doesn't, ENOSYS or EINVAL without seccomp.
pub fn seccomp_action(action: u32) -> Result<(), Errno> {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    // SAFETY: the call reads one u32 through the pointer, which outlives it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    check(result).map(drop)
}

/// Flags of seccomp(SECCOMP_SET_MODE_FILTER) worth trying. source: seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterFlag {
    None,
    Log,
    SpecAllow,
    NewListener,
}

/// Installs a filter that allows everything, for good: in a throwaway child.
///
/// # Errors
/// As the kernel answers.
pub fn seccomp_allow_all(flag: FilterFlag) -> Result<(), Errno> {
    let flags = match flag {
        FilterFlag::None => 0,
        FilterFlag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
        FilterFlag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        FilterFlag::NewListener => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    };
    let allow = [instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0x7fff_0000)];
    let result = install(&allow, flags)?;
    if flag == FilterFlag::NewListener {
        let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
        // SAFETY: with this flag the call returns a descriptor that nobody else owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(())
}

/// From now on this process and its children get `errno` from these system calls, by number: to
/// imitate an older or locked-down host in a test.
///
/// # Errors
/// As the kernel answers; EINVAL for more calls than one filter can hold.
pub fn deny(calls: &[libc::c_long], errno: i32) -> Result<(), Errno> {
    // load nr; for each call: if equal jump to the deny at the end; allow; deny
    let mut program = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
        0,
    )];
    for (i, call) in calls.iter().enumerate() {
        let to_deny = u8::try_from(calls.len() - i).map_err(|_| Errno::INVAL)?;
        let number = u32::try_from(*call).map_err(|_| Errno::INVAL)?;
        let jump = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(instruction(jump, to_deny, 0, number));
    }
    let ret = libc::BPF_RET | libc::BPF_K;
    program.push(instruction(ret, 0, 0, 0x7fff_0000));
    program.push(instruction(
        ret,
        0,
        0,
        0x0005_0000 | (errno.unsigned_abs() & 0xffff),
    ));
    install(&program, 0).map(drop)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // every BPF opcode fits: they are 8 bits in a field of 16
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}

fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<libc::c_long, Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel only reads
    // them (the field is `*mut` for historical reasons).
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(result)
}

/// close_range of nothing (a range no process has descriptors in), or marking it close-on-exec.
///
/// # Errors
/// As the kernel answers.
pub fn close_range(cloexec: bool) -> Result<(), Errno> {
    let flags = if cloexec {
        libc::CLOSE_RANGE_CLOEXEC
    } else {
        0
    };
    // SAFETY: the range is above any limit of descriptors, so none that somebody owns is closed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            0x7fff_fff0_u32,
            0x7fff_ffff_u32,
            flags,
        )
    };
    check(result).map(drop)
}

/// Version of the Landlock interface.
///
/// # Errors
/// ENOSYS or EOPNOTSUPP without Landlock.
pub fn landlock_version() -> Result<i32, Errno> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes a null pointer of size 0 and returns a number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(check(result)?).map_err(|_| Errno::OVERFLOW)
}

/// Loads (and drops) the smallest program of type BPF_PROG_TYPE_CGROUP_DEVICE.
///
/// # Errors
/// As the kernel answers.
pub fn bpf_cgroup_device() -> Result<(), Errno> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    /// source: bpf(2), the first fields of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C, align(8))]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    // r0 = 1; exit
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: 2,
        instructions: program.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` is a bpf_attr prefix of the size given whose pointers are to two instructions
    // and a NUL-terminated string, all alive until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<Load>(),
        )
    };
    let fd = i32::try_from(check(fd)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the call returned a descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Type byte of the entry named in a directory as getdents reports it (DT_UNKNOWN is 0).
///
/// # Errors
/// As the kernel answers; ENOENT when no such entry is there.
pub fn entry_type(dir: BorrowedFd<'_>, name: &[u8]) -> Result<u8, Errno> {
    let dir = rustix::fs::openat(
        dir,
        c".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut space = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&dir, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name().to_bytes() == name {
            return Ok(match entry.file_type() {
                rustix::fs::FileType::Unknown => libc::DT_UNKNOWN,
                rustix::fs::FileType::Directory => libc::DT_DIR,
                rustix::fs::FileType::CharacterDevice => libc::DT_CHR,
                _ => libc::DT_REG,
            });
        }
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn records_arrive_in_order() {
        let mut seen = Vec::new();
        let ended = spawn(|r| {
            r.tell(1, -1);
            r.tell(2, 7);
        })
        .unwrap()
        .collect(soon(), |id, value| seen.push((id, value)));
        assert_eq!((ended, seen), (Ended::Exited, vec![(1, -1), (2, 7)]));
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_what_it_said_is_kept() {
        let mut seen = Vec::new();
        let before = Instant::now();
        let child = spawn(|r| {
            r.tell(1, 0);
            loop {
                std::thread::sleep(Duration::from_secs(1000));
            }
        })
        .unwrap();
        let pid = child.pid().unwrap();
        let until = Instant::now() + Duration::from_millis(50);
        let ended = child.collect(until, |id, value| seen.push((id, value)));
        assert_eq!((ended, seen), (Ended::TimedOut, vec![(1, 0)]));
        assert!(before.elapsed() < Duration::from_secs(5));
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "reaped"
        );
    }

    #[test]
    fn a_denied_call_answers_as_told() {
        let mut seen = None;
        let ended = spawn(|r| {
            let installed = deny(&[libc::SYS_execveat, libc::SYS_keyctl], libc::ENOSYS);
            r.tell(0, installed.map_or_else(Errno::raw_os_error, |()| 0));
            r.tell(
                1,
                answers(Call::Keyctl).map_or_else(Errno::raw_os_error, |()| 0),
            );
        })
        .unwrap()
        .collect(soon(), |id, value| {
            if id == 1 {
                seen = Some(value);
            } else {
                assert_eq!(value, 0, "seccomp filters can be installed");
            }
        });
        assert_eq!((ended, seen), (Ended::Exited, Some(libc::ENOSYS)));
    }
}
