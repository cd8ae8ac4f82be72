//! What is done for a container whose shim died without a word.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use runtime::cgroup::Cgroup;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::connection::{Handle, ended_blocking, reap};
use crate::jsonlog::encode::Time;
use crate::record::{ExitRecord, read_exit, write_exit};
use crate::serve::state::{Locked, NEW, STAGED, State};

/// How long the processes of a cgroup may take to die.
const REMOVAL: Duration = Duration::from_secs(10);
/// The same for a launch that failed, which is tried again.
const CLEANING: Duration = Duration::from_secs(1);

/// Kills what is left, removes the cgroups and the run directory, and gives the exit record: the
/// one the shim wrote, or one written now that says that the shim died. Blocks.
///
/// The run directory's lock is held meanwhile, and what is in it is only touched if it is still
/// this shim's: the same container may have been started again.
pub(super) fn bury(run_dir: &Path, state: &State, known: &[OwnedFd]) -> Option<ExitRecord> {
    tidy(run_dir, state, known, record).unwrap_or_else(|| record(state))
}

/// As [`bury`] for a shim that had told the exit: it may have died before it had cleaned up.
pub(super) fn sweep(run_dir: &Path, state: &State, known: &[OwnedFd]) {
    tidy(run_dir, state, known, |_| None);
}

/// As [`bury`] for a shim that ended while it was looked at: in order, and then nothing is left, or
/// killed on its way out.
pub(super) fn bury_what_is_left(run_dir: &Path, state: &State) {
    drop(tidy(run_dir, state, &[], record));
}

/// `None`: there is nothing of this shim any more.
fn tidy(
    run_dir: &Path,
    state: &State,
    known: &[OwnedFd],
    record: impl FnOnce(&State) -> Option<ExitRecord>,
) -> Option<Option<ExitRecord>> {
    let locked = Locked::take(run_dir).ok().flatten();
    let own =
        |s: &State| s.shim_pid == state.shim_pid && s.shim_start_time == state.shim_start_time;
    let locked = locked?;
    match locked.state() {
        Some(s) if own(&s) => {}
        Some(_) => return None,
        None => {
            locked.remove_if_empty();
            return None;
        }
    }
    let found = Handle::find(state.pid, state.pid_start_time).ok().flatten();
    // strays are found again at the daemon's next start
    end(known.iter().chain(&found), state.cgroup.as_ref(), REMOVAL);
    let record = record(state);
    // what cannot be removed now is met again by the next adoption
    drop(locked.remove());
    Some(record)
}

/// Kills and reaps. The shim's children are ours now, and a pid namespace does not end before the
/// last process in it that was our child is reaped.
///
/// False: one of them cannot be killed, as it waits in a file system that does not answer.
fn end<'a>(
    known: impl Iterator<Item = &'a OwnedFd>,
    cgroup: Option<&Cgroup>,
    within: Duration,
) -> bool {
    let listed = cgroup.and_then(|c| c.pids().ok()).unwrap_or_default();
    let listed = listed.into_iter().filter_map(Pid::from_raw);
    let listed: Vec<OwnedFd> = listed
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect();
    if let Some(cgroup) = cgroup {
        drop(cgroup.kill_all());
    }
    let known: Vec<&OwnedFd> = known.collect();
    for pidfd in &known {
        drop(sys::signal::send_to(pidfd, libc::SIGKILL));
    }
    let until = Instant::now() + within;
    // first the others, then the container's first process, which waits for them
    for pidfd in listed.iter().chain(known.iter().rev().copied()) {
        let left = until.saturating_duration_since(Instant::now());
        reap(pidfd.as_fd());
        if !ended_blocking(pidfd.as_fd(), left.min(Duration::from_millis(100))) {
            known.iter().for_each(|fd| reap(fd.as_fd()));
        }
    }
    let left = until.saturating_duration_since(Instant::now());
    let removed = cgroup.is_none_or(|c| c.remove(left).is_ok());
    known.iter().fold(removed, |all, pidfd| {
        let left = until.saturating_duration_since(Instant::now());
        all & ended_blocking(pidfd.as_fd(), left)
    })
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

/// After a launch that failed: nothing of it may be left. Blocks for some seconds at most.
///
/// # Errors
/// `EBUSY`: a process cannot be killed; everything is left as it is, to be tried again.
pub(super) fn clean(
    run_dir: &Path,
    shim: Option<&OwnedFd>,
    cgroup: Option<&Cgroup>,
) -> io::Result<()> {
    if let Some(shim) = shim {
        drop(sys::signal::send_to(shim, libc::SIGKILL));
        ended_blocking(shim.as_fd(), CLEANING);
    }
    let locked = Locked::take(run_dir)?;
    let state = locked.as_ref().and_then(Locked::state);
    let first = state.and_then(|s| Handle::find(s.pid, s.pid_start_time).ok()?);
    if !end(first.iter(), cgroup, CLEANING) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    locked.map_or(Ok(()), Locked::remove)
}

/// Removes a run directory that was never given its name.
pub(super) fn unstage(staged: &Path) -> io::Result<()> {
    match std::fs::remove_file(staged.join(STAGED)) {
        // ended between the directory and its file
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    std::fs::remove_dir(staged)
}

/// Removes what launches left that ended before their run directory had its name. For an engine's
/// start, before anything is launched: the engine makes them itself, and there is one at a time.
///
/// # Errors
/// The directory cannot be read.
pub fn discard_staged(shims: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(shims)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(NEW.as_bytes())
        {
            unstage(&entry.path())?;
        }
    }
    Ok(())
}

/// At the engine's start: cleans up after shims that died together with the engine, in all run
/// directories of `shims` but those of the containers `known`, which are adopted one by one. Gives
/// the names of directories whose shim lives: containers that no record knows. Blocks.
///
/// # Errors
/// The directory cannot be read.
pub fn sweep_run_dirs(shims: &Path, known: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir(shims)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        // a launch that is under way has not named its directory yet
        if name.starts_with(NEW) || known(&name) {
            continue;
        }
        let Ok(state) = State::read(&path) else {
            drop(clean(&path, None, None));
            continue;
        };
        match Handle::find(state.shim_pid, state.shim_start_time) {
            Ok(None) => drop(bury(&path, &state, &[])),
            _ => strangers.push(name),
        }
    }
    Ok(strangers)
}
