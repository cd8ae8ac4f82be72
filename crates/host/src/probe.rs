//! The probes: each group in a throwaway child, all groups at the same time.
//!
//! Everything a child needs (paths, directories to try in) is prepared before it is forked; it
//! only calls the kernel and tells `(probe, answer)`. An answer is 0 for yes, an errno, or
//! [`TRIED`] when the kernel said yes but the effect wasn't what it should be. A probe that its
//! child never answered is a no that names how the child ended.
//!
//! ```text
//! <data root>/.host-probe-<pid>/   removed at the end, and at the next probing if we are killed
//!     l1/{gone,dir/inner}  l2/{low}  upper  work
//! <own cgroup>/plimsoll-probe-<pid>/   in each hierarchy, by the child; removed by child and parent
//! ```

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitIdOptions};
use rustix::thread::UnshareFlags;
use sys::throwaway::{self, Call, Ended, FilterFlag, Reporter, SetAttr};

use crate::facts::{CgroupFacts, CgroupVersion, Finding, ProbeError};

/// The kernel said yes, but the effect is missing (a whiteout that isn't one, say).
const TRIED: i32 = -1;

macro_rules! probes {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// One thing to try.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Probe { $($name),* }
        impl Probe {
            const ALL: &[Self] = &[$(Self::$name),*];
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

probes! {
    OverlayMount = "overlay.mount",
    OverlayMultipleLower = "overlay.multiple_lower",
    OverlayLowerdirPlus = "overlay.lowerdir_plus",
    OverlayLowerFd = "overlay.lower_by_descriptor",
    OverlayCopyUp = "overlay.copy_up",
    OverlayWhiteout = "overlay.whiteout",
    OverlayOpaque = "overlay.opaque_directory",
    OverlayRename = "overlay.rename",
    OverlayVolatile = "overlay.volatile",
    OverlayUserxattr = "overlay.userxattr",
    OverlayInUserNamespace = "overlay.in_user_namespace",
    DType = "data_root.d_type",
    TrustedXattr = "data_root.trusted_xattr",
    RenameWhiteout = "data_root.rename_whiteout",
    IdMapped = "data_root.idmapped_mount",
    OpenTree = "mount.open_tree",
    SetAttr = "mount.mount_setattr",
    RecursiveReadOnly = "mount.recursive_readonly",
    FsOpen = "mount.fsopen",
    MoveMount = "mount.move_mount",
    Tmpfs = "mount.tmpfs",
    Devpts = "mount.devpts",
    Mqueue = "mount.mqueue",
    Statmount = "mount.statmount",
    NsMount = "namespace.mount",
    NsPid = "namespace.pid",
    NsIpc = "namespace.ipc",
    NsUts = "namespace.uts",
    NsNet = "namespace.net",
    NsCgroup = "namespace.cgroup",
    NsTime = "namespace.time",
    NsUser = "namespace.user",
    NsUserMap = "namespace.user_map",
    SeccompFilter = "seccomp.filter",
    SeccompLog = "seccomp.log",
    SeccompSpecAllow = "seccomp.spec_allow",
    SeccompListener = "seccomp.new_listener",
    ActionKillProcess = "seccomp.action.kill_process",
    ActionKillThread = "seccomp.action.kill_thread",
    ActionTrap = "seccomp.action.trap",
    ActionErrno = "seccomp.action.errno",
    ActionUserNotif = "seccomp.action.user_notif",
    ActionTrace = "seccomp.action.trace",
    ActionLog = "seccomp.action.log",
    ActionAllow = "seccomp.action.allow",
    Landlock = "lsm.landlock",
    Clone3 = "syscall.clone3",
    PidfdOpen = "syscall.pidfd_open",
    PidfdSendSignal = "syscall.pidfd_send_signal",
    PidfdWait = "syscall.waitid_pidfd",
    CloseRange = "syscall.close_range",
    CloseRangeCloexec = "syscall.close_range_cloexec",
    Openat2 = "syscall.openat2",
    Execveat = "syscall.execveat",
    MemfdSealed = "syscall.memfd_sealed",
    BpfCgroupDevice = "syscall.bpf_cgroup_device",
    IoUring = "syscall.io_uring",
    Keyctl = "syscall.keyctl",
    LowerOomScore = "process.lower_oom_score",
    CgroupCloneInto = "cgroup.clone_into_cgroup",
}

/// In the order of [`sys::throwaway::SECCOMP_ACTIONS`].
pub(crate) const ACTIONS: [Probe; 8] = [
    Probe::ActionKillProcess,
    Probe::ActionKillThread,
    Probe::ActionTrap,
    Probe::ActionErrno,
    Probe::ActionUserNotif,
    Probe::ActionTrace,
    Probe::ActionLog,
    Probe::ActionAllow,
];

/// Interface files whose presence tells what can be limited. v1 and v2 together: a name is in one
/// of them only.
const FILES: [&str; 24] = [
    "cgroup.freeze",
    "cgroup.kill",
    "cpu.cfs_quota_us",
    "cpu.idle",
    "cpu.max",
    "cpu.rt_runtime_us",
    "cpu.shares",
    "cpu.weight",
    "cpuacct.usage",
    "cpuset.cpus",
    "devices.allow",
    "freezer.state",
    "io.max",
    "io.weight",
    "blkio.bfq.weight",
    "blkio.throttle.read_bps_device",
    "blkio.weight",
    "memory.limit_in_bytes",
    "memory.max",
    "memory.memsw.limit_in_bytes",
    "memory.oom.group",
    "memory.oom_control",
    "memory.swap.max",
    "pids.max",
];

/// Ids of a cgroup's answers: writable for hierarchy i is `WRITABLE + i`, file f is `FILE + f`.
const WRITABLE: u32 = 1000;
const FILE: u32 = 2000;

/// What came back from the children.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Only what was answered.
    given: BTreeMap<Probe, i32>,
    /// For what wasn't: why.
    silent: BTreeMap<Probe, (String, bool)>,
    pub(crate) writable: Vec<bool>,
    pub(crate) files: Vec<&'static str>,
}

impl Answers {
    pub(crate) fn yes(&self, probe: Probe) -> bool {
        self.given.get(&probe) == Some(&0)
    }

    /// A value above 0 that isn't an errno (Landlock's version).
    pub(crate) fn value(&self, probe: Probe) -> Option<u32> {
        u32::try_from(*self.given.get(&probe)?).ok()
    }

    /// Why a probe isn't a yes.
    pub(crate) fn reason(&self, probe: Probe) -> String {
        match (self.given.get(&probe), self.silent.get(&probe)) {
            (Some(0), _) => "works".to_owned(),
            (Some(&TRIED), _) => "accepted, but without the effect it should have".to_owned(),
            (Some(&errno), _) => io::Error::from_raw_os_error(errno).to_string(),
            (None, Some((why, _))) => why.clone(),
            (None, None) => "not tried: something before it failed".to_owned(),
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        Probe::ALL
            .iter()
            .filter(|p| !self.yes(**p) && **p != Probe::Landlock)
            .map(|p| Finding {
                probe: p.name().to_owned(),
                answer: self.reason(*p),
                timed_out: self.silent.get(p).is_some_and(|s| s.1),
            })
            .collect()
    }
}

/// The directory in the data root that the overlay is tried in.
struct Stage {
    path: PathBuf,
    dir: OwnedFd,
}

impl Stage {
    fn make(data_root: &Path) -> Result<Self, ProbeError> {
        let path = data_root.join(format!(".host-probe-{}", std::process::id()));
        let failed = |source| ProbeError::Stage {
            path: path.clone(),
            source,
        };
        remove_leftovers(data_root);
        for dir in ["l1/dir", "l2", "upper", "work", "merged", "user"] {
            std::fs::create_dir_all(path.join(dir)).map_err(failed)?;
        }
        for file in ["l1/gone", "l1/dir/inner", "l1/moved", "l2/low", "whole"] {
            std::fs::write(path.join(file), b"x").map_err(failed)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        Ok(Self { path, dir })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What can't be removed now (a hung child is still in it) goes at the next probing.
        let _left = std::fs::remove_dir_all(&self.path);
    }
}

/// Stages of processes that were killed while they probed.
fn remove_leftovers(data_root: &Path) {
    let Ok(entries) = std::fs::read_dir(data_root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|n| n.strip_prefix(".host-probe-"))
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists() {
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A cgroup to try in: directory to make, and its parent.
struct CgroupTry {
    own: CString,
    dir: CString,
    v2: bool,
}

fn c_path(path: &Path) -> CString {
    // A mount point can't hold a NUL: the kernel gave it as a string.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Runs every probe. Takes as long as the slowest group.
pub(crate) fn run(
    data_root: &Path,
    cgroups: &CgroupFacts,
    deadline: Duration,
) -> Result<Answers, ProbeError> {
    let until = Instant::now() + deadline;
    let stage = Stage::make(data_root)?;
    let name = format!("plimsoll-probe-{}", std::process::id());
    let tries: Vec<CgroupTry> = cgroups
        .hierarchies
        .iter()
        .map(|h| CgroupTry {
            own: c_path(&h.own),
            dir: c_path(&h.own.join(&name)),
            v2: h.version == CgroupVersion::V2,
        })
        .collect();
    let dir = stage.dir.as_fd();
    let children = [
        (
            Probe::OverlayMount..=Probe::Statmount,
            throwaway::spawn(|r| data_root_group(r, dir)).map_err(ProbeError::Fork)?,
        ),
        (
            Probe::NsMount..=Probe::NsUserMap,
            throwaway::spawn(|r| namespace_group(r, dir)).map_err(ProbeError::Fork)?,
        ),
        (
            Probe::SeccompFilter..=Probe::Landlock,
            throwaway::spawn(seccomp_group).map_err(ProbeError::Fork)?,
        ),
        (
            Probe::Clone3..=Probe::LowerOomScore,
            throwaway::spawn(syscall_group).map_err(ProbeError::Fork)?,
        ),
        (
            Probe::CgroupCloneInto..=Probe::CgroupCloneInto,
            throwaway::spawn(|r| cgroup_group(r, &tries)).map_err(ProbeError::Fork)?,
        ),
    ];
    let mut answers = Answers {
        writable: vec![false; tries.len()],
        ..Answers::default()
    };
    for (range, child) in children {
        let ended = child.collect(until, |id, value| answers.take(id, value));
        answers.close(range, ended, deadline);
    }
    for t in &tries {
        let _gone = rustix::fs::unlinkat(CWD, t.dir.as_c_str(), AtFlags::REMOVEDIR);
    }
    Ok(answers)
}

impl Answers {
    fn take(&mut self, id: u32, value: i32) {
        let index = id as usize;
        if let Some(file) = index.checked_sub(FILE as usize) {
            self.files.extend(FILES.get(file));
        } else if let Some(hierarchy) = index.checked_sub(WRITABLE as usize) {
            if let Some(w) = self.writable.get_mut(hierarchy) {
                *w = value == 0;
            }
        } else if let Some(probe) = Probe::ALL.get(index) {
            self.given.insert(*probe, value);
        }
    }

    /// Says for each probe of a group that wasn't answered how its child ended.
    fn close(&mut self, range: std::ops::RangeInclusive<Probe>, ended: Ended, deadline: Duration) {
        let why = match ended {
            Ended::Exited => return,
            Ended::Killed(signal) => format!("the probing child was killed by signal {signal}"),
            Ended::TimedOut => format!("no answer in {deadline:?}"),
        };
        for probe in Probe::ALL.iter().filter(|p| range.contains(p)) {
            if !self.given.contains_key(probe) {
                let entry = (why.clone(), ended == Ended::TimedOut);
                self.silent.insert(*probe, entry);
            }
        }
    }
}

fn tell<T>(r: &Reporter, probe: Probe, result: Result<T, Errno>) -> Option<T> {
    match result {
        Ok(v) => {
            r.tell(probe as u32, 0);
            Some(v)
        }
        Err(e) => {
            r.tell(probe as u32, e.raw_os_error());
            None
        }
    }
}

fn tell_effect(r: &Reporter, probe: Probe, result: Result<bool, Errno>) {
    match result {
        Ok(true) => r.tell(probe as u32, 0),
        Ok(false) => r.tell(probe as u32, TRIED),
        Err(e) => r.tell(probe as u32, e.raw_os_error()),
    }
}

// ---- data root, overlay and the mount API -------------------------------------------------------

fn data_root_group(r: &Reporter, stage: BorrowedFd<'_>) {
    if rustix::process::fchdir(stage).is_err() {
        return;
    }
    tell_effect(r, Probe::DType, d_type(stage));
    tell_effect(r, Probe::TrustedXattr, trusted_xattr());
    tell_effect(r, Probe::RenameWhiteout, rename_whiteout());
    if let Some(mounted) = overlay(r) {
        overlay_effects(r, mounted.as_fd());
    }
    tell(r, Probe::OverlayUserxattr, read_only_overlay(true));
    mount_api(r);
}

fn d_type(stage: BorrowedFd<'_>) -> Result<bool, Errno> {
    let dir = throwaway::entry_type(stage, b"upper")?;
    Ok(dir == 4) // DT_DIR
}

fn trusted_xattr() -> Result<bool, Errno> {
    let (name, mut value) = (c"trusted.overlay.probe", [0_u8; 4]);
    rustix::fs::setxattr(c"whole", name, b"y", rustix::fs::XattrFlags::empty())?;
    Ok(rustix::fs::getxattr(c"whole", name, &mut value)? == 1 && value[0] == b'y')
}

fn rename_whiteout() -> Result<bool, Errno> {
    rustix::fs::renameat_with(CWD, c"whole", CWD, c"whole2", RenameFlags::WHITEOUT)?;
    is_whiteout(c"whole")
}

fn is_whiteout(path: &std::ffi::CStr) -> Result<bool, Errno> {
    let stat = rustix::fs::lstat(path)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(kind == FileType::CharacterDevice && stat.st_rdev == 0)
}

/// Two lower directories, an upper and a work directory, as a detached mount; on a kernel without
/// the mount API at `merged` in a mount namespace of its own.
fn overlay(r: &Reporter) -> Option<OwnedFd> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    if tell(r, Probe::FsOpen, fs).is_none() {
        let mounted = tell(r, Probe::OverlayMount, old_overlay());
        if mounted.is_some() {
            tell(r, Probe::OverlayMultipleLower, Ok(()));
        }
        return mounted;
    }
    tell(r, Probe::OverlayLowerFd, lower_by_descriptor());
    // The end of a writable overlay syncs the whole file system of its upper directory, unless it
    // is volatile: a probe must not wait for everybody's data.
    for volatile in [true, false] {
        for plus in [true, false] {
            let mounted = new_overlay(volatile, plus);
            if plus && (volatile || mounted.is_ok()) {
                tell(
                    r,
                    Probe::OverlayLowerdirPlus,
                    mounted.as_ref().map_err(|e| *e),
                );
            }
            if volatile && mounted.is_ok() {
                tell(r, Probe::OverlayVolatile, Ok(()));
            }
            if mounted.is_ok() || (!volatile && !plus) {
                tell(
                    r,
                    Probe::OverlayMultipleLower,
                    mounted.as_ref().map_err(|e| *e),
                );
                return tell(r, Probe::OverlayMount, mounted);
            }
        }
    }
    None
}

/// A context that refused an option may be spoilt: each attempt takes a new one.
fn new_overlay(volatile: bool, plus: bool) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = fs.as_fd();
    if volatile {
        rustix::mount::fsconfig_set_flag(fs, c"volatile")?;
    }
    if plus {
        rustix::mount::fsconfig_set_string(fs, c"lowerdir+", c"l1")?;
        rustix::mount::fsconfig_set_string(fs, c"lowerdir+", c"l2")?;
    } else {
        rustix::mount::fsconfig_set_string(fs, c"lowerdir", c"l1:l2")?;
    }
    rustix::mount::fsconfig_set_string(fs, c"upperdir", c"upper")?;
    rustix::mount::fsconfig_set_string(fs, c"workdir", c"work")?;
    rustix::mount::fsconfig_create(fs)?;
    fsmount(fs)
}

fn fsmount(fs: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(fs, flags, MountAttrFlags::empty())
}

fn lower_by_descriptor() -> Result<(), Errno> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in [c"l1", c"l2"] {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(lower, flags, Mode::empty())?;
        rustix::mount::fsconfig_set_fd(fs.as_fd(), c"lowerdir+", dir.as_fd())?;
    }
    rustix::mount::fsconfig_create(fs.as_fd())
}

fn old_overlay() -> Result<OwnedFd, Errno> {
    use rustix::mount::{MountFlags, MountPropagationFlags as Propagation};
    unshare(UnshareFlags::NEWNS)?;
    rustix::mount::mount_change(c"/", Propagation::PRIVATE | Propagation::REC)?;
    let options = c"lowerdir=l1:l2,upperdir=upper,workdir=work";
    rustix::mount::mount(
        c"overlay",
        c"merged",
        c"overlay",
        MountFlags::empty(),
        options,
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(c"merged", flags, Mode::empty())
}

/// Lower directories only, so that it neither shares an upper nor writes: for options and for user
/// namespaces.
fn read_only_overlay(userxattr: bool) -> Result<(), Errno> {
    let fs = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if userxattr {
        rustix::mount::fsconfig_set_flag(fs.as_fd(), c"userxattr")?;
    }
    rustix::mount::fsconfig_set_string(fs.as_fd(), c"lowerdir", c"l1:l2")?;
    rustix::mount::fsconfig_create(fs.as_fd())
}

fn overlay_effects(r: &Reporter, root: BorrowedFd<'_>) {
    tell_effect(r, Probe::OverlayCopyUp, copy_up(root));
    let gone = rustix::fs::unlinkat(root, c"gone", AtFlags::empty());
    tell_effect(
        r,
        Probe::OverlayWhiteout,
        gone.and_then(|()| is_whiteout(c"upper/gone")),
    );
    tell_effect(r, Probe::OverlayOpaque, opaque(root));
    let renamed = rustix::fs::renameat(root, c"moved", root, c"moved2");
    tell_effect(
        r,
        Probe::OverlayRename,
        renamed.and_then(|()| is_whiteout(c"upper/moved")),
    );
}

fn copy_up(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, c"low", flags, Mode::empty())?;
    rustix::io::write(&file, b"y")?;
    let (lower, upper) = (
        rustix::fs::stat(c"l2/low")?,
        rustix::fs::stat(c"upper/low")?,
    );
    Ok(lower.st_size == 1 && upper.st_size == 2)
}

/// A directory removed and made again must hide what the lower one holds.
fn opaque(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    rustix::fs::unlinkat(root, c"dir/inner", AtFlags::empty())?;
    rustix::fs::unlinkat(root, c"dir", AtFlags::REMOVEDIR)?;
    rustix::fs::mkdirat(root, c"dir", Mode::from_raw_mode(0o755))?;
    let hidden = rustix::fs::statat(root, c"dir/inner", AtFlags::empty());
    let mut value = [0_u8; 4];
    let name = c"trusted.overlay.opaque";
    let length = rustix::fs::getxattr(c"upper/dir", name, &mut value)?;
    Ok(hidden.err() == Some(Errno::NOENT) && length == 1 && value[0] == b'y')
}

/// Relative to the working directory, which goes along into another mount namespace.
fn mount_api(r: &Reporter) {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let recursive = clone | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, c"l2", recursive);
    if let Some(tree) = tell(r, Probe::OpenTree, tree) {
        let one = SetAttr::ReadOnly { recursive: false };
        tell(
            r,
            Probe::SetAttr,
            throwaway::mount_setattr(tree.as_fd(), one),
        );
        let all = SetAttr::ReadOnly { recursive: true };
        tell(
            r,
            Probe::RecursiveReadOnly,
            throwaway::mount_setattr(tree.as_fd(), all),
        );
    }
    let idmapped = rustix::mount::open_tree(CWD, c"user", clone).and_then(|t| idmap(t.as_fd()));
    tell(r, Probe::IdMapped, idmapped);
    for (kind, probe) in [
        (c"tmpfs", Probe::Tmpfs),
        (c"devpts", Probe::Devpts),
        (c"mqueue", Probe::Mqueue),
    ] {
        tell(r, probe, new_instance(kind));
    }
    let tree = rustix::mount::open_tree(CWD, c"l1", clone);
    // Attaching to a detached tree works from 6.15 only: in a namespace of its own.
    let moved = tree.and_then(|tree| {
        use rustix::mount::MountPropagationFlags as Propagation;
        unshare(UnshareFlags::NEWNS)?;
        rustix::mount::mount_change(c"/", Propagation::PRIVATE | Propagation::REC)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree.as_fd(), c"", CWD, c"merged", flags)
    });
    tell(r, Probe::MoveMount, moved);
    tell(r, Probe::Statmount, throwaway::answers(Call::Statmount));
}

fn new_instance(kind: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd())
}

/// The map needs a user namespace, which needs a process while it is opened.
fn idmap(tree: BorrowedFd<'_>) -> Result<(), Errno> {
    let holder = throwaway::spawn(|r| {
        let made = unshare(UnshareFlags::NEWUSER).and_then(|()| write_maps());
        r.tell(0, made.map_or_else(Errno::raw_os_error, |()| 0));
        loop {
            let _woken = rustix::event::poll(&mut [], None);
        }
    })
    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let until = Instant::now() + Duration::from_secs(1);
    match holder.next(until) {
        Some((_, 0)) => {}
        Some((_, errno)) => return Err(Errno::from_raw_os_error(errno)),
        None => return Err(Errno::TIMEDOUT),
    }
    let mut path = [0_u8; 64];
    let mut rest = &mut path[..];
    let _fits = write!(rest, "/proc/{}/ns/user", holder.pid().unwrap_or(0));
    let path = std::ffi::CStr::from_bytes_until_nul(&path).map_err(|_| Errno::INVAL)?;
    let userns = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    throwaway::mount_setattr(tree, SetAttr::IdMap(userns.as_fd()))
}

/// In a user namespace just made by root: root maps to itself.
fn write_maps() -> Result<(), Errno> {
    let map = &b"0 0 1"[..];
    for (path, text) in [
        (c"/proc/self/setgroups", &b"deny"[..]),
        (c"/proc/self/uid_map", map),
        (c"/proc/self/gid_map", map),
    ] {
        let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text)?;
    }
    Ok(())
}

// ---- namespaces ---------------------------------------------------------------------------------

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    throwaway::unshare(flags)
}

fn namespace_group(r: &Reporter, stage: BorrowedFd<'_>) {
    // First, because unshare moves the working directory along into the copy of the mounts, and an
    // overlay takes directories of its own mount namespace only.
    let staged = rustix::process::fchdir(stage);
    for (flag, probe) in [
        (UnshareFlags::NEWUTS, Probe::NsUts),
        (UnshareFlags::NEWIPC, Probe::NsIpc),
        (UnshareFlags::NEWCGROUP, Probe::NsCgroup),
        (UnshareFlags::NEWTIME, Probe::NsTime),
        (UnshareFlags::NEWNS, Probe::NsMount),
        (UnshareFlags::NEWPID, Probe::NsPid),
        (UnshareFlags::NEWNET, Probe::NsNet),
    ] {
        tell(r, probe, unshare(flag));
    }
    if tell(r, Probe::NsUser, unshare(UnshareFlags::NEWUSER)).is_none() {
        return;
    }
    tell(r, Probe::NsUserMap, write_maps());
    let in_user = staged
        .and_then(|()| unshare(UnshareFlags::NEWNS))
        .and_then(|()| read_only_overlay(true));
    tell(r, Probe::OverlayInUserNamespace, in_user);
}

// ---- seccomp and security modules ---------------------------------------------------------------

fn seccomp_group(r: &Reporter) {
    match throwaway::landlock_version() {
        Ok(version) => r.tell(Probe::Landlock as u32, version),
        Err(_) => r.tell(Probe::Landlock as u32, 0),
    }
    for (probe, (_, action)) in ACTIONS.iter().zip(throwaway::SECCOMP_ACTIONS) {
        tell(r, *probe, throwaway::seccomp_action(action));
    }
    for (flag, probe) in [
        (FilterFlag::None, Probe::SeccompFilter),
        (FilterFlag::Log, Probe::SeccompLog),
        (FilterFlag::SpecAllow, Probe::SeccompSpecAllow),
        (FilterFlag::NewListener, Probe::SeccompListener),
    ] {
        tell(r, probe, throwaway::seccomp_allow_all(flag));
    }
}

// ---- system calls -------------------------------------------------------------------------------

fn syscall_group(r: &Reporter) {
    tell(r, Probe::Clone3, throwaway::clone3(None));
    tell(r, Probe::CloseRange, throwaway::close_range(false));
    tell(r, Probe::CloseRangeCloexec, throwaway::close_range(true));
    let root = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, c".", root, Mode::empty(), ResolveFlags::IN_ROOT);
    tell(r, Probe::Openat2, opened);
    tell(r, Probe::Execveat, throwaway::answers(Call::Execveat));
    tell(r, Probe::Keyctl, throwaway::answers(Call::Keyctl));
    tell(r, Probe::IoUring, throwaway::answers(Call::IoUringSetup));
    tell(r, Probe::MemfdSealed, memfd_sealed());
    tell(r, Probe::BpfCgroupDevice, throwaway::bpf_cgroup_device());
    tell(r, Probe::LowerOomScore, lower_oom_score());
    pidfds(r);
}

fn memfd_sealed() -> Result<(), Errno> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(c"probe", flags)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)
}

fn lower_oom_score() -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&file, b"-1000").map(drop)
}

fn pidfds(r: &Reporter) {
    let Ok(child) = throwaway::spawn(|_| {
        loop {
            let _woken = rustix::event::poll(&mut [], None);
        }
    }) else {
        return;
    };
    let Some(pid) = child.pid().and_then(Pid::from_raw) else {
        return;
    };
    let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    let Some(fd) = tell(r, Probe::PidfdOpen, opened) else {
        return;
    };
    let sent = rustix::process::pidfd_send_signal(&fd, Signal::KILL);
    if tell(r, Probe::PidfdSendSignal, sent).is_none() {
        return;
    }
    // WNOWAIT leaves the child for its handle to reap
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let waited = rustix::process::waitid(rustix::process::WaitId::PidFd(fd.as_fd()), options);
    tell(r, Probe::PidfdWait, waited);
}

// ---- control groups -----------------------------------------------------------------------------

fn cgroup_group(r: &Reporter, tries: &[CgroupTry]) {
    for (i, t) in (0_u32..).zip(tries) {
        let made = rustix::fs::mkdirat(CWD, t.dir.as_c_str(), Mode::from_raw_mode(0o755));
        r.tell(WRITABLE + i, made.map_or_else(Errno::raw_os_error, |()| 0));
        if t.v2 {
            let into = open_dir(&t.dir).and_then(|fd| throwaway::clone3(Some(fd.as_fd())));
            tell(r, Probe::CgroupCloneInto, into);
        }
        // Where the own cgroup gives its children no controllers yet (systemd's delegation), its
        // own files tell.
        for dir in [&t.dir, &t.own] {
            let Ok(fd) = open_dir(dir) else { continue };
            for (n, file) in (0_u32..).zip(FILES) {
                if rustix::fs::accessat(&fd, file, rustix::fs::Access::EXISTS, AtFlags::empty())
                    .is_ok()
                {
                    r.tell(FILE + n, 0);
                }
            }
        }
        let _gone = rustix::fs::unlinkat(CWD, t.dir.as_c_str(), AtFlags::REMOVEDIR);
    }
}

fn open_dir(path: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_c_str(), flags, Mode::empty())
}
