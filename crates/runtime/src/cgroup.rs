//! Control groups, version 1, hybrid and 2.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

/// Where a container's cgroup lies: one directory in each hierarchy used.
///
/// ```text
/// <mount>/<own cgroup>/plimsoll-<hash8 of the exec root>/<container id>
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cgroup {
    pub(crate) dirs: Vec<Dir>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Dir {
    pub(crate) v2: bool,
    pub(crate) controllers: Vec<String>,
    pub(crate) path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} can't be limited on this host: no {controller} controller")]
    NoController {
        what: &'static str,
        controller: &'static str,
    },
    #[error("{0} did not become empty: a process in it can't be killed")]
    Busy(PathBuf),
}

/// A reading of a cgroup's counters. What a host doesn't count is `None` or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    pub cpu_percpu_ns: Vec<u64>,
    pub throttled_periods: u64,
    pub throttled_total_periods: u64,
    pub throttled_ns: u64,
    pub memory_usage: u64,
    pub memory_max_usage: Option<u64>,
    /// `None`: unlimited.
    pub memory_limit: Option<u64>,
    pub memory_failcnt: u64,
    /// `memory.stat` as the kernel has it.
    pub memory_stat: Vec<(String, u64)>,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    pub oom_kills: u64,
    /// (major, minor, operation, bytes).
    pub io_bytes: Vec<(u64, u64, String, u64)>,
    pub io_ops: Vec<(u64, u64, String, u64)>,
}

/// A descriptor that becomes readable (EPOLLIN on v1's eventfd, EPOLLPRI on v2's memory.events)
/// when the container runs out of memory.
#[derive(Debug)]
pub struct OomWatch {
    /// Register with EPOLLIN | EPOLLPRI.
    pub fd: OwnedFd,
}

impl OomWatch {
    /// Consumes the event; the number of processes killed for want of memory so far.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn read(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }
}

/// `plimsoll-<first 8 hex digits of SHA-256 of the exec root>`: the parent of an instance's cgroups.
#[must_use]
pub fn instance_name(exec_root: &Path) -> String {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(exec_root.as_os_str().as_bytes());
    format!("plimsoll-{}", hex::encode(&hash[..4]))
}

impl Cgroup {
    /// Where the cgroup of `id` is or will be. `resources` decides which hierarchies beyond those
    /// every container has (memory, pids, cpuacct, devices, freezer) are used. `parent` replaces
    /// the own cgroup of this process (`--cgroup-parent`).
    #[must_use]
    pub fn of(
        facts: &host::CgroupFacts,
        instance: &str,
        id: &str,
        resources: Option<&LinuxResources>,
        parent: Option<&Path>,
    ) -> Self {
        let _ = (facts, instance, id, resources, parent);
        Self { dirs: Vec::new() }
    }

    /// The directories, for records and messages.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|d| d.path.as_path())
    }

    /// Stops every process of the cgroup; returns when all are stopped.
    ///
    /// # Errors
    /// Also when they aren't within the deadline.
    pub fn freeze(&self, deadline: std::time::Duration) -> Result<(), CgroupError> {
        let _ = deadline;
        Ok(())
    }

    /// # Errors
    /// As writing the freezer's state.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    /// SIGKILLs every process, new ones included, frozen ones too. Doesn't wait for their end.
    ///
    /// # Errors
    /// As the kernel's files.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Process ids in the cgroup and below it, as seen by the caller.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(Vec::new())
    }

    /// Changes limits of a running container; hierarchies not used yet are joined. Returns what
    /// this host can't limit.
    ///
    /// # Errors
    /// A value the kernel refuses, with the file.
    pub fn update(
        &self,
        facts: &host::CgroupFacts,
        resources: &LinuxResources,
    ) -> Result<Vec<String>, CgroupError> {
        let _ = (facts, resources);
        Ok(Vec::new())
    }

    /// # Errors
    /// When the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats::default())
    }

    /// `None` where no memory controller is there.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, CgroupError> {
        Ok(None)
    }

    /// Kills what is left and removes the directories, also nested ones; absent ones are fine.
    ///
    /// # Errors
    /// When processes don't go within the deadline.
    pub fn remove(&self, deadline: std::time::Duration) -> Result<(), CgroupError> {
        let _ = deadline;
        Ok(())
    }

    /// Cgroups of an instance that no id in `known` owns: what a crash left behind.
    #[must_use]
    pub fn strays(facts: &host::CgroupFacts, instance: &str, known: &[&str]) -> Vec<Self> {
        let _ = (facts, instance, known);
        Vec::new()
    }
}
