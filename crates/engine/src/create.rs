//! From what a user asked to a record: checked, merged with the image, with its volumes.
//!
//! ```text
//! check (pure) -> image -> merge (pure) -> name claimed -> host paths looked at -> volumes made and
//! filled -> row durable -> actor -> answered
//! ```
//!
//! Whatever fails gives the name back. Volumes made for it by name stay, as with Docker; anonymous
//! ones are taken away again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::Facts;
use store::NewContainer;

use crate::container::{self, Found};
use crate::error::Error;
use crate::inner::{Inner, container_error, now};
use crate::model::{
    ContainerRecord, ContainerSpec, EndpointSpec, ErrorKind, HostSpec, MountKind, MountPoint,
    MountSpec, NamespaceMode, NetworkMode, RecordedState, Resources, RestartKind,
};
use crate::networks::NetworkRecord;
use crate::security::{self, SecurityOptions};
use crate::views::{Created, ImageConfig, ImageView};
use crate::{names, ocispec, volumes};

/// A host path that does not answer for this long is refused.
const PATH_DEADLINE: Duration = Duration::from_secs(5);
const LEAST_MEMORY: i64 = 6 << 20;

pub(crate) async fn create(
    engine: &Arc<Inner>,
    name: Option<String>,
    mut spec: ContainerSpec,
) -> Result<Created, Error> {
    let mut warnings = check(&mut spec, &engine.config.facts)?;
    let image = engine.image(&spec.image)?;
    if !spec.host.of_build {
        merge(&mut spec, &image.config);
    }
    let argv = argv(&spec);
    if argv.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("No command specified"));
    }
    defaults(&mut spec, engine);
    let inherited = inherited(engine, &spec.host.volumes_from)?;
    let mut mounts = mount_points(&spec, &inherited)?;
    resolve_peers(engine, &mut spec.host)?;
    for link in &spec.host.links {
        engine
            .containers
            .find(crate::links::split(link).0)
            .map_err(not_there)?;
    }
    check_requested_devices(engine, &spec.host).await?;
    let networks = networks_of(engine, &mut spec, &mut warnings)?;
    for point in mounts.iter_mut().filter(|m| m.kind == MountKind::Image) {
        point.name = engine.image(&point.spec.source).map_err(not_there)?.id;
    }
    look_at_sources(&mounts).await?;
    let id = names::new_id();
    let name = claim(engine, name, &id)?;
    let auto_remove = spec.host.auto_remove;
    let record = ContainerRecord {
        id: id.clone(),
        name: name.clone(),
        created: now(),
        image_id: image.id.clone(),
        spec,
        argv,
        mounts: Vec::new(),
        state: RecordedState::default(),
        restart_count: 0,
        stopped_by_user: false,
        networks,
    };
    let made = async {
        let made_volumes = volumes::make(engine, &mut mounts, &image.id).await?;
        let mut record = record;
        record.mounts = mounts;
        let result = store_record(engine, record, auto_remove).await;
        if result.is_err() {
            volumes::unmake(engine, &made_volumes).await;
        }
        result
    };
    match made.await {
        Ok(record) => {
            let entry = container::spawn(engine, record, std::future::ready(Found::New), None);
            let view = entry.view.load_full();
            engine.containers.insert(entry);
            engine.container_event(&view.record, "create", &[]);
            Ok(Created { id, warnings })
        }
        Err(error) => {
            engine.containers.release_name(&name, &id);
            Err(error)
        }
    }
}

/// The networks it is in, by name: the one of its mode, and those it has an endpoint asked for.
fn networks_of(
    engine: &Inner,
    spec: &mut ContainerSpec,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, EndpointSpec>, Error> {
    let host = &mut spec.host;
    let first = match (engine.networks.of_mode(&host.network), &host.network) {
        // what was not asked for by name may be absent
        (Err(error), NetworkMode::Default) => {
            warnings.push(format!(
                "{}: this container has none but loopback (as --network none)",
                error.report()
            ));
            None
        }
        (found, _) => found.map_err(not_there)?,
    };
    let mut out = BTreeMap::new();
    for (wanted, endpoint) in std::mem::take(&mut host.endpoints) {
        let record = match wanted.as_str() {
            // what clients send for the mode itself
            "default" => first.clone(),
            "none" | "host" => None,
            name => Some(engine.networks.find(name).map_err(not_there)?),
        };
        if let Some(record) = record {
            check_endpoint(&record, &endpoint)?;
            out.insert(record.name.clone(), endpoint);
        }
    }
    match &first {
        Some(record) => drop(out.entry(record.name.clone()).or_default()),
        None if !out.is_empty() => {
            return Err(Error::invalid(
                "conflicting options: an endpoint of a network with a network mode that has none",
            ));
        }
        None => {}
    }
    let publishes = !host.ports.is_empty() || host.publish_all;
    if publishes && host.network == NetworkMode::Host {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    } else if publishes && out.is_empty() {
        return Err(Error::invalid(
            "conflicting options: ports cannot be published (--publish, --publish-all) of a container without a network of its own",
        ));
    }
    for port in &host.ports {
        port.host_range()?;
    }
    Ok(out)
}

/// Clients take a create's "not found" for the image's, and fetch that.
fn not_there(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::invalid(error.report()),
        _ => error,
    }
}

pub(crate) fn check_endpoint(
    network: &NetworkRecord,
    endpoint: &EndpointSpec,
) -> Result<(), Error> {
    if network.name == crate::networks::BRIDGE
        && !(endpoint.aliases.is_empty() && endpoint.links.is_empty())
    {
        return Err(Error::invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    crate::networks::EndpointOptions::read(&endpoint.options)?;
    for address in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
        let inside = network.subnets.iter().any(|s| s.subnet.contains(address));
        if !inside {
            return Err(Error::invalid(format!(
                "invalid endpoint settings: no configured subnet of network {} contains the address {address}",
                network.name
            )));
        }
    }
    Ok(())
}

async fn store_record(
    engine: &Arc<Inner>,
    record: ContainerRecord,
    ephemeral: bool,
) -> Result<ContainerRecord, Error> {
    engine
        .blocking("write the container's record", move |inner| {
            let document = Inner::encode(&record)?;
            let volumes: BTreeSet<String> = record
                .mounts
                .iter()
                .filter(|m| m.kind == MountKind::Volume)
                .map(|m| m.name.clone())
                .collect();
            let volumes: Vec<String> = volumes.into_iter().collect();
            let made = inner.store.container_create(&NewContainer {
                id: &record.id,
                name: &record.name,
                image: &record.image_id,
                volumes: &volumes,
                document: &document,
                ephemeral,
            });
            let fs = made.map_err(container_error("create the container"))?;
            if inner.store.driver() == store::Driver::Vfs {
                let copied = inner
                    .store
                    .copy_rootfs(&record.image_id, &fs.dir.join("rootfs"));
                if let Err(error) = copied {
                    drop(inner.store.container_remove(&record.id));
                    return Err(Error::store("copy the image's files (driver vfs)")(error));
                }
            }
            Ok(record)
        })
        .await
}

fn claim(engine: &Inner, name: Option<String>, id: &str) -> Result<String, Error> {
    if let Some(name) = name {
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        names::check("container", &name)?;
        engine.containers.claim_name(&name, id)?;
        return Ok(name);
    }
    for attempt in 0..100 {
        let name = names::random_name(attempt);
        if engine.containers.claim_name(&name, id).is_ok() {
            return Ok(name);
        }
    }
    engine.containers.claim_name(&id[..12], id)?;
    Ok(id[..12].to_owned())
}

// ---- checks

/// What can be refused without looking at anything but the request and the host's facts.
/// Answers warnings.
pub(crate) fn check(spec: &mut ContainerSpec, facts: &Facts) -> Result<Vec<String>, Error> {
    let host = &spec.host;
    if spec.image.is_empty() {
        return Err(Error::invalid("no image given"));
    }
    if !spec.working_dir.is_empty() && !spec.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            spec.working_dir
        )));
    }
    if let Some(health) = &spec.health {
        crate::container::check_health(health)?;
    }
    if let Some(signal) = spec.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        names::signal(signal)?;
    }
    if host.auto_remove && host.restart.kind != RestartKind::No {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    if host.restart.kind != RestartKind::OnFailure && host.restart.max_retries > 0 {
        return Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    for entry in &spec.env {
        if entry.starts_with('=') || entry.is_empty() {
            return Err(Error::invalid(format!(
                "invalid environment variable: {entry}"
            )));
        }
    }
    check_modes(host)?;
    security::capabilities(
        host.privileged,
        &host.cap_add,
        &host.cap_drop,
        &facts.process.bounding,
    )?;
    check_security(host, facts)?;
    ocispec::rlimits(&host.ulimits)?;
    check_sysctls(host)?;
    crate::logdriver::check(&host.log)?;
    check_mounts(host, facts)?;
    check_resources(&mut spec.host.resources, facts)
}

fn check_modes(host: &HostSpec) -> Result<(), Error> {
    let pid_of = |flag: &str, mode: &NamespaceMode, allowed: &[&str]| {
        let word = match mode {
            NamespaceMode::Private => "private",
            NamespaceMode::Host => "host",
            NamespaceMode::Shareable => "shareable",
            NamespaceMode::None => "none",
            NamespaceMode::Container(_) => "container",
        };
        if allowed.contains(&word) {
            return Ok(());
        }
        Err(Error::invalid(format!("invalid --{flag} mode: {word}")))
    };
    pid_of("pid", &host.pid_mode, &["private", "host", "container"])?;
    pid_of(
        "ipc",
        &host.ipc_mode,
        &["private", "host", "shareable", "none", "container"],
    )?;
    pid_of("uts", &host.uts_mode, &["private", "host"])?;
    pid_of("cgroupns", &host.cgroupns_mode, &["private", "host"])?;
    pid_of("userns", &host.userns_mode, &["private", "host"])
}

fn check_security(host: &HostSpec, facts: &Facts) -> Result<(), Error> {
    let options = SecurityOptions::parse(&host.security_opt)?;
    let named = options.apparmor.as_deref().filter(|p| *p != "unconfined");
    if let Some(profile) = named
        && !facts.lsm.apparmor
    {
        return Err(Error::unsupported(format!(
            "--security-opt apparmor={profile}: AppArmor is not enabled on this host"
        )));
    }
    Ok(())
}

async fn check_requested_devices(engine: &Arc<Inner>, host: &HostSpec) -> Result<(), Error> {
    if host.device_requests.is_empty() {
        return Ok(());
    }
    let requests = host.device_requests.clone();
    engine
        .blocking("look for CDI devices", move |inner| {
            crate::cdi::load(&inner.config.cdi_dirs).check(&requests)
        })
        .await
}

fn check_mounts(host: &HostSpec, facts: &Facts) -> Result<(), Error> {
    for mount in &host.mounts {
        if mount.relabel && facts.lsm.selinux {
            return Err(Error::unsupported(format!(
                "the option z of the mount at {}: files are not labelled for SELinux yet; label them by chcon -t container_file_t, and leave the option out",
                mount.target
            )));
        }
        if mount.kind == MountKind::Volume {
            crate::passed::Kind::parse(&mount.volume_options)?;
        }
    }
    Ok(())
}

/// Only what the container's own namespaces hold may be set.
fn check_sysctls(host: &HostSpec) -> Result<(), Error> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm_next_id",
    ];
    for key in host.sysctls.keys() {
        let refused = |why: &str| {
            Err(Error::invalid(format!(
                "sysctl '{key}' is not allowed: {why}"
            )))
        };
        if key.starts_with("net.") {
            if matches!(host.network, NetworkMode::Host) {
                return refused("the container is in the host's network namespace");
            }
        } else if IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
            if host.ipc_mode == NamespaceMode::Host {
                return refused("the container is in the host's IPC namespace");
            }
        } else if matches!(key.as_str(), "kernel.domainname") {
            if host.uts_mode == NamespaceMode::Host {
                return refused("the container is in the host's UTS namespace");
            }
        } else {
            return refused("it is not separate for each container");
        }
    }
    Ok(())
}

/// Refuses nonsense; what this host cannot limit is left out with a warning, as Docker does.
pub(crate) fn check_resources(r: &mut Resources, facts: &Facts) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    let wrong = |text: &str| Err(Error::invalid(text.to_owned()));
    if r.memory != 0 && r.memory < LEAST_MEMORY {
        return wrong("Minimum memory limit allowed is 6MB");
    }
    if r.memory_swap > 0 && r.memory == 0 {
        return wrong(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if r.memory_swap > 0 && r.memory_swap < r.memory {
        return wrong("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory > 0 && r.memory_reservation > r.memory {
        return wrong(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if r.nano_cpus > 0 && (r.cpu_quota > 0 || r.cpu_period > 0) {
        return wrong("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set");
    }
    let most = i64::try_from(std::thread::available_parallelism().map_or(1, usize::from))
        .unwrap_or(i64::MAX);
    if r.nano_cpus < 0 || r.nano_cpus > most.saturating_mul(1_000_000_000) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {most}.00, as there are only {most} CPUs available"
        )));
    }
    if r.cpu_quota > 0 && r.cpu_quota < 1000 {
        return wrong("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return wrong(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if r.memory_swappiness
        .is_some_and(|s| !(-1..=100).contains(&s))
    {
        return wrong("Invalid value for swappiness, valid memory swappiness range is 0-100");
    }
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return wrong("Range of blkio weight is from 10 to 1000");
    }
    drop_unsupported(r, facts, &mut warnings);
    Ok(warnings)
}

fn drop_unsupported(r: &mut Resources, facts: &Facts, warnings: &mut Vec<String>) {
    let cgroup = &facts.cgroup;
    let mut without = |what: &str| {
        warnings.push(format!(
            "Your kernel does not support {what} or the cgroup is not mounted. Limitation discarded."
        ));
    };
    if r.memory > 0 && cgroup.controller("memory").is_none() {
        (r.memory, r.memory_swap, r.memory_reservation) = (0, -1, 0);
        without("memory limit capabilities");
    }
    if r.memory > 0 && r.memory_swap != -1 && !cgroup.swap_accounting {
        let asked = r.memory_swap > 0;
        r.memory_swap = -1;
        if asked {
            without("swap limit capabilities");
        }
    }
    if (r.nano_cpus > 0 || r.cpu_quota > 0 || r.cpu_period > 0) && !cgroup.cpu_quota {
        (r.nano_cpus, r.cpu_quota, r.cpu_period) = (0, 0, 0);
        without("CPU CFS scheduler");
    }
    if r.pids_limit.is_some_and(|p| p > 0) && !cgroup.pids {
        r.pids_limit = None;
        without("PIDs limit capabilities");
    }
    if (!r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty())
        && cgroup.controller("cpuset").is_none()
    {
        r.cpuset_cpus.clear();
        r.cpuset_mems.clear();
        without("cpuset");
    }
}

/// What an update gives replaces; what it leaves at 0 or absent stays.
pub(crate) fn merge_resources(have: &mut Resources, new: &Resources) {
    fn take<T: PartialEq + Default + Clone>(have: &mut T, new: &T) {
        if *new != T::default() {
            have.clone_from(new);
        }
    }
    // a new limit of CPU time replaces the other way of giving it
    if new.nano_cpus != 0 {
        (have.cpu_period, have.cpu_quota) = (0, 0);
    } else if new.cpu_period != 0 || new.cpu_quota != 0 {
        have.nano_cpus = 0;
    }
    // a limit above the old one of memory and swap together would be refused by the kernel
    if new.memory != 0 && new.memory_swap == 0 && have.memory_swap > 0 {
        have.memory_swap = have.memory_swap.max(new.memory);
    }
    take(&mut have.memory, &new.memory);
    take(&mut have.memory_reservation, &new.memory_reservation);
    take(&mut have.memory_swap, &new.memory_swap);
    take(&mut have.memory_swappiness, &new.memory_swappiness);
    take(&mut have.oom_kill_disable, &new.oom_kill_disable);
    take(&mut have.nano_cpus, &new.nano_cpus);
    take(&mut have.cpu_shares, &new.cpu_shares);
    take(&mut have.cpu_period, &new.cpu_period);
    take(&mut have.cpu_quota, &new.cpu_quota);
    take(&mut have.cpuset_cpus, &new.cpuset_cpus);
    take(&mut have.cpuset_mems, &new.cpuset_mems);
    take(&mut have.pids_limit, &new.pids_limit);
    take(&mut have.blkio_weight, &new.blkio_weight);
    take(&mut have.blkio_weight_device, &new.blkio_weight_device);
    take(&mut have.device_read_bps, &new.device_read_bps);
    take(&mut have.device_write_bps, &new.device_write_bps);
    take(&mut have.device_read_iops, &new.device_read_iops);
    take(&mut have.device_write_iops, &new.device_write_iops);
}

// ---- merging with the image

/// The user's word first; what was not said is the image's.
pub(crate) fn merge(spec: &mut ContainerSpec, image: &ImageConfig) {
    if spec.user.is_empty() {
        spec.user.clone_from(&image.user);
    }
    let name = |e: &str| e.split('=').next().unwrap_or(e).to_owned();
    let have: BTreeSet<String> = spec.env.iter().map(|e| name(e)).collect();
    for entry in &image.env {
        if !have.contains(&name(entry)) {
            spec.env.push(entry.clone());
        }
    }
    // an entrypoint of one's own makes the image's command meaningless
    if spec.entrypoint.is_none() {
        if spec.command.as_ref().is_none_or(Vec::is_empty) {
            spec.command.clone_from(&image.cmd);
        }
        spec.entrypoint.clone_from(&image.entrypoint);
    }
    if spec.working_dir.is_empty() {
        spec.working_dir.clone_from(&image.working_dir);
    }
    for (key, value) in &image.labels {
        spec.labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    if spec.stop_signal.as_ref().is_none_or(String::is_empty) {
        spec.stop_signal.clone_from(&image.stop_signal);
    }
    crate::container::inherit_health(&mut spec.health, image.health.as_ref());
    for port in &image.exposed_ports {
        if !spec.exposed_ports.contains(port) {
            spec.exposed_ports.push(port.clone());
        }
    }
    for volume in &image.volumes {
        if !spec.volumes.contains(volume) {
            spec.volumes.push(volume.clone());
        }
    }
}

/// What runs. An entrypoint of one empty string, as clients send it, is none.
pub(crate) fn argv(spec: &ContainerSpec) -> Vec<String> {
    let entrypoint = spec.entrypoint.clone().unwrap_or_default();
    let entrypoint = if entrypoint == [""] {
        Vec::new()
    } else {
        entrypoint
    };
    let command = spec.command.clone().unwrap_or_default();
    entrypoint.into_iter().chain(command).collect()
}

fn defaults(spec: &mut ContainerSpec, engine: &Inner) {
    let log = &mut spec.host.log;
    if log.driver.is_empty() {
        log.driver.clone_from(&engine.config.log.driver);
        if log.driver.is_empty() {
            "json-file".clone_into(&mut log.driver);
        }
    }
    if log.driver == engine.config.log.driver || engine.config.log.driver.is_empty() {
        for (key, value) in &engine.config.log.options {
            log.options
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
    }
}

/// `container:NAME` becomes `container:ID`, so that a rename does not break it.
fn resolve_peers(engine: &Inner, host: &mut HostSpec) -> Result<(), Error> {
    let id = |name: &str| {
        engine
            .containers
            .find(name)
            .map(|entry| entry.id.to_string())
    };
    if let NetworkMode::Container(name) = &host.network {
        host.network = NetworkMode::Container(id(name)?);
    }
    for mode in [&mut host.ipc_mode, &mut host.pid_mode] {
        if let NamespaceMode::Container(name) = mode {
            *mode = NamespaceMode::Container(id(name)?);
        }
    }
    Ok(())
}

// ---- mounts

/// Volumes and binds of other containers.
fn inherited(engine: &Inner, from: &[String]) -> Result<Vec<MountPoint>, Error> {
    let mut all = Vec::new();
    for text in from {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        let read_only = match mode {
            "ro" => true,
            "rw" => false,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid volumes-from {text:?}: write container[:ro|:rw]"
                )));
            }
        };
        let other = engine.containers.find(name).map_err(not_there)?;
        let view = other.view.load_full();
        let theirs = view.record.mounts.iter();
        let lasting = theirs.filter(|m| m.kind != MountKind::Tmpfs);
        all.extend(lasting.map(|m| {
            let mut point = m.clone();
            point.read_only |= read_only;
            point.spec.read_only = point.read_only;
            point.spec.given = None;
            point
        }));
    }
    Ok(all)
}

/// Where each mount goes and what is there: what is asked for, then what is others', then what the
/// image wants. Volumes without a name get one when they are made.
pub(crate) fn mount_points(
    spec: &ContainerSpec,
    inherited: &[MountPoint],
) -> Result<Vec<MountPoint>, Error> {
    let mut out: Vec<MountPoint> = Vec::new();
    for mount in &spec.host.mounts {
        let point = mount_point(mount)?;
        if out.iter().any(|p| p.destination == point.destination) {
            return Err(Error::invalid(format!(
                "Duplicate mount point: {}",
                point.destination
            )));
        }
        out.push(point);
    }
    for target in spec.host.tmpfs.keys() {
        let target = clean(target)?;
        if out.iter().any(|p| p.destination == target) {
            return Err(Error::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    let is_taken = |out: &[MountPoint], destination: &str| {
        let mut tmpfs = spec.host.tmpfs.keys();
        out.iter().any(|p| p.destination == destination)
            || tmpfs.any(|t| clean(t).is_ok_and(|t| t == destination))
    };
    for point in inherited {
        if !is_taken(&out, &point.destination) {
            out.push(point.clone());
        }
    }
    for target in &spec.volumes {
        let destination = clean(target)?;
        if !is_taken(&out, &destination) {
            out.push(mount_point(&MountSpec::plain(
                MountKind::Volume,
                "",
                &destination,
            ))?);
        }
    }
    Ok(out)
}

fn mount_point(mount: &MountSpec) -> Result<MountPoint, Error> {
    let destination = clean(&mount.target)?;
    if let Some(subpath) = mount.subpath.as_deref().filter(|s| !s.is_empty()) {
        check_subpath(subpath)?;
    }
    let (name, source) = match mount.kind {
        MountKind::Bind => {
            if !mount.source.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            (String::new(), mount.source.clone())
        }
        MountKind::Volume => {
            if !mount.source.is_empty() {
                names::check("volume", &mount.source)?;
            }
            (mount.source.clone(), String::new())
        }
        MountKind::Tmpfs => (String::new(), String::new()),
        MountKind::Image if mount.source.is_empty() => {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"image\": no image is given for {destination}"
            )));
        }
        MountKind::Image => (String::new(), String::new()),
    };
    Ok(MountPoint {
        kind: mount.kind,
        name,
        source,
        destination,
        read_only: mount.read_only || mount.kind == MountKind::Image,
        propagation: match mount.kind {
            MountKind::Bind => mount
                .propagation
                .clone()
                .filter(|p| !p.is_empty())
                .unwrap_or_else(|| "rprivate".to_owned()),
            _ => String::new(),
        },
        spec: mount.clone(),
    })
}

/// Relative, and without a way out.
fn check_subpath(subpath: &str) -> Result<(), Error> {
    use std::path::Component;
    let mut parts = Path::new(subpath).components();
    let inside = parts.all(|p| matches!(p, Component::Normal(_) | Component::CurDir));
    if inside {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid subpath {subpath:?}: it must be a relative path without .. inside the volume or image"
    )))
}

/// Absolute, without `.`, `..`, doubled and trailing slashes.
fn clean(path: &str) -> Result<String, Error> {
    use std::path::Component;
    let wrong = |why: &str| Error::invalid(format!("invalid mount path: '{path}' {why}"));
    if !path.starts_with('/') {
        return Err(wrong("mount path must be absolute"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(p) => parts.push(p.to_str().unwrap_or_default()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    if parts.is_empty() {
        return Err(wrong("destination can't be '/'"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Binds whose source must be there are looked at, with a deadline: it may be on a file system that
/// hangs. Each look has a thread of its own, which a hang costs; the disk's threads are not touched.
async fn look_at_sources(mounts: &[MountPoint]) -> Result<(), Error> {
    for mount in mounts.iter().filter(|m| m.kind == MountKind::Bind) {
        let (path, create) = (mount.source.clone(), mount.spec.create_source);
        let (tx, rx) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("look-at-bind".to_owned())
            .spawn(move || drop(tx.send(look(Path::new(&path), create))))
            .map_err(Error::io("start a thread"))?;
        match tokio::time::timeout(PATH_DEADLINE, rx).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(Error::internal("the look at a bind's source failed")),
            Err(_) => {
                return Err(Error::timeout(format!(
                    "waited {} s for {} to answer: its file system hangs",
                    PATH_DEADLINE.as_secs(),
                    mount.source
                )));
            }
        }
    }
    Ok(())
}

fn look(path: &Path, create: bool) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
            sys::fault::point("engine.bind.mkdir")
                .and_then(|()| std::fs::create_dir_all(path))
                .map_err(Error::io(format!("make the directory {}", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            path.display()
        ))),
        Err(e) => Err(Error::caused(
            ErrorKind::InvalidArgument,
            format!("look at {}", path.display()),
            e,
        )),
    }
}

impl Inner {
    /// By name, id or unambiguous prefix of an id, from the published list.
    pub(crate) fn image(&self, wanted: &str) -> Result<ImageView, Error> {
        crate::images::find(&self.images.load(), wanted)
    }
}
