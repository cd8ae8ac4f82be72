//! Hooks: programs that the configuration names for points in a container's life.
//!
//! ```text
//! prestart, createRuntime   mounts are made, the host's root is still there   host's namespaces
//! createContainer           the same moment                                   the container's, host's root
//! startContainer            before the program                                an exec into the container
//! poststart                 after the program was executed                    host's namespaces
//! poststop                  after everything was removed                      host's namespaces
//! ```
//!
//! The child that becomes the container stops for them and runs none itself: a hook needs memory,
//! pipes and patience, which that child has not. startContainer's path is looked up in the
//! container, so whatever the image has there runs with the container's rights and no more.
//!
//! source: OCI runtime-spec 1.2 config.md "POSIX-platform Hooks".

use std::ffi::CString;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use host::Facts;
use oci_spec::runtime::{Hook, Spec};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use sys::process::CStrArray;

use super::delete::ends_within;
use super::{Container, OciError, State, Status};
use crate::plan::Namespaces;
use crate::spawn::PidNamespace;
use crate::{Asked, Descriptors, EncodedPlan, ExecInput, SeccompChoice};

/// How much of a hook's output an error shows.
const SHOWN: u64 = 4096;
/// A hook without a timeout may take as long as it likes, as with runc.
const PATIENT: Duration = Duration::from_secs(u32::MAX as u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn of(self, spec: &Spec) -> &[Hook] {
        let Some(hooks) = spec.hooks() else {
            return &[];
        };
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// What a hook did wrong.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("it has no absolute path")]
    Relative,
    #[error("a string contains a NUL byte")]
    Nul,
    #[error("it could not be started")]
    Io(#[from] io::Error),
    #[error("it could not be executed")]
    Exec(#[source] io::Error),
    #[error("it could not be executed in the container: {0}")]
    Inside(String),
    #[error("it did not end within {0} s and was killed")]
    TimedOut(u64),
    #[error("exit status {code}, output: {output}")]
    Failed { code: i32, output: String },
}

pub(super) fn any(kind: Kind, spec: &Spec) -> bool {
    !kind.of(spec).is_empty()
}

/// Whether any runs while the host's root is still there.
pub(super) fn before_pivot(spec: &Spec) -> bool {
    [Kind::Prestart, Kind::CreateRuntime, Kind::CreateContainer]
        .iter()
        .any(|k| any(*k, spec))
}

/// The namespaces of a container's first process, and the root it still has.
pub(super) struct Inside<'a> {
    pidfd: BorrowedFd<'a>,
    kinds: u32,
    root: OwnedFd,
}

impl<'a> Inside<'a> {
    pub(super) fn of(spec: &Spec, pid: i32, pidfd: BorrowedFd<'a>) -> Result<Self, OciError> {
        let path = std::path::PathBuf::from(format!("/proc/{pid}/root"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty());
        Ok(Self {
            pidfd,
            kinds: Namespaces::kinds(spec),
            root: root.map_err(super::error::errno("open", &path))?,
        })
    }
}

/// Runs all of a kind in their order; the first failure ends it.
pub(super) fn run(
    kind: Kind,
    spec: &Spec,
    state: &State,
    inside: Option<&Inside<'_>>,
) -> Result<(), OciError> {
    for (index, hook) in kind.of(spec).iter().enumerate() {
        one(hook, state, inside).map_err(failed(kind, index, hook))?;
    }
    Ok(())
}

/// Runs all of a kind whatever they do; the first failure is told.
pub(super) fn run_each(kind: Kind, spec: &Spec, state: &State) -> Result<(), OciError> {
    let mut first = Ok(());
    for (index, hook) in kind.of(spec).iter().enumerate() {
        let done = one(hook, state, None).map_err(failed(kind, index, hook));
        first = first.and(done);
    }
    first
}

fn failed(kind: Kind, index: usize, hook: &Hook) -> impl FnOnce(HookError) -> OciError {
    let path = hook.path().display().to_string();
    move |source| OciError::Hook {
        kind: kind.name(),
        index,
        path,
        source,
    }
}

fn c(bytes: &[u8]) -> Result<CString, HookError> {
    CString::new(bytes).map_err(|_| HookError::Nul)
}

fn strings(list: Option<&[String]>) -> Result<Vec<CString>, HookError> {
    list.unwrap_or_default()
        .iter()
        .map(|s| c(s.as_bytes()))
        .collect()
}

/// A file in memory with the state, at its begin.
fn input(state: &State) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(c"state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Not a pipe: nobody has to read it while the hook runs.
fn output() -> io::Result<OwnedFd> {
    Ok(memfd_create(c"output", MemfdFlags::CLOEXEC)?)
}

fn shown(output: OwnedFd) -> String {
    let mut file = std::fs::File::from(output);
    let mut bytes = Vec::new();
    // what can't be read isn't shown; the exit code is the news
    let _unread = file.rewind();
    let _unread = file.take(SHOWN).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

fn one(hook: &Hook, state: &State, inside: Option<&Inside<'_>>) -> Result<(), HookError> {
    if !hook.path().is_absolute() {
        return Err(HookError::Relative);
    }
    sys::fault::point("oci.hook")?;
    let path = c(hook.path().as_os_str().as_bytes())?;
    let mut args = strings(hook.args().as_deref())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = strings(hook.env().as_deref())?;
    let argv: CStrArray<'_> = args.iter().map(CString::as_c_str).collect();
    let envp: CStrArray<'_> = env.iter().map(CString::as_c_str).collect();
    let (stdin, out) = (input(state)?, output()?);
    let (ours, theirs) = sys::fdpass::pair()?;
    let entered = inside
        .filter(|i| i.kinds & libc::CLONE_NEWPID as u32 != 0)
        .map(|i| PidNamespace::enter(i.pidfd))
        .transpose()?;
    let child = sys::clone::clone3(0, None, || {
        let error = match prepare(inside, stdin.as_fd(), out.as_fd()) {
            Ok(()) => sys::process::execve(&path, &argv, &envp),
            Err(e) => e,
        };
        let errno = error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes();
        let _parent_may_be_gone = sys::fdpass::send(theirs.as_fd(), &errno, &[]);
        sys::process::exit(127)
    })?;
    drop((entered, theirs));
    let mut errno = [0; 4];
    let told = sys::fdpass::recv(ours.as_fd(), &mut errno, false)?;
    let code = wait(child.pidfd.as_fd(), hook.timeout())?;
    if told.len == errno.len() {
        let error = io::Error::from_raw_os_error(i32::from_le_bytes(errno));
        return Err(HookError::Exec(error));
    }
    ended(code, out)
}

fn ended(code: i32, out: OwnedFd) -> Result<(), HookError> {
    if code == 0 {
        return Ok(());
    }
    let output = shown(out);
    Err(HookError::Failed { code, output })
}

/// Between clone and execve. Nothing of ours is open after it but stdio.
fn prepare(
    inside: Option<&Inside<'_>>,
    stdin: BorrowedFd<'_>,
    out: BorrowedFd<'_>,
) -> io::Result<()> {
    if let Some(i) = inside {
        let kinds = i.kinds & !(libc::CLONE_NEWPID as u32);
        sys::process::setns(i.pidfd, kinds.cast_signed())?;
        rustix::process::fchdir(&i.root)?;
        rustix::process::chroot(c".")?;
    }
    sys::process::dup_onto(stdin, 0)?;
    sys::process::dup_onto(out, 1)?;
    sys::process::dup_onto(out, 2)?;
    sys::process::cloexec_from(3)?;
    sys::process::reset_signals();
    Ok(())
}

/// The exit code, 128 and more for a signal.
fn wait(pidfd: BorrowedFd<'_>, timeout: Option<i64>) -> Result<i32, HookError> {
    let seconds = timeout
        .and_then(|t| u64::try_from(t).ok())
        .filter(|t| *t > 0);
    let in_time = ends_within(pidfd, seconds.map_or(PATIENT, Duration::from_secs));
    if !in_time {
        let _just_ended = sys::signal::send_to(pidfd, libc::SIGKILL);
    }
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).map_err(io::Error::from)?;
    if !in_time {
        return Err(HookError::TimedOut(seconds.unwrap_or(0)));
    }
    Ok(status.map_or(0, |s| super::exec::code(&s)))
}

/// startContainer: as an exec, with the program's user, rights and filter.
pub(super) fn in_container(
    container: &Container,
    spec: &Spec,
    facts: &Facts,
    target: BorrowedFd<'_>,
) -> Result<(), OciError> {
    let kind = Kind::StartContainer;
    let state = container.brief(Status::Created);
    for (index, hook) in kind.of(spec).iter().enumerate() {
        inside_one(container, spec, facts, target, hook, &state)
            .map_err(failed(kind, index, hook))?;
    }
    Ok(())
}

fn inside_one(
    container: &Container,
    spec: &Spec,
    facts: &Facts,
    target: BorrowedFd<'_>,
    hook: &Hook,
    state: &State,
) -> Result<(), HookError> {
    let inside = |e: &dyn std::fmt::Display| HookError::Inside(e.to_string());
    sys::fault::point("oci.hook")?;
    let mut process = spec.process().clone().unwrap_or_default();
    let path = hook.path().to_string_lossy().into_owned();
    // the argument list's first is the program's name for itself; the path is what is executed
    let mut args = vec![path];
    args.extend(hook.args().iter().flatten().skip(1).cloned());
    process
        .set_args(Some(args))
        .set_env(Some(hook.env().clone().unwrap_or_default()))
        .set_terminal(Some(false));
    let plan = crate::plan_exec(&ExecInput {
        container: spec,
        process: &process,
        facts,
        cgroup: container.cgroup(),
        seccomp: SeccompChoice::Spec,
        asked: Asked::default(),
        die_with_parent: true,
        choices: crate::Choices::default(),
    })
    .map_err(|e| inside(&e))?;
    let encoded = EncodedPlan::decode(plan.encode()).map_err(|e| inside(&e))?;
    let (stdin, out) = (input(state)?, output()?);
    let fds = Descriptors {
        root: None,
        stdio: [stdin.as_fd(), out.as_fd(), out.as_fd()],
        target: Some(target),
        passed: &[],
    };
    let spawned = crate::spawn(&encoded, &fds).map_err(|e| inside(&plan.explain(e)))?;
    let code = wait(spawned.pidfd.as_fd(), hook.timeout())?;
    ended(code, out)
}
