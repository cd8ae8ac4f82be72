//! What a launch is asked for and what comes back: the types both sides of the socket share.

use std::path::PathBuf;
use std::time::Duration;

use crate::record::ExitRecord;

/// Everything a shim needs besides the plan and the descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    pub id: String,
    /// `exit.json` goes here.
    pub container_dir: PathBuf,
    /// `<exec-root>/shims/<id>`: made by the launch, gone with the shim.
    pub run_dir: PathBuf,
    pub tty: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// Keep standard input open for attach; without it the container reads /dev/null.
    pub open_stdin: bool,
    /// The first attached client's end of input is the container's.
    pub stdin_once: bool,
    pub log: Option<LogPlan>,
    /// `--rm`: its exit record is not synced.
    pub ephemeral: bool,
    /// What the container may ask of names (see [`crate::names`]). The last two of the descriptors
    /// that are held are the sockets at which it asks: datagrams, connections.
    pub names: Option<PathBuf>,
}

/// A json-file log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlan {
    pub path: PathBuf,
    /// Bytes after which a file is rotated; 0: never.
    pub max_size: u64,
    /// How many files, the current one counted; at least 1.
    pub max_file: u32,
    /// What each entry says of its container: an object in JSON; empty: nothing.
    pub attributes: String,
}

impl LogPlan {
    /// The cap that holds unless the user names another: 5 files of 20 MiB.
    #[must_use]
    pub fn capped(path: PathBuf) -> Self {
        Self {
            path,
            max_size: 20 << 20,
            max_file: 5,
            attributes: String::new(),
        }
    }
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    pub shim_pid: i32,
    /// The container's first process, as the host numbers it.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub pid_start_time: u64,
}

/// Which streams an attached client takes part in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// The client has read the log before: first comes what was read of lines that are not in it,
    /// because their ends have not been written yet.
    pub after_log: bool,
    /// Absent: the container's own streams.
    pub exec_id: Option<String>,
    /// A reader that is slower than the container holds it back, as a pipe would; one that takes
    /// nothing at all for this long while its buffer is full is dropped (its stream then ends with
    /// a frame of stdcopy's system error). Absent: 2 s for the container's own streams, without
    /// end for an exec'd process.
    pub patience: Option<Duration>,
}

/// A process added to a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecLaunch {
    pub exec_id: String,
    pub tty: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// Keep standard input open; the attached client's end of input is the process's.
    pub open_stdin: bool,
    /// Kill the process when its last attached client is gone.
    pub kill_on_disconnect: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecStarted {
    /// As the host numbers it.
    pub pid: i32,
}

/// What the shim says of an exec'd process; ended ones are remembered for as long as the
/// container runs, at most the last 64 of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    pub exec_id: String,
    pub pid: i32,
    /// Absent while it runs.
    pub code: Option<i32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    Running,
    /// The first process has ended; the record is being written or is.
    Exited,
}

/// What the shim says of itself and its container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub id: String,
    pub phase: Phase,
    pub shim_pid: i32,
    pub pid: i32,
    pub pid_start_time: u64,
    /// RFC 3339 with nanoseconds, UTC; empty while starting.
    pub started_at: String,
    pub tty: bool,
    /// The kernel has killed one of its processes for want of memory.
    pub oom_killed: bool,
    pub log_lines_dropped: u64,
    pub execs: Vec<ExecStatus>,
}

/// Where a check runs: see `runtime::cgroup::Cgroup::nested`.
pub const HEALTH_CGROUP: &str = "plimsoll-health";

/// When a container's health is checked, and what counts as ill.
///
/// source: Docker Engine API, `HealthConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// From the end of a check to the start of the next.
    pub interval: Duration,
    /// A check that takes longer is killed, with all it has started, and has failed.
    pub timeout: Duration,
    /// Failures in this time after the start don't count, until a first success.
    pub start_period: Duration,
    /// The interval in that time.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy; at least 1.
    pub retries: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

/// One check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthResult {
    /// RFC 3339 with nanoseconds, UTC.
    pub start: String,
    pub end: String,
    /// -1: it did not run, or was killed at its deadline.
    pub code: i32,
    /// Both outputs, at most 4096 bytes of them.
    pub output: String,
}

/// What is known of a container's health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The last 5, oldest first.
    pub log: Vec<HealthResult>,
}

/// What a shim tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container ended and its record is durable. Told once; also (made up from the record on
    /// disk, or as `shim_died`) when the shim is gone without having told.
    Exited(ExitRecord),
    /// The kernel killed one of its processes for want of memory.
    Oom,
    ExecExited {
        exec_id: String,
        code: i32,
    },
    /// A health check has ended.
    Health(Health),
    /// The receiver was too slow and missed some: ask for the status.
    Missed,
}

/// Why a container or an exec'd process does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step of the plan failed; the text is the plan's own explanation.
    #[error("{message}")]
    Step {
        message: String,
        step: u32,
        errno: i32,
        /// The step was the execution of the program itself: exit code 127 or 126, not 125.
        is_program: bool,
    },
    #[error("prepare the launch of {id}: {what}")]
    Prepare {
        id: String,
        what: String,
        source: std::io::Error,
    },
    #[error("the shim of {id} refused: {message}")]
    Refused { id: String, message: String },
    #[error("the shim of {id} died while it was starting; try again")]
    ShimDied { id: String },
    #[error("the spawner died before it started {id}; try again")]
    SpawnerDied { id: String },
    #[error("waited {waited:?} for {what} of {id}")]
    Deadline {
        id: String,
        what: &'static str,
        waited: Duration,
    },
}

impl LaunchError {
    /// The exit code a `run` reports for it: 127 not found, 126 cannot be executed, 125 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Step {
                is_program: true,
                errno,
                ..
            } => match *errno {
                libc::ENOENT | libc::ENOTDIR => 127,
                _ => 126,
            },
            _ => 125,
        }
    }
}
