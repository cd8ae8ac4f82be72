//! What is done for a container whose shim died without a word.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use runtime::cgroup::Cgroup;

use super::connection::{Handle, ended_blocking};
use crate::jsonlog::encode::Time;
use crate::record::{ExitRecord, read_exit, write_exit};
use crate::serve::state::{State, remove_run_dir};

/// How long the processes of a cgroup may take to die.
const REMOVAL: Duration = Duration::from_secs(10);

/// Kills what is left, removes the cgroups and the run directory, and gives the exit record: the
/// one the shim wrote, or one written now that says that the shim died. Blocks.
pub(super) fn bury(run_dir: &Path, state: &State, first: Option<&OwnedFd>) -> Option<ExitRecord> {
    let found = match first {
        Some(_) => None,
        None => Handle::find(state.pid, state.pid_start_time).ok().flatten(),
    };
    end(
        first.or(found.as_ref()).map(AsFd::as_fd),
        state.cgroup.as_ref(),
    );
    let record = record(state);
    // what cannot be removed now is met again by the next adoption
    drop(remove_run_dir(run_dir));
    record
}

fn end(first: Option<BorrowedFd<'_>>, cgroup: Option<&Cgroup>) {
    if let Some(first) = first {
        drop(sys::signal::send_to(first, libc::SIGKILL));
    }
    if let Some(cgroup) = cgroup {
        // strays are found again at the daemon's next start
        drop(cgroup.remove(REMOVAL));
    }
    if let Some(first) = first {
        ended_blocking(first, REMOVAL);
    }
}

fn record(state: &State) -> Option<ExitRecord> {
    if state.pid == 0 {
        // it never ran
        return None;
    }
    let written = read_exit(&state.container_dir).ok().flatten();
    let own = |r: &ExitRecord| r.pid == state.pid && r.start_time == state.pid_start_time;
    if let Some(record) = written.filter(own) {
        return Some(record);
    }
    let record = ExitRecord {
        code: 128 + libc::SIGKILL,
        signal: Some(libc::SIGKILL),
        oom_killed: false,
        started_at: state.started_at.clone(),
        finished_at: Time::now().rfc3339(),
        pid: state.pid,
        start_time: state.pid_start_time,
        shim_died: true,
        log_lines_dropped: 0,
    };
    // on a full disk the caller is still told
    drop(write_exit(&state.container_dir, &record, state.ephemeral));
    Some(record)
}

/// After a launch that failed: nothing of it may be left.
pub(super) fn clean(
    run_dir: &Path,
    shim: Option<&OwnedFd>,
    cgroup: Option<&Cgroup>,
) -> io::Result<()> {
    if let Some(shim) = shim {
        drop(sys::signal::send_to(shim, libc::SIGKILL));
        ended_blocking(shim.as_fd(), REMOVAL);
    }
    let first = State::read(run_dir)
        .ok()
        .and_then(|s| Handle::find(s.pid, s.pid_start_time).ok()?);
    end(first.as_ref().map(AsFd::as_fd), cgroup);
    remove_run_dir(run_dir)
}
