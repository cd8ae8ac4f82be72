//! `create`, and the flags that it shares with `run`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use api::container::{
    Config, CreateRequest, CreateResponse, DeviceMapping, DeviceRequest, HostConfig, RestartPolicy,
    ThrottleDevice, Ulimit, WeightDevice,
};

use api::network::{EndpointSettings, NetworkingConfig, PortBinding};

use super::networks;
use crate::flags::{Flag, Groups, go_int, go_uint, refused, switch, value};
use crate::http::{Body, HttpError, Query};
use crate::mounts;
use crate::parse::{self, push};
use crate::verb::{Context, Failure, Offer, Operands, Verb, reason};

/// What `run` and `create` were asked.
#[derive(Debug)]
pub(crate) struct CreateOptions {
    pub(crate) name: Option<String>,
    pub(crate) config: Config,
    pub(crate) host: HostConfig,
    pub(crate) interactive: bool,
    pub(crate) attach: Vec<String>,
    env: Vec<String>,
    env_files: Vec<PathBuf>,
    labels: Vec<String>,
    label_files: Vec<PathBuf>,
    volumes: Vec<String>,
    networks: Vec<(String, EndpointSettings)>,
    /// Of `--ip` and its like: of the first network.
    endpoint: EndpointSettings,
    publish: Vec<Vec<(String, PortBinding)>>,
    entrypoint: Option<String>,
    security: Vec<String>,
    no_healthcheck: bool,
    cidfile: Option<PathBuf>,
    restart: Option<String>,
    swappiness: Option<i64>,
    pull: Pull,
    // of `run` alone
    pub(crate) detach: bool,
    pub(crate) sig_proxy: bool,
    pub(crate) detach_keys: Option<String>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            name: None,
            config: Config::default(),
            host: HostConfig::default(),
            interactive: false,
            attach: Vec::new(),
            env: Vec::new(),
            env_files: Vec::new(),
            labels: Vec::new(),
            label_files: Vec::new(),
            volumes: Vec::new(),
            networks: Vec::new(),
            endpoint: EndpointSettings::default(),
            publish: Vec::new(),
            entrypoint: None,
            security: Vec::new(),
            no_healthcheck: false,
            cidfile: None,
            restart: None,
            swappiness: None,
            pull: Pull::default(),
            detach: false,
            sig_proxy: true,
            detach_keys: None,
        }
    }
}

type O = CreateOptions;

fn insert(map: &mut Option<BTreeMap<String, String>>, text: &str) -> Result<(), String> {
    let (key, value) = parse::key_value(text);
    map.get_or_insert_default().insert(key, value);
    Ok(())
}

const TRUST: &str = "signatures of content trust (notary) are not built";
const WINDOWS: &str = "it is for Windows containers";
const REAL_TIME: &str = "real-time CPU limits come later";

#[rustfmt::skip]
const RESOURCE_FLAGS: &[Flag<O>] = &[
    value("memory", Some('m'), "bytes", |o, v| set(&mut o.host.resources.memory, parse::bytes(v)), "Memory limit"),
    value("memory-swap", None, "bytes", |o, v| set(&mut o.host.resources.memory_swap, parse::swap_bytes(v)), "Limit of memory and swap together; -1 leaves swap unlimited"),
    value("memory-reservation", None, "bytes", |o, v| set(&mut o.host.resources.memory_reservation, parse::bytes(v)), "Memory the container keeps under pressure (soft limit)"),
    value("memory-swappiness", None, "int", |o, v| set(&mut o.swappiness, go_int(v).map(Some)), "Inclination to swap, 0 to 100"),
    switch("oom-kill-disable", None, |o, v| o.host.resources.oom_kill_disable = Some(v), "Do not kill when memory runs out; wait"),
    value("oom-score-adj", None, "int", |o, v| set(&mut o.host.oom_score_adj, small(v)), "Preference of the OOM killer, -1000 to 1000"),
    value("cpus", None, "decimal", |o, v| set(&mut o.host.resources.nano_cpus, parse::cpus(v)), "Number of CPUs"),
    value("cpu-shares", Some('c'), "int", |o, v| set(&mut o.host.resources.cpu_shares, go_int(v)), "Relative weight of CPU time"),
    value("cpu-period", None, "int", |o, v| set(&mut o.host.resources.cpu_period, go_int(v)), "Period of the CPU quota in microseconds"),
    value("cpu-quota", None, "int", |o, v| set(&mut o.host.resources.cpu_quota, go_int(v)), "CPU time per period in microseconds"),
    value("cpuset-cpus", None, "string", |o, v| text(&mut o.host.resources.cpuset_cpus, v), "CPUs to run on (0-3, 0,1)"),
    value("cpuset-mems", None, "string", |o, v| text(&mut o.host.resources.cpuset_mems, v), "Memory nodes to use (0-3, 0,1)"),
    value("pids-limit", None, "int", |o, v| set(&mut o.host.resources.pids_limit, go_int(v).map(Some)), "Limit of processes; -1 for none"),
    value("blkio-weight", None, "uint16", |o, v| set(&mut o.host.resources.blkio_weight, weight(v)), "Relative weight of block I/O, 10 to 1000, 0 to disable"),
    value("blkio-weight-device", None, "list", weight_device, "Relative weight of block I/O for a device (path:weight)"),
    value("device-read-bps", None, "list", |o, v| rate(&mut o.host.resources.blkio_device_read_bps, v, true), "Limit bytes read per second from a device (path:rate)"),
    value("device-write-bps", None, "list", |o, v| rate(&mut o.host.resources.blkio_device_write_bps, v, true), "Limit bytes written per second to a device (path:rate)"),
    value("device-read-iops", None, "list", |o, v| rate(&mut o.host.resources.blkio_device_read_iops, v, false), "Limit reads per second from a device (path:rate)"),
    value("device-write-iops", None, "list", |o, v| rate(&mut o.host.resources.blkio_device_write_iops, v, false), "Limit writes per second to a device (path:rate)"),
    value("ulimit", None, "ulimit", ulimit, "Limit of the process (nofile=1024:2048)"),
    value("shm-size", None, "bytes", |o, v| set(&mut o.host.shm_size, parse::bytes(v)), "Size of /dev/shm"),
    value("cgroup-parent", None, "string", |o, v| text(&mut o.host.resources.cgroup_parent, v), "Cgroup above the container's"),
];

#[rustfmt::skip]
const PROCESS_FLAGS: &[Flag<O>] = &[
    value("name", None, "string", |o, v| set(&mut o.name, Ok(Some(v.to_owned()))), "Name of the container"),
    switch("interactive", Some('i'), |o, v| o.interactive = v, "Keep standard input open"),
    switch("tty", Some('t'), |o, v| o.config.tty = v, "Give the program a terminal"),
    value("attach", Some('a'), "list", attach, "Attach to stdin, stdout or stderr"),
    switch("rm", None, |o, v| o.host.auto_remove = v, "Remove the container and its anonymous volumes when it ends"),
    value("env", Some('e'), "list", |o, v| add(&mut o.env, parse::env(v)), "Set an environment variable"),
    value("env-file", None, "list", |o, v| add(&mut o.env_files, Ok(v.into())), "Read environment variables from a file"),
    value("workdir", Some('w'), "string", |o, v| text(&mut o.config.working_dir, v), "Working directory in the container"),
    value("user", Some('u'), "string", |o, v| text(&mut o.config.user, v), "User and group to run as (name|uid[:group|gid])"),
    value("group-add", None, "list", |o, v| push(&mut o.host.group_add, v.to_owned()), "Additional group of the user"),
    value("entrypoint", None, "string", |o, v| set(&mut o.entrypoint, Ok(Some(v.to_owned()))), "Program to run instead of the image's entry point"),
    value("hostname", Some('h'), "string", |o, v| text(&mut o.config.hostname, v), "Host name in the container"),
    value("domainname", None, "string", |o, v| text(&mut o.config.domainname, v), "NIS domain name in the container"),
    switch("init", None, |o, v| o.host.init = Some(v), "Run an init that forwards signals and reaps processes"),
    value("stop-signal", None, "string", |o, v| text(&mut o.config.stop_signal, v), "Signal that stops the container"),
    value("health-cmd", None, "string", |o, v| { health(o).test = vec!["CMD-SHELL".to_owned(), v.to_owned()]; Ok(()) }, "Command to run to check health"),
    value("health-interval", None, "duration", |o, v| set(&mut health(o).interval, nanoseconds(v)), "Time between running the check (ms|s|m|h) (default 0s)"),
    value("health-retries", None, "int", |o, v| set(&mut health(o).retries, go_int(v)), "Consecutive failures needed to report unhealthy"),
    value("health-start-interval", None, "duration", |o, v| set(&mut health(o).start_interval, nanoseconds(v)), "Time between running the check during the start period (ms|s|m|h) (default 0s)"),
    value("health-start-period", None, "duration", |o, v| set(&mut health(o).start_period, nanoseconds(v)), "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)"),
    value("health-timeout", None, "duration", |o, v| set(&mut health(o).timeout, nanoseconds(v)), "Maximum time to allow one check to run (ms|s|m|h) (default 0s)"),
    switch("no-healthcheck", None, |o, on| o.no_healthcheck = on, "Disable any container-specified HEALTHCHECK"),
    value("stop-timeout", None, "int", |o, v| set(&mut o.config.stop_timeout, go_int(v).map(Some)), "Seconds to wait for it to stop before killing it"),
    value("restart", None, "string", |o, v| set(&mut o.restart, Ok(Some(v.to_owned()))), "When to start it again (no, on-failure[:n], always, unless-stopped)"),
    value("log-driver", None, "string", |o, v| text(&mut o.host.log_config.r#type, v), "Where the output goes (json-file, none)"),
    value("log-opt", None, "list", |o, v| insert(&mut o.host.log_config.config, v), "Option of the log (max-size=10m)"),
    value("volumes-from", None, "list", |o, v| { o.host.volumes_from.get_or_insert_default().push(v.to_owned()); Ok(()) }, "Mount what another container has: its volumes and binds (container[:ro])"),
    value("label", Some('l'), "list", |o, v| add(&mut o.labels, parse::label(v)), "Label the container"),
    value("label-file", None, "list", |o, v| add(&mut o.label_files, Ok(v.into())), "Read labels from a file"),
    value("annotation", None, "map", |o, v| insert(&mut o.host.annotations, v), "Annotate the container for the OCI runtime"),
    value("cidfile", None, "string", |o, v| set(&mut o.cidfile, Ok(Some(v.into()))), "Write the container's ID to a file"),
    value("pull", None, "string", |o, v| { o.pull = pull(v)?; Ok(()) }, "When to fetch the image (always, missing, never)"),
    value("platform", None, "string", |_, v| platform(v), "Platform of the image; this machine's own"),
    switch("quiet", Some('q'), |_, _| (), "Say nothing while an image is fetched"),
];

#[rustfmt::skip]
const HOST_FLAGS: &[Flag<O>] = &[
    value("volume", Some('v'), "list", |o, v| add(&mut o.volumes, Ok(v.to_owned())), "Mount a volume or a host directory (source:target[:options])"),
    value("volume-driver", None, "string", |_, v| only_local(v), "Driver of the volumes; local"),
    value("mount", None, "mount", |o, v| mounts::parse(v).and_then(|m| push(&mut o.host.mounts, m)), "Mount a file system (type=volume,source=x,target=/y)"),
    value("tmpfs", None, "list", tmpfs, "Mount a tmpfs (path[:options])"),
    switch("read-only", None, |o, v| o.host.readonly_rootfs = v, "Mount the root file system read-only"),
    value("cap-add", None, "list", |o, v| push(&mut o.host.cap_add, v.to_owned()), "Add a Linux capability"),
    value("cap-drop", None, "list", |o, v| push(&mut o.host.cap_drop, v.to_owned()), "Drop a Linux capability"),
    value("security-opt", None, "list", |o, v| add(&mut o.security, Ok(v.to_owned())), "Security option (seccomp=FILE, no-new-privileges, ...)"),
    switch("privileged", None, |o, v| o.host.privileged = v, "Give the container the host's privileges"),
    value("device", None, "list", device, "Give the container a device (host[:container[:rwm]], or vendor.com/class=name of CDI)"),
    value("gpus", None, "gpu-request", gpus, "GPUs of CDI (all, a number, device=0)"),
    value("runtime", None, "string", |o, v| { v.clone_into(&mut o.host.runtime); Ok(()) }, "plimsoll, or runc's names for it"),
    value("device-cgroup-rule", None, "list", |o, v| push(&mut o.host.resources.device_cgroup_rules, v.to_owned()), "Allow a class of devices (c 42:* rmw)"),
    value("network", None, "network", network, "Network: a name, none, host or container:NAME; several times for several"),
    value("publish", Some('p'), "list", |o, v| add(&mut o.publish, networks::publish(v)), "Publish a port at the host ([[ip:][port]:]port[/protocol])"),
    switch("publish-all", Some('P'), |o, v| o.host.publish_all_ports = v, "Publish all exposed ports at any free ports of the host"),
    value("ip", None, "ip", |o, v| text(&mut networks::asked(&mut o.endpoint).ipv4_address, v), "Address of IPv4 in the network"),
    value("ip6", None, "ip", |o, v| text(&mut networks::asked(&mut o.endpoint).ipv6_address, v), "Address of IPv6 in the network"),
    value("mac-address", None, "string", |o, v| text(&mut o.endpoint.mac_address, v), "Hardware address in the network"),
    value("network-alias", None, "list", |o, v| push(&mut o.endpoint.aliases, v.to_owned()), "Another name in the network"),
    value("net-alias", None, "list", |o, v| push(&mut o.endpoint.aliases, v.to_owned()), ""),
    value("link", None, "list", |o, v| push(&mut o.endpoint.links, v.to_owned()), "A name for another container (container[:name])"),
    value("net", None, "network", network, ""),
    value("sysctl", None, "map", |o, v| insert(&mut o.host.sysctls, v), "Set a kernel parameter of the container's namespaces"),
    value("userns", None, "string", |o, v| text(&mut o.host.userns_mode, v), "User namespace to use"),
    value("pid", None, "string", |o, v| text(&mut o.host.pid_mode, v), "PID namespace to use (host, container:NAME)"),
    value("ipc", None, "string", |o, v| text(&mut o.host.ipc_mode, v), "IPC namespace to use (none, private, shareable, host, container:NAME)"),
    value("uts", None, "string", |o, v| text(&mut o.host.uts_mode, v), "UTS namespace to use (host)"),
    value("cgroupns", None, "string", |o, v| text(&mut o.host.cgroupns_mode, v), "Cgroup namespace to use (host, private)"),
    value("add-host", None, "list", add_host, "Add a name to /etc/hosts (host:ip)"),
    value("dns", None, "list", |o, v| push(&mut o.host.dns, v.to_owned()), "DNS server of the container"),
    value("dns-option", None, "list", |o, v| push(&mut o.host.dns_options, v.to_owned()), "DNS option of the container"),
    value("dns-opt", None, "list", |o, v| push(&mut o.host.dns_options, v.to_owned()), ""),
    value("dns-search", None, "list", |o, v| push(&mut o.host.dns_search, v.to_owned()), "DNS search domain of the container"),
    value("expose", None, "list", expose, "Note a port that the program listens on"),
];

const REFUSED_FLAGS: &[Flag<O>] = &[
    refused("link-local-ip", None, "it comes later"),
    refused(
        "storage-opt",
        None,
        "quotas of the root file system come later",
    ),
    refused(
        "kernel-memory",
        None,
        "it leaks memory cgroups on old kernels and is gone from new ones; use --memory",
    ),
    refused("cpu-rt-period", None, REAL_TIME),
    refused("cpu-rt-runtime", None, REAL_TIME),
    refused("use-api-socket", None, "bind the socket with -v"),
    refused("disable-content-trust", None, TRUST),
    refused("isolation", None, WINDOWS),
    refused("cpu-count", None, WINDOWS),
    refused("cpu-percent", None, WINDOWS),
    refused("io-maxbandwidth", None, WINDOWS),
    refused("io-maxiops", None, WINDOWS),
];

const CREATE_FLAGS: Groups<O> = &[PROCESS_FLAGS, HOST_FLAGS, RESOURCE_FLAGS, REFUSED_FLAGS];

#[rustfmt::skip]
pub(crate) const RUN_FLAGS: Groups<O> = &[
    &[
        switch("detach", Some('d'), |o, v| o.detach = v, "Leave the container in the background and print its ID"),
        switch("sig-proxy", None, |o, v| o.sig_proxy = v, "Pass signals on to the program (default true)"),
        value("detach-keys", None, "string", |o, v| set(&mut o.detach_keys, Ok(Some(v.to_owned()))), "Keys that detach from the container (ctrl-p,ctrl-q)"),
    ],
    PROCESS_FLAGS,
    HOST_FLAGS,
    RESOURCE_FLAGS,
    REFUSED_FLAGS,
];

pub(crate) static CREATE: Verb<O> = Verb {
    path: "create",
    aliases: &["container create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    operands: Operands::AtLeast(1),
    offer: Offer::Images,
    interspersed: false,
    flags: CREATE_FLAGS,
    run: |context, mut options, operands| {
        let request = request(&mut options, operands)?;
        let created = create(context, &options, &request)?;
        context.println(&created.id)
    },
};

fn set<T>(slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    *slot = value?;
    Ok(())
}

fn add<T>(list: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    list.push(value?);
    Ok(())
}

fn text(slot: &mut String, value: &str) -> Result<(), String> {
    value.clone_into(slot);
    Ok(())
}

fn health(o: &mut O) -> &mut api::container::HealthConfig {
    o.config.healthcheck.get_or_insert_default()
}

fn nanoseconds(text: &str) -> Result<i64, String> {
    let time = parse::go_duration(text);
    let time = time.and_then(|t| i64::try_from(t.as_nanos()).ok());
    time.ok_or_else(|| format!("time: invalid duration {text:?}"))
}

fn small(text: &str) -> Result<i32, String> {
    i32::try_from(go_int(text)?)
        .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: value out of range"))
}

fn weight(text: &str) -> Result<u16, String> {
    Ok(u16::try_from(go_uint(text, 16)?).unwrap_or(u16::MAX))
}

fn weight_device(o: &mut O, text: &str) -> Result<(), String> {
    let (path, weight) = parse::device_rate(text, false)?;
    let weight = u16::try_from(weight)
        .ok()
        .filter(|w| *w == 0 || (10..=1000).contains(w))
        .ok_or_else(|| format!("invalid weight for device: {text}"))?;
    push(
        &mut o.host.resources.blkio_weight_device,
        WeightDevice { path, weight },
    )
}

fn rate(list: &mut Option<Vec<ThrottleDevice>>, text: &str, sized: bool) -> Result<(), String> {
    let (path, rate) = parse::device_rate(text, sized)?;
    push(list, ThrottleDevice { path, rate })
}

fn ulimit(o: &mut O, text: &str) -> Result<(), String> {
    let (name, soft, hard) = parse::ulimit(text)?;
    push(&mut o.host.resources.ulimits, Ulimit { name, hard, soft })
}

/// Of the host by path, or a vendor's by its name in CDI.
fn device(o: &mut O, text: &str) -> Result<(), String> {
    if daemon::is_cdi_device(text) {
        let all = o.host.resources.device_requests.get_or_insert_default();
        match all.iter_mut().find(|r| r.driver == "cdi") {
            Some(known) => known
                .device_ids
                .get_or_insert_default()
                .push(text.to_owned()),
            None => all.push(DeviceRequest {
                driver: "cdi".to_owned(),
                device_ids: Some(vec![text.to_owned()]),
                ..DeviceRequest::default()
            }),
        }
        return Ok(());
    }
    let (path_on_host, path_in_container, cgroup_permissions) = parse::device(text)?;
    push(
        &mut o.host.resources.devices,
        DeviceMapping {
            path_on_host,
            path_in_container,
            cgroup_permissions,
        },
    )
}

/// `all`, `2`, `device=0,1`, `count=2,driver=nvidia,"capabilities=gpu,utility"`.
/// source: docs.docker.com/reference/cli/docker/container/run/#gpus
fn gpus(o: &mut O, text: &str) -> Result<(), String> {
    let mut request = DeviceRequest {
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    let count = |text: &str| match text {
        "all" => Ok(-1),
        n => n.parse().map_err(|_| {
            format!("invalid count ({n}): value must be either \"all\" or an integer")
        }),
    };
    let mut counted = false;
    for field in parse::csv(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        match key {
            "count" => (request.count, counted) = (count(value)?, true),
            "device" => request.device_ids = Some(value.split(',').map(str::to_owned).collect()),
            "driver" => value.clone_into(&mut request.driver),
            "capabilities" => {
                let words = value
                    .split(',')
                    .map(str::to_owned)
                    .chain(["gpu".to_owned()]);
                request.capabilities = Some(vec![words.collect()]);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !counted && request.device_ids.is_none() {
        request.count = 1;
    }
    push(&mut o.host.resources.device_requests, request)
}

fn tmpfs(o: &mut O, text: &str) -> Result<(), String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    o.host
        .tmpfs
        .get_or_insert_default()
        .insert(path.to_owned(), options.to_owned());
    Ok(())
}

fn attach(o: &mut O, stream: &str) -> Result<(), String> {
    let stream = stream.to_ascii_lowercase();
    if !matches!(stream.as_str(), "stdin" | "stdout" | "stderr") {
        return Err("valid streams are STDIN, STDOUT and STDERR".into());
    }
    o.attach.push(stream);
    Ok(())
}

fn network(o: &mut O, text: &str) -> Result<(), String> {
    let (name, settings) = if text.contains('=') {
        networks::endpoint(text)?
    } else {
        (text.to_owned(), EndpointSettings::default())
    };
    if o.networks.iter().any(|(n, _)| *n == name) {
        return Err(format!("network {name:?} is specified multiple times"));
    }
    o.networks.push((name, settings));
    Ok(())
}

/// The first network is the mode; flags of their own belong to it.
fn endpoints(o: &mut O) -> Result<NetworkingConfig, String> {
    let mut list = std::mem::take(&mut o.networks);
    if list.is_empty() {
        list.push(("default".to_owned(), EndpointSettings::default()));
    }
    let own = std::mem::take(&mut o.endpoint);
    if own != EndpointSettings::default() {
        if list.len() > 1 || list[0].1 != EndpointSettings::default() {
            return Err("conflicting options: --ip, --ip6, --mac-address, --network-alias and --link belong to one network; write them as fields of --network".to_owned());
        }
        list[0].1 = own;
    }
    list[0].0.clone_into(&mut o.host.network_mode);
    let plain = list.len() == 1 && list[0].1 == EndpointSettings::default();
    let map = (!plain).then(|| list.into_iter().collect());
    Ok(NetworkingConfig {
        endpoints_config: map,
    })
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pull {
    Always,
    #[default]
    Missing,
    Never,
}

fn pull(text: &str) -> Result<Pull, String> {
    match text {
        "missing" | "" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        "always" => Ok(Pull::Always),
        _ => Err(format!(
            "invalid pull option: '{text}': must be one of \"always\", \"missing\" or \"never\""
        )),
    }
}

/// Docker's name of this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn platform(text: &str) -> Result<(), String> {
    let own = format!("linux/{}", architecture());
    if text.is_empty() || text == "linux" || text == own || text == architecture() {
        return Ok(());
    }
    Err(format!(
        "not supported by this version: only images of this machine's platform ({own}) run here"
    ))
}

pub(crate) fn only_local(text: &str) -> Result<(), String> {
    if text == "local" || text.is_empty() {
        return Ok(());
    }
    Err("not supported by this version: volume plug-ins come later; local is built in".into())
}

fn add_host(o: &mut O, text: &str) -> Result<(), String> {
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("bad format for add-host: {text:?}"))?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if address != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    push(&mut o.host.extra_hosts, format!("{name}:{bare}"))
}

fn expose(o: &mut O, text: &str) -> Result<(), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let bad = || format!("invalid range format for --expose: {text}");
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let first: u16 = first.parse().map_err(|_| bad())?;
    let last: u16 = last.parse().map_err(|_| bad())?;
    if first > last || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    for port in first..=last {
        o.config
            .exposed_ports
            .get_or_insert_default()
            .insert(format!("{port}/{protocol}"), api::Empty {});
    }
    Ok(())
}

/// Puts together what the API is asked.
pub(crate) fn request(o: &mut O, operands: Vec<String>) -> Result<CreateRequest, Failure> {
    assemble(o, operands).map_err(|message| Failure::Advice { message, code: 125 })
}

fn assemble(o: &mut O, operands: Vec<String>) -> Result<CreateRequest, String> {
    let mut operands = operands.into_iter();
    o.config.image = operands.next().unwrap_or_default();
    let command: Vec<String> = operands.collect();
    o.config.cmd = (!command.is_empty()).then_some(command);
    // an empty entry point takes the image's away
    o.config.entrypoint = o.entrypoint.take().map(|e| vec![e]);
    let mut env = Vec::new();
    for file in &o.env_files {
        env.extend(parse::key_value_file(file, true)?);
    }
    env.append(&mut o.env);
    o.config.env = (!env.is_empty()).then_some(env);
    let mut labels = Vec::new();
    for file in &o.label_files {
        labels.extend(parse::key_value_file(file, false)?);
    }
    labels.append(&mut o.labels);
    o.config.labels =
        (!labels.is_empty()).then(|| labels.iter().map(|l| parse::key_value(l)).collect());
    for volume in std::mem::take(&mut o.volumes) {
        if volume.contains(':') {
            push(&mut o.host.binds, mounts::absolute_source(&volume)?)?;
        } else {
            o.config
                .volumes
                .get_or_insert_default()
                .insert(volume, api::Empty {});
        }
    }
    security(o)?;
    policies(o)?;
    let networking_config = endpoints(o)?;
    for (port, binding) in std::mem::take(&mut o.publish).into_iter().flatten() {
        let exposed = o.config.exposed_ports.get_or_insert_default();
        exposed.insert(port.clone(), api::Empty {});
        let places = o.host.port_bindings.get_or_insert_default().entry(port);
        places.or_default().get_or_insert_default().push(binding);
    }
    streams(o);
    Ok(CreateRequest {
        config: o.config.clone(),
        host_config: o.host.clone(),
        networking_config,
    })
}

fn policies(o: &mut O) -> Result<(), String> {
    if let Some(text) = &o.restart {
        let (name, maximum_retry_count) = parse::restart_policy(text)?;
        if o.host.auto_remove && !matches!(name.as_str(), "" | "no") {
            return Err("conflicting options: cannot specify both --restart and --rm".into());
        }
        o.host.restart_policy = RestartPolicy {
            name,
            maximum_retry_count,
        };
    }
    if o.no_healthcheck {
        if o.config.healthcheck.is_some() {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        health(o).test = vec!["NONE".to_owned()];
    }
    if let Some(n) = o.swappiness {
        if !(-1..=100).contains(&n) {
            return Err(format!(
                "invalid value: {n}. Valid memory swappiness range is 0-100"
            ));
        }
        o.host.resources.memory_swappiness = Some(n);
    }
    Ok(())
}

/// Which streams are attached, and when standard input ends.
fn streams(o: &mut O) {
    let on = |name: &str| o.attach.iter().any(|a| a == name);
    let none = o.attach.is_empty();
    o.config.attach_stdin = on("stdin") || (none && o.interactive);
    o.config.attach_stdout = on("stdout") || none;
    o.config.attach_stderr = on("stderr") || none;
    o.config.open_stdin = o.interactive;
    if o.detach {
        o.config.attach_stdin = false;
        o.config.attach_stdout = false;
        o.config.attach_stderr = false;
    }
    o.config.stdin_once = o.config.open_stdin && o.config.attach_stdin;
}

/// A seccomp profile is read here: the file is the user's, not the daemon's.
fn security(o: &mut O) -> Result<(), String> {
    for option in std::mem::take(&mut o.security) {
        if option == "systempaths=unconfined" {
            o.host.masked_paths = Some(Vec::new());
            o.host.readonly_paths = Some(Vec::new());
            continue;
        }
        let (key, value) = option
            .split_once(['=', ':'])
            .unwrap_or((option.as_str(), ""));
        if value.is_empty() && key != "no-new-privileges" {
            return Err(format!("Invalid --security-opt: {option:?}"));
        }
        if key == "seccomp" && !matches!(value, "unconfined" | "builtin") {
            let profile = std::fs::read_to_string(value)
                .map_err(|e| format!("opening seccomp profile ({value}) failed: {}", reason(&e)))?;
            let compact: serde_json::Value = serde_json::from_str(&profile)
                .map_err(|e| format!("seccomp profile {value} is not JSON: {e}"))?;
            push(&mut o.host.security_opt, format!("seccomp={compact}"))?;
        } else {
            push(&mut o.host.security_opt, option)?;
        }
    }
    Ok(())
}

/// Makes the container; says its warnings; writes the file with its ID.
pub(crate) fn create(
    context: &Context,
    o: &O,
    request: &CreateRequest,
) -> Result<CreateResponse, Failure> {
    let cidfile = o.cidfile.as_deref().map(CidFile::make).transpose()?;
    let path = Query::new("/containers/create")
        .with_some("name", o.name.as_deref())
        .build();
    let body = serde_json::to_vec(request).map_err(|e| Failure::say(e.to_string()))?;
    let image = request.config.image.as_str();
    if o.pull == Pull::Always {
        super::registry::fetch(context, image, None)?;
    }
    let post = || {
        context
            .client
            .send("POST", &path, Body::Json(body.clone()))
            .and_then(crate::http::Response::json::<CreateResponse>)
    };
    let created = match post() {
        Err(error) if lacks_image(&error) && o.pull != Pull::Never => {
            context.warn(&format!("Unable to find image '{image}' locally"));
            super::registry::fetch(context, image, None)?;
            post()?
        }
        other => other?,
    };
    for warning in &created.warnings {
        context.warn(&format!("WARNING: {warning}"));
    }
    if let Some(file) = cidfile {
        file.write(&created.id)?;
    }
    Ok(created)
}

fn lacks_image(error: &HttpError) -> bool {
    error.status() == Some(404) && error.to_string().to_ascii_lowercase().contains("image")
}

/// The file for the container's ID: made before the container, removed if there is none.
struct CidFile {
    path: PathBuf,
    file: std::fs::File,
    written: bool,
}

impl CidFile {
    fn make(path: &Path) -> Result<Self, Failure> {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::say(format!(
                    "container ID file found, make sure the other container isn't running or delete {}",
                    path.display()
                )),
                _ => Failure::say(format!(
                    "failed to create the container ID file {}: {}",
                    path.display(),
                    reason(&e)
                )),
            })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            written: false,
        })
    }

    fn write(mut self, id: &str) -> Result<(), Failure> {
        self.file.write_all(id.as_bytes()).map_err(|e| {
            Failure::say(format!(
                "failed to write the container ID to {}: {}",
                self.path.display(),
                reason(&e)
            ))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.written {
            // best effort: the error that brought us here is the one to tell
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_flags(args: &[String]) -> Result<CreateRequest, String> {
        let mut o = O::default();
        let operands =
            crate::flags::parse(RUN_FLAGS, &mut o, args, false).map_err(|e| e.to_string())?;
        assemble(&mut o, operands)
    }

    /// Only what differs from a request without flags.
    fn differences(args: &[String]) -> String {
        fn walk(path: &str, a: &serde_json::Value, b: &serde_json::Value, out: &mut String) {
            if let (Some(x), Some(y)) = (a.as_object(), b.as_object()) {
                let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
                for key in keys {
                    let null = serde_json::Value::Null;
                    walk(
                        &format!("{path}.{key}"),
                        x.get(key).unwrap_or(&null),
                        y.get(key).unwrap_or(&null),
                        out,
                    );
                }
            } else if a != b {
                out.push_str(&format!("{} = {b}\n", &path[1..]));
            }
        }
        let plain = serde_json::to_value(parse_flags(&words("i")).expect("plain")).expect("json");
        match parse_flags(args) {
            Ok(request) => {
                let mut out = String::new();
                let request = serde_json::to_value(request).expect("json");
                walk("", &plain, &request, &mut out);
                out
            }
            Err(e) => e,
        }
    }

    /// Words of a command line, cut at spaces; `~` stands for a space.
    fn words(line: &str) -> Vec<String> {
        line.split_whitespace()
            .map(|w| w.replace('~', " "))
            .collect()
    }

    #[test]
    fn flags_of_process_and_host_reach_the_request() {
        insta::assert_snapshot!(differences(&words(
            "-it --rm -e A=1 -w /w -u 1:2 --group-add 3 --entrypoint /e -h host --domainname dom \
             -v vol:/v:ro -v /anon --mount type=tmpfs,target=/t,tmpfs-size=1m --tmpfs /run:size=1k \
             --read-only --cap-add SYS_PTRACE --cap-drop ALL --security-opt no-new-privileges \
             --security-opt systempaths=unconfined --privileged --device /dev/fuse \
             --device-cgroup-rule c~1:*~r --init --stop-signal INT --stop-timeout 3 \
             --log-driver none --log-opt a=b -l x=y --annotation n=m --network mine --ip 10.1.2.3 --mac-address 02:42:0a:01:02:03 \
             -p 127.0.0.1:8080:80 -p 53/udp -P \
             --sysctl net.a=1 --userns host --pid host --ipc none --uts host --cgroupns private \
             --add-host a:1.2.3.4 --dns 1.1.1.1 --dns-option o --dns-search s --expose 80-81/udp \
             i cmd -x"
        )));
    }

    #[test]
    fn flags_of_resources_reach_the_request() {
        insta::assert_snapshot!(differences(&words(
            "-m 1g --memory-swap -1 --memory-reservation 512m --memory-swappiness 10 \
             --oom-kill-disable --oom-score-adj -5 --cpus 1.5 -c 512 --cpu-period 1000 \
             --cpu-quota 500 --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 10 --blkio-weight 300 \
             --blkio-weight-device /dev/sda:200 --device-read-bps /dev/sda:1m \
             --device-write-bps /dev/sda:2m --device-read-iops /dev/sda:3 \
             --device-write-iops /dev/sda:4 --ulimit nofile=1:2 --shm-size 64m --cgroup-parent /p \
             --restart on-failure:3 i"
        )));
    }

    #[test]
    fn wrong_values_are_said_as_docker_says_them() {
        for (line, said) in [
            (
                "--ulimit x i",
                "invalid argument \"x\" for \"--ulimit\" flag: invalid ulimit argument: x",
            ),
            (
                "-e =x i",
                "invalid argument \"=x\" for \"-e, --env\" flag: invalid environment variable: =x",
            ),
            (
                "-m x i",
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'",
            ),
            (
                "--mount foo i",
                "invalid argument \"foo\" for \"--mount\" flag: invalid field 'foo' must be a key=value pair",
            ),
            (
                "-p x:80 i",
                "invalid argument \"x:80\" for \"-p, --publish\" flag: invalid hostPort: x",
            ),
            (
                "--pull often i",
                "invalid argument \"often\" for \"--pull\" flag: invalid pull option: 'often': must be one of \"always\", \"missing\" or \"never\"",
            ),
            (
                "--rm --restart always i",
                "conflicting options: cannot specify both --restart and --rm",
            ),
            (
                "-v :/x i",
                "invalid spec: :/x: empty section between colons",
            ),
        ] {
            assert_eq!(parse_flags(&words(line)).expect_err("refused"), said);
        }
    }
}
