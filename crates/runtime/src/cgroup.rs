//! Control groups, version 1, hybrid and 2.
//!
//! ```text
//! v1      <mount of memory>/<own cgroup>/plimsoll-<hash8>/<id>     one for each hierarchy used
//! hybrid  the same, and <mount of unified>/plimsoll-<hash8>/<id>   freezes and kills in one write
//! v2      <mount>/plimsoll-<hash8>/<id>                            for everything
//! ```
//!
//! Every container has memory, pids, cpuacct, blkio (statistics), devices, and what freezes it; cpu,
//! cpuset, hugetlb, net_cls, net_prio only when a limit needs them, since each hierarchy costs a
//! directory, an entry and a removal (0.06 ms of CPU). [`Cgroup::update`] joins further ones later.
//!
//! With systemd's driver the directories are a scope's: see [`crate::systemd`].
//!
//! A v2 cgroup lies at the mount's root, not below our own: a cgroup with processes in it (the
//! daemon) can't delegate controllers ("no internal processes", cgroup-v2.rst).
//!
//! source: Linux Documentation/admin-guide/cgroup-v1, cgroup-v2.rst; OCI runtime-spec 1.2
//! config-linux.md "Control groups".

mod details;
mod devices;
mod limits;
mod observe;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::{CgroupFacts, CgroupVersion};
use oci_spec::runtime::LinuxResources;

use crate::systemd::{Manager, Scope, SystemdError};

pub(crate) use details::{Counter, Details};
pub(crate) use devices::{nodes as device_nodes, program as device_program, unrestricted};
pub use limits::LimitError;
pub(crate) use limits::{io_weight, weight, writes};
pub use observe::{OomWatch, Stats};

/// Where a container's cgroup lies: one directory in each hierarchy used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cgroup {
    pub(crate) dirs: Vec<Dir>,
    /// The unit it belongs to, where systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Box<Scope>>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Dir {
    pub(crate) v2: bool,
    pub(crate) controllers: Vec<String>,
    pub(crate) path: PathBuf,
}

impl Dir {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("processes in {} do not go: one of them can't be killed", .0.display())]
    Busy(PathBuf),
    #[error("{} did not freeze in time", .0.display())]
    NotFrozen(PathBuf),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("change unit {unit}")]
    Systemd {
        unit: String,
        #[source]
        source: SystemdError,
    },
}

pub(crate) fn failed<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> CgroupError + use<'p> {
    move |source| CgroupError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// For one exchange with systemd, which may be busy starting everything else.
pub(crate) const SYSTEMD_DEADLINE: Duration = Duration::from_secs(20);

/// Controllers every container has, where the host has them.
const ALWAYS: [&str; 5] = ["memory", "pids", "cpuacct", "devices", "blkio"];

/// `plimsoll-<first 8 hex digits of SHA-256 of the exec root>`: the parent of an instance's cgroups.
#[must_use]
pub fn instance_name(exec_root: &Path) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(exec_root.as_os_str().as_bytes());
    format!("plimsoll-{}", hex::encode(&hash[..4]))
}

/// v1 controllers that these limits need beyond [`ALWAYS`].
fn wanted(resources: Option<&LinuxResources>) -> Vec<&'static str> {
    let mut out = ALWAYS.to_vec();
    let Some(r) = resources else { return out };
    if let Some(cpu) = r.cpu() {
        let time = cpu.shares().is_some()
            || cpu.quota().is_some()
            || cpu.period().is_some()
            || cpu.idle().is_some()
            || cpu.burst().is_some()
            || cpu.realtime_runtime().is_some()
            || cpu.realtime_period().is_some();
        if time {
            out.push("cpu");
        }
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            out.push("cpuset");
        }
    }
    if r.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty()) {
        out.push("hugetlb");
    }
    if r.rdma().as_ref().is_some_and(|r| !r.is_empty()) {
        out.push("rdma");
    }
    if let Some(net) = r.network() {
        if net.class_id().is_some() {
            out.push("net_cls");
        }
        if net.priorities().as_ref().is_some_and(|p| !p.is_empty()) {
            out.push("net_prio");
        }
    }
    out
}

impl Cgroup {
    /// Where the cgroup of `id` is or will be. `resources` decides which hierarchies beyond those
    /// every container has are used. `parent` replaces the own cgroup of this process and the
    /// instance's directory (`--cgroup-parent`).
    #[must_use]
    pub fn of(
        facts: &CgroupFacts,
        instance: &str,
        id: &str,
        resources: Option<&LinuxResources>,
        parent: Option<&Path>,
    ) -> Self {
        Self::placed(facts, resources, |h| place(h, instance, id, parent))
    }

    /// The cgroup of a unit of systemd's.
    #[must_use]
    pub fn of_scope(facts: &CgroupFacts, scope: Scope, resources: Option<&LinuxResources>) -> Self {
        let below = scope.directory();
        Self {
            scope: Some(Box::new(scope)),
            ..Self::placed(facts, resources, |h| h.mount.join(&below))
        }
    }

    /// Where a cgroup named by an OCI spec's `cgroupsPath` is or will be: an absolute one counts from
    /// the hierarchies' mounts, a relative one from the own cgroup. On version 2 from beside the own
    /// one, which can't delegate controllers as long as processes are in it.
    #[must_use]
    pub fn at(facts: &CgroupFacts, path: &Path, resources: Option<&LinuxResources>) -> Self {
        Self::placed(facts, resources, |h| match path.strip_prefix("/") {
            Ok(absolute) => h.mount.join(absolute),
            Err(_) => match (h.version, h.own.parent()) {
                (CgroupVersion::V2, Some(beside)) if h.own != h.mount => beside.join(path),
                _ => h.own.join(path),
            },
        })
    }

    /// A cgroup below this one; `controller` alone, where named.
    #[must_use]
    pub fn below(&self, controller: Option<&str>, path: &Path) -> Self {
        let mut out = Self {
            // the unit is the parent's
            scope: None,
            ..self.clone()
        };
        for d in &mut out.dirs {
            if controller.is_none_or(|c| d.has(c)) {
                d.path.push(path);
            }
        }
        out
    }

    /// The cgroups of a process of this cgroup that is to be killed alone, with all it starts: what
    /// it enters, and of that what is its own. Apart in one hierarchy only, the one that kills best.
    #[must_use]
    pub fn nested(&self, name: &str) -> (Self, Self) {
        let best = |d: &&Dir| d.v2;
        let chosen = self.dirs.iter().find(best);
        let chosen = chosen.or_else(|| self.dir("freezer"));
        let chosen = chosen.or_else(|| self.dirs.first()).cloned();
        let mut entered = Self {
            scope: None,
            ..self.clone()
        };
        let mut own = Self {
            dirs: Vec::new(),
            scope: None,
        };
        for d in &mut entered.dirs {
            if chosen.as_ref() == Some(d) {
                d.path.push(name);
                own.dirs.push(d.clone());
            }
        }
        (entered, own)
    }

    /// Makes the directories of [`Cgroup::nested`]; those that exist are fine.
    ///
    /// # Errors
    /// As the kernel's: the cgroup above is gone, or the host's limit of cgroups is reached.
    pub fn make(&self) -> Result<(), CgroupError> {
        for d in &self.dirs {
            let made = sys::fault::point("cgroup.nested.mkdir")
                .and_then(|()| std::fs::create_dir(&d.path));
            match made {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(failed("make", &d.path))?,
            }
        }
        Ok(())
    }

    fn placed(
        facts: &CgroupFacts,
        resources: Option<&LinuxResources>,
        place: impl Fn(&host::CgroupHierarchy) -> PathBuf,
    ) -> Self {
        let mut wanted = wanted(resources);
        // the hybrid's second hierarchy freezes better than v1's freezer: frozen processes can be
        // killed, and a stop is atomic
        let unified = facts.v2().is_some_and(|h| h.writable) && facts.kill;
        if !unified {
            wanted.push("freezer");
        }
        let mut dirs: Vec<Dir> = Vec::new();
        for h in &facts.hierarchies {
            let v2 = h.version == CgroupVersion::V2;
            let used = v2 || h.controllers.iter().any(|c| wanted.contains(&c.as_str()));
            if used {
                dirs.push(Dir {
                    v2,
                    controllers: h.controllers.clone(),
                    path: place(h),
                });
            }
        }
        Self { dirs, scope: None }
    }

    /// The cgroup of `id` as it is found now: directories that exist, in whatever hierarchy.
    #[must_use]
    pub fn find(facts: &CgroupFacts, instance: &str, id: &str, parent: Option<&Path>) -> Self {
        let dirs = facts.hierarchies.iter().map(|h| Dir {
            v2: h.version == CgroupVersion::V2,
            controllers: h.controllers.clone(),
            path: place(h, instance, id, parent),
        });
        Self {
            dirs: dirs.filter(|d| d.path.is_dir()).collect(),
            scope: None,
        }
    }

    /// The cgroup of a unit as it is found now.
    #[must_use]
    pub fn find_scope(facts: &CgroupFacts, scope: Scope) -> Self {
        let below = scope.directory();
        let dirs = facts.hierarchies.iter().map(|h| Dir {
            v2: h.version == CgroupVersion::V2,
            controllers: h.controllers.clone(),
            path: h.mount.join(&below),
        });
        Self {
            dirs: dirs.filter(|d| d.path.is_dir()).collect(),
            scope: Some(Box::new(scope)),
        }
    }

    /// The directories, for records and messages.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|d| d.path.as_path())
    }

    pub(crate) fn dir(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.has(controller))
    }

    fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.v2)
    }

    /// Stops every process of the cgroup; returns when all are stopped.
    ///
    /// # Errors
    /// Also when they aren't within the deadline; then they are thawed again.
    pub fn freeze(&self, deadline: Duration) -> Result<(), CgroupError> {
        let (file, value, state, done) = match (self.v2(), self.dir("freezer")) {
            (Some(d), _) => (
                d.file("cgroup.freeze"),
                "1",
                d.file("cgroup.events"),
                "frozen 1",
            ),
            (None, Some(d)) => (
                d.file("freezer.state"),
                "FROZEN",
                d.file("freezer.state"),
                "FROZEN",
            ),
            (None, None) => return Ok(()),
        };
        sys::fault::point("cgroup.freeze").map_err(failed("freeze", &file))?;
        let end = Instant::now() + deadline;
        loop {
            // v1 may need the word again: a process that forked meanwhile is thawed
            write(&file, value)?;
            if read(&state)?.lines().any(|l| l == done) {
                return Ok(());
            }
            if Instant::now() >= end {
                self.thaw()?;
                return Err(CgroupError::NotFrozen(file));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets frozen processes run.
    ///
    /// # Errors
    /// As writing the freezer's state.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match (self.v2(), self.dir("freezer")) {
            (Some(d), _) => write(&d.file("cgroup.freeze"), "0"),
            (None, Some(d)) => write(&d.file("freezer.state"), "THAWED"),
            (None, None) => Ok(()),
        }
    }

    /// SIGKILLs every process, new ones included, frozen ones too. Doesn't wait for their end.
    ///
    /// # Errors
    /// As the kernel's files.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if let Some(d) = self.v2() {
            let file = d.file("cgroup.kill");
            match write(&file, "1") {
                Ok(()) => return self.thaw(),
                Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                }
                Err(e) => return Err(e),
            }
        }
        // Without cgroup.kill: stop everything first, so that nothing can fork away. A process in
        // an uninterruptible wait doesn't freeze; it is killed all the same.
        let _killed_anyway = self.freeze(Duration::from_millis(50));
        for pid in self.pids()? {
            let _gone_is_fine = sys::process::kill(pid, libc::SIGKILL);
        }
        self.thaw()
    }

    /// Process ids in the cgroup and below it, as seen by the caller.
    ///
    /// # Errors
    /// When the cgroup can't be read; one that is gone is empty.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let Some(dir) = self.dir("pids").or_else(|| self.dirs.first()) else {
            return Ok(Vec::new());
        };
        let mut out = Vec::new();
        for d in tree(&dir.path) {
            match read(&d.join("cgroup.procs")) {
                Ok(text) => out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
                Err(CgroupError::Io { source, .. }) if is_gone(&source) => {}
                // a threaded subtree is listed by its parent
                Err(CgroupError::Io { source, .. })
                    if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// Changes limits of a running container; hierarchies not used yet are joined. Returns what
    /// this host can't limit, in words.
    ///
    /// # Errors
    /// A value the kernel refuses, with the file.
    pub fn update(
        &self,
        facts: &CgroupFacts,
        resources: &LinuxResources,
    ) -> Result<Vec<String>, CgroupError> {
        let all = self.extended(facts, resources);
        for dir in all.dirs.iter().filter(|d| !self.dirs.contains(d)) {
            make(dir)?;
            self.move_all_into(dir)?;
        }
        if let Some(scope) = &self.scope {
            // else the next daemon-reload would put the old values back
            let v2 = facts.mode == host::CgroupMode::V2;
            let set = scope.set(resources, v2, SYSTEMD_DEADLINE);
            set.map_err(|source| CgroupError::Systemd {
                unit: scope.unit.clone(),
                source,
            })?;
        }
        let (writes, warnings) = limits::update_writes(&all, &facts.files, resources)?;
        for w in &writes {
            sys::fault::point("cgroup.update").map_err(failed("write", &w.path))?;
            match write(&w.path, &w.value) {
                Err(_) if w.optional => {}
                other => other?,
            }
        }
        Ok(warnings)
    }

    /// These directories and those that further limits need.
    #[must_use]
    pub fn extended(&self, facts: &CgroupFacts, resources: &LinuxResources) -> Self {
        let mut all = self.clone();
        let Some(any) = self.dirs.iter().find(|d| !d.v2) else {
            return all;
        };
        for c in wanted(Some(resources)) {
            let Some(h) = facts.controller(c).filter(|_| all.dir(c).is_none()) else {
                continue;
            };
            let here = facts.controller(&any.controllers[0]);
            let below = |x: &host::CgroupHierarchy| {
                // below the own cgroup, else (an OCI spec's absolute path) below the mount
                let own = any.path.strip_prefix(&x.own).map(|p| h.own.join(p));
                own.or_else(|_| any.path.strip_prefix(&x.mount).map(|p| h.mount.join(p)))
                    .ok()
            };
            let path = match (&self.scope, here.and_then(below)) {
                (Some(scope), _) => h.mount.join(scope.directory()),
                (None, Some(path)) => path,
                (None, None) => continue,
            };
            all.dirs.push(Dir {
                v2: h.version == CgroupVersion::V2,
                controllers: h.controllers.clone(),
                path,
            });
        }
        all
    }

    /// The directories that `other` has not: what [`Cgroup::update`] joined after a start, for whoever
    /// removes them. `None`: there are none.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<Self> {
        let dirs = self.dirs.iter().filter(|d| !other.dirs.contains(d));
        let dirs: Vec<Dir> = dirs.cloned().collect();
        (!dirs.is_empty()).then_some(Self { dirs, scope: None })
    }

    /// Together with the directories that only `other` has.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let more = other.beyond(&self);
        self.dirs.extend(more.into_iter().flat_map(|m| m.dirs));
        self
    }

    fn move_all_into(&self, dir: &Dir) -> Result<(), CgroupError> {
        let file = dir.file("cgroup.procs");
        // a process that forks while being moved leaves a child behind: again until none is left
        for _ in 0..16 {
            let there = read(&file)?;
            let missing: Vec<i32> = self
                .pids()?
                .into_iter()
                .filter(|p| !there.lines().any(|l| l == p.to_string()))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            for pid in missing {
                match write(&file, &pid.to_string()) {
                    Err(CgroupError::Io { source, .. })
                        if source.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
        }
        Err(CgroupError::Busy(dir.path.clone()))
    }

    /// Kills what is left and removes the directories, also nested ones; absent ones are fine.
    ///
    /// # Errors
    /// When processes don't go within the deadline.
    pub fn remove(&self, deadline: Duration) -> Result<(), CgroupError> {
        if let Some(scope) = &self.scope {
            self.kill_all_there()?;
            let stopped = scope.stop(deadline);
            stopped.map_err(|source| CgroupError::Systemd {
                unit: scope.unit.clone(),
                source,
            })?;
        }
        let end = Instant::now() + deadline;
        let mut killed = false;
        for dir in &self.dirs {
            sys::fault::point("cgroup.remove").map_err(failed("remove", &dir.path))?;
            let mut pause = Duration::from_micros(50);
            while let Err(e) = remove_tree(&dir.path) {
                if e.raw_os_error() != Some(libc::EBUSY) {
                    return Err(failed("remove", &dir.path)(e));
                }
                if !killed {
                    self.kill_all()?;
                    killed = true;
                }
                if Instant::now() >= end {
                    return Err(CgroupError::Busy(dir.path.clone()));
                }
                // a killed process leaves its cgroup some time after it is reaped
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// As [`Cgroup::kill_all`], of directories that may be gone: systemd removes an empty scope.
    fn kill_all_there(&self) -> Result<(), CgroupError> {
        match self.kill_all() {
            Err(CgroupError::Io { source, .. }) if is_gone(&source) => Ok(()),
            other => other,
        }
    }

    /// Cgroups of an instance that no id in `known` owns: what a crash left behind.
    #[must_use]
    pub fn strays(facts: &CgroupFacts, instance: &str, known: &[&str]) -> Vec<Self> {
        let mut ids = std::collections::BTreeSet::new();
        for h in &facts.hierarchies {
            let dir = instance_dir(h, instance);
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            ids.extend(dirs.filter_map(|e| e.file_name().into_string().ok()));
        }
        ids.iter()
            .filter(|id| !known.contains(&id.as_str()))
            .map(|id| Self::find(facts, instance, id, None))
            .collect()
    }

    /// As [`Cgroup::strays`], of the scopes that systemd made for an instance.
    #[must_use]
    pub fn stray_scopes(
        facts: &CgroupFacts,
        instance: &str,
        base: &Path,
        known: &[&str],
    ) -> Vec<Self> {
        let mut ids = std::collections::BTreeSet::new();
        let Ok(any) = Scope::new("", instance, "x", Manager::System, base) else {
            return Vec::new();
        };
        let slice = any.directory();
        for h in &facts.hierarchies {
            let dir = h.mount.join(slice.parent().unwrap_or(&slice));
            for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = e.file_name().into_string().unwrap_or_default();
                let id = name
                    .strip_prefix(instance)
                    .and_then(|n| n.strip_prefix('-'))
                    .and_then(|n| n.strip_suffix(".scope"));
                ids.extend(id.map(str::to_owned));
            }
        }
        ids.iter()
            .filter(|id| !known.contains(&id.as_str()))
            .filter_map(|id| Scope::new("", instance, id, Manager::System, base).ok())
            .map(|scope| Self::find_scope(facts, scope))
            .collect()
    }

    /// Removes the instance's own directories when no container is left in them.
    pub fn remove_instance(facts: &CgroupFacts, instance: &str) {
        for h in &facts.hierarchies {
            // not empty, or never made: both fine
            let _still_used = std::fs::remove_dir(instance_dir(h, instance));
        }
    }

    /// Makes one directory, and the instance's above it when this is its first container.
    pub(crate) fn create_dir(
        path: &Path,
        v2: bool,
        controllers: &str,
        cpuset: bool,
        may_exist: bool,
    ) -> io::Result<()> {
        sys::fault::point("cgroup.mkdir")?;
        let mut tries = 0;
        loop {
            match std::fs::create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && may_exist => break,
                // the instance's directory goes with its last container, which may be now: again
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 100 => {
                    tries += 1;
                    let parent = path.parent().ok_or(e)?;
                    std::fs::create_dir_all(parent)?;
                    prepare_parent(parent, v2, controllers, cpuset)?;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 100 => {
                    // left by a crash of a start of the same id: must be empty to be taken over
                    tries += 1;
                    std::fs::remove_dir(path)?;
                }
                other => {
                    other?;
                    break;
                }
            }
        }
        if cpuset {
            copy_down(path)?;
        }
        if v2 && !controllers.is_empty() {
            delegate_missing(path, controllers)?;
        }
        Ok(())
    }

    /// The directories that this process can make: without privilege, those below a cgroup that was
    /// delegated to its user. `None`: not one.
    #[must_use]
    pub(crate) fn where_writable(mut self) -> Option<Self> {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        let may = |dir: &Path| accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        self.dirs.retain(|d| d.path.parent().is_some_and(may));
        (!self.dirs.is_empty()).then_some(self)
    }

    /// Whether [`Cgroup::freeze`] has stopped it.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let (file, word) = match (self.v2(), self.dir("freezer")) {
            (Some(d), _) => (d.file("cgroup.freeze"), "1"),
            (None, Some(d)) => (d.file("freezer.state"), "FROZEN"),
            (None, None) => return false,
        };
        read(&file).is_ok_and(|text| text.trim() == word)
    }
}

/// v2: a directory above that was there before may not give its children what they need.
fn delegate_missing(path: &Path, controllers: &str) -> io::Result<()> {
    let here = std::fs::read_to_string(path.join("cgroup.controllers"))?;
    let lacks = |c: &str| !here.split_whitespace().any(|h| h == c);
    match path.parent() {
        Some(parent) if controllers.split_whitespace().any(lacks) => delegate(parent, controllers),
        _ => Ok(()),
    }
}

fn prepare_parent(parent: &Path, v2: bool, controllers: &str, cpuset: bool) -> io::Result<()> {
    let prepared = if v2 {
        delegate(parent, controllers)
    } else if cpuset {
        copy_down(parent)
    } else {
        Ok(())
    };
    match prepared {
        // removed again meanwhile
        Err(e) if is_gone(&e) => Ok(()),
        other => other,
    }
}

fn instance_dir(h: &host::CgroupHierarchy, instance: &str) -> PathBuf {
    match h.version {
        CgroupVersion::V1 => h.own.join(instance),
        CgroupVersion::V2 => h.mount.join(instance),
    }
}

fn place(h: &host::CgroupHierarchy, instance: &str, id: &str, parent: Option<&Path>) -> PathBuf {
    match parent {
        Some(p) => h.mount.join(p.strip_prefix("/").unwrap_or(p)).join(id),
        None => instance_dir(h, instance).join(id),
    }
}

fn make(dir: &Dir) -> Result<(), CgroupError> {
    Cgroup::create_dir(
        &dir.path,
        dir.v2,
        &dir.controllers.join(" "),
        dir.has("cpuset") && !dir.v2,
        false,
    )
    .map_err(failed("make", &dir.path))
}

/// v2: children of `parent` and of what is above it get the controllers.
fn delegate(parent: &Path, controllers: &str) -> io::Result<()> {
    let wanted: Vec<String> = controllers
        .split_whitespace()
        .map(|c| format!("+{c}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut above: Vec<&Path> = parent
        .ancestors()
        .take_while(|p| p.join("cgroup.subtree_control").exists())
        .collect();
    above.reverse();
    for dir in above {
        let file = dir.join("cgroup.subtree_control");
        if std::fs::write(&file, wanted.join(" ")).is_err() {
            // one by one: a controller that can't be had here must not cost the others
            for w in &wanted {
                let _stats_without_it = std::fs::write(&file, w);
            }
        }
    }
    Ok(())
}

/// v1 cpuset: a new directory has no cpus and no mems, and nobody may enter it.
fn copy_down(dir: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let here = dir.join(name);
        if std::fs::read_to_string(&here)?.trim().is_empty() {
            let above = dir.parent().unwrap_or(dir);
            let inherited = std::fs::read_to_string(above.join(name))?;
            if inherited.trim().is_empty() {
                copy_down(above)?;
            }
            let inherited = std::fs::read_to_string(above.join(name))?;
            std::fs::write(&here, inherited.trim())?;
        }
    }
    Ok(())
}

pub(crate) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    use std::io::Write;
    // no O_CREAT, O_TRUNC: an absent file is a missing feature, not a new file
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut f| f.write_all(value.as_bytes()))
        .map_err(failed("write", path))
}

pub(crate) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV)
}

/// A directory and all below it, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(d) = out.get(next).cloned() {
        next += 1;
        for e in std::fs::read_dir(&d).into_iter().flatten().flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                out.push(e.path());
            }
        }
    }
    out
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // EBUSY: processes, or children
        Err(_) => {}
    }
    for d in tree(dir).iter().rev() {
        match std::fs::remove_dir(d) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_its_exec_root() {
        let a = instance_name(Path::new("/run/plimsoll"));
        assert_eq!(a.len(), "plimsoll-".len() + 8);
        assert_ne!(a, instance_name(Path::new("/run/plimsoll2")));
    }
}
