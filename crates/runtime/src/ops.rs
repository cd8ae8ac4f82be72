//! The operations a container's first process carries out, in the order of the plan.

use std::ffi::CStr;

use crate::wire::{List, Setting, operations, record};

/// "PLMP", little-endian.
pub(crate) const MAGIC: u32 = 0x504d_4c50;
/// Raised with every change of the encoding. Plans live only as long as a start, in one process
/// tree of one version, so older formats aren't read.
pub(crate) const FORMAT: u32 = 2;

/// What the mount's target must be, or is made as, when the image lacks it.
pub(crate) const KIND_DIR: u32 = 0;
/// As the source is.
pub(crate) const KIND_SOURCE: u32 = 2;

/// Where a mount may go.
pub(crate) const TARGET_ANY: u32 = 0;
/// The last component and those before it must not be links: procfs and sysfs.
pub(crate) const TARGET_NO_LINKS: u32 = 1;
/// May lie on procfs (the list of harmless files); for any other mount that is refused.
pub(crate) const TARGET_PROC_OK: u32 = 2;

record! {
    /// Attributes of a mount: of the top alone, and of the whole tree.
    Attrs {
        set: u64,
        clear: u64,
        propagation: u64,
        tree_set: u64,
        tree_clear: u64,
        tree_propagation: u64,
    }
}

record! {
    /// One directory of the container's cgroup.
    CgroupDir {
        step: u32,
        v2: bool,
        controllers: &'a CStr,
        path: &'a CStr,
        /// v1 cpuset: cpus and mems are copied down before anyone can enter.
        cpuset: bool,
    }
}

record! {
    /// One value written into the cgroup.
    CgroupWrite {
        step: u32,
        path: &'a CStr,
        value: &'a CStr,
        /// A refusal fails the start; else the limit was only a default.
        required: bool,
    }
}

record! {
    /// A tree of the host whose files belong to other ids in the container.
    MappedTree {
        step: u32,
        source: &'a CStr,
        recursive: bool,
        map_recursive: bool,
        /// The namespace whose maps count; else one is made with these.
        namespace: Option<&'a CStr>,
        uid_map: &'a CStr,
        gid_map: &'a CStr,
    }
}

record! {
    /// A link of the host that goes into the container.
    NetDevice {
        name: &'a CStr,
        rename: Option<&'a CStr>,
    }
}

record! {
    /// What the parent reads; operations and strings of the program follow.
    Header {
        magic: u32,
        format: u32,
        clone_flags: u64,
        terminal: bool,
        /// Parent: setns to the target's pid namespace before clone.
        joins_target: bool,
        /// Parent: setns to this pid namespace before clone.
        pid_namespace: Option<&'a CStr>,
        uid_map: Option<&'a CStr>,
        gid_map: Option<&'a CStr>,
        map_step: u32,
        /// `MAP_*`: who may write the maps.
        map_by: u32,
        /// The child asks for its maps when it has made its user namespace itself.
        maps_asked: bool,
        /// Host mounts whose ids the parent maps, since only the file system's owner may.
        mapped_trees: List<'a, MappedTree<'a>>,
        /// Host name, name in the container: links the child asks for.
        net_devices: List<'a, NetDevice<'a>>,
        /// Where a seccomp agent listens.
        agent: Option<&'a CStr>,
        /// What the agent is told: these parts with the process' id between them.
        agent_told: List<'a, &'a [u8]>,
        agent_step: u32,
        /// The unit of systemd's that the directories belong to, as JSON; else empty.
        scope: &'a [u8],
        /// What systemd is asked for, and where in it the pid goes.
        scope_request: &'a [u8],
        scope_pid_at: u32,
        scope_step: u32,
        cgroup_dirs: List<'a, CgroupDir<'a>>,
        cgroup_writes: List<'a, CgroupWrite<'a>>,
        /// v2: eBPF instructions deciding on devices.
        device_program: &'a [u8],
        device_step: u32,
        /// v2 directory the child is born in; v1 directories are entered by operations.
        born_in: Option<&'a CStr>,
        ops: &'a [u8],
        argv: List<'a, &'a CStr>,
        envp: List<'a, &'a CStr>,
        /// Paths to try, in order.
        candidates: List<'a, &'a CStr>,
        exec_step: u32,
        die_with_parent: bool,
    }
}

operations! {
    /// One step of the child.
    Op {
        /// Writes 0 to a v1 `tasks` file: moving oneself waits for no lock of the thread group.
        1 EnterCgroup { tasks: &'a CStr },
        2 OomScore { value: &'a CStr, required: bool },
        /// Opens /proc/thread-self/attr/exec (or apparmor's) while the host's procfs is in reach.
        3 OpenLabel { file: &'a CStr },
        4 SetLabel { value: &'a CStr },
        5 JoinPath { kind: u32, path: &'a CStr },
        6 JoinPassed { kind: u32, index: u32 },
        /// The namespaces of the container an exec goes into.
        7 JoinTarget { kinds: u32 },
        8 Unshare { kinds: u32 },
        /// The parent has written the id maps; become their root.
        9 AwaitMaps {},
        10 TimeOffsets { text: &'a CStr },
        11 LoopbackUp {},
        12 Hostname { name: &'a [u8] },
        13 Domainname { name: &'a [u8] },
        14 RootPassed {},
        15 RootPath { path: &'a CStr, recursive: bool },
        /// "/" stops sending mounts to the host, then the root is put on top of it.
        16 AttachRoot { propagation: u64 },
        /// Clones a bind source that must stay a peer of the host's mount, before "/" changes.
        17 OpenShared { source: &'a CStr, recursive: bool, slot: u32 },
        18 MountNew {
            kind: &'a CStr,
            settings: List<'a, Setting<'a>>,
            attrs: u64,
            propagation: u64,
            target: &'a CStr,
            rule: u32,
            keep: u32,
        },
        19 MountBind {
            source: &'a CStr,
            recursive: bool,
            slot: u32,
            attrs: Attrs<'a>,
            target: &'a CStr,
            target_kind: u32,
            rule: u32,
        },
        /// In the tmpfs kept as /dev.
        20 DevNode { name: &'a CStr, mode: u32, device: u64, uid: u32, gid: u32, host: Option<&'a CStr> },
        /// A device elsewhere.
        21 Node { path: &'a CStr, mode: u32, device: u64, uid: u32, gid: u32, host: Option<&'a CStr> },
        22 DevLink { name: &'a CStr, target: &'a CStr },
        23 MakeDir { path: &'a CStr },
        24 Mask { path: &'a CStr },
        25 ReadonlyPath { path: &'a CStr },
        26 Sysctl { file: &'a CStr, value: &'a [u8] },
        27 Terminal { rows: u32, columns: u32, uid: u32, console: bool },
        28 Stdio { owner: u32 },
        29 RootAttrs { set: u64, propagation: u64 },
        30 PivotRoot {},
        31 NewSession {},
        32 Keyring {},
        33 Rlimit { resource: u32, soft: u64, hard: u64, required: bool },
        34 Cwd { path: &'a CStr },
        35 Umask { mask: u32 },
        36 Bounding { keep: u64 },
        37 Ids { uid: u32, gid: u32, groups: List<'a, u32> },
        38 Capabilities { effective: u64, permitted: u64, inheritable: u64, ambient: u64 },
        39 NoNewPrivileges {},
        40 Seccomp { program: &'a [u8], flags: u32 },
        41 Personality { persona: u64 },
        42 IoPriority { value: i32 },
        43 CloseRest { first: u32 },
        44 DieWithParent {},
        45 ForkInit {},
        46 RootIsSlash {},
        /// Of a mount whose inside had to be made first.
        47 MakeReadonly { target: &'a CStr },
        /// Changes what is mounted: the file system's own options first, then the mount's.
        48 Remount { target: &'a CStr, settings: List<'a, Setting<'a>>, attrs: Attrs<'a> },
        49 MountAttrs { target: &'a CStr, attrs: Attrs<'a> },
        /// A tree that the parent has mapped, into a slot.
        50 TakeMapped { index: u32, slot: u32 },
        /// `--no-pivot`, and a mount namespace that is shared with others.
        51 Chroot {},
        /// The root on top of its own directory, in a mount namespace that belongs to others too.
        52 AttachRootShared { path: &'a CStr },
        53 BecomeRoot { groups: bool },
        /// Goes on in a sibling, which is the first process of the namespaces it is made with.
        54 Rebirth { flags: u64 },
        /// Asks the parent for the maps of the user namespace just made.
        55 RequestMaps {},
        /// Asks the parent to move the host's links into this network namespace.
        56 RequestDevices {},
        57 Scheduler { policy: u32, flags: u64, nice: i32, priority: u32, runtime: u64, deadline: u64, period: u64 },
        58 Affinity { mask: &'a [u8] },
        59 MemoryPolicy { mode: i32, nodes: &'a [u8] },
        /// A filter whose notifications go to the agent.
        60 SeccompAgent { program: &'a [u8], flags: u32 },
        /// Fails when the namespace at `path` is the one we are in: what follows would change the host.
        61 NotHosts { kind: u32, path: &'a CStr },
        /// Like [`Op::AwaitMaps`], where the new root may not choose its groups.
        62 AwaitOwnMap {},
        /// As [`Op::Ids`], without the right to set groups.
        63 IdsAlone { uid: u32, gid: u32 },
        /// The image's own /dev gets the default nodes: the spec mounts none there.
        64 OpenDev {},
        /// A mount that the caller has made and passed, into a slot.
        65 TakePassed { index: u32, slot: u32 },
        /// Says that the container is ready for hooks, or complete, and waits for the parent's word.
        70 Pause { stage: u32 },
        /// Waits for `start` on the listening socket passed with this index; it is who hears of the
        /// execve from then on.
        71 AwaitStart { passed: u32 },
        /// [`Op::AttachRoot`] at a path of the host, where hooks look for it.
        72 AttachRootAt { path: &'a CStr, propagation: u64 },
        /// Fails when the program is in none of the directories, as execve later would.
        73 FindProgram { candidates: List<'a, &'a CStr> },
    }
}

/// `keep` of [`Op::MountNew`]: the mount's descriptor is used by later steps.
pub(crate) const KEEP_NOTHING: u32 = 0;
pub(crate) const KEEP_DEV: u32 = 1;
pub(crate) const KEEP_PROC: u32 = 2;
/// What the image has at the target is copied into the new mount.
pub(crate) const COPY_UP: u32 = 4;
/// Where the kernel refuses a new mount to a user namespace, the host's is bound.
pub(crate) const OR_BIND: u32 = 8;

/// `map_by` of the header: the privileged parent writes any map.
pub(crate) const MAP_DIRECT: u32 = 0;
/// Unprivileged: its own id only, and never again setgroups.
pub(crate) const MAP_SELF: u32 = 1;
/// Unprivileged, with ranges lent to the user: newuidmap, newgidmap.
pub(crate) const MAP_HELPERS: u32 = 2;

/// `stage` of [`Op::Pause`]: mounts are made, the host's root is still there.
pub(crate) const STAGE_HOOKS: u32 = 0;
/// All that can be done before the program is wanted is done.
pub(crate) const STAGE_READY: u32 = 1;

/// `slot` of a bind: not opened before.
pub(crate) const NO_SLOT: u32 = u32::MAX;
/// Most sources kept open for [`Op::OpenShared`].
pub(crate) const SLOTS: usize = 64;
