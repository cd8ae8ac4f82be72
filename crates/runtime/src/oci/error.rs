//! Why a verb failed. The words are runc's where its clients look for them.

use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::CgroupError;
use crate::oci::Status;
use crate::{PlanError, StepError};

#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("invalid container ID format")]
    Id,
    #[error("container does not exist")]
    NotFound,
    #[error("container with given ID already exists")]
    Exists,
    #[error("JSON specification file {} not found", .0.display())]
    NoSpec(PathBuf),
    #[error("{}", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: crate::config::ConfigError,
    },
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("unable to start container process")]
    Plan(#[from] PlanError),
    /// `words` are [`crate::Plan::explain`]'s.
    #[error("unable to start container process: {words}")]
    Start { words: String, error: StepError },
    #[error("unable to start container process: error running {kind} hook #{index} ({path})")]
    Hook {
        kind: &'static str,
        index: usize,
        path: String,
        #[source]
        source: super::hooks::HookError,
    },
    #[error("cannot start an already running container")]
    AlreadyRunning,
    #[error("cannot start a container that has stopped")]
    CannotStartStopped,
    #[error("container not running")]
    NotRunning,
    #[error("container not running or created")]
    NotPausable,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: Status },
    #[error("container {0} does not end although it was killed")]
    Unkillable(String),
    #[error("cannot allocate tty if the runtime will detach without setting console socket")]
    NoConsoleSocket,
    #[error("cannot use console socket if the runtime will not detach or allocate tty")]
    NeedlessConsoleSocket,
    #[error("descriptor {0} is not open: --preserve-fds and LISTEN_FDS count from 3")]
    NotPreserved(u32),
    #[error("invalid signal {0:?}")]
    Signal(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("let systemd make the cgroup")]
    Systemd(#[from] crate::systemd::SystemdError),
    #[error("host facts")]
    Host(#[from] host::ProbeError),
    #[error("{what} is not supported: {why}")]
    Refused { what: String, why: String },
}

pub(super) fn io<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> OciError + use<'p> {
    move |source| OciError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The same for rustix' calls.
pub(super) fn errno<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(rustix::io::Errno) -> OciError + use<'p> {
    move |e| io(action, path)(e.into())
}
