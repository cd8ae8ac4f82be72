//! The engine's side: starting spawners, launching, and talking to shims. Every wait is bounded.
//!
//! One task per shim reads its connection and hands on answers and events. When the connection
//! ends it looks at the shim's process, by descriptor: a living shim (it closed on a client that
//! did not read) is connected to again; a dead one that had not told its container's exit has its
//! container killed and an exit record written for it.

mod bury;
mod connection;
mod shim;
mod spawner;

use std::path::PathBuf;
use std::time::Duration;

pub use bury::{discard_staged, sweep_run_dirs};
pub(crate) use connection::register;
pub use shim::{Attached, Events, Shim};
pub use spawner::{Spawner, SpawnerConfig};

/// Kills a shim that does not answer, stopped ones too; the next [`Shim::adopt`] then finds it dead
/// and ends its container. One that is gone already is fine. Blocks for a moment.
///
/// # Errors
/// The run directory says nothing that can be read, or the process cannot be killed.
pub fn kill_mute(run_dir: &std::path::Path) -> std::io::Result<()> {
    let state = crate::serve::state::State::read(run_dir)?;
    match connection::Handle::find(state.shim_pid, state.shim_start_time)? {
        Some(shim) => {
            sys::fault::point("shim.client.kill_mute")?;
            sys::signal::send_to(&shim, libc::SIGKILL)?;
            // until it is gone it would still be found mute
            connection::ended_blocking(std::os::fd::AsFd::as_fd(&shim), Duration::from_secs(5));
            Ok(())
        }
        None => Ok(()),
    }
}

/// Why a spawner could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start the spawner: {what}")]
pub struct StartError {
    pub(super) what: String,
    pub(super) source: std::io::Error,
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
