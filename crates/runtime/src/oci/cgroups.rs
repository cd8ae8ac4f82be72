//! Which cgroup a container of an OCI spec gets.

use std::path::{Component, Path, PathBuf};

use host::{CgroupFacts, CgroupMode};
use oci_spec::runtime::Spec;

use super::{OciError, Runtime};
use crate::cgroup::{Cgroup, SYSTEMD_DEADLINE};
use crate::systemd::{self, Manager, Scope};

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Directories made by us, named by `cgroupsPath` as a path.
    Cgroupfs,
    /// Scopes made by this systemd, named by `cgroupsPath` as `slice:prefix:name`.
    Systemd(Manager),
}

/// Of units, where `cgroupsPath` names none.
const PREFIX: &str = "plimsoll";

impl Runtime {
    /// The cgroup of a container to be made; `None` where no hierarchy is mounted.
    pub(super) fn cgroup_of(
        &self,
        facts: &CgroupFacts,
        spec: &Spec,
        id: &str,
    ) -> Result<Option<Cgroup>, OciError> {
        if facts.mode == CgroupMode::None {
            return Ok(None);
        }
        let linux = spec.linux().as_ref();
        let resources = linux.and_then(|l| l.resources().as_ref());
        let path = linux.and_then(|l| l.cgroups_path().as_deref());
        match self.driver {
            Driver::Cgroupfs => {
                let path = path.map_or_else(PathBuf::new, clean);
                // without a path: the id below the own cgroup, as runc does
                let path = if path.as_os_str().is_empty() {
                    PathBuf::from(id)
                } else {
                    path
                };
                let cgroup = Cgroup::at(facts, &path, resources);
                let named = linux.is_some_and(|l| l.cgroups_path().is_some());
                if self.rootless && !named {
                    return Ok(cgroup.where_writable());
                }
                Ok(Some(cgroup))
            }
            Driver::Systemd(manager) => {
                let path = path.map(Path::to_string_lossy);
                let base = systemd::base(manager, SYSTEMD_DEADLINE)?;
                let scope = Scope::parse(path.as_deref(), PREFIX, id, manager, &base)?;
                Ok(Some(Cgroup::of_scope(facts, scope, resources)))
            }
        }
    }

    /// The mounted hierarchies.
    pub(super) fn cgroup_facts() -> Result<CgroupFacts, OciError> {
        Ok(host::cgroups::read()?)
    }
}

/// A container's end kills and removes all that is in its cgroup, so nobody else may be in it: a path
/// of the spec may name anything, the host's own root included.
pub(super) fn check_unused(cgroup: &Cgroup) -> Result<(), OciError> {
    match cgroup.paths().find(|p| is_used(p)) {
        Some(used) => Err(OciError::Invalid {
            what: format!("cgroup {}", used.display()),
            why: "it is in use: a container's cgroup must be its own".to_owned(),
        }),
        None => Ok(()),
    }
}

fn is_used(dir: &Path) -> bool {
    let Ok(procs) = std::fs::read_to_string(dir.join("cgroup.procs")) else {
        // not there, which is the rule, or nothing that can be entered
        return false;
    };
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut dirs = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    // a hierarchy's root has no parent that is a cgroup
    let is_root = !dir.join("../cgroup.procs").exists();
    is_root || !procs.trim().is_empty() || dirs.next().is_some()
}

/// Without `.` and `..`, which never lead above where the path begins.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    if path.has_root() {
        out.push("/");
    }
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if out.as_os_str().is_empty() && path.has_root() {
        out.push("/");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lead_nowhere() {
        for (given, cleaned) in [
            ("/a/../../b", "/b"),
            ("../../x", "x"),
            ("a/./b", "a/b"),
            ("/..", "/"),
            ("", ""),
        ] {
            assert_eq!(clean(Path::new(given)), Path::new(cleaned), "{given}");
        }
    }
}
