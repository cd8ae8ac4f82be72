//! The root and everything mounted in it.

use std::ffi::{CStr, CString};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Process};

use super::explain::{Hint, Label};
use super::{Builder, Namespaces, PlanError, PlanInput, Rootfs, c_path, c_string, invalid};
use crate::ops::{
    Attrs, KEEP_DEV, KEEP_NOTHING, KEEP_PROC, KIND_SOURCE, NO_SLOT, Op, SLOTS, TARGET_ANY,
    TARGET_NO_LINKS, TARGET_PROC_OK,
};
use crate::wire::{ListBuf, Setting};
use sys::mount::{
    ATIME, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
};

/// Files of procfs that a container may be given its own version of, as lxcfs does.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// (name, mode, major, minor) of what every container finds in /dev.
/// source: OCI runtime-spec config-linux.md "Default Devices".
const NODES: [(&CStr, u64, u64); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

const MS_REC: u64 = libc::MS_REC;

/// Mount options, sorted into what each system call takes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Options {
    bind: bool,
    recursive: bool,
    set: u64,
    clear: u64,
    tree_set: u64,
    tree_clear: u64,
    /// `MS_SHARED` and its like, with `MS_REC` for the tree.
    propagation: u64,
    /// For the file system itself: `size=64m`, `newinstance`.
    settings: Vec<(String, Option<String>)>,
}

fn attribute(name: &str) -> Option<(u64, bool)> {
    Some(match name {
        "ro" => (RDONLY, true),
        "rw" => (RDONLY, false),
        "nosuid" => (NOSUID, true),
        "suid" => (NOSUID, false),
        "nodev" => (NODEV, true),
        "dev" => (NODEV, false),
        "noexec" => (NOEXEC, true),
        "exec" => (NOEXEC, false),
        "noatime" => (NOATIME, true),
        "atime" => (NOATIME, false),
        "strictatime" => (STRICTATIME, true),
        "nostrictatime" => (STRICTATIME, false),
        "nodiratime" => (NODIRATIME, true),
        "diratime" => (NODIRATIME, false),
        "nosymfollow" => (NOSYMFOLLOW, true),
        "symfollow" => (NOSYMFOLLOW, false),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<u64> {
    let bare = name.strip_prefix('r').unwrap_or(name);
    let kind = match bare {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some(if bare.len() < name.len() {
        kind | MS_REC
    } else {
        kind
    })
}

impl Options {
    fn parse(list: &[String]) -> Result<Self, PlanError> {
        let mut o = Self::default();
        for option in list {
            o.one(option)?;
        }
        Ok(o)
    }

    fn one(&mut self, option: &str) -> Result<(), PlanError> {
        if let Some((bit, set)) = attribute(option) {
            // atime modes exclude each other: the kernel wants all of them cleared together
            let clear = if bit & ATIME != 0 { ATIME } else { bit };
            self.clear |= clear;
            self.set &= !clear;
            if set {
                self.set |= bit;
            }
        } else if let Some((bit, set)) = option.strip_prefix('r').and_then(attribute) {
            let clear = if bit & ATIME != 0 { ATIME } else { bit };
            self.tree_clear |= clear;
            self.tree_set &= !clear;
            if set {
                self.tree_set |= bit;
            }
        } else if let Some(p) = propagation(option) {
            self.propagation = p;
        } else {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive) = (true, true),
                "defaults" | "relatime" | "norelatime" | "loud" | "nolazytime" | "async" => {}
                "tmpcopyup" | "idmap" | "ridmap" | "remount" | "move" => {
                    return Err(invalid(
                        "mount option",
                        format!("{option} is not supported"),
                    ));
                }
                _ => {
                    let (key, value) = match option.split_once('=') {
                        Some((k, v)) => (k, Some(v.to_owned())),
                        None => (option, None),
                    };
                    self.settings.push((key.to_owned(), value));
                }
            }
        }
        Ok(())
    }

    fn attrs(&self) -> Attrs<'static> {
        let tree = self.propagation & MS_REC != 0;
        let kind = self.propagation & !MS_REC;
        Attrs {
            set: self.set,
            clear: self.clear,
            propagation: if tree { 0 } else { kind },
            tree_set: self.tree_set,
            tree_clear: self.tree_clear,
            tree_propagation: if tree { kind } else { 0 },
            _life: std::marker::PhantomData,
        }
    }

    fn shares(&self) -> bool {
        self.propagation & libc::MS_SHARED != 0
    }
}

pub(super) fn takes(option: &str) -> bool {
    Options::default().one(option).is_ok()
}

/// An absolute path without `.`, `..` and doubled slashes: links are the kernel's to resolve.
fn clean(path: &Path) -> Result<PathBuf, PlanError> {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(path.display().to_string(), "it contains .."));
            }
        }
    }
    Ok(out)
}

/// One mount of the spec, understood.
struct Wanted {
    target: PathBuf,
    source: Option<PathBuf>,
    kind: String,
    options: Options,
    slot: u32,
}

impl Wanted {
    fn of(m: &Mount) -> Result<Self, PlanError> {
        let target = clean(m.destination())?;
        let options = Options::parse(m.options().as_deref().unwrap_or_default())?;
        if m.uid_mappings().as_ref().is_some_and(|u| !u.is_empty()) {
            let what = format!("mount at {}", target.display());
            return Err(invalid(what, "mapped ids are not supported"));
        }
        let kind = m.typ().clone().unwrap_or_default();
        Ok(Self {
            options: Options {
                bind: options.bind || kind == "bind",
                ..options
            },
            target,
            source: m.source().clone(),
            kind,
            slot: NO_SLOT,
        })
    }

    fn rule(&self) -> u32 {
        let target = self.target.to_string_lossy();
        let genuine = matches!(self.kind.as_str(), "proc" | "sysfs");
        if genuine && !self.options.bind {
            return TARGET_NO_LINKS;
        }
        if target == "/proc" || PROC_FILES.contains(&&*target) {
            return TARGET_PROC_OK;
        }
        TARGET_ANY
    }
}

pub(super) fn plan(
    b: &mut Builder,
    input: &PlanInput<'_>,
    process: &Process,
    namespaces: &Namespaces<'_>,
    root_at: Option<&Path>,
) -> Result<(), PlanError> {
    let spec = input.spec;
    let mut mounts: Vec<Wanted> = spec
        .mounts()
        .iter()
        .flatten()
        .map(Wanted::of)
        .collect::<Result<_, _>>()?;
    let linux = spec.linux().clone().unwrap_or_default();
    let propagate = linux
        .rootfs_propagation()
        .as_deref()
        .filter(|p| !p.is_empty());
    let propagate = match propagate {
        Some(p) => propagation(p).ok_or_else(|| invalid("rootfsPropagation", p))?,
        None => 0,
    };
    root(b, input)?;
    shared_sources(b, input, &mut mounts)?;
    attach_root(b, input, root_at)?;
    let own_dev = mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && m.kind == "tmpfs" && !m.options.bind);
    let bound_dev = mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && m.options.bind);
    let devices = linux.devices().as_deref().unwrap_or_default();
    for m in &mounts {
        mount(b, input, m, namespaces.is_new(LinuxNamespaceType::Cgroup))?;
        if own_dev && m.target == Path::new("/dev") && m.kind == "tmpfs" {
            dev(b, devices, namespaces)?;
        }
    }
    if !bound_dev {
        nodes(b, devices, namespaces, own_dev)?;
    }
    for (file, value) in sorted(linux.sysctl().as_ref()) {
        sysctl(b, file, value, namespaces)?;
    }
    hide(b, &linux)?;
    if input.create_cwd && process.cwd() != Path::new("/") {
        let path = c_path(&clean(process.cwd())?)?;
        let step = b.label(Label {
            what: format!("make the working directory {}", process.cwd().display()),
            hint: Hint::None,
        });
        b.add(step, Op::MakeDir { path: &path });
    }
    let read_only = is_read_only(input);
    if read_only || propagate != 0 {
        let set = if read_only { RDONLY } else { 0 };
        let propagation = propagate & !MS_REC;
        b.push(
            "set attributes of the root",
            Op::RootAttrs { set, propagation },
        );
    }
    Ok(())
}

fn attach_root(
    b: &mut Builder,
    input: &PlanInput<'_>,
    root_at: Option<&Path>,
) -> Result<(), PlanError> {
    let propagation = match input.rootfs {
        Rootfs::Path(_) => libc::MS_PRIVATE,
        Rootfs::Descriptor => 0,
    };
    let what = "attach the container's root";
    match root_at {
        None => b.push(what, Op::AttachRoot { propagation }),
        Some(path) => {
            let path = &c_path(path)?;
            b.push(what, Op::AttachRootAt { path, propagation });
        }
    }
    Ok(())
}

fn hide(b: &mut Builder, linux: &oci_spec::runtime::Linux) -> Result<(), PlanError> {
    for path in linux.masked_paths().iter().flatten() {
        let c = c_path(&clean(Path::new(path))?)?;
        b.push(format!("mask {path}"), Op::Mask { path: &c });
    }
    for path in linux.readonly_paths().iter().flatten() {
        let c = c_path(&clean(Path::new(path))?)?;
        let what = format!("make {path} read-only");
        b.push(what, Op::ReadonlyPath { path: &c });
    }
    Ok(())
}

fn is_read_only(input: &PlanInput<'_>) -> bool {
    let root = input.spec.root().as_ref();
    root.is_some_and(|r| r.readonly() == Some(true))
}

fn sorted<V>(map: Option<&std::collections::HashMap<String, V>>) -> Vec<(&String, &V)> {
    let mut out: Vec<_> = map.into_iter().flatten().collect();
    out.sort_by_key(|(k, _)| *k);
    out
}

fn root(b: &mut Builder, input: &PlanInput<'_>) -> Result<(), PlanError> {
    match input.rootfs {
        Rootfs::Descriptor => b.push("take the container's root", Op::RootPassed {}),
        Rootfs::Path(path) => {
            let c = c_path(path)?;
            let recursive = true;
            b.push(
                format!("open the container's root {}", path.display()),
                Op::RootPath {
                    path: &c,
                    recursive,
                },
            );
        }
    }
    Ok(())
}

/// Sources that must stay peers of the host's mounts are cloned before "/" becomes a slave.
fn shared_sources(
    b: &mut Builder,
    input: &PlanInput<'_>,
    mounts: &mut [Wanted],
) -> Result<(), PlanError> {
    let shared = mounts
        .iter_mut()
        .filter(|m| m.options.bind && m.options.shares());
    for (slot, m) in (0_u32..).zip(shared) {
        if slot as usize >= SLOTS {
            return Err(invalid("mounts", format!("more than {SLOTS} are shared")));
        }
        m.slot = slot;
        let source = source_of(m)?;
        let step = b.label(name(input, m));
        b.add(
            step,
            Op::OpenShared {
                source: &source,
                recursive: m.options.recursive,
                slot,
            },
        );
    }
    Ok(())
}

fn source_of(m: &Wanted) -> Result<CString, PlanError> {
    let what = || format!("mount at {}", m.target.display());
    let source = m
        .source
        .as_ref()
        .ok_or_else(|| invalid(what(), "it has no source"))?;
    if !source.is_absolute() {
        return Err(invalid(what(), "its source is not an absolute path"));
    }
    c_path(source)
}

fn name(input: &PlanInput<'_>, m: &Wanted) -> Label {
    let named = input.mount_names.get(&m.target).cloned();
    let what = named.unwrap_or_else(|| {
        if m.options.bind {
            m.source
                .as_ref()
                .map_or(String::new(), |s| s.display().to_string())
        } else {
            m.kind.clone()
        }
    });
    Label {
        what: format!("mount {what} at {}", m.target.display()),
        hint: Hint::Mount {
            source: m.source.clone(),
            read_only: is_read_only(input),
        },
    }
}

fn mount(
    b: &mut Builder,
    input: &PlanInput<'_>,
    m: &Wanted,
    own_cgroups: bool,
) -> Result<(), PlanError> {
    let target = c_path(&m.target)?;
    let label = name(input, m);
    if m.options.bind {
        if (m.options.tree_set | m.options.tree_clear) != 0 && !input.facts.mount.mount_setattr {
            let what = label.what;
            let why = "its kernel has no mount_setattr".to_owned();
            return Err(PlanError::Host { what, why });
        }
        if let Some((option, _)) = m.options.settings.first() {
            return Err(invalid(
                label.what,
                format!("a bind takes no option {option}"),
            ));
        }
        let source = source_of(m)?;
        let step = b.label(label);
        b.add(
            step,
            Op::MountBind {
                source: &source,
                recursive: m.options.recursive,
                slot: m.slot,
                attrs: m.options.attrs(),
                target: &target,
                target_kind: KIND_SOURCE,
                rule: m.rule(),
            },
        );
        return Ok(());
    }
    match m.kind.as_str() {
        "cgroup" | "cgroup2" => cgroups(b, input, m, &target, own_cgroups),
        "" | "none" => Err(invalid(label.what, "it has no type and is no bind")),
        kind => {
            let keep = match (kind, m.target.to_str()) {
                ("tmpfs", Some("/dev")) => KEEP_DEV,
                ("proc", Some("/proc")) => KEEP_PROC,
                _ => KEEP_NOTHING,
            };
            let step = b.label(label);
            let kind = c_string("file system type", kind.as_bytes())?;
            let mut settings = m.options.settings.clone();
            if let Some(s) = m.source.as_ref().and_then(|s| s.to_str()) {
                settings.insert(0, ("source".into(), Some(s.to_owned())));
            }
            new_mount(b, step, &kind, &settings, m, &target, keep)
        }
    }
}

fn new_mount(
    b: &mut Builder,
    step: u32,
    kind: &CStr,
    settings: &[(String, Option<String>)],
    m: &Wanted,
    target: &CStr,
    keep: u32,
) -> Result<(), PlanError> {
    let mut owned: Vec<(CString, Option<CString>)> = Vec::new();
    for (k, v) in settings {
        let key = c_string("mount option", k.as_bytes())?;
        let value = v
            .as_ref()
            .map(|v| c_string("mount option", v.as_bytes()))
            .transpose()?;
        owned.push((key, value));
    }
    let list = ListBuf::of(owned.iter().map(|(k, v)| Setting {
        key: k,
        value: v.as_deref(),
    }));
    let op = Op::MountNew {
        kind,
        settings: list.list(),
        attrs: m.options.set | m.options.tree_set,
        propagation: m.options.propagation & !MS_REC & !libc::MS_PRIVATE,
        target,
        rule: m.rule(),
        keep,
    };
    b.add(step, op);
    Ok(())
}

/// v2: its file system. v1 and hybrid: a tmpfs with the hierarchies this container is in. Each
/// shows the container's own cgroup as root: by the cgroup namespace, or, in the host's, because
/// only that directory is bound.
fn cgroups(
    b: &mut Builder,
    input: &PlanInput<'_>,
    m: &Wanted,
    target: &CStr,
    own_namespace: bool,
) -> Result<(), PlanError> {
    let dirs = input.cgroup.map(|c| c.dirs.as_slice()).unwrap_or_default();
    let v1: Vec<_> = dirs.iter().filter(|d| !d.v2).collect();
    if v1.is_empty() {
        let step = b.label(name(input, m));
        let settings = [("source".to_owned(), Some("cgroup".to_owned()))];
        return new_mount(b, step, c"cgroup2", &settings, m, target, KEEP_NOTHING);
    }
    let step = b.label(name(input, m));
    let settings = [
        ("source".to_owned(), Some("cgroup".to_owned())),
        ("mode".to_owned(), Some("755".to_owned())),
    ];
    let writable = Wanted {
        target: m.target.clone(),
        source: None,
        kind: "tmpfs".into(),
        options: Options {
            set: m.options.set & !RDONLY,
            ..m.options.clone()
        },
        slot: NO_SLOT,
    };
    new_mount(
        b,
        step,
        c"tmpfs",
        &settings,
        &writable,
        target,
        KEEP_NOTHING,
    )?;
    for d in v1 {
        let mut settings = vec![("source".to_owned(), Some("cgroup".to_owned()))];
        settings.extend(d.controllers.iter().map(|c| match c.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (c.clone(), None),
        }));
        let at = c_path(&m.target.join(d.controllers.join(",")))?;
        let step = b.label(name(input, m));
        if !own_namespace {
            bind_cgroup(b, step, &d.path, m, &at)?;
            continue;
        }
        new_mount(b, step, c"cgroup", &settings, m, &at, KEEP_NOTHING)?;
    }
    if m.options.set & RDONLY != 0 {
        let step = b.label(name(input, m));
        b.add(step, Op::MakeReadonly { target });
    }
    Ok(())
}

fn bind_cgroup(
    b: &mut Builder,
    step: u32,
    dir: &Path,
    m: &Wanted,
    target: &CStr,
) -> Result<(), PlanError> {
    let source = c_path(dir)?;
    let op = Op::MountBind {
        source: &source,
        recursive: false,
        slot: NO_SLOT,
        attrs: Options {
            propagation: libc::MS_PRIVATE,
            ..m.options.clone()
        }
        .attrs(),
        target,
        target_kind: KIND_SOURCE,
        rule: TARGET_ANY,
    };
    b.add(step, op);
    Ok(())
}

/// Nodes and links in a /dev of our own, right after it is mounted.
fn dev(
    b: &mut Builder,
    devices: &[LinuxDevice],
    namespaces: &Namespaces<'_>,
) -> Result<(), PlanError> {
    let bound = namespaces.is_new(LinuxNamespaceType::User);
    for (name, major, minor) in NODES {
        let path = format!("/dev/{}", name.to_string_lossy());
        let in_spec = devices.iter().any(|d| d.path() == Path::new(&path));
        if in_spec {
            continue;
        }
        let host = bound
            .then(|| c_string("device", path.as_bytes()))
            .transpose()?;
        b.push(
            format!("make device {path}"),
            Op::DevNode {
                name,
                mode: libc::S_IFCHR | 0o666,
                device: libc::makedev(major as u32, minor as u32),
                uid: 0,
                gid: 0,
                host: host.as_deref(),
            },
        );
    }
    for (name, target) in LINKS {
        let what = format!("link /dev/{}", name.to_string_lossy());
        b.push(what, Op::DevLink { name, target });
    }
    Ok(())
}

/// The spec's own devices, after all mounts.
fn nodes(
    b: &mut Builder,
    devices: &[LinuxDevice],
    namespaces: &Namespaces<'_>,
    own_dev: bool,
) -> Result<(), PlanError> {
    for d in devices {
        let path = clean(d.path())?;
        let what = format!("make device {}", path.display());
        // ours already, as a link into the container's own devpts
        if own_dev && path == Path::new("/dev/ptmx") {
            continue;
        }
        let kind = match d.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(invalid(what, "its type must be b, c or p")),
        };
        let number = |n: i64| u32::try_from(n).map_err(|_| invalid(what.clone(), "its number"));
        let bound = namespaces.is_new(LinuxNamespaceType::User);
        let host = bound.then(|| c_path(&path)).transpose()?;
        let in_dev = path
            .strip_prefix("/dev")
            .ok()
            .filter(|r| own_dev && r.components().count() == 1);
        let (mode, device) = (
            kind | d.file_mode().unwrap_or(0o666) & 0o7777,
            libc::makedev(number(d.major())?, number(d.minor())?),
        );
        let (uid, gid) = (d.uid().unwrap_or(0), d.gid().unwrap_or(0));
        let host = host.as_deref();
        match in_dev {
            Some(name) => {
                let name = c_path(name)?;
                let name = name.as_c_str();
                b.push(
                    what,
                    Op::DevNode {
                        name,
                        mode,
                        device,
                        uid,
                        gid,
                        host,
                    },
                );
            }
            None => {
                let path = c_path(&path)?;
                let path = path.as_c_str();
                b.push(
                    what,
                    Op::Node {
                        path,
                        mode,
                        device,
                        uid,
                        gid,
                        host,
                    },
                );
            }
        }
    }
    Ok(())
}

/// Only what the kernel keeps per namespace, and only in a namespace of the container's own: any
/// other sysctl would change the host.
fn sysctl(
    b: &mut Builder,
    name: &str,
    value: &str,
    namespaces: &Namespaces<'_>,
) -> Result<(), PlanError> {
    use LinuxNamespaceType as N;
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    // both a.b.c and a/b/c are in use; in the first an interface's dot is written as a slash
    let slashed = name
        .find('/')
        .is_some_and(|s| name.find('.').is_none_or(|d| s < d));
    let file = if slashed {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    };
    let dotted = file.replace('/', ".");
    let kind = if dotted.starts_with("net.") {
        Some((N::Network, "network"))
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Some((N::Ipc, "ipc"))
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        Some((N::Uts, "uts"))
    } else {
        None
    };
    let what = format!("sysctl {name}");
    let Some((kind, word)) = kind else {
        return Err(invalid(
            what,
            "it is not kept per namespace and would change the host",
        ));
    };
    // a namespace joined from a pod or another container is not the host's either
    if namespaces.all() & kind as u32 == 0 {
        return Err(invalid(what, format!("it needs an own {word} namespace")));
    }
    let unsafe_part = file
        .split('/')
        .any(|p| p.is_empty() || p == "." || p == "..");
    if unsafe_part {
        return Err(invalid(what, "its name is no path of /proc/sys"));
    }
    let path = c_string(&what, format!("sys/{file}").as_bytes())?;
    let value = value.as_bytes();
    b.push(format!("set {what}"), Op::Sysctl { file: &path, value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_are_sorted_by_system_call() {
        let o = options(&[
            "rbind",
            "ro",
            "rnosuid",
            "rslave",
            "size=64m",
            "newinstance",
        ]);
        assert!(o.bind && o.recursive);
        assert_eq!((o.set, o.tree_set), (RDONLY, NOSUID));
        assert_eq!(o.propagation, libc::MS_SLAVE | MS_REC);
        assert_eq!(o.settings.len(), 2);
    }

    #[test]
    fn the_last_of_two_contradicting_options_counts() {
        assert_eq!(options(&["ro", "rw"]).set, 0);
        assert_eq!(options(&["noatime", "strictatime"]).set, STRICTATIME);
    }

    #[test]
    fn paths_with_dots_are_refused() {
        assert!(clean(Path::new("/a/../b")).is_err());
        assert_eq!(clean(Path::new("//a/./b/")).unwrap(), Path::new("/a/b"));
    }
}
