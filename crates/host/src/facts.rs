//! The value that planning reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::probe::{ACTIONS, Answers, Probe};

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
    /// Without `volatile`, the end of an overlay syncs the whole file system of its upper
    /// directory: worth it for what must last, not for `--rm`.
    pub volatile: bool,
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
        let cgroups = crate::cgroups::read()?;
        let answers = crate::probe::run(data_root, &cgroups, deadline)?;
        Ok(Self {
            probe_version: PROBE_VERSION,
            boot_id: crate::process::line("/proc/sys/kernel/random/boot_id")?,
            kernel_release: crate::process::line("/proc/sys/kernel/osrelease")?,
            data_root: data_root.to_owned(),
            cgroup: cgroup(cgroups, &answers),
            overlay: overlay(&answers),
            mount: mount(&answers),
            namespaces: namespaces(&answers),
            seccomp: seccomp(&answers),
            lsm: LsmFacts {
                landlock: answers.value(Probe::Landlock).filter(|v| *v > 0),
                ..crate::process::lsm()
            },
            syscalls: syscalls(&answers),
            process: ProcessFacts {
                can_lower_oom_score: answers.yes(Probe::LowerOomScore),
                ..crate::process::read()?
            },
            findings: answers.findings(),
        })
    }

    /// Facts for a process that lives for one start (an OCI runtime's `create`), where probing would
    /// cost more than the start itself. Calls that every start is made of are taken as there: the
    /// step that finds one missing names it. What a plan would silently do without is asked for:
    /// recursive mount attributes, and (when `labels`) the security modules.
    #[must_use]
    pub fn brief(mut cgroup: CgroupFacts, labels: bool) -> Self {
        let setattr = sys::mount::has_setattr();
        for h in &mut cgroup.hierarchies {
            h.writable = true;
        }
        Self {
            probe_version: PROBE_VERSION,
            boot_id: String::new(),
            kernel_release: String::new(),
            data_root: PathBuf::new(),
            cgroup: CgroupFacts {
                clone_into_cgroup: true,
                kill: true,
                ..cgroup
            },
            overlay: OverlayFacts::default(),
            mount: MountFacts {
                fsopen: true,
                move_mount: true,
                open_tree: true,
                mount_setattr: setattr,
                recursive_readonly: setattr,
                idmapped: setattr,
                tmpfs: true,
                devpts: true,
                mqueue: true,
                statmount: false,
            },
            namespaces: NamespaceFacts::default(),
            seccomp: SeccompFacts::default(),
            lsm: if labels {
                crate::process::lsm()
            } else {
                LsmFacts::default()
            },
            syscalls: SyscallFacts {
                clone3: true,
                pidfd_open: true,
                pidfd_send_signal: true,
                pidfd_wait: true,
                openat2: true,
                ..SyscallFacts::default()
            },
            process: crate::process::brief(),
            findings: Vec::new(),
        }
    }

    /// The facts of this boot from the cache in the exec root, else by probing (and then cached).
    /// A cache counts for the same boot, program, data root and process (its capabilities, limits
    /// and own cgroups) only: a service that lost a capability probes again.
    ///
    /// # Errors
    /// As [`Facts::probe`]. A cache that can't be read or written is ignored.
    pub fn load_or_probe(
        data_root: &Path,
        exec_root: &Path,
        deadline: Duration,
    ) -> Result<Self, ProbeError> {
        let path = exec_root.join("facts.json");
        let identity = Identity::read(data_root)?;
        let cached = std::fs::read(&path)
            .ok()
            .and_then(|b| serde_json::from_slice::<Cache>(&b).ok())
            .filter(|c| c.identity == identity);
        if let Some(cache) = cached {
            return Ok(cache.facts);
        }
        let facts = Self::probe(data_root, deadline)?;
        // A probe that timed out may do better the next time.
        if facts.findings.iter().all(|f| !f.timed_out) {
            let cache = Cache { identity, facts };
            let _uncached = save(&path, &cache);
            return Ok(cache.facts);
        }
        Ok(facts)
    }

    /// What a probe answered that wasn't a yes, by its name.
    #[must_use]
    pub fn finding(&self, probe: &str) -> Option<&Finding> {
        self.findings.iter().find(|f| f.probe == probe)
    }
}

/// What must be the same for a cache to count.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    probe_version: u32,
    boot_id: String,
    data_root: PathBuf,
    /// Device and inode of the data root: another file system may have been mounted there.
    data_root_node: (u64, u64),
    process: ProcessFacts,
    /// The text of /proc/self/cgroup.
    cgroups: String,
    seccomp: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cache {
    identity: Identity,
    facts: Facts,
}

impl Identity {
    fn read(data_root: &Path) -> Result<Self, ProbeError> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(data_root).map_err(|source| ProbeError::Stage {
            path: data_root.to_owned(),
            source,
        })?;
        let status = crate::process::text("/proc/self/status")?;
        let seccomp = status.lines().filter(|l| l.starts_with("Seccomp"));
        Ok(Self {
            probe_version: PROBE_VERSION,
            boot_id: crate::process::line("/proc/sys/kernel/random/boot_id")?,
            data_root: data_root.to_owned(),
            data_root_node: (meta.dev(), meta.ino()),
            process: crate::process::read()?,
            cgroups: crate::process::text("/proc/self/cgroup")?,
            seccomp: seccomp.collect::<Vec<_>>().join("\n"),
        })
    }
}

/// Atomic, not durable: the exec root doesn't outlive the boot.
fn save(path: &Path, cache: &Cache) -> io::Result<()> {
    let staged = path.with_extension(format!("json.{}", std::process::id()));
    std::fs::write(&staged, serde_json::to_vec(cache)?)?;
    std::fs::rename(&staged, path)
}

fn cgroup(read: CgroupFacts, answers: &Answers) -> CgroupFacts {
    let files: BTreeSet<String> = answers.files.iter().map(|f| (*f).to_owned()).collect();
    let has = |names: &[&str]| names.iter().any(|n| files.contains(*n));
    let hierarchies = read
        .hierarchies
        .into_iter()
        .zip(&answers.writable)
        .map(|(h, writable)| CgroupHierarchy {
            writable: *writable,
            ..h
        })
        .collect();
    CgroupFacts {
        hierarchies,
        clone_into_cgroup: answers.yes(Probe::CgroupCloneInto),
        kill: has(&["cgroup.kill"]),
        swap_accounting: has(&["memory.memsw.limit_in_bytes", "memory.swap.max"]),
        pids: has(&["pids.max"]),
        cpu_quota: has(&["cpu.cfs_quota_us", "cpu.max"]),
        files,
        ..read
    }
}

fn overlay(answers: &Answers) -> OverlayFacts {
    const NEEDED: [(Probe, &str); 7] = [
        (Probe::OverlayMount, "an overlay can't be mounted"),
        (
            Probe::OverlayMultipleLower,
            "only one lower directory is accepted",
        ),
        (
            Probe::DType,
            "the file system doesn't report the type of directory entries (XFS made with ftype=0?)",
        ),
        (Probe::OverlayCopyUp, "a lower file can't be changed"),
        (Probe::OverlayWhiteout, "a removal isn't recorded"),
        (
            Probe::OverlayOpaque,
            "a directory made again shows what was in it",
        ),
        (Probe::OverlayRename, "a rename isn't recorded"),
    ];
    let missing = NEEDED.iter().find(|(probe, _)| !answers.yes(*probe));
    let parameter = |name: &str| {
        std::fs::read(format!("/sys/module/overlay/parameters/{name}"))
            .is_ok_and(|b| b.first() == Some(&b'Y'))
    };
    OverlayFacts {
        works: missing.is_none(),
        why_not: missing.map(|(probe, what)| format!("{what}: {}", answers.reason(*probe))),
        lowerdir_plus: answers.yes(Probe::OverlayLowerdirPlus),
        lower_by_descriptor: answers.yes(Probe::OverlayLowerFd),
        multiple_lower: answers.yes(Probe::OverlayMultipleLower),
        volatile: answers.yes(Probe::OverlayVolatile),
        userxattr: answers.yes(Probe::OverlayUserxattr),
        d_type: answers.yes(Probe::DType),
        whiteout: answers.yes(Probe::OverlayWhiteout),
        rename_whiteout: answers.yes(Probe::RenameWhiteout),
        trusted_xattr: answers.yes(Probe::TrustedXattr),
        in_user_namespace: answers.yes(Probe::OverlayInUserNamespace),
        redirect_dir_default: parameter("redirect_dir"),
        metacopy_default: parameter("metacopy"),
    }
}

fn mount(answers: &Answers) -> MountFacts {
    MountFacts {
        fsopen: answers.yes(Probe::FsOpen),
        move_mount: answers.yes(Probe::MoveMount),
        open_tree: answers.yes(Probe::OpenTree),
        mount_setattr: answers.yes(Probe::SetAttr),
        recursive_readonly: answers.yes(Probe::RecursiveReadOnly),
        idmapped: answers.yes(Probe::IdMapped),
        statmount: answers.yes(Probe::Statmount),
        tmpfs: answers.yes(Probe::Tmpfs),
        devpts: answers.yes(Probe::Devpts),
        mqueue: answers.yes(Probe::Mqueue),
    }
}

fn namespaces(answers: &Answers) -> NamespaceFacts {
    NamespaceFacts {
        mount: answers.yes(Probe::NsMount),
        pid: answers.yes(Probe::NsPid),
        ipc: answers.yes(Probe::NsIpc),
        uts: answers.yes(Probe::NsUts),
        net: answers.yes(Probe::NsNet),
        user: answers.yes(Probe::NsUser),
        user_map: answers.yes(Probe::NsUserMap),
        cgroup: answers.yes(Probe::NsCgroup),
        time: answers.yes(Probe::NsTime),
    }
}

fn seccomp(answers: &Answers) -> SeccompFacts {
    let actions = ACTIONS
        .iter()
        .zip(sys::throwaway::SECCOMP_ACTIONS)
        .filter(|(probe, _)| answers.yes(**probe))
        .map(|(_, (name, _))| name.to_owned())
        .collect();
    SeccompFacts {
        filter: answers.yes(Probe::SeccompFilter),
        actions,
        spec_allow: answers.yes(Probe::SeccompSpecAllow),
        log: answers.yes(Probe::SeccompLog),
        new_listener: answers.yes(Probe::SeccompListener),
    }
}

fn syscalls(answers: &Answers) -> SyscallFacts {
    SyscallFacts {
        clone3: answers.yes(Probe::Clone3),
        pidfd_open: answers.yes(Probe::PidfdOpen),
        pidfd_send_signal: answers.yes(Probe::PidfdSendSignal),
        pidfd_wait: answers.yes(Probe::PidfdWait),
        close_range: answers.yes(Probe::CloseRange),
        close_range_cloexec: answers.yes(Probe::CloseRangeCloexec),
        openat2: answers.yes(Probe::Openat2),
        execveat: answers.yes(Probe::Execveat),
        memfd_sealed: answers.yes(Probe::MemfdSealed),
        bpf_cgroup_device: answers.yes(Probe::BpfCgroupDevice),
        io_uring: answers.yes(Probe::IoUring),
        keyctl: answers.yes(Probe::Keyctl),
    }
}
