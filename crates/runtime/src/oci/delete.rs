//! `kill`, `delete`, `pause`, `resume`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Container, OciError, Runtime, Status};
use crate::cgroup::Cgroup;

/// How long killed processes may take to go: one that waits for a disk may need it.
const GONE: Duration = Duration::from_secs(10);
const FROZEN: Duration = Duration::from_secs(10);

impl Runtime {
    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), OciError> {
        let container = self.container(id)?;
        if all {
            return container.signal_all(signal);
        }
        let pidfd = container.pidfd().ok_or(OciError::NotRunning)?;
        match sys::signal::send_to(&pidfd, signal) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(OciError::NotRunning),
            other => other.map_err(super::error::io("signal", &container.directory.path))?,
        }
        if signal == libc::SIGKILL
            && let Some(cgroup) = container.cgroup().filter(|c| c.is_frozen())
        {
            // version 1 keeps what is frozen from dying
            cgroup.thaw()?;
        }
        Ok(())
    }

    /// Removes a container that has stopped or was never started; with `force`, whatever it is.
    ///
    /// # Errors
    /// When it still runs, or its processes don't go.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), OciError> {
        let container = match self.container(id) {
            Err(OciError::NotFound) if force => return self.forget(id),
            other => other?,
        };
        let status = container.status();
        let may_end = force || matches!(status, Status::Stopped | Status::Created);
        if !may_end {
            return Err(OciError::NotStopped {
                id: id.to_owned(),
                status,
            });
        }
        container.kill_processes()?;
        self.remove(&container)
    }

    /// The end of a container whose first process has ended: cgroups, hooks, directory.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove(&self, container: &Container) -> Result<(), OciError> {
        container.end()?;
        if let Ok(spec) = container.spec() {
            self.after_stop(container, &spec);
        }
        container.directory.remove()
    }

    /// Stops all processes where they are.
    ///
    /// # Errors
    /// When it isn't running, or they don't stop in time.
    pub fn pause(&self, id: &str) -> Result<(), OciError> {
        let container = self.container(id)?;
        match container.status() {
            Status::Created | Status::Running => {}
            _ => return Err(OciError::NotPausable),
        }
        container.freezer()?.freeze(FROZEN)?;
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When it isn't paused.
    pub fn resume(&self, id: &str) -> Result<(), OciError> {
        let container = self.container(id)?;
        if container.status() != Status::Paused {
            return Err(OciError::NotPaused);
        }
        container.freezer()?.thaw()?;
        Ok(())
    }
}

impl Container {
    pub(super) fn freezer(&self) -> Result<&Cgroup, OciError> {
        self.cgroup().ok_or_else(|| OciError::Refused {
            what: "pausing, limiting or measuring a container that has no cgroup".to_owned(),
            why: "give it one when it is made: as root, or in a cgroup that is delegated to this \
                  user (--systemd-cgroup)"
                .to_owned(),
        })
    }

    fn signal_all(&self, signal: i32) -> Result<(), OciError> {
        let pids = self.cgroup().map(Cgroup::pids).transpose()?;
        let mut pids = pids.unwrap_or_default();
        if pids.is_empty() {
            pids.extend(self.init.filter(|i| i.is_alive()).map(|i| i.pid));
        }
        if pids.is_empty() {
            return Err(OciError::NotRunning);
        }
        if signal == libc::SIGKILL
            && let Some(cgroup) = self.cgroup()
        {
            return Ok(cgroup.kill_all()?);
        }
        for pid in pids {
            // one that has ended meanwhile has no need of it
            let _gone = sys::process::kill(pid, signal);
        }
        Ok(())
    }

    /// SIGKILLs everything and waits for the first process' end.
    pub(super) fn kill_processes(&self) -> Result<(), OciError> {
        let pidfd = self.pidfd();
        if let Some(cgroup) = self.cgroup() {
            match cgroup.kill_all() {
                Err(crate::cgroup::CgroupError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        let Some(pidfd) = pidfd else { return Ok(()) };
        // also where its cgroup is gone or was never made
        let _ended_already = sys::signal::send_to(&pidfd, libc::SIGKILL);
        if ends_within(pidfd.as_fd(), GONE) {
            Ok(())
        } else {
            Err(OciError::Unkillable(self.id().to_owned()))
        }
    }

    /// Kills what is left and removes the cgroups.
    pub(super) fn end(&self) -> Result<(), OciError> {
        if let Some(cgroup) = self.cgroup() {
            cgroup.remove(GONE)?;
        }
        Ok(())
    }
}

/// A pidfd is readable once its process has ended.
pub(super) fn ends_within(pidfd: std::os::fd::BorrowedFd<'_>, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
