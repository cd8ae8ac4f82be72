//! From a container's record to an OCI runtime-spec, with Docker's defaults. Pure: what depends on
//! the host (devices, users, other containers' pids, paths) is found before and handed in.
//!
//! source: OCI runtime-spec 1.2 config.md and config-linux.md; Docker Engine API 1.51, Container
//! create; the defaults were read off `config.json` of containers on a Docker host.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{
    BoxBuilder, Capability, Linux, LinuxBlockIo, LinuxCapabilities, LinuxCpu, LinuxDevice,
    LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
    Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use crate::error::Error;
use crate::links::Linked;
use crate::model::{
    ContainerRecord, ContainerSpec, ErrorKind, MountKind, MountPoint, NamespaceMode, NetworkMode,
    Resources, ThrottleDevice, Ulimit,
};
use crate::passed::Kind;
use crate::security::SecurityOptions;

pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHM: u64 = 64 << 20;

/// Information of the host behind these stays hidden.
pub(crate) const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

pub(crate) const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Who runs it, as found in the image's passwd and group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// A device node as found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) permissions: String,
}

/// Processes of other containers whose namespaces are joined.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JoinedPids {
    pub(crate) net: Option<i32>,
    pub(crate) ipc: Option<i32>,
    pub(crate) pid: Option<i32>,
}

/// All that the spec depends on.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    pub(crate) record: &'a ContainerRecord,
    pub(crate) links: &'a [Linked],
    pub(crate) identity: &'a Identity,
    pub(crate) hostname: &'a str,
    /// Files bound over /etc/hostname, /etc/hosts, /etc/resolv.conf, in this order of names.
    pub(crate) etc: [(&'static str, &'a Path); 3],
    pub(crate) capabilities: &'a BTreeSet<String>,
    pub(crate) security: &'a SecurityOptions,
    pub(crate) devices: &'a [HostDevice],
    pub(crate) joined: JoinedPids,
    /// Its network namespace is made already: the first descriptor that is passed.
    pub(crate) own_network: bool,
    /// By destination: mounts that are made already, by index of the descriptors that are passed.
    pub(crate) passed: &'a BTreeMap<String, usize>,
    /// Directories of the host that volumes with `o=bind` are, by the volumes' names.
    pub(crate) bound: &'a BTreeMap<String, Kind>,
    pub(crate) cgroup_path: &'a Path,
    /// Docker's default of the cgroup namespace: its own on version 2, the host's on version 1.
    pub(crate) cgroup_v2: bool,
    /// Devices of `--blkio-weight-device` and the throttles, as (path, major, minor).
    pub(crate) block_devices: &'a BTreeMap<String, (i64, i64)>,
}

pub(crate) fn build(input: &SpecInput<'_>) -> Result<Spec, Error> {
    let spec = &input.record.spec;
    let mut out = Spec::default();
    out.set_version("1.2.0".to_owned());
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(spec.host.read_only));
    out.set_root(Some(root));
    out.set_hostname(
        (spec.host.uts_mode != NamespaceMode::Host).then(|| input.hostname.to_owned()),
    );
    let domain = (!spec.domainname.is_empty() && spec.host.uts_mode != NamespaceMode::Host)
        .then(|| spec.domainname.clone());
    out.set_domainname(domain);
    out.set_process(Some(process(input)?));
    out.set_mounts(Some(mounts(input)?));
    out.set_linux(Some(linux(input)?));
    if !spec.host.annotations.is_empty() {
        let all = spec.host.annotations.clone().into_iter().collect();
        out.set_annotations(Some(all));
    }
    Ok(out)
}

// ---- process

fn process(input: &SpecInput<'_>) -> Result<Process, Error> {
    let spec = &input.record.spec;
    let mut p = Process::default();
    p.set_terminal(Some(spec.tty));
    if spec.tty {
        let [height, width] = spec.host.console_size;
        p.set_console_size(console_size(height, width));
    }
    let mut user = User::default();
    user.set_uid(input.identity.uid);
    user.set_gid(input.identity.gid);
    if !input.identity.groups.is_empty() {
        user.set_additional_gids(Some(input.identity.groups.clone()));
    }
    p.set_user(user);
    p.set_args(Some(input.record.argv.clone()));
    p.set_env(Some(environment(
        spec,
        input.links,
        input.hostname,
        &input.identity.home,
    )));
    p.set_cwd(PathBuf::from(if spec.working_dir.is_empty() {
        "/"
    } else {
        &spec.working_dir
    }));
    p.set_capabilities(Some(capability_sets(
        input.capabilities,
        input.identity.uid,
    )?));
    p.set_rlimits(rlimits(&spec.host.ulimits)?);
    p.set_no_new_privileges(Some(input.security.no_new_privileges));
    p.set_apparmor_profile(
        input
            .security
            .apparmor
            .clone()
            .filter(|_| !spec.host.privileged),
    );
    p.set_oom_score_adj(Some(spec.host.oom_score_adj));
    Ok(p)
}

/// Absent where a side is not known. In the plan, so that the program finds it at its start.
pub(crate) fn console_size(height: u32, width: u32) -> Option<oci_spec::runtime::Box> {
    if height == 0 || width == 0 {
        return None;
    }
    let size = BoxBuilder::default()
        .height(u64::from(height))
        .width(u64::from(width));
    size.build().ok()
}

/// A program that does not run as root gets what root would have only in its bounding set.
pub(crate) fn capability_sets(
    caps: &BTreeSet<String>,
    uid: u32,
) -> Result<LinuxCapabilities, Error> {
    let set = caps
        .iter()
        .map(|c| {
            Capability::from_str(c.trim_start_matches("CAP_"))
                .map_err(|_| Error::internal(format!("capability {c} is not in the runtime-spec")))
        })
        .collect::<Result<HashSet<_>, _>>()?;
    let given = if uid == 0 {
        set.clone()
    } else {
        HashSet::new()
    };
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(set));
    out.set_effective(Some(given.clone()));
    out.set_permitted(Some(given));
    out.set_inheritable(None);
    out.set_ambient(None);
    Ok(out)
}

/// Defaults first, then what links tell, then the container's own; a name without `=` takes a default away.
pub(crate) fn environment(
    spec: &ContainerSpec,
    links: &[Linked],
    hostname: &str,
    home: &str,
) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={hostname}"),
    ];
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(links.iter().flat_map(|l| l.environment.iter().cloned()));
    merge_env(&mut env, &spec.env);
    if !home.is_empty() && !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// Replaces in place, appends what is new, removes by a bare name.
pub(crate) fn merge_env(base: &mut Vec<String>, more: &[String]) {
    for entry in more {
        let (name, given) = match entry.split_once('=') {
            Some((name, _)) => (name, true),
            None => (entry.as_str(), false),
        };
        let at = base
            .iter()
            .position(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) == name);
        match (at, given) {
            (Some(i), true) => entry.clone_into(&mut base[i]),
            (None, true) => base.push(entry.clone()),
            (Some(i), false) => drop(base.remove(i)),
            (None, false) => {}
        }
    }
}

pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Result<Option<Vec<PosixRlimit>>, Error> {
    if ulimits.is_empty() {
        return Ok(None);
    }
    let one = |u: &Ulimit| {
        let name = format!("RLIMIT_{}", u.name.to_ascii_uppercase());
        let typ = PosixRlimitType::from_str(&name)
            .map_err(|_| Error::invalid(format!("invalid ulimit type: {}", u.name)))?;
        let value = |v: i64| u64::try_from(v).unwrap_or(u64::MAX); // -1 is without limit
        if value(u.soft) > value(u.hard) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                u.soft, u.hard
            )));
        }
        PosixRlimitBuilder::default()
            .typ(typ)
            .soft(value(u.soft))
            .hard(value(u.hard))
            .build()
            .map_err(|e| Error::caused(ErrorKind::Internal, "build a limit", e))
    };
    ulimits.iter().map(one).collect::<Result<_, _>>().map(Some)
}

// ---- mounts

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut m = Mount::default();
    m.set_destination(PathBuf::from(destination));
    m.set_typ(Some(kind.to_owned()));
    m.set_source(Some(PathBuf::from(source)));
    let options = options.iter().map(|o| (*o).to_owned()).collect();
    m.set_options(Some(options));
    m
}

fn default_mounts(input: &SpecInput<'_>) -> Vec<Mount> {
    let host = &input.record.spec.host;
    let access = if host.privileged { "rw" } else { "ro" };
    let mut out = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
    ];
    if host.network == NetworkMode::Host {
        // sysfs shows the network namespace it was mounted from, and only its owner may mount it
        out.push(mount(
            "/sys",
            "bind",
            "/sys",
            &["rbind", "nosuid", "noexec", "nodev", access],
        ));
    } else {
        out.push(mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ));
        out.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[access, "nosuid", "noexec", "nodev"],
        ));
    }
    if host.ipc_mode == NamespaceMode::Host {
        out.push(mount(
            "/dev/mqueue",
            "bind",
            "/dev/mqueue",
            &["rbind", "nosuid", "noexec", "nodev"],
        ));
    } else {
        out.push(mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ));
    }
    out
}

fn passed_source(input: &SpecInput<'_>, destination: &str) -> Option<String> {
    let index = input.passed.get(destination)?;
    Some(format!("fd:{index}"))
}

fn shm(input: &SpecInput<'_>) -> Option<Mount> {
    let host = &input.record.spec.host;
    match &host.ipc_mode {
        NamespaceMode::None => None,
        NamespaceMode::Container(_) if input.passed.contains_key("/dev/shm") => {
            let source = passed_source(input, "/dev/shm")?;
            Some(mount("/dev/shm", "bind", &source, &["bind", "rprivate"]))
        }
        NamespaceMode::Host => Some(mount("/dev/shm", "bind", "/dev/shm", &["rbind"])),
        _ => {
            let size = format!("size={}", host.shm_size.unwrap_or(DEFAULT_SHM));
            Some(mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            ))
        }
    }
}

fn mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, Error> {
    let record = input.record;
    let own: BTreeSet<&str> = record
        .mounts
        .iter()
        .map(|m| m.destination.as_str())
        .chain(record.spec.host.tmpfs.keys().map(String::as_str))
        .collect();
    let mut out = default_mounts(input);
    out.extend(shm(input));
    // a mount of the user's on the place of a default one replaces it
    out.retain(|m| {
        m.destination()
            .to_str()
            .is_none_or(|d| !own.contains(d) || matches!(d, "/proc" | "/dev"))
    });
    let mut users: Vec<Mount> = Vec::with_capacity(own.len() + 3);
    for (target, source) in input.etc {
        if !own.contains(target) {
            let mut m = mount(target, "bind", "", &["rbind", "rprivate"]);
            m.set_source(Some(source.to_owned()));
            users.push(m);
        }
    }
    for point in &record.mounts {
        users.push(user_mount(input, point)?);
    }
    for (target, options) in &record.spec.host.tmpfs {
        users.push(tmpfs(target, options)?);
    }
    // parents before what lies below them; the sort is stable
    users.sort_by_key(|m| m.destination().components().count());
    out.extend(users);
    Ok(out)
}

fn user_mount(input: &SpecInput<'_>, point: &MountPoint) -> Result<Mount, Error> {
    let spec = &point.spec;
    if point.kind == MountKind::Tmpfs {
        let mut options = String::new();
        if let Some(size) = spec.tmpfs_size.filter(|s| *s > 0) {
            options = format!("size={size}");
        }
        if let Some(mode) = spec.tmpfs_mode {
            if !options.is_empty() {
                options.push(',');
            }
            options.push_str(&format!("mode={mode:o}"));
        }
        let further = spec.tmpfs_options.iter().map(String::as_str);
        for option in further.chain(point.read_only.then_some("ro")) {
            if !options.is_empty() {
                options.push(',');
            }
            options.push_str(option);
        }
        return tmpfs(&point.destination, &options);
    }
    let mut source = point.source.clone();
    let (mut flat, mut read_only) = (spec.non_recursive, point.read_only);
    if let Some(Kind::Bind {
        device,
        recursive,
        read_only: ro,
    }) = input.bound.get(&point.name)
    {
        source.clone_from(device);
        flat |= !recursive;
        read_only |= ro;
    }
    if let Some(passed) = passed_source(input, &point.destination) {
        source = passed;
    }
    let mut options = vec![if flat { "bind" } else { "rbind" }];
    if read_only {
        options.push("ro");
        if point.kind == MountKind::Bind && !spec.read_only_non_recursive && !spec.non_recursive {
            options.push("rro");
        }
    }
    let propagation = if point.propagation.is_empty() {
        "rprivate"
    } else {
        &point.propagation
    };
    if !matches!(
        propagation,
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
    ) {
        return Err(Error::invalid(format!(
            "invalid propagation mode of {}: {propagation}",
            point.destination
        )));
    }
    options.push(propagation);
    Ok(mount(&point.destination, "bind", &source, &options))
}

/// `--tmpfs` is noexec, nosuid, nodev unless said otherwise.
fn tmpfs(target: &str, options: &str) -> Result<Mount, Error> {
    let mut all: Vec<&str> = vec!["noexec", "nosuid", "nodev"];
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let opposite = match option {
            "exec" => "noexec",
            "suid" => "nosuid",
            "dev" => "nodev",
            "rw" => "ro",
            "ro" => "rw",
            "noexec" | "nosuid" | "nodev" | "sync" | "async" | "dirsync" | "mand" | "nomand"
            | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime" | "norelatime"
            | "strictatime" | "nostrictatime" | "remount" | "private" | "rprivate" | "shared"
            | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => "",
            _ if [
                "size=",
                "mode=",
                "uid=",
                "gid=",
                "nr_inodes=",
                "nr_blocks=",
                "mpol=",
            ]
            .iter()
            .any(|p| option.starts_with(p)) =>
            {
                ""
            }
            _ => {
                return Err(Error::invalid(format!(
                    "invalid tmpfs option of {target}: \"{option}\""
                )));
            }
        };
        all.retain(|o| *o != opposite && *o != option);
        all.push(option);
    }
    Ok(mount(target, "tmpfs", "tmpfs", &all))
}

// ---- linux

fn linux(input: &SpecInput<'_>) -> Result<Linux, Error> {
    let spec = &input.record.spec;
    let host = &spec.host;
    let mut out = Linux::default();
    out.set_cgroups_path(Some(input.cgroup_path.to_owned()));
    out.set_namespaces(Some(namespaces(input)));
    out.set_devices((!input.devices.is_empty()).then(|| input.devices.iter().map(node).collect()));
    let mut resources = resources(&host.resources, input.block_devices)?;
    resources.set_devices(Some(device_rules(input)?));
    out.set_resources(Some(resources));
    out.set_sysctl(Some(sysctls(input)).filter(|s| !s.is_empty()));
    let open = host.privileged || input.security.systempaths_unconfined;
    let paths = |asked: &Option<Vec<String>>, default: &[&str]| match asked {
        Some(list) => list.clone(),
        None if open => Vec::new(),
        None => default.iter().map(|p| (*p).to_owned()).collect(),
    };
    let masked = paths(&host.masked_paths, &MASKED_PATHS);
    let readonly = paths(&host.readonly_paths, &READONLY_PATHS);
    out.set_masked_paths((!masked.is_empty()).then_some(masked));
    out.set_readonly_paths((!readonly.is_empty()).then_some(readonly));
    // with a shared bind the root must not be private, or nothing would come through
    let strongest = input.record.mounts.iter().map(|m| m.propagation.as_str());
    let propagation = strongest.fold("", |have, p| match p {
        "shared" | "rshared" => "rshared",
        "slave" | "rslave" if have.is_empty() => "rslave",
        _ => have,
    });
    out.set_rootfs_propagation((!propagation.is_empty()).then(|| propagation.to_owned()));
    out.set_seccomp(None);
    Ok(out)
}

fn namespaces(input: &SpecInput<'_>) -> Vec<LinuxNamespace> {
    let host = &input.record.spec.host;
    let mut out = Vec::with_capacity(6);
    let mut add = |typ: LinuxNamespaceType, path: Option<String>| {
        let mut n = LinuxNamespace::default();
        n.set_typ(typ);
        n.set_path(path.map(PathBuf::from));
        out.push(n);
    };
    let of = |pid: Option<i32>, file: &str| pid.map(|p| format!("/proc/{p}/ns/{file}"));
    add(LinuxNamespaceType::Mount, None);
    if host.network != NetworkMode::Host {
        let made = input.own_network.then(|| "fd:0".to_owned());
        add(
            LinuxNamespaceType::Network,
            made.or_else(|| of(input.joined.net, "net")),
        );
    }
    if host.uts_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Uts, None);
    }
    if host.pid_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Pid, of(input.joined.pid, "pid"));
    }
    if host.ipc_mode != NamespaceMode::Host {
        add(LinuxNamespaceType::Ipc, of(input.joined.ipc, "ipc"));
    }
    if private_cgroup(input) {
        add(LinuxNamespaceType::Cgroup, None);
    }
    out
}

fn private_cgroup(input: &SpecInput<'_>) -> bool {
    let host = &input.record.spec.host;
    match host.cgroupns_mode {
        NamespaceMode::Host => false,
        NamespaceMode::Private if !input.cgroup_v2 => {
            host.annotations.contains_key(PRIVATE_CGROUPNS)
        }
        _ => !host.privileged || input.cgroup_v2,
    }
}

/// `--cgroupns private` asked by name, which [`NamespaceMode`] cannot tell from the default.
pub(crate) const PRIVATE_CGROUPNS: &str = "org.plimsoll.cgroupns-private";

fn node(device: &HostDevice) -> LinuxDevice {
    let mut d = LinuxDevice::default();
    d.set_path(device.path.clone());
    d.set_typ(if device.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    });
    d.set_major(i64::from(device.major));
    d.set_minor(i64::from(device.minor));
    d.set_file_mode(Some(device.mode & 0o7777));
    d.set_uid(Some(device.uid));
    d.set_gid(Some(device.gid));
    d
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut r = LinuxDeviceCgroup::default();
    r.set_allow(allow);
    r.set_typ(Some(typ));
    r.set_major(major);
    r.set_minor(minor);
    r.set_access(Some(access.to_owned()));
    r
}

fn device_rules(input: &SpecInput<'_>) -> Result<Vec<LinuxDeviceCgroup>, Error> {
    use LinuxDeviceType::{A, B, C};
    let host = &input.record.spec.host;
    if host.privileged {
        return Ok(vec![rule(true, A, None, None, "rwm")]);
    }
    let mut out = vec![
        rule(false, A, None, None, "rwm"),
        // nodes may be made; opening them is another matter
        rule(true, C, None, None, "m"),
        rule(true, B, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, all pts
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        out.push(rule(true, C, Some(major), minor, "rwm"));
    }
    for d in input.devices {
        let typ = if d.block { B } else { C };
        out.push(rule(
            true,
            typ,
            Some(i64::from(d.major)),
            Some(i64::from(d.minor)),
            &d.permissions,
        ));
    }
    for text in &host.device_cgroup_rules {
        out.push(parse_rule(text)?);
    }
    Ok(out)
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup, Error> {
    let wrong = || {
        Error::invalid(format!(
            "invalid device cgroup rule format: '{text}' (want as in 'c 1:3 rwm')"
        ))
    };
    let mut words = text.split_whitespace();
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(wrong());
    };
    let typ = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(wrong()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let number = |n: &str| match n {
        "*" => Ok(None),
        n => n.parse().map(Some).map_err(|_| wrong()),
    };
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(wrong());
    }
    Ok(rule(true, typ, number(major)?, number(minor)?, access))
}

/// Unprivileged ports and ping are open to all inside: they end at the container's own network.
fn sysctls(input: &SpecInput<'_>) -> HashMap<String, String> {
    let host = &input.record.spec.host;
    let mut all = HashMap::new();
    if !matches!(host.network, NetworkMode::Host | NetworkMode::Container(_)) {
        all.insert(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        );
        all.insert(
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        );
    }
    all.extend(host.sysctls.clone());
    all
}

/// Limits alone, for the spec and for update.
pub(crate) fn resources(
    r: &Resources,
    block: &BTreeMap<String, (i64, i64)>,
) -> Result<LinuxResources, Error> {
    let mut out = LinuxResources::default();
    out.set_memory(memory(r));
    out.set_cpu(cpu(r));
    if let Some(limit) = r.pids_limit.filter(|p| *p != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        out.set_pids(Some(pids));
    }
    out.set_block_io(block_io(r, block)?);
    Ok(out)
}

fn memory(r: &Resources) -> Option<LinuxMemory> {
    let mut m = LinuxMemory::default();
    let set = |v: i64| (v != 0).then_some(v);
    m.set_limit(set(r.memory));
    m.set_reservation(set(r.memory_reservation));
    m.set_swap(match (r.memory, r.memory_swap) {
        // as much swap as memory
        (limit, 0) if limit > 0 => Some(limit.saturating_mul(2)),
        (_, swap) => set(swap),
    });
    m.set_swappiness(r.memory_swappiness.and_then(|s| u64::try_from(s).ok()));
    m.set_disable_oom_killer(r.oom_kill_disable.then_some(true));
    (m != LinuxMemory::default()).then_some(m)
}

fn cpu(r: &Resources) -> Option<LinuxCpu> {
    const PERIOD: u64 = 100_000;
    let mut c = LinuxCpu::default();
    let positive = |v: i64| u64::try_from(v).ok().filter(|v| *v != 0);
    c.set_shares(positive(r.cpu_shares));
    if let Some(nano) = positive(r.nano_cpus) {
        c.set_period(Some(PERIOD));
        let quota = u128::from(nano) * u128::from(PERIOD) / 1_000_000_000;
        c.set_quota(i64::try_from(quota).ok());
    } else {
        c.set_period(positive(r.cpu_period));
        c.set_quota((r.cpu_quota != 0).then_some(r.cpu_quota));
    }
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    c.set_cpus(text(&r.cpuset_cpus));
    c.set_mems(text(&r.cpuset_mems));
    (c != LinuxCpu::default()).then_some(c)
}

fn block_io(
    r: &Resources,
    block: &BTreeMap<String, (i64, i64)>,
) -> Result<Option<LinuxBlockIo>, Error> {
    let number = |path: &str| {
        block
            .get(path)
            .copied()
            .ok_or_else(|| Error::invalid(format!("{path}: no such block device")))
    };
    let throttle = |list: &[ThrottleDevice]| -> Result<Option<Vec<LinuxThrottleDevice>>, Error> {
        let one = |t: &ThrottleDevice| {
            let (major, minor) = number(&t.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .rate(t.rate)
                .build()
                .map_err(|e| Error::caused(ErrorKind::Internal, "build a throttle", e))
        };
        let all = list.iter().map(one).collect::<Result<Vec<_>, Error>>()?;
        Ok((!all.is_empty()).then_some(all))
    };
    let mut weights = Vec::new();
    for w in &r.blkio_weight_device {
        let (major, minor) = number(&w.path)?;
        let device = LinuxWeightDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .weight(w.weight)
            .build()
            .map_err(|e| Error::caused(ErrorKind::Internal, "build a weight", e))?;
        weights.push(device);
    }
    let mut b = LinuxBlockIo::default();
    b.set_weight((r.blkio_weight != 0).then_some(r.blkio_weight));
    b.set_weight_device((!weights.is_empty()).then_some(weights));
    b.set_throttle_read_bps_device(throttle(&r.device_read_bps)?);
    b.set_throttle_write_bps_device(throttle(&r.device_write_bps)?);
    b.set_throttle_read_iops_device(throttle(&r.device_read_iops)?);
    b.set_throttle_write_iops_device(throttle(&r.device_write_iops)?);
    Ok((b != LinuxBlockIo::default()).then_some(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MountSpec, RestartPolicy, WeightDevice};
    use crate::security;

    fn host_caps() -> BTreeSet<String> {
        security::DEFAULT_CAPS
            .iter()
            .map(|c| (*c).to_owned())
            .chain(["CAP_SYS_ADMIN".to_owned(), "CAP_NET_ADMIN".to_owned()])
            .collect()
    }

    /// As JSON, with the lists that are sets in order.
    fn json(record: &ContainerRecord, identity: &Identity, joined: JoinedPids) -> String {
        let host = &record.spec.host;
        let security = SecurityOptions::parse(&host.security_opt).unwrap();
        let caps =
            security::capabilities(host.privileged, &host.cap_add, &host.cap_drop, &host_caps())
                .unwrap();
        let devices = [HostDevice {
            path: "/dev/fuse".into(),
            block: false,
            major: 10,
            minor: 229,
            mode: 0o20_666,
            uid: 0,
            gid: 0,
            permissions: "rw".to_owned(),
        }];
        let used = if host.devices.is_empty() {
            &[][..]
        } else {
            &devices[..]
        };
        let spec = build(&SpecInput {
            links: &[],
            record,
            identity,
            hostname: "0123456789ab",
            etc: [
                ("/etc/resolv.conf", Path::new("/c/resolv.conf")),
                ("/etc/hostname", Path::new("/c/hostname")),
                ("/etc/hosts", Path::new("/c/hosts")),
            ],
            capabilities: &caps,
            security: &security,
            devices: used,
            joined,
            own_network: false,
            passed: &BTreeMap::new(),
            bound: &BTreeMap::new(),
            cgroup_path: Path::new("/plimsoll-00000000/x"),
            cgroup_v2: false,
            block_devices: &BTreeMap::from([("/dev/sda".to_owned(), (8, 0))]),
        })
        .unwrap();
        let mut value = serde_json::to_value(&spec).unwrap();
        if let Some(sets) = value
            .pointer_mut("/process/capabilities")
            .and_then(|c| c.as_object_mut())
        {
            for (_, list) in sets.iter_mut() {
                if let Some(list) = list.as_array_mut() {
                    list.sort_by_key(std::string::ToString::to_string);
                }
            }
        }
        if let Some(map) = value
            .pointer_mut("/linux/sysctl")
            .and_then(|c| c.as_object_mut())
        {
            map.sort_keys();
        }
        serde_json::to_string_pretty(&value).unwrap()
    }

    fn root() -> Identity {
        Identity {
            home: "/root".to_owned(),
            ..Identity::default()
        }
    }

    fn mount(kind: MountKind, source: &str, target: &str, read_only: bool) -> MountPoint {
        let spec: MountSpec = serde_json::from_value(serde_json::json!({
            "kind": kind, "source": source, "target": target, "read_only": read_only
        }))
        .unwrap();
        MountPoint {
            kind,
            name: String::new(),
            source: source.to_owned(),
            destination: target.to_owned(),
            read_only,
            propagation: match kind {
                MountKind::Bind => "rprivate".to_owned(),
                _ => String::new(),
            },
            spec,
        }
    }

    #[test]
    fn nothing_asked() {
        insta::assert_snapshot!(json(
            &crate::testing::record(),
            &root(),
            JoinedPids::default()
        ));
    }

    #[test]
    fn everything_limited() {
        let mut record = crate::testing::record();
        record.spec.user = "1000".to_owned();
        record.spec.tty = true;
        record.spec.env = vec!["PATH=/bin".to_owned(), "A=b".to_owned()];
        record.spec.working_dir = "/srv".to_owned();
        record.spec.domainname = "example.org".to_owned();
        let host = &mut record.spec.host;
        host.read_only = true;
        host.network = NetworkMode::None;
        host.cap_drop = vec!["ALL".to_owned()];
        host.cap_add = vec!["NET_ADMIN".to_owned()];
        host.security_opt = vec![
            "no-new-privileges".to_owned(),
            "apparmor=unconfined".to_owned(),
        ];
        host.restart = RestartPolicy::default();
        host.oom_score_adj = 500;
        host.shm_size = Some(1 << 20);
        host.devices = vec![crate::model::DeviceSpec {
            path_on_host: "/dev/fuse".to_owned(),
            path_in_container: "/dev/fuse".to_owned(),
            permissions: "rw".to_owned(),
        }];
        host.device_cgroup_rules = vec!["c 42:* rmw".to_owned()];
        host.ulimits = vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 1024,
            hard: -1,
        }];
        host.sysctls
            .insert("net.core.somaxconn".to_owned(), "512".to_owned());
        host.tmpfs
            .insert("/run".to_owned(), "size=64m,exec,mode=755".to_owned());
        host.masked_paths = Some(Vec::new());
        host.resources = Resources {
            memory: 64 << 20,
            nano_cpus: 1_500_000_000,
            cpu_shares: 512,
            cpuset_cpus: "0".to_owned(),
            pids_limit: Some(100),
            blkio_weight: 300,
            blkio_weight_device: vec![WeightDevice {
                path: "/dev/sda".to_owned(),
                weight: 200,
            }],
            device_write_bps: vec![ThrottleDevice {
                path: "/dev/sda".to_owned(),
                rate: 1 << 20,
            }],
            ..Resources::default()
        };
        record.mounts = vec![
            mount(MountKind::Bind, "/srv/data", "/data/deep/er", true),
            mount(MountKind::Volume, "/v/_data", "/data", false),
        ];
        let identity = Identity {
            uid: 1000,
            gid: 100,
            groups: vec![100, 200],
            home: "/home/u".to_owned(),
        };
        insta::assert_snapshot!(json(&record, &identity, JoinedPids::default()));
    }

    #[test]
    fn privileged_in_the_host_s_namespaces() {
        let mut record = crate::testing::record();
        let host = &mut record.spec.host;
        host.privileged = true;
        host.network = NetworkMode::Host;
        host.pid_mode = NamespaceMode::Host;
        host.ipc_mode = NamespaceMode::Host;
        host.uts_mode = NamespaceMode::Host;
        insta::assert_snapshot!(json(&record, &root(), JoinedPids::default()));
    }

    #[test]
    fn in_another_container_s_namespaces() {
        let mut record = crate::testing::record();
        let host = &mut record.spec.host;
        host.network = NetworkMode::Container("a".to_owned());
        host.ipc_mode = NamespaceMode::Container("a".to_owned());
        host.pid_mode = NamespaceMode::Container("a".to_owned());
        let joined = JoinedPids {
            net: Some(7),
            ipc: Some(7),
            pid: Some(7),
        };
        let text = json(&record, &root(), joined);
        for file in ["net", "ipc", "pid"] {
            assert!(text.contains(&format!("/proc/7/ns/{file}")), "{text}");
        }
        assert!(!text.contains("ip_unprivileged_port_start"), "{text}");
    }

    #[test]
    fn environment_of_user_over_image_over_default() {
        let mut spec = ContainerSpec {
            env: vec![
                "HOSTNAME".to_owned(),
                "X=1".to_owned(),
                "PATH=/x".to_owned(),
            ],
            ..ContainerSpec::default()
        };
        assert_eq!(
            environment(&spec, &[], "h", "/root"),
            ["PATH=/x", "X=1", "HOME=/root"]
        );
        spec.env = vec!["HOME=/own".to_owned()];
        assert_eq!(
            environment(&spec, &[], "h", "/root")[1..],
            ["HOSTNAME=h", "HOME=/own"]
        );
    }

    #[test]
    fn wrong_values_are_refused_with_their_text() {
        for wrong in ["c 1:3", "x 1:3 rwm", "c 1 rwm", "c a:b r", "c 1:3 z", ""] {
            let error = parse_rule(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        assert!(tmpfs("/t", "size=1m,bogus").is_err());
        assert!(
            rlimits(&[Ulimit {
                name: "nofile".to_owned(),
                soft: 2,
                hard: 1
            }])
            .is_err()
        );
    }
}
