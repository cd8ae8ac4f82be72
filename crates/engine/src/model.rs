//! The domain's own types: what a container is asked to be, what is recorded of it, what is seen.
//!
//! Front doors translate their wire types to these and back. Everything here that is marked
//! `Serialize` is written to disk: a field is only ever added, with `#[serde(default)]`.

use std::collections::BTreeMap;

pub use net::ipam::Pool;
pub use net::{Mac, Prefix, Protocol, Publication};
use serde::{Deserialize, Serialize};

/// What the user asked for. Never changed after create, except by rename and update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub image: String,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// `KEY=value`; the image's own are merged in at create.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub hostname: String,
    pub domainname: String,
    pub labels: BTreeMap<String, String>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    /// Seconds; the daemon's default (10) where absent; -1 waits for ever.
    pub stop_timeout: Option<i64>,
    /// Absent fields are the image's, merged in at create.
    pub health: Option<HealthSpec>,
    /// Of images that are made from images that are made of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    pub host: HostSpec,
}

/// How health is checked. Times in nanoseconds; 0: the default.
///
/// source: Docker Engine API, `HealthConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthSpec {
    /// `NONE`; `CMD` and words; `CMD-SHELL` and a line; empty: inherited.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

/// What the user asked of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSpec {
    pub mounts: Vec<MountSpec>,
    /// It is a step of a build: nothing of its image's configuration is taken, and it is removed
    /// when it is found at a start.
    #[serde(skip_serializing_if = "is_false")]
    pub of_build: bool,
    /// What the daemon's default was when it was made; its label says otherwise.
    #[serde(skip_serializing_if = "is_false")]
    pub restart_unhealthy: bool,
    /// Destination to mount options (`size=64m,mode=1777`).
    pub tmpfs: BTreeMap<String, String>,
    pub network: NetworkMode,
    pub pid_mode: NamespaceMode,
    pub ipc_mode: NamespaceMode,
    pub uts_mode: NamespaceMode,
    pub cgroupns_mode: NamespaceMode,
    pub userns_mode: NamespaceMode,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub privileged: bool,
    pub read_only: bool,
    pub init: bool,
    pub auto_remove: bool,
    pub restart: RestartPolicy,
    pub resources: Resources,
    pub devices: Vec<DeviceSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_requests: Vec<DeviceRequest>,
    pub device_cgroup_rules: Vec<String>,
    pub ulimits: Vec<Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    pub group_add: Vec<String>,
    pub oom_score_adj: i32,
    /// Bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    pub log: LogSpec,
    /// Absent: the defaults of Docker. Empty: none.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub extra_hosts: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub cgroup_parent: String,
    pub annotations: BTreeMap<String, String>,
    /// Of the terminal at start: height, width; 0: the client resizes.
    pub console_size: [u32; 2],
    /// `container[:alias]` on the default network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// `container[:ro|:rw]`: its volumes and binds are this one's too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes_from: Vec<String>,
    pub ports: Vec<PortSpec>,
    /// All exposed ports, each at any that is free.
    pub publish_all: bool,
    /// By name or id of the network.
    pub endpoints: BTreeMap<String, EndpointSpec>,
}

/// A port that is asked to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    pub container: u16,
    pub protocol: net::Protocol,
    /// Empty: all addresses of the host.
    pub host_ip: String,
    /// `8080`, a range of which one is taken (`8000-8010`), or empty: any.
    pub host_port: String,
}

impl PortSpec {
    /// `80/tcp`, as exposed ports are written.
    #[must_use]
    pub fn exposed(text: &str) -> Option<Self> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        Some(Self {
            container: port.parse().ok().filter(|p| *p != 0)?,
            protocol: match protocol {
                "tcp" => net::Protocol::Tcp,
                "udp" => net::Protocol::Udp,
                "sctp" => net::Protocol::Sctp,
                _ => return None,
            },
            host_ip: String::new(),
            host_port: String::new(),
        })
    }

    /// The first and the last that will do; 0: any.
    pub(crate) fn host_range(&self) -> Result<(u16, u16), crate::Error> {
        let wrong = || crate::Error::invalid(format!("invalid hostPort: {}", self.host_port));
        let text = &self.host_port;
        if text.is_empty() {
            return Ok((0, 0));
        }
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let number = |t: &str| t.trim().parse::<u16>().map_err(|_| wrong());
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            return Err(wrong());
        }
        Ok((low, high))
    }
}

/// What is asked of a container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    pub ipv4: Option<std::net::IpAddr>,
    pub ipv6: Option<std::net::IpAddr>,
    pub mac: Option<net::Mac>,
    pub aliases: Vec<String>,
    /// `<container>:<name>`: names for other containers that it alone uses.
    pub links: Vec<String>,
    /// Of several networks, the one with the highest leads out.
    pub gw_priority: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "mode", content = "name")]
pub enum NetworkMode {
    /// What an unqualified `run` gets: the default network where there is one, else as `None`.
    #[default]
    Default,
    None,
    Host,
    Container(String),
    Named(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "mode", content = "name")]
pub enum NamespaceMode {
    #[default]
    Private,
    Host,
    Shareable,
    /// `none` of IPC: private, without /dev/shm.
    None,
    Container(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountSpec {
    pub kind: MountKind,
    /// Host path of a bind, name of a volume, empty for an anonymous volume and tmpfs.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// `ro` of a bind applies to what is mounted below too, unless this is set.
    #[serde(default)]
    pub read_only_non_recursive: bool,
    #[serde(default)]
    pub non_recursive: bool,
    /// `rprivate` (default), `private`, `rshared`, `shared`, `rslave`, `slave`.
    #[serde(default)]
    pub propagation: Option<String>,
    /// `-v` makes a missing source directory of a bind; `--mount` refuses.
    #[serde(default)]
    pub create_source: bool,
    /// Do not fill a new volume from the image.
    #[serde(default)]
    pub no_copy: bool,
    #[serde(default)]
    pub subpath: Option<String>,
    #[serde(default)]
    pub tmpfs_size: Option<u64>,
    #[serde(default)]
    pub tmpfs_mode: Option<u32>,
    /// Further options of a tmpfs: `noexec`, `uid=1000`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs_options: Vec<String>,
    #[serde(default)]
    pub volume_labels: BTreeMap<String, String>,
    /// Of the volume driver, for a volume that is not there yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_options: BTreeMap<String, String>,
    /// `z` or `Z`: SELinux is to let the container at it. Nothing to do where there is none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub relabel: bool,
    /// The text of `-v` where it came from one; `inspect` shows it again.
    #[serde(default)]
    pub given: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    /// An image's files, read-only. Its source is the image's name, the mount's name its id.
    Image,
}

impl MountSpec {
    /// Read-write, and nothing else said.
    #[must_use]
    pub fn plain(kind: MountKind, source: &str, target: &str) -> Self {
        Self {
            kind,
            source: source.to_owned(),
            target: target.to_owned(),
            read_only: false,
            read_only_non_recursive: false,
            non_recursive: false,
            propagation: None,
            create_source: false,
            no_copy: false,
            subpath: None,
            tmpfs_size: None,
            tmpfs_mode: None,
            tmpfs_options: Vec::new(),
            volume_labels: BTreeMap::new(),
            volume_options: BTreeMap::new(),
            relabel: false,
            given: None,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub kind: RestartKind,
    /// Of `on-failure`: 0 is without limit.
    pub max_retries: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartKind {
    #[default]
    No,
    OnFailure,
    Always,
    UnlessStopped,
}

/// Limits. 0 or absent: none. Units as in the Docker Engine API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub memory: i64,
    pub memory_reservation: i64,
    /// Memory and swap together; -1: swap without limit.
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: bool,
    pub nano_cpus: i64,
    pub cpu_shares: i64,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub pids_limit: Option<i64>,
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub device_read_bps: Vec<ThrottleDevice>,
    pub device_write_bps: Vec<ThrottleDevice>,
    pub device_read_iops: Vec<ThrottleDevice>,
    pub device_write_iops: Vec<ThrottleDevice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    pub path: String,
    pub rate: u64,
}

/// Devices that a driver gives: CDI's, by name; GPUs, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    pub driver: String,
    /// -1: all.
    pub count: i64,
    pub ids: Vec<String>,
    /// Any of these lists of words.
    pub capabilities: Vec<Vec<String>>,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    pub path_on_host: String,
    pub path_in_container: String,
    /// Subset of `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// A driver and its options, in Docker's names. What there is: [`crate::logdriver`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

/// Exactly one at any time; the diagram is in the header of `container`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    #[default]
    Created,
    Starting,
    Running,
    Paused,
    Restarting,
    Stopping,
    Exited,
    Removing,
    /// Its record or its files cannot be used; it can only be inspected and removed.
    Dead,
}

/// The durable record of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    /// RFC 3339 with nanoseconds, as all times here.
    pub created: String,
    pub image_id: String,
    pub spec: ContainerSpec,
    /// What runs: entrypoint and command merged with the image's.
    pub argv: Vec<String>,
    /// Volumes by name, with the anonymous ones named.
    pub mounts: Vec<MountPoint>,
    pub state: RecordedState,
    #[serde(default)]
    pub restart_count: u32,
    /// Stopped by a user: `unless-stopped` and `always` obey it differently.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// By name of the network: what it is in whenever it runs. Changed by connect and disconnect.
    #[serde(default)]
    pub networks: BTreeMap<String, EndpointSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedState {
    pub phase: Phase,
    pub pid: i32,
    /// Field 22 of /proc/pid/stat: with the pid it names a process for ever.
    pub pid_start_time: u64,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub error: String,
    /// The boot of the machine in which it was started last.
    pub boot_id: String,
}

/// A mount as made, for inspect and for the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: MountKind,
    /// Volume's name.
    pub name: String,
    /// Host path.
    pub source: String,
    pub destination: String,
    pub read_only: bool,
    pub propagation: String,
    pub spec: MountSpec,
}

/// An error's class: one function per front door maps it to a status or an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidArgument,
    NotFound,
    Conflict,
    /// The wish is already so: start of a running container (HTTP 304).
    NotModified,
    /// The option exists but is not built yet, or this host cannot do it.
    Unsupported,
    /// The container's own program could not be started (missing, not executable).
    CannotRun,
    Forbidden,
    /// Nobody is let in by that name and password.
    Unauthorized,
    /// A deadline passed; the message says what was waited for.
    Timeout,
    NoSpace,
    Internal,
}
