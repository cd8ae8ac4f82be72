//! The least a container start can cost: clone3 with every namespace, an overlay root, the usual
//! mounts, pivot_root, execve of the program, wait. No plan, no masks, no checks, no errors in
//! words. With `--cgroup`, five directories are made, entered and removed; with `--seccomp`, the
//! default filter is installed. With `--spec`, the root is a bind mount and what runc's default
//! config.json asks for is mounted and masked too: the least that an OCI runtime can do for it.
//!
//! `floor [--cgroup] [--seccomp] [--spec] COUNT ROOTFS PROGRAM..` prints the median in microseconds.

#![expect(clippy::print_stdout, reason = "a bench program")]
#![expect(clippy::unwrap_used, reason = "a bench program fails by panicking")]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, OFlags, open};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use sys::process::CStrArray;

struct Start {
    argv: Vec<CString>,
    tasks: Vec<CString>,
    filter: Option<std::sync::Arc<runtime::seccomp::Filter>>,
    /// The cgroups' own directories, shown in the container; empty without `--spec`.
    shown: Vec<CString>,
    spec: bool,
}

fn child(start: &Start, argv: &CStrArray<'_>, envp: &CStrArray<'_>, root: &OwnedFd) -> Infallible {
    for t in &start.tasks {
        let fd = open(t.as_c_str(), OFlags::WRONLY, Mode::empty()).unwrap();
        rustix::io::write(&fd, b"0").unwrap();
    }
    sys::process::unshare(libc::CLONE_NEWCGROUP).unwrap();
    sys::process::loopback_up().unwrap();
    sys::process::sethostname(b"floor").unwrap();
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM).unwrap();
    let shown: Vec<OwnedFd> = start.shown.iter().map(|d| tree(d)).collect();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, c"", CWD, c"/", flags).unwrap();
    rustix::process::fchdir(root).unwrap();
    let old = open(c"/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::process::pivot_root(c".", c".").unwrap();
    rustix::process::fchdir(&old).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c".", private).unwrap();
    unmount(c".", UnmountFlags::DETACH).unwrap();
    rustix::process::chdir(c"/").unwrap();
    mounts();
    if start.spec {
        show(&shown);
        mask();
    }
    rustix::process::setsid().unwrap();
    sys::caps::limit_bounding(0xa804_25fb).unwrap();
    if let Some(f) = &start.filter {
        sys::seccomp::install(f.bytes(), 4).unwrap();
    }
    let e = sys::process::execve(&start.argv[0], argv, envp);
    panic!("execve: {e}");
}

fn mounts() {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let new = |kind: &CStr, at: &CStr, flags, data: Option<&CStr>| {
        mount(kind, at, kind, flags, data).unwrap();
    };
    new(c"proc", c"/proc", safe, None);
    new(
        c"tmpfs",
        c"/dev",
        MountFlags::NOSUID,
        Some(c"mode=755,size=65536k"),
    );
    for (name, major, minor) in [
        (c"/dev/null", 1, 3),
        (c"/dev/zero", 1, 5),
        (c"/dev/full", 1, 7),
        (c"/dev/random", 1, 8),
        (c"/dev/urandom", 1, 9),
        (c"/dev/tty", 5, 0),
    ] {
        let mode = Mode::from_raw_mode(0o666);
        let dev = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, name, FileType::CharacterDevice, mode, dev).unwrap();
    }
    for dir in [c"/dev/pts", c"/dev/shm", c"/dev/mqueue"] {
        rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)).unwrap();
    }
    new(
        c"devpts",
        c"/dev/pts",
        safe,
        Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
    );
    new(c"sysfs", c"/sys", safe | MountFlags::RDONLY, None);
    new(c"mqueue", c"/dev/mqueue", safe, None);
    new(c"tmpfs", c"/dev/shm", safe, Some(c"mode=1777,size=65536k"));
}

fn tree(path: &CStr) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).unwrap()
}

/// The spec's mount of type `cgroup`: a tmpfs with each hierarchy beneath, read-only.
fn show(hierarchies: &[OwnedFd]) {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let at = c"/sys/fs/cgroup";
    mount(c"cgroup", at, c"tmpfs", safe, Some(c"mode=755")).unwrap();
    for (name, from) in [c"1", c"2", c"3", c"4", c"5", c"6"].iter().zip(hierarchies) {
        let dir = open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&dir, *name, Mode::from_raw_mode(0o755)).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(from, c"", &dir, *name, flags).unwrap();
        read_only(&dir, name);
    }
}

fn read_only(dir: &OwnedFd, path: &CStr) {
    let at = open(c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::process::fchdir(dir).unwrap();
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    rustix::process::fchdir(&at).unwrap();
}

/// The spec's masked and read-only paths, as far as the host has them.
fn mask() {
    let root = open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for path in [
        c"/proc/acpi",
        c"/proc/asound",
        c"/proc/kcore",
        c"/proc/keys",
        c"/proc/latency_stats",
        c"/proc/timer_list",
        c"/proc/timer_stats",
        c"/proc/sched_debug",
        c"/sys/firmware",
        c"/proc/scsi",
    ] {
        let Ok(about) = rustix::fs::stat(path) else {
            continue;
        };
        if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
            mount(c"tmpfs", path, c"tmpfs", MountFlags::RDONLY, None::<&CStr>).unwrap();
        } else {
            mount_bind(c"/dev/null", path).unwrap();
        }
    }
    for path in [
        c"/proc/bus",
        c"/proc/fs",
        c"/proc/irq",
        c"/proc/sys",
        c"/proc/sysrq-trigger",
    ] {
        if mount_bind(path, path).is_ok() {
            read_only(&root, path);
        }
    }
}

/// The same hierarchies a container of ours gets, beside them.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let facts = host::cgroups::read().unwrap();
    let used = |h: &&host::CgroupHierarchy| {
        let v1 = ["memory", "pids", "cpuacct", "devices"];
        h.version == host::CgroupVersion::V1
            && h.controllers.iter().any(|c| v1.contains(&c.as_str()))
    };
    let below = |h: &host::CgroupHierarchy| h.own.join(id);
    facts.hierarchies.iter().filter(used).map(below).collect()
}

fn once(start: &Start, dirs: &[PathBuf], lower: &Path, work: &Path) -> u128 {
    let begin = Instant::now();
    for d in dirs {
        std::fs::create_dir(d).unwrap();
    }
    let upper = (work.join("upper"), work.join("work"));
    let options = runtime::rootfs::OverlayOptions::default();
    let lowers = [lower.to_owned()];
    let root = if start.spec {
        tree(&CString::new(lower.to_string_lossy().as_bytes()).unwrap())
    } else {
        runtime::rootfs::overlay(&lowers, Some((&upper.0, &upper.1)), options).unwrap()
    };
    let argv: CStrArray<'_> = start.argv.iter().map(CString::as_c_str).collect();
    let envp: CStrArray<'_> = [c"PATH=/bin"].into_iter().collect();
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    let flags = u64::from(namespaces.cast_unsigned());
    let cloned = sys::clone::clone3(flags, None, || child(start, &argv, &envp, &root)).unwrap();
    let pidfd = WaitId::PidFd(cloned.pidfd.as_fd());
    let status = waitid(pidfd, WaitIdOptions::EXITED).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
    for d in dirs {
        while std::fs::remove_dir(d).is_err() {
            std::thread::yield_now();
        }
    }
    begin.elapsed().as_micros()
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let at = args.iter().position(|a| a == name);
        at.map(|at| args.remove(at)).is_some()
    };
    let (cgroup, seccomp, spec) = (flag("--cgroup"), flag("--seccomp"), flag("--spec"));
    let count: usize = args[0].parse().unwrap();
    let lower = PathBuf::from(&args[1]);
    let id = format!("plimsoll-floor{}", std::process::id());
    let dirs = if cgroup { cgroups(&id) } else { Vec::new() };
    let tasks = dirs.iter().map(|d| d.join("tasks").display().to_string());
    let start = Start {
        argv: args[2..]
            .iter()
            .map(|a| CString::new(a.as_str()).unwrap())
            .collect(),
        tasks: tasks.map(|t| CString::new(t).unwrap()).collect(),
        filter: seccomp.then(|| runtime::seccomp::default_filter(0xa804_25fb)),
        shown: dirs
            .iter()
            .filter(|_| spec)
            .map(|d| CString::new(d.display().to_string()).unwrap())
            .collect(),
        spec,
    };
    let work = std::env::temp_dir().join(&id);
    for d in ["upper", "work"] {
        std::fs::create_dir_all(work.join(d)).unwrap();
    }
    let mut all: Vec<_> = (0..count)
        .map(|_| once(&start, &dirs, &lower, &work))
        .collect();
    all.sort_unstable();
    println!("{}", all[count / 2]);
    std::fs::remove_dir_all(&work).unwrap();
}
