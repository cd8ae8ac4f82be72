//! The parent's side of a start: cgroups, clone3, id maps, and the wait for the child's word.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use sys::throwaway::{self, Throwaway};

use crate::cgroup::{Cgroup, SYSTEMD_DEADLINE};
use crate::execute::{
    self, Program, SAY_DEVICES, SAY_DONE, SAY_EXEC, SAY_GO, SAY_HOOKS, SAY_LISTENER, SAY_MAPPED,
    SAY_MAPS, SAY_READY, SAY_REBORN, SAY_TERMINAL,
};
use crate::service::{self, Service};
use crate::{Detail, EncodedPlan, StepError, systemd};

/// How long a failed start may take to leave its cgroups.
const CLEANUP: Duration = Duration::from_secs(5);

/// What the parent gives to the child beside the plan.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors<'a> {
    /// The container's root as a detached mount (`Rootfs::Descriptor`).
    pub root: Option<BorrowedFd<'a>>,
    /// stdin, stdout, stderr of the container; not used when it has a terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Exec: the pidfd of the container's first process.
    pub target: Option<BorrowedFd<'a>>,
    /// Namespaces to join that the spec names as `fd:<index>`.
    pub passed: &'a [BorrowedFd<'a>],
}

/// A process that runs the program asked for.
#[derive(Debug)]
pub struct Spawned {
    /// As seen by the caller.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The master side of the container's terminal, where the plan has one.
    pub terminal: Option<OwnedFd>,
}

/// A child that has not yet reached its program. For callers that can't block: wait until
/// [`Pending::as_fd`] is readable, call [`Pending::advance`], repeat.
#[derive(Debug)]
pub struct Pending {
    pid: i32,
    pidfd: OwnedFd,
    channel: OwnedFd,
    terminal: Option<OwnedFd>,
    /// Holds a unit of systemd's until the child has entered it.
    _keeper: Option<Throwaway>,
    /// The child has said that it is about to execute the program.
    executing: bool,
    service: Service,
}

/// What [`Pending::advance`] found.
#[derive(Debug)]
pub enum Progress {
    /// Nothing to read yet.
    Waiting(Pending),
    /// The program runs.
    Running(Spawned),
    /// A step failed; the child is gone or about to be and is the caller's to reap, by this pid.
    Failed { pid: i32, error: StepError },
}

/// Where a child planned with [`crate::Stages`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Mounts are made, the host's root is still there: hooks run now.
    Hooks,
    /// Only the program is left to do.
    Ready,
    /// The program runs.
    Running,
}

impl Pending {
    /// Waits until the child stops, runs its program, or fails; a failed child is reaped.
    ///
    /// # Errors
    /// The step that failed.
    pub fn next_stop(&mut self) -> Result<Stop, StepError> {
        loop {
            let mut asked = None;
            let heard = heard(
                self.channel.as_fd(),
                &mut self.executing,
                &mut self.terminal,
                &mut asked,
            );
            let error = match (heard, asked) {
                (Ok(_), Some((say, rest, fds))) => match self.serve(say, rest, fds) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                (Ok(stop), None) => return Ok(stop),
                (Err(error), _) => error,
            };
            end(&self.pidfd);
            return Err(error);
        }
    }

    /// Lets a child that has stopped go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go_on(&self) -> Result<(), StepError> {
        sys::fdpass::send(self.channel.as_fd(), &[SAY_GO], &[])
            .map(drop)
            .map_err(|_| vanished())
    }

    /// Kills the child and reaps it.
    pub fn abandon(&self) {
        end(&self.pidfd);
    }

    /// The master of the terminal that the child has made, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The descriptor alone, of a child that is known to run.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// The child, as seen by the caller. Another one after [`Pending::advance`] where a plan goes on
    /// in a sibling (a user namespace joined by path): then the first is reaped already.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The child's pidfd.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Reads what the child has said, without blocking.
    #[must_use]
    pub fn advance(self) -> Progress {
        self.listen(true)
    }

    fn listen(mut self, dont_wait: bool) -> Progress {
        loop {
            let mut buf = [0; StepError::LEN];
            let got = match sys::fdpass::recv(self.channel.as_fd(), &mut buf, dont_wait) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting(self),
                // the child died with something unread: as good as an end
                Err(_) => return self.ended(),
            };
            match (got.len, buf[0]) {
                (0, _) => return self.ended(),
                (1, SAY_EXEC) => self.executing = true,
                (1, SAY_TERMINAL) => self.terminal = got.fds.into_iter().next(),
                (1 | 5, SAY_MAPS | SAY_DEVICES | SAY_LISTENER | SAY_REBORN) => {
                    let rest = [buf[1], buf[2], buf[3], buf[4]];
                    if let Err(error) = self.serve(buf[0], rest, got.fds) {
                        let pid = self.pid;
                        kill(&self.pidfd);
                        return Progress::Failed { pid, error };
                    }
                }
                (StepError::LEN, _) => {
                    let error = StepError::from_bytes(buf);
                    return Progress::Failed {
                        pid: self.pid,
                        error,
                    };
                }
                _ => return self.ended(),
            }
        }
    }

    /// Does what the child asks for, and answers where it waits.
    fn serve(&mut self, say: u8, rest: [u8; 4], fds: Vec<OwnedFd>) -> Result<(), StepError> {
        let damaged = || parent(0)(io::ErrorKind::InvalidData.into());
        let mut fds = fds.into_iter();
        match say {
            SAY_MAPS => {
                let done = self.service.map_ids(self.pid);
                self.answer(done.map_err(|e| e.errno))
            }
            SAY_DEVICES => {
                let there = fds.next().ok_or_else(damaged)?;
                let done = self.service.move_devices(there.as_fd());
                self.answer(done.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)))
            }
            SAY_LISTENER => {
                let listener = fds.next().ok_or_else(damaged)?;
                self.service.hand_over(self.pid, listener.as_fd())
            }
            _ => {
                let pidfd = fds.next().ok_or_else(damaged)?;
                // the one that was cloned first ends by itself
                wait(&self.pidfd);
                (self.pid, self.pidfd) = (i32::from_le_bytes(rest), pidfd);
                Ok(())
            }
        }
    }

    fn answer(&self, done: Result<(), i32>) -> Result<(), StepError> {
        let mut said = [SAY_DONE; 5];
        let said = match done {
            Ok(()) => &said[..1],
            Err(errno) => {
                said[1..].copy_from_slice(&errno.to_le_bytes());
                &said[..]
            }
        };
        // a child that is gone says so itself, by the end of its channel
        let _gone = sys::fdpass::send(self.channel.as_fd(), said, &[]);
        Ok(())
    }

    fn ended(self) -> Progress {
        if self.executing {
            return Progress::Running(Spawned {
                pid: self.pid,
                pidfd: self.pidfd,
                terminal: self.terminal,
            });
        }
        Progress::Failed {
            pid: self.pid,
            error: vanished(),
        }
    }
}

fn vanished() -> StepError {
    StepError {
        step: 0,
        errno: libc::ESRCH,
        detail: Detail::Vanished,
    }
}

/// What a child asks of its parent: the word, a number, descriptors.
type Request = (u8, [u8; 4], Vec<OwnedFd>);

/// Reads the channel up to the child's next stop, or to its next request.
fn heard(
    channel: BorrowedFd<'_>,
    executing: &mut bool,
    terminal: &mut Option<OwnedFd>,
    asked: &mut Option<Request>,
) -> Result<Stop, StepError> {
    loop {
        let mut buf = [0; StepError::LEN];
        // a child that died with something unread: as good as an end
        let got = sys::fdpass::recv(channel, &mut buf, false).unwrap_or_default();
        match (got.len, buf[0]) {
            (0, _) if *executing => return Ok(Stop::Running),
            (1, SAY_EXEC) => *executing = true,
            (1, SAY_TERMINAL) => *terminal = got.fds.into_iter().next(),
            (1, SAY_HOOKS) => return Ok(Stop::Hooks),
            (1, SAY_READY) => return Ok(Stop::Ready),
            (1 | 5, SAY_MAPS | SAY_DEVICES | SAY_LISTENER | SAY_REBORN) => {
                let rest = [buf[1], buf[2], buf[3], buf[4]];
                *asked = Some((buf[0], rest, got.fds));
                return Ok(Stop::Running);
            }
            (StepError::LEN, _) => return Err(StepError::from_bytes(buf)),
            _ => return Err(vanished()),
        }
    }
}

/// Tells a container that waits on its socket to run its program, and waits until it does.
/// `connection` is connected to the socket of [`crate::Stages::start`]. `agent`: the container's
/// plan and first process, where a seccomp agent is to be told.
///
/// # Errors
/// The step that failed; the child ends by itself.
pub fn start(
    connection: BorrowedFd<'_>,
    agent: Option<(EncodedPlan<'_>, i32)>,
) -> Result<(), StepError> {
    sys::fdpass::send(connection, &[SAY_GO], &[]).map_err(|_| vanished())?;
    let (mut executing, mut terminal) = (false, None);
    loop {
        let mut asked = None;
        let stop = heard(connection, &mut executing, &mut terminal, &mut asked)?;
        // a container that waited has nothing else left to ask for
        match (asked, agent) {
            (None, _) if stop == Stop::Running => return Ok(()),
            (Some((SAY_LISTENER, _, fds)), Some((plan, pid))) => {
                let listener = fds.into_iter().next().ok_or_else(vanished)?;
                Service::of(&plan).hand_over(pid, listener.as_fd())?;
            }
            _ => return Err(vanished()),
        }
    }
}

impl AsFd for Pending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn parent(step: u32) -> impl Fn(io::Error) -> StepError {
    move |e| StepError {
        step,
        errno: e.raw_os_error().unwrap_or(libc::EIO),
        detail: Detail::Parent,
    }
}

fn path_of(c: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(c.to_bytes()))
}

fn open(path: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn write(path: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = open(path, OFlags::WRONLY)?;
    rustix::io::write(&fd, value)?;
    Ok(())
}

/// Starts: makes the plan's cgroups, clones, writes id maps. Doesn't wait for the child.
///
/// A single-threaded caller (the shim) may be cloned at any time. Where others run threads, the
/// child is safe too: it takes no lock and allocates nothing.
///
/// # Errors
/// When the parent's side fails; cgroups made are removed again.
pub fn begin(plan: &EncodedPlan<'_>, fds: &Descriptors<'_>) -> Result<Pending, StepError> {
    let result = make_cgroups(plan).and_then(|keeper| clone(plan, fds, keeper));
    if result.is_err() {
        remove_cgroups(plan.cgroup().as_ref());
    }
    result
}

fn remove_cgroups(cgroup: Option<&Cgroup>) {
    if let Some(c) = cgroup {
        // the start has failed already and says why; what is left is a stray for the reconcile
        let _stray = c.remove(CLEANUP);
    }
}

/// A unit can't be without a process, and the container's must not be before the limits are.
fn start_scope(plan: &EncodedPlan<'_>) -> Result<Option<Throwaway>, StepError> {
    let h = &plan.header;
    let Some(scope) = plan.scope() else {
        return Ok(None);
    };
    let failed = parent(h.scope_step);
    sys::fault::point("cgroup.scope").map_err(&failed)?;
    let keeper = throwaway::spawn(|_| {
        loop {
            std::thread::park();
        }
    })
    .map_err(&failed)?;
    let pid = keeper.pid().unwrap_or_default();
    let at = usize::try_from(h.scope_pid_at).unwrap_or(usize::MAX);
    systemd::start(
        scope.manager,
        &scope.unit,
        h.scope_request,
        at,
        pid,
        SYSTEMD_DEADLINE,
    )
    .map_err(|e| failed(io::Error::from_raw_os_error(e.errno())))?;
    Ok(Some(keeper))
}

fn make_cgroups(plan: &EncodedPlan<'_>) -> Result<Option<Throwaway>, StepError> {
    let h = &plan.header;
    let keeper = start_scope(plan)?;
    for d in h.cgroup_dirs.iter() {
        let controllers = d.controllers.to_string_lossy();
        let may_exist = keeper.is_some();
        Cgroup::create_dir(path_of(d.path), d.v2, &controllers, d.cpuset, may_exist)
            .map_err(parent(d.step))?;
    }
    for w in h.cgroup_writes.iter() {
        let done =
            sys::fault::point("cgroup.write").and_then(|()| write(w.path, w.value.to_bytes()));
        match done {
            Err(_) if !w.required => {}
            other => other.map_err(parent(w.step))?,
        }
    }
    if !h.device_program.is_empty() {
        limit_devices(plan).map_err(parent(h.device_step))?;
    }
    Ok(keeper)
}

fn limit_devices(plan: &EncodedPlan<'_>) -> io::Result<()> {
    let (words, _) = plan.header.device_program.as_chunks();
    let words: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
    let dir = plan.header.cgroup_dirs.iter().find(|d| d.v2);
    let dir = dir.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = sys::bpf::load_device_program(&words)?;
    let cgroup = open(dir.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    sys::bpf::attach_device_program(cgroup.as_fd(), program.as_fd())
}

/// The pid namespace children are made in, put back when it goes out of scope.
pub(crate) struct PidNamespace {
    own: OwnedFd,
}

impl PidNamespace {
    pub(crate) fn enter(target: BorrowedFd<'_>) -> io::Result<Self> {
        let own = open(c"/proc/thread-self/ns/pid", OFlags::RDONLY)?;
        sys::process::setns(target, libc::CLONE_NEWPID)?;
        Ok(Self { own })
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        // back to where this process is: nothing can refuse that
        let _always = sys::process::setns(self.own.as_fd(), libc::CLONE_NEWPID);
    }
}

fn pid_namespace(
    plan: &EncodedPlan<'_>,
    fds: &Descriptors<'_>,
) -> io::Result<Option<PidNamespace>> {
    let missing = || io::Error::from_raw_os_error(libc::EBADF);
    if plan.header.joins_target {
        return PidNamespace::enter(fds.target.ok_or_else(missing)?).map(Some);
    }
    let Some(path) = plan.header.pid_namespace else {
        return Ok(None);
    };
    let passed = path.to_str().ok().and_then(|p| p.strip_prefix("fd:"));
    let entered = match passed {
        Some(index) => {
            let index: usize = index.parse().map_err(|_| missing())?;
            PidNamespace::enter(*fds.passed.get(index).ok_or_else(missing)?)?
        }
        None => PidNamespace::enter(open(path, OFlags::RDONLY)?.as_fd())?,
    };
    Ok(Some(entered))
}

fn clone(
    plan: &EncodedPlan<'_>,
    fds: &Descriptors<'_>,
    keeper: Option<Throwaway>,
) -> Result<Pending, StepError> {
    let h = &plan.header;
    let program = Program {
        argv: h.argv.iter().collect(),
        envp: h.envp.iter().collect(),
    };
    let faults = cfg!(debug_assertions)
        && (std::env::var_os("PLIMSOLL_FAULT").is_some()
            || std::env::var_os("PLIMSOLL_FAULT_LOG").is_some());
    let (ours, theirs) = sys::fdpass::pair().map_err(parent(0))?;
    let theirs = above_stdio(theirs).map_err(parent(0))?;
    let born_in = h
        .born_in
        .map(|dir| open(dir, OFlags::PATH | OFlags::DIRECTORY))
        .transpose()
        .map_err(parent(0))?;
    let cgroup = born_in.as_ref().map(AsFd::as_fd);
    sys::fault::point("runtime.clone").map_err(parent(0))?;
    let mapped = service::mapped_trees(plan)?;
    let entered = pid_namespace(plan, fds).map_err(parent(0))?;
    let ours_in_child = ours.as_fd();
    let cloned = sys::clone::clone3(h.clone_flags, cgroup, || {
        // the child's copy of our end: with it open, a parent that dies would not be noticed
        sys::process::close_copy(ours_in_child);
        execute::child(plan, fds, theirs.as_fd(), &program, &mapped, faults)
    });
    drop(entered);
    let cloned = cloned.map_err(parent(0))?;
    drop(theirs);
    let born_in_all = h.cgroup_dirs.iter().all(|d| d.v2) && h.born_in.is_some();
    let pending = Pending {
        pid: cloned.pid,
        pidfd: cloned.pidfd,
        channel: ours,
        terminal: None,
        _keeper: keeper.filter(|_| !born_in_all),
        executing: false,
        service: Service::of(plan),
    };
    if h.uid_map.is_some()
        && !h.maps_asked
        && let Err(e) = map_ids(&pending, h.map_step)
    {
        end(&pending.pidfd);
        return Err(e);
    }
    Ok(pending)
}

/// The child puts stdio at 0 to 2: its channel must not be there.
fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?)
}

fn map_ids(pending: &Pending, step: u32) -> Result<(), StepError> {
    pending.service.map_ids(pending.pid)?;
    let said = [SAY_MAPPED];
    sys::fdpass::send(pending.channel.as_fd(), &said, &[]).map_err(parent(step))?;
    Ok(())
}

/// Kills a child that won't be used and reaps it.
fn end(pidfd: &OwnedFd) {
    kill(pidfd);
    wait(pidfd);
}

fn kill(pidfd: &OwnedFd) {
    use rustix::process::{Signal, pidfd_send_signal};
    let _already_gone = pidfd_send_signal(pidfd, Signal::KILL);
}

fn wait(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _reaped_elsewhere = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// [`begin`], then waits until the program runs or a step failed; a failed child is reaped and its
/// cgroups are removed.
///
/// # Errors
/// The step that failed.
pub fn spawn(plan: &EncodedPlan<'_>, fds: &Descriptors<'_>) -> Result<Spawned, StepError> {
    let pending = begin(plan, fds)?;
    let (pid, error) = match pending.listen(false) {
        Progress::Running(spawned) => return Ok(spawned),
        Progress::Failed { pid, error } => (Some(pid), error),
        // a blocking receive doesn't come back with nothing
        Progress::Waiting(p) => {
            end(&p.pidfd);
            (None, parent(0)(io::ErrorKind::WouldBlock.into()))
        }
    };
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // it is our child and not reaped yet, so the number is still its own
        let _already_gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let exited = rustix::process::WaitIdOptions::EXITED;
        let _reaped_elsewhere = rustix::process::waitid(rustix::process::WaitId::Pid(pid), exited);
    }
    remove_cgroups(plan.cgroup().as_ref());
    Err(error)
}
