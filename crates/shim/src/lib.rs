//! One process per container, the spawner that forks it, and the client the engine holds.
//!
//! ```text
//! engine (async) --SEQPACKET: Launch + descriptors--> spawner --fork--> shim --clone3--> container
//!    |                                                                   |
//!    +------------- SEQPACKET, one connection per Shim ------------------+
//! ```
//!
//! The connection that carries the launch's answer is the first control connection to the shim;
//! later ones (after a restart of the engine) are made through the socket in the run directory:
//!
//! ```text
//! <exec-root>/shims/<id>/sock         SEQPACKET, listening for as long as the shim lives
//!                        state.json   who the shim and the container are: for a shim that died
//! <container dir>/exit.json           the exit record: durable before anyone is told
//!                 json.log[.1 ...]    output, one JSON object per line
//! ```
//!
//! Life of a container as its shim sees it; each arrow is an event the clients are told:
//!
//! ```text
//! Starting --(plan executed)--> Running --(pidfd readable)--> Draining --(record durable)--> Exited
//!     |                                                                                        |
//!     +--(step failed: answer says which)------------------------------------------------> gone
//! ```
//!
//! Order at the end: reap, kill what is left in the cgroup, drain the output (bounded), write the
//! exit record, tell, remove the cgroups, unlink the socket, exit. A shim that is killed takes its
//! container with it (the parent death signal; and the client kills the cgroup, because a change
//! of user inside the container clears that signal).

pub mod client;
pub mod jsonlog;
pub mod launch;
pub mod names;
pub mod record;
mod serve;
pub mod spawner;
mod wire;

pub use client::{
    AdoptError, Attached, Events, Shim, ShimError, Spawner, SpawnerConfig, StartError,
    discard_staged, kill_mute, sweep_run_dirs,
};
pub use launch::{
    AttachOptions, Event, ExecLaunch, ExecStarted, ExecStatus, HEALTH_CGROUP, Health, HealthCheck,
    HealthResult, HealthStatus, Launch, LaunchError, Launched, LogPlan, Phase, Status,
};
pub use record::{ExitRecord, RecordError, read_exit, remove_exit};
