//! The parent's side of a start: cgroups, clone3, id maps, and the wait for the child's word.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Detail, EncodedPlan, StepError};

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
    channel: OwnedFd,
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

impl Pending {
    /// The child, as seen by the caller.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads what the child has said, without blocking.
    #[must_use]
    pub fn advance(self) -> Progress {
        Progress::Waiting(self)
    }
}

impl AsFd for Pending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Starts: makes the plan's cgroups, clones, writes id maps. Doesn't wait for the child.
///
/// # Errors
/// When the parent's side fails; cgroups made are removed again.
pub fn begin(plan: &EncodedPlan<'_>, fds: &Descriptors<'_>) -> Result<Pending, StepError> {
    let _ = (plan, fds);
    Err(StepError {
        step: 0,
        errno: libc::ENOSYS,
        detail: Detail::Parent,
    })
}

/// [`begin`], then waits until the program runs or a step failed; a failed child is reaped and its
/// cgroups are removed.
///
/// # Errors
/// The step that failed.
pub fn spawn(plan: &EncodedPlan<'_>, fds: &Descriptors<'_>) -> Result<Spawned, StepError> {
    let pending = begin(plan, fds)?;
    Err(StepError {
        step: 0,
        errno: libc::ENOSYS,
        detail: match pending.advance() {
            Progress::Failed { error, .. } => error.detail,
            Progress::Waiting(_) | Progress::Running(_) => Detail::Parent,
        },
    })
}
