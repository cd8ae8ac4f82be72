//! What a launch needs from disk and host, gathered and turned into a plan. Blocking.
//!
//! Only our own data directory is touched here. What the user names (binds) is opened by the
//! container's child, so that a hung file system hangs that child alone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Spec};
use runtime::capability::mask_of_names;
use runtime::cgroup::Cgroup;
use runtime::rootfs::{self, OverlayOptions};
use runtime::systemd::{Manager, Scope};
use runtime::{Asked, Plan, PlanInput, Rootfs, SeccompChoice, seccomp, users};

use super::actor::paths;
use crate::cdi;
use crate::devices;
use crate::error::Error;
use crate::etc;
use crate::inner::Inner;
use crate::links::{self, Linked};
use crate::model::{ContainerRecord, ErrorKind, MountKind, NetworkMode};
use crate::networks::Membership;
use crate::ocispec::{self, Identity, JoinedPids, SpecInput};
use crate::passed::{self, InMemory, Kind};
use crate::security::{self, Seccomp, SecurityOptions};
use crate::views::ContainerPaths;

const CONFIG_FILE: &str = "config.json";

#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) root: OwnedFd,
    /// Mounts that the plan takes, after the network namespace.
    pub(super) mounts: Vec<OwnedFd>,
    pub(super) plan: Plan,
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) spec: Arc<Spec>,
}

pub(super) fn prepare(
    inner: &Inner,
    record: &ContainerRecord,
    joined: JoinedPids,
    membership: Option<&Membership>,
    in_memory: Option<&InMemory>,
) -> Result<Prepared, Error> {
    let facts = &*inner.config.facts;
    let dir = inner.store.container_dir(&record.id);
    shim::remove_exit(&dir)
        .map_err(|e| Error::caused(ErrorKind::Internal, "forget the last exit", e))?;
    let root = mount_root(inner, record, false)?;
    let passed = passed::make(inner, record, in_memory)?;
    let bound = bound_volumes(inner, record)?;
    let identity = identity(&root, &record.spec.user, &record.spec.host.group_add)?;
    let paths = paths(inner, record);
    let links = links::of(inner, record)?;
    let hostname = write_etc(inner, record, membership, &paths, &links)?;
    let options = SecurityOptions::parse(&record.spec.host.security_opt)?;
    let host = &record.spec.host;
    let capabilities = security::capabilities(
        host.privileged,
        &host.cap_add,
        &host.cap_drop,
        &facts.process.bounding,
    )?;
    let devices = devices::of(record)?;
    let numbers = devices::numbers(&host.resources);
    let cgroup_path = cgroup_path(inner, record)?;
    let mut spec = ocispec::build(&SpecInput {
        record,
        links: &links,
        identity: &identity,
        hostname: &hostname,
        etc: [
            ("/etc/resolv.conf", &paths.resolv_conf),
            ("/etc/hostname", &paths.hostname),
            ("/etc/hosts", &paths.hosts),
        ],
        capabilities: &capabilities,
        security: &options,
        devices: &devices,
        joined,
        own_network: membership.is_some(),
        passed: &passed.indices(usize::from(membership.is_some())),
        bound: &bound,
        cgroup_path: &cgroup_path,
        cgroup_v2: facts.cgroup.mode == host::CgroupMode::V2,
        block_devices: &numbers,
    })?;
    if !host.device_requests.is_empty() {
        cdi::load(&inner.config.cdi_dirs).apply(&host.device_requests, &mut spec)?;
    }
    save_spec(&dir, &spec)?;
    let limits = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let cgroup = Arc::new(cgroup_of(inner, record, limits)?);
    let plan = runtime::plan(&PlanInput {
        spec: &spec,
        facts,
        rootfs: Rootfs::Descriptor,
        cgroup: Some(&cgroup),
        seccomp: seccomp_choice(&options, host.privileged, &capabilities)?,
        init: host.init,
        mount_names: mount_names(record),
        asked: asked(record, &spec),
        create_cwd: true,
        die_with_parent: true,
        choices: runtime::Choices::default(),
    })
    .map_err(plan_error)?;
    Ok(Prepared {
        root,
        mounts: passed.fds,
        plan,
        cgroup,
        spec: Arc::new(spec),
    })
}

/// As the OCI spec has it: `slice:prefix:name` with systemd.
fn cgroup_path(inner: &Inner, record: &ContainerRecord) -> Result<PathBuf, Error> {
    Ok(match scope_of(inner, record)? {
        Some(scope) => format!("{}:{}:{}", scope.slice, inner.instance, record.id).into(),
        None => PathBuf::from("/").join(&inner.instance).join(&record.id),
    })
}

/// Those that are directories of the host's, by name.
fn bound_volumes(inner: &Inner, record: &ContainerRecord) -> Result<BTreeMap<String, Kind>, Error> {
    let volumes = record.mounts.iter().filter(|m| m.kind == MountKind::Volume);
    let mut out = BTreeMap::new();
    for point in volumes {
        let kind = passed::kind_of(inner, &point.name)?;
        if matches!(kind, Kind::Bind { .. }) {
            out.insert(point.name.clone(), kind);
        }
    }
    Ok(out)
}

pub(crate) fn plan_error(error: runtime::PlanError) -> Error {
    let kind = match &error {
        runtime::PlanError::Host { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::InvalidArgument,
    };
    Error::caused(kind, "plan the container", error)
}

/// The container's root as a detached mount; `read_only` for looking at one that does not run.
pub(crate) fn mount_root(
    inner: &Inner,
    record: &ContainerRecord,
    read_only: bool,
) -> Result<OwnedFd, Error> {
    let failed = |e| Error::caused(ErrorKind::Internal, "mount the container's root", e);
    let fs = inner.store.container_fs(&record.id);
    if inner.store.driver() == store::Driver::Vfs {
        return rootfs::bind(&fs.dir.join("rootfs"), read_only).map_err(failed);
    }
    let mut lowers = inner
        .store
        .rootfs_layers(&record.image_id)
        .map_err(Error::store("find the image's layers"))?;
    lowers.push(inner.store.mount_targets());
    sys::fault::point("engine.root.mount").map_err(Error::io("mount"))?;
    let volatile = record.spec.host.auto_remove && !read_only;
    if volatile {
        // the kernel's mark that an unsynced overlay was here; a restart may well use it again,
        // since nothing of it has to survive the machine
        drop(std::fs::remove_dir_all(fs.work.join("work/incompat")));
    }
    let options = OverlayOptions {
        // also where only reading is meant the upper takes part; a view without it would lack
        // whiteouts' meaning
        read_only,
        volatile,
    };
    rootfs::overlay(&lowers, Some((&fs.upper, &fs.work)), options).map_err(failed)
}

pub(crate) fn identity(root: &OwnedFd, user: &str, groups: &[String]) -> Result<Identity, Error> {
    let found =
        users::resolve(root.as_fd(), user, groups).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(Identity {
        uid: found.uid,
        gid: found.gid,
        groups: found.groups,
        home: found.home.to_string_lossy().into_owned(),
    })
}

pub(crate) fn hostname(record: &ContainerRecord) -> String {
    let spec = &record.spec;
    let hosts_own = spec.host.network == NetworkMode::Host
        || spec.host.uts_mode == crate::model::NamespaceMode::Host;
    if !spec.hostname.is_empty() {
        spec.hostname.clone()
    } else if hosts_own {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        record.id[..12].to_owned()
    }
}

/// Made anew at each start, so a torn one after a power cut does not matter; where another's network
/// is shared, that one's are there. The host name.
fn write_etc(
    inner: &Inner,
    record: &ContainerRecord,
    membership: Option<&Membership>,
    paths: &ContainerPaths,
    links: &[Linked],
) -> Result<String, Error> {
    if let NetworkMode::Container(id) = &record.spec.host.network {
        let other = inner.containers.find(id)?.view.load_full();
        return Ok(hostname(&other.record));
    }
    let hostname = hostname(record);
    let write = |path: &Path, text: &str| {
        sys::fault::point("engine.etc.write")
            .and_then(|()| std::fs::write(path, text))
            .map_err(Error::io(format!("write {}", path.display())))
    };
    write(&paths.hostname, &format!("{hostname}\n"))?;
    let [hosts, resolv_conf] =
        etc::texts(&record.spec, &hostname, membership, &inner.networks, links)?;
    write(&paths.hosts, &hosts)?;
    write(&paths.resolv_conf, &resolv_conf)?;
    Ok(hostname)
}

/// For people, for exec after an adoption, for other tools. Not synced: made anew at each start.
fn save_spec(dir: &Path, spec: &Spec) -> Result<(), Error> {
    let path = dir.join(CONFIG_FILE);
    let bytes = serde_json::to_vec(spec)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode the runtime-spec", e))?;
    sys::fault::point("engine.config.write")
        .and_then(|()| std::fs::write(&path, bytes))
        .map_err(Error::io(format!("write {}", path.display())))
}

/// What a container was started with, as saved.
pub(crate) fn saved_spec(inner: &Inner, id: &str) -> Option<Spec> {
    let path = inner.store.container_dir(id).join(CONFIG_FILE);
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The container's unit, where systemd makes the cgroups.
fn scope_of(inner: &Inner, record: &ContainerRecord) -> Result<Option<Scope>, Error> {
    let Some(base) = &inner.systemd else {
        return Ok(None);
    };
    let slice = &record.spec.host.cgroup_parent;
    let scope = Scope::new(slice, &inner.instance, &record.id, Manager::System, base);
    let invalid = |e| Error::caused(ErrorKind::InvalidArgument, "name the container's scope", e);
    scope.map(Some).map_err(invalid)
}

/// Where the container's cgroup will be, with these limits.
fn cgroup_of(
    inner: &Inner,
    record: &ContainerRecord,
    limits: Option<&LinuxResources>,
) -> Result<Cgroup, Error> {
    let facts = &inner.config.facts.cgroup;
    if let Some(scope) = scope_of(inner, record)? {
        return Ok(Cgroup::of_scope(facts, scope, limits));
    }
    let parent = cgroup_parent(record);
    Ok(Cgroup::of(
        facts,
        &inner.instance,
        &record.id,
        limits,
        parent,
    ))
}

/// Where the container's cgroup is, whatever its limits were at its start, and whichever driver the
/// engine had then.
pub(crate) fn cgroup_found(inner: &Inner, record: &ContainerRecord) -> Cgroup {
    let facts = &inner.config.facts.cgroup;
    if let Ok(Some(scope)) = scope_of(inner, record) {
        let found = Cgroup::find_scope(facts, scope);
        if found.paths().next().is_some() {
            return found;
        }
    }
    Cgroup::find(facts, &inner.instance, &record.id, cgroup_parent(record))
}

/// Of one that runs: with what a change of its limits has joined since its start, also one that failed
/// and is on no record. On a host of one hierarchy there is nothing to join.
pub(crate) fn with_joined(inner: &Inner, record: &ContainerRecord, made: Cgroup) -> Cgroup {
    if inner.config.facts.cgroup.hierarchies.len() < 2 {
        return made;
    }
    made.and(&cgroup_found(inner, record))
}

fn cgroup_parent(record: &ContainerRecord) -> Option<&Path> {
    let parent = &record.spec.host.cgroup_parent;
    (!parent.is_empty()).then(|| Path::new(parent))
}

pub(crate) fn seccomp_choice(
    options: &SecurityOptions,
    privileged: bool,
    capabilities: &BTreeSet<String>,
) -> Result<SeccompChoice, Error> {
    match &options.seccomp {
        _ if privileged => Ok(SeccompChoice::Unconfined),
        Seccomp::Unconfined => Ok(SeccompChoice::Unconfined),
        Seccomp::Default => Ok(SeccompChoice::Default),
        Seccomp::Profile(json) => {
            let set = mask_of_names(capabilities.iter().map(String::as_str));
            let wrong = |e| {
                Error::caused(
                    ErrorKind::InvalidArgument,
                    "decoding seccomp profile failed",
                    e,
                )
            };
            let profile = seccomp::from_docker_profile(json.as_bytes(), set).map_err(wrong)?;
            let filter = seccomp::compile(&profile).map_err(wrong)?;
            Ok(SeccompChoice::Filter(filter))
        }
    }
}

fn mount_names(record: &ContainerRecord) -> BTreeMap<PathBuf, String> {
    let name = |m: &crate::model::MountPoint| match m.kind {
        MountKind::Volume => format!("volume {}", m.name),
        MountKind::Bind => m.source.clone(),
        MountKind::Tmpfs => "tmpfs".to_owned(),
        MountKind::Image => format!("image {}", m.spec.source),
    };
    record
        .mounts
        .iter()
        .map(|m| (PathBuf::from(&m.destination), name(m)))
        .collect()
}

fn asked(record: &ContainerRecord, spec: &Spec) -> Asked {
    let limits = spec.process().as_ref().and_then(|p| p.rlimits().as_ref());
    Asked {
        rlimits: limits
            .into_iter()
            .flatten()
            .map(oci_spec::runtime::PosixRlimit::typ)
            .collect(),
        oom_score_adj: record.spec.host.oom_score_adj != 0,
    }
}
