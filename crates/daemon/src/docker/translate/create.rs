//! A create request to what the engine understands.

use std::net::IpAddr;

use api::container::{Config, CreateRequest, HostConfig, LogConfig, RestartPolicy, ThrottleDevice};
use api::network::{EndpointSettings, PortMap};
use engine::model;
use engine::model::{
    ContainerSpec, EndpointSpec, HealthSpec, HostSpec, LogSpec, Mac, NamespaceMode, NetworkMode,
    PortSpec, RestartKind,
};

use super::{mounts, unbuilt};
use crate::config::ContainerDefaults;
use crate::docker::failure::Failure;

/// Those of the default network: in users' networks a link is one of the endpoint's.
fn links(host: &HostConfig) -> Result<Vec<String>, Failure> {
    let all = host.links.clone().unwrap_or_default();
    let mode = host.network_mode.as_str();
    match mode {
        "" | "default" | "bridge" => Ok(all),
        "host" | "none" if !all.is_empty() => Err(Failure::invalid(format!(
            "conflicting options: links (--link) can't be used with the network mode {mode}"
        ))),
        mode if mode.starts_with("container:") && !all.is_empty() => Err(Failure::invalid(
            "conflicting options: links (--link) can't be used with another container's network",
        )),
        _ => Ok(Vec::new()),
    }
}

pub(crate) fn spec(
    request: CreateRequest,
    defaults: &ContainerDefaults,
) -> Result<ContainerSpec, Failure> {
    let CreateRequest {
        config,
        host_config,
        networking_config,
    } = request;
    if config.image.is_empty() {
        return Err(Failure::invalid("no image is given: Image must name one"));
    }
    unbuilt::config(&config)?;
    unbuilt::host(&host_config)?;
    let (bindings, publish_all) = (
        host_config.port_bindings.clone(),
        host_config.publish_all_ports,
    );
    let links = links(&host_config)?;
    let volumes_from = host_config.volumes_from.clone().unwrap_or_default();
    let mut host = host(host_config, defaults)?;
    host.restart_unhealthy = defaults.restart_unhealthy;
    if config.network_disabled {
        host.network = NetworkMode::None;
    }
    host.volumes_from = volumes_from;
    host.links = links;
    host.ports = ports(bindings)?;
    host.publish_all = publish_all;
    for (name, settings) in networking_config.endpoints_config.unwrap_or_default() {
        let wanted = endpoint(&settings)?;
        // clients send an empty entry for the network mode
        let is_mode = matches!(name.as_str(), "none" | "host" | "default");
        if !is_mode || wanted != EndpointSpec::default() {
            host.endpoints.insert(name, wanted);
        }
    }
    first_endpoint(&mut host, &config.mac_address)?;
    let Config {
        exposed_ports,
        volumes,
        labels,
        ..
    } = config;
    Ok(ContainerSpec {
        image: config.image,
        entrypoint: config.entrypoint,
        command: config.cmd,
        env: config.env.unwrap_or_default(),
        working_dir: config.working_dir,
        user: config.user,
        hostname: config.hostname,
        domainname: config.domainname,
        labels: labels.unwrap_or_default(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: Some(config.stop_signal).filter(|s| !s.is_empty()),
        stop_timeout: config.stop_timeout,
        health: config.healthcheck.map(health),
        on_build: config.on_build.unwrap_or_default(),
        host,
    })
}

fn health(h: api::container::HealthConfig) -> HealthSpec {
    HealthSpec {
        test: h.test,
        interval: h.interval,
        timeout: h.timeout,
        start_period: h.start_period,
        start_interval: h.start_interval,
        retries: h.retries,
    }
}

/// The part of a container's configuration that an image has.
pub(crate) fn image_config(c: Config) -> Result<engine::ImageConfig, Failure> {
    unbuilt::config(&c)?;
    Ok(engine::ImageConfig {
        user: c.user,
        exposed_ports: c.exposed_ports.unwrap_or_default().into_keys().collect(),
        env: c.env.unwrap_or_default(),
        entrypoint: c.entrypoint,
        cmd: c.cmd,
        volumes: c.volumes.unwrap_or_default().into_keys().collect(),
        working_dir: c.working_dir,
        labels: c.labels.unwrap_or_default(),
        stop_signal: Some(c.stop_signal).filter(|s| !s.is_empty()),
        health: c.healthcheck.map(health),
        shell: c.shell,
        on_build: c.on_build.unwrap_or_default(),
    })
}

/// Of the containers of a build.
pub(crate) fn build_host(h: HostConfig, defaults: &ContainerDefaults) -> Result<HostSpec, Failure> {
    host(h, defaults)
}

fn host(h: HostConfig, defaults: &ContainerDefaults) -> Result<HostSpec, Failure> {
    let mut list = Vec::new();
    for text in h.binds.iter().flatten() {
        list.push(mounts::bind(text)?);
    }
    for mount in h.mounts.iter().flatten() {
        list.push(mounts::mount(mount)?);
    }
    let mut security_opt = h.security_opt.unwrap_or_default();
    if defaults.no_new_privileges
        && !security_opt
            .iter()
            .any(|o| o.starts_with("no-new-privileges"))
    {
        security_opt.push("no-new-privileges".to_owned());
    }
    let shm = u64::try_from(h.shm_size)
        .map_err(|_| Failure::invalid("SHM size can not be less than 0"))?;
    let mut r = h.resources;
    let requests = r.device_requests.take().unwrap_or_default();
    Ok(HostSpec {
        device_requests: requests.into_iter().map(device_request).collect(),
        mounts: list,
        tmpfs: h.tmpfs.unwrap_or_default(),
        network: network(&h.network_mode)?,
        pid_mode: namespace("PidMode", &h.pid_mode, &[], &NamespaceMode::Private)?,
        ipc_mode: namespace(
            "IpcMode",
            &h.ipc_mode,
            &["private", "shareable", "none"],
            &defaults.ipc_mode,
        )?,
        uts_mode: namespace("UTSMode", &h.uts_mode, &[], &NamespaceMode::Private)?,
        cgroupns_mode: namespace(
            "CgroupnsMode",
            &h.cgroupns_mode,
            &["private"],
            &defaults.cgroupns_mode,
        )?,
        userns_mode: namespace("UsernsMode", &h.userns_mode, &[], &NamespaceMode::Private)?,
        cap_add: h.cap_add.unwrap_or_default(),
        cap_drop: h.cap_drop.unwrap_or_default(),
        security_opt,
        privileged: h.privileged,
        read_only: h.readonly_rootfs,
        init: h.init.unwrap_or(defaults.init),
        auto_remove: h.auto_remove,
        restart: restart(&h.restart_policy, h.auto_remove)?,
        devices: r.devices.iter().flatten().cloned().map(device).collect(),
        device_cgroup_rules: r.device_cgroup_rules.clone().unwrap_or_default(),
        ulimits: ulimits(&r, defaults),
        cgroup_parent: r.cgroup_parent.clone(),
        resources: new_resources(r),
        sysctls: h.sysctls.unwrap_or_default(),
        group_add: h.group_add.unwrap_or_default(),
        oom_score_adj: h.oom_score_adj,
        shm_size: Some(shm).filter(|s| *s > 0).or(defaults.shm_size),
        log: log(h.log_config, &defaults.log),
        masked_paths: h.masked_paths,
        readonly_paths: h.readonly_paths,
        extra_hosts: h.extra_hosts.unwrap_or_default(),
        dns: h.dns.unwrap_or_default(),
        dns_search: h.dns_search.unwrap_or_default(),
        dns_options: h.dns_options.unwrap_or_default(),
        annotations: h.annotations.unwrap_or_default(),
        console_size: h.console_size,
        ..HostSpec::default()
    })
}

/// `--mac-address` of old clients belongs to the network of the mode.
fn first_endpoint(host: &mut HostSpec, mac: &str) -> Result<(), Failure> {
    if mac.is_empty() {
        return Ok(());
    }
    let name = match &host.network {
        NetworkMode::Default => "default",
        NetworkMode::Named(name) => name,
        _ => {
            return Err(Failure::invalid(
                "conflicting options: mac-address and the network mode",
            ));
        }
    };
    let first = host.endpoints.entry(name.to_owned()).or_default();
    first.mac = Some(hardware_address(mac)?);
    Ok(())
}

fn hardware_address(text: &str) -> Result<Mac, Failure> {
    text.parse::<Mac>()
        .map_err(|e| Failure::invalid(e.to_string()))
}

pub(crate) fn endpoint(e: &EndpointSettings) -> Result<EndpointSpec, Failure> {
    unbuilt::endpoint(e)?;
    let address = |text: &str| -> Result<Option<IpAddr>, Failure> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = |_| Failure::invalid(format!("invalid IP address: {text}"));
        text.parse().map(Some).map_err(wrong)
    };
    let ipam = e.ipam_config.clone().unwrap_or_default();
    Ok(EndpointSpec {
        ipv4: address(&ipam.ipv4_address)?,
        ipv6: address(&ipam.ipv6_address)?,
        mac: match e.mac_address.as_str() {
            "" => None,
            text => Some(hardware_address(text)?),
        },
        aliases: e.aliases.clone().unwrap_or_default(),
        links: e.links.clone().unwrap_or_default(),
        gw_priority: e.gw_priority,
        options: e.driver_opts.clone().unwrap_or_default(),
    })
}

fn ports(map: Option<PortMap>) -> Result<Vec<PortSpec>, Failure> {
    let mut out = Vec::new();
    for (port, bindings) in map.unwrap_or_default() {
        let exposed = PortSpec::exposed(&port)
            .ok_or_else(|| Failure::invalid(format!("invalid port specification: {port:?}")))?;
        let bindings = bindings.unwrap_or_default();
        if bindings.is_empty() {
            out.push(exposed.clone());
        }
        out.extend(bindings.into_iter().map(|b| PortSpec {
            host_ip: b.host_ip,
            host_port: b.host_port,
            ..exposed.clone()
        }));
    }
    Ok(out)
}

fn network(mode: &str) -> Result<NetworkMode, Failure> {
    Ok(match mode {
        "" | "default" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        _ => match mode.strip_prefix("container:") {
            Some("") => {
                return Err(Failure::invalid(
                    "NetworkMode: container: must name a container",
                ));
            }
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Named(mode.to_owned()),
        },
    })
}

fn namespace(
    option: &str,
    mode: &str,
    allowed: &[&str],
    default: &NamespaceMode,
) -> Result<NamespaceMode, Failure> {
    if let Some(name) = mode
        .strip_prefix("container:")
        .filter(|name| !name.is_empty())
        && matches!(option, "PidMode" | "IpcMode")
    {
        return Ok(NamespaceMode::Container(name.to_owned()));
    }
    match mode {
        "" => Ok(default.clone()),
        "host" => Ok(NamespaceMode::Host),
        _ if !allowed.contains(&mode) => {
            Err(Failure::invalid(format!("invalid {option}: {mode:?}")))
        }
        "shareable" => Ok(NamespaceMode::Shareable),
        "none" => Ok(NamespaceMode::None),
        _ => Ok(NamespaceMode::Private),
    }
}

pub(crate) fn restart(
    policy: &RestartPolicy,
    auto_remove: bool,
) -> Result<model::RestartPolicy, Failure> {
    let wrong = |why: String| Err(Failure::invalid(format!("invalid restart policy: {why}")));
    let kind = match policy.name.as_str() {
        "" | "no" => RestartKind::No,
        "on-failure" => RestartKind::OnFailure,
        "always" => RestartKind::Always,
        "unless-stopped" => RestartKind::UnlessStopped,
        other => {
            return wrong(format!(
                "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ));
        }
    };
    let Ok(max_retries) = u32::try_from(policy.maximum_retry_count) else {
        return wrong("maximum retry count cannot be negative".to_owned());
    };
    if max_retries > 0 && kind != RestartKind::OnFailure {
        return wrong("maximum retry count can only be used with 'on-failure'".to_owned());
    }
    if auto_remove && kind != RestartKind::No {
        return Err(Failure::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(model::RestartPolicy { kind, max_retries })
}

/// The daemon's options are those of its driver: they hold where that driver is used.
fn log(config: LogConfig, default: &LogSpec) -> LogSpec {
    let mut options = config.config.unwrap_or_default();
    let driver = if config.r#type.is_empty() {
        default.driver.clone()
    } else {
        config.r#type
    };
    if driver == default.driver {
        for (name, value) in &default.options {
            options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    LogSpec { driver, options }
}

fn device(d: api::container::DeviceMapping) -> model::DeviceSpec {
    let path_in_container = if d.path_in_container.is_empty() {
        d.path_on_host.clone()
    } else {
        d.path_in_container
    };
    let permissions = if d.cgroup_permissions.is_empty() {
        "rwm".to_owned()
    } else {
        d.cgroup_permissions
    };
    model::DeviceSpec {
        path_on_host: d.path_on_host,
        path_in_container,
        permissions,
    }
}

fn ulimits(r: &api::container::Resources, defaults: &ContainerDefaults) -> Vec<model::Ulimit> {
    let own: Vec<model::Ulimit> = r
        .ulimits
        .iter()
        .flatten()
        .map(|u| model::Ulimit {
            name: u.name.clone(),
            soft: u.soft,
            hard: u.hard,
        })
        .collect();
    let missing = defaults
        .ulimits
        .iter()
        .filter(|d| own.iter().all(|u| u.name != d.name))
        .cloned()
        .collect::<Vec<_>>();
    own.into_iter().chain(missing).collect()
}

fn new_resources(r: api::container::Resources) -> model::Resources {
    let all = resources(r);
    model::Resources {
        // "without limit" of a new container is no limit; only an update has to say so
        pids_limit: all.pids_limit.filter(|n| *n > 0),
        ..all
    }
}

pub(crate) fn resources(r: api::container::Resources) -> model::Resources {
    model::Resources {
        memory: r.memory,
        memory_reservation: r.memory_reservation,
        memory_swap: r.memory_swap,
        memory_swappiness: r.memory_swappiness.filter(|s| *s != -1),
        oom_kill_disable: r.oom_kill_disable.unwrap_or_default(),
        nano_cpus: r.nano_cpus,
        cpu_shares: r.cpu_shares,
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        pids_limit: r.pids_limit,
        blkio_weight: r.blkio_weight,
        blkio_weight_device: r
            .blkio_weight_device
            .unwrap_or_default()
            .into_iter()
            .map(|d| model::WeightDevice {
                path: d.path,
                weight: d.weight,
            })
            .collect(),
        device_read_bps: throttle(r.blkio_device_read_bps),
        device_write_bps: throttle(r.blkio_device_write_bps),
        device_read_iops: throttle(r.blkio_device_read_iops),
        device_write_iops: throttle(r.blkio_device_write_iops),
    }
}

fn device_request(r: api::container::DeviceRequest) -> model::DeviceRequest {
    model::DeviceRequest {
        driver: r.driver,
        count: r.count,
        ids: r.device_ids.unwrap_or_default(),
        capabilities: r.capabilities.unwrap_or_default(),
        options: r.options.unwrap_or_default(),
    }
}

fn throttle(list: Option<Vec<ThrottleDevice>>) -> Vec<model::ThrottleDevice> {
    let list = list.unwrap_or_default().into_iter();
    list.map(|d| model::ThrottleDevice {
        path: d.path,
        rate: d.rate,
    })
    .collect()
}

pub(crate) fn update(
    request: api::container::UpdateRequest,
) -> Result<engine::UpdateRequest, Failure> {
    unbuilt::resources(&request.resources)?;
    let r = &request.resources;
    for (asked, option) in [
        (r.devices.as_ref().is_some_and(|d| !d.is_empty()), "Devices"),
        (
            r.device_cgroup_rules
                .as_ref()
                .is_some_and(|d| !d.is_empty()),
            "DeviceCgroupRules",
        ),
        (r.ulimits.as_ref().is_some_and(|d| !d.is_empty()), "Ulimits"),
        (!r.cgroup_parent.is_empty(), "CgroupParent"),
    ] {
        if asked {
            return Err(Failure::not_built(format!("{option} in an update")));
        }
    }
    let policy = &request.restart_policy;
    let restart = if policy.name.is_empty() {
        None
    } else {
        Some(restart(policy, false)?)
    };
    Ok(engine::UpdateRequest {
        resources: resources(request.resources),
        restart,
    })
}
