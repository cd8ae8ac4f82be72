//! Containers as `inspect` shows them.

use std::collections::BTreeMap;

use api::container as wire;
use api::container::{Config, ContainerInspect, DriverData, HostConfig, NO_TIME, State};
use api::network::{EndpointIpamConfig, EndpointSettings, NetworkSettings, PortBinding, PortMap};
use engine::model::{
    ContainerSpec, EndpointSpec, HostSpec, MountKind, MountSpec, NamespaceMode, NetworkMode, Phase,
    Publication, RestartKind,
};
use engine::{ContainerView, EndpointState};

/// 64 MiB, as dockerd.
const SHM: i64 = 64 << 20;

pub(crate) fn container(view: &ContainerView, driver: &str) -> ContainerInspect {
    let record = &view.record;
    let text = |path: &std::path::Path| path.display().to_string();
    ContainerInspect {
        id: record.id.clone(),
        created: record.created.clone(),
        path: record.argv.first().cloned().unwrap_or_default(),
        args: record.argv.iter().skip(1).cloned().collect(),
        state: state(view),
        image: record.image_id.clone(),
        resolv_conf_path: text(&view.paths.resolv_conf),
        hostname_path: text(&view.paths.hostname),
        hosts_path: text(&view.paths.hosts),
        // as dockerd: of the one driver whose file is for others to read
        log_path: match view.record.spec.host.log.driver.as_str() {
            "" | "json-file" => view.paths.log.as_deref().map(text).unwrap_or_default(),
            _ => String::new(),
        },
        name: format!("/{}", record.name),
        restart_count: view.restart_count.into(),
        driver: driver.to_owned(),
        platform: "linux".to_owned(),
        exec_ids: Some(view.exec_ids.clone()).filter(|ids| !ids.is_empty()),
        host_config: HostConfig {
            links: shown_links(&record.name, &record.spec.host.links),
            ..host_config(&record.spec.host)
        },
        graph_driver: DriverData {
            data: Some(BTreeMap::from([
                ("UpperDir".to_owned(), text(&view.paths.upper)),
                ("WorkDir".to_owned(), text(&view.paths.work)),
            ])),
            name: driver.to_owned(),
        },
        mounts: mounts(view),
        config: config(view),
        network_settings: network_settings(view),
        ..ContainerInspect::default()
    }
}

/// Docker's word for a phase. What is between two states is shown as the one it comes from.
pub(crate) fn status(phase: Phase) -> &'static str {
    match phase {
        Phase::Created | Phase::Starting => "created",
        Phase::Running | Phase::Stopping => "running",
        Phase::Paused => "paused",
        Phase::Restarting => "restarting",
        Phase::Exited => "exited",
        Phase::Removing => "removing",
        Phase::Dead => "dead",
    }
}

fn state(view: &ContainerView) -> State {
    let status = status(view.phase);
    let running = matches!(status, "running" | "paused" | "restarting");
    State {
        status: status.to_owned(),
        running,
        paused: status == "paused",
        restarting: status == "restarting",
        oom_killed: view.oom_killed,
        dead: status == "dead",
        pid: view.pid.into(),
        exit_code: view.exit_code.into(),
        error: view.error.clone(),
        started_at: view
            .started_at
            .clone()
            .unwrap_or_else(|| NO_TIME.to_owned()),
        finished_at: view
            .finished_at
            .clone()
            .unwrap_or_else(|| NO_TIME.to_owned()),
        health: view.health.as_deref().map(health),
    }
}

fn health(health: &engine::Health) -> wire::Health {
    let result = |r: &engine::HealthResult| wire::HealthResult {
        start: r.start.clone(),
        end: r.end.clone(),
        exit_code: r.code.into(),
        output: r.output.clone(),
    };
    wire::Health {
        status: engine::health_word(health.status).to_owned(),
        failing_streak: health.failing_streak.into(),
        log: Some(health.log.iter().map(result).collect()),
    }
}

pub(super) fn health_config(h: &engine::model::HealthSpec) -> wire::HealthConfig {
    wire::HealthConfig {
        test: h.test.clone(),
        interval: h.interval,
        timeout: h.timeout,
        start_period: h.start_period,
        start_interval: h.start_interval,
        retries: h.retries,
    }
}

pub(crate) fn mounts(view: &ContainerView) -> Vec<wire::MountPoint> {
    view.record
        .mounts
        .iter()
        .map(|m| wire::MountPoint {
            r#type: kind(m.kind).to_owned(),
            name: match m.kind {
                MountKind::Image => String::new(),
                _ => m.name.clone(),
            },
            source: match m.kind {
                MountKind::Image => m.spec.source.clone(),
                _ => m.source.clone(),
            },
            destination: m.destination.clone(),
            driver: if m.kind == MountKind::Volume {
                "local".to_owned()
            } else {
                String::new()
            },
            mode: given_mode(&m.spec),
            rw: !m.read_only,
            propagation: m.propagation.clone(),
        })
        .collect()
}

/// The options of `-v`, as they were written.
fn given_mode(spec: &MountSpec) -> String {
    spec.given
        .as_deref()
        .and_then(|g| g.splitn(3, ':').nth(2))
        .unwrap_or_default()
        .to_owned()
}

fn kind(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    }
}

fn set(keys: &[String]) -> Option<api::Set> {
    (!keys.is_empty()).then(|| keys.iter().map(|k| (k.clone(), api::Empty {})).collect())
}

/// What the container is called inside: its short id where nobody said.
fn hostname(view: &ContainerView) -> String {
    let spec = &view.record.spec;
    let own = spec.host.network != NetworkMode::Host && spec.host.uts_mode != NamespaceMode::Host;
    if spec.hostname.is_empty() && own {
        return view.id().chars().take(12).collect();
    }
    spec.hostname.clone()
}

fn config(view: &ContainerView) -> Config {
    let spec: &ContainerSpec = &view.record.spec;
    Config {
        hostname: hostname(view),
        domainname: spec.domainname.clone(),
        user: spec.user.clone(),
        attach_stdin: spec.attach_stdin,
        attach_stdout: spec.attach_stdout,
        attach_stderr: spec.attach_stderr,
        exposed_ports: set(&spec.exposed_ports),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        env: Some(spec.env.clone()),
        cmd: spec.command.clone(),
        image: spec.image.clone(),
        volumes: set(&spec.volumes),
        working_dir: spec.working_dir.clone(),
        entrypoint: spec.entrypoint.clone(),
        labels: Some(spec.labels.clone()),
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        stop_timeout: spec.stop_timeout,
        healthcheck: spec.health.as_ref().map(health_config),
        on_build: Some(spec.on_build.clone()).filter(|l| !l.is_empty()),
        ..Config::default()
    }
}

pub(crate) fn network_name(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "default".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

/// Its endpoints: as they are while it runs, as they are asked for else; a container that shares
/// another's has none of its own.
pub(crate) fn endpoints(view: &ContainerView) -> BTreeMap<String, EndpointSettings> {
    let record = &view.record;
    if let Some(membership) = &view.membership {
        let all = membership.endpoints.iter();
        return all
            .map(|e| {
                let asked = record.networks.get(&e.network);
                let settings = EndpointSettings {
                    dns_names: list(&membership.dns_names(e)),
                    ..settings(e, asked)
                };
                (e.network.clone(), settings)
            })
            .collect();
    }
    if !record.networks.is_empty() {
        let all = record.networks.iter();
        return all
            .map(|(name, spec)| (name.clone(), asked_for(spec)))
            .collect();
    }
    let name = match &record.spec.host.network {
        NetworkMode::Container(_) => return BTreeMap::new(),
        NetworkMode::Host => "host",
        _ => "none",
    };
    let endpoint = EndpointSettings {
        network_id: crate::docker::networks::id(name),
        ..EndpointSettings::default()
    };
    BTreeMap::from([(name.to_owned(), endpoint)])
}

fn asked_for(spec: &EndpointSpec) -> EndpointSettings {
    let text = |a: Option<std::net::IpAddr>| a.map_or_else(String::new, |a| a.to_string());
    let asked = EndpointIpamConfig {
        ipv4_address: text(spec.ipv4),
        ipv6_address: text(spec.ipv6),
        link_local_ips: Vec::new(),
    };
    EndpointSettings {
        ipam_config: Some(asked).filter(|a| *a != EndpointIpamConfig::default()),
        aliases: list(&spec.aliases),
        links: list(&spec.links),
        mac_address: spec.mac.map_or_else(String::new, |m| m.to_string()),
        gw_priority: spec.gw_priority,
        driver_opts: Some(spec.options.clone()).filter(|o| !o.is_empty()),
        ..EndpointSettings::default()
    }
}

fn settings(e: &EndpointState, asked: Option<&EndpointSpec>) -> EndpointSettings {
    let address = |four| e.address(four).map(|p| p.address.to_string());
    let length = |four| e.address(four).map_or(0, |p| i64::from(p.length));
    let gateway = |four| e.gateway(four).map(|g| g.to_string());
    EndpointSettings {
        mac_address: e.mac.map_or_else(String::new, |m| m.to_string()),
        network_id: e.network_id.clone(),
        endpoint_id: e.endpoint_id.clone(),
        gateway: gateway(true).unwrap_or_default(),
        ip_address: address(true).unwrap_or_default(),
        ip_prefix_len: length(true),
        ipv6_gateway: gateway(false).unwrap_or_default(),
        global_ipv6_address: address(false).unwrap_or_default(),
        global_ipv6_prefix_len: length(false),
        ..asked.map(asked_for).unwrap_or_default()
    }
}

fn network_settings(view: &ContainerView) -> NetworkSettings {
    let networks = endpoints(view);
    let Some(membership) = &view.membership else {
        return NetworkSettings {
            networks,
            ..NetworkSettings::default()
        };
    };
    // the fields beside the list are of the default network alone, as with dockerd
    let first = networks.get("bridge").cloned().unwrap_or_default();
    NetworkSettings {
        sandbox_id: membership
            .endpoints
            .first()
            .map_or_else(String::new, |e| e.endpoint_id.clone()),
        sandbox_key: if view.pid == 0 {
            String::new()
        } else {
            format!("/proc/{}/ns/net", view.pid)
        },
        ports: ports(view, &membership.ports),
        endpoint_id: first.endpoint_id,
        gateway: first.gateway,
        global_ipv6_address: first.global_ipv6_address,
        global_ipv6_prefix_len: first.global_ipv6_prefix_len,
        ip_address: first.ip_address,
        ip_prefix_len: first.ip_prefix_len,
        ipv6_gateway: first.ipv6_gateway,
        mac_address: first.mac_address,
        networks,
        ..NetworkSettings::default()
    }
}

/// Exposed ports, and where those that are published are.
fn ports(view: &ContainerView, published: &[Publication]) -> PortMap {
    let exposed = view.record.spec.exposed_ports.iter();
    let mut all: PortMap = exposed.map(|p| (p.clone(), None)).collect();
    for p in published {
        let key = format!("{}/{}", p.to.port(), p.protocol);
        let bindings = all.entry(key).or_default();
        if p.port == 0 {
            // a port of its own address: none of the host's
            continue;
        }
        let list = bindings.get_or_insert_with(Vec::new);
        list.push(PortBinding {
            host_ip: p.host.to_string(),
            host_port: p.port.to_string(),
        });
    }
    all
}

fn asked_ports(h: &HostSpec) -> PortMap {
    let mut all = PortMap::new();
    for p in &h.ports {
        let key = format!("{}/{}", p.container, p.protocol);
        let list = all.entry(key).or_default().get_or_insert_with(Vec::new);
        list.push(PortBinding {
            host_ip: p.host_ip.clone(),
            host_port: p.host_port.clone(),
        });
    }
    all
}

fn mode(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Shareable => "shareable".to_owned(),
        NamespaceMode::None => "none".to_owned(),
        NamespaceMode::Container(name) => format!("container:{name}"),
    }
}

fn list(items: &[String]) -> Option<Vec<String>> {
    (!items.is_empty()).then(|| items.to_vec())
}

fn map(items: &BTreeMap<String, String>) -> Option<api::StringMap> {
    (!items.is_empty()).then(|| items.clone())
}

/// `/db:/web/sql`: whose, and by which name the container knows it.
fn shown_links(own: &str, links: &[String]) -> Option<Vec<String>> {
    let shown = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let plain = |s: &str| s.trim_start_matches('/').to_owned();
        format!("/{}:/{own}/{}", plain(name), plain(alias))
    };
    (!links.is_empty()).then(|| links.iter().map(shown).collect())
}

fn host_config(h: &HostSpec) -> HostConfig {
    let (binds, mounts): (Vec<&MountSpec>, Vec<&MountSpec>) =
        h.mounts.iter().partition(|m| m.given.is_some());
    HostConfig {
        binds: (!binds.is_empty()).then(|| binds.iter().filter_map(|m| m.given.clone()).collect()),
        log_config: wire::LogConfig {
            r#type: h.log.driver.clone(),
            config: Some(h.log.options.clone()),
        },
        network_mode: network_name(&h.network),
        port_bindings: Some(asked_ports(h)),
        publish_all_ports: h.publish_all,
        volumes_from: list(&h.volumes_from),
        restart_policy: restart_policy(h),
        auto_remove: h.auto_remove,
        console_size: h.console_size,
        annotations: map(&h.annotations),
        cap_add: list(&h.cap_add),
        cap_drop: list(&h.cap_drop),
        cgroupns_mode: mode(&h.cgroupns_mode, "private"),
        dns: Some(h.dns.clone()),
        dns_options: Some(h.dns_options.clone()),
        dns_search: Some(h.dns_search.clone()),
        extra_hosts: list(&h.extra_hosts),
        group_add: list(&h.group_add),
        ipc_mode: mode(&h.ipc_mode, "private"),
        oom_score_adj: h.oom_score_adj,
        pid_mode: mode(&h.pid_mode, ""),
        privileged: h.privileged,
        readonly_rootfs: h.read_only,
        security_opt: list(&h.security_opt),
        tmpfs: map(&h.tmpfs),
        uts_mode: mode(&h.uts_mode, ""),
        userns_mode: mode(&h.userns_mode, ""),
        shm_size: h
            .shm_size
            .map_or(SHM, |s| i64::try_from(s).unwrap_or(i64::MAX)),
        sysctls: map(&h.sysctls),
        runtime: "plimsoll".to_owned(),
        resources: resources(h),
        mounts: (!mounts.is_empty()).then(|| mounts.into_iter().map(mount).collect()),
        masked_paths: h.masked_paths.clone(),
        readonly_paths: h.readonly_paths.clone(),
        init: h.init.then_some(true),
        ..HostConfig::default()
    }
}

fn restart_policy(h: &HostSpec) -> wire::RestartPolicy {
    let name = match h.restart.kind {
        RestartKind::No => "no",
        RestartKind::OnFailure => "on-failure",
        RestartKind::Always => "always",
        RestartKind::UnlessStopped => "unless-stopped",
    };
    wire::RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: h.restart.max_retries.into(),
    }
}

fn mount(m: &MountSpec) -> wire::Mount {
    let mut out = wire::Mount {
        r#type: kind(m.kind).to_owned(),
        source: m.source.clone(),
        target: m.target.clone(),
        read_only: m.read_only,
        ..wire::Mount::default()
    };
    match m.kind {
        MountKind::Bind => {
            let options = wire::BindOptions {
                propagation: m.propagation.clone().unwrap_or_default(),
                non_recursive: m.non_recursive,
                create_mountpoint: m.create_source,
                read_only_non_recursive: m.read_only_non_recursive,
                read_only_force_recursive: false,
            };
            out.bind_options = Some(options).filter(|o| *o != wire::BindOptions::default());
        }
        MountKind::Volume => {
            let options = wire::VolumeOptions {
                no_copy: m.no_copy,
                labels: m.volume_labels.clone(),
                subpath: m.subpath.clone().unwrap_or_default(),
                driver_config: Some(wire::DriverConfig {
                    name: String::new(),
                    options: m.volume_options.clone(),
                })
                .filter(|c| !c.options.is_empty()),
            };
            out.volume_options = Some(options).filter(|o| *o != wire::VolumeOptions::default());
        }
        MountKind::Tmpfs => {
            let options = wire::TmpfsOptions {
                size_bytes: m
                    .tmpfs_size
                    .map_or(0, |s| i64::try_from(s).unwrap_or(i64::MAX)),
                mode: m.tmpfs_mode.unwrap_or(0),
                options: m.tmpfs_options.iter().map(|o| words(o)).collect(),
            };
            out.tmpfs_options = Some(options).filter(|o| *o != wire::TmpfsOptions::default());
        }
        MountKind::Image => {
            let options = wire::ImageOptions {
                subpath: m.subpath.clone().unwrap_or_default(),
            };
            out.image_options = Some(options).filter(|o| *o != wire::ImageOptions::default());
        }
    }
    out
}

/// `key=value` as two, a flag as one.
fn words(option: &str) -> Vec<String> {
    let parts = option.splitn(2, '=');
    parts.map(str::to_owned).collect()
}

fn device_request(r: &engine::model::DeviceRequest) -> wire::DeviceRequest {
    wire::DeviceRequest {
        driver: r.driver.clone(),
        count: r.count,
        device_ids: Some(r.ids.clone()),
        capabilities: Some(r.capabilities.clone()),
        options: Some(r.options.clone()),
    }
}

fn resources(h: &HostSpec) -> wire::Resources {
    let r = &h.resources;
    let throttle = |list: &[engine::model::ThrottleDevice]| {
        let all = list.iter().map(|d| wire::ThrottleDevice {
            path: d.path.clone(),
            rate: d.rate,
        });
        (!list.is_empty()).then(|| all.collect())
    };
    let weights = r.blkio_weight_device.iter().map(|d| wire::WeightDevice {
        path: d.path.clone(),
        weight: d.weight,
    });
    let devices = h.devices.iter().map(|d| wire::DeviceMapping {
        path_on_host: d.path_on_host.clone(),
        path_in_container: d.path_in_container.clone(),
        cgroup_permissions: d.permissions.clone(),
    });
    let ulimits = h.ulimits.iter().map(|u| wire::Ulimit {
        name: u.name.clone(),
        hard: u.hard,
        soft: u.soft,
    });
    wire::Resources {
        cpu_shares: r.cpu_shares,
        memory: r.memory,
        nano_cpus: r.nano_cpus,
        cgroup_parent: h.cgroup_parent.clone(),
        blkio_weight: r.blkio_weight,
        blkio_weight_device: Some(weights.collect()),
        blkio_device_read_bps: throttle(&r.device_read_bps),
        blkio_device_write_bps: throttle(&r.device_write_bps),
        blkio_device_read_iops: throttle(&r.device_read_iops),
        blkio_device_write_iops: throttle(&r.device_write_iops),
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        devices: Some(devices.collect()),
        device_cgroup_rules: list(&h.device_cgroup_rules),
        device_requests: Some(h.device_requests.iter().map(device_request).collect())
            .filter(|all: &Vec<_>| !all.is_empty()),
        memory_reservation: r.memory_reservation,
        memory_swap: r.memory_swap,
        memory_swappiness: r.memory_swappiness,
        oom_kill_disable: Some(r.oom_kill_disable),
        pids_limit: r.pids_limit,
        ulimits: Some(ulimits.collect()),
        ..wire::Resources::default()
    }
}
