//! The engine's side: starting spawners, launching, and talking to shims. Every wait is bounded.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::Plan;

use crate::launch::{
    AttachOptions, Event, ExecLaunch, ExecStarted, Launch, LaunchError, Launched, Status,
};

/// How to start spawners.
#[derive(Debug, Clone)]
pub struct SpawnerConfig {
    /// The program; `/proc/self/exe` where absent. Executed through a read-only detached bind of
    /// it, so that nothing in a container that sees our processes can write to it.
    pub program: Option<PathBuf>,
    /// Its arguments, `["spawner"]` by default.
    pub args: Vec<String>,
}

impl Default for SpawnerConfig {
    fn default() -> Self {
        Self {
            program: None,
            args: vec!["spawner".to_owned()],
        }
    }
}

/// Why a spawner could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start the spawner: {what}")]
pub struct StartError {
    what: String,
    source: std::io::Error,
}

/// Why a shim could not be adopted. The object behind it is to be quarantined, nothing else.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// No shim was ever ready there, or it has ended in order: read the exit record.
    #[error("no shim listens in {}", run_dir.display())]
    Absent { run_dir: PathBuf },
    /// It was killed; its container has been killed, its cgroups removed, an exit record written
    /// if there was none, and the run directory removed.
    #[error("the shim of {id} is dead")]
    Dead { id: String },
    #[error("waited {waited:?} for the shim in {} to answer", run_dir.display())]
    Mute { run_dir: PathBuf, waited: Duration },
    #[error("the shim in {} is not who it says: {what}", run_dir.display())]
    Identity { run_dir: PathBuf, what: String },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The container has ended or its shim was killed; the events say which.
    #[error("container {id} is not running")]
    Gone { id: String },
    #[error("no such exec {exec_id} in container {id}")]
    NoSuchExec { id: String, exec_id: String },
    #[error("waited {waited:?} for the shim of {id} to {what}")]
    Deadline {
        id: String,
        what: &'static str,
        waited: Duration,
    },
    #[error("the shim of {id} refused to {what}")]
    Refused {
        id: String,
        what: &'static str,
        source: std::io::Error,
    },
    #[error("talk to the shim of {id}")]
    Io { id: String, source: std::io::Error },
}

/// The engine's handle on its spawner; starts another when it dies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {}

impl Spawner {
    /// Starts the first spawner. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(config: SpawnerConfig) -> Result<Self, StartError> {
        let _ = config;
        Ok(Self {})
    }

    /// Starts a container: when this answers, its program has been executed. Several launches run
    /// at once. On any error nothing is left: no process, cgroup or run directory.
    ///
    /// `attach`: clients connected before the first byte of output; each descriptor is the shim's
    /// end of a stream socket pair. A run directory left by a shim that is just going is waited
    /// for.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(
        &self,
        launch: &Launch,
        plan: &Plan,
        root: OwnedFd,
        attach: Vec<(AttachOptions, OwnedFd)>,
        deadline: Duration,
    ) -> Result<(Launched, Shim), LaunchError> {
        let _ = (plan, root, attach, deadline);
        Err(LaunchError::SpawnerDied {
            id: launch.id.clone(),
        })
    }
}

/// A client of one shim. Cheap to clone; all clones share a connection.
#[derive(Debug, Clone)]
pub struct Shim {}

impl Shim {
    /// Connects to the shim of a container that this process did not launch.
    ///
    /// # Errors
    /// See [`AdoptError`]; never waits longer than `deadline`.
    pub async fn adopt(run_dir: &Path, deadline: Duration) -> Result<(Self, Status), AdoptError> {
        let _ = deadline;
        Err(AdoptError::Absent {
            run_dir: run_dir.to_owned(),
        })
    }

    /// A receiver of what happens from now on; an exit that has already happened is told again.
    #[must_use]
    pub fn events(&self) -> Events {
        Events {}
    }

    /// Returns once the shim's process is gone and everything of it (cgroups, socket, run
    /// directory) is removed: the container can be started again, its root file system is free.
    pub async fn gone(&self) {}

    /// Our end of a new stream to the container or an exec'd process. Out: Docker's stdcopy
    /// frames, raw bytes with a terminal. In: raw standard input; shutting down our writing side
    /// is end of input.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn attach(&self, options: &AttachOptions) -> Result<UnixStream, ShimError> {
        let _ = options;
        Err(ShimError::Gone { id: String::new() })
    }

    /// Runs another process in the container: when this answers, its program has been executed.
    /// `attach` is the shim's end of a stream socket pair, connected before the first output.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn exec(
        &self,
        exec: &ExecLaunch,
        plan: &Plan,
        attach: Option<(AttachOptions, OwnedFd)>,
        deadline: Duration,
    ) -> Result<ExecStarted, LaunchError> {
        let _ = (plan, attach, deadline);
        Err(LaunchError::ShimDied {
            id: exec.exec_id.clone(),
        })
    }

    /// Sends a signal to the container's first process, or an exec'd one; with `all` to every
    /// process of the container.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn signal(
        &self,
        exec_id: Option<&str>,
        signal: i32,
        all: bool,
    ) -> Result<(), ShimError> {
        let _ = (exec_id, signal, all);
        Err(ShimError::Gone { id: String::new() })
    }

    /// # Errors
    /// See [`ShimError`].
    pub async fn resize(
        &self,
        exec_id: Option<&str>,
        rows: u16,
        columns: u16,
    ) -> Result<(), ShimError> {
        let _ = (exec_id, rows, columns);
        Err(ShimError::Gone { id: String::new() })
    }

    /// The container's root directory (`/proc/<pid>/root`), held open.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn root(&self) -> Result<OwnedFd, ShimError> {
        Err(ShimError::Gone { id: String::new() })
    }

    /// # Errors
    /// See [`ShimError`].
    pub async fn status(&self) -> Result<Status, ShimError> {
        Err(ShimError::Gone { id: String::new() })
    }
}

/// Receives the events of one shim.
#[derive(Debug)]
pub struct Events {}

impl Events {
    /// The next event. `None` once the shim is gone, always after one [`Event::Exited`].
    pub async fn next(&mut self) -> Option<Event> {
        None
    }
}
