//! The child's side: walks the operations between clone and execve.
//!
//! Everything here runs in a copy of a process that may have had other threads: no allocation, no
//! lock, no log, no panic. Strings come from the plan, descriptors are closed by going out of
//! scope. A failure is sent as [`StepError`] over the channel, whose end tells the parent that the
//! program runs.
//!
//! Paths of the container are looked up with openat2 beneath its root (`RESOLVE_IN_ROOT`, never
//! through procfs' magic links): an image's links can't lead out, and a `/proc/self/fd/N` in an
//! image can't reach a descriptor of ours.

mod copy_up;
mod requests;

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fstat, openat, openat2,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, fspick, mount_change, move_mount, open_tree, unmount,
};
use sys::mount::{Attr, setattr};
use sys::process::CStrArray;

use crate::ops::{
    Attrs, COPY_UP, KEEP_DEV, KEEP_PROC, KIND_DIR, KIND_SOURCE, MAP_DIRECT, NO_SLOT, OR_BIND, Op,
    SLOTS, STAGE_HOOKS, TARGET_ANY, TARGET_NO_LINKS, TARGET_PROC_OK,
};
use crate::plan::EncodedPlan;
use crate::wire::{List, Setting};
use crate::{Descriptors, Detail, StepError};

/// Said by the child before execve: an end of the channel without it is a child that was killed.
pub(crate) const SAY_EXEC: u8 = b'X';
/// Said with the terminal's master.
pub(crate) const SAY_TERMINAL: u8 = b'T';
/// Said by the parent when the id maps are written.
pub(crate) const SAY_MAPPED: u8 = b'M';
/// Said by the parent when it has done what it was asked for.
pub(crate) const SAY_DONE: u8 = b'D';
/// Asks for the maps of the user namespace just made.
pub(crate) const SAY_MAPS: u8 = b'U';
/// Asks for the host's links, with the network namespace they go to.
pub(crate) const SAY_DEVICES: u8 = b'N';
/// Said with the filter's listener.
pub(crate) const SAY_LISTENER: u8 = b'L';
/// Said with the pid and the pidfd of the process that goes on.
pub(crate) const SAY_REBORN: u8 = b'B';
/// Said by the child where it stops for hooks, and when nothing but the program is left to do.
pub(crate) const SAY_HOOKS: u8 = b'H';
pub(crate) const SAY_READY: u8 = b'R';
/// Said to a child that has stopped: go on.
pub(crate) const SAY_GO: u8 = b'G';

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
const NSFS_MAGIC: u64 = 0x6e73_6673;
const PATH_MAX: usize = 4096;
/// What the plan checks too.
pub(crate) const MAX_GROUPS: usize = 1024;

/// Why a step failed.
#[derive(Debug, Clone, Copy)]
struct Failed {
    errno: i32,
    detail: Detail,
}

impl From<Errno> for Failed {
    fn from(e: Errno) -> Self {
        Self {
            errno: e.raw_os_error(),
            detail: Detail::Call,
        }
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self {
            errno: e.raw_os_error().unwrap_or(libc::EIO),
            detail: Detail::Call,
        }
    }
}

trait At<T> {
    fn at(self, detail: Detail) -> Result<T, Failed>;
}

impl<T, E: Into<Failed>> At<T> for Result<T, E> {
    fn at(self, detail: Detail) -> Result<T, Failed> {
        self.map_err(|e| Failed { detail, ..e.into() })
    }
}

type Step<T = ()> = Result<T, Failed>;

fn not_genuine() -> Failed {
    Failed {
        errno: libc::EPERM,
        detail: Detail::NotGenuine,
    }
}

/// What the parent prepared for execve.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) argv: CStrArray<'a>,
    pub(crate) envp: CStrArray<'a>,
}

/// The child's state: descriptors that later steps need.
struct Child<'a> {
    fds: &'a Descriptors<'a>,
    channel: BorrowedFd<'a>,
    /// Who said that the program may start, and hears of it from then on.
    starter: Option<OwnedFd>,
    root: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    /// It is the image's own: what is there already is put right.
    dev_of_image: bool,
    proc: Option<OwnedFd>,
    label: Option<OwnedFd>,
    /// A mounted, empty, read-only tmpfs that directories are masked with.
    empty: Option<OwnedFd>,
    slots: [Option<OwnedFd>; SLOTS],
    /// Trees the parent has mapped.
    mapped: &'a [OwnedFd],
}

/// Runs the plan. Never returns.
pub(crate) fn child(
    plan: &EncodedPlan<'_>,
    fds: &Descriptors<'_>,
    channel: BorrowedFd<'_>,
    program: &Program<'_>,
    mapped: &[OwnedFd],
    faults: bool,
) -> Infallible {
    if faults {
        // only in tests: reading the environment and writing a log allocate
        sys::fault::enter("init");
    } else {
        sys::tripwire::forbid();
    }
    // Until execve this process is our code with the shim's memory: nobody in the container may
    // trace it or look into its /proc (CVE-2016-9962). Where the parent has no privilege, its maps
    // must be written first, and only they who could trace the parent too could trace this.
    if plan.header.map_by == MAP_DIRECT {
        not_dumpable();
    }
    rustix::process::umask(Mode::empty());
    let mut child = Child {
        fds,
        channel,
        starter: None,
        root: None,
        dev: None,
        dev_of_image: false,
        proc: None,
        label: None,
        empty: None,
        slots: [const { None }; SLOTS],
        mapped,
    };
    for (step, op) in plan.ops() {
        let done = if faults {
            sys::fault::point(op.fault_point()).map_err(Failed::from)
        } else {
            Ok(())
        };
        if let Err(e) = done.and_then(|()| child.run(&op)) {
            child.give_up(step, e);
        }
    }
    let e = child.exec(plan, program);
    child.give_up(plan.exec_step(), e)
}

impl Child<'_> {
    fn give_up(&self, step: u32, e: Failed) -> ! {
        let report = StepError {
            step,
            errno: e.errno,
            detail: e.detail,
        };
        let _parent_may_be_gone = sys::fdpass::send(self.listener(), &report.to_bytes(), &[]);
        sys::process::exit(127)
    }

    /// Who hears of this start.
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.starter.as_ref().map_or(self.channel, AsFd::as_fd)
    }

    fn exec(&self, plan: &EncodedPlan<'_>, program: &Program<'_>) -> Failed {
        sys::process::reset_signals();
        if let Err(e) = sys::fdpass::send(self.listener(), &[SAY_EXEC], &[]) {
            return e.into();
        }
        let mut worst = libc::ENOENT;
        for path in plan.candidates().iter() {
            let e = sys::process::execve(path, &program.argv, &program.envp);
            match e.raw_os_error().unwrap_or(libc::EIO) {
                // as execvp: look on, but a program that is there and can't be run is the news
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                other => {
                    worst = other;
                    break;
                }
            }
        }
        Failed {
            errno: worst,
            detail: Detail::Call,
        }
    }

    fn run(&mut self, op: &Op<'_>) -> Step {
        match *op {
            Op::EnterCgroup { .. }
            | Op::OomScore { .. }
            | Op::OpenLabel { .. }
            | Op::SetLabel { .. }
            | Op::JoinPath { .. }
            | Op::JoinPassed { .. }
            | Op::JoinTarget { .. }
            | Op::Unshare { .. }
            | Op::AwaitMaps {}
            | Op::AwaitOwnMap {}
            | Op::RequestMaps {}
            | Op::RequestDevices {}
            | Op::BecomeRoot { .. }
            | Op::Rebirth { .. }
            | Op::NotHosts { .. }
            | Op::TimeOffsets { .. }
            | Op::LoopbackUp {}
            | Op::Hostname { .. }
            | Op::Domainname { .. } => self.run_early(op),
            Op::RootPassed {}
            | Op::RootPath { .. }
            | Op::RootIsSlash {}
            | Op::AttachRoot { .. }
            | Op::AttachRootAt { .. }
            | Op::OpenShared { .. }
            | Op::RootAttrs { .. }
            | Op::PivotRoot {}
            | Op::Chroot {}
            | Op::AttachRootShared { .. }
            | Op::TakeMapped { .. }
            | Op::TakePassed { .. }
            | Op::Remount { .. }
            | Op::MountAttrs { .. }
            | Op::MountNew { .. }
            | Op::MountBind { .. }
            | Op::DevNode { .. }
            | Op::Node { .. }
            | Op::DevLink { .. }
            | Op::OpenDev {}
            | Op::MakeDir { .. }
            | Op::Mask { .. }
            | Op::ReadonlyPath { .. }
            | Op::MakeReadonly { .. }
            | Op::Sysctl { .. } => self.run_files(op),
            _ => self.run_process(op),
        }
    }

    /// Steps while the host's file systems are in reach.
    fn run_early(&mut self, op: &Op<'_>) -> Step {
        match *op {
            Op::EnterCgroup { tasks } => write_file(tasks, b"0")?,
            Op::OomScore { value, required } => {
                match write_file(c"/proc/self/oom_score_adj", value.to_bytes()) {
                    Err(e) if !required && is_refusal(e.errno) => {}
                    other => other?,
                }
            }
            Op::OpenLabel { file } => {
                let open =
                    |file| openat(CWD, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                // kernels before 5.8 have the one file for whichever module is first
                let fd = match open(file) {
                    Err(Errno::NOENT) => open(c"/proc/thread-self/attr/exec")?,
                    other => other?,
                };
                // a label written into a file that isn't the kernel's would start the container
                // unconfined (CVE-2019-16884)
                genuine(fd.as_fd(), PROC_SUPER_MAGIC)?;
                self.label = Some(fd);
            }
            Op::SetLabel { value } => {
                let fd = self.label.as_ref().ok_or(Errno::BADF)?;
                rustix::io::write(fd, value.to_bytes())?;
            }
            Op::JoinPath { kind, path } => {
                let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .at(Detail::Source)?;
                genuine_namespace(fd.as_fd())?;
                sys::process::setns(fd.as_fd(), kind.cast_signed())?;
            }
            Op::JoinPassed { kind, index } => {
                let fd = self.fds.passed.get(index as usize).ok_or(Errno::BADF)?;
                sys::process::setns(*fd, kind.cast_signed())?;
            }
            Op::JoinTarget { kinds } => {
                let pidfd = self.fds.target.ok_or(Errno::BADF)?;
                sys::process::setns(pidfd, kinds.cast_signed())?;
            }
            Op::Unshare { kinds } => sys::process::unshare(kinds.cast_signed())?,
            Op::AwaitMaps {} => self.await_maps(true)?,
            Op::AwaitOwnMap {} => self.await_maps(false)?,
            Op::RequestMaps {} => self.request_maps()?,
            Op::RequestDevices {} => self.request_devices()?,
            Op::BecomeRoot { groups } => requests::become_root(groups)?,
            Op::Rebirth { flags } => self.rebirth(flags)?,
            Op::NotHosts { kind, path } => not_hosts(kind, path)?,
            Op::TimeOffsets { text } => time_offsets(text)?,
            Op::LoopbackUp {} => sys::process::loopback_up()?,
            Op::Hostname { name } => sys::process::sethostname(name)?,
            Op::Domainname { name } => sys::process::setdomainname(name)?,
            _ => return Err(Errno::NOSYS.into()),
        }
        Ok(())
    }

    fn run_files(&mut self, op: &Op<'_>) -> Step {
        match *op {
            Op::RootPassed {} => {
                let fd = self.fds.root.ok_or(Errno::BADF)?;
                self.root = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
            }
            Op::RootPath { path, recursive } => {
                self.root = Some(clone_tree(CWD, path, recursive).at(Detail::Source)?);
            }
            Op::RootIsSlash {} => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.root = Some(openat(CWD, c"/", flags, Mode::empty())?);
            }
            Op::AttachRoot { propagation } => {
                // Nothing mounted from here on reaches the host, yet a clone of a mount that is a
                // slave or a peer of the host's stays one.
                let kind = MountPropagationFlags::DOWNSTREAM;
                self.attach_root(c"/", kind, propagation)?;
            }
            Op::AttachRootAt { path, propagation } => {
                // the path may lie on any of the host's mounts: none of them may send it back
                let kind = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                self.attach_root(path, kind, propagation)?;
            }
            Op::OpenShared {
                source,
                recursive,
                slot,
            } => {
                let tree = clone_tree(CWD, source, recursive).at(Detail::Source)?;
                *self.slots.get_mut(slot as usize).ok_or(Errno::MFILE)? = Some(tree);
            }
            Op::RootAttrs { set, propagation } => {
                let attr = Attr {
                    set,
                    propagation,
                    ..Attr::default()
                };
                set_attached(self.root()?, &attr)?;
            }
            Op::PivotRoot {} => self.pivot_root()?,
            Op::Chroot {} => self.chroot()?,
            Op::AttachRootShared { path } => self.attach_root_shared(path)?,
            Op::TakeMapped { index, slot } => take(self.mapped, index, &mut self.slots, slot)?,
            Op::TakePassed { index, slot } => take(self.fds.passed, index, &mut self.slots, slot)?,
            Op::Remount { .. } | Op::MountAttrs { .. } => self.remount(op)?,
            Op::MountNew { .. } => self.mount_new(op)?,
            Op::MountBind { .. } => self.mount_bind(op)?,
            Op::DevNode { .. } | Op::Node { .. } => self.node(op)?,
            Op::DevLink { name, target } => {
                let dev = self.dev.as_ref().ok_or(Errno::BADF)?;
                match rustix::fs::symlinkat(target, dev, name) {
                    Err(Errno::EXIST) if self.dev_of_image => {}
                    other => other?,
                }
            }
            Op::OpenDev {} => {
                let dev = self.target(c"/dev", false, TARGET_NO_LINKS)?;
                (self.dev, self.dev_of_image) = (Some(dev), true);
            }
            Op::MakeDir { path } => drop(self.target(path, false, 0)?),
            Op::Mask { path } => self.mask(path)?,
            Op::ReadonlyPath { path } => self.readonly_path(path)?,
            Op::MakeReadonly { target } => self.make_readonly(target)?,
            Op::Sysctl { file, value } => self.sysctl(file, value)?,
            _ => return Err(Errno::NOSYS.into()),
        }
        Ok(())
    }

    fn run_process(&mut self, op: &Op<'_>) -> Step {
        match *op {
            Op::Terminal { .. } => self.terminal(op)?,
            Op::Stdio { owner } => self.stdio(owner)?,
            Op::NewSession {} => drop(rustix::process::setsid()?),
            Op::Keyring {} => match sys::process::new_session_keyring() {
                // no keyrings in this kernel: nothing to leak
                Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
                other => other?,
            },
            Op::Rlimit {
                resource,
                soft,
                hard,
                required,
            } => rlimit(resource, soft, hard, required)?,
            Op::Cwd { path } => self.cwd(path)?,
            Op::Umask { mask } => drop(rustix::process::umask(Mode::from_raw_mode(mask))),
            Op::Bounding { keep } => sys::caps::limit_bounding(keep)?,
            Op::Ids { uid, gid, groups } => ids(uid, gid, &groups)?,
            Op::Capabilities {
                effective,
                permitted,
                inheritable,
                ambient,
            } => {
                sys::caps::set(sys::caps::Sets {
                    effective,
                    permitted,
                    inheritable,
                })?;
                sys::caps::set_ambient(ambient)?;
            }
            Op::NoNewPrivileges {} => rustix::thread::set_no_new_privs(true)?,
            Op::Seccomp { program, flags } => sys::seccomp::install(program, flags)?,
            Op::Personality { persona } => sys::process::set_personality(persona)?,
            Op::IoPriority { value } => sys::process::set_io_priority(value)?,
            Op::Scheduler { .. } => scheduler(op)?,
            Op::Affinity { mask } => sys::sched::set_affinity(mask)?,
            Op::MemoryPolicy { mode, nodes } => sys::sched::set_memory_policy(mode, nodes)?,
            Op::SeccompAgent { program, flags } => self.seccomp_agent(program, flags)?,
            Op::IdsAlone { uid, gid } => become_user(uid, gid)?,
            Op::CloseRest { first } => sys::process::cloexec_from(first)?,
            Op::DieWithParent {} => self.die_with_parent()?,
            Op::ForkInit {} => self.fork_init()?,
            Op::Pause { stage } => self.pause(stage)?,
            Op::AwaitStart { passed } => self.await_start(passed)?,
            Op::FindProgram { candidates } => find_program(&candidates)?,
            _ => return Err(Errno::NOSYS.into()),
        }
        Ok(())
    }

    fn root(&self) -> Step<BorrowedFd<'_>> {
        Ok(self.root.as_ref().ok_or(Errno::BADF)?.as_fd())
    }

    fn attach_root(&mut self, path: &CStr, host: MountPropagationFlags, propagation: u64) -> Step {
        mount_change(c"/", host)?;
        let root = self.root()?;
        let attr = Attr {
            propagation,
            ..Attr::default()
        };
        let early = if propagation == 0 {
            Ok(())
        } else {
            setattr(root, true, &attr)
        };
        let late = is_missing(&early);
        if !late {
            early.at(Detail::Attributes)?;
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(root, c"", CWD, path, flags).at(Detail::Attach)?;
        if late {
            classic(root, &attr, true).at(Detail::Attributes)?;
        }
        Ok(())
    }

    /// On its own directory, in a mount namespace with other processes: "/" stays theirs.
    fn attach_root_shared(&mut self, path: &CStr) -> Step {
        let tree = clone_tree(CWD, path, true).at(Detail::Source)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = openat(CWD, path, flags, Mode::empty()).at(Detail::Source)?;
        let attr = Attr {
            propagation: libc::MS_PRIVATE,
            ..Attr::default()
        };
        setattr(tree.as_fd(), true, &attr).at(Detail::Attributes)?;
        attach(tree.as_fd(), at.as_fd())?;
        self.root = Some(tree);
        Ok(())
    }

    fn make_readonly(&self, target: &CStr) -> Step {
        let at = lookup(self.root()?, target, TARGET_ANY).at(Detail::Target)?;
        let attr = Attr {
            set: sys::mount::RDONLY,
            ..Attr::default()
        };
        set_attached(at.as_fd(), &attr).at(Detail::Attributes)
    }

    fn chroot(&self) -> Step {
        rustix::process::fchdir(self.root()?)?;
        rustix::process::chroot(c".")?;
        Ok(rustix::process::chdir(c"/")?)
    }

    /// Options of a file system that is mounted already, and attributes of its mount.
    fn remount(&self, op: &Op<'_>) -> Step {
        let (target, attrs) = match op {
            Op::Remount { target, attrs, .. } | Op::MountAttrs { target, attrs } => {
                (*target, attrs)
            }
            _ => return Err(Errno::NOSYS.into()),
        };
        let at = lookup(self.root()?, target, TARGET_ANY).at(Detail::Target)?;
        if let Op::Remount { settings, .. } = op
            && settings.len() > 0
        {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let fs = fspick(&at, c"", flags)?;
            configure(fs.as_fd(), settings)?;
            fsconfig_reconfigure(&fs)?;
        }
        match set_attrs(at.as_fd(), attrs) {
            // not the root of a mount
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(e).at(Detail::Target),
            result if is_missing(&result) => {
                let all = attrs.tree_propagation != 0;
                classic(at.as_fd(), &top_attr(attrs), all).at(Detail::Attributes)
            }
            other => other.at(Detail::Attributes),
        }
    }

    fn pivot_root(&self) -> Step {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = openat(CWD, c"/", flags, Mode::empty())?;
        rustix::process::fchdir(self.root()?)?;
        rustix::process::pivot_root(c".", c".")?;
        rustix::process::fchdir(&old)?;
        // Unmounting a shared mount would unmount its peer on the host too.
        mount_change(
            c".",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        Ok(())
    }

    /// Looks `path` up beneath the root, making what is missing.
    fn target(&self, path: &CStr, file: bool, rule: u32) -> Step<OwnedFd> {
        let root = self.root()?;
        match lookup(root, path, rule) {
            Err(Errno::NOENT) => {}
            other => return other.at(Detail::Target),
        }
        let bytes = path.to_bytes();
        let mut buf = [0_u8; PATH_MAX];
        if bytes.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG).at(Detail::Target);
        }
        let mut parent: Option<OwnedFd> = None;
        let mut start = 0;
        for part in bytes.split(|b| *b == b'/') {
            let end = start + part.len();
            buf[..end].copy_from_slice(&bytes[..end]);
            buf[end] = 0;
            if !part.is_empty() {
                let prefix = c_str(&buf)?;
                let name = c_str(&buf[start..])?;
                let last = bytes[end..].iter().all(|b| *b == b'/');
                let above = parent.as_ref().map_or(root, AsFd::as_fd);
                parent = Some(make(root, above, prefix, name, last && file, rule)?);
            }
            start = end + 1;
        }
        parent.ok_or(Errno::NOENT).at(Detail::Target)
    }

    fn mount_new(&mut self, op: &Op<'_>) -> Step {
        let Op::MountNew {
            kind,
            settings,
            attrs,
            propagation,
            target,
            rule,
            keep,
        } = *op
        else {
            return Err(Errno::NOSYS.into());
        };
        // a tmpfs without a mode of its own looks like the directory it covers
        let like = if kind == c"tmpfs" && !settings.iter().any(|s| s.key == c"mode") {
            lookup(self.root()?, target, rule).ok()
        } else {
            None
        };
        let mount = match new_mount(kind, &settings, attrs) {
            Err(e) if keep & OR_BIND != 0 && is_refusal(e.errno) => hosts(kind, attrs)?,
            other => other?,
        };
        if let Some(like) = like {
            let mode = Mode::from_raw_mode(fstat(&like)?.st_mode & 0o7777);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fchmod(openat(&mount, c".", flags, Mode::empty())?, mode)?;
        }
        if propagation != 0 {
            let attr = Attr {
                propagation,
                ..Attr::default()
            };
            setattr(mount.as_fd(), false, &attr).at(Detail::Attributes)?;
        }
        let at = self.target(target, false, rule)?;
        check_target(at.as_fd(), rule)?;
        if keep & COPY_UP != 0 {
            copy_up::copy(at.as_fd(), mount.as_fd()).at(Detail::CopyUp)?;
        }
        attach(mount.as_fd(), at.as_fd())?;
        match keep & !(COPY_UP | OR_BIND) {
            KEEP_DEV => self.dev = Some(mount),
            KEEP_PROC => self.proc = Some(mount),
            _ => {}
        }
        Ok(())
    }

    fn mount_bind(&mut self, op: &Op<'_>) -> Step {
        let Op::MountBind {
            source,
            recursive,
            slot,
            attrs,
            target,
            target_kind,
            rule,
        } = *op
        else {
            return Err(Errno::NOSYS.into());
        };
        let tree = if slot == NO_SLOT {
            clone_tree(CWD, source, recursive).at(Detail::Source)?
        } else {
            let slot = self.slots.get_mut(slot as usize).ok_or(Errno::MFILE)?;
            let taken = slot.take().ok_or(Errno::BADF)?;
            // A clone of the clone is as young as its place in the list, which is what mountinfo
            // is sorted by; before Linux 6.15 a detached mount can't be cloned.
            clone_tree(taken.as_fd(), c"", recursive).unwrap_or(taken)
        };
        let early = set_attrs(tree.as_fd(), &attrs);
        let late = is_missing(&early);
        if !late {
            early.at(Detail::Attributes)?;
        }
        let file = match target_kind {
            KIND_DIR => false,
            KIND_SOURCE => !is_dir(tree.as_fd()).at(Detail::Source)?,
            _ => true,
        };
        let at = self.target(target, file, rule)?;
        check_target(at.as_fd(), rule)?;
        attach(tree.as_fd(), at.as_fd())?;
        if late {
            classic(tree.as_fd(), &top_attr(&attrs), attrs.tree_propagation != 0)
                .at(Detail::Attributes)?;
        }
        Ok(())
    }

    /// A device: made, or bound from the host where it can't be made (user namespaces).
    fn node(&self, op: &Op<'_>) -> Step {
        let (path, mode, device, uid, gid, host, in_dev) = match *op {
            Op::DevNode {
                name,
                mode,
                device,
                uid,
                gid,
                host,
            } => (name, mode, device, uid, gid, host, true),
            Op::Node {
                path,
                mode,
                device,
                uid,
                gid,
                host,
            } => (path, mode, device, uid, gid, host, false),
            _ => return Err(Errno::NOSYS.into()),
        };
        if let Some(host) = host {
            let tree = clone_tree(CWD, host, false).at(Detail::Source)?;
            let at = match (in_dev, self.dev.as_ref()) {
                (true, Some(dev)) => make(dev.as_fd(), dev.as_fd(), path, path, true, 0)?,
                _ => self.target(path, true, 0)?,
            };
            return attach(tree.as_fd(), at.as_fd());
        }
        let holder;
        let (dir, name) = match (in_dev, self.dev.as_ref()) {
            (true, Some(dev)) => (dev.as_fd(), path),
            _ => {
                let (parent, name) = self.parent_of(path)?;
                holder = parent;
                (holder.as_fd(), name)
            }
        };
        let kind = FileType::from_raw_mode(mode);
        let bits = Mode::from_raw_mode(mode & 0o7777);
        match rustix::fs::mknodat(dir, name, kind, bits, device) {
            Err(Errno::EXIST) if !in_dev || self.dev_of_image => {
                // an image's own entry in the way is replaced, unless it is the one asked for
                let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) == kind && there.st_rdev == device {
                    return Ok(());
                }
                rustix::fs::unlinkat(dir, name, AtFlags::empty()).at(Detail::Target)?;
                rustix::fs::mknodat(dir, name, kind, bits, device)?;
            }
            other => other?,
        }
        if uid != 0 || gid != 0 {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// The directory of `path` beneath the root, made when missing, and the last component.
    fn parent_of<'p>(&self, path: &'p CStr) -> Step<(OwnedFd, &'p CStr)> {
        let bytes = path.to_bytes_with_nul();
        let slash = bytes.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let mut buf = [0_u8; PATH_MAX];
        if slash >= PATH_MAX {
            return Err(Errno::NAMETOOLONG).at(Detail::Target);
        }
        buf[..slash].copy_from_slice(&bytes[..slash]);
        let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).map_err(|_| Errno::INVAL)?;
        let dir = if slash == 0 {
            lookup(self.root()?, c"/", 0).at(Detail::Target)?
        } else {
            self.target(c_str(&buf)?, false, 0)?
        };
        Ok((dir, name))
    }

    fn mask(&mut self, path: &CStr) -> Step {
        let at = match lookup(self.root()?, path, 0) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            other => other.at(Detail::Target)?,
        };
        if !is_dir(at.as_fd()).at(Detail::Target)? {
            let null = self.null()?;
            let clone = clone_tree(null.as_fd(), c"", false).at(Detail::Source)?;
            return attach(clone.as_fd(), at.as_fd());
        }
        if let Some(empty) = &self.empty {
            let clone = clone_tree(empty.as_fd(), c"", false).at(Detail::Source)?;
            return attach(clone.as_fd(), at.as_fd());
        }
        let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, c"nr_blocks", c"1")?;
        fsconfig_set_string(&fs, c"nr_inodes", c"1")?;
        fsconfig_create(&fs)?;
        let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?;
        attach(mount.as_fd(), at.as_fd())?;
        self.empty = Some(mount);
        Ok(())
    }

    /// The container's /dev/null, which must be one: what an image or a volume puts there would
    /// show through every mask (CVE-2025-31133).
    fn null(&self) -> Step<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match &self.dev {
            Some(dev) => openat(dev, c"null", flags, Mode::empty()).at(Detail::Source)?,
            None => lookup(self.root()?, c"/dev/null", TARGET_NO_LINKS).at(Detail::Source)?,
        };
        let stat = fstat(&fd).at(Detail::Source)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !is_device || stat.st_rdev != rustix::fs::makedev(1, 3) {
            return Err(not_genuine());
        }
        Ok(fd)
    }

    fn readonly_path(&self, path: &CStr) -> Step {
        let at = match lookup(self.root()?, path, 0) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            other => other.at(Detail::Target)?,
        };
        let clone = clone_tree(at.as_fd(), c"", true).at(Detail::Source)?;
        let attr = Attr {
            set: sys::mount::RDONLY,
            ..Attr::default()
        };
        let early = setattr(clone.as_fd(), true, &attr);
        let late = is_missing(&early);
        if !late {
            early.at(Detail::Attributes)?;
        }
        attach(clone.as_fd(), at.as_fd())?;
        if late {
            classic(clone.as_fd(), &attr, false).at(Detail::Attributes)?;
        }
        Ok(())
    }

    /// Through the procfs mounted by this plan, or one of its own that nobody else sees: a
    /// `/proc` the image made up would swallow the write, or send it elsewhere (CVE-2025-52881).
    fn sysctl(&mut self, file: &CStr, value: &[u8]) -> Step {
        if self.proc.is_none() {
            let fs = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&fs)?;
            let attrs = MountAttrFlags::empty();
            self.proc = Some(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?);
        }
        let proc = self.proc.as_ref().ok_or(Errno::BADF)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = openat2(proc, file, flags, Mode::empty(), resolve).at(Detail::Target)?;
        genuine(fd.as_fd(), PROC_SUPER_MAGIC)?;
        rustix::io::write(&fd, value)?;
        Ok(())
    }

    fn terminal(&self, op: &Op<'_>) -> Step {
        let Op::Terminal {
            rows,
            columns,
            uid,
            console,
        } = *op
        else {
            return Err(Errno::NOSYS.into());
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let path = c"/dev/pts/ptmx";
        let master =
            openat2(self.root()?, path, flags, Mode::empty(), resolve).at(Detail::Target)?;
        genuine(master.as_fd(), DEVPTS_SUPER_MAGIC)?;
        rustix::pty::unlockpt(&master)?;
        let open = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, open)?;
        if rows != 0 || columns != 0 {
            let size = rustix::termios::Winsize {
                ws_row: u16::try_from(rows).unwrap_or(u16::MAX),
                ws_col: u16::try_from(columns).unwrap_or(u16::MAX),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&master, size)?;
        }
        rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None)?;
        if console {
            let tree = clone_tree(slave.as_fd(), c"", false).at(Detail::Source)?;
            let at = self.target(c"/dev/console", true, TARGET_NO_LINKS)?;
            attach(tree.as_fd(), at.as_fd())?;
        }
        sys::fdpass::send(self.channel, &[SAY_TERMINAL], &[master.as_fd()])?;
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        for fd in 0..3 {
            sys::process::dup_onto(slave.as_fd(), fd)?;
        }
        Ok(())
    }

    fn stdio(&self, owner: u32) -> Step {
        // a source among 0..2 could be overwritten before its turn: move such ones up first
        let mut moved = [const { None }; 3];
        for (to, fd) in (0..).zip(self.fds.stdio) {
            if fd.as_raw_fd() < 3 && fd.as_raw_fd() != to {
                moved[to as usize] = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
            }
        }
        for (to, fd) in (0..).zip(self.fds.stdio) {
            let from = moved[to as usize].as_ref().map_or(fd, AsFd::as_fd);
            sys::process::dup_onto(from, to)?;
            // the program may open /dev/stdout anew, under its own user
            if owner != 0 && FileType::from_raw_mode(fstat(from)?.st_mode) == FileType::Fifo {
                match rustix::fs::fchown(from, Some(Uid::from_raw(owner)), None) {
                    // one of the host's in a user namespace: it can be written, not reopened
                    Err(Errno::PERM | Errno::INVAL | Errno::ROFS) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn cwd(&self, path: &CStr) -> Step {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let dir = openat2(self.root()?, path, flags, Mode::empty(), resolve).at(Detail::Target)?;
        rustix::process::fchdir(&dir).at(Detail::Target)?;
        let mut buf = [0_u8; PATH_MAX];
        match sys::process::getcwd(&mut buf) {
            Ok(cwd) if cwd.starts_with(b"/") => Ok(()),
            // outside the root: a descriptor of the host leaked into the path (CVE-2024-21626)
            Ok(_) => Err(not_genuine()),
            Err(e) => Err(e).at(Detail::Target),
        }
    }

    fn die_with_parent(&self) -> Step {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // A parent that died before this was armed has closed its end.
        let mut polled = [rustix::event::PollFd::new(
            &self.channel,
            rustix::event::PollFlags::HUP,
        )];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut polled, Some(&now))?;
        if polled[0].revents().contains(rustix::event::PollFlags::HUP) {
            sys::process::exit(127);
        }
        Ok(())
    }

    /// A parent that dies here takes the container with it: nobody would know of it.
    fn pause(&self, stage: u32) -> Step {
        let word = if stage == STAGE_HOOKS {
            SAY_HOOKS
        } else {
            SAY_READY
        };
        sys::fdpass::send(self.channel, &[word], &[])?;
        let mut said = [0];
        let got = sys::fdpass::recv(self.channel, &mut said, false)?;
        if got.len != 1 || said[0] != SAY_GO {
            return Err(Errno::PIPE.into());
        }
        Ok(())
    }

    /// Waits for whoever has the right to open the socket; one who only looks, or dies before the
    /// word, changes nothing.
    fn await_start(&mut self, passed: u32) -> Step {
        let socket = *self.fds.passed.get(passed as usize).ok_or(Errno::BADF)?;
        loop {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let peer = match rustix::net::accept_with(socket, flags) {
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                other => other?,
            };
            let mut said = [0];
            // one that is gone again is as good as one that said nothing
            let got = sys::fdpass::recv(peer.as_fd(), &mut said, false).unwrap_or_default();
            if got.len == 1 && said[0] == SAY_GO {
                self.starter = Some(peer);
                return Ok(());
            }
        }
    }

    /// `--init`: this process stays as PID 1, a fork goes on to the program.
    fn fork_init(&self) -> Step {
        sys::process::block_signals();
        match sys::clone::fork()? {
            Some(program) => reaper(program),
            None => {
                rustix::process::setpgid(None, None)?;
                // not a terminal, or not ours: nothing to hand over
                let _no_terminal = sys::process::take_foreground(rustix::stdio::stdin());
                Ok(())
            }
        }
    }
}

/// PID 1 of an `--init` container: forwards signals to the program, reaps orphans, ends as the
/// program ends. The kernel then kills what is left in the pid namespace.
fn reaper(program: i32) -> ! {
    let _unnamed_is_fine = rustix::thread::set_name(c"plimsoll-init");
    // also the channel: the parent sees the program's execve, not this process' end
    let _none_left = sys::process::close_from(3);
    loop {
        let signal = sys::process::next_signal();
        if signal != libc::SIGCHLD {
            let _gone = sys::process::kill(program, signal);
            continue;
        }
        while let Some((pid, status)) = sys::process::reap() {
            if pid == program {
                let code = if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                };
                sys::process::exit(code);
            }
        }
    }
}

/// For the time until the program runs.
fn not_dumpable() {
    let _only_hardening =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

fn c_str(bytes: &[u8]) -> Step<&CStr> {
    CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL.into())
}

fn find_program(candidates: &List<'_, &CStr>) -> Step {
    let mut worst = Errno::NOENT;
    for path in candidates.iter() {
        match rustix::fs::accessat(CWD, path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => worst = e,
        }
    }
    Err(worst.into())
}

fn is_refusal(errno: i32) -> bool {
    errno == libc::EACCES || errno == libc::EPERM
}

fn write_file(path: &CStr, value: &[u8]) -> Step {
    let fd = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, value)?;
    Ok(())
}

/// Fails unless the file is on the kernel's own file system of that kind.
fn genuine(fd: BorrowedFd<'_>, magic: u64) -> Step {
    let found = rustix::fs::fstatfs(fd)?.f_type;
    if u64::try_from(found) == Ok(magic) {
        Ok(())
    } else {
        Err(not_genuine())
    }
}

fn genuine_namespace(fd: BorrowedFd<'_>) -> Step {
    genuine(fd, NSFS_MAGIC)
}

/// The namespace joined next must not be the one we are in.
fn not_hosts(kind: u32, path: &CStr) -> Step {
    let own = match kind.cast_signed() {
        libc::CLONE_NEWUTS => c"/proc/thread-self/ns/uts",
        libc::CLONE_NEWNET => c"/proc/thread-self/ns/net",
        libc::CLONE_NEWIPC => c"/proc/thread-self/ns/ipc",
        _ => return Err(Errno::INVAL.into()),
    };
    let own = rustix::fs::stat(own)?;
    let other = rustix::fs::stat(path).at(Detail::Source)?;
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino) {
        return Err(not_genuine());
    }
    Ok(())
}

fn scheduler(op: &Op<'_>) -> Step {
    let Op::Scheduler {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    } = *op
    else {
        return Err(Errno::NOSYS.into());
    };
    sys::sched::set_attr(&sys::sched::Attr {
        size: 0,
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    })?;
    Ok(())
}

fn time_offsets(text: &CStr) -> Step {
    const CLONE_NEWTIME: i32 = 0x80;
    sys::process::unshare(CLONE_NEWTIME)?;
    write_file(c"/proc/self/timens_offsets", text.to_bytes())?;
    // execve enters the namespace by itself only since Linux 6.1
    let path = c"/proc/self/ns/time_for_children";
    let fd = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::process::setns(fd.as_fd(), CLONE_NEWTIME)?;
    Ok(())
}

fn lookup(root: BorrowedFd<'_>, path: &CStr, rule: u32) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if rule == TARGET_NO_LINKS {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // EAGAIN: somebody renames on the way; a volume's other users must not stop the start
    for _ in 0..64 {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// One component of a target: looked up, else made in `above` and looked up again.
fn make(
    root: BorrowedFd<'_>,
    above: BorrowedFd<'_>,
    prefix: &CStr,
    name: &CStr,
    file: bool,
    rule: u32,
) -> Step<OwnedFd> {
    match lookup(root, prefix, rule) {
        Err(Errno::NOENT) => {}
        other => return other.at(Detail::Target),
    }
    let made = if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(above, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755))
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).at(Detail::CreateTarget),
    }
    // EEXIST and again ENOENT: a link to nowhere, which is not ours to follow and fill
    lookup(root, prefix, rule).at(Detail::Target)
}

fn is_dir(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// A mount that was made already, into a slot of its own.
fn take<F: AsFd>(from: &[F], index: u32, slots: &mut [Option<OwnedFd>], slot: u32) -> Step {
    let tree = from.get(index as usize).ok_or(Errno::BADF)?;
    let tree = rustix::io::fcntl_dupfd_cloexec(tree, 3)?;
    *slots.get_mut(slot as usize).ok_or(Errno::MFILE)? = Some(tree);
    Ok(())
}

fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Step {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", at, c"", flags).at(Detail::Attach)
}

/// A mount asked for by name must not cover a file of procfs: that would hide from us, and from
/// the masks, what the kernel says (CVE-2019-16884).
fn check_target(at: BorrowedFd<'_>, rule: u32) -> Step {
    if rule == TARGET_PROC_OK {
        return Ok(());
    }
    let found = rustix::fs::fstatfs(at).at(Detail::Target)?.f_type;
    if u64::try_from(found) == Ok(PROC_SUPER_MAGIC) {
        return Err(not_genuine());
    }
    Ok(())
}

fn configure(fs: BorrowedFd<'_>, settings: &List<'_, Setting<'_>>) -> Step {
    for setting in settings.iter() {
        let acl = setting.key == c"acl" || setting.key == c"noacl";
        let done = match setting.value {
            Some(value) => fsconfig_set_string(fs, setting.key, value),
            None => fsconfig_set_flag(fs, setting.key),
        };
        match done {
            // a file system without a choice has its lists as it was built
            Err(Errno::INVAL) if acl => {}
            other => other?,
        }
    }
    Ok(())
}

/// The host's own mount of a kind that the kernel won't make for a user namespace which doesn't
/// own what it shows (sysfs without an own network namespace).
fn hosts(kind: &CStr, attrs: u64) -> Step<OwnedFd> {
    let path = match kind.to_bytes() {
        b"sysfs" => c"/sys",
        b"mqueue" => c"/dev/mqueue",
        b"cgroup2" => c"/sys/fs/cgroup",
        _ => return Err(Errno::PERM.into()),
    };
    let tree = clone_tree(CWD, path, true).at(Detail::Source)?;
    let attr = Attr {
        set: attrs & !sys::mount::ATIME,
        ..Attr::default()
    };
    setattr(tree.as_fd(), true, &attr).at(Detail::Attributes)?;
    Ok(tree)
}

fn new_mount(kind: &CStr, settings: &List<'_, Setting<'_>>, attrs: u64) -> Step<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(fs.as_fd(), settings)?;
    fsconfig_create(&fs)?;
    let attrs = u32::try_from(attrs).map_err(|_| Errno::INVAL)?;
    let attrs = MountAttrFlags::from_bits_retain(attrs);
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?)
}

fn set_attrs(mount: BorrowedFd<'_>, attrs: &Attrs<'_>) -> io::Result<()> {
    let tree = Attr {
        set: attrs.tree_set,
        clear: attrs.tree_clear,
        propagation: attrs.tree_propagation,
        userns_fd: 0,
    };
    if tree != Attr::default() {
        setattr(mount, true, &tree)?;
    }
    let top = Attr {
        set: attrs.set,
        clear: attrs.clear,
        propagation: attrs.propagation,
        userns_fd: 0,
    };
    if top != Attr::default() {
        setattr(mount, false, &top)?;
    }
    Ok(())
}

/// The top mount's attributes, with the tree's propagation: all that mount(2) can do.
fn top_attr(attrs: &Attrs<'_>) -> Attr {
    Attr {
        set: attrs.set,
        clear: attrs.clear,
        propagation: attrs.propagation | attrs.tree_propagation,
        userns_fd: 0,
    }
}

/// The kernel (before 5.12) has no mount_setattr. What the plan asks for then is done by mount(2)
/// once the mount is attached; recursive read-only was refused by the plan.
fn is_missing(result: &io::Result<()>) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(libc::ENOSYS))
}

fn set_attached(mount: BorrowedFd<'_>, attr: &Attr) -> Step {
    let result = setattr(mount, false, attr);
    if is_missing(&result) {
        return classic(mount, attr, false);
    }
    Ok(result?)
}

/// mount(2) on an attached mount, named through the host's /proc, which is still in reach.
fn classic(mount: BorrowedFd<'_>, attr: &Attr, recursive: bool) -> Step {
    use rustix::mount::{MountFlags, mount_remount};
    let mut buf = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
    let (mut n, mut digits) = (mount.as_raw_fd(), 0);
    while n > 0 || digits == 0 {
        buf.copy_within(14..14 + digits, 15);
        buf[14] = b'0' + u8::try_from(n % 10).unwrap_or(0);
        (n, digits) = (n / 10, digits + 1);
    }
    let path = c_str(&buf)?;
    if attr.propagation != 0 {
        let kind = u32::try_from(attr.propagation).map_err(|_| Errno::INVAL)?;
        let mut flags = MountPropagationFlags::from_bits_retain(kind);
        flags.set(MountPropagationFlags::REC, recursive);
        mount_change(path, flags)?;
    }
    if attr.set | attr.clear != 0 {
        // a remount sets all flags anew: those the source had are read and kept. Of the four that
        // protect, the bits are the same in statfs, mount and mount_setattr.
        const PROTECTING: u64 = 0xf;
        let now = rustix::fs::fstatfs(mount)?.f_flags;
        let now = u64::try_from(now).unwrap_or(0) & PROTECTING;
        let bits = (now & !attr.clear) | (attr.set & PROTECTING);
        let mut flags = MountFlags::from_bits_retain(u32::try_from(bits).unwrap_or(0));
        flags.set(MountFlags::NOATIME, attr.set & sys::mount::NOATIME != 0);
        flags.set(
            MountFlags::NODIRATIME,
            attr.set & sys::mount::NODIRATIME != 0,
        );
        flags.set(
            MountFlags::STRICTATIME,
            attr.set & sys::mount::STRICTATIME != 0,
        );
        mount_remount(path, MountFlags::BIND | flags, c"")?;
    }
    Ok(())
}

fn rlimit(resource: u32, soft: u64, hard: u64, required: bool) -> Step {
    match sys::process::set_rlimit(resource, soft, hard) {
        Err(e) if !required && e.raw_os_error() == Some(libc::EPERM) => {
            // only a default, and this host lacks CAP_SYS_RESOURCE: as much as it gives
            let (_, ceiling) = sys::process::rlimit(resource)?;
            sys::process::set_rlimit(resource, soft.min(ceiling), hard.min(ceiling))?;
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Capabilities stay permitted over the change of user and are made effective again: a filter may
/// still have to be installed. The last sets come with [`Op::Capabilities`].
fn ids(uid: u32, gid: u32, groups: &List<'_, u32>) -> Step {
    let mut list = [0_u32; MAX_GROUPS];
    let n = groups.len();
    let list = list.get_mut(..n).ok_or(Errno::INVAL)?;
    for (to, from) in list.iter_mut().zip(groups.iter()) {
        *to = from;
    }
    sys::process::setgroups(list)?;
    become_user(uid, gid)
}

fn become_user(uid: u32, gid: u32) -> Step {
    sys::process::setgid(gid)?;
    let done = to_user(uid);
    // with fs.suid_dumpable = 1 a change of ids opens what was closed
    not_dumpable();
    done
}

fn to_user(uid: u32) -> Step {
    if uid == 0 {
        return Ok(sys::process::setuid(0)?);
    }
    sys::caps::keep_over_setuid(true)?;
    sys::process::setuid(uid)?;
    sys::caps::keep_over_setuid(false)?;
    let now = sys::caps::get()?;
    sys::caps::set(sys::caps::Sets {
        effective: now.permitted,
        ..now
    })?;
    Ok(())
}
