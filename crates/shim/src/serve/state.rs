//! `state.json` of the run directory: for who finds the shim dead.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use runtime::cgroup::Cgroup;

pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const SOCKET: &str = "sock";

/// Written before the container's first process exists, again once it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) shim_pid: i32,
    pub(crate) shim_start_time: u64,
    /// 0 while starting.
    #[serde(default)]
    pub(crate) pid: i32,
    #[serde(default)]
    pub(crate) pid_start_time: u64,
    /// RFC 3339; empty while starting.
    #[serde(default)]
    pub(crate) started_at: String,
    pub(crate) container_dir: PathBuf,
    #[serde(default)]
    pub(crate) ephemeral: bool,
    #[serde(default)]
    pub(crate) cgroup: Option<Cgroup>,
}

impl State {
    /// Not synced: it is as volatile as the processes it names.
    pub(crate) fn write(&self, run_dir: &Path) -> io::Result<()> {
        let staged = run_dir.join(".state.json.tmp");
        sys::fault::point("shim.state.write")?;
        std::fs::write(&staged, serde_json::to_vec(self)?)?;
        sys::fault::point("shim.state.rename")?;
        std::fs::rename(&staged, run_dir.join(STATE_FILE))
    }

    pub(crate) fn read(run_dir: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(run_dir.join(STATE_FILE))?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// Takes away all a shim puts into its run directory, and the directory. What is gone is fine.
pub(crate) fn remove_run_dir(run_dir: &Path) -> io::Result<()> {
    for name in [SOCKET, ".state.json.tmp", STATE_FILE] {
        gone_is_fine(std::fs::remove_file(run_dir.join(name)))?;
    }
    sys::fault::point("shim.run_dir.remove")?;
    gone_is_fine(std::fs::remove_dir(run_dir))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
