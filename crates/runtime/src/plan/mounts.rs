//! The root and everything mounted in it.

use std::ffi::{CStr, CString};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Process};

use super::explain::{Hint, Label};
use super::idmap::Ids;
use super::{
    Builder, Namespaces, PlanError, PlanInput, Prelude, Rootfs, c_path, c_string, invalid,
};
use crate::ops::{
    Attrs, COPY_UP, KEEP_DEV, KEEP_NOTHING, KEEP_PROC, KIND_SOURCE, NO_SLOT, OR_BIND, Op, SLOTS,
    TARGET_ANY, TARGET_NO_LINKS, TARGET_PROC_OK,
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
    remount: bool,
    copy_up: bool,
    /// `idmap` and `ridmap`.
    id_map: Option<bool>,
    set: u64,
    clear: u64,
    tree_set: u64,
    tree_clear: u64,
    /// `MS_SHARED` and its like, with `MS_REC` for the tree, in order.
    propagation: Vec<u64>,
    /// Of the file system as a whole: `sync`, `dirsync`, `mand`, `lazytime` and their opposites.
    whole: Vec<&'static str>,
    /// For the file system itself: `size=64m`, `newinstance`.
    settings: Vec<(String, Option<String>)>,
}

/// What an option clears and sets of a mount's attributes. Access time modes exclude each other:
/// the kernel wants all of them cleared together.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (RDONLY, RDONLY),
        "rw" => (RDONLY, 0),
        "nosuid" => (NOSUID, NOSUID),
        "suid" => (NOSUID, 0),
        "nodev" => (NODEV, NODEV),
        "dev" => (NODEV, 0),
        "noexec" => (NOEXEC, NOEXEC),
        "exec" => (NOEXEC, 0),
        "noatime" => (ATIME, NOATIME),
        "strictatime" => (ATIME, STRICTATIME),
        "atime" | "relatime" | "nostrictatime" => (ATIME, 0),
        // relative times are the kernel's own choice where no other is made
        "norelatime" => (0, 0),
        "nodiratime" => (NODIRATIME, NODIRATIME),
        "diratime" => (NODIRATIME, 0),
        "nosymfollow" => (NOSYMFOLLOW, NOSYMFOLLOW),
        "symfollow" => (NOSYMFOLLOW, 0),
        _ => return None,
    })
}

/// Flags of a file system as a whole, as fsconfig names them; an empty name has no meaning any
/// more: the mount API tells its caller instead of the kernel's log (`silent`, `loud`), and a file
/// system keeps its change counter by itself (`iversion`).
fn whole(name: &str) -> Option<&'static str> {
    Some(match name {
        "sync" => "sync",
        "async" => "async",
        "dirsync" => "dirsync",
        "mand" => "mand",
        "nomand" => "nomand",
        "lazytime" => "lazytime",
        "nolazytime" => "nolazytime",
        "acl" => "acl",
        "noacl" => "noacl",
        "silent" | "loud" | "iversion" | "noiversion" | "defaults" => "",
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
        if let Some((clear, set)) = attribute(option) {
            self.clear |= clear;
            self.set = self.set & !clear | set;
        } else if let Some((clear, set)) = option.strip_prefix('r').and_then(attribute) {
            self.tree_clear |= clear;
            self.tree_set = self.tree_set & !clear | set;
        } else if let Some(p) = propagation(option) {
            self.propagation.push(p);
        } else if let Some(name) = whole(option) {
            self.whole.extend(Some(name).filter(|n| !n.is_empty()));
        } else {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive) = (true, true),
                "remount" => self.remount = true,
                "tmpcopyup" => self.copy_up = true,
                "idmap" => self.id_map = Some(false),
                "ridmap" => self.id_map = Some(true),
                "move" => {
                    let why = "move is not an option of a mount: name its source and bind";
                    return Err(invalid("mount option", why));
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

    /// Attributes with the first change of propagation.
    fn attrs(&self) -> Attrs<'static> {
        Attrs {
            set: self.set,
            clear: self.clear,
            tree_set: self.tree_set,
            tree_clear: self.tree_clear,
            ..propagation_alone(self.propagation.first().copied().unwrap_or(0))
        }
    }

    fn shares(&self) -> bool {
        self.propagation.iter().any(|p| p & libc::MS_SHARED != 0)
    }
}

/// Only a change of propagation.
pub(super) fn propagation_alone(kind: u64) -> Attrs<'static> {
    let tree = kind & MS_REC != 0;
    let kind = kind & !MS_REC;
    Attrs {
        set: 0,
        clear: 0,
        propagation: if tree { 0 } else { kind },
        tree_set: 0,
        tree_clear: 0,
        tree_propagation: if tree { kind } else { 0 },
        _life: std::marker::PhantomData,
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
    ids: Ids,
    slot: u32,
}

impl Wanted {
    fn of(m: &Mount, bundle: Option<&Path>) -> Result<Self, PlanError> {
        let target = clean(m.destination())?;
        let options = Options::parse(m.options().as_deref().unwrap_or_default())?;
        let kind = m.typ().clone().unwrap_or_default();
        // as runc: without a type, and with one for a remount, the flag decides
        let options = Options {
            bind: options.bind || kind == "bind" || kind == "rbind",
            recursive: options.recursive || kind == "rbind",
            ..options
        };
        let bind = options.bind;
        let ids = Ids {
            uids: m.uid_mappings().clone().unwrap_or_default(),
            gids: m.gid_mappings().clone().unwrap_or_default(),
            option: options.id_map.is_some(),
            recursive: options.id_map == Some(true),
        };
        let wanted = Self {
            options,
            target,
            source: m.source().as_ref().map(|s| match bundle {
                Some(bundle) if bind && s.is_relative() => bundle.join(s),
                _ => s.clone(),
            }),
            kind,
            ids,
            slot: NO_SLOT,
        };
        wanted.check()?;
        Ok(wanted)
    }

    /// A bind that says nothing is as the root: it is a slave by default, as under runc.
    fn inherit(&mut self, root: u64) {
        let plain = self.options.bind && !self.options.remount;
        let kind = root & (libc::MS_SHARED | libc::MS_PRIVATE);
        if plain && kind != 0 && self.options.propagation.is_empty() {
            self.options.propagation.push(kind | MS_REC);
        }
    }

    /// Combinations that make no sense are refused, not half done.
    fn check(&self) -> Result<(), PlanError> {
        let what = || format!("mount at {}", self.target.display());
        let o = &self.options;
        if self.ids.asked() && (!o.bind || o.remount) {
            return Err(invalid(what(), "only a bind can have its ids mapped"));
        }
        if o.copy_up && (self.kind != "tmpfs" || o.bind) {
            return Err(invalid(what(), "tmpcopyup is for tmpfs alone"));
        }
        // one with a value is a file system's and warned of; a bare word is misspelt
        let bare = o.settings.iter().find(|(_, value)| value.is_none());
        if let (true, Some((option, _))) = (o.bind && !o.remount, bare) {
            return Err(invalid(what(), format!("a bind takes no option {option}")));
        }
        Ok(())
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
    prelude: &mut Prelude,
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
        .map(|m| Wanted::of(m, input.choices.bundle.as_deref()))
        .collect::<Result<_, _>>()?;
    let linux = spec.linux().clone().unwrap_or_default();
    let propagate = root_propagation(&linux)?;
    for m in &mut mounts {
        m.inherit(propagate);
    }
    if mount_label(input).is_some() && !input.facts.lsm.selinux {
        let warning = "linux.mountLabel labels nothing: SELinux is not enabled on this host";
        b.warnings.push(warning.to_owned());
    }
    if !namespaces.joins_mounts() {
        root(b, input)?;
    }
    for m in &mut mounts {
        take_source(b, prelude, input, namespaces, m)?;
    }
    attach_root(b, input, namespaces, root_at)?;
    make_mounts(b, input, namespaces, &mounts)?;
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
    if is_read_only(input) {
        let op = Op::RootAttrs {
            set: RDONLY,
            propagation: 0,
        };
        b.push("make the root read-only", op);
    }
    Ok(())
}

/// `rootfsPropagation` as the kernel's flag; 0 where the spec says nothing.
pub(super) fn root_propagation(linux: &oci_spec::runtime::Linux) -> Result<u64, PlanError> {
    let given = linux.rootfs_propagation().as_deref();
    given.filter(|p| !p.is_empty()).map_or(Ok(0), |p| {
        propagation(p).ok_or_else(|| invalid("rootfsPropagation", p))
    })
}

/// The mounts in the spec's order, each with what is made in it right away, and the devices.
fn make_mounts(
    b: &mut Builder,
    input: &PlanInput<'_>,
    namespaces: &Namespaces<'_>,
    mounts: &[Wanted],
) -> Result<(), PlanError> {
    let linux = input.spec.linux().as_ref();
    let devices = linux
        .and_then(|l| l.devices().as_deref())
        .unwrap_or_default();
    let own_dev = mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && m.kind == "tmpfs" && !m.options.bind);
    let any_dev = mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && !m.options.remount);
    let bound_dev = mounts
        .iter()
        .any(|m| m.target == Path::new("/dev") && m.options.bind);
    for m in mounts {
        mount(b, input, m, namespaces)?;
        for p in m.options.propagation.iter().skip(1) {
            let target = c_path(&m.target)?;
            let step = b.label(name(input, m));
            let attrs = propagation_alone(*p);
            let target = target.as_c_str();
            b.add(step, Op::MountAttrs { target, attrs });
        }
        if own_dev && m.target == Path::new("/dev") && m.kind == "tmpfs" {
            dev(b, devices, namespaces)?;
        }
    }
    if !any_dev {
        b.push("open the image's /dev", Op::OpenDev {});
        dev(b, devices, namespaces)?;
    }
    if !bound_dev {
        nodes(b, devices, namespaces, own_dev)?;
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

pub(super) fn sorted<V>(map: Option<&std::collections::HashMap<String, V>>) -> Vec<(&String, &V)> {
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

/// The root on top of "/"; in a mount namespace that others are in too, on its own directory.
fn attach_root(
    b: &mut Builder,
    input: &PlanInput<'_>,
    namespaces: &Namespaces<'_>,
    root_at: Option<&Path>,
) -> Result<(), PlanError> {
    if namespaces.joins_mounts() {
        let Rootfs::Path(path) = input.rootfs else {
            let why = "a mount namespace given by path needs a root given by path";
            return Err(invalid("namespaces", why));
        };
        let path = c_path(path)?;
        b.push(
            "attach the container's root",
            Op::AttachRootShared { path: &path },
        );
        return Ok(());
    }
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

/// Sources that must stay peers of the host's mounts are cloned before "/" becomes a slave; those
/// whose ids are mapped were cloned by the parent.
fn take_source(
    b: &mut Builder,
    prelude: &mut Prelude,
    input: &PlanInput<'_>,
    namespaces: &Namespaces<'_>,
    m: &mut Wanted,
) -> Result<(), PlanError> {
    let mapped = m.ids.asked();
    let shared = m.options.bind && m.options.shares() && !m.options.remount;
    let passed = passed(m)?;
    if !(mapped || shared || passed.is_some()) {
        return Ok(());
    }
    let slot = prelude.slots;
    if slot as usize >= SLOTS {
        let why = format!("more than {SLOTS} are shared or have mapped ids");
        return Err(invalid("mounts", why));
    }
    prelude.slots += 1;
    m.slot = slot;
    if let Some(index) = passed {
        if mapped || shared {
            let why = "a mount that is passed can neither be shared nor have its ids mapped";
            return Err(invalid(format!("mount at {}", m.target.display()), why));
        }
        let step = b.label(name(input, m));
        b.add(step, Op::TakePassed { index, slot });
        return Ok(());
    }
    let source = source_of(m)?;
    let step = b.label(name(input, m));
    let recursive = m.options.recursive;
    if !mapped {
        let op = Op::OpenShared {
            source: &source,
            recursive,
            slot,
        };
        b.add(step, op);
        return Ok(());
    }
    let what = format!("mount at {}", m.target.display());
    let path = m.source.as_deref().unwrap_or(Path::new("/"));
    let tree = m
        .ids
        .tree(&what, step, path, recursive, input, namespaces)?;
    let index = u32::try_from(prelude.mapped_trees.len()).unwrap_or(u32::MAX);
    prelude.mapped_trees.push(tree);
    b.add(step, Op::TakeMapped { index, slot });
    Ok(())
}

/// `fd:<index>` as a bind's source: which of [`crate::Descriptors::passed`] it is. A bundle's sources are
/// absolute by now, so none of them means this.
fn passed(m: &Wanted) -> Result<Option<u32>, PlanError> {
    let source = m.source.as_deref().and_then(Path::to_str);
    let Some(index) = source
        .filter(|_| m.options.bind)
        .and_then(|s| s.strip_prefix("fd:"))
    else {
        return Ok(None);
    };
    let wrong = |_| {
        let why = "fd:<index> needs a number";
        invalid(format!("mount at {}", m.target.display()), why)
    };
    index.parse().map(Some).map_err(wrong)
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
    namespaces: &Namespaces<'_>,
) -> Result<(), PlanError> {
    let target = c_path(&m.target)?;
    let label = name(input, m);
    let o = &m.options;
    // not to be found out without the right to mount
    let known = input.facts.process.has("CAP_SYS_ADMIN");
    let lacks = known && !input.facts.mount.mount_setattr;
    if (o.tree_set | o.tree_clear) != 0 && lacks {
        let what = label.what;
        let why = "its kernel has no mount_setattr".to_owned();
        return Err(PlanError::Host { what, why });
    }
    if o.remount {
        return remount(b, label, m, &target);
    }
    if o.bind {
        return bind(b, label, m, &target);
    }
    match m.kind.as_str() {
        "cgroup" | "cgroup2" => cgroups(b, input, m, &target, namespaces),
        "" | "none" => Err(invalid(label.what, "it has no type and is no bind")),
        kind => {
            let mut keep = match (kind, m.target.to_str()) {
                ("tmpfs", Some("/dev")) => KEEP_DEV,
                ("proc", Some("/proc")) => KEEP_PROC,
                ("sysfs" | "mqueue", _) if namespaces.in_user_namespace() => OR_BIND,
                _ => KEEP_NOTHING,
            };
            if o.copy_up {
                keep |= COPY_UP;
            }
            let step = b.label(label);
            let kind = c_string("file system type", kind.as_bytes())?;
            let mut settings = settings(m, true);
            settings.extend(context(input, m.kind.as_str()));
            new_mount(b, step, &kind, &settings, m, &target, keep)
        }
    }
}

/// `linux.mountLabel`: SELinux' label for all files of a new file system. Those that label their
/// files by themselves have no such option.
fn context(input: &PlanInput<'_>, kind: &str) -> Option<(String, Option<String>)> {
    let by_itself = ["proc", "sysfs", "mqueue"].contains(&kind);
    let label = mount_label(input).filter(|_| input.facts.lsm.selinux && !by_itself)?;
    Some(("context".to_owned(), Some(label.to_owned())))
}

fn mount_label<'a>(input: &'a PlanInput<'_>) -> Option<&'a str> {
    let label = input.spec.linux().as_ref()?.mount_label().as_deref()?;
    (!label.is_empty()).then_some(label)
}

/// What the file system itself is told, in order.
fn settings(m: &Wanted, with_source: bool) -> Vec<(String, Option<String>)> {
    let mut out = Vec::new();
    let source = m.source.as_ref().and_then(|s| s.to_str());
    if let (true, Some(s)) = (with_source, source) {
        out.push(("source".to_owned(), Some(s.to_owned())));
    }
    // a device that must not be written isn't, not even to replay a journal
    let device = source.is_some_and(|s| s.starts_with('/'));
    if device && m.options.set & RDONLY != 0 {
        out.push(("ro".to_owned(), None));
    }
    out.extend(m.options.whole.iter().map(|w| ((*w).to_owned(), None)));
    out.extend(m.options.settings.iter().cloned());
    out
}

fn bind(b: &mut Builder, label: Label, m: &Wanted, target: &CStr) -> Result<(), PlanError> {
    let whole = m.options.whole.iter().copied();
    let settings = m.options.settings.iter().map(|(name, _)| name.as_str());
    for option in whole.chain(settings) {
        // the kernel's rule, also under runc: they belong to the file system that is there already
        b.warnings.push(format!(
            "{}: {option} belongs to a whole file system and changes nothing for a bind",
            label.what
        ));
    }
    let source = match passed(m)? {
        // in its slot
        Some(_) => CString::default(),
        None => source_of(m)?,
    };
    let step = b.label(label);
    let op = Op::MountBind {
        source: &source,
        recursive: m.options.recursive,
        slot: m.slot,
        attrs: m.options.attrs(),
        target,
        target_kind: KIND_SOURCE,
        rule: m.rule(),
    };
    b.add(step, op);
    Ok(())
}

/// Attributes of what is mounted, and, unless it is a bind, options of its file system.
fn remount(b: &mut Builder, label: Label, m: &Wanted, target: &CStr) -> Result<(), PlanError> {
    let mut all = Vec::new();
    if !m.options.bind {
        all = settings(m, false);
        let read_only = m.options.set & RDONLY != 0;
        let mode = if read_only { "ro" } else { "rw" };
        if m.options.clear & RDONLY != 0 {
            all.push((mode.to_owned(), None));
        }
    }
    let owned = strings(&all)?;
    let list = setting_list(&owned);
    let step = b.label(label);
    let op = Op::Remount {
        target,
        settings: list.list(),
        attrs: m.options.attrs(),
    };
    b.add(step, op);
    Ok(())
}

type OwnedSetting = (CString, Option<CString>);

fn strings(settings: &[(String, Option<String>)]) -> Result<Vec<OwnedSetting>, PlanError> {
    let c = |s: &String| c_string("mount option", s.as_bytes());
    settings
        .iter()
        .map(|(k, v)| Ok((c(k)?, v.as_ref().map(c).transpose()?)))
        .collect()
}

fn setting_list(owned: &[OwnedSetting]) -> ListBuf {
    ListBuf::of(owned.iter().map(|(k, v)| Setting {
        key: k,
        value: v.as_deref(),
    }))
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
    let owned = strings(settings)?;
    let list = setting_list(&owned);
    let first = m.options.propagation.first().copied().unwrap_or(0);
    let op = Op::MountNew {
        kind,
        settings: list.list(),
        attrs: m.options.set | m.options.tree_set,
        propagation: first & !MS_REC & !libc::MS_PRIVATE,
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
    namespaces: &Namespaces<'_>,
) -> Result<(), PlanError> {
    let own_namespace = namespaces.is_new(LinuxNamespaceType::Cgroup);
    let dirs = input.cgroup.map(|c| c.dirs.as_slice()).unwrap_or_default();
    let v1: Vec<_> = dirs.iter().filter(|d| !d.v2).collect();
    if v1.is_empty() {
        let step = b.label(name(input, m));
        let settings = [("source".to_owned(), Some("cgroup".to_owned()))];
        let keep = if namespaces.in_user_namespace() && !own_namespace {
            OR_BIND
        } else {
            KEEP_NOTHING
        };
        return new_mount(b, step, c"cgroup2", &settings, m, target, keep);
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
        ids: Ids::default(),
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
            propagation: vec![libc::MS_PRIVATE],
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
    let bound = namespaces.in_user_namespace();
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
        let bound = namespaces.in_user_namespace();
        // a named pipe may be made by anyone, and the host has none at that path
        let bound = bound && kind != libc::S_IFIFO;
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
        assert_eq!(o.propagation, [libc::MS_SLAVE | MS_REC]);
        assert_eq!(o.settings.len(), 2);
    }

    #[test]
    fn the_last_of_two_contradicting_options_counts() {
        assert_eq!(options(&["ro", "rw"]).set, 0);
        assert_eq!(options(&["noatime", "strictatime"]).set, STRICTATIME);
        assert_eq!(options(&["noatime", "relatime"]).set, 0);
        assert_eq!(options(&["rnoatime", "rrelatime"]).tree_set, 0);
    }

    /// Every option of the runtime-spec's table has its meaning; none ends up as data for the
    /// file system.
    #[test]
    fn no_option_of_the_spec_is_taken_for_the_file_systems() {
        const PLAIN: &str = "async atime bind defaults dev diratime dirsync exec idmap iversion \
            lazytime loud mand noatime nodev nodiratime noexec noiversion nolazytime nomand \
            norelatime nostrictatime nosuid nosymfollow private rbind relatime remount ridmap ro \
            rprivate rshared rslave runbindable rw shared silent slave strictatime suid symfollow \
            sync tmpcopyup unbindable acl noacl";
        const TREE: &str = "rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime \
            rrelatime rnorelatime rnoatime ratime rstrictatime rnostrictatime rnosymfollow \
            rsymfollow";
        for option in PLAIN.split_whitespace().chain(TREE.split_whitespace()) {
            assert_eq!(options(&[option]).settings, [], "{option}");
        }
        for (option, set) in [("rro", RDONLY), ("rnosymfollow", NOSYMFOLLOW)] {
            let o = options(&[option]);
            assert_eq!((o.tree_set, o.tree_clear), (set, set), "{option}");
        }
    }

    #[test]
    fn paths_with_dots_are_refused() {
        assert!(clean(Path::new("/a/../b")).is_err());
        assert_eq!(clean(Path::new("//a/./b/")).unwrap(), Path::new("/a/b"));
    }
}
