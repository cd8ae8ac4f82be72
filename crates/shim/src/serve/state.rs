//! `state.json` of the run directory: for who finds the shim dead.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use runtime::cgroup::Cgroup;

pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const SOCKET: &str = "sock";
/// What the state is before it is whole; empty in a run directory that has no shim yet.
pub(crate) const STAGED: &str = ".state.json.tmp";
/// A run directory before it has its name begins with this.
pub(crate) const NEW: &str = ".new-";

/// Written before the container's first process exists; once it does, a second line follows, so
/// that nothing is replaced. The last whole line counts.
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
        let staged = run_dir.join(STAGED);
        sys::fault::point("shim.state.write")?;
        std::fs::write(&staged, serde_json::to_vec(self)?)?;
        sys::fault::point("shim.state.rename")?;
        std::fs::rename(&staged, run_dir.join(STATE_FILE))
    }

    /// Adds what has become known since.
    pub(crate) fn append(&self, run_dir: &Path) -> io::Result<()> {
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, self)?;
        sys::fault::point("shim.state.append")?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.append(true).open(run_dir.join(STATE_FILE))?;
        std::io::Write::write_all(&mut file, &line)
    }

    pub(crate) fn read(run_dir: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(run_dir.join(STATE_FILE))?;
        let mut lines = bytes.rsplit(|b| *b == b'\n');
        // one that was cut off is not valid: the one before it then
        let whole = lines.find_map(|line| serde_json::from_slice(line).ok());
        whole.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// A run directory that nobody else cleans up meanwhile; the kernel takes the lock from a dead
/// holder.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    run_dir: &'a Path,
    _held: OwnedFd,
}

impl<'a> Locked<'a> {
    /// Waits for the lock. `None`: the directory is gone.
    pub(crate) fn take(run_dir: &'a Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            let held = match rustix::fs::open(run_dir, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                other => other?,
            };
            rustix::fs::flock(&held, FlockOperation::LockExclusive)?;
            // another may have removed it, and a new launch made it anew, while we waited
            let ours = rustix::fs::fstat(&held)?;
            match rustix::fs::stat(run_dir) {
                Ok(now) if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(Self {
                        run_dir,
                        _held: held,
                    }));
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whose it is.
    pub(crate) fn state(&self) -> Option<State> {
        State::read(self.run_dir).ok()
    }

    /// What a shim left that was killed at its very last step: nothing is in it.
    pub(crate) fn remove_if_empty(self) {
        // refused for one that is not
        drop(std::fs::remove_dir(self.run_dir));
    }

    /// Takes away all a shim puts into it, and the directory. What is gone is fine.
    pub(crate) fn remove(self) -> io::Result<()> {
        for name in [SOCKET, STAGED, STATE_FILE] {
            gone_is_fine(std::fs::remove_file(self.run_dir.join(name)))?;
        }
        sys::fault::point("shim.run_dir.remove")?;
        gone_is_fine(std::fs::remove_dir(self.run_dir))
    }
}

/// Removes the run directory of this shim, or one that has no owner yet.
pub(crate) fn remove_run_dir(run_dir: &Path, shim_pid: i32) -> io::Result<()> {
    match Locked::take(run_dir)? {
        Some(locked) if locked.state().is_none_or(|s| s.shim_pid == shim_pid) => locked.remove(),
        _ => Ok(()),
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
