//! What readers see, and the requests and answers of the public calls. Nothing here does I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{ContainerRecord, Phase, Resources, RestartPolicy};

/// Where an instance lives and what it defaults to.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// Of the instance, shown by `info`.
    pub labels: Vec<String>,
    /// Defaults of containers that name no log driver or option.
    pub log: crate::model::LogSpec,
    /// Seconds between the stop signal and SIGKILL where neither the container nor the call says.
    pub stop_timeout: i64,

    pub facts: Arc<host::Facts>,
    /// Program and leading arguments that become the spawner; absent: this binary, `spawner`.
    pub spawner: Option<PathBuf>,
    pub debug: bool,
    pub cgroup_driver: CgroupDriver,
    pub networks: crate::networks::NetworkSettings,
    pub registries: ::registry::Config,
    /// Directories with files of the Container Device Interface, the later first in line.
    pub cdi_dirs: Vec<PathBuf>,
}

/// Who makes the containers' cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The engine.
    #[default]
    Cgroupfs,
    /// systemd, as transient scopes.
    Systemd,
}

/// A network that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    pub name: String,
    /// `bridge`, `macvlan` or `ipvlan`; empty: `bridge`.
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub ipv6: bool,
    /// Of a family that is not named, one is chosen.
    pub subnets: Vec<SubnetSpec>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetSpec {
    pub subnet: net::Prefix,
    /// What is given to containers that do not ask for an address.
    pub range: Option<net::Prefix>,
    pub gateway: Option<std::net::IpAddr>,
    /// Given to no container.
    pub auxiliary: BTreeMap<String, std::net::IpAddr>,
}

/// All that is visible, at one instant. Cheap to take and never waits.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Newest first, as `ps` shows them.
    pub containers: Vec<Arc<ContainerView>>,
    /// Newest first.
    pub images: Arc<Vec<ImageView>>,
    /// By name.
    pub volumes: Arc<Vec<VolumeView>>,
    /// By name.
    pub networks: Arc<Vec<crate::networks::NetworkView>>,
}

/// A container as readers see it.
#[derive(Debug, Clone)]
pub struct ContainerView {
    pub record: Arc<ContainerRecord>,
    /// Its phase now; the record's is the last durable one.
    pub phase: Phase,
    /// 0 where it doesn't run.
    pub pid: i32,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Why it could not start, ended against its will, or is quarantined.
    pub error: String,
    pub restart_count: u32,
    /// Ids of its exec instances that are known still.
    pub exec_ids: Vec<String>,
    /// Absent where nothing is checked.
    pub health: Option<Arc<shim::Health>>,
    pub paths: ContainerPaths,
    /// The image's name as it was given at create, in its familiar form.
    pub image_name: String,
    /// Its place in its networks, where it runs.
    pub membership: Option<Arc<crate::networks::Membership>>,
    /// What a front door has made of this view for its lists, made once and gone with it.
    pub rendered: std::sync::OnceLock<[bytes::Bytes; 2]>,
}

impl ContainerView {
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Has a process: running, paused or being stopped.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopping) && self.pid != 0
    }
}

/// Host paths that `inspect` shows.
#[derive(Debug, Clone, Default)]
pub struct ContainerPaths {
    pub dir: PathBuf,
    /// Absent with the log driver `none`.
    pub log: Option<PathBuf>,
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    /// For inspect's GraphDriver: lower (joined by `:`), upper, work. Merged is never mounted.
    pub upper: PathBuf,
    pub work: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Created {
    pub id: String,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it where it runs.
    pub force: bool,
    /// Its anonymous volumes too (to the trash).
    pub volumes: bool,
}

#[derive(Debug, Clone, Default)]
pub struct UpdateRequest {
    /// Fields that are 0 or absent stay as they are.
    pub resources: Resources,
    pub restart: Option<RestartPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    #[default]
    NotRunning,
    NextExit,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    pub code: i32,
    /// Why it could not be started, where that is so.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// What comes from now on.
    pub stream: bool,
    /// What came before, first.
    pub logs: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub privileged: bool,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub detach_keys: Option<String>,
    /// Of its terminal, where its start names none.
    pub console_size: Option<ConsoleSize>,
}

#[derive(Debug, Clone)]
pub struct ExecView {
    pub id: String,
    pub container_id: String,
    pub spec: Arc<ExecSpec>,
    pub running: bool,
    /// Absent until it has ended.
    pub exit_code: Option<i32>,
    pub pid: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone)]
pub struct LogLine {
    pub stream: LogStream,
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// With its newline where it has one.
    pub bytes: Vec<u8>,
    /// What `--details` shows: labels, variables and the tag that the log's options name.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// Times are nanoseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<i128>,
    pub until: Option<i128>,
    pub tail: Option<usize>,
    pub follow: bool,
}

#[derive(Debug, Clone, Default)]
pub struct TopTable {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// One reading of a container's cgroups; counters since its start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatsSample {
    /// Nanoseconds since 1970.
    pub read: i128,
    pub cpu_total_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Of the host: all CPUs, from /proc/stat.
    pub system_cpu_ns: u64,
    pub online_cpus: u32,
    pub throttling_periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub memory_usage: u64,
    pub memory_max_usage: u64,
    /// The limit, or the host's memory where there is none.
    pub memory_limit: u64,
    pub memory_failcnt: u64,
    /// `memory.stat`.
    pub memory_stats: BTreeMap<String, u64>,
    pub pids_current: u64,
    pub pids_limit: u64,
    pub blkio: Vec<BlkioEntry>,
    /// By name in the container; none where it is in the host's network namespace.
    pub interfaces: BTreeMap<String, InterfaceCounters>,
}

/// Of one network interface, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`...
    pub op: String,
    pub bytes: u64,
    pub ios: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

/// What `X-Docker-Container-Path-Stat` carries. `mode` is a POSIX `st_mode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    pub link_target: String,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    pub no_overwrite_dir_non_dir: bool,
    pub copy_uid_gid: bool,
}

#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// `name[:tag]`; absent: an image without a name.
    pub reference: Option<String>,
    pub author: String,
    pub comment: String,
    /// Freeze it meanwhile.
    pub pause: bool,
    /// What the image runs, where it says anything; the rest is the container's.
    pub config: ImageConfig,
    /// Dockerfile instructions: `CMD ["x"]`, `ENV A=b`...
    pub changes: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    pub reference: Option<String>,
    pub message: String,
    pub changes: Vec<String>,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
}

#[derive(Debug, Clone)]
pub struct LoadedImage {
    pub id: String,
    pub names: Vec<String>,
}

/// Progress of a long call on images.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Of the layer, short; empty for the whole.
    pub id: String,
    pub status: String,
    pub current: u64,
    /// 0: unknown.
    pub total: u64,
}

/// Dropped when full: progress never slows the work.
pub type ProgressSender = tokio::sync::mpsc::Sender<Progress>;

#[derive(Debug, Clone, Default)]
pub struct ImageView {
    /// `sha256:` and hex of the config.
    pub id: String,
    /// Familiar names with their tags.
    pub names: Vec<String>,
    /// `name@sha256:...`.
    pub digests: Vec<String>,
    pub parent: String,
    /// A step of a build, which is listed only where all are asked for.
    pub intermediate: bool,
    /// RFC 3339.
    pub created: String,
    pub size: u64,
    pub architecture: String,
    pub variant: String,
    pub os: String,
    pub author: String,
    pub comment: String,
    pub config: ImageConfig,
    /// diff ids, lowest first.
    pub layers: Vec<String>,
    pub last_tagged: Option<String>,
}

/// `config` of the OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub user: String,
    pub exposed_ports: Vec<String>,
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub volumes: Vec<String>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub health: Option<crate::model::HealthSpec>,
    /// Shell form was used: entrypoint joins as one word.
    pub shell: Option<Vec<String>>,
    pub on_build: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovedImage {
    Untagged(String),
    Deleted(String),
}

#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// The image's id for the newest entry, `<missing>` otherwise.
    pub id: String,
    pub created: String,
    pub created_by: String,
    pub tags: Vec<String>,
    pub size: u64,
    pub comment: String,
}

#[derive(Debug, Clone, Default)]
pub struct VolumeView {
    pub name: String,
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Made without a name.
    pub anonymous: bool,
}

#[derive(Debug, Clone, Default)]
pub struct TrashedVolume {
    pub name: String,
    /// RFC 3339.
    pub removed: String,
    pub size: Option<u64>,
}

/// What a prune may touch: `label`, `label!`, `until`, `dangling`, `all` as the API names them.
pub type Filters = BTreeMap<String, Vec<String>>;

#[derive(Debug, Clone, Default)]
pub struct Pruned {
    pub containers: Vec<String>,
    pub volumes: Vec<String>,
    pub images: Vec<RemovedImage>,
    pub space_reclaimed: u64,
}

#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    pub layers_size: u64,
    /// (image id, size, size shared with others, containers that use it).
    pub images: Vec<ImageUsage>,
    pub containers: Vec<ContainerUsage>,
    pub volumes: Vec<VolumeUsage>,
    pub builds: Vec<BuildUsage>,
}

/// A step of the build cache, or a cache mount.
#[derive(Debug, Clone, Default)]
pub struct BuildUsage {
    pub id: String,
    pub what: String,
    /// A directory that a `RUN` mounts, not a step.
    pub is_mount: bool,
    /// RFC 3339; empty: not known.
    pub created: String,
    pub used: String,
    pub uses: u64,
    pub size: u64,
    /// Pruning it frees nothing: an image has it.
    pub shared: bool,
}

#[derive(Debug, Clone, Default)]
pub struct ImageUsage {
    pub id: String,
    pub size: u64,
    pub shared: u64,
    pub containers: u64,
}

#[derive(Debug, Clone, Default)]
pub struct ContainerUsage {
    pub id: String,
    /// Its own files.
    pub size_rw: u64,
    /// With the image's.
    pub size_root_fs: u64,
    /// Log files.
    pub size_logs: u64,
}

#[derive(Debug, Clone, Default)]
pub struct VolumeUsage {
    pub name: String,
    pub size: u64,
    /// Containers that refer to it.
    pub references: u64,
}

/// An event in Docker's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub time: i64,
    /// `container`, `image`, `volume`, `network`, `daemon`.
    pub kind: String,
    pub action: String,
    pub actor: String,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Of the instance: stable as long as its data root is.
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    /// `overlay` or `vfs`.
    pub driver: String,
    pub driver_status: Vec<(String, String)>,
    pub kernel_version: String,
    pub operating_system: String,
    pub architecture: String,
    pub ncpu: usize,
    pub mem_total: u64,
    pub hostname: String,
    pub data_root: PathBuf,
    pub labels: Vec<String>,
    /// `1` or `2`.
    pub cgroup_version: String,
    pub cgroup_driver: String,
    /// `name=seccomp,profile=builtin`...
    pub security_options: Vec<String>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    pub pids_limit: bool,
    pub oom_kill_disable: bool,
    pub warnings: Vec<String>,
    pub log_drivers: Vec<String>,
    pub debug: bool,
}

/// What a check of everything that is stored found.
#[derive(Debug, Clone, Default)]
pub struct FsckReport {
    /// Objects looked at, by kind: `blob`, `layer`, `container`, `volume`...
    pub checked: BTreeMap<String, usize>,
    /// Bytes of the layers that were verified.
    pub bytes: u64,
    pub problems: Vec<FsckProblem>,
}

#[derive(Debug, Clone)]
pub struct FsckProblem {
    pub kind: String,
    pub name: String,
    pub what: String,
    pub repaired: bool,
    /// What the user can do where it was not repaired.
    pub advice: String,
}
